"""Jobs that take longer than a request: queued, run one after the other, with results kept for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from uuid import uuid4

#: Largest number of jobs, waiting or done.
_KEPT = 50


class TooManyJobs(Exception):
    """Too many jobs wait for another one."""


class Jobs:
    """Jobs of one server, by their names."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="job")
        self._jobs: OrderedDict[str, Future[bytes]] = OrderedDict()
        self._lock = Lock()

    def close(self) -> None:
        """Drop the waiting jobs."""
        self._worker.shutdown(cancel_futures=True)

    def take(self, work: Callable[[], bytes]) -> str:
        """Queue a new job; return its name. Deletes the oldest result where there are many. Raises TooManyJobs."""
        with self._lock:
            if len(self._jobs) >= _KEPT:
                done = next((name for name, job in self._jobs.items() if job.done()), None)
                if done is None:
                    raise TooManyJobs
                del self._jobs[done]
            name = uuid4().hex
            self._jobs[name] = self._worker.submit(work)
        return name

    def result(self, name: str) -> bytes | None:
        """Result of a job; None while it is not done. Raises KeyError for an unknown job, and the error of the job."""
        with self._lock:
            job = self._jobs[name]
        return job.result() if job.done() else None
