"""Time of the steps of a worker of the query `lightcurves` per alert, on one core.

`python -m benchmarks.bench_lightcurves [--alerts 2000] [--quick]` prints JSON. The sky and the lake of bench_stream;
the worker's function runs over batches of 500 alerts, without Spark and Kafka; its steps and the feature families are
timed separately (CPU time). The difference from the cost of the query in bench_stream is due to Spark and Kafka.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from alerce_spark.classifiers.lightcurve import LightcurveModel
from alerce_spark.features import extract
from alerce_spark.kafka import records
from alerce_spark.lake.serving import Serving
from alerce_spark.streaming.queries import lightcurves
from benchmarks.bench_decode import ONE_THREAD
from benchmarks.bench_stream import Bench
from benchmarks.sky import say

_BATCH = 500
#: Steps by the functions in which they happen; none is within another.
_STEPS: dict[str, tuple[Any, str]] = {
    "decode": (lightcurves, "decode"),
    "look_ups": (lightcurves, "_stored"),
    "light_curves": (lightcurves, "light_curves"),
    "allwise": (lightcurves, "_wise"),
    "selection": (lightcurves, "select"),
    "features": (lightcurves, "from_objects"),
    "novelty": (lightcurves, "_novelty"),
    "statistics": (lightcurves, "statistics_of"),
    "classifier": (LightcurveModel, "classify"),
    "outlier_score": (Serving, "outlier"),
    "encoding": (type(records.LIGHTCURVE), "encode"),
}


class Stopwatch:
    """CPU seconds in functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, wrapped to record its time."""

        def call(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                self.seconds[name] += time.process_time() - start

        return call

    def milliseconds(self, count: int) -> dict[str, float]:
        """Time per item of `count`, the most expensive first."""
        ordered = sorted(self.seconds.items(), key=lambda item: -item[1])
        return {name: round(1000 * value / count, 3) for name, value in ordered}


def batches(packets: list[bytes]) -> Iterator[pa.RecordBatch]:
    """Packets as a worker gets them."""
    for first in range(0, len(packets), _BATCH):
        some = packets[first : first + _BATCH]
        count = len(some)
        yield pa.RecordBatch.from_pydict(
            {
                "packet": pa.array(some, pa.binary()),
                "source": ["bench"] * count,
                "partition": pa.array([0] * count, pa.int32()),
                "offset": pa.array(range(first, first + count), pa.int64()),
                "received": pa.array([datetime.now(UTC)] * count, pa.timestamp("us", tz="UTC")),
            }
        )


def measure(bench: Bench, count: int) -> dict[str, Any]:
    """Core-milliseconds an alert and a result."""
    settings = bench.settings("none", ["lightcurves"])
    worker = lightcurves._worker(settings.lake.path, None)
    parts = list(batches(list(islice(bench.live, count + _BATCH))))
    list(lightcurves._classified(parts[0], settings.survey, worker))  # kernels and models are loaded then
    steps, families = Stopwatch(), Stopwatch()
    with ExitStack() as stack:
        for name, (owner, attribute) in _STEPS.items():
            stack.enter_context(patch.object(owner, attribute, steps.timed(name, getattr(owner, attribute))))
        timed = tuple(dataclasses.replace(f, compute=families.timed(f.name, f.compute)) for f in extract.FAMILIES)
        stack.enter_context(patch.object(extract, "FAMILIES", timed))
        start = time.process_time()
        results = sum(1 for part in parts[1:] for _ in lightcurves._classified(part, settings.survey, worker))
        total = time.process_time() - start
    steps.seconds["the_rest"] = total - sum(steps.seconds.values())
    say(f"{results} results of {count} alerts in {total:.1f} s")
    return {
        "mix": bench.mix,
        "alerts": count,
        "results": results,
        "core_ms_an_alert": round(1000 * total / count, 2),
        "core_ms_a_result": round(1000 * total / results, 2),
        "steps_core_ms_an_alert": steps.milliseconds(count),
        "features_core_ms_an_alert": families.milliseconds(count),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=6000)
    parser.add_argument("--days", type=int, default=420)
    parser.add_argument("--alerts", type=int, default=2000)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.objects, args.days, args.alerts = 80, 60, 500
    one = ONE_THREAD | {"POLARS_MAX_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in one.items()):
        command = [sys.executable, "-m", "benchmarks.bench_lightcurves", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | one, check=False).returncode)
    with tempfile.TemporaryDirectory() as scratch, Bench(Path(scratch), args.objects, args.days) as bench:
        result = measure(bench, args.alerts)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
