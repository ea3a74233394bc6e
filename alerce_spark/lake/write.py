"""Writes to the lake: tables made from their definition, idempotent appends and merges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import polars as pl
from delta.exceptions import DeltaConcurrentModificationException
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from alerce_spark.classifiers import taxonomy
from alerce_spark.lake.storage import ORDER_PROPERTY, LakeError, delta_table, healpix_order, is_made, table_path
from alerce_spark.lake.tables import TABLES, Table, sql_literal
from alerce_spark.lightcurves.assemble import LIMIT_MJD_STEP


@dataclass(frozen=True)
class Transaction:
    """Identifies an append, so that Delta skips its repetition: an id without end and the epoch of a stream."""

    app: str
    version: int


def create(spark: SparkSession, lake: str, order: int) -> list[str]:
    """Make the tables that are not there yet; returns their names.

    Raises LakeError where the lake exists with another HEALPix order.
    """
    missing = [t for t in TABLES.values() if not is_made(lake, t.name)]
    if is_made(lake, "objects") and healpix_order(lake) != order:
        raise LakeError(
            f"the lake {lake} has HEALPix order {healpix_order(lake)}, the settings say {order}; "
            "the order of a lake is fixed: set lake.healpix_order to it or make another lake"
        )
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda t: _create(spark, lake, t, order), missing))
    _write_taxonomy(spark, lake)
    return [t.name for t in missing]


def _write_taxonomy(spark: SparkSession, lake: str) -> None:
    """Classes of both classifiers in the version of this code, if the table lacks them."""
    handle = delta_table(lake, "taxonomy")
    known = set(pl.scan_delta(handle).select("classifier", "version").collect().iter_rows())
    rows = [
        (name, taxonomy.VERSION, list(classes))
        for name, classes in (
            (taxonomy.LIGHTCURVE, taxonomy.LIGHTCURVE_CLASSES),
            (taxonomy.STAMP, taxonomy.STAMP_CLASSES),
        )
        if (name, taxonomy.VERSION) not in known
    ]
    if rows:
        frame = spark.createDataFrame(rows, TABLES["taxonomy"].ddl)
        _merge_into(frame, lake, "taxonomy", ()).whenNotMatchedInsertAll().execute()


def _create(spark: SparkSession, lake: str, table: Table, order: int) -> None:
    properties = {ORDER_PROPERTY: str(order), "delta.enableDeletionVectors": str(table.merged).lower()}
    properties["delta.deletedFileRetentionDuration"] = "interval 1 days"
    properties |= {f"delta.constraints.{name}": condition for name, condition in table.checks}
    listed = ", ".join(f"{sql_literal(k)} = {sql_literal(v)}" for k, v in properties.items())
    partitions = "PARTITIONED BY (pixel)" if table.on_sky else ""
    spark.sql(
        f"CREATE TABLE IF NOT EXISTS delta.`{table_path(lake, table.name)}` ({table.ddl}) USING DELTA {partitions} "
        f"COMMENT {sql_literal(table.comment)} TBLPROPERTIES ({listed})"
    )


def append(rows: DataFrame, lake: str, table: str, transaction: Transaction | None) -> None:
    """Append rows sorted for look-ups, one commit. With a transaction its repetition is skipped."""
    if TABLES[table].on_sky:
        rows = rows.sortWithinPartitions("pixel", "healpix29")
    writer = rows.write.format("delta").mode("append")
    if transaction is not None:
        # As options of this write, never as session settings: those swallow every later write of the session.
        writer = writer.option("txnAppId", f"{transaction.app}/{table}").option("txnVersion", transaction.version)
    writer.save(table_path(lake, table))


def merge(rows: DataFrame, lake: str, table: str, pixels: Iterable[int]) -> None:
    """Insert rows, or replace those of the same key, one commit. `pixels`: where stored rows of these keys can lie."""
    (_merge_into(rows, lake, table, pixels).whenMatchedUpdateAll().whenNotMatchedInsertAll().execute())


def update(rows: DataFrame, lake: str, table: str, pixels: Iterable[int], columns: Sequence[str]) -> None:
    """Rewrite `columns` of stored rows with the same key, one commit; rows without one are left out."""
    _merge_into(rows, lake, table, pixels).whenMatchedUpdate(set={c: f"s.{c}" for c in columns}).execute()


def insert(rows: DataFrame, lake: str, table: str) -> None:
    """Insert rows whose key is not there yet, one commit. For small tables without positions, which two queries share:
    where the other one was faster, the insert is made again.
    """
    for attempt in Retrying(
        retry=retry_if_exception_type(DeltaConcurrentModificationException),
        wait=wait_random(0.1, 1.0),
        stop=stop_after_attempt(10),
        reraise=True,
    ):
        with attempt:
            _merge_into(rows, lake, table, ()).whenNotMatchedInsertAll().execute()


def _merge_into(rows: DataFrame, lake: str, table: str, pixels: Iterable[int]):  # type: ignore[no-untyped-def]
    definition = TABLES[table]
    equal = " AND ".join(_equal(table, column) for column in definition.key)
    if definition.on_sky:
        # Only partitions named as literals are pruned: a join condition on `pixel` would read the whole table.
        equal = f"t.pixel IN ({', '.join(str(int(p)) for p in sorted(set(pixels)))}) AND {equal}"
    target = DeltaTable.forPath(rows.sparkSession, table_path(lake, table))
    return target.alias("t").merge(rows.alias("s"), equal)


def _equal(table: str, column: str) -> str:
    if (table, column) == ("non_detections", "mjd"):
        return f"round(t.mjd / {LIMIT_MJD_STEP!r}) = round(s.mjd / {LIMIT_MJD_STEP!r})"
    return f"t.`{column}` = s.`{column}`"
