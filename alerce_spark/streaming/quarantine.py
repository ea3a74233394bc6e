"""Rows of the table quarantine on their way from workers to the table, so that the driver holds few of them at a time.

A refused packet may have megabytes, so the rows of a batch are counted by their bytes, not by their number.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alerce_spark.lake import write
from alerce_spark.streaming.pieces import pack, unpack

#: Bytes of refused packets that the driver takes at a time, or one packet where that has more.
_PORTION = 32 << 20


def packed(rows: pa.Table) -> list[bytes]:
    """Each row of the table, for `keep`."""
    return [pack(rows.slice(k, 1)) for k in range(rows.num_rows)]


def keep(lake: str, rows: DataFrame, check_lease: Callable[[], None]) -> int:
    """Store rows (one column: `packed` ones) whose key the table lacks; returns how many these are."""
    (column,) = rows.columns
    size = rows.select(F.sum(F.length(column))).first()
    portions = 1 + (size[0] or 0 if size else 0) // _PORTION
    # The iterator brings a whole partition at a time: so many are made that each has a portion.
    spread = rows.repartition(portions) if portions > 1 else rows.coalesce(1)
    stored = 0
    portion: list[pa.Table] = []
    held = 0
    for row in spread.toLocalIterator():
        portion.append(unpack(bytes(row[0])))
        held += portion[-1].nbytes
        if held >= _PORTION:
            stored += _insert(lake, portion, check_lease)
            portion, held = [], 0
    return stored + (_insert(lake, portion, check_lease) if portion else 0)


def _insert(lake: str, portion: list[pa.Table], check_lease: Callable[[], None]) -> int:
    check_lease()
    return write.insert(lake, "quarantine", pa.concat_tables(portion))
