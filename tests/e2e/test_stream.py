"""Through a real Kafka broker: crashes at every commit, true kills, replays and new topics leave the same tables."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pyspark.sql import SparkSession

from alerce_spark import lake
from alerce_spark.config import Settings
from alerce_spark.kafka import topics
from alerce_spark.lake import log, write
from alerce_spark.lake.storage import LakeError
from alerce_spark.simulation.defects import corrupt
from alerce_spark.simulation.night import Traits, simulate
from alerce_spark.streaming.backfill import send_through_stream
from alerce_spark.streaming.run import Stream
from tests.lakes import assert_complete, assert_keys_unique, assert_same, records, snapshot

pytestmark = [pytest.mark.spark, pytest.mark.kafka]
SettingsFor = Callable[..., Settings]


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    """A night with repeated, unordered and broken packets."""
    night = simulate(21, objects=25, nights=6, stamps=False, version=("3.3", "4.02"), traits=Traits.like_ztf())
    rng = np.random.default_rng(2)
    some = [night.packets[i] for i in rng.permutation(len(night.packets))[:150]]
    bad = [corrupt(some[0], kind, rng) for kind in ("html", "empty", "truncated", "nan_position")]
    mixed = [*some, *some[:20], *bad]
    return [mixed[i] for i in rng.permutation(len(mixed))]


@pytest.fixture(scope="module")
def topic(kafka: str, packets: list[bytes]) -> str:
    """The night on a topic of two partitions."""
    topics.create(kafka, ["ztf_20200601_programid1"], 2)
    topics.send(kafka, "ztf_20200601_programid1", packets)
    return "ztf_20200601_programid1"


@pytest.fixture(scope="module")
def undisturbed(
    spark: SparkSession, kafka: str, topic: str, packets: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pl.DataFrame]:
    """Tables of a run without incident, checked against the packets themselves."""
    settings = _settings(tmp_path_factory.mktemp("undisturbed"), kafka, topic, max_alerts=1000)
    Stream(spark, settings, until_empty=True).run()
    tables = snapshot(settings.lake.path)
    assert_keys_unique(tables)
    good = [p for p in packets if p in set(packets)]
    refused = set(tables["quarantine"]["packet"].to_list())
    assert_complete(tables, records(p for p in good if p not in refused))
    assert len(refused) == 4
    return tables


def _settings(folder: Path, kafka: str, topic: str, max_alerts: int) -> Settings:
    from alerce_spark.config import load

    conf = Path(__file__).resolve().parents[2] / "conf" / "alerce.toml"
    return load(
        conf,
        {
            "lake": {"path": str(folder / "lake"), "lease_timeout_s": 3.0},
            "kafka": {"bootstrap_servers": kafka, "topics": [topic]},
            "stream": {
                "queries": ["photometry"],
                "photometry_min_alerts": max_alerts,
                "photometry_max_alerts": max_alerts,
                "photometry_interval_s": 0.5,
                "restart_wait_s": 0.1,
                "restart_wait_max_s": 0.1,
            },
        },
    )


class _CrashAfter:
    """Lets a growing number of commits through: none in the first attempt, one in the second, and so on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempt, self._done, self._guard = 0, 0, threading.Lock()
        monkeypatch.setattr(log, "commit", self._crashing(log.commit))

    def next_attempt(self) -> None:
        with self._guard:
            self.attempt, self._done = self.attempt + 1, 0

    def _crashing(self, commit: Callable[..., int]) -> Callable[..., int]:
        def guarded(*args: object, **kwargs: object) -> int:
            with self._guard:
                if self._done >= self.attempt:
                    raise RuntimeError(f"injected after {self._done} commits")
                self._done += 1
            return commit(*args, **kwargs)

        return guarded


def test_a_crash_at_every_commit_boundary_and_a_replay_change_nothing(
    spark: SparkSession,
    kafka: str,
    topic: str,
    tmp_path: Path,
    undisturbed: dict[str, pl.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = _settings(tmp_path, kafka, topic, max_alerts=1000)
    write.create(settings.lake.path, settings.lake.healpix_order)
    with monkeypatch.context() as patched:
        crash = _CrashAfter(patched)
        stream = Stream(spark, settings, until_empty=True, attempts=20)
        stream.restarting = lambda query: crash.next_attempt()
        stream.run()
    # What a crashed attempt appended need not be appended again, so there are fewer boundaries than 6 tables.
    assert crash.attempt >= 4
    assert_same(snapshot(settings.lake.path), undisturbed)

    shutil.rmtree(Path(settings.checkpoints) / "photometry")
    Stream(spark, settings, until_empty=True).run()
    assert_same(snapshot(settings.lake.path), undisturbed)


def test_killed_twice_in_mid_batch_and_started_again(
    kafka: str, topic: str, tmp_path: Path, undisturbed: dict[str, pl.DataFrame]
) -> None:
    settings = _settings(tmp_path, kafka, topic, max_alerts=100)
    for table in ("objects", "detections"):
        before = _version(settings.lake.path, table)
        process = _command(settings)
        try:
            # The batch is in the middle: one table has its commit, the others are on their way.
            _wait(lambda: _version(settings.lake.path, table) > max(before, 0), process)  # noqa: B023
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    process = _command(settings)
    assert process.wait(timeout=300) == 0
    assert_same(snapshot(settings.lake.path), undisturbed)


def _command(settings: Settings) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "ALERCE_LAKE__LEASE_TIMEOUT_S": "3",
        "ALERCE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "ALERCE_KAFKA__TOPICS": f'["{settings.kafka.topics[0]}"]',
        "ALERCE_STREAM__PHOTOMETRY_MIN_ALERTS": str(settings.stream.photometry_min_alerts),
        "ALERCE_STREAM__PHOTOMETRY_MAX_ALERTS": str(settings.stream.photometry_max_alerts),
    }
    arguments = ["stream", "--queries", "photometry", "--until-empty", "--lake", settings.lake.path]
    code = f"from alerce_spark.cli import main; main({arguments!r})"
    _wait(lambda: not _leased(settings.lake.path))
    return subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)


def _leased(path: str) -> bool:
    file = Path(path) / "_leases" / "photometry.json"
    return file.exists() and time.time() - file.stat().st_mtime < 3


def _version(path: str, table: str) -> int:
    try:
        return lake.storage.delta_table(path, table).version()
    except LakeError:
        return -1


def _wait(condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, limit: float = 240) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert process is None or process.poll() is None, "the process ended before the moment to kill it"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def running(spark: SparkSession, kafka: str, tmp_path: Path) -> Iterator[Settings]:
    """A stream on a pattern of topics that runs beside the test, and must stop cleanly."""
    settings = _settings(tmp_path, kafka, "new_[0-9]+_night", max_alerts=1000)
    topics.create(kafka, ["new_1_night"], 1)
    stream = Stream(spark, settings)
    thread = threading.Thread(target=stream.run)
    thread.start()
    yield settings
    stream.stop()
    thread.join(timeout=120)
    assert not thread.is_alive()
    assert not (Path(settings.lake.path) / "_leases" / "photometry.json").exists()


def test_topics_made_while_the_stream_runs_and_packets_sent_through_it(
    running: Settings, kafka: str, packets: list[bytes], undisturbed: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    third = len(packets) // 3
    topics.send(kafka, "new_1_night", packets[:third])
    _wait(lambda: _version(running.lake.path, "detections") > 0)
    topics.create(kafka, ["new_2_night"], 1)
    topics.send(kafka, "new_2_night", packets[third : 2 * third])
    folder = tmp_path / "rest"
    folder.mkdir()
    for i, packet in enumerate(packets[2 * third :]):
        (folder / f"{i}.avro").write_bytes(packet)
    assert send_through_stream(running, [folder], "new_1_night") == len(packets) - 2 * third

    def settled() -> bool:
        stored = snapshot(running.lake.path)
        try:
            assert_same(stored, undisturbed)
        except AssertionError:
            return False
        return True

    # A detection counts as soon as any packet carried it, so only the tables themselves tell that all have arrived.
    _wait(settled)
