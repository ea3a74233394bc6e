"""Through a real Kafka broker: crashes at every commit, replays and new topics leave the same tables."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from alerce_spark.alerts.files import insist
from alerce_spark.config import Settings
from alerce_spark.errors import LakeError
from alerce_spark.kafka import topics
from alerce_spark.lake import write
from alerce_spark.lake.handles import delta_table
from alerce_spark.simulation.defects import corrupt
from alerce_spark.simulation.night import Traits, simulate
from alerce_spark.streaming.backfill import send_through_stream
from alerce_spark.streaming.query import Handler, Query
from alerce_spark.streaming.run import Stream, StreamFailed
from tests.e2e.undisturbed import Crash, CrashingCommits
from tests.lakes import WRITTEN, assert_complete, assert_keys_unique, assert_same, records, snapshot

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
                "photometry": {"interval_s": 0.5, "min_messages": max_alerts, "max_messages": max_alerts},
                "restart_wait_s": 0.1,
                "restart_wait_max_s": 0.1,
            },
        },
    )


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
    crashing = CrashingCommits(armed=True)
    with monkeypatch.context() as patched:
        crashing.install(patched)

        def crash_at_the_end(query: str, epoch: int, result: object) -> None:
            if crashing.armed:
                crashing.armed = False
                raise Crash("injected before Spark's own commit")

        Stream(spark, settings, crash_at_the_end, until_empty=True, attempts=20).run()
    assert crashing.crashed == set(WRITTEN)
    assert not crashing.armed
    assert_same(snapshot(settings.lake.path), undisturbed)

    shutil.rmtree(Path(settings.checkpoints) / "photometry")
    Stream(spark, settings, until_empty=True).run()
    assert_same(snapshot(settings.lake.path), undisturbed)


def _version(path: str, table: str) -> int:
    try:
        return delta_table(path, table).version()
    except LakeError:
        return -1


def _wait(condition: Callable[[], bool], limit: float = 240) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


class Hanging(Stream):
    """A stream whose first batch of `archive` comes to no end until it is let go; later ones count their packets."""

    where = "worker"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.let_go = threading.Event()
        self.batches = 0

    def _handler_of(self, query: Query) -> Handler:
        return self._hang_at_first

    def _hang_at_first(self, packets: DataFrame) -> int:
        def sleep(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            time.sleep(86400)
            return batches

        self.batches += 1
        if self.batches == 1 and self.where == "driver":
            self.let_go.wait()
        elif self.batches == 1:
            packets.mapInArrow(sleep, "value BINARY").count()
        return packets.count()


@pytest.fixture
def hasty(spark: SparkSession, kafka: str, topic: str, tmp_path: Path) -> Iterator[Settings]:
    """Settings under which a batch hangs after seconds."""
    before = spark.conf.get("spark.sql.streaming.stopTimeout")
    spark.conf.set("spark.sql.streaming.stopTimeout", "3s")
    settings = _settings(tmp_path, kafka, topic, max_alerts=1000)
    stream = settings.stream.model_copy(update={"queries": ["archive"], "batch_timeout_s": 4.0})
    yield settings.model_copy(update={"stream": stream})
    spark.conf.set("spark.sql.streaming.stopTimeout", before)


def test_a_batch_that_hangs_in_a_worker_is_ended_and_starts_again(
    spark: SparkSession, hasty: Settings, packets: list[bytes]
) -> None:
    taken: list[object] = []
    stream = Hanging(
        spark, hasty, lambda query, epoch, result: taken.append((epoch, result)), until_empty=True, attempts=50
    )
    stream.run()
    assert stream.batches >= 2
    assert taken == [(0, len(packets))]
    told = stream.metrics.status()["queries"]["archive"]
    assert told["failures"] >= 1
    assert "a batch took longer than stream.batch_timeout_s = 4, and was ended" in told["error"]


def test_a_batch_that_hangs_in_the_driver_ends_the_application(spark: SparkSession, hasty: Settings) -> None:
    stream = Hanging(spark, hasty)
    stream.where = "driver"
    try:
        with pytest.raises(StreamFailed, match=r"query archive: a batch took longer .* cannot be ended"):
            stream.run()
    finally:
        stream.let_go.set()
    _wait(lambda: not spark.streams.active)


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
    assert send_through_stream(running, [folder], "new_1_night", insist) == len(packets) - 2 * third

    def settled() -> bool:
        stored = snapshot(running.lake.path)
        try:
            assert_same(stored, undisturbed)
        except AssertionError:
            return False
        return True

    # A detection counts as soon as any packet carried it, so only the tables themselves tell that all have arrived.
    _wait(settled)
