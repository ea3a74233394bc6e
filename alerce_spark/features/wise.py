"""Colours with the mid-infrared magnitudes of AllWISE (Cutri et al. 2013) of the counterpart within 1″."""

from __future__ import annotations

import numpy as np

from alerce_spark.features.colours import brightest_and_mean
from alerce_spark.features.curves import Family, Float, Objects, Scratch

COLUMNS = ("W1-W2", "W2-W3", "g-W2", "g-W3", "r-W2", "r-W3")


def _compute(objects: Objects, scratch: Scratch) -> Float:
    """Optical magnitudes are the means of magpsf_ml; NaN where the object has no counterpart or lacks the band."""
    g, r = (brightest_and_mean(curves.offsets, curves.mag)[:, 1] for curves in objects.bands)
    w1, w2, w3 = objects.w1, objects.w2, objects.w3
    return np.column_stack((w1 - w2, w2 - w3, g - w2, g - w3, r - w2, r - w3))


FAMILY = Family("wise", COLUMNS, _compute)
