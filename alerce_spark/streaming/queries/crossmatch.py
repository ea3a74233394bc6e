"""Query `crossmatch`: objects without an attempt → packet neighbours, local catalogues, a service → table xmatch.

Workers look at what the packets carry and match with the catalogues that are imported in the lake; one row an object
and catalogue. It is about the object's earliest alert that is known: one that comes late and is older takes the place
of a later one, so that the table does not depend on the order of arrival. Objects that a service is asked about are
handed to it and fetched from it between batches; it may fail or take its time, nothing waits for it, and an object is
due as long as it has no row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike
from pyspark.sql import DataFrame, SparkSession

from alerce_spark import sky, surveys
from alerce_spark.alerts.avro import decode
from alerce_spark.config import conf_dir
from alerce_spark.crossmatch import catalogs as published
from alerce_spark.crossmatch.packet import neighbours
from alerce_spark.lake import attempts, catalogs, lookup, write
from alerce_spark.lake.handles import delta_table, scan
from alerce_spark.lake.tables import TABLES, ddl_of
from alerce_spark.streaming.pieces import PIECES, piece, unpack
from alerce_spark.streaming.query import Application, Handler, Query
from alerce_spark.worker import map_in_workers, together

log = logging.getLogger(__name__)

STAGE = "crossmatch"
_TABLE = "xmatch"
#: Objects whose rows are made and committed together where whole tables are matched.
_OBJECTS = 50_000
#: Seconds that a batch may look for objects that a service has not told about.
_SWEEP_S = 0.5

_ATTEMPTED = TABLES[_TABLE].arrow
_DUE = pa.schema([("oid", pa.string()), ("candid", pa.int64()), ("ra", pa.float64()), ("dec", pa.float64())])
_RECEIVED = pa.schema([("received", pa.timestamp("us", tz="UTC"))])
_SCHEMAS = {_TABLE: _ATTEMPTED, "due": _DUE, "received": _RECEIVED}


class Service(Protocol):
    """A remote catalogue that is asked in the background (`crossmatch/cds.py`); neither method waits or raises."""

    def submit(self, oids: Sequence[str], ra: ArrayLike, dec: ArrayLike) -> int:
        """Hand in objects at positions [deg]; returns how many were taken."""

    def collect(self) -> pa.Table:
        """Attempts finished since the last call: columns oid, ra, dec and those of ATTEMPTS but `row`."""


@dataclass(frozen=True)
class Matched:
    """Result of a batch: alerts taken, rows written by catalogue, rows with a source among them.

    latency: under "crossmatch" the seconds from each alert's Kafka timestamp to its rows; nothing for files.
    """

    alerts: int
    rows: dict[str, int]
    found: dict[str, int]
    latency: dict[str, np.ndarray] = field(default_factory=dict, repr=False)


@dataclass
class Crossmatch:
    """The query on one lake: `process` takes any DataFrame of packets (`streaming/source.py`).

    service: asked about the catalogues `asked` that are not imported in the lake.
    """

    spark: SparkSession
    lake: str
    survey: str
    check_lease: Callable[[], None]
    service: Service | None = None
    asked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._sweep: Iterator[pl.DataFrame] = iter(())

    def process(self, packets: DataFrame) -> Matched:
        """Write the attempts that objects of `packets` lack; safe to repeat."""
        finished = None if self.service is None else self.service.collect()
        made = write.unhindered(lambda: self._store(packets, finished))
        waits = time.time() - made.received / 1e6
        rows, found = _counted(made.rows)
        return Matched(made.alerts, rows, found, {STAGE: waits} if waits.size else {})

    def _store(self, packets: DataFrame, finished: pa.Table | None) -> _Made:
        version = lookup.versions(self.lake, [_TABLE])[_TABLE]
        local = [catalog.name for catalog in catalogs.imported(self.lake)]
        asked = tuple(name for name in self.asked if name not in local)
        match = _matcher(self.lake, self.survey, version, local, asked)
        pieces = map_in_workers(packets.select("packet", "received"), match, ddl_of(PIECES)).toArrow()
        rows = _earliest(_rows(pieces, _TABLE))
        if finished is not None and finished.num_rows:
            rows = pa.concat_tables([rows, self._answered(finished, asked, version)])
        if rows.num_rows:
            self.check_lease()
            write.commit(self.lake, _TABLE, version, write.replace(self.lake, _TABLE, rows, version))
        if self.service is not None and asked:
            self._hand_in(self.service, _rows(pieces, "due"), asked)
        received = _rows(pieces, "received")
        times = received["received"].drop_null().cast(pa.int64()).to_numpy()
        return _Made(received.num_rows, rows, times)

    def _answered(self, finished: pa.Table, asked: Sequence[str], version: int) -> pa.Table:
        """Rows of what the service told, without those that are stored already."""
        told = finished.filter(pc.is_in(finished["catalog"], pa.array(asked, pa.string())))
        known = attempts.stored(self.lake, told["oid"], told["ra"].to_numpy(), told["dec"].to_numpy(), version)
        keys = (
            pl.DataFrame(told.select(["oid", "catalog"])).with_row_index("at").unique(["oid", "catalog"], keep="first")
        )
        new = keys.join(known, on=["oid", "catalog"], how="anti")["at"].sort()
        about = told.take(new.to_arrow())
        candid = pa.nulls(about.num_rows, pa.int64())
        return attempts.table_rows(about, about["oid"], candid, about["ra"], about["dec"], self.survey, self.lake)

    def _hand_in(self, service: Service, due: pa.Table, asked: Sequence[str]) -> None:
        """Objects of this batch, and while the service takes them, older ones that it has not told about."""
        fresh = pl.DataFrame(due).sort("candid").unique("oid", keep="first", maintain_order=True)
        everything = service.submit(fresh["oid"].to_list(), fresh["ra"], fresh["dec"]) == len(fresh)
        until = time.monotonic() + _SWEEP_S
        while everything and time.monotonic() < until:
            some = next(self._sweep, None)
            if some is None:
                self._sweep = lacking(self.lake, asked)
                return
            if len(some):
                everything = service.submit(some["oid"].to_list(), some["ra"], some["dec"]) > 0


@dataclass(frozen=True)
class _Made:
    alerts: int
    rows: pa.Table
    received: np.ndarray  # µs since 1970


def lacking(lake: str, names: Sequence[str], again: bool = False) -> Iterator[pl.DataFrame]:
    """Objects of the lake that lack a row of any of the catalogues, in parts that lie together on the sky.

    Columns oid, ra, dec [deg] (mean position) and mjd (last detection). With `again` every object.
    """
    objects = delta_table(lake, "objects")
    pixels = sorted({int(p["pixel"]) for p in objects.partitions()})
    columns = [
        pl.col("oid"),
        pl.col("meanra").alias("ra"),
        pl.col("meandec").alias("dec"),
        pl.col("lastmjd").alias("mjd"),
    ]
    for pixel in pixels:
        here = scan(objects).filter(pl.col("pixel") == pixel).sort("healpix29").select(columns).collect()
        for part in here.iter_slices(_OBJECTS):
            if again:
                yield part
                continue
            number = sky.places(*(part[name] for name in ("oid", "mjd", "ra", "dec")))
            for n in np.unique(number):
                mine = part.filter(pl.Series(number == n))
                known = attempts.stored(lake, mine["oid"], mine["ra"].to_numpy(), mine["dec"].to_numpy(), None)
                yield mine.filter(~pl.col("oid").is_in(_complete(known, names).implode()))


def match_objects(
    lake: str,
    survey: str,
    name: str,
    ask: Callable[[np.ndarray, np.ndarray, np.ndarray], pa.Table],
    check_lease: Callable[[], None],
    again: bool = False,
    most: int = _OBJECTS,
) -> Iterator[Matched]:
    """Attempts for every object of the lake that lacks one with the catalogue `name`, written part by part.

    ask: ra, dec [deg], mjd → ATTEMPTS, one row each (`lake.catalogs.match`, `crossmatch.cds`). With `again` every
    object is matched again. A part has `most` objects, the last one the rest. Yields what each part did; what was
    written stays where `ask` raises.
    """
    for part in _gathered(lacking(lake, [name], again), most):
        where = (part[column].to_numpy() for column in ("ra", "dec", "mjd"))
        found = ask(*where)
        about = part[found["row"].to_numpy()].to_arrow()
        nothing = pa.nulls(found.num_rows, pa.int64())
        rows = attempts.table_rows(found, about["oid"], nothing, about["ra"], about["dec"], survey, lake)

        def change(rows: pa.Table = rows) -> int:
            version = lookup.versions(lake, [_TABLE])[_TABLE]
            check_lease()
            return write.commit(lake, _TABLE, version, write.replace(lake, _TABLE, rows, version))

        write.unhindered(change)
        yield Matched(len(part), *_counted(rows))


def _gathered(parts: Iterator[pl.DataFrame], size: int) -> Iterator[pl.DataFrame]:
    """The rows of all parts, in frames of `size` and the rest."""
    left = pl.DataFrame()
    for part in parts:
        left = pl.concat([left, part], how="diagonal")
        while len(left) >= size:
            yield left[:size]
            left = left[size:]
    if len(left):
        yield left


def _matcher(
    lake: str, survey: str, version: int, local: Sequence[str], asked: Sequence[str]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def match(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in together(batches):
            # Packets that cannot be decoded are the business of `photometry`, which quarantines them.
            whole = decode(batch.column("packet"), surveys.get(survey)).alerts
            if not whole.num_rows:
                continue
            came = batch.column("received").take(whole["row"].combine_chunks()).cast(_RECEIVED.field(0).type)
            yield piece("received", pa.table([came], schema=_RECEIVED))
            number = sky.places(*(whole[name] for name in ("objectId", "candid", "ra", "dec")))
            for n in np.unique(number):
                alerts = whole.filter(pa.array(number == n))
                rows, due = _attempts(alerts, lake, survey, version, local, asked)
                if rows.num_rows:
                    yield piece(_TABLE, rows)
                if due.num_rows:
                    yield piece("due", due)

    return match


def _attempts(
    alerts: pa.Table, lake: str, survey: str, version: int, local: Sequence[str], asked: Sequence[str]
) -> tuple[pa.Table, pa.Table]:
    """Rows of xmatch that the alerts bring, and objects to ask a service about."""
    told = pl.DataFrame(alerts.select(["objectId", "candid", "ra", "dec", "mjd"])).rename({"objectId": "oid"})
    told = told.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    known = attempts.stored(lake, told["oid"], told["ra"].to_numpy(), told["dec"].to_numpy(), version)
    firsts = told.sort("candid").unique("oid", keep="first", maintain_order=True)
    found = [neighbours(alerts, surveys.get(survey))]
    for name in local:
        lacks = _without_earlier(firsts.with_columns(catalog=pl.lit(name)), known)
        if len(lacks):
            matched = catalogs.match(lake, name, lacks["ra"], lacks["dec"], lacks["mjd"])
            row = lacks["row"].to_arrow().take(matched["row"].combine_chunks())
            found.append(matched.set_column(0, matched.schema.field(0), row))
    every = pa.concat_tables(found)
    keys = pl.DataFrame(every.select(["row", "catalog"])).join(told, on="row", maintain_order="left")
    keys = _without_earlier(keys.with_row_index("at"), known)
    keys = keys.sort("candid").unique(["oid", "catalog"], keep="first", maintain_order=True)
    new = keys.select("oid", "candid", "ra", "dec").to_arrow()
    rows = every.take(keys["at"].to_arrow())
    due = firsts.filter(~pl.col("oid").is_in(_complete(known, asked).implode())) if asked else firsts.clear()
    made = attempts.table_rows(rows, new["oid"], new["candid"], new["ra"], new["dec"], survey, lake)
    return made, due.select(_DUE.names).to_arrow().cast(_DUE)


def _without_earlier(rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Rows with oid, catalog and candid for whose object and catalogue nothing as early is stored."""
    joined = rows.join(known, on=["oid", "catalog"], how="left", suffix="_stored", maintain_order="left")
    is_lacking = pl.col("is_stored").is_null() | (pl.col("candid") < pl.col("candid_stored"))
    return joined.filter(is_lacking).select(rows.columns)


def _complete(known: pl.DataFrame, names: Sequence[str]) -> pl.Series:
    """Objects that have a row of each of the catalogues."""
    of_them = known.filter(pl.col("catalog").is_in(list(names)))
    return of_them.group_by("oid").len().filter(pl.col("len") == len(names))["oid"]


def _earliest(rows: pa.Table) -> pa.Table:
    """One row an object and catalogue, that of the smallest candid: alerts of an object may meet in several workers."""
    keys = pl.DataFrame(rows.select(["oid", "catalog", "candid"])).with_row_index("at")
    keys = keys.with_columns(place=sky.places(*(rows[name] for name in ("oid", "candid", "ra", "dec"))))
    first = keys.sort("candid").unique(["oid", "catalog", "place"], keep="first", maintain_order=True)
    return rows.take(first["at"].to_arrow())


def _rows(pieces: pa.Table, kind: str) -> pa.Table:
    packed = pieces.filter(pc.equal(pieces["kind"], kind))["data"]
    return pa.concat_tables([_SCHEMAS[kind].empty_table(), *(unpack(data) for data in packed)])


def _counted(rows: pa.Table) -> tuple[dict[str, int], dict[str, int]]:
    """Rows, and rows with a source, by catalogue."""
    counted = pl.DataFrame(rows.select(["catalog", "separation"])).group_by("catalog")
    told = counted.agg(pl.len(), found=pl.col("separation").count()).sort("catalog")
    names = told["catalog"].to_list()
    return dict(zip(names, told["len"].to_list(), strict=True)), dict(zip(names, told["found"].to_list(), strict=True))


def _handler(application: Application) -> Handler:
    spark, settings = application.spark, application.settings
    tables = settings.crossmatch.cds_tables if settings.crossmatch.cds else {}
    service = None
    if tables:
        from alerce_spark.crossmatch.cds import Asynchronous, Cds  # noqa: PLC0415 (half a second)

        columns = published.load(conf_dir() / "catalogs.toml", surveys.get(settings.survey))
        wait, url = settings.crossmatch.cds_timeout_s, settings.crossmatch.cds_url
        service = Asynchronous(Cds(tables, columns, timeout_s=wait, url=url))
        application.closing.callback(service.close)
    lake, survey = settings.lake.path, settings.survey
    return Crossmatch(spark, lake, survey, application.check_lease, service, tuple(tables)).process


QUERY = Query(
    name="crossmatch",
    purpose="what other catalogues have where an object is",
    interval_s=30.0,
    max_messages=8000,
    tables=(_TABLE,),
    handle=_handler,
)
