"""Reads a query's checkpoint: the messages that it has processed, and damaged files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Of each topic the next offset of each partition, as Kafka's source of Spark writes them.
Offsets = dict[str, dict[str, int]]

_VERSION = "v1"


def committed(folder: str) -> Offsets | None:
    """Offsets up to which the query of a checkpoint has taken messages; None where it says nothing of it."""
    try:
        done = max(_numbers(folder, "commits"))
        *_, offsets = _entries(Path(_local(folder), "offsets", str(done)))
    except (OSError, ValueError):
        return None
    return offsets if isinstance(offsets, dict) else None


def damaged(folder: str) -> Path | None:
    """The first of the files that Spark reads to go on which is cut or no longer what Spark wrote.

    Spark names them in some cases only. None on S3, where nothing is looked at.
    """
    place = Path(_local(folder))
    if "://" in folder.removeprefix("file://") or not place.is_dir():
        return None
    newest = [place / log / str(max(numbers)) for log in ("offsets", "commits") if (numbers := _numbers(folder, log))]
    for file in (place / "metadata", *newest):
        try:
            if file.name == "metadata":
                json.loads(file.read_bytes())
            else:
                list(_entries(file))
        except (OSError, ValueError):
            return file
    return None


def _local(folder: str) -> str:
    return folder.removeprefix("file://").removeprefix("file:")


def _numbers(folder: str, log: str) -> list[int]:
    """Batches of a log of the checkpoint."""
    place = Path(_local(folder), log)
    return [int(file.name) for file in place.iterdir() if file.name.isdigit()] if place.is_dir() else []


def _entries(file: Path) -> Iterator[Any]:
    """JSON values of a file of a log after its version; ValueError for one that is not whole."""
    version, *lines = file.read_text().splitlines()
    if version != _VERSION or not lines:
        raise ValueError(f"{file} is damaged")
    for line in lines:
        yield None if line == "-" else json.loads(line)
