"""Damped random walk against celerite2, scipy.optimize and processes of known variance and time scale."""

from __future__ import annotations

import celerite2
import numpy as np
import pytest
from celerite2 import terms
from feature_checks import (
    Part,
    assert_independent,
    assert_survives,
    damped_walk,
    light_curves,
    moved,
    nudged,
    part,
    walks,
)
from feature_curves import START, cadence, curves
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from alerce_spark.features import drw
from alerce_spark.features.curves import Float
from alerce_spark.features.drw import NAMES, TAU_BOUNDS, VARIANCE_BOUNDS, damped_random_walk

BOUNDS = [tuple(np.log(VARIANCE_BOUNDS)), tuple(np.sort(-np.log(TAU_BOUNDS)))]


def celerite(log: Float, p: Part) -> float:
    """Negative log-likelihood by celerite2 at (ln a, ln c)."""
    t, m, e = p
    gp = celerite2.GaussianProcess(terms.RealTerm(a=np.exp(log[0]), c=np.exp(log[1])), mean=0.0)
    gp.compute(t, diag=e**2, quiet=True)
    return -float(gp.log_likelihood(m - m.mean()))


@settings(max_examples=50, deadline=None)
@given(st.floats(-8.0, 3.0), st.floats(-7.0, 4.0), st.integers(0, 10_000))
def test_likelihood_and_gradient(log_a: float, log_c: float, seed: int) -> None:
    p = walks(1, 40, seed=seed)[0]
    t, y, v = p[0], p[1] - p[1].mean(), p[2] ** 2
    g = np.empty(5)
    found = drw._loss(log_a, log_c, t, y, v, True, g)
    expected = celerite(np.array([log_a, log_c]), p)
    assert 0.5 * (found + len(t) * np.log(2.0 * np.pi)) == pytest.approx(expected, rel=1e-9, abs=1e-7)
    for k, (da, dc) in enumerate(((1e-5, 0.0), (0.0, 1e-5))):
        high = drw._loss(log_a + da, log_c + dc, t, y, v, False, g)
        low = drw._loss(log_a - da, log_c - dc, t, y, v, False, g)
        assert g[k] == pytest.approx((high - low) / 2e-5, rel=1e-5, abs=1e-4 + 1e-8 * abs(found))


@pytest.mark.parametrize("n", [15, 40, 150])
def test_optimum_is_as_good_as_any(n: int) -> None:
    """No worse than L-BFGS-B on celerite2's likelihood from upstream's start, and from two others."""
    parts = walks(12, n, seed=n)
    for p, (variance, tau) in zip(parts, damped_random_walk(curves(parts)), strict=True):
        found = celerite(np.log([variance, 1.0 / (tau if np.isfinite(tau) else 1.0)]), p)
        for start in ((0.0, 0.0), (-3.0, -3.0), (-4.0, -5.0)):
            other = minimize(celerite, start, args=(p,), method="L-BFGS-B", bounds=BOUNDS)
            assert found <= other.fun + 0.05
            if start == (0.0, 0.0) and abs(found - other.fun) < 1e-6 and 1.0 < tau < 300.0 and variance > 1e-3:
                np.testing.assert_allclose((variance, tau), (np.exp(other.x[0]), np.exp(-other.x[1])), rtol=0.02)


def test_optimum_is_stationary() -> None:
    parts = walks(30, 100, seed=21)
    g = np.empty(5)
    inside = 0
    for p, (variance, tau) in zip(parts, damped_random_walk(curves(parts)), strict=True):
        if np.isfinite(tau) and TAU_BOUNDS[0] < tau < TAU_BOUNDS[1]:
            drw._loss(np.log(variance), -np.log(tau), p[0], p[1] - p[1].mean(), p[2] ** 2, True, g)
            assert np.abs(g[:2]).max() < 1e-3
            inside += 1
    assert inside > 20


@pytest.mark.parametrize(("variance", "tau"), [(0.04, 20.0), (0.1, 80.0)])
def test_known_process(variance: float, tau: float) -> None:
    """Median estimates over many curves of many time scales each."""
    rng = np.random.default_rng(int(tau))
    parts = []
    for _ in range(40):
        mjd, fid = cadence(rng, 500, 2500.0)
        t = mjd[fid == 1]
        parts.append((t, 18.0 + damped_walk(rng, t, variance, tau) + 0.02 * rng.normal(size=len(t)), 0.02 + 0.0 * t))
    found = np.median(np.log(damped_random_walk(curves(parts)) / (variance, tau)), axis=0)
    assert np.abs(found).max() < 0.15


def test_white_noise() -> None:
    """Noise that the errors describe has next to no variance left; more noise has its excess, at no measurable tau."""
    rng = np.random.default_rng(14)
    t = START + np.arange(0.0, 600.0, 3.0)
    quiet = [part(t, 18.0 + 0.05 * rng.normal(size=200), 0.05) for _ in range(20)]
    loud = [part(t, 18.0 + 0.2 * rng.normal(size=200), 0.05) for _ in range(20)]
    assert np.median(damped_random_walk(curves(quiet))[:, 0]) < 2e-4
    variance, tau = damped_random_walk(curves(loud)).T
    assert np.median(variance) == pytest.approx(0.2**2 - 0.05**2, rel=0.1)
    assert np.median(tau) < 3.0


def test_awkward_curves() -> None:
    rows = assert_survives(damped_random_walk, len(NAMES))
    for name in ("equal magnitudes", "one time, equal magnitudes", "zero magnitudes"):
        assert np.isnan(rows[name]).all(), name
    for name, (variance, tau) in rows.items():
        if np.isfinite(variance):
            assert VARIANCE_BOUNDS[0] * 0.999 <= variance <= VARIANCE_BOUNDS[1] * 1.001, name
            assert np.isnan(tau) or TAU_BOUNDS[0] * 0.999 <= tau <= TAU_BOUNDS[1] * 1.001, name
    assert np.isnan(rows["errors near one"][1])
    for name in ("six points", "each time twice", "tiny errors", "gaps of years", "many points", "outlier"):
        assert np.isfinite(rows[name]).all(), name


@settings(max_examples=30, deadline=None)
@given(st.lists(light_curves(), min_size=1, max_size=5))
def test_batches_do_not_mix(parts: list[Part]) -> None:
    assert_independent(damped_random_walk, parts)


def test_invariants() -> None:
    parts = walks(30, 80, seed=15)
    found = damped_random_walk(curves(parts))
    measurable = (found[:, 1] > 0.5) & (found[:, 1] < 1000.0) & (found[:, 0] > 1e-3)
    assert measurable.sum() > 10
    for other in (moved(parts, days=1024.0), moved(parts, mag=1.25)):
        np.testing.assert_allclose(damped_random_walk(curves(other))[measurable], found[measurable], rtol=1e-5)


def test_last_bits_of_the_input_do_not_matter() -> None:
    parts = walks(60, 50, seed=16)
    found = damped_random_walk(curves(parts))
    np.testing.assert_allclose(damped_random_walk(curves(nudged(parts))), found, rtol=1e-9)
