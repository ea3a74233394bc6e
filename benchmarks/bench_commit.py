"""Time of a commit of 8 files with and without synchronising them to the disk (lake.sync), one thread.

`python -m benchmarks.bench_commit [--repeats N] [--folder DIR]` prints JSON. A commit does the same as a batch does
with a table of the sky: it writes rows of 8 pixels as 8 files, deletes the replaced rows by a deletion vector, and
commits. Two lakes take turns, so that both see the same disk; medians and the 95th percentile of wall clock.
`fsync_of_8_files_ms` is the disk alone: 8 files of the same size written and synchronised one after the other. Results
depend on the disk: DIR should be on that of the lake.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from alerce_spark import sky
from alerce_spark.lake import lookup, write
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES

ORDER = 4
PIXELS = (100, 400, 700, 1000, 1300, 1600, 1900, 2200)
#: Objects of each pixel: a batch of 4,000 alerts of a few nights.
OBJECTS = 500


def rows(number: int) -> pa.Table:
    """Rows of magstats, the same objects each time."""
    records = []
    for pixel in PIXELS:
        first, last = sky.index_range(pixel, ORDER)
        for k, index in enumerate(np.linspace(first, last - 1, OBJECTS, dtype=np.int64).tolist()):
            row = {c.name: None for c in TABLES["magstats"].columns}
            row |= {c.name: False for c in TABLES["magstats"].columns if c.required and c.type == "boolean"}
            row |= {"pixel": pixel, "healpix29": index, "survey": "ztf", "oid": f"ZTF{pixel}x{k}", "fid": 1}
            row |= {"ndet": number, "ndubious": 0, "nrfid": 1, "firstmjd": 59000.0, "lastmjd": 59000.0 + number}
            records.append(row)
    return pa.Table.from_pylist(records, TABLES["magstats"].arrow)


def commit_ms(lake: str, new: pa.Table) -> float:
    """Milliseconds from rows to the commit that names them."""
    version = lookup.versions(lake, ["magstats"])["magstats"]
    begin = time.perf_counter()
    write.commit(lake, "magstats", version, write.replace(lake, "magstats", new, version))
    return (time.perf_counter() - begin) * 1e3


def disk_ms(folder: Path, size: int) -> float:
    """Milliseconds to write 8 files and synchronise each."""
    begin = time.perf_counter()
    for k in range(len(PIXELS)):
        with (folder / f"file{k}").open("wb") as sink:
            sink.write(os.urandom(size))
            sink.flush()
            os.fsync(sink.fileno())
    return (time.perf_counter() - begin) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        lakes = {"synced": f"{folder}/synced", "unsynced": f"{folder}/unsynced"}
        for name, lake in lakes.items():
            write.create(lake, ORDER, sync=name == "synced")
        times: dict[str, list[float]] = {name: [] for name in lakes}
        disk = []
        for k in range(options.repeats + 3):
            new = rows(k)
            for name in sorted(lakes, reverse=bool(k % 2)):
                milliseconds = commit_ms(lakes[name], new)
                if k >= 3:  # the first commits load libraries
                    times[name].append(milliseconds)
            disk.append(disk_ms(Path(folder), 20_000))
        last = table_of(lakes["synced"], "magstats").live()
    result = {
        "commits_of_each": options.repeats,
        "files": len(PIXELS),
        "rows": len(PIXELS) * OBJECTS,
        "live_files": len(last.files),
        **{f"{name}_ms": round(statistics.median(values), 2) for name, values in times.items()},
        **{f"{name}_95th_ms": round(float(np.percentile(values, 95)), 2) for name, values in times.items()},
        "fsync_of_8_files_ms": round(statistics.median(disk), 2),
        "synced_over_unsynced": round(statistics.median(np.divide(times["synced"], times["unsynced"])), 3),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
