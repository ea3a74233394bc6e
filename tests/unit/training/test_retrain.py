"""Retraining: promotion, registry and report, with quick stand-ins for simulated objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from test_sets import lake_table
from typer.testing import CliRunner

from alerce_spark.classifiers import lightcurve, outliers
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES, OUTLIER
from alerce_spark.config import Settings
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.lake import models
from alerce_spark.nightly import retrain as nightly
from alerce_spark.nightly import training_sets
from alerce_spark.nightly.retrain import Outcome, retrain
from alerce_spark.training import figures
from alerce_spark.training.light_curves import simulated_provenance
from alerce_spark.training.sets import FeatureSet


def _objects(seed: int, wanted: dict[str, int], noise: float, **provenance: str) -> FeatureSet:
    """Objects whose every feature is the number of their class, plus noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.array(list(wanted), object), list(wanted.values()))
    code = np.array([LIGHTCURVE_CLASSES.index(name) for name in labels])
    n = len(labels)
    matrix = rng.normal(code[:, None], noise, (n, len(FEATURES)))
    oid = np.array([f"sim{seed}-{i}" for i in range(n)], object)
    ndet = rng.integers(6, 70, n).astype(np.int32)
    return FeatureSet(oid, labels, matrix, ndet, np.full(n, 18.0), np.zeros(n), np.zeros(n), provenance)


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Noise of training objects, to be changed by a test; the objects that judge have little."""
    level = {"training": 2.0}

    def simulated(seed: int, counts: Mapping[str, int] | int, **_: Any) -> FeatureSet:
        wanted = dict.fromkeys(LIGHTCURVE_CLASSES, counts) if isinstance(counts, int) else dict(counts)
        of = 2.0 if seed == nightly.HELD_OUT_SEED else level["training"]
        return _objects(seed, wanted, of, **simulated_provenance(seed, counts))

    monkeypatch.setattr(nightly, "simulated_set", simulated)
    monkeypatch.setattr(models, "bootstrap", lambda classifier: None)
    monkeypatch.setattr(figures, "as_html", lambda figure, title: "")  # a second each; test_report.py draws them
    for name in ("confusion", "recall", "calibration", "importances", "sky", "agreement"):
        monkeypatch.setattr(figures, name, lambda *_: None)
    return level


@pytest.fixture
def run(settings_for: Callable[..., Settings], noise: dict[str, float], tmp_path: Path) -> Callable[..., Outcome]:
    def once(**changes: Any) -> Outcome:
        arguments: dict[str, Any] = {
            "date": "20260101", "out": tmp_path / "out", "seed": 3, "trees": 8,
            "per_class": 20, "held_out_per_class": 12, "workers": 1,
        }  # fmt: skip
        return retrain(settings_for(), **{**arguments, **changes})

    return once


def _lake(tmp_path: Path) -> str:
    return str(tmp_path / "lake")


def test_the_first_model_is_promoted_and_reported(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run()
    assert (outcome.version, outcome.exit_code, outcome.training_set) == ("20260101.1", 0, "lc_training@0")
    current = models.current(_lake(tmp_path), LIGHTCURVE)
    assert current is not None
    assert (current.version, current.training_set) == (outcome.version, outcome.training_set)
    assert current.metrics == dict(outcome.metrics)
    assert {"top_f1", "class_recall", "ece_all", "ece_6-10", "ece_51"} <= set(current.metrics)
    found = json.loads(outcome.report.with_suffix(".json").read_text())
    # The outlier model that goes with it is promoted with it.
    scorer = models.current(_lake(tmp_path), OUTLIER)
    assert scorer is not None
    assert (scorer.version, scorer.training_set) == (outcome.version, outcome.training_set)
    assert outliers.load(tmp_path / "out" / "outlier.gaussians").classifier == outcome.version
    assert found["levels"]["class"]["scores"]["recall"]["value"] == current.metrics["class_recall"]
    assert set(found["levels"]) == {"top", "class"}
    assert found["verdict"]["promote"]
    assert [row["training"] for row in found["sheets"]["Objects of each set"]] == [20] * 15
    assert set(found["importances"]) == {"top", "Stochastic", "Periodic", "Transient"}


def test_a_worse_candidate_is_kept_out_and_a_better_one_goes_in(
    run: Callable[..., Outcome], noise: dict[str, float], tmp_path: Path
) -> None:
    run()
    noise["training"] = 40.0
    kept = run(date="20260102")
    assert (kept.version, kept.promoted, kept.exit_code) == ("20260102.1", False, 3)
    assert kept.reasons[0].startswith("simulated: ")
    for classifier in (LIGHTCURVE, OUTLIER):
        states = models.listing(_lake(tmp_path), classifier).select(["version", "state"]).to_pylist()
        assert states == [
            {"version": "20260101.1", "state": "current"},
            {"version": "20260102.1", "state": "candidate"},
        ]
    noise["training"] = 2.0
    better = run(date="20260102", trees=30, per_class=40)
    assert (better.version, better.exit_code) == ("20260102.2", 0)


def test_a_model_is_made_again_to_the_bit_from_its_training_set(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run()
    run(date="20260102", seed=4)
    entry = next(e for e in models.listing(_lake(tmp_path), LIGHTCURVE).to_pylist() if e["version"] == outcome.version)
    training = training_sets.read(_lake(tmp_path), entry["training_set"])
    again = lightcurve.train(
        training.matrix, training.labels.tolist(), seed=3, version=outcome.version, trees=8, jobs=1
    )
    again.save(tmp_path / "again")
    assert hashlib.sha256((tmp_path / "again").read_bytes()).hexdigest() == entry["sha256"]


def test_the_objects_that_judge_are_made_once(run: Callable[..., Outcome], tmp_path: Path) -> None:
    run()
    run(date="20260102", seed=4)
    assert training_sets.newest(_lake(tmp_path), nightly.HELD_OUT_SET) == "lc_held_out@0"
    run(date="20260103", held_out_per_class=13)
    assert training_sets.newest(_lake(tmp_path), nightly.HELD_OUT_SET) == "lc_held_out@1"


def test_labels_train_judge_and_leave_the_rest_to_simulation(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = _objects(77, {"QSO": 200, "RRL": 30}, 2.0, source="lake", features_version="5")
    monkeypatch.setattr(training_sets, "from_lake", lambda lake, labels: real)
    outcome = run(labels=pa.table({"oid": real.oid.tolist(), "class_name": real.labels.tolist()}))
    training = training_sets.read(_lake(tmp_path), outcome.training_set)
    ours = np.array([oid.startswith("sim77-") for oid in training.oid])
    assert not nightly.sets.held_out(training.oid[ours], nightly.HELD_OUT_SHARE).any()
    assert set(training.labels[~ours]) == set(LIGHTCURVE_CLASSES) - {"QSO", "RRL"}
    assert training.provenance["features_version"] == "5"
    assert training.provenance["source"] == "labels and simulation"
    found = json.loads(outcome.report.with_suffix(".json").read_text())
    judged = {row["class"]: row["labelled"] for row in found["sheets"]["Objects of each set"]}
    assert ours.sum() + judged["QSO"] + judged["RRL"] == 230
    assert {row["class"] for row in found["sheets"]["Labelled objects by class"]} == {"QSO", "RRL"}


def test_the_unlabelled_sky_is_looked_at(run: Callable[..., Outcome], tmp_path: Path) -> None:
    """Objects that look like quasars lie in the Galactic plane, those that look like Miras at its pole."""
    place = {"QSO": (266.4, -29.0, "AGN"), "LPV": (192.9, 27.1, "VS")}
    features: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    stamps: list[dict[str, Any]] = []
    for name, (ra, dec, stamp) in place.items():
        values = dict.fromkeys(FEATURES, float(LIGHTCURVE_CLASSES.index(name)))
        for i in range(60):
            row = {"oid": f"{name}{i}", "candid": i, "mjd": 59000.0}
            features.append({**row, **values, "version": FEATURES_VERSION, "ndet_used": 20, "nown": 20})
            objects.append({"oid": row["oid"], "meanra": ra, "meandec": dec})
            stamps.append({**row, "classifier": "stamp_classifier", "version": "1", "class": stamp})
    later = [{**row, "candid": 99, "class": "SN"} for row in stamps]  # not the first alert: does not count
    rows = {"features": features, "objects": objects, "magstats": [], "probabilities": [*later, *stamps]}
    for table, content in rows.items():
        lake_table(tmp_path / "lake", table, content)
    outcome = run(trees=40, per_class=40)
    assert outcome.exit_code == 3
    assert outcome.reasons[0].startswith("simulated: unlabelled sky: 100.0% of QSO within 10° of the Galactic plane")
    found = json.loads(outcome.report.with_suffix(".json").read_text())
    assert found["sky"]["objects"]["QSO"] == found["sky"]["objects"]["LPV"] == 60
    assert found["agreement"]["AGN"]["QSO"] == found["agreement"]["VS"]["LPV"] == 60
    assert found["agreement"]["SN"] == dict.fromkeys(LIGHTCURVE_CLASSES, 0)


def test_what_cannot_be_done_is_refused(run: Callable[..., Outcome]) -> None:
    with pytest.raises(ValueError, match="no date written YYYYMMDD"):
        run(date="2026-01-01")
    with pytest.raises(ValueError, match="is that of the held-out objects"):
        run(seed=nightly.HELD_OUT_SEED)
    with pytest.raises(ValueError, match="no such class: Nova"):
        run(labels=pa.table({"oid": ["a"], "class_name": ["Nova"]}))


def test_the_command_ends_with_what_happened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from alerce_spark.cli import nightly as commands
    from alerce_spark.cli.common import app

    assert commands.retrain
    given: dict[str, Any] = {}

    def stand_in(settings: Settings, **arguments: Any) -> Outcome:
        given.update(arguments, lake=settings.lake.path)
        return Outcome("20260101.1", arguments["trees"] > 1, ("a reason",), "lc_training@0", tmp_path / "r.html", {})

    monkeypatch.setattr(nightly, "retrain", stand_in)
    labels = tmp_path / "labels.csv"
    labels.write_text("oid,class_name\nZTF1,QSO\n")
    options = ["retrain", "--lake", "somewhere", "--date", "20260101", "--labels", str(labels)]
    promoted = CliRunner().invoke(app, [*options, "--trees", "2"])
    assert (promoted.exit_code, given["date"], given["lake"]) == (0, "20260101", "somewhere")
    assert given["labels"].to_pylist() == [{"oid": "ZTF1", "class_name": "QSO"}]
    kept = CliRunner().invoke(app, [*options, "--trees", "1", "--seed", "5"])
    assert (kept.exit_code, given["seed"]) == (3, 5)
    assert "a reason" in kept.output
