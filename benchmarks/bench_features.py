"""Time of the 152 features: per family and total, for one object per call and for a batch of 500, on one core.

`python -m benchmarks.bench_features [--objects 500] [--repeats 5]` prints JSON. Light curves are simulated RR Lyrae in
a realistic cadence over 1000 d, n detections in two bands. The baselines run in the same process on the same grid of
frequencies: astropy's floating-mean LombScargle (its fast method) and nifty-ls in double precision, both per band;
neither combines bands nor refines peaks. The figures of ALeRCE's lc_classifier 2.1 come from another run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import nifty_ls
import numpy as np
from astropy.timeseries import LombScargle

from alerce_spark.features import periodogram
from alerce_spark.features.curves import Float, Objects, Scratch
from alerce_spark.features.extract import FAMILIES, extract
from alerce_spark.features.select import from_offsets

#: Libraries read these when they start; `main` sets them and starts again.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
SIZES = (20, 60, 200, 600)
SPAN = 1000.0
#: ms an object in batches, 1000 d, as measured on one core of a 2-vCPU AMD EPYC (Zen 4) virtual machine.
LC_CLASSIFIER = {20: 36.3, 60: 149.0, 200: 368.0, 600: 967.0}

_IMPORT = """
import time; start = time.perf_counter()
from alerce_spark.features.extract import extract
imported = time.perf_counter()
from benchmarks.bench_features import rows
from alerce_spark.features.select import from_offsets
objects = from_offsets(*rows(1, 60)); ready = time.perf_counter()
extract(objects); first = time.perf_counter()
extract(objects); second = time.perf_counter()
print(imported - start, first - ready, second - first)
"""


def rows(count: int, n: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Ids, offsets and columns of `count` RR Lyrae with n detections each, in two bands over SPAN days."""
    rng = np.random.default_rng(20240607)
    nights = np.arange(0.0, SPAN, 3.0)
    nights = nights[nights % 365.25 < 225.0]
    columns: dict[str, list[Float]] = {name: [] for name in ("mjd", "fid", "magpsf", "sigmapsf")}
    for _ in range(count):
        epochs = nights + rng.uniform(0.18, 0.42, (4, len(nights)))
        pools = (epochs[::2].ravel(), epochs[1::2].ravel())
        mjd = np.concatenate([np.sort(rng.choice(pool, n // 2, replace=False)) for pool in pools])
        phase = 2.0 * np.pi * mjd / rng.uniform(0.4, 0.8)
        mag = 17.0 + 0.36 * np.sin(phase) + 0.17 * np.sin(2.0 * phase + 2.35) + 0.11 * np.sin(3.0 * phase + 4.9)
        err = np.full(n, 0.03)
        values = (58300.0 + mjd, np.repeat([1.0, 2.0], n // 2), mag + err * rng.normal(size=n), err)
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    oid = np.array([f"ZTF{k:09d}" for k in range(count)], dtype=object)
    return oid, np.arange(count + 1) * n, {name: np.concatenate(values) for name, values in columns.items()}


def best(call: Callable[[], Any], repeats: int) -> float:
    """Least time of `repeats` calls [ms]: other processes only add to it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def families(objects: Objects, repeats: int) -> dict[str, float]:
    """ms an object of each family."""
    scratch = Scratch()
    found = {}
    for family in FAMILIES:
        found[family.name] = best(lambda f=family: f.compute(objects, scratch), repeats) / len(objects)  # type: ignore[misc]
    return found


def baselines(objects: Objects, repeats: int) -> dict[str, float]:
    """ms an object of other period searches on the grid of ours."""
    frequency, _ = periodogram.spectrum(objects, 0)
    bands = []
    for curves in objects.bands:
        one = slice(curves.offsets[0], curves.offsets[1])
        bands.append((curves.mjd[one] - curves.mjd[0], curves.mag[one], curves.err[one]))
    grid = {"fmin": frequency[0], "fmax": frequency[-1], "Nf": len(frequency)}

    def nifty() -> None:
        for t, m, e in bands:
            nifty_ls.lombscargle(t, m, e, nthreads=1, **grid)

    def astropy() -> None:
        for t, m, e in bands:
            LombScargle(t, m, e).power(frequency, method="fast", assume_regular_frequency=True)

    return {"nifty_ls": best(nifty, repeats), "astropy": best(astropy, min(repeats, 3))}


def measure(count: int, repeats: int) -> dict[str, Any]:
    """Everything, as plain numbers."""
    report: dict[str, Any] = {"unit": "ms per object", "objects": count, "sizes": {}}
    for n in SIZES:
        few = from_offsets(*rows(20, n))
        extract(few)
        by_family = families(few, repeats)
        single, many = rows(1, n), rows(count, n)
        whole = best(lambda many=many: extract(from_offsets(*many)), 2) / count  # type: ignore[misc]
        others = baselines(few, repeats)
        report["sizes"][str(n)] = {
            "families": {name: round(value, 4) for name, value in by_family.items()},
            "single_call": round(best(lambda one=single: extract(from_offsets(*one)), 10 * repeats), 3),  # type: ignore[misc]
            "batch": round(whole, 3),
            "objects_per_second": round(1e3 / whole, 1),
            "selection": round(best(lambda many=many: from_offsets(*many), repeats) / count, 4),  # type: ignore[misc]
            "baseline_period_search": {name: round(value, 2) for name, value in others.items()},
            "period_search_over_nifty_ls": round(others["nifty_ls"] / by_family["periodogram"], 1),
            "period_search_over_astropy": round(others["astropy"] / by_family["periodogram"], 1),
            "lc_classifier_2.1_elsewhere": LC_CLASSIFIER[n],
            "ratio_to_lc_classifier": round(LC_CLASSIFIER[n] / whole, 1),
        }
    output = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True).stdout
    names = ("import_s", "first_call_s", "second_call_s")
    report["fresh_process_with_warm_cache"] = dict(zip(names, map(float, output.split()), strict=True))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--objects", type=int, default=500, help="objects in the batch")
    parser.add_argument("--repeats", type=int, default=5, help="calls of which the fastest counts")
    options = parser.parse_args()
    if not ONE_THREAD.items() <= os.environ.items():
        command = [sys.executable, "-m", "benchmarks.bench_features", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | ONE_THREAD)
    print(json.dumps(measure(options.objects, options.repeats), indent=1))


if __name__ == "__main__":
    main()
