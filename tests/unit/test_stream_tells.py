"""Faults that were silent, slow or loud: no topic, no broker, a signal to all processes, a batch that fails."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from py4j.protocol import Py4JJavaError

from alerce_spark.cli import main
from alerce_spark.config import Settings
from alerce_spark.kafka import topics
from alerce_spark.lake import write
from alerce_spark.local_kafka import free_port
from alerce_spark.streaming import broker, metrics, run
from alerce_spark.streaming.query import Handler
from alerce_spark.streaming.run import Stream

SettingsFor = Callable[..., Settings]


class Waiting(Stream):
    """A stream whose queries wait until it is stopped."""

    def _run_queries(self) -> None:
        self._stopping.wait(60)


def _said(caplog: pytest.LogCaptureFixture, part: str, thread: threading.Thread) -> str:
    """The first line of the log with `part`, which is waited for."""
    while thread.is_alive():
        for record in caplog.records:
            if part in record.getMessage():
                return record.getMessage()
        thread.join(0.02)
    raise AssertionError(f"{part!r} was not said: {caplog.text}")


def test_a_stream_without_a_topic_says_so_once_with_those_that_are_there(
    settings_for: SettingsFor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there: dict[str, Any] = {f"ztf-{k}": SimpleNamespace(partitions={}) for k in range(8)}
    there["__consumer_offsets"] = SimpleNamespace(partitions={})
    looks = []

    def list_topics(timeout: float) -> SimpleNamespace:
        looks.append(timeout)
        return SimpleNamespace(topics=dict(there))

    monkeypatch.setattr(broker, "AdminClient", lambda options: SimpleNamespace(list_topics=list_topics))
    monkeypatch.setattr(run, "ASK_S", 0.01)
    settings = settings_for(kafka={"topics": ["ztf_[0-9]{8}_programid1"]}, stream={"queries": ["archive", "results"]})
    stream = Waiting(lambda: None, settings)  # type: ignore[arg-type, return-value]
    thread = threading.Thread(target=stream.run)
    with caplog.at_level(logging.WARNING, "alerce_spark"):
        thread.start()
        line = _said(caplog, "no topic matches", thread)
        assert "ztf_[0-9]{8}_programid1" in line
        assert "ztf-0, ztf-1, ztf-2, ztf-3, ztf-4 and 3 more" in line
        stream.metrics.write()
        known = metrics.read(settings.lake.path)
        assert known is not None
        assert known["queries"]["archive"]["topics"] == stream.metrics.status()["topics"]
        with pytest.raises(SystemExit, match="0"):
            main(["status", "--lake", settings.lake.path])
        assert "no topic matches (ztf_[0-9]{8}_programid1)(_reprocess)?" in " ".join(capsys.readouterr().out.split())
        begun = len(looks)
        while len(looks) < begun + 8 and thread.is_alive():
            thread.join(0.02)
        there["ztf_20200601_programid1"] = SimpleNamespace(partitions={})
        _said(caplog, "a topic matches now", thread)
        assert caplog.text.count("no topic matches") == 1
        assert stream.metrics.status()["topics"] is None
        stream.stop()
        thread.join(60)
    assert not thread.is_alive()


def test_it_is_said_again_after_an_hour(
    settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [10_000.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    stream = Stream(lambda: None, settings_for(stream={"queries": ["results"]}))  # type: ignore[arg-type, return-value]
    none_there: Any = SimpleNamespace(servers="broker:9092", unmatched=lambda pattern: "none at all")
    for seconds in (0, 5, 3500, 3700, 3800, 7400):
        now[0] = 10_000.0 + seconds
        stream._tell_of_topics(none_there)
    assert caplog.text.count("no topic matches") == 3  # at once, and after more than one and two hours
    assert "stamp_classifier" in caplog.text  # nothing else is read by this application


@pytest.mark.parametrize("command", ["import", "integrity"])
def test_without_a_broker_commands_end_before_the_work(
    command: str,
    settings_for: SettingsFor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("this takes a minute to find that no broker answers")

    monkeypatch.setattr(broker, "_ANSWER_S", 0.5)
    monkeypatch.setattr(topics, "create", never)
    monkeypatch.setattr("alerce_spark.session.spark_session", never)
    servers = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("ALERCE_KAFKA__BOOTSTRAP_SERVERS", servers)
    lake = settings_for().lake.path
    write.create(lake, 4)
    (tmp_path / "a.avro").write_bytes(b"Obj\x01")
    wanted = {
        "import": ["import", str(tmp_path / "a.avro"), "--through-stream", "ztf_1"],
        "integrity": ["integrity", "--night", "20200601"],
    }
    with pytest.raises(SystemExit, match="2"):
        main([*wanted[command], "--lake", lake])
    said = " ".join(capsys.readouterr().err.split())
    assert f"no Kafka broker answers at {servers}" in said
    assert "kafka.bootstrap_servers" in said


def test_a_signal_to_all_processes_of_a_demo_ends_it_with_one_line(tmp_path: Path) -> None:
    """SIGTERM to the group ends the JVM too: every thread that asks it for something then fails."""
    program = """
import contextlib, logging, os, signal, sys, time
from alerce_spark import demo
from alerce_spark.cli import main
from py4j.protocol import Py4JNetworkError

class Jvm:
    def stop(self):
        raise Py4JNetworkError("Answer from Java side is empty")

class Stream:
    has_started = True
    def __init__(self, *_):
        self.stopped = False
    def run(self):
        while not self.stopped:
            time.sleep(0.01)
        logging.getLogger("py4j").error("Error while sending or receiving", exc_info=ValueError("o1"))
        raise Py4JNetworkError("Answer from Java side is empty")
    def stop(self):
        self.stopped = True

demo.needs.to_run = demo.topics.create = demo.local_kafka.start = demo.local_kafka.stop = lambda *_: None
demo.kernels.compiling = lambda: contextlib.nullcontext(lambda: None)
demo._jars = lambda settings: []
demo._packets = lambda *_: ([b"a"], {})
demo.spark_session = lambda *_: Jvm()
demo.Stream = Stream
demo.topics.send = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
main(["demo", "--folder", sys.argv[1]])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done
    assert done.stdout.splitlines()[-1].startswith("Stopped; ")
    assert "Traceback" not in done.stderr
    assert "Py4J" not in done.stderr


class Java:
    """A Throwable as Py4J shows it."""

    def getClass(self) -> Java:
        return self

    def getName(self) -> str:
        return "java.io.IOException"

    def getMessage(self) -> str:
        return "No space left on device"

    def getCause(self) -> None:
        return None


class Thrown(Py4JJavaError):
    """Py4J's error with a long trace of Java in its text."""

    def __init__(self) -> None:
        Exception.__init__(self)
        self.java_exception = Java()

    def __str__(self) -> str:
        return "An error occurred while calling o1.collect.\n: java.io.IOException\n" + "\tat a.b.c(d.java:1)\n" * 2000


Thrown.__module__, Thrown.__qualname__ = "py4j.protocol", "Py4JJavaError"


def test_of_a_failed_batch_spark_is_told_the_cause_in_a_few_words(settings_for: SettingsFor) -> None:
    def fails(packets: Any) -> None:
        try:
            raise Thrown
        except Thrown as error:
            raise ValueError("the rows of a batch") from error

    for handler in (fails, _raises(Thrown())):
        stream = Stream(lambda: None, settings_for(stream={"queries": ["archive"]}))  # type: ignore[arg-type, return-value]
        stream._lease = SimpleNamespace(check=lambda: None)  # type: ignore[assignment]
        try:
            stream._guarded("archive", handler, threading.Event())(None, 0)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001  (Py4J takes any, and sends its trace to the JVM)
            told, raised = traceback.format_exc(), error
        assert len(told) < 2000
        assert "py4j.protocol.Py4JJavaError: An error occurred while calling" not in told
        assert "disk full: No space left on device; free or add room" in str(raised)
        cause = stream._explain("archive", stream._raised["archive"])
        assert (cause.kind, "free or add room" in cause.words) == ("disk full", True)


def _raises(error: Exception) -> Handler:
    def handle(packets: Any) -> None:
        raise error

    return handle
