"""The command starts without what it does not need: no help, version or refused argument waits for heavy libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import alerce_spark
from alerce_spark import needs

#: Libraries that take a tenth of a second or more to import, and what starts a JVM.
HEAVY = (
    *("astropy", "boto3", "botocore", "confluent_kafka", "deltalake", "fastavro", "healpy", "keras", "matplotlib"),
    *("numba", "obstore", "onnxruntime", "pandas", "polars", "py4j", "pyarrow", "pyspark", "scipy", "sklearn"),
    "tensorflow",
)
#: Commands by their exit status.
LIGHT = {
    0: (
        ["--help"],
        ["--version"],
        ["kafka", "--help"],
        ["features", "--help"],
        ["stream", "--help"],
        ["tns", "--help"],
        ["kafka", "stop"],
    ),
    1: (["kafka", "status"],),
    2: (
        ["kafka", "statu"],
        ["features", "--nothing"],
        ["features", "--detections", "nothing", "--out", "out"],
        ["features", "--detections", "file", "--out", "file"],
        ["features", "--detections", "file", "--out", "out", "--format", "csv"],
        ["classify", "--features", "nothing", "--out", "out.csv"],
        ["classify", "--features", "file", "--out", "out.txt"],
        ["classify-stamps", "nothing", "--out", "out.csv"],
        ["labels", "tns=nothing", "--out", "out.csv"],
        ["labels", "tns", "--out", "out.csv"],
        ["plot", "x", "--period", "0"],
        ["plot", "x", "--out", "x.txt"],
        ["outliers", "--limit", "many"],
        ["outliers", "--out", "x.txt"],
        ["uncertain", "--labels", "nothing"],
        ["crossmatch", "gaia", "gaia"],
        ["crossmatch", "--csv", "nothing"],
        ["crossmatch", "--csv", "file"],
        ["import", "nothing"],
        ["stream", "--queries", "stamps,stamps"],
        ["status", "--lake", "nolake"],
        ["plot", "x", "--lake", "nolake"],
        ["labels", "tns=file", "--out", "out.csv", "--lake", "nolake"],
        ["compact", "--lake", "nolake"],
        ["integrity", "--lake", "nolake"],
        ["reclassify", "--lake", "nolake"],
        ["replay", "20200601", "--lake", "nolake"],
        ["integrity", "--night", "2020-06-01"],
        ["replay", "x"],
        ["retrain", "--date", "today"],
        ["train", "stamp", "--date", "today"],
        ["compact", "--retention-hours", "1"],
        ["serve", "--port", "-1"],
        ["tns", "fetch"],
        ["tns", "import", "nothing"],
        ["demo", "--alerts", "nothing"],
        ["--conf", "nothing", "kafka", "status"],
    ),
}
#: Runs commands in one process, until one has imported something heavy; prints status and what it imported of each.
RUN = """
import contextlib, io, json, sys
from alerce_spark.cli import main

heavy, commands = json.loads(sys.argv[1])
for command in commands:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(command)
        except SystemExit as end:
            status = end.code
    found = [name for name in heavy if name in sys.modules]
    print(json.dumps([command, status, found]))
    if found:
        break
"""


def _python(folder: Path, code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_versions_and_refused_arguments_import_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("oid\n")
    expected = [[command, status, []] for status, commands in LIGHT.items() for command in commands]
    told = _python(tmp_path, RUN, json.dumps([HEAVY, [command for command, *_ in expected]]))
    assert [json.loads(line) for line in told.splitlines()] == expected


def test_the_package_is_imported_without_anything(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import alerce_spark; print(sorted(set(sys.modules) - before))"
    imported = json.loads(_python(tmp_path, code).replace("'", '"'))
    assert [name for name in imported if name.startswith("alerce_spark")] == ["alerce_spark"]
    assert not {*HEAVY, "pydantic", "rich", "typer"} & set(imported)


def test_every_public_name_is_there_and_described() -> None:
    described = (Path(__file__).resolve().parents[2] / "docs" / "analysis.md").read_text()
    for name in alerce_spark.__all__:
        assert getattr(alerce_spark, name) is not None
        assert f"| `{name}` |" in described
    assert set(alerce_spark.__all__) <= set(dir(alerce_spark))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        alerce_spark.nothing  # noqa: B018


def test_the_version_has_one_source(tmp_path: Path) -> None:
    told = _python(tmp_path, "from alerce_spark.cli import main; main(['--version'])")
    known = f"alerce-spark {alerce_spark.__version__}, Python {sys.version.split()[0]}, Java "
    assert told.startswith(known)
    assert told.strip().endswith(f", Spark {version('pyspark')}")
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert f'"{alerce_spark.__version__}"' not in project


def test_the_version_of_java_is_that_which_it_tells_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = subprocess.run([needs.java(), "-version"], capture_output=True, text=True, check=True).stderr
    assert f'version "{needs.java_version()}"' in told
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.2\" 2024-01-16' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert needs.java_version() == "21.0.2"
    (tmp_path / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="22.0.1"\n')
    assert needs.java_version() == "22.0.1"
    java.unlink()
    assert needs.java_version() is None
