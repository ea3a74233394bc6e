"""Query `results`: what the other queries published → probabilities, features; what they could not do → quarantine.

Messages are at least once, in any order. A row is stored once for each key; of one key the larger `nown` wins, since it
knew more of the object's own alerts, then the larger `ndet_used`. Not the other way round: an alert itself may say
what its copies in later packets do not (a poor `rb`), and then fewer detections count (docs/decisions.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession

from alerce_spark import sky
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, STAMP
from alerce_spark.features.names import FEATURES
from alerce_spark.kafka import records
from alerce_spark.lake import log as commits
from alerce_spark.lake import lookup, write
from alerce_spark.lake.handles import healpix_order
from alerce_spark.lake.tables import TABLES, ddl_of
from alerce_spark.streaming.pieces import PIECES, piece, unpack
from alerce_spark.worker import map_in_workers

log = logging.getLogger(__name__)

#: Topics that the query reads, as a Java regular expression.
TOPICS = "|".join(
    (
        f"({records.STAMP_TOPIC}|{records.LIGHTCURVE_TOPIC})_[0-9]{{8}}",
        records.ERROR_TOPIC,
        records.RECLASSIFIED_TOPIC,
    )
)

Row = dict[str, Any]
_OUTLIER = ("outlier_score", "outlier_version")
#: Fields that messages of earlier versions of this package lack: such messages may still wait on a topic.
_LATER: records.Record = dict.fromkeys((*_OUTLIER, "novelty"))
_SCHEMAS = {
    **{name: TABLES[name].arrow for name in ("features", "probabilities", "quarantine")},
    # A message that is not ours: no container, or without the fields of its schema.
    "latency": pa.schema([pa.field("classifier", pa.string()), pa.field("seconds", pa.float64())]),
    "unreadable": pa.schema([pa.field("topic", pa.string()), pa.field("reason", pa.string())]),
}


@dataclass(frozen=True)
class Stored:
    """What a batch did: messages that could not be read, rows written by table, seconds from alert to result.

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
    check_lease: Callable[[], None]

    def process(self, messages: DataFrame) -> Stored:
        """Write what `messages` bring; safe to repeat."""
        parser = _parser(healpix_order(self.lake))
        # Bounded by the most messages of a batch: 2 kB a light-curve result.
        pieces = map_in_workers(messages.select("source", "packet", "received"), parser, ddl_of(PIECES)).toArrow()
        written = {}
        for name in ("features", "probabilities"):
            if count := self._store(_rows(pieces, name), name):
                written[name] = count
        errors = _rows(pieces, "quarantine")
        if len(errors):
            self.check_lease()
            written["quarantine"] = write.insert(self.lake, "quarantine", errors)
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
            chosen = self._better(rows, name, version)
            self.check_lease()
            commits.commit(self.lake, name, version, write.replace(self.lake, name, chosen, version))
            return len(chosen)

        return write.unhindered(change)

    def _better(self, rows: pa.Table, name: str, version: int) -> pa.Table:
        """Rows whose key the table lacks at `version`, and rows that saw more than the stored one of their key."""
        key = list(TABLES[name].key)
        keys = pl.DataFrame(rows.select([*key, "ndet_used", "nown", "healpix29"])).with_row_index("row")
        keys = keys.sort("nown", "ndet_used", "row", descending=[True, True, False])
        keys = keys.unique(key, keep="first", maintain_order=True)
        pixels, ranges = lookup.near(*sky.position(keys["healpix29"]), healpix_order(self.lake))
        columns = [*key, "ndet_used", "nown"]
        stored = lookup.read(self.lake, name, columns, keys["oid"].unique(), pixels, version, ranges)
        known = keys.join(stored.rename({"ndet_used": "had", "nown": "had_own"}), on=key, how="left")
        used_more = (pl.col("nown") == pl.col("had_own")) & (pl.col("ndet_used") > pl.col("had"))
        better = known.filter(pl.col("had").is_null() | (pl.col("nown") > pl.col("had_own")) | used_more)["row"]
        return rows.take(better.to_arrow())


def _rows(pieces: pa.Table, kind: str) -> pa.Table:
    packed = pieces.filter(pc.equal(pieces["kind"], kind))["data"]
    return pa.concat_tables([_SCHEMAS[kind].empty_table(), *(unpack(data) for data in packed)])


def _parser(order: int) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            made: dict[str, list[Row]] = {kind: [] for kind in _SCHEMAS}
            columns = (batch.column(name).to_pylist() for name in ("source", "packet", "received"))
            for topic, message, published in zip(*columns, strict=True):
                try:
                    found = list(_parsed(topic, _LATER | records.decode(message), published))
                except (ValueError, KeyError, TypeError) as error:
                    found = [("unreadable", {"topic": topic, "reason": f"{type(error).__name__}: {error}"})]
                for kind, row in found:
                    made[kind].append(row)
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


def _parsed(topic: str, record: records.Record, published: datetime | None) -> Iterator[tuple[str, Row]]:
    """Rows of one message, with ra and dec for those that have a pixel."""
    if topic == records.ERROR_TOPIC:
        yield "quarantine", record
    elif topic.startswith(records.STAMP_TOPIC):
        yield "probabilities", _stamp_row(record)
        if published is not None and record["received"] is not None:
            yield "latency", {"classifier": STAMP, "seconds": (published - record["received"]).total_seconds()}
    elif topic == records.RECLASSIFIED_TOPIC:
        yield "probabilities", record | _classification(record["version"], record["class"], record["probabilities"])
    else:
        same = {name: record[name] for name in ("oid", "candid", "mjd", "ndet_used", "nown", "survey", "ra", "dec")}
        values = {name: record["features"][records.field_name(name)] for name in FEATURES}
        head = {name: record[name] for name in ("period_false_alarm", "novelty")}
        yield "features", same | head | {"version": record["features_version"]} | values
        found, outlier = record["lc_classification"], {name: record[name] for name in _OUTLIER}
        classified = _classification(record["version"], found["class"], found["probabilities"])
        yield "probabilities", same | outlier | classified
        if published is not None and record["received"] is not None:
            yield "latency", {"classifier": LIGHTCURVE, "seconds": (published - record["received"]).total_seconds()}


def _stamp_row(record: records.Record) -> Row:
    probabilities = record["probabilities"]
    return {
        "oid": record["objectId"],
        "classifier": STAMP,
        "class": record["class"],
        "probability": probabilities[record["class"]],
        "probabilities": list(probabilities.items()),
        "ndet_used": 1,
        "nown": 1,
        # The stamp classifier itself knows what is outlying.
        "outlier_version": record["version"] if record["outlier_score"] is not None else None,
        **{
            name: record[name] for name in ("survey", "version", "candid", "mjd", "flags", "outlier_score", "ra", "dec")
        },
    }


def _classification(version: str, name: str, probabilities: dict[str, float]) -> Row:
    return {
        "classifier": LIGHTCURVE,
        "version": version,
        "class": name,
        "probability": probabilities[name],
        "probabilities": list(probabilities.items()),
        "flags": [],
    }
