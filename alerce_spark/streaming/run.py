"""The streaming application: chosen queries side by side, each with its checkpoint and its own restarts."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import NoReturn

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from alerce_spark.config import Settings
from alerce_spark.errors import AlerceError, LakeError
from alerce_spark.lake import write
from alerce_spark.lake.compact import compact
from alerce_spark.lake.tables import TABLES
from alerce_spark.lease import Lease, LeaseLost
from alerce_spark.streaming import checkpoints, kernels
from alerce_spark.streaming.alarms import ModelWatch
from alerce_spark.streaming.broker import ASK_S, Broker, KafkaRefuses
from alerce_spark.streaming.causes import OTHER, Cause, chain_of, explain
from alerce_spark.streaming.fence import Fence
from alerce_spark.streaming.metrics import ENDED, GIVEN_UP, Metrics
from alerce_spark.streaming.queries import declared
from alerce_spark.streaming.query import Application, Handler, Query, Timed
from alerce_spark.streaming.sink import sink_options
from alerce_spark.streaming.source import PACKETS, from_kafka

log = logging.getLogger(__name__)

#: Called after each batch: query, epoch, what the batch did.
Report = Callable[[str, int, object], None]


class StreamFailed(AlerceError):
    """The stream cannot go on, or in `until_empty` mode a query failed too often."""


class _Hangs(Exception):
    """A batch came to no end in its time, and was ended."""


class _HangsOn(Exception):
    """A batch that came to no end in its time cannot be ended either: this process has to."""


class _BatchFailed(Exception):
    """The short text that Spark gets of the error of a batch.

    Where a query is stopped, Spark matches the text with a regular expression that takes some of the stack for each
    character: a trace of Java in it would end the query's thread with a StackOverflowError.
    """


class _StoodStill(Exception):
    """This process was paused for so long that the JVM stopped the query."""


#: Seconds between looks at a query.
_WATCH_S = 1
#: Seconds after which it is said again that no topic matches.
_REMIND_S = 3600.0
#: Seconds that one thread is waited for before the next is looked at.
_JOIN_S = 0.05


@dataclass
class Stream:
    """The application. `run` blocks until `stop` (from a signal handler or another thread).

    session: Spark's, or what makes it once the leases are held and Kafka answers. A query that fails, or whose batch
    hangs, is started again after a wait that doubles each time, and never takes the others with it. `stop` lets running
    batches finish; a lost lease ends everything at once, with StreamFailed. With `until_empty` each query ends when it
    has taken all that was there at its start, and a query that fails `attempts` times in a row ends the run with
    StreamFailed. `restarting` is called with the name of a query that failed and is to start again.
    """

    session: SparkSession | Callable[[], SparkSession]
    settings: Settings
    report: Report = field(default=lambda query, epoch, result: None)
    until_empty: bool = False
    attempts: int = 5
    restarting: Callable[[str], None] = field(default=lambda query: None)

    def __post_init__(self) -> None:
        self._stopping, self._over = threading.Event(), threading.Event()
        self._busy: dict[str, threading.Lock] = {name: threading.Lock() for name in self.settings.stream.queries}
        self._running: dict[str, StreamingQuery] = {}
        self._raised: dict[str, Exception] = {}
        self._fatal: list[str] = []
        self._lost, self._losing = False, threading.Lock()
        self._closing = ExitStack()
        self._told_of_topics = 0.0
        self._handlers: dict[str, Handler] = {}
        self._limits = {name: declared(name).limits(self.settings.stream) for name in self.settings.stream.queries}
        self.metrics = Metrics(self.settings.stream.queries, self.settings.lake.path, self.settings.stream.metrics_port)
        self._models = ModelWatch(self.settings.lake.path, self.settings.stream.queries, self.metrics.model)

    @cached_property
    def spark(self) -> SparkSession:
        """The session, which is made when it is first needed."""
        return self.session() if callable(self.session) else self.session

    @property
    def has_started(self) -> bool:
        """Whether every query runs: workers are warm, and alerts that come now are met at once."""
        return all(name in self._running for name in self.settings.stream.queries)

    def run(self) -> None:
        """Run the queries of `stream.queries`.

        Raises LeaseHeld where another application runs one of them, ConfigError for bad options of Kafka, KafkaRefuses,
        StreamFailed.
        """
        lake, names = self.settings.lake, self.settings.stream.queries
        broker = Broker(self.settings.kafka)  # bad options stop here, not in a query's thread
        with Lease(lake.path, "alerce-spark stream", lake.lease_timeout_s, names, self._lose) as lease:
            self._lease = lease
            threading.Thread(target=self._keep_status, name="status", daemon=True).start()
            try:
                if self._wait_for(broker):
                    threading.Thread(target=self._keep_asking, args=(broker,), name="kafka", daemon=True).start()
                    self._run_queries()
            finally:
                self._over.set()
                self._closing.close()
                self.metrics.end()
                self.metrics.write()
        if self._fatal:
            raise StreamFailed("; ".join(self._fatal))

    def _run_queries(self) -> None:
        lake, names = self.settings.lake, self.settings.stream.queries
        write.create(lake.path, lake.healpix_order, sync=lake.sync)
        try:
            self._warm_up()
        except Exception as error:  # noqa: BLE001  (what is wrong, the queries find and tell too)
            log.warning(
                "the first batches will be slow, since workers did not load: %s", self._explain("<query>", error)
            )
        if any(declared(name).tables for name in names) and not self.until_empty:
            threading.Thread(target=self._maintain, name="maintenance", daemon=True).start()
        self._fence = Fence(self.spark, lake.lease_timeout_s, len(names))
        try:
            # Who reads what the others publish ends last, where all end when they are done.
            last = [name for name in names if self.until_empty and declared(name).reads is not None]
            for together in ([name for name in names if name not in last], last):
                self._run_together(together)
        finally:
            with suppress(Py4JError, OSError):
                self._fence.close()

    def _run_together(self, names: Sequence[str]) -> None:
        """Run queries until all have ended; after a lost lease no longer than half of its time is waited for them."""
        # Daemons: a thread that hangs in a system call does not keep an application that lost its lease alive.
        threads = [threading.Thread(target=self._keep_running, args=(name,), name=name, daemon=True) for name in names]
        for thread in threads:
            thread.start()
        patience = self.settings.lake.lease_timeout_s / 2
        while any(thread.is_alive() for thread in threads) and patience > 0:
            for thread in threads:
                thread.join(_JOIN_S)
            patience -= _JOIN_S * len(threads) if self._lost else 0.0

    def stop(self) -> None:
        """End after the running batches."""
        self._stopping.set()
        if self._lost:  # they are being ended
            return
        for name, query in list(self._running.items()):
            with self._busy[name], suppress(Py4JError, OSError):  # without a JVM there is nothing to stop
                query.stop()

    def _lose(self, error: LeaseLost) -> None:
        """Another application holds a lease: nothing more is written, not even the end of a running batch."""
        with self._losing:
            if self._lost:
                return
            self._lost = True
        self.metrics.lake = None  # the status file is the other application's
        self._fatal.append(str(error))
        self._stopping.set()
        for name, query in list(self._running.items()):
            threading.Thread(target=_stop_now, args=(query,), name=f"{name} stops", daemon=True).start()
        log.critical("%s", error)

    def _wait_for(self, broker: Broker) -> bool:
        """Wait until Kafka answers; False where the stream is stopped before. Raises StreamFailed, KafkaRefuses."""
        asked = 0
        while not self._stopping.is_set():
            problem = broker.problem()
            self._tell_of(broker, problem)
            if problem is None:
                self._tell_of_topics(broker)
                return True
            asked += 1
            if self.until_empty and asked >= self.attempts:
                raise StreamFailed(f"no Kafka broker answers at {broker.servers}: {problem}")
            self._stopping.wait(ASK_S)
        return False

    def _tell_of(self, broker: Broker, problem: str | None) -> None:
        before = self.metrics.kafka(problem)
        if problem is not None and before is None:
            log.warning(
                "no Kafka broker answers at %s: %s. Start it, or set kafka.bootstrap_servers; the stream waits for it",
                broker.servers,
                problem,
            )
        elif problem is None and before is not None:
            log.warning("Kafka answers at %s", broker.servers)

    def _tell_of_topics(self, broker: Broker) -> None:
        """Say where no topic is one of the alerts', at once and then rarely: the stream would wait without a word."""
        names = self.settings.stream.queries
        # Those of our own results come with the first result, unless another application publishes them.
        read = [name for name in names if declared(name).reads is None] or names
        pattern = "|".join({declared(name).pattern(self.settings): None for name in read})
        there = broker.unmatched(pattern)
        problem = None if there is None else f"no topic matches {pattern}; there are: {there}"
        before = self.metrics.topics(problem)
        now = time.monotonic()
        if problem is not None and (before is None or now - self._told_of_topics >= _REMIND_S):
            self._told_of_topics = now
            log.warning(
                "no topic matches %s; there are: %s. Set kafka.topics, or make the topic; the stream waits for one",
                pattern,
                there,
            )
        elif problem is None and before is not None:
            log.warning("a topic matches now, and is read")

    def _keep_asking(self, broker: Broker) -> None:
        """Tell whether Kafka answers, and what waits for queries that have no batches to tell it by."""
        while not self._over.wait(ASK_S):
            try:
                problem = broker.problem()
                self._tell_of(broker, problem)
                if problem is None:
                    self._tell_of_topics(broker)
                    self._ask_what_waits(broker)
            except KafkaRefuses as error:
                self._tell_of(broker, str(error))
            except Exception as error:  # noqa: BLE001  (whatever it is, it is told, and asked again)
                log.warning("what waits in Kafka is not known: %s", error)

    def _ask_what_waits(self, broker: Broker) -> None:
        for name, known in self.metrics.still(2 * ASK_S).items():
            taken = known or checkpoints.committed(self._checkpoint(name))
            if taken is not None or self.settings.stream.starting_offsets == "earliest":
                self.metrics.waiting(name, broker.waiting(declared(name).pattern(self.settings), taken))

    def _keep_status(self) -> None:
        """Renew the status file, also while all queries wait."""
        while not self._over.wait(_WATCH_S):
            self.metrics.write()

    def _warm_up(self) -> None:
        """Let the workers load libraries, kernels and models before the first offsets: it takes them seconds."""
        settings = self.settings
        warm_ups = [w for name in settings.stream.queries if (w := declared(name).warm_up) is not None]
        if not warm_ups:
            return
        if (self.spark.sparkContext.master or "").startswith("local"):
            kernels.compile_once()
        tasks, packet = self.spark.sparkContext.defaultParallelism, kernels.packet()
        rows = [(k, packet, "warm-up", 0, 0, datetime.now(UTC)) for k in range(tasks)]
        packets = self.spark.createDataFrame(rows, f"task INT, {PACKETS}").repartitionById(tasks, "task").drop("task")
        for warm_up in warm_ups:
            warm_up(packets, settings).write.format("noop").mode("overwrite").save()

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
                    except Exception as error:  # noqa: BLE001  (whatever it is, the next round may succeed)
                        log.error("table %s was not compacted: %s", table.name, self._explain("<query>", error))

    @contextmanager
    def _limited(self, group: str) -> Iterator[None]:
        """Jobs of this thread that hang are cancelled: their tasks would never free their slots."""
        context = self.spark.sparkContext
        context.setJobGroup(group, group, interruptOnCancel=True)
        timer = threading.Timer(self.settings.stream.batch_timeout_s, context.cancelJobGroup, [group])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _query(self, name: str) -> Query:
        return declared(name)

    def _handler_of(self, query: Query) -> Handler:
        """The handler of a query's batches; made once, so that it keeps what it knows when the query starts again."""
        if query.name not in self._handlers:
            assert query.handle is not None
            application = Application(self.spark, self.settings, self._lease.check, self._closing)
            self._handlers[query.name] = query.handle(application)
        return self._handlers[query.name]

    def _source(self, query: Query) -> DataFrame:
        """The messages that a query reads."""
        settings, limits = self.settings, self._limits[query.name]
        least = None if self.until_empty else limits.min_messages
        return from_kafka(
            self.spark, settings.kafka, settings.stream, limits.max_messages, least, limits.interval_s, query.reads
        )

    def _checkpoint(self, name: str) -> str:
        return f"{self.settings.checkpoints}/{name}"

    def _explain(self, name: str, error: BaseException) -> Cause:
        return explain(error, name, self._checkpoint(name), self.settings.kafka.bootstrap_servers)

    def _keep_running(self, name: str) -> None:
        """The thread of a query: starts it again until it ends by itself or must not start again."""
        failures = 0
        while not self._stopping.is_set():
            progressed = threading.Event()
            try:
                self._lease.check()
                self._run_once(self._query(name), progressed)
                self.metrics.works(name, ENDED)
                return
            except _HangsOn as error:
                del self._running[name]  # `stop` would wait for it
                self._give_up(name, Cause(OTHER, str(error)))
                return
            except Exception as error:  # noqa: BLE001  (each is told, and none ends the thread without a word)
                if self._stopping.is_set():
                    return
                raised = error if isinstance(error, _Hangs | _StoodStill) else self._raised.get(name, error)
                if lost := self._loss(raised):
                    self._lose(lost)
                    return
                if not self._jvm_answers():
                    said = " ".join(str(raised).split())
                    self._give_up(name, Cause(OTHER, f"Spark's JVM does not answer: {said}"))
                    return
                failures = 1 if progressed.is_set() else failures + 1
                cause = self._explain(name, raised)
            if self.until_empty and failures >= self.attempts:
                self.metrics.failed(name, cause, GIVEN_UP)
                self._fatal.append(f"query {name} failed {failures} times: {cause}")
                return
            self._wait_again(name, failures, cause)

    def _loss(self, raised: BaseException) -> LeaseLost | None:
        """The lost lease that an error comes from, or comes with: looked at before anything is done about the error."""
        try:
            self._lease.check()
        except LeaseLost as error:
            return error
        except LakeError:  # the next look may get through
            pass
        return next((link for link in chain_of(raised) if isinstance(link, LeaseLost)), None)

    def _wait_again(self, name: str, failures: int, cause: Cause) -> None:
        """Tell of a failure, and wait before the next start."""
        stream = self.settings.stream
        wait = min(stream.restart_wait_s * 2 ** min(failures - 1, 30), stream.restart_wait_max_s)
        log.error("query %s failed (%d in a row), starts again in %.1f s: %s", name, failures, wait, cause)
        self.metrics.failed(name, cause)
        self.restarting(name)
        self._stopping.wait(wait)

    def _jvm_answers(self) -> bool:
        """Whether Spark can start a query again: its JVM lives, and its context was not stopped for want of memory."""
        try:
            return not self.spark.sparkContext._jsc.sc().isStopped()
        except (Py4JError, OSError, AttributeError):
            return False

    def _give_up(self, name: str, cause: Cause) -> None:
        """End all queries because of one."""
        log.critical("query %s: %s", name, cause)
        self.metrics.failed(name, cause, GIVEN_UP)
        self._fatal.append(f"query {name}: {cause}")
        self.stop()

    def _run_once(self, query: Query, progressed: threading.Event) -> None:
        """Start a query and wait for its end. Raises what ended it."""
        self._raised.pop(query.name, None)
        running, ran_out = self._start(query, progressed), False
        try:
            self._fence.guard(query.name, running)
            if self._stopping.is_set():  # `stop` came while it started
                running.stop()
            self._watch(query, running, progressed)
        except (_Hangs, _HangsOn):
            raise
        except Exception:
            _stop_now(running)  # where watching it failed, and not the query
            raise
        finally:
            with suppress(Py4JError, OSError):
                ran_out = self._fence.release(query.name)
        if ran_out and not self._stopping.is_set():
            raise _StoodStill("this process stood still, so the query was stopped")

    def _start(self, query: Query, progressed: threading.Event) -> StreamingQuery:
        self.spark.sparkContext.setLocalProperty("spark.scheduler.pool", query.name)
        messages = self._source(query)
        if query.publish is not None:
            published = query.publish(messages, self.settings)
            writer = published.writeStream.format("kafka").options(**sink_options(self.settings.kafka))
        else:
            handler = self._handler_of(query)
            writer = messages.writeStream.foreachBatch(self._guarded(query.name, handler, progressed))
        writer = writer.queryName(query.name).option("checkpointLocation", self._checkpoint(query.name))
        if self.until_empty:
            writer = writer.trigger(availableNow=True)
        else:
            limits = self._limits[query.name]
            # Spark looks that often whether enough wait, where a query waits for a number.
            every = limits.interval_s if limits.min_messages is None else min(1.0, limits.interval_s)
            writer = writer.trigger(processingTime=f"{every} seconds")
        running = writer.start()
        self._running[query.name] = running
        self.metrics.started(query.name)
        return running

    def _guarded(self, name: str, batch: Handler, progressed: threading.Event) -> Callable[[DataFrame, int], None]:
        def handle(packets: DataFrame, epoch: int) -> None:
            try:
                with self._busy[name]:
                    self._lease.check()
                    result = batch(packets)
                progressed.set()
                waits = result.latency if isinstance(result, Timed) else {}
                for step, seconds in waits.items():
                    self.metrics.latency(step, seconds)
                self.report(name, epoch, result)
                self._lease.check()  # Spark writes next that the batch is done
            except Exception as error:  # noqa: BLE001  (whatever it is, Spark is told)
                self._raised[name] = error  # Spark keeps but a text of it
                raise _BatchFailed(str(self._explain(name, error))) from None

        return handle

    def _watch(self, query: Query, running: StreamingQuery, progressed: threading.Event) -> None:
        """Wait for the end of a query, feeding the metrics; native queries are reported from Spark's account."""
        told = -1
        ended = False
        idle = time.monotonic()
        while not ended:
            ended = bool(running.awaitTermination(_WATCH_S))
            status = running.status
            if not status["isTriggerActive"]:
                idle = time.monotonic()
            if status["message"].startswith("Waiting"):  # a look at the topics came to its end
                self.metrics.works(query.name)
            for progress in running.recentProgress:
                if progress.batchId > told and progress.numInputRows:
                    told, idle = progress.batchId, time.monotonic()
                    progressed.set()
                    self.metrics.progress(query.name, json.loads(progress.json))
                    if query.publish is not None:
                        self.report(query.name, told, progress.numInputRows)
            self._models.look(query.name)
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


def _stop_now(query: StreamingQuery) -> None:
    """End a query in mid-batch."""
    with suppress(Py4JError, OSError):
        if query.isActive:
            query.stop()
