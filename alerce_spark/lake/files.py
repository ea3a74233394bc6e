"""Parquet files of a table, written by a worker or the driver: sorted for look-ups, with their actions for the log.

A file is no part of its table until a commit names it (`lake/log.py`); one that no commit named goes with VACUUM. When
`write` returns, its files survive a power cut.
"""

from __future__ import annotations

import io
import json
import math
import time
import uuid
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alerce_spark.lake.handles import is_synced
from alerce_spark.lake.storage import Action, settle, store
from alerce_spark.lake.tables import TABLES

#: Row groups hold about so many bytes in memory and no more rows than this: a look-up reads whole groups.
_GROUP_BYTES = 4 << 20
_GROUP_ROWS = 8000
#: Statistics are kept of the first columns, as Delta does by default.
_INDEXED_COLUMNS = 32
#: Columns with statistics for each row group too: those that readers choose rows by.
_GROUP_STATISTICS = ("healpix29", "oid", "mjd", "candid", "ra", "dec")


def write(lake: str, table: str, rows: pa.Table) -> list[Action]:
    """Write rows as Parquet files, one for each pixel, sorted by healpix29 (one file where a table has no pixel).

    `rows` has the columns of the table (cast to its types). Returns the files' actions for `log.Change`. Raises
    ValueError where a required column has nulls or a check of the table fails: the rows are not written.
    """
    definition = TABLES[table]
    rows = rows.select(definition.names)
    _check(rows, table)
    rows = rows.cast(definition.arrow)
    if not rows.num_rows:
        return []
    written = list(_puts(lake, table, rows))
    if is_synced(lake):
        settle(store(lake, table), [add["path"] for add in written])
    return written


def _puts(lake: str, table: str, rows: pa.Table) -> Iterator[Action]:
    if not TABLES[table].on_sky:
        yield _put(lake, table, rows, {})
        return
    rows = rows.sort_by([(name, "ascending") for name in ("pixel", "healpix29", "oid")])
    pixels = rows["pixel"].combine_chunks()
    runs = pc.run_end_encode(pixels)
    ends = runs.run_ends.to_pylist()
    for start, end, pixel in zip([0, *ends[:-1]], ends, runs.values.to_pylist(), strict=True):
        part = rows.slice(start, end - start).drop_columns(["pixel"])
        yield _put(lake, table, part, {"pixel": str(pixel)})


def _check(rows: pa.Table, table: str) -> None:
    definition = TABLES[table]
    empty = [c.name for c in definition.columns if c.required and rows[c.name].null_count]
    if empty:
        raise ValueError(f"table {table}: nulls in required columns {', '.join(empty)}")
    if definition.checks:
        frame = pl.DataFrame(
            rows.select([c for c in definition.names if any(c in sql for _, sql in definition.checks)])
        )
        for name, condition in definition.checks:
            failed = frame.filter(~pl.sql_expr(condition))
            if len(failed):
                raise ValueError(f"table {table}: {len(failed)} rows fail the check {name} ({condition}): {failed[0]}")


def _put(lake: str, table: str, rows: pa.Table, partition: dict[str, str]) -> Action:
    sink = io.BytesIO()
    group = max(1, min(_GROUP_ROWS, math.ceil(rows.num_rows * _GROUP_BYTES / max(rows.nbytes, 1))))
    strings = [f.name for f in rows.schema if pa.types.is_string(f.type)]
    pq.write_table(
        rows,
        sink,
        row_group_size=group,
        use_dictionary=strings,
        write_statistics=[name for name in _GROUP_STATISTICS if name in rows.schema.names],
        store_schema=False,
    )
    folder = "".join(f"{name}={value}/" for name, value in partition.items())
    path = f"{folder}part-{uuid.uuid4()}.snappy.parquet"
    data = sink.getvalue()
    store(lake, table).put(path, data)
    return {
        "path": path,
        "partitionValues": partition,
        "size": len(data),
        "modificationTime": int(time.time() * 1000),
        "dataChange": True,
        "stats": json.dumps(_statistics(rows), separators=(",", ":")),
    }


def _statistics(rows: pa.Table) -> dict[str, Any]:
    """Statistics of a file as the protocol has them ("Per-file Statistics"); bounds only where JSON can say them."""
    frame = pl.DataFrame(rows.select(rows.schema.names[:_INDEXED_COLUMNS]))
    bounded = frame.select(pl.selectors.integer() | pl.selectors.float() | pl.selectors.string())
    # NaN sorts above all numbers in Delta and cannot be written: such a column has no bounds.
    bounded = bounded.select(c for c in bounded if not (c.dtype.is_float() and c.is_nan().any()))
    smallest = {c.name: c.min() for c in bounded}
    largest = {c.name: c.max() for c in bounded}
    named = [name for name in smallest if smallest[name] is not None and _is_short(smallest[name], largest[name])]
    return {
        "numRecords": rows.num_rows,
        "minValues": {name: smallest[name] for name in named},
        "maxValues": {name: largest[name] for name in named},
        "nullCount": frame.null_count().row(0, named=True),
        "tightBounds": True,
    }


def _is_short(*values: Any) -> bool:
    """Long strings would have to be cut with care, infinite numbers are not JSON."""
    return all(len(v) <= _INDEXED_COLUMNS if isinstance(v, str) else math.isfinite(v) for v in values)
