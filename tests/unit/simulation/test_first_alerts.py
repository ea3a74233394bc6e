"""The training set of the stamp classifier: classes in their numbers, first alerts, images that agree with columns."""

from __future__ import annotations

import numpy as np
import pytest

from alerce_spark.classifiers.taxonomy import STAMP_CLASSES
from alerce_spark.simulation.first_alerts import StampSet, first_alerts, stamp_class


@pytest.fixture(scope="module")
def alerts() -> StampSet:
    return first_alerts(3, 60)


def test_every_class_has_its_number(alerts: StampSet) -> None:
    assert {name: int((alerts.label == name).sum()) for name in STAMP_CLASSES} == dict.fromkeys(STAMP_CLASSES, 60)
    assert alerts.images.shape == (300, 3, 63, 63)
    assert all(len(values) == 300 for values in alerts.columns.values())
    assert [stamp_class(kind) for kind in alerts.kind] == alerts.label.tolist()
    assert np.unique(alerts.columns["candid"]).size == 300


def test_columns_are_plain_and_complete(alerts: StampSet) -> None:
    c = alerts.columns
    assert set(np.unique(c["isdiffpos"])) <= {"t", "f"}
    for name in ("magpsf", "sigmapsf", "ra", "dec", "diffmaglim", "fwhm", "ndethist", "ncovhist", "chinr", "sharpnr"):
        assert np.isfinite(c[name]).all(), name
    assert (c["ndethist"] >= 1).all()
    assert (c["ncovhist"] >= c["ndethist"]).all()
    assert (c["jdstarthist"] <= c["jd"]).all()
    once = np.isin(alerts.label, ("asteroid", "bogus"))
    assert (c["ndethist"][once] == 1).all()
    assert (c["jdstarthist"][once] == c["jd"][once]).all()
    assert c["ndethist"][alerts.label == "VS"].max() > 1
    known = c["ssnamenr"] != "null"
    np.testing.assert_array_equal(known, alerts.label == "asteroid")


def test_images_agree_with_columns(alerts: StampSet) -> None:
    c, real = alerts.columns, alerts.label != "bogus"
    y, x = np.mgrid[0:63, 0:63]
    inside = np.hypot(x - 31, y - 31) < 5
    flux = np.where(inside, np.nan_to_num(alerts.images[:, 2]), 0.0).sum(axis=(1, 2))
    told = 10 ** (0.4 * (c["magzpsci"] - c["magpsf"]))
    assert np.median((flux / told)[real]) == pytest.approx(0.95, abs=0.08)
    movers = alerts.images[alerts.label == "asteroid"]
    nothing = np.median(movers[:, 1, 30:33, 30:33], axis=(1, 2)) - np.nanmedian(movers[:, 1], axis=(1, 2))
    assert np.nanmedian(nothing) < 3


def test_seed_and_count_determine_the_set(alerts: StampSet) -> None:
    again = first_alerts(3, {"SN": 8, "bogus": 3})
    assert len(again) == 11
    known = {candid: i for i, candid in enumerate(alerts.columns["candid"].tolist())}
    for i, candid in enumerate(again.columns["candid"].tolist()):
        np.testing.assert_array_equal(again.images[i], alerts.images[known[candid]])
        assert again.kind[i] == alerts.kind[known[candid]]
    other = first_alerts(4, {"SN": 8})
    assert not set(other.columns["candid"].tolist()) & set(known)


def test_bad_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="SNe"):
        first_alerts(1, {"SNe": 3})
    with pytest.raises(ValueError, match="counts"):
        first_alerts(1, -1)
    assert len(first_alerts(1, 0)) == 0
