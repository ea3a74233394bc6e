"""Match positions: the nearest source of a catalogue, or all within a radius; exact, also at the poles and at ra 0.

The shorter list is entered into a grid: each position into every cell that its disc touches. A row of the longer list
lies in one cell, so each pair is found once. Cells are parts of declination bands and are computed without
trigonometry. Only occupied cells exist, in a hash table, so the grid is as fine for a cluster as for the whole sky.
The longer list is read once and need not be sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import ArrayLike, NDArray

from alerce_spark.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Ids: TypeAlias = NDArray[Any] | pa.ChunkedArray

#: Largest radius of a match [arcsec].
MAX_RADIUS = 36_000.0

_CELL_RADII = 8.0  # height of a cell in radii: a disc then touches 1.3 cells in the mean
_MIN_CELL = 1.0  # arcsec
_MAX_CELL = 15.0 * 3600
_STRIPS = 4096  # cells of one width in right ascension; a table that stays in the first cache
_PAD = 1e-9  # relative and in degrees: far above rounding, far below any radius

_MJD_J2000 = 51544.5
_YEAR = 365.25  # Julian year [d]


@dataclass(frozen=True)
class Motion:
    """Proper motions of catalogue sources, and the time of each position.

    pmra (with the factor cos dec), pmdec [mas/yr] of each source, NaN where unknown (the source then does not move);
    `epoch` [Julian year] of the catalogue's positions; `mjd` of each of the other positions.
    """

    pmra: ArrayLike
    pmdec: ArrayLike
    epoch: float
    mjd: ArrayLike


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows: of the positions, of the catalogue, and their separation [arcsec]; arrays of one length.

    Ordered by position, then separation, then source id.
    """

    row: Ints
    source: Ints
    separation: Floats

    def __len__(self) -> int:
        return len(self.row)


def within(
    ra: ArrayLike,
    dec: ArrayLike,
    catalog_ra: ArrayLike,
    catalog_dec: ArrayLike,
    radius: float,
    *,
    ids: Ids | None = None,
    motion: Motion | None = None,
) -> Pairs:
    """All pairs of positions and catalogue sources [deg] with a separation of at most `radius` arcsec.

    Of sources at the same distance the one with the smaller of `ids` comes first (default: the earlier row). Positions
    that are not finite or not on the sphere match nothing. With `motion` sources are moved to the time of each
    position, in a straight line through space at constant distance (Hipparcos catalogue, ESA SP-1200, 1.5.5, without
    parallax and radial velocity). Raises ValueError for a radius that is not in (0, MAX_RADIUS].
    """
    found = _pairs(_floats(ra), _floats(dec), _floats(catalog_ra), _floats(catalog_dec), radius, motion)
    return _sorted(found, ids)


def nearest(
    ra: ArrayLike,
    dec: ArrayLike,
    catalog_ra: ArrayLike,
    catalog_dec: ArrayLike,
    radius: float,
    *,
    ids: Ids | None = None,
    motion: Motion | None = None,
) -> tuple[Ints, Floats]:
    """Row and separation [arcsec] of the nearest catalogue source within `radius` of each position; -1 and NaN if none.

    Ties, motion and errors as of `within`.
    """
    positions = _floats(ra)
    found = _pairs(positions, _floats(dec), _floats(catalog_ra), _floats(catalog_dec), radius, motion)
    best = np.full(positions.size, np.inf)
    np.minimum.at(best, found.row, found.separation)
    is_best = found.separation == best[found.row]
    ordered = _sorted(Pairs(found.row[is_best], found.source[is_best], found.separation[is_best]), ids)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered.row[1:] != ordered.row[:-1]
    source = np.full(positions.size, -1, np.int64)
    separation = np.full(positions.size, np.nan)
    source[ordered.row[first]] = ordered.source[first]
    separation[ordered.row[first]] = ordered.separation[first]
    return source, separation


def motion_margin(pm_max: float, epoch: float, mjd: ArrayLike) -> float:
    """Largest displacement [arcsec] of a source of proper motion `pm_max` [mas/yr] from its catalogue position."""
    years = np.abs(_years(epoch, _floats(mjd)))
    return float(pm_max / 1000 * years.max(initial=0.0))


def _years(epoch: float, mjd: Floats) -> Floats:
    return (mjd - _MJD_J2000) / _YEAR - (epoch - 2000.0)


def _floats(values: ArrayLike) -> Floats:
    return np.ascontiguousarray(np.atleast_1d(np.asarray(values, np.float64)))


def _sorted(found: Pairs, ids: Ids | None) -> Pairs:
    rank = found.source
    if ids is not None:
        # Only ids of pairs become Python objects: a catalogue has many more.
        of_pairs = ids[found.source] if isinstance(ids, np.ndarray) else ids.take(pa.array(found.source)).to_numpy()
        rank = np.unique(of_pairs, return_inverse=True)[1]
    order = np.lexsort((rank, found.separation, found.row))
    return Pairs(found.row[order], found.source[order], found.separation[order])


def _pairs(
    ra: Floats, dec: Floats, catalog_ra: Floats, catalog_dec: Floats, radius: float, motion: Motion | None
) -> Pairs:
    if not 0 < radius <= MAX_RADIUS:
        raise InputError(f"a match radius must be in (0, {MAX_RADIUS:g}] arcsec, not {radius}")
    nothing = np.empty(0)
    if motion is None:
        is_swapped = ra.size > catalog_ra.size
        lists = (catalog_ra, catalog_dec, ra, dec) if is_swapped else (ra, dec, catalog_ra, catalog_dec)
        grid = _grid(*lists[:2], radius)
        indexed, scanned, separation = _scan(*lists, radius, *grid, nothing, nothing, nothing)
        return Pairs(scanned, indexed, separation) if is_swapped else Pairs(indexed, scanned, separation)
    pmra, pmdec = (np.nan_to_num(_floats(pm)) for pm in (motion.pmra, motion.pmdec))
    years = _years(motion.epoch, _floats(motion.mjd))
    reach = radius + motion_margin(float(np.hypot(pmra, pmdec).max(initial=0.0)), motion.epoch, motion.mjd)
    grid = _grid(ra, dec, min(reach, MAX_RADIUS))
    return Pairs(*_scan(ra, dec, catalog_ra, catalog_dec, radius, *grid, pmra, pmdec, years))


def _grid(ra: Floats, dec: Floats, reach: float) -> tuple[float, int, int, Floats, Ints, Ints, Ints]:
    """Grid in which positions [deg] are entered with all cells within `reach` arcsec.

    Bands per degree, bits of a band within its strip, bits of the hash, cells per degree of right ascension in each
    strip; then entries sorted by hash: first entry of each hash, and the cells and positions of entries.
    """
    height = float(np.clip(_CELL_RADII * reach, _MIN_CELL, _MAX_CELL)) / 3600
    per_degree = 1 / height
    bands = int(180 * per_degree) + 1
    shift = max(0, int(np.ceil(np.log2(bands / _STRIPS))))
    edges = np.arange((bands >> shift) + 2) * float(1 << shift) * height - 90
    least = np.where(edges[:-1] * edges[1:] <= 0, 0.0, np.minimum(np.abs(edges[:-1]), np.abs(edges[1:])))
    cells = np.cos(np.radians(np.minimum(least, 90.0))) * per_degree
    cell, position = _entries(ra, dec, reach / 3600, per_degree, shift, cells)
    bits = max(4, int(np.ceil(np.log2(max(cell.size, 1)))) + 1)
    start, cell, position = _hashed(cell, position, bits)
    return per_degree, shift, bits, cells, start, cell, position


@njit(cache=True)
def _cell(band: int, ra: float, cells: float) -> int:
    return (band << 32) | int(ra * cells)


@njit(cache=True)
def _hash(cell: int, bits: int) -> int:
    return int((np.uint64(cell) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))  # Fibonacci hashing


@njit(cache=True)
def _is_on_sky(ra: float, dec: float) -> bool:
    return abs(dec) <= 90.0 and abs(ra) <= 1e6  # false for NaN too


@njit(cache=True)
def _entries(ra, dec, reach, per_degree, shift, cells):  # type: ignore[no-untyped-def]
    """Cell and position of every cell that a disc of `reach` degrees around a position touches."""
    size = ra.size + ra.size // 2 + 16
    cell = np.empty(size, np.int64)
    position = np.empty(size, np.int64)
    n = 0
    reach = reach * (1 + _PAD) + _PAD
    for i in range(ra.size):
        if not _is_on_sky(ra[i], dec[i]):
            continue
        centre = ra[i] % 360.0
        low, high = max(dec[i] - reach, -90.0), min(dec[i] + reach, 90.0)
        width = 180.0
        if abs(dec[i]) + reach < 90.0:
            # The widest right ascension of a disc that holds no pole.
            width = np.degrees(np.arcsin(min(1.0, np.sin(np.radians(reach)) / np.cos(np.radians(dec[i])))))
            width = width * (1 + _PAD) + _PAD
        for band in range(int((low + 90.0) * per_degree), int((high + 90.0) * per_degree) + 1):
            scale = cells[band >> shift]
            last = int(360.0 * scale)
            first_low, first_high, second_low, second_high = 0, last, 0, -1
            if width < 180.0:
                first_low, first_high = int(max(centre - width, 0.0) * scale), int(min(centre + width, 360.0) * scale)
                if centre - width < 0.0:
                    second_low, second_high = max(int((centre - width + 360.0) * scale), first_high + 1), last
                elif centre + width >= 360.0:
                    second_low, second_high = 0, min(int((centre + width - 360.0) * scale), first_low - 1)
            for part in range(2):
                a, b = (first_low, first_high) if part == 0 else (second_low, second_high)
                for c in range(a, b + 1):
                    if n == size:
                        size *= 2
                        more_cell, more_position = np.empty(size, np.int64), np.empty(size, np.int64)
                        more_cell[:n], more_position[:n] = cell, position
                        cell, position = more_cell, more_position
                    cell[n], position[n] = (band << 32) | c, i
                    n += 1
    return cell[:n], position[:n]


@njit(cache=True)
def _hashed(cell, position, bits):  # type: ignore[no-untyped-def]
    """Entries sorted by the hash of their cell, by counting; entries of one hash stay in order."""
    start = np.zeros((1 << bits) + 2, np.int64)
    for k in range(cell.size):
        start[_hash(cell[k], bits) + 2] += 1
    for h in range(2, start.size):
        start[h] += start[h - 1]
    by_hash_cell, by_hash_position = np.empty_like(cell), np.empty_like(position)
    for k in range(cell.size):
        h = _hash(cell[k], bits) + 1
        by_hash_cell[start[h]], by_hash_position[start[h]] = cell[k], position[k]
        start[h] += 1
    return start[:-1], by_hash_cell, by_hash_position


@njit(cache=True)
def _separation(ra1: float, dec1: float, ra2: float, dec2: float) -> float:
    """Angle [arcsec] from the chord between two points [deg]: of haversines, so small angles keep their digits."""
    across, along = np.sin(np.radians(ra2 - ra1) / 2), np.sin(np.radians(dec2 - dec1) / 2)
    square = along * along + np.cos(np.radians(dec1)) * np.cos(np.radians(dec2)) * across * across
    return float(np.degrees(2 * np.arcsin(min(1.0, np.sqrt(square)))) * 3600)


@njit(cache=True)
def _moved(ra: float, dec: float, pmra: float, pmdec: float, years: float) -> tuple[float, float]:
    """Position [deg] after `years` of proper motion [mas/yr]."""
    sin_ra, cos_ra, sin_dec, cos_dec = (
        np.sin(np.radians(ra)),
        np.cos(np.radians(ra)),
        np.sin(np.radians(dec)),
        np.cos(np.radians(dec)),
    )
    east, north = np.radians(pmra / 3.6e6) * years, np.radians(pmdec / 3.6e6) * years
    x = cos_dec * cos_ra - east * sin_ra - north * sin_dec * cos_ra
    y = cos_dec * sin_ra + east * cos_ra - north * sin_dec * sin_ra
    z = sin_dec + north * cos_dec
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))


@njit(cache=True)
def _scan(  # type: ignore[no-untyped-def]
    ra,
    dec,
    other_ra,
    other_dec,
    radius,
    per_degree,
    shift,
    bits,
    cells,
    start,
    entry_cell,
    entry_position,
    pmra,
    pmdec,
    years,
):
    """Pairs of gridded and other positions: rows of both and separations. Moves the others if they have motions."""
    size = max(ra.size, 16)
    row, other, apart = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size)
    n = 0
    for j in range(other_ra.size):
        if not _is_on_sky(other_ra[j], other_dec[j]):
            continue
        longitude = other_ra[j]
        if longitude < 0.0 or longitude >= 360.0:
            longitude = longitude % 360.0
        band = int((other_dec[j] + 90.0) * per_degree)
        cell = _cell(band, longitude, cells[band >> shift])
        h = _hash(cell, bits)
        for k in range(start[h], start[h + 1]):
            if entry_cell[k] != cell:
                continue
            i = entry_position[k]
            there_ra, there_dec = other_ra[j], other_dec[j]
            if pmra.size:
                there_ra, there_dec = _moved(there_ra, there_dec, pmra[j], pmdec[j], years[i])
            if abs(there_dec - dec[i]) * 3600.0 > radius * (1 + _PAD) + _PAD:
                continue
            separation = _separation(ra[i], dec[i], there_ra, there_dec)
            if separation > radius:
                continue
            if n == size:
                size *= 2
                more_row, more_other, more_apart = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size)
                more_row[:n], more_other[:n], more_apart[:n] = row, other, apart
                row, other, apart = more_row, more_other, more_apart
            row[n], other[n], apart[n] = i, j, separation
            n += 1
    return row[:n], other[:n], apart[:n]
