"""Period search against astropy, nifty-ls and light curves of known period."""

from __future__ import annotations

import nifty_ls
import numpy as np
import pytest
from astropy.timeseries import LombScargle
from feature_curves import LightCurve, noise, objects, periodic

from alerce_spark.features import periodogram
from alerce_spark.features.curves import Objects, Scratch
from alerce_spark.features.periodogram import FAMILY, MIN_GRID, RATE_FACTORS, search, spectrum


def reference(curve: LightCurve, frequency: np.ndarray) -> np.ndarray:
    """F of the multiband statistic from astropy's floating-mean periodogram of each band."""
    explained, total, dof = np.zeros(len(frequency)), 0.0, 0
    for band in (1, 2):
        rows = curve.fid == band
        if rows.sum() < 6:
            continue
        weight = curve.err[rows] ** -2
        mean = np.average(curve.mag[rows], weights=weight)
        chi2 = (weight * (curve.mag[rows] - mean) ** 2).sum()
        model = LombScargle(curve.mjd[rows] - curve.mjd[0], curve.mag[rows], curve.err[rows])
        explained += chi2 * model.power(frequency, method="cython")
        total += chi2
        dof += rows.sum() - 3
    return dof * explained / (2.0 * (total - explained))


def one_band(curve: LightCurve) -> LightCurve:
    rows = curve.fid == 1
    return LightCurve(*(column[rows] for column in curve[:4]), curve.period)


@pytest.fixture(scope="module")
def cepheid() -> LightCurve:
    return periodic(np.random.default_rng(7), "CEP", 5.4321, n=80)


@pytest.mark.parametrize(
    ("kind", "shortest", "longest"), [("RRL", 0.25, 0.9), ("CEP", 1.0, 20.0), ("EB", 0.4, 5.0), ("sine", 0.05, 0.2)]
)
def test_recovers_known_periods(kind: str, shortest: float, longest: float) -> None:
    rng = np.random.default_rng(20240607)
    periods = np.exp(rng.uniform(np.log(shortest), np.log(longest), 100))
    found = np.array([search(objects([periodic(rng, kind, p)]).bands, 0).period for p in periods])
    allowed = np.array([1.0, 0.5, 2.0] if kind == "EB" else [1.0])
    right = (abs(found[:, None] / (periods[:, None] * allowed) - 1.0) < 1e-4).any(axis=1)
    # a sidereal day apart in frequency, once or twice, on either side of zero
    days = np.array([-2.0, -1.0, 1.0, 2.0]) * 1.00274
    aliases = abs(1.0 / (periods[:, None] * allowed)[:, :, None] + days).reshape(len(periods), -1)
    alias = (abs(found[:, None] * aliases - 1.0) < 5e-3).any(axis=1) & ~right
    assert right.mean() >= 0.95, f"{kind}: {right.mean():.0%} right, {alias.mean():.0%} daily aliases"


def test_spectrum_is_that_of_astropy(cepheid: LightCurve) -> None:
    for curve in (cepheid, one_band(cepheid)):
        frequency, power = spectrum(objects([curve]), 0)
        assert 1.0 / frequency[0] == pytest.approx(500.0)
        assert 1.0 / frequency[-1] == pytest.approx(0.045)
        some = slice(None, None, 17)
        np.testing.assert_allclose(power[some], reference(curve, frequency[some]), rtol=2e-4, atol=2e-5)


def test_spectrum_is_that_of_nifty_ls(cepheid: LightCurve) -> None:
    curve = one_band(cepheid)
    frequency, power = spectrum(objects([curve]), 0)
    t, m, e = curve.mjd - curve.mjd[0], curve.mag, curve.err
    theirs = nifty_ls.lombscargle(t, m, e, fmin=frequency[0], fmax=frequency[-1], Nf=len(frequency)).power
    ours = power / (power + 0.5 * (len(t) - 3))
    np.testing.assert_allclose(ours, theirs, atol=5e-6)


def test_values_of_the_search_have_double_precision(cepheid: LightCurve) -> None:
    found = search(objects([cepheid]).bands, 0)
    frequency, _ = spectrum(objects([cepheid]), 0)
    exact = reference(cepheid, frequency)
    near = 1.0 / found.period + np.linspace(-1e-3, 1e-3, 20001)
    assert found.power == pytest.approx(reference(cepheid, near).max(), rel=1e-5)
    assert found.power >= reference(cepheid, near).max() * (1.0 - 1e-9)
    p = np.sort(exact)[-100:] + 0.01
    p /= p.sum()
    assert found.ppe == pytest.approx(1.0 + (p * np.log(p)).sum() / np.log(100.0), abs=1e-9)
    for factor, rate in zip(RATE_FACTORS, found.rates, strict=True):
        nearest = np.abs(frequency - 1.0 / (factor * found.period)).argmin()
        assert rate == pytest.approx(exact[nearest] / found.power, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("harmonics", [1, 2, 4])
def test_series_is_that_of_astropy(cepheid: LightCurve, harmonics: int) -> None:
    curve = one_band(cepheid)
    taken = periodogram._take(objects([curve]).bands, 0)
    assert taken is not None
    model = LombScargle(curve.mjd - curve.mjd[0], curve.mag, curve.err, nterms=harmonics)
    for frequency in (0.01, 1.0 / cepheid.period, 0.77, 9.3):
        x, slope = periodogram._series(frequency, harmonics, taken[1])
        assert x == pytest.approx(model.power(frequency, method="chi2"), rel=1e-9)
        h = 1e-7
        above, below = (periodogram._series(frequency + d, harmonics, taken[1])[0] for d in (h, -h))
        assert slope == pytest.approx((above - below) / (2.0 * h), rel=1e-4, abs=1e-4)


def test_one_harmonic_is_enough_for_a_sinusoid() -> None:
    curve = periodic(np.random.default_rng(11), "sine", 12.345)
    found = search(objects([curve]).bands, 0)
    near = 1.0 / 12.345 + np.linspace(-1e-3, 1e-3, 200001)
    assert 1.0 / found.period == pytest.approx(near[reference(curve, near).argmax()], abs=2e-8)


def test_period_of_each_band(cepheid: LightCurve) -> None:
    scratch = Scratch()
    values = FAMILY.compute(objects([cepheid]), scratch)[0]
    assert values[0] == scratch.period[0]
    for band, delta in zip((1, 2), values[2:], strict=True):
        rows = cepheid.fid == band
        alone = LightCurve(*(column[rows] for column in cepheid[:4]), np.nan)
        assert delta == pytest.approx(abs(values[0] - search(objects([alone]).bands, 0).period), abs=1e-9)
        assert delta / values[0] < 2e-3


def test_coarse_pass_only_proposes(cepheid: LightCurve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another vector width or linear algebra library changes the coarse pass by rounding: no value may change."""
    before = search(objects([cepheid]).bands, 0)
    rng = np.random.default_rng(1)
    scan = periodogram._scan
    monkeypatch.setattr(
        periodogram, "_scan", lambda *a: scan(*a) + rng.uniform(-1e-6, 1e-6, a[1].size).astype(np.float32)
    )
    after = search(objects([cepheid]).bands, 0)
    for name, value in vars(before).items():
        np.testing.assert_allclose(getattr(after, name), value, rtol=1e-12, err_msg=name)


def test_false_alarm_probability_of_one_band_is_baluevs() -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        curve = one_band(noise(rng, n=80))
        found = search(objects([curve]).bands, 0)
        model = LombScargle(curve.mjd - curve.mjd[0], curve.mag, curve.err)
        power = model.power(1.0 / found.period)
        theirs = model.false_alarm_probability(power, method="baluev", maximum_frequency=1.0 / 0.045)
        assert found.false_alarm == pytest.approx(theirs, rel=0.1)


def test_false_alarms_are_as_rare_as_stated() -> None:
    rng = np.random.default_rng(4)
    found = np.array([search(objects([noise(rng, n=60, span=300.0)]).bands, 0).false_alarm for _ in range(300)])
    for level in (0.05, 0.2, 0.5):
        share, scatter = (found < level).mean(), np.sqrt(level * (1.0 - level) / len(found))
        assert share < level + 3.0 * scatter
        assert share > 0.3 * level


def test_signal_is_significant(cepheid: LightCurve) -> None:
    assert search(objects([cepheid]).bands, 0).false_alarm < 1e-10


def test_time_shift_changes_nothing(cepheid: LightCurve) -> None:
    before = search(objects([cepheid]).bands, 0)
    after = search(objects([cepheid._replace(mjd=cepheid.mjd + 1234.5)]).bands, 0)
    assert after.period == pytest.approx(before.period, rel=1e-10)
    assert after.ppe == pytest.approx(before.ppe, rel=1e-7)


def awkward() -> dict[str, LightCurve]:
    rng = np.random.default_rng(5)
    base = noise(rng, n=60)
    t = np.sort(58300.0 + rng.uniform(0.0, 100.0, 12))
    few = LightCurve(t[:6], 17.0 + rng.normal(size=6), np.full(6, 0.1), np.full(6, 1), np.nan)
    return {
        "six points": few,
        "one band short": LightCurve(t, rng.normal(17.0, 1.0, 12), np.full(12, 0.1), np.repeat([1, 2], [7, 5]), np.nan),
        "one night": base._replace(mjd=58300.0 + (base.mjd - 58300.0) / 1e4),
        "gap of years": base._replace(mjd=np.where(np.arange(60) > 30, base.mjd + 5000.0, base.mjd)),
        "no noise": base._replace(mag=17.0 + np.sin(2.0 * np.pi * base.mjd / 3.3)),
        "pairs of one epoch": base._replace(mjd=np.repeat(base.mjd[::2], 2), fid=np.tile([1, 2], 30)),
    }


@pytest.mark.parametrize("case", awkward())
def test_awkward_light_curves_have_a_period(case: str) -> None:
    found = search(objects([awkward()[case]]).bands, 0)
    assert 0.045 * (1 - 1e-9) <= found.period <= 500.0 * (1 + 1e-9)
    assert 0.0 <= found.false_alarm <= 1.0
    assert np.isfinite(found.rates).all()
    assert np.isfinite(found.ppe)


@pytest.mark.parametrize("case", ["too short", "constant", "one instant", "broken date", "infinite", "zero error"])
def test_undefined_periods_are_nan(case: str) -> None:
    curve = noise(np.random.default_rng(6), n=40)
    bad = {
        "too short": LightCurve(*(column[:8] for column in curve[:4]), np.nan),
        "constant": curve._replace(mag=np.full(40, 17.0)),
        "one instant": curve._replace(mjd=np.full(40, 58300.0)),
        "broken date": curve._replace(mjd=np.where(np.arange(40) == 0, 0.0, curve.mjd)),
        "infinite": curve._replace(mag=np.full(40, np.inf)),
        "zero error": curve._replace(err=np.zeros(40)),
    }[case]
    values = FAMILY.compute(objects([bad]), Scratch())
    assert np.isnan(values).all()
    assert spectrum(objects([bad]), 0)[0].size == 0


def test_short_span_has_a_fine_grid() -> None:
    few: Objects = objects([awkward()["one night"]])
    assert len(spectrum(few, 0)[0]) == MIN_GRID


def test_ten_thousand_points() -> None:
    rng = np.random.default_rng(8)
    mjd = np.sort(58300.0 + rng.uniform(0.0, 50.0, 10000))
    mag = 17.0 + 0.02 * np.sin(2.0 * np.pi * mjd / 0.987654) + rng.normal(0.0, 0.1, 10000)
    curve = LightCurve(mjd, mag, np.full(10000, 0.1), np.tile([1, 2], 5000), np.nan)
    assert search(objects([curve]).bands, 0).period == pytest.approx(0.987654, rel=1e-3)
