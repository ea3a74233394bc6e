"""The first `make demo` of a fresh clone with empty caches: seconds of each stage and peak of memory; then the second.

Fetches a gigabyte, so the figures include the network. A third run, with more alerts, measures memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import Memory, Processor

ROOT = Path(__file__).resolve().parent.parent
#: A row of the demo's last table, or the line of the installation.
_ROW = re.compile(r"│ (\S.*?) +│ +([0-9.]+) +│")
_INSTALLED = re.compile(r"^Installed in ([0-9]+) s", re.M)


def run(clone: Path, home: Path, number: int) -> dict[str, Any]:
    """One `make demo` with a clean environment except the path of programs."""
    # The environment of this process would bring its Python first.
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != str(Path(sys.executable).parent))
    keep = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "JAVA_HOME", "LANG"))}
    command = ["make", "demo", f"NUMBER={number}", f"PYTHON={Path(sys.base_prefix) / 'bin' / 'python3'}"]
    began = time.monotonic()
    with Memory(without=0) as memory, Processor(without=0) as processor:
        done = subprocess.run(
            command,
            cwd=clone,
            env=keep | {"HOME": str(home), "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    print(done.stdout, file=sys.stderr)
    report = done.stdout[done.stdout.rindex("┃ stage") :]
    stages = {name: float(value) for name, value in _ROW.findall(report)}
    installed = _INSTALLED.search(done.stdout)
    return {
        "alerts": number,
        "seconds": {"all": round(seconds, 1), "installation": float(installed[1]) if installed else 0.0}
        | {f"demo: {name}": value for name, value in stages.items()},
        "core_seconds": round(processor.seconds, 1),
        # Here "workers" are the demo and its workers, which are both our child processes.
        "peak_mb": {name.split("_")[-1]: mb for name, mb in memory.peak.items() if name != "driver_python"},
        "lines_of_output": len(done.stdout.splitlines()) + len(done.stderr.splitlines()),
    }


def main() -> None:
    """Prints the measurement as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first run only")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        clone, home = Path(folder, "clone"), Path(folder, "home")
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        result = {"first": run(clone, home, 1000)}
        if not quick:
            result |= {"second": run(clone, home, 1000), "more_alerts": run(clone, home, 8000)}
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
