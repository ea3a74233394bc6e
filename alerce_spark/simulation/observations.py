"""Observations: the visits of each object as detections and upper limits, in difference flux."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from alerce_spark.simulation.galaxy import galactic
from alerce_spark.simulation.randoms import Floats, Ints, key_of, normal, normal_one, normal_two, uniform, uniform_one
from alerce_spark.simulation.sources import KINDS, ZERO_FLUX, Draws, Kind, Objects, flux_of
from alerce_spark.simulation.survey import Visits

Flags = np.ndarray
#: An alert needs this signal-to-noise, as in ZTF.
THRESHOLD = 5.0
#: Median noise of the detection score, as a share of the flux of the star on the reference image.
STAR_BLUR = 0.01


@dataclass(frozen=True)
class Points:
    """All visits of some objects, object by object in time; object k has rows starts[k]:starts[k+1].

    `visit` is a row of the Visits they were made from. Fluxes are difference fluxes in µJy; `background` is the part of
    the error `sigma` that comes from the sky. `is_twin` marks the second row of a detection that was extracted twice.
    """

    starts: Ints
    row: Ints
    visit: Ints
    mjd: Floats
    fid: Ints
    code: Ints
    limit: Floats
    flux: Floats
    sigma: Floats
    background: Floats
    is_detection: Flags
    is_twin: Flags

    def take(self, rows: Ints, starts: Ints) -> Points:
        """The points at `rows`, which keep their order, under new `starts`."""
        columns = {name: getattr(self, name)[rows] for name in self.__dataclass_fields__ if name != "starts"}
        return Points(starts=starts, **columns)


@dataclass(frozen=True)
class Part:
    """The objects of one kind: their rows, and their random properties in the same order."""

    kind: Kind
    rows: Ints
    draws: Draws


def parts_of(seed: int, objects: Objects, fields: Ints, visits: Visits, *, are_moved: bool = False) -> list[Part]:
    """`objects` by kind, with their properties; `fields` (sorted) have `visits`.

    are_moved: the caller chose their positions, so dust and distances follow from these.
    """
    slot = np.searchsorted(fields, objects.field)
    out = []
    for code in np.unique(objects.kind):
        rows = np.flatnonzero(objects.kind == code)
        out.append(Part(KINDS[code], rows, _draws_of(seed, objects, rows, slot, visits, are_moved)))
    return out


def observe(
    seed: int,
    objects: Objects,
    fields: Ints,
    visits: Visits,
    parts: Sequence[Part],
    *,
    twins: float = 0.0,
    window: tuple[Floats, Floats] | None = None,
) -> Points:
    """Points of `objects`, which consist of `parts`, at `visits`, which are those of `fields` (sorted).

    A visit is a detection if the measured difference flux is at least five times the noise of the difference image. Its
    error is that of the fitted flux: larger, and not exactly the scatter of the fluxes (see `_measure`). `twins` is the
    share of detections that are extracted twice, with another candid and a slightly different flux, as in ZTF.
    `window`: mjd between which each object is observed; default all visits.
    """
    slot = np.searchsorted(fields, objects.field)
    first, last = visits.starts[slot], visits.starts[slot + 1]
    if window is not None:
        first, last = _clip(visits.mjd, first, last, *window)
    count = last - first
    row = np.repeat(np.arange(len(objects)), count)
    starts = np.r_[0, np.cumsum(count)]
    visit = np.arange(row.size) - np.repeat(starts[:-1] - first, count)
    mjd, fid, code = visits.mjd[visit], visits.fid[visit], visits.code[visit]

    index = objects.index[row]
    true_flux, reference_flux = _true_flux(parts, starts, row, mjd, fid)
    keys = np.array([key_of(seed, name) for name in ("limit", "background", "noise", "outlier", "blur")], np.uint64)
    limit, flux, sigma, background, is_detection = _measure(
        keys, index, objects.rcid[row], code, visits.limit[visit], visits.gain[visit], true_flux, reference_flux
    )
    points = Points(
        starts, row, visit, mjd, fid, code, limit, flux, sigma, background, is_detection, np.zeros(row.size, bool)
    )
    return _with_twins(seed, points, index, twins) if twins > 0 else points


@njit(cache=True)
def _clip(mjd: Any, first: Any, last: Any, since: Any, until: Any) -> Any:
    """Rows first … last of the times of each object with since <= mjd < until."""
    low, high = np.empty_like(first), np.empty_like(last)
    for k in range(first.size):
        low[k] = first[k] + np.searchsorted(mjd[first[k] : last[k]], since[k])
        high[k] = first[k] + np.searchsorted(mjd[first[k] : last[k]], until[k])
    return low, high


@njit(cache=True)
def _measure(
    keys: Any, index: Any, rcid: Any, code: Any, limit: Any, gain: Any, true_flux: Any, reference_flux: Any
) -> Any:
    """Limit, measured flux, its error, its background part, and whether the point is a detection.

    In real packets sigmapsf is 0.26, 0.19, 0.15, 0.09, 0.06 and 0.04 mag where magpsf is -0.25, 0.25, 0.75, 1.75, 2.75
    and 4.25 mag above the limit: the limit's own noise and a part that grows with the flux to the power 0.7, each with
    its spread, and the noise of the subtracted star. Real scatter about constant stars is as the errors say, but 3 to
    6 % of the points lie beyond three of them, and 8 % of the exposures have a flux scale that is off.
    """
    n = index.size
    out_limit, flux, sigma, background = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    is_detection = np.empty(n, np.bool_)
    for i in range(n):
        # neighbours in a channel share its depth
        out_limit[i] = limit[i] + 0.07 * normal_one(keys[0], rcid[i], code[i])
        wide, narrow = normal_two(keys[1], index[i], code[i])
        noise, local = normal_two(keys[2], index[i], code[i])
        sky = 10.0 ** (-0.4 * (out_limit[i] - ZERO_FLUX)) / 5.0
        background[i] = 0.95 * sky * np.exp(0.17 * wide)
        star = 0.006 * reference_flux[i]
        own = 0.17 * sky * (abs(true_flux[i]) / sky) ** 0.7 * np.exp(0.3 * narrow)
        sigma[i] = np.sqrt(background[i] ** 2 + own**2 + star**2)
        # outliers of what is there; false detections of an empty place are the artefacts among the kinds
        is_there = abs(true_flux[i]) > 0.7 * THRESHOLD * sky
        scatter = 3.5 if is_there and uniform_one(keys[3], index[i], code[i]) < 0.05 else 1.0
        # the quoted error bears what grows with the flux whole, but half of its square is common to an object's points
        spread = np.sqrt(background[i] ** 2 + 0.5 * own**2 + star**2)
        flux[i] = true_flux[i] + gain[i] * (true_flux[i] + reference_flux[i]) + scatter * spread * noise
        # the score counts a star's own noise and its misplacement between images too (Masci et al. 2019, section 6):
        # hardly a real packet has a star of 13.5-17.5 mag change by less than 3 to 8 % of its flux
        blur = STAR_BLUR * np.exp(0.3 * normal_one(keys[4], index[i], 0)) * reference_flux[i]
        threshold = THRESHOLD * np.sqrt(background[i] ** 2 + blur**2) * np.exp(0.1 * local)
        is_detection[i] = abs(flux[i]) >= threshold
    return out_limit, flux, sigma, background, is_detection


def _true_flux(parts: Sequence[Part], starts: Ints, row: Ints, mjd: Floats, fid: Ints) -> tuple[Floats, Floats]:
    """True difference flux of each point, and the flux of the star under it (0 for transients), µJy."""
    true_flux, under = np.zeros(row.size), np.zeros(row.size)
    for part in parts:
        count = np.diff(starts)[part.rows]
        sub = np.repeat(np.arange(part.rows.size), count)
        at = np.arange(sub.size) + np.repeat(starts[part.rows] - np.cumsum(count) + count, count)
        true_flux[at] = part.kind.difference(part.draws, sub, mjd[at], fid[at])
        if part.kind.is_on_reference:
            under[at] = flux_of(part.kind.reference(part.draws))[fid[at] - 1, sub]
    return true_flux, under


def _draws_of(seed: int, objects: Objects, mine: Ints, slot: Ints, visits: Visits, are_moved: bool) -> Draws:
    """Random properties of the objects at rows `mine`, all of one kind; `slot` is their field's place in `visits`."""

    def visit_in_life(part: Floats) -> Floats:
        out = np.full(mine.size, np.nan)
        for i, k in enumerate(mine):
            lo, hi = visits.starts[slot[k]], visits.starts[slot[k] + 1]
            a, b = lo + np.searchsorted(visits.mjd[lo:hi], [objects.begin[k], objects.end[k]])
            if b > a:
                out[i] = visits.mjd[a + int(part[i] * (b - a))]
        return out

    kind = KINDS[objects.kind[mine[0]]]
    toward = galactic(objects.ra[mine], objects.dec[mine]) if are_moved else None
    return Draws(seed, kind.name, objects.index[mine], objects.begin[mine], objects.end[mine], visit_in_life, toward)


def _with_twins(seed: int, points: Points, index: Ints, share: float) -> Points:
    doubled = points.is_detection & (uniform(seed, "twin", index, points.code) < share)
    copies = 1 + doubled
    rows = np.repeat(np.arange(doubled.size), copies)
    total = np.r_[0, np.cumsum(copies)]
    out = points.take(rows, total[points.starts])
    out.is_twin[1:] = rows[1:] == rows[:-1]
    change = 1.0 + 0.02 * normal(seed, "twin flux", index[rows], out.code)
    out.flux[out.is_twin] *= np.maximum(change, 0.97)[out.is_twin]
    return out
