"""Writes to the lake: make tables from their definition, change rows, each in one commit from a known version.

The process that has the rows, a worker or the driver, writes their files (`append`, `replace`, `insert`); only the
driver commits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import polars as pl
import pyarrow as pa
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from alerce_spark import delta, sky
from alerce_spark.classifiers import taxonomy
from alerce_spark.delta import Change, Conflict, Definition
from alerce_spark.delta.files import rows as rows_of
from alerce_spark.errors import LakeError
from alerce_spark.lake import files, lookup
from alerce_spark.lake.handles import (
    ORDER_PROPERTY,
    SYNC_PROPERTY,
    healpix_order,
    is_made,
    is_synced,
    set_synced,
    table,
    table_path,
)
from alerce_spark.lake.tables import TABLES, Table
from alerce_spark.lightcurves.assemble import LIMIT_MJD_STEP
from alerce_spark.location import at

__all__ = ["Change", "Conflict", "add_columns", "append", "commit", "create", "insert", "joined", "make", "packed"]
__all__ += ["replace", "replace_all", "unhindered", "unpacked"]

T = TypeVar("T")

#: Number of times that a change is repeated because another writer was faster.
_ATTEMPTS = 10


def create(lake: str, order: int, *, sync: bool = True) -> list[str]:
    """Make the missing tables, and add new columns to existing ones; return the tables that were made.

    `sync` is lake.sync of the settings, which replaces the lake's; running processes keep the value that they read.
    Raises LakeError where the lake exists with another HEALPix order.
    """
    if is_made(lake, "objects") and healpix_order(lake) != order:
        raise LakeError(
            f"the lake {lake} has HEALPix order {healpix_order(lake)}, the settings say {order}; "
            "the order of a lake is fixed: set lake.healpix_order to it or make another lake"
        )
    properties = {ORDER_PROPERTY: str(order), "delta.deletedFileRetentionDuration": "interval 1 days"}
    synced = {SYNC_PROPERTY: "true" if sync else "false"}
    made = [definition.name for definition in TABLES.values() if make(lake, definition, properties | synced)]
    if "objects" not in made:
        set_synced(lake, sync)
    for definition in TABLES.values():
        if definition.name not in made:
            unhindered(partial(add_columns, lake, definition))
    rows = [
        {"classifier": name, "version": taxonomy.VERSION, "classes": list(classes)}
        for name, classes in (
            (taxonomy.LIGHTCURVE, taxonomy.LIGHTCURVE_CLASSES),
            (taxonomy.STAMP, taxonomy.STAMP_CLASSES),
        )
    ]
    insert(lake, "taxonomy", pa.Table.from_pylist(rows, TABLES["taxonomy"].arrow))
    return made


def make(lake: str, definition: Table, configuration: dict[str, str]) -> bool:
    """Make an empty table from its definition; False where it exists already.

    `configuration` holds its properties. Tables on the sky are partitioned by pixel and may have rows deleted.
    """
    checks = {f"delta.constraints.{name}": sql for name, sql in definition.checks}
    made = Definition(
        definition.delta_schema,
        definition.comment,
        partition_by=["pixel"] if definition.on_sky else [],
        configuration=configuration | checks,
        deletable=definition.on_sky,
    )
    synced = configuration.get(SYNC_PROPERTY) != "false"
    return delta.create(at(table_path(lake, definition.name)), made, synced=synced)


def add_columns(lake: str, definition: Table) -> list[str]:
    """Add the columns of the definition that a stored table lacks; returns their names. Stored rows have nulls there.

    Raises Conflict where another writer committed meanwhile, LakeError for a new column that may not be null.
    """
    stored = table(lake, definition.name)
    now = stored.newest()
    known = {field["name"] for field in now.metadata.fields}
    missing = [field for field in json.loads(definition.delta_schema)["fields"] if field["name"] not in known]
    names = [field["name"] for field in missing]
    if required := [field["name"] for field in missing if not field["nullable"]]:
        raise LakeError(
            f"table {definition.name} lacks {', '.join(required)}: make a new lake and import the archive into it"
        )
    if missing:
        change = Change([], metadata=now.metadata.with_fields(missing), operation="ADD COLUMNS")
        stored.commit(now.version, change, synced=is_synced(lake))
    return names


def commit(lake: str, name: str, version: int, change: Change) -> int:
    """Commit a change of a table that was made from `version`; returns the new version (delta/table.py)."""
    return version if change.is_empty else table(lake, name).commit(version, change, synced=is_synced(lake))


def append(lake: str, name: str, rows: pa.Table) -> Change:
    """Files of new rows."""
    return Change(files.write(lake, name, rows))


def replace(lake: str, name: str, rows: pa.Table, version: int, stored: pl.DataFrame | None = None) -> Change:
    """Files of rows that take the place of those with the same key at `version`, where there are any; one row a key.

    An object's stored rows lie within 10 arcsec of its new ones, or they are not found (`lookup.read_near`). stored:
    what that look-up found of the objects at `version`, keys and location; read here where the caller has not read it.
    """
    if not rows.num_rows:
        return Change([])
    keys = pl.DataFrame(rows.select([*TABLES[name].key, "healpix29"]))
    wanted = [*TABLES[name].key]
    if stored is None:
        seen = sky.position(keys["healpix29"])
        stored = lookup.read_near(lake, name, wanted, keys["oid"], *seen, version, located=True)
    old = _keyed(stored, name).join(_keyed(keys, name), on=wanted, how="semi").select("path", "position")
    return Change(files.write(lake, name, rows), old, operation="MERGE")


def joined(changes: Sequence[Change]) -> Change:
    """Several changes of a table combined into one."""
    deleted = [c.deleted for c in changes if c.deleted is not None]
    operation = "MERGE" if any(c.operation == "MERGE" for c in changes) else "WRITE"
    return Change([a for c in changes for a in c.added], pl.concat(deleted) if deleted else None, operation=operation)


def packed(change: Change) -> bytes:
    """A worker's change, encoded for the driver: added files and deleted rows."""
    deleted = {} if change.deleted is None else change.deleted.to_dict(as_series=False)
    return json.dumps({"added": change.added, "deleted": deleted, "operation": change.operation}).encode()


def unpacked(data: bytes) -> Change:
    """The change that `packed` encoded."""
    fields = json.loads(data)
    deleted = pl.DataFrame(fields["deleted"], schema={"path": pl.String, "position": pl.Int64})
    return Change(fields["added"], deleted, operation=fields["operation"])


def replace_all(lake: str, name: str, rows: pa.Table, version: int, info: dict[str, str]) -> Change:
    """Files of rows that replace all rows at `version`; `info` is kept in the commit."""
    before = table(lake, name).at(version).files.values()
    removed = {file.path: file.vector for file in before}
    return Change(files.write(lake, name, rows), removed=removed, info=info)


def insert(lake: str, name: str, rows: pa.Table) -> int:
    """Commit the rows whose key a small table without positions lacks; returns their number. Repeated on conflict."""
    key = list(TABLES[name].key)

    def change() -> int:
        stored = table(lake, name)
        now = stored.newest()
        schema = TABLES[name].arrow
        known = pa.concat_tables(
            [schema.empty_table().select(key)]
            + [rows_of(stored, file, pa.schema([schema.field(k) for k in key])) for file in now.files.values()]
        )
        numbered = pl.DataFrame(rows.select(key)).with_row_index("row").unique(key, keep="first", maintain_order=True)
        new = numbered.join(pl.DataFrame(known), on=key, how="anti", maintain_order="left")["row"]
        if len(new):
            commit(lake, name, now.version, append(lake, name, rows.take(new.to_arrow())))
        return len(new)

    return unhindered(change)


def unhindered(change: Callable[[], T]) -> T:
    """Result of `change`, which reads and commits; it is repeated where another writer committed in between."""
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
    """Keys for comparison: upper limits have a rounded time."""
    if table != "non_detections":
        return frame
    return frame.with_columns(mjd=(pl.col("mjd") / LIMIT_MJD_STEP).round().cast(pl.Int64))
