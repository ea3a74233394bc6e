"""The outlier model: which outliers it finds, invariance of its scores, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from alerce_spark.classifiers import lightcurve, outliers
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.lightcurve import Classification, LightcurveModel
from alerce_spark.classifiers.outliers import OutlierModel
from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE, LIGHTCURVE_CLASSES, OUTLIER
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.lake.models import bootstrap
from alerce_spark.training.light_curves import simulated_set
from alerce_spark.training.sets import FeatureSet

EACH = 40


def _rows(seed: int) -> tuple[np.ndarray, list[str]]:
    """Classes whose first 20 features lie at separate places, with noise; a tenth of the values missing."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(len(LIGHTCURVE_CLASSES)), EACH)
    matrix = rng.normal(0.0, 1.0, (code.size, len(FEATURES)))
    matrix[:, :20] += 6.0 * code[:, None]
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    return matrix, [LIGHTCURVE_CLASSES[k] for k in code]


def _sure(labels: list[str]) -> Classification:
    """A classification that is right and nearly sure."""
    code = np.array([LIGHTCURVE_CLASSES.index(name) for name in labels])
    sizes = [len(classes) for classes in BRANCHES.values()]
    branch = np.repeat(np.arange(3), sizes)
    top = np.where(np.arange(3) == branch[code][:, None], 0.98, 0.01)
    children = np.where(np.arange(15) == code[:, None], 1.0, 0.02)
    for k in range(3):
        children[:, branch == k] /= children[:, branch == k].sum(axis=1, keepdims=True)
    return Classification(top[:, branch] * children, top, children, code)


@pytest.fixture(scope="module")
def made() -> OutlierModel:
    matrix, labels = _rows(1)
    ordinary, truth = _rows(2)
    return outliers.fit(matrix, labels, ordinary, _sure(truth), version="test", training={"of": "noise"})


def test_scores_of_ordinary_objects_are_uniform(made: OutlierModel) -> None:
    matrix, labels = _rows(3)
    assert stats.kstest(made.score(matrix, _sure(labels)), "uniform").statistic < 0.1


def test_what_fits_no_class_scores_high(made: OutlierModel) -> None:
    matrix, labels = _rows(4)
    found = _sure(labels)
    # Each feature within its range, but of two classes at once.
    half = matrix.copy()
    half[:, 10:20] = matrix[::-1, 10:20]
    is_mixed = np.array(labels) != np.array(labels[::-1])
    assert np.median(made.score(half, found)[is_mixed]) > 0.65
    far = matrix + 8.0
    assert np.median(made.score(far, found)) > 0.95
    unsure = Classification(
        np.full((len(matrix), 15), 1 / 15), np.full((len(matrix), 3), 1 / 3), _even(len(matrix)), found.class_codes
    )
    assert np.median(made.score(matrix, unsure)) > 0.95


def _even(n: int) -> np.ndarray:
    return np.repeat([[1 / len(classes) for classes in BRANCHES.values() for _ in classes]], n, axis=0)


def test_rows_are_judged_alone_and_missing_ones_not_at_all(made: OutlierModel) -> None:
    matrix, labels = _rows(5)
    found = _sure(labels)
    score = made.score(matrix, found)
    for i in (0, 300, 599):
        one = Classification(*(getattr(found, name)[i : i + 1] for name in vars(found)))
        assert made.score(matrix[i : i + 1], one)[0] == score[i]
    assert ((score >= 0) & (score <= 1)).all()
    empty = Classification(np.full((1, 15), np.nan), np.full((1, 3), np.nan), np.full((1, 15), np.nan), np.array([-1]))
    assert np.isnan(made.score(np.full((1, len(FEATURES)), np.nan), empty)).all()
    assert made.odd_features(np.full((1, len(FEATURES)), np.nan), empty) == [[]]
    wild = np.where(np.arange(len(FEATURES)) % 2, np.inf, 1e300)[None]
    some = Classification(*(getattr(found, name)[:1] for name in vars(found)))
    assert np.isfinite(made.score(wild, some)).all()
    with pytest.raises(ValueError, match="shape"):
        made.score(matrix[:, :5], found)


def test_the_features_that_make_an_object_odd_are_named(made: OutlierModel) -> None:
    matrix, labels = _rows(6)
    matrix = np.nan_to_num(matrix)
    matrix[:, 77] = 30.0
    found = _sure(labels)
    for parts in made.odd_features(matrix[::50], Classification(*(getattr(found, n)[::50] for n in vars(found))), 3):
        assert parts[0][0] == FEATURES[77]
        assert parts[0][1] > 0
        assert len(parts) == 3


def test_features_are_mapped_by_their_quantiles(made: OutlierModel) -> None:
    matrix, _ = _rows(1)
    normal, missing = made.normal(matrix)
    np.testing.assert_array_equal(missing, np.isnan(matrix))
    assert (normal[missing] == 0).all()
    column = matrix[:, 40]
    ranks = stats.norm.ppf((stats.rankdata(column[~missing[:, 40]]) - 0.5) / (~missing[:, 40]).sum())
    inner = np.abs(ranks) < 2
    np.testing.assert_allclose(normal[~missing[:, 40], 40][inner], ranks[inner], atol=0.08)
    rising = np.tile(np.linspace(-1e3, 1e3, 999)[:, None], (1, len(FEATURES)))
    assert (np.diff(made.normal(rising)[0], axis=0) >= 0).all()


def test_a_file_gives_the_same_scores(made: OutlierModel, tmp_path: Path) -> None:
    file = tmp_path / "model"
    made.save(file)
    again = outliers.load(file)
    matrix, labels = _rows(7)
    np.testing.assert_array_equal(again.score(matrix, _sure(labels)), made.score(matrix, _sure(labels)))
    assert (again.version, again.features_version, again.training) == ("test", FEATURES_VERSION, {"of": "noise"})
    broken = bytearray(file.read_bytes())
    broken[-100] ^= 1
    file.write_bytes(broken)
    with pytest.raises(ModelError, match="damaged"):
        outliers.load(file)


def test_too_few_objects_are_refused() -> None:
    matrix, labels = _rows(1)
    few = [i for i, name in enumerate(labels) if not name.startswith("SN")]
    kept = [name for i, name in enumerate(labels) if i in few and name != "SLSN"]
    rows = [i for i in few if labels[i] != "SLSN"]
    with pytest.raises(ValueError, match="Transient"):
        outliers.fit(matrix[rows], kept, matrix, _sure(labels), version="test")


# The model that ships.


@pytest.fixture(scope="module")
def shipped() -> tuple[OutlierModel, LightcurveModel]:
    file, forest = bootstrap(OUTLIER), bootstrap(LIGHTCURVE)
    assert file is not None
    assert forest is not None
    assert file.stat().st_size < 3e6
    return outliers.load(file), lightcurve.load(forest)


@pytest.fixture(scope="module")
def simulated() -> FeatureSet:
    return simulated_set(515151, 8, workers=1)


def test_the_shipped_model_is_calibrated(shipped: tuple[OutlierModel, LightcurveModel], simulated: FeatureSet) -> None:
    model, forest = shipped
    assert model.features_version == FEATURES_VERSION
    assert model.training["lc_classifier"] == forest.version
    score = model.score(simulated.matrix, forest.classify(simulated.matrix))
    assert abs(score.mean() - 0.5) < 0.12
    assert np.mean(score > 0.95) < 0.12


def test_the_shipped_model_finds_the_bands_of_different_objects_odd(
    shipped: tuple[OutlierModel, LightcurveModel], simulated: FeatureSet
) -> None:
    model, forest = shipped
    is_red = np.array([name.endswith("_2") for name in FEATURES])
    mixed = simulated.matrix.copy()
    mixed[:, is_red] = np.roll(simulated.matrix, len(simulated) // 2, axis=0)[:, is_red]
    scores = [model.score(matrix, forest.classify(matrix)) for matrix in (mixed, simulated.matrix)]
    assert np.mean(scores[0]) > np.mean(scores[1]) + 0.2
