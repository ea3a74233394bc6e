"""What all commands share: the application, its console, settings and options."""

from __future__ import annotations

import logging
import platform
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from alerce_spark.config import Settings, load
from alerce_spark.errors import InputError

app = typer.Typer(no_args_is_help=True, help="An astronomical alert broker on Spark, Kafka and Delta.")
console = Console()
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


def check_out(out: Path, suffixes: Sequence[str] = ()) -> Path:
    """`out`, a file that can be written; checked before the work, so that its result is not lost. Makes the folder.

    With `suffixes` its name must end in one of them. Raises InputError.
    """
    if suffixes and out.suffix not in suffixes:
        raise InputError(f"{out}: results are written as {' or '.join(suffixes)}")
    with _writing(out):
        if out.is_dir():
            raise InputError(f"{out} is a folder; give the name of a file")
        if out.parent.is_file():
            raise InputError(f"{out.parent} is a file; there can be no {out.name} in it")
        out.parent.mkdir(parents=True, exist_ok=True)
        if not out.exists():
            out.open("xb").close()
            out.unlink()
        elif out.is_file():
            out.open("ab").close()
    return out


def check_out_folder(folder: Path) -> Path:
    """`folder`, made if there is none, in which files can be written; checked before the work. Raises InputError."""
    with _writing(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; give the name of a folder")
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    return folder


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"{path} cannot be written: {why}; see to its rights and room, or choose another") from None


def visible(text: str) -> str:
    """Text of anybody for the terminal: control characters and what else changes how it is shown become escapes."""
    return "".join(c if c in "\n\t" or _is_shown(c) else c.encode("unicode_escape").decode() for c in text)


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
