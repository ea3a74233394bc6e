"""Files of a table of the lake, written by a worker or the driver: sorted for look-ups."""

from __future__ import annotations

import pyarrow as pa

from alerce_spark.delta import Action
from alerce_spark.delta import files as parquet
from alerce_spark.delta.files import Layout
from alerce_spark.lake.handles import INDEX, is_synced, table
from alerce_spark.lake.tables import TABLES

#: Columns with statistics for each row group: readers choose rows by them.
_GROUP_STATISTICS = (INDEX, "oid", "mjd", "candid", "ra", "dec")
_ON_SKY = Layout(("pixel", INDEX, "oid"), _GROUP_STATISTICS)
_PLAIN = Layout((), _GROUP_STATISTICS)


def write(lake: str, name: str, rows: pa.Table) -> list[Action]:
    """Write rows as Parquet files, one for each pixel, sorted by healpix29 (one file where a table has no pixel).

    `rows` has the columns of the table and is cast to its types. Returns the files' actions for a Change. Raises
    RuleBroken where a required column has nulls or a check of the table fails: then nothing is written.
    """
    definition = TABLES[name]
    layout = _ON_SKY if definition.on_sky else _PLAIN
    rows = rows.select(definition.names)
    return parquet.write(table(lake, name), rows, definition.arrow, layout, synced=is_synced(lake))
