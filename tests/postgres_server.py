"""A PostgreSQL server for tests: data in a temporary folder, a free port of the loopback, a database for each test."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from itertools import count
from pathlib import Path

import psycopg


def programs() -> Path | None:
    """Folder of the server's programs; Debian keeps them away from PATH. None where it is not installed."""
    found = shutil.which("postgres")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


class PostgresServer:
    """A server that is running until `stop`; `start` starts it again with its data, `close` is its end."""

    def __init__(self) -> None:
        found = programs()
        assert found is not None
        # Not in pytest's folder, which only its owner may enter: the server refuses to run as root.
        folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._programs, self._data, self._names = found, folder / "data", count(1)
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(folder, self._user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run("initdb", "-D", self._data, "-A", "trust", "--no-sync", "--locale=C.UTF-8")
        self.start()

    def _run(self, program: str, *arguments: str | Path) -> None:
        as_user = ["runuser", "-u", self._user, "--"] if os.geteuid() == 0 else []
        command = [*as_user, str(self._programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-p {self.port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self._data.parent / "log", "-o", options, "start")

    def stop(self) -> None:
        """End the server and all its connections."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "fast", "stop")

    def close(self) -> None:
        """Stop the server and delete its data."""
        self.stop()
        shutil.rmtree(self._data.parent)

    def address(self, database: str) -> str:
        """URL of a database."""
        return f"postgresql://{self._user}@127.0.0.1:{self.port}/{database}"

    def new(self) -> str:
        """URL of an empty database."""
        name = f"test{next(self._names)}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        return self.address(name)
