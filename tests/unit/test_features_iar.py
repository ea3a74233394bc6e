"""IAR_phi against scipy.optimize on the definition, and against processes of known phi."""

from __future__ import annotations

import numpy as np
import pytest
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
from feature_curves import START, curves
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from alerce_spark.features.curves import Float
from alerce_spark.features.iar import NAMES, iar


def objective(phi: float, t: Float, m: Float, e: Float) -> float:
    """docs/features.md, "Irregular autoregression", step by step."""
    sd = np.std(m, ddof=1)
    y, sigma = (m - m.mean()) / sd, e / sd
    spread, x, logs, squares = 1.0, 0.0, 0.0, 0.0
    for i, dt in enumerate(np.diff(t)):
        lam = spread + sigma[i + 1] ** 2
        kept = phi**dt
        logs += np.log(lam)
        squares += (y[i] - x) ** 2 / lam
        x, spread = (
            kept * x + kept * spread / lam * (y[i] - x),
            kept**2 * spread + (1.0 - phi ** (2.0 * dt)) - (kept * spread) ** 2 / lam,
        )
    return (logs + squares) / len(m)


def reference(p: Part) -> float:
    options = {"xatol": 1e-12, "maxiter": 50_000}
    return float(minimize_scalar(objective, args=p, bounds=(0.0, 1.0), method="bounded", options=options).x)


@pytest.mark.parametrize("n", [6, 10, 30, 100])
def test_same_optimum_as_scipy(n: int) -> None:
    parts = walks(15, n, seed=n)
    found = iar(curves(parts))[:, 0]
    assert ((found > 0.0) & (found < 1.0)).all()
    for phi, p in zip(found, parts, strict=True):
        expected = reference(p)
        assert abs(objective(phi, *p) - objective(expected, *p)) < 1e-12
        if phi > 0.3:  # below, phi^Δt of all gaps is nothing and the objective does not change with phi
            assert phi == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("phi", [0.5, 0.9, 0.99])
def test_known_correlation(phi: float) -> None:
    """Simulated irregular AR(1): the mean estimate of many curves is the truth within its scatter and known bias."""
    rng = np.random.default_rng(int(1000 * phi))
    parts = []
    for _ in range(60):
        t = START + np.cumsum(rng.exponential(1.0, 400) + 0.05)
        parts.append(part(t, 18.0 + damped_walk(rng, t, 1.0, -1.0 / np.log(phi)), 0.01))
    found = iar(curves(parts))[:, 0]
    expected = phi - (1.0 + 3.0 * phi) / 400.0  # bias about a fitted mean: Kendall (1954)
    assert abs(found.mean() - expected) < 4.0 * found.std() / np.sqrt(60)
    assert found.std() < 0.15 * np.sqrt(1.0 - phi)


def test_white_noise_has_no_memory() -> None:
    rng = np.random.default_rng(12)
    t = START + np.cumsum(rng.uniform(0.5, 1.5, 300))
    parts = [part(t, 18.0 + 0.1 * rng.normal(size=300), 0.01) for _ in range(30)]
    assert np.mean(iar(curves(parts))) < 0.06


def test_awkward_curves() -> None:
    rows = assert_survives(iar, len(NAMES))
    for name in ("equal magnitudes", "one time, equal magnitudes", "zero magnitudes"):
        assert np.isnan(rows[name]).all(), name
    defined = ("six points", "each time twice", "tiny errors", "denormal errors", "gaps of years", "many points")
    for name in (*defined, "outlier", "one time", "each time twice, tiny errors", "extreme magnitudes"):
        assert 0.0 <= rows[name][0] <= 1.0, name


@settings(max_examples=30, deadline=None)
@given(st.lists(light_curves(), min_size=1, max_size=5))
def test_batches_do_not_mix(parts: list[Part]) -> None:
    assert_independent(iar, parts)


def test_invariants() -> None:
    parts = walks(20, 60, seed=11)
    found = iar(curves(parts))
    np.testing.assert_allclose(iar(curves(moved(parts, days=1024.0))), found, atol=1e-8)
    np.testing.assert_allclose(iar(curves(moved(parts, mag=1.25))), found, atol=1e-8)
    stretched = [(t, 18.0 + 3.0 * (m - 18.0), 3.0 * e) for t, m, e in parts]
    np.testing.assert_allclose(iar(curves(stretched)), found, atol=1e-8)


def test_last_bits_of_the_input_do_not_matter() -> None:
    for n in (6, 10, 40):
        parts = walks(40, n, seed=100 + n)
        np.testing.assert_allclose(iar(curves(nudged(parts))), iar(curves(parts)), rtol=0.0, atol=1e-9)


def test_optimum_is_where_the_slope_vanishes() -> None:
    """Steps to both sides raise the objective equally, to third order."""
    parts = walks(20, 60, seed=31)
    inside = 0
    for p, phi in zip(parts, iar(curves(parts))[:, 0], strict=True):
        if 0.3 < phi < 0.995:
            h = 1e-3 * (1.0 - phi)
            low, here, high = (objective(x, *p) for x in (phi - h, phi, phi + h))
            assert low > here < high
            assert abs(high - low) < 0.02 * (high + low - 2.0 * here)
            inside += 1
    assert inside >= 5
