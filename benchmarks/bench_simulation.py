"""Speed of the simulator: labelled light curves and packets a second, one core.

`python -m benchmarks.bench_simulation [--objects 1000] [--repeats 3]` prints JSON. Light curves are those of every
class, the same number of each, after the selection; the time includes rejected objects. Packets are those of one night
with a history of 30 days, with and without stamps.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import numpy as np

from alerce_spark.simulation.curves import CLASSES, light_curves
from alerce_spark.simulation.night import simulate
from benchmarks.bench_features import ONE_THREAD, best


def curves(count: int, repeats: int) -> dict[str, Any]:
    """Objects a second of all classes together and of each."""
    sample = light_curves(1, count)
    rates = {name: count / best(lambda name=name: light_curves(1, {name: count}), repeats) for name in CLASSES}  # type: ignore[misc]
    return {
        "objects": len(sample),
        "detections_per_object": round(len(sample.detections["mjd"]) / len(sample), 1),
        "upper_limits_per_object": round(len(sample.non_detections["mjd"]) / len(sample), 1),
        "objects_per_second": round(1e3 * len(sample) / best(lambda: light_curves(1, count), repeats)),
        "objects_per_second_by_class": {name: round(1e3 * rate) for name, rate in rates.items()},
    }


def packets(count: int, repeats: int) -> dict[str, Any]:
    """Packets a second of one night of `count` objects."""
    found: dict[str, Any] = {}
    for stamps in (True, False):
        night = simulate(1, objects=count, stamps=stamps)
        time = best(lambda stamps=stamps: simulate(1, objects=count, stamps=stamps), repeats)  # type: ignore[misc]
        found["with_stamps" if stamps else "without_stamps"] = {
            "packets": len(night.packets),
            "median_bytes": int(np.median([len(packet) for packet in night.packets])),
            "packets_per_second": round(1e3 * len(night.packets) / time),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--objects", type=int, default=1000, help="light curves of each class, and objects of the night"
    )
    parser.add_argument("--repeats", type=int, default=3, help="calls of which the fastest counts")
    options = parser.parse_args()
    if not ONE_THREAD.items() <= os.environ.items():
        command = [sys.executable, "-m", "benchmarks.bench_simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | ONE_THREAD)
    result = {
        "light_curves": curves(options.objects, options.repeats),
        "packets": packets(options.objects, options.repeats),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
