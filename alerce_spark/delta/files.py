"""Parquet files of a table: written with their actions for the log, and read without the rows that are deleted.

A file belongs to its table once a commit names it (`table.py`); VACUUM deletes files that no commit names. When `write`
returns, its files survive a power cut, if the caller asked for that.
"""

from __future__ import annotations

import io
import json
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alerce_spark.delta.kept import parquet_file
from alerce_spark.delta.protocol import Action
from alerce_spark.delta.rules import RuleBroken
from alerce_spark.location import Location

if TYPE_CHECKING:
    from alerce_spark.delta.log import File
    from alerce_spark.delta.table import Table

#: Size of a row group in memory [bytes], about, and its largest number of rows: a look-up reads whole groups.
_GROUP_BYTES = 4 << 20
_GROUP_ROWS = 8000
#: Statistics are kept of the first columns, as Delta does by default.
_INDEXED_COLUMNS = 32
#: Folder of the rows whose partition column is null.
_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Layout:
    """Layout of a table's files: columns by which rows are sorted, and columns with statistics in the footer."""

    sorted_by: tuple[str, ...] = ()
    footer: tuple[str, ...] = ()


def write(table: Table, rows: pa.Table, schema: pa.Schema, layout: Layout, *, synced: bool) -> list[Action]:
    """Write rows, cast to `schema`, as Parquet files, one for each partition; return their actions for `Change`.

    Raises RuleBroken where the rows break a rule of the table, Unsupported where nothing can be written to it.
    """
    partition = table.check(rows)
    rows = rows.cast(schema)
    if not rows.num_rows:
        return []
    written = list(_puts(table, rows, partition, layout))
    if synced:
        table.location.settle([unquote(add["path"]) for add in written])
    return written


def _puts(table: Table, rows: pa.Table, partition: Sequence[str], layout: Layout) -> Iterator[Action]:
    if layout.sorted_by:
        rows = rows.sort_by([(name, "ascending") for name in layout.sorted_by])
    if not partition:
        yield put(table.location, rows, {}, layout.footer)
        return
    (name,) = partition
    if pa.types.is_string(rows[name].type) and pc.any(pc.equal(rows[name], "")).as_py():
        raise RuleBroken(f"table {table.name}: the partition column {name} cannot hold an empty text; leave it null")
    runs = pc.run_end_encode(rows[name].combine_chunks())
    ends = runs.run_ends.to_pylist()
    for start, end, value in zip([0, *ends[:-1]], ends, runs.values.to_pylist(), strict=True):
        part = rows.slice(start, end - start).drop_columns([name])
        yield put(table.location, part, {name: None if value is None else str(value)}, layout.footer)


def put(
    location: Location,
    rows: pa.Table,
    partition: dict[str, str | None],
    footer: Sequence[str],
    group_rows: int | None = None,
    indexed: Sequence[str] | None = None,
) -> Action:
    """Write one file of a partition; return its action.

    footer: columns with statistics of each row group. group_rows: rows of a row group; default: what fits its size.
    indexed: columns with statistics in the log; default: the first ones.
    """
    sink = io.BytesIO()
    group = max(1, min(_GROUP_ROWS, math.ceil(rows.num_rows * _GROUP_BYTES / max(rows.nbytes, 1))))
    strings = [f.name for f in rows.schema if pa.types.is_string(f.type)]
    pq.write_table(
        rows,
        sink,
        row_group_size=group if group_rows is None else group_rows,
        use_dictionary=strings if group_rows is None else True,
        write_statistics=[name for name in footer if name in rows.schema.names],
        store_schema=False,
    )
    parts = [f"{name}={_NULL if value is None else quote(value, safe='')}/" for name, value in partition.items()]
    path = f"{''.join(parts)}part-{uuid.uuid4()}.snappy.parquet"
    data = sink.getvalue()
    location.put(path, data)
    return {
        "path": quote(path, safe="/="),
        "partitionValues": partition,
        "size": len(data),
        "modificationTime": int(time.time() * 1000),
        "dataChange": True,
        "stats": json.dumps(_statistics(rows, indexed), separators=(",", ":")),
    }


def _statistics(rows: pa.Table, indexed: Sequence[str] | None) -> dict[str, Any]:
    """Statistics of a file in the protocol's form ("Per-file Statistics"); bounds only where JSON can hold them."""
    frame = pl.DataFrame(rows.select(rows.schema.names[:_INDEXED_COLUMNS] if indexed is None else list(indexed)))
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
    """Whether JSON can hold a bound: long strings would have to be cut with care, infinite numbers are not JSON."""
    return all(len(v) <= _INDEXED_COLUMNS if isinstance(v, str) else math.isfinite(v) for v in values)


def rows(table: Table, file: File, schema: pa.Schema, *, deleted: bool = False) -> pa.Table:
    """Rows of a live file that are not deleted (all rows with `deleted`), in the columns of `schema`.

    Columns that the file lacks are null; partition columns are filled in. Raises LakeError where the file or its
    deletion vector is damaged, FileNotFoundError where it is gone.
    """
    with reading(table, file.path), opened(table, file) as parquet:
        there = set(parquet.schema_arrow.names)
        stored = parquet.read([name for name in schema.names if name in there], use_threads=False)
        size = parquet.metadata.num_rows
    values: dict[str, Any] = {name: stored[name] for name in stored.schema.names}
    for name, text in file.partition.items():
        if name in schema.names:
            values[name] = pa.repeat(_value(text, schema.field(name).type), size)
    columns = [values[f.name].cast(f.type) if f.name in values else pa.nulls(size, f.type) for f in schema]
    whole = pa.table(columns, schema=schema)
    kept = None if deleted else table.kept(file)
    if kept is not None:
        whole = whole.filter(pa.array(np.pad(kept, (0, size - kept.size), constant_values=True)))
    return whole


def refuse_damaged(table: Table) -> None:
    """Read every live file; raises the LakeError that names the first that is damaged or gone."""
    for file in table.newest().files.values():
        try:
            with reading(table, file.path), opened(table, file) as parquet:
                for group in range(parquet.metadata.num_row_groups):
                    parquet.read_row_group(group, use_threads=False)
        except FileNotFoundError:
            raise table.log.damaged(file.path, "is gone") from None


def _value(text: str | None, kind: pa.DataType) -> pa.Scalar:
    """A partition value in the form of the log ("Partition Value Serialization"): empty is null, times are in UTC."""
    if not text:
        return pa.scalar(None, kind)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.scalar(text.removesuffix("Z"), pa.string()).cast(pa.timestamp("us")).cast(kind)
    if pa.types.is_binary(kind):
        return pa.scalar(text.encode(), kind)
    return pa.scalar(text, pa.string()).cast(kind)


def opened(table: Table, file: File, **options: Any) -> pq.ParquetFile:
    """Open a file; the caller closes it. `options` are those of pyarrow.parquet.ParquetFile."""
    return parquet_file(table.location.url, file.place, table.location.filesystem, **options)


@contextmanager
def reading(table: Table, path: str) -> Iterator[None]:
    """Turn errors about the contents of a file into a LakeError that names it; FileNotFoundError passes."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or isinstance(error, FileNotFoundError)):
            raise
        if table.location.is_remote and table.location.status(path) is None:
            raise FileNotFoundError(f"{path} of {table.location.place} is gone") from error
        raise table.log.damaged(path, f"is damaged ({' '.join(str(error).split())})") from error


def records(table: Table, add: Action) -> int:
    """Number of rows of a file, deleted ones included: from its statistics if the log has them."""
    stats = json.loads(add.get("stats") or "{}")
    if "numRecords" not in stats:
        with pq.ParquetFile(table.location.filesystem.open_input_file(unquote(add["path"]))) as parquet:
            return int(parquet.metadata.num_rows)
    return int(stats["numRecords"])
