"""Delete results that are no longer valid: the stream only adds and replaces rows.

Later alerts of an object may show that detections of it do not count (a poor `rb`, an upgraded copy). An older result
from too many detections then stays at its latest alert, since an object with too few has no new result.
"""

from __future__ import annotations

from functools import partial

import polars as pl

from alerce_spark.classifiers.taxonomy import STAMP
from alerce_spark.lake import lookup, write
from alerce_spark.lake.tables import TABLES
from alerce_spark.lake.write import Change
from alerce_spark.nightly.invariants import TOO_FEW


def withdraw(lake: str, found: pl.DataFrame, known: pl.DataFrame) -> int:
    """Delete features and light-curve classes that FINDINGS call too_few; return the number of their objects.

    An object with another finding does not change: its detections may be wrong. `known` are packets (PACKETS) of the
    objects. This is safe beside the stream, whose commits are repeated where they conflict with this one.
    """
    others = found.filter(pl.col("invariant") != TOO_FEW)["oid"].drop_nulls()
    few = found.filter(pl.col("invariant") == TOO_FEW, ~pl.col("oid").is_in(others.implode())).select("oid", "candid")
    few = few.unique()
    if len(few):
        places = known.join(few, "oid", "semi").unique("oid")
        for table in ("features", "probabilities"):
            write.unhindered(partial(_delete, lake, table, few, places))
    return len(few)


def _delete(lake: str, table: str, few: pl.DataFrame, places: pl.DataFrame) -> None:
    version = lookup.versions(lake, [table])[table]
    oid, ra, dec = (places[name] for name in ("oid", "ra", "dec"))
    stored = lookup.read_near(lake, table, TABLES[table].key, oid, ra, dec, version, located=True)
    if "classifier" in stored.columns:
        stored = stored.filter(pl.col("classifier") != STAMP)
    rows = stored.join(few, ["oid", "candid"], "semi").select("path", "position")
    write.commit(lake, table, version, Change([], rows, operation="DELETE"))
