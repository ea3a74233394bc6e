"""Figures for Prometheus: requests, kept replies, queries of TAP, how far the index is behind, sizes of the lake.

No label has a word of a user: routes are named by their templates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from time import monotonic, perf_counter
from typing import TypeVar

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alerce_spark.errors import AlerceError
from alerce_spark.lake.figures import Figures, Report, Watch
from alerce_spark.serving.lag import Lag, lag
from alerce_spark.serving.query import Index

log = logging.getLogger(__name__)

PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
#: The lake is looked at so often at the most, and a scrape waits so long for it [s].
_LOOK_S, _PATIENCE_S = 15.0, 2.0

T = TypeVar("T")


class Metrics:
    """The page of one server."""

    def __init__(self, parts: Sequence[Collector]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Histogram(
            "alerce_request_seconds",
            "Requests by route and status, until the last byte of the reply",
            ["route", "status"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        for part in parts:
            self._registry.register(part)

    def page(self) -> bytes:
        """The page as it is now."""
        return generate_latest(self._registry)


class Timed:
    """Takes the time of each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._requests = app, metrics.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on; one that nobody answered, since the client went, does not count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 0, perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            status = 500
            raise
        finally:
            if status:
                self._requests.labels(_template(scope), str(status)).observe(perf_counter() - began)


def _template(scope: Scope) -> str:
    """The route as it is declared; `other` for what is no route of ours, whatever was asked."""
    return getattr(scope.get("route"), "path", "other")


@dataclass(frozen=True)
class _Seen:
    """Figures of the last reading; None for those that could not be read."""

    lag: dict[str, Lag] | None
    lake: Figures | None


class LakeAndIndex(Collector):
    """Reads figures in one thread, seldom, however many ask; in between it gives the last ones."""

    def __init__(self, lake: str, index: Callable[[], Index]) -> None:
        self._lake, self._index, self._watch = lake, index, Watch(lake)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._lock = Lock()
        self._look: Future[_Seen] | None = None
        self._began = 0.0
        self._seen: _Seen | None = None

    def describe(self) -> list[Metric]:
        """Nothing: the lake is not read when the server starts."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The figures, at most `_LOOK_S` old unless the lake is slower."""
        seen = self._latest()
        yield GaugeMetricFamily("alerce_index_readable", "1 where index and lake can be compared", _flag(seen.lag))
        yield GaugeMetricFamily("alerce_lake_readable", "1 where the tables can be read", _flag(seen.lake))
        if seen.lag is not None:
            yield from _of_index(seen.lag)
        if seen.lake is not None:
            yield from _of_lake(seen.lake)

    def close(self) -> None:
        """Start no other look."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _latest(self) -> _Seen:
        with self._lock:
            if self._look is None or (self._look.done() and monotonic() - self._began > _LOOK_S):
                self._look, self._began = self._pool.submit(self._read), monotonic()
            look = self._look
        try:
            self._seen = look.result(_PATIENCE_S)
        except TimeoutError:
            return self._seen or _Seen(None, None)
        return self._seen

    def _read(self) -> _Seen:
        return _Seen(
            _readable(lambda: lag(self._lake, self._index().versions())),
            _readable(self._watch.look),
        )


def _readable(look: Callable[[], T]) -> T | None:
    try:
        return look()
    except (AlerceError, OSError) as error:
        log.debug("not read: %s", error)
        return None


def _flag(value: object) -> int:
    return int(value is not None)


def _of_index(behind: dict[str, Lag]) -> Iterator[Metric]:
    versions = GaugeMetricFamily("alerce_index_lag_versions", "Commits the index does not show", labels=["table"])
    seconds = GaugeMetricFamily("alerce_index_lag_seconds", "Age of the oldest of them", labels=["table"])
    for table, one in behind.items():
        versions.add_metric([table], one.versions)
        seconds.add_metric([table], one.seconds)
    yield versions
    yield seconds


def _of_lake(figures: Figures) -> Iterator[Metric]:
    versions = GaugeMetricFamily("alerce_table_version", "Newest version of a table", labels=["table"])
    files = GaugeMetricFamily("alerce_table_files", "Live files of a table", labels=["table"])
    sizes = GaugeMetricFamily("alerce_table_bytes", "Bytes of these", labels=["table"])
    for table, size in figures.sizes.items():
        versions.add_metric([table], size.version)
        files.add_metric([table], size.files)
        sizes.add_metric([table], size.bytes)
    yield from (versions, files, sizes)
    quarantine = GaugeMetricFamily("alerce_quarantine_rows", "Packets in quarantine, by stage", labels=["stage"])
    for stage, rows in figures.quarantine.items():
        quarantine.add_metric([stage], rows)
    yield quarantine
    if figures.free is not None:
        yield GaugeMetricFamily("alerce_lake_free_bytes", "Free bytes of the disk of the lake", figures.free)
    if figures.report is not None:
        yield from _of_night(figures.report)


def _of_night(report: Report) -> Iterator[Metric]:
    yield GaugeMetricFamily("alerce_nightly_night_seconds", "Date of the last night that was checked", report.night)
    yield GaugeMetricFamily("alerce_nightly_finished_seconds", "When its last round ended", report.finished)
    yield GaugeMetricFamily("alerce_nightly_expected", "Packets of that night", report.expected)
    yield GaugeMetricFamily("alerce_nightly_missing", "Packets of it that are in no table", report.missing)
    yield GaugeMetricFamily("alerce_nightly_resent", "Packets sent again in its last round", report.resent)
    broken = GaugeMetricFamily("alerce_nightly_broken", "Violations of an invariant", labels=["invariant"])
    for name, count in report.broken.items():
        broken.add_metric([name], count)
    yield broken
