"""Rows that the query `results` stores, without Spark: the best of each key, found and replaced by one look-up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark import sky
from alerce_spark.lake import lookup, write
from alerce_spark.lake.handles import delta_table
from alerce_spark.lake.tables import TABLES
from alerce_spark.streaming.queries.results import Results

ORDER = 3
#: Of an alert: object, candid, own detections that the result knew, detections that it used.
Seen = tuple[int, int, int, int]


def _features(batch: list[Seen]) -> pa.Table:
    columns = TABLES["features"].columns
    nothing = {"string": "", "boolean": False}
    rows: list[dict[str, Any]] = []
    for number, candid, own, used in batch:
        index = int(sky.healpix(0.0 + 17.1 * number, -50 + 11.3 * number))
        row: dict[str, Any] = {c.name: nothing.get(c.type, 0) if c.required else None for c in columns}
        row |= {"oid": f"Z{number}", "candid": candid, "version": "1", "nown": own, "ndet_used": used}
        rows.append(row | {"healpix29": index, "pixel": int(sky.parent(index, ORDER))})
    return pa.Table.from_pylist(rows, TABLES["features"].arrow)


@pytest.fixture(scope="module")
def looks() -> Iterator[list[str]]:
    """Tables that were looked up, in order."""
    found: list[str] = []
    plain = lookup.read_near

    def counted(lake: str, table: str, *arguments: Any, **options: Any) -> pl.DataFrame:
        found.append(table)
        return plain(lake, table, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "read_near", counted)
        yield found


_BATCH = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=20
)


@settings(max_examples=15)
@given(batches=st.lists(_BATCH, min_size=1, max_size=5))
def test_the_best_row_of_each_key_is_stored_by_one_look_up_a_batch(looks: list[str], batches: list[list[Seen]]) -> None:
    best: dict[tuple[str, int], tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        lake = f"{folder}/lake"
        write.create(lake, ORDER)
        results = Results(None, lake, "ztf", lambda: None)  # type: ignore[arg-type]
        for batch in batches:
            before = dict(best)
            for number, candid, own, used in batch:
                key = f"Z{number}", candid
                best[key] = max(best.get(key, (0, 0)), (own, used))
            looks.clear()
            count = results._store(_features(batch), "features")
            assert looks == ["features"]
            assert count == sum(best[key] != before.get(key) for key in best)
            rows = pl.scan_delta(delta_table(lake, "features")).select("oid", "candid", "nown", "ndet_used").collect()
            found = {(oid, candid): (own, used) for oid, candid, own, used in rows.iter_rows()}
            assert len(rows) == len(found)
            assert found == best
