"""Science functions on Spark: whole tables of light curves, and Arrow UDFs for any DataFrame and for SQL.

register(spark, lake)
spark.sql("SELECT oid, classify_lightcurve(lc_features(lightcurve)).class FROM my_light_curves")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from alerce_spark import surveys
from alerce_spark.alerts import stamps
from alerce_spark.alerts.model import sign
from alerce_spark.classifiers.stamp import StampModel, is_known_mover
from alerce_spark.classifiers.taxonomy import LIGHTCURVE_CLASSES
from alerce_spark.errors import InputError
from alerce_spark.features import select
from alerce_spark.features.io import checked, from_objects, schema
from alerce_spark.features.names import FEATURES
from alerce_spark.kafka.records import published
from alerce_spark.lake.models import Served
from alerce_spark.lake.serving import LightcurveModels, stamp_models
from alerce_spark.lake.tables import ddl_of
from alerce_spark.lightcurves.correction import correct
from alerce_spark.worker import map_in_workers

_OPTIONAL = ("candid", "has_stamp", "parent_candid", "isdiffpos", "magpsf_corr", "sigmapsf_corr_ext", "corrected")
_DETECTIONS = (*select.REQUIRED, *_OPTIONAL, "ra", "dec", "rb", "sgscore1")
_WISE = ("w1mpro", "w2mpro", "w3mpro", "w4mpro")


def features(
    detections: DataFrame, non_detections: DataFrame | None = None, xmatch: DataFrame | None = None
) -> DataFrame:
    """The 152 features of every object of `detections`: one row an object, columns of `features.io.schema`.

    Columns have ALeRCE's names, `features/select.py` says which are needed and which may be absent; objects with too
    few detections have rows of nulls. Rows are grouped by `collect_list` and handed over as Arrow lists, so no row
    becomes a Python object. Raises InputError that lists missing columns; workers check the values as
    `features.io.checked` does, so an action on the result fails with an error that `worker.input_error` reads.
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
        brightest = F.min_by(F.struct(*_WISE), F.expr("coalesce(try_cast(w1mpro AS DOUBLE), DOUBLE('inf'))"))
        grouped = grouped.join(matches.groupBy("oid").agg(brightest.alias("wise")), "oid", "left")
    return map_in_workers(grouped, _compute(), ddl_of(schema()))


def register(spark: SparkSession, lake: str | None = None) -> None:
    """Register the functions below for SQL of this session; the classifiers are those current in `lake`, or shipped.

    * `correct(magpsf, sigmapsf, magnr, sigmagnr, distnr, isdiffpos)` → struct of corrected, magpsf_corr,
      sigmapsf_corr, sigmapsf_corr_ext;
    * `lc_features(detections)`, `lc_features(detections, limits)`: arrays of structs with ALeRCE's names (`features`
      says which) → struct of version, ndet_used, period_false_alarm and the 152;
    * `classify_lightcurve(features)` → struct of class, probability, probabilities, version, outlier_score; nulls
      without features, and no score where no outlier model goes with the classifier;
    * `classify_stamps(cutoutScience, cutoutTemplate, cutoutDifference, candidate)`: gzipped FITS files and a struct of
      the packet's candidate columns → the first four and `reason`, which says why there is no class.
    """
    for name, function, returns in (
        ("correct", _correct, _CORRECTED),
        ("lc_features", _lc_features, ddl_of(_FEATURES)),
        ("classify_lightcurve", _classify_lightcurve(lake), f"{_CLASS}, outlier_score DOUBLE"),
        ("classify_stamps", _classify_stamps(lake), f"{_CLASS}, reason STRING"),
    ):
        spark.udf.register(name, F.arrow_udf(function, returns))  # type: ignore[call-overload]


_CORRECTED = "corrected BOOLEAN, magpsf_corr DOUBLE, sigmapsf_corr DOUBLE, sigmapsf_corr_ext DOUBLE"
_CLASS = "class STRING, probability DOUBLE, probabilities MAP<STRING, DOUBLE>, version STRING"
_FEATURES = pa.schema([field for field in schema() if field.name != "oid"])


def _correct(*columns: pa.Array) -> pa.Array:
    *numbers, isdiffpos = columns
    floats = [pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False) for column in numbers]
    signs = pc.cast(sign(isdiffpos), pa.float64()).to_numpy(zero_copy_only=False)
    magpsf, sigmapsf, magnr, sigmagnr, distnr = floats
    done = correct(magpsf, sigmapsf, magnr, sigmagnr, distnr, signs)
    values = [pa.array(v, from_pandas=True) for v in (done.magpsf_corr, done.sigmapsf_corr, done.sigmapsf_corr_ext)]
    names = ["corrected", "magpsf_corr", "sigmapsf_corr", "sigmapsf_corr_ext"]
    return pa.StructArray.from_arrays([pa.array(done.corrected), *values], names)


def _lc_features(*columns: pa.Array) -> pa.Array:
    offsets, detections = _lists(columns[0])
    limit_offsets, limits = _lists(columns[1]) if len(columns) > 1 else (None, None)
    oid = np.array([str(k) for k in range(len(columns[0]))], object)
    found = from_objects(select.from_offsets(oid, offsets, detections, limit_offsets, limits)).combine_chunks()
    return pa.StructArray.from_arrays([found[f.name].combine_chunks() for f in _FEATURES], fields=list(_FEATURES))


@cache
def _light_curve_models(lake: str | None) -> LightcurveModels:
    return LightcurveModels(lake)


@cache
def _stamp_models(lake: str | None) -> Served[StampModel]:
    return stamp_models(lake)


def _classify_lightcurve(lake: str | None) -> Callable[[pa.Array], pa.Array]:
    def classify(features: pa.Array) -> pa.Array:
        serving = _light_curve_models(lake).get()
        rows = pa.RecordBatch.from_struct_array(features)
        matrix = np.column_stack(
            [pc.cast(rows[name], pa.float64()).to_numpy(zero_copy_only=False) for name in FEATURES]
        )
        classified = serving.classifier.classify(matrix)
        scores = [outlier["outlier_score"] for outlier in serving.outlier(matrix, classified)]
        return _with_field(
            _classes(classified.probabilities, LIGHTCURVE_CLASSES, serving.version),
            "outlier_score",
            pa.array(scores, pa.float64()),
        )

    return classify


def _classify_stamps(lake: str | None) -> Callable[..., pa.Array]:
    survey = surveys.get(surveys.DEFAULT)

    def classify(science: pa.Array, template: pa.Array, difference: pa.Array, candidate: pa.Array) -> pa.Array:
        model, version = _stamp_models(lake).get()
        columns = pa.Table.from_batches([pa.RecordBatch.from_struct_array(candidate)])
        places = zip(("xpos", "ypos"), survey.cutouts.position or (), strict=False)
        place = {name: columns[of].to_numpy() for name, of in places if of in columns.schema.names}
        read = stamps.decode(science, template, difference, **place)
        probabilities, reasons = model.classify(read.images, columns)
        is_mover = np.zeros(len(probabilities), bool)
        if set(survey.mover) <= set(columns.schema.names):
            # As in the stream: where the survey's ephemeris names an asteroid, the image is not classified.
            is_mover = is_known_mover(columns, *survey.mover)
            probabilities[is_mover] = np.eye(len(model.classes))[model.classes.index("asteroid")]
        reason = [None if m else a or b for m, a, b in zip(is_mover, read.reason, reasons, strict=True)]
        return _with_field(_classes(probabilities, model.classes, version), "reason", pa.array(reason, pa.string()))

    return classify


def _with_field(structs: pa.StructArray, name: str, values: pa.Array) -> pa.StructArray:
    """The structs with one more field; of a null struct it is null too where `values` is."""
    fields = [structs.field(k) for k in range(structs.type.num_fields)]
    return pa.StructArray.from_arrays([*fields, values], [*(field.name for field in structs.type), name])


def _classes(probabilities: np.ndarray, names: Sequence[str], version: str) -> pa.Array:
    """Probabilities (n, classes) as structs of _CLASS; a row of NaN is a struct of nulls."""
    rows = []
    for values in published(probabilities).tolist():
        best = max(range(len(values)), key=values.__getitem__)
        known = values[best] == values[best]
        rows.append(
            {
                "class": names[best] if known else None,
                "probability": values[best] if known else None,
                "probabilities": list(zip(names, values, strict=True)) if known else None,
                "version": version if known else None,
            }
        )
    probability = pa.map_(pa.string(), pa.float64())
    kinds = [
        ("class", pa.string()),
        ("probability", pa.float64()),
        ("probabilities", probability),
        ("version", pa.string()),
    ]
    return pa.array(rows, pa.struct(kinds))


def _with_oid(table: DataFrame, required: tuple[str, ...], what: str) -> DataFrame:
    if "oid" not in table.columns and "objectId" in table.columns:
        table = table.withColumnRenamed("objectId", "oid")
    missing = [name for name in ("oid", *required) if name not in table.columns]
    if missing:
        raise InputError(f"{what} lack the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    return table.withColumn("oid", F.col("oid").cast("string"))


def _row(table: DataFrame, names: tuple[str, ...] | list[str]) -> Column:
    return F.struct(*(table[name] for name in names))


def _compute() -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def compute(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            names = batch.schema.names
            oids = batch.column("oid")
            offsets, detections = _checked(oids, batch.column("detections"), select.REQUIRED, "detections")
            limit_offsets, limits = None, None
            if "limits" in names:
                column = batch.column("limits")
                limit_offsets, limits = _checked(oids, column, select.REQUIRED_LIMITS, "non-detections")
            wise = None
            if "wise" in names:
                fields = pa.Table.from_batches([pa.RecordBatch.from_struct_array(batch.column("wise"))])
                fields = checked(fields.append_column("oid", oids), (), "cross-matches", part=True)
                wise = {n: fields[n].cast(pa.float64()).to_numpy() for n in _WISE}
            oid = np.array(oids.to_pylist(), object)
            objects = select.from_offsets(oid, offsets, detections, limit_offsets, limits, wise)
            yield from from_objects(objects).to_batches()

    return compute


def _checked(oids: pa.Array, column: pa.ListArray, required: Sequence[str], what: str) -> tuple[np.ndarray, pa.Table]:
    """As `_lists`, of rows that `features.io.checked` takes."""
    offsets, rows = _lists(column)
    oid = oids.take(pa.array(np.repeat(np.arange(len(oids)), np.diff(offsets))))
    return offsets, checked(rows.append_column("oid", oid), required, what, part=True)


def _lists(column: pa.ListArray) -> tuple[np.ndarray, pa.Table]:
    """Offsets and rows of a column of lists of structs; a null is an empty list."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    rows = pa.RecordBatch.from_struct_array(column.flatten())
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), pa.Table.from_batches([rows])
