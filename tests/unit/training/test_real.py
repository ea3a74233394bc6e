"""The real test sets: every object is judged once, by its label, with and without the parts to leave out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from alerce_spark.classifiers import lightcurve
from alerce_spark.classifiers.lightcurve import LightcurveModel
from alerce_spark.classifiers.taxonomy import LIGHTCURVE_CLASSES
from alerce_spark.features.names import FEATURES
from alerce_spark.training.real import RealFigures, evaluate_real

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def model() -> LightcurveModel:
    """A model that learned nothing: features are noise."""
    rng = np.random.default_rng(1)
    labels = list(LIGHTCURVE_CLASSES) * 4
    matrix = rng.normal(size=(len(labels), len(FEATURES)))
    return lightcurve.train(matrix, labels, seed=1, version="noise", trees=4)


@pytest.fixture(scope="module")
def figures(model: LightcurveModel, data_dir: Path) -> RealFigures:
    return evaluate_real(model, data_dir)


def test_every_object_is_judged_by_its_own_label(figures: RealFigures, data_dir: Path) -> None:
    assert [judged.name for judged in figures.sets] == [
        "98 reference rows",
        "odd rows of the 98",
        "98 without SPM",
        "odd rows without SPM",
        "30 supernovae",
    ]
    assert [int(judged.classes.counts.sum()) for judged in figures.sets] == [98, 49, 98, 49, 30]
    for judged, file in ((figures.sets[0], "100_objects_labels.csv"), (figures.sets[-1], "30_sne_labels.csv")):
        labels = pl.read_csv(data_dir / "lightcurves" / file)["classALeRCE"].value_counts()
        known = dict(labels.iter_rows())
        support = judged.classes.counts.sum(axis=1).tolist()
        assert support == [known.get(name, 0) for name in LIGHTCURVE_CLASSES]
    transient = figures.sets[-1].top
    assert transient.counts.sum(axis=1).tolist() == [0, 0, 30]
    assert transient.classes[2] == "Transient"


def test_without_spm_only_what_used_it_changes(figures: RealFigures) -> None:
    whole, without = figures.sets[0], figures.sets[2]
    assert whole.classes.counts.tolist() != without.classes.counts.tolist()


def test_tables_show_macro_figures_and_each_class(figures: RealFigures) -> None:
    macro, by_class = figures.sheets()
    assert [row[1] for row in macro.rows] == [98, 49, 98, 49, 30]
    assert all(len(row) == len(macro.header) for row in macro.rows)
    supernovae = [row for row in by_class.rows if row[0] == "30 supernovae"]
    assert sum(row[2] for row in supernovae) == 30
