"""The streaming application: chosen queries side by side, each with its checkpoint and its own restarts."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from alerce_spark.config import Settings
from alerce_spark.lake import write
from alerce_spark.lake.write import Transaction
from alerce_spark.lease import Lease, LeaseLost
from alerce_spark.streaming.archive import archive
from alerce_spark.streaming.photometry import Photometry
from alerce_spark.streaming.source import from_kafka

log = logging.getLogger(__name__)

#: Called after each batch: query, epoch, what the batch did.
Report = Callable[[str, int, object], None]


class StreamFailed(Exception):
    """The stream cannot go on, or in `until_empty` mode a query failed too often."""


@dataclass(frozen=True)
class _Query:
    name: str
    packets: Callable[[], DataFrame]
    batch: Callable[[DataFrame, int], object]
    interval_s: float


@dataclass
class Stream:
    """The application. `run` blocks until `stop` (from a signal handler or another thread).

    A query that fails is started again after a wait that doubles each time, and never takes the others with it. `stop`
    lets running batches finish. With `until_empty` each query ends when it has taken all that was there at its start,
    and a query that fails `attempts` times in a row ends the run with StreamFailed. `restarting` is called with the
    name of a query that failed and is to start again.
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

    def run(self) -> None:
        """Run the queries of `stream.queries`. Raises LeaseHeld where another application writes the lake."""
        lake = self.settings.lake
        with Lease(
            lake.path, f"alerce-spark stream ({self.spark.sparkContext.appName})", lake.lease_timeout_s
        ) as lease:
            write.create(self.spark, lake.path, lake.healpix_order)
            threads = [
                threading.Thread(target=self._keep_running, args=(self._query(name, lease),), name=name)
                for name in self.settings.stream.queries
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._fatal:
            raise StreamFailed("; ".join(self._fatal))

    def stop(self) -> None:
        """End after the running batches."""
        self._stopping.set()
        for name, query in list(self._running.items()):
            with self._busy[name], suppress(Py4JError, OSError):  # without a JVM there is nothing to stop
                query.stop()

    def _query(self, name: str, lease: Lease) -> _Query:
        settings, stream = self.settings, self.settings.stream
        if name == "photometry":
            photometry = Photometry(
                self.spark,
                settings.lake.path,
                settings.survey,
                self.spark.sparkContext.defaultParallelism,
                lease.check,
            )
            waiting = None if self.until_empty else stream.photometry_min_alerts
            return _Query(
                name,
                lambda: from_kafka(
                    self.spark,
                    settings.kafka,
                    stream,
                    stream.photometry_max_alerts,
                    waiting,
                    stream.photometry_interval_s,
                ),
                lambda packets, epoch: photometry.process(packets, Transaction(self._query_id(name), epoch)),
                min(1.0, stream.photometry_interval_s),
            )
        return _Query(
            name,
            lambda: from_kafka(self.spark, settings.kafka, stream, stream.archive_max_alerts),
            lambda packets, epoch: archive(packets, settings.archive, settings.survey),
            stream.archive_interval_s,
        )

    def _checkpoint(self, name: str) -> str:
        return f"{self.settings.checkpoints}/{name}"

    def _query_id(self, name: str) -> str:
        """Id of the query's checkpoint: a new one after a checkpoint was deleted, when epochs start at 0 again."""
        metadata = self.spark.read.text(f"{self._checkpoint(name)}/metadata").first()
        assert metadata is not None
        return str(json.loads(metadata[0])["id"])

    def _keep_running(self, query: _Query) -> None:
        stream = self.settings.stream
        failures = 0
        while not self._stopping.is_set():
            progressed = threading.Event()
            try:
                running = self._start(query, progressed)
                if self._stopping.is_set():  # `stop` came while it started
                    running.stop()
                running.awaitTermination()
                return
            except PySparkException as error:
                failures = 1 if progressed.is_set() else failures + 1
                reason = _first_line(error)
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
            self.restarting(query.name)
            self._stopping.wait(wait)

    def _give_up(self, reason: str) -> None:
        log.critical("%s", reason)
        self._fatal.append(reason)
        self.stop()

    def _start(self, query: _Query, progressed: threading.Event) -> StreamingQuery:
        def batch(packets: DataFrame, epoch: int) -> None:
            with self._busy[query.name]:
                result = query.batch(packets, epoch)
            progressed.set()
            self.report(query.name, epoch, result)

        self.spark.sparkContext.setLocalProperty("spark.scheduler.pool", query.name)
        writer = (
            query.packets()
            .writeStream.foreachBatch(batch)
            .queryName(query.name)
            .option("checkpointLocation", self._checkpoint(query.name))
        )
        if self.until_empty:
            writer = writer.trigger(availableNow=True)
        else:
            writer = writer.trigger(processingTime=f"{query.interval_s} seconds")
        running = writer.start()
        self._running[query.name] = running
        return running


def _first_line(error: Exception) -> str:
    """The cause of a query's end: the last Python error of its trace, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    python = [line for line in lines if line.split(":")[0].split(".")[-1].endswith(("Error", "Exception", "LeaseLost"))]
    return (python or lines or [type(error).__name__])[-1][:500]
