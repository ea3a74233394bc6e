"""Memory, open files, threads and processor time of a benchmark's processes: driver, JVM and Python workers."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType


class Memory:
    """Context that samples the memory of this process and its descendants; peaks in MB, shared pages once."""

    def __init__(self, without: int) -> None:
        """without: process whose memory, and that of its descendants, is not counted."""
        self._without = without
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak: dict[str, int] = {}

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(1.0):
            now = {"driver_python": 0, "jvm": 0, "workers_python": 0}
            for process, name in tree(self._without):
                kind = "driver_python" if process == os.getpid() else "jvm" if name == "java" else "workers_python"
                now[kind] += _resident_mb(process) if kind == "jvm" else _proportional_mb(process)
            now["all"] = sum(now.values())
            self.peak = {kind: max(value, self.peak.get(kind, 0)) for kind, value in now.items()}


@dataclass
class Held:
    """Resources of processes of one kind: their number, megabytes (shared pages once), threads, descriptors by kind."""

    processes: int = 0
    mb: float = 0.0
    threads: int = 0
    descriptors: Counter[str] = field(default_factory=Counter)


def held(root: int) -> dict[str, Held]:
    """Resources of a Spark application with driver process `root`, by driver_python, jvm, daemon and workers."""
    found = {kind: Held() for kind in ("driver_python", "jvm", "daemon", "workers")}
    children = _children()
    for kind, process in _kinds(root, children):
        kept = found[kind]
        kept.processes += 1
        kept.mb += _resident_mb(process) if kind == "jvm" else _proportional_mb(process)
        with suppress(OSError):  # it has ended
            kept.threads += len(os.listdir(f"/proc/{process}/task"))
        kept.descriptors += _descriptors(process)
    return found


def _kinds(root: int, children: dict[int, list[tuple[int, str]]]) -> list[tuple[str, int]]:
    """Kind and number of each process: workers are forked from a daemon, which the JVM starts."""
    found = [("driver_python", root)]
    below = {"driver_python": "driver_python", "jvm": "daemon", "daemon": "workers", "workers": "workers"}
    for kind, process in found:  # grows while it is walked
        for child, name in children.get(process, []):
            found.append(("jvm" if name == "java" else below[kind], child))
    return found


def _descriptors(process: int) -> Counter[str]:
    """Open file descriptors of a process: file, socket, pipe, or the name of another kind."""
    kinds: Counter[str] = Counter()
    with suppress(OSError):  # it has ended
        for entry in os.scandir(f"/proc/{process}/fd"):
            with suppress(OSError):  # it was closed
                target = os.readlink(entry.path)
                kinds["file" if target.startswith("/") else target.split(":")[0]] += 1
    return kinds


def tree(without: int) -> list[tuple[int, str]]:
    """This process and its descendants, with their names; `without` and its descendants are left out."""
    children = _children()
    found = [(os.getpid(), "")]
    for process, _ in found:  # grows while it is walked
        found += [child for child in children.get(process, []) if child[0] != without]
    return found


def _children() -> dict[int, list[tuple[int, str]]]:
    """Every process of the machine with its name, by the id of its parent."""
    children: dict[int, list[tuple[int, str]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, rest = (folder / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        children.setdefault(int(rest.split()[1]), []).append((int(folder.name), name))
    return children


def _resident_mb(process: int) -> int:
    """All pages of a process: cheap even for a large one, correct if it shares nothing."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:  # it has ended
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 10**6


def _proportional_mb(process: int) -> int:
    """Pages of a process, with shared pages divided among their users: workers are forked from one daemon."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) // 1000 for line in lines if line.startswith("Pss:")), 0)


class Processor:
    """Context that measures the processor time of this process and its descendants, including those that end.

    Spark's daemon does not wait for its workers: the time of an ended worker is only in the samples. A process that
    starts and ends between two samples is missed.
    """

    def __init__(self, without: int) -> None:
        """without: process whose time, and that of its descendants, is not counted."""
        self._without = without
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._lock = threading.Lock()
        self._before: dict[tuple[int, int], int] = {}
        self._last: dict[tuple[int, int], int] = {}

    def __enter__(self) -> Processor:
        self._before = self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    @property
    def seconds(self) -> float:
        """Seconds used since the start of the context, up to now or to its end."""
        if not self._stop.is_set():
            self._sample()
        with self._lock:
            ticks = sum(last - self._before.get(process, 0) for process, last in self._last.items())
        return ticks / os.sysconf("SC_CLK_TCK")

    def _watch(self) -> None:
        while not self._stop.wait(0.3):
            self._sample()

    def _sample(self) -> dict[tuple[int, int], int]:
        found = {}
        for process, _ in tree(self._without):
            try:
                fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # it has ended
                continue
            # Process ids are reused: id and start time are unique. Then user and system time.
            found[process, int(fields[19])] = int(fields[11]) + int(fields[12])
        with self._lock:
            self._last |= found
        return found
