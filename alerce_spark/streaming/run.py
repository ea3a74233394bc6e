"""The streaming application: chosen queries side by side, each with its checkpoint and its own restarts."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from alerce_spark.config import Settings, conf_dir
from alerce_spark.crossmatch import catalogs
from alerce_spark.errors import AlerceError
from alerce_spark.lake import write
from alerce_spark.lake.compact import compact
from alerce_spark.lake.storage import LakeError
from alerce_spark.lake.tables import TABLES
from alerce_spark.lease import WRITERS, Lease, LeaseLost
from alerce_spark.simulation.night import simulate
from alerce_spark.streaming.alarms import ModelWatch
from alerce_spark.streaming.archive import archive
from alerce_spark.streaming.crossmatch import Crossmatch, Matched
from alerce_spark.streaming.lightcurves import lightcurves
from alerce_spark.streaming.metrics import Metrics
from alerce_spark.streaming.photometry import Photometry, Summary
from alerce_spark.streaming.results import TOPICS, Results, Stored
from alerce_spark.streaming.sink import sink_options
from alerce_spark.streaming.source import PACKETS, from_kafka
from alerce_spark.streaming.stamps import stamps

if TYPE_CHECKING:
    from alerce_spark.crossmatch.cds import Asynchronous

log = logging.getLogger(__name__)

#: Called after each batch: query, epoch, what the batch did.
Report = Callable[[str, int, object], None]


class StreamFailed(AlerceError):
    """The stream cannot go on, or in `until_empty` mode a query failed too often."""


class _Hangs(Exception):
    """A batch came to no end in its time, and was ended."""


class _HangsOn(Exception):
    """A batch that came to no end in its time cannot be ended either: this process has to."""


#: Seconds between looks at a query.
_WATCH_S = 1


@dataclass(frozen=True)
class _Query:
    """One query: `stream` is its input, which `batch` handles; without `batch` it is messages for Kafka's sink."""

    name: str
    stream: Callable[[], DataFrame]
    interval_s: float
    batch: Callable[[DataFrame, int], object] | None = None


@dataclass
class Stream:
    """The application. `run` blocks until `stop` (from a signal handler or another thread).

    A query that fails, or whose batch hangs, is started again after a wait that doubles each time, and never takes the
    others with it. `stop` lets running batches finish. With `until_empty` each query ends when it has taken all that
    was there at its start, and a query that fails `attempts` times in a row ends the run with StreamFailed.
    `restarting` is called with the name of a query that failed and is to start again.
    """

    spark: SparkSession
    settings: Settings
    report: Report = field(default=lambda query, epoch, result: None)
    until_empty: bool = False
    attempts: int = 5
    restarting: Callable[[str], None] = field(default=lambda query: None)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._busy: dict[str, threading.Lock] = {name: threading.Lock() for name in self.settings.stream.queries}
        self._running: dict[str, StreamingQuery] = {}
        self._fatal: list[str] = []
        self._service: Asynchronous | None = None
        self.metrics = Metrics(self.settings.stream.queries, self.settings.lake.path, self.settings.stream.metrics_port)
        self._models = ModelWatch(self.settings.lake.path, self.settings.stream.queries, self.metrics.model)

    @property
    def has_started(self) -> bool:
        """Whether every query runs: workers are warm, and alerts that come now are met at once."""
        return all(name in self._running for name in self.settings.stream.queries)

    def run(self) -> None:
        """Run the queries of `stream.queries`.

        Raises LeaseHeld where another application writes one's tables.
        """
        try:
            self._run_queries()
        finally:
            if self._service is not None:
                self._service.close()
        if self._fatal:
            raise StreamFailed("; ".join(self._fatal))

    def _run_queries(self) -> None:
        lake, names = self.settings.lake, self.settings.stream.queries
        with self._lease([name for name in names if name in WRITERS]) as check_lease:
            write.create(lake.path, lake.healpix_order)
            self._warm_up()
            if any(name in WRITERS for name in names) and not self.until_empty:
                threading.Thread(target=self._maintain, name="maintenance", daemon=True).start()
            # `results` reads what the others publish: where all end when they are done, it ends last.
            last = ["results"] if self.until_empty and "results" in names else []
            for together in ([name for name in names if name not in last], last):
                threads = [
                    threading.Thread(target=self._keep_running, args=(self._query(name, check_lease),), name=name)
                    for name in together
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

    def stop(self) -> None:
        """End after the running batches."""
        self._stopping.set()
        for name, query in list(self._running.items()):
            with self._busy[name], suppress(Py4JError, OSError):  # without a JVM there is nothing to stop
                query.stop()

    def _warm_up(self) -> None:
        """Let the workers load libraries, kernels and models before the first offsets: it takes them seconds."""
        settings = self.settings
        native: dict[str, Callable[..., DataFrame]] = {
            "stamps": partial(stamps, is_warm_up=True),
            "lightcurves": lightcurves,
        }
        chosen = [make for name, make in native.items() if name in settings.stream.queries]
        if not chosen:
            return
        tasks = self.spark.sparkContext.defaultParallelism
        some = simulate(1, objects=3, nights=20).packets[-8:]
        rows = [(k, packet, "warm-up", 0, 0, datetime.now(UTC)) for k in range(tasks) for packet in some]
        packets = self.spark.createDataFrame(rows, f"task INT, {PACKETS}").repartitionById(tasks, "task").drop("task")
        for make in chosen:
            messages = make(packets, settings.lake.path, settings.survey, settings.kafka)
            messages.write.format("noop").mode("overwrite").save()

    @contextmanager
    def _lease(self, writers: Sequence[str]) -> Iterator[Callable[[], None]]:
        """The check of the writers' leases, which are held meanwhile; nothing to check where no table is written."""
        if not writers:
            yield lambda: None
            return
        lake = self.settings.lake
        holder = f"alerce-spark stream ({self.spark.sparkContext.appName})"
        with Lease(lake.path, holder, lake.lease_timeout_s, writers) as lease:
            yield lease.check

    def _maintain(self) -> None:
        """Keep the number of small files bounded while queries write; what fails is tried again the next time."""
        upkeep, lake = self.settings.maintenance, self.settings.lake.path
        self.spark.sparkContext.setLocalProperty("spark.scheduler.pool", "maintenance")
        while not self._stopping.wait(upkeep.interval_s):
            for table in TABLES.values():
                if table.on_sky and not self._stopping.is_set():
                    try:
                        with self._limited("maintenance"):
                            compact(self.spark, lake, table.name, upkeep.max_files)
                    except (PySparkException, Py4JError, LakeError, OSError) as error:
                        log.error("table %s was not compacted: %s", table.name, _first_line(error))

    @contextmanager
    def _limited(self, group: str) -> Iterator[None]:
        """Jobs of this thread that hang are cancelled: their tasks would keep their slots for ever."""
        context = self.spark.sparkContext
        context.setJobGroup(group, group, interruptOnCancel=True)
        timer = threading.Timer(self.settings.stream.batch_timeout_s, context.cancelJobGroup, [group])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _query(self, name: str, check_lease: Callable[[], None]) -> _Query:
        return {
            "archive": self._archive,
            "stamps": self._stamps,
            "lightcurves": self._lightcurves,
            "photometry": self._photometry,
            "crossmatch": self._crossmatch,
            "results": self._results,
        }[name](check_lease)

    def _archive(self, check_lease: Callable[[], None]) -> _Query:
        settings, stream = self.settings, self.settings.stream
        return _Query(
            "archive",
            lambda: from_kafka(self.spark, settings.kafka, stream, stream.archive_max_alerts),
            stream.archive_interval_s,
            lambda packets, epoch: archive(packets, settings.archive, settings.survey),
        )

    def _stamps(self, check_lease: Callable[[], None]) -> _Query:
        settings, stream = self.settings, self.settings.stream

        def results() -> DataFrame:
            packets = from_kafka(self.spark, settings.kafka, stream, stream.stamps_max_alerts)
            return stamps(packets, settings.lake.path, settings.survey, settings.kafka)

        return _Query("stamps", results, stream.stamps_interval_s)

    def _lightcurves(self, check_lease: Callable[[], None]) -> _Query:
        settings, stream = self.settings, self.settings.stream

        def results() -> DataFrame:
            packets = from_kafka(self.spark, settings.kafka, stream, stream.lightcurves_max_alerts)
            return lightcurves(packets, settings.lake.path, settings.survey, settings.kafka)

        return _Query("lightcurves", results, stream.lightcurves_interval_s)

    def _photometry(self, check_lease: Callable[[], None]) -> _Query:
        settings, stream = self.settings, self.settings.stream
        slices = self.spark.sparkContext.defaultParallelism
        photometry = Photometry(self.spark, settings.lake.path, settings.survey, slices, check_lease)
        least = None if self.until_empty else stream.photometry_min_alerts

        def packets() -> DataFrame:
            most, wait = stream.photometry_max_alerts, stream.photometry_interval_s
            return from_kafka(self.spark, settings.kafka, stream, most, least, wait)

        return _Query(
            "photometry",
            packets,
            min(1.0, stream.photometry_interval_s),
            lambda packets, epoch: photometry.process(packets),
        )

    def _crossmatch(self, check_lease: Callable[[], None]) -> _Query:
        settings, stream = self.settings, self.settings.stream
        tables = settings.crossmatch.cds_tables if settings.crossmatch.cds else {}
        if tables and self._service is None:
            from alerce_spark.crossmatch.cds import Asynchronous, Cds  # noqa: PLC0415 (half a second)

            told = catalogs.load(conf_dir() / "catalogs.toml")
            wait, url = settings.crossmatch.cds_timeout_s, settings.crossmatch.cds_url
            self._service = Asynchronous(Cds(tables, told, timeout_s=wait, url=url))
        crossmatch = Crossmatch(
            self.spark, settings.lake.path, settings.survey, check_lease, self._service, tuple(tables)
        )
        return _Query(
            "crossmatch",
            lambda: from_kafka(self.spark, settings.kafka, stream, stream.crossmatch_max_alerts),
            stream.crossmatch_interval_s,
            lambda packets, epoch: crossmatch.process(packets),
        )

    def _results(self, check_lease: Callable[[], None]) -> _Query:
        stream = self.settings.stream
        results = Results(self.spark, self.settings.lake.path, check_lease)
        return _Query(
            "results",
            lambda: from_kafka(self.spark, self.settings.kafka, stream, stream.results_max_messages, pattern=TOPICS),
            stream.results_interval_s,
            lambda messages, epoch: results.process(messages),
        )

    def _checkpoint(self, name: str) -> str:
        return f"{self.settings.checkpoints}/{name}"

    def _keep_running(self, query: _Query) -> None:
        stream = self.settings.stream
        failures = 0
        while not self._stopping.is_set():
            progressed = threading.Event()
            try:
                running = self._start(query, progressed)
                if self._stopping.is_set():  # `stop` came while it started
                    running.stop()
                self._watch(query, running, progressed)
                return
            except PySparkException as error:
                failures = 1 if progressed.is_set() else failures + 1
                reason = _first_line(error)
            except _Hangs as error:
                failures = 1 if progressed.is_set() else failures + 1
                reason = str(error)
            except _HangsOn as error:
                del self._running[query.name]  # `stop` would wait for it
                self._give_up(f"query {query.name}: {error}")
                return
            except (Py4JError, OSError) as error:
                self._give_up(f"query {query.name}: Spark's JVM does not answer: {error}")
                return
            if self._stopping.is_set():
                return
            if LeaseLost.__name__ in reason:
                self._give_up(f"query {query.name}: {reason}")
                return
            if self.until_empty and failures >= self.attempts:
                self._fatal.append(f"query {query.name} failed {failures} times: {reason}")
                return
            wait = min(stream.restart_wait_s * 2 ** (failures - 1), stream.restart_wait_max_s)
            log.error("query %s failed (%d in a row), starts again in %.1f s: %s", query.name, failures, wait, reason)
            self.metrics.failed(query.name, reason)
            self.restarting(query.name)
            self._stopping.wait(wait)

    def _give_up(self, reason: str) -> None:
        log.critical("%s", reason)
        self._fatal.append(reason)
        self.stop()

    def _start(self, query: _Query, progressed: threading.Event) -> StreamingQuery:
        self.spark.sparkContext.setLocalProperty("spark.scheduler.pool", query.name)
        writer = query.stream().writeStream.queryName(query.name)
        writer = writer.option("checkpointLocation", self._checkpoint(query.name))
        if query.batch is not None:
            writer = writer.foreachBatch(self._handler(query, query.batch, progressed))
        else:
            writer = writer.format("kafka").options(**sink_options(self.settings.kafka))
        if self.until_empty:
            writer = writer.trigger(availableNow=True)
        else:
            writer = writer.trigger(processingTime=f"{query.interval_s} seconds")
        running = writer.start()
        self._running[query.name] = running
        return running

    def _handler(
        self, query: _Query, batch: Callable[[DataFrame, int], object], progressed: threading.Event
    ) -> Callable[[DataFrame, int], None]:
        def handle(packets: DataFrame, epoch: int) -> None:
            with self._busy[query.name]:
                result = batch(packets, epoch)
            progressed.set()
            waits = result.latency if isinstance(result, Stored | Summary | Matched) else {}
            for step, seconds in waits.items():
                self.metrics.latency(step, seconds)
            self.report(query.name, epoch, result)

        return handle

    def _watch(self, query: _Query, running: StreamingQuery, progressed: threading.Event) -> None:
        """Wait for the end of a query, feeding the metrics; native queries are reported from Spark's account."""
        told = -1
        ended = False
        idle = time.monotonic()
        while not ended:
            ended = bool(running.awaitTermination(_WATCH_S))
            if not running.status["isTriggerActive"]:
                idle = time.monotonic()
            for progress in running.recentProgress:
                if progress.batchId > told and progress.numInputRows:
                    told, idle = progress.batchId, time.monotonic()
                    progressed.set()
                    self.metrics.progress(query.name, json.loads(progress.json))
                    if query.batch is None:
                        self.report(query.name, told, progress.numInputRows)
            self._models.look(query.name)
            self.metrics.write()
            if not ended and time.monotonic() - idle > self.settings.stream.batch_timeout_s:
                self._end(running)

    def _end(self, running: StreamingQuery) -> NoReturn:
        """End a query in mid-batch: its tasks are cancelled, and workers that do not react killed by Spark."""
        wait = f"a batch took longer than stream.batch_timeout_s = {self.settings.stream.batch_timeout_s:g}"
        try:
            running.stop()
        except Py4JJavaError as error:
            raise _HangsOn(f"{wait}, and cannot be ended") from error
        raise _Hangs(f"{wait}, and was ended")


def _first_line(error: Exception) -> str:
    """The cause of a query's end: the last Python error of its trace, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    python = [line for line in lines if line.split(":")[0].split(".")[-1].endswith(("Error", "Exception", "LeaseLost"))]
    return (python or lines or [type(error).__name__])[-1][:500]
