"""The command: errors a user can mend are one message and exit status 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from alerce_spark.cli import main


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as done:
        main(arguments)
    captured = capsys.readouterr()
    code = done.value.code
    assert isinstance(code, int)
    return code, " ".join((captured.out + captured.err).split())


def test_a_wrong_setting_stops_with_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERCE_KAFKA__PARTITIONS", "none")
    code, said = _run(capsys, "kafka", "status")
    assert code == 2
    assert "ALERCE_KAFKA__PARTITIONS" in said
    assert "Traceback" not in said


def test_tables_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _run(capsys, "tables", "describe")
    assert code == 0
    assert "quarantine" in said
    code, said = _run(capsys, "tables", "describe", "magstats")
    assert code == 0
    assert "saturation_rate" in said
    code, said = _run(capsys, "tables", "describe", "magstat")
    assert code == 2
    assert "no table 'magstat'" in said


def test_a_lake_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = _run(capsys, "plot", "ZTF20aaelulu", "--lake", str(tmp_path))
    assert code == 2
    assert "alerce-spark tables create" in said


def test_simulated_packets_are_the_same_for_a_seed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        code, _ = _run(capsys, "simulate", str(tmp_path / name), "--alerts", "12", "--seed", "7")
        assert code == 0
    made = {name: {f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("a", "b")}
    assert len(made["a"]) == 12
    assert made["a"] == made["b"]
