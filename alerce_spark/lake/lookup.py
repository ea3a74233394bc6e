"""History of a few objects, read in a worker or in the driver without Spark: Arrow reads the files that the log names.

A look-up reads only files and row groups that can hold rows of its objects. Statistics in the Delta log choose
partitions and files, those in the Parquet footers choose row groups: files are sorted by `healpix29`, and the rows of
an object lie within 10 arcsec of its position. A Parquet file of a Delta table never changes, so open tables, footers,
statistics of row groups and the ids in them are kept between look-ups, in bounded memory. So a file that was read
before and has no row of the objects is not opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from alerce_spark import sky
from alerce_spark.delta import File, Snapshot, Table
from alerce_spark.delta.files import opened, reading
from alerce_spark.delta.files import rows as rows_of
from alerce_spark.delta.kept import Kept
from alerce_spark.lake.handles import healpix_order
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES
from alerce_spark.lightcurves.assemble import DETECTION_COLUMNS, FORCED_COLUMNS, LIMIT_COLUMNS, Stored

T = TypeVar("T")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Order of the pixels that cover the discs: 51 arcsec, wide enough for `sky.near_pixels` to be exact.
_NEAR_ORDER = 12
#: Bytes that a process keeps of the statistics of row groups, and of the ids in them.
_GROUP_BYTES, _ID_BYTES = 8 << 20, 16 << 20
#: Bytes that a kept value takes besides its data.
_OVERHEAD = 600
_EVERYWHERE = np.array([[0, np.iinfo(np.int64).max]])
_LOCATION = pa.schema([("path", pa.string()), ("position", pa.int64())])


def versions(lake: str, tables: Sequence[str]) -> dict[str, int]:
    """Newest versions of the tables, which a batch then reads throughout."""
    return {table: table_of(lake, table).newest().version for table in tables}


def read(
    lake: str,
    table: str,
    columns: Sequence[str],
    oids: Sequence[str] | pl.Series,
    pixels: ArrayLike,
    version: int | None = None,
    ranges: Ints | None = None,
    located: bool = False,
) -> pl.DataFrame:
    """Rows of `oids` in the partitions `pixels` at `version` (None: the newest), in no fixed order.

    ranges: (n, 2) disjoint, ascending half-open ranges of `healpix29`; every row inside them is returned, rows outside
    may be. Default: the whole partitions. `located` adds `path` (the row's file in the table) and `position` (its
    number in the file), as `Change` needs them for rows to delete. Where files are missing the log is read again, once.
    Raises FileNotFoundError where files of `version` were vacuumed, LakeError where the lake has not been made.
    """
    wanted = pa.array(pl.Series(oids, dtype=pl.String).to_arrow(), pa.string())
    within = _EVERYWHERE if ranges is None else ranges
    schema = pa.schema([TABLES[table].arrow.field(name).with_nullable(True) for name in columns])
    if located:
        schema = pa.unify_schemas([schema, _LOCATION])

    def scan(stored: Table) -> pl.DataFrame:
        snapshot = _at(stored, version)
        found = _files(stored, snapshot, pixels, within)
        parts = [_matching(stored, file, schema, wanted, within) for file in found]
        rows = pa.concat_tables([schema.empty_table(), *parts])
        return pl.DataFrame(rows)

    return _twice(lake, table, scan)


def rows_of_files(lake: str, table: str, paths: Sequence[str], version: int) -> pa.Table:
    """All rows of some files of a table at `version`, in its columns, without those that are deleted."""
    schema = TABLES[table].arrow

    def scan(stored: Table) -> pa.Table:
        files = stored.at(version).files
        return pa.concat_tables(rows_of(stored, files[path], schema) for path in paths)

    return _twice(lake, table, scan)


def near(ra: ArrayLike, dec: ArrayLike, order: int) -> tuple[Ints, Ints]:
    """Partitions of `order` and ranges of `healpix29` that can hold the rows of objects at these positions [deg].

    Both cover the disc of sky.OBJECT_RADIUS around each position; ranges are (n, 2), disjoint, ascending, half-open.
    """
    cells = sky.near_pixels(ra, dec, _NEAR_ORDER)
    ends = np.flatnonzero(np.diff(cells) > 1)
    begin, _ = sky.index_range(cells[np.r_[0, ends + 1]], _NEAR_ORDER)
    _, end = sky.index_range(cells[np.r_[ends, cells.size - 1]], _NEAR_ORDER)
    return np.unique(cells >> (2 * (_NEAR_ORDER - order))), np.stack([begin, end], axis=1)


def read_near(
    lake: str,
    table: str,
    columns: Sequence[str],
    oids: Sequence[str] | pl.Series,
    ra: ArrayLike,
    dec: ArrayLike,
    version: int | None = None,
    located: bool = False,
) -> pl.DataFrame:
    """Rows of objects as from `read`, but only those within sky.OBJECT_RADIUS of a position [deg] of their oid.

    Each row of the positions has one oid; an oid may have several positions.
    """
    names, lon, lat = sky.oid_array(oids), np.asarray(ra, float), np.asarray(dec, float)
    pixels, ranges = near(lon, lat, healpix_order(lake))
    wanted = list(dict.fromkeys([*columns, "oid", "healpix29"]))
    rows = read(lake, table, wanted, pl.Series(names), pixels, version, ranges, located)
    is_near = _is_near(rows, names, lon, lat)
    return rows.filter(pl.Series(is_near)).select(*columns, *(_LOCATION.names if located else ()))


def _is_near(rows: pl.DataFrame, names: pa.Array, ra: Floats, dec: Floats) -> NDArray[np.bool_]:
    """Mask of the rows (oid, healpix29) that lie near a position of their object."""
    own, at = sky.oid_array(rows["oid"]), sky.position(rows["healpix29"])
    first = sky.first_index(own, names)
    is_near = sky.separation(*at, ra[first], dec[first]) <= sky.OBJECT_RADIUS
    for row in np.flatnonzero(~is_near):  # it may be near a later position of its object
        seen = np.flatnonzero(pc.equal(names, own[int(row)]))
        is_near[row] = (sky.separation(at[0][row], at[1][row], ra[seen], dec[seen]) <= sky.OBJECT_RADIUS).any()
    return is_near


def stored_history(lake: str, oids: pl.Series, ra: ArrayLike, dec: ArrayLike, at: dict[str, int]) -> Stored:
    """Stored rows of objects seen at these positions [deg], one position per oid, at the table versions `at`.

    Each row is in the pixel of its position; an object's rows lie within 10 arcsec of each other.
    """

    def history(table: str, columns: Sequence[str]) -> pl.DataFrame:
        return read_near(lake, table, columns, oids, ra, dec, at[table])

    return Stored(
        history("detections", DETECTION_COLUMNS),
        history("non_detections", LIMIT_COLUMNS),
        history("forced_photometry", FORCED_COLUMNS),
    )


def stored_homes(lake: str, oids: pl.Series, ra: ArrayLike, dec: ArrayLike, version: int) -> pl.DataFrame:
    """Home pixels of stored objects at these positions [deg], one position per oid: oid, pixel."""
    return read_near(lake, "objects", ["oid", "pixel"], oids, ra, dec, version)


@dataclass(frozen=True)
class _Listed:
    """The live files of a snapshot as columns: partition, smallest and largest `healpix29`."""

    snapshot: Snapshot
    files: list[File]
    pixels: Ints
    first: Ints
    last: Ints


def _at(table: Table, version: int | None) -> Snapshot:
    return table.newest() if version is None else table.at(version)


def _files(table: Table, snapshot: Snapshot, pixels: ArrayLike, ranges: Ints) -> list[File]:
    """Files of the partitions that can hold rows within the ranges."""
    listed = _lists.get(table)
    if listed is None or listed.snapshot is not snapshot:
        listed = _lists[table] = _list(snapshot)
    chosen = np.isin(listed.pixels, pixels) & _touch(listed.first, listed.last, ranges)
    return [listed.files[k] for k in np.flatnonzero(chosen)]


def _list(snapshot: Snapshot) -> _Listed:
    files = list(snapshot.files.values())
    everywhere = tuple(_EVERYWHERE[0].tolist())
    bounds = np.array([file.bounds or everywhere for file in files], np.int64).reshape(-1, 2)
    pixels = np.array([_pixel(file) for file in files], np.int64)
    return _Listed(snapshot, files, pixels, bounds[:, 0], bounds[:, 1])


def _pixel(file: File) -> int:
    return int(file.partition.get("pixel") or -1)


@dataclass(frozen=True)
class _Groups:
    """Columns of a Parquet file; rows and first and last `healpix29` of each row group."""

    columns: frozenset[str]
    rows: Ints
    first: Ints
    last: Ints


def _groups(file: pq.ParquetFile) -> _Groups:
    metadata = file.metadata
    names = frozenset(file.schema_arrow.names)
    column = metadata.schema.names.index("healpix29")
    bounds = [_EVERYWHERE[0].tolist() for _ in range(metadata.num_row_groups)]
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max:
            bounds[group] = [statistics.min, statistics.max]
    first, last = np.array(bounds, np.int64).reshape(-1, 2).T
    rows = np.array([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)], np.int64)
    # Files of a table have the same columns: one set for all of them.
    return _Groups(_columns.setdefault(names, names), rows, first, last)


def _touch(first: Ints, last: Ints, ranges: Ints) -> NDArray[np.bool_]:
    """Mask of the intervals [first, last] that meet any of the half-open, disjoint, ascending ranges."""
    following = np.searchsorted(ranges[:, 1], first, side="right")  # the range that ends after `first`
    begin = np.append(ranges[:, 0], np.iinfo(np.int64).max)[following]
    return (begin <= last) & (following < len(ranges))


def _matching(stored: Table, file: File, schema: pa.Schema, oids: pa.Array, ranges: Ints) -> pa.Table:
    """Rows of the objects in a file: reads ids of row groups in the ranges, then columns of groups with hits."""
    key = stored.location.url, file.path
    # A store is fastest with one request for many columns; a disk, a third cheaper with one column after another.
    options = {"read_dictionary": ["oid"], "pre_buffer": stored.location.is_remote}
    with ExitStack() as stack, reading(stored, file.path):

        @cache
        def parquet() -> pq.ParquetFile:
            return stack.enter_context(opened(stored, file, **options))

        all_groups = _known_groups.get(key) or _known_groups.put(key, _groups(parquet()))
        groups = np.flatnonzero(_touch(all_groups.first, all_groups.last, ranges))
        if not groups.size:
            return schema.empty_table()
        ids = _ids(key, groups.tolist(), all_groups.rows, parquet)
        found = np.concatenate([pc.is_in(part, value_set=oids).to_numpy(zero_copy_only=False) for part in ids])
        mask = stored.kept(file)
        if mask is not None:
            # A deletion vector may end before the file does: rows after it are kept.
            kept = np.ones(all_groups.rows.sum(), bool)
            kept[: mask.size] = mask
            found &= kept[np.repeat(np.isin(np.arange(all_groups.rows.size), groups), all_groups.rows)]
        rows = all_groups.rows[groups]
        starts = np.cumsum(rows) - rows
        hit = np.logical_or.reduceat(found, starts) if found.size else np.zeros(groups.size, bool)
        if not hit.any():
            return schema.empty_table()
        present = [name for name in schema.names if name in all_groups.columns]
        table = parquet().read_row_groups(groups[hit].tolist(), present, use_threads=False)
    table = table.filter(pa.array(found[np.repeat(hit, rows)]))
    values = {name: table[name].cast(schema.field(name).type) for name in present}
    values.setdefault("pixel", pa.repeat(pa.scalar(_pixel(file), pa.int32()), len(table)))
    if "position" in schema.names:
        begin = np.cumsum(all_groups.rows) - all_groups.rows
        values["position"] = pa.array((np.repeat(begin[groups] - starts, rows) + np.arange(found.size))[found])
        values["path"] = pa.repeat(pa.scalar(file.path, pa.string()), len(table))
    return pa.table([values.get(f.name, pa.nulls(len(table), f.type)) for f in schema], schema=schema)


def _ids(
    file: tuple[str, str], groups: list[int], rows: Ints, parquet: Callable[[], pq.ParquetFile]
) -> list[pa.ChunkedArray]:
    """Ids in each of the row groups; unknown ones are read together."""
    found = {group: _known_ids.get((*file, group)) for group in groups}
    unknown = [group for group, ids in found.items() if ids is None]
    if unknown:
        read = parquet().read_row_groups(unknown, ["oid"], use_threads=False)["oid"]
        begin = 0
        for group in unknown:
            found[group] = _known_ids.put((*file, group), read.slice(begin, rows[group]))
            begin += int(rows[group])
    return [ids for ids in found.values() if ids is not None]


_lists: WeakKeyDictionary[Table, _Listed] = WeakKeyDictionary()
_columns: dict[frozenset[str], frozenset[str]] = {}
_known_groups: Kept[tuple[str, str], _Groups] = Kept(_GROUP_BYTES, lambda g: 3 * g.rows.nbytes + _OVERHEAD)
_known_ids: Kept[tuple[str, str, int], pa.ChunkedArray] = Kept(_ID_BYTES, lambda ids: ids.nbytes + _OVERHEAD)


def _twice(lake: str, table: str, scan: Callable[[Table], T]) -> T:
    """Result of `scan`; where files are missing, the log is read again and `scan` tried once more."""
    stored = table_of(lake, table)
    try:
        return scan(stored)
    except OSError:
        stored.forget()
        return scan(table_of(lake, table))
