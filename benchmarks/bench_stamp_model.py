"""Images a second and core that the stamp classifier takes, against Keras predict of the same network, one thread.

`python -m benchmarks.bench_stamp_model [--repeats 7]` prints JSON. `network` is ONNX Runtime alone, `classify` adds the
views of the images and the columns. Medians over the repeats of CPU time; both networks run in turn in each repeat.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: Libraries read these when they start; `main` sets them and starts again.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
) | {"TF_CPP_MIN_LOG_LEVEL": "2"}
BATCHES = (1, 32, 256)
#: Images a measurement takes at least.
LEAST = 256


def per_second(call: Callable[[], Any], images: int) -> float:
    """Images a CPU second of calls that take `images` each."""
    rounds = max(1, LEAST // images)
    start = time.process_time()
    for _ in range(rounds):
        call()
    return rounds * images / (time.process_time() - start)


def measure(repeats: int) -> dict[str, Any]:
    """All figures and ratios."""
    from tensorflow import keras

    from alerce_spark.classifiers import stamp
    from alerce_spark.training.stamps import Options, networks

    path = Path(stamp.__file__).parent / "bootstrap" / "stamp_classifier.onnx"
    model = stamp.StampModel.load(path)
    names = tuple(one.name for one in model.inputs)
    _, network = networks(Options(columns=names))
    rng = np.random.default_rng(0)
    images = rng.normal(150, 7, (max(BATCHES), 3, stamp.SIDE, stamp.SIDE)).astype(np.float32)
    fine, coarse, _ = stamp.views(images)
    table = rng.normal(size=(len(images), len(names))).astype(np.float32)
    columns = {name: np.ones(len(images)) for name in names}
    speeds: dict[str, dict[str, list[float]]] = {name: {} for name in ("network", "classify", "keras_predict")}
    for _ in range(repeats + 1):  # the first is to warm up
        for batch in BATCHES:
            first = [a[:batch] for a in (fine, coarse, table)]
            channels_last = [np.moveaxis(first[0], 1, -1), np.moveaxis(first[1], 1, -1), first[2]]
            some = {name: values[:batch] for name, values in columns.items()}
            calls: dict[str, Callable[[], Any]] = {
                "network": functools.partial(model.predict, *first),
                "classify": functools.partial(model.classify, images[:batch], some),
                "keras_predict": functools.partial(network.predict, channels_last, batch_size=batch, verbose=0),
            }
            for name, call in calls.items():
                speeds[name].setdefault(f"batch_{batch}", []).append(per_second(call, batch))
    found: dict[str, Any] = {
        f"{name}_images_a_second": {batch: round(statistics.median(values[1:])) for batch, values in of.items()}
        for name, of in speeds.items()
    }
    for name in ("network", "classify"):
        found[f"{name}_over_keras_predict"] = {
            batch: round(
                statistics.median(a / b for a, b in zip(values[1:], speeds["keras_predict"][batch][1:], strict=True)), 1
            )
            for batch, values in speeds[name].items()
        }
    parameters = int(network.count_params())
    return found | {
        "parameters": parameters,
        "model_kib": round(path.stat().st_size / 1024),
        "keras": keras.__version__,
    }


def main() -> None:
    """Prints the measurement as one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        command = [sys.executable, "-m", "benchmarks.bench_stamp_model", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | ONE_THREAD, check=False).returncode)
    print(json.dumps(measure(repeats), indent=2))


if __name__ == "__main__":
    main()
