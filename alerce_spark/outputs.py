"""Check output paths before the work starts, so that no result is lost because it cannot be written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alerce_spark.errors import InputError

#: Suffixes of the formats in which tables are written.
TABLE_SUFFIXES = (".csv", ".parquet")


def check_out(out: Path, suffixes: Sequence[str] = (), inputs: Sequence[Path | None] = ()) -> Path:
    """Check that the file `out` can be written, create its folder, and return `out`.

    With `suffixes` its name must end in one of them. No input may be the same file, by any spelling or link, or a
    folder that contains it. Raises InputError.
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
            # A table is written to a temporary file in the same folder and then renamed.
            tempfile.TemporaryFile(dir=out.parent).close()
    return out


def _is_part(out: Path, path: Path) -> bool:
    """Whether the output is the input or lies in it."""
    places = [out, *(out.parent.absolute().resolve() / "_").parents]
    return any(place.exists() and path.exists() and place.samefile(path) for place in places)


def check_out_folder(folder: Path) -> Path:
    """Create `folder` if needed, check that files can be written there, and return it. Raises InputError."""
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
