"""Parts that all commands share: the application, its panels, its console, settings and options.

A command imports its libraries after it has checked its arguments: Spark, Arrow, polars and the like take seconds, and
neither its help nor an error in its arguments needs them.
"""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from typer.core import TyperGroup

import alerce_spark
from alerce_spark import needs
from alerce_spark.errors import InputError
from alerce_spark.location import is_remote

if TYPE_CHECKING:
    from alerce_spark.config import Settings

#: Panels of `alerce-spark --help`.
RUN, LOOK, COMPUTE = "Run the broker", "Look at the lake", "Compute from files"
SERVE, TRAIN, MAINTAIN = "Serve over HTTP", "Models and labels", "Check and maintain the lake"


class _InPanels(TyperGroup):
    """Sorts commands by their panels, whichever module they come from."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = (RUN, LOOK, COMPUTE, SERVE, TRAIN, MAINTAIN)
        panels = {name: getattr(command, "rich_help_panel", None) for name, command in self.commands.items()}
        return sorted(panels, key=lambda name: order.index(panels[name]))


app = typer.Typer(cls=_InPanels, no_args_is_help=True, help="An astronomical alert broker on Spark, Kafka and Delta.")
#: Printed text may be foreign: an id such as `[/bold]` is not markup, `:star:` not an emoji.
console = Console(markup=False, emoji=False)
_settings_file: list[Path | None] = [None]

Lake = Annotated[str | None, typer.Option("--lake", help="Folder of the tables; default: lake.path of the settings.")]


def there(given: Any) -> Any:
    """Callback of arguments that name files or folders to read. Raises InputError where one does not exist."""
    for path in given if isinstance(given, list) else [given]:
        if path is not None and not os.path.exists(path):
            raise InputError(f"{path}: no such file or folder")
    return given


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        ours = f"alerce-spark {alerce_spark.__version__}, Python {platform.python_version()}"
        print(f"{ours}, Java {needs.java_version() or 'none'}, Spark {version('pyspark')}")
        raise typer.Exit


@app.callback()
def _common(
    conf: Annotated[Path | None, typer.Option(help="Settings file; default: conf/alerce.toml.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Versions of this, Python, Java, Spark.")
    ] = False,
) -> None:
    _settings_file[0] = conf
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    for chatty in ("py4j", "botocore", "urllib3", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It prints the trace of each failed batch; the stream logs one line with the failure and its reaction.
    logging.getLogger("py4j.clientserver").setLevel(logging.CRITICAL)


def lake_of(settings: Settings) -> str:
    """Path of the settings' lake. Raises InputError where it does not exist, before slow imports."""
    path = settings.lake.path
    if not is_remote(path) and not Path(path, "objects", "_delta_log").is_dir():
        raise InputError(f"there is no lake in {path}; make one with: alerce-spark tables create --lake {path}")
    return path


def settings_of(**overrides: Any) -> Settings:
    """Settings of the file, the environment and the flags of a command."""
    from alerce_spark.config import load

    return load(_settings_file[0], overrides)
