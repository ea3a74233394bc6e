"""Class lists of the paper, and how those of the two classifiers meet."""

from __future__ import annotations

import pytest

from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE_CLASSES, STAMP_CLASSES, branch_of, stamp_class_of


def test_fifteen_classes_alphabetical_in_their_branches() -> None:
    assert list(BRANCHES) == ["Stochastic", "Periodic", "Transient"]
    assert len(set(LIGHTCURVE_CLASSES)) == 15
    for branch, classes in BRANCHES.items():
        assert list(classes) == sorted(classes)
        assert all(branch_of(name) == branch for name in classes)


def test_every_class_has_a_stamp_class_that_the_stamp_classifier_knows() -> None:
    assert {
        name: stamp_class_of(name) for name in ("AGN", "QSO", "Blazar", "YSO", "CV/Nova", "LPV", "SLSN", "SNIbc")
    } == {
        **dict.fromkeys(("AGN", "QSO", "Blazar"), "AGN"),
        **dict.fromkeys(("YSO", "CV/Nova", "LPV"), "VS"),
        **dict.fromkeys(("SLSN", "SNIbc"), "SN"),
    }
    assert {stamp_class_of(name) for name in LIGHTCURVE_CLASSES} < set(STAMP_CLASSES)


def test_a_name_that_is_no_class() -> None:
    with pytest.raises(ValueError, match="no light-curve class 'Nova'; there are AGN"):
        branch_of("Nova")
    with pytest.raises(ValueError, match="'asteroid'"):
        stamp_class_of("asteroid")
