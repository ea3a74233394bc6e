"""The wheel holds all that a command needs: it is built, installed into a folder and run outside of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

import alerce_spark
from alerce_spark.config import conf_dir
from tests.curve_tables import curve_tables

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the package of the wheel."""
    if find_spec("hatchling") is None:  # comes with requirements/build.txt
        pytest.skip("hatchling builds the wheel and is not installed: make venv")
    dist, folder = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("installed")
    for command in (
        ["-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)],
        ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), "alerce_spark"],
    ):
        links = ["--find-links", str(dist)] if "pip" in command else []
        done = subprocess.run([sys.executable, *command, *links], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert [file.name for file in dist.iterdir()] == [f"alerce_spark-{alerce_spark.__version__}-py3-none-any.whl"]
    return folder


def _run(installed: Path, elsewhere: Path, *arguments: str) -> str:
    """Output of a command of the installed package. Its kernels are not compiled, which would take a minute."""
    code = f"import alerce_spark.cli as c; assert c.__file__.startswith({str(installed)!r}); c.main()"
    keep = {name: value for name, value in os.environ.items() if not name.startswith("ALERCE_")}
    environment = keep | {"PYTHONPATH": str(installed), "NUMBA_DISABLE_JIT": "1", "COLUMNS": "200"}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_that_is_no_code(installed: Path) -> None:
    package = ROOT / "alerce_spark"
    data = {f.relative_to(package) for f in package.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")}
    data = {f for f in data if f.suffix not in (".nbi", ".nbc")}
    assert {"lc_classifier.forest", "stamp_classifier.onnx", "lc_classifier.avsc", "py.typed"} <= {f.name for f in data}
    conf = {f.relative_to(ROOT / "conf") for f in (ROOT / "conf").rglob("*") if f.is_file()}
    pairs = [(package / f, installed / "alerce_spark" / f) for f in data]
    pairs += [(ROOT / "conf" / f, installed / "alerce_spark" / "_conf" / f) for f in conf]
    assert [new for old, new in pairs if not new.is_file() or new.read_bytes() != old.read_bytes()] == []


def test_commands_of_the_wheel_run_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert conf_dir() != installed / "alerce_spark" / "_conf"
    assert "Run the broker" in _run(installed, tmp_path, "--help")
    assert f"alerce-spark {alerce_spark.__version__}," in _run(installed, tmp_path, "--version")
    assert "saturation_rate" in _run(installed, tmp_path, "tables", "describe", "magstats")
    assert "no broker was running" in _run(installed, tmp_path, "kafka", "stop")
    assert "made in" in _run(installed, tmp_path, "tables", "create", "--lake", "lake")


def test_features_of_a_small_table_by_the_wheel(installed: Path, tmp_path: Path) -> None:
    detections = pl.from_arrow(curve_tables(3, 4)[0])
    assert isinstance(detections, pl.DataFrame)
    few = detections.group_by("oid").head(4)  # too few for features: no kernel has to be compiled
    few.write_csv(tmp_path / "curves.csv")
    told = _run(installed, tmp_path, "features", "--detections", "curves.csv", "--out", "features")
    assert "4 objects in features, 0 of them with enough detections" in told
    table = pq.read_table(tmp_path / "features")
    assert table["oid"].to_pylist() == sorted(few["oid"].unique().to_list())


def test_the_client_of_the_wheel_needs_neither_spark_nor_tables(installed: Path, tmp_path: Path) -> None:
    """Its import works where these libraries are not installed."""
    absent = ("pyspark", "delta", "deltalake", "numba", "healpy", "sqlalchemy", "fastapi", "polars", "pandas", "numpy")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
    code += (
        f"import alerce_spark.client as c, alerce_spark.client.tom; assert c.__file__.startswith({str(installed)!r})\n"
    )
    code += "c.Client('http://127.0.0.1:8800'); c.AsyncClient('http://127.0.0.1:8800'); print('there')"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "there\n", done.stderr
