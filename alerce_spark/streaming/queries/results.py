"""Query `results`: what the other queries published → probabilities, features; what they could not do → quarantine.

A message that is not ours, or says what cannot be, goes to the table quarantine with the reason; the others of its
batch are stored. Messages are at least once, in any order. A row is stored once for each key; of one key the larger
`nown` wins, since it knew more of the object's own alerts, then the larger `ndet_used`. Not the other way round: an
alert itself may say what its copies in later packets do not (a poor `rb`), and then fewer detections count
(docs/decisions.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from alerce_spark import sky
from alerce_spark.kafka import records
from alerce_spark.kafka.records import MessageError
from alerce_spark.lake import lookup, write
from alerce_spark.lake.handles import healpix_order
from alerce_spark.lake.tables import TABLES, ddl_of
from alerce_spark.streaming import quarantine
from alerce_spark.streaming.contents import Row, rows_of
from alerce_spark.streaming.pieces import PIECES, piece, unpack
from alerce_spark.streaming.query import Application, Handler, Query
from alerce_spark.streaming.source import refusal
from alerce_spark.worker import map_in_workers

log = logging.getLogger(__name__)

#: Topics that the query reads, as a Java regular expression.
TOPICS = "|".join(
    (
        # Without a date: of alerts whose time in Kafka cannot be true.
        f"({records.STAMP_TOPIC}|{records.LIGHTCURVE_TOPIC})(_[0-9]{{8}})?",
        records.ERROR_TOPIC,
        records.RECLASSIFIED_TOPIC,
    )
)

#: Name of the query in the table quarantine.
STAGE = "results"
_SCHEMAS = {
    **{name: TABLES[name].arrow for name in ("features", "probabilities")},
    "latency": pa.schema([pa.field("classifier", pa.string()), pa.field("seconds", pa.float64())]),
    "unreadable": pa.schema([pa.field("topic", pa.string()), pa.field("reason", pa.string())]),
}
#: Kind of the pieces that hold one row of the table quarantine each.
_REFUSED = "refused"
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Stored:
    """Result of a batch: refused messages, rows written by table, seconds from alert to result.

    latency: for each classifier the seconds between the alert's and the message's Kafka timestamps, one a message.
    """

    unreadable: int
    rows: dict[str, int]
    latency: dict[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True)
class Results:
    """The query on one lake: `process` takes messages of TOPICS as PACKETS."""

    spark: SparkSession
    lake: str
    survey: str
    check_lease: Callable[[], None]

    def process(self, messages: DataFrame) -> Stored:
        """Write what `messages` bring; safe to repeat."""
        columns = messages.select("source", "partition", "offset", "packet", "received")
        parser = _parser(healpix_order(self.lake), self.survey)
        parsed = map_in_workers(columns, parser, ddl_of(PIECES)).persist(StorageLevel.MEMORY_AND_DISK)
        try:
            # Bounded by the most messages of a batch: 2 kB a light-curve result. Refused ones may be of any size.
            small = parsed.withColumn("data", F.when(F.col("kind") != _REFUSED, F.col("data")))
            pieces = small.toArrow()
            written = {}
            for name in ("features", "probabilities"):
                if count := self._store(_rows(pieces, name), name):
                    written[name] = count
            if pc.any(pc.equal(pieces["kind"], _REFUSED)).as_py():
                refused = parsed.where(F.col("kind") == _REFUSED).select("data")
                written["quarantine"] = quarantine.keep(self.lake, refused, self.check_lease)
        finally:
            parsed.unpersist()
        unreadable = _rows(pieces, "unreadable")
        if len(unreadable):
            first = unreadable.slice(0, 1).to_pylist()[0]
            log.error("%d messages are not ours, the first on %s: %s", len(unreadable), first["topic"], first["reason"])
        waits = _rows(pieces, "latency")
        names, seconds = waits["classifier"].to_numpy(), waits["seconds"].to_numpy()
        return Stored(len(unreadable), written, {str(name): seconds[names == name] for name in np.unique(names)})

    def _store(self, rows: pa.Table, name: str) -> int:
        """Commit the rows that the table lacks, or that saw more than the stored one of their key; their number."""
        if not len(rows):
            return 0

        def change() -> int:
            version = lookup.versions(self.lake, [name])[name]
            chosen, stored = self._better(rows, name, version)
            self.check_lease()
            write.commit(self.lake, name, version, write.replace(self.lake, name, chosen, version, stored))
            return len(chosen)

        return write.unhindered(change)

    def _better(self, rows: pa.Table, name: str, version: int) -> tuple[pa.Table, pl.DataFrame]:
        """Rows whose key the table lacks at `version`, and rows that saw more than the stored one of their key.

        With them, what is stored of their objects, and where it lies.
        """
        key = list(TABLES[name].key)
        keys = pl.DataFrame(rows.select([*key, "ndet_used", "nown", "healpix29"])).with_row_index("row")
        keys = keys.sort("nown", "ndet_used", "row", descending=[True, True, False])
        keys = keys.unique(key, keep="first", maintain_order=True)
        columns = [*key, "ndet_used", "nown"]
        seen = sky.position(keys["healpix29"])
        stored = lookup.read_near(self.lake, name, columns, keys["oid"], *seen, version, located=True)
        known = keys.join(stored.rename({"ndet_used": "had", "nown": "had_own"}), on=key, how="left")
        used_more = (pl.col("nown") == pl.col("had_own")) & (pl.col("ndet_used") > pl.col("had"))
        better = known.filter(pl.col("had").is_null() | (pl.col("nown") > pl.col("had_own")) | used_more)["row"]
        return rows.take(better.to_arrow()), stored


def _rows(pieces: pa.Table, kind: str) -> pa.Table:
    packed = pieces.filter(pc.equal(pieces["kind"], kind))["data"]
    return pa.concat_tables([_SCHEMAS[kind].empty_table(), *(unpack(data) for data in packed)])


def _parser(order: int, survey: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            made: dict[str, list[Row]] = {kind: [] for kind in _SCHEMAS}
            # As numbers: Python's times end with the year 9999, Kafka's do not.
            times = batch.column("received").cast(_TIME).cast(pa.int64()).to_pylist()
            for k, (topic, published) in enumerate(zip(batch.column("source").to_pylist(), times, strict=True)):
                try:
                    found = list(rows_of(topic, batch.column("packet")[k].as_py() or b"", published))
                except MessageError as error:
                    made["unreadable"].append({"topic": topic, "reason": str(error)})
                    found = [("quarantine", refusal(batch, k, STAGE, survey, str(error)))]
                for kind, row in found:
                    if kind in made:
                        made[kind].append(row)
                    else:  # one at a time: a packet may have megabytes
                        yield piece(_REFUSED, pa.Table.from_pylist([row], TABLES[kind].arrow))
            yield from _pieces(made, order)

    return parse


def _pieces(made: dict[str, list[Row]], order: int) -> Iterator[pa.RecordBatch]:
    for kind, rows in made.items():
        if not rows:
            continue
        if kind in TABLES and TABLES[kind].on_sky:
            index = sky.healpix([row["ra"] for row in rows], [row["dec"] for row in rows])
            pixel = sky.parent(index, order)
            for k, row in enumerate(rows):
                row |= {"healpix29": int(index[k]), "pixel": int(pixel[k])}
        yield piece(kind, pa.Table.from_pylist(rows, _SCHEMAS[kind]))


def _handler(application: Application) -> Handler:
    settings = application.settings
    return Results(application.spark, settings.lake.path, settings.survey, application.check_lease).process


QUERY = Query(
    name="results",
    purpose="features and classes that were published, and what the queries that published them could not use",
    interval_s=30.0,
    max_messages=10_000,
    reads=TOPICS,
    tables=("features", "probabilities", "quarantine"),
    handle=_handler,
)
