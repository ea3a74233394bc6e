"""The archive query through Kafka, Spark and a real S3 server that is misconfigured, stopped and started again."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from astropy.time import Time
from confluent_kafka import Producer

from alerce_spark.config import ArchiveSettings, Settings
from alerce_spark.kafka import topics
from alerce_spark.repository import RepositoryError, open_repository
from alerce_spark.simulation.defects import corrupt
from alerce_spark.simulation.night import simulate
from alerce_spark.streaming.queries.archive import uploader
from alerce_spark.streaming.run import Stream
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, open_server

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: The server may have to be built first.
pytestmark = pytest.mark.timeout(2000)

_CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
_BROKEN = ("html", "truncated", "bad_magic", "wrong_type", "nan_position", "ra_out_of_range")
_PATIENCE_S = 240.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    server = open_server(tmp_path)
    server.start()
    yield server
    server.stop()


def _settings(server: S3Server, **more: Any) -> ArchiveSettings:
    return ArchiveSettings(url="s3://alerts/raw", endpoint_url=server.endpoint, **more)


def _stored(server: S3Server) -> dict[str, bytes]:
    """Keys and bytes of the bucket, read by boto3 alone."""
    client = server.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="alerts")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {key: client.get_object(Bucket="alerts", Key=key)["Body"].read() for key in keys}


def _wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"not within {_PATIENCE_S:.0f} s: {what}"
        time.sleep(0.05)


def test_a_real_server_tells_what_is_wrong(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RepositoryError, match=r"archive\.url = 's3://alerts/raw' .* no such bucket; make it"):
        open_repository(_settings(server)).put("ztf/1", b"packet")
    server.client().create_bucket(Bucket="alerts")
    for name in _CREDENTIALS:
        with monkeypatch.context() as wrong:
            wrong.setenv(name, "wrong")
            with pytest.raises(RepositoryError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
                open_repository(_settings(server)).put("ztf/1", b"packet")
    there = open_repository(_settings(server))
    keys = [f"ztf/{n % 3}/{n}.avro" for n in range(30)]
    there.put_all((key, key.encode()) for key in keys)
    there.put("ztf/empty", b"")
    assert list(there.keys()) == sorted([*keys, "ztf/empty"])
    assert list(there.keys("ztf/1/")) == sorted(key for key in keys if key.startswith("ztf/1/"))
    assert [there.get(key) for key in keys] == [key.encode() for key in keys]
    assert there.get("ztf/empty") == b""
    with pytest.raises(KeyError):
        there.get("ztf/2/nothing")


def test_a_short_outage_is_waited_out(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is away for a moment costs the batch nothing but time."""
    for name, value in _CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server.client().create_bucket(Bucket="alerts")
    packets = simulate(3, objects=4, stamps=False).packets
    server.stop()
    starting = threading.Timer(0.5, server.start)
    starting.start()
    batch = pa.RecordBatch.from_pydict({"packet": pa.array(packets, pa.binary())})
    upload = uploader(_settings(server, max_attempts=12), "ztf")
    assert [done.to_pylist() for done in upload(iter([batch]))] == [[{"stored": len(packets), "error": None}]]
    starting.join()
    assert sorted(_stored(server).values()) == sorted(packets)


# Through Kafka and Spark.


@pytest.fixture
def workers_credentials(spark: SparkSession) -> Iterator[None]:
    """The environment of Python workers; that of the JVM, their parent, is older than the test."""
    environment = spark.sparkContext.environment
    before = dict(environment)
    environment.update(_CREDENTIALS)
    yield
    environment.clear()
    environment.update(before)


def _key(packet: bytes) -> str:
    record: Any = next(fastavro.reader(io.BytesIO(packet)))
    date = Time(record["candidate"]["jd"], format="jd", scale="utc").datetime
    return f"raw/ztf/{date:%Y%m%d}/{record['candid']}.avro"


def _a_night() -> tuple[list[bytes | None], dict[str, bytes]]:
    """About 300 packets, a few of them broken, empty or null, and what should be stored where."""
    good = simulate(11, objects=120, nights=6).packets[:300]
    rng = np.random.default_rng(11)
    broken = [corrupt(good[n], kind, rng) for n, kind in enumerate(_BROKEN)]
    expected = {_key(packet): packet for packet in good}
    expected |= {f"raw/ztf/unreadable/{hashlib.sha256(packet).hexdigest()}": packet for packet in [*broken, b""]}
    sent: list[bytes | None] = [*good, *broken, b"", None]
    return [sent[n] for n in rng.permutation(len(sent))], expected


def _send(servers: str, topic: str, packets: list[bytes | None]) -> None:
    producer = Producer({"bootstrap.servers": servers, "log_level": 0})
    for packet in packets:
        producer.produce(topic, packet)
    assert producer.flush(30) == 0


class _Running:
    """The stream's query `archive` in a thread, and the alerts it has stored."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.alerts = 0
        self._stream = Stream(spark, settings, self._count)
        self._thread = threading.Thread(target=self._stream.run)

    def __enter__(self) -> _Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.stop()
        self._thread.join()

    def _count(self, query: str, epoch: int, result: object) -> None:
        assert query == "archive"
        assert isinstance(result, int)
        self.alerts += result


@pytest.mark.spark
@pytest.mark.kafka
def test_nothing_is_lost_while_the_server_is_away(
    spark: SparkSession,
    kafka: str,
    server: S3Server,
    workers_credentials: None,
    settings_for: Callable[..., Settings],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The query waits for a bucket that is missing, then for a server that is stopped, and then stores what came."""
    topic = "ztf_20200531_archive_outage"
    topics.create(kafka, [topic], 2)
    settings = settings_for(
        kafka={"bootstrap_servers": kafka, "topics": [topic]},
        archive=_settings(server, max_attempts=2).model_dump(),
        stream={
            "queries": ["archive"],
            "archive": {"interval_s": 0, "max_messages": 60},
            "restart_wait_s": 0.5,
            "restart_wait_max_s": 1.0,
        },
    )
    packets, expected = _a_night()
    half = len(packets) // 2

    def failures(text: str) -> int:
        return sum("query archive failed" in m and settings.archive.url in m and text in m for m in caplog.messages)

    with caplog.at_level(logging.ERROR), _Running(spark, settings) as running:
        _send(kafka, topic, packets[:half])
        _wait_until(lambda: failures("no such bucket; make it or correct archive.url"), "an error names the bucket")
        assert running.alerts == 0
        server.client().create_bucket(Bucket="alerts")
        _wait_until(lambda: running.alerts > 0, "alerts are stored once the bucket is there")

        server.stop()
        _send(kafka, topic, packets[half:])
        _wait_until(lambda: failures("see whether the server runs") >= 2, "the query tries again and again")
        assert running.alerts < len(packets)
        server.start()
        _wait_until(lambda: running.alerts >= len(packets), "everything is stored once the server is back")
    assert running.alerts == len(packets)
    assert _stored(server) == expected
