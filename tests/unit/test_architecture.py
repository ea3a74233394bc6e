"""Dependencies go one way: science rooms know no Spark."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "alerce_spark"
SCIENCE = ("sky.py", "tablefiles", "alerts", "lightcurves", "features", "classifiers", "crossmatch", "simulation")
SCIENCE += ("training",)
ABOVE = ("lake", "streaming", "nightly", "kafka", "session", "cli", "demo")


def _files(rooms: tuple[str, ...] = SCIENCE) -> list[Path]:
    return [f for name in rooms for f in ([PACKAGE / name] if name.endswith(".py") else (PACKAGE / name).rglob("*.py"))]


def _imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("file", _files(), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_science_imports_neither_spark_nor_what_stands_above_it(file: Path) -> None:
    for name in _imports(file):
        assert name.split(".")[0] not in ("pyspark", "delta", "deltalake", "pandas"), name
        assert not any(name.startswith(f"alerce_spark.{room}") for room in ABOVE), name


@pytest.mark.parametrize("file", _files(("serving", "api", "tns")), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_services_import_neither_spark_nor_its_rooms(file: Path) -> None:
    for name in _imports(file):
        assert name.split(".")[0] not in ("pyspark", "delta"), name
        assert not any(name.startswith(f"alerce_spark.{room}") for room in ("streaming", "nightly", "session", "cli"))
        if "/api/" in str(file):  # SQL and Delta are the business of `serving`
            assert name.split(".")[0] != "sqlalchemy", name
            assert not name.startswith(("alerce_spark.lake.log", "alerce_spark.lake.snapshots")), name


def test_one_module_of_the_services_reads_the_log_of_delta() -> None:
    reading = {f.name for f in _files(("serving", "api")) if "alerce_spark.lake.snapshots" in _imports(f)}
    assert reading == {"changes.py"}
