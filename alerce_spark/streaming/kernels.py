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
from importlib.resources import files
from pathlib import Path

import llvmlite.binding
import numba
import pyarrow as pa

import alerce_spark
from alerce_spark import jars, surveys
from alerce_spark.config import query_names
from alerce_spark.errors import AlerceError
from alerce_spark.lake import write
from alerce_spark.streaming.queries import declared


class KernelError(AlerceError):
    """The kernels cannot be compiled on this machine."""


@cache
def packet() -> bytes:
    """A packet of the simulated sky, with stamps, forced photometry and enough detections for every step."""
    return (files("alerce_spark.streaming") / "warm_up.avro").read_bytes()


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
    code = sorted((str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in root.rglob("*.py"))
    told = (root, code, numba.__version__, platform.python_version(), llvmlite.binding.get_host_cpu_name())
    return jars.cache() / "kernels" / hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _compile() -> None:
    """Process a batch as workers of the queries do, on an empty lake."""
    columns = {
        "packet": pa.array([packet()], pa.binary()),
        "source": ["compiling"],
        "partition": pa.array([0], pa.int32()),
        "offset": pa.array([0], pa.int64()),
        "received": [datetime.now(UTC)],
    }
    for name in query_names():
        if (compile_ := declared(name).compile) is not None:
            with tempfile.TemporaryDirectory() as lake:
                write.create(lake, 4)
                compile_(lake, surveys.DEFAULT, pa.RecordBatch.from_pydict(columns))


if __name__ == "__main__":
    _compile()
    _mark().parent.mkdir(parents=True, exist_ok=True)
    _mark().touch()
