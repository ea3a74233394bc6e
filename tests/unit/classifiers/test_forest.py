"""Compiled forests against scikit-learn and imbalanced-learn, and arrays that are not a forest."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from alerce_spark.classifiers.forest import Forest, from_sklearn

SEED = 20

ensemble = pytest.importorskip("imblearn.ensemble", reason="needs the extra `training`")
sklearn_ensemble = pytest.importorskip("sklearn.ensemble")


def labelled(classes: int, n: int = 400, columns: int = 12) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Overlapping classes of unequal size; values repeat and -999 stands for missing ones."""
    rng = np.random.default_rng(SEED)
    codes = np.minimum(rng.geometric(0.3, n) - 1, classes - 1)
    rows = rng.normal(rng.normal(size=(classes, columns))[codes], 1.0).round(1)
    rows[rng.random(rows.shape) < 0.15] = -999.0
    return rows.astype(np.float32), np.array([f"class {code}" for code in codes])


def fitted(rows: NDArray[np.float32], names: NDArray[Any], **parameters: Any) -> Any:
    defaults = {"sampling_strategy": "auto", "replacement": False, "bootstrap": True, "random_state": SEED}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return ensemble.BalancedRandomForestClassifier(30, **defaults | parameters).fit(rows, names)


@pytest.mark.parametrize(
    "parameters",
    [
        {"criterion": "entropy", "class_weight": "balanced_subsample"},
        {"criterion": "entropy", "class_weight": "balanced_subsample", "max_features": 0.2, "min_samples_leaf": 5},
        {"max_depth": 3},
        {"max_depth": 1},
    ],
    ids=["grown out", "impure leaves", "flat", "stumps"],
)
@pytest.mark.parametrize("classes", [2, 5])
def test_equals_imbalanced_learn(classes: int, parameters: dict[str, Any]) -> None:
    rows, names = labelled(classes)
    model = fitted(rows, names, **parameters)
    forest = from_sklearn(model)
    assert forest.classes == tuple(model.classes_)
    expected = model.predict_proba(rows)
    for count in (0, 1, 3, 4, 8, 9, 257, 400):
        np.testing.assert_allclose(forest.predict_proba(rows[:count]), expected[:count], rtol=0, atol=1e-6)


def test_a_tree_that_is_one_leaf() -> None:
    rows = np.zeros((40, 3), np.float32)
    model = fitted(rows, np.repeat(["a", "b"], [30, 10]))
    assert all(estimator.tree_.node_count == 1 for estimator in model.estimators_)
    probe = np.array([[0, 0, 0], [-1e30, 5, 5]], np.float32)
    np.testing.assert_allclose(from_sklearn(model).predict_proba(probe), model.predict_proba(probe), atol=1e-6)


_NEAR = st.sampled_from(
    [0.0, 1.0, -999.0, 1e30, 1e-38]
    + [float(np.nextafter(np.float32(1), np.float32(side))) for side in (0, 2)]
    + [float(np.nextafter(np.float32(-999), np.float32(side))) for side in (-1000, 0)]
)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (24, 2), elements=_NEAR), hnp.arrays(np.int8, 24, elements=st.integers(0, 2)))
def test_equals_scikit_learn_at_and_beside_every_threshold(rows: NDArray[np.float32], codes: NDArray[np.int8]) -> None:
    model = sklearn_ensemble.RandomForestClassifier(5, random_state=SEED).fit(rows, codes)
    thresholds = np.concatenate([e.tree_.threshold[e.tree_.feature >= 0] for e in model.estimators_])
    nearest = np.unique(np.r_[thresholds.astype(np.float32), rows.ravel()])
    around = np.r_[nearest, *(np.nextafter(nearest, np.float32(side)) for side in (-np.inf, np.inf))]
    probe = np.stack(np.meshgrid(around, around), axis=-1).reshape(-1, 2)
    np.testing.assert_allclose(from_sklearn(model).predict_proba(probe), model.predict_proba(probe), atol=1e-6)


@given(st.floats(-1e39, 1e39), st.floats(width=32, allow_nan=False))
def test_a_single_precision_threshold_divides_single_precision_values_as_the_double_one(t: float, x: float) -> None:
    stored = from_sklearn(_stump(t)).arrays["splits"].view(np.float32)[0, 0]
    with np.errstate(over="ignore"):
        near = {x, *(float(np.nextafter(stored, np.float32(side))) for side in (-np.inf, np.inf)), float(stored)}
    for value in near:
        assert (value <= t) == bool(np.float32(value) <= stored)


class _stump:
    """A model as `from_sklearn` reads it, with one tree, one split at `threshold`."""

    def __init__(self, threshold: float) -> None:
        self.tree_ = self
        self.estimators_ = [self]
        self.classes_, self.n_features_in_ = np.array(["a", "b"]), 1
        self.children_left, self.children_right = np.array([1, -1, -1]), np.array([2, -1, -1])
        self.feature, self.threshold = np.array([0, -2, -2]), np.array([threshold, -2.0, -2.0])
        self.value = np.array([[[0.5, 0.5]], [[1.0, 0.0]], [[0.0, 1.0]]])


def test_trees_grown_best_first_are_refused() -> None:
    rows, names = labelled(3)
    model = fitted(rows, names, max_leaf_nodes=20)
    with pytest.raises(ValueError, match="depth first"):
        from_sklearn(model)


@pytest.fixture(scope="module")
def arrays() -> dict[str, NDArray[Any]]:
    rows, names = labelled(3)
    return from_sklearn(fitted(rows, names)).arrays


def remade(arrays: dict[str, NDArray[Any]], columns: int = 12) -> Forest:
    return Forest(arrays["splits"], arrays["trees"], arrays["leaves"], ("a", "b", "c"), columns)


def test_arrays_make_the_forest_again(arrays: dict[str, NDArray[Any]]) -> None:
    rows, names = labelled(3)
    expected = from_sklearn(fitted(rows, names)).predict_proba(rows)
    np.testing.assert_array_equal(remade(arrays).predict_proba(rows), expected)


def _set(name: str, index: Any, value: Any) -> Callable[[dict[str, NDArray[Any]]], None]:
    return lambda arrays: arrays[name].__setitem__(index, value)


def _relink(kind: int, change: Callable[[int, int], int]) -> Callable[[dict[str, NDArray[Any]]], None]:
    """Change the link of the first split of a kind; `change` gets the link and the number of leaves."""

    def edit(arrays: dict[str, NDArray[Any]]) -> None:
        links = arrays["splits"][:, 1]
        index = np.flatnonzero((links >> 8) & 3 == kind)[0]
        links[index] = change(int(links[index]), len(arrays["leaves"]))

    return edit


@pytest.mark.parametrize(
    ("what", "edit"),
    [
        ("a column that does not exist", _relink(0, lambda link, _: link | 0xFF)),
        ("threshold is NaN", _set("splits", (5, 0), 0x7FC00000)),
        ("leads out of its tree", _relink(0, lambda link, _: link | 0xFFFFFC00)),
        ("leads out of its tree", _relink(0, lambda link, _: link & 0x3FF)),
        ("without a leaf", _set("splits", (-1, 1), 1 << 8)),
        ("outside the table", _relink(1, lambda link, leaves: link & 0x3FF | leaves << 10)),
        ("outside the table", _relink(3, lambda link, leaves: link & 0x3FF | (leaves - 1) << 10)),
        ("trees overlap", _set("trees", 3, 0)),
        ("trees overlap", _set("trees", -1, 2**32 - 1)),
        ("not probabilities", _set("leaves", (0, 0), np.nan)),
        ("not probabilities", _set("leaves", 0, [-1, 1, 1])),
        ("not probabilities", _set("leaves", 0, 0.5)),
    ],
)
def test_arrays_that_are_no_forest(
    arrays: dict[str, NDArray[Any]], what: str, edit: Callable[[dict[str, NDArray[Any]]], None]
) -> None:
    broken = {name: array.copy() for name, array in arrays.items()}
    edit(broken)
    with pytest.raises(ValueError, match=what):
        remade(broken)


@pytest.mark.parametrize("name", ["splits", "trees", "leaves"])
def test_arrays_of_another_shape_or_type(arrays: dict[str, NDArray[Any]], name: str) -> None:
    array = arrays[name]
    for other in (array[:0], array.astype(np.float64), array.ravel()[:7], np.zeros((3, 3, 3), array.dtype)):
        with pytest.raises(ValueError, match="no forest"):
            remade({**arrays, name: other})
    with pytest.raises(ValueError, match="columns"):
        remade(arrays, columns=257)


def test_no_bytes_make_a_walk_leave_the_arrays_or_go_on_for_ever(arrays: dict[str, NDArray[Any]]) -> None:
    rng = np.random.default_rng(SEED)
    rows, _ = labelled(3)
    accepted = 0
    for _ in range(400):
        broken = {name: array.copy() for name, array in arrays.items()}
        target = broken[rng.choice(["splits", "splits", "splits", "trees", "leaves"])].view(np.uint8).reshape(-1)
        target[rng.integers(target.size, size=rng.integers(1, 4))] ^= np.uint8(1 << rng.integers(8))
        try:
            forest = remade(broken)
        except ValueError:
            continue
        accepted += 1
        found = forest.predict_proba(rows)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-3)
    assert 50 < accepted < 350


@pytest.mark.parametrize("shape", [(3,), (3, 11), (3, 13), (1, 3, 12)])
def test_a_matrix_of_another_shape(arrays: dict[str, NDArray[Any]], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(n, 12\) is needed"):
        remade(arrays).predict_proba(np.zeros(shape))


def test_a_matrix_with_nan(arrays: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(ValueError, match="NaN"):
        remade(arrays).predict_proba(np.full((2, 12), np.nan))
