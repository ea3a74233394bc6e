"""Features of tables that fit into the memory of one machine, object by object on its cores, without Spark."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alerce_spark import needs
from alerce_spark.features.io import from_objects, schema
from alerce_spark.features.select import select
from alerce_spark.processes import submitted

#: Most rows of all inputs that are computed without Spark (docs/decisions.md, "Features without a JVM").
MOST_ROWS = 5_000_000
#: Objects computed at a time; no object depends on others, so the size changes no value.
_PART = 250
#: Least number of objects that justify starting one more process.
_WORTH_A_PROCESS = 2_000


def table(
    detections: pa.Table,
    non_detections: pa.Table | None = None,
    xmatch: pa.Table | None = None,
    progress: Callable[[int, int], None] = lambda done, objects: None,
) -> pa.Table:
    """As `features.io.table`, of tables that `features.io.checked` has made, with ids as text.

    `progress` is called with the number of finished objects, and of all. Large tables use one process per core.
    """
    oids = pc.unique(_with_text(detections)["oid"]).sort()
    tables = [None if rows is None else _cut(oids, _with_text(rows)) for rows in (detections, non_detections, xmatch)]
    parts = [tuple(rows and rows[k] for rows in tables) for k in range(-(-len(oids) // _PART))]
    # The first chunk runs alone: otherwise several processes would each compile kernels that are not on disk yet.
    found = [_features(*part) for part in parts[:1]]
    processes = max(1, min(needs.cores(), len(oids) // _WORTH_A_PROCESS))
    progress(min(_PART, len(oids)), len(oids))
    if processes == 1:
        for part in parts[1:]:
            found.append(_features(*part))
            progress(min(len(found) * _PART, len(oids)), len(oids))
        return pa.concat_tables([schema().empty_table(), *found])
    with submitted(_features, parts[1:], processes) as running:
        for each in running:
            found.append(each.result())
            progress(min(len(found) * _PART, len(oids)), len(oids))
    return pa.concat_tables([schema().empty_table(), *found])


def _features(detections: pa.Table, non_detections: pa.Table | None, xmatch: pa.Table | None) -> pa.Table:
    return from_objects(select(detections, non_detections, xmatch))


def _with_text(rows: pa.Table) -> pa.Table:
    return rows.set_column(0, "oid", rows["oid"].cast(pa.string()))


def _cut(oids: pa.Array, rows: pa.Table) -> list[pa.Table]:
    """The rows of each part of `oids`, in their order; drops rows of other objects."""
    place = pc.fill_null(pc.index_in(rows["oid"], value_set=oids), -1).to_numpy()
    order = np.argsort(place, kind="stable")
    edges = np.searchsorted(place[order], [*range(0, len(oids), _PART), len(oids)])
    return [rows.take(order[begin:end]) for begin, end in pairwise(edges)]
