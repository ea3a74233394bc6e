"""Supernova detection features of one band: range of magnitudes and share of positive detections."""

from __future__ import annotations

import numpy as np
from numba import njit

from alerce_spark.features.curves import Curves, Family, Float, Int, Objects, Scratch, per_band

NAMES = ("delta_mag_fid", "positive_fraction")


@njit(cache=True, error_model="numpy")
def _all(offsets: Int, mag: Float, sign: Float, out: Float) -> None:
    """Fill one row of `out` per curve; NaN for empty curves."""
    for c in range(offsets.size - 1):
        a = offsets[c]
        b = offsets[c + 1]
        out[c, :] = np.nan
        if a == b:
            continue
        brightest = mag[a]
        faintest = mag[a]
        positive = 0
        negative = 0
        for i in range(a, b):
            brightest = min(brightest, mag[i])
            faintest = max(faintest, mag[i])
            if sign[i] > 0.0:
                positive += 1
            elif sign[i] < 0.0:
                negative += 1
        out[c, 0] = faintest - brightest
        if positive + negative > 0:
            out[c, 1] = positive / (positive + negative)


def sn_detections(curves: Curves) -> Float:
    """Detection features of n curves as (n, 2): delta_mag_fid = max - min of `mag`, positive_fraction.

    Definitions: docs/features.md. One detection is enough; a band without any gives NaN. Detections of unknown sign do
    not count in the fraction.
    """
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mag, curves.sign, out)
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.hstack([sn_detections(curves) for curves in objects.bands])


FAMILY = Family(name="sn_detections", columns=per_band(NAMES), compute=_compute)
