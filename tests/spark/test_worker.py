"""Workers set aside what they have loaded, and what a function yields is what Spark gets."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from alerce_spark.worker import map_in_workers, settle, together

pytestmark = pytest.mark.spark


def test_survivors_of_a_collection_are_set_aside() -> None:
    gc.unfreeze()
    living = [[k] for k in range(50_000)]
    gc.collect()
    settle()
    frozen = gc.get_freeze_count()
    assert frozen >= len(living)
    settle()  # nothing is left that is worth it
    assert gc.get_freeze_count() <= frozen
    gc.unfreeze()


def test_workers_do(spark: SparkSession) -> None:
    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from alerce_spark.streaming.queries import lightcurves  # noqa: F401 (what a worker of the stream loads)

        for batch in batches:
            yield pa.RecordBatch.from_pydict({"id": batch.column("id"), "frozen": [gc.get_freeze_count()] * len(batch)})

    # The first task of a worker loads, the collection after it finds what survives, the second one sets it aside.
    for _ in range(3):
        rows = map_in_workers(spark.range(40).repartition(2), count, "id LONG, frozen LONG").collect()
        assert sorted(row["id"] for row in rows) == list(range(40))
    assert max(row["frozen"] for row in rows) > 20_000


def test_workers_come_from_our_daemon(spark: SparkSession) -> None:
    def name(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import sys

        for batch in batches:
            own = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
            yield pa.RecordBatch.from_pydict({"name": [own] * len(batch)})

    rows = map_in_workers(spark.range(4), name, "name STRING").collect()
    assert {row["name"] for row in rows} == {"alerce_spark.daemon"}


def test_batches_are_joined_until_they_are_large() -> None:
    def batch(first: int, count: int, size: int) -> pa.RecordBatch:
        rows = {"number": list(range(first, first + count)), "packet": [b"x" * size] * count}
        return pa.RecordBatch.from_pydict(rows)

    small = [batch(k, 2, 10) for k in range(0, 20, 2)]
    joined = list(together(iter([*small[:3], batch(0, 0, 0), *small[3:]])))
    assert [part["number"].to_pylist() for part in joined] == [list(range(20))]
    large = [batch(k, 1, 20 << 20) for k in range(5)]
    assert [part["number"].to_pylist() for part in together(iter(large))] == [[0, 1, 2, 3], [4]]
    assert list(together(iter([batch(0, 0, 0)]))) == []
