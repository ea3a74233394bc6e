"""Features of whole tables: Arrow tables of detections in, one row per object out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alerce_spark.features.curves import Objects
from alerce_spark.features.extract import extract_with_scratch
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.features.select import REQUIRED, REQUIRED_LIMITS, select
from alerce_spark.tablefiles import OIDS, TableFileError, find, values


def schema(oid_type: pa.DataType | None = None) -> pa.Schema:
    """Columns of `table`: `oid`, `version`, `ndet_used`, `period_false_alarm`, then the 152 in order of FEATURES."""
    head = [
        pa.field("oid", oid_type or pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("ndet_used", pa.int32(), nullable=False),
        pa.field("period_false_alarm", pa.float64()),
    ]
    return pa.schema([*head, *(pa.field(name, pa.float64()) for name in FEATURES)])


def table(detections: pa.Table, non_detections: pa.Table | None = None, xmatch: pa.Table | None = None) -> pa.Table:
    """Features of every object of `detections`, sorted by oid, with the columns of `schema`; null where undefined.

    Columns and rules of the input are those of `select.select`; `checked` lists the inputs that raise an InputError.
    `ndet_used` is the number of detections used in g and r, 0 for objects with too few, whose rows are null.
    `period_false_alarm` is the probability that noise alone gives as high a peak in the periodogram.
    """
    detections = checked(detections, REQUIRED, "detections")
    if non_detections is not None:
        non_detections = checked(non_detections, REQUIRED_LIMITS, "non-detections")
    if xmatch is not None:
        xmatch = checked(xmatch, (), "cross-matches")
    return from_objects(select(detections, non_detections, xmatch), detections.schema.field("oid").type)


def checked(table: pa.Table, required: Sequence[str], what: str, *, part: bool = False) -> pa.Table:
    """The columns of a user's table that features use, converted to their types: exact ids, flags and signs.

    Names may be in any case, bands 1, 2, 3 or g, r, i. A column without any value counts as absent, but stays in a
    `part` of a table: the result must not depend on how the table is split. Raises TableFileError for missing or
    repeated columns, rows without an oid, ids that have lost digits, invalid flags and numbers, and times that are not
    MJD or lie more than a century apart.
    """
    names = table.schema.names
    if missing := [name for name in required if find(names, [name]) is None]:
        raise TableFileError(f"{what} lack the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    if (oid := find(names, OIDS)) is None:
        raise TableFileError(f"{what} have no column {' or '.join(OIDS)}; their columns are {', '.join(names)}")
    kept = {"oid": _oids(table[oid], f"{what}: {oid}")}
    for name, read in _READERS.items():
        column = find(names, [name])
        if column is not None and (part or name in required or table[column].null_count < len(table)):
            kept[name] = read(table[column], f"{what}: {column}")
    return pa.table({name: column for name, column in kept.items() if part or name in required or _has_values(column)})


def _has_values(column: pa.Array) -> bool:
    return len(column) == 0 or column.null_count < len(column)


def _oids(column: pa.ChunkedArray, what: str) -> pa.Array:
    found = values.plain(column, what)
    found = found if pa.types.is_integer(found.type) else values.ids(found, what)
    if found.null_count:
        raise TableFileError(f"{what}: {found.null_count} rows have no id")
    return found


def _mjd(column: pa.ChunkedArray, what: str) -> pa.Array:
    found = values.strict_numbers(column, what)
    values.check_mjd(found, what)
    if len(known := found.drop_null()) and pc.max(known).as_py() - pc.min(known).as_py() > _LONGEST:
        first, last = pc.min(known).as_py(), pc.max(known).as_py()
        raise TableFileError(f"{what} lies between {first} and {last}, more than a century: are some of them no MJD?")
    return found


def _bands(column: pa.ChunkedArray, what: str) -> pa.Array:
    found = values.plain(column, what)
    if pa.types.is_string(found.type):
        named = pc.index_in(pc.utf8_lower(values.words(found)), pa.array(["g", "r", "i"]))
        found = pc.coalesce(pc.add(named, 1).cast(pa.string()), found)
    return values.strict_numbers(found, what)


#: Longest time span of a table of light curves [d]: memory and time of the period search grow with it.
_LONGEST = 36_525.0
_READERS: dict[str, Callable[[pa.ChunkedArray, str], pa.Array]] = {
    "mjd": _mjd,
    "fid": _bands,
    **dict.fromkeys(("magpsf", "sigmapsf", "magpsf_corr", "sigmapsf_corr_ext"), values.strict_numbers),
    **dict.fromkeys(("ra", "dec", "rb", "sgscore1", "diffmaglim"), values.strict_numbers),
    **dict.fromkeys(("w1mpro", "w2mpro", "w3mpro", "w4mpro"), values.strict_numbers),
    **dict.fromkeys(("candid", "parent_candid"), values.integers),
    **dict.fromkeys(("has_stamp", "corrected"), values.flags),
    "isdiffpos": values.signs,
}


def from_objects(objects: Objects, oid_type: pa.DataType | None = None) -> pa.Table:
    """The result of `table` for selected objects, in their order; `oid_type` is the Arrow type of their ids."""
    columns = schema(oid_type)
    matrix, scratch = extract_with_scratch(objects)
    count = len(objects)
    arrays = [
        pa.array(objects.oid.tolist(), columns.field("oid").type),
        pa.array([FEATURES_VERSION] * count, pa.string()),
        pa.array(np.diff(objects.both.offsets).astype(np.int32)),
        pa.array(scratch.extra.get("false_alarm", np.empty(0)), pa.float64(), from_pandas=True),
        *(pa.array(column, from_pandas=True) for column in np.ascontiguousarray(matrix.T)),
    ]
    return pa.Table.from_arrays(arrays, schema=columns)
