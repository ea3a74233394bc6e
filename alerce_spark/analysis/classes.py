"""Classes of a table of features, by a model file, by the current model of a lake, or by the shipped model."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from alerce_spark.classifiers import lightcurve
from alerce_spark.classifiers.lightcurve import LightcurveModel
from alerce_spark.lake.serving import LightcurveModels


def classify(features: pa.Table, model: Path | None = None, lake: str | None = None) -> pa.Table:
    """Class, probability, all classes and branches of each row of `features`: `oid` and columns of the 152.

    `compute_features` makes such tables. Absent features count as missing. Raises InputError for a table without any
    feature, ModelError for a file that is not a light-curve model.
    """
    return lightcurve.classify_table(features, light_curve_model(model, lake))[0]


def light_curve_model(model: Path | None = None, lake: str | None = None) -> LightcurveModel:
    """The model of a file; without one the current model of `lake`; without a lake the shipped model."""
    return lightcurve.load(model) if model is not None else LightcurveModels(lake).classifier.get()[0]
