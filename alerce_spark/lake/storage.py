"""Where a table lies and how its files are reached, without Spark."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable
from obstore.store import LocalStore, S3Store

from alerce_spark.errors import AlerceError
from alerce_spark.lake.tables import TABLES
from alerce_spark.places import is_remote, lake_path

Store = LocalStore | S3Store
#: A line of the Delta log, or a part of one.
Action = dict[str, Any]


class LakeError(AlerceError):
    """The lake cannot be used as asked; the message says why and what to do."""


def table_path(lake: str, table: str) -> str:
    """Path of a table. Raises LakeError for a name that no table has."""
    if table not in TABLES:
        raise LakeError(f"no table {table!r}; there are {', '.join(TABLES)}")
    return f"{lake_path(lake)}/{table}"


def storage_options(lake: str) -> dict[str, str] | None:
    """Options of delta-rs for a lake on S3, from the same AWS_… environment that s3a reads; None for a path."""
    if not is_remote(lake):
        return None
    options = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return options


def is_made(lake: str, table: str) -> bool:
    """Whether the table exists."""
    return bool(DeltaTable.is_deltatable(delta_path(lake, table), storage_options(lake)))


class OpenTable(DeltaTable):
    """A table as delta-rs opens it, whose files polars finds also where their folder has blanks or accents in it."""

    @property
    def table_uri(self) -> str:
        """Place of the table, on a file system as it is written there; delta-rs gives %-escapes, polars takes none."""
        return _plain(super().table_uri)

    def file_uris(self, *arguments: Any, **options: Any) -> list[str]:
        """Places of the live files, likewise."""
        return [_plain(uri) for uri in super().file_uris(*arguments, **options)]


def _plain(uri: str) -> str:
    return uri if is_remote(uri) else unquote(uri)


@cache
def store(lake: str, table: str) -> Store:
    """The files of a table, paths relative to it; a file appears whole or not at all."""
    path = delta_path(lake, table)
    options = storage_options(lake)
    if options is None:
        try:
            return LocalStore(Path(path).resolve(), mkdir=True)
        except OSError as error:
            raise LakeError(f"no lake can be in {lake}: {error}; see to its rights, or choose another folder") from None
    # The store reads the AWS_… environment by itself; given as its configuration, a name it does not know is an error.
    return S3Store.from_url(path, client_options={"allow_http": options.get("AWS_ALLOW_HTTP") == "true"})


def delta_path(lake: str, table: str) -> str:
    """Path of a table as delta-rs spells it."""
    return table_path(lake, table).replace("s3a://", "s3://", 1)
