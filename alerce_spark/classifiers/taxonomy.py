"""The classes of both classifiers, as versioned lists (table `taxonomy`)."""

from __future__ import annotations

import re

#: Names of the classifiers in tables, topics and model files.
LIGHTCURVE = "lc_classifier"
STAMP = "stamp_classifier"
#: Name of the model of outliers in the registry and its file.
OUTLIER = "outlier"

#: Version of the class lists below; changes with any of them.
VERSION = "1.0.0"

#: Branches of the light-curve classifier and their classes (paper, section 3.2), in the order of published columns.
BRANCHES: dict[str, tuple[str, ...]] = {
    "Stochastic": ("AGN", "Blazar", "CV/Nova", "QSO", "YSO"),
    "Periodic": ("CEP", "DSCT", "E", "LPV", "Periodic-Other", "RRL"),
    "Transient": ("SLSN", "SNII", "SNIa", "SNIbc"),
}

#: The 15 classes of the light-curve classifier, branch by branch.
LIGHTCURVE_CLASSES: tuple[str, ...] = tuple(name for classes in BRANCHES.values() for name in classes)

#: The 5 classes of the stamp classifier.
STAMP_CLASSES: tuple[str, ...] = ("AGN", "SN", "VS", "asteroid", "bogus")

#: Digits to which numbers in versions are padded for comparison.
_DIGITS = 16


def version_order(version: str) -> str:
    """Sort key of versions in order of release: numbers by value, shipped models first."""
    shipped = version.startswith("bootstrap")
    return f"{not shipped:d} " + re.sub(r"\d+", lambda number: number[0].zfill(_DIGITS), version)


_ACTIVE_NUCLEI = ("AGN", "Blazar", "QSO")


def branch_of(name: str) -> str:
    """Branch of a light-curve class. Raises ValueError for an unknown name."""
    for branch, classes in BRANCHES.items():
        if name in classes:
            return branch
    raise ValueError(f"no light-curve class {name!r}; there are {', '.join(LIGHTCURVE_CLASSES)}")


def stamp_class_of(name: str) -> str:
    """Stamp class of an object of a light-curve class (paper, Fig. 5): AGN, SN or VS. Raises ValueError."""
    if branch_of(name) == "Transient":
        return "SN"
    return "AGN" if name in _ACTIVE_NUCLEI else "VS"
