"""Tables opened by delta-rs, and what they say of the lake."""

from __future__ import annotations

from functools import cache

import pyarrow as pa
from deltalake.exceptions import DeltaError

from alerce_spark.lake.snapshots import Snapshots
from alerce_spark.lake.storage import LakeError, OpenTable, delta_path, is_made, storage_options

#: Table property with the HEALPix order of `pixel`, fixed when the lake is made.
ORDER_PROPERTY = "alerce.healpix_order"
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
    """A handle whose deletion vectors are read by ourselves, for us and for polars."""

    def __init__(self, lake: str, table: str) -> None:
        super().__init__(delta_path(lake, table), storage_options=storage_options(lake))
        self.snapshots = Snapshots(lake, table)

    def deletion_vectors(self) -> pa.Table:
        """As the base class, which hangs where 512 files have one (`lake/deletion_vectors.py`)."""
        snapshots = self.snapshots
        kept = {path: snapshots.kept(path) for path in snapshots.at(self.version())}
        rows = [(f"{self.table_uri.rstrip('/')}/{path}", mask) for path, mask in kept.items() if mask is not None]
        columns = [pa.array([uri for uri, _ in rows], pa.string()), pa.array([mask for _, mask in rows], _MASK)]
        return pa.table(columns, ["filepath", "selection_vector"])


@cache
def healpix_order(lake: str) -> int:
    """HEALPix order of the lake's partitions, from the property of its tables."""
    return int(delta_table(lake, "objects").metadata().configuration[ORDER_PROPERTY])
