"""Damaged packets between good ones: no exception, one outcome each, neighbours intact, no invented value.

Changed bytes that still make an alert are accepted: see the head of `alerce_spark/alerts/avro.py`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from alerce_spark.alerts.avro import decode, strip_stamps
from alerce_spark.surveys.ztf import ZTF
from tests.unit.alert_packets import (
    assert_covers,
    assert_same_as,
    bare_schema,
    container,
    long_bytes,
    packet,
    random_record,
    read,
    reasons,
    record_bytes,
    record_schema,
)

BATCHES = 20
MUTANTS = 550  # a batch


def base(version: str, seed: int, unknown: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema and a record of it; `unknown` adds fields of compound types that the decoder does not know."""
    schema = json.loads(json.dumps(bare_schema(version)))
    if unknown:
        point = {"type": "record", "name": "Point", "fields": [{"name": "x", "type": ["null", "double"]}]}
        schema["fields"].insert(2, {"name": "path", "type": {"type": "array", "items": point}})
        record_schema(schema, "candidate")["fields"].insert(
            5, {"name": "tags", "type": {"type": "map", "values": ["string", "int", "boolean"]}}
        )
        record_schema(schema, "prv_candidates")["fields"] += [
            {"name": "verdict", "type": {"type": "enum", "name": "Verdict", "symbols": ["A", "B", "C"]}},
            {"name": "digest", "type": {"type": "fixed", "name": "Digest", "size": 3}},
        ]
    return schema, random_record(schema, random.Random(seed), nulls=0.6)


BASES = [base("1.0", 1), base("3.3", 2), base("4.02", 3), base("4.02", 4, unknown=True)]
BODIES = [(schema, record_bytes(schema, record)) for schema, record in BASES]
GOOD = [packet(*BASES[0]), packet(*BASES[2], "deflate"), packet(*BASES[3]), packet(*BASES[1], "snappy")]
GOOD_RECORDS = [read(data) for data in GOOD]
INFLATED = (
    long_bytes(2**31),
    long_bytes(2**62),
    long_bytes(-1),
    long_bytes(-(2**63)),
    b"\xff" * 9 + b"\x01",
    b"\xff" * 12,
    b"\x80" * 40,
    long_bytes(1000),
)


def damaged(data: bytes, rng: random.Random, first: int = 0) -> bytes:
    """The bytes with one kind of damage somewhere after `first`."""
    out = bytearray(data)
    at = rng.randrange(first, len(out))
    kind = rng.randrange(8)
    if kind < 3:
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            out[rng.randrange(first, len(out))] ^= 1 << rng.randrange(8)
    elif kind == 3:
        out[at] = rng.choice((0, 1, 2, 4, 0x7F, 0x80, 0xFE, 0xFF))
    elif kind == 4:
        del out[at : at + rng.choice((1, 1, 2, 4, 8, 100))]
    elif kind == 5:
        out[at:at] = rng.randbytes(rng.choice((1, 1, 2, 4, 8)))
    elif kind == 6:
        _, other = rng.choice(BODIES)
        start = rng.randrange(len(other))
        out[at : at + rng.choice((0, 1, 40))] = other[start : start + rng.randrange(1, 60)]
    else:
        out[at : at + rng.choice((0, 1, 1))] = rng.choice(INFLATED)
    return bytes(out)


TYPES: tuple[Any, ...] = (
    "null", "boolean", "int", "long", "float", "double", "bytes", "string", ["null", "long"], ["double", "null"],
    ["int", "string", "null"], {"type": "array", "items": "int"}, {"type": "map", "values": "float"}, "nothing", None,
    {"type": "fixed", "name": "Four", "size": 4}, {"type": "enum", "name": "Two", "symbols": ["a", "b"]},
    {"type": "record", "name": "One", "fields": [{"name": "one", "type": ["null", "One"]}]},
)  # fmt: skip


def retyped(schema: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The schema with another type, or another name, of one field anywhere."""
    schema = json.loads(json.dumps(schema))
    owner = rng.choice((schema, *(record_schema(schema, name) for name in ("candidate", "prv_candidates"))))
    field = rng.choice(owner["fields"])
    field[rng.choice(("type", "type", "name"))] = rng.choice((*TYPES, "jd", "new"))
    return schema


def mutant(rng: random.Random) -> bytes:
    """A damaged packet: its record, framed again so that the damage is reached, its schema, or any part of the file."""
    kind = rng.random()
    if kind < 0.7:
        schema, body = rng.choice(BODIES)
        return container(schema, damaged(body, rng))
    if kind < 0.8:
        schema, body = rng.choice(BODIES)
        return container(retyped(schema, rng), body)
    data = rng.choice(GOOD)
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    return damaged(data, rng, first=rng.choice((0, 0, len(data) - 1500)))


def assert_nothing_under_nulls(table: pa.Table) -> None:
    """Null texts have no bytes: the buffers keep no bytes of a bad packet."""
    for column in table.combine_chunks().columns:
        if column.type in (pa.string(), pa.binary()):
            (array,) = column.chunks
            ends = np.frombuffer(array.buffers()[1], np.int32)[: len(array) + 1]
            assert not np.diff(ends)[np.asarray(array.is_null())].any()


@pytest.mark.parametrize("seed", range(BATCHES))
def test_damaged_packets_between_good_ones(seed: int) -> None:
    rng = random.Random(seed)
    data: list[bytes] = []
    expected: dict[int, dict[str, Any]] = {}
    for number in range(MUTANTS):
        if number % 10 == 0:
            expected[len(data)] = GOOD_RECORDS[number // 10 % len(GOOD)]
            data.append(GOOD[number // 10 % len(GOOD)])
        data.append(mutant(rng))
    decoded = decode(data, ZTF, stamps=True)
    assert_covers(decoded, len(data))
    accepted = set(decoded.alerts["row"].to_pylist())
    assert accepted >= expected.keys()
    # fastavro reads every packet that we accept, and finds the same values.
    assert_same_as(decoded, expected | {row: read(data[row]) for row in accepted - expected.keys()})
    for table in (decoded.alerts, decoded.previous, decoded.forced):
        assert_nothing_under_nulls(table)
    assert all(reasons(decoded).values())
    stripped = decode(strip_stamps(data, ZTF), ZTF)
    plain = decode(data, ZTF)
    for name in ("alerts", "previous", "forced"):
        assert repr(getattr(stripped, name).to_pydict()) == repr(getattr(plain, name).to_pydict())
    assert stripped.errors["row"].equals(plain.errors["row"])


def test_the_mutants_reach_what_they_should() -> None:
    """Many kinds of damage, some of them undetectable."""
    rng = random.Random(0)
    decoded = decode([mutant(rng) for _ in range(3000)], ZTF)
    kinds = Counter(reason.split(":")[1][:12] if ":" in reason else reason[:12] for reason in reasons(decoded).values())
    assert len(kinds) >= 25
    assert 300 < decoded.alerts.num_rows < 2000


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_a_packet_cut_off_at_every_byte(number: int) -> None:
    data = GOOD[number]
    for first in range(0, len(data), 1000):
        cut = [data[:n] for n in range(first, min(first + 1000, len(data)))]
        decoded = decode([*cut, data], ZTF)
        assert decoded.alerts["row"].to_pylist() == [len(cut)]
        assert_same_as(decode([data], ZTF, stamps=True), {0: GOOD_RECORDS[number]})


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_a_record_cut_off_at_every_byte(number: int) -> None:
    schema, body = BODIES[number]
    decoded = decode([container(schema, body[:n]) for n in range(len(body))], ZTF)
    assert decoded.alerts.num_rows == 0
    assert all(reason.startswith("field ") for reason in reasons(decoded).values())


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_every_bit_of_a_record(number: int) -> None:
    schema, body = BODIES[number]
    for first in range(0, len(body), 250):
        flipped = []
        for at in range(first, min(first + 250, len(body))):
            for bit in range(8):
                flipped.append(body[:at] + bytes([body[at] ^ 1 << bit]) + body[at + 1 :])
        decoded = decode([container(schema, one) for one in flipped], ZTF)
        assert_covers(decoded, len(flipped))
