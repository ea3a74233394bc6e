"""Matching of positions equals astropy's, at poles, ra 0, borders of HEALPix pixels, in clusters, at any radius."""

from __future__ import annotations

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord, match_coordinates_sky, search_around_sky
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark.crossmatch.match import MAX_RADIUS, Motion, motion_margin, nearest, within

Position = tuple[np.ndarray, np.ndarray]


def _sphere(rng: np.random.Generator, size: int) -> Position:
    return rng.uniform(0, 360, size), np.degrees(np.arcsin(rng.uniform(-1, 1, size)))


def _around(rng: np.random.Generator, centre: Position, scatter: float) -> Position:
    """Positions at normally distributed distances [deg] around centres, poles included."""
    start = SkyCoord(*centre, unit="deg")
    size = centre[0].size
    moved = start.directional_offset_by(rng.uniform(0, 360, size) * u.deg, abs(rng.normal(0, scatter, size)) * u.deg)
    return moved.ra.deg, moved.dec.deg


def _awkward(rng: np.random.Generator) -> Position:
    """Poles, the meridian, and corners of HEALPix pixels of several orders."""
    corners = [healpy.boundaries(1 << order, np.arange(12 << 2 * order), nest=True) for order in (0, 1, 4)]
    vectors = np.concatenate([c.transpose(0, 2, 1).reshape(-1, 3) for c in corners])
    vectors = vectors[rng.permutation(len(vectors))[:1500]]
    ra, dec = healpy.vec2ang(vectors, lonlat=True)
    meridian = rng.uniform(-90, 90, 100)
    ra = np.concatenate([ra, np.zeros(50), np.full(50, np.nextafter(360, 0)), rng.uniform(0, 360, 40)])
    return ra, np.concatenate([dec, meridian, np.repeat([90.0, -90.0], 20)])


def _lists(rng: np.random.Generator, positions: int, sources: int, radius: float) -> tuple[Position, Position]:
    """Positions and a catalogue: the whole sky, awkward places, clusters; many sources near a position."""
    parts = [_awkward(rng), _sphere(rng, positions // 2)]
    left = positions - sum(p[0].size for p in parts)
    middle = _sphere(rng, 4)
    middle[1][:2] = 90, -90
    clusters = np.repeat(np.arange(4), -(-left // 4))[:left]
    parts.append(_around(rng, (middle[0][clusters], middle[1][clusters]), 0.2))
    ra, dec = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
    near = rng.integers(0, positions, sources // 3)
    some = [_around(rng, (ra[near], dec[near]), radius / 3600), _sphere(rng, sources - near.size)]
    return (ra, dec), tuple(np.concatenate([p[k] for p in some]) for k in (0, 1))


def _assert_as_astropy(positions: Position, sources: Position, radius: float) -> None:
    left, right = SkyCoord(*positions, unit="deg"), SkyCoord(*sources, unit="deg")
    found = within(*positions, *sources, radius)
    row, source, separation, _ = search_around_sky(left, right, radius * u.arcsec)
    ours = sorted(zip(found.row.tolist(), found.source.tolist(), strict=True))
    assert len(ours) == len(set(ours))
    assert ours == sorted(zip(row.tolist(), source.tolist(), strict=True))
    order, expected = np.lexsort((found.source, found.row)), np.lexsort((source, row))
    np.testing.assert_allclose(found.separation[order], separation.arcsec[expected], rtol=0, atol=1e-9)
    _assert_nearest_as_astropy(positions, sources, radius)


def _assert_nearest_as_astropy(positions: Position, sources: Position, radius: float) -> None:
    best, distance, _ = match_coordinates_sky(SkyCoord(*positions, unit="deg"), SkyCoord(*sources, unit="deg"))
    distance = distance.arcsec
    source, separation = nearest(*positions, *sources, radius)
    np.testing.assert_array_equal(source, np.where(distance <= radius, best, -1))
    np.testing.assert_allclose(separation, np.where(distance <= radius, distance, np.nan), rtol=0, atol=1e-9)


@pytest.mark.parametrize("radius", [0.1, 1.0, 30.0])
def test_pairs_and_nearest_are_those_of_astropy(radius: float) -> None:
    rng = np.random.default_rng(5)
    _assert_as_astropy(*_lists(rng, 10_000, 100_000, radius), radius)


@pytest.mark.parametrize("radius", [1.0, *(pytest.param(radius, marks=pytest.mark.soak) for radius in (0.1, 10.0))])
def test_many_pairs_and_nearest_are_those_of_astropy(radius: float) -> None:
    rng = np.random.default_rng(6)
    _assert_as_astropy(*_lists(rng, 100_000, 1_000_000, radius), radius)


@pytest.mark.parametrize("radius", [600.0, 7200.0, MAX_RADIUS])
def test_wide_discs_over_poles_and_the_meridian(radius: float) -> None:
    rng = np.random.default_rng(7)
    positions = tuple(np.concatenate(x) for x in zip(_sphere(rng, 200), _awkward(rng), strict=True))
    _assert_as_astropy((positions[0][::4], positions[1][::4]), _sphere(rng, 2000), radius)


def test_a_longer_list_of_positions_than_sources_gives_the_same_pairs() -> None:
    rng = np.random.default_rng(8)
    positions, sources = _lists(rng, 6000, 9000, 2.0)
    found, swapped = within(*positions, *sources, 2.0), within(*sources, *positions, 2.0)
    there = sorted(zip(found.row, found.source, found.separation, strict=True))
    assert there == sorted(zip(swapped.source, swapped.row, swapped.separation, strict=True))


@pytest.mark.parametrize("dec", [0.0, 47.3, -89.9999, 90.0])
def test_the_radius_is_kept_to_a_hundred_millionth_of_an_arcsecond(dec: float) -> None:
    # On the equator astropy's offsets are exact; they lose digits near a pole, so the circle is turned there.
    circle, there = SkyCoord(0, 0, unit="deg"), SkyCoord(0.00001, dec, unit="deg").skyoffset_frame()
    angles = np.arange(0, 360, 7.0) * u.deg
    for radius in (0.1, 1.0, 1000.0):
        for step, expected in ((-1e-8, angles.size), (1e-8, 0)):
            flat = circle.directional_offset_by(angles, (radius + step) * u.arcsec)
            turned = SkyCoord(flat.ra, flat.dec, frame=there).icrs
            assert len(within(0.00001, dec, turned.ra.deg, turned.dec.deg, radius)) == expected


_RA = st.one_of(st.floats(0, 360), st.sampled_from([0.0, 360.0, 45.0, 90.0, 180.0, 5e-324, 359.99999999]))
_DEC = st.one_of(st.floats(-90, 90), st.sampled_from([90.0, -90.0, 0.0, 41.8103148957786, -41.8103148957786]))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(_RA, _DEC), min_size=1, max_size=4),
    st.lists(st.tuples(st.floats(-1.2, 1.2), st.floats(-1.2, 1.2)), min_size=1, max_size=6),
    st.floats(0.01, MAX_RADIUS),
)
def test_no_pair_is_lost_or_doubled(
    positions: list[tuple[float, float]], offsets: list[tuple[float, float]], radius: float
) -> None:
    ra, dec = np.array(positions).T
    steps = np.array(offsets).T * radius / 3600
    source_dec = np.clip(dec[:, None] + steps[1], -90, 90)
    source_ra = (ra[:, None] + steps[0] / np.maximum(np.cos(np.radians(source_dec)), 1e-6)).ravel() % 360
    source_dec = source_dec.ravel()
    apart = SkyCoord(ra[:, None], dec[:, None], unit="deg").separation(SkyCoord(source_ra, source_dec, unit="deg"))
    edge = abs(apart.arcsec - radius) < 1e-8 * max(radius, 1)
    found = within(ra, dec, source_ra, source_dec, radius)
    counts = np.zeros(apart.shape, int)
    np.add.at(counts, (found.row, found.source), 1)
    assert np.all((counts == (apart.arcsec <= radius)) | (edge & (counts <= 1)))


def test_ties_go_to_the_smaller_id_and_then_to_the_earlier_row() -> None:
    sources = np.array([10.0, 10.0, 10.0, 10.1]), np.array([20.0, 20.0, 20.0, 20.0])
    ids = np.array([900719925474099301, 900719925474099300, 900719925474099302, 1])
    assert nearest([10.0001], [20.0], *sources, 5.0, ids=ids)[0].tolist() == [1]
    assert nearest([10.0001], [20.0], *sources, 5.0, ids=ids.astype(str))[0].tolist() == [1]
    assert nearest([10.0001], [20.0], *sources, 5.0)[0].tolist() == [0]
    assert within([10.0001], [20.0], *sources, 5.0, ids=ids).source.tolist() == [1, 0, 2]


def test_rows_without_a_position_match_nothing() -> None:
    ra, dec = np.array([np.nan, 10.0, 10.0, np.inf, 10.0]), np.array([20.0, np.nan, 91.0, 20.0, 20.0])
    assert within(ra, dec, ra, dec, 1.0).row.tolist() == [4]
    assert nearest([], [], ra, dec, 1.0)[0].size == 0
    assert nearest(ra, dec, [], [], 1.0)[0].tolist() == [-1] * 5
    assert within([-0.00001, 360.00001], [0.0, 0.0], [0.0], [0.0], 0.05).row.tolist() == [0, 1]


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan, MAX_RADIUS * 1.01])
def test_a_radius_that_is_none_is_refused(radius: float) -> None:
    with pytest.raises(ValueError, match="match radius"):
        within([1.0], [1.0], [1.0], [1.0], radius)


def test_sources_move_as_astropy_moves_them() -> None:
    rng = np.random.default_rng(9)
    ra, dec = _sphere(rng, 400)
    dec[:10], dec[10:20] = 89.9995, -89.99999
    pmra, pmdec = rng.normal(0, 3000, (2, ra.size))
    mjd = rng.uniform(58000, 62000, ra.size)
    start = SkyCoord(
        ra * u.deg, dec * u.deg, pm_ra_cosdec=pmra * u.mas / u.yr, pm_dec=pmdec * u.mas / u.yr, distance=10 * u.pc,
        obstime=Time(2016.0, format="jyear", scale="tdb"),
    )  # fmt: skip
    there = start.apply_space_motion(new_obstime=Time(mjd, format="mjd", scale="tdb"))
    motion = Motion(pmra, pmdec, 2016.0, mjd)
    source, separation = nearest(there.ra.deg, there.dec.deg, ra, dec, 0.1, motion=motion)
    np.testing.assert_array_equal(source, np.arange(ra.size))
    assert separation.max() < 1e-4
    moved = start.separation(there).arcsec
    assert np.all(moved <= motion_margin(float(np.hypot(pmra, pmdec).max()), 2016.0, mjd))
    is_far = moved > 0.2
    assert is_far.mean() > 0.9
    assert (nearest(there.ra.deg, there.dec.deg, ra, dec, 0.1)[0][is_far] == -1).all()


def test_a_source_of_unknown_motion_stays() -> None:
    motion = Motion([np.nan, 1000.0], [np.nan, 0.0], 2016.0, [Time(2026.0, format="jyear").mjd])
    source, separation = nearest([50.0], [0.0], [50.0, 50.0 - 10 / 3600], [0.001, 0.0], 1.0, motion=motion)
    assert source.tolist() == [1]
    assert separation[0] == pytest.approx(0.0, abs=1e-6)
