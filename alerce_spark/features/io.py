"""Features of whole tables: Arrow tables of detections in, one row an object out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from alerce_spark.features.curves import Objects
from alerce_spark.features.extract import extract_with_scratch
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.features.select import select


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

    Columns and rules of the input are those of `select.select`, which also raises ValueError for missing ones.
    `ndet_used` counts the detections in g and r that count, 0 for objects with too few: these are rows of nulls.
    `period_false_alarm` is the probability that noise alone gives as high a peak in the periodogram.
    """
    key = "oid" if "oid" in detections.schema.names else "objectId"
    objects = select(detections, non_detections, xmatch)
    kind = detections.schema.field(key).type
    return from_objects(objects, kind.value_type if pa.types.is_dictionary(kind) else kind)


def from_objects(objects: Objects, oid_type: pa.DataType | None = None) -> pa.Table:
    """The table of `table` of selected objects, in their order; `oid_type` is the Arrow type of their ids."""
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
