"""Start of the command: seconds and processor seconds of help, version, status, a refused argument and small tables.

`python -m benchmarks.bench_start [--baseline COMMIT] [--repeats N]` prints JSON. The baseline is a commit, checked out
next to this tree; both take turns, so that other work on the machine affects both equally. Each run is a fresh Python
process; medians. Processor seconds are of the Python process, without a JVM that it starts. Kernels are compiled
before. `spark_or_not` is `features` of growing tables on the cores of this machine and on Spark.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bench_features import rows

ROOT = Path(__file__).resolve().parent.parent
#: The last commit before commands imported only what they need.
BASELINE = "9841a6b"
COMMANDS = {
    "help": ["--help"],
    "version": ["--version"],
    "kafka_status": ["kafka", "status"],
    "argument_that_is_not_there": ["plot", "x", "--period", "0"],
    "file_that_is_not_there": ["import", "nothing"],
}
_DETECTIONS = 60


def run(tree: Path, folder: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds and processor seconds of one command of the code in `tree`."""
    command = [sys.executable, "-W", "ignore", "-c", "from alerce_spark.cli import main; main()", *arguments]
    environment = os.environ | {"PYTHONPATH": str(tree), "ALERCE_CONF": str(tree / "conf" / "alerce.toml")}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if process.returncode not in (0, 1, 2):
        sys.exit(f"{arguments} ended with {process.returncode}")
    return seconds, used.ru_utime + used.ru_stime


def curves(folder: Path, objects: int) -> list[str]:
    """Arguments of `features` for a table of so many objects, without the output."""
    file = folder / f"{objects}.parquet"
    if not file.exists():
        oid, offsets, columns = rows(objects, _DETECTIONS)
        pq.write_table(pa.table({"oid": np.repeat(oid.astype(str), np.diff(offsets)), **columns}), file)
    return ["features", "--detections", str(file), "--out"]


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A tree of the commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def compared(before: Path, folder: Path, arguments: list[str], repeats: int, with_out: bool = False) -> dict[str, Any]:
    """Medians of the baseline and of this tree in turns, after one uncounted run of each."""
    found: dict[str, list[tuple[float, float]]] = {"before": [], "now": []}
    for k in range(repeats + 1):
        for name, tree in (("before", before), ("now", ROOT)):
            out = [str(folder / f"out-{name}-{time.monotonic_ns()}")] if with_out else []
            used = run(tree, folder, [*arguments, *out])
            if k:
                found[name].append(used)
    figures: dict[str, Any] = {}
    for name, pairs in found.items():
        wall, cores = (round(statistics.median(values), 3) for values in zip(*pairs, strict=True))
        figures |= {f"{name}_s": wall, f"{name}_core_s": cores}
    return figures | {"before_over_now": round(figures["before_s"] / figures["now_s"], 1)}


def crossing(folder: Path, sizes: list[int]) -> dict[str, Any]:
    """Seconds of `features` of so many objects without Spark and on it, the smaller of two runs."""
    found = {}
    for objects in sizes:
        seconds = {}
        for name, options in (("here", []), ("spark", ["--master", f"local[{len(os.sched_getaffinity(0))}]"])):
            outs = [str(folder / f"{name}-{time.monotonic_ns()}-{k}") for k in range(2)]
            seconds[f"{name}_s"] = round(
                min(run(ROOT, folder, [*curves(folder, objects), o, *options])[0] for o in outs), 1
            )
        found[str(objects)] = seconds
    return found


def main() -> None:
    """Prints the measurement as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline", default=BASELINE)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="*", default=[25, 1000, 4000, 20000, 80000])
    options = parser.parse_args()
    with checkout(options.baseline) as before, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = {name: compared(before, folder, given, options.repeats) for name, given in COMMANDS.items()}
        few = max(1, options.repeats // 5)
        commands["features_of_25_objects"] = compared(before, folder, curves(folder, 25), few, with_out=True)
        sizes = crossing(folder, options.sizes)
    result = {
        "repeats": options.repeats,
        "commands": commands,
        "detections_an_object": _DETECTIONS,
        "spark_or_not": sizes,
        "baseline": f"commit {options.baseline}",
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
