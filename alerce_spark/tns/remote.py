"""Searches at TNS for users of a server: few, one at a time, with a cache of answers."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from alerce_spark.tns.http import Limited
from alerce_spark.tns.server import Tns, bare

#: Limit of searches for all users together, and objects that one search looks up.
_RATE, _RATE_S, _MOST = parse("20/minute"), 60.0, 5
#: Answers that are kept, and how long [s].
_KEPT, _KEPT_S = 1000, 600.0

Objects = list[dict[str, Any]]


class Remote:
    """Searches at TNS by one bot. Every method raises TnsError."""

    def __init__(self, tns: Tns) -> None:
        self._tns = tns
        self._rate = FixedWindowRateLimiter(MemoryStorage())
        self._answers: OrderedDict[tuple[Any, ...], tuple[float, Objects]] = OrderedDict()
        self._lock = Lock()

    def near(self, ra: float, dec: float, radius: float) -> Objects:
        """Objects within `radius` arcsec of a position [deg]."""
        return self._kept((ra, dec, radius), lambda: self._tns.near(ra, dec, radius))

    def called(self, name: str) -> Objects:
        """The object of a name, with or without prefix, else those with this internal name."""

        def names() -> list[str]:
            return [name] if self._tns.object(bare(name)) else self._tns.called(name)

        return self._kept((name,), names)

    def _kept(self, key: tuple[Any, ...], names: Callable[[], list[str]]) -> Objects:
        with self._lock:
            kept = self._answers.get(key)
            if kept is not None and kept[0] > time.monotonic():
                return kept[1]
            if not self._rate.hit(_RATE):
                raise Limited("TNS", _RATE_S)
            found = (self._tns.object(bare(name)) for name in names()[:_MOST])
            objects = [one for one in found if one is not None]
            self._answers[key] = (time.monotonic() + _KEPT_S, objects)
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
            return objects
