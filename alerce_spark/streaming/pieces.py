"""Rows of several tables in one DataFrame: a worker packs them as Arrow streams, driver or workers unpack them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame

#: `kind` names what the rows are, `rows` is their number, `data` an Arrow stream.
PIECES = pa.schema([pa.field("kind", pa.string()), pa.field("rows", pa.int64()), pa.field("data", pa.binary())])


def piece(kind: str, table: pa.Table) -> pa.RecordBatch:
    """One row of PIECES."""
    columns = [pa.array([kind]), pa.array([table.num_rows]), pa.array([pack(table)], pa.binary())]
    return pa.RecordBatch.from_arrays(columns, schema=PIECES)


def pack(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def unpack(data: pa.BinaryScalar) -> pa.RecordBatchReader:
    """The batches of an Arrow stream."""
    return pa.ipc.open_stream(data.as_buffer())


def unpacked(pieces: DataFrame, column: str, ddl: str) -> DataFrame:
    """Rows from the Arrow streams in `column`."""

    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for data in batch.column(0):
                yield from unpack(data)

    return pieces.select(column).mapInArrow(rows, ddl)
