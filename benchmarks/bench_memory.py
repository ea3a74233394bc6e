"""Growth of a running stream: memory, open files and threads of its processes over an hour.

`python -m benchmarks.bench_memory [--minutes 60] [--rate 25] [--quick]` prints JSON. The command `alerce-spark stream`
runs all queries on a lake with a past, while simulated alerts come from a real broker at a steady rate. Every process
of the stream is measured from outside every few seconds; the JVM's heap is measured after a full collection, a few
times per quarter of an hour. Slopes, with 95 % intervals, cover the time after the warm-up.

Caches of table files reach their limits in the first twenty minutes. The number of files grows until the stream
compacts crowded pixels (`maintenance.max_files`), repeatedly. `stamps` caches 200,000 objects in each worker, 0.2 kB
each: 0.1 MB a minute for a day or two.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from alerce_spark import local_kafka
from alerce_spark.kafka import topics
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES
from alerce_spark.streaming import metrics
from benchmarks.bench_stream import produce
from benchmarks.processes import held
from benchmarks.sky import Sky, say

TOPIC = "bench_memory"
_COMMAND = [sys.executable, "-c", "from alerce_spark.cli import main; main()"]
#: Number of time intervals whose means give a slope: single samples are too correlated.
_PARTS = 10
#: Number of samples between full collections of the JVM's heap.
_COLLECT_EVERY = 8
#: Share of the time that is the warm-up.
_WARM_UP = 0.4
#: Seconds in which the stream must have started.
_START_S = 300.0


@dataclass
class Series:
    """Figures over time: minutes since the stream started, and a value of each name."""

    minutes: list[float] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)

    def add(self, minute: float, values: dict[str, float]) -> None:
        self.minutes.append(minute)
        self.values.append(values)

    def slopes(self, begin: float) -> dict[str, dict[str, float]]:
        """For each name from the minute `begin` on: mean, growth per minute, and its 95 % interval."""
        found = {}
        for name in sorted({name for values in self.values for name in values}):
            points = [(m, v[name]) for m, v in zip(self.minutes, self.values, strict=True) if m >= begin and name in v]
            if len(points) >= _PARTS:
                found[name] = slope(np.array(points))
        return found

    def table(self, every: float) -> list[dict[str, float]]:
        """Series thinned to one sample every so many minutes."""
        rows: list[dict[str, float]] = []
        for minute, values in zip(self.minutes, self.values, strict=True):
            if not rows or minute >= rows[-1]["minute"] + every:
                rows.append({"minute": round(minute, 1)} | values)
        return rows


def slope(points: np.ndarray) -> dict[str, float]:
    """Line through (minute, value): mean, growth a minute, ends of its 95 % interval."""
    parts = np.array([part.mean(axis=0) for part in np.array_split(points, _PARTS)])
    line = stats.linregress(parts[:, 0], parts[:, 1])
    wide = float(stats.t.ppf(0.975, _PARTS - 2) * line.stderr) if np.ptp(parts[:, 1]) else 0.0
    return {
        "mean": round(float(points[:, 1].mean()), 1),
        "a_minute": round(float(line.slope), 3),
        "from": round(float(line.slope) - wide, 3),
        "to": round(float(line.slope) + wide, 3),
    }


@contextmanager
def streaming(environment: dict[str, str], said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The stream as a process, which is asked to end as a supervisor does it; its log goes to the file `said`."""
    with said.open("wb") as file:
        process = subprocess.Popen([*_COMMAND, "stream"], env=environment, stdout=file, stderr=file)
    try:
        wait_for(lambda: process.poll() is None and metrics.read(environment["ALERCE_LAKE__PATH"]) is not None)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def wait_for(condition: Callable[[], bool]) -> None:
    """Raises TimeoutError if the condition does not become true."""
    end = time.monotonic() + _START_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the stream did not start in {_START_S:g} s")
        time.sleep(0.5)


def sample(driver: int, lake: str, collect: bool) -> dict[str, float]:
    """Current resources of the stream with this driver. `collect`: with the JVM's heap after a full collection."""
    figures: dict[str, float] = {}
    for kind, kept in held(driver).items():
        figures[f"{kind} processes"] = kept.processes
        figures[f"{kind} mb"] = round(kept.mb, 1)
        figures[f"{kind} threads"] = kept.threads
        for name, count in kept.descriptors.items():
            figures[f"{kind} {name}"] = count
    figures["all mb"] = round(sum(value for name, value in figures.items() if name.endswith(" mb")), 1)
    figures["files of tables"] = sum(len(table_of(lake, name).live().files) for name in TABLES)
    return figures | (heap(driver) if collect else {})


def heap(driver: int) -> dict[str, float]:
    """Megabytes in the heap of the driver's JVM after a full collection, and of its classes."""
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    java = next(child for child in children if Path(f"/proc/{child}/comm").read_text().strip() == "java")
    subprocess.run(["jcmd", java, "GC.run"], stdout=subprocess.DEVNULL, check=True)
    lines = subprocess.run(["jstat", "-gc", java], capture_output=True, text=True, check=True).stdout.splitlines()
    used = dict(zip(lines[0].split(), lines[1].split(), strict=True))
    kilobytes = sum(float(used[name]) for name in ("S0U", "S1U", "EU", "OU"))
    return {"heap mb": round(kilobytes / 1024, 1), "metaspace mb": round(float(used["MU"]) / 1024, 1)}


def watch(driver: subprocess.Popen[bytes], lake: str, minutes: float, every_s: float) -> Series:
    """Samples over so many minutes. Raises RuntimeError if the stream ends by itself."""
    series, begin = Series(), time.monotonic()
    number = 0
    while (now := time.monotonic() - begin) < 60 * minutes:
        if driver.poll() is not None:
            raise RuntimeError(f"the stream ended with status {driver.returncode}")
        series.add(now / 60, sample(driver.pid, lake, number % _COLLECT_EVERY == 0))
        if number % _COLLECT_EVERY == 0:
            say(f"{now / 60:.0f} min: {series.values[-1]}")
        number += 1
        time.sleep(every_s)
    return series


def prepare(folder: Path, environment: dict[str, str], sky: Sky) -> None:
    """A lake with the sky's past, as after the previous nights."""
    say(f"the past is {sky.past(folder / 'past')} packets")
    for command in (["import", str(folder / "past")], ["compact"]):
        subprocess.run([*_COMMAND, *command], env=environment, stdout=sys.stderr, check=True)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    servers = f"127.0.0.1:{local_kafka.free_port()}"
    lake = str(folder / "lake")
    environment = os.environ | {
        "ALERCE_LAKE__PATH": lake,
        "ALERCE_KAFKA__BOOTSTRAP_SERVERS": servers,
        "ALERCE_KAFKA__TOPICS": json.dumps([TOPIC]),
        "ALERCE_ARCHIVE__URL": f"file:{folder / 'archive'}",
    }
    sky = Sky(7, args.objects, args.days)
    prepare(folder, environment, sky)
    local_kafka.start(servers, folder / "kafka")
    try:
        topics.create(servers, [TOPIC], 4)
        with streaming(environment, args.log or folder / "stream.log") as driver:
            seconds = 60 * args.minutes
            producer = threading.Thread(target=produce, args=(servers, TOPIC, sky.live(), args.rate, seconds))
            producer.start()
            series = watch(driver, lake, args.minutes, args.every)
            producer.join()
            status = metrics.read(lake) or {"queries": {}}
    finally:
        local_kafka.stop(folder / "kafka")
    warm_up = args.minutes * _WARM_UP
    return {
        "rate": args.rate,
        "minutes": args.minutes,
        "warm_up_minutes": round(warm_up, 1),
        "taken": {name: query["alerts"] for name, query in status["queries"].items()},
        "failures": {name: query["failures"] for name, query in status["queries"].items()},
        "slopes": series.slopes(warm_up),
        "every_five_minutes": series.table(5.0),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=25.0, help="alerts a second")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between samples")
    parser.add_argument("--objects", type=int, default=6000)
    parser.add_argument("--days", type=int, default=120, help="of the past")
    parser.add_argument("--log", type=Path, help="file for what the stream says")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(arguments)
    if args.quick:
        args.objects, args.days, args.rate, args.minutes, args.every = 80, 60, 5.0, 1.0, 2.0
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(args, Path(scratch)), indent=1))


if __name__ == "__main__":
    main()
