"""Features from attributes of the alerts: medians of the real-bogus score and of the star/galaxy score."""

from __future__ import annotations

import numpy as np

from alerce_spark.features.curves import Family, Float, Objects, Scratch


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.column_stack((objects.rb, objects.sgscore1))


FAMILY = Family("attributes", ("rb", "sgscore1"), _compute)
