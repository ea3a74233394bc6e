"""Local catalogues: Delta tables `<lake>/catalogs/<name>`, made from files in one pass, matched by reading little.

A table is partitioned by `pixel`, of an order that suits its size, and sorted by `healpix29` with small row groups. Its
settings lie in its schema, so that rows and settings are replaced together. A match reads the row groups that the discs
around the positions touch, wherever pixels end: a margin is read where one is needed and nothing is stored twice.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import healpy
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, RemoveAction
from numpy.typing import ArrayLike, NDArray
from pyarrow import fs
from pydantic import BaseModel, ConfigDict

from alerce_spark import sky
from alerce_spark.crossmatch import files
from alerce_spark.crossmatch.catalogs import LARGEST_RADIUS, Catalog
from alerce_spark.crossmatch.files import Counts
from alerce_spark.crossmatch.match import Motion, motion_margin, nearest, within
from alerce_spark.crossmatch.rows import ATTEMPTS, attempts, numbers
from alerce_spark.lake import lookup
from alerce_spark.lake.kept import parquet_file
from alerce_spark.lake.storage import LakeError, filesystem, storage_options
from alerce_spark.lake.tables import TABLES
from alerce_spark.places import lake_path

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: The catalogue whose colours are features, and how far a source may be from its object [arcsec].
WISE, WISE_RADIUS = "allwise", 1.0
_WISE_COLUMNS = ("w1mpro", "w2mpro", "w3mpro", "w4mpro")

#: Key of the settings in the metadata of the column source_id.
_SETTINGS = "alerce.catalog"
#: Rows of a partition in the mean, of a file, and of a row group: what one object costs is a row group.
_PARTITION_ROWS = 200_000
_FILE_ROWS = 1_000_000
_GROUP_ROWS = 2048
_RUN_ROWS = 2_000_000  # sorted at a time
_HIGHEST_ORDER = 4
_FILES = 256  # whose bounds of row groups are kept for the next look
_COUNT_ORDER = 8  # pixels that files are cut at, 14 arcmin
#: Objects that are matched at a time, neighbours on the sky.
_SLICE = 50_000
_RETENTION_HOURS = 24

_MARGIN_ORDER = 12  # of the cells that discs are narrowed to, 51 arcsec, while they are larger than four radii
_ABSENT_S = 10.0  # a catalogue that was not there is looked for again after so many seconds

REPEATED = "given twice"


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    name: str
    rows: int
    order: int
    counts: Counts


class Local(BaseModel):
    """An imported catalogue: its settings, order of its partitions, rows, and its largest proper motion [mas/yr]."""

    model_config = ConfigDict(frozen=True)

    name: str
    settings: Catalog
    order: int
    rows: int
    fastest: float


def import_catalog(
    lake: str, name: str, settings: Catalog, paths: Sequence[Path], scratch: Path | None = None
) -> Imported:
    """Make or replace a catalogue from files (`crossmatch/files.py`); readers see the old rows or the new ones.

    Rows are sorted on disk, in `scratch` (default: the system's folder of temporary files), so memory is bounded.
    Raises TableFileError for files that cannot be read, LakeError where they have no good row; then nothing changes.
    """
    counts = Counts()
    with tempfile.TemporaryDirectory(prefix=f"alerce-{name}-", dir=scratch) as folder:
        runs, cells = _sorted_runs(Path(folder), settings, paths, counts)
        total = int(cells.sum())
        if not total:
            raise LakeError(f"no row of {', '.join(map(str, paths))} can be used ({counts})")
        order = min(_HIGHEST_ORDER, max(0, math.ceil(math.log(total / (12 * _PARTITION_ROWS), 4))))
        root = filesystem(_path(lake, name), storage_options(lake))
        added: list[AddAction | RemoveAction] = []
        rows, fastest = 0, 0.0
        for part in _merged(runs, cells, order, counts):
            added.append(_put(root, part, order))
            rows += part.num_rows
            if settings.moves:
                speed = np.hypot(_floats(part["pmra"]), _floats(part["pmdec"]))
                fastest = max(fastest, float(np.nan_to_num(speed).max()))
        _commit(lake, Local(name=name, settings=settings, order=order, rows=rows, fastest=fastest), added)
    _absent.pop((lake, name), None)
    return Imported(name, rows, order, counts)


def _sorted_runs(folder: Path, settings: Catalog, paths: Sequence[Path], counts: Counts) -> tuple[list[pa.Table], Ints]:
    """Good rows of files as tables sorted by `healpix29` that lie on disk, and rows of each pixel of _COUNT_ORDER."""
    cells = np.zeros(12 << 2 * _COUNT_ORDER, np.int64)
    runs: list[pa.Table] = []
    for rows in _gathered(files.rows(settings, paths, counts)):
        ordered = rows.sort_by([("healpix29", "ascending"), ("source_id", "ascending")]).combine_chunks()
        cells += np.bincount(sky.parent(ordered["healpix29"], _COUNT_ORDER), minlength=cells.size)
        file = folder / f"{len(runs)}.arrow"
        with pa.ipc.new_file(str(file), ordered.schema) as writer:
            writer.write_table(ordered)
        runs.append(pa.ipc.open_file(pa.memory_map(str(file))).read_all())
    return runs, cells


def _gathered(chunks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Chunks put together to tables of about _RUN_ROWS."""
    kept: list[pa.Table] = []
    for chunk in chunks:
        kept.append(chunk)
        if sum(map(len, kept)) >= _RUN_ROWS:
            yield pa.concat_tables(kept)
            kept = []
    if kept:
        yield pa.concat_tables(kept)


def _merged(runs: list[pa.Table], cells: Ints, order: int, counts: Counts) -> Iterator[pa.Table]:
    """Rows of all runs in order of `healpix29`, in tables of one partition and about _FILE_ROWS; no row twice."""
    indices = [run["healpix29"].to_numpy() for run in runs]
    per_pixel = 1 << 2 * (_COUNT_ORDER - order)
    before = np.concatenate([[0], np.cumsum(cells)])
    start = 0
    while start < cells.size:
        # As many cells as make a file, not beyond the partition.
        stop = int(np.searchsorted(before, before[start] + _FILE_ROWS, side="right")) - 1
        stop = min(max(stop, start + 1), (start // per_pixel + 1) * per_pixel)
        if before[stop] > before[start]:
            low, high = (int(sky.index_range(cell, _COUNT_ORDER)[0]) for cell in (start, stop))
            cuts = [np.searchsorted(index, [low, high]) for index in indices]
            parts = [run.slice(a, b - a) for run, (a, b) in zip(runs, cuts, strict=True)]
            rows = pa.concat_tables(parts).sort_by([("healpix29", "ascending"), ("source_id", "ascending")])
            same = [pc.equal(rows[name][1:], rows[name][:-1]) for name in ("healpix29", "source_id")]
            again = np.concatenate([[False], pc.and_(*same).to_numpy()])
            counts.bad[REPEATED] += int(again.sum())
            yield rows.filter(pa.array(~again))
        start = stop


def _put(root: fs.FileSystem, rows: pa.Table, order: int) -> AddAction:
    """Write one file of a partition; it is no part of the table until it is committed."""
    index = rows["healpix29"]
    pixel = int(sky.parent(index[0].as_py(), order))
    root.create_dir(f"pixel={pixel}")
    path = f"pixel={pixel}/part-{uuid4()}.parquet"
    pq.write_table(
        rows,
        path,
        filesystem=root,
        row_group_size=_GROUP_ROWS,
        write_statistics=["healpix29", "ra", "dec"],
        store_schema=False,
    )
    bounds = {"minValues": {"healpix29": index[0].as_py()}, "maxValues": {"healpix29": index[-1].as_py()}}
    return AddAction(
        path=path,
        size=root.get_file_info(path).size,
        partition_values={"pixel": str(pixel)},
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": rows.num_rows, **bounds, "nullCount": {"healpix29": 0}}),
    )


def _commit(lake: str, catalog: Local, added: list[AddAction | RemoveAction]) -> None:
    """Replace rows, columns and settings in one version of the log; older files go a day later."""
    path, options = _path(lake, catalog.name), storage_options(lake)
    schema = _delta_schema(catalog)
    if not DeltaTable.is_deltatable(path, options):
        DeltaTable.create(
            path,
            schema,
            name=catalog.name,
            description=catalog.settings.title,
            partition_by=["pixel"],
            configuration={"delta.deletedFileRetentionDuration": "interval 1 days"},
            storage_options=options,
        )
    handle = DeltaTable(path, storage_options=options)
    handle.create_write_transaction(added, "overwrite", schema, ["pixel"])
    handle.vacuum(_RETENTION_HOURS, dry_run=False, enforce_retention_duration=False, full=True)


def _delta_schema(catalog: Local) -> Schema:
    """Columns with their units; the catalogue's settings are kept with source_id."""
    fields = [_field("pixel", "integer", False, {"comment": f"HEALPix pixel of order {catalog.order}"})]
    kinds = {pa.int64(): "long", pa.float64(): "double", pa.string(): "string"}
    for column in files.schema(catalog.settings):
        unit = (column.metadata or {}).get(b"unit", b"").decode()
        metadata = {"comment": f"[{unit}]"} if unit else {}
        if column.name == "source_id":
            metadata |= {"comment": "Source", _SETTINGS: catalog.model_dump_json()}
        fields.append(_field(column.name, kinds[column.type], column.nullable, metadata))
    return Schema(fields)


def _field(name: str, kind: str, nullable: bool, metadata: dict[str, str]) -> Field:
    return Field(name, PrimitiveType(kind), nullable=nullable, metadata=metadata)


def local(lake: str, name: str) -> Local | None:
    """The catalogue if it is imported."""
    opened = _opened(lake, name)
    return None if opened is None else opened.local


def imported(lake: str) -> list[Local]:
    """Every imported catalogue, by name."""
    root = filesystem(_path(lake, ""), storage_options(lake))
    found = root.get_file_info(fs.FileSelector("", allow_not_found=True))
    names = sorted(info.base_name for info in found if info.type == fs.FileType.Directory)
    return [catalog for name in names if (catalog := local(lake, name)) is not None]


def match(
    lake: str,
    name: str,
    ra: ArrayLike,
    dec: ArrayLike,
    mjd: ArrayLike,
    radius: float | None = None,
    every: bool = False,
) -> pa.Table:
    """Nearest source of a catalogue to each position [deg] at the time `mjd`: one row of ATTEMPTS for each, in order.

    radius: arcsec; default: that of the catalogue. Of sources at the same distance the one with the smaller id is
    taken. With `every` a row for each source within the radius, the nearest first. Few positions read little; many are
    taken in pieces that lie together on the sky, so memory is bounded. Raises LakeError where the catalogue is not
    imported or the radius is none.
    """
    if radius is not None:
        check_radius(radius)
    ra, dec, mjd = (np.atleast_1d(np.asarray(x, float)) for x in (ra, dec, mjd))
    # Files of a catalogue that is replaced may go while they are read: then it is opened again, once.
    try:
        return _match(_needed(lake, name), ra, dec, mjd, radius, every)
    except (OSError, DeltaError):
        _tables.pop((lake, name), None)
        return _match(_needed(lake, name), ra, dec, mjd, radius, every)


def check_radius(radius: float) -> None:
    """Raises LakeError for a radius that no match can have [arcsec]."""
    if not 0 < radius <= LARGEST_RADIUS:
        raise LakeError(f"a match radius lies above 0 and up to {LARGEST_RADIUS:g} arcsec, not {radius}")


def sources(lake: str, name: str, ra: float, dec: float, radius: float) -> pl.DataFrame:
    """Sources of a catalogue within `radius` arcsec of a position [deg], the nearest first, not moved in time.

    Columns source_id, ra, dec [deg], proper motions and attributes if it has some, separation [arcsec]. Raises
    LakeError where the catalogue is not imported.
    """
    opened = _needed(lake, name)
    rows = opened.read(_ranges(np.array([ra]), np.array([dec]), radius))
    found = within(ra, dec, rows["ra"].to_numpy(), rows["dec"].to_numpy(), radius, ids=rows["source_id"])
    frame = pl.DataFrame(rows.take(pa.array(found.source)))
    chosen = frame.select("source_id", "ra", "dec", *opened.attributes)
    return chosen.with_columns(separation=pl.Series(found.separation, dtype=pl.Float64))


def everything(lake: str, name: str) -> pl.DataFrame:
    """Every source of a catalogue, in no order: source_id, ra, dec [deg], proper motions and attributes.

    Raises LakeError where the catalogue is not imported.
    """
    opened = _needed(lake, name)
    rows = opened.read(np.array([[0, np.iinfo(np.int64).max]]))
    return pl.DataFrame(rows).select("source_id", "ra", "dec", *opened.attributes)


def columns(catalog: Local, found: pa.Table) -> pl.DataFrame:
    """Attributes of attempts on a catalogue, a column each: numbers, or text."""
    maps = found["attributes"].combine_chunks()
    kinds = {name: a.type for name, a in catalog.settings.attributes.items()}
    kinds |= dict.fromkeys(("pmra", "pmdec"), "number") if catalog.settings.moves else {}
    texts = {name: pl.Series(pc.map_lookup(maps, pa.scalar(name), "first"), dtype=pl.String) for name in kinds}
    return pl.DataFrame({n: t.cast(pl.Float64) if kinds[n] == "number" else t for n, t in texts.items()})


def wise(lake: str, objects: pl.DataFrame) -> pa.Table | None:
    """AllWISE magnitudes of objects (columns oid, ra, dec [deg], mjd), as `features.select` takes them.

    Columns oid, w1mpro … w4mpro [mag], one row for each object with a source within 1 arcsec; None where there is none.
    From the catalogue if it is imported, else from the table xmatch, which may have it from a service.
    """
    if objects.is_empty():
        return None
    if _opened(lake, WISE) is not None:
        found = match(lake, WISE, objects["ra"], objects["dec"], objects["mjd"], WISE_RADIUS)
        found = found.filter(found["separation"].is_valid())
        oid, attributes = objects["oid"][found["row"].to_numpy()].to_arrow(), found["attributes"]
    else:
        rows = _stored_wise(lake, objects)
        oid, attributes = rows["oid"], rows["attributes"]
    if not len(oid):
        return None
    values = numbers(attributes.combine_chunks(), _WISE_COLUMNS)
    return pa.table({"oid": oid, **dict(zip(_WISE_COLUMNS, values, strict=True))})


def _stored_wise(lake: str, objects: pl.DataFrame) -> pa.Table:
    """Matches with AllWISE that the table xmatch has: oid, attributes."""
    # The attributes of all catalogues are large: first see whether there is anything to read them for.
    columns = ["oid", "catalog", "separation"]
    attempted = lookup.read_near(lake, "xmatch", columns, objects["oid"], objects["ra"], objects["dec"])
    matched = attempted.filter((pl.col("catalog") == WISE) & (pl.col("separation") <= WISE_RADIUS))["oid"]
    objects = objects.filter(pl.col("oid").is_in(matched.implode()))
    schema = pa.schema([TABLES["xmatch"].arrow.field(name) for name in ("oid", "catalog", "attributes")])
    if matched.is_empty():
        return schema.empty_table()
    rows = lookup.read_near(lake, "xmatch", schema.names, objects["oid"], objects["ra"], objects["dec"])
    return rows.filter(pl.col("catalog") == WISE).to_arrow().cast(schema)


def _match(opened: _Open, ra: Floats, dec: Floats, mjd: Floats, radius: float | None, every: bool) -> pa.Table:
    settings = opened.local.settings
    radius = settings.radius if radius is None else radius
    is_placed = np.isfinite(ra) & (np.abs(dec) <= 90)
    placed = np.flatnonzero(is_placed)
    placed = placed[np.argsort(sky.healpix(ra[placed], dec[placed]), kind="stable")]
    parts = [ATTEMPTS.empty_table(), _without_source(opened, radius, np.flatnonzero(~is_placed))]
    for start in range(0, placed.size, _SLICE):
        rows = placed[start : start + _SLICE]
        reach = radius
        if settings.epoch is not None and settings.moves:
            reach += motion_margin(opened.local.fastest, settings.epoch, mjd[rows])
        sources = opened.read(_ranges(ra[rows], dec[rows], reach))
        row, source, separation = _pairs(settings, sources, ra[rows], dec[rows], mjd[rows], radius, every)
        parts.append(_found(opened, radius, rows[row], sources, source, separation))
        parts.append(_without_source(opened, radius, np.setdiff1d(rows, rows[row])))
    return pa.concat_tables(parts).sort_by(
        [("row", "ascending"), ("separation", "ascending"), ("source_id", "ascending")]
    )


def _pairs(
    settings: Catalog, sources: pa.Table, ra: Floats, dec: Floats, mjd: Floats, radius: float, every: bool
) -> tuple[Ints, Ints, Floats]:
    """Rows of positions, of their sources, and separations [arcsec]."""
    there = sources["ra"].to_numpy(), sources["dec"].to_numpy()
    ids = sources["source_id"]
    motion = None
    if settings.epoch is not None and settings.moves:
        motion = Motion(_floats(sources["pmra"]), _floats(sources["pmdec"]), settings.epoch, mjd)
    if every:
        found = within(ra, dec, *there, radius, ids=ids, motion=motion)
        return found.row, found.source, found.separation
    source, separation = nearest(ra, dec, *there, radius, ids=ids, motion=motion)
    row = np.flatnonzero(source >= 0)
    return row, source[row], separation[row]


def _found(opened: _Open, radius: float, row: Ints, sources: pa.Table, source: Ints, separation: Floats) -> pa.Table:
    taken = sources.take(pa.array(source))
    columns = {name: taken[name].combine_chunks() for name in opened.attributes}
    return attempts(row, opened.local.name, radius, taken["source_id"].combine_chunks(), separation, columns)


def _without_source(opened: _Open, radius: float, row: Ints) -> pa.Table:
    return attempts(row, opened.local.name, radius, pa.nulls(row.size), np.full(row.size, np.nan), {})


def _ranges(ra: Floats, dec: Floats, reach: float) -> Ints:
    """Ranges of `healpix29` that cover the discs of `reach` arcsec: (n, 2), disjoint, ascending, half-open."""
    order = min(_MARGIN_ORDER, int(math.log2(math.degrees(healpy.nside2resol(1)) * 3600 / (4 * reach))))
    cells = sky.near_pixels(ra, dec, order, reach)
    ends = np.flatnonzero(np.diff(cells) > 1)
    begin, _ = sky.index_range(cells[np.r_[0, ends + 1]], order)
    _, end = sky.index_range(cells[np.r_[ends, cells.size - 1]], order)
    return np.stack([begin, end], axis=1)


class _Open:
    """An open catalogue at the version where its handle stands."""

    def __init__(self, handle: DeltaTable, root: fs.FileSystem, catalog: Local) -> None:
        self.local = catalog
        self.attributes = [*catalog.settings.attributes, *(("pmra", "pmdec") if catalog.settings.moves else ())]
        self._handle, self._root = handle, root
        self._version = handle.version()
        listed = pl.DataFrame(handle.get_add_actions(flatten=True)).sort("min.healpix29")
        self._paths = listed["path"].to_list()
        self._first, self._last = (listed[f"{bound}.healpix29"].to_numpy() for bound in ("min", "max"))
        self._groups = lru_cache(maxsize=_FILES)(self._read_groups)

    @property
    def is_current(self) -> bool:
        """Whether the table has no newer version."""
        self._handle.update_incremental()
        return bool(self._handle.version() == self._version)

    def read(self, ranges: Ints) -> pa.Table:
        """Every row in the ranges of `healpix29`, and others of their row groups."""
        schema = files.schema(self.local.settings).remove_metadata()
        names = [name for name in schema.names if name != "healpix29"]
        found = [schema.empty_table().select(names)]
        for k in np.flatnonzero(_touch(self._first, self._last, ranges)):
            groups = np.flatnonzero(_touch(*self._groups(self._paths[k]), ranges))
            if groups.size:
                with self._file(self._paths[k]) as file:
                    table = file.read_row_groups(groups.tolist(), names, use_threads=False)
                found.append(table.cast(found[0].schema))
        return pa.concat_tables(found)

    def _file(self, path: str) -> pq.ParquetFile:
        return parquet_file(self._handle.table_uri, path, self._root)

    def _read_groups(self, path: str) -> tuple[Ints, Ints]:
        """First and last `healpix29` of each row group of a file."""
        with self._file(path) as file:
            metadata = file.metadata
        column = metadata.schema.names.index("healpix29")
        bounds = [metadata.row_group(k).column(column).statistics for k in range(metadata.num_row_groups)]
        return np.array([b.min for b in bounds], np.int64), np.array([b.max for b in bounds], np.int64)


def _touch(first: Ints, last: Ints, ranges: Ints) -> NDArray[np.bool_]:
    """Which intervals [first, last] meet any of the half-open, disjoint, ascending ranges."""
    return np.searchsorted(ranges[:, 0], last, side="right") > np.searchsorted(ranges[:, 1], first, side="right")


_tables: dict[tuple[str, str], _Open] = {}
_absent: dict[tuple[str, str], float] = {}


def _opened(lake: str, name: str) -> _Open | None:
    """The catalogue at its newest version; None where it is not imported."""
    known = _tables.get((lake, name))
    if known is not None and known.is_current:
        return known
    if known is None and time.monotonic() < _absent.get((lake, name), 0.0):
        return None
    path, options = _path(lake, name), storage_options(lake)
    if DeltaTable.is_deltatable(path, options):
        handle = DeltaTable(path, storage_options=options)
        found = _settings_of(handle)
        if found is not None:
            _tables[lake, name] = _Open(handle, filesystem(path, options), found)
            return _tables[lake, name]
    _absent[lake, name] = time.monotonic() + _ABSENT_S
    return None


def _needed(lake: str, name: str) -> _Open:
    opened = _opened(lake, name)
    if opened is None:
        raise LakeError(f"no catalogue {name} in {lake}; import it with: alerce-spark catalog import {name} FILE…")
    return opened


def _settings_of(handle: DeltaTable) -> Local | None:
    for field in handle.schema().fields:
        if _SETTINGS in field.metadata:
            return Local.model_validate_json(field.metadata[_SETTINGS])
    return None


def _path(lake: str, name: str) -> str:
    return f"{lake_path(lake).replace('s3a://', 's3://', 1)}/catalogs/{name}"


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.fill_null(np.nan).to_numpy())
