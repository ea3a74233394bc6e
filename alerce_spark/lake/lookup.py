"""History of a few objects, read in a worker or in the driver, no Spark: delta-rs knows the files, Arrow reads them.

A look-up reads only what can hold rows of its objects. Partitions and files are chosen by the statistics in the Delta
log, row groups by those in the Parquet footers: files are sorted by `healpix29`, and the rows of an object lie within
10 arcsec of where it is seen. Open tables and footers are kept from one look-up to the next: a footer of a wide table
takes milliseconds to parse, and a Parquet file of a Delta table never changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.fs import DeltaStorageHandler
from numpy.typing import ArrayLike, NDArray
from pyarrow import fs

from alerce_spark import sky
from alerce_spark.lake.handles import delta_table, healpix_order
from alerce_spark.lake.tables import TABLES
from alerce_spark.lightcurves.assemble import DETECTION_COLUMNS, FORCED_COLUMNS, LIMIT_COLUMNS, Stored

T = TypeVar("T")
Ints = NDArray[np.int64]

#: Order of the pixels that positions are narrowed to: 51 arcsec, wide enough for `sky.near_pixels` to be exact.
_NEAR_ORDER = 12
#: Footers kept by a process, as bytes in their files; in memory they take ten times that.
_FOOTER_BYTES = 16 << 20
_EVERYWHERE = np.array([[0, np.iinfo(np.int64).max]])
_LOCATION = pa.schema([("path", pa.string()), ("position", pa.int64())])


def versions(lake: str, tables: Sequence[str]) -> dict[str, int]:
    """Newest versions of the tables, to be fixed for a batch."""
    return {table: _with_fresh_handle(lake, table, _Open.newest) for table in tables}


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
    """Rows of `oids` in the partitions `pixels` at `version` (None: the newest), columns as asked, in no fixed order.

    ranges: (n, 2) disjoint, ascending half-open ranges of `healpix29`; every row inside them is found, one outside may
    be or not. Default: the whole partitions. `located` adds where each row lies: `path` of its file in the table,
    `position` in the file, as `log.Change` takes rows to delete. A handle whose files are gone is renewed once. Raises
    FileNotFoundError where files of `version` were vacuumed, LakeError where the lake has not been made.
    """
    wanted = pa.array(pl.Series(oids, dtype=pl.String).to_arrow(), pa.string())
    within = _EVERYWHERE if ranges is None else ranges
    schema = pa.schema([TABLES[table].arrow.field(name).with_nullable(True) for name in columns])
    if located:
        schema = pa.unify_schemas([schema, _LOCATION])

    def scan(opened: _Open) -> pl.DataFrame:
        files = opened.files(version, pixels, within)
        parts = [_matching(opened, file, schema, wanted, within) for file in files]
        rows = pa.concat_tables([schema.empty_table(), *parts])
        return pl.DataFrame(rows)

    return _with_fresh_handle(lake, table, scan)


def rows_of_files(lake: str, table: str, paths: Sequence[str], version: int) -> pa.Table:
    """All rows of some files of a table at `version`, in its columns, without those that are deleted."""
    schema = TABLES[table].arrow

    def scan(opened: _Open) -> pa.Table:
        return pa.concat_tables(_whole(opened, file, schema) for file in opened.named(version, paths))

    return _with_fresh_handle(lake, table, scan)


def near(ra: ArrayLike, dec: ArrayLike, order: int) -> tuple[Ints, Ints]:
    """Where the rows of objects seen at these positions [deg] lie: partitions of `order`, ranges of `healpix29`.

    Both cover the disc of sky.OBJECT_RADIUS around each position; ranges are (n, 2), disjoint, ascending, half-open.
    """
    cells = sky.near_pixels(ra, dec, _NEAR_ORDER)
    ends = np.flatnonzero(np.diff(cells) > 1)
    begin, _ = sky.index_range(cells[np.r_[0, ends + 1]], _NEAR_ORDER)
    _, end = sky.index_range(cells[np.r_[ends, cells.size - 1]], _NEAR_ORDER)
    return np.unique(cells >> (2 * (_NEAR_ORDER - order))), np.stack([begin, end], axis=1)


def stored_history(lake: str, oids: pl.Series, ra: ArrayLike, dec: ArrayLike, at: dict[str, int]) -> Stored:
    """What the lake holds of objects seen at these positions [deg], at the table versions `at`.

    An object's rows lie in the pixels of their own positions, within 10 arcsec of each other.
    """
    pixels, ranges = near(ra, dec, healpix_order(lake))

    def history(table: str, columns: Sequence[str]) -> pl.DataFrame:
        return read(lake, table, columns, oids, pixels, at[table], ranges)

    return Stored(
        history("detections", DETECTION_COLUMNS),
        history("non_detections", LIMIT_COLUMNS),
        history("forced_photometry", FORCED_COLUMNS),
    )


def stored_homes(lake: str, oids: pl.Series, ra: ArrayLike, dec: ArrayLike, version: int) -> pl.DataFrame:
    """Home pixels of the objects that the lake knows: oid, pixel."""
    pixels, ranges = near(ra, dec, healpix_order(lake))
    return read(lake, "objects", ["oid", "pixel"], oids, pixels, version, ranges)


@dataclass(frozen=True)
class _File:
    """A live file: path in the table, partition, and which rows are not deleted (None: all)."""

    path: str
    pixel: int
    kept: NDArray[np.bool_] | None


class _Open:
    """An open table: its handle, and the files of the version at which it stands.

    Threads share it: one at a time moves it and lists files, which are read without it.
    """

    def __init__(self, lake: str, table: str) -> None:
        self._lock = Lock()
        self._handle = delta_table(lake, table)
        self.filesystem = _filesystem(self._handle)
        self.is_local = isinstance(self.filesystem, fs.SubTreeFileSystem)
        self._listed: tuple[int, pl.DataFrame] | None = None

    @property
    def version(self) -> int:
        return int(self._handle.version())

    def newest(self) -> int:
        """The newest version."""
        with self._lock:
            return self.to(None).version

    @property
    def uri(self) -> str:
        return str(self._handle.table_uri)

    def to(self, version: int | None) -> _Open:
        """Move to `version`, or to the newest."""
        if version is None or self.version < version:
            self._handle.update_incremental()
        if version is not None and self.version != version:
            self._handle.load_as_version(version)
        return self

    def files(self, version: int | None, pixels: ArrayLike, ranges: Ints) -> list[_File]:
        """Files of the partitions that can hold rows within the ranges, at `version` or the newest."""
        partitions = pl.Series(np.asarray(pixels), dtype=pl.Int32)
        with self._lock:
            chosen = self.to(version)._list().filter(pl.col("pixel").is_in(partitions.implode()))
            chosen = chosen.filter(_touch(chosen["first"].to_numpy(), chosen["last"].to_numpy(), ranges))
            return self._files(chosen)

    def named(self, version: int, paths: Sequence[str]) -> list[_File]:
        """Files by their paths, at `version`."""
        with self._lock:
            return self._files(self.to(version)._list().filter(pl.col("path").is_in(list(paths))))

    def _files(self, chosen: pl.DataFrame) -> list[_File]:
        rows = chosen.select("path", "pixel").iter_rows()
        return [_File(path, pixel, self._handle.snapshots.kept(path)) for path, pixel in rows]

    def _list(self) -> pl.DataFrame:
        if self._listed is None or self._listed[0] != self.version:
            actions = pl.DataFrame(self._handle.get_add_actions(flatten=True))
            bounds = {"first": "min.healpix29", "last": "max.healpix29"}
            whole = {"first": _EVERYWHERE[0, 0], "last": _EVERYWHERE[0, 1]}
            columns = [
                (pl.col(source) if source in actions.columns else pl.lit(None))
                .cast(pl.Int64)
                .fill_null(whole[name])
                .alias(name)
                for name, source in bounds.items()
            ]
            listed = actions.select("path", pl.col("partition.pixel").cast(pl.Int32).alias("pixel"), *columns)
            self._handle.snapshots.at(self.version)
            self._listed = self.version, listed
        return self._listed[1]


def _filesystem(handle: DeltaTable) -> fs.FileSystem:
    """File system whose root is the table."""
    if handle.table_uri.startswith("file://"):
        return fs.SubTreeFileSystem(unquote(handle.table_uri.removeprefix("file://")), fs.LocalFileSystem())
    return fs.PyFileSystem(DeltaStorageHandler.from_table(handle._table))


@dataclass(frozen=True)
class _Footer:
    """Footer of a Parquet file: its columns; rows of each row group, and their first and last `healpix29`."""

    metadata: pq.FileMetaData
    columns: frozenset[str]
    rows: Ints
    first: Ints
    last: Ints


class _Footers:
    """The footers used last, up to _FOOTER_BYTES."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Footer] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, opened: _Open, path: str) -> _Footer:
        """Footer of a file, from memory if it is there."""
        name = f"{opened.uri}/{path}"
        with self._lock:
            footer = self._kept.get(name)
            if footer is not None:
                self._kept.move_to_end(name)
                return footer
        footer = _footer(pq.read_metadata(path, filesystem=opened.filesystem))
        with self._lock:
            if name not in self._kept:
                self._bytes += footer.metadata.serialized_size
            self._kept[name] = footer
            while self._bytes > _FOOTER_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].metadata.serialized_size
        return footer


def _footer(metadata: pq.FileMetaData) -> _Footer:
    groups = range(metadata.num_row_groups)
    column = metadata.schema.names.index("healpix29")
    bounds = [_EVERYWHERE[0].tolist() for _ in groups]
    for group in groups:
        statistics = metadata.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max:
            bounds[group] = [statistics.min, statistics.max]
    first, last = np.array(bounds, np.int64).reshape(-1, 2).T
    rows = np.array([metadata.row_group(group).num_rows for group in groups], np.int64)
    return _Footer(metadata, frozenset(metadata.schema.to_arrow_schema().names), rows, first, last)


def _touch(first: Ints, last: Ints, ranges: Ints) -> NDArray[np.bool_]:
    """Which intervals [first, last] meet any of the half-open, disjoint, ascending ranges."""
    following = np.searchsorted(ranges[:, 1], first, side="right")  # the range that ends after `first`
    begin = np.append(ranges[:, 0], np.iinfo(np.int64).max)[following]
    return (begin <= last) & (following < len(ranges))


def _matching(opened: _Open, file: _File, schema: pa.Schema, oids: pa.Array, ranges: Ints) -> pa.Table:
    """Rows of the objects in a file: ids of the row groups in the ranges first, then columns of groups with a hit."""
    footer = _footers.get(opened, file.path)
    groups = np.flatnonzero(_touch(footer.first, footer.last, ranges))
    if not groups.size:
        return schema.empty_table()
    # One request for many columns is what a store wants; from a disk, column after column is a third cheaper.
    parquet = pq.ParquetFile(
        file.path,
        metadata=footer.metadata,
        filesystem=opened.filesystem,
        read_dictionary=["oid"],
        pre_buffer=not opened.is_local,
    )
    with parquet:
        ids = parquet.read_row_groups(groups.tolist(), ["oid"], use_threads=False)["oid"]
        found = pc.is_in(ids, value_set=oids).to_numpy()
        if file.kept is not None:
            # A deletion vector may end before the file does: rows after it are kept.
            kept = np.ones(footer.rows.sum(), bool)
            kept[: file.kept.size] = file.kept
            found &= kept[np.repeat(np.isin(np.arange(footer.rows.size), groups), footer.rows)]
        rows = footer.rows[groups]
        starts = np.cumsum(rows) - rows
        hit = np.logical_or.reduceat(found, starts) if found.size else np.zeros(groups.size, bool)
        if not hit.any():
            return schema.empty_table()
        present = [name for name in schema.names if name in footer.columns]
        table = parquet.read_row_groups(groups[hit].tolist(), present, use_threads=False)
    table = table.filter(pa.array(found[np.repeat(hit, rows)]))
    values = {name: table[name].cast(schema.field(name).type) for name in present}
    values.setdefault("pixel", pa.repeat(pa.scalar(file.pixel, pa.int32()), len(table)))
    if "position" in schema.names:
        begin = np.cumsum(footer.rows) - footer.rows
        values["position"] = pa.array((np.repeat(begin[groups] - starts, rows) + np.arange(found.size))[found])
        values["path"] = pa.repeat(pa.scalar(file.path, pa.string()), len(table))
    return pa.table([values.get(f.name, pa.nulls(len(table), f.type)) for f in schema], schema=schema)


def _whole(opened: _Open, file: _File, schema: pa.Schema) -> pa.Table:
    """Rows of a file that are not deleted; columns that it was written without are null."""
    table = pq.read_table(file.path, filesystem=opened.filesystem, partitioning=None)
    if file.kept is not None:
        table = table.filter(pa.array(np.pad(file.kept, (0, len(table) - file.kept.size), constant_values=True)))
    values = {name: table[name] for name in table.schema.names}
    values["pixel"] = pa.repeat(pa.scalar(file.pixel, pa.int32()), len(table))
    columns = [values[f.name].cast(f.type) if f.name in values else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(columns, schema=schema)


_tables: dict[tuple[str, str], _Open] = {}
_footers = _Footers()


def _opened(lake: str, table: str) -> _Open:
    opened = _tables.get((lake, table))
    # Two threads may open a table at a time; one of the handles is kept.
    return opened or _tables.setdefault((lake, table), _Open(lake, table))


def _with_fresh_handle(lake: str, table: str, scan: Callable[[_Open], T]) -> T:
    opened = _opened(lake, table)
    try:
        return scan(opened)
    except (OSError, DeltaError):
        if _tables.get((lake, table)) is opened:
            _tables.pop((lake, table), None)
        return scan(_opened(lake, table))
