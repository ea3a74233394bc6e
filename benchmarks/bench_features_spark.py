"""Features through Spark on all cores: objects/s, and the overhead over the bare functions.

`python -m benchmarks.bench_features_spark [--objects 2000] [--detections 60]` prints JSON. Baseline in the same run:
`features.io.table` over the same objects in one process and one thread. Ideal is baseline × cores; overhead is the
core-time above it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alerce_spark.config import load
from alerce_spark.features.io import table
from alerce_spark.session import spark_session
from alerce_spark.udfs import features
from benchmarks.bench_features import rows

_CORES = 2


def _light_curves(objects: int, detections: int) -> pa.Table:
    oid, offsets, columns = rows(objects, detections)
    return pa.table({"oid": np.repeat(oid.astype(str), np.diff(offsets)), **columns})


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=4000)
    parser.add_argument("--detections", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    curves = _light_curves(arguments.objects, arguments.detections)
    table(curves.slice(0, 50 * arguments.detections))
    bare = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        table(curves)
        bare.append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "curves.parquet")
        pq.write_table(curves, path, row_group_size=20_000)
        spark = spark_session(
            load(), "bench", spark__master=f"local[{_CORES}]", spark__sql__shuffle__partitions=str(_CORES)
        )
        through = []
        for _ in range(arguments.repeats + 1):
            start = time.perf_counter()
            features(spark.read.parquet(path)).write.format("noop").mode("overwrite").save()
            through.append(time.perf_counter() - start)
        spark.stop()
    one, spark_s = min(bare), min(through[1:])
    print(
        json.dumps(
            {
                "objects": arguments.objects,
                "detections": arguments.detections,
                "cores": _CORES,
                "bare_one_thread_s": one,
                "bare_objects_per_s_core": arguments.objects / one,
                "spark_s": spark_s,
                "spark_first_run_s": through[0],
                "spark_objects_per_s": arguments.objects / spark_s,
                "overhead_of_core_time": spark_s * _CORES / one - 1,
                "baseline": "features.io.table, one process, one thread",
                "load_before": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
