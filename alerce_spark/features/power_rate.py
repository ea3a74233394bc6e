"""Power at multiples and fractions of the best period, as a share of the highest power (docs/features.md, "Period")."""

from __future__ import annotations

from alerce_spark.features.curves import Family, Float, Objects, Scratch

COLUMNS = ("Power_rate_1/4", "Power_rate_1/3", "Power_rate_1/2", "Power_rate_2", "Power_rate_3", "Power_rate_4")


def _compute(objects: Objects, scratch: Scratch) -> Float:
    """The period search evaluates these powers, since it holds the object's points (periodogram.RATE_FACTORS)."""
    return scratch.extra["rates"]


FAMILY = Family("power_rate", COLUMNS, _compute, needs=("periodogram",))
