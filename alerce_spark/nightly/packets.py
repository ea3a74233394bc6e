"""Packets of a night that Kafka still holds: list them, and send some again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from alerce_spark import surveys
from alerce_spark.alerts.avro import decode
from alerce_spark.config import KafkaSettings
from alerce_spark.kafka import topics
from alerce_spark.lake.tables import ddl_of
from alerce_spark.nightly.nights import begin_of
from alerce_spark.streaming.sink import sink_options
from alerce_spark.worker import map_in_workers

#: Columns of a message: its place, the checksum of its bytes, and its alert; the latter null if it cannot be decoded.
PACKETS = pa.schema(
    [
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("oid", pa.string()),
        pa.field("candid", pa.int64()),
        pa.field("mjd", pa.float64()),
        pa.field("ra", pa.float64()),
        pa.field("dec", pa.float64()),
    ]
)
_DECODED = {"oid": "objectId", "candid": "candid", "mjd": "mjd", "ra": "ra", "dec": "dec"}
_WANTED = pa.schema([*(PACKETS.field(name) for name in ("topic", "partition", "offset")), ("target", pa.string())])

_DATE = re.compile(r"(?<![0-9])(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?![0-9])")
_TIMEOUT_S = 60.0
#: Messages of one task, 300 MB of ZTF's packets: all cores share a topic of one partition.
_TASK_MESSAGES = 5000
#: Bytes of one fetch from a partition: Kafka's 1 MiB is 17 packets of ZTF and costs driver and broker 0.2 ms more each.
_FETCH_BYTES = 8 << 20
_LARGEST_MESSAGE = 64 << 20


@dataclass(frozen=True)
class NightTopics:
    """Topics with messages of a night: those with its date in their name, and those to be cut by Kafka's timestamp."""

    whole: list[str]
    undated: list[str]


def topics_of(spark: SparkSession, kafka: KafkaSettings, night: str) -> NightTopics:
    """Alert topics and their reprocess topics with messages of `night` (YYYYMMDD).

    A name without a date belongs to every night. Raises KafkaException where the broker does not answer.
    """
    admin = topics.admin(kafka.bootstrap_servers, kafka.revealed)
    matches = spark.sparkContext._jvm.java.util.regex.Pattern.matches  # type: ignore[union-attr]
    pattern = topics.subscription(kafka.topics)  # in Java's syntax, so Java must judge
    ours = [name for name in sorted(admin.list_topics(timeout=_TIMEOUT_S).topics) if matches(pattern, name)]
    dates = {name: _DATE.findall(name) for name in ours}
    return NightTopics([name for name in ours if night in dates[name]], [name for name in ours if not dates[name]])


def read(spark: SparkSession, kafka: KafkaSettings, survey: str, night: str) -> pl.DataFrame:
    """Every message of a night that Kafka holds now, as PACKETS, repeated packets included.

    In topics without a date in their name these are the messages whose Kafka timestamp lies in the UTC day of `night`:
    each message belongs to one night, a late one to the night of its arrival. Raises KafkaException.
    """
    found = topics_of(spark, kafka, night)
    begin = begin_of(night)
    cut = {
        "startingTimestamp": _milliseconds(begin),
        "endingTimestamp": _milliseconds(begin + timedelta(days=1)),
        "startingOffsetsByTimestampStrategy": "latest",  # a partition without a message in the interval has no entry
    }
    parts = [
        _keys_of(spark, kafka, survey, names, options)
        for names, options in ((found.whole, {}), (found.undated, cut))
        if names
    ]
    return pl.DataFrame(pa.concat_tables([PACKETS.empty_table(), *parts]))


def send_again(spark: SparkSession, kafka: KafkaSettings, packets: pl.DataFrame) -> int:
    """Copy messages (topic, partition, offset) byte for byte to their reprocess topics; return their number.

    Workers read and write, with Spark's Kafka source and sink. Raises Spark's errors where a message has expired.
    """
    if packets.is_empty():
        return 0
    plain = pl.col("topic").str.strip_suffix(topics.REPROCESS_SUFFIX)
    wanted = packets.select("topic", "partition", "offset", target=plain + topics.REPROCESS_SUFFIX).unique()
    targets = wanted["target"].unique().to_list()
    topics.create(kafka.bootstrap_servers, targets, kafka.partitions, options=kafka.revealed)
    ranges = wanted.group_by("topic", "partition").agg(first=pl.col("offset").min(), last=pl.col("offset").max())
    places = {topic[0]: part for topic, part in ranges.group_by("topic")}
    offsets = {
        name: {t: dict(zip(p["partition"].cast(pl.String), p[edge] + after, strict=True)) for t, p in places.items()}
        for name, edge, after in (("startingOffsets", "first", 0), ("endingOffsets", "last", 1))
    }
    options = {name: json.dumps(value) for name, value in offsets.items()}
    options["assign"] = json.dumps({topic: part["partition"].to_list() for topic, part in places.items()})
    chosen = F.broadcast(spark.createDataFrame(wanted.to_arrow().cast(_WANTED)))
    messages = _messages(spark, kafka, options).join(chosen, ["topic", "partition", "offset"])
    sink = {
        **sink_options(kafka),
        "kafka.enable.idempotence": "true",
        "kafka.max.request.size": str(_LARGEST_MESSAGE),
        "kafka.buffer.memory": str(2 * _LARGEST_MESSAGE),
    }
    copies = messages.select(F.col("target").alias("topic"), "key", "value")
    copies.write.format("kafka").options(**sink).save()
    return len(wanted)


def _milliseconds(time: datetime) -> str:
    return f"{time.timestamp() * 1000:.0f}"


def _messages(spark: SparkSession, kafka: KafkaSettings, options: dict[str, str]) -> DataFrame:
    every = {
        "kafka.bootstrap.servers": kafka.bootstrap_servers,
        "maxRecordsPerPartition": str(_TASK_MESSAGES),
        "kafka.max.partition.fetch.bytes": str(_FETCH_BYTES),
        **options,
        **kafka.revealed,
        **topics.spark_isolation(),
    }
    return spark.read.format("kafka").options(**every).load()


def _keys_of(
    spark: SparkSession, kafka: KafkaSettings, survey: str, names: list[str], options: dict[str, str]
) -> pa.Table:
    messages = _messages(spark, kafka, {"subscribe": ",".join(names), **options})
    columns = messages.select("value", "topic", "partition", "offset")
    keys = map_in_workers(columns, _keys(survey), ddl_of(PACKETS)).toArrow()
    return keys.cast(PACKETS)


def _keys(survey: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read_keys(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            packets = batch.column("value")
            alerts = decode(packets, surveys.get(survey)).alerts
            place = np.full(batch.num_rows, -1)
            place[alerts["row"].to_numpy()] = np.arange(alerts.num_rows)
            at = pa.array(place, mask=place < 0)
            columns = {name: batch.column(name) for name in ("topic", "partition", "offset")}
            columns["sha256"] = pa.array(
                [hashlib.sha256(p.as_buffer() or b"").hexdigest() for p in packets], pa.string()
            )
            columns |= {name: alerts[field].combine_chunks().take(at) for name, field in _DECODED.items()}
            yield pa.RecordBatch.from_pydict(columns, schema=PACKETS)

    return read_keys
