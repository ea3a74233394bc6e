"""Science functions on Spark DataFrames: one Arrow pass over grouped light curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from alerce_spark.features import select
from alerce_spark.features.io import from_objects, schema
from alerce_spark.lake.tables import ddl_of

_OPTIONAL = ("candid", "has_stamp", "parent_candid", "isdiffpos", "magpsf_corr", "sigmapsf_corr_ext", "corrected")
_DETECTIONS = (*select.REQUIRED, *_OPTIONAL, "ra", "dec", "rb", "sgscore1")
_WISE = ("w1mpro", "w2mpro", "w3mpro", "w4mpro")


def features(
    detections: DataFrame, non_detections: DataFrame | None = None, xmatch: DataFrame | None = None
) -> DataFrame:
    """The 152 features of every object of `detections`: one row an object, columns of `features.io.schema`.

    Columns have ALeRCE's names, `features/select.py` says which are needed and which may be absent; objects with too
    few detections have rows of nulls. Rows are grouped by `collect_list` and handed over as Arrow lists, so no row
    becomes a Python object. Raises ValueError that lists missing columns.
    """
    detections = _with_oid(detections, select.REQUIRED, "detections")
    known = [c for c in _DETECTIONS if c in detections.columns]
    grouped = detections.groupBy("oid").agg(F.collect_list(_row(detections, known)).alias("detections"))
    if non_detections is not None:
        limits = _with_oid(non_detections, select.REQUIRED_LIMITS, "non-detections")
        rows = limits.groupBy("oid").agg(F.collect_list(_row(limits, select.REQUIRED_LIMITS)).alias("limits"))
        grouped = grouped.join(rows, "oid", "left")
    if xmatch is not None:
        matches = _with_oid(xmatch, _WISE, "cross-matches")
        # Of several matches the brightest in W1.
        brightest = F.min_by(F.struct(*_WISE), F.coalesce("w1mpro", F.lit(float("inf"))))
        grouped = grouped.join(matches.groupBy("oid").agg(brightest.alias("wise")), "oid", "left")
    return grouped.mapInArrow(_compute(), ddl_of(schema()))


def _with_oid(table: DataFrame, required: tuple[str, ...], what: str) -> DataFrame:
    if "oid" not in table.columns and "objectId" in table.columns:
        table = table.withColumnRenamed("objectId", "oid")
    missing = [name for name in ("oid", *required) if name not in table.columns]
    if missing:
        raise ValueError(f"{what} lack the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    return table.withColumn("oid", F.col("oid").cast("string"))


def _row(table: DataFrame, names: tuple[str, ...] | list[str]) -> Column:
    return F.struct(*(table[name] for name in names))


def _compute() -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def compute(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            names = batch.schema.names
            offsets, detections = _lists(batch.column("detections"))
            limit_offsets, limits = _lists(batch.column("limits")) if "limits" in names else (None, None)
            wise = None
            if "wise" in names:
                fields = pa.Table.from_batches([pa.RecordBatch.from_struct_array(batch.column("wise"))])
                wise = {n: fields[n].cast(pa.float64()).to_numpy() for n in _WISE}
            oid = np.array(batch.column("oid").to_pylist(), object)
            objects = select.from_offsets(oid, offsets, detections, limit_offsets, limits, wise)
            yield from from_objects(objects).to_batches()

    return compute


def _lists(column: pa.ListArray) -> tuple[np.ndarray, pa.Table]:
    """Offsets and rows of a column of lists of structs; a null is an empty list."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    rows = pa.RecordBatch.from_struct_array(column.flatten())
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), pa.Table.from_batches([rows])
