"""Files of the lake's tables for an engine that reads Parquet by itself: at one version, without those it can skip.

The Delta log says of each file the smallest and largest values of its columns, and which rows are deleted.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from pyroaring import BitMap64

from alerce_spark.lake import deletion_vectors, log
from alerce_spark.lake.kept import Kept
from alerce_spark.lake.log import Live
from alerce_spark.lake.storage import Action, LakeError, Store, store
from alerce_spark.places import is_remote

Value = int | float | str
#: A closed interval of the values of a column; None leaves an end open.
Interval = tuple[Value | None, Value | None]
#: Of each column the intervals of which one must hold, ascending and apart; values are of the column's kind. A row
#: outside is not wanted.
Bounds = Sequence[tuple[str, Sequence[Interval]]]

#: Files whose statistics stay parsed.
_PARSED = 50_000
#: Bytes of deletion vectors that are kept.
_VECTOR_BYTES = 32 << 20


@dataclass(frozen=True)
class Files:
    """Files of a table to be read: paths of those without deleted rows, and of those with; the deleted rows."""

    whole: list[str]
    marked: list[str]
    deleted: pa.Table

    @property
    def paths(self) -> list[str]:
        """All of them."""
        return [*self.whole, *self.marked]


def pinned(lake: str, tables: Iterable[str]) -> dict[str, Live]:
    """The newest version of each table: what is chosen from it does not change while others write."""
    return {table: log.files(lake, table) for table in tables}


def chosen(lake: str, table: str, live: Live, bounds: Bounds) -> Files:
    """Files that can hold rows within bounds, and their deleted rows (columns path, position).

    Raises LakeError for a lake that is not on this machine's disks.
    """
    if is_remote(lake):
        raise LakeError("queries read the lake from a disk, and it is on S3; run the server where a copy of it is")
    files = store(lake, table)
    wanted = [add for add in live.files.values() if _may_hold(add, bounds)]
    whole = [_path(files, add) for add in wanted if not add.get("deletionVector")]
    marked = [add for add in wanted if add.get("deletionVector")]
    return Files(whole, [_path(files, add) for add in marked], _deleted(files, marked))


def _path(files: Store, add: Action) -> str:
    return f"{files.prefix}/{unquote(add['path'])}"


def _may_hold(add: Action, bounds: Bounds) -> bool:
    if not bounds:
        return True
    smallest, largest = _statistics(add["path"], add.get("stats") or "{}")
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


def _deleted(files: Store, marked: Sequence[Action]) -> pa.Table:
    paths, positions = [], []
    for add in marked:
        gone = _vector(files, add["deletionVector"])
        paths.append(pa.repeat(pa.scalar(_path(files, add)), len(gone)))
        positions.append(pa.array(np.fromiter(gone, np.int64, len(gone))))
    columns = [pa.chunked_array(paths, pa.string()), pa.chunked_array(positions, pa.int64())]
    return pa.table(columns, ["path", "position"])


def _vector(files: Store, vector: Action) -> BitMap64:
    key = f"{files.prefix} {vector['pathOrInlineDv']} {vector['offset']}"
    return _vectors.get(key) or _vectors.put(key, deletion_vectors.read(files, vector))


_vectors: Kept[str, BitMap64] = Kept(_VECTOR_BYTES, lambda gone: 200 + 2 * len(gone))
