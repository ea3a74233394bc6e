"""The lease: one application at a time may write a lake. A file with a heartbeat names it.

Blind appends never conflict in Delta, so two writers would duplicate rows without an error (design.md section 7).
The file carries a token of its holder, and its modification time is the heartbeat. A holder that showed no life for
`timeout` seconds is dead and may be replaced; takers go one at a time, by an advisory lock on a file beside it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

_FILE = "_lease.json"
_LOCK = "_lease.lock"


class LeaseHeld(Exception):
    """Another application holds the lake; the message names it and says what to do."""


class LeaseLost(Exception):
    """The lake was taken by another application while this one was silent: it must stop writing."""


class Lease:
    """Context manager that holds the lake at `lake` (a path) for `holder`, renewed by a thread until it ends.

    Raises LeaseHeld on entry while another holder is alive, LeaseLost from `check` when it was taken away.
    """

    def __init__(self, lake: str, holder: str, timeout: float = 60.0) -> None:
        if "://" in lake and not lake.startswith("file:"):
            raise LeaseHeld(
                f"no lease on {lake}: a lease is a file, and this is not a path that all writers share; "
                "put the lake on a shared file system"
            )
        self._file = Path(lake.removeprefix("file:")) / _FILE
        self._timeout = timeout
        self._token = uuid.uuid4().hex
        self._record = {
            "holder": holder,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "token": self._token,
        }
        self._stop = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_name(_LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._held_by_a_living():
                raise LeaseHeld(self._who())
            self._file.write_text(json.dumps(self._record))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._mine():
            self._file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise LeaseLost when the lease is no longer this holder's. To be called before each write."""
        if self._lost or not self._mine():
            raise LeaseLost(
                f"the lease on {self._file.parent} was taken by another application; this one stops writing"
            )

    def _beat(self) -> None:
        while not self._stop.wait(self._timeout / 6):
            if not self._mine():
                self._lost = True
                return
            os.utime(self._file)

    def _mine(self) -> bool:
        return _read(self._file).get("token") == self._token

    def _held_by_a_living(self) -> bool:
        try:
            return time.time() - self._file.stat().st_mtime < self._timeout
        except FileNotFoundError:
            return False

    def _who(self) -> str:
        record = _read(self._file)
        return (
            f"{self._file.parent} is being written by {record.get('holder', 'another application')} "
            f"(process {record.get('pid', '?')} on {record.get('host', '?')}, since {record.get('since', '?')}). "
            "Stop it first, or send packets through it: alerce-spark import --through-stream. "
            f"A dead holder's lease expires {self._timeout:.0f} s after its last sign of life."
        )


def _read(file: Path) -> dict[str, str]:
    try:
        record = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
