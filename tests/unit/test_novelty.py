"""Unexpected points within light curves: calibration on noise, injected flares, and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alerce_spark.lightcurves import novelty
from alerce_spark.lightcurves.novelty import MIN_HISTORY, THRESHOLD, latest, significance


def _quiet(seed: int, curves: int) -> tuple[np.ndarray, ...]:
    """Constant sources at uneven times with errors that differ from point to point: offsets, mjd, mag, err."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(8, 120, curves)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    mjd = np.concatenate([58200 + np.sort(rng.uniform(0, rng.uniform(60, 1200), n)) for n in counts])
    err = np.repeat(rng.uniform(0.01, 0.15, curves), counts) * rng.lognormal(0, 0.3, mjd.size)
    return offsets, mjd, np.repeat(rng.uniform(15, 20, curves), counts) + err * rng.standard_normal(mjd.size), err


def test_false_alarms_and_flares_on_quiet_objects() -> None:
    offsets, mjd, mag, err = _quiet(3, 500)
    found = significance(offsets, mjd, mag, err)
    known = found[np.isfinite(found)]
    assert np.isfinite(found).sum() == mjd.size - MIN_HISTORY * 500
    assert np.mean(np.abs(known) > THRESHOLD) <= 0.01
    assert abs(known.mean()) < 0.05
    assert 0.85 < known.std() < 1.1
    last = offsets[1:] - 1
    for sigmas in (5.0, -5.0):
        changed = mag.copy()
        changed[last] -= sigmas * err[last]
        seen = significance(offsets, mjd, changed, err, only_last=True)[last]
        assert np.mean(np.sign(sigmas) * seen > THRESHOLD) >= 0.9


def test_a_constant_source_is_judged_as_by_its_weighted_mean() -> None:
    rng = np.random.default_rng(1)
    n = 200
    err = rng.uniform(0.02, 0.05, n)
    mjd, mag = np.arange(n) * 3.1, 17.0 + err * rng.standard_normal(n)
    past = err[:-1] ** -2
    mean = np.average(mag[:-1], weights=past)
    spread = np.hypot(err[-1], past.sum() ** -0.5)
    for z in (-4.0, -1.0, 2.0, 4.0):
        mag[-1] = mean - z * spread
        assert significance([0, n], mjd, mag, err)[-1] == pytest.approx(z, abs=0.25)


def test_a_random_walk_far_from_its_last_point_is_expected_where_a_jump_is_not() -> None:
    rng = np.random.default_rng(5)
    mjd = np.arange(150) * 4.0
    walk = np.zeros(150)
    for i in range(1, 150):  # 0.3 mag, 300 d
        walk[i] = walk[i - 1] * np.exp(-4 / 300) + 0.3 * np.sqrt(1 - np.exp(-8 / 300)) * rng.standard_normal()
    mag, err = 18.0 + walk + 0.01 * rng.standard_normal(150), np.full(150, 0.01)
    jump = mag.copy()
    jump[-1] = mag[-2] - 0.4
    assert significance([0, 150], mjd, jump, err)[-1] > 5.0
    late = mjd.copy()
    late[-1] = mjd[-2] + 2000.0
    assert abs(significance([0, 150], late, jump, err)[-1]) < 2.5


def test_an_old_flare_hides_no_new_one() -> None:
    offsets, mjd, mag, err = _quiet(8, 1)
    mag[[1, mag.size // 2]] -= 40 * err[[1, mag.size // 2]]
    mag[-1] = np.median(mag) - 8 * err[-1]
    assert significance(offsets, mjd, mag, err)[-1] > THRESHOLD


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-5, 5), days=st.floats(-1000, 1000))
def test_what_must_not_change_a_result(seed: int, shift: float, days: float) -> None:
    offsets, mjd, mag, err = _quiet(seed, 3)
    found = significance(offsets, mjd, mag, err)
    np.testing.assert_allclose(significance(offsets, mjd + days, mag + shift, err), found, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(significance(offsets, mjd, 40 - mag, err), -found, rtol=1e-6, atol=1e-6)
    a, b = offsets[1], offsets[2]
    alone = significance([0, b - a], mjd[a:b], mag[a:b], err[a:b])
    np.testing.assert_array_equal(alone, found[a:b])
    # What comes later does not change what a point was when it was new.
    np.testing.assert_array_equal(
        significance([0, b - a - 1], mjd[a : b - 1], mag[a : b - 1], err[a : b - 1]), alone[:-1]
    )
    last = significance(offsets, mjd, mag, err, only_last=True)
    np.testing.assert_array_equal(last[offsets[1:] - 1], found[offsets[1:] - 1])
    assert np.isfinite(last).sum() == 3


def test_short_and_empty_curves_have_none() -> None:
    n = MIN_HISTORY
    found = significance([0, 0, n, 2 * n + 1], np.arange(2 * n + 1.0), np.zeros(2 * n + 1), np.full(2 * n + 1, 0.1))
    assert np.isfinite(found).tolist() == [False] * (2 * n) + [True]
    assert significance([0], [], [], []).size == 0


@pytest.mark.parametrize(
    ("offsets", "mag", "err"),
    [([0, 2], [1.0, np.nan], [0.1, 0.1]), ([0, 2], [1.0, 1.0], [0.1, 0.0]), ([0, 3], [1.0, 1.0], [0.1, 0.1])],
)
def test_bad_input_is_refused(offsets: list[int], mag: list[float], err: list[float]) -> None:
    with pytest.raises(ValueError, match="must"):
        significance(offsets, [1.0, 2.0], mag, err)


def test_tails_are_those_of_scipy() -> None:
    z = np.array([-8.0, -1.0, 0.0, 2.0, 4.99, 5.01, 10.0, 35.0])
    np.testing.assert_allclose([novelty._tail(x) for x in z], stats.norm.logsf(z), rtol=1e-5, atol=1e-12)
    far = np.array([0.3, 3.0, 20.0, 29.0])
    np.testing.assert_allclose(novelty._normal(stats.norm.logsf(far)), far, rtol=1e-6)
    assert novelty._normal(np.array([-5000.0, -0.1])).tolist() == [novelty.LARGEST, 0.0]


def test_the_latest_point_over_the_bands() -> None:
    bands = (np.array([0, 2, 2, 3]), np.array([0, 1, 1, 2]))
    times = (np.array([1.0, 5.0, 9.0]), np.array([6.0, 8.0]))
    values = (np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5]))
    np.testing.assert_array_equal(latest(bands, times, values), [0.4, np.nan, 0.3])
