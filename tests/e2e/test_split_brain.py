"""A query that fails leaves the others alone and says why; an application that lost its lease ends and does no harm."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient
from pyspark.sql import SparkSession

from alerce_spark import local_kafka
from alerce_spark.cli import main
from alerce_spark.config import Settings
from alerce_spark.kafka import topics
from alerce_spark.streaming import metrics
from alerce_spark.streaming.run import Stream
from tests.e2e.undisturbed import Application, settings_of, survey, wait

pytestmark = [pytest.mark.spark, pytest.mark.kafka]


@contextmanager
def running(stream: Stream) -> Iterator[Stream]:
    """A stream beside the test, which must end without an error."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            stream.run()
        except BaseException as error:  # noqa: BLE001  (whatever it is, the test must fail with it)
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stream
    finally:
        stream.stop()
        thread.join(timeout=180)
        assert not thread.is_alive()
    assert not failures, failures


def _figures(stream: Stream, query: str) -> dict[str, Any]:
    found: dict[str, Any] = stream.metrics.status()["queries"][query]
    return found


def _status(settings: Settings, expected: int, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match=str(expected)):
        main(["status", "--lake", settings.lake.path])
    return " ".join(capsys.readouterr().out.split())


def _stored(settings: Settings) -> int:
    folder = Path(settings.archive.url.removeprefix("file:"))
    return sum(1 for file in folder.rglob("*.avro") if ".parts" not in file.parts)


def test_a_query_that_cannot_go_on_fails_alone_and_goes_on_when_it_is_mended_as_it_says(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers, topic = f"127.0.0.1:{local_kafka.free_port()}", "ztf_20200607_failures"
    queries = ["archive", "photometry"]
    settings = settings_of(
        tmp_path, servers, topic, stream={"queries": queries, "photometry": {"interval_s": 1.0, "min_messages": 1}}
    )
    sent = survey(71, 60, objects=36, nights=16, cadence=1, bad=0).packets
    checkpoint = Path(settings.checkpoints) / "archive"
    with running(Stream(spark, settings)) as stream:
        wait(lambda: stream.metrics.status()["kafka"] is not None, "no broker answers")
        assert "no Kafka broker answers" in _status(settings, 1, capsys)
        local_kafka.start(servers, tmp_path / "kafka")
        topics.create(servers, [topic], 2)
        topics.send(servers, topic, sent[:20])
        for query in queries:
            wait(lambda query=query: _figures(stream, query)["alerts"] >= 20, "both take alerts")  # type: ignore[misc]
    assert _stored(settings) == 20

    newest = max((checkpoint / "offsets").glob("[0-9]*"), key=lambda file: int(file.name))
    newest.write_bytes(b"")
    try:
        with running(Stream(spark, settings)) as stream:
            wait(lambda: _figures(stream, "archive")["failures"] > 0, "the damaged checkpoint is found")
            topics.send(servers, topic, sent[20:40])
            wait(lambda: _figures(stream, "photometry")["alerts"] >= 20, "the other query goes on")
            wait(lambda: _figures(stream, "archive")["lag"] >= 20, "what waits is known though the query fails")
            wait(
                lambda: (metrics.read(settings.lake.path) or {})["queries"]["archive"]["state"] == "fails", "its state"
            )
            shown = _status(settings, 1, capsys)
            assert f"damaged checkpoint: {newest} cannot be read" in shown
            assert f"rm -r {checkpoint}" in shown
            assert _figures(stream, "photometry")["failures"] == 0
            shutil.rmtree(checkpoint)
            wait(lambda: _figures(stream, "archive")["state"] == "runs", "it goes on")
            wait(lambda: _stored(settings) == 40, "and takes what waited")

            # The topic is made again with fewer partitions.
            admin = AdminClient({"bootstrap.servers": servers})
            for future in admin.delete_topics([topic]).values():
                future.result()
            wait(lambda: topics.create(servers, [topic], 1) == [topic], "the topic is deleted", pause=1.0)
            topics.send(servers, topic, sent[40:])
            for query in queries:
                wait(lambda query=query: _figures(stream, query)["state"] == "fails", "both say so")  # type: ignore[misc]
                assert _figures(stream, query)["cause"] in ("topic gone", "data loss")
                assert str(checkpoint.parent / query) in _figures(stream, query)["error"]
                shutil.rmtree(checkpoint.parent / query)
                wait(lambda query=query: _figures(stream, query)["state"] == "runs", "each goes on")  # type: ignore[misc]
            wait(lambda: _stored(settings) == 60, "everything is stored")
    finally:
        local_kafka.stop(tmp_path / "kafka")


@pytest.mark.parametrize("victims", ["driver", "all"])
def test_an_application_that_stood_still_ends_and_does_its_successor_no_harm(
    victims: str, spark: SparkSession, kafka: str, tmp_path: Path
) -> None:
    topic = f"ztf_20200608_brains_{victims}"
    queries = {"queries": ["archive", "stamps"]}
    settings = settings_of(tmp_path, kafka, topic, lake={"lease_timeout_s": 6.0}, stream=queries)
    topics.create(kafka, [topic], 2)
    sent = survey(81, 120, objects=36, nights=16, cadence=1, bad=0).packets
    application = Application(settings, tmp_path / "application")
    application.start()
    try:
        application.wait_until_it_runs()
        topics.send(kafka, topic, sent[:40])
        wait(lambda: _stored(settings) == 40, "the first takes alerts")
        application.pause(victims)
        successor = Stream(spark, settings)
        wait(lambda: _lease_is_old(settings), "the lease expires")
        with running(successor):
            for part in np.array_split(np.array(sent[40:], object), 2):
                topics.send(kafka, topic, part.tolist())
                wait(lambda: successor.has_started, "the second runs")
            wait(lambda: _stored(settings) == 120, "the second takes alerts")
            status, said = application.go_on(victims)
            assert status == 2
            assert "was taken by another application" in said
            topics.send(kafka, topic, sent)
            wait(lambda: _figures(successor, "stamps")["alerts"] >= 200, "the second goes on")
            for name in queries["queries"]:
                assert _figures(successor, name)["failures"] == 0, _figures(successor, name)
    finally:
        application.end()


def _lease_is_old(settings: Settings) -> bool:
    """Whether a lease was not renewed for its time."""
    age = os.stat(Path(settings.lake.path) / "_leases" / "archive.json").st_mtime
    probe = Path(settings.lake.path) / "now"
    probe.touch()
    return probe.stat().st_mtime - age > settings.lake.lease_timeout_s
