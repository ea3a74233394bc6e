"""Time to decode real packets into Arrow columns, against fastavro's container reader in the same process, one core.

`python -m benchmarks.bench_decode [--repeats 15]` prints JSON. Packets are those of the folder ALERCE_TEST_DATA, else
of `../shared/data`. Times are CPU time, which a busy machine changes less, medians over the repeats, in µs a packet.
fastavro gives dicts, ours four tables; `fastavro_to_arrow` adds the conversion of candidates and previous detections.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa

from alerce_spark.alerts.avro import decode, strip_stamps
from alerce_spark.surveys.ztf import ZTF

#: Libraries read these when they start; `main` sets them and starts again.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
BATCHES = (10, 50, 200)

_FIRST = """
import sys, time; start = time.perf_counter()
from alerce_spark.alerts.avro import decode, strip_stamps
from alerce_spark.surveys.ztf import ZTF
packet = open(sys.argv[1], "rb").read(); ready = time.perf_counter()
decode([packet], ZTF, stamps=True); strip_stamps([packet], ZTF); first = time.perf_counter()
print(ready - start, first - ready)
"""


def packets() -> list[bytes]:
    """All real ZTF packets of the data folder."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("ALERCE_TEST_DATA", default)) / "ztf"
    patterns = ("histories/*/*.avro", "exposure/*.avro", "v4/*.avro")
    found = [file.read_bytes() for pattern in patterns for file in sorted(folder.glob(pattern))]
    for path in folder.glob("*.tar.gz"):
        with tarfile.open(path) as archive:
            members = (archive.extractfile(member) for member in archive if member.isfile())
            found += [member.read() for member in members if member]
    if not found:
        sys.exit(f"no packets in {folder}; set ALERCE_TEST_DATA to the folder of real survey data")
    return found


def rounds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each call in each of `repeats` rounds; a round runs all, so that ratios compare the same time."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return times


def first_call(packet: bytes) -> dict[str, float]:
    """Seconds of import and first call in a fresh process, without and with compiled code on disk."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "packet.avro"
        file.write_bytes(packet)
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        seconds: dict[str, float] = {}
        for name in ("compiled", "cached"):
            command = [sys.executable, "-c", _FIRST, str(file)]
            out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()
            seconds |= {f"import_{name}_s": round(float(out[0]), 2), f"first_call_{name}_s": round(float(out[1]), 2)}
    return seconds


def fastavro_to_arrow(data: list[bytes]) -> tuple[pa.Table, pa.Table]:
    """Candidates and previous detections as tables by way of dicts."""
    records: list[Any] = [next(fastavro.reader(io.BytesIO(one))) for one in data]
    previous = [entry for record in records for entry in record["prv_candidates"] or []]
    return pa.Table.from_pylist([record["candidate"] for record in records]), pa.Table.from_pylist(previous)


def _each(call: Callable[[pa.Array], Any], pieces: list[pa.Array]) -> None:
    for piece in pieces:
        call(piece)


def measure(repeats: int) -> dict[str, Any]:
    """All times and ratios."""
    data = packets()
    n = len(data)
    array = pa.array(data, pa.binary())
    stripped = strip_stamps(array, ZTF)
    decoded = decode(array, ZTF)
    calls: dict[str, Callable[[], Any]] = {
        "fastavro_reader": lambda: [next(fastavro.reader(io.BytesIO(one))) for one in data],
        "fastavro_to_arrow": lambda: fastavro_to_arrow(data),
        "decode": lambda: decode(array, ZTF),
        "decode_with_stamps": lambda: decode(array, ZTF, stamps=True),
        "strip_stamps": lambda: strip_stamps(array, ZTF),
        "decode_of_stripped": lambda: decode(stripped, ZTF),
    }
    for size in BATCHES:
        pieces = [array[i : i + size] for i in range(0, n, size)]
        calls[f"decode_in_batches_of_{size}"] = functools.partial(_each, decode, pieces)
    times = rounds(calls, repeats)
    baseline = times["fastavro_reader"]
    ratios = {name: [b / t for b, t in zip(baseline, seconds, strict=True)] for name, seconds in times.items()}
    return {
        "packets": n,
        "mean_bytes": round(sum(map(len, data)) / n),
        "mean_bytes_stripped": round(len(stripped.buffers()[2]) / n),
        "mean_prv_candidates": round(decoded.previous.num_rows / n, 1),
        "mean_fp_hists": round(decoded.forced.num_rows / n, 1),
        "us_a_packet": {name: round(statistics.median(seconds) / n * 1e6, 1) for name, seconds in times.items()},
        "fastavro_reader_over_it": {name: round(statistics.median(ratio), 1) for name, ratio in ratios.items()},
        **first_call(data[0]),
    }


def main() -> None:
    """Prints the measurement as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        command = [sys.executable, "-m", "benchmarks.bench_decode", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | ONE_THREAD, check=False).returncode)
    print(json.dumps(measure(repeats), indent=2))


if __name__ == "__main__":
    main()
