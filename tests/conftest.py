"""Fixtures shared by all tests: real data, one Spark session, one Kafka broker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from alerce_spark.config import Settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # tests share helpers as tests.lakes
# A JVM of a test lives a minute or two: the second compiler would cost it more than it gives.
# Its code cache is then 48 MB by default, full in mid-run, and everything after it interpreted.
os.environ["JAVA_TOOL_OPTIONS"] = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"
# No wall-clock limits: the first example may wait for a compiler or for another test.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real survey data: ALERCE_TEST_DATA, else `../shared/data`; skips where neither is."""
    path = Path(os.environ.get("ALERCE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "ztf").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the real-data tests, but {path} has no ztf/ folder; set ALERCE_TEST_DATA")
        pytest.skip(f"no real survey data at {path}; set ALERCE_TEST_DATA to its folder")
    return path


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The one session of the test run, with little memory and without a UI."""
    from alerce_spark.config import load
    from alerce_spark.session import spark_session

    scratch = tmp_path_factory.mktemp("spark")
    session = spark_session(
        load(ROOT / "conf" / "alerce.toml"),
        "tests",
        spark__master="local[2]",
        spark__driver__memory="3g",
        spark__local__dir=str(scratch),
        spark__sql__warehouse__dir=str(scratch / "warehouse"),
    )
    yield session
    session.stop()


@pytest.fixture
def settings_for(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a lake below `tmp_path`; sections override by keyword."""
    from alerce_spark.config import load

    def make(**overrides: dict[str, Any]) -> Settings:
        sections: dict[str, dict[str, Any]] = {
            "lake": {"path": str(tmp_path / "lake"), "healpix_order": 4},
            "archive": {"url": f"file:{tmp_path / 'archive'}"},
            "stream": {"photometry": {"interval_s": 0}, "archive": {"interval_s": 0}, "restart_wait_s": 0.5},
        }
        for section, values in overrides.items():
            sections[section] = {**sections.get(section, {}), **values}
        return load(ROOT / "conf" / "alerce.toml", sections)

    return make


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a broker of the module: output topics hold results of its alerts only."""
    from alerce_spark import local_kafka

    folder = tmp_path_factory.mktemp("kafka")
    broker = local_kafka.start(f"127.0.0.1:{local_kafka.free_port()}", folder)
    yield broker.bootstrap_servers
    local_kafka.stop(folder)
