"""Query `photometry`: packets → detections, upper limits, forced photometry, objects, magstats, quarantine.

One batch (docs/design.md, "Data flow"):

1. *open*: decode; keep for each good packet its key and the packet without stamps, for each bad one a quarantine row;
2. *place* (driver): home pixel of every object, and slices of the batch that are contiguous on the sky;
3. *assemble*: the packets of a slice meet in one worker, which looks up the stored history of their objects at table
   versions fixed by the driver, makes the rows of every table (`lightcurves/assemble.py`) and writes their files;
4. *commit*: one commit a table names the files and deletes the rows that they replace, from the version that was read
   or not at all; where another writer was faster, 2 to 4 are done again.

Any batch may be repeated at any time and in any order: what is stored is not stored again, and the statistics of every
object of the batch are computed again, so that a crash between two commits heals when the batch is repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from alerce_spark import sky, surveys
from alerce_spark.alerts.avro import decode, strip_stamps
from alerce_spark.lake import lookup, write
from alerce_spark.lake.handles import healpix_order
from alerce_spark.lake.tables import TABLES, ddl_of
from alerce_spark.lake.write import Change
from alerce_spark.lightcurves.assemble import Rows, assemble, unusable_entries
from alerce_spark.streaming import quarantine
from alerce_spark.streaming.query import Application, Handler, Query
from alerce_spark.streaming.source import refusal
from alerce_spark.worker import map_in_workers

#: Tables that a batch reads at fixed versions and writes, in the order of its commits. Detections follow what came with
#: them: who sees an alert's detection has all that its packet carried, and a light curve is complete when it counts all
#: detections. What is derived comes last.
TABLES_WRITTEN = ("non_detections", "forced_photometry", "detections", "objects", "magstats")
#: Alerts of one slice at the most: about 100 MB in a worker.
_SLICE_ALERTS = 4000
_STAGE = "photometry"

Number = TypeVar("Number", int, float)

_OPENED = pa.schema(
    [
        pa.field("oid", pa.string()),
        pa.field("candid", pa.int64()),
        pa.field("ra", pa.float64()),
        pa.field("dec", pa.float64()),
        pa.field("received", pa.timestamp("us", tz="UTC")),
        pa.field("packet", pa.binary()),
        pa.field("refused", pa.binary()),
    ]
)


_NO_OBJECTS = pl.DataFrame(schema={"oid": pl.String, "ra": pl.Float64, "dec": pl.Float64})


@dataclass(frozen=True)
class Summary:
    """Result of a batch: alerts stored, packets refused, rows written by kind, seconds of each part.

    latency: under "photometry" the seconds from each alert's Kafka timestamp to its rows; nothing for files.
    objects: the objects of the alerts, columns oid, ra, dec [deg] of one of their alerts.
    unread: files and members that gave no packet, each with the reason (`alerts/files.py`).
    """

    alerts: int
    refused: int
    rows: dict[str, int]
    seconds: dict[str, float]
    latency: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    objects: pl.DataFrame = field(default_factory=lambda: _NO_OBJECTS, repr=False)
    unread: tuple[tuple[str, str], ...] = ()

    def plus(self, other: Summary) -> Summary:
        """Sum of two batches."""
        return Summary(
            self.alerts + other.alerts,
            self.refused + other.refused,
            _sum(self.rows, other.rows),
            _sum(self.seconds, other.seconds),
            objects=_one_each(pl.concat([self.objects, other.objects])),
        )


def _one_each(objects: pl.DataFrame) -> pl.DataFrame:
    """The first row of each object at each of its places."""
    number = pl.Series("place", sky.places(objects["oid"], np.arange(len(objects)), objects["ra"], objects["dec"]))
    return objects.with_columns(number).unique(["oid", "place"], keep="first", maintain_order=True).drop("place")


def _sum(a: dict[str, Number], b: dict[str, Number]) -> dict[str, Number]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}


@dataclass(frozen=True)
class Photometry:
    """The query on one lake: `process` takes any DataFrame of packets (`streaming/source.py`)."""

    spark: SparkSession
    lake: str
    survey: str
    slices: int
    check_lease: Callable[[], None]

    def process(self, packets: DataFrame) -> Summary:
        """Write everything that `packets` bring; safe to repeat."""
        clock = _Clock()
        columns = packets.select("packet", "source", "partition", "offset", "received")
        opened = map_in_workers(columns, _opener(self.survey), ddl_of(_OPENED))
        opened = opened.persist(StorageLevel.MEMORY_AND_DISK)
        try:
            # Bounded: a few tens of bytes for each alert of the batch.
            keys = pl.from_arrow(opened.select("oid", "candid", "ra", "dec", "received").toArrow())
            assert isinstance(keys, pl.DataFrame)
            alerts = keys.filter(pl.col("oid").is_not_null())
            alerts = alerts.with_columns(place=sky.places(*alerts.select("oid", "candid", "ra", "dec")))
            refused = keys.select(pl.all_horizontal(pl.col("oid", "candid").is_null()).sum()).item()
            clock.lap("open")
            if len(keys) > len(alerts):
                bad = opened.where("refused IS NOT NULL").select("refused")
                quarantine.keep(self.lake, bad, self.check_lease)
                clock.lap("quarantine")
            if alerts.is_empty():
                return Summary(0, refused, {}, clock.seconds)
            counts = write.unhindered(lambda: self._store(opened, alerts, clock))
            waits = time.time() - alerts["received"].drop_nulls().dt.epoch("us").to_numpy() / 1e6
            objects = alerts.unique(["oid", "place"], keep="first", maintain_order=True).select("oid", "ra", "dec")
            return Summary(len(alerts), refused, counts, clock.seconds, {_STAGE: waits} if waits.size else {}, objects)
        finally:
            opened.unpersist()

    def _store(self, opened: DataFrame, alerts: pl.DataFrame, clock: _Clock) -> dict[str, int]:
        """Write what the alerts bring; rows by kind. Raises Conflict where another writer was faster."""
        versions = lookup.versions(self.lake, TABLES_WRITTEN)
        placed = self._place(alerts, versions["objects"])
        made = self._changes(opened, placed, versions).toArrow().to_pylist()
        clock.lap("assemble")
        counts: dict[str, int] = {}
        for change in made:
            counts[change["kind"]] = counts.get(change["kind"], 0) + change["rows"]
        for table in TABLES_WRITTEN:
            parts = [write.unpacked(c["change"]) for c in made if c["kind"].split("+")[0] == table]
            if parts:
                self.check_lease()
                write.commit(self.lake, table, versions[table], write.joined(parts))
        clock.lap("commit")
        return counts

    def _place(self, alerts: pl.DataFrame, version: int) -> pl.DataFrame:
        """Home pixel and slice of each object: oid, home, slice; no slice has an object at two places.

        Where the batch has such an object, of each alert: oid, candid, ra, dec, home, slice.
        """
        parts: list[pl.DataFrame] = []
        slices = 0
        for (place,), mine in sorted(alerts.partition_by("place", as_dict=True).items()):
            placed = self._placed(mine, version)
            parts.append(placed.with_columns(pl.col("slice") + slices, place=pl.lit(place, pl.Int64)))
            slices += placed["slice"].n_unique()
        if len(parts) == 1:
            return parts[0].drop("place")
        each = alerts.select("oid", "candid", "ra", "dec", "place").unique()
        return each.join(pl.concat(parts), on=["oid", "place"]).drop("place")

    def _placed(self, alerts: pl.DataFrame, version: int) -> pl.DataFrame:
        """As `_place`, of alerts at one place of each object."""
        order = healpix_order(self.lake)
        # A new object's home is the pixel of its first alert in the batch, whatever the order of the packets.
        objects = (
            alerts.sort("candid")
            .unique("oid", keep="first")
            .select("oid", pl.struct("ra", "dec").map_batches(_index_of, return_dtype=pl.Int64).alias("healpix29"))
        )
        objects = objects.with_columns(here=pl.Series(sky.parent(objects["healpix29"], order), dtype=pl.Int32))
        known = lookup.stored_homes(self.lake, alerts["oid"], alerts["ra"], alerts["dec"], version)
        placed = objects.join(known, on="oid", how="left").select("oid", "healpix29", home=pl.coalesce("pixel", "here"))
        counts = alerts.group_by("oid").len()
        ordered = placed.join(counts, on="oid").sort("home", "healpix29", "oid")
        size = min(_SLICE_ALERTS, -(-len(alerts) // self.slices))
        return ordered.select("oid", "home", slice=((pl.col("len").cum_sum() - pl.col("len")) // size).cast(pl.Int32))

    def _changes(self, opened: DataFrame, placed: pl.DataFrame, versions: dict[str, int]) -> DataFrame:
        slices = int(placed["slice"].max()) + 1  # type: ignore[arg-type]
        schema = pa.schema([_PLACED.field(name) for name in placed.columns])
        homes = self.spark.createDataFrame(placed.to_arrow().cast(schema))
        keys = [name for name in placed.columns if name not in ("home", "slice")]
        joined = opened.where("oid IS NOT NULL").join(F.broadcast(homes), keys)
        met = joined.repartitionById(slices, F.col("slice")).select("oid", "home", "ra", "dec", "packet")
        return map_in_workers(met, assembler(self.lake, self.survey, versions), ddl_of(_CHANGES))


_PLACED = pa.schema(
    [
        ("oid", pa.string()),
        ("candid", pa.int64()),
        ("ra", pa.float64()),
        ("dec", pa.float64()),
        ("home", pa.int32()),
        ("slice", pa.int32()),
    ]
)
#: A worker's change of one table: `kind` is the table, with "+upgrade" or "+flagged" where rows replace stored ones.
_CHANGES = pa.schema([("kind", pa.string()), ("rows", pa.int64()), ("change", pa.binary())])


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def _index_of(position: pl.Series) -> pl.Series:
    return pl.Series(sky.healpix(position.struct.field("ra"), position.struct.field("dec")))


def _opener(survey: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    described = surveys.get(survey)

    def open_packets(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            packets = batch.column("packet")
            decoded = decode(packets, described)
            good = decoded.alerts["row"].combine_chunks()
            yield pa.RecordBatch.from_arrays(
                [
                    decoded.alerts["objectId"].combine_chunks(),
                    decoded.alerts["candid"].combine_chunks(),
                    decoded.alerts["ra"].combine_chunks(),
                    decoded.alerts["dec"].combine_chunks(),
                    batch.column("received").take(good).cast(_OPENED.field("received").type),
                    strip_stamps(packets.take(good), described),
                    pa.nulls(len(good), pa.binary()),
                ],
                schema=_OPENED,
            )
            errors = [(e["row"], e["reason"]) for e in decoded.errors.to_pylist()]
            if errors:
                yield _refused(_quarantine_rows(batch, errors, survey), None)
            # These are used all the same, so the row keeps a candid.
            if entries := unusable_entries(decoded, described):
                yield _refused(_quarantine_rows(batch, entries, survey), 0)

    return open_packets


def _quarantine_rows(batch: pa.RecordBatch, refused: list[tuple[int, str]], survey: str) -> pa.Table:
    rows = [refusal(batch, row, _STAGE, survey, reason) for row, reason in refused]
    return pa.Table.from_pylist(rows, TABLES["quarantine"].arrow)


def _refused(rows: pa.Table, candid: int | None) -> pa.RecordBatch:
    """One row for each row of the table `quarantine`, in the form of _OPENED."""
    packed = quarantine.packed(rows)
    columns = {
        field.name: pa.nulls(len(rows), field.type) if field.name != "refused" else pa.array(packed, field.type)
        for field in _OPENED
    }
    columns["candid"] = pa.array([candid] * len(rows), pa.int64())
    return pa.RecordBatch.from_pydict(columns, schema=_OPENED)


def assembler(
    lake: str, survey: str, versions: dict[str, int]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def assemble_slice(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        met = list(batches)
        if not met:
            return
        alerts = pa.Table.from_batches(met)
        described = surveys.get(survey)
        decoded = decode(alerts["packet"], described)
        homes = pl.DataFrame({"oid": alerts["oid"], "pixel": alerts["home"]}).unique("oid").sort("oid")
        oid, ra, dec = (pl.Series(alerts[name]) for name in ("oid", "ra", "dec"))
        stored = lookup.stored_history(lake, oid, ra, dec, versions)
        rows = assemble(decoded, stored, homes, survey=described, order=healpix_order(lake))
        for kind, count, change in _changed(rows, lake, versions):
            yield pa.RecordBatch.from_pydict(
                {"kind": [kind], "rows": [count], "change": [write.packed(change)]}, schema=_CHANGES
            )

    return assemble_slice


def _changed(rows: Rows, lake: str, versions: dict[str, int]) -> Iterator[tuple[str, int, Change]]:
    for table, new in (
        ("detections", rows.detections_new),
        ("non_detections", rows.limits_new),
        ("forced_photometry", rows.forced_new),
    ):
        if len(new):
            yield table, len(new), write.append(lake, table, _arrow(new, table))
    for kind, better in (
        ("detections+upgrade", rows.detections_upgrade),
        ("detections+flagged", _flagged(rows.flagged, lake, versions["detections"])),
        ("non_detections+upgrade", rows.limits_upgrade),
        ("forced_photometry+upgrade", rows.forced_upgrade),
        ("objects", rows.objects),
        ("magstats", rows.magstats),
    ):
        if len(better):
            table = kind.split("+")[0]
            yield kind, len(better), write.replace(lake, table, _arrow(better, table), versions[table])


def _flagged(flagged: pl.DataFrame, lake: str, version: int) -> pl.DataFrame:
    """The stored detections whose flag changes, whole, with the new flag."""
    if flagged.is_empty():
        return flagged
    names = TABLES["detections"].names
    stored = lookup.read(lake, "detections", names, flagged["oid"].unique(), flagged["pixel"].unique(), version)
    changed = stored.drop("dubious").join(flagged.select("oid", "candid", "dubious"), on=["oid", "candid"])
    return changed.select(names)


def _arrow(frame: pl.DataFrame, table: str) -> pa.Table:
    schema = TABLES[table].arrow
    return frame.select(schema.names).to_arrow().cast(schema)


def _handler(application: Application) -> Handler:
    spark, settings = application.spark, application.settings
    slices = spark.sparkContext.defaultParallelism
    return Photometry(spark, settings.lake.path, settings.survey, slices, application.check_lease).process


def _compile(lake: str, survey: str, packets: pa.RecordBatch) -> None:
    alerts = decode(packets.column("packet"), surveys.get(survey)).alerts
    homes = sky.parent(sky.healpix(alerts["ra"].to_numpy(), alerts["dec"].to_numpy()), healpix_order(lake))
    met = alerts.select(["objectId", "ra", "dec"]).rename_columns(["oid", "ra", "dec"])
    met = met.append_column("home", pa.array(homes, pa.int32())).append_column("packet", packets.column("packet"))
    work = assembler(lake, survey, lookup.versions(lake, TABLES_WRITTEN))
    list(work(iter(met.combine_chunks().to_batches())))


QUERY = Query(
    name="photometry",
    purpose="detections, upper limits and statistics of every object; what cannot be used goes to quarantine",
    interval_s=30.0,
    min_messages=4000,
    max_messages=8000,
    tables=(*TABLES_WRITTEN, "quarantine"),
    handle=_handler,
    compile=_compile,
)
