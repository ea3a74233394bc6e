"""Features of small tables without Spark: in parts and in processes, the same bits as of the whole table."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

import alerce_spark
from alerce_spark.analysis import features, inputs
from alerce_spark.cli import main
from alerce_spark.features import io
from alerce_spark.features.io import checked, table
from alerce_spark.features.select import REQUIRED, REQUIRED_LIMITS
from tests.curve_tables import curve_tables


def _checked(seed: int, objects: int) -> list[pa.Table]:
    needed = (REQUIRED, REQUIRED_LIMITS, ())
    return [checked(rows, names, "rows") for rows, names in zip(curve_tables(seed, objects), needed, strict=True)]


@pytest.mark.parametrize("part", [1, 7, 250])
def test_parts_give_the_bits_of_the_whole(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(features, "_PART", part)
    detections, limits, wise = curve_tables(8, 30)
    done: list[tuple[int, int]] = []
    found = features.table(*_checked(8, 30), progress=lambda *counts: done.append(counts))
    assert found.equals(table(detections, limits, wise))
    assert done == [(min(k + part, 30), 30) for k in range(0, 30, part)]


def test_processes_give_the_bits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_PART", 4)
    monkeypatch.setattr(features, "_WORTH_A_PROCESS", 6)
    monkeypatch.setattr(features.needs, "cores", lambda: 2)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/nothing.py", raising=False)  # never run by a process
    assert features.table(*_checked(9, 12)).equals(table(*curve_tables(9, 12)))


def test_a_table_without_rows_has_no_features() -> None:
    detections, limits, wise = _checked(8, 3)
    found = features.table(detections.slice(0, 0), limits, wise)
    assert found.num_rows == 0
    assert found.schema.names == table(*curve_tables(8, 3)).schema.names


def test_public_functions_compute_and_classify() -> None:
    detections, limits, wise = curve_tables(8, 10)
    found = alerce_spark.compute_features(detections, limits, wise)
    classes = alerce_spark.classify(found)
    assert classes["oid"].to_pylist() == found["oid"].to_pylist()
    assert 0 < classes["class_name"].null_count < 10


def _no_spark(*_: object, **__: object) -> None:
    raise AssertionError("Spark was started")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `features` on the tables of seed 4, where starting Spark is a fault; returns the exit status."""
    monkeypatch.setattr("alerce_spark.session.spark_session", _no_spark)
    for name, rows in zip(("detections", "limits"), curve_tables(4, 8)[:2], strict=True):
        pq.write_table(rows, tmp_path / f"{name}.parquet")

    def features_command(*options: str, detections: str = "detections.parquet") -> int:
        given = ("--detections", f"{tmp_path}/{detections}", "--non-detections", f"{tmp_path}/limits.parquet")
        with pytest.raises(SystemExit) as done:
            main(["features", *given, "--out", f"{tmp_path}/out", *options])
        assert isinstance(done.value.code, int)
        return done.value.code

    return features_command


def test_small_files_need_no_spark(run: Callable[..., int], tmp_path: Path) -> None:
    assert run() == 0
    assert pq.read_table(tmp_path / "out").equals(table(*curve_tables(4, 8)[:2]))


def test_a_delta_table_is_written_without_spark(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--format", "delta") == 0
    written = pl.from_arrow(pa.table(DeltaTable(tmp_path / "out").to_pyarrow_table()))
    assert isinstance(written, pl.DataFrame)
    assert written.equals(pl.from_arrow(table(*curve_tables(4, 8)[:2])))  # type: ignore[arg-type]


def test_a_folder_of_bands_is_one_table(run: Callable[..., int], tmp_path: Path) -> None:
    detections = curve_tables(4, 8)[0]
    ds.write_dataset(
        detections, tmp_path / "curves", format="parquet", partitioning=["fid"], partitioning_flavor="hive"
    )
    assert run(detections="curves") == 0
    assert io._READERS.keys() <= {*inputs.USED}
    assert pq.read_table(tmp_path / "out").equals(table(*curve_tables(4, 8)[:2]))


@pytest.mark.parametrize(
    ("options", "environment", "most"),
    [
        (("--master", "local[2]"), {}, features.MOST_ROWS),
        ((), {"PYSPARK_GATEWAY_PORT": "1"}, features.MOST_ROWS),
        ((), {}, 100),
        (("--out", "s3a://bucket/out"), {}, features.MOST_ROWS),
    ],
    ids=["a master is named", "under spark-submit", "large", "onto S3"],
)
def test_spark_computes_what_is_large_or_asked_of_it(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    environment: dict[str, str],
    most: int,
) -> None:
    monkeypatch.setattr(features, "MOST_ROWS", most)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run(*options) == 70


def test_what_is_no_parquet_in_a_folder_is_refused(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "a.parquet").write_text("no parquet")
    assert run(detections="curves") == 2
    assert "curves cannot be read as one Parquet table" in " ".join(capsys.readouterr().err.split())


def test_features_in_this_process_import_no_spark(run: Callable[..., int], tmp_path: Path) -> None:
    code = "import sys; from alerce_spark.cli import main\ntry: main()\nfinally: print('pyspark' in sys.modules)"
    options = ("--detections", f"{tmp_path}/detections.parquet", "--out", f"{tmp_path}/other")
    command = [sys.executable, "-W", "ignore", "-c", code, "features", *options]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "False"
