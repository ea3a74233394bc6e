"""What all commands share: the application, its console, settings and options."""

from __future__ import annotations

import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from alerce_spark.config import Settings, load

app = typer.Typer(no_args_is_help=True, help="An astronomical alert broker on Spark, Kafka and Delta.")
#: What is printed may be anybody's text: an id such as `[/bold]` is no markup, `:star:` no picture.
console = Console(markup=False, emoji=False)
_settings_file: list[Path | None] = [None]

Lake = Annotated[str | None, typer.Option("--lake", help="Folder of the tables; default: lake.path of the settings.")]


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"alerce-spark {version('alerce-spark')}, Python {platform.python_version()}", highlight=False)
        raise typer.Exit


@app.callback()
def _common(
    conf: Annotated[Path | None, typer.Option(help="Settings file; default: conf/alerce.toml.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")] = False,
) -> None:
    _settings_file[0] = conf
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    for chatty in ("py4j", "botocore", "urllib3", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It prints the trace of each failed batch; the stream says in one line what failed and what it does about it.
    logging.getLogger("py4j.clientserver").setLevel(logging.CRITICAL)


def settings_of(**overrides: Any) -> Settings:
    """Settings of the file, the environment and the flags of a command."""
    return load(_settings_file[0], overrides)
