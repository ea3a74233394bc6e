"""Local catalogues: Delta tables `<lake>/catalogs/<name>`, made from files in one pass, matched by reading little.

A table is partitioned by `pixel`, of an order that suits its size, and sorted by `healpix29` with small row groups. Its
settings are in its schema, so that rows and settings are replaced together. A match reads the row groups that the discs
around the positions touch, across the borders of pixels, so no margin needs to be stored twice.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import healpy
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

from alerce_spark import delta, sky
from alerce_spark.crossmatch import files
from alerce_spark.crossmatch.catalogs import LARGEST_RADIUS, Catalog
from alerce_spark.crossmatch.files import Counts
from alerce_spark.crossmatch.match import Motion, motion_margin, nearest, within
from alerce_spark.crossmatch.rows import ATTEMPTS, attempts, numbers
from alerce_spark.delta import Action, Change, Definition, File, Metadata, NotMade, Snapshot, Table
from alerce_spark.delta.files import opened, put, reading
from alerce_spark.delta.handles import vacuum
from alerce_spark.errors import LakeError
from alerce_spark.lake import lookup
from alerce_spark.lake.handles import INDEX
from alerce_spark.lake.tables import TABLES
from alerce_spark.lake.write import unhindered
from alerce_spark.location import Location, at, lake_path

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: The catalogue whose colours are features, and how far a source may be from its object [arcsec].
WISE, WISE_RADIUS = "allwise", 1.0
_WISE_COLUMNS = ("w1mpro", "w2mpro", "w3mpro", "w4mpro")

#: Key of the settings in the metadata of the column source_id.
_SETTINGS = "alerce.catalog"
#: Columns with statistics of each row group.
_FOOTER = (INDEX, "ra", "dec")
#: Mean rows of a partition, rows of a file, and rows of a row group: a match of one object reads one row group.
_PARTITION_ROWS = 200_000
_FILE_ROWS = 1_000_000
_GROUP_ROWS = 2048
_RUN_ROWS = 2_000_000  # sorted at a time
_HIGHEST_ORDER = 4
_FILES = 256  # whose bounds of row groups are kept for the next look
_COUNT_ORDER = 8  # pixels that files are cut at, 14 arcmin
#: Objects matched at a time, neighbours on the sky.
_SLICE = 50_000
_RETENTION_HOURS = 24

_MARGIN_ORDER = 12  # of the cells that discs are narrowed to, 51 arcsec, while they are larger than four radii
_ABSENT_S = 10.0  # a catalogue that was not there is looked for again after so many seconds

REPEATED = "given twice"


@dataclass(frozen=True)
class Imported:
    """Result of an import."""

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
    """Make or replace a catalogue from files (`crossmatch/files.py`); readers see either the old rows or the new ones.

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
        place = _place(lake, name)
        added: list[Action] = []
        rows, fastest = 0, 0.0
        for part in _merged(runs, cells, order, counts):
            pixel = int(sky.parent(part["healpix29"][0].as_py(), order))
            added.append(put(place, part, {"pixel": str(pixel)}, _FOOTER, _GROUP_ROWS, [INDEX]))
            rows += part.num_rows
            if settings.moves:
                speed = np.hypot(_floats(part["pmra"]), _floats(part["pmdec"]))
                fastest = max(fastest, float(np.nan_to_num(speed).max()))
        _commit(place, Local(name=name, settings=settings, order=order, rows=rows, fastest=fastest), added)
    _absent.pop((lake, name), None)
    return Imported(name, rows, order, counts)


def _sorted_runs(folder: Path, settings: Catalog, paths: Sequence[Path], counts: Counts) -> tuple[list[pa.Table], Ints]:
    """Good rows of files as tables on disk, sorted by `healpix29`, and number of rows in each pixel of _COUNT_ORDER."""
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
    """Chunks combined into tables of about _RUN_ROWS rows."""
    kept: list[pa.Table] = []
    for chunk in chunks:
        kept.append(chunk)
        if sum(map(len, kept)) >= _RUN_ROWS:
            yield pa.concat_tables(kept)
            kept = []
    if kept:
        yield pa.concat_tables(kept)


def _merged(runs: list[pa.Table], cells: Ints, order: int, counts: Counts) -> Iterator[pa.Table]:
    """Rows of all runs in order of `healpix29`, without duplicates, in tables of one partition and about _FILE_ROWS."""
    indices = [run["healpix29"].to_numpy() for run in runs]
    per_pixel = 1 << 2 * (_COUNT_ORDER - order)
    before = np.concatenate([[0], np.cumsum(cells)])
    start = 0
    while start < cells.size:
        # As many cells as fill a file, not beyond the partition.
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


def _commit(place: Location, catalog: Local, added: list[Action]) -> None:
    """Replace rows, columns and settings in one version of the table; old files are deleted a day later."""
    schema = _delta_schema(catalog)
    kept = {"delta.deletedFileRetentionDuration": "interval 1 days"}
    definition = Definition(schema, catalog.settings.title, catalog.name, ["pixel"], kept)
    if not delta.is_made(place):
        delta.create(place, definition, synced=False)
    table = delta.open(place, INDEX)

    def change() -> int:
        now = table.live()
        metadata = Metadata(now.metadata.action | {"schemaString": schema, "partitionColumns": ["pixel"]})
        removed = {path: file.vector for path, file in now.files.items()}
        return table.commit(now.version, Change(added, removed=removed, metadata=metadata), synced=False)

    unhindered(change)
    vacuum(table, _RETENTION_HOURS)


def _delta_schema(catalog: Local) -> str:
    """Columns with their units; the catalogue's settings are kept with source_id."""
    fields = [_field("pixel", "integer", False, {"comment": f"HEALPix pixel of order {catalog.order}"})]
    kinds = {pa.int64(): "long", pa.float64(): "double", pa.string(): "string"}
    for column in files.schema(catalog.settings):
        unit = (column.metadata or {}).get(b"unit", b"").decode()
        metadata = {"comment": f"[{unit}]"} if unit else {}
        if column.name == "source_id":
            metadata |= {"comment": "Source", _SETTINGS: catalog.model_dump_json()}
        fields.append(_field(column.name, kinds[column.type], column.nullable, metadata))
    return json.dumps({"type": "struct", "fields": fields})


def _field(name: str, kind: str, nullable: bool, metadata: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "type": kind, "nullable": nullable, "metadata": metadata}


def local(lake: str, name: str) -> Local | None:
    """The catalogue if it is imported."""
    opened = _opened(lake, name)
    return None if opened is None else opened.local


def imported(lake: str) -> list[Local]:
    """Every imported catalogue, by name."""
    names = at(f"{lake_path(lake)}/catalogs").folders()
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

    radius: arcsec; default: that of the catalogue. Of sources at the same distance the one with the smaller id
    counts. With `every`, one row for each source within the radius, the nearest first. Few positions read little; many
    are matched in groups of neighbours on the sky, so memory is bounded. Raises LakeError where the catalogue is not
    imported or the radius is invalid.
    """
    if radius is not None:
        check_radius(radius)
    ra, dec, mjd = (np.atleast_1d(np.asarray(x, float)) for x in (ra, dec, mjd))
    return _read(lake, name, lambda opened: _match(opened, ra, dec, mjd, radius, every))


def _read(lake: str, name: str, ask: Callable[[_Open], pa.Table]) -> pa.Table:
    """Result of `ask` on an open catalogue; it is opened again, once, where a replacement deleted its files."""
    try:
        return ask(_needed(lake, name))
    except OSError:
        delta.open(_place(lake, name), INDEX).forget()
    try:
        return ask(_needed(lake, name))
    except OSError as error:
        raise LakeError(
            f"the catalogue {name} in {lake} cannot be read: {error}; import it again with: "
            f"alerce-spark catalog import {name} FILE…"
        ) from error


def check_radius(radius: float) -> None:
    """Raise LakeError for a radius [arcsec] outside the limits of a match."""
    if not 0 < radius <= LARGEST_RADIUS:
        raise LakeError(f"a match radius lies above 0 and up to {LARGEST_RADIUS:g} arcsec, not {radius}")


def sources(lake: str, name: str, ra: float, dec: float, radius: float) -> pl.DataFrame:
    """Sources of a catalogue within `radius` arcsec of a position [deg], the nearest first, not moved in time.

    Columns source_id, ra, dec [deg], proper motions and attributes if it has some, separation [arcsec]. Raises
    LakeError where the catalogue is not imported.
    """
    ranges = _ranges(np.array([ra]), np.array([dec]), radius)
    rows = _read(lake, name, lambda opened: opened.read(ranges))
    found = within(ra, dec, rows["ra"].to_numpy(), rows["dec"].to_numpy(), radius, ids=rows["source_id"])
    frame = pl.DataFrame(rows.take(pa.array(found.source)))
    chosen = frame.select("source_id", "ra", "dec", *_needed(lake, name).attributes)
    return chosen.with_columns(separation=pl.Series(found.separation, dtype=pl.Float64))


def everything(lake: str, name: str) -> pl.DataFrame:
    """Every source of a catalogue, in no fixed order: source_id, ra, dec [deg], proper motions and attributes.

    Raises LakeError where the catalogue is not imported.
    """
    opened = _needed(lake, name)
    rows = opened.read(np.array([[0, np.iinfo(np.int64).max]]))
    return pl.DataFrame(rows).select("source_id", "ra", "dec", *opened.attributes)


def columns(catalog: Local, found: pa.Table) -> pl.DataFrame:
    """Attributes of the attempts on a catalogue, one column each: numbers, or text."""
    maps = found["attributes"].combine_chunks()
    kinds = {name: a.type for name, a in catalog.settings.attributes.items()}
    kinds |= dict.fromkeys(("pmra", "pmdec"), "number") if catalog.settings.moves else {}
    texts = {name: pl.Series(pc.map_lookup(maps, pa.scalar(name), "first"), dtype=pl.String) for name in kinds}
    return pl.DataFrame({n: t.cast(pl.Float64) if kinds[n] == "number" else t for n, t in texts.items()})


def wise(lake: str, objects: pl.DataFrame) -> pa.Table | None:
    """AllWISE magnitudes of objects (columns oid, ra, dec [deg], mjd), as `features.select` takes them.

    Columns oid, w1mpro … w4mpro [mag], one row for each object with a source within 1 arcsec; None where no object has
    one. They come from the catalogue if it is imported, else from the table xmatch, which may have them from a service.
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
    """Matches with AllWISE in the table xmatch: oid, attributes."""
    # The attributes of all catalogues are large: read them only where there is a match.
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
    """Pairs of positions and sources (as row numbers), and separations [arcsec]."""
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
    """An open catalogue at one version."""

    def __init__(self, table: Table, snapshot: Snapshot, catalog: Local) -> None:
        self.local = catalog
        self.attributes = [*catalog.settings.attributes, *(("pmra", "pmdec") if catalog.settings.moves else ())]
        self.snapshot = snapshot
        self._table = table
        # Files written by other programs may lack bounds: their row groups decide.
        self._files = sorted(snapshot.files.values(), key=lambda file: _ends(file)[0])
        self._first, self._last = np.array([_ends(file) for file in self._files], np.int64).reshape(-1, 2).T
        self._groups = lru_cache(maxsize=_FILES)(self._read_groups)

    def read(self, ranges: Ints) -> pa.Table:
        """Every row in the ranges of `healpix29`, with other rows of the same row groups."""
        schema = files.schema(self.local.settings).remove_metadata()
        names = [name for name in schema.names if name != "healpix29"]
        found = [schema.empty_table().select(names)]
        for k in np.flatnonzero(_touch(self._first, self._last, ranges)):
            groups = np.flatnonzero(_touch(*self._groups(int(k)), ranges))
            if groups.size:
                with self._file(int(k)) as file:
                    table = file.read_row_groups(groups.tolist(), names, use_threads=False)
                found.append(table.cast(found[0].schema))
        return pa.concat_tables(found)

    @contextmanager
    def _file(self, number: int) -> Iterator[pq.ParquetFile]:
        file = self._files[number]
        with reading(self._table, file.path), opened(self._table, file) as parquet:
            yield parquet

    def _read_groups(self, number: int) -> tuple[Ints, Ints]:
        """First and last `healpix29` of each row group of a file."""
        with self._file(number) as file:
            metadata = file.metadata
        column = metadata.schema.names.index("healpix29")
        bounds = [metadata.row_group(k).column(column).statistics for k in range(metadata.num_row_groups)]
        return np.array([b.min for b in bounds], np.int64), np.array([b.max for b in bounds], np.int64)


def _touch(first: Ints, last: Ints, ranges: Ints) -> NDArray[np.bool_]:
    """Mask of the intervals [first, last] that meet any of the half-open, disjoint, ascending ranges."""
    return np.searchsorted(ranges[:, 0], last, side="right") > np.searchsorted(ranges[:, 1], first, side="right")


def _ends(file: File) -> tuple[int, int]:
    return file.bounds or (0, np.iinfo(np.int64).max)


_tables: dict[tuple[str, str], _Open] = {}
_absent: dict[tuple[str, str], float] = {}


def _opened(lake: str, name: str) -> _Open | None:
    """The catalogue at its newest version; None where it is not imported."""
    if time.monotonic() < _absent.get((lake, name), 0.0):
        return None
    table = delta.open(_place(lake, name), INDEX)
    try:
        now = table.newest()
    except NotMade:
        _absent[lake, name] = time.monotonic() + _ABSENT_S
        return None
    known = _tables.get((lake, name))
    if known is not None and known.snapshot is now:
        return known
    found = _settings_of(now.metadata)
    if found is None:
        _absent[lake, name] = time.monotonic() + _ABSENT_S
        return None
    _tables[lake, name] = _Open(table, now, found)
    return _tables[lake, name]


def _needed(lake: str, name: str) -> _Open:
    opened = _opened(lake, name)
    if opened is None:
        raise LakeError(f"no catalogue {name} in {lake}; import it with: alerce-spark catalog import {name} FILE…")
    return opened


def _settings_of(metadata: Metadata) -> Local | None:
    for field in metadata.fields:
        if _SETTINGS in (field.get("metadata") or {}):
            return Local.model_validate_json(field["metadata"][_SETTINGS])
    return None


def _place(lake: str, name: str) -> Location:
    return at(f"{lake_path(lake)}/catalogs/{name}")


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.fill_null(np.nan).to_numpy())
