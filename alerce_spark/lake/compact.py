"""Compaction: the many small files of a pixel become one sorted run, so that look-ups stay cheap; old files go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from alerce_spark.config import Settings
from alerce_spark.lake.storage import delta_table, table_path
from alerce_spark.lake.tables import TABLES
from alerce_spark.lease import Lease

#: Files are cut near this size [bytes].
_FILE_BYTES = 128 << 20
#: Pixels rewritten in one commit at the most.
_PIXELS = 64
#: A deleted file is kept at least this long, since readers may hold an older version of the table [h].
_LEAST_RETENTION_H = 24.0


@dataclass(frozen=True)
class Compacted:
    """What was done to one table: pixels rewritten, files before and after in them."""

    table: str
    pixels: int
    before: int
    after: int


def files_of_pixels(lake: str, table: str) -> pl.DataFrame:
    """Live files of a table by partition: pixel, files, bytes."""
    actions = pl.DataFrame(delta_table(lake, table).get_add_actions(flatten=True))
    if actions.is_empty():
        return pl.DataFrame(schema={"pixel": pl.Int32, "files": pl.UInt32, "bytes": pl.Int64})
    grouped = actions.group_by(pixel=pl.col("partition.pixel").cast(pl.Int32))
    return grouped.agg(files=pl.len(), bytes=pl.col("size_bytes").sum())


def compact(
    spark: SparkSession, lake: str, table: str, max_files: int = 1, among: Iterable[int] | None = None
) -> Compacted:
    """Rewrite each pixel of `table` that has more than `max_files` files, sorted by healpix29; rows stay as they are.

    `among` restricts it to these pixels. A pixel above 128 MB gets several files with disjoint ranges. Not beside a
    batch that merges into the same pixels: Delta would refuse the later of the two.
    """
    crowded = files_of_pixels(lake, table).filter(pl.col("files") > max_files)
    if among is not None:
        crowded = crowded.filter(pl.col("pixel").is_in(list(among)))
    crowded = crowded.filter(pl.col("files") > (pl.col("bytes") // _FILE_BYTES + 1)).sort("pixel")
    for start in range(0, len(crowded), _PIXELS):
        _rewrite(spark, lake, table, crowded[start : start + _PIXELS])
    after = files_of_pixels(lake, table).join(crowded, on="pixel", how="semi")
    return Compacted(table, len(crowded), int(crowded["files"].sum()), int(after["files"].sum()))


def _rewrite(spark: SparkSession, lake: str, table: str, pixels: pl.DataFrame) -> None:
    path = table_path(lake, table)
    where = f"pixel IN ({', '.join(str(p) for p in pixels['pixel'])})"
    tasks = max(1, int(pixels["bytes"].sum()) // _FILE_BYTES)
    sorted_rows = (
        spark.read.format("delta")
        .load(path)
        .where(where)
        .repartitionByRange(tasks, F.col("pixel"), F.col("healpix29"))
        .sortWithinPartitions("pixel", "healpix29", *_time_order(table))
    )
    (
        sorted_rows.write.format("delta")
        .mode("overwrite")
        .option("replaceWhere", where)
        .option("dataChange", "false")  # nothing new for readers of changes
        .save(path)
    )


def _time_order(table: str) -> list[str]:
    return [name for name in ("oid", "fid", "mjd") if name in TABLES[table].names]


def vacuum(spark: SparkSession, lake: str, table: str, retention_h: float = 7 * _LEAST_RETENTION_H) -> None:
    """Delete files that no version younger than `retention_h` needs. Raises ValueError below a day."""
    if retention_h < _LEAST_RETENTION_H:
        raise ValueError(f"a retention of {retention_h:g} h breaks readers; keep at least {_LEAST_RETENTION_H:g} h")
    DeltaTable.forPath(spark, table_path(lake, table)).vacuum(retention_h)


def compact_lake(spark: SparkSession, settings: Settings, max_files: int, retention_h: float) -> Iterator[Compacted]:
    """Compact and vacuum every table that lies on the sky, holding the lake's lease. Raises LeaseHeld, ValueError."""
    lake = settings.lake
    with Lease(lake.path, "alerce-spark compact", lake.lease_timeout_s):
        for table in TABLES.values():
            if table.on_sky:
                yield compact(spark, lake.path, table.name, max_files)
            vacuum(spark, lake.path, table.name, retention_h)
