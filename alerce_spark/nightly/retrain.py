"""Nightly retraining of light-curve classifier and outlier model: set, training, evaluation, gate, registry, report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from alerce_spark.classifiers import lightcurve
from alerce_spark.classifiers.lightcurve import LightcurveModel
from alerce_spark.classifiers.outliers import OutlierModel
from alerce_spark.classifiers.taxonomy import (
    BRANCHES,
    LIGHTCURVE,
    LIGHTCURVE_CLASSES,
    OUTLIER,
    STAMP_CLASSES,
    branch_of,
)
from alerce_spark.config import Settings
from alerce_spark.errors import InputError, LakeError
from alerce_spark.lake import models
from alerce_spark.lake.handles import is_made
from alerce_spark.nightly import training_sets
from alerce_spark.nightly.nights import begin_of
from alerce_spark.training import metrics, outliers, report, sets
from alerce_spark.training.figures import Agreement
from alerce_spark.training.light_curves import Progress, simulated_provenance, simulated_set
from alerce_spark.training.metrics import Level, Sky, Standing, Verdict
from alerce_spark.training.real import evaluate_real
from alerce_spark.training.report import Report, Sheet
from alerce_spark.training.sets import FeatureSet

#: Tables of training sets in the lake.
TRAINING_SET, HELD_OUT_SET = "lc_training", "lc_held_out"
#: Seed of the simulated objects on which every model is evaluated, and their number per class.
HELD_OUT_SEED, HELD_OUT_PER_CLASS = 987_654_321, 200
#: Share of the labelled objects that is held out for the evaluation.
HELD_OUT_SHARE = 0.2
#: Fewest real held-out objects that the gate considers; fewer are only reported.
ENOUGH_REAL = 100
#: Number of unlabelled objects of the lake whose predicted classes are compared.
SKY_OBJECTS = 20_000

PROMOTED, KEPT = 0, 3

_BRANCH = np.array([list(BRANCHES).index(branch_of(name)) for name in LIGHTCURVE_CLASSES])


@dataclass(frozen=True)
class Outcome:
    """Result for a candidate: its version, whether it was promoted and why, its file, the report and figures."""

    version: str
    promoted: bool
    reasons: tuple[str, ...]
    training_set: str
    report: Path
    metrics: Mapping[str, float]

    @property
    def exit_code(self) -> int:
        """PROMOTED, or KEPT where the current model stays; errors are exceptions."""
        return PROMOTED if self.promoted else KEPT


def retrain(
    settings: Settings,
    *,
    date: str,
    out: Path,
    seed: int,
    labels: pa.Table | None = None,
    real_data: Path | None = None,
    per_class: int = 1000,
    held_out_per_class: int = HELD_OUT_PER_CLASS,
    trees: int = 500,
    workers: int = 2,
    progress: Progress | None = None,
) -> Outcome:
    """Train a candidate for the lake of `settings`, and promote it if the gate lets it through.

    `labels` (oid, class_name) use the newest features of the lake; a fifth of them, always the same ones, is held out
    for the evaluation. Simulation fills classes with fewer than `per_class` objects, and all classes without labels.
    Candidate and current model are evaluated on the same simulated objects (of HELD_OUT_SEED) and on the held-out
    labels; the candidate must pass on both, and on the classes of unlabelled objects of the lake. An outlier model of
    the same training set, calibrated on the candidate's answers for the held-out objects, is registered under the same
    version: both are promoted together, now or later (`lake.models.promote`); the gate tests the classifier alone. The
    training set is stored in the lake, so the model can be reproduced to the bit from it and `seed`. `date` (YYYYMMDD)
    names the version; `out` is the folder of the report. `real_data` adds the figures of `evaluate_real`, for
    information only. Raises LakeError (no labelled object has features), ModelError, and InputError for a bad date, an
    unknown class, or the seed of the held-out objects.
    """
    begin_of(date)
    for name, value in (("per_class", per_class), ("trees", trees), ("workers", workers)):
        if value < 1:
            raise InputError(f"{name} = {value}: at least 1 is needed")
    if seed < 0:
        raise InputError(f"seed = {seed}: seeds are 0 or more")
    if seed == HELD_OUT_SEED:
        raise InputError(f"seed {seed} is that of the held-out objects")
    lake = settings.lake.path
    version = next_version(lake, LIGHTCURVE, date)
    real = _labelled(lake, labels) if labels is not None else None
    named = training_sets.write(lake, TRAINING_SET, _training_set(real, seed, per_class, workers, progress))
    training = training_sets.read(lake, named)
    model = lightcurve.train(
        training.matrix, training.labels.tolist(), seed=seed, version=version, trees=trees, jobs=workers
    )
    held_out = {"simulated": _held_out(lake, held_out_per_class, workers)}
    if real is not None and (kept := real.take(sets.held_out(real.oid, HELD_OUT_SHARE))):
        held_out["labelled"] = kept
    free = _unlabelled(lake, labels, seed)
    sky = _sky(model, free) if free is not None else None
    verdict = _judge(model, _current(lake), held_out, sky, seed)
    made = _report(model, named, training, held_out, sky, verdict, _agreement(lake, model, free), real_data)
    figures = _figures(made)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "lc_classifier.forest"
    model.save(file)
    scorer, reasons = _outliers(training, held_out, model)
    if real is not None and labels is not None:
        reasons = (f"labels: {len(real)} of {len(labels)} labelled objects are in the lake with features", *reasons)
    if scorer is not None:
        scorer.save(out / "outlier.gaussians")
        models.register(lake, OUTLIER, version, out / "outlier.gaussians", training_set=named)
    state = models.CURRENT if verdict.promote else models.CANDIDATE
    models.register(lake, LIGHTCURVE, version, file, training_set=named, metrics=figures, state=state)
    page = report.write(made, out / f"lc_classifier_{version}.html")
    return Outcome(version, verdict.promote, (*verdict.reasons, *reasons), named, page, figures)


def _outliers(
    training: FeatureSet, held_out: Mapping[str, FeatureSet], model: LightcurveModel
) -> tuple[OutlierModel | None, tuple[str, ...]]:
    """The outlier model of a candidate, or the reason why it has none: a bad candidate may know no ordinary object."""
    ordinary = sets.concatenate(list(held_out.values()))
    try:
        return outliers.train(training, ordinary, model, version=model.version), ()
    except ValueError as error:
        return None, (f"no outlier model: {error}",)


def next_version(lake: str, classifier: str, date: str) -> str:
    """YYYYMMDD.N with the first N that the registry does not have."""
    known: list[str] = []
    if is_made(lake, "models"):
        known = models.listing(lake, classifier)["version"].to_pylist()
    used = [int(v.removeprefix(f"{date}.")) for v in known if re.fullmatch(rf"{date}\.\d+", v)]
    return f"{date}.{max(used, default=0) + 1}"


def _labelled(lake: str, labels: pa.Table) -> FeatureSet:
    metrics.indices(labels["class_name"].to_pylist(), LIGHTCURVE_CLASSES)
    return training_sets.from_lake(lake, labels)


def _training_set(
    real: FeatureSet | None, seed: int, per_class: int, workers: int, progress: Progress | None
) -> FeatureSet:
    """The labelled objects that are not held out, and simulated ones for classes with fewer than `per_class`."""
    usable = [] if real is None else [real.take(~sets.held_out(real.oid, HELD_OUT_SHARE))]
    have = usable[0].counts() if usable else {}
    missing = {name: max(0, per_class - have.get(name, 0)) for name in LIGHTCURVE_CLASSES}
    if any(missing.values()):
        usable.append(simulated_set(seed, missing, workers=workers, progress=progress))
    source = "labels and simulation" if len(usable) > 1 else usable[0].provenance["source"]
    return sets.concatenate(usable, source=source)


def _held_out(lake: str, per_class: int, workers: int) -> FeatureSet:
    """The simulated held-out objects; made once for each version of the code and kept in the lake."""
    try:
        kept = training_sets.read(lake, training_sets.newest(lake, HELD_OUT_SET))
        if kept.provenance == simulated_provenance(HELD_OUT_SEED, per_class):
            return kept
    except LakeError:
        pass
    made = simulated_set(HELD_OUT_SEED, per_class, workers=workers)
    return training_sets.read(lake, training_sets.write(lake, HELD_OUT_SET, made))


def _unlabelled(lake: str, labels: pa.Table | None, seed: int) -> FeatureSet | None:
    if not all(is_made(lake, name) for name in ("features", "objects", "magstats")):
        return None
    known = labels["oid"].to_pylist() if labels is not None else []
    found = training_sets.unlabelled(lake, known, SKY_OBJECTS, seed)
    return found if len(found) else None


def _current(lake: str) -> LightcurveModel | None:
    """The model in use: the promoted one, else the one that ships with the package. Raises ModelError, LakeError."""
    fallback = models.bootstrap(LIGHTCURVE)
    promoted = is_made(lake, "models") and models.current(lake, LIGHTCURVE) is not None
    if not promoted and fallback is None:
        return None
    served = models.Served(lake, LIGHTCURVE, lightcurve.load, fallback)
    model, _ = served.get()
    if served.alarm is not None:
        raise LakeError(f"the current model cannot be judged: {served.alarm}")
    return model


def _sky(model: LightcurveModel, free: FeatureSet) -> Sky:
    return metrics.predicted_sky(model.classify(free.matrix).class_codes, free.ra, free.dec, LIGHTCURVE_CLASSES)


def _agreement(lake: str, model: LightcurveModel, free: FeatureSet | None) -> Agreement | None:
    """Compare stored stamp classes with the candidate's classes, for the unlabelled objects."""
    stamps = training_sets.stamp_classes(lake, free.oid.tolist()) if free is not None else {}
    if free is None or not stamps:
        return None
    both = free.take(np.array([oid in stamps for oid in free.oid]))
    rows = metrics.indices([stamps[oid] for oid in both.oid], STAMP_CLASSES)
    counts = metrics.crosstab(
        rows, model.classify(both.matrix).class_codes, len(STAMP_CLASSES), len(LIGHTCURVE_CLASSES)
    )
    return Agreement("stamp class", STAMP_CLASSES, "light-curve class", LIGHTCURVE_CLASSES, counts)


def _judge(
    candidate: LightcurveModel,
    current: LightcurveModel | None,
    held_out: Mapping[str, FeatureSet],
    sky: Sky | None,
    seed: int,
) -> Verdict:
    """The gate on each held-out set that is large enough; the candidate must pass all of them."""
    verdicts = {}
    for name, features in held_out.items():
        if name == "labelled" and len(features) < ENOUGH_REAL:
            continue
        new, old = (
            Standing(LIGHTCURVE_CLASSES, m.classify(features.matrix).probabilities, s) if m is not None else None
            for m, s in ((candidate, sky if name == "simulated" else None), (current, None))
        )
        assert new is not None
        truth = metrics.indices(features.labels, LIGHTCURVE_CLASSES)
        verdicts[name] = metrics.gate(new, old, truth, features.ndet, seed=seed)
    ordered = sorted(verdicts.items(), key=lambda item: item[1].promote)
    reasons = [f"{name}: {reason}" for name, verdict in ordered for reason in verdict.reasons]
    return Verdict(all(v.promote for v in verdicts.values()), tuple(reasons))


def levels_of(model: LightcurveModel, features: FeatureSet, seed: int = 0) -> tuple[Level, Level]:
    """Scores of a labelled set at the level of branches (`top`) and of the 15 classes (`class`)."""
    found = model.classify(features.matrix)
    truth = metrics.indices(features.labels, LIGHTCURVE_CLASSES)
    return (
        metrics.evaluate("top", tuple(BRANCHES), _BRANCH[truth], found.top.argmax(axis=1), seed=seed),
        metrics.evaluate("class", LIGHTCURVE_CLASSES, truth, found.class_codes, seed=seed),
    )


def _report(
    model: LightcurveModel,
    named: str,
    training: FeatureSet,
    held_out: Mapping[str, FeatureSet],
    sky: Sky | None,
    verdict: Verdict,
    agreement: Agreement | None,
    real_data: Path | None,
) -> Report:
    judged = held_out["simulated"]
    found = model.classify(judged.matrix)
    truth = metrics.indices(judged.labels, LIGHTCURVE_CLASSES)
    sheets: list[Sheet] = [_counts_sheet(training, held_out)]
    if "labelled" in held_out:
        sheets += _labelled_sheets(levels_of(model, held_out["labelled"]))
    if real_data is not None:
        sheets += evaluate_real(model, real_data).sheets()
    return Report(
        f"Light-curve classifier {model.version}",
        {
            "training set": named,
            **{f"training: {key}": value for key, value in sorted(training.provenance.items())},
            "trees, seed": f"{model.training['trees']}, {model.training['seed']}",
            "judged by": f"{len(judged)} simulated objects of seed {HELD_OUT_SEED}, which no model is trained on",
        },
        levels_of(model, judged),
        (
            metrics.recall_against_magnitude(judged.magnitude, truth, found.class_codes, len(LIGHTCURVE_CLASSES)),
            metrics.recall_against_detections(judged.ndet, truth, found.class_codes, len(LIGHTCURVE_CLASSES)),
        ),
        metrics.calibration_by_detections(truth, found.probabilities, judged.ndet),
        sky,
        agreement,
        {
            level: list(zip(model.features, weights.tolist(), strict=True))
            for level, weights in model.importances.items()
        },
        verdict,
        tuple(sheets),
        report.PUBLISHED_LIGHT_CURVE,
    )


def _counts_sheet(training: FeatureSet, held_out: Mapping[str, FeatureSet]) -> Sheet:
    counts = {"training": training.counts(), **{name: s.counts() for name, s in held_out.items()}}
    rows = tuple((name, *(c.get(name, 0) for c in counts.values())) for name in LIGHTCURVE_CLASSES)
    return Sheet("Objects of each set", ("class", *counts), rows)


def _labelled_sheets(levels: tuple[Level, Level]) -> list[Sheet]:
    top, leaf = levels
    note = "Labelled objects kept back: chosen by the checksum of their names, never trained on."
    scores = tuple((key, top.scores[key], leaf.scores[key]) for key in metrics.SCORES)
    by_class = tuple(
        (name, int(n), recall)
        for name, n, recall in zip(leaf.classes, leaf.counts.sum(axis=1), leaf.recall, strict=True)
        if n
    )
    return [
        Sheet("Labelled objects", ("score", "branches", "classes"), scores, note),
        Sheet("Labelled objects by class", ("class", "objects", "recall"), by_class),
    ]


def _figures(made: Report) -> dict[str, float]:
    """Metrics for the registry: aggregate scores of both levels, and calibration."""
    scores = {f"{level.name}_{key}": s.value for level in made.levels for key, s in level.scores.items()}
    errors = {f"ece_{label.replace('–', '-').removeprefix('≥ ')}": part.ece for label, part in made.calibration.items()}
    return {key: value for key, value in (scores | errors).items() if np.isfinite(value)}
