"""Scores of a light-curve model on the real objects of the shared test data: to report, never to train or tune."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from alerce_spark.classifiers.lightcurve import LightcurveModel, classify_table, read_features
from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE_CLASSES, branch_of
from alerce_spark.features import io
from alerce_spark.training import metrics
from alerce_spark.training.metrics import Calibration, Level
from alerce_spark.training.report import Sheet

_FEATURES, _LABELS = "100_objects_features.csv", "100_objects_labels.csv"
_CURVES, _LIMITS, _SUPERNOVAE = "30_sne_detections_corr.csv", "30_sne_non_detections.csv", "30_sne_labels.csv"
_MJD = 2400000.5


@dataclass(frozen=True)
class Judged:
    """One set of real objects: scores of the 15 classes and of the branches, and calibration."""

    name: str
    classes: Level
    top: Level
    calibration: Calibration


@dataclass(frozen=True)
class RealFigures:
    """The sets of `evaluate_real`, in its order."""

    sets: tuple[Judged, ...]

    def sheets(self) -> tuple[Sheet, ...]:
        """Tables for the report: macro figures of each set, and recall of each class."""
        note = "Small sets of real objects, for reporting only: nothing was trained or tuned on them."
        macro = tuple(
            (
                *(judged.name, int(judged.classes.counts.sum())),
                *(judged.top.scores["recall"], judged.classes.scores["recall"], judged.classes.scores["accuracy"]),
                *(judged.calibration.ece, judged.calibration.excess),
            )
            for judged in self.sets
        )
        header = ("set", "objects", "macro recall of branches", "of classes", "accuracy", "calibration error", "excess")
        by_class = tuple(
            (judged.name, name, int(counts.sum()), recall)
            for judged in self.sets
            for name, counts, recall in zip(
                judged.classes.classes, judged.classes.counts, judged.classes.recall, strict=True
            )
            if counts.sum()
        )
        return (
            Sheet("Real objects", header, macro, note),
            Sheet("Real objects by class", ("set", "class", "objects", "recall"), by_class),
        )


def evaluate_real(model: LightcurveModel, data_dir: Path, *, seed: int = 0) -> RealFigures:
    """Scores on `data_dir`/lightcurves: rows of reference features, and supernovae from their photometry.

    Sets: all 98 rows; the odd rows, which development must not use; both again without SPM features, whose reference
    values come from a fit that stops early (docs/differences.md D14); 30 supernovae with our selection and features.
    Raises FileNotFoundError if the data are absent.
    """
    folder = data_dir / "lightcurves"
    published = read_features(folder / _FEATURES)
    labels = _labels(folder / _LABELS)
    no_fit = published.drop_columns([n for n in published.schema.names if n.startswith("SPM_")])
    odd = np.arange(published.num_rows) % 2 == 1
    sets = [
        _judged(name, model, table, labels, seed)
        for name, table in (
            ("98 reference rows", published),
            ("odd rows of the 98", published.filter(pa.array(odd))),
            ("98 without SPM", no_fit),
            ("odd rows without SPM", no_fit.filter(pa.array(odd))),
        )
    ]
    curves = io.table(_read(folder / _CURVES), _limits(folder / _LIMITS))
    return RealFigures((*sets, _judged("30 supernovae", model, curves, _labels(folder / _SUPERNOVAE), seed)))


def _labels(file: Path) -> dict[str, str]:
    table = csv.read_csv(file)
    return dict(zip(table["objectId"].to_pylist(), table["classALeRCE"].to_pylist(), strict=True))


def _read(file: Path) -> pa.Table:
    texts = {"objectId": pa.string(), "candid": pa.int64(), "parent_candid": pa.int64()}
    return csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=texts))


def _limits(file: Path) -> pa.Table:
    table = csv.read_csv(
        file, convert_options=csv.ConvertOptions(include_columns=["objectId", "jd", "fid", "diffmaglim"])
    )
    return table.append_column("mjd", pa.array(table["jd"].to_numpy() - _MJD))


def _judged(name: str, model: LightcurveModel, features: pa.Table, labels: dict[str, str], seed: int) -> Judged:
    found, _ = classify_table(features, model)
    truth = metrics.indices([labels[oid] for oid in found["oid"].to_pylist()], LIGHTCURVE_CLASSES)
    probabilities = np.column_stack([found[c].to_numpy() for c in LIGHTCURVE_CLASSES])
    known = np.isfinite(probabilities).all(axis=1)
    truth, probabilities = truth[known], probabilities[known]
    called = probabilities.argmax(axis=1)
    branch = metrics.indices([branch_of(c) for c in LIGHTCURVE_CLASSES], tuple(BRANCHES))
    top = np.column_stack([found[b].to_numpy()[known] for b in BRANCHES]).argmax(axis=1)
    return Judged(
        name,
        metrics.evaluate("class", LIGHTCURVE_CLASSES, truth, called, seed=seed),
        metrics.evaluate("top", tuple(BRANCHES), branch[truth], top, seed=seed),
        metrics.calibration(truth, probabilities),
    )
