"""HEALPix pixels of positions, cones and margins, and separations on the sky."""

from __future__ import annotations

import healpy
import numpy as np
from astropy.coordinates import angular_separation
from numpy.typing import ArrayLike, NDArray

#: Order of the spatial index `healpix29` (nested), as in HATS.
INDEX_ORDER = 29

#: Radius within which the rows of one object may scatter; look-ups cover it [arcsec] (docs/design.md, "HEALPix").
OBJECT_RADIUS = 10.0

_RING = 16  # points on a ring of twice the radius: no corner of a pixel reaches the disc between two of them


def healpix(ra: ArrayLike, dec: ArrayLike, order: int = INDEX_ORDER) -> NDArray[np.int64]:
    """Nested pixels of `order` of positions in degrees, int64, same shape. Raises ValueError outside the sphere."""
    return np.asarray(healpy.ang2pix(1 << order, np.asarray(ra), np.asarray(dec), nest=True, lonlat=True), np.int64)


def parent(healpix29: ArrayLike, order: int) -> NDArray[np.int64]:
    """Pixel of a lower `order` that holds a pixel of order 29."""
    return np.asarray(healpix29, np.int64) >> (2 * (INDEX_ORDER - order))


def index_range(pixel: ArrayLike, order: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First `healpix29` in pixels of `order`, and the first after them."""
    shift = 2 * (INDEX_ORDER - order)
    first = np.asarray(pixel, np.int64)
    return first << shift, (first + 1) << shift


def cone_pixels(ra: float, dec: float, radius: float, order: int) -> NDArray[np.int64]:
    """Nested pixels of `order` that touch the disc of `radius` arcsec around a position in degrees, sorted."""
    centre = healpy.ang2vec(ra, dec, lonlat=True)
    pixels = healpy.query_disc(1 << order, centre, np.radians(radius / 3600), inclusive=True, fact=4, nest=True)
    return np.sort(pixels)


def near_pixels(ra: ArrayLike, dec: ArrayLike, order: int, radius: float = OBJECT_RADIUS) -> NDArray[np.int64]:
    """Distinct nested pixels of `order` that touch the disc of `radius` arcsec around any of the positions, sorted.

    For discs that are small against a pixel. Pixels that come within twice the radius may be there too.
    """
    ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    return np.unique(np.concatenate([healpix(ra, dec, order), *_ring(ra, dec, order, radius)]))


def _ring(ra: NDArray[np.float64], dec: NDArray[np.float64], order: int, radius: float) -> list[NDArray[np.int64]]:
    centre = np.stack(healpy.ang2vec(ra, dec, lonlat=True).T)
    # Two unit vectors across each line of sight; the pole-most axis is avoided, so that they exist everywhere.
    axis = np.where(np.abs(centre[2]) < 0.9, np.array([[0.0], [0.0], [1.0]]), np.array([[1.0], [0.0], [0.0]]))
    east = np.cross(axis, centre, axis=0)
    east /= np.linalg.norm(east, axis=0)
    north = np.cross(centre, east, axis=0)
    rho = np.radians(radius / 3600) * 2
    pixels = []
    for angle in np.arange(_RING) * (2 * np.pi / _RING):
        x, y, z = centre * np.cos(rho) + (east * np.cos(angle) + north * np.sin(angle)) * np.sin(rho)
        pixels.append(np.asarray(healpy.vec2pix(1 << order, x, y, z, nest=True), np.int64))
    return pixels


def separation(ra1: ArrayLike, dec1: ArrayLike, ra2: ArrayLike, dec2: ArrayLike) -> NDArray[np.float64]:
    """Angular distance [arcsec] of positions in degrees, exact at small and at large distances."""
    lon1, lat1, lon2, lat2 = (np.radians(x) for x in (ra1, dec1, ra2, dec2))
    return np.degrees(angular_separation(lon1, lat1, lon2, lat2)) * 3600


def position(healpix29: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (ra, dec) [deg] of pixels of order 29."""
    ra, dec = healpy.pix2ang(1 << INDEX_ORDER, np.asarray(healpix29), nest=True, lonlat=True)
    return ra, dec
