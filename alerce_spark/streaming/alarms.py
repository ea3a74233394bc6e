"""The models in use, watched from the driver: what workers cannot load an operator must hear of, since they go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, OUTLIER, STAMP
from alerce_spark.lake.serving import LightcurveModels, stamp_models

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
        self._looks: dict[str, Callable[[], None]] = {}
        if "stamps" in names:
            self._stamps = stamp_models(lake, clock)
            self._looks["stamps"] = self._look_at_stamps
        if "lightcurves" in names:
            self._light_curves = LightcurveModels(lake, clock)
            self._looks["lightcurves"] = self._look_at_light_curves
        self._next = dict.fromkeys(self._looks, -float("inf"))

    def look(self, name: str) -> None:
        """Tell of the models of the query `name`, if it has any and a few seconds have passed. One thread a query."""
        if name not in self._looks or self._clock() < self._next[name]:
            return
        self._next[name] = self._clock() + _LOOK_S
        self._looks[name]()

    def _look_at_stamps(self) -> None:
        try:
            _, version = self._stamps.get()
        except ModelError as error:
            self._tell(STAMP, None, str(error))
        else:
            self._tell(STAMP, version, self._stamps.alarm)

    def _look_at_light_curves(self) -> None:
        models = self._light_curves
        try:
            serving = models.get()
        except ModelError as error:
            self._tell(LIGHTCURVE, None, str(error))
        else:
            self._tell(LIGHTCURVE, serving.version, models.classifier.alarm)
            self._tell(OUTLIER, serving.outlier_version, models.alarm)
