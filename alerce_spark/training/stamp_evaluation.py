"""Evaluation of a stamp classifier: held-out simulated alerts, real alerts with weak labels, real against simulated.

Weak labels come from the packet, if the survey already identifies the alert, and from public lists:

asteroid    a named Solar System object within 5″ (the network never sees the ephemeris)
bogus       the survey's score of reality is low: drb < 0.2, or rb < 0.2 where there is no drb
not bogus   rb > 0.9 (any class but bogus agrees)
VS          at most 1″ from a star-like PS1 source (sgscore1 > 0.5), and none of the above
SN          spectroscopically classified by the Bright Transient Survey
VS history  ZTF18aazxcwf, all its alerts

They are weak: faint quasars are star-like in PS1, and real alerts are rarely an object's first, for which the network
is trained. Each object belongs to one of two halves by a hash of its name. Choices are made on the development half.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from alerce_spark.alerts import avro, stamps
from alerce_spark.alerts.files import find_files, insist, packets_of
from alerce_spark.classifiers import stamp
from alerce_spark.classifiers.stamp import Columns, Doubles, Floats
from alerce_spark.classifiers.taxonomy import STAMP_CLASSES
from alerce_spark.simulation.packets import SURVEY
from alerce_spark.training import metrics
from alerce_spark.training.report import PUBLISHED_STAMP, Report, Sheet, write
from alerce_spark.training.stamps import Options, Trained

Bools = npt.NDArray[np.bool_]
Classify = Callable[[Floats, Columns], tuple[Doubles, npt.NDArray[np.object_]]]

#: Folders and archives of real packets below `<data>/ztf`, and the list of transients.
PLACES = ("histories", "exposure", "v4", "ztf_public_20180819_mod1000.tar.gz")
TRANSIENTS = Path("calibration/bts_transients.csv")
HALVES = ("development", "test")
_VARIABLE_STAR = "ZTF18aazxcwf"
# The byte of the hash that splits objects of every label into both halves; chosen by counts, before any training.
_BYTE = 5


@dataclass(frozen=True)
class Group:
    """Real alerts with one weak label: `members` (n,), and the classes that agree with it."""

    name: str
    members: Bools
    classes: tuple[str, ...]


@dataclass(frozen=True)
class RealAlerts:
    """Real alerts: images (n, 3, 63, 63), the columns of their candidates (n rows), oid (n,), and groups by label."""

    images: Floats
    columns: pa.Table
    oid: npt.NDArray[np.object_]
    groups: tuple[Group, ...]

    def half(self, name: str) -> Bools:
        """Members (n,) of one of HALVES."""
        odd = np.array([hashlib.sha256(oid.encode()).digest()[_BYTE] % 2 for oid in self.oid], bool)
        return odd if name == HALVES[1] else ~odd


def read_real(data_dir: Path) -> RealAlerts:
    """The real ZTF alerts of a data folder that have stamps. Raises FileNotFoundError without any."""
    places = [data_dir / "ztf" / name for name in PLACES]
    packets = [packet for file in find_files(places, insist) for packet, _ in packets_of(file, insist)]
    decoded = avro.decode(packets, SURVEY, stamps=True)
    read = stamps.of(decoded.alerts, SURVEY)
    good = np.array([reason is None for reason in read.reason])
    columns = decoded.alerts.drop_columns(list(SURVEY.cutouts.names)).filter(good)
    oid = np.array(columns["objectId"].to_pylist(), object)
    return RealAlerts(read.images[good], columns, oid, _groups(columns, oid, _supernovae(data_dir)))


def _supernovae(data_dir: Path) -> set[str]:
    with (data_dir / TRANSIENTS).open(encoding="utf-8") as file:
        return {row["ZTFID"] for row in csv.DictReader(file) if row["type"].startswith(("SN", "SLSN"))}


def _groups(columns: pa.Table, oid: npt.NDArray[np.object_], supernovae: set[str]) -> tuple[Group, ...]:
    rb, drb, score, distance = (
        np.asarray(columns[name].to_numpy(), np.float64) for name in ("rb", "drb", "sgscore1", "distpsnr1")
    )
    mover = stamp.is_known_mover(columns, *SURVEY.mover)
    bogus = np.where(np.isnan(drb), rb, drb) < 0.2
    star = (score > 0.5) & (distance >= 0) & (distance <= 1.0) & ~mover & ~bogus
    supernova = np.isin(oid, sorted(supernovae))
    history = oid == _VARIABLE_STAR
    return (
        Group("asteroid", mover, ("asteroid",)),
        Group("bogus", bogus & ~mover, ("bogus",)),
        Group("not bogus", (rb > 0.9) & ~bogus, tuple(name for name in STAMP_CLASSES if name != "bogus")),
        Group("VS", star & ~history & ~supernova, ("VS",)),
        Group("SN", supernova, ("SN",)),
        Group("VS history", history, ("VS",)),
    )


def agreement(classify: Classify, real: RealAlerts) -> Sheet:
    """Share of real alerts of each group and half whose class agrees, with 95 % bounds, and their predicted classes."""
    probabilities, _ = classify(real.images, real.columns)
    called = np.where(np.isnan(probabilities[:, 0]), -1, np.nan_to_num(probabilities).argmax(axis=1))
    rows = []
    for group in real.groups:
        right = np.isin(called, [STAMP_CLASSES.index(name) for name in group.classes])
        for name in HALVES:
            members = group.members & real.half(name)
            n, hits = int(members.sum()), int((members & right).sum())
            low, high = metrics.wilson(hits, n)
            share = metrics.Estimate(hits / n if n else float("nan"), float(low), float(high))
            counts = [int((members & (called == k)).sum()) for k in range(len(STAMP_CLASSES))]
            objects = len(set(real.oid[members]))
            rows.append((group.name, name, n, objects, share, *counts))
    header = ("weak label", "half", "alerts", "objects", "agree", *(f"called {name}" for name in STAMP_CLASSES))
    note = "Choices were made on the development half. Several alerts of one object are not independent."
    return Sheet("Real alerts", header, tuple(rows), note)


def scores(sheet: Sheet, half: str) -> dict[str, float]:
    """Share of agreement by group of one half of `agreement`."""
    return {row[0]: row[4].value for row in sheet.rows if row[1] == half}


# Real against simulated.

_RINGS = (0.8, 1.8, 3.2, 5.0, 8.0)
_FROM_CENTRE = np.hypot(*np.mgrid[-31:32, -31:32])


def _traits(images: Floats) -> tuple[Doubles, list[str]]:
    """Numbers (n, f) that describe stamps without any network, and their names."""
    names: list[str] = []
    columns: list[Doubles] = []

    def add(name: str, values: Any) -> None:
        names.append(name)
        columns.append(np.asarray(values, np.float64))

    flat = images.reshape(*images.shape[:2], -1).astype(np.float64)
    add("share without value", np.isnan(flat).mean(axis=(1, 2)))
    middle = np.nanmedian(flat, axis=2)
    noise = 1.4826 * np.nanmedian(np.abs(flat - middle[..., None]), axis=2)
    noise = np.where(noise > 0, noise, np.nan)
    add("median of science", middle[:, 0])
    add("science − template, median", (middle[:, 0] - middle[:, 1]) / noise[:, 2])
    add("noise of difference", noise[:, 2])
    add("noise of science / difference", noise[:, 0] / noise[:, 2])
    add("noise of template / difference", noise[:, 1] / noise[:, 2])
    scaled = (images - middle[..., None, None]) / noise[:, 2, None, None, None]
    for c, name in enumerate(stamps.NAMES):
        for q in (0.1, 1.0, 99.0, 99.9):
            add(f"{name}, percentile {q:g}", np.arcsinh(np.nanpercentile(scaled[:, c], q, axis=(1, 2))))
        own = (images[:, c] - middle[:, c, None, None]) / noise[:, c, None, None]
        quiet = np.where(np.abs(own) < 3.0, own, np.nan)
        for label, a, b in (("column", quiet[:, :, 1:], quiet[:, :, :-1]), ("row", quiet[:, 1:], quiet[:, :-1])):
            add(
                f"{name}, correlation along {label}s",
                np.nanmean(a * b, axis=(1, 2)) / np.nanmean(quiet**2, axis=(1, 2)),
            )
        inner = 0.0
        for outer in _RINGS:
            ring = np.digitize(_FROM_CENTRE, (inner, outer)) == 1
            values = np.where(np.isnan(scaled[:, c, ring]), 0.0, scaled[:, c, ring])
            add(f"{name}, mean at {inner:g}–{outer:g} px", np.arcsinh(values.mean(axis=1)))
            add(f"{name}, scatter at {inner:g}–{outer:g} px", np.arcsinh(values.std(axis=1)))
            inner = outer
    return np.column_stack(columns), names


@dataclass(frozen=True)
class Separation:
    """How well boosted trees separate real from simulated: AUC (0.5: chance), and the most revealing numbers."""

    auc: float
    telling: tuple[tuple[str, float], ...]


def separation(real: Doubles, simulated: Doubles, groups: npt.ArrayLike, names: Sequence[str], seed: int) -> Separation:
    """Cross-validated AUC of real (n, f) against simulated (m, f) numbers; groups (n,): objects in the same fold.

    `telling` lists the numbers that separate best alone, each with its AUC (0.5 to 1), best first.
    """
    table = np.vstack([real, simulated])
    label = np.repeat([1, 0], [len(real), len(simulated)])
    unique, place = np.unique(np.asarray(groups), return_inverse=True)
    together = np.concatenate([place, len(unique) + np.arange(len(simulated))])
    score = np.empty(len(label))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    for learning, checking in folds.split(table, label, together):
        trees = HistGradientBoostingClassifier(
            max_iter=80, max_leaf_nodes=8, random_state=seed, class_weight="balanced"
        )
        score[checking] = trees.fit(table[learning], label[learning]).predict_proba(table[checking])[:, 1]
    alone = []
    for name, column in zip(names, table.T, strict=True):
        known = np.isfinite(column)
        if len(set(label[known].tolist())) == 2:
            auc = roc_auc_score(label[known], column[known])
            alone.append((name, float(max(auc, 1 - auc))))
    return Separation(float(roc_auc_score(label, score)), tuple(sorted(alone, key=lambda pair: -pair[1])))


def real_against_simulated(
    real: RealAlerts, images: Floats, columns: Columns, label: npt.ArrayLike, seed: int = 0
) -> dict[tuple[str, str], Separation]:
    """Separations of asteroids and of variable stars, by class and kind of numbers ("images", "columns")."""
    truth = np.asarray(label)
    wanted = [one.name for one in stamp.INPUTS]
    table = stamp.inputs(columns, wanted, len(truth))
    of_real = stamp.inputs(real.columns, wanted, len(real.oid))
    found = {}
    for group in real.groups:
        if group.name not in ("asteroid", "VS"):
            continue
        theirs = np.flatnonzero(truth == STAMP_CLASSES.index(group.name))[: 6 * int(group.members.sum())]
        ours, names = _traits(real.images[group.members])
        oid = real.oid[group.members]
        found[group.name, "images"] = separation(ours, _traits(images[theirs])[0], oid, names, seed)
        found[group.name, "columns"] = separation(of_real[group.members], table[theirs], oid, wanted, seed)
    return found


# The report.


def report(
    model: stamp.StampModel,
    images: Floats,
    columns: Columns,
    label: npt.ArrayLike,
    data_dir: Path | None,
    out: Path,
    *,
    about: Mapping[str, str] | None = None,
    ablations: Sheet | None = None,
) -> Path:
    """Write the report of a model (HTML, JSON beside it) and return its path.

    images, columns, label: simulated alerts not used in training. data_dir: real alerts as of `read_real`; without it
    that part is left out.
    """
    probabilities, reason = model.classify(images, columns)
    good = np.array([text is None for text in reason])
    truth = np.asarray(label, np.int64)[good]
    answer = probabilities[good]
    magnitude = np.asarray(columns["magpsf"], np.float64)[good]
    k = len(STAMP_CLASSES)
    sheets = list(_real_sheets(model, images, columns, label, data_dir))
    return write(
        Report(
            "Stamp classifier",
            {"model": model.version, "simulated alerts held out": str(good.sum()), **(about or {})},
            (metrics.evaluate("class", STAMP_CLASSES, truth, answer.argmax(axis=1)),),
            recall=(metrics.recall_against_magnitude(magnitude, truth, answer.argmax(axis=1), k),),
            calibration={"simulated": metrics.calibration(truth, answer)},
            sheets=(*sheets, *([ablations] if ablations is not None else [])),
            published=PUBLISHED_STAMP,
        ),
        out,
    )


def _real_sheets(
    model: stamp.StampModel, images: Floats, columns: Columns, label: npt.ArrayLike, data_dir: Path | None
) -> Iterator[Sheet]:
    if data_dir is None:
        return
    real = read_real(data_dir)
    yield agreement(model.classify, real)
    rows = [
        (*key, found.auc, ", ".join(f"{name} {auc:.2f}" for name, auc in found.telling[:6]))
        for key, found in real_against_simulated(real, images, columns, label).items()
    ]
    note = "Area under the curve of boosted trees, five folds, 0.5 is chance; then the numbers that tell most alone."
    yield Sheet("Real against simulated", ("class", "numbers", "AUC", "what tells"), tuple(rows), note)


def ablations(
    train: Callable[[Options], Trained],
    choices: Mapping[str, Options],
    images: Floats,
    columns: Columns,
    label: npt.ArrayLike,
    real: RealAlerts | None,
    folder: Path,
) -> Sheet:
    """Compare trainings with different options on held-out simulated alerts and on real ones of the development half.

    train: makes a model from options. The model files are written to `folder`.
    """
    truth = np.asarray(label, np.int64)
    names = [group.name for group in real.groups] if real is not None else []
    rows = []
    for number, (name, options) in enumerate(choices.items()):
        model = stamp.StampModel.load(train(options).save(folder / f"ablation-{number}.onnx"))
        answer = model.classify(images, columns)[0].argmax(axis=1)
        score = metrics.evaluate("class", STAMP_CLASSES, truth, answer).scores["balanced_accuracy"]
        found = scores(agreement(model.classify, real), HALVES[0]) if real is not None else {}
        rows.append((name, score, *(found[group] for group in names)))
    header = ("inputs", "simulated, balanced accuracy", *(f"real {name}" for name in names))
    return Sheet("Ablations", header, tuple(rows), "Shorter trainings; real alerts of the development half.")
