"""The models in use, watched from the driver: what workers cannot load an operator must hear of, since they go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from alerce_spark.streaming.queries import declared

_LOOK_S = 5.0

#: Takes classifier, version of the model in use (None: there is none), and why the current one is not.
Tell = Callable[[str, str | None, str | None], None]


class ModelWatch:
    """Loads the current models of the queries `names` as their workers do, and tells when they cannot be used.

    A worker that finds the current model missing, damaged or not loadable keeps the one before (`lake/models.py`); the
    driver, which reads the same registry by the same code, finds the same.
    """

    def __init__(
        self, lake: str, names: Sequence[str], tell: Tell, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._clock = tell, clock
        watched = {name: models for name in names if (models := declared(name).models) is not None}
        self._looks = {name: models(lake, clock) for name, models in watched.items()}
        self._next = dict.fromkeys(self._looks, -float("inf"))

    def look(self, name: str) -> None:
        """Tell of the models of the query `name`, if it has any and a few seconds have passed. One thread a query."""
        if name not in self._looks or self._clock() < self._next[name]:
            return
        self._next[name] = self._clock() + _LOOK_S
        for found in self._looks[name]():
            self._tell(*found)
