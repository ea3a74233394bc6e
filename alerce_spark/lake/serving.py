"""The models of a lake that workers serve; the light-curve classifier is served with its outlier model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from alerce_spark.classifiers import lightcurve, outliers
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.lightcurve import Classification, LightcurveModel
from alerce_spark.classifiers.outliers import OutlierModel
from alerce_spark.classifiers.stamp import StampModel
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, OUTLIER, STAMP
from alerce_spark.errors import LakeError
from alerce_spark.lake.models import Served, bootstrap


def stamp_models(lake: str | None, clock: Callable[[], float] = time.monotonic) -> Served[StampModel]:
    """The current stamp classifier of a lake; without a lake (None) the one that ships with the package."""
    return Served(lake, STAMP, StampModel.load, bootstrap(STAMP), clock)


def refuse_other_models(classifier: str, file: Path) -> None:
    """Load a model file once, as workers will. Raises LakeError for a file that is no model of this classifier."""
    loaders = {LIGHTCURVE: lightcurve.load, OUTLIER: outliers.load, STAMP: StampModel.load}
    if classifier not in loaders:
        raise LakeError(f"no classifier {classifier!r}; there are {', '.join(loaders)}")
    if not file.is_file():
        raise LakeError(f"no model file {file}")
    try:
        loaders[classifier](file)
    except (ModelError, OSError) as error:
        raise LakeError(f"{file} is no model of {classifier}: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class Serving:
    """A classifier with its version in the registry, and its outlier model, if it has one."""

    classifier: LightcurveModel
    version: str
    outliers: OutlierModel | None
    outlier_version: str | None

    def outlier(self, matrix: ArrayLike, found: Classification) -> list[dict[str, Any]]:
        """`outlier_score` and `outlier_version` of each row of features (n, 152), None where unknown."""
        if self.outliers is None:
            return [{"outlier_score": None, "outlier_version": None}] * len(found.class_codes)
        scores = self.outliers.score(matrix, found)
        return [
            {"outlier_score": None if np.isnan(score) else score, "outlier_version": self.outlier_version}
            for score in scores.tolist()
        ]


class LightcurveModels:
    """The current classifier and outlier model of a lake, each a `lake.models.Served`.

    Outlier scores are calibrated on a classifier's answers for ordinary objects. So an outlier model serves only with
    the classifier that it was calibrated on (its file has that version); with another, or where the outlier model
    cannot be loaded, there are no scores and `alarm` says so. Classes never wait for it. Without a lake (None) the
    models that ship with the package serve.
    """

    def __init__(self, lake: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.classifier = Served(lake, LIGHTCURVE, lightcurve.load, bootstrap(LIGHTCURVE), clock)
        self.alarm: str | None = None
        self._outliers = Served(lake, OUTLIER, outliers.load, bootstrap(OUTLIER), clock)

    def scorer(self) -> OutlierModel:
        """The current outlier model, for any classifier. Raises ModelError where no outlier model can be loaded."""
        return self._outliers.get()[0]

    def get(self) -> Serving:
        """The models to use now. Raises ModelError where no classifier can be loaded."""
        model, version = self.classifier.get()
        try:
            scorer, outlier_version = self._outliers.get()
        except ModelError as error:
            self.alarm = str(error)
            return Serving(model, version, None, None)
        if scorer.classifier != model.version:  # both may have been promoted between the two reads
            model, version = self.classifier.get()
        self.alarm = self._outliers.alarm
        if scorer.classifier != model.version:
            self.alarm = self.alarm or (
                f"{OUTLIER}: {outlier_version} goes with {LIGHTCURVE} {scorer.classifier or 'of no known version'}, "
                f"not with {model.version}: no outlier scores until one that does is current"
            )
            return Serving(model, version, None, None)
        return Serving(model, version, scorer, outlier_version)
