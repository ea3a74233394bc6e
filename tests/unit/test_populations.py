"""Populations of the simulated sky against published distributions, and that each object is its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.cosmology import FlatLambdaCDM

from alerce_spark.simulation import galaxy, kinds, periodic, stochastic, transients
from alerce_spark.simulation.sources import DEFAULT_MIX, KIND_NAMES, KINDS, Draws, Kind

BEGIN, SPAN = 58600.0, 800.0
CLASSES = [kind for kind in KINDS if kind.branch]
BRANCHES = {
    "Transient": {"SNIa", "SNIbc", "SNII", "SLSN"},
    "Stochastic": {"QSO", "AGN", "Blazar", "YSO", "CV/Nova"},
    "Periodic": {"LPV", "CEP", "RRL", "DSCT", "E", "Periodic-Other"},
}


def draws_of(kind: Any, index: Any, seed: int = 1) -> Draws:
    index = np.atleast_1d(np.asarray(index))
    begin = np.full(index.size, BEGIN)
    return Draws(seed, kind.name, index, begin, begin + SPAN, lambda part: np.full(part.size, BEGIN + 1.0))


def many(kind: Any, n: int = 4000) -> Draws:
    return draws_of(kind, np.arange(n))


def curve(kind: Kind, draws: Draws, points: int = 40) -> np.ndarray:
    row = np.repeat(np.arange(len(draws)), points)
    mjd = BEGIN + np.tile(np.linspace(0.0, SPAN, points), len(draws))
    fid = 1 + np.tile(np.arange(points) % 3, len(draws))
    return kind.difference(draws, row, mjd, fid).reshape(len(draws), points)


# ---- every kind ------------------------------------------------------------------------------------------------------


def test_the_taxonomy_is_complete() -> None:
    for branch, names in BRANCHES.items():
        assert {kind.name for kind in KINDS if kind.branch == branch} == names
    assert {kind.name for kind in KINDS if not kind.branch} == {"asteroid", "bogus"}
    assert set(DEFAULT_MIX) == set(KIND_NAMES)
    assert min(DEFAULT_MIX.values()) >= 0.02


def everything(kind: Kind, draws: Draws) -> list[np.ndarray]:
    parts = [*kind.place(draws), *kind.reference(draws), kind.separation(draws), kind.star_score(draws)]
    return [*parts, *kind.wise(draws), *curve(kind, draws).T]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_an_object_is_the_same_in_any_company(kind: Kind) -> None:
    together = everything(kind, draws_of(kind, np.arange(60)))
    some = np.array([41, 3, 17])
    for a, b in zip(together, everything(kind, draws_of(kind, some)), strict=True):
        np.testing.assert_array_equal(a[some], b)
    other = everything(kind, draws_of(kind, np.arange(60), seed=2))
    assert not np.array_equal(together[0], other[0])


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_values_are_physical(kind: Kind) -> None:
    draws = many(kind, 1500)
    ra, dec = kind.place(draws)
    assert np.all((ra >= 0) & (ra < 360) & (dec > galaxy.SOUTH) & (dec <= 90))
    reference = kind.reference(draws)
    assert reference.shape == (3, 1500)
    assert np.all((reference > 8.0) & (reference < 30.0))
    assert np.all(kind.separation(draws) >= 0)
    score = kind.star_score(draws)
    assert np.all((score >= 0) & (score <= 1))
    wise = kind.wise(draws)
    assert wise.shape == (4, 1500)
    assert np.all(np.isnan(wise).all(axis=0) == np.isnan(wise).any(axis=0))
    flux = curve(kind, draws, 12)
    assert np.all(np.isfinite(flux))
    if kind.is_on_reference:  # a source has no negative flux
        below = kinds.flux_of(reference[np.arange(12) % 3].T)
        own = (kind.separation(draws) < 1.0) & (reference[1] < kinds.REFERENCE_DEPTH - 0.1)
        assert np.all((flux + below)[own] > -1e-6 * below[own])


@pytest.mark.parametrize("kind", CLASSES, ids=lambda k: k.name)
def test_most_objects_are_bright_enough_for_alerts(kind: Kind) -> None:
    flux = np.abs(curve(kind, many(kind, 600), 60))
    part = 97 if kind.branch == "Transient" else 90
    assert np.mean(np.percentile(flux, part, axis=1) > kinds.flux_of(20.5)) > 0.5


# ---- the sky ---------------------------------------------------------------------------------------------------------


def test_galactic_coordinates_are_those_of_astropy() -> None:
    lon, lat = np.array([0.0, 33.0, 123.0, 300.0]), np.array([0.0, -71.0, 27.4, 5.0])
    ra, dec = galaxy.equatorial(lon, lat)
    want = SkyCoord(lon * units.deg, lat * units.deg, frame="galactic").icrs
    assert want.separation(SkyCoord(ra * units.deg, dec * units.deg)).arcsec.max() < 0.1


def test_equatorial_and_galactic_are_inverse() -> None:
    lon, lat = np.array([0.5, 33.0, 123.0, 300.0]), np.array([0.0, -71.0, 27.4, 89.0])
    np.testing.assert_allclose(galaxy.galactic(*galaxy.equatorial(lon, lat)), [lon, lat], atol=1e-6)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda k: k.name)
def test_objects_that_were_moved_have_the_dust_of_their_place(kind: Any) -> None:
    lon, lat = np.tile([80.0, 80.0, 200.0], 50), np.tile([0.5, 25.0, 80.0], 50)
    moved = replace(many(kind, 150), toward=(lon, lat))
    np.testing.assert_allclose(kind.place(moved), galaxy.equatorial(lon, lat))
    a_v = kind.sky(moved).a_v.reshape(-1, 3)
    patch = galaxy.patchiness(moved).reshape(-1, 3)
    if kind.branch != "Transient" and kind.name not in {"QSO", "AGN", "Blazar"}:  # a star brought nearer has less dust
        assert np.median(a_v[:, 0]) > 1.5 * np.median(a_v[:, 2])
    else:
        cap = 0.09 / np.sin(np.radians(80.0))  # polar caps (Schlafly & Finkbeiner 2011)
        np.testing.assert_allclose(a_v[:, 2] / patch[:, 2], cap, rtol=0.3)
        assert np.median(a_v[:, 0]) == a_v.max() == galaxy.THINNEST
    reference = kind.reference(moved)[1]
    assert np.all((reference > 8.0) & (reference < 30.0))


def test_cosmology_is_that_of_astropy() -> None:
    z, flat = np.array([0.005, 0.05, 0.3, 1.5, 3.5]), FlatLambdaCDM(70, 0.3)
    np.testing.assert_allclose(galaxy.modulus_of(z), flat.distmod(z).value, atol=3e-3)
    np.testing.assert_allclose(galaxy.redshift_of(galaxy.modulus_of(z)), z, rtol=1e-4)
    np.testing.assert_allclose(galaxy.kpc_per_arcsec(z), 1 / flat.arcsec_per_kpc_proper(z).value, rtol=2e-3)


def test_dust_hides_the_plane_and_grows_with_distance() -> None:
    far = galaxy.extinction(np.array([50.0, 50.0, 50.0]), np.array([90.0, 30.0, 0.0]), np.full(3, np.inf))
    assert 0.05 < far[0] < 0.15  # polar caps (Schlafly & Finkbeiner 2011)
    assert far[1] == pytest.approx(2 * far[0], rel=0.3)
    assert far[2] > 8
    assert galaxy.extinction(np.array([180.0]), np.array([0.0]), np.array([1.0]))[0] == pytest.approx(0.55, abs=0.2)


def latitude(kind: Any) -> np.ndarray:
    return np.abs(kind.sky(many(kind)).lat)


def test_each_population_is_where_it_belongs() -> None:
    by_name: dict[str, Any] = {kind.name: kind for kind in CLASSES}
    median = {name: np.median(latitude(kind)) for name, kind in by_name.items()}
    assert max(median[k] for k in ("YSO", "LPV", "CEP")) < min(median[k] for k in ("E", "RRL", "CV/Nova")) < 12
    for name in ("SNIa", "SNIbc", "SNII", "SLSN", "QSO", "AGN", "Blazar"):
        # isotropic: the median of |b| would be 30 degrees; dust takes the plane
        assert 32 < median[name] < 42
        assert np.mean(latitude(by_name[name]) < 5) < 0.03


# ---- transients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "median", "spread"),
    [
        (transients.TypeIa(), -19.21, 0.47),
        (transients.TypeIbc(), -17.6, 0.9),
        (transients.TypeII(), -17.75, 0.95),
        (transients.Superluminous(), -21.0, 0.7),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_absolute_magnitudes_are_those_of_the_bright_transient_survey(kind: Any, median: float, spread: float) -> None:
    absolute = kind.absolute_peak(many(kind))
    assert np.median(absolute) == pytest.approx(median, abs=0.25)
    assert np.std(absolute) == pytest.approx(spread, rel=0.3)


def test_redshifts_follow_from_the_magnitudes() -> None:
    """Medians of the Bright Transient Survey to 18.3 mag: Ia 0.066, Ib/c 0.031, II 0.032, SLSN 0.15; ours go deeper."""
    for kind, z in ((transients.TypeIa(), 0.066), (transients.TypeIbc(), 0.031), (transients.TypeII(), 0.033)):
        assert z < np.median(kind.redshift(many(kind))) < 1.6 * z
    assert 0.1 < np.median(transients.Superluminous().redshift(many(transients.Superluminous()))) < 0.3


def light_in(kind: Any, days: np.ndarray, wavelength: float, n: int = 600) -> np.ndarray:
    draws = many(kind, n)
    row = np.repeat(np.arange(n), days.size)
    mags = kind.light(draws, row, np.tile(days, n), np.full(row.size, wavelength))
    return np.median(mags.reshape(n, -1), axis=0)


def test_type_ia_decline_and_have_a_second_maximum() -> None:
    kind, days = transients.TypeIa(), np.array([-10.0, 0.0, 15.0, 20.0, 26.0])
    blue, red = light_in(kind, days, 4400.0), light_in(kind, days, 7900.0)
    assert blue[2] - blue[1] == pytest.approx(1.1, abs=0.2)  # Δm15(B), Phillips et al. 1999
    assert blue[0] - blue[1] == pytest.approx(0.8, abs=0.3)
    assert red[4] < red[2]  # brighter at 26 d than at 15 d
    r = light_in(kind, np.array([0.0, 15.0]), 6400.0)
    assert r[1] - r[0] == pytest.approx(0.65, abs=0.15)


def test_core_collapse_and_superluminous_shapes() -> None:
    days = np.array([0.0, 15.0, 60.0])
    stripped = light_in(transients.TypeIbc(), days, 6230.0)
    assert stripped[1] - stripped[0] == pytest.approx(0.75, abs=0.3)  # Δm15(R) 0.8, Drout et al. 2011
    plateau = light_in(transients.TypeII(), days, 6230.0)
    assert plateau[2] - plateau[0] < 1.2
    slow = light_in(transients.Superluminous(), days, 6230.0)
    assert 0.1 < slow[1] - slow[0] < 0.6
    for kind in (transients.TypeIbc(), transients.TypeII(), transients.Superluminous()):
        early, late = (
            light_in(kind, np.array([t]), 4770.0) - light_in(kind, np.array([t]), 6230.0) for t in (-5.0, 40.0)
        )
        assert late[0] > early[0] + 0.3  # they redden


@pytest.mark.parametrize("kind", [k for k in KINDS if k.branch == "Transient"], ids=lambda k: k.name)
def test_a_supernova_is_met_once_and_is_positive(kind: Any) -> None:
    flux = curve(kind, many(kind, 500), 120)
    bright = flux > kinds.flux_of(20.5)
    assert np.mean(bright.any(axis=1)) > 0.9
    assert np.mean(bright.mean(axis=1) < 0.6) > 0.9
    assert np.mean(flux < 0) < 0.03


def test_black_bodies() -> None:
    # B − V of a black body in AB magnitudes from Planck's law with CODATA constants
    h, c, k = 6.62607015e-34, 2.99792458e8, 1.380649e-23

    def f_nu(wave: float, t: float) -> float:
        nu = c / (wave * 1e-10)
        return float(nu**3 / np.expm1(h * nu / (k * t)))

    want = -2.5 * np.log10(f_nu(4400, 6000.0) / f_nu(5500, 6000.0))
    got = transients.black_body(4400.0, 6000.0) - transients.black_body(5500.0, 6000.0)
    assert got == pytest.approx(want, abs=1e-3)


# ---- nuclei ----------------------------------------------------------------------------------------------------------


def test_walks_have_the_covariance_of_a_damped_random_walk() -> None:
    n, lags = 6000, np.array([0.0, 0.3, 2.0, 7.0, 30.0, 100.0])
    for tau in (5.0, 60.0, 400.0):
        draws = many(stochastic.Quasar(), n)
        row = np.repeat(np.arange(n), lags.size)
        mjd = BEGIN + 1.37 + np.tile(lags, n)
        walk = kinds.damped_walk(draws, "walk", row, mjd, np.full(n, tau)).reshape(n, -1)
        assert np.std(walk, axis=0) == pytest.approx(1.0, abs=0.035)
        # structure function: 2 (1 − exp(−Δt/τ)), within what the sample allows
        sf = np.mean((walk - walk[:, :1]) ** 2, axis=0)
        np.testing.assert_allclose(sf[2:], 2 * (1 - np.exp(-lags[2:] / tau)), rtol=0.1)


def test_a_walk_does_not_depend_on_the_times_asked_for() -> None:
    draws = many(stochastic.Blazar(), 3)
    mjd = np.sort(np.random.default_rng(1).uniform(BEGIN, BEGIN + 500, 50))
    whole = kinds.damped_walk(draws, "walk", np.repeat([0, 1, 2], 50), np.tile(mjd, 3), np.full(3, 9.0))
    part = kinds.damped_walk(draws, "walk", np.ones(20, np.int64), mjd[30:], np.full(3, 9.0))
    np.testing.assert_array_equal(whole[80:100], part)
    early = kinds.damped_walk(draws, "walk", np.ones(2, np.int64), mjd[[40, 3]], np.full(3, 9.0))
    np.testing.assert_array_equal(early, whole[[90, 53]])


def test_macleod_relation() -> None:
    """At M_i = −23, 10⁹ M☉ and 4000 Å in the rest frame the relation is its constants."""
    z = np.array([4770.0 / 4000.0 - 1.0])
    sigma, tau = stochastic.walk_of_nuclei(np.array([-23.0]), np.array([9.0]), z)
    assert sigma[0] == pytest.approx(10**-0.51 / np.sqrt(2))
    assert tau[0] == pytest.approx(10**2.4 * (1 + z[0]))


def test_nuclei_vary_as_published() -> None:
    """Quasars: SF∞ 0.1–0.5 mag, τ 100–1000 d (MacLeod et al. 2010, fig. 3); blazars stronger and faster (Ruan 2012)."""
    sigma, tau = stochastic.Quasar().walk(many(stochastic.Quasar()))
    assert 0.1 < np.median(sigma) * np.sqrt(2) < 0.4
    assert 150 < np.median(tau) < 1000
    strong, fast = stochastic.Blazar().walk(many(stochastic.Blazar()))
    assert np.median(strong) > 1.5 * np.median(sigma)
    assert np.median(fast) < 0.3 * np.median(tau)


def colour(kind: Any, first: int, second: int) -> np.ndarray:
    wise = kind.wise(many(kind))
    return (wise[first - 1] - wise[second - 1])[np.isfinite(wise[0])]


def test_infrared_colours_lie_in_published_loci() -> None:
    assert np.mean(colour(stochastic.Quasar(), 1, 2) > 0.8) > 0.9  # Stern et al. 2012
    assert np.median(colour(stochastic.Quasar(), 2, 3)) == pytest.approx(3.0, abs=0.3)  # Wright et al. 2010
    assert 0.4 < np.median(colour(stochastic.Seyfert(), 1, 2)) < 0.9
    assert np.median(colour(stochastic.Blazar(), 1, 2)) == pytest.approx(0.87, abs=0.15)  # Massaro et al. 2011
    for kind in (periodic.RRLyrae(), periodic.Eclipsing(), periodic.DeltaScuti()):
        assert abs(np.median(colour(kind, 1, 2))) < 0.06
    young = stochastic.YoungStar()
    wise, klass = young.wise(many(young)), young.kinds(many(young))
    second = (klass == 1) & np.isfinite(wise[0]) & (wise[2] < 11.0)
    inside = ((wise[0] - wise[1]) > 0.25) & ((wise[1] - wise[2]) > 1.0)  # class II of Koenig & Leisawitz 2014
    assert np.mean(inside[second]) > 0.8
    assert np.mean(colour(periodic.LongPeriod(), 1, 2) > 0.25) > 0.08  # dusty Miras


def test_upper_limits_of_allwise() -> None:
    """Faint stars have W3 of the catalogue's limit, not their own, and the faintest no match at all."""
    draws = many(periodic.Eclipsing())
    w = galaxy.allwise(draws, np.full((4, 4000), 15.0))
    assert np.nanmedian(w[2]) == pytest.approx(12.5, abs=0.1)
    assert np.nanmedian(w[0]) == pytest.approx(15.0, abs=0.02)
    assert np.isnan(galaxy.allwise(draws, np.full((4, 4000), 18.5))).all()


# ---- stars -----------------------------------------------------------------------------------------------------------


def test_periods_and_shares_of_pulsating_stars() -> None:
    rr = periodic.RRLyrae()
    kind, period = rr.kinds(many(rr)), rr.period(many(rr))
    assert np.mean(kind == 0) == pytest.approx(0.74, abs=0.03)
    assert np.mean(period[kind == 0]) == pytest.approx(0.57, abs=0.03)  # OGLE: 0.576 d
    assert np.mean(period[kind == 1]) == pytest.approx(0.33, abs=0.02)
    ab = many(rr)
    size = rr.amplitude(ab)[kind == 0]
    assert np.corrcoef(period[kind == 0], size)[0, 1] < -0.3  # longer ones vary less
    lpv = periodic.LongPeriod()
    mira = lpv.kinds(many(lpv)) == 0
    assert 250 < np.mean(lpv.period(many(lpv))[mira]) < 330  # Mattei 1997
    assert lpv.amplitude(many(lpv))[mira].min() > 1.5
    dsct = periodic.DeltaScuti().period(many(periodic.DeltaScuti()))
    assert 0.03 <= dsct.min() < dsct.max() <= 0.31
    binary = periodic.Eclipsing()
    contact = binary.kinds(many(binary)) == 0
    assert np.mean(contact) > 0.5
    assert np.median(binary.period(many(binary))[contact]) == pytest.approx(0.35, abs=0.03)
    assert binary.period(many(binary))[contact].min() > 0.2  # Paczyński et al. 2006: a sharp edge at 0.22 d


def test_the_hertzsprung_progression() -> None:
    cepheid = periodic.Cepheid()
    draws = many(cepheid)
    amplitude, _ = cepheid._series(draws)
    ratio, log_p = amplitude[1] / amplitude[0], np.log10(cepheid.period(draws))
    classical = cepheid.kinds(draws) == 0
    short, ten = classical & (log_p < 0.7), classical & (np.abs(log_p - 1.0) < 0.07)
    assert np.median(ratio[short]) > 2 * np.median(ratio[ten])


def test_pulsating_stars_rise_faster_than_they_fall() -> None:
    rr, n, steps = periodic.RRLyrae(), 200, 100
    draws = many(rr, n)
    row, phase = np.repeat(np.arange(n), steps), np.tile(np.arange(steps) / steps, n)
    mjd = BEGIN + phase * rr.period(draws)[row]
    mags = rr.deviation(draws, row, mjd, np.ones(row.size, np.int64)).reshape(n, steps)[rr.kinds(draws) == 0]
    rising = np.mean(np.diff(mags, axis=1) < 0, axis=1)
    assert np.median(rising) < 0.4
    assert np.ptp(mags, axis=1).min() > 0.15


def test_unit_series_have_unit_range() -> None:
    amplitude, angle = periodic.unit_series([0.5, 0.3], [4.0, 2.0], 2)
    phase = np.arange(2000) / 2000
    curve_ = periodic.fourier(phase, np.zeros(2000, np.int64), amplitude, angle)
    k = np.arange(1, 4)[:, None]
    want = (amplitude[:, :1] * np.cos(2 * np.pi * k * phase + angle[:, :1])).sum(axis=0)
    np.testing.assert_allclose(curve_, want, atol=1e-12)
    assert np.ptp(curve_) == pytest.approx(1.0, abs=0.01)


def test_a_fold_with_the_period_is_a_curve() -> None:
    for kind in (periodic.Eclipsing(), periodic.Cepheid()):
        draws = many(kind, 300)
        row = np.repeat(np.arange(300), 20)
        mjd = BEGIN + np.tile(np.linspace(0.0, 3.0, 20), 300)
        later = mjd + 4 * kind.period(draws)[row]
        fid = np.full(row.size, 2)
        regular = (kind.kinds(draws) != 2)[row] if kind.name == "CEP" else np.ones(row.size, bool)
        np.testing.assert_allclose(
            kind.deviation(draws, row, mjd, fid)[regular], kind.deviation(draws, row, later, fid)[regular], atol=1e-4
        )
