"""How well outliers and novelties are found: the two bars, short, and in full as soak."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from alerce_spark.classifiers import lightcurve, outliers
from alerce_spark.classifiers.stamp import StampModel
from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE, LIGHTCURVE_CLASSES, OUTLIER, STAMP
from alerce_spark.lake.models import bootstrap
from alerce_spark.simulation.curves import light_curves
from alerce_spark.simulation.first_alerts import first_alerts
from alerce_spark.training import outliers as studies
from alerce_spark.training.light_curves import simulated_set


def test_area_is_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    high, low = rng.normal(0.7, 1, 300).round(1), rng.normal(0, 1, 200).round(1)
    truth = np.repeat([1, 0], [300, 200])
    assert studies.area(high, low) == pytest.approx(roc_auc_score(truth, np.concatenate([high, low])))


def test_flares_on_quiet_sources_are_found_without_false_alarms() -> None:
    alarms, found = studies.quiet_rates(31, 400)
    assert alarms <= 0.01
    assert found[5] >= 0.9
    assert found[3] < found[5] < found[10]


def test_a_class_that_is_left_out_is_found() -> None:
    """One class, little training; the mean over all fifteen is the soak's."""
    features = simulated_set(studies.STUDY_SEED, 30, workers=1)
    stars = dict.fromkeys(BRANCHES["Periodic"], 20)
    judged = {"whole": simulated_set(studies.JUDGED_SEED, stars, workers=1, degraded=studies.JUDGED["whole"])}
    found = studies.leave_out("LPV", features, judged, seed=studies.STUDY_SEED, trees=20)["whole"]
    assert found.known_branch > 0.8


def test_an_event_changes_what_it_says_and_nothing_before() -> None:
    curves = light_curves(5, {"RRL": 6})
    for event, sign in (("flare", -1.0), ("fading", 1.0), ("lens", -1.0)):
        changed = studies.inject(curves, event, 1)
        difference = changed.detections["magpsf_corr"] - curves.detections["magpsf_corr"]
        known = np.isfinite(difference)
        assert (sign * difference[known] >= -1e-9).all()
        assert (np.abs(difference[known]) > 0.01).any()
    with pytest.raises(ValueError, match="no event"):
        studies.inject(curves, "sneeze", 1)


def test_odd_stamps_are_found() -> None:
    shipped = bootstrap(STAMP)
    assert shipped is not None
    model = StampModel.load(shipped)
    alerts = first_alerts(99, 30)
    _, usual, _ = model.judge(alerts.images, alerts.columns)
    assert abs(usual.mean() - 0.5) < 0.1
    for kind, least in (("trail", 0.85), ("noise", 0.8), ("swapped", 0.7)):
        _, odd, _ = model.judge(studies.odd_stamps(alerts.images, kind, 1), alerts.columns)
        assert studies.area(odd, usual) > least
    with pytest.raises(ValueError, match="no odd stamps"):
        studies.odd_stamps(alerts.images, "cat", 1)


@pytest.mark.soak
def test_the_bars_in_full(tmp_path: Path) -> None:
    """Fifteen classes left out in turn, as in docs/reports/outliers.html, and its page; some six minutes."""
    shipped, forest, stamps = bootstrap(OUTLIER), bootstrap(LIGHTCURVE), bootstrap(STAMP)
    assert stamps is not None
    assert shipped is not None
    assert forest is not None
    loaded = outliers.load(shipped), lightcurve.load(forest), StampModel.load(stamps)
    out = studies.study(tmp_path / "outliers.html", *loaded)
    sheets = json.loads(out.with_suffix(".json").read_text())["sheets"]
    left_out = {row["class"]: row for row in sheets["Each class left out in turn"]}
    assert set(left_out) == {*LIGHTCURVE_CLASSES, "mean"}
    assert left_out["mean"]["whole, branch known"] >= 0.80
    quiet = {row[""]: row["share"] for row in sheets["Novelty on quiet sources"]}
    assert quiet["false alarms of a point"] <= 0.01
    assert quiet["flares of 5 sigma"] >= 0.9
