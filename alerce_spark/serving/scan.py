"""Files of the lake's tables for an engine that reads Parquet: at one version, without files that it can skip.

The Delta log has the smallest and largest values of the columns of each file, and its deleted rows.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from alerce_spark.delta import File, Snapshot, Table
from alerce_spark.errors import LakeError
from alerce_spark.lake.handles import table as table_of
from alerce_spark.location import is_remote

Value = int | float | str
#: A closed interval of the values of a column; None leaves an end open.
Interval = tuple[Value | None, Value | None]
#: Intervals by column, disjoint and ascending, of the column's type: a row must lie in one interval of each column.
Bounds = Sequence[tuple[str, Sequence[Interval]]]

#: Files whose statistics stay parsed.
_PARSED = 50_000


@dataclass(frozen=True)
class Files:
    """Files of a table to be read: paths of those without deleted rows, and of those with; the deleted rows."""

    whole: list[str]
    marked: list[str]
    deleted: pa.Table

    @property
    def paths(self) -> list[str]:
        """Paths of all files."""
        return [*self.whole, *self.marked]


def pinned(lake: str, tables: Iterable[str]) -> dict[str, Snapshot]:
    """The newest version of each table, fixed: files chosen from it do not change while others write."""
    return {name: table_of(lake, name).live() for name in tables}


def chosen(lake: str, table: str, live: Snapshot, bounds: Bounds) -> Files:
    """Files that can hold rows within bounds, and their deleted rows (columns path, position).

    Raises LakeError for a lake that is not on this machine's disks.
    """
    if is_remote(lake):
        raise LakeError("queries read a lake on disk, and this one is on S3; run the server where a copy of it is")
    read = table_of(lake, table)
    wanted = [file for file in live.files.values() if _may_hold(file, bounds)]
    whole = [_path(read, file) for file in wanted if not file.vector]
    marked = [file for file in wanted if file.vector]
    return Files(whole, [_path(read, file) for file in marked], _deleted(read, marked))


def _path(table: Table, file: File) -> str:
    return f"{table.location.place}/{file.place}"


def _may_hold(file: File, bounds: Bounds) -> bool:
    if not bounds or file.action is None:
        return True
    smallest, largest = _statistics(file.path, file.action.get("stats") or "{}")
    return all(
        column not in smallest or column not in largest or _meets(smallest[column], largest[column], intervals)
        for column, intervals in bounds
    )


def _meets(smallest: Value, largest: Value, intervals: Sequence[Interval]) -> bool:
    """Whether values of a file can be in one of the intervals."""
    if len(intervals) == 1:
        first, last = intervals[0]
        return (first is None or first <= largest) and (last is None or smallest <= last)  # type: ignore[operator]
    following = bisect_left(intervals, smallest, key=lambda interval: interval[1])
    return following < len(intervals) and intervals[following][0] <= largest  # type: ignore[operator]


@lru_cache(maxsize=_PARSED)
def _statistics(_path: str, stats: str) -> tuple[Mapping[str, Value], Mapping[str, Value]]:
    parsed = json.loads(stats)
    return parsed.get("minValues") or {}, parsed.get("maxValues") or {}


def _deleted(table: Table, marked: Sequence[File]) -> pa.Table:
    paths, positions = [], []
    for file in marked:
        kept = table.kept(file)
        gone = np.flatnonzero(~kept) if kept is not None else np.empty(0, np.int64)
        paths.append(pa.repeat(pa.scalar(_path(table, file)), len(gone)))
        positions.append(pa.array(gone.astype(np.int64)))
    columns = [pa.chunked_array(paths, pa.string()), pa.chunked_array(positions, pa.int64())]
    return pa.table(columns, ["path", "position"])
