"""HEALPix pixels of positions, cones and margins, and separations on the sky."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import healpy
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from astropy.coordinates import angular_separation
from numpy.typing import ArrayLike, NDArray

Oids: TypeAlias = Sequence[str] | pl.Series | pa.Array | pa.ChunkedArray

#: Order of the spatial index `healpix29` (nested), as in HATS.
INDEX_ORDER = 29

#: Largest scatter [arcsec] of the rows of one object; look-ups cover this radius (docs/design.md, "HEALPix").
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

    For discs that are much smaller than a pixel. The result may also contain pixels within twice the radius.
    """
    ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    return np.unique(np.concatenate([healpix(ra, dec, order), *_ring(ra, dec, order, radius)]))


def _ring(ra: NDArray[np.float64], dec: NDArray[np.float64], order: int, radius: float) -> list[NDArray[np.int64]]:
    centre = np.stack(healpy.ang2vec(ra, dec, lonlat=True).T)
    # Two unit vectors across each line of sight; the axis nearest to it is avoided, so that they always exist.
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


def places(oid: Oids, order: ArrayLike, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
    """Number of the place of each row within its object, from positions [deg]: 0 if all rows lie together.

    Place 0 is within OBJECT_RADIUS of the object's first row by `order`; rows further away form places 1, 2 … by the
    same rule.
    """
    names, lon, lat = oid_array(oid), np.asarray(ra, float), np.asarray(dec, float)
    sequence = np.argsort(np.asarray(order), kind="stable")
    number = np.zeros(len(names), np.int64)
    left = np.arange(len(names))
    while left.size:
        mine, ordered = names.take(pa.array(left)), sequence[np.isin(sequence, left)]
        first = ordered[first_index(mine, names.take(pa.array(ordered)))]
        left = left[separation(lon[left], lat[left], lon[first], lat[first]) > OBJECT_RADIUS]
        number[left] += 1
    return number


def oid_array(oid: Oids) -> pa.Array:
    """Ids of objects as one Arrow array of large strings."""
    array = oid.to_arrow() if isinstance(oid, pl.Series) else oid
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array.cast(pa.large_string()) if isinstance(array, pa.Array) else pa.array(array, pa.large_string())


def first_index(oid: pa.Array, among: pa.Array) -> NDArray[np.int64]:
    """Index of the first occurrence of each id in `among`, which must contain it."""
    return np.asarray(pc.index_in(oid, value_set=among), np.int64)


def position(healpix29: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (ra, dec) [deg] of pixels of order 29."""
    ra, dec = healpy.pix2ang(1 << INDEX_ORDER, np.asarray(healpix29), nest=True, lonlat=True)
    return ra, dec
