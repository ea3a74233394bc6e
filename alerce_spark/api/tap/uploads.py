"""Tables that users send with a query: VOTables, read without following addresses in them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io.votable import parse_single_table
from astropy.table import MaskedColumn, Table

from alerce_spark.api.tap import formats
from alerce_spark.api.tap.adql import QueryError
from alerce_spark.api.tap.engine import Result
from alerce_spark.api.tap.sources import Upload
from alerce_spark.api.tap.tables import Column

#: Rows and tables of one query.
MOST_ROWS, _MOST_TABLES = 100_000, 10
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_KINDS = {
    **{"b1": ("boolean", pa.bool_()), "u1": ("short", pa.int16()), "i2": ("short", pa.int16())},
    **{"i4": ("int", pa.int32()), "i8": ("long", pa.int64()), "f4": ("float", pa.float32())},
    "f8": ("double", pa.float64()),
}


def read(asked: str | None, files: Mapping[str, bytes], result: Callable[[str], Result | None]) -> dict[str, Upload]:
    """The tables that UPLOAD names, by their names in lower case.

    It is written `name,param:part;…`, or with the address of a result of this server, which `result` gives: no other
    address is asked, since a server must not be sent to places that its users cannot reach. Raises QueryError.
    """
    found = {}
    for entry in filter(None, (asked or "").split(";")):
        name, _, place = (part.strip() for part in entry.partition(","))
        name = name.lower().removeprefix("tap_upload.")
        if not _NAME.fullmatch(name) or not place:
            raise QueryError("UPLOAD is written name,param:part with the table as that part of the request")
        found[name] = _found(name, place, files, result)
    if len(found) > _MOST_TABLES:
        raise QueryError(f"a query may bring {_MOST_TABLES} tables")
    return found


def _found(name: str, place: str, files: Mapping[str, bytes], result: Callable[[str], Result | None]) -> Upload:
    part = place.removeprefix("param:")
    if part != place:
        if part not in files:
            raise QueryError(f"UPLOAD names a part {part} that the request does not have")
        return _table(name, files[part])
    known = result(place)
    if known is None:
        raise QueryError(
            f"the table {name} cannot be fetched from there: send it with the query (param:), or name the address of a "
            "result of a job on this server"
        )
    return _of_result(name, known)


def _of_result(name: str, result: Result) -> Upload:
    if result.rows > MOST_ROWS:
        raise QueryError(f"the result has {result.rows} rows; an uploaded table may have {MOST_ROWS}")
    rows = pq.read_table(result.file).slice(0, result.rows)
    columns = [
        Column(f.name, f.kind, f.known.unit if f.known else "", f.known.comment if f.known else "", f.name)
        for f in formats.described(result)
    ]
    return Upload(name, tuple(columns), rows)


def _table(name: str, data: bytes) -> Upload:
    _refuse_addresses(name, data)
    try:
        table = parse_single_table(io.BytesIO(data)).to_table(use_names_over_ids=True)
    except Exception as error:  # noqa: BLE001 - a reader of foreign files fails in many ways
        raise QueryError(f"the uploaded table {name} is no VOTable: {str(error).splitlines()[0][:200]}") from None
    if len(table) > MOST_ROWS:
        raise QueryError(f"the uploaded table {name} has {len(table)} rows; there may be {MOST_ROWS}")
    lower = [column.lower() for column in table.colnames]
    if len(set(lower)) < len(lower) or not lower:
        raise QueryError(f"columns of the uploaded table {name} need names that differ")
    return _upload(name, table)


def _refuse_addresses(name: str, data: bytes) -> None:
    """Refuse a VOTable whose rows are at another address, which the reader would fetch."""
    try:
        for _, node in ElementTree.iterparse(io.BytesIO(data), ("start",)):
            is_stream = str(node.tag).rpartition("}")[2].upper() in ("STREAM", "INCLUDE")
            if is_stream and any(key.rpartition("}")[2].lower() == "href" for key in node.attrib):
                raise QueryError(f"the uploaded table {name} must have its rows in it, not at another address")
    except ElementTree.ParseError as error:
        raise QueryError(f"the uploaded table {name} is no VOTable: {error}") from None


def _upload(name: str, table: Table) -> Upload:
    columns, arrays = [], []
    for column in table.columns.values():
        kind, array = _array(name, column)
        unit = str(column.unit) if column.unit is not None else ""
        columns.append(Column(column.name, kind, unit, str(column.description or ""), column.name))
        arrays.append(array)
    return Upload(name, tuple(columns), pa.table(arrays, [column.name for column in columns]))


def _array(name: str, column: Any) -> tuple[str, pa.Array]:
    if column.ndim > 1:
        raise QueryError(f"the column {column.name} of the uploaded table {name} has arrays; one value a row is taken")
    mask = np.asarray(column.mask) if isinstance(column, MaskedColumn) else np.zeros(len(column), bool)
    values = np.asarray(column)
    if (spelling := f"{values.dtype.kind}{values.dtype.itemsize}") in _KINDS:
        kind, type_ = _KINDS[spelling]
        native = values.astype(values.dtype.newbyteorder("="))
        return kind, pa.array(native, type_, mask=mask | (np.isnan(native) if kind in ("float", "double") else False))
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
    if any(isinstance(v, list | tuple | np.ndarray) for v in values.tolist()):
        raise QueryError(f"the column {column.name} of the uploaded table {name} has arrays; one value a row is taken")
    is_time = column.meta.get("xtype") == "timestamp"
    return "timestamp" if is_time else "string", pa.array(texts, pa.string(), mask=mask)
