"""Folded shape, Mexican-hat power, colours, position and attributes against direct definitions and astropy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from feature_curves import LightCurve, curves, noise, objects, periodic
from scipy.integrate import quad

from alerce_spark.features import attributes, colours, coordinates, folded, mhps, wise
from alerce_spark.features.curves import Curves, Float, Scratch


def test_folded_shape_is_the_definition() -> None:
    light_curves = [periodic(np.random.default_rng(k), "RRL", 0.6, 120) for k in range(3)]
    found = folded.FAMILY.compute(objects(light_curves), Scratch(period=np.full(3, 0.6)))
    for row, curve in zip(found, light_curves, strict=True):
        for band in (1, 2):
            t, m = (column[curve.fid == band] for column in curve[:2])
            phase = ((t - curve.mjd[0]) % 1.2) / 1.2
            m = m[np.argsort(phase)]
            s = np.cumsum(m - m.mean()) / (len(m) * m.std())
            assert row[2 * band - 2] == pytest.approx(s.max() - s.min(), rel=1e-10)
            assert row[2 * band - 1] == pytest.approx((np.diff(m) ** 2).sum() / ((len(m) - 1) * m.var()), rel=1e-10)


def test_psi_cs_does_not_depend_on_the_origin_of_phase() -> None:
    mjd, mag, _, _, _ = periodic(np.random.default_rng(4), "CEP", 3.0, 80)
    order = np.argsort(mjd % 6.0)  # absolute MJD, as upstream folds
    s = np.cumsum(mag[order] - mag.mean()) / (80 * mag.std())
    curve = LightCurve(mjd, mag, np.full(80, 0.1), np.ones(80, np.int64), 3.0)
    found = folded.FAMILY.compute(objects([curve]), Scratch(period=np.array([3.0])))[0, 0]
    assert found == pytest.approx(s.max() - s.min(), rel=1e-9)


def test_smooth_curves_have_small_psi_eta_and_noise_has_two() -> None:
    rng = np.random.default_rng(5)
    rough = noise(rng, 600)
    smooth = rough._replace(mag=17.0 + 0.3 * np.sin(2.0 * np.pi * rough.mjd / 2.345))
    found = folded.FAMILY.compute(objects([smooth, rough]), Scratch(period=np.full(2, 2.345)))
    assert (found[0, [1, 3]] < 0.02).all()
    np.testing.assert_allclose(found[1, [1, 3]], 2.0, atol=0.35)


def test_folded_shape_is_undefined_for_constant_or_single_points() -> None:
    curve = noise(np.random.default_rng(6), 20)
    flat = curve._replace(mag=np.full(20, 17.0))
    single = LightCurve(*(column[:1] for column in curve[:4]), np.nan)
    assert np.isnan(folded.FAMILY.compute(objects([flat, single]), Scratch(period=np.array([1.0, 1.0])))).all()
    assert np.isnan(folded.FAMILY.compute(objects([curve]), Scratch(period=np.array([np.nan])))).all()


def mexican_hat(curve: Curves, dt: float) -> tuple[float, float, float]:
    """High, low and ratio by direct sums over all pairs of points and numerical integrals of the filter."""
    flux = 10.0 ** (0.4 * (19.0 - curve.mag))
    mean = flux.mean()
    noise_flux = 0.4 * np.log(10.0) * flux * curve.err
    lag = curve.mjd[None, :] - curve.mjd[:, None]
    power = {}
    for scale in (100.0, 10.0):
        s1 = 0.225 * scale / np.sqrt(2.0)
        reach = 6.0 * max(s1, dt)
        inside = abs(lag) < reach
        gauss = [lambda x, s=s: np.exp(-x * x / (2.0 * s * s)) for s in (s1, 2.0 * s1)]
        area = [2.0 * quad(g, 0.0, reach, epsabs=1e-13)[0] for g in gauss]
        hat = quad(lambda x, g=gauss, a=area: (g[0](x) / a[0] - g[1](x) / a[1]) ** 2, 0.0, reach, epsabs=1e-15)[0]
        kernel = [np.where(inside, g(lag), 0.0) for g in gauss]
        smooth = [(k @ (flux - mean)) / k.sum(axis=1) for k in kernel]
        used = (abs(lag) <= reach * 2.0 / 3.0).sum(axis=1) > 3
        power[scale] = np.mean((smooth[0] - smooth[1])[used] ** 2) / (2.0 * hat) / mean**2
        if scale == 100.0:
            poisson = (noise_flux[used].mean() / mean) ** 2
    low, high = power[100.0] - poisson, power[10.0]
    high -= poisson if high > poisson else 0.0
    return high, low, low / high


@pytest.mark.parametrize("dt", [5.0, 3.0])
@pytest.mark.parametrize("kind", ["RRL", "sine"])
def test_mexican_hat_power_is_the_definition(kind: str, dt: float) -> None:
    for n in (60, 150):
        mjd, mag, err, fid, _ = periodic(np.random.default_rng(n), kind, 30.0, n)
        curve = curves([(mjd[fid == 1], mag[fid == 1], err[fid == 1])])
        np.testing.assert_allclose(mhps.power_spectrum(curve, dt)[0], mexican_hat(curve, dt), rtol=1e-8)


def test_mexican_hat_sees_the_scale_of_the_variation() -> None:
    t = np.arange(58300.0, 58900.0, 1.0)
    parts = [(t, 17.0 + 0.3 * np.sin(2.0 * np.pi * t / p), np.full(len(t), 0.01)) for p in (100.0, 10.0)]
    high, low, ratio = mhps.power_spectrum(curves(parts)).T
    assert low[0] > low[1]
    assert high[1] > high[0]
    assert ratio[0] > 1.0 > ratio[1]


def test_mexican_hat_needs_neighbours_and_noise_may_exceed_it() -> None:
    lonely = (58300.0 + 200.0 * np.arange(10), np.linspace(16.0, 18.0, 10), np.full(10, 0.1))
    few = (58300.0 + np.arange(3.0), np.full(3, 17.0), np.full(3, 0.1))
    constant = (58300.0 + np.arange(40.0), np.full(40, 17.0), np.full(40, 0.1))
    found = mhps.power_spectrum(curves([lonely, few, constant]))
    assert np.isnan(found[:2]).all()
    poisson = (0.4 * np.log(10.0) * 0.1) ** 2
    np.testing.assert_allclose(found[2, :2], [0.0, -poisson], atol=1e-15)
    assert np.isnan(found[2, 2])


def pair(g: Float, r: Float) -> LightCurve:
    fid = np.repeat([1, 2], [len(g), len(r)])
    t = 58300.0 + np.arange(float(len(fid)))
    return LightCurve(t, np.concatenate((g, r)), np.full(len(fid), 0.1), fid, np.nan)


def test_colours() -> None:
    g, r, none = np.array([18.0, 17.0, 18.5]), np.array([16.0, 16.5]), np.empty(0)
    several = objects([pair(g, r), pair(g, none)])
    found = colours.FAMILY.compute(several, Scratch())
    np.testing.assert_allclose(found[0], [1.0, np.nan, 53.5 / 3.0 - 16.25, np.nan])
    assert np.isnan(found[1]).all()
    bands = tuple(replace(band, mag=band.mag + shift) for band, shift in zip(several.bands, (-1.0, -0.5), strict=True))
    corrected = colours.FAMILY.compute(replace(several, bands=bands), Scratch())
    np.testing.assert_allclose(corrected[0], [1.0, 0.5, 53.5 / 3.0 - 16.25, 53.5 / 3.0 - 16.75])


def test_wise_colours() -> None:
    one = objects([pair(np.array([18.0, 17.0]), np.array([16.0]))])
    assert np.isnan(wise.FAMILY.compute(one, Scratch())).all()
    matched = replace(one, w1=np.array([14.0]), w2=np.array([13.0]), w3=np.array([10.0]))
    np.testing.assert_allclose(wise.FAMILY.compute(matched, Scratch())[0], [1.0, 3.0, 4.5, 7.5, 3.0, 6.0])


def test_galactic_coordinates_are_those_of_astropy() -> None:
    rng = np.random.default_rng(9)
    ra = np.concatenate((rng.uniform(0.0, 360.0, 500), [0.0, 359.999, 192.85948, 12.0, 266.405]))
    dec = np.concatenate((np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, 500))), [0.0, 90.0, 27.12825, -90.0, -28.936]))
    expected = SkyCoord(ra * units.deg, dec * units.deg).galactic
    latitude, longitude = coordinates.galactic(ra, dec)
    ours = SkyCoord(longitude * units.deg, latitude * units.deg, frame="galactic")
    assert ours.separation(expected).deg.max() < 1e-11
    np.testing.assert_allclose(latitude, expected.b.deg, atol=1e-11)
    assert ((longitude >= 0.0) & (longitude < 360.0)).all()


def test_position_and_scores_come_from_the_object() -> None:
    one = objects([noise(np.random.default_rng(10), 20)])
    found = coordinates.FAMILY.compute(one, Scratch())[0]
    expected = SkyCoord(300.0 * units.deg, 20.0 * units.deg).galactic
    np.testing.assert_allclose(found, [expected.b.deg, expected.l.deg], atol=1e-8)
    np.testing.assert_array_equal(attributes.FAMILY.compute(one, Scratch())[0], [0.9, 0.99])
    unknown = coordinates.FAMILY.compute(replace(one, meanra=np.array([np.nan])), Scratch())
    assert np.isnan(unknown).all()
