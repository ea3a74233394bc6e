"""A lake with a server in front of it, for all tests of the services."""

from __future__ import annotations

import importlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import requests

from tests import small_lake


@dataclass(frozen=True)
class Served:
    """A lake, its packets, the address of its server."""

    lake: str
    packets: list[bytes]
    url: str

    def table(self, name: str) -> pl.DataFrame:
        """A table as polars reads it."""
        return small_lake.read(self.lake, name)

    def get(self, path: str, **parameters: Any) -> requests.Response:
        """An answer."""
        return requests.get(self.url + path, params=parameters, timeout=60)


@pytest.fixture(scope="session")
def packets() -> list[bytes]:
    """Packets of the lake."""
    return small_lake.packets()


@pytest.fixture(scope="session")
def served(packets: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose lake no test changes."""
    folder = tmp_path_factory.mktemp("served")
    lake = str(folder / "lake")
    small_lake.make(lake, packets)
    small_lake.keep(folder / "archive", packets)
    with serving(lake, folder / "archive") as url:
        yield Served(lake, packets, url)


def settings_of(lake: str, archive: Path, **services: Any) -> Any:
    """Settings of a server."""
    from alerce_spark.config import load

    sections = {
        "lake": {"path": lake},
        "archive": {"url": f"file:{archive}"},
        "services": {"rate_limit": "", **services},
    }
    return load(Path(__file__).parents[2] / "conf" / "alerce.toml", sections)


class serving:
    """A server and a follower in threads of this process; gives its address."""

    def __init__(self, lake: str, archive: Path, **services: Any) -> None:
        self._settings = settings_of(lake, archive, poll_s=0.05, **services)
        self._stop = threading.Event()

    def __enter__(self) -> str:
        import uvicorn

        from alerce_spark.api.app import make
        from alerce_spark.serving import follow

        follow.build(self._settings.lake.path, self._settings.index)
        config = uvicorn.Config(make(self._settings), port=0, log_config=None, access_log=False)
        self._server = uvicorn.Server(config)
        arguments = (self._settings.lake.path, self._settings.index, 0.05, self._stop)
        self._threads = [
            threading.Thread(target=self._server.run),
            threading.Thread(target=follow.follow, args=arguments),
        ]
        for thread in self._threads:
            thread.start()
        while not self._server.started:
            time.sleep(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="session")
def alerce(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ALeRCE's own client, pointed at the server by the file that it reads when it is imported."""
    from alerce_spark.api.client import configuration

    file = tmp_path_factory.mktemp("client") / "alerce.json"
    file.write_text(json.dumps(configuration(served.url)))
    os.environ["ALERCE_CONFIG_PATH"] = str(file)
    core = importlib.import_module("alerce.core")
    return core.Alerce()
