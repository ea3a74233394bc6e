"""TAP: rows scanned a second, one object, a cone, and 1,000 uploaded positions; CPU of the process that runs the query.

python benchmarks/bench_tap.py LAKE
"""

from __future__ import annotations

import resource
import shutil
import sys
import time

import numpy as np
import polars as pl
import pyarrow as pa

from alerce_spark.api.tap.engine import Engine
from alerce_spark.api.tap.sources import Upload
from alerce_spark.api.tap.tables import Column
from alerce_spark.config import ServicesSettings

REPEATS = 3


def main(lake: str) -> None:
    """Print a line for each query."""
    engine = Engine(lake, ServicesSettings())
    objects = pl.scan_delta(f"{lake}/objects").select("oid", "meanra", "meandec").collect()
    count = pl.scan_delta(f"{lake}/detections").select(pl.len()).collect().item()
    one = objects.row(len(objects) // 2, named=True)
    some = objects.sample(min(1000, len(objects)), seed=1)
    columns = tuple(Column(name, "double", "deg", name, name) for name in ("ra", "dec"))
    places = pa.table({"ra": some["meanra"].to_numpy(), "dec": some["meandec"].to_numpy() + 0.3 / 3600})
    uploads = {"mine": Upload("mine", columns, places)}
    cone = f"CIRCLE({one['meanra']}, {one['meandec']}, {{}})"
    near = "1 = CONTAINS(POINT(o.meanra, o.meandec), {})"
    queries = {
        "nothing (a process)": "SELECT TOP 1 schema_name FROM TAP_SCHEMA.schemas",
        f"aggregate over {count:,} detections": (
            "SELECT fid, COUNT(*) AS n, AVG(magpsf) AS m, MAX(rb) AS r FROM ztf.detection GROUP BY fid"
        ),
        "detections of one oid": f"SELECT mjd, magpsf FROM ztf.detection WHERE oid = '{one['oid']}'",
        'objects in 30"': f"SELECT oid FROM ztf.object AS o WHERE {near.format(cone.format(30 / 3600))}",
        "objects in 1 deg": f"SELECT oid FROM ztf.object AS o WHERE {near.format(cone.format(1.0))}",
        'uploaded positions, 1"': (
            "SELECT u.ra, o.oid FROM tap_upload.mine AS u JOIN ztf.object AS o ON "
            f"{near.format('CIRCLE(u.ra, u.dec, 1 / 3600.0)')}"
        ),
    }
    for name, query in queries.items():
        figures = [_measured(engine, query, uploads) for _ in range(REPEATS)]
        cpu, wall, rows = np.min([f[0] for f in figures]), np.min([f[1] for f in figures]), figures[0][2]
        print(f"{name:40s} {rows:8,} rows  {cpu:6.2f} CPU-s  {wall:6.2f} s wall")
    engine.close()


def _measured(engine: Engine, query: str, uploads: dict[str, Upload]) -> tuple[float, float, int]:
    folder = engine.place()
    before, began = _cpu(), time.perf_counter()
    result = engine.run(query, uploads, 1_000_000, 300, folder)
    took = _cpu() - before, time.perf_counter() - began, result.rows
    shutil.rmtree(folder)
    return took


def _cpu() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


if __name__ == "__main__":
    main(sys.argv[1])
