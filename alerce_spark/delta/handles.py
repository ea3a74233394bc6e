"""Tables opened by delta-rs: for polars, and for the chores that delta-rs does well (checkpoints, cleaning)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.table import ProtocolVersions

from alerce_spark.delta.protocol import Unsupported
from alerce_spark.delta.table import Table
from alerce_spark.errors import LakeError
from alerce_spark.location import is_remote

__all__ = ["DeltaError", "Handle", "checkpoint", "scan", "vacuum"]

T = TypeVar("T")

_MASK = pa.list_(pa.bool_())
#: Reader features that need nothing here: delta-rs reads those of the log, and `scan` refuses tables whose columns have
#: another type or name than in their files.
_OF_THE_LOG = {"v2Checkpoint", "vacuumProtocolCheck", "columnMapping", "typeWidening", "typeWidening-preview"}


class Handle(DeltaTable):
    """A handle of delta-rs whose deletion vectors this room reads, also for polars.

    Raises LakeError that names a damaged newest commit: delta-rs would read an empty file as a commit without actions.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        opened = super().__init__
        self._named(lambda: opened(table.location.url, storage_options=table.location.options))
        table.log.read(self.version())

    def update_incremental(self) -> None:
        """Move to the newest version."""
        before = self.version()
        self._named(super().update_incremental)
        if self.version() != before:
            self.table.log.read(self.version())

    def _named(self, read: Callable[[], T]) -> T:
        """Result of `read`; where delta-rs fails, raise the error that names the damaged file, if one is found."""
        try:
            return read()
        except (DeltaError, OSError) as error:
            self.table.newest()
            name, folder = self.table.log.name, self.table.log.folder
            raise LakeError(
                f"table {name} in {folder} cannot be opened: {error}; docs/operations.md, Recover, says what to do"
            ) from error

    def protocol(self) -> ProtocolVersions:
        """The protocol without features that polars does not know and that do not concern readers of data files."""
        said = super().protocol()
        asking = set(said.reader_features or ()) - _OF_THE_LOG
        return said._replace(reader_features=sorted(asking)) if said.reader_features is not None else said

    @property
    def table_uri(self) -> str:
        """Place of the table; on a file system without the %-escapes of delta-rs, which polars does not take."""
        return _plain(super().table_uri)

    def file_uris(self, *arguments: Any, **options: Any) -> list[str]:
        """Places of the live files: the table's place without %-escapes, then their unchanged paths in the table."""
        root, plain = (uri.removeprefix("file://").rstrip("/") for uri in (super().table_uri, self.table_uri))
        uris = super().file_uris(*arguments, **options)
        return [plain + uri.removeprefix(root) if uri.startswith(root) else _plain(uri) for uri in uris]

    def deletion_vectors(self) -> pa.Table:
        """As the method of the base class, which hangs with 512 deletion vectors (`deletion_vectors.py`)."""
        files = self.table.at(self.version()).files.values()
        kept = [(f"{self.table_uri.rstrip('/')}/{file.place}", self.table.kept(file)) for file in files]
        rows = [(uri, mask) for uri, mask in kept if mask is not None]
        columns = [pa.array([uri for uri, _ in rows], pa.string()), pa.array([mask for _, mask in rows], _MASK)]
        return pa.table(columns, ["filepath", "selection_vector"])


def _plain(uri: str) -> str:
    return uri if is_remote(uri) else unquote(uri)


def scan(handle: Handle) -> pl.LazyFrame:
    """A table for polars. Raises LakeError for a file that is gone or of another length: polars would panic."""
    table = handle.table
    widened = [f["name"] for f in table.at(handle.version()).metadata.fields if "delta.typeChanges" in f["metadata"]]
    if widened:
        raise Unsupported(f"table {table.name}: columns whose type was widened are not read here: {', '.join(widened)}")
    for file in table.at(handle.version()).files.values():
        try:
            there = table.location.size(file.place)
        except FileNotFoundError:
            raise table.log.damaged(file.path, "is gone") from None
        if there is not None and there != file.size:
            raise table.log.damaged(file.path, f"has {there} bytes of {file.size}")
    return pl.scan_delta(handle)


def checkpoint(table: Table) -> int:
    """Write a checkpoint of the newest version; return that version."""
    handle = DeltaTable(table.location.url, storage_options=table.location.options)
    handle.create_checkpoint()
    return int(handle.version())


def vacuum(table: Table, retention_h: float) -> None:
    """Delete files that no version of the last hours needs."""
    handle = DeltaTable(table.location.url, storage_options=table.location.options)
    handle.vacuum(int(retention_h), dry_run=False, enforce_retention_duration=False, full=True)
