"""Machine code of the kernels, made by one process and kept on the disk, before several workers need it at once.

numba compiles a kernel when it is first called, which takes a minute for all of ours, and a worker for itself where the
disk does not have it yet. A process of its own gives the memory of the compiler back: python -m
alerce_spark.streaming.kernels
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import llvmlite.binding
import numba
import pyarrow as pa

import alerce_spark
from alerce_spark import jars, sky, surveys
from alerce_spark.alerts.avro import decode
from alerce_spark.errors import AlerceError
from alerce_spark.lake import lookup, write
from alerce_spark.lake.handles import healpix_order
from alerce_spark.simulation.night import simulate
from alerce_spark.streaming import lightcurves, photometry, stamps


class KernelError(AlerceError):
    """The kernels cannot be compiled on this machine."""


@cache
def some_packets() -> list[bytes]:
    """A few packets whose objects have enough detections for every step."""
    return simulate(1, objects=3, nights=20).packets[-8:]


def are_compiled() -> bool:
    """Whether this code was compiled for this machine, as far as is known."""
    return _mark().is_file()


@contextmanager
def compiling() -> Iterator[Callable[[], None]]:
    """Another process compiles meanwhile what is not compiled. What is yielded waits for it, and raises KernelError."""
    if are_compiled():
        yield lambda: None
        return
    command = [sys.executable, "-W", "ignore", "-m", __name__]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)

        def wait() -> None:
            if process.wait() != 0:
                said.seek(0)
                raise KernelError(f"compiling the kernels failed:\n{said.read()[-2000:]}")

        try:
            yield wait
        finally:
            process.kill()  # where it was not waited for
            process.wait()


def compile_once() -> None:
    """Compile what is not compiled, in another process. Raises KernelError."""
    with compiling() as wait:
        wait()


def _mark() -> Path:
    """A file that is there once all is compiled; another name for another version of anything that matters."""
    root = Path(alerce_spark.__file__).parent
    # As numba does, by size and time of change.
    files = sorted((str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in root.rglob("*.py"))
    told = (root, files, numba.__version__, platform.python_version(), llvmlite.binding.get_host_cpu_name())
    return jars.cache() / "kernels" / hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _compile() -> None:
    """What workers of the queries do with a batch, on an empty lake."""
    packets, survey = some_packets(), surveys.DEFAULT
    batch = pa.RecordBatch.from_pydict(
        {
            "packet": pa.array(packets, pa.binary()),
            "source": ["compiling"] * len(packets),
            "partition": pa.array([0] * len(packets), pa.int32()),
            "offset": pa.array(range(len(packets)), pa.int64()),
            "received": [datetime.now(UTC)] * len(packets),
        }
    )
    alerts = decode(batch.column("packet"), surveys.get(survey)).alerts
    with tempfile.TemporaryDirectory() as lake:
        write.create(lake, 4)
        homes = sky.parent(sky.healpix(alerts["ra"].to_numpy(), alerts["dec"].to_numpy()), healpix_order(lake))
        met = alerts.select(["objectId", "ra", "dec"]).rename_columns(["oid", "ra", "dec"])
        met = met.append_column("home", pa.array(homes, pa.int32())).append_column("packet", batch.column("packet"))
        versions = lookup.versions(lake, photometry.TABLES_WRITTEN)
        for work, rows in (
            (stamps.classifier(lake, survey, None, is_warm_up=True), batch),
            (lightcurves.classifier(lake, survey, None), batch),
            (photometry.assembler(lake, survey, versions), met.combine_chunks().to_batches()[0]),
        ):
            for _ in work(iter([rows])):
                pass


if __name__ == "__main__":
    _compile()
    _mark().parent.mkdir(parents=True, exist_ok=True)
    _mark().touch()
