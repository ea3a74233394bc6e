"""The SQL functions equal the plain ones, on rows with nulls and without anything in them too."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from alerce_spark.alerts import stamps
from alerce_spark.alerts.avro import decode
from alerce_spark.alerts.model import sign
from alerce_spark.classifiers import lightcurve
from alerce_spark.classifiers.stamp import StampModel
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES, STAMP, STAMP_CLASSES
from alerce_spark.features.io import table as features_of
from alerce_spark.features.names import FEATURES
from alerce_spark.lake.models import bootstrap
from alerce_spark.lake.serving import LightcurveModels
from alerce_spark.lightcurves.correction import correct
from alerce_spark.simulation.curves import light_curves
from alerce_spark.simulation.night import simulate
from alerce_spark.surveys.ztf import CUTOUTS, ZTF
from alerce_spark.udfs import register

pytestmark = pytest.mark.spark

#: The example of the README.
EXAMPLE = "SELECT oid, classify_lightcurve(lc_features(lightcurve)).class AS class FROM my_light_curves"


@pytest.fixture(scope="module")
def sql(spark: SparkSession) -> SparkSession:
    """The session with the functions, which serve the models of the package."""
    register(spark)
    return spark


def _query(sql: SparkSession, text: str) -> pl.DataFrame:
    found = pl.from_arrow(sql.sql(text).toArrow())
    assert isinstance(found, pl.DataFrame)
    return found


@pytest.fixture(scope="module")
def alerts() -> pa.Table:
    """Decoded alerts of simulated packets, with their stamps; some are known asteroids."""
    night = simulate(11, objects=40, nights=2)
    found = decode(pa.array(night.packets[:60], pa.binary()), ZTF, stamps=True).alerts
    names, distance = found["ssnamenr"].to_pylist(), found["ssdistnr"].to_pylist()
    names[:3], distance[:3] = ["123", "123", "null"], [1.0, 25.0, 1.0]
    for name, values in (("ssnamenr", names), ("ssdistnr", distance)):
        at = found.schema.get_field_index(name)
        found = found.set_column(at, found.schema.field(name), pa.array(values, found.schema.field(name).type))
    return found


_MEASURED = ("magpsf", "sigmapsf", "magnr", "sigmagnr", "distnr")


@pytest.mark.parametrize("spelling", [pa.string(), pa.int32(), pa.bool_()])
def test_correction(sql: SparkSession, alerts: pa.Table, spelling: pa.DataType) -> None:
    rows = {name: [*alerts[name].to_pylist(), None, 18.0, math.nan, -999.0] for name in _MEASURED}
    columns = {name: pa.array(values, pa.float64()) for name, values in rows.items()}
    signs = [*sign(alerts["isdiffpos"]).to_pylist(), 1, None, 1, -1]
    spelled = {1: "t", -1: "f"} if pa.types.is_string(spelling) else {1: 1, -1: 0}
    flags = pa.array([spelled.get(s) for s in signs]).cast(spelling)
    given = pa.table({"k": np.arange(len(flags)), **columns, "isdiffpos": flags})
    sql.createDataFrame(given).createOrReplaceTempView("measured")
    call = f"correct({', '.join(_MEASURED)}, isdiffpos)"
    found = _query(sql, f"SELECT k, c.* FROM (SELECT k, {call} AS c FROM measured) ORDER BY k")

    plain = correct(*(given[name].to_numpy() for name in _MEASURED), np.array(signs, np.float64))
    names = ("corrected", "magpsf_corr", "sigmapsf_corr", "sigmapsf_corr_ext")
    expected = pl.DataFrame({name: getattr(plain, name) for name in names}).fill_nan(None)
    assert_frame_equal(found.drop("k"), expected, check_exact=True)
    assert 0 < expected["magpsf_corr"].null_count() < len(expected)


def test_correction_of_literals(sql: SparkSession) -> None:
    """Eq. 1 of the paper by hand: decimals, as SQL writes numbers."""
    (found,) = sql.sql("SELECT correct(18.5, 0.05, 17.0, 0.02, 0.3, 'f') AS c").collect()
    flux = 10 ** (-0.4 * 17.0) - 10 ** (-0.4 * 18.5)
    assert found.c.corrected
    assert found.c.magpsf_corr == pytest.approx(-2.5 * math.log10(flux), rel=1e-12)
    assert found.c.sigmapsf_corr_ext == pytest.approx(10 ** (-0.4 * 18.5) * 0.05 / flux, rel=1e-12)


@pytest.fixture(scope="module")
def curves(sql: SparkSession) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Detections and upper limits of simulated objects, as a view `my_light_curves` too.

    Beside them objects without rows: an empty list, null, a list of a null, and one with five detections only.
    """
    made = light_curves(3, {"RRL": 2, "SNIa": 2, "QSO": 1, "LPV": 1})
    detections = {"oid": np.repeat(made.oid, np.diff(made.offsets)), **made.detections}
    limits = {"oid": np.repeat(made.oid, np.diff(made.limit_offsets)), **made.non_detections}
    tables = pa.table(detections), pa.table(limits)
    for name, rows in zip(("det", "lim"), tables, strict=True):
        sql.createDataFrame(rows).createOrReplaceTempView(name)
    few = made.oid[0]
    sql.sql(
        f"""
        CREATE OR REPLACE TEMPORARY VIEW my_light_curves AS
        WITH d AS (SELECT oid, collect_list(struct(* EXCEPT (oid))) AS lightcurve FROM det GROUP BY oid),
             l AS (SELECT oid, collect_list(struct(* EXCEPT (oid))) AS limits FROM lim GROUP BY oid)
        SELECT /*+ COALESCE(1) */ * FROM (
        SELECT oid, lightcurve, limits FROM d LEFT JOIN l USING (oid)
        UNION ALL SELECT 'few', slice(lightcurve, 1, 5), NULL FROM d WHERE oid = '{few}'
        UNION ALL SELECT 'none', slice(lightcurve, 1, 0), slice(limits, 1, 0) FROM d JOIN l USING (oid)
                  WHERE oid = '{few}'
        UNION ALL SELECT 'null', NULL, limits FROM l WHERE oid = '{few}'
        UNION ALL SELECT 'of null', transform(slice(lightcurve, 1, 1), x -> NULL), NULL FROM d WHERE oid = '{few}'
        UNION ALL SELECT 'with null', array_append(lightcurve, NULL), NULL FROM d WHERE oid = '{few}')
        """
    )
    sql.sql("CACHE TABLE my_light_curves")
    yield tables
    sql.sql("UNCACHE TABLE my_light_curves")


def test_features(sql: SparkSession, curves: tuple[pa.Table, pa.Table]) -> None:
    both = _query(sql, "SELECT oid, lc_features(lightcurve) f, lc_features(lightcurve, limits) g FROM my_light_curves")
    for name, limits in (("f", None), ("g", curves[1])):
        found = both.select("oid", name).unnest(name)
        plain = pl.from_arrow(features_of(curves[0], limits))
        assert isinstance(plain, pl.DataFrame)
        real = found.filter(pl.col("oid").is_in(plain["oid"].implode())).sort("oid")
        assert_frame_equal(real, plain, rel_tol=1e-12, abs_tol=0)
        assert (real["ndet_used"] > 0).all()
        empty = found.filter(pl.col("oid").is_in(["few", "none", "null", "of null"]))
        assert empty["ndet_used"].to_list() == [0] * 4
        assert empty.select(FEATURES).null_count().row(0) == (4,) * len(FEATURES)
        if limits is None:  # a null among detections is no detection
            whole = plain.filter(oid=curves[0]["oid"][0].as_py()).drop("oid")
            assert_frame_equal(found.filter(oid="with null").drop("oid"), whole, rel_tol=1e-12, abs_tol=0)


def test_light_curve_classes(sql: SparkSession, curves: tuple[pa.Table, pa.Table]) -> None:
    call = "classify_lightcurve(lc_features(lightcurve, limits))"
    found = _query(sql, f"SELECT oid, c.* FROM (SELECT oid, {call} AS c FROM my_light_curves)")
    path = bootstrap(LIGHTCURVE)
    assert path is not None
    model = lightcurve.load(path)
    plain = features_of(*curves)
    matrix = np.column_stack([plain[name].to_numpy() for name in FEATURES])
    classified = model.classify(matrix)
    expected = classified.probabilities.astype(np.float32)
    scores = LightcurveModels(None).scorer().score(matrix, classified)
    for oid, values, score in zip(plain["oid"].to_pylist(), expected, scores, strict=True):
        row = found.row(by_predicate=pl.col("oid") == oid, named=True)
        assert row["probabilities"] == dict(zip(LIGHTCURVE_CLASSES, values.tolist(), strict=True))
        assert (row["class"], row["probability"]) == (LIGHTCURVE_CLASSES[values.argmax()], values.max())
        assert row["version"] == model.version
        assert row["outlier_score"] == pytest.approx(score, nan_ok=True)
    assert np.isfinite(scores).any()
    for oid in ("few", "none", "null", "of null"):
        assert set(found.drop("oid").row(found["oid"].to_list().index(oid))) == {None}

    # A row without the struct, as of an outer join.
    (lost,) = sql.sql(
        "SELECT classify_lightcurve(f) AS c FROM (SELECT lc_features(lightcurve) AS f FROM my_light_curves "
        "WHERE oid = 'few' UNION ALL SELECT NULL) WHERE f IS NULL"
    ).collect()
    assert lost.c is None or lost.c["class"] is None


def test_the_example_of_the_readme(sql: SparkSession, curves: tuple[pa.Table, pa.Table]) -> None:
    found = _query(sql, EXAMPLE)
    assert found.columns == ["oid", "class"]
    assert found.filter(pl.col("class").is_null())["oid"].sort().to_list() == ["few", "none", "null", "of null"]


def test_stamp_classes(sql: SparkSession, alerts: pa.Table) -> None:
    broken, lacking = 5, 6
    science = alerts[CUTOUTS[0]].to_pylist()
    science[broken], science[lacking] = science[broken][:50], None
    given = alerts.set_column(alerts.schema.get_field_index(CUTOUTS[0]), CUTOUTS[0], pa.array(science, pa.binary()))
    sql.createDataFrame(given).createOrReplaceTempView("alerts")
    candidate = ", ".join(name for name in given.schema.names if name not in (*CUTOUTS, "candid", "row"))
    call = f"classify_stamps({', '.join(CUTOUTS)}, struct({candidate}))"
    found = _query(sql, f"SELECT candid, c.* FROM (SELECT candid, {call} AS c FROM alerts)")

    path = bootstrap(STAMP)
    assert path is not None
    model = StampModel.load(path)
    place = {name: given[name].to_numpy() for name in ("xpos", "ypos")}
    read = stamps.decode(*(given[name] for name in CUTOUTS), **place)
    expected = model.classify(read.images, given)[0].astype(np.float32)
    named = [name not in (None, "null") for name in given["ssnamenr"].to_pylist()]
    near = [distance is not None and 0 <= distance <= 5 for distance in given["ssdistnr"].to_pylist()]
    assert (named[0], near[0], near[1], named[2]) == (True, True, False, False)
    for k, candid in enumerate(given["candid"].to_pylist()):
        row = found.row(by_predicate=pl.col("candid") == candid, named=True)
        if k in (broken, lacking):
            assert row["reason"].startswith("science: ")
            assert row["class"] is row["probability"] is row["probabilities"] is row["version"] is None
            continue
        assert row["reason"] is None
        # What lies within 5 arcsec of a known asteroid is one; the stream does not ask the model then.
        is_known = named[k] and near[k]
        wanted = np.eye(len(STAMP_CLASSES))[STAMP_CLASSES.index("asteroid")] if is_known else expected[k]
        assert row["probabilities"] == dict(zip(STAMP_CLASSES, wanted.tolist(), strict=True))
        assert row["class"] == STAMP_CLASSES[int(np.argmax(wanted))]
        assert row["version"] == model.version

    # With little or nothing known of the candidate the image decides.
    bare = _query(sql, f"SELECT candid, classify_stamps({', '.join(CUTOUTS)}, struct(magpsf)).class AS c FROM alerts")
    assert bare["c"].null_count() == 2
    nothing = f"classify_stamps({', '.join(CUTOUTS)}, CAST(NULL AS STRUCT<magpsf: DOUBLE, ssnamenr: STRING>)).class"
    assert _query(sql, f"SELECT {nothing} AS c FROM alerts")["c"].null_count() == 2
