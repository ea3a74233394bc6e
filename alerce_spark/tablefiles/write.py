"""Write results atomically as CSV and Parquet files, which every command can read."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from alerce_spark.outputs import TABLE_SUFFIXES, check_out
from alerce_spark.tablefiles.opening import TableFileError
from alerce_spark.tablefiles.values import marked


def write(table: pa.Table, out: Path) -> None:
    """Write a table as .csv or .parquet, by the suffix. Raises TableFileError.

    In CSV, lists and structs are JSON, and text that a spreadsheet would run as a formula gets an apostrophe (the text
    mark of spreadsheets), which `read` removes.
    """
    check_out(out, TABLE_SUFFIXES)
    part = out.with_name(f".{uuid4().hex}.part")
    try:
        if out.suffix.lower() == ".csv":
            pacsv.write_csv(pa.table({name: _flat(table[name]) for name in table.schema.names}), part)
        else:
            pq.write_table(table, part, write_page_checksum=True)
        part.replace(out)
    except OSError as error:
        raise TableFileError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return marked(column.cast(pa.large_string()))
    if not pa.types.is_nested(column.type):
        return column
    return pa.array([None if v is None else json.dumps(v, ensure_ascii=False) for v in column.to_pylist()], pa.string())
