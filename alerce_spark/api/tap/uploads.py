"""Tables that users send with a query: VOTables, read without following any address that they name."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
from astropy.io.votable import parse_single_table
from astropy.table import MaskedColumn, Table

from alerce_spark.api.tap.adql import QueryError
from alerce_spark.api.tap.sources import Upload
from alerce_spark.api.tap.tables import Column

#: Rows and tables of one query.
MOST_ROWS, _MOST_TABLES = 100_000, 10
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_KINDS = {"b": ("boolean", pa.bool_()), "i": ("long", pa.int64()), "u": ("long", pa.int64())}


def read(asked: str | None, files: Mapping[str, bytes]) -> dict[str, Upload]:
    """The tables that UPLOAD names (`name,param:part;…`), by their names in lower case. Raises QueryError."""
    found = {}
    for entry in filter(None, (asked or "").split(";")):
        name, _, place = (part.strip() for part in entry.partition(","))
        name = name.lower().removeprefix("tap_upload.")
        if not _NAME.fullmatch(name) or not place.startswith("param:"):
            raise QueryError("UPLOAD is written name,param:part with the table as that part of the request")
        if place.removeprefix("param:") not in files:
            raise QueryError(f"UPLOAD names a part {place.removeprefix('param:')} that the request does not have")
        found[name] = _table(name, files[place.removeprefix("param:")])
    if len(found) > _MOST_TABLES:
        raise QueryError(f"a query may bring {_MOST_TABLES} tables")
    return found


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
    """A VOTable may say that its rows are at another address, which its reader would fetch."""
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
    mask = np.asarray(column.mask) if isinstance(column, MaskedColumn) else None
    values = np.asarray(column)
    if values.dtype.kind in _KINDS:
        kind, type_ = _KINDS[values.dtype.kind]
        return kind, pa.array(values, type_, mask=mask)
    if values.dtype.kind == "f":
        return "double", pa.array(values.astype(float), mask=np.isnan(values) | (False if mask is None else mask))
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
    if any(isinstance(v, list | tuple | np.ndarray) for v in values.tolist()):
        raise QueryError(f"the column {column.name} of the uploaded table {name} has arrays; one value a row is taken")
    return "string", pa.array(texts, pa.string(), mask=mask)
