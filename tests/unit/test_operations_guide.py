"""docs/operations.md explains every line that the code logs as a warning or worse, every metric and every finding."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from alerce_spark.cli import common
from alerce_spark.nightly import invariants
from alerce_spark.profiles import spark_dir

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "operations.md").read_text()
_LEVELS = ("warning", "error", "critical")
_PLACE = re.compile(r"%[-\d.]*[sdfg]")


def _calls() -> Iterator[ast.Call]:
    for file in sorted((ROOT / "alerce_spark").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                yield node


def _logged() -> Iterator[str]:
    """Texts of the log with … for what changes; those that only pass an exception on are empty."""
    for call in _calls():
        function = call.func
        if isinstance(function, ast.Attribute) and function.attr in _LEVELS and call.args:
            assert ast.unparse(function.value) in ("log", "logger")
            yield _PLACE.sub("…", ast.literal_eval(call.args[0]))


def test_every_line_of_the_log_is_explained() -> None:
    lines = {line for line in _logged() if line.strip("… ")}
    assert len(lines) >= 8
    assert {line for line in lines if f"{line}`" not in GUIDE} == set()


def test_every_metric_is_explained() -> None:
    kinds = ("Gauge", "Counter", "Histogram", "GaugeMetricFamily")
    made = [c for c in _calls() if isinstance(c.func, ast.Name) and c.func.id in kinds and c.args]
    names = {str(ast.literal_eval(c.args[0])) for c in made if isinstance(c.args[0], ast.Constant)}
    assert {"alerce_lag_alerts", "alerce_tap_running", "alerce_index_lag_seconds"} <= names
    assert {name for name in names if f"| `{name}` |" not in GUIDE} == set()


def test_every_alarm_of_prometheus_is_explained() -> None:
    names = re.findall(r"^ *- alert: (\w+)$", (ROOT / "conf" / "prometheus" / "alerce.rules.yml").read_text(), re.M)
    assert "StreamFailing" in names
    table = GUIDE[GUIDE.index("### Alarms of Prometheus") : GUIDE.index("## Alarms\n")]
    assert names == re.findall(r"^\| `(\w+)` \|", table, re.M)


def test_every_finding_of_integrity_is_explained() -> None:
    names = {value for name, value in vars(invariants).items() if name.isupper() and isinstance(value, str)}
    names -= {invariants.LIGHTCURVE, invariants.STAMP}
    assert invariants.MISSING in names
    table = GUIDE[GUIDE.index("What `integrity` finds") : GUIDE.index("## Recover")]
    assert {name for name in names if f"`{name}" not in table} == set()


def test_commands_and_files_of_the_guide_exist() -> None:
    known = CliRunner().invoke(common.app, ["--help"]).output
    commands = set(re.findall(r"(?<!install )alerce-spark ([a-z]+)", GUIDE))
    assert len(commands) >= 8
    assert {name for name in commands if not re.search(rf"\b{name}\b", known)} == set()
    for name in re.findall(r"`(?:conf/spark/)?([a-z0-9]+\.conf)`", GUIDE):
        assert (spark_dir() / name).is_file() or name == "my.conf"
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", GUIDE, re.M)
    }
    assert set(re.findall(r"\]\(#([a-z-]+)\)", GUIDE)) <= anchors
