"""The models in use, watched from the driver: what workers cannot load an operator must hear of, since they go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from alerce_spark.classifiers import lightcurve
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.stamp import StampModel
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, STAMP
from alerce_spark.lake.models import Served, Versioned, bootstrap

#: Classifier of a query and what loads its models.
_CLASSIFIERS: dict[str, tuple[str, Callable[[Path], Versioned]]] = {
    "stamps": (STAMP, StampModel.load),
    "lightcurves": (LIGHTCURVE, lightcurve.load),
}
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
        self._served: dict[str, tuple[str, Served[Versioned]]] = {
            name: (classifier, Served(lake, classifier, load, bootstrap(classifier), clock))
            for name, (classifier, load) in _CLASSIFIERS.items()
            if name in names
        }
        self._next = dict.fromkeys(self._served, -float("inf"))

    def look(self, name: str) -> None:
        """Tell about the model of the query `name`, if it has one and a few seconds have passed. One thread a query."""
        if name not in self._served or self._clock() < self._next[name]:
            return
        self._next[name] = self._clock() + _LOOK_S
        classifier, served = self._served[name]
        try:
            version: str | None = served.get()[1]
            alarm = served.alarm
        except ModelError as error:
            version, alarm = None, str(error)
        self._tell(classifier, version, alarm)
