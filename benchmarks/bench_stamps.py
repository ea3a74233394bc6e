"""Time to read and to make stamps, on one core.

`python -m benchmarks.bench_stamps [--repeats 9]` prints JSON. Real packets are those of bench_decode. Times are CPU
time, medians over the repeats: µs for the three stamps of an alert by `alerts.stamps`, against gzip with astropy in the
same run, and the same including the packet, against fastavro; simulated alerts and packets a second with individual
stamps, with shared ones and without.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
from astropy.io import fits

from alerce_spark.alerts import avro, stamps
from alerce_spark.simulation.first_alerts import first_alerts
from alerce_spark.simulation.night import simulate
from alerce_spark.simulation.stamps import render
from alerce_spark.surveys import ztf
from alerce_spark.surveys.ztf import ZTF
from benchmarks.bench_decode import ONE_THREAD, packets, rounds


def by_astropy(blobs: list[tuple[bytes, ...]]) -> list[np.ndarray]:
    """All images by Python's gzip and astropy, as most brokers do."""
    return [fits.open(io.BytesIO(gzip.decompress(blob)))[0].data for three in blobs for blob in three]


def by_fastavro(data: list[bytes]) -> list[np.ndarray]:
    """Packets to images by fastavro, gzip and astropy."""
    records: list[Any] = [next(fastavro.reader(io.BytesIO(one))) for one in data]
    return by_astropy([tuple(record[name]["stampData"] for name in ztf.CUTOUTS) for record in records])


def rate(call: Callable[[], int]) -> float:
    """Items per second of CPU time; `call` returns their number."""
    start = time.process_time()
    return call() / (time.process_time() - start)


def measure(repeats: int) -> dict[str, Any]:
    """All times, ratios and rates."""
    warnings.simplefilter("ignore")  # ZTF's FITS headers are not of the fixed format
    data = packets()
    array = pa.array(data, pa.binary())
    decoded = avro.decode(array, ZTF, stamps=True)
    columns = [decoded.alerts[name].to_pylist() for name in ztf.CUTOUTS]
    blobs = list(zip(*columns, strict=True))
    calls: dict[str, Callable[[], Any]] = {
        "gzip_astropy": lambda: by_astropy(blobs),
        "stamps": lambda: stamps.of(decoded.alerts, ZTF),
        "packet_by_fastavro_gzip_astropy": lambda: by_fastavro(data),
        "packet_by_decode_and_stamps": lambda: stamps.of(avro.decode(array, ZTF, stamps=True).alerts, ZTF),
    }
    times = {name: [t / len(data) * 1e6 for t in seconds] for name, seconds in rounds(calls, repeats).items()}

    def ratio(baseline: str, name: str) -> float:
        return round(statistics.median(b / t for b, t in zip(times[baseline], times[name], strict=True)), 1)

    alerts = first_alerts(1, 100)
    scene, key = np.full(len(alerts), "star"), alerts.columns["candid"]
    forms: dict[str, Any] = {"own_stamps": True, "shared_stamps": "pool", "no_stamps": False}
    nights = {name: [] for name in forms}
    drawn, sets = [], []
    simulate(1, objects=20)
    for seed in range(max(1, repeats // 3)):
        drawn.append(rate(lambda: len(render(alerts.columns, scene, key))))
        sets.append(rate(lambda seed=seed: len(first_alerts(seed + 2, 300))))
        for name, form in forms.items():
            nights[name].append(
                rate(lambda seed=seed, form=form: len(simulate(seed, objects=400, nights=4, stamps=form).packets))
            )
    return {
        "packets": len(data),
        "us_an_alert": {name: round(statistics.median(values), 1) for name, values in times.items()},
        "gzip_astropy_over_stamps": ratio("gzip_astropy", "stamps"),
        "fastavro_gzip_astropy_over_decode_and_stamps": ratio(
            "packet_by_fastavro_gzip_astropy", "packet_by_decode_and_stamps"
        ),
        "a_second": {
            "rendered_alerts": round(statistics.median(drawn)),
            "first_alerts": round(statistics.median(sets)),
            **{f"packets_with_{name}": round(statistics.median(values)) for name, values in nights.items()},
        },
    }


def main() -> None:
    """Prints the measurement as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        command = [sys.executable, "-m", "benchmarks.bench_stamps", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | ONE_THREAD, check=False).returncode)
    print(json.dumps(measure(repeats), indent=2))


if __name__ == "__main__":
    main()
