"""HEALPix pixels and separations against healpy's own disc query and astropy."""

from __future__ import annotations

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark import sky

positions = st.tuples(st.floats(0, 360, exclude_max=True), st.floats(-90, 90))


def _awkward(order: int) -> np.ndarray:
    """Corners and edges of pixels, poles, and both sides of ra 0: (n, 2) degrees."""
    points = []
    for pixel in np.random.default_rng(0).integers(0, healpy.nside2npix(1 << order), 40):
        corners = healpy.boundaries(1 << order, int(pixel), step=4, nest=True)
        ra, dec = healpy.vec2ang(corners.T, lonlat=True)
        points += list(zip(ra % 360.0, dec, strict=True))
    points += [(0.0, 90.0), (123.0, -90.0), (0.0, 0.0), (359.9999999, 0.0), (1e-9, 41.8), (45.0, 0.0)]
    return np.array(points)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_near_pixels_hold_every_point_of_the_disc(order: int) -> None:
    rng = np.random.default_rng(1)
    for ra, dec in _awkward(order):
        near = sky.near_pixels(ra, dec, order)
        centre = SkyCoord(ra, dec, unit="deg")
        inside = centre.directional_offset_by(
            rng.uniform(0, 360, 200) * u.deg, sky.OBJECT_RADIUS * np.sqrt(rng.uniform(0, 1, 200)) * u.arcsec
        )
        assert np.isin(sky.healpix(inside.ra.deg % 360, inside.dec.deg, order), near).all()
        assert len(near) <= 4
        assert np.isin(near, sky.cone_pixels(ra, dec, sky.OBJECT_RADIUS * 2.1, order)).all()


@given(positions)
@settings(max_examples=200, deadline=None)
def test_parents_and_ranges_agree_with_healpy(position: tuple[float, float]) -> None:
    ra, dec = position
    index = sky.healpix(ra, dec)
    for order in (0, 4, 12):
        pixel = healpy.ang2pix(1 << order, ra, dec, nest=True, lonlat=True)
        assert sky.parent(index, order) == pixel
        first, end = sky.index_range(int(pixel), order)
        assert first <= index < end
    back = sky.position(index)
    assert sky.separation(*back, ra, dec) < 1e-3


@given(positions, positions)
@settings(max_examples=200, deadline=None)
def test_separation_agrees_with_astropy(a: tuple[float, float], b: tuple[float, float]) -> None:
    expected = SkyCoord(*a, unit="deg").separation(SkyCoord(*b, unit="deg")).arcsec
    assert sky.separation(*a, *b) == pytest.approx(expected, rel=1e-12, abs=1e-9)


def test_cone_pixels_hold_every_point_of_the_cone() -> None:
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 100_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 100_000)))
    for centre, radius in (((10.0, 89.9), 3600.0), ((0.0, 0.0), 40_000.0), ((200.0, -45.0), 7200.0)):
        inside = sky.separation(ra, dec, *centre) <= radius
        assert inside.any()
        assert np.isin(sky.healpix(ra[inside], dec[inside], 4), sky.cone_pixels(*centre, radius, 4)).all()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.floats(-40, 40)), min_size=1, max_size=12))
def test_places_are_discs_around_the_first_rows(rows: list[tuple[str, int, float]]) -> None:
    """Each row is of the first place, in order, that it is near to; rows lie on the circle dec = 0, across ra 0."""
    oid, order, arcsec = zip(*rows, strict=True)
    ra = (np.array(arcsec) / 3600) % 360
    found = sky.places(list(oid), order, ra, np.zeros(len(rows)))
    expected = np.full(len(rows), -1)
    for name in set(oid):
        number, left = 0, [k for k in range(len(rows)) if oid[k] == name]
        while left:
            seed = arcsec[min(left, key=lambda k: order[k])]
            near = [k for k in left if abs(arcsec[k] - seed) <= 10.0]
            expected[near] = number
            number, left = number + 1, [k for k in left if k not in near]
    assert found.tolist() == expected.tolist()


def test_places_of_nothing() -> None:
    assert sky.places([], [], [], []).tolist() == []
