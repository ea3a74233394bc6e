"""Where a table lies, how delta-rs reaches it, and what its log says: the Spark-free face of the lake."""

from __future__ import annotations

import os
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from obstore.store import LocalStore, S3Store

from alerce_spark.lake.tables import TABLES

if TYPE_CHECKING:
    from alerce_spark.lake.log import Snapshots

Store = LocalStore | S3Store
_MASK = pa.list_(pa.bool_())
#: Table property with the HEALPix order of `pixel`, fixed when the lake is made.
ORDER_PROPERTY = "alerce.healpix_order"


class LakeError(Exception):
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
    return bool(DeltaTable.is_deltatable(_path(lake, table), storage_options(lake)))


def delta_table(lake: str, table: str) -> DeltaTable:
    """A delta-rs handle on the newest version of a table. Raises LakeError where the lake has not been made."""
    if not is_made(lake, table):
        raise LakeError(f"no table {table} in {lake}; make the lake with: alerce-spark tables create --lake {lake}")
    return _Handle(lake, table)


class _Handle(DeltaTable):
    """A handle whose deletion vectors are read by ourselves, for us and for polars."""

    def __init__(self, lake: str, table: str) -> None:
        super().__init__(_path(lake, table), storage_options=storage_options(lake))
        self._lake_table = lake, table

    @cached_property
    def _snapshots(self) -> Snapshots:
        from alerce_spark.lake.log import Snapshots  # noqa: PLC0415 (it reads what this module opens)

        return Snapshots(*self._lake_table)

    def deletion_vectors(self) -> pa.Table:
        """As the base class, which hangs where 512 files have one (`lake/log.py`)."""
        snapshots = self._snapshots
        kept = {path: snapshots.kept(path) for path in snapshots.at(self.version())}
        rows = [(f"{self.table_uri.rstrip('/')}/{path}", mask) for path, mask in kept.items() if mask is not None]
        columns = [pa.array([uri for uri, _ in rows], pa.string()), pa.array([mask for _, mask in rows], _MASK)]
        return pa.table(columns, ["filepath", "selection_vector"])


@cache
def store(lake: str, table: str) -> Store:
    """The files of a table, paths relative to it; a file appears whole or not at all."""
    path = _path(lake, table)
    options = storage_options(lake)
    if options is None:
        return LocalStore(Path(unquote(path.removeprefix("file://").removeprefix("file:"))).resolve(), mkdir=True)
    # The store reads the AWS_… environment by itself; given as its configuration, a name it does not know is an error.
    return S3Store.from_url(path, client_options={"allow_http": options.get("AWS_ALLOW_HTTP") == "true"})


def _path(lake: str, table: str) -> str:
    """Path as delta-rs spells it."""
    return table_path(lake, table).replace("s3a://", "s3://", 1)


@cache
def healpix_order(lake: str) -> int:
    """HEALPix order of the lake's partitions, from the property of its tables."""
    return int(delta_table(lake, "objects").metadata().configuration[ORDER_PROPERTY])
