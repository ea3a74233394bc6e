"""Features through Spark equal those of the bare functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from astropy.table import Table
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from alerce_spark.cli import main
from alerce_spark.features.io import table
from alerce_spark.features.names import FEATURES
from alerce_spark.udfs import features

pytestmark = pytest.mark.spark


def _curves(seed: int, objects: int = 30) -> tuple[pa.Table, pa.Table, pa.Table]:
    rng = np.random.default_rng(seed)
    n = rng.integers(3, 80, objects)
    oid = np.repeat([f"ZTF20{i:07d}" for i in range(objects)], n)
    rows = len(oid)
    detections = pa.table(
        {
            "oid": oid,
            "candid": np.arange(rows) + 10**18,
            "mjd": rng.uniform(58500, 59500, rows),
            "fid": rng.integers(1, 4, rows).astype(np.int32),
            "magpsf": rng.normal(18, 0.4, rows),
            "sigmapsf": rng.uniform(0.02, 0.2, rows),
            "isdiffpos": rng.choice([-1, 1], rows).astype(np.int32),
            "ra": np.full(rows, 120.0),
            "dec": np.full(rows, -10.0),
            "rb": rng.uniform(0.3, 1, rows),
            "sgscore1": rng.uniform(0, 1, rows),
        }
    )
    some = rng.choice([f"ZTF20{i:07d}" for i in range(objects // 2)], 200)  # half of the objects have no limits
    limits = pa.table(
        {
            "oid": some,
            "mjd": rng.uniform(58400, 59500, 200),
            "fid": rng.integers(1, 3, 200).astype(np.int32),
            "diffmaglim": rng.normal(20, 0.5, 200),
        }
    )
    wise = pa.table(
        {"oid": [f"ZTF20{i:07d}" for i in (0, 1, 1)], **{f"w{k}mpro": [10.0 + k, 12.0, 11.0 - k] for k in range(1, 5)}}
    )
    return detections, limits, wise


def test_features_through_spark_equal_the_bare_ones(spark: SparkSession) -> None:
    detections, limits, wise = _curves(1)
    found = features(*(spark.createDataFrame(t) for t in (detections, limits, wise)))
    through_spark = pl.from_arrow(found.toArrow())
    bare = pl.from_arrow(table(detections, limits, wise))
    assert isinstance(through_spark, pl.DataFrame)
    assert isinstance(bare, pl.DataFrame)
    assert_frame_equal(through_spark.sort("oid"), bare.sort("oid"), rel_tol=1e-12, abs_tol=0)
    assert bare.select(pl.col("ndet_used") > 0).sum().item() > 20
    assert bare["W1-W2"].null_count() == len(bare) - 2


def test_missing_columns_are_listed(spark: SparkSession) -> None:
    detections, limits, _ = _curves(2, 3)
    lacking = spark.createDataFrame(detections.drop_columns(["mjd", "magpsf"]))
    with pytest.raises(ValueError, match="detections lack the columns mjd, magpsf"):
        features(lacking)
    with pytest.raises(ValueError, match="non-detections lack the column diffmaglim"):
        features(spark.createDataFrame(detections), spark.createDataFrame(limits.drop_columns(["diffmaglim"])))


def test_command_line_reads_and_writes_parquet(spark: SparkSession, tmp_path: Path) -> None:
    detections, limits, _ = _curves(3, 8)
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
    detections, limits, wise = _curves(2, 8)
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
    [("mjd", 2459000.5, "detections: mjd"), ("isdiffpos", "maybe", "isdiffpos"), ("oid", None, "have no id")],
)
def test_folders_are_checked_as_files_are(
    spark: SparkSession, tmp_path: Path, capfd: pytest.CaptureFixture[str], column: str, value: object, said: str
) -> None:
    detections = pl.from_arrow(_curves(3, 4)[0])
    assert isinstance(detections, pl.DataFrame)
    (tmp_path / "curves").mkdir()
    detections.with_columns(pl.lit(value).alias(column)).write_parquet(tmp_path / "curves" / "a.parquet")
    with pytest.raises(SystemExit, match="2"):
        main(["features", "--detections", f"{tmp_path}/curves", "--out", f"{tmp_path}/out"])
    assert said in capfd.readouterr().err.split("error: ")[-1]
