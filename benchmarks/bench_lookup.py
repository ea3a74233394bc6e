"""Time to look up the history of 25 and 1,000 objects in pixels of 5·10⁴ and 5·10⁶ rows, one thread, before and after
compaction, against the same read as a Spark job.

`python -m benchmarks.bench_lookup [--quick]` prints JSON. Detections and upper limits are synthetic, 50 of each for an
object, spread evenly over one crowded pixel and four small ones; columns that a look-up does not read are null. Row
groups have as many rows as Spark puts into 2 MiB of real ones (230 and 35 bytes a row), files as many as 128 MB hold.
*before*: 120 commits of one file a pixel lie on top of sorted files. *after*: all rows in sorted files again, written
by delta-rs in the layout of `lake/compact.py`, which would take minutes. Wall clock, medians over different objects;
*first* is the first look-up in new files, with footers that are not cached.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import WriterProperties, write_deltalake
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from alerce_spark import sky
from alerce_spark.config import conf_dir, load
from alerce_spark.lake import lookup, write
from alerce_spark.lake.tables import TABLES
from alerce_spark.lightcurves.assemble import DETECTION_COLUMNS, LIMIT_COLUMNS
from alerce_spark.session import spark_session

#: Libraries read these when they start; `main` sets them and starts again.
ONE_THREAD = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
ORDER = 4
CROWDED, SMALL = 1400, (1401, 1402, 1403, 1404)
ROWS_AN_OBJECT = 50
#: Name, pixels, number of objects of each look-up.
CASES = [(w, p, n) for w, p in (("crowded_pixel", (CROWDED,)), ("small_pixels", SMALL)) for n in (25, 1000)]
COLUMNS = {"detections": DETECTION_COLUMNS, "non_detections": LIMIT_COLUMNS}
#: Rows of a row group of 2 MiB and of a file of 128 MB, by table.
GROUP_ROWS = {"detections": 8_000, "non_detections": 8_000}
FILE_ROWS = {"detections": 550_000, "non_detections": 3_600_000}


@dataclass(frozen=True)
class Objects:
    """Objects of the lake: id, place [deg], pixel."""

    oid: NDArray[Any]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    pixel: NDArray[np.int64]


def make_objects(rows: dict[int, int], rng: np.random.Generator) -> Objects:
    """Objects spread evenly over the pixels, for so many rows in each."""
    index = np.concatenate(
        [rng.integers(*sky.index_range(pixel, ORDER), count // ROWS_AN_OBJECT) for pixel, count in rows.items()]
    )
    ra, dec = sky.position(index)
    oid = np.char.add("ZTF", np.char.zfill(np.arange(index.size).astype(str), 9))
    return Objects(oid, ra, dec, sky.parent(index, ORDER))


def make_rows(table: str, objects: Objects, of: NDArray[np.int64], rng: np.random.Generator) -> pl.DataFrame:
    """A row for each entry of `of` (numbers of objects) near it on the sky, sorted; columns that are read."""
    n = of.size
    scatter = rng.normal(0, 0.1 / 3600, (2, n))
    dec = np.clip(objects.dec[of] + scatter[0], -90, 90)
    ra = (objects.ra[of] + scatter[1] / np.cos(np.radians(dec))) % 360
    index = sky.healpix(ra, dec)
    known_columns = {
        "oid": pl.Series(objects.oid).gather(of),
        "ra": ra,
        "dec": dec,
        "healpix29": index,
        "pixel": sky.parent(index, ORDER),
        "survey": pl.repeat("ztf", n, eager=True),
        "candid": rng.integers(10**15, 10**16, n),
        "mjd": rng.uniform(58000, 59000, n),
        "fid": rng.integers(1, 3, n),
        "parent_candid": rng.integers(10**15, 10**16, n),
    }
    needed = {"pixel", "healpix29", "survey", *COLUMNS[table]}
    schema = pl.DataFrame(TABLES[table].arrow.empty_table()).schema
    columns = {}
    for name in (column for column in TABLES[table].names if column in needed):
        values: Any = known_columns.get(name)
        if values is None:
            values = rng.random(n) < 0.5 if schema[name] == pl.Boolean else rng.normal(19, 1, n)
        columns[name] = pl.Series(values).cast(schema[name])
    return pl.DataFrame(columns).sort("pixel", "healpix29")


def put(lake: str, table: str, rows: pl.DataFrame, mode: Literal["append", "overwrite"] = "append") -> None:
    """One commit of rows sorted by pixel and healpix29."""
    schema = TABLES[table].arrow

    def batches() -> Iterator[pa.RecordBatch]:
        # In pieces: as nulls of 116 columns all rows together would take gigabytes.
        for piece in rows.iter_slices(100_000):
            values = piece.to_arrow()
            columns = [
                values[f.name].cast(f.type) if f.name in rows.columns else pa.nulls(len(piece), f.type) for f in schema
            ]
            yield from pa.table(columns, schema=schema).combine_chunks().to_batches()

    write_deltalake(
        f"{lake}/{table}",
        pa.RecordBatchReader.from_batches(schema, batches()),
        mode=mode,
        writer_properties=WriterProperties(max_row_group_size=GROUP_ROWS[table], compression="SNAPPY"),
    )


def put_sorted(lake: str, table: str, rows: pl.DataFrame) -> None:
    """Rewrite all rows, in files as compaction makes them."""
    ordered = rows.sort("pixel", "healpix29", "oid", "fid", "mjd")
    for i, piece in enumerate(ordered.iter_slices(FILE_ROWS[table])):
        put(lake, table, piece, "append" if i else "overwrite")


def milliseconds(calls: Sequence[Callable[[], int]]) -> tuple[float, float]:
    """Time of the first call, and the median of the others; a call returns the number of rows found."""
    times = []
    for call in calls:
        start = time.perf_counter()
        if not call():
            raise RuntimeError("a look-up found nothing")
        times.append(1e3 * (time.perf_counter() - start))
    return round(times[0], 1), round(statistics.median(times[1:]), 1)


class Bench:
    """A lake and its look-ups."""

    def __init__(self, spark: SparkSession, lake: str, objects: Objects, rows: dict[str, pl.DataFrame]) -> None:
        self.spark = spark
        self.lake = lake
        self.objects = objects
        self.rows = rows
        self._rng = np.random.default_rng(7)

    def look_ups(self, repeats: int) -> dict[str, Any]:
        """ms of each look-up: by pixel, number of objects, table."""
        at = lookup.versions(self.lake, [*COLUMNS, "forced_photometry"])
        found: dict[str, Any] = {}
        for where, pixels, count in CASES:
            some = [self._some(pixels, count) for _ in range(repeats + 1)]
            times = found.setdefault(where, {})[f"{count}_objects"] = {}
            for table in COLUMNS:
                calls = [partial(self._read, table, objects) for objects in some]
                times[f"{table}_first_ms"], times[f"{table}_ms"] = milliseconds(calls)
                self._check(table, some[0])
            times["stored_history_ms"] = milliseconds([partial(self._history, objects, at) for objects in some])[1]
        return found

    def spark_jobs(self, repeats: int) -> dict[str, Any]:
        """ms of the same reads as Spark jobs, warm."""
        found: dict[str, Any] = {}
        for where, pixels, count in CASES:
            times = found.setdefault(where, {})[f"{count}_objects"] = {}
            some = [self._some(pixels, count) for _ in range(repeats + 1)]
            for table in COLUMNS:
                times[f"{table}_ms"] = milliseconds([partial(self._spark, table, objects) for objects in some])[1]
        return found

    def _some(self, pixels: Sequence[int], count: int) -> NDArray[np.int64]:
        there = np.flatnonzero(np.isin(self.objects.pixel, pixels))
        return self._rng.choice(there, min(count, there.size), replace=False)

    def _read(self, table: str, some: NDArray[np.int64]) -> int:
        pixels, ranges = lookup.near(self.objects.ra[some], self.objects.dec[some], ORDER)
        oids = pl.Series(self.objects.oid[some])
        return lookup.read(self.lake, table, COLUMNS[table], oids, pixels, None, ranges).height

    def _history(self, some: NDArray[np.int64], at: dict[str, int]) -> int:
        oids = pl.Series(self.objects.oid[some])
        stored = lookup.stored_history(self.lake, oids, self.objects.ra[some], self.objects.dec[some], at)
        return len(stored.detections)

    def _spark(self, table: str, some: NDArray[np.int64]) -> int:
        pixels = sky.near_pixels(self.objects.ra[some], self.objects.dec[some], ORDER)
        rows = self.spark.read.format("delta").load(f"{self.lake}/{table}")
        rows = rows.where(F.col("pixel").isin(pixels.tolist()) & F.col("oid").isin(self.objects.oid[some].tolist()))
        return int(rows.select(*COLUMNS[table]).toArrow().num_rows)

    def _check(self, table: str, some: NDArray[np.int64]) -> None:
        """Check that the look-up finds all rows. Raises RuntimeError: a speed would be meaningless."""
        oids = pl.Series(self.objects.oid[some])
        there = self.rows[table].select(pl.col("oid").is_in(oids.implode()).sum()).item()
        found = self._read(table, some)
        if found != there:
            raise RuntimeError(f"{table}: {found} of {there} rows found")


def ratios(baseline: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """baseline / ours for every figure of `baseline`, in the same nesting."""
    return {
        name: ratios(value, ours[name]) if isinstance(value, dict) else round(value / ours[name], 1)
        for name, value in baseline.items()
    }


def measure(folder: Path, crowded: int, small: int, commits: int, repeats: int) -> dict[str, Any]:
    """All states."""
    settings = load(conf_dir() / "alerce.toml", {"lake": {"path": str(folder / "lake"), "healpix_order": ORDER}})
    scratch = {"spark__local__dir": str(folder / "spark"), "spark__sql__warehouse__dir": str(folder / "warehouse")}
    spark = spark_session(settings, "bench_lookup", **scratch)
    lake = settings.lake.path
    write.create(lake, ORDER)
    rng = np.random.default_rng(11)
    objects = make_objects({CROWDED: crowded, **dict.fromkeys(SMALL, small)}, rng)
    every = np.repeat(np.arange(objects.oid.size), ROWS_AN_OBJECT)
    rows: dict[str, list[pl.DataFrame]] = {}
    for table in COLUMNS:
        rows[table] = [make_rows(table, objects, every, rng)]
        put_sorted(lake, table, rows[table][0])
        progress(f"{table}: {len(every)} rows")
        for _ in range(commits):
            some = np.concatenate([rng.choice(np.flatnonzero(objects.pixel == p), 40) for p in (CROWDED, *SMALL)])
            rows[table].append(make_rows(table, objects, some, rng))
            put(lake, table, rows[table][-1])
    progress(f"{commits} commits on top")
    bench = Bench(spark, lake, objects, {table: pl.concat(parts) for table, parts in rows.items()})
    result: dict[str, Any] = {
        "rows_of_the_crowded_pixel": crowded,
        "rows_of_each_small_pixel": small,
        "commits_on_top": commits,
        "before_compaction": bench.look_ups(repeats),
    }
    progress("looked up before compaction")
    for table in COLUMNS:
        put_sorted(lake, table, bench.rows[table])
    result["after_compaction"] = bench.look_ups(repeats)
    progress("looked up after compaction")
    result["spark_job_after_compaction"] = bench.spark_jobs(max(repeats // 4, 1))
    result["spark_job_over_look_up"] = ratios(result["spark_job_after_compaction"], result["after_compaction"])
    return result


def progress(text: str) -> None:
    """Print a line of progress."""
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Prints the measurement as one JSON object."""
    parser = argparse.ArgumentParser(description=" ".join((__doc__ or "").split("\n\n")[0].split()))
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows")
    quick = parser.parse_args().quick
    if not ONE_THREAD.items() <= os.environ.items():
        command = [sys.executable, "-m", "benchmarks.bench_lookup", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | ONE_THREAD, check=False).returncode)
    with tempfile.TemporaryDirectory(prefix="bench_lookup") as folder:
        sizes = (50_000, 5_000, 5, 2) if quick else (5_000_000, 50_000, 120, 9)
        print(json.dumps(measure(Path(folder), *sizes), indent=1))


if __name__ == "__main__":
    main()
