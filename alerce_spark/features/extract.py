"""All 152 features of many objects: run the families one after the other over the same arrays."""

from __future__ import annotations

import numpy as np

from alerce_spark.features import (
    attributes,
    colours,
    coordinates,
    drw,
    folded,
    harmonics,
    iar,
    mhps,
    periodogram,
    power_rate,
    sn_detections,
    sn_non_detections,
    spm,
    statistics,
    structure_function,
    wise,
)
from alerce_spark.features.curves import Family, Float, Objects, Scratch
from alerce_spark.features.names import FEATURES

#: Every family, in order of their needs. A new family is a module with a `FAMILY` and a line here.
FAMILIES: tuple[Family, ...] = tuple(
    module.FAMILY
    for module in (
        periodogram,
        power_rate,
        folded,
        harmonics,
        mhps,
        statistics,
        iar,
        structure_function,
        drw,
        spm,
        sn_detections,
        sn_non_detections,
        colours,
        wise,
        coordinates,
        attributes,
    )
)


def columns_of(families: tuple[Family, ...]) -> dict[str, int]:
    """Position in FEATURES of each column that `families` return, in their order.

    Raises ValueError unless the families return each of the 152 exactly once, and each comes after those it needs.
    """
    columns = [column for family in families for column in family.columns]
    if sorted(columns) != sorted(FEATURES):
        wrong = sorted(set(columns) ^ set(FEATURES)) or sorted({name for name in columns if columns.count(name) > 1})
        raise ValueError(f"feature families must give each of the 152 features once; wrong: {', '.join(wrong)}")
    ran: set[str] = set()
    for family in families:
        if missing := set(family.needs) - ran:
            raise ValueError(f"feature family {family.name} needs {', '.join(sorted(missing))} to run before it")
        ran.add(family.name)
    place = {name: k for k, name in enumerate(FEATURES)}
    return {column: place[column] for column in columns}


_PLACES = np.array(list(columns_of(FAMILIES).values()))


def extract_with_scratch(objects: Objects) -> tuple[Float, Scratch]:
    """The matrix of `extract` and the values that families pass on: period, its power, false-alarm probability."""
    scratch = Scratch()
    matrix = np.full((len(objects), len(FEATURES)), np.nan)
    if len(objects):
        matrix[:, _PLACES] = np.hstack([family.compute(objects, scratch) for family in FAMILIES])
    matrix[~np.isfinite(matrix)] = np.nan
    matrix[np.diff(objects.both.offsets) == 0] = np.nan
    return matrix, scratch


def extract(objects: Objects) -> Float:
    """Features of n objects, float64 (n, 152) in the order of `names.FEATURES`; NaN where undefined.

    Objects with too few detections (docs/features.md) are rows of NaN. No row depends on the other objects.
    """
    return extract_with_scratch(objects)[0]
