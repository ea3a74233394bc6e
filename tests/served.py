"""A server in front of a small lake, in threads of the test's own process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import requests
import uvicorn

from alerce_spark.api.app import make
from alerce_spark.config import Settings, load
from alerce_spark.serving import follow
from tests import small_lake

ROOT = Path(__file__).parents[1]


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


def settings_of(lake: str, archive: Path, **services: Any) -> Settings:
    """Settings of a server."""
    sections: dict[str, Any] = {"lake": {"path": lake}, "archive": {"url": f"file:{archive}"}}
    sections["services"] = {"rate_limit": "", "poll_s": 0.05, **services}
    return load(ROOT / "conf" / "alerce.toml", sections)


@contextmanager
def answering(settings: Settings) -> Iterator[str]:
    """A server alone; gives the address."""
    server = uvicorn.Server(uvicorn.Config(make(settings), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving(lake: str, archive: Path, **services: Any) -> Iterator[str]:
    """A server and a follower of a lake; gives the address."""
    settings = settings_of(lake, archive, **services)
    follow.build(settings.lake.path, settings.index)
    stop = threading.Event()
    following = (settings.lake.path, settings.index, settings.services.poll_s, stop)
    thread = threading.Thread(target=follow.follow, args=following)
    thread.start()
    try:
        with answering(settings) as url:
            yield url
    finally:
        stop.set()
        thread.join()


def counting(served: Served) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Of each object and classifier the classification that counts: the newest version first for stamps, then the
    earliest alert; of light curves the latest alert, then the newest version."""
    rows = served.table("probabilities").to_dicts()
    for oid in sorted({row["oid"] for row in rows}):
        for classifier in ("lc_classifier", "stamp_classifier"):
            mine = [row for row in rows if row["oid"] == oid and row["classifier"] == classifier]
            if mine and classifier == "lc_classifier":
                yield oid, classifier, max(mine, key=lambda r: (r["mjd"], r["version"], r["ndet_used"], r["candid"]))
            elif mine:
                yield oid, classifier, max(mine, key=lambda r: (r["version"], -r["candid"]))
