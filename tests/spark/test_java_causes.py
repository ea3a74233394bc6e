"""Errors of the JVM as messages for people; and queries that stop when their process stands still."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from alerce_spark.errors import LakeError
from alerce_spark.streaming import checkpoints
from alerce_spark.streaming.causes import OTHER, Cause, explain
from alerce_spark.streaming.fence import Fence

pytestmark = pytest.mark.spark


def _explained(error: BaseException, checkpoint: str = "/lake/_checkpoints/stamps") -> Cause:
    return explain(error, "stamps", checkpoint, "broker:9092")


def _query(spark: SparkSession, checkpoint: Path) -> StreamingQuery:
    numbers = spark.readStream.format("rate").option("rowsPerSecond", 100).load()
    writer = numbers.writeStream.option("checkpointLocation", str(checkpoint)).trigger(processingTime="0.1 seconds")
    return writer.foreachBatch(lambda rows, epoch: None).start()


@pytest.fixture(scope="module")
def checkpoint(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a checkpoint after some batches, by their path in it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    query = _query(spark, folder)
    while query.lastProgress is None or query.lastProgress.batchId < 2:
        time.sleep(0.05)
    query.stop()
    assert checkpoints.damaged(str(folder)) is None
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.suffix != ".crc"}


def _newest(files: dict[str, bytes], log: str) -> str:
    return max((name for name in files if name.startswith(f"{log}/")), key=lambda name: int(name.rsplit("/", 1)[1]))


@pytest.mark.parametrize(
    "spoil", [b"", b"\0" * 64, b"v1\n{", b"v1\n{broken\n{broken\n"], ids=["empty", "nulls", "cut", "garbage"]
)
@pytest.mark.parametrize("log", ["offsets", "commits", "metadata"])
def test_a_damaged_checkpoint_names_its_file_and_the_cure(
    log: str, spoil: bytes, spark: SparkSession, checkpoint: dict[str, bytes], tmp_path: Path
) -> None:
    spoilt = "metadata" if log == "metadata" else _newest(checkpoint, log)
    for name, content in checkpoint.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(spoil if name == spoilt else content)
    with pytest.raises(Exception) as raised:  # noqa: PT011  (which of Spark's errors it is, is what `explain` is for)
        _query(spark, tmp_path).awaitTermination()
    cause = _explained(raised.value, str(tmp_path))
    assert cause.kind == "damaged checkpoint"
    assert str(tmp_path / spoilt) in cause.words
    assert f"rm -r {tmp_path}" in cause.words


def test_missing_files_of_a_checkpoint_are_told(
    spark: SparkSession, checkpoint: dict[str, bytes], tmp_path: Path
) -> None:
    for case, missing in (("log", "offsets/"), ("metadata", "metadata"), ("newest", _newest(checkpoint, "offsets"))):
        folder = tmp_path / case
        for name, content in checkpoint.items():
            if not name.startswith(missing):
                (folder / name).parent.mkdir(exist_ok=True, parents=True)
                (folder / name).write_bytes(content)
        with pytest.raises(Exception) as raised:  # noqa: PT011
            _query(spark, folder).awaitTermination()
        assert f"rm -r {folder}" in _explained(raised.value, str(folder)).words


def _raised_in_worker(spark: SparkSession, end: Callable[[], None]) -> BaseException:
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        end()
        yield from batches

    with pytest.raises(Exception) as raised:  # noqa: PT011
        spark.range(2).mapInArrow(run, "id LONG").collect()
    return raised.value


def test_what_a_worker_raises_is_the_cause(spark: SparkSession) -> None:
    def fills() -> None:
        try:
            raise OSError(28, "No space left on device", "/lake/detections/x.parquet")
        except OSError as error:
            raise ValueError("a batch was not written") from error

    def refuses() -> None:
        raise LakeError("table detections: file /lake/[a]/x.parquet is cut;\n restore it")

    full = _explained(_raised_in_worker(spark, fills))
    assert (full.kind, "/lake/detections/x.parquet" in full.words) == ("disk full", True)
    own = _explained(_raised_in_worker(spark, refuses))
    assert own.words == "table detections: file /lake/[a]/x.parquet is cut; restore it"
    assert _explained(_raised_in_worker(spark, lambda: os._exit(9))).kind == "worker died"
    unknown = _explained(_raised_in_worker(spark, lambda: {}["ndet"]))
    assert unknown == Cause(OTHER, "KeyError: 'ndet'")


class Thrown(Exception):
    """An exception of Java as Py4J hands it on."""

    def __init__(self, java: Any) -> None:
        super().__init__("An error occurred while calling o1.awaitTermination")
        self.java_exception = java


def test_the_deepest_cause_in_java_is_told(spark: SparkSession) -> None:
    java: Any = spark.sparkContext._jvm.java  # type: ignore[union-attr]

    def wrapped(error: Any) -> Cause:
        middle = java.util.concurrent.ExecutionException("Boxed Exception", error)
        return _explained(Thrown(java.lang.RuntimeException("Writing job aborted\n== Plan ==\n*(1) Scan", middle)))

    assert wrapped(java.io.IOException("No space left on device")).kind == "disk full"
    assert wrapped(java.lang.OutOfMemoryError("Java heap space")).words.startswith(
        "OutOfMemoryError: Java heap space; "
    )
    gone = wrapped(java.io.FileNotFoundException("/lake/objects/x.parquet (No such file or directory)"))
    assert (gone.kind, "/lake/objects/x.parquet" in gone.words) == ("file gone", True)
    assert wrapped(java.lang.IllegalStateException("no such thing\nas this")) == Cause(
        OTHER, "IllegalStateException: no such thing as this"
    )
    assert wrapped(java.io.EOFException()).words == "ExecutionException: Boxed Exception"


def test_a_query_stops_when_its_process_stands_still_and_only_then(spark: SparkSession, tmp_path: Path) -> None:
    query = _query(spark, tmp_path)
    fence = Fence(spark, 1.5, 1)
    try:
        fence.guard("stamps", query)
        assert not query.awaitTermination(3)
        fence._closed.set()  # its thread puts nothing off any more, as if this process were paused
        assert query.awaitTermination(60)
        assert fence.release("stamps")
        assert not fence.release("stamps")
    finally:
        fence.close()
        query.stop()
