"""A cache of replies about objects; a reply is kept until a commit touches the object's place on the sky.

The log alone gives the places that a commit touches: partition and range of `healpix29` of each file that was added or
lost rows. They include every object whose rows changed, and others, so no kept reply is older than the last read of the
log.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from time import monotonic

from prometheus_client import Counter

from alerce_spark.serving.changes import Changes, Commit, File, HistoryGone, commits
from alerce_spark.serving.curves import Place


@dataclass(frozen=True)
class _Kept:
    body: bytes
    tables: Sequence[str]
    where: Place


class Replies:
    """Up to `size` bytes of replies, those requested last. The logs are read at most once in `look_s` seconds."""

    def __init__(self, lake: str, size: int, look_s: float) -> None:
        self._lake, self._size, self._look_s = lake, size, look_s
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()
        self._followed: dict[str, Changes] = {}
        self._looked: dict[str, float] = {}
        self.asked = Counter("alerce_kept_replies", "Replies asked for, by hit or miss", ["result"], registry=None)
        for result in ("hit", "miss"):  # a rate needs the zero before the first one
            self.asked.labels(result)

    def get(self, name: str, tables: Sequence[str], where: Place, make: Callable[[], bytes]) -> bytes:
        """The reply of this name, which depends on rows of `tables` at a place: from the cache, or made by `make`.

        Raises LakeError where the tables cannot be read, and the errors of `make`.
        """
        with self._lock:
            before = {table: self._look(table) for table in tables}
            kept = self._kept.get(name)
            if kept is not None:
                self._kept.move_to_end(name)
                self.asked.labels("hit").inc()
                return kept.body
        self.asked.labels("miss").inc()
        body = make()
        with self._lock:
            # A commit during `make` may be in the reply or not.
            if before == {table: self._look(table) for table in tables} and len(body) <= self._size:
                self._drop(name)
                self._kept[name] = _Kept(body, tables, where)
                self._bytes += len(body)
                while self._bytes > self._size:
                    self._drop(next(iter(self._kept)))
        return body

    def _look(self, table: str) -> int:
        """Drop replies that commits since the last read have touched; return the table's version."""
        now = monotonic()
        followed = self._followed.get(table)
        if followed is not None and now - self._looked[table] < self._look_s:
            return followed.version
        try:
            if followed is None:
                followed = self._followed[table] = Changes(self._lake, table)
            for commit in commits(followed):
                self._touched(table, commit)
        except HistoryGone:
            self._forget(table)
            followed = self._followed[table] = Changes(self._lake, table)
        self._looked[table] = now
        return followed.version

    def _touched(self, table: str, commit: Commit) -> None:
        files = [*commit.added, *(shrunk.before for shrunk in commit.shrunk)]
        by_pixel: dict[int, list[tuple[int, int]]] = {}
        for file in files:
            pixel, *ends = _reach(file)
            by_pixel.setdefault(pixel, []).append((ends[0], ends[1]))
        for name, kept in list(self._kept.items()):
            near = (ends for pixel in kept.where.pixels.tolist() for ends in by_pixel.get(pixel, ()))
            if table in kept.tables and any(_meets(kept.where, *ends) for ends in near):
                self._drop(name)

    def _forget(self, table: str) -> None:
        self._followed.pop(table, None)
        for name, kept in list(self._kept.items()):
            if table in kept.tables:
                self._drop(name)

    def _drop(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            self._bytes -= len(kept.body)


def _reach(file: File) -> tuple[int, int, int]:
    """Partition of a file, and its first and last `healpix29`; the whole range where the log has no bounds."""
    first, last = file.bounds or (0, 1 << 62)
    return int(file.partition["pixel"] or 0), first, last


def _meets(where: Place, first: int, last: int) -> bool:
    return bool(((where.ranges[:, 0] <= last) & (where.ranges[:, 1] > first)).any())
