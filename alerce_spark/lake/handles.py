"""Tables opened by delta-rs, and what they say of the lake."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake.exceptions import DeltaError

from alerce_spark.lake.snapshots import Snapshots, commit_path
from alerce_spark.lake.storage import LakeError, OpenTable, delta_path, is_made, settle, size, storage_options

T = TypeVar("T")

#: Table property with the HEALPix order of `pixel`, fixed when the lake is made.
ORDER_PROPERTY = "alerce.healpix_order"
#: Table property that says "false" where files are not synchronised before they are promised (lake.sync).
SYNC_PROPERTY = "alerce.sync"
_MASK = pa.list_(pa.bool_())


def delta_table(lake: str, table: str) -> Handle:
    """A delta-rs handle on the newest version of a table. Raises LakeError where the lake has not been made."""
    if not is_made(lake, table):
        raise LakeError(f"no table {table} in {lake}; make the lake with: alerce-spark tables create --lake {lake}")
    try:
        return Handle(lake, table)
    except DeltaError as error:
        raise LakeError(
            f"table {table} in {lake} cannot be opened: {error}; docs/operations.md, Recover, says what to do"
        ) from error


class Handle(OpenTable):
    """A handle whose deletion vectors are read by ourselves, for us and for polars.

    A newest commit that is damaged is a LakeError that names it: delta-rs takes an empty one for a commit of nothing.
    """

    def __init__(self, lake: str, table: str) -> None:
        self.snapshots = Snapshots(lake, table)
        opened = super().__init__
        self._named(lambda: opened(delta_path(lake, table), storage_options=storage_options(lake)))
        self.snapshots.check(self.version())

    def update_incremental(self) -> None:
        """Move to the newest version."""
        before = self.version()
        self._named(super().update_incremental)
        if self.version() != before:
            self.snapshots.check(self.version())

    def _named(self, read: Callable[[], T]) -> T:
        """Result of `read`; where delta-rs cannot, the error that names the damaged file, if there is one."""
        try:
            return read()
        except DeltaError:
            self.snapshots.newest()
            raise

    def deletion_vectors(self) -> pa.Table:
        """As the base class, which hangs where 512 files have one (`lake/deletion_vectors.py`)."""
        snapshots = self.snapshots
        kept = {path: snapshots.kept(path) for path in snapshots.at(self.version())}
        rows = [(f"{self.table_uri.rstrip('/')}/{path}", mask) for path, mask in kept.items() if mask is not None]
        columns = [pa.array([uri for uri, _ in rows], pa.string()), pa.array([mask for _, mask in rows], _MASK)]
        return pa.table(columns, ["filepath", "selection_vector"])


def scan(handle: Handle) -> pl.LazyFrame:
    """A table for polars. Raises LakeError for a file that is not as long as the log says: polars would panic."""
    files = handle.snapshots.files
    for path, add in handle.snapshots.at(handle.version()).items():
        there = size(files, unquote(path))
        if there is not None and there != add["size"]:
            raise handle.snapshots.damaged(path, f"has {there} bytes of {add['size']}")
    return pl.scan_delta(handle)


def settle_commit(handle: Handle) -> None:
    """Make safe what delta-rs wrote: the newest commit and the live files."""
    version = handle.version()
    settle(handle.snapshots.files, [commit_path(version), *map(unquote, handle.snapshots.at(version))])


@cache
def _properties(lake: str) -> dict[str, str]:
    return dict(delta_table(lake, "objects").metadata().configuration)


def healpix_order(lake: str) -> int:
    """HEALPix order of the lake's partitions, from the property of its tables."""
    return int(_properties(lake)[ORDER_PROPERTY])


def is_synced(lake: str) -> bool:
    """Whether the lake's files are synchronised before they are promised."""
    return _properties(lake).get(SYNC_PROPERTY) != "false"


def set_synced(lake: str, sync: bool) -> None:
    """Let the lake's files be synchronised from now on, or no longer."""
    if is_synced(lake) != sync:
        handle = delta_table(lake, "objects")
        handle.alter.set_table_properties({SYNC_PROPERTY: "true" if sync else "false"}, raise_if_not_exists=False)
        settle_commit(handle)
        _properties.cache_clear()
