"""Queries as jobs (UWS 1.1): created, waiting, running, done; kept for a day, or until their owner deletes them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Lock

from prometheus_client import Gauge

from alerce_spark.api.tap.adql import QueryError
from alerce_spark.api.tap.engine import Engine, Result, Stopped
from alerce_spark.api.tap.request import Asked
from alerce_spark.errors import AlerceError

DONE = ("COMPLETED", "ERROR", "ABORTED")
PHASES = ("PENDING", "QUEUED", "EXECUTING", *DONE)
_KEPT = timedelta(days=1)
#: Largest number of jobs; above it the oldest that are done are deleted.
_MOST = 200
#: Longest wait of a job for its turn [s].
_PATIENCE_S = 86_400.0


class TooManyJobs(AlerceError):
    """Too many jobs are not done for another one."""


@dataclass
class Job:
    """A query, its state and its result."""

    name: str
    asked: Asked
    duration: float
    folder: Path
    destruction: datetime
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    ended: datetime | None = None
    phase: str = "PENDING"
    error: str | None = None
    result: Result | None = None
    stop: Event = field(default_factory=Event)

    @property
    def parameters(self) -> Mapping[str, str]:
        """The query of the job."""
        return self.asked.parameters

    def fields(self) -> dict[str, str | None]:
        """Its phase in UWS's terms."""
        return {
            "runId": self.parameters.get("RUNID"),
            "ownerId": None,
            "phase": self.phase,
            "quote": None,
            "creationTime": time_text(self.created),
            "startTime": time_text(self.started),
            "endTime": time_text(self.ended),
            "executionDuration": str(int(self.duration)),
            "destruction": time_text(self.destruction),
        }


def time_text(moment: datetime | None) -> str | None:
    """A time as UWS writes it."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Jobs:
    """Jobs of one server, by their names, which cannot be guessed."""

    def __init__(self, engine: Engine, workers: int, seconds: float) -> None:
        self._engine, self.seconds = engine, seconds
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="tap")
        self._jobs: dict[str, Job] = {}
        self._lock = Lock()
        self.queued = Gauge("alerce_tap_queued_jobs", "Jobs that wait for their turn", registry=None)
        self.queued.set_function(lambda: sum(job.phase == "QUEUED" for job in list(self._jobs.values())))

    def close(self) -> None:
        """Stop running jobs, drop waiting ones."""
        for one in self.listed():
            one.stop.set()
        self._pool.shutdown(cancel_futures=True)

    def listed(self) -> list[Job]:
        """All jobs, oldest first; deletes those whose time is over."""
        now = datetime.now(UTC)
        for one in [job for job in list(self._jobs.values()) if job.destruction <= now]:
            self.delete(one)
        return list(self._jobs.values())

    def get(self, name: str) -> Job | None:
        """A job."""
        return next((one for one in self.listed() if one.name == name), None)

    def make(self, asked: Asked) -> Job:
        """Make a new job, which does not run yet. Raises TooManyJobs."""
        self._make_room()
        name = secrets.token_hex(12)
        made = Job(name, asked, self.seconds, self._engine.place(), datetime.now(UTC) + _KEPT)
        with self._lock:
            self._jobs[name] = made
        return made

    def _make_room(self) -> None:
        listed = self.listed()
        if len(listed) < _MOST:
            return
        done = next((one for one in listed if one.phase in DONE), None)
        if done is None:
            raise TooManyJobs("too many jobs wait; ask again later")
        self.delete(done)

    def delete(self, one: Job) -> None:
        """Stop a job and delete it."""
        self.abort(one)
        with self._lock:
            self._jobs.pop(one.name, None)
        if one.phase in DONE or one.started is None:
            shutil.rmtree(one.folder, ignore_errors=True)

    def run(self, one: Job) -> None:
        """Let a job wait for its turn."""
        with self._lock:
            if one.phase != "PENDING":
                return
            one.phase = "QUEUED"
        self._pool.submit(self._work, one)

    def abort(self, one: Job) -> None:
        """Stop a job that is not done."""
        one.stop.set()
        with self._lock:
            if one.phase not in DONE:
                one.phase, one.ended = "ABORTED", datetime.now(UTC)

    def _work(self, one: Job) -> None:
        with self._lock:
            if one.phase != "QUEUED":
                return
            one.phase, one.started = "EXECUTING", datetime.now(UTC)
        error, result = None, None
        try:
            one.asked.check()
            query, most = one.asked.query, one.asked.most(self._engine.most_rows)
            result = self._engine.run(query, one.asked.uploads, most, one.duration, one.folder, one.stop, _PATIENCE_S)
        except (QueryError, AlerceError) as reason:
            error = str(reason)
        except Stopped:
            error = "the job was ended"
        except OSError as reason:
            error = f"the data cannot be read now: {type(reason).__name__}"
        with self._lock:
            if one.phase == "EXECUTING":
                one.phase, one.ended = "ERROR" if error else "COMPLETED", datetime.now(UTC)
                one.error, one.result = error, result
