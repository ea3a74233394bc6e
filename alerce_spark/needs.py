"""Requirements checked before anything is installed or started: Python, Java, space on the disk.

Only the standard library is used, since `make` asks before there is an environment: python -m alerce_spark.needs
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from alerce_spark.errors import AlerceError

_PYTHON = ((3, 11), (3, 13))
_JAVA = 17
#: Space for the first installation, temporary files of pip included, and for a run of the demo.
_INSTALL_BYTES, _RUN_BYTES = 5 << 30, 1 << 30


class MissingError(AlerceError):
    """The machine lacks something that the broker needs; the message says how to get it."""


def cores() -> int:
    """Cores that this process may use; macOS cannot restrict them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def java() -> str:
    """The program `java` of JAVA_HOME, else of the path. Raises MissingError where it is missing or too old."""
    home, found = os.environ.get("JAVA_HOME"), _find_java()
    remedy = f"Install Java {_JAVA} or newer (a JRE is enough), or set JAVA_HOME to it."
    if found is None:
        where = f"JAVA_HOME = {home} has no bin/java" if home else "No program java is on the path"
        raise MissingError(f"{where}. {remedy}")
    account = _account_of(found)
    said = re.search(r'version "(?:1\.)?(\d+)', account)
    if said is None:  # on macOS, the place where Java would be
        raise MissingError(f"{found} does not say its version: {account.strip()[:200]}. {remedy}")
    if int(said[1]) < _JAVA:
        raise MissingError(f"{found} is Java {said[1]}. {remedy}")
    return found


def java_version() -> str | None:
    """Version of the Java that `java` would return, new enough or not; None without a Java.

    It is read from the file `release` of a Java, which is faster than to start a JVM.
    """
    found = _find_java()
    if found is None:
        return None
    release = Path(found).resolve().parent.parent / "release"
    text = release.read_text() if release.is_file() else _account_of(found)
    known = re.search(r'version "([^"]+)"|^JAVA_VERSION="([^"]+)"', text, re.MULTILINE | re.IGNORECASE)
    return (known[1] or known[2]) if known else None


def _find_java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")


def _account_of(java: str) -> str:
    """The version text of a Java."""
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    return done.stderr + done.stdout


def space(folder: Path, needed: int, purpose: str) -> None:
    """Raise MissingError where the disk of `folder`, which may not exist yet, has less than `needed` bytes."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise MissingError(
            f"{purpose} needs {needed / 1e9:.1f} GB on the disk of {folder}, and {free / 1e9:.1f} GB are free. "
            "Make room, or use a folder of another disk."
        )


def to_run(folder: Path) -> None:
    """Raise MissingError where a run of the broker on this machine, with its data in `folder`, cannot succeed."""
    java()
    space(folder, _RUN_BYTES, "The demo")


def _to_install() -> None:
    first, last = (f"{a}.{b}" for a, b in _PYTHON)
    if not _PYTHON[0] <= sys.version_info[:2] <= _PYTHON[1]:
        raise MissingError(
            f"Python {first} to {last} is needed, and this is {sys.version.split()[0]}. "
            "Name another one: make venv PYTHON=python3.12"
        )
    java()
    space(Path(), _INSTALL_BYTES, "The installation")
    sys.stdout.write(
        "To be fetched once: Python packages, 0.9 GB (half of it Spark), into .venv; "
        "the demo then fetches Java archives of 0.1 GB. This takes a few minutes ...\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        _to_install()
    except MissingError as error:
        sys.exit(str(error))
