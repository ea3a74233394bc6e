"""Observations: the visits of each object as detections and upper limits, in difference flux."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alerce_spark.simulation.randoms import Floats, Ints, normal, uniform
from alerce_spark.simulation.sources import KINDS, Draws, Objects, flux_of
from alerce_spark.simulation.survey import Visits

Flags = np.ndarray
#: An alert needs this signal-to-noise, as in ZTF.
THRESHOLD = 5.0


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


def observe(seed: int, objects: Objects, fields: Ints, visits: Visits, twins: float = 0.0) -> Points:
    """Points of `objects` at `visits`, which are those of `fields` (sorted).

    A visit is a detection where the measured difference flux is at least five times its error. `twins` is the share of
    detections that are there twice, with another candid and slightly another flux, as ZTF's extraction does.
    """
    slot = np.searchsorted(fields, objects.field)
    first, count = visits.starts[slot], np.diff(visits.starts)[slot]
    row = np.repeat(np.arange(len(objects)), count)
    starts = np.r_[0, np.cumsum(count)]
    visit = np.arange(row.size) - np.repeat(starts[:-1] - first, count)
    mjd, fid, code = visits.mjd[visit], visits.fid[visit], visits.code[visit]

    index = objects.index[row]
    limit = visits.limit[visit] + 0.07 * normal(seed, "limit", objects.rcid[row], code)
    true_flux, reference_flux = _true_flux(seed, objects, slot, visits, row, mjd, fid)
    # In real packets sigmapsf is 0.18, 0.11, 0.06 and 0.05 mag where magpsf is 0.2, 1.2, 2.7 and 4 mag above the limit:
    # a wide spread about the limit's own noise, then calibration and the noise of the subtracted star.
    background = flux_of(limit) / 5.0 * 1.2 * np.exp(0.2 * normal(seed, "background", index, code))
    floor = 0.035 * np.exp(0.3 * normal(seed, "floor", index, code))
    sigma = np.sqrt(background**2 + (floor * true_flux) ** 2 + (0.01 * reference_flux) ** 2)
    flux = true_flux + sigma * normal(seed, "noise", index, code)
    is_detection = np.abs(flux) >= THRESHOLD * sigma
    points = Points(
        starts, row, visit, mjd, fid, code, limit, flux, sigma, background, is_detection, np.zeros(row.size, bool)
    )
    return _with_twins(seed, points, index, twins) if twins > 0 else points


def _true_flux(
    seed: int, objects: Objects, slot: Ints, visits: Visits, row: Ints, mjd: Floats, fid: Ints
) -> tuple[Floats, Floats]:
    """True difference flux of each point, and the flux of the star under it (0 for transients), µJy."""
    true_flux, under = np.zeros(row.size), np.zeros(row.size)
    for code, kind in enumerate(KINDS):
        mine = np.flatnonzero(objects.kind == code)
        if not mine.size:
            continue
        rank = np.full(len(objects), -1)
        rank[mine] = np.arange(mine.size)
        at = np.flatnonzero(rank[row] >= 0)
        draws = draws_of(seed, objects, mine, slot, visits)
        sub = rank[row[at]]
        true_flux[at] = kind.difference(draws, sub, mjd[at], fid[at])
        if kind.is_on_reference:
            under[at] = flux_of(kind.reference(draws)[fid[at] - 1, sub])
    return true_flux, under


def draws_of(seed: int, objects: Objects, mine: Ints, slot: Ints, visits: Visits) -> Draws:
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
    return Draws(seed, kind.name, objects.index[mine], objects.begin[mine], objects.end[mine], visit_in_life)


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
