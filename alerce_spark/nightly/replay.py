"""Replay: process the packets of a night again, with today's code and the current models or those of a given version.

A replay writes a separate lake, so that the stored tables do not change and both can be compared. The lake holds the
night's packets from the Avro repository, and from the stored lake the history of their objects: detections, upper
limits and forced photometry from before the night, and neighbours in catalogues. That history is today's, even where it
arrived after the night; everything from the night on comes from the packets alone. So an object is classified at its
last alert of the night, from everything observed by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial

import polars as pl
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from alerce_spark import sky, surveys
from alerce_spark.alerts.avro import decode
from alerce_spark.classifiers import lightcurve, outliers
from alerce_spark.classifiers.stamp import StampModel
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, OUTLIER, STAMP
from alerce_spark.config import ArchiveSettings, Settings
from alerce_spark.errors import InputError, LakeError
from alerce_spark.lake import catalogs, lookup, models, write
from alerce_spark.lake.handles import healpix_order, is_made
from alerce_spark.lake.tables import TABLES, ddl_of
from alerce_spark.lease import Lease
from alerce_spark.location import lake_path
from alerce_spark.nightly.comparison import Comparison, classes, compare
from alerce_spark.nightly.nights import begin_of
from alerce_spark.repository import absolute, open_repository
from alerce_spark.streaming.queries import writers
from alerce_spark.streaming.queries.crossmatch import match_objects
from alerce_spark.streaming.queries.lightcurves import of_stored
from alerce_spark.streaming.queries.photometry import Photometry, Summary
from alerce_spark.streaming.queries.results import Results
from alerce_spark.streaming.queries.stamps import stamps
from alerce_spark.streaming.sink import as_packets
from alerce_spark.streaming.source import PACKETS
from alerce_spark.worker import map_in_workers

#: Packets of one batch: half a gigabyte for ZTF.
_BATCH = 8000
#: Packets that a worker reads together.
_READ = 200
#: Objects whose history a worker copies together: a hundred megabytes of rows.
_SLICE_OBJECTS = 1000
#: Tables with the history of an object before the night.
_HISTORY = ("detections", "non_detections", "forced_photometry", "xmatch")
_MJD_EPOCH = date(1858, 11, 17)

_ALERTS = pa.schema(
    [
        pa.field("oid", pa.string()),
        pa.field("candid", pa.int64()),
        pa.field("mjd", pa.float64()),
        pa.field("ra", pa.float64()),
        pa.field("dec", pa.float64()),
    ]
)
_CHANGES = pa.schema([pa.field("kind", pa.string()), pa.field("change", pa.binary())])

#: Loaders of the models that ship with the package.
_LOADERS: dict[str, Callable[..., models.Versioned]] = {
    LIGHTCURVE: lightcurve.load,
    OUTLIER: outliers.load,
    STAMP: StampModel.load,
}


@dataclass(frozen=True)
class Model:
    """A model that a replay uses: its version, and its registered file (None: the one that ships with the package)."""

    version: str
    entry: models.Entry | None


def chosen_models(lake: str, wanted: Sequence[str] = ()) -> dict[str, Model]:
    """The model of each classifier that has one: that of `wanted`, else the current one.

    wanted: "VERSION", which exactly one classifier must have, or "CLASSIFIER=VERSION". The outlier model is that of the
    light-curve classifier's version, unless `wanted` names another. Raises LakeError for an unknown version or
    classifier, and for a version that several classifiers have.
    """
    chosen, known = {}, {}
    for classifier in sorted({*_LOADERS, *models.listing(lake)["classifier"].to_pylist()}):
        shipped = _shipped(classifier)
        known[classifier] = shipped | _registered(lake, classifier)
        entry = models.current(lake, classifier)
        for version in [entry.version] if entry is not None else shipped:
            chosen[classifier] = known[classifier][version]
    for text in wanted:
        name, _, version = text.rpartition("=")
        having = [c for c in known if version in known[c] and (name == c or (not name and c != OUTLIER))]
        if len(having) != 1:
            there = "; ".join(f"{c}: {', '.join(versions)}" for c, versions in known.items())
            said = f"several classifiers have {version!r}: say which" if having else f"no model {text!r}"
            raise LakeError(f"{said}, as CLASSIFIER=VERSION. There are {there}")
        chosen[having[0]] = known[having[0]][version]
        if having == [LIGHTCURVE] and not any(text.startswith(f"{OUTLIER}=") for text in wanted):
            if version in known[OUTLIER]:
                chosen[OUTLIER] = known[OUTLIER][version]
            else:
                chosen.pop(OUTLIER, None)
    return chosen


def folder(lake: str, night: str, chosen: Mapping[str, Model], wanted: Sequence[str] = ()) -> str:
    """Default folder of a replay: named by night and wanted versions, else by the light-curve classifier's version."""
    versions = [text.rpartition("=")[2] for text in wanted] or [chosen[LIGHTCURVE].version]
    return f"{lake}/replays/{'-'.join([night, *versions])}"


def replay(
    spark: SparkSession,
    settings: Settings,
    night: str,
    *,
    wanted: Sequence[str] = (),
    into: str | None = None,
    progress: Callable[[int, int, Summary], None] = lambda done, packets, summary: None,
) -> Comparison:
    """Run the packets of `night` (YYYYMMDD) into a new lake `into` (default: `folder`), and compare the classes.

    Only reads the stored lake and the repository, so it is safe beside a running stream. `wanted` as for
    `chosen_models`; `progress` is called after each batch with packets done, packets in all, and what the batch did.
    Raises InputError for a night that is no date or is not in the repository, LakeError for an unknown model and where
    `into` is a lake already, RepositoryError.
    """
    begin = (begin_of(night).date() - _MJD_EPOCH).days
    lake, archive, survey = settings.lake.path, absolute(settings.archive), settings.survey
    chosen = chosen_models(lake, wanted)
    target = lake_path(into) if into is not None else folder(lake, night, chosen, wanted)
    if is_made(target, "objects"):
        raise LakeError(f"{target} is a lake, of an earlier replay perhaps: delete it or choose another with --into")
    keys = list(open_repository(archive).keys(f"{survey}/{night}/"))
    if not keys:
        raise InputError(f"{settings.archive.url} has no packet of {survey} and the night {night}: nothing to replay")
    with Lease(target, "alerce-spark replay", settings.lake.lease_timeout_s, writers()) as lease:
        write.create(target, healpix_order(lake), sync=settings.lake.sync)
        _install(lake, target, chosen)
        job = _Job(spark, lake, target, survey, begin, lease.check)
        total, alerts = job.run(keys, archive, progress)
        at = spark.createDataFrame(_placed(alerts, healpix_order(lake)))
        found, new = compare(classes(spark, lake, at), classes(spark, target, at))
    versions = {name: model.version for name, model in chosen.items()}
    return Comparison(night, lake, target, versions, len(keys), total.refused, len(total.objects), found, new)


@dataclass(frozen=True)
class _Job:
    spark: SparkSession
    lake: str
    into: str
    survey: str
    begin: int  # of the night, mjd
    check_lease: Callable[[], None]

    def run(
        self, keys: list[str], archive: ArchiveSettings, progress: Callable[[int, int, Summary], None]
    ) -> tuple[Summary, pl.DataFrame]:
        """Process packets up to classes; return the summary, and the alerts (_ALERTS)."""
        slices = self.spark.sparkContext.defaultParallelism
        photometry = Photometry(self.spark, self.into, self.survey, slices, self.check_lease)
        results = Results(self.spark, self.into, self.survey, self.check_lease)
        total, alerts = Summary(0, 0, {}, {}), [pl.DataFrame(_ALERTS.empty_table())]
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            packets = self._packets(batch, archive, slices).persist(StorageLevel.DISK_ONLY)
            try:
                alerts.append(pl.DataFrame(map_in_workers(packets, _alerts(self.survey), ddl_of(_ALERTS)).toArrow()))
                self._copy_history(alerts[-1].join(total.objects, "oid", "anti"), slices)
                summary = photometry.process(packets)
                results.process(as_packets(stamps(packets, self.into, self.survey, None)))
            finally:
                packets.unpersist()
            total = total.plus(summary)
            progress(start + len(batch), len(keys), summary)
        if len(total.objects):
            self._match_catalogs()
            objects = self.spark.createDataFrame(total.objects.to_arrow()).repartition(slices)
            results.process(as_packets(of_stored(objects, self.into, self.survey)))
        return total, pl.concat(alerts)

    def _packets(self, keys: list[str], archive: ArchiveSettings, slices: int) -> DataFrame:
        listed = self.spark.createDataFrame(pa.table({"key": keys})).repartition(min(slices, len(keys)))
        return map_in_workers(listed, _reader(archive), PACKETS)

    def _copy_history(self, alerts: pl.DataFrame, slices: int) -> None:
        """Copy the stored history before the night of the objects of these alerts."""
        if alerts.is_empty():
            return
        objects = alerts.unique("oid").select("oid", "ra", "dec")
        objects = objects[pl.Series(sky.healpix(objects["ra"], objects["dec"])).arg_sort()]
        number = pl.int_range(pl.len(), dtype=pl.Int32) // _SLICE_OBJECTS
        placed = self.spark.createDataFrame(objects.with_columns(slice=number).to_arrow())
        met = placed.repartitionById(max(1, -(-len(objects) // _SLICE_OBJECTS)), "slice").select("oid", "ra", "dec")
        made = map_in_workers(met, _copier(self.lake, self.into, self.begin), ddl_of(_CHANGES)).toArrow().to_pylist()
        for table, version in lookup.versions(self.into, _HISTORY).items():
            parts = [write.unpacked(change["change"]) for change in made if change["kind"] == table]
            if parts:
                self.check_lease()
                write.commit(self.into, table, version, write.joined(parts))

    def _match_catalogs(self) -> None:
        """Match objects without a stored attempt with the catalogues of the stored lake."""
        for catalog in catalogs.imported(self.lake):
            ask = partial(catalogs.match, self.lake, catalog.name)
            for _ in match_objects(self.into, self.survey, catalog.name, ask, self.check_lease):
                pass


def _shipped(classifier: str) -> dict[str, Model]:
    """The model that ships with the package, by its version."""
    file = models.bootstrap(classifier) if classifier in _LOADERS else None
    if file is None:
        return {}
    version = _LOADERS[classifier](file).version
    return {version: Model(version, None)}


def _registered(lake: str, classifier: str) -> dict[str, Model]:
    rows = models.listing(lake, classifier).to_pylist()
    entries = [models.Entry(**{**row, "metrics": dict(row["metrics"] or {})}) for row in rows]
    return {entry.version: Model(entry.version, entry) for entry in entries}


def _install(lake: str, into: str, chosen: Mapping[str, Model]) -> None:
    """Make the chosen models current in the replay's lake."""
    for classifier, model in chosen.items():
        if model.entry is not None:
            with models.fetched(lake, model.entry) as file:
                models.register(
                    into,
                    classifier,
                    model.version,
                    file,
                    training_set=model.entry.training_set,
                    metrics=model.entry.metrics,
                    state=models.CURRENT,
                )


def _reader(archive: ArchiveSettings) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        repository = open_repository(archive)
        with ThreadPoolExecutor(archive.connections) as pool:
            for batch in batches:
                keys = batch.column("key").to_pylist()
                for start in range(0, len(keys), _READ):
                    some = keys[start : start + _READ]
                    yield _as_packets(some, list(pool.map(repository.get, some)))

    return read


def _as_packets(keys: list[str], packets: list[bytes]) -> pa.RecordBatch:
    size = len(keys)
    columns = {
        "packet": pa.array(packets, pa.binary()),
        "source": pa.array(keys, pa.string()),
        "partition": pa.nulls(size, pa.int32()),
        "offset": pa.nulls(size, pa.int64()),
        "received": pa.nulls(size, pa.timestamp("us", tz="UTC")),
    }
    return pa.RecordBatch.from_pydict(columns)


def _alerts(survey: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def read_alerts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            alerts = decode(batch.column("packet"), surveys.get(survey)).alerts
            found = alerts.select(["objectId", *_ALERTS.names[1:]])
            yield from found.rename_columns(_ALERTS.names).cast(_ALERTS).to_batches()

    return read_alerts


def _copier(lake: str, into: str, begin: int) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def copy(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        met = list(batches)
        if not met:
            return
        objects = pl.DataFrame(pa.Table.from_batches(met))
        for table in _HISTORY:
            names = TABLES[table].names
            rows = lookup.read_near(lake, table, names, objects["oid"], objects["ra"], objects["dec"])
            rows = rows.filter(pl.col("mjd") < begin) if "mjd" in names else rows
            if len(rows):
                change = write.append(into, table, rows.to_arrow().cast(TABLES[table].arrow))
                yield pa.RecordBatch.from_pydict({"kind": [table], "change": [write.packed(change)]}, schema=_CHANGES)

    return copy


def _placed(alerts: pl.DataFrame, order: int) -> pa.Table:
    """Alerts with the partition of their position: oid, candid, mjd, pixel."""
    pixel = pl.Series("pixel", sky.healpix(alerts["ra"], alerts["dec"], order), pl.Int32)
    return alerts.select("oid", "candid", "mjd").with_columns(pixel).unique(["oid", "candid"]).to_arrow()
