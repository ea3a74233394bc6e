"""Fourier series against NumPy's least squares and pseudo-inverse."""

from __future__ import annotations

import numpy as np
import pytest
from feature_curves import LightCurve, cadence, curves, objects, periodic

from alerce_spark.features import harmonics
from alerce_spark.features.curves import Float, Scratch
from alerce_spark.features.harmonics import FAMILY, HARMONICS, NAMES, RCOND


def definition(mjd: Float, mag: Float, err: Float, period: float, rcond: float = RCOND) -> Float:
    """Amplitudes, relative phases and residual by the pseudo-inverse, phases in absolute MJD."""
    angle = 2.0 * np.pi * np.arange(1, HARMONICS + 1)[:, None] * mjd / period
    basis = np.vstack([np.ones_like(mjd), np.cos(angle), np.sin(angle)]).T
    weight = 1.0 / (err + 0.01)
    x = np.linalg.pinv(weight[:, None] * basis, rcond=rcond) @ (weight * (mag - mag.mean()))
    c, s = x[1 : HARMONICS + 1], x[HARMONICS + 1 :]
    phase = np.arctan2(s, c)
    relative = (phase - np.arange(1, HARMONICS + 1) * phase[0])[1:] % (2.0 * np.pi)
    return np.concatenate((np.hypot(c, s), relative, [np.mean((basis @ x - (mag - mag.mean())) ** 2)]))


def ours(mjd: Float, mag: Float, err: Float, period: float) -> Float:
    curve = LightCurve(mjd, mag, err, np.ones(len(mjd), np.int64), period)
    return FAMILY.compute(objects([curve]), Scratch(period=np.array([period])))[0, : len(NAMES)]


def assert_same(found: Float, expected: Float, tolerance: float) -> None:
    scale = np.abs(expected[:HARMONICS]).max()
    np.testing.assert_allclose(found[:HARMONICS], expected[:HARMONICS], atol=tolerance * scale)
    turn = np.angle(np.exp(1j * (found[HARMONICS:-1] - expected[HARMONICS:-1])))
    # the phase of a harmonic is as good as its amplitude is large
    np.testing.assert_allclose(turn * expected[1:HARMONICS] / scale, 0.0, atol=10.0 * tolerance)
    assert found[-1] == pytest.approx(expected[-1], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("n", [40, 150, 600])
@pytest.mark.parametrize("period", [0.5123, 5.4321, 77.7])
def test_well_determined_series_is_the_definition_in_absolute_mjd(n: int, period: float) -> None:
    curve = periodic(np.random.default_rng(n), "RRL", period, 2 * n, span=2500.0)
    mjd, mag, err = (column[curve.fid == 1] for column in curve[:3])
    assert_same(ours(mjd, mag, err, period), definition(mjd, mag, err, period), 1e-8)


@pytest.mark.parametrize("n", [2, 6, 9, 14])
def test_few_points_give_the_shortest_solution(n: int) -> None:
    rng = np.random.default_rng(n)
    mjd = np.sort(rng.uniform(58300.0, 58900.0, n))
    mag, err = rng.normal(17.0, 0.3, n), rng.uniform(0.02, 0.1, n)
    # counted from the first point, as absolute MJD has only ten digits left of a phase
    assert_same(ours(mjd, mag, err, 3.3), definition(mjd - mjd[0], mag, err, 3.3), 1e-8)


def test_points_on_a_short_arc_give_the_solution_cut_at_rcond() -> None:
    rng = np.random.default_rng(2)
    mjd = np.sort(rng.uniform(58300.0, 58350.0, 60))
    mag, err = rng.normal(17.0, 0.3, 60), rng.uniform(0.02, 0.1, 60)
    found, expected = ours(mjd, mag, err, 480.0), definition(mjd - mjd[0], mag, err, 480.0)
    assert np.isfinite(found).all()
    assert found[-1] == pytest.approx(expected[-1], rel=1e-3)
    assert found[:HARMONICS].max() < 1e6 * 0.3


def test_amplitudes_and_phases_of_a_known_series() -> None:
    amplitude = np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02])
    phase = np.array([0.3, 1.2, 2.5, 4.0, 5.5, 0.7, 3.1])
    mjd, _ = cadence(np.random.default_rng(3), 200, 1000.0)
    k = np.arange(1, 8)[:, None]
    mag = 17.0 + (amplitude[:, None] * np.cos(2.0 * np.pi * k * (mjd - 58000.0) / 0.7 - phase[:, None])).sum(axis=0)
    found = ours(mjd, mag, np.full(200, 0.05), 0.7)
    np.testing.assert_allclose(found[:7], amplitude, rtol=1e-7)
    np.testing.assert_allclose(found[7:13], (phase - np.arange(1, 8) * phase[0])[1:] % (2.0 * np.pi), atol=1e-6)
    assert found[13] == pytest.approx(0.0, abs=1e-16)


def test_origin_of_time_does_not_matter() -> None:
    mjd, mag, err, _, _ = periodic(np.random.default_rng(5), "CEP", 4.2)
    before, after = (harmonics.fit(mjd - zero, mag, err, 4.2) for zero in (58300.0, 58311.7))
    assert abs(np.angle((before[1] + 1j * before[8]) / (after[1] + 1j * after[8]))) > 0.1
    np.testing.assert_allclose(ours(mjd + 11.7, mag, err, 4.2), ours(mjd, mag, err, 4.2), rtol=1e-7, atol=1e-9)


def test_zero_point_of_magnitudes_does_not_matter() -> None:
    rng = np.random.default_rng(6)
    mjd, mag, err = np.sort(rng.uniform(58300.0, 58400.0, 8)), rng.normal(17.0, 0.3, 8), np.full(8, 0.05)
    np.testing.assert_allclose(ours(mjd, mag + 3.0, err, 1.7), ours(mjd, mag, err, 1.7), rtol=1e-9)


def test_nothing_without_period_or_points() -> None:
    curve = periodic(np.random.default_rng(7), "RRL", 0.5, 40)
    assert np.isnan(FAMILY.compute(objects([curve]), Scratch(period=np.array([np.nan])))).all()
    single = LightCurve(*(column[:1] for column in curve[:4]), 0.5)
    assert np.isnan(FAMILY.compute(objects([single]), Scratch(period=np.array([0.5])))).all()


def test_model_is_what_was_fitted() -> None:
    mjd, mag, err, fid, period = periodic(np.random.default_rng(8), "CEP", 6.5, 300)
    band = curves([(mjd[fid == 1], mag[fid == 1], err[fid == 1])])
    x = harmonics.fit(band.mjd - band.mjd[0], band.mag, band.err, period)
    residual = harmonics.model(band.mjd - band.mjd[0], period, x) - band.mag
    assert np.mean(residual**2) == pytest.approx(ours(band.mjd, band.mag, band.err, period)[-1], rel=1e-9)
    assert np.std(residual) < 0.05
