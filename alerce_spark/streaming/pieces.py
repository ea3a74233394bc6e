"""Rows of several tables in one DataFrame: a worker packs them as Arrow streams, the driver unpacks them."""

from __future__ import annotations

import pyarrow as pa

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


def unpack(data: pa.BinaryScalar | bytes) -> pa.Table:
    """The table of an Arrow stream."""
    return pa.ipc.open_stream(data if isinstance(data, bytes) else data.as_buffer()).read_all()
