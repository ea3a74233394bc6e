"""Compaction: rewrite the many small files of a pixel as few sorted ones, to keep look-ups cheap; delete old files.

Rows only move. So a compaction may be committed on a later version of the table than it read, if the files that it read
are unchanged; otherwise it is left for the next time. A writer that wanted to delete rows of these files finds them
removed and makes its change again. So nothing waits for compaction: it is safe beside a running stream and needs no
lease.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from alerce_spark.delta import Action, File, Snapshot
from alerce_spark.errors import InputError
from alerce_spark.lake import files, lookup, write
from alerce_spark.lake.handles import delta_table, is_made, table_path
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES, ddl_of
from alerce_spark.lake.write import Change, Conflict
from alerce_spark.worker import map_in_workers

logger = logging.getLogger(__name__)

#: Files of this size or more [bytes] are left alone, unless many of their rows are deleted.
LARGE_BYTES = 64 << 20
#: Largest sum of the sizes [bytes] of files that become one: their rows take five to ten times as much memory.
_TOGETHER_BYTES = 128 << 20
#: Share of deleted rows above which a large file is rewritten too.
_DELETED_SHARE = 0.2
#: A deleted file is kept at least this long, since readers may hold an older version of the table [h].
_LEAST_RETENTION_H = 24.0

_GROUPS = pa.schema([("number", pa.int32()), ("version", pa.int64()), ("paths", pa.list_(pa.string()))])
_MADE = pa.schema([("number", pa.int32()), ("change", pa.binary())])


@dataclass(frozen=True)
class Compacted:
    """Result for one table: pixels rewritten, their files before and after, groups left because a file changed."""

    table: str
    pixels: int
    before: int
    after: int
    overtaken: int


def files_of_pixels(lake: str, table: str) -> pl.DataFrame:
    """Live files of a table by partition: pixel, files, bytes."""
    actions = pl.DataFrame(delta_table(lake, table).get_add_actions(flatten=True))
    if actions.is_empty():
        return pl.DataFrame(schema={"pixel": pl.Int32, "files": pl.UInt32, "bytes": pl.Int64})
    grouped = actions.group_by(pixel=pl.col("partition.pixel").cast(pl.Int32))
    return grouped.agg(files=pl.len(), bytes=pl.col("size_bytes").sum())


def compact(
    spark: SparkSession, lake: str, table: str, max_files: int = 1, large_bytes: int = LARGE_BYTES
) -> Compacted:
    """Rewrite the small files of each pixel that has more than `max_files` of them, sorted; rows do not change.

    Small are files below `large_bytes`, and larger ones with a fifth of their rows deleted. Up to 128 MB of them become
    one file; one task a group. Safe beside writers.
    """
    live = table_of(lake, table).live()
    groups = _groups(live, max_files, large_bytes)
    if not groups:
        return Compacted(table, 0, 0, 0, 0)
    rows = [{"number": k, "version": live.version, "paths": group} for k, group in enumerate(groups)]
    tasks = spark.createDataFrame(pa.Table.from_pylist(rows, _GROUPS)).repartitionById(len(groups), "number")
    made = map_in_workers(tasks, _rewriter(lake, table), ddl_of(_MADE)).toArrow().to_pylist()
    before = after = overtaken = 0
    pixels = set()
    for done in made:
        group = groups[done["number"]]
        removed = {path: live.files[path].vector for path in group}
        added = write.unpacked(done["change"]).added
        try:
            write.commit(lake, table, live.version, moved(added, removed))
        except Conflict as conflict:
            logger.info("files of %s were left as they are: %s", table, conflict)
            overtaken += 1
            continue
        before, after = before + len(group), after + len(added)
        pixels |= {live.files[path].partition["pixel"] for path in group}
    return Compacted(table, len(pixels), before, after, overtaken)


def _groups(live: Snapshot, max_files: int, large_bytes: int) -> list[list[str]]:
    """Groups of paths: the files of a group become one."""
    small: dict[str, list[str]] = {}
    for path, file in live.files.items():
        if file.size < large_bytes or _deleted_share(file) > _DELETED_SHARE:
            small.setdefault(str(file.partition["pixel"]), []).append(path)
    groups = []
    for paths in small.values():
        if len(paths) <= max_files:
            continue
        group: list[str] = []
        size = 0
        for path in sorted(paths, key=lambda p: live.files[p].size):
            if group and size + live.files[path].size > _TOGETHER_BYTES:
                groups.append(group)
                group, size = [], 0
            group.append(path)
            size += live.files[path].size
        groups.append(group)
    return [group for group in groups if len(group) > 1 or _deleted_share(live.files[group[0]]) > _DELETED_SHARE]


def moved(added: list[Action], removed: dict[str, Action | None]) -> Change:
    """The change of a compaction: the rows of the files that were read move into new files."""
    return Change(added, removed=removed, operation="OPTIMIZE", moves=True)


def _deleted_share(file: File) -> float:
    """Share of the rows of a file that are deleted."""
    if file.vector is None or file.action is None:
        return 0.0
    return float(file.vector["cardinality"]) / json.loads(file.action["stats"])["numRecords"]


def _rewriter(lake: str, table: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def rewrite(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for group in batch.to_pylist():
                rows = lookup.rows_of_files(lake, table, group["paths"], group["version"])
                change = write.packed(Change(files.write(lake, table, rows)))
                yield pa.RecordBatch.from_pydict({"number": [group["number"]], "change": [change]}, schema=_MADE)

    return rewrite


def vacuum(spark: SparkSession, lake: str, table: str, retention_h: float = 7 * _LEAST_RETENTION_H) -> None:
    """Delete files that no version younger than `retention_h` needs, and old parts of the log.

    Raises InputError below a day.
    """
    if retention_h < _LEAST_RETENTION_H:
        raise InputError(f"a retention of {retention_h:g} h breaks readers; keep at least {_LEAST_RETENTION_H:g} h")
    DeltaTable.forPath(spark, table_path(lake, table)).vacuum(retention_h)
    delta_table(lake, table).cleanup_metadata()


def compact_lake(spark: SparkSession, lake: str, max_files: int, retention_h: float) -> Iterator[Compacted]:
    """Compact every table with positions, and vacuum all tables. Raises InputError for too short a retention."""
    if max_files < 1:
        raise InputError(f"max_files = {max_files}: a pixel keeps at least 1 file")
    for table in TABLES.values():
        if not is_made(lake, table.name):  # a lake of an earlier version lacks it until its stream starts again
            continue
        if table.on_sky:
            yield compact(spark, lake, table.name, max_files)
        vacuum(spark, lake, table.name, retention_h)
