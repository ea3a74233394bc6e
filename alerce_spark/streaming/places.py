"""Batches in which an object is at one place: an oid that is seen at two is an object at each (docs/decisions.md)."""

from __future__ import annotations

import pyarrow as pa

from alerce_spark import sky


def parts(batch: pa.RecordBatch, alerts: pa.Table) -> list[pa.RecordBatch]:
    """The batch of PACKETS whose decoded `alerts` are given, in parts in which no object is at two places.

    Almost always that is the batch. Otherwise packets that cannot be decoded are in no part.
    """
    number = sky.places(*(alerts[name] for name in ("objectId", "candid", "ra", "dec")))
    if not number.any():
        return [batch]
    rows = alerts["row"].to_numpy()
    return [batch.take(pa.array(rows[number == n])) for n in range(number.max() + 1)]
