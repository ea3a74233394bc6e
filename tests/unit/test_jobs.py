"""Jobs as cron and spark-submit start them: every command exists, and the night's chain heeds what each one says."""

from __future__ import annotations

import fcntl
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import alerce_spark.cli
from alerce_spark.cli import common

ROOT = Path(__file__).resolve().parents[2]
CRON = ROOT / "conf" / "cron" / "alerce.cron"
CHAIN = ROOT / "conf" / "cron" / "nightly.sh"
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\s*=.*")


def _entries() -> list[tuple[list[str], str]]:
    """Schedule and command of each entry of the cron file."""
    lines = [line for line in CRON.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    entries = [line.split(None, 5) for line in lines if not _ASSIGNMENT.fullmatch(line)]
    return [(fields[:5], fields[5]) for fields in entries]


def _is_known(arguments: list[str]) -> bool:
    """Whether the CLI has such a command with such options."""
    return CliRunner().invoke(common.app, [*arguments, "--help"]).exit_code == 0


def test_the_cron_file_is_one_that_cron_takes() -> None:
    entries = _entries()
    assert len(entries) == 1
    for schedule, command in entries:
        for field, (low, high) in zip(schedule, _RANGES, strict=True):
            numbers = [int(n) for n in re.findall(r"\d+", field)]
            assert re.fullmatch(r"(\*|\d+(-\d+)?)(/\d+)?(,(\*|\d+(-\d+)?)(/\d+)?)*", field)
            assert all(low <= n <= high for n in numbers)
        assert "%" not in command, "cron ends a command at a %"
        subprocess.run(["sh", "-n", "-c", command], check=True)
    assert CRON.read_text().endswith("\n"), "cron ignores a last line without an end"
    assert f"conf/cron/{CHAIN.name}" in entries[0][1]
    assert os.access(CHAIN, os.X_OK)


class Night:
    """The chain with a stand-in for `alerce-spark`, which notes its arguments and answers as told."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        (self.home / "conf").mkdir(parents=True)
        (self.home / "conf" / "cron").symlink_to(CRON.parent)
        self._bin = folder / "bin"
        self._bin.mkdir()
        program = self._bin / "alerce-spark"
        program.write_text('#!/bin/sh\necho "$@" >> "$CALLS"\necho "said by $1"\neval "exit \\${STATUS_$1:-0}"\n')
        program.chmod(0o755)
        self._calls = folder / "calls"

    def run(self, **status: int) -> tuple[int, str, list[list[str]]]:
        """Exit status, what cron would mail, and the calls, when the commands end with `status`."""
        self._calls.unlink(missing_ok=True)
        environment = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "ALERCE_HOME": str(self.home),
            "CALLS": str(self._calls),
            **{f"STATUS_{name}": str(code) for name, code in status.items()},
        }
        command = _entries()[0][1].removesuffix('|| echo "the nightly chain ended with status $?"')
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
        calls = self._calls.read_text().splitlines() if self._calls.exists() else []
        return done.returncode, done.stdout + done.stderr, [shlex.split(line) for line in calls]


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    return Night(tmp_path)


@pytest.mark.parametrize(
    ("status", "jobs", "mail"),
    [
        ({}, ["integrity", "retrain", "reclassify", "compact"], ""),
        ({"retrain": 3}, ["integrity", "retrain", "compact"], ""),
        ({"integrity": 1}, ["integrity", "compact"], "not complete and right"),
        ({"integrity": 2}, ["integrity", "compact"], "could not be checked"),
        ({"retrain": 2}, ["integrity", "retrain", "compact"], "not retrained"),
        ({"reclassify": 2}, ["integrity", "retrain", "reclassify", "compact"], "no class of the new model"),
        ({"compact": 2}, ["integrity", "retrain", "reclassify", "compact"], "not compacted"),
    ],
)
def test_the_chain_heeds_what_each_job_says(night: Night, status: dict[str, int], jobs: list[str], mail: str) -> None:
    code, said, calls = night.run(**status)
    assert [call[0] for call in calls] == jobs
    assert code == (1 if mail else 0)
    assert (mail in said) if mail else not said
    for name in re.findall(r"see (\S+)", said):
        assert f"said by {next(iter(status))}" in Path(name).read_text()
    assert all(_is_known(call) for call in calls)


def test_a_chain_that_still_runs_keeps_the_next_away(night: Night) -> None:
    (night.home / "logs").mkdir()
    with (night.home / "logs" / "nightly.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert night.run() == (75, "", [])
    assert night.run()[0] == 0


def test_a_command_that_is_not_there_would_be_found() -> None:
    assert not any(_is_known(wrong) for wrong in (["integrety"], ["integrity", "--reports", "x"], ["train", "stamps"]))


def test_spark_submit_runs_any_command_by_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [file.name for file in (ROOT / "jobs").iterdir() if file.is_file()] == ["alerce.py"]
    called: list[list[str]] = []
    monkeypatch.setattr(alerce_spark.cli, "main", lambda: called.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["alerce.py", "integrity", "--night", "20200531"])
    runpy.run_path(str(ROOT / "jobs" / "alerce.py"), run_name="__main__")
    assert called == [["integrity", "--night", "20200531"]]
