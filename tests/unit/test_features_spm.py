"""Supernova model against scipy.optimize.least_squares, known parameters and real supernovae."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from feature_checks import Part, assert_independent, assert_survives, light_curves, moved, part
from feature_curves import START, curves
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from alerce_spark.features.curves import Curves, Float
from alerce_spark.features.spm import NAMES, supernova_model

LO = np.array([1.0 / 3.0, -50.0, 1.0, 0.0, 1.0, 1.0])  # A / highest flux, t0, gamma, beta, tau_rise, tau_fall
HI = np.array([3.0, 50.0, 100.0, 1.0, 100.0, 100.0])


def model(t: Float, p: Float) -> Float:
    """F(t) of docs/features.md, "Supernova parametric model" at A, t0, gamma, beta, tau_rise, tau_fall."""
    a, t0, gamma, beta, rise, fall = p
    s = 1.0 / (1.0 + np.exp(-(t - t0 - gamma) / 3.0))
    d = 1.0 + np.exp(-(t - t0) / rise)
    return a * (1.0 - beta) * np.exp(-(t - t0 - gamma) / fall) / d * s + a * (1.0 - beta * (t - t0) / gamma) / d * (
        1 - s
    )


def to_flux(mag: Float) -> Float:
    return 10.0 ** (-(mag + 48.6) / 2.5 + 26.0)


def from_flux(t: Float, flux: Float, err: float = 0.05) -> Curves:
    """One curve of signed fluxes [mJy]."""
    mag = -2.5 * (np.log10(np.abs(flux)) - 26.0) - 48.6
    return replace(curves([part(START + t, mag, err)]), sign=np.sign(flux))


def parameters(row: Float) -> Float:
    """A, t0, gamma, beta, tau_rise, tau_fall of one row."""
    found = dict(zip(NAMES, row, strict=True))
    return np.array([found[f"SPM_{name}"] for name in ("A", "t0", "gamma", "beta", "tau_rise", "tau_fall")])


def supernova(rng: np.random.Generator, n: int, noise: float) -> tuple[Float, Float, Float]:
    """Times, noisy fluxes and parameters of a supernova drawn from the model, first detected on the rise."""
    p = np.array([1.0, *rng.uniform((-3.0, 8.0, 0.1, 1.0, 15.0), (15.0, 50.0, 0.8, 6.0, 70.0))])
    t = np.sort(rng.uniform(0.0, 120.0, n))
    t -= t[0]
    clean = model(t, p)
    return t, clean + noise * clean.max() * rng.normal(size=n), p


def test_recovers_known_parameters() -> None:
    """Without noise the fit passes through the points, and where it does the parameters are the true ones."""
    rng = np.random.default_rng(1)
    exact = 0
    for _ in range(40):
        t, flux, truth = supernova(rng, 60, 0.0)
        row = supernova_model(from_flux(t, flux))[0]
        found = parameters(row)
        if np.sqrt(np.mean((model(t, found) - flux) ** 2)) < 1e-5 * flux.max():
            np.testing.assert_allclose(found, truth, rtol=0.02, atol=0.02)
            assert row[NAMES.index("SPM_chi")] < 1e-3
            exact += 1
    assert exact >= 36


@pytest.mark.parametrize(("n", "noise"), [(12, 0.05), (30, 0.02), (60, 0.1)])
def test_optimum_is_as_good_as_any(n: int, noise: float) -> None:
    """Sum of squares against scipy's from upstream's start and from the truth: rarely worse, never much."""
    rng = np.random.default_rng(n)
    worse = 0
    for _ in range(12):
        t, flux, truth = supernova(rng, n, noise)
        row = supernova_model(from_flux(t, flux))[0]
        found = np.sum((model(t, parameters(row)) - flux) ** 2)
        scale = np.array([flux.max(), 1.0, 1.0, 1.0, 1.0, 1.0])
        upstream = np.array(
            [1.2 * flux.max(), -5.0, min(t[-1], 100.0), 0.5, np.clip(t[flux.argmax()] / 2, 1, 100), 40.0]
        )
        least = np.inf
        for start in (upstream, truth):
            inside = np.clip(start, LO * scale + 1e-6, HI * scale - 1e-6)
            fit = least_squares(
                lambda p, t=t, flux=flux: model(t, p) - flux, inside, bounds=(LO * scale, HI * scale), x_scale=HI - LO
            )
            least = min(least, 2.0 * fit.cost)
        assert found <= 1.5 * least
        worse += found > least * (1.0 + 1e-3)
    assert worse <= 2


def test_chi_is_that_of_the_fit() -> None:
    rng = np.random.default_rng(3)
    t, flux, _ = supernova(rng, 25, 0.05)
    flux[4] = -0.02 * flux.max()
    data = from_flux(t, flux, 0.07)
    row = supernova_model(data)[0]
    sigma = np.abs(to_flux(data.magpsf - data.sigmapsf) - to_flux(data.magpsf))
    expected = np.sum((model(t, parameters(row)) - flux) ** 2 / (sigma + 0.01) ** 2) / (25 - 6)
    assert row[NAMES.index("SPM_chi")] == pytest.approx(expected, rel=1e-9)


def test_sign_of_the_difference_counts() -> None:
    rng = np.random.default_rng(4)
    t, flux, _ = supernova(rng, 40, 0.01)
    flux = np.where(t > 100.0, -0.05 * flux.max(), flux)
    signed = from_flux(t, flux)
    unsigned = replace(signed, sign=np.ones(40))
    assert (supernova_model(signed) != supernova_model(unsigned)).any()
    assert np.isnan(supernova_model(replace(signed, sign=-np.ones(40)))).all()
    assert np.isnan(supernova_model(from_flux(t, -np.abs(flux)))).all()
    unknown = supernova_model(replace(signed, sign=np.where(np.arange(40) == 5, np.nan, signed.sign)))
    left_out = np.delete(np.arange(40), 5)
    np.testing.assert_array_equal(unknown, supernova_model(from_flux(t[left_out], flux[left_out])))


def test_difference_photometry_is_fitted_not_the_corrected() -> None:
    rng = np.random.default_rng(5)
    t, flux, _ = supernova(rng, 30, 0.02)
    data = from_flux(t, flux)
    other = replace(data, mag=data.mag - 3.0, err=data.err * 2.0)
    np.testing.assert_array_equal(supernova_model(other), supernova_model(data))


def test_bounds_hold() -> None:
    rng = np.random.default_rng(6)
    for _ in range(30):
        t = np.sort(rng.uniform(0.0, rng.choice([3.0, 100.0, 2000.0]), 40))
        t -= t[0]
        flux = np.abs(rng.normal(size=40)) * rng.choice([0.01, 1.0, 100.0])
        found = parameters(supernova_model(from_flux(t, flux))[0])
        scale = np.array([flux.max(), 1.0, 1.0, 1.0, 1.0, 1.0])
        assert (found >= LO * scale * (1 - 1e-9) - 1e-9).all()
        assert (found <= HI * scale * (1 + 1e-9)).all()


def test_awkward_curves() -> None:
    rows = assert_survives(supernova_model, len(NAMES))
    chi = NAMES.index("SPM_chi")
    assert np.isnan(rows["six points"][chi])
    assert np.isfinite(np.delete(rows["six points"], chi)).all()
    for name in rows:
        if name not in ("empty", "one point", "five points", "six points", "extreme magnitudes"):
            assert np.isfinite(rows[name]).all(), name


@settings(max_examples=20, deadline=None)
@given(st.lists(light_curves(), min_size=1, max_size=4))
def test_batches_do_not_mix(parts: list[Part]) -> None:
    assert_independent(supernova_model, parts)


def test_invariants() -> None:
    """A later start changes nothing; three magnitudes brighter scale A alone."""
    rng = np.random.default_rng(8)
    parts = []
    for _ in range(12):
        t, flux, _ = supernova(rng, 40, 0.01)
        data = from_flux(t, np.abs(flux))
        parts.append((np.round(data.mjd * 1024.0) / 1024.0, data.mag, data.err))  # so that shifted times are exact
    found = supernova_model(curves(parts))
    np.testing.assert_array_equal(supernova_model(curves(moved(parts, days=1024.0))), found)
    brighter = supernova_model(curves(moved(parts, mag=-3.0)))
    shape = [k for k, name in enumerate(NAMES) if name not in ("SPM_A", "SPM_chi")]
    same = np.isclose(brighter[:, shape], found[:, shape], rtol=1e-3, atol=1e-3).all(axis=1)
    assert same.sum() >= 11  # a valley that is flat to rounding may end elsewhere
    np.testing.assert_allclose(brighter[same, 0], found[same, 0] * 10.0 ** (0.4 * 3.0), rtol=1e-3)


@pytest.mark.real_data
def test_real_supernovae(data_dir: Path) -> None:
    """30 spectroscopic supernovae: every band of 6 good points or more is fitted, better than by a constant."""
    table = (
        pl.read_csv(data_dir / "lightcurves" / "30_sne_detections_corr.csv", infer_schema_length=10_000)
        .filter((pl.col("rb") >= 0.55) & (pl.col("sigmapsf") < 1.0))
        .sort("objectId", "fid", "mjd")
        .unique(["objectId", "fid", "mjd"], keep="first", maintain_order=True)
    )
    fitted = 0
    for band in table.partition_by("objectId", "fid"):
        if len(band) < 6:
            continue
        mjd, mag, err, sign = (
            band[c].cast(pl.Float64).to_numpy().copy() for c in ("mjd", "magpsf", "sigmapsf", "isdiffpos")
        )
        row = supernova_model(replace(curves([(mjd, mag, err)]), sign=sign))[0]
        assert np.isfinite(np.delete(row, NAMES.index("SPM_chi"))).all()
        assert np.isfinite(row[NAMES.index("SPM_chi")]) == (len(band) > 6)
        flux = sign * to_flux(mag)
        residual = flux - model(mjd - mjd[0], parameters(row))
        assert np.sum(residual**2) < np.sum((flux - flux.mean()) ** 2)
        fitted += 1
    assert fitted > 40


def test_last_bits_of_the_input_do_not_matter() -> None:
    rng = np.random.default_rng(9)
    for n in (8, 12, 30, 60):
        data = from_flux(*supernova(rng, n, 0.03)[:2])
        other = replace(data, magpsf=np.nextafter(data.magpsf, 0.0))
        np.testing.assert_allclose(supernova_model(other), supernova_model(data), rtol=1e-5, atol=1e-7)
