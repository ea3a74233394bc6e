"""Settings: layers, and errors that name key, value and place."""

from __future__ import annotations

from pathlib import Path

import pytest

from alerce_spark.config import ConfigError, Settings, load

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "conf" / "alerce.toml"


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "alerce.toml"
    path.write_text(text)
    return path


def test_the_shipped_file_shows_the_defaults() -> None:
    assert load(SHIPPED).model_dump() == Settings.model_construct().model_dump()


def test_flags_override_environment_and_environment_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _file(tmp_path, '[lake]\npath = "from-file"\nhealpix_order = 2\n[kafka]\npartitions = 7\n')
    monkeypatch.setenv("ALERCE_LAKE__PATH", "from-environment")
    monkeypatch.setenv("ALERCE_KAFKA__PARTITIONS", "9")
    settings = load(file, {"kafka": {"partitions": 11, "bootstrap_servers": None}})
    assert (settings.lake.path, settings.lake.healpix_order, settings.kafka.partitions) == ("from-environment", 2, 11)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[kafka]\nbootstrap_server = 'a:1'\n", ["kafka.bootstrap_server", "'a:1'", "did you mean bootstrap_servers?"]),
        ("[lake]\nhealpix_order = 40\n", ["lake.healpix_order", "40"]),
        ("[lake]\npath = 'hdfs://x/y'\n", ["lake.path", "hdfs://x/y", "not supported"]),
        ("[stream]\nqueries = ['photometri']\n", ["stream.queries.0", "photometri"]),
        ("[archive]\nurl = 'ftp://x'\n", ["archive.url", "ftp://x"]),
        ("[nothing]\na = 1\n", ["nothing"]),
        ("[stream]\nphotometry_min_alerts = 9000\n", ["photometry_min_alerts = 9000", "no batch could begin"]),
        ("[lake\n", ["cannot be read"]),
    ],
)
def test_errors_in_the_file_name_key_value_and_file(tmp_path: Path, text: str, wanted: list[str]) -> None:
    file = _file(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(file)
    for part in [*wanted, str(file)]:
        assert part in str(error.value)


def test_errors_in_the_environment_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERCE_KAFKA__PARTITIONS", "0")
    with pytest.raises(ConfigError, match=r"ALERCE_KAFKA__PARTITIONS: kafka\.partitions = '0'"):
        load(SHIPPED)


def test_unknown_variables_and_missing_files_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no settings file"):
        load(tmp_path / "absent.toml")
    monkeypatch.setenv("ALERCE_KAFKKA__PARTITIONS", "1")
    with pytest.raises(ConfigError, match="ALERCE_KAFKKA__PARTITIONS"):
        load(SHIPPED)


def test_errors_of_flags_name_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"command line: lake\.healpix_order = 99"):
        load(SHIPPED, {"lake": {"healpix_order": 99}})
