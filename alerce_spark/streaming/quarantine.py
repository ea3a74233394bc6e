"""Rows into the table quarantine: workers write their files, the driver commits them and sees no packet.

A refused packet may have megabytes, and any number of them may come in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame

from alerce_spark.lake import lookup, write
from alerce_spark.lake.handles import delta_table, scan
from alerce_spark.lake.tables import TABLES, ddl_of
from alerce_spark.streaming.pieces import pack, unpack
from alerce_spark.worker import map_in_workers

_TABLE = "quarantine"
_KEY = list(TABLES[_TABLE].key)
#: Bytes of packets that a worker writes into one file, or one packet where that has more.
_FILE_BYTES = 32 << 20

_KEYED = pa.schema([pa.field("sha256", pa.string()), pa.field("row", pa.binary())])
_CHANGES = pa.schema([pa.field("rows", pa.int64()), pa.field("change", pa.binary())])


def packed(rows: pa.Table) -> list[bytes]:
    """Each row of the table, for `keep`."""
    return [pack(rows.slice(k, 1)) for k in range(rows.num_rows)]


def keep(lake: str, rows: DataFrame, check_lease: Callable[[], None]) -> int:
    """Store rows (one column: `packed` ones) whose key the table lacks, in one commit; returns how many these are."""
    parts = rows.sparkSession.sparkContext.defaultParallelism
    # The same bytes may come to several tasks: all rows of a checksum meet in one.
    met = map_in_workers(rows, _keyed, ddl_of(_KEYED)).repartition(parts, "sha256").select("row")

    def change() -> int:
        version = lookup.versions(lake, [_TABLE])[_TABLE]
        made = map_in_workers(met, _writer(lake, version), ddl_of(_CHANGES)).toArrow().to_pylist()
        if made:
            check_lease()
            write.commit(lake, _TABLE, version, write.joined([write.unpacked(each["change"]) for each in made]))
        return sum(each["rows"] for each in made)

    return write.unhindered(change)


def _keyed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        (column,) = batch.columns
        sums = [unpack(row)["sha256"][0].as_py() for row in column]
        yield pa.RecordBatch.from_arrays([pa.array(sums, pa.string()), column.cast(pa.binary())], schema=_KEYED)


def _writer(lake: str, version: int) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def write_files(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        taken: set[tuple[str, ...]] = set()
        for rows in _portions(batches):
            new = _lacking(lake, version, rows, taken)
            if new.num_rows:
                change = write.packed(write.append(lake, _TABLE, new))
                yield pa.RecordBatch.from_pydict({"rows": [new.num_rows], "change": [change]}, schema=_CHANGES)

    return write_files


def _portions(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows in tables of so many bytes and the rest."""
    portion: list[pa.Table] = []
    size = 0
    for batch in batches:
        for row in batch.column(0):
            portion.append(unpack(row))
            size += portion[-1].nbytes
            if size >= _FILE_BYTES:
                yield pa.concat_tables(portion)
                portion, size = [], 0
    if portion:
        yield pa.concat_tables(portion)


def _lacking(lake: str, version: int, rows: pa.Table, taken: set[tuple[str, ...]]) -> pa.Table:
    """The first row of each key that is neither in the table at `version` nor in `taken`, where it is noted."""
    table = delta_table(lake, _TABLE)
    if table.version() != version:
        table.load_as_version(version)
    keys = pl.DataFrame(rows.select(_KEY)).with_row_index("row").unique(_KEY, keep="first", maintain_order=True)
    is_here = pl.col("sha256").is_in(keys["sha256"].implode())
    stored = scan(table).filter(is_here).select(_KEY).collect()
    new = keys.join(stored, _KEY, "anti", maintain_order="left")
    new = new.filter([key not in taken for key in new.select(_KEY).iter_rows()])
    taken.update(new.select(_KEY).iter_rows())
    return rows.take(new["row"].to_arrow())
