"""Writes to the lake: tables made from their definition, and changes of rows, each one commit from a known version.

Who holds the rows writes their files, a worker or the driver (`append`, `replace`, `insert`); the driver alone commits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import polars as pl
import pyarrow as pa
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from alerce_spark import sky
from alerce_spark.classifiers import taxonomy
from alerce_spark.lake import files, log, lookup
from alerce_spark.lake.handles import ORDER_PROPERTY, SYNC_PROPERTY, delta_table, healpix_order, scan, set_synced
from alerce_spark.lake.log import Change, Conflict
from alerce_spark.lake.storage import LakeError, is_made
from alerce_spark.lake.tables import TABLES
from alerce_spark.lightcurves.assemble import LIMIT_MJD_STEP

T = TypeVar("T")

#: Times that a change is made anew because another writer was faster.
_ATTEMPTS = 10


def create(lake: str, order: int, *, sync: bool = True) -> list[str]:
    """Make the tables that are not there yet, and add columns that are new to those that are; returns the former.

    `sync` is lake.sync of the settings, and is changed where the lake was made otherwise; processes that run keep to
    what they know. Raises LakeError where the lake exists with another HEALPix order.
    """
    if is_made(lake, "objects") and healpix_order(lake) != order:
        raise LakeError(
            f"the lake {lake} has HEALPix order {healpix_order(lake)}, the settings say {order}; "
            "the order of a lake is fixed: set lake.healpix_order to it or make another lake"
        )
    properties = {ORDER_PROPERTY: str(order), "delta.deletedFileRetentionDuration": "interval 1 days"}
    synced = {SYNC_PROPERTY: "true" if sync else "false"}
    made = [table.name for table in TABLES.values() if log.create(lake, table, properties | synced)]
    if "objects" not in made:
        set_synced(lake, sync)
    for table in TABLES.values():
        if table.name not in made:
            unhindered(partial(log.add_columns, lake, table))
    rows = [
        {"classifier": name, "version": taxonomy.VERSION, "classes": list(classes)}
        for name, classes in (
            (taxonomy.LIGHTCURVE, taxonomy.LIGHTCURVE_CLASSES),
            (taxonomy.STAMP, taxonomy.STAMP_CLASSES),
        )
    ]
    insert(lake, "taxonomy", pa.Table.from_pylist(rows, TABLES["taxonomy"].arrow))
    return made


def append(lake: str, table: str, rows: pa.Table) -> Change:
    """Files of new rows."""
    return Change(files.write(lake, table, rows))


def replace(lake: str, table: str, rows: pa.Table, version: int) -> Change:
    """Files of rows that take the place of those with the same key at `version`, where there are any; one row a key.

    An object's stored rows lie within 10 arcsec of its new ones, or they are not found (`lookup.read_near`).
    """
    if not rows.num_rows:
        return Change([])
    keys = pl.DataFrame(rows.select([*TABLES[table].key, "healpix29"]))
    wanted = [*TABLES[table].key]
    seen = sky.position(keys["healpix29"])
    stored = lookup.read_near(lake, table, wanted, keys["oid"], *seen, version, located=True)
    old = _keyed(stored, table).join(_keyed(keys, table), on=wanted, how="semi").select("path", "position")
    return Change(files.write(lake, table, rows), old, operation="MERGE")


def joined(changes: Sequence[Change]) -> Change:
    """One change of a table that does what several do."""
    deleted = [c.deleted for c in changes if c.deleted is not None]
    operation = "MERGE" if any(c.operation == "MERGE" for c in changes) else "WRITE"
    return Change([a for c in changes for a in c.added], pl.concat(deleted) if deleted else None, operation=operation)


def packed(change: Change) -> bytes:
    """A change that a worker made, for the driver: added files and deleted rows."""
    deleted = {} if change.deleted is None else change.deleted.to_dict(as_series=False)
    return json.dumps({"added": change.added, "deleted": deleted, "operation": change.operation}).encode()


def unpacked(data: bytes) -> Change:
    """The change that `packed` wrote."""
    fields = json.loads(data)
    deleted = pl.DataFrame(fields["deleted"], schema={"path": pl.String, "position": pl.Int64})
    return Change(fields["added"], deleted, operation=fields["operation"])


def insert(lake: str, table: str, rows: pa.Table) -> int:
    """Commit the rows whose key a small table without positions lacks; returns their number. Repeated on conflict."""
    key = list(TABLES[table].key)

    def change() -> int:
        handle = delta_table(lake, table)
        known = scan(handle).select(key).collect()
        numbered = pl.DataFrame(rows.select(key)).with_row_index("row").unique(key, keep="first", maintain_order=True)
        new = numbered.join(known, on=key, how="anti", maintain_order="left")["row"]
        if len(new):
            log.commit(lake, table, handle.version(), append(lake, table, rows.take(new.to_arrow())))
        return len(new)

    return unhindered(change)


def unhindered(change: Callable[[], T]) -> T:
    """Result of `change`, which reads and commits; made again where another writer's commit came between."""
    for attempt in Retrying(
        retry=retry_if_exception_type(Conflict),
        wait=wait_random(0.05, 0.5),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    ):
        with attempt:
            result = change()
    return result


def _keyed(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """Keys as they are compared: upper limits by their rounded time."""
    if table != "non_detections":
        return frame
    return frame.with_columns(mjd=(pl.col("mjd") / LIMIT_MJD_STEP).round().cast(pl.Int64))
