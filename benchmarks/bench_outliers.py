"""Speed of outlier scores against scikit-learn's, and of novelties against the same filters in plain NumPy.

`python -m benchmarks.bench_outliers [--objects 670] [--curves 300] [--repeats 5]` prints JSON. Scores are of the model
that ships, on `objects` simulated objects of each class, with rows repeated if a batch is larger; scikit-learn's
isolation forest and local outlier factor are trained on, and score, the same features after the model's mapping.
Novelties are of all points of `curves` constant sources with 8 to 150 points. One core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor

from alerce_spark.classifiers import lightcurve, outliers
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, OUTLIER
from alerce_spark.lake.models import bootstrap
from alerce_spark.lightcurves import novelty
from alerce_spark.training.light_curves import simulated_set
from alerce_spark.training.outliers import quiet
from benchmarks.bench_forest import BATCHES, ONE_THREAD, best

SEED = 5


def scores(objects: int, repeats: int) -> dict[str, Any]:
    """Rows per second at each batch size; the time of the classification is reported separately."""
    shipped, forest = bootstrap(OUTLIER), bootstrap(LIGHTCURVE)
    assert shipped is not None
    assert forest is not None
    model, classifier = outliers.load(shipped), lightcurve.load(forest)
    simulated = simulated_set(SEED, objects, workers=1).matrix
    matrix = np.tile(simulated, (-(-max(BATCHES) // len(simulated)), 1))[
        np.random.default_rng(SEED).permutation(max(BATCHES))
    ]
    normal, _ = model.normal(matrix)
    isolation = IsolationForest(n_estimators=100, random_state=SEED, n_jobs=1).fit(normal)
    factor = LocalOutlierFactor(novelty=True, n_jobs=1).fit(normal)
    report: dict[str, Any] = {"trained_on": len(normal)}
    for batch in BATCHES:
        calls = range(100) if batch == 1 else range(1)
        parts = [(matrix[i : i + batch], classifier.classify(matrix[i : i + batch])) for i in calls]
        ours = best(lambda: [model.score(*part) for part in parts], repeats) / len(calls)  # noqa: B023
        classes = best(lambda: [classifier.classify(rows) for rows, _ in parts], repeats) / len(calls)  # noqa: B023
        few = calls[:3]
        forest_s, factor_s = (
            best(lambda: [s.score_samples(normal[i : i + batch]) for i in few], min(repeats, 2)) / len(few)  # noqa: B023
            for s in (isolation, factor)
        )
        report[f"batch_{batch}"] = {
            "scores_per_second": round(batch / ours),
            "classes_per_second": round(batch / classes),
            "isolation_forest_per_second": round(batch / forest_s),
            "local_outlier_factor_per_second": round(batch / factor_s, 1),
            "scores_over_isolation_forest": round(forest_s / ours, 1),
            "scores_over_local_outlier_factor": round(factor_s / ours, 1),
        }
    return report


def plain(mjd: np.ndarray, mag: np.ndarray, err: np.ndarray) -> np.ndarray:
    """Significance of each point by the filters of lightcurves/novelty.py as NumPy vectors; the loop is over points."""
    amplitude, scale = (a.ravel() for a in np.meshgrid(novelty._AMPLITUDES, novelty._TIME_SCALES, indexing="ij"))
    variance, scale = np.append(amplitude**2, 0.0), np.append(scale, 1.0)
    out = np.full(mjd.size, np.nan)
    first = novelty.MIN_HISTORY
    mean, walk = np.full(variance.size, np.median(mag[:first])), np.zeros(variance.size)
    p_mean, p_both, p_walk = variance + np.median(err[:first]) ** 2, np.zeros(variance.size), variance.copy()
    weight = np.full(variance.size, 1.0 / variance.size)
    for i in range(mjd.size):
        keep = np.exp((mjd[i - 1] - mjd[i]) / scale) if i else np.ones(variance.size)
        p_walk = keep**2 * p_walk + variance * (1.0 - keep**2)
        p_both, walk = p_both * keep, walk * keep
        residual = mag[i] - mean - walk
        to_mean, to_walk = p_mean + p_both, p_both + p_walk
        s = to_mean + to_walk + err[i] ** 2
        square = residual**2 / s
        if i >= first:
            z = residual / np.sqrt(s)
            tails = [np.logaddexp.reduce(np.log(weight) + norm.logsf(sign * z)) for sign in (1.0, -1.0)]
            size = float(novelty._normal(np.array([min(tails)]))[0])
            out[i] = -size if tails[0] < tails[1] else size
        foreign = np.exp(-0.5 * square / novelty._FOREIGN_SCALE**2)
        good = foreign**64 * (1.0 - novelty._FOREIGN)
        density = good + foreign * novelty._FOREIGN / novelty._FOREIGN_SCALE
        weight = weight * density / np.sqrt(s)
        share = good / (density + novelty._LEAST)
        a, b = to_mean / s, to_walk / s
        mean, walk = mean + share * a * residual, walk + share * b * residual
        change = s * share * ((1.0 - share) * square - 1.0)
        p_mean, p_both, p_walk = p_mean + change * a * a, p_both + change * a * b, p_walk + change * b * b
        weight = np.maximum(weight / weight.sum(), novelty._LEAST)
        if i % novelty._EVERY == novelty._EVERY - 1:
            weight = weight**novelty._MEMORY
        weight /= weight.sum()
    return out


def novelties(curves: int, repeats: int) -> dict[str, Any]:
    """Curves per second, for every point and for the last only, and the largest difference from plain NumPy."""
    offsets, mjd, mag, err = quiet(SEED, curves)
    spans = list(pairwise(offsets))
    few = spans[: max(5, curves // 10)]
    found = novelty.significance(offsets, mjd, mag, err)
    theirs = np.concatenate([plain(mjd[a:b], mag[a:b], err[a:b]) for a, b in few])
    seconds = {
        "all_points": best(lambda: novelty.significance(offsets, mjd, mag, err), repeats) / curves,
        "last_point": best(lambda: novelty.significance(offsets, mjd, mag, err, only_last=True), repeats) / curves,
        "numpy_all_points": best(lambda: [plain(mjd[a:b], mag[a:b], err[a:b]) for a, b in few], 2) / len(few),
    }
    return {
        "points_per_curve": round(mjd.size / curves, 1),
        **{f"{name}_curves_per_second": round(1 / s) for name, s in seconds.items()},
        "all_points_over_numpy": round(seconds["numpy_all_points"] / seconds["all_points"], 1),
        "largest_difference": float(np.nanmax(np.abs(found[: theirs.size] - theirs))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=670)
    parser.add_argument("--curves", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(
            sys.executable,
            [sys.executable, "-m", "benchmarks.bench_outliers", *sys.argv[1:]],
            {**os.environ, **ONE_THREAD},
        )
    report = {"score": scores(chosen.objects, chosen.repeats), "novelty": novelties(chosen.curves, chosen.repeats)}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
