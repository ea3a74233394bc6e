"""The streaming application without Spark: what it refuses and waits for, and how each thread's errors are told."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
from pyspark.sql import SparkSession

from alerce_spark.cli import main
from alerce_spark.config import Settings
from alerce_spark.lease import Lease, LeaseHeld, LeaseLost
from alerce_spark.local_kafka import free_port
from alerce_spark.streaming import metrics
from alerce_spark.streaming.causes import Cause
from alerce_spark.streaming.metrics import Metrics
from alerce_spark.streaming.run import Stream, StreamFailed

SettingsFor = Callable[..., Settings]


def _no_session() -> SparkSession:
    raise AssertionError("Spark was started")


@pytest.fixture
def away(settings_for: SettingsFor) -> Settings:
    """Settings of a stream of one query whose broker is away."""
    return settings_for(
        kafka={"bootstrap_servers": f"127.0.0.1:{free_port()}"},
        stream={"queries": ["archive"], "restart_wait_s": 0.01, "restart_wait_max_s": 0.01},
    )


@pytest.mark.parametrize("query", ["archive", "stamps", "lightcurves", "photometry", "crossmatch", "results"])
def test_two_applications_with_the_same_query_are_refused(query: str, settings_for: SettingsFor) -> None:
    settings = settings_for(stream={"queries": [query]})
    with (
        Lease(settings.lake.path, "the first", 60.0, [query]),
        pytest.raises(LeaseHeld, match=f"{query} of .* the first"),
    ):
        Stream(_no_session, settings).run()


def test_without_a_broker_a_stream_says_so_and_waits_until_it_is_stopped(
    away: Settings, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Stream(_no_session, away)
    thread = threading.Thread(target=stream.run)
    with caplog.at_level(logging.WARNING, "alerce_spark"):
        thread.start()
        while not caplog.records and thread.is_alive():
            thread.join(0.05)
    (line,) = [record.getMessage() for record in caplog.records if "no Kafka broker" in record.getMessage()]
    assert away.kafka.bootstrap_servers in line
    assert "refused" in line
    assert "kafka.bootstrap_servers" in line
    stream.metrics.write()
    with pytest.raises(SystemExit, match="1"):
        main(["status", "--lake", away.lake.path])
    assert "no Kafka broker answers" in capsys.readouterr().out
    stream.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_a_run_until_empty_does_not_wait_for_a_broker_without_end(away: Settings) -> None:
    with pytest.raises(StreamFailed, match=away.kafka.bootstrap_servers):
        Stream(_no_session, away, until_empty=True, attempts=1).run()


class Alone(Stream):
    """A stream whose queries are functions of the test in place of Spark's."""

    queries: dict[str, Callable[[], None]]

    def _run_queries(self) -> None:
        self._run_together(list(self.queries))

    def _wait_for(self, broker: Any) -> bool:
        return True

    def _query(self, name: str) -> Any:
        return SimpleNamespace(name=name)

    def _run_once(self, query: Any, progressed: threading.Event) -> None:
        self.queries[query.name]()


def _alone(settings: Settings, names: list[str], is_stopped: bool = False, **options: Any) -> Alone:
    context = SimpleNamespace(_jsc=SimpleNamespace(sc=lambda: SimpleNamespace(isStopped=lambda: is_stopped)))
    spark: Any = SimpleNamespace(sparkContext=context)
    stream = settings.stream.model_copy(update={"queries": names})
    return Alone(spark, settings.model_copy(update={"stream": stream}), **options)


def test_an_unforeseen_error_of_one_query_is_told_and_leaves_the_others_alone(
    away: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    left, other_ended = [3], threading.Event()

    def fails_at_first() -> None:
        assert other_ended.wait(60)
        if left[0]:
            left[0] -= 1
            raise KeyError("numInputRows")

    stream = _alone(away, ["archive", "stamps"])
    stream.queries = {"archive": fails_at_first, "stamps": other_ended.set}
    stream.run()
    told = stream.metrics.status()["queries"]
    assert (told["archive"]["failures"], told["archive"]["state"]) == (3, metrics.ENDED)
    assert told["archive"]["error"] == "KeyError: 'numInputRows'"
    assert (told["stamps"]["failures"], told["stamps"]["state"]) == (0, metrics.ENDED)
    assert "query archive failed (3 in a row)" in caplog.text


def test_only_a_dead_jvm_or_a_lost_lease_ends_all(away: Settings) -> None:
    ended: list[str] = []
    started = threading.Event()

    def fails() -> None:
        raise OSError("[Errno 111] Connection refused")

    dead = _alone(away, ["archive"], is_stopped=True)
    dead.queries = {"archive": fails}
    with pytest.raises(StreamFailed, match="query archive: Spark's JVM does not answer"):
        dead.run()

    def loses() -> None:
        assert started.wait(60)
        try:
            raise LeaseLost("the lease on archive was taken by another application")
        except LeaseLost as error:
            raise RuntimeError("a batch failed") from error

    def runs() -> None:
        started.set()
        lost._stopping.wait(60)
        ended.append("stamps")

    lost = _alone(away, ["archive", "stamps"])
    lost.queries = {"archive": loses, "stamps": runs}
    with pytest.raises(StreamFailed, match="the lease on archive was taken"):
        lost.run()
    assert ended == ["stamps"]
    assert lost.metrics.lake is None  # the status file is another application's


def test_a_lease_lost_with_nothing_to_write_ends_the_application(
    away: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = away.model_copy(update={"lake": away.lake.model_copy(update={"lease_timeout_s": 0.6})})
    stream = _alone(settings, ["archive", "stamps"])

    def waits_for_alerts() -> None:
        (Path(settings.lake.path) / "_leases" / "stamps.json").write_text(
            json.dumps({"token": "1", "holder": "a thief"})
        )
        threading.Event().wait(60)  # in the hands of a file system that hangs

    stream.queries = {"archive": waits_for_alerts, "stamps": waits_for_alerts}
    with pytest.raises(StreamFailed, match=r"stamps of .* was taken by another application \(a thief, "):
        stream.run()


def test_a_query_that_fails_is_in_status_and_metrics_until_it_works_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(expected: str) -> str:
        told.write()
        with pytest.raises(SystemExit, match=expected):
            main(["status", "--lake", str(tmp_path)])
        return " ".join(capsys.readouterr().out.split())

    port = free_port()
    told = Metrics(["archive", "stamps"], str(tmp_path), port)
    told.works("stamps")
    cure = "free or add room " * 40 + "at the end"  # what to do comes last
    assert "fails" not in status("0")
    told.failed("archive", Cause("disk full", f"No space left on device: '/lake/[x]'; {cure}"))
    shown = status("1")
    assert "archive fails since 20" in shown
    assert f"disk full: No space left on device: '/lake/[x]'; {cure}" in shown
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    assert 'alerce_failing{cause="disk full",query="archive"} 1.0' in lines
    told.failed("archive", Cause("data loss", "Partition t-0 offset was changed from 40 to 5"))
    told.works("archive")
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    assert {line for line in lines if line.startswith("alerce_failing{") and not line.endswith(" 0.0")} == set()
    assert "last failure" in status("0")


def test_damaged_status_files_are_passed_over_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Metrics(["stamps"], str(tmp_path)).write()
    folder = tmp_path / "_status"
    bad = {
        "archive": b"",
        "results": b"{",
        "photometry": b"[1]",
        "crossmatch": b'{"now": "x"}',
        "lightcurves": b"\xff\0",
    }
    for name, content in bad.items():
        (folder / f"{name}.json").write_bytes(content)
    with pytest.raises(SystemExit, match="0"):
        main(["status", "--lake", str(tmp_path)])
    shown = "".join(capsys.readouterr().out.split())
    assert "stamps" in shown
    for name in bad:
        assert f"{name}.json" in shown
    (folder / "stamps.json").unlink()
    with pytest.raises(SystemExit, match="2"):
        main(["status", "--lake", str(tmp_path)])


def test_an_application_that_was_killed_is_not_heard_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = Metrics(["stamps"], str(tmp_path))
    told.works("stamps")
    told.write()
    (file,) = (tmp_path / "_status").iterdir()
    status = json.loads(file.read_text())
    file.write_text(json.dumps(status | {"now": "2026-01-01T00:00:00+00:00"}))
    with pytest.raises(SystemExit, match="1"):
        main(["status", "--lake", str(tmp_path)])
    assert "stamps not heard of since 2026-01-01" in capsys.readouterr().out
    told.end()
    told.write()
    with pytest.raises(SystemExit, match="0"):
        main(["status", "--lake", str(tmp_path)])
