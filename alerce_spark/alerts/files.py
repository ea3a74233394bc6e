"""Packets on disk: Avro files and tar archives of them, as surveys publish a night."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

_TARS = (".tar", ".tar.gz", ".tgz")


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Avro files and tar archives at or below `paths`, in order. Raises FileNotFoundError for a missing path."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.name.endswith((".avro", *_TARS)) and p.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or directory")
    return found


def packets_of(path: str) -> Iterator[tuple[bytes, str]]:
    """Packets of an Avro file or of a tar archive, each with where it was found. Archives are streamed, never unpacked.

    Raises OSError, EOFError, tarfile.TarError or zlib.error.
    """
    if not path.endswith(_TARS):
        yield Path(path).read_bytes(), path
        return
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            handle = archive.extractfile(member)
            if handle is not None and member.name.endswith(".avro"):
                yield handle.read(), f"{path}:{member.name}"
