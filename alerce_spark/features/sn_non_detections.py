"""Supernova non-detection features of one band: upper limits before and after the first detection."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from alerce_spark.features.curves import Curves, Family, Float, Int, Limits, Objects, Scratch, per_band

NAMES = (
    "dmag_first_det_fid",
    "dmag_non_det_fid",
    "last_diffmaglim_before_fid",
    "max_diffmaglim_after_fid",
    "max_diffmaglim_before_fid",
    "median_diffmaglim_after_fid",
    "median_diffmaglim_before_fid",
    "n_non_det_after_fid",
    "n_non_det_before_fid",
)


@njit(cache=True, error_model="numpy")
def _all(offsets: Int, mjd: Float, mag: Float, limit_offsets: Int, limit_mjd: Float, limit: Float, out: Float) -> None:
    """Fill one row of `out` per object; NaN if the band has no detection."""
    for c in range(offsets.size - 1):
        a = offsets[c]
        b = offsets[c + 1]
        out[c, :] = np.nan
        if a == b:
            continue
        brightest = mag[a]
        for i in range(a, b):
            brightest = min(brightest, mag[i])
        lo = limit_offsets[c]
        hi = limit_offsets[c + 1]
        before = np.empty(hi - lo)
        after = np.empty(hi - lo)
        n = 0
        k = 0
        for i in range(lo, hi):
            if not math.isfinite(limit[i]):
                continue
            if limit_mjd[i] < mjd[a]:
                before[n] = limit[i]
                n += 1
            else:
                after[k] = limit[i]
                k += 1
        out[c, 7] = k
        out[c, 8] = n
        if n > 0:
            median = np.median(before[:n])
            out[c, 0] = before[n - 1] - mag[a]
            out[c, 1] = median - brightest
            out[c, 2] = before[n - 1]
            out[c, 4] = before[:n].max()
            out[c, 6] = median
        if k > 0:
            out[c, 3] = after[:k].max()
            out[c, 5] = np.median(after[:k])


def sn_non_detections(curves: Curves, limits: Limits) -> Float:
    """Non-detection features of n curves and their upper limits, both sorted by mjd, as (n, 9), columns NAMES.

    Limits count as *before* where mjd is less than that of the band's first detection, else as *after*
    (docs/features.md). dmag_first_det = last limit before - first magnitude; dmag_non_det = median limit before -
    brightest magnitude, both of `mag`. A band without detections gives NaN in all columns, counts included. Without
    limits before or after, that count is 0 and the rest NaN. Limits that are not finite are left out.
    """
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mjd, curves.mag, limits.offsets, limits.mjd, limits.diffmaglim, out)
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.hstack([sn_non_detections(c, limits) for c, limits in zip(objects.bands, objects.limits, strict=True)])


FAMILY = Family(name="sn_non_detections", columns=per_band(NAMES), compute=_compute)
