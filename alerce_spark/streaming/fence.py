"""Queries stop inside the JVM when this process stands still, since the JVM would run on without it.

Python renews the lease, Java runs the queries. Where the driver's Python alone is paused (a signal, a debugger, a
machine without memory), its lease goes to another application after `lake.lease_timeout_s`, while native queries would
go on to write to checkpoints and topics. So each query has a timer in the JVM that stops it, and that this process puts
off as long as it is alive. Where the whole application is paused, the timers run out the moment it goes on.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

log = logging.getLogger(__name__)

#: Of the lease's time: when a timer runs out, and how often it is put off. The lease is renewed that often too, so the
#: queries have stopped before another application can have it.
_RUNS_OUT, _PUT_OFF = 2 / 3, 1 / 6


class Fence:
    """Timers of the JVM for the queries of one application, put off by a thread of this process until `close`."""

    def __init__(self, spark: SparkSession, lease_timeout_s: float, queries: int) -> None:
        jvm: Any = spark.sparkContext._jvm
        self._milliseconds = int(lease_timeout_s * _RUNS_OUT * 1000)
        self._pool = jvm.java.util.concurrent.Executors.newScheduledThreadPool(queries)
        self._unit = jvm.java.util.concurrent.TimeUnit.MILLISECONDS
        self._handler = jvm.java.beans.EventHandler
        self._runnable = jvm.java.lang.Class.forName("java.lang.Runnable")
        self._stops: dict[str, Any] = {}
        self._timers: dict[str, Any] = {}
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, args=(lease_timeout_s * _PUT_OFF,), name="fence", daemon=True
        )
        self._thread.start()

    def guard(self, name: str, query: StreamingQuery) -> None:
        """Have the query stopped from now on when this process stands still."""
        with self._guard:
            self._stops[name] = self._handler.create(self._runnable, query._jsq, "stop")
            self._set(name)

    def release(self, name: str) -> bool:
        """The query has ended: no timer any more. Returns whether it was the timer that stopped it."""
        with self._guard:
            self._stops.pop(name, None)
            timer = self._timers.pop(name, None)
            return timer is not None and (self._ran_out(timer) or not timer.cancel(False))

    def close(self) -> None:
        """No timers any more."""
        self._closed.set()
        self._pool.shutdownNow()

    def _set(self, name: str) -> None:
        """A new timer, and then the end of the one before: at no moment is there none. One that ran out stays."""
        before = self._timers.get(name)
        if before is not None and self._ran_out(before):
            return
        after = self._pool.schedule(self._stops[name], self._milliseconds, self._unit)
        if before is not None and not before.cancel(False):
            after.cancel(False)
            return
        self._timers[name] = after

    def _ran_out(self, timer: Any) -> bool:
        """Whether it is due. `cancel` does not say so while the query is still being stopped."""
        return bool(timer.isDone() or timer.getDelay(self._unit) <= 0)

    def _beat(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            try:
                with self._guard:
                    for name in self._stops:
                        self._set(name)
            except (Py4JError, OSError) as error:  # without a JVM there is nothing to stop; its queries' threads say so
                log.debug("the timers of the JVM were not put off: %s", error)
