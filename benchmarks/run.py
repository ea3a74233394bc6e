"""Run the benchmarks, each in a separate process, and store their output in benchmarks/results/.

`python -m benchmarks.run [NAME …] [--quick]`. A benchmark is a module `bench_<name>` whose main() prints one JSON
object; keys with `_over_` are ratios against the baseline that they name. Each run overwrites the file of a benchmark,
with machine, date and commit; earlier results are in git's history. Quick runs only test the code, at small sizes, and
are not stored.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
#: Every benchmark: the first run, then in the order of the data flow, and the arguments of a quick run.
BENCHMARKS: dict[str, list[str]] = {
    "first_run": ["--quick"],
    "start": ["--repeats", "1", "--sizes", "25"],
    "decode": ["--repeats", "3"],
    "stamps": ["--repeats", "3"],
    "ingest": ["--quick"],
    "lookup": ["--quick"],
    "commit": ["--repeats", "5"],
    "crossmatch": ["--quick", "--repeats", "1"],
    "stamp_model": ["--repeats", "1"],
    "features": ["--objects", "20", "--repeats", "1"],
    "features_spark": ["--objects", "200", "--repeats", "1"],
    "forest": ["--objects", "100", "--trees", "30", "--repeats", "2"],
    "outliers": ["--objects", "20", "--curves", "50", "--repeats", "1"],
    "stream": ["--quick"],
    "memory": ["--quick"],
    "lightcurves": ["--quick"],
    "growth": ["--quick"],
    "integrity": ["--quick"],
    "simulation": ["--objects", "20", "--repeats", "1"],
    "house": [],
}


def machine() -> dict[str, Any]:
    """Properties of the machine that affect the figures, without anything that identifies its owner."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr.splitlines()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": next(iter(fields.values()), platform.machine()).strip(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "java": java[0] if java else "none",
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def commit() -> dict[str, Any]:
    """Commit of the checkout, and whether tracked files other than the results differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return {"commit": git("rev-parse", "HEAD"), "changed_since_commit": bool(changed)}


def measure(name: str, arguments: list[str]) -> dict[str, Any]:
    """Run one benchmark; its progress goes to our standard error. Raises CalledProcessError where it fails."""
    command = [sys.executable, "-m", f"benchmarks.bench_{name}", *arguments]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    # The JVM may write other lines before the object.
    lines = output.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("{"))
    result: dict[str, Any] = json.loads("\n".join(lines[begin:]))
    return result


def figures(result: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every number and text of a nested object with its path of names."""
    for name, value in result.items():
        if isinstance(value, dict):
            yield from figures(value, (*path, name))
        else:
            yield " ".join((*path, name)), value


def show(name: str, result: dict[str, Any]) -> None:
    """Print a table of figures, ratios after the rest."""
    rows = list(figures(result))
    width = max(len(label) for label, _ in rows)
    print(f"\n{name}")
    for label, value in sorted(rows, key=lambda row: "_over_" in row[0]):
        print(f"  {label:{width}}  {value}{' ×' if '_over_' in label else ''}")


def main() -> None:
    """Run the benchmarks named on the command line, all by default; ends with 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, results are not kept")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    failed = []
    for name in options.names or BENCHMARKS:
        print(f"{name} …", file=sys.stderr, flush=True)
        about = {"date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), **commit(), "machine": machine()}
        try:
            result = measure(name, BENCHMARKS[name] if options.quick else [])
        except subprocess.CalledProcessError as error:
            print(f"{name}: ended with code {error.returncode}", file=sys.stderr)
            failed.append(name)
            continue
        show(name, result)
        if not options.quick:
            RESULTS.mkdir(exist_ok=True)
            text = json.dumps({**about, "result": result}, indent=1, ensure_ascii=False)
            (RESULTS / f"{name}.json").write_text(text + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
