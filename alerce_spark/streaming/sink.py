"""Messages out: what native queries hand to Spark's Kafka sink, and the topics they go to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame

from alerce_spark.config import KafkaSettings
from alerce_spark.kafka import records, topics
from alerce_spark.streaming.source import refusal

#: Columns of the Kafka sink; `key` is the object, so that a consumer sees an object's results in order.
MESSAGES = "topic STRING, key BINARY, value BINARY"
#: Seconds for which a topic that is there is taken for granted.
_ASK_AGAIN_S = 60.0
_SCHEMA = pa.schema([("topic", pa.string()), ("key", pa.binary()), ("value", pa.binary())])


class Message(NamedTuple):
    """One message: topic, object, bytes."""

    topic: str
    oid: str
    value: bytes


def messages(made: Iterable[Message]) -> pa.RecordBatch:
    """Messages in the columns of the sink."""
    rows = list(made)
    columns = [[m.topic for m in rows], [m.oid.encode() for m in rows], [m.value for m in rows]]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA
    )


def sink_options(kafka: KafkaSettings) -> dict[str, str]:
    """Options of Spark's Kafka sink: those of the settings, and compression, since messages carry their schema."""
    return {
        "kafka.bootstrap.servers": kafka.bootstrap_servers,
        "kafka.compression.type": "lz4",
        # A message about a packet that failed brings the packet; by default Kafka's producer refuses a mebibyte.
        "kafka.max.request.size": str(records.ERROR.longest),
        **{name: value for name, value in kafka.revealed.items() if name.startswith("kafka.")},
    }


class Topics:
    """Topics that results go to, made by the admin client when first needed: a broker must not make them by itself.

    In a worker; one call to the broker a minute for each topic and process, since a topic may be deleted. Without
    settings no broker is asked: an import takes the messages itself.
    """

    def __init__(self, kafka: KafkaSettings | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._kafka, self._clock = kafka, clock
        self._there: dict[str, float] = {}

    def daily(self, name: str, received: datetime | None) -> str:
        """`name` with the UTC date of an alert's Kafka timestamp, so that a replay goes to the same topic."""
        return self.named(name if received is None else f"{name}_{received.astimezone(UTC):%Y%m%d}")

    def named(self, topic: str) -> str:
        """`topic`, which is there now. Raises KafkaException where the broker does not answer or refuses."""
        if self._kafka is not None and self._clock() >= self._there.get(topic, 0.0):
            kafka = self._kafka
            topics.create(kafka.bootstrap_servers, [topic], kafka.partitions, options=kafka.revealed)
            self._there[topic] = self._clock() + _ASK_AGAIN_S
        return topic


def as_packets(out: DataFrame) -> DataFrame:
    """Messages in the columns of PACKETS (`streaming/source.py`), as `results` would read them from Kafka."""
    return out.selectExpr(
        "value AS packet", "topic AS source", "NULL AS `partition`", "NULL AS `offset`", "NULL AS received"
    )


def error_message(
    batch: pa.RecordBatch, row: int, stage: str, survey: str, oid: str, reason: str, out: Topics
) -> Message:
    """The error of a step with the packet at `row` of a batch of PACKETS, for the topic of errors."""
    record = refusal(batch, row, stage, survey, reason)
    return Message(out.named(records.ERROR_TOPIC), oid, records.ERROR.encode(record))
