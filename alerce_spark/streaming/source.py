"""Packets in: the alert topics of Kafka as a stream, files and nightly archives as batches; the same columns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.accumulators import Accumulator, AccumulatorParam
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from alerce_spark import needs
from alerce_spark.alerts.files import packets_of
from alerce_spark.config import KafkaSettings, StreamSettings
from alerce_spark.kafka.topics import spark_isolation, subscription
from alerce_spark.worker import map_in_workers

#: Columns of packets from anywhere. `source` is the topic or the file.
PACKETS = "packet BINARY, source STRING, `partition` INT, `offset` BIGINT, received TIMESTAMP"

#: First and last year of a time in Kafka that is believed.
RECEIVED_YEARS = (2000, 2199)

#: Rows of one Arrow batch of packets read from files, and their bytes at the most.
_BATCH_ROWS = 200
_BATCH_BYTES = 32 << 20
#: Files and members without a packet that are remembered by name.
_MOST_NAMES = 10_000

#: Files and members that gave no packet, each with the reason (`alerts/files.py`).
Names = set[tuple[str, str]]


def from_kafka(
    spark: SparkSession,
    kafka: KafkaSettings,
    stream: StreamSettings,
    most: int,
    least: int | None = None,
    wait_s: float | None = None,
    pattern: str | None = None,
) -> DataFrame:
    """The alert topics and their reprocess topics as a stream of PACKETS; topics made later are picked up.

    A batch has at most `most` messages. With `least` it starts when so many wait, or after `wait_s`. Expired topics
    stop the query with an error: packets would be missing. `pattern` (a Java regular expression) reads the topics of
    our own results in place of the alerts; those may expire, integrity sees what is missing.
    """
    options = {
        "kafka.bootstrap.servers": kafka.bootstrap_servers,
        "subscribePattern": pattern or subscription(kafka.topics),
        "startingOffsets": stream.starting_offsets if pattern is None else "earliest",
        "failOnDataLoss": "true" if pattern is None else "false",
        "maxOffsetsPerTrigger": str(most),
        # Topics made while the stream runs are seen at the next batch.
        "kafka.metadata.max.age.ms": "1000",
        # After each poll Spark asks for the end of the partition, on the connection where the client's fetch ahead
        # waits for new messages: with Kafka's half second a batch of a few alerts takes that (docs/decisions.md).
        "kafka.fetch.max.wait.ms": "1",
        **kafka.revealed,
        **spark_isolation(),
    }
    if least is not None and wait_s is not None:
        options |= {"minOffsetsPerTrigger": str(least), "maxTriggerDelay": f"{wait_s * 1000:.0f}ms"}
    records = spark.readStream.format("kafka").options(**options).load()
    if (spark.sparkContext.master or "").startswith("local"):
        # The fixed cost of a task is most of that of a small batch, and more tasks than cores make it no faster.
        records = records.coalesce(needs.cores())
    return records.select(
        F.col("value").alias("packet"),
        F.col("topic").alias("source"),
        "partition",
        "offset",
        # A producer may give any time; one that cannot be true is unknown (Python's end with the year 9999).
        F.when(F.year("timestamp").between(*RECEIVED_YEARS), F.col("timestamp")).alias("received"),
    )


class _Union(AccumulatorParam[Names]):
    """Names of all tasks; a task that is repeated adds nothing."""

    def zero(self, value: Names) -> Names:
        return set()

    def addInPlace(self, value1: Names, value2: Names) -> Names:
        if len(value1) < _MOST_NAMES:
            value1 |= value2
        return value1


def names(spark: SparkSession) -> Accumulator[Names]:
    """Where workers note the files and members that gave no packet, up to a bound."""
    return spark.sparkContext.accumulator(set(), _Union())


def from_files(spark: SparkSession, files: Sequence[Path], partitions: int, unread: Accumulator[Names]) -> DataFrame:
    """Packets of files as PACKETS; tar archives are streamed, never unpacked. Workers must see the paths.

    `unread` is told of whatever gave no packet, whenever the packets are read.
    """
    # Names are bytes: they need not be text.
    listed = [(i, os.fsencode(f.absolute())) for i, f in enumerate(files)]
    parts = min(partitions, len(files))
    spread = spark.createDataFrame(listed, "number INT, path BINARY").repartitionById(parts, F.col("number") % parts)
    return map_in_workers(spread.select("path"), _file_reader(unread), PACKETS)


def _file_reader(unread: Accumulator[Names]) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read_files(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows: list[tuple[bytes, str]] = []
        size = 0
        for batch in batches:
            for path in batch.column(0).to_pylist():
                for packet, source in packets_of(os.fsdecode(path), lambda name, why: unread.add({(name, why)})):
                    rows.append((packet, source))
                    size += len(packet)
                    if len(rows) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                        yield _batch(rows)
                        rows, size = [], 0
        if rows:
            yield _batch(rows)

    return read_files


def refusal(batch: pa.RecordBatch, row: int, stage: str, survey: str, reason: str) -> dict[str, Any]:
    """Row of the table quarantine about the packet at `row` of a batch of PACKETS; a null packet is an empty one."""
    packet = batch.column("packet")[row].as_py() or b""
    where = {name: batch.column(name)[row].as_py() for name in ("source", "partition", "offset")}
    digest = hashlib.sha256(packet).hexdigest()
    return where | {"sha256": digest, "stage": stage, "survey": survey, "reason": reason, "packet": packet}


def _batch(rows: list[tuple[bytes, str]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([packet for packet, _ in rows], pa.binary()),
            pa.array([source for _, source in rows], pa.string()),
            pa.nulls(len(rows), pa.int32()),
            pa.nulls(len(rows), pa.int64()),
            pa.nulls(len(rows), pa.timestamp("us", tz="UTC")),
        ],
        names=["packet", "source", "partition", "offset", "received"],
    )
