"""Open tables of a lake, by the room delta or by delta-rs for polars, and settings stored in their properties."""

from __future__ import annotations

import polars as pl
from polars.exceptions import PanicException, PolarsError

from alerce_spark import delta
from alerce_spark.delta import Change, NotMade, Table
from alerce_spark.delta.files import refuse_damaged
from alerce_spark.delta.handles import Handle, scan
from alerce_spark.errors import LakeError
from alerce_spark.lake.tables import TABLES
from alerce_spark.location import at, lake_path

__all__ = [
    "Handle",
    "collect",
    "delta_table",
    "healpix_order",
    "is_made",
    "is_synced",
    "scan",
    "set_synced",
    "table",
    "table_path",
]

#: Table property with the HEALPix order of `pixel`, fixed when the lake is made.
ORDER_PROPERTY = "alerce.healpix_order"
#: Table property that is "false" where files are not synchronised before a commit names them (lake.sync).
SYNC_PROPERTY = "alerce.sync"
#: Column whose bounds in each file choose the files of a look-up.
INDEX = "healpix29"


def table_path(lake: str, table: str) -> str:
    """Path of a table. Raises LakeError for an unknown name."""
    if table not in TABLES:
        raise LakeError(f"no table {table!r}; there are {', '.join(TABLES)}")
    return f"{lake_path(lake)}/{table}"


def is_made(lake: str, table: str) -> bool:
    """Whether the table exists. Raises LakeError where the lake's store does not answer."""
    return delta.is_made(at(table_path(lake, table)))


def table(lake: str, name: str) -> Table:
    """The process's `Table` of this name. Raises LakeError where the lake has not been made."""
    opened = delta.open(at(table_path(lake, name)), INDEX)
    try:
        opened.known()
    except NotMade:
        raise LakeError(
            f"no table {name} in {lake}; make the lake with: alerce-spark tables create --lake {lake}"
        ) from None
    return opened


def delta_table(lake: str, name: str) -> Handle:
    """A handle of delta-rs on the newest version. Raises LakeError where the lake has not been made."""
    return Handle(table(lake, name))


def collect(lake: str, frame: pl.LazyFrame) -> pl.DataFrame:
    """Collect rows of tables of a lake. Where polars fails, raise the LakeError that names a damaged file, if any."""
    try:
        return frame.collect()
    except (PolarsError, PanicException, OSError):
        for name in TABLES:
            refuse_damaged(table(lake, name))
        raise


def healpix_order(lake: str) -> int:
    """HEALPix order of the lake's partitions, from the property of its tables."""
    return int(table(lake, "objects").known().metadata.configuration[ORDER_PROPERTY])


def is_synced(lake: str) -> bool:
    """Whether the lake's files are synchronised before a commit names them; true where it has no table objects yet."""
    try:
        objects = delta.open(at(table_path(lake, "objects")), INDEX).known()
    except NotMade:
        return True
    return objects.metadata.configuration.get(SYNC_PROPERTY) != "false"


def set_synced(lake: str, sync: bool) -> None:
    """Turn the synchronisation of the lake's files on or off."""
    objects = table(lake, "objects")
    now = objects.newest()
    if is_synced(lake) != sync:
        described = now.metadata.with_properties({SYNC_PROPERTY: "true" if sync else "false"})
        change = Change([], metadata=described, operation="SET TBLPROPERTIES")
        objects.commit(now.version, change, synced=True)
