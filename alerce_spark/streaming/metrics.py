"""Figures of the running queries: on a port for Prometheus, and in a file of the lake for `alerce-spark status`."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from alerce_spark.streaming.causes import Cause
from alerce_spark.streaming.checkpoints import Offsets

log = logging.getLogger(__name__)

_FOLDER = "_status"
#: Latencies that percentiles are made of, the latest of each step.
_KEPT = 5000
_BUCKETS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
PERCENTILES = (50, 95, 99)
#: An application that has not renewed its status file for so long, and did not end, is not heard of [s].
_SILENT_S = 30.0
#: Size of a status file, filled up with blanks: the next one finds room in its place.
_FILE_BYTES = 1 << 14
#: States of a query. One that failed fails until a batch succeeds; it is given up where it does not start again.
STARTING, RUNS, FAILS, GIVEN_UP, ENDED, SILENT = "starting", "runs", "fails", "given up", "ended", "not heard of"
#: Those that somebody should look at.
BAD = (FAILS, GIVEN_UP, SILENT)


@dataclass
class _Query:
    batch: int = -1
    alerts: int = 0
    rate: float = 0.0
    lag: int = 0
    taken: Offsets | None = None
    state: str = STARTING
    failures: int = 0
    error: str | None = None
    cause: str | None = None
    failing_since: float = 0.0
    failed: float = 0.0
    changed: float = 0.0


@dataclass
class Metrics:
    """Figures of the queries `names`; safe to feed from several threads.

    lake: where the status file is kept, None for none. port: of the Prometheus page on this machine's loopback, 0 for
    none; a port that is taken is said and done without.
    """

    names: Sequence[str]
    lake: str | None = None
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._queries = {name: _Query() for name in self.names}
        self._waits: dict[str, deque[float]] = {}
        self._models: dict[str, dict[str, str | None]] = {}
        self._kafka: str | None = None
        self._topics: str | None = None
        self._unwritten = False
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        registry = CollectorRegistry()
        self._lag = Gauge("alerce_lag_alerts", "Messages that wait", ["query"], registry=registry)
        self._rate = Gauge("alerce_rate", "Messages a second in the last batch", ["query"], registry=registry)
        self._alerts = Counter("alerce_alerts", "Messages taken", ["query"], registry=registry)
        self._failures = Counter("alerce_failures", "Times the query failed", ["query"], registry=registry)
        self._failing = Gauge("alerce_failing", "1 while the query fails", ["query", "cause"], registry=registry)
        self._kafka_away = Gauge("alerce_kafka_away", "1 while no broker answers", registry=registry)
        self._alarm = Gauge("alerce_alarm", "1 where the current model cannot be used", ["model"], registry=registry)
        self._latency = Histogram(
            "alerce_latency_seconds",
            "From the alert's time in Kafka to its result or row",
            ["step"],
            buckets=_BUCKETS,
            registry=registry,
        )
        for name in self.names:  # a rate needs the zero before the first one
            self._alerts.labels(name)
            self._failures.labels(name)
        if self.port:
            try:
                start_http_server(self.port, "127.0.0.1", registry)
            except OSError as error:
                log.error("no metrics on port %d: %s; set stream.metrics_port to a free one", self.port, error)

    def progress(self, query: str, progress: Mapping[str, Any]) -> None:
        """Take Spark's account of a batch (StreamingQueryProgress as a dictionary); repetitions are seen."""
        source = progress["sources"][0]
        waiting = _waiting(source.get("endOffset"), source.get("latestOffset"))
        with self._lock:
            known = self._queries[query]
            known.lag = waiting
            known.taken = _offsets(source.get("endOffset")) or known.taken
            self._lag.labels(query).set(waiting)
            if progress["batchId"] > known.batch and progress["numInputRows"]:
                known.batch, known.changed = progress["batchId"], time.time()
                known.alerts += progress["numInputRows"]
                known.rate = float(progress.get("processedRowsPerSecond") or 0.0)
                self._works(query, RUNS)
                self._alerts.labels(query).inc(progress["numInputRows"])
                self._rate.labels(query).set(known.rate)

    def failed(self, query: str, cause: Cause, state: str = FAILS) -> None:
        """A query failed, and will start again or is given up. The reason stays: what fails now and then is seen."""
        with self._lock:
            known = self._queries[query]
            known.failing_since = known.failing_since or time.time()
            known.failures, known.failed, known.state = known.failures + 1, time.time(), state
            self._failures.labels(query).inc()
            if known.cause is not None:
                self._failing.labels(query, known.cause).set(0)
            known.error, known.cause = str(cause), cause.kind
            self._failing.labels(query, cause.kind).set(1)

    def started(self, query: str) -> None:
        """A query was started; one that failed before has yet to show that it works."""
        with self._lock:
            if self._queries[query].state == STARTING:
                self._queries[query].state = RUNS

    def works(self, query: str, state: str = RUNS) -> None:
        """A query did what it should: a batch, a look at topics without news, or its end."""
        with self._lock:
            self._works(query, state)

    def _works(self, query: str, state: str) -> None:
        known = self._queries[query]
        if known.cause is not None:
            self._failing.labels(query, known.cause).set(0)
        known.state, known.cause, known.failing_since = state, None, 0.0

    def end(self) -> None:
        """The application ends: queries that run have ended, those that fail do not start again."""
        with self._lock:
            for name, known in self._queries.items():
                if known.state in (STARTING, RUNS):
                    self._works(name, ENDED)
                elif known.state == FAILS:
                    known.state = GIVEN_UP

    def kafka(self, problem: str | None) -> str | None:
        """Take why no broker answers, None where one does; returns what was told before."""
        with self._lock:
            before, self._kafka = self._kafka, problem
            self._kafka_away.set(problem is not None)
            return before

    def topics(self, problem: str | None) -> str | None:
        """Take that no topic matches and which ones are there, None where one matches; returns what was told before."""
        with self._lock:
            before, self._topics = self._topics, problem
            return before

    def still(self, seconds: float) -> dict[str, Offsets | None]:
        """Queries without a batch for so long, with the offsets up to which they took messages, if any is known."""
        with self._lock:
            now = time.time()
            return {name: known.taken for name, known in self._queries.items() if now - known.changed > seconds}

    def waiting(self, query: str, messages: int) -> None:
        """Number of messages that wait for a query without batches."""
        with self._lock:
            self._queries[query].lag = messages
            self._lag.labels(query).set(messages)

    def model(self, classifier: str, version: str | None, alarm: str | None) -> None:
        """The version of a classifier that is in use, and why the current one of the registry is not, if so."""
        with self._lock:
            before = self._models.get(classifier, {"version": None, "alarm": None})
            self._models[classifier] = {"version": version, "alarm": alarm}
            self._alarm.labels(classifier).set(alarm is not None)
        if alarm is not None and alarm != before["alarm"]:
            log.error("ALARM: the current model cannot be used, %s stays: %s", version or "none", alarm)
        elif alarm is None and before["alarm"] is not None:
            log.warning("alarm over: %s uses %s", classifier, version)

    def latency(self, step: str, seconds: ArrayLike) -> None:
        """Seconds from alerts' Kafka timestamps to their results of this step."""
        with self._lock:
            kept = self._waits.setdefault(step, deque(maxlen=_KEPT))
            for wait in np.asarray(seconds, float).tolist():
                kept.append(wait)
                self._latency.labels(step).observe(wait)

    def status(self) -> dict[str, Any]:
        """Everything as one JSON object."""
        with self._lock:
            queries = {
                name: {
                    "state": q.state,
                    "batch": q.batch,
                    "alerts": q.alerts,
                    "rate": q.rate,
                    "lag": q.lag,
                    "lag_s": q.lag / q.rate if q.rate else None,
                    "failures": q.failures,
                    "failing_since": _iso(q.failing_since),
                    "cause": q.cause,
                    "error": q.error,
                    "last_failure": _iso(q.failed),
                    "last_batch": _iso(q.changed),
                }
                for name, q in self._queries.items()
            }
            latency = {
                step: dict(zip(map(str, PERCENTILES), np.percentile(waits, PERCENTILES).tolist(), strict=True))
                for step, waits in self._waits.items()
                if waits
            }
            models, kafka, topics = dict(self._models), self._kafka, self._topics
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return {
            "since": self._since,
            "now": now,
            "pid": os.getpid(),
            "metrics_port": self.port,
            "kafka": kafka,
            "topics": topics,
            "queries": queries,
            "latency": latency,
            "models": models,
        }

    def write(self) -> None:
        """Renew the status file, where the lake is a folder."""
        if self.lake is None or "://" in self.lake.removeprefix("file://"):
            return
        # Applications with different queries may run side by side on one lake.
        file = _folder(self.lake) / f"{'-'.join(self.names)}.json"
        temporary = file.with_suffix(f".{os.getpid()}")
        text = json.dumps(self.status()).ljust(_FILE_BYTES)
        with self._lock:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                try:
                    temporary.write_text(text)
                    temporary.replace(file)
                except OSError:  # a full disk has the room of the file that is there, and must tell why queries fail
                    temporary.unlink(missing_ok=True)
                    with file.open("r+") as there:
                        there.write(text)
                self._unwritten = False
            except OSError as error:  # it must not end the stream
                if not self._unwritten:
                    log.warning("cannot write %s: %s", file, error)
                self._unwritten = True


def read(lake: str) -> dict[str, Any] | None:
    """Status of the last streams on this lake, the newest of each query; None without a stream.

    `damaged` are status files that cannot be read: they are hints, and the others are told without them.
    """
    found: list[dict[str, Any]] = []
    damaged: list[str] = []
    for file in sorted(_folder(lake).glob("*.json")):
        try:
            found.append(_checked(json.loads(file.read_bytes())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            damaged.append(str(file))
    if not found:
        return None if not damaged else {"damaged": damaged}
    found.sort(key=lambda status: str(status["now"]))
    together = found[-1] | {"damaged": damaged}
    for part in ("queries", "latency", "models"):
        together[part] = {name: value for status in found for name, value in status[part].items()}
    return together


def _checked(status: Any) -> dict[str, Any]:
    """The contents of a status file; its queries are not heard of where their application has not written for long."""
    old = datetime.now(UTC) - datetime.fromisoformat(status["now"]) > timedelta(seconds=_SILENT_S)
    for query in status["queries"].values():
        query["as_of"], query["kafka"] = status["now"], status["kafka"]
        query["topics"] = status.get("topics")  # a release before did not tell of them
        if old and query["state"] not in (ENDED, GIVEN_UP):
            query["state"] = SILENT
    for part in ("latency", "models"):
        status[part].items()
    return dict(status)


def _folder(lake: str) -> Path:
    return Path(lake.removeprefix("file:")) / _FOLDER


def _iso(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None


def _offsets(value: Any) -> Offsets:
    """Offsets of a Kafka source, a JSON object topic → partition → offset."""
    found = json.loads(value) if isinstance(value, str) else value
    return found if isinstance(found, dict) else {}


def _waiting(end: Any, latest: Any) -> int:
    """Messages between two offsets of a Kafka source."""
    taken, there = _offsets(end), _offsets(latest)
    return sum(
        max(0, offset - int(taken.get(topic, {}).get(partition, 0)))
        for topic, partitions in there.items()
        for partition, offset in partitions.items()
    )
