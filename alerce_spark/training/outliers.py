"""Evaluation of outlier scores: leave out each class in turn, inject events into simulated light curves, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from alerce_spark.classifiers import lightcurve, outliers
from alerce_spark.classifiers.lightcurve import LightcurveModel
from alerce_spark.classifiers.outliers import OutlierModel
from alerce_spark.classifiers.stamp import Floats, StampModel
from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE_CLASSES, branch_of
from alerce_spark.lightcurves import novelty
from alerce_spark.simulation.curves import LabelledCurves, light_curves
from alerce_spark.simulation.first_alerts import first_alerts
from alerce_spark.training.light_curves import from_curves, simulated_set
from alerce_spark.training.report import Report, Sheet, write
from alerce_spark.training.sets import FeatureSet, held_out

Float = NDArray[np.float64]

#: Share of the objects that a study trains its forests and Gaussians on; the others calibrate the scores.
_TRAINING = 0.75
#: Events of `inject` in stars and nuclei; supernovae are reversed in time.
EVENTS = ("flare", "fading", "lens", "reversed")
#: Kinds of images that `odd_stamps` makes.
ODD_STAMPS = ("trail", "noise", "other template", "swapped", "dipole")
#: `degraded` of the simulated objects that a study judges by: full data, or degraded like the training set.
JUDGED: dict[str, dict[str, float]] = {"whole": {"early": 0.0, "one_band": 0.0, "without_wise": 0.0}, "cut": {}}
#: Seeds of the objects that a study trains on, and of those that it judges by.
STUDY_SEED, JUDGED_SEED = 424_242, 868_686


def area(outlier: ArrayLike, ordinary: ArrayLike) -> float:
    """Probability that an outlier has the larger score, with ties as half: the area under the ROC curve."""
    high, low = np.asarray(outlier, np.float64), np.asarray(ordinary, np.float64)
    ranks = rankdata(np.concatenate([high, low]))[: high.size].sum()
    return float((ranks - high.size * (high.size + 1) / 2) / (high.size * low.size))


def train(training: FeatureSet, ordinary: FeatureSet, model: LightcurveModel, *, version: str) -> OutlierModel:
    """The outlier model of a training set for a classifier; `ordinary` objects were not used for training."""
    about = {outliers.CLASSIFIER_KEY: model.version, "objects": len(training), "calibrated_on": len(ordinary)}
    found = model.classify(ordinary.matrix)
    labels = training.labels.tolist()
    return outliers.fit(training.matrix, labels, ordinary.matrix, found, version=version, training=about)


@dataclass(frozen=True)
class LeftOut:
    """Areas under the ROC curve of a class unknown to forests and Gaussians, against others of its branch.

    `known_branch` scores all objects within the branch of the left-out class, `served` scores them as the broker does.
    """

    name: str
    known_branch: float
    served: float


def leave_out(
    name: str, features: FeatureSet, judged: Mapping[str, FeatureSet], *, seed: int, trees: int = 100, jobs: int = 1
) -> dict[str, LeftOut]:
    """Train without class `name` and score each set of objects that were not used for training."""
    known = features.take(features.labels != name)
    kept = held_out(known.oid, 1.0 - _TRAINING)
    training, ordinary = known.take(~kept), known.take(kept)
    model = lightcurve.train(
        training.matrix, training.labels.tolist(), seed=seed, version="study", trees=trees, jobs=jobs
    )
    model_without = train(training, ordinary, model, version="study")
    branch = branch_of(name)
    result = {}
    for key, every in judged.items():
        objects = every.take(np.isin(every.labels.astype(str), BRANCHES[branch]))
        found = model.classify(objects.matrix)
        is_new = objects.labels == name
        rows = np.arange(len(objects))
        within = model_without.evidence(objects.matrix, found, list(BRANCHES).index(branch), rows)
        scores = model_without.score(objects.matrix, found)
        areas = (area(values[is_new], values[~is_new]) for values in (within, scores))
        result[key] = LeftOut(name, *areas)
    return result


def events(model: OutlierModel, forest: LightcurveModel, seed: int, per_class: int) -> dict[str, float]:
    """Areas under the ROC curve of simulated objects with each event of EVENTS against the same objects without."""
    found = {}
    for event in EVENTS:
        names = [n for n in LIGHTCURVE_CLASSES if (branch_of(n) == "Transient") == (event == "reversed")]
        curves = light_curves(seed, dict.fromkeys(names, per_class))
        scores = []
        for kind in (inject(curves, event, seed), curves):
            matrix = from_curves(kind).matrix
            scores.append(model.score(matrix, forest.classify(matrix)))
        found[event] = area(*scores)
    return found


def inject(curves: LabelledCurves, event: str, seed: int) -> LabelledCurves:
    """The same objects with an event that no class has, at a different time for each.

    flare: 2 mag brighter at once, falling off with 15 d; fading: 1.5 mag fainter from then on; lens: a point lens of
    impact parameter 0.2 and Einstein time 30 d; reversed: time runs backwards. The first three change the total flux
    of corrected detections, and the difference flux by as much. Raises ValueError for another event.
    """
    if event not in EVENTS:
        raise ValueError(f"no event {event!r}; there are {', '.join(EVENTS)}")
    if event == "reversed":
        return _reversed(curves)
    rng = np.random.default_rng(seed)
    d = curves.detections
    group = np.repeat(np.arange(len(curves)), np.diff(curves.offsets))
    first, last = d["mjd"][curves.offsets[:-1]], d["mjd"][curves.offsets[1:] - 1]
    since = d["mjd"] - (first + rng.uniform(0.3, 0.7, len(curves)) * (last - first))[group]
    if event == "flare":
        factor = np.where(since >= 0, 1.0 + (10**0.8 - 1.0) * np.exp(-np.maximum(since, 0.0) / 15.0), 1.0)
    elif event == "fading":
        factor = np.where(since >= 0, 10**-0.6, 1.0)
    else:
        u2 = 0.2**2 + (since / 30.0) ** 2
        factor = (u2 + 2.0) / np.sqrt(u2 * (u2 + 4.0))
    is_total = d["corrected"] & np.isfinite(d["magpsf_corr"])
    change = np.where(is_total, 10 ** (-0.4 * np.where(is_total, d["magpsf_corr"], 0.0)) * (factor - 1.0), 0.0)
    difference = d["isdiffpos"] * 10 ** (-0.4 * d["magpsf"]) + change
    changed = {
        "magpsf_corr": np.where(is_total, d["magpsf_corr"] - 2.5 * np.log10(factor), d["magpsf_corr"]),
        "magpsf": -2.5 * np.log10(np.maximum(np.abs(difference), 1e-12)),
        "isdiffpos": np.where(difference < 0, -1.0, 1.0),
    }
    return replace(curves, detections={**d, **changed})


def _reversed(curves: LabelledCurves) -> LabelledCurves:
    middle = 58000.0 + 2000.0

    def backwards(columns: Mapping[str, Any], offsets: NDArray[np.int64]) -> dict[str, Any]:
        group = np.repeat(np.arange(len(curves)), np.diff(offsets))
        order = np.lexsort((-columns["mjd"], group))
        turned = {name: column[order] for name, column in columns.items()}
        return turned | {"mjd": 2 * middle - turned["mjd"]}

    return replace(
        curves,
        detections=backwards(curves.detections, curves.offsets),
        non_detections=backwards(curves.non_detections, curves.limit_offsets),
    )


def false_alarms(curves: LabelledCurves) -> dict[str, tuple[int, float, float]]:
    """Per class: points judged by lightcurves/novelty.py, and shares too bright and too faint by THRESHOLD."""
    objects = curves.objects()
    label, values = [], []
    for band in objects.bands:
        label.append(np.repeat(curves.label, np.diff(band.offsets)))
        values.append(novelty.significance(band.offsets, band.mjd, band.mag, band.err))
    labels, z = np.concatenate(label), np.concatenate(values)
    found = {}
    for name in LIGHTCURVE_CLASSES:
        judged = z[(labels == name) & np.isfinite(z)]
        if judged.size:
            bright, faint = (float(np.mean(sign * judged > novelty.THRESHOLD)) for sign in (1, -1))
            found[name] = (judged.size, bright, faint)
    return found


def quiet(seed: int, curves: int) -> tuple[NDArray[np.int64], Float, Float, Float]:
    """Constant sources: offsets, mjd, mag, err of 8 to 150 points at uneven times, errors that differ by a third."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(8, 151, curves)
    mjd = np.concatenate([58200 + np.sort(rng.uniform(0, rng.uniform(60, 1200), n)) for n in counts])
    err = np.repeat(rng.uniform(0.01, 0.15, curves), counts) * rng.lognormal(0, 0.3, mjd.size)
    mag = np.repeat(rng.uniform(15, 20, curves), counts) + err * rng.standard_normal(mjd.size)
    return np.concatenate([[0], np.cumsum(counts)]), mjd, mag, err


def quiet_rates(seed: int, curves: int, sigmas: Sequence[float] = (3, 4, 5, 7, 10)) -> tuple[float, dict[float, float]]:
    """On constant sources: false-alarm rate per point, and share of flares of each size [sigma] that are found."""
    offsets, mjd, mag, err = quiet(seed, curves)
    z = novelty.significance(offsets, mjd, mag, err)
    last = offsets[1:] - 1
    found = {}
    for size in sigmas:
        flare = mag.copy()
        flare[last] -= size * err[last]
        significance = novelty.significance(offsets, mjd, flare, err, only_last=True)[last]
        found[size] = float(np.mean(significance > novelty.THRESHOLD))
    return float(np.mean(np.abs(z[np.isfinite(z)]) > novelty.THRESHOLD)), found


def odd_stamps(images: Floats, kind: str, seed: int) -> Floats:
    """Images (n, 3, 63, 63: science, template, difference) that fit no class.

    trail: a straight line through the middle, 20 times the noise of the difference, in science and difference; noise:
    only noise of the same spread; other template: that of another alert; swapped: science and template; dipole: the
    difference minus itself shifted by 6 pixels. Raises ValueError for another kind.
    """
    if kind not in ODD_STAMPS:
        raise ValueError(f"no odd stamps {kind!r}; there are {', '.join(ODD_STAMPS)}")
    rng = np.random.default_rng(seed)
    odd = images.copy()
    if kind == "trail":
        difference = images[:, 2] - np.nanmedian(images[:, 2], axis=(1, 2), keepdims=True)
        noise = 1.4826 * np.nanmedian(np.abs(difference), axis=(1, 2))
        pixel = np.arange(images.shape[2]) - images.shape[2] // 2
        turn = rng.uniform(0, np.pi, len(images))[:, None, None]
        distance = pixel[:, None] * np.cos(turn) - pixel * np.sin(turn)
        odd[:, ::2] += (20 * noise[:, None, None] * np.exp(-0.5 * (distance / 1.2) ** 2))[:, None].astype(np.float32)
    elif kind == "noise":
        odd[:] = rng.normal(0, 1, images.shape) * np.nanstd(images, axis=(2, 3), keepdims=True)
    elif kind == "other template":
        odd[:, 1] = np.roll(images[:, 1], len(images) // 2, axis=0)
    elif kind == "swapped":
        odd = images[:, [1, 0, 2]]
    else:
        odd[:, 2] -= np.roll(images[:, 2], 6, axis=2)
    return odd


def _stamps_sheet(model: StampModel, per_class: int) -> Sheet:
    alerts = first_alerts(JUDGED_SEED, per_class)
    _, usual, _ = model.judge(alerts.images, alerts.columns)
    rows: list[tuple[str, float]] = []
    for kind in ODD_STAMPS:
        _, scores, _ = model.judge(odd_stamps(alerts.images, kind, JUDGED_SEED), alerts.columns)
        rows.append((kind, area(scores, usual)))
    note = (
        "Simulated first alerts with odd images against the same without. Of the images themselves above 0.9, 0.95 and "
        f"0.99: {', '.join(f'{np.mean(usual > limit):.3f}' for limit in (0.9, 0.95, 0.99))}. Real alerts differ from "
        "simulated ones and score higher: there the score ranks alerts, and is no share."
    )
    return Sheet("Odd stamps", ("images", "area"), tuple(rows), note)


def study(
    out: Path,
    model: OutlierModel,
    forest: LightcurveModel,
    stamps: StampModel,
    *,
    per_class: int = 1000,
    judged_per_class: int = 200,
    workers: int = 2,
) -> Path:
    """Report (HTML, and the numbers as JSON) on the detection of outliers and novelties; takes about ten minutes.

    For the left-out classes, forests and Gaussians are trained on `per_class` simulated objects of each class
    (STUDY_SEED). The models in use, `model`, `forest` and `stamps`, are judged by events, odd images and false alarms.
    All are judged on objects of JUDGED_SEED.
    """
    features = simulated_set(STUDY_SEED, per_class, workers=workers)
    judged = {
        name: simulated_set(JUDGED_SEED, judged_per_class, workers=workers, degraded=shares)
        for name, shares in JUDGED.items()
    }
    left_out = [leave_out(name, features, judged, seed=STUDY_SEED, jobs=workers) for name in LIGHTCURVE_CLASSES]
    sheets = [
        _left_out_sheet(left_out),
        _events_sheet(events(model, forest, JUDGED_SEED, judged_per_class // 4)),
        _score_sheet(model, forest, judged["cut"]),
        *_novelty_sheets(light_curves(JUDGED_SEED, dict.fromkeys(LIGHTCURVE_CLASSES, judged_per_class // 4))),
        _stamps_sheet(stamps, judged_per_class),
    ]
    about = {
        "outlier model": model.version,
        "classifiers": f"{forest.version}, {stamps.version}",
        "left-out classes": f"{per_class} simulated objects a class, seed {STUDY_SEED}; 100 trees a forest",
        "judged by": f"{judged_per_class} simulated objects a class, seed {JUDGED_SEED}, in no training",
        "area": "probability that an outlier scores higher than an ordinary object: area under the ROC curve",
    }
    return write(Report("Outliers and novelties", about, (), sheets=tuple(sheets)), out)


def _left_out_sheet(found: Sequence[Mapping[str, LeftOut]]) -> Sheet:
    header = ("class", *(f"{key}, {kind}" for key in JUDGED for kind in ("branch known", "served")))
    rows = [
        (next(iter(of.values())).name, *(v for key in JUDGED for v in (of[key].known_branch, of[key].served)))
        for of in found
    ]
    mean = ("mean", *(float(np.mean([row[k] for row in rows])) for k in range(1, len(header))))
    note = (
        "One class at a time is kept from forests and Gaussians; the area is that of its objects against the others of "
        "its branch. Branch known: judged within the branch of the class. Served: as the broker does, which does not "
        "know the branch. Whole: seen to the end in both bands, with WISE; cut: half are cut off early, from six "
        "detections on, some seen in one band or without WISE."
    )
    return Sheet("Each class left out in turn", header, (*rows, mean), note)


def _events_sheet(areas: Mapping[str, float]) -> Sheet:
    note = (
        "Events that no class has in simulated light curves, against the same objects without. Flare: 2 mag, falling "
        "off with 15 d; fading: 1.5 mag for good; lens: impact parameter 0.2, 30 d; reversed: supernovae backwards."
    )
    return Sheet("Injected events", ("event", "area"), tuple(areas.items()), note)


def _score_sheet(model: OutlierModel, forest: LightcurveModel, ordinary: FeatureSet) -> Sheet:
    scores = model.score(ordinary.matrix, forest.classify(ordinary.matrix))
    limits = (0.9, 0.95, 0.99)
    groups = {name: ordinary.labels == name for name in LIGHTCURVE_CLASSES} | {"all": ordinary.labels != ""}
    rows = [
        (name, int(rows.sum()), *(float(np.mean(scores[rows] > limit)) for limit in limits))
        for name, rows in groups.items()
    ]
    note = "Ordinary objects that no model was trained on; of all together, shares of 0.1, 0.05 and 0.01 are meant."
    return Sheet("Scores of ordinary objects", ("class", "objects", *(f"above {x}" for x in limits)), tuple(rows), note)


def _novelty_sheets(curves: LabelledCurves) -> list[Sheet]:
    alarms, found = quiet_rates(JUDGED_SEED, 4000)
    quiet_rows = (("false alarms of a point", alarms), *((f"flares of {size} sigma", v) for size, v in found.items()))
    quiet_note = (
        f"Constant sources of 8 to 150 points, errors that differ by a third; a point is unexpected beyond "
        f"{novelty.THRESHOLD:g} sigma, either way; flares are the last point's."
    )
    note = "Shares of the points of simulated objects that are unexpected, brighter or fainter: most are real changes."
    by_class = tuple((name, *values) for name, values in false_alarms(curves).items())
    return [
        Sheet("Novelty on quiet sources", ("", "share"), quiet_rows, quiet_note),
        Sheet("Novelty by class", ("class", "points", "brighter", "fainter"), by_class, note),
    ]
