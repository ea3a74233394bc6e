"""First causes of failures, from what Kafka, Spark and Python said when they were made to fail."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from alerce_spark.errors import LakeError
from alerce_spark.streaming.causes import OTHER, Cause, explain

_LOSS = (
    "Some data may have been lost because they are not available in Kafka any more;\neither the data was aged out by "
    "Kafka or the topic may have been deleted before all the data in the\ntopic was processed.\nIf you don't want your "
    "streaming query to fail on such cases, set the source option failOnDataLoss to false.\nReason:\n"
)
_STATE = "org.apache.spark.sql.kafka010.KafkaIllegalStateException"


class Java:
    """A Throwable as Py4J shows it."""

    def __init__(self, name: str, message: str | None, cause: Java | None = None) -> None:
        self._name, self._message, self._cause = name, message, cause

    def getClass(self) -> Java:
        return self

    def getName(self) -> str:
        return self._name

    def getMessage(self) -> str | None:
        return self._message

    def getCause(self) -> Java | None:
        return self._cause


class Thrown(Exception):
    """An error of Py4J that carries one."""

    def __init__(self, java: Any) -> None:
        super().__init__("An error occurred while calling o144.start")
        self.java_exception = java


def _explained(error: BaseException) -> Cause:
    return explain(error, "photometry", "/lake/_checkpoints/photometry", "broker:9092")


def _streaming(name: str, message: str) -> Thrown:
    """As a query ends: the last exception repeats the first, with a plan."""
    text = (
        f"[STREAM_FAILED] Query [id = 1] terminated with exception: {message} SQLSTATE: XXKST\n=== Streaming Query ==="
    )
    return Thrown(Java("org.apache.spark.sql.streaming.StreamingQueryException", text, Java(name, message)))


@pytest.mark.parametrize(
    ("name", "message", "kind", "told"),
    [
        (
            _STATE,
            f"{_LOSS}Partitions ztf_1-1, ztf_1-0 have been deleted.",
            "topic gone",
            "ztf_1-1, ztf_1-0 have been del",
        ),
        (
            _STATE,
            f"{_LOSS}Partition ztf_1-0 offset was changed from 40 to 5.\nThis could be either 1) a user error.",
            "data loss",
            "Partition ztf_1-0 offset was changed from 40 to 5;",
        ),
        (
            "org.apache.kafka.common.errors.TimeoutException",
            "Timed out waiting for a node assignment. Call: listTopics",
            "broker away",
            "broker:9092",
        ),
        (
            "org.apache.kafka.common.errors.TimeoutException",
            "Topic stamp_classifier_20200601 not present in metadata after 60000 ms.",
            "output topic gone",
            "stamp_classifier_20200601",
        ),
        (
            "org.apache.kafka.common.errors.SaslAuthenticationException",
            "Authentication failed: Invalid username or password",
            "Kafka refuses",
            "kafka.options",
        ),
        (
            "org.apache.kafka.common.errors.RecordTooLargeException",
            "The message is 2000088 bytes when serialized which is larger than 1048576",
            "message too large",
            "2000088",
        ),
        (
            "org.apache.spark.SparkConcurrentModificationException",
            "Multiple streaming queries are concurrently using metadata.",
            "two applications",
            "/lake/_checkpoints/photometry",
        ),
        ("java.lang.AssertionError", "assertion failed", "damaged checkpoint", "rm -r /lake/_checkpoints/photometry"),
        (
            "org.apache.spark.SparkException",
            "Job aborted due to stage failure: Task 0 in stage 1.0 failed 4 times, most recent failure: Lost task 0.3 "
            "in stage 1.0 (TID 2) (10.0.0.1 exec 1): java.io.IOException: No space left on device\n\tat a.B(C.java:1)",
            "disk full",
            "No space left on device;",
        ),
    ],
)
def test_java_s_causes_have_a_name_and_a_cure(name: str, message: str, kind: str, told: str) -> None:
    cause = _explained(_streaming(name, message))
    assert cause.kind == kind
    assert told in cause.words
    assert "Streaming Query" not in cause.words
    assert "SQLSTATE" not in cause.words


def test_causes_of_python() -> None:
    def chained(first: Exception, then: Exception) -> Exception:
        try:
            try:
                raise first
            except Exception as error:
                raise then from error
        except Exception as error:  # noqa: BLE001
            return error

    cut = LakeError("the table objects cannot be read: /lake/objects/a.parquet is not a Parquet file")
    assert _explained(chained(ValueError("buffer"), cut)).kind == "damaged file"
    assert "/lake/objects/a.parquet" in _explained(cut).words
    assert (
        _explained(chained(PermissionError(13, "Permission denied", "/lake/x"), ValueError("no"))).kind == "no rights"
    )
    assert _explained(MemoryError()).kind == "out of memory"
    assert _explained(KafkaException(KafkaError(KafkaError._TIMED_OUT))).kind == "broker away"
    # What the table does not know is told as it is; our own errors are worded for people.
    assert _explained(LakeError("no version 3 of objects")) == Cause(OTHER, "no version 3 of objects")
    assert _explained(chained(ValueError("deep"), RuntimeError("shallow"))) == Cause(OTHER, "ValueError: deep")
    assert len(_explained(ValueError("x" * 5000)).words) == 500
