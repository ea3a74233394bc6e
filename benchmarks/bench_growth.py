"""Cost of an alert as the number of stored objects grows, for each query with look-ups, run alone.

`python -m benchmarks.bench_growth [--sizes 10000 100000 1000000] [--quick]` prints JSON. The same simulated sky goes on
night after night, as in bench_stream. Between the sizes, invented objects with 20 detections each fill the pixels of
the lake, and every table is compacted. Baseline: the cost at the smallest size, in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path

from alerce_spark import lake as lakes
from benchmarks.bench_stream import QUERIES, Bench
from benchmarks.sky import crowd, say

LOOKING_UP = ("stamps", "lightcurves", "photometry", "crossmatch")
_DETECTIONS = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--objects", type=int, default=800, help="of the simulated sky: an eighth of the first size")
    parser.add_argument("--days", type=int, default=420)
    parser.add_argument("--alerts", type=int, default=4000, help="of each size, half of them to warm up")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.objects, args.days, args.alerts, args.sizes = 80, 60, 200, [300, 1000]
    with tempfile.TemporaryDirectory() as scratch, Bench(Path(scratch), args.objects, args.days) as bench:
        lake = bench.settings("none", QUERIES).lake.path
        costs: dict[int, dict[str, float]] = {}
        bench.cost(args.alerts // 4)  # warms up the JVM for every query
        for size in args.sizes:
            crowd(lake, size, _DETECTIONS, seed=size)
            bench.compact(lake)
            stored = len(lakes.open(lake).table("objects").select("oid").collect())
            topic, packets = bench.topic(), list(islice(bench.live, args.alerts))
            cost = {name: bench.alone(topic, [name], packets) for name in LOOKING_UP}
            cost["results"] = bench.results(args.alerts // 2)
            costs[stored] = {name: round(value, 2) for name, value in cost.items()}
            say(f"{stored} objects: {costs[stored]} core-ms an alert")
    first, *_, last = (sum(cost.values()) for cost in costs.values())
    result = {
        "mix": bench.mix,
        "core_ms_an_alert": {f"{stored}_objects": cost for stored, cost in costs.items()},
        "largest_over_smallest": round(last / first, 2),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
