"""Structure function against all pairs written out in NumPy, and against curves of known structure."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from feature_checks import Part, assert_independent, assert_survives, damped_walk, light_curves, moved, part, walks
from feature_curves import START, curves
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark.features.curves import Float
from alerce_spark.features.structure_function import NAMES, structure_function


def oracle(t: Float, m: Float, e: Float) -> tuple[float, float]:
    """docs/features.md, "Structure function" over all pairs."""
    edges = 10.0 ** np.arange(np.log10(5.0), np.log10(2000.0), 0.1)
    i, j = np.triu_indices(len(t), 1)
    dt = t[j] - t[i]
    near = (dt >= 5.0) & (dt <= 365.0)
    dt = dt[near]
    square = ((m[i] - m[j]) ** 2 - e[i] ** 2 - e[j] ** 2)[near]
    tau, sf = [], []
    for lo, hi in pairwise(edges):
        inside = (dt >= lo) & (dt < hi)
        if inside.any() and square[inside].mean() >= 0.0:
            tau.append(0.5 * (lo + hi) / 365.0)
            sf.append(np.sqrt(square[inside].mean()))
    x, y = np.array(tau), np.array(sf)
    fitted = (x > 0.01) & (x <= 0.5)
    if len(x) < 2 or fitted.sum() < 2:
        return -0.5, -0.5
    slope, intercept = np.polyfit(np.log10(x[fitted]), np.log10(y[fitted]), 1)
    if 10.0**intercept < 0.005:
        return 0.0, 0.0
    return min(10.0**intercept, 15.0), float(np.clip(slope, -0.5, 3.0))


@pytest.mark.parametrize(("n", "span"), [(6, 40.0), (8, 100.0), (15, 300.0), (40, 900.0), (150, 2000.0), (400, 1200.0)])
def test_equals_the_sum_over_pairs(n: int, span: float) -> None:
    parts = walks(12, n, seed=n, span=max(span, 4.0 * n))
    np.testing.assert_allclose(structure_function(curves(parts)), [oracle(*p) for p in parts], rtol=1e-9, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(light_curves(least=6), st.floats(0.01, 1.0))
def test_equals_the_sum_over_pairs_of_any_curve(p: Part, squeeze: float) -> None:
    t = START + (p[0] - START) * squeeze
    found = structure_function(curves([(t, p[1], p[2])]))[0]
    np.testing.assert_allclose(found, oracle(t, p[1], p[2]), rtol=1e-7, atol=1e-9)


def test_separations_on_the_edges_of_bins() -> None:
    """Pairs at exactly 5 and 365 d count, as the edges that NumPy computes have it."""
    rng = np.random.default_rng(4)
    t = START + np.r_[np.arange(0.0, 60.0, 5.0), 365.0, 370.0, 730.0]
    p = part(t, 18.0 + rng.normal(size=len(t)) * 0.3, 0.01)
    np.testing.assert_allclose(structure_function(curves([p]))[0], oracle(*p), rtol=1e-10)


def test_random_walk_has_slope_one_half() -> None:
    """Far below its time scale a damped walk is a random walk: SF = A·tau^0.5 with A² = 2·variance·(1 yr)/tau_d."""
    rng = np.random.default_rng(6)
    t = START + np.arange(0.0, 1500.0, 2.0)
    variance, tau = 40.0, 30_000.0
    parts = [part(t, 18.0 + damped_walk(rng, t, variance, tau), 1e-3) for _ in range(40)]
    amplitude, slope = structure_function(curves(parts)).T
    assert abs(np.median(slope) - 0.5) < 0.05
    assert np.median(amplitude) == pytest.approx(np.sqrt(2.0 * variance * 365.0 / tau), rel=0.15)


def test_white_noise_beyond_the_errors_is_flat() -> None:
    rng = np.random.default_rng(7)
    t = START + np.sort(rng.uniform(0.0, 900.0, 400))
    parts = [part(t, 18.0 + 0.2 * rng.normal(size=400), 0.05) for _ in range(30)]
    amplitude, slope = structure_function(curves(parts)).T
    assert abs(np.mean(slope)) < 0.02
    assert np.mean(amplitude) == pytest.approx(np.sqrt(2.0 * (0.2**2 - 0.05**2)), rel=0.03)


def test_awkward_curves() -> None:
    rows = assert_survives(structure_function, len(NAMES))
    for name in ("equal magnitudes", "one time", "within one night", "errors near one", "zero magnitudes"):
        assert (rows[name] == -0.5).all(), name
    assert all(np.isfinite(rows[name]).all() for name in rows if name not in ("empty", "one point", "five points"))


def test_limits_of_the_values() -> None:
    t = START + np.arange(0.0, 400.0, 4.0)
    steep = part(t, 15.0 + 30.0 * (t - START) / 365.0, 1e-3)  # 30 mag a year: amplitude beyond 15, slope 1
    np.testing.assert_allclose(structure_function(curves([steep]))[0], (15.0, 1.0), rtol=0.02)
    faint = part(t, 15.0 + 1e-3 * (t - START) / 365.0, 1e-9)
    np.testing.assert_array_equal(structure_function(curves([faint]))[0], (0.0, 0.0))


@settings(max_examples=30, deadline=None)
@given(st.lists(light_curves(), min_size=1, max_size=5))
def test_batches_do_not_mix(parts: list[Part]) -> None:
    assert_independent(structure_function, parts)


def test_invariants() -> None:
    parts = walks(20, 60, seed=10)
    found = structure_function(curves(parts))
    np.testing.assert_allclose(structure_function(curves(moved(parts, days=1024.0))), found, rtol=1e-9)
    np.testing.assert_allclose(structure_function(curves(moved(parts, mag=1.25))), found, rtol=1e-9)
