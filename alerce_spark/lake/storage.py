"""Where a table lies and how its files are reached, without Spark."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from obstore.store import LocalStore, S3Store
from pyarrow import fs

from alerce_spark.errors import AlerceError
from alerce_spark.lake.tables import TABLES

Store = LocalStore | S3Store
#: A line of the Delta log, or a part of one.
Action = dict[str, Any]


class LakeError(AlerceError):
    """The lake cannot be used as asked; the message says why and what to do."""


def table_path(lake: str, table: str) -> str:
    """Path of a table. Raises LakeError for a name that no table has."""
    if table not in TABLES:
        raise LakeError(f"no table {table!r}; there are {', '.join(TABLES)}")
    return f"{lake.rstrip('/')}/{table}"


def storage_options(lake: str) -> dict[str, str] | None:
    """Options of delta-rs for a lake on S3, from the same AWS_… environment that s3a reads; None for a path."""
    if not lake.startswith(("s3://", "s3a://")):
        return None
    options = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return options


def is_made(lake: str, table: str) -> bool:
    """Whether the table exists."""
    return bool(DeltaTable.is_deltatable(delta_path(lake, table), storage_options(lake)))


@cache
def store(lake: str, table: str) -> Store:
    """The files of a table, paths relative to it; a file appears whole or not at all."""
    path = delta_path(lake, table)
    options = storage_options(lake)
    if options is None:
        return LocalStore(_local(path), mkdir=True)
    # The store reads the AWS_… environment by itself; given as its configuration, a name it does not know is an error.
    return S3Store.from_url(path, client_options={"allow_http": options.get("AWS_ALLOW_HTTP") == "true"})


def filesystem(path: str, options: dict[str, str] | None) -> fs.FileSystem:
    """Arrow's file system whose root is the table at `path` (as delta-rs spells it), with its `storage_options`."""
    if options is None:
        return fs.SubTreeFileSystem(str(_local(path)), fs.LocalFileSystem())
    return fs.PyFileSystem(DeltaStorageHandler(path, options))


def _local(path: str) -> Path:
    return Path(unquote(path.removeprefix("file://").removeprefix("file:"))).resolve()


def delta_path(lake: str, table: str) -> str:
    """Path of a table as delta-rs spells it."""
    return table_path(lake, table).replace("s3a://", "s3://", 1)
