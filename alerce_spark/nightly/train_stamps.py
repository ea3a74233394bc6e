"""Training of the stamp classifier: simulated first alerts, gate, registry, report. On a CPU it takes minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alerce_spark.classifiers.stamp import StampModel
from alerce_spark.classifiers.taxonomy import STAMP, STAMP_CLASSES
from alerce_spark.config import Settings
from alerce_spark.errors import InputError
from alerce_spark.lake import models
from alerce_spark.lake.serving import stamp_models
from alerce_spark.nightly.nights import begin_of
from alerce_spark.nightly.retrain import HELD_OUT_SEED, Outcome, next_version
from alerce_spark.simulation.first_alerts import StampSet, first_alerts
from alerce_spark.training import metrics, stamp_evaluation, stamps
from alerce_spark.training.metrics import Standing

#: Simulated first alerts of each class on which every model is evaluated.
HELD_OUT_PER_CLASS = 200


def train_stamps(
    settings: Settings,
    *,
    date: str,
    out: Path,
    seed: int,
    per_class: int = stamps.PER_CLASS,
    held_out_per_class: int = HELD_OUT_PER_CLASS,
    minutes: float | None = None,
    real_data: Path | None = None,
) -> Outcome:
    """Train a candidate on `per_class` simulated first alerts of each class; promote it if it is not worse.

    Candidate and current model are evaluated on the same simulated alerts (of HELD_OUT_SEED). `minutes` limits the
    training. `date` (YYYYMMDD) names the version, `out` is the folder of report and model file; `real_data` adds real
    alerts to the report, for information only. Raises LakeError, ModelError, and InputError for a bad date or number
    and for the seed of the held-out alerts.
    """
    begin_of(date)
    if per_class < 1 or seed < 0:
        raise InputError(f"per_class = {per_class} must be 1 or more, seed = {seed} 0 or more")
    if minutes is not None and not minutes > 0:
        raise InputError(f"minutes = {minutes} must be above 0")
    if seed == HELD_OUT_SEED:
        raise InputError(f"seed {seed} is that of the held-out alerts")
    lake = settings.lake.path
    version = next_version(lake, STAMP, date)
    options = stamps.Options() if minutes is None else stamps.Options(minutes=minutes)
    trained = stamps.train_simulated(seed, per_class=per_class, version=version, options=options)
    file = trained.save(out / "stamp_classifier.onnx")
    held_out = first_alerts(HELD_OUT_SEED, held_out_per_class)
    truth = metrics.indices(held_out.label.tolist(), STAMP_CLASSES)
    candidate = _standing(StampModel.load(file), held_out)
    current, _ = stamp_models(lake).get()
    verdict = metrics.gate(candidate, _standing(current, held_out), truth, seed=seed)
    page = stamp_evaluation.report(
        StampModel.load(file),
        held_out.images,
        held_out.columns,
        truth,
        real_data,
        out / f"stamp_classifier_{version}.html",
        about={"trained on": f"{per_class} simulated first alerts of each class, seed {seed}"},
    )
    level = metrics.evaluate("class", STAMP_CLASSES, truth, candidate.probabilities.argmax(axis=1), seed=seed)
    figures = {key: score.value for key, score in level.scores.items() if np.isfinite(score.value)}
    state = models.CURRENT if verdict.promote else models.CANDIDATE
    named = f"simulation seed {seed}, {per_class} a class"
    models.register(lake, STAMP, version, file, training_set=named, metrics=figures, state=state)
    return Outcome(version, verdict.promote, verdict.reasons, named, page, figures)


def _standing(model: StampModel, alerts: StampSet) -> Standing:
    probabilities, _ = model.classify(alerts.images, alerts.columns)
    return Standing(model.classes, np.nan_to_num(probabilities, nan=1.0 / len(model.classes)))
