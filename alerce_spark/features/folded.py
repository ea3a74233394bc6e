"""Shape of the light curve folded at twice the period: Psi_CS and Psi_eta (Kim et al. 2014; docs/features.md)."""

from __future__ import annotations

import numpy as np
from numba import njit

from alerce_spark.features.curves import Curves, Family, Float, Int, Objects, Scratch, per_band

NAMES = ("Psi_CS", "Psi_eta")

#: A single point has no shape.
MIN_POINTS = 2


@njit(cache=True, error_model="numpy")
def _all(offsets: Int, mjd: Float, mag: Float, origin: Float, period: Float, out: Float) -> None:
    """Fill one row of `out` per curve, phases from `origin` [d]; NaN without a period, points or variation."""
    for c in range(offsets.size - 1):
        lo, hi = offsets[c], offsets[c + 1]
        n = hi - lo
        cycle = 2.0 * period[c]
        out[c, :] = np.nan
        if n < MIN_POINTS or not cycle > 0.0:
            continue
        phase = np.empty(n)
        for i in range(n):
            turns = (mjd[lo + i] - origin[c]) / cycle
            phase[i] = turns - np.floor(turns)
        order = np.argsort(phase, kind="mergesort")
        zero = mag[lo]
        mean = 0.0
        for i in range(lo, hi):
            mean += mag[i] - zero
        mean /= n
        variance = 0.0
        for i in range(lo, hi):
            variance += (mag[i] - zero - mean) ** 2
        variance /= n
        if not variance > 0.0:
            continue
        running = 0.0
        highest, lowest = -np.inf, np.inf
        rough = 0.0
        for i in range(n):
            m = mag[lo + order[i]]
            running += m - zero - mean
            highest = max(highest, running)
            lowest = min(lowest, running)
            if i > 0:
                rough += (m - mag[lo + order[i - 1]]) ** 2
        out[c, 0] = (highest - lowest) / (n * np.sqrt(variance))
        out[c, 1] = rough / ((n - 1) * variance)


def _band(curves: Curves, origin: Float, period: Float) -> Float:
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mjd, curves.mag, origin, period, out)
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    """Phase 0 is the object's first detection, so that a shift in time changes nothing.

    Upstream folds absolute MJD; Psi_CS does not depend on the origin, Psi_eta only through the pair at the seam.
    """
    return np.hstack([_band(curves, first_mjd(objects.both), scratch.period) for curves in objects.bands])


def first_mjd(curves: Curves) -> Float:
    """mjd of the first point of each curve (n,), NaN where a curve is empty."""
    start, stop = curves.offsets[:-1], curves.offsets[1:]
    out = np.full(len(curves), np.nan)
    out[start < stop] = curves.mjd[start[start < stop]]
    return out


FAMILY = Family("folded", per_band(NAMES), _compute, needs=("periodogram",))
