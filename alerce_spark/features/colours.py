"""Colours g − r from the brightest points and from the means (docs/features.md, "Object")."""

from __future__ import annotations

import numpy as np
from numba import njit

from alerce_spark.features.curves import Family, Float, Int, Objects, Scratch

COLUMNS = ("g-r_max", "g-r_max_corr", "g-r_mean", "g-r_mean_corr")


@njit(cache=True, error_model="numpy")
def _brightest_and_mean(offsets: Int, mag: Float) -> Float:
    out = np.full((offsets.size - 1, 2), np.nan)
    for c in range(offsets.size - 1):
        lo, hi = offsets[c], offsets[c + 1]
        if lo == hi:
            continue
        brightest = mag[lo]
        excess = 0.0
        for i in range(lo, hi):
            brightest = min(brightest, mag[i])
            excess += mag[i] - mag[lo]
        out[c, 0] = brightest
        out[c, 1] = mag[lo] + excess / (hi - lo)
    return out


def brightest_and_mean(offsets: Int, mag: Float) -> Float:
    """(n, 2): smallest and mean magnitude of each of n curves, NaN where a curve is empty."""
    return _brightest_and_mean(offsets, mag)


def _compute(objects: Objects, scratch: Scratch) -> Float:
    """NaN unless both bands exist; the two `_corr` are NaN where they equal the uncorrected ones."""
    g, r = objects.bands
    plain = brightest_and_mean(g.offsets, g.magpsf) - brightest_and_mean(r.offsets, r.magpsf)
    corrected = brightest_and_mean(g.offsets, g.mag) - brightest_and_mean(r.offsets, r.mag)
    corrected[(plain == corrected).all(axis=1)] = np.nan
    return np.column_stack((plain[:, 0], corrected[:, 0], plain[:, 1], corrected[:, 1]))


FAMILY = Family("colours", COLUMNS, _compute)
