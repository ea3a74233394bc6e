"""Features through Spark equal those of the bare functions."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from alerce_spark.cli import main
from alerce_spark.features.io import table
from alerce_spark.features.names import FEATURES
from alerce_spark.udfs import features
from tests.curve_tables import curve_tables

pytestmark = pytest.mark.spark


def test_features_through_spark_equal_the_bare_ones(spark: SparkSession) -> None:
    detections, limits, wise = curve_tables(1)
    found = features(*(spark.createDataFrame(t) for t in (detections, limits, wise)))
    through_spark = pl.from_arrow(found.toArrow())
    bare = pl.from_arrow(table(detections, limits, wise))
    assert isinstance(through_spark, pl.DataFrame)
    assert isinstance(bare, pl.DataFrame)
    assert_frame_equal(through_spark.sort("oid"), bare.sort("oid"), rel_tol=1e-12, abs_tol=0)
    assert bare.select(pl.col("ndet_used") > 0).sum().item() > 20
    assert bare["W1-W2"].null_count() == len(bare) - 2


def test_missing_columns_are_listed(spark: SparkSession) -> None:
    detections, limits, _ = curve_tables(2, 3)
    lacking = spark.createDataFrame(detections.drop_columns(["mjd", "magpsf"]))
    with pytest.raises(ValueError, match="detections lack the columns mjd, magpsf"):
        features(lacking)
    with pytest.raises(ValueError, match="non-detections lack the column diffmaglim"):
        features(spark.createDataFrame(detections), spark.createDataFrame(limits.drop_columns(["diffmaglim"])))


def test_command_line_reads_and_writes_parquet(spark: SparkSession, tmp_path: Path) -> None:
    detections, limits, _ = curve_tables(3, 8)
    for name, rows in (("detections", detections), ("limits", limits)):
        pl.from_arrow(rows).write_parquet(tmp_path / f"{name}.parquet")  # type: ignore[union-attr]
    arguments = ["--detections", f"{tmp_path}/detections.parquet", "--non-detections", f"{tmp_path}/limits.parquet"]
    with pytest.raises(SystemExit) as done:
        main(["features", *arguments, "--out", f"{tmp_path}/out"])
    assert done.value.code == 0
    written = pl.read_parquet(f"{tmp_path}/out/*.parquet")
    assert written.height == 8
    assert set(FEATURES) <= set(written.columns)


def test_the_command_reads_light_curves_of_any_format(tmp_path: Path) -> None:
    detections, limits, wise = curve_tables(2, 8)
    detections.to_pandas().to_csv(tmp_path / "detections.csv.gz", index=False)
    limits.to_pandas().to_csv(tmp_path / "limits.tsv", index=False, sep="\t")
    Table.from_pandas(wise.to_pandas()).write(tmp_path / "wise.fits")
    files = ("--detections", "detections.csv.gz", "--non-detections", "limits.tsv", "--xmatch", "wise.fits")
    with pytest.raises(SystemExit, match="0"):
        main(["features", *(a if a.startswith("--") else f"{tmp_path}/{a}" for a in files), "--out", f"{tmp_path}/out"])
    found = pl.read_parquet(f"{tmp_path}/out/*.parquet").sort("oid")
    assert_frame_equal(found, pl.from_arrow(table(detections, limits, wise)), check_exact=True)
    detections.to_pandas().astype({"candid": float}).to_csv(tmp_path / "rounded.csv", index=False)
    with pytest.raises(SystemExit, match="2"):
        main(["features", "--detections", f"{tmp_path}/rounded.csv", "--out", f"{tmp_path}/no"])
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("mjd", 2459000.5, "curves: mjd"), ("isdiffpos", "maybe", "isdiffpos"), ("oid", None, "have no id")],
)
def test_folders_are_checked_as_files_are(
    spark: SparkSession, tmp_path: Path, capfd: pytest.CaptureFixture[str], column: str, value: object, said: str
) -> None:
    detections = pl.from_arrow(curve_tables(3, 4)[0])
    assert isinstance(detections, pl.DataFrame)
    (tmp_path / "curves").mkdir()
    detections.with_columns(pl.lit(value).alias(column)).write_parquet(tmp_path / "curves" / "a.parquet")
    with pytest.raises(SystemExit, match="2"):
        main(["features", "--detections", f"{tmp_path}/curves", "--out", f"{tmp_path}/out"])
    assert said in capfd.readouterr().err.split("error: ")[-1]


def test_the_command_writes_the_same_bits_with_and_without_spark(spark: SparkSession, tmp_path: Path) -> None:
    files = dict(zip(("detections", "non-detections", "xmatch"), curve_tables(5, 40), strict=True))
    given = []
    for name, rows in files.items():
        pq.write_table(rows, tmp_path / f"{name}.parquet")
        given += [f"--{name}", f"{tmp_path}/{name}.parquet"]
    found = {}
    for way, options in {"spark": ("--master", "local[2]"), "here": ()}.items():
        with pytest.raises(SystemExit, match="0"):
            main(["features", *given, *options, "--out", f"{tmp_path}/{way}"])
        found[way] = pl.read_parquet(f"{tmp_path}/{way}/*.parquet").sort("oid")
    assert (tmp_path / "spark" / "_SUCCESS").is_file()
    assert not (tmp_path / "here" / "_SUCCESS").exists()
    assert found["here"]["ndet_used"].gt(0).sum() > 20
    assert_frame_equal(found["here"], found["spark"], check_exact=True)
