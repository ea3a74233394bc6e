"""Notes of integrity on ids that cannot all be true, and its count of packets of one candid. No JVM is needed."""

from __future__ import annotations

import polars as pl

from alerce_spark.nightly import integrity
from alerce_spark.nightly.packets import PACKETS

_SCHEMA = pl.DataFrame(PACKETS.empty_table()).schema


def _known(*rows: tuple[str | None, int | None, float, float]) -> pl.DataFrame:
    columns = ("oid", "candid", "ra", "dec")
    made = pl.DataFrame(list(rows), schema={name: _SCHEMA[name] for name in columns}, orient="row")
    return made.select(
        made[name] if name in columns else pl.lit(None, kind).alias(name) for name, kind in _SCHEMA.items()
    )


def test_a_night_without_packets_proves_nothing() -> None:
    assert "nothing was proven" in integrity._notes("20200601", _known())[0]


def test_ids_that_cannot_all_be_true_are_named() -> None:
    right = [("a", 1, 10.0, 0.0), ("a", 2, 10.0, 0.001), ("b", 3, 20.0, 0.0), (None, None, 0.0, 0.0)]
    assert integrity._notes("20200601", _known(*right)) == []
    apart, shared = integrity._notes("20200601", _known(*right, ("b", 4, 20.0, 0.01), ("c", 1, 50.0, 0.0)))
    assert apart.startswith("1 object ids are seen at places")
    assert apart.endswith(": b")
    assert shared.startswith("1 candids")
    assert shared.endswith(": 1")


def test_of_objects_with_one_candid_each_has_its_packet() -> None:
    keys, others = ["1.avro", "1.avro", "2.avro"], ["1-x.avro", "1-y.avro", "2-z.avro"]
    lacking = integrity._lacking
    assert lacking(keys, others, {"1.avro", "1-y.avro", "2.avro"}) == [False, False, False]
    assert lacking(keys, others, {"1.avro", "1-x.avro", "2.avro"}) == [False, False, False]
    assert lacking(keys, others, {"1.avro", "2.avro"}) == [True, True, False]
    assert lacking(keys, others, {"1-x.avro"}) == [False, True, True]
    assert lacking(keys, others, set()) == [True, True, True]
