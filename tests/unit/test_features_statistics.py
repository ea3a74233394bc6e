"""Simple statistics against SciPy, statsmodels and definitions written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from feature_checks import Part, assert_independent, assert_survives, light_curves, moved, part, walks
from feature_curves import START, LightCurve, curves, noise, objects
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.tsa.stattools import acf

from alerce_spark.features.curves import Float, Scratch
from alerce_spark.features.statistics import FAMILY, NAMES, statistics


def oracle(t: Float, m: Float, e: Float) -> dict[str, float]:
    """docs/features.md, "Simple statistics" line by line, with library routines where there are some."""
    n = len(m)
    mean, sd, med = np.mean(m), np.std(m), np.median(m)
    s = np.sort(m)
    k = int(np.ceil(0.05 * n))
    w = 1.0 / e**2
    wm = np.sum(w * m) / np.sum(w)
    far = np.abs(m - mean) > 2.0 * sd
    dt, dm = np.diff(t), np.diff(m)
    wide = np.sqrt(np.sum((m - wm) ** 2) / (n - 1))
    total = np.cumsum(m - mean) / (n * sd)
    delta = np.sqrt(n / (n - 1)) * (m - wm) / e
    last = np.diff(m[-30:])
    p3, p25, p75, p97 = np.percentile(m, (3, 25, 75, 97))
    tenth = (m.max() - m.min()) / 10.0
    ad = stats.anderson(m, method="interpolate").statistic
    return {
        "Amplitude": (np.median(s[-k:]) - np.median(s[:k])) / 2.0,
        "AndersonDarling": 1.0 / (1.0 + np.exp(-10.0 * (ad - 0.3))),
        "Autocor_length": float(np.argmax(acf(m, nlags=n - 1, fft=False) < np.exp(-1.0))),
        "Beyond1Std": np.mean((m > wm + wide) | (m < wm - wide)),
        "Con": np.sum(far[2:] & far[1:-1] & far[:-2]) / (n - 2),
        "Eta_e": np.sum(dm**2 / dt**2) / np.sum(1.0 / dt**2) / np.var(m),
        "ExcessVar": np.sum((m - mean) ** 2 - e**2) / (n * mean**2),
        "Gskew": np.median(m[m <= p3]) + np.median(m[m >= p97]) - 2.0 * med,
        "LinearTrend": stats.linregress(t, m).slope,
        "MaxSlope": np.max(np.abs(dm) / dt),
        "Meanvariance": sd / mean,
        "MedianAbsDev": stats.median_abs_deviation(m),
        "MedianBRP": np.mean((m < med + tenth) & (m > med - tenth)),
        "PairSlopeTrend": (np.sum(last > 0) - np.sum(last <= 0)) / 30.0,
        "PercentAmplitude": np.max(np.abs(m - med)) / med,
        "Pvar": stats.chi2.cdf(np.sum((m - mean) ** 2 / e**2), n - 1),
        "Q31": p75 - p25,
        "Rcs": total.max() - total.min(),
        "Skew": stats.skew(m),
        "SmallKurtosis": n * (n + 1) / ((n - 1) * (n - 2) * (n - 3)) * np.sum(((m - mean) / sd) ** 4)
        - 3.0 * (n - 1) ** 2 / ((n - 2) * (n - 3)),
        "Std": sd,
        "StetsonK": np.sum(np.abs(delta)) / np.sqrt(n * np.sum(delta**2)),
    }


def assert_agrees(p: Part, rtol: float) -> None:
    found = dict(zip(NAMES, statistics(curves([p]))[0], strict=True))
    for name, expected in oracle(*p).items():
        np.testing.assert_allclose(found[name], expected, rtol=rtol, atol=1e-12, err_msg=name)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("n", [6, 7, 20, 21, 29, 30, 31, 40, 59, 60, 100, 101, 140, 300])
def test_equals_the_definitions(n: int) -> None:
    for p in walks(6, n, seed=n, span=2000.0):
        assert_agrees(p, 1e-10)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_equals_the_definitions_far_from_normal() -> None:
    rng = np.random.default_rng(2)
    t = START + np.sort(rng.uniform(0.0, 800.0, 2000))
    mag = 18.0 + rng.normal(size=2000) * 0.01
    mag[700] = 12.0  # 45 standard deviations: the normal tail underflows without care
    assert_agrees((t, mag, np.full(2000, 0.1)), 1e-9)
    assert_agrees((t, np.round(mag, 2), np.full(2000, 0.1)), 1e-9)  # ties
    assert_agrees((t, rng.exponential(size=2000) + 15.0, np.full(2000, 0.9)), 1e-10)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(max_examples=60, deadline=None)
@given(light_curves(least=6))
def test_order_statistics_with_ties(p: Part) -> None:
    """Quantities that ties and repeated times can upset, for any curve."""
    t, m, e = p
    if m.min() == m.max():
        return
    spread = START + np.arange(len(t)) * 1.5
    found = dict(zip(NAMES, statistics(curves([(spread, m, e)]))[0], strict=True))
    expected = oracle(spread, m, e)
    for name in ("Amplitude", "Gskew", "MedianAbsDev", "PairSlopeTrend", "PercentAmplitude", "Q31", "Rcs"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_autocorrelation_length_starts_afresh_for_each_curve() -> None:
    """docs/differences.md D11: upstream's number of lags grew from object to object."""
    t = START + np.arange(1000.0)
    slow = part(t, 17.0 + np.sin(2.0 * np.pi * t / 1500.0), 0.05)
    fast = part(t, 17.0 + np.sin(2.0 * np.pi * t / 8.0), 0.05)
    at = NAMES.index("Autocor_length")
    found = statistics(curves([fast, slow, fast]))[:, at]
    assert found[0] == found[2] == np.argmax(acf(fast[1], nlags=999, fft=False) < np.exp(-1.0))
    assert found[1] == np.argmax(acf(slow[1], nlags=999, fft=False) < np.exp(-1.0)) > 100


def test_white_noise() -> None:
    """Probability of variability is uniform, excess variance zero on average, for noise that the errors describe."""
    rng = np.random.default_rng(3)
    found = statistics(objects([noise(rng, 120) for _ in range(300)]).bands[0])
    assert stats.kstest(found[:, NAMES.index("Pvar")], "uniform").pvalue > 1e-3
    excess = found[:, NAMES.index("ExcessVar")]
    assert abs(excess.mean()) < 4.0 * excess.std() / np.sqrt(len(excess))


def test_awkward_curves() -> None:
    rows = assert_survives(statistics, len(NAMES))
    undefined = {
        "equal magnitudes": {
            *("AndersonDarling", "Autocor_length", "Eta_e", "Rcs", "Skew", "SmallKurtosis", "StetsonK"),
        },
        "one time": {"Eta_e", "LinearTrend", "MaxSlope"},
        "each time twice": {"Eta_e", "MaxSlope"},
        "zero magnitudes": {
            *("AndersonDarling", "Autocor_length", "Eta_e", "Rcs", "Skew", "SmallKurtosis", "StetsonK"),
            *("ExcessVar", "Meanvariance", "PercentAmplitude"),
        },
        "mean of zero": {"ExcessVar", "Meanvariance", "PercentAmplitude"},
        "six points": set(),
        "tiny errors": set(),
        "denormal errors": set(),
        "one tiny error": set(),
        "outlier": set(),
    }
    for name, expected in undefined.items():
        assert {c for c, v in zip(NAMES, rows[name], strict=True) if np.isnan(v)} == expected, name
    flat = dict(zip(NAMES, rows["equal magnitudes"], strict=True))
    zero = ("Amplitude", "Beyond1Std", "Con", "Gskew", "LinearTrend", "MaxSlope", "Meanvariance", "MedianAbsDev")
    assert all(flat[name] == 0.0 for name in (*zero, "MedianBRP", "PercentAmplitude", "Pvar", "Q31", "Std"))
    assert flat["PairSlopeTrend"] == pytest.approx(-19.0 / 30.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(light_curves(), min_size=1, max_size=5))
def test_batches_do_not_mix(parts: list[Part]) -> None:
    assert_independent(statistics, parts)


def test_invariants() -> None:
    parts = walks(20, 60, seed=9)
    found = statistics(curves(parts))
    np.testing.assert_allclose(statistics(curves(moved(parts, days=1024.0))), found, rtol=1e-7, atol=1e-12)
    shifted = statistics(curves(moved(parts, mag=1.25)))
    relative = [NAMES.index(name) for name in ("ExcessVar", "Meanvariance", "PercentAmplitude")]
    others = np.setdiff1d(np.arange(len(NAMES)), relative)
    np.testing.assert_allclose(shifted[:, others], found[:, others], rtol=1e-8, atol=1e-10)
    assert (shifted[:, relative] != found[:, relative]).all()


def test_family_puts_g_before_r() -> None:
    rng = np.random.default_rng(8)
    sample = [noise(rng, 60), noise(rng, 30)]
    short = LightCurve(*(c[sample[1].fid == 2] for c in sample[1][:4]), np.nan)
    data = objects([sample[0], short])
    found = FAMILY.compute(data, Scratch())
    assert FAMILY.columns[0] == "Amplitude_1"
    assert FAMILY.columns[len(NAMES)] == "Amplitude_2"
    np.testing.assert_array_equal(found[:, : len(NAMES)], statistics(data.bands[0]))
    np.testing.assert_array_equal(found[:, len(NAMES) :], statistics(data.bands[1]))
    assert np.isnan(found[1, : len(NAMES)]).all()
    assert np.isfinite(found[1, len(NAMES) :]).all()
