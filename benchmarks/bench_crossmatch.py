"""Speed of cross-matching: positions with positions against astropy and lsdb, and look-ups in a local catalogue.

`python -m benchmarks.bench_crossmatch [--quick] [--repeats 3] [--lsdb-python PATH]` prints JSON. 10⁵ positions, each
with a source about half an arcsecond away, among 10⁷ unsorted sources over the whole sky; the nearest within an
arcsecond. One core, except for the query, which uses all. lsdb needs a separate environment: PATH is a Python that has
it (default: LSDB_PYTHON of the environment), and its catalogues are in memory before its clock starts. The look-ups are
those of a stream: objects of one exposure in an imported catalogue. The query is `Crossmatch.process` on Spark: packets
with stamps of new objects in one exposure, from files to committed rows.
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

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.coordinates import SkyCoord, match_coordinates_sky, search_around_sky

from alerce_spark.config import conf_dir
from alerce_spark.config import load as load_settings
from alerce_spark.crossmatch.catalogs import load
from alerce_spark.crossmatch.match import nearest, within
from alerce_spark.lake import catalogs, write
from alerce_spark.session import spark_session
from alerce_spark.simulation.night import simulate
from alerce_spark.streaming.queries.crossmatch import Crossmatch
from alerce_spark.streaming.source import from_files, names
from alerce_spark.surveys.ztf import ZTF

#: Libraries read these when they start; `main` sets them and starts again.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
RADIUS = 1.0  # arcsec
EXPOSURE = 3.4  # half the side of an exposure of 47 square degrees [deg]
#: New objects of the batches of the query; the first batch warms up. The second is the batch size of the light curves,
#: the last the largest batch of the query.
BATCHES = (800, 800, 8000)

_LSDB = """
import json, sys, time
import dask, lsdb, numpy as np, pandas as pd
dask.config.set(num_workers=1)
folder, repeats, radius = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
def catalog(name, **options):
    ra, dec = np.load(f"{folder}/{name}.npy")
    rows = pd.DataFrame({"ra": ra, "dec": dec, "number": np.arange(ra.size)})
    return lsdb.from_dataframe(rows, ra_column="ra", dec_column="dec", catalog_name=name, **options)
start = time.perf_counter()
left, right = catalog("positions", margin_threshold=None), catalog("sources", margin_threshold=5.0)
made = time.perf_counter() - start
times = []
for _ in range(repeats):
    start = time.perf_counter()
    found = left.crossmatch(right, radius_arcsec=radius, n_neighbors=1, suffixes=("_l", "_r")).compute()
    times.append(time.perf_counter() - start)
told = {"version": lsdb.__version__, "prepare_s": round(made, 1), "seconds": min(times), "matched": len(found)}
print(json.dumps(told))
"""


def sky_points(size: int, rng: np.random.Generator) -> np.ndarray:
    """Positions (2, size) [deg] spread evenly."""
    return np.array([rng.uniform(0, 360, size), np.degrees(np.arcsin(rng.uniform(-1, 1, size)))])


def near(points: np.ndarray, scatter: float, rng: np.random.Generator) -> np.ndarray:
    """Points moved by normally distributed steps [arcsec]."""
    steps = rng.normal(0, scatter / 3600, points.shape)
    steps[0] /= np.cos(np.radians(points[1]))
    return np.array([(points[0] + steps[0]) % 360, np.clip(points[1] + steps[1], -90, 90)])


def best(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Seconds of the fastest of `repeats` calls, and the last result."""
    times, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return min(times), result


def in_memory(positions: np.ndarray, sources: np.ndarray, repeats: int) -> dict[str, Any]:
    """Nearest source, and all within the radius, against astropy in the same run; the results must agree."""
    nearest(*positions, *sources[:, :10], RADIUS)  # compiles
    ours, (source, _) = best(lambda: nearest(*positions, *sources, RADIUS), repeats)
    ours_all, pairs = best(lambda: within(*positions, *sources, RADIUS), repeats)
    progress("ours")
    left, right = SkyCoord(*positions, unit="deg"), SkyCoord(*sources, unit="deg")
    # Without a stored tree: a stream meets each part of a catalogue once.
    theirs, found = best(lambda: match_coordinates_sky(left, right, storekdtree=False), max(repeats // 2, 1))
    expected = np.where(found[1].arcsec <= RADIUS, found[0], -1)
    theirs_all, around = best(lambda: search_around_sky(left, right, RADIUS * u.arcsec, storekdtree=False), 1)
    progress("astropy")
    assert np.array_equal(source, expected)
    assert len(pairs) == len(around[0])
    size = positions.shape[1]
    match_coordinates_sky(left, right, storekdtree="tree")
    stored, _ = best(lambda: match_coordinates_sky(left, right, storekdtree="tree"), 1)
    return {
        "positions": size,
        "sources": sources.shape[1],
        "matched": int((source >= 0).sum()),
        "nearest_positions_per_second": round(size / ours),
        "within_positions_per_second": round(size / ours_all),
        "astropy_nearest_positions_per_second": round(size / theirs),
        "astropy_within_positions_per_second": round(size / theirs_all),
        "astropy_tree_stored_positions_per_second": round(size / stored),
        "nearest_over_astropy": round(theirs / ours, 1),
        "within_over_astropy": round(theirs_all / ours_all, 1),
        "nearest_over_astropy_tree_stored": round(stored / ours, 1),
    }


def against_lsdb(
    python: Path | None, folder: Path, positions: np.ndarray, sources: np.ndarray, ours: dict[str, Any], repeats: int
) -> dict[str, Any]:
    """lsdb on the same points, in a separate process."""
    if python is None:
        return {"skipped": "no --lsdb-python"}
    for name, points in (("positions", positions), ("sources", sources)):
        np.save(folder / name, points)
    command = [str(python), "-W", "ignore", "-c", _LSDB, str(folder), str(repeats), str(RADIUS)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    progress("lsdb")
    assert found["matched"] == ours["matched"]
    rate = ours["positions"] / found.pop("seconds")
    return found | {
        "positions_per_second": round(rate),
        "nearest_over_lsdb": round(ours["nearest_positions_per_second"] / rate, 1),
    }


def in_exposure(sources: np.ndarray) -> np.ndarray:
    """Rows of the sources in one exposure."""
    return np.flatnonzero((abs(sources[0] - 180) < EXPOSURE) & (abs(sources[1] - 20) < EXPOSURE))


def local_catalogue(folder: Path, sources: np.ndarray, repeats: int, rng: np.random.Generator) -> dict[str, Any]:
    """Import of the sources as AllWISE, look-ups of objects of one exposure, and objects all over the sky."""
    settings = load(conf_dir() / "catalogs.toml", ZTF)["allwise"]
    size = sources.shape[1]
    names = pa.array(np.char.add("J", np.arange(size).astype(str)))
    attributes = {name: rng.normal(15, 2, size).round(3) for name in settings.attributes}
    file, lake = folder / "sources.parquet", str(folder / "lake")
    pq.write_table(pa.table({"designation": names, "ra": sources[0], "dec": sources[1]} | attributes), file)
    start = time.perf_counter()
    done = catalogs.import_catalog(lake, "allwise", settings, [file], folder)
    imported = time.perf_counter() - start
    progress(f"{done.rows} rows imported")
    result: dict[str, Any] = {
        "rows": done.rows,
        "import_rows_per_second": round(done.rows / imported),
        "order": done.order,
    }
    fields = (("one_exposure", in_exposure(sources), (200, 1000)), ("all_sky", np.arange(size), (200, 100_000)))
    for field, choice, sizes in fields:
        for number in sizes:
            some = near(sources[:, rng.choice(choice, min(number, choice.size), replace=False)], 0.4, rng)
            mjd = np.full(some.shape[1], 59000.0)
            start = time.perf_counter()
            catalogs.match(lake, "allwise", *some, mjd)
            first = time.perf_counter() - start
            seconds, found = best(lambda: catalogs.match(lake, "allwise", *some, mjd), repeats)  # noqa: B023
            result[f"{field}_{some.shape[1]}_objects"] = {
                "first_ms": round(first * 1000, 1),
                "ms": round(seconds * 1000, 2),
                "matched": some.shape[1] - found["separation"].null_count,
            }
    empty = str(folder / "nothing")
    catalogs.local(empty, "allwise")
    calls = 1000
    seconds, _ = best(lambda: [catalogs.local(empty, "allwise") for _ in range(calls)], repeats)
    result["absent_catalogue_microseconds"] = round(seconds / calls * 1e6, 2)
    return result


def query(folder: Path, sources: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Seconds of the query for batches of new objects, half of them with a source, and for the same objects again."""
    lake = str(folder / "lake")
    write.create(lake, 4)
    near_source = rng.permutation(in_exposure(sources))
    spark = spark_session(load_settings(conf_dir() / "alerce.toml"), "alerce-spark bench")
    slices = spark.sparkContext.defaultParallelism
    crossmatch = Crossmatch(spark, lake, "ztf", lambda: None)
    result: dict[str, Any] = {}
    for number, objects in enumerate(BATCHES):
        mine, near_source = near_source[: objects // 2], near_source[objects // 2 :]
        places = np.array([rng.uniform(180 - 3, 180 + 3, objects), rng.uniform(17, 23, objects)])
        places[:, : mine.size] = sources[:, mine]
        packets = folder / f"packets{number}"
        packets.mkdir()
        night = simulate(number, objects=objects, positions=places.T, alerts_per_object=1)
        for candid, packet in zip(night.candids, night.packets, strict=True):
            (packets / f"{candid}.avro").write_bytes(packet)
        figures = {}
        for name in ("s", "again_s"):
            frame = from_files(spark, sorted(packets.iterdir()), slices, names(spark))
            start = time.perf_counter()
            done = crossmatch.process(frame)
            figures[name] = round(time.perf_counter() - start, 2)
            if name == "s":
                figures |= {"rows": sum(done.rows.values()), "matched": done.found["allwise"]}
        result["warm_up" if number == 0 else f"{objects}_objects"] = figures
        progress(f"query: {objects} objects {figures}")
    spark.stop()
    return result | {"cores": len(os.sched_getaffinity(0))}


def progress(text: str) -> None:
    """Print a line of progress."""
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Prints the measurement as one JSON object."""
    parser = argparse.ArgumentParser(description=" ".join((__doc__ or "").split("\n\n")[0].split()))
    parser.add_argument("--quick", action="store_true", help="a hundredth of the points")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--lsdb-python", type=Path, default=os.environ.get("LSDB_PYTHON"), help="a Python with lsdb; also LSDB_PYTHON"
    )
    arguments = parser.parse_args()
    if not ONE_THREAD.items() <= os.environ.items():
        command = [sys.executable, "-m", "benchmarks.bench_crossmatch", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | ONE_THREAD, check=False).returncode)
    rng = np.random.default_rng(17)
    size, many = (1000, 100_000) if arguments.quick else (100_000, 10_000_000)
    positions = sky_points(size, rng)
    sources = np.concatenate([near(positions, 0.4, rng), sky_points(many - size, rng)], axis=1)
    sources = sources[:, rng.permutation(many)]
    with tempfile.TemporaryDirectory(prefix="bench_crossmatch") as name:
        folder = Path(name)
        memory = in_memory(positions, sources, arguments.repeats)
        lsdb = against_lsdb(arguments.lsdb_python, folder, positions, sources, memory, arguments.repeats)
        local = local_catalogue(folder, sources, arguments.repeats, rng)
        batches = query(folder, sources, rng)
    print(json.dumps({"in_memory": memory, "lsdb": lsdb, "local_catalogue": local, "query": batches}, indent=1))


if __name__ == "__main__":
    main()
