"""One lake with a server in front of it for all tests of the services that do not change it."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from alerce_spark.api.client import configuration
from tests import small_lake
from tests.missing import missing
from tests.postgres_server import PostgresServer, programs
from tests.served import Served, serving


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    if programs() is None:
        missing("PostgreSQL")
    server = PostgresServer()
    yield server
    server.close()


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


@pytest.fixture(scope="session")
def alerce(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ALeRCE's own client, pointed at the server by the file that it reads when it is imported."""
    file = tmp_path_factory.mktemp("client") / "alerce.json"
    file.write_text(json.dumps(configuration(served.url)))
    os.environ["ALERCE_CONFIG_PATH"] = str(file)
    core = importlib.import_module("alerce.core")
    return core.Alerce()
