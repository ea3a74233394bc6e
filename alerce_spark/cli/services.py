"""Commands of the services: the server, its index, the configuration of ALeRCE's client."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from alerce_spark.cli.common import SERVE, Lake, app, console, settings_of
from alerce_spark.errors import InputError

if TYPE_CHECKING:
    from alerce_spark.config import Settings
    from alerce_spark.serving.follow import Progress

index_app = typer.Typer(no_args_is_help=True, help="The index that the services ask; made of the tables alone.")
app.add_typer(index_app, name="index", rich_help_panel=SERVE)

logger = logging.getLogger(__name__)

_PATIENCE_S = 20
_INDEX_HELP = "File of the index, or postgresql://HOST/DATABASE; default: services.index."
Index = Annotated[str | None, typer.Option("--index", help=_INDEX_HELP)]


def _check_packages() -> None:
    """Raise InputError where the optional packages of the services are not installed."""
    needed = ("sqlalchemy", "fastapi", "uvicorn", "orjson", "limits", "duckdb", "sqlglot", "mocpy")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise InputError(
            f"the services need {', '.join(missing)}; install them with: pip install 'alerce-spark[services]'"
        )


def _settings(lake: str | None, index: str | None) -> Settings:
    _check_packages()
    return settings_of(lake={"path": lake}, services={"index": index})


@app.command(rich_help_panel=SERVE)
def serve(
    lake: Lake = None,
    index: Index = None,
    archive: Annotated[str | None, typer.Option(help="Avro repository; default: archive.url.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at; default: services.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. Default: services.port.")] = None,
    follow: Annotated[bool, typer.Option(help="Keep the index up to date, unless another process does.")] = True,
) -> None:
    """Answer ALeRCE's HTTP routes from the lake, until SIGTERM. The routes are described at /docs."""
    _check_packages()
    services = {"index": index, "host": host, "port": port}
    settings = settings_of(lake={"path": lake}, archive={"url": archive}, services=services)
    import uvicorn

    from alerce_spark.api.app import make

    config = uvicorn.Config(
        make(settings),
        host=settings.services.host,
        port=settings.services.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_PATIENCE_S,
    )
    stop = threading.Event()
    following = threading.Thread(target=_follow_beside, args=(settings, stop), name="index")
    if follow:
        following.start()
    # The server ends at a signal, and then sends the signal again to the earlier handler.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        uvicorn.Server(config).run()
    finally:
        stop.set()
        if follow:
            following.join()


def _follow_beside(settings: Settings, stop: threading.Event) -> None:
    """Follow the lake while the server runs; if another process does, check now and then whether it still runs."""
    from alerce_spark.serving.engine import IndexFault
    from alerce_spark.serving.follow import follow

    said = ""
    while not stop.is_set():
        try:
            follow(settings.lake.path, settings.index, settings.services.poll_s, stop)
        except IndexFault as error:
            if str(error) != said:
                logger.info("%s", error)
            said = str(error)
            stop.wait(_PATIENCE_S)
        except Exception:
            logger.exception("the index is not followed; next attempt in %d s", _PATIENCE_S)
            stop.wait(_PATIENCE_S)


@index_app.command()
def build(lake: Lake = None, index: Index = None) -> None:
    """Build the index from nothing. Readers see the old one until it is complete."""
    settings = _settings(lake, index)
    from alerce_spark.serving import follow
    from alerce_spark.serving.databases import store

    began = time.monotonic()
    follow.build(settings.lake.path, settings.index)
    size = store(settings.index).size()
    console.print(f"{store(settings.index).name}: {size / 1e6:.1f} MB in {time.monotonic() - began:.1f} s")


@index_app.command(name="follow")
def follow_(
    lake: Lake = None,
    index: Index = None,
    once: Annotated[bool, typer.Option(help="Apply what is there and end.")] = False,
) -> None:
    """Keep the index up to date with the tables, until SIGTERM; a missing one is built."""
    settings = _settings(lake, index)
    from alerce_spark.serving.follow import follow

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def progress(done: Progress) -> None:
        if done.rebuilt or done.commits:
            console.print("built from nothing" if done.rebuilt else f"{done.commits} commits applied")
        if once:
            stop.set()

    follow(settings.lake.path, settings.index, settings.services.poll_s, stop, progress)


@index_app.command()
def status(lake: Lake = None, index: Index = None) -> None:
    """Say which versions of the tables the index shows. Exit status 1 where it is behind them."""
    settings = _settings(lake, index)
    from alerce_spark.lake import lookup
    from alerce_spark.serving.query import Index as Opened

    opened = Opened(settings.index)
    opened.about()
    shown = opened.versions()
    opened.close()
    newest = lookup.versions(settings.lake.path, list(shown))
    for table, version in shown.items():
        console.print(f"{table}: version {version}, {newest[table] - version} behind the lake")
    raise typer.Exit(0 if shown == newest else 1)


@app.command(name="client-config", rich_help_panel=SERVE)
def client_config(url: Annotated[str, typer.Argument(help="Address of the server, as http://127.0.0.1:8800.")]) -> None:
    """Write the configuration that points ALeRCE's Python client at a server.

    Keep it in a file, and name that in ALERCE_CONFIG_PATH before `import alerce`.
    """
    from alerce_spark.api.client import configuration

    print(json.dumps(configuration(url), indent=2))
