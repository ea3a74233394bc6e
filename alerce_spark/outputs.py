"""Places of results, checked before the work: a result that cannot be written must not be found out at its end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alerce_spark.errors import InputError

#: Formats in which tables are written.
TABLE_SUFFIXES = (".csv", ".parquet")


def check_out(out: Path, suffixes: Sequence[str] = (), inputs: Sequence[Path | None] = ()) -> Path:
    """`out`, a file that can be written; checked before the work, so that its result is not lost. Makes the folder.

    With `suffixes` its name must end in one of them. None of `inputs` may be it, by any spelling or link, or a folder
    that it lies in. Raises InputError.
    """
    for path in inputs:
        if path is not None and _is_part(out, path):
            raise InputError(f"{out} is the input {path}, or lies in it: the result would replace it; choose another")
    if suffixes and out.suffix.lower() not in suffixes:
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
            # A table is written beside its place and then put there.
            tempfile.TemporaryFile(dir=out.parent).close()
    return out


def _is_part(out: Path, path: Path) -> bool:
    """Whether a result is an input or lies in it."""
    places = [out, *(out.parent.absolute().resolve() / "_").parents]
    return any(place.exists() and path.exists() and place.samefile(path) for place in places)


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
