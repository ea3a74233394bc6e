"""Active learning: chosen objects are uncertain, represent many others, and are never chosen twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerce_spark.training import active


def test_uncertainty_is_the_entropy_of_branches_plus_that_within_them() -> None:
    top, inside = np.array([0.5, 0.3, 0.2]), np.array([[0.9, 0.1], [0.5, 0.5], [1.0, 0.0]])
    within = [-sum(p * np.log(p) for p in row if p) for row in inside]
    expected = -sum(p * np.log(p) for p in top) + top @ within
    p = (top[:, None] * inside).reshape(1, -1)
    assert active.uncertainty(p)[0] * np.log(6) == pytest.approx(expected)
    assert active.uncertainty(np.full((1, 15), 1 / 15))[0] == pytest.approx(1.0)
    assert active.uncertainty(np.eye(15)).max() == 0.0


def test_copies_are_chosen_once_and_crowds_first() -> None:
    rng = np.random.default_rng(4)
    places = np.eye(3) * 50
    sizes = (60, 30, 15)
    points = np.concatenate([rng.normal(place, 0.1, (n, 3)) for place, n in zip(places, sizes, strict=True)])
    group = np.repeat(np.arange(3), sizes)
    chosen, covers = active.choose(points, np.ones(len(points)), 3)
    assert group[chosen].tolist() == [0, 1, 2]
    assert (np.diff(covers) <= 0).all()
    # What is labelled already is not asked again, and what is sure never.
    chosen, _ = active.choose(points, np.ones(len(points)), 2, points[group == 0])
    assert group[chosen].tolist() == [1, 2]
    chosen, _ = active.choose(points, np.where(group == 2, 1.0, 0.0), 1)
    assert group[chosen].tolist() == [2]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 50))
def test_each_is_chosen_once_and_all_shares_are_of_one_whole(seed: int, n: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 5)).round(1)
    chosen, covers = active.choose(points, rng.uniform(0, 1, n), count)
    assert len(set(chosen.tolist())) == len(chosen) <= min(n, count)
    assert covers.sum() <= 1 + 1e-5


def test_bad_weights_are_refused() -> None:
    for weight in ([1.0], [1.0, -1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="finite weight"):
            active.choose(np.zeros((2, 3)), weight, 1)
    assert active.choose(np.zeros((0, 3)), [], 1)[0].size == 0
