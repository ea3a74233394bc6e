"""Speed of the light-curve classifier: training, loading, the registry, and inference against imbalanced-learn.

`python -m benchmarks.bench_forest [--objects 1000] [--trees 500] [--jobs 2] [--repeats 5]` prints JSON. The matrix is
synthetic: 15 classes of `objects` rows that overlap about as much as the real ones do, a tenth of the values missing.
imbalanced-learn classifies the same rows with the same forests before compilation. One core, except for training.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alerce_spark.classifiers import lightcurve
from alerce_spark.classifiers.forest import Forest, from_sklearn
from alerce_spark.classifiers.lightcurve import MISSING, LightcurveModel, load
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES
from alerce_spark.features.names import FEATURES
from alerce_spark.lake import models
from alerce_spark.lake.models import Served

#: Libraries read these when they start; `main` sets them and starts again.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
BATCHES = (1, 100, 10_000)  # the number of rows is at least the largest
SEED = 5

_FRESH = """
import sys, time; start = time.perf_counter()
import numpy as np
from alerce_spark.classifiers.lightcurve import load
imported = time.perf_counter()
model = load(sys.argv[1]); loaded = time.perf_counter()
model.classify(np.zeros((1, 152))); first = time.perf_counter()
print(imported - start, loaded - imported, first - loaded)
"""


def rows(each: int, seed: int = SEED) -> tuple[np.ndarray, list[str]]:
    """`each` objects of every class: 40 features depend on it, with overlapping centres; the others are noise."""
    shape = np.random.default_rng(SEED)
    centres = np.zeros((len(LIGHTCURVE_CLASSES), 3, len(FEATURES)))
    centres[:, :, :40] = shape.normal(0, 0.9, (*centres.shape[:2], 40))
    rng = np.random.default_rng(seed)
    labels = [name for name in LIGHTCURVE_CLASSES for _ in range(each)]
    codes = np.repeat(np.arange(len(LIGHTCURVE_CLASSES)), each)
    matrix = rng.normal(centres[codes, rng.integers(3, size=codes.size)], 1.0)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    return matrix, labels


def best(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def trained(matrix: np.ndarray, labels: list[str], trees: int, jobs: int) -> tuple[LightcurveModel, list[Any], float]:
    """A model, the imbalanced-learn forests it was compiled from, and the seconds of training."""
    forests = []

    def keep(forest: Any) -> Forest:
        forest.samplers_ = forest.pipelines_ = []  # only training needs them
        forests.append(forest.set_params(n_jobs=1))
        return from_sklearn(forest)

    lightcurve.from_sklearn = keep  # type: ignore[attr-defined]
    start = time.perf_counter()
    model = lightcurve.train(matrix, labels, seed=SEED, version="benchmark", trees=trees, jobs=jobs)
    return model, forests, time.perf_counter() - start


def inference(model: LightcurveModel, forests: list[Any], matrix: np.ndarray, repeats: int) -> dict[str, Any]:
    """Rows per second at each batch size, and the largest difference of a probability."""
    clean = np.nan_to_num(matrix, nan=MISSING).astype(np.float32)
    compiled = [from_sklearn(forest) for forest in forests]
    differences = [
        np.abs(ours.predict_proba(clean[:300]) - theirs.predict_proba(clean[:300])).max()
        for ours, theirs in zip(compiled, forests, strict=True)
    ]
    report: dict[str, Any] = {"largest_difference": float(max(differences))}
    for batch in BATCHES:
        # Each call of one row takes a different row: a repeated row would find its paths in the cache.
        many, few = (range(200), range(5)) if batch == 1 else (range(1), range(1))
        ours = best(lambda: [model.classify(matrix[i : i + batch]) for i in many], repeats) / len(many)  # noqa: B023
        same, theirs = (
            best(lambda: [f.predict_proba(clean[i : i + batch]) for i in calls for f in of], repeats) / len(calls)  # noqa: B023
            for of, calls in ((compiled, many), (forests, few))
        )
        report[f"batch_{batch}"] = {
            "model_rows_per_second": round(batch / ours),
            "forests_rows_per_second": round(batch / same),
            "imbalanced_learn_rows_per_second": round(batch / theirs),
            "forests_over_imbalanced_learn": round(theirs / same, 1),
        }
    return report


def registry(file: Path, lake: str, repeats: int) -> dict[str, float]:
    """Milliseconds of the registry's operations; `look` is the cost for a worker at each batch."""
    for version in ("a", "b"):
        models.register(lake, LIGHTCURVE, version, file)
    changes = [best(lambda v=v: models.promote(lake, LIGHTCURVE, v), 1) for v in ("a", "b") * repeats]  # type: ignore[misc]
    served = Served(lake, LIGHTCURVE, load)
    first = best(served.get, 1)
    look = best(lambda: [served.get() for _ in range(100)], repeats) / 100
    models.roll_back(lake, LIGHTCURVE)
    swap = best(served.get, 1)
    times = {"promote_ms": min(changes), "first_get_ms": first, "look_ms": look, "get_after_promotion_ms": swap}
    return {name: round(seconds * 1e3, 2) for name, seconds in times.items()}


def measure(objects: int, trees: int, jobs: int, repeats: int) -> dict[str, Any]:
    """Every figure as a nested dictionary of numbers."""
    matrix, labels = rows(objects)
    model, forests, training = trained(matrix, labels, trees, jobs)
    fresh = rows(-(-max(BATCHES) // len(LIGHTCURVE_CLASSES)), SEED + 1)
    order = np.random.default_rng(SEED).permutation(len(fresh[1]))
    probe, truth = fresh[0][order], np.array(fresh[1])[order]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.forest"
        model.save(file)
        times = subprocess.run(
            [sys.executable, "-c", _FRESH, str(file)], capture_output=True, text=True, check=True
        ).stdout.split()
        loaded = load(file)
        report: dict[str, Any] = {
            "training": {"objects": len(labels), "trees": trees, "jobs": jobs, "seconds": round(training, 1)},
            "file": {
                "megabytes": round(file.stat().st_size / 1e6, 2),
                "load_ms": round(best(lambda: load(file), repeats) * 1e3, 1),
                **{
                    f"fresh_process_{name}_s": round(float(seconds), 3)
                    for name, seconds in zip(("import", "load", "first_row"), times, strict=True)
                },
            },
            "recall_of_the_15_classes": round(float(np.mean(np.array(loaded.classify(probe).class_names) == truth)), 3),
            "registry": registry(file, f"{folder}/lake", repeats),
            "inference": inference(loaded, forests, probe, repeats),
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--objects", type=int, default=1000, help="objects of each class in training")
    parser.add_argument("--trees", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2, help="cores for training")
    parser.add_argument("--repeats", type=int, default=5, help="calls of which the fastest counts")
    options = parser.parse_args()
    if not ONE_THREAD.items() <= os.environ.items():
        command = [sys.executable, "-m", "benchmarks.bench_forest", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | ONE_THREAD)
    report = measure(options.objects, options.trees, options.jobs, options.repeats)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
