"""The one-node broker: started once, found again, stopped, and clear errors."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

import pytest

from alerce_spark import local_kafka
from alerce_spark.kafka import topics
from alerce_spark.needs import MissingError

pytestmark = pytest.mark.kafka


def test_started_found_again_used_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # ps cuts its lines at this width
    # A cluster whose name begins with "-", which is no option of the tool that formats its folder.
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=b"\xf8" + bytes(15)))
    servers = f"127.0.0.1:{local_kafka.free_port()}"
    assert local_kafka.status(tmp_path) is None
    broker = local_kafka.start(servers, tmp_path)
    try:
        assert local_kafka.start(servers, tmp_path) == broker
        assert local_kafka.status(tmp_path) == broker
        assert topics.create(servers, ["a", "b"], 2) == ["a", "b"]
        assert topics.create(servers, ["b", "c"], 2) == ["c"]
        assert topics.send(servers, "a", [b"1", b"2"]) == 2
        with pytest.raises(local_kafka.KafkaError, match="taken by another program"):
            local_kafka.start(servers, tmp_path / "other")
        with pytest.raises(local_kafka.KafkaError, match=f"already runs at {servers}"):
            local_kafka.start(f"127.0.0.1:{local_kafka.free_port()}", tmp_path)
        assert broker.log.is_file()
    finally:
        assert local_kafka.stop(tmp_path)
    assert local_kafka.status(tmp_path) is None
    assert not local_kafka.stop(tmp_path)
    # Its data are kept: the topics are there again.
    local_kafka.start(servers, tmp_path)
    try:
        assert topics.create(servers, ["a"], 2) == []
    finally:
        assert local_kafka.stop(tmp_path)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(local_kafka.KafkaError, match=rf"port {port} .* taken"):
            local_kafka.start(f"127.0.0.1:{port}", tmp_path)


def test_missing_java_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(MissingError, match="Install Java 17"):
        local_kafka.start(f"127.0.0.1:{local_kafka.free_port()}", tmp_path)


@pytest.mark.parametrize("servers", ["nowhere", "10.0.0.1:9092"])
def test_addresses_that_are_not_of_this_machine_are_refused(servers: str, tmp_path: Path) -> None:
    with pytest.raises(local_kafka.KafkaError, match=r"host:port|this machine"):
        local_kafka.start(servers, tmp_path)


def test_a_stale_state_file_is_not_taken_for_a_broker(tmp_path: Path) -> None:
    import json
    import os

    state = {"pid": os.getpid(), "bootstrap_servers": "127.0.0.1:1", "controller_port": 2, "folder": str(tmp_path)}
    (tmp_path / "broker.json").write_text(json.dumps(state))
    assert local_kafka.status(tmp_path) is None
    assert not local_kafka.stop(tmp_path)
