"""Packets for the decoder's tests: random records of any ZTF schema written by fastavro, and what it reads back."""

from __future__ import annotations

import io
import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

import fastavro
import numpy as np

from alerce_spark.alerts.model import Decoded
from alerce_spark.surveys import ztf

Schema = dict[str, Any]
MARKER = bytes(range(16))

KNOWN_TOP = {"schemavsn", "publisher", "objectId", "candid", "candidate", "prv_candidates", "fp_hists", *ztf.CUTOUTS}
KNOWN_CANDIDATE = {f.name for f in ztf.CANDIDATE}
TABLES = {"prv_candidates": ztf.PRV_CANDIDATE, "fp_hists": ztf.FP_HIST}

INTS = (0, 1, -1, 63, 64, -65, 2**31 - 1, -(2**31))
LONGS = (*INTS, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 1157521010115010034)
DOUBLES = (0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 0.1, -999.0, 2458000.123456789)
TEXTS = ("", "t", "null", "ZTF18abcdefg", "naïve", "星", "\N{GRINNING FACE} \x00 end", "x" * 300)


# Writing.


def long_bytes(n: int) -> bytes:
    """Avro's encoding of an integer."""
    n = (n << 1) ^ (n >> 63)
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out) + bytes([n])


def text_bytes(text: bytes) -> bytes:
    """Avro's encoding of bytes and texts."""
    return long_bytes(len(text)) + text


def container(
    schema: Schema | bytes, record: bytes, *, codec: bytes | None = b"null", count: int = 1, size: int | None = None
) -> bytes:
    """A container file by hand, so that every part of it can be wrong."""
    text = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
    meta = {b"avro.schema": text} | ({b"avro.codec": codec} if codec is not None else {})
    head = b"Obj\x01" + long_bytes(len(meta)) + b"".join(text_bytes(k) + text_bytes(v) for k, v in meta.items())
    length = len(record) if size is None else size
    return head + b"\x00" + MARKER + long_bytes(count) + long_bytes(length) + record + MARKER


def record_bytes(schema: Schema, record: dict[str, Any]) -> bytes:
    """The record alone, as fastavro encodes it."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), record)
    return out.getvalue()


def packet(schema: Schema, record: dict[str, Any], codec: str = "null") -> bytes:
    """A container file as fastavro writes it."""
    out = io.BytesIO()
    fastavro.writer(out, json.loads(json.dumps(schema)), [record], codec=codec)
    return out.getvalue()


def read(data: bytes) -> dict[str, Any]:
    """The record of a container file as fastavro reads it."""
    (record,) = fastavro.reader(io.BytesIO(data))
    assert isinstance(record, dict)
    return record


# Schemas.


def bare_schema(version: str) -> Schema:
    """Schema of a version without its `doc` texts."""

    def bare(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: bare(v) for k, v in node.items() if k != "doc"}
        return [bare(v) for v in node] if isinstance(node, list) else node

    schema: Schema = bare(ztf.avro_schema(version))
    return schema


def named_types(schema: Schema) -> dict[str, Any]:
    """Definitions of the named types of a schema."""
    found: dict[str, Any] = {}

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") in ("record", "enum", "fixed"):
                found[node["name"]] = node
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(schema)
    return found


def permuted(schema: Schema, rng: random.Random) -> Schema:
    """The schema with its fields and the branches of its unions in another order, types defined where first used."""
    definitions = named_types(schema)
    used: set[str] = set()

    def shuffle(node: Any) -> Any:
        if isinstance(node, str):
            return shuffle(definitions[node]) if node in definitions and node not in used else node
        if isinstance(node, list):
            return [shuffle(branch) for branch in rng.sample(node, len(node))]
        if node["type"] in ("record", "enum", "fixed"):
            if node["name"] in used:
                return node["name"]
            used.add(node["name"])
        if node["type"] == "record":
            fields = rng.sample(node["fields"], len(node["fields"]))
            return {**node, "fields": [{**f, "type": shuffle(f["type"])} for f in fields]}
        return {**node, **{k: shuffle(node[k]) for k in ("items", "values") if k in node}}

    result: Schema = shuffle(schema)
    return result


def record_schema(schema: Schema, name: str) -> Schema:
    """The record type inside the field `name` of a packet's schema."""
    (node,) = (f["type"] for f in schema["fields"] if f["name"] == name)
    while not (isinstance(node, dict) and node["type"] == "record"):
        node = next(b for b in node if b != "null") if isinstance(node, list) else node["items"]
    found: Schema = node
    return found


def set_type(schema: Schema, path: str, avro_type: Any) -> Schema:
    """The schema with another type of the field `path` (`candidate.jd`, `prv_candidates.fid`, `candid`)."""
    schema = json.loads(json.dumps(schema))
    *outer, name = path.split(".")
    owner = record_schema(schema, outer[0]) if outer else schema
    for field in owner["fields"]:
        if field["name"] == name:
            field["type"] = avro_type
            return schema
    raise AssertionError(path)


def without(schema: Schema, path: str) -> Schema:
    """The schema without the field `path`."""
    schema = json.loads(json.dumps(schema))
    *outer, name = path.split(".")
    owner = record_schema(schema, outer[0]) if outer else schema
    owner["fields"] = [f for f in owner["fields"] if f["name"] != name]
    return schema


# Records.


def value(node: Any, rng: random.Random, types: dict[str, Any], nulls: float = 0.4) -> Any:
    """A random value of an Avro type; the branch of a union is named where fastavro could take another."""
    if isinstance(node, list):
        branches = [b for b in node if b != "null"]
        if "null" in node and (not branches or rng.random() < nulls):
            return None
        branch = rng.choice(branches)
        chosen = value(branch, rng, types, nulls)
        return chosen if len(branches) == 1 else (branch if isinstance(branch, str) else branch["name"], chosen)
    node = types.get(node, {"type": node}) if isinstance(node, str) else node

    def items(item: Any, n: int) -> list[Any]:
        return [value(item, rng, types, nulls) for _ in range(n)]

    makers: dict[str, Callable[[], Any]] = {
        "record": lambda: {f["name"]: value(f["type"], rng, types, nulls) for f in node["fields"]},
        "array": lambda: items(node["items"], rng.randrange(4)),
        "map": lambda: dict(zip(rng.sample(TEXTS, 3), items(node["values"], rng.randrange(4)), strict=False)),
        "enum": lambda: rng.choice(node["symbols"]),
        "fixed": lambda: rng.randbytes(node["size"]),
        "null": lambda: None,
        "boolean": lambda: rng.random() < 0.5,
        "int": lambda: rng.choice((rng.choice(INTS), rng.randrange(-(2**31), 2**31))),
        "long": lambda: rng.choice((rng.choice(LONGS), rng.randrange(-(2**63), 2**63))),
        "float": lambda: rng.choice((struct.unpack("<f", rng.randbytes(4))[0], float(np.float32(rng.choice(DOUBLES))))),
        "double": lambda: rng.choice((struct.unpack("<d", rng.randbytes(8))[0], rng.choice(DOUBLES))),
        "string": lambda: rng.choice(TEXTS),
        "bytes": lambda: rng.randbytes(rng.randrange(40)),
    }
    return makers[node["type"]]()


def random_record(
    schema: Schema, rng: random.Random, *, previous: int | None = 2, forced: int | None = 2, nulls: float = 0.4
) -> dict[str, Any]:
    """A record with random values everywhere that the decoder takes as an alert; None instead of a number is null."""
    types = named_types(schema)
    record: dict[str, Any] = value(schema, rng, types, nulls)
    for name, n in (("prv_candidates", previous), ("fp_hists", forced)):
        if name in record:
            entry = record_schema(schema, name)
            record[name] = None if n is None else [value(entry, rng, types, nulls) for _ in range(n)]
    candid = rng.choice((1, 2**53 + 1, 2**63 - 1, rng.randrange(1, 2**62)))
    record["objectId"] = f"ZTF18{rng.randrange(10**7)}"
    record["candid"] = candid
    record["candidate"] |= {
        "jd": rng.uniform(2458000.0, 2460000.0),
        "ra": rng.choice((0.0, math.nextafter(360.0, 0.0), rng.uniform(0.0, 359.0))),
        "dec": rng.choice((-90.0, 90.0, rng.uniform(-90.0, 90.0))),
        "candid": candid,
        "fid": rng.randrange(1, 4),
        "magpsf": float(np.float32(rng.uniform(14.0, 21.0))),
        "sigmapsf": float(np.float32(rng.uniform(0.01, 0.3))),
    }
    return record


# Comparison.


def same(a: Any, b: Any) -> bool:
    """Equal as Python values of one type; NaN equals NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and bool(a == b)


def as_json(x: Any) -> Any:
    """The expected JSON text of an unknown value: bytes as characters, non-finite numbers by name."""
    if isinstance(x, bytes):
        return x.decode("latin-1")
    if isinstance(x, float) and not math.isfinite(x):
        return "NaN" if math.isnan(x) else ("Infinity" if x > 0 else "-Infinity")
    if isinstance(x, dict):
        return {k: as_json(v) for k, v in x.items()}
    return [as_json(v) for v in x] if isinstance(x, list) else x


def extra_of(row: dict[str, Any]) -> dict[str, Any]:
    """Column `extra` of a row, parsed."""
    return {name: json.loads(text) for name, text in row["extra"] or []}


def unknown_of(record: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Unknown fields of a record as they must be found in `extra`."""
    return {k: as_json(v) for k, v in record.items() if k not in known}


def promoted(number: Any, kind: str) -> Any:
    """A value of another type as the column of an Avro type holds it."""
    if kind in ("float", "double") and type(number) is int:
        return float(number)
    return number.decode() if kind == "string" and isinstance(number, bytes) else number


def assert_fields(row: dict[str, Any], record: dict[str, Any], fields: tuple[ztf.Field, ...], where: str) -> int:
    """Every known field of a row equals that of the record, absent ones are null; returns their number."""
    for field in fields:
        expected = promoted(record.get(field.name), field.type)
        assert same(row[field.name], expected), (where, field.name, row[field.name], expected)
    return len(fields)


def assert_same_as(decoded: Decoded, records: dict[int, dict[str, Any]]) -> int:
    """The tables hold exactly the records, by input row; returns the number of values compared."""
    alerts = decoded.alerts.to_pylist()
    assert [a["row"] for a in alerts] == sorted(records), decoded.errors.to_pylist()
    compared = 0
    entries: dict[str, list[tuple[int, dict[str, Any]]]] = {name: [] for name in TABLES}
    for number, alert in enumerate(alerts):
        record = records[alert["row"]]
        where = f"packet {alert['row']}"
        compared += assert_fields(alert, record["candidate"], ztf.CANDIDATE, where)
        for name in ("schemavsn", "publisher", "objectId"):
            assert same(alert[name], promoted(record.get(name), "string")), (where, name)
        unknown = unknown_of(record, KNOWN_TOP)
        inner = unknown_of(record["candidate"], KNOWN_CANDIDATE)
        expected = unknown | {(f"candidate.{k}" if k in unknown else k): v for k, v in inner.items()}
        assert extra_of(alert) == expected, where
        assert alert["extra"] is None or expected, where
        if ztf.CUTOUTS[0] in alert:
            for name in ztf.CUTOUTS:
                cutout = record.get(name)
                assert same(alert[name], cutout.get("stampData") if cutout else None), (where, name)
        for name, rows in entries.items():
            rows += [(number, entry) for entry in record.get(name) or [] if entry is not None]
    for (name, rows), table in zip(entries.items(), (decoded.previous, decoded.forced), strict=True):
        assert table.num_rows == len(rows), name
        for row, (number, entry) in zip(table.to_pylist(), rows, strict=True):
            assert row["alert"] == number, name
            compared += assert_fields(row, entry, TABLES[name], name)
            assert extra_of(row) == unknown_of(entry, {f.name for f in TABLES[name]})
    return compared


def reasons(decoded: Decoded) -> dict[int, str]:
    """Reason of every bad packet, by input row."""
    return dict(zip(decoded.errors["row"].to_pylist(), decoded.errors["reason"].to_pylist(), strict=True))


def assert_covers(decoded: Decoded, n: int) -> None:
    """Every one of n input rows is in `alerts` or in `errors`, once and in order."""
    good, bad = decoded.alerts["row"].to_pylist(), decoded.errors["row"].to_pylist()
    assert good == sorted(good)
    assert bad == sorted(bad)
    assert sorted(good + bad) == list(range(n))
