"""The decoder agrees with fastavro for every schema, and gives a reason for every packet that is not an alert."""

from __future__ import annotations

import io
import itertools
import json
import random
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cramjam
import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alerce_spark.alerts import avro, avro_kernels
from alerce_spark.alerts.avro import decode, strip_stamps
from alerce_spark.alerts.model import (
    ERRORS_SCHEMA,
    Decoded,
    schemas,
    sign,
)
from alerce_spark.simulation.night import Traits, simulate
from alerce_spark.surveys import ztf
from alerce_spark.surveys.ztf import ZTF
from tests.unit.alert_packets import (
    KNOWN_TOP,
    MARKER,
    TABLES,
    assert_covers,
    assert_same_as,
    bare_schema,
    container,
    extra_of,
    long_bytes,
    packet,
    permuted,
    random_record,
    read,
    reasons,
    record_bytes,
    record_schema,
    set_type,
    text_bytes,
    without,
)

CODECS = ("null", "deflate", "snappy")
SCHEMA = bare_schema("4.02")


def alert(seed: int = 1, schema: dict[str, Any] = SCHEMA, **shape: Any) -> dict[str, Any]:
    return random_record(schema, random.Random(seed), **shape)


def good(seed: int = 1) -> bytes:
    return packet(SCHEMA, alert(seed))


def reason(data: bytes | None) -> str:
    """Reason of one bad packet between two good ones, which must stay good."""
    decoded = decode(pa.array([good(1), data, good(2)], pa.binary()), ZTF)
    assert_same_as(decoded, {0: read(good(1)), 2: read(good(2))})
    return reasons(decoded)[1]


def equal(a: Decoded, b: Decoded) -> bool:
    """Assert that all values are equal; compares text, in which NaN equals NaN."""
    return all(repr(getattr(a, t).to_pydict()) == repr(getattr(b, t).to_pydict()) for t in vars(a))


# Real packets.


@pytest.fixture(scope="module")
def real_packets(data_dir: Path) -> list[bytes]:
    """All real ZTF packets: histories, an exposure, schema 4, and the members of a nightly archive."""
    folder = data_dir / "ztf"
    files = [*sorted(folder.glob("histories/*/*.avro")), *sorted(folder.glob("exposure/*.avro"))]
    files += sorted(folder.glob("v4/*.avro"))
    found = [file.read_bytes() for file in files]
    with tarfile.open(folder / "ztf_public_20180819_mod1000.tar.gz") as archive:
        found += [archive.extractfile(m).read() for m in archive if m.isfile()]  # type: ignore[union-attr]
    return found


@pytest.mark.real_data
def test_every_value_of_every_real_packet_is_that_of_fastavro(real_packets: list[bytes]) -> None:
    assert len(real_packets) == 203 + 135 + 48 + 30
    decoded = decode(real_packets, ZTF, stamps=True)
    assert decoded.errors.num_rows == 0
    assert assert_same_as(decoded, {row: read(data) for row, data in enumerate(real_packets)}) > 300_000


@pytest.mark.real_data
def test_real_packets_without_stamps_differ_in_nothing_else(real_packets: list[bytes]) -> None:
    stripped = strip_stamps(real_packets, ZTF)
    for before, after in zip(real_packets, stripped, strict=True):
        assert read(after.as_py()) == read(before) | dict.fromkeys(ztf.CUTOUTS)
    assert decode(stripped, ZTF).previous.equals(decode(real_packets, ZTF).previous)
    assert stripped.nbytes < sum(map(len, real_packets)) / 3


@pytest.mark.real_data
def test_the_five_corrupt_files_are_named_for_what_they_are(data_dir: Path) -> None:
    files = [file.read_bytes() for file in sorted((data_dir / "ztf" / "corrupt").iterdir())]
    decoded = decode(files, ZTF)
    assert decoded.alerts.num_rows == 0
    assert reasons(decoded) == dict.fromkeys(range(5), "not an Avro container: starts with b'<!DO'")


@pytest.mark.real_data
def test_the_four_spellings_of_isdiffpos_in_real_detections(data_dir: Path) -> None:
    from pyarrow import csv

    path = data_dir / "ztf" / "golden" / "raw_detections.csv"
    options = csv.ConvertOptions(include_columns=["isdiffpos"], column_types={"isdiffpos": pa.string()})
    signs = sign(csv.read_csv(path, convert_options=options)["isdiffpos"])
    # counted in the file: t 120, 1 3; f 707, 0 7.
    assert signs.to_pylist().count(1) == 123
    assert signs.to_pylist().count(-1) == 714


# Any schema that means the same.

EXTRAS: tuple[Any, ...] = (
    "boolean", "int", "long", "float", "double", "string", "bytes", ["null", "double"], ["string", "null"],
    "null", ["null"],
    ["null", "int", "string", "double", "boolean"],
    {"type": "long", "logicalType": "local-clock"},
    {"type": "array", "items": "double"},
    {"type": "map", "values": ["null", "long"]},
    {"type": "enum", "name": "Verdict", "symbols": ["YES", "NO"]},
    {"type": "fixed", "name": "Digest", "size": 5},
    {"type": "record", "name": "Box", "fields": [
        {"name": "corner", "type": {"type": "array", "items": "float"}},
        {"name": "tags", "type": {"type": "map", "values": {"type": "array", "items": "string"}}},
        {"name": "nothing", "type": "null"},
    ]},
)  # fmt: skip


def with_extras(schema: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Unknown fields in the packet and its records; named types only once, as Avro wants it."""
    pool = list(EXTRAS)
    for owner in (schema, *(record_schema(schema, n) for n in ("candidate", *TABLES) if has(schema, n))):
        for number in range(rng.randrange(4)):
            kind = rng.choice(pool)
            if isinstance(kind, dict) and "name" in kind:
                pool.remove(kind)
            owner["fields"].append({"name": f"new{number}", "type": kind})
    return schema


def has(schema: dict[str, Any], name: str) -> bool:
    return any(f["name"] == name for f in schema["fields"])


def drop_empty(record: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The record without the values of type null, which take no bytes and are not reported."""
    owners = [(record, schema), (record["candidate"], record_schema(schema, "candidate"))]
    for name in TABLES:
        if has(schema, name):
            owners += [(entry, record_schema(schema, name)) for entry in record[name] or []]
    for values, owner in owners:
        for field in owner["fields"]:
            if field["type"] == "null":
                del values[field["name"]]
            elif isinstance(field["type"], dict) and field["type"].get("name") == "Box":
                del values[field["name"]]["nothing"]
    return record


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    version=st.sampled_from(ztf.VERSIONS),
    codec=st.sampled_from(CODECS),
    seed=st.integers(0, 2**32),
    previous=st.sampled_from((None, 0, 1, 5)),
    forced=st.sampled_from((None, 0, 3)),
    shuffled=st.booleans(),
    extras=st.booleans(),
)
def test_any_record_of_any_version_codec_and_order(
    version: str, codec: str, seed: int, previous: int | None, forced: int | None, shuffled: bool, extras: bool
) -> None:
    rng = random.Random(seed)
    schema = bare_schema(version) if seed % 2 else ztf.avro_schema(version)
    schema = with_extras(schema, rng) if extras else schema
    schema = permuted(schema, rng) if shuffled else schema
    data = [
        packet(schema, random_record(schema, rng, previous=previous, forced=forced, nulls=nulls), codec)
        for nulls in (0.0, 0.4, 1.0)
    ]
    records = {row: drop_empty(read(one), schema) for row, one in enumerate(data)}
    assert_same_as(decode(data, ZTF, stamps=True), records)
    stripped = strip_stamps(data, ZTF).to_pylist()
    for before, after in zip(data, stripped, strict=True):
        assert fastavro.reader(io.BytesIO(after)).codec == "null"
        expected = read(before) | dict.fromkeys(ztf.CUTOUTS)
        assert repr(sorted(read(after).items())) == repr(sorted(expected.items()))
    assert equal(decode(stripped, ZTF), decode(data, ZTF))


@settings(max_examples=25, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**32), max_size=12), slice_bytes=st.sampled_from((1, 30_000, 64 << 20)))
def test_a_batch_is_its_packets_one_after_another(seeds: list[int], slice_bytes: int) -> None:
    data = []
    for seed in seeds:
        rng = random.Random(seed)
        schema = bare_schema(rng.choice(ztf.VERSIONS))
        one = packet(schema, random_record(schema, rng, previous=rng.randrange(4)), rng.choice(CODECS))
        data.append(rng.choice((one, one, one[: rng.randrange(len(one))])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avro, "SLICE_BYTES", slice_bytes)
        patch.setattr(avro, "SIDE_BYTES", slice_bytes)
        whole = decode(data, ZTF, stamps=True)
        stripped = strip_stamps(data, ZTF)
    assert_covers(whole, len(data))
    singles = [decode([one], ZTF, stamps=True) for one in data]
    alerts: list[Any] = []
    previous: list[Any] = []
    for row, single in enumerate(singles):
        previous += [p | {"alert": len(alerts)} for p in single.previous.to_pylist()]
        alerts += [a | {"row": row} for a in single.alerts.to_pylist()]
    assert repr(whole.alerts.to_pylist()) == repr(alerts)
    assert repr(whole.previous.to_pylist()) == repr(previous)
    assert reasons(whole) == {row: reasons(s)[0] for row, s in enumerate(singles) if s.errors.num_rows}
    assert stripped.to_pylist() == [strip_stamps([one], ZTF)[0].as_py() for one in data]


def test_the_columns_are_the_same_for_every_version() -> None:
    for version in ztf.VERSIONS:
        schema = bare_schema(version)
        decoded = decode([packet(schema, alert(schema=schema))], ZTF)
        assert decoded.alerts.schema == schemas(ZTF).alerts
        assert decoded.previous.schema == schemas(ZTF).previous
        assert decoded.forced.schema == schemas(ZTF).forced
        assert decoded.errors.schema == ERRORS_SCHEMA
    assert decode([good()], ZTF, stamps=True).alerts.schema == schemas(ZTF).alerts_stamps
    for table in vars(decode([good()], ZTF, stamps=True)).values():
        table.validate(full=True)


@pytest.mark.parametrize("stamps", [False, True])
def test_no_packets(stamps: bool) -> None:
    for empty in ([], pa.array([], pa.binary()), pa.chunked_array([], pa.binary())):
        decoded = decode(empty, ZTF, stamps=stamps)
        assert decoded.alerts.schema == (schemas(ZTF).alerts_stamps if stamps else schemas(ZTF).alerts)
        assert_covers(decoded, 0)
    assert strip_stamps([], ZTF).type == pa.binary()


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_any_binary_array_whole_sliced_or_chunked(kind: pa.DataType) -> None:
    data = [good(seed) for seed in range(6)]
    array = pa.array([b"before", *data, None], kind)
    expected = {row: read(one) for row, one in enumerate(data)}
    assert_same_as(decode(array[1:7], ZTF), expected)
    chunked = pa.chunked_array([array[1:3], array[3:3], array[3:]])
    decoded = decode(chunked, ZTF)
    assert_same_as(decoded, expected)
    assert reasons(decoded) == {6: "empty packet"}


def test_ids_beyond_the_reach_of_float64() -> None:
    candids = [2**53 + 1, 2**53 + 3, 2**63 - 1]
    data = []
    for candid in candids:
        record = alert()
        record["candid"] = record["candidate"]["candid"] = record["prv_candidates"][0]["candid"] = candid
        record["candidate"]["objectidps1"] = candid
        data.append(packet(SCHEMA, record))
    decoded = decode(data, ZTF)
    assert decoded.alerts["candid"].to_pylist() == candids
    assert decoded.alerts["objectidps1"].to_pylist() == candids
    assert decoded.previous["candid"].to_pylist()[::2] == candids


def test_arrays_in_many_blocks_and_blocks_with_their_size() -> None:
    record = alert(previous=0, forced=3)
    body = record_bytes(SCHEMA, record)
    entry_schema = record_schema(SCHEMA, "prv_candidates")
    entries = [random_record(SCHEMA, random.Random(seed), previous=1)["prv_candidates"][0] for seed in range(3)]
    encoded = [record_bytes(entry_schema, entry) for entry in entries]
    sized = long_bytes(-2) + long_bytes(len(encoded[1] + encoded[2])) + encoded[1] + encoded[2]
    blocks = long_bytes(1) + encoded[0] + sized + long_bytes(0)
    at = _place_of_previous(record)
    data = container(SCHEMA, body[:at] + blocks + body[at + 1 :])
    decoded = decode([data], ZTF)
    assert_same_as(decoded, {0: read(data)})
    assert decoded.previous.num_rows == 3
    lying = blocks.replace(long_bytes(-2) + long_bytes(len(encoded[1] + encoded[2])), long_bytes(-2) + long_bytes(7))
    wrong = container(SCHEMA, body[:at] + lying + body[at + 1 :])
    assert reason(wrong) == "field prv_candidates: block of another size than stated"


def _place_of_previous(record: dict[str, Any]) -> int:
    """Where the array of an empty `prv_candidates` begins in a record of SCHEMA."""
    head = json.loads(json.dumps(SCHEMA))
    head["fields"] = head["fields"][:5]
    return len(record_bytes(head, record)) + 1


# Types that hold the same value.


@pytest.mark.parametrize(
    ("path", "kind", "number"),
    [
        ("candidate.fid", "long", 3),
        ("candidate.nid", ["null", "long"], -(2**31)),
        ("candidate.pid", "int", 7),
        ("candidate.jd", "float", 2458000.5),
        ("candidate.jd", "int", 2458001),
        ("candidate.ra", ["int", "null"], 359),
        ("candidate.dec", "long", -90),
        ("candidate.scorr", ["null", "long"], 2**53),
        ("candidate.magpsf", "int", 19),
        ("candidate.sky", ["null", "long"], -(2**24)),
        ("candidate.sky", ["int", "null", "float", "double"], ("int", 12)),
        ("candidate.jd", ["string", "double", "null"], ("double", 2458000.25)),
        ("candidate.rbversion", "bytes", b"t17_f5"),
        ("candidate.candid", ["null", "long"], None),
    ],
)
def test_another_type_with_the_same_value(path: str, kind: Any, number: Any) -> None:
    schema = set_type(SCHEMA, path, kind)
    record = alert()
    name = path.split(".")[1]
    record["candidate"][name] = record["candid"] if name == "candid" else number
    data = packet(schema, record)
    (row,) = decode([data], ZTF).alerts.to_pylist()
    expected = read(data)["candidate"][name]
    assert row[name] == (expected.decode() if isinstance(expected, bytes) else expected)


@pytest.mark.parametrize(
    ("path", "kind", "number", "expected"),
    [
        ("candidate.fid", "long", 2**31, "field candidate.fid: 2147483648 does not fit int"),
        ("candidate.sky", "int", 2**24 + 1, "field candidate.sky: 16777217 does not fit float"),
        ("candidate.scorr", "long", -(2**53) - 1, "field candidate.scorr: -9007199254740993 does not fit double"),
        ("candidate.jd", "string", "2458000.5", "field candidate.jd: string, expected double"),
        ("candidate.jd", ["null", "string"], "no", "field candidate.jd: string, expected double"),
        ("candidate.magpsf", "double", 19.5, "field candidate.magpsf: double, expected float"),
        ("candidate.isdiffpos", "boolean", True, "field candidate.isdiffpos: boolean, expected string"),
        ("candidate.fid", {"type": "array", "items": "int"}, [1], "field candidate.fid: array, expected int"),
        ("candidate.rbversion", "bytes", b"\xff", "field candidate.rbversion: text is not UTF-8"),
        ("candidate", "string", "x", "field candidate: string, expected record"),
        ("candidate", ["null", "int"], None, "field objectId: missing"),
        ("prv_candidates", "string", "", "field prv_candidates: string, expected array of records"),
        ("prv_candidates", {"type": "array", "items": "int"}, [], None),
        (
            "prv_candidates",
            {"type": "array", "items": "int"},
            [1],
            "field prv_candidates: int, expected array of records",
        ),
        ("cutoutScience", "bytes", b"", "field cutoutScience: bytes, expected record"),
        ("objectId", "long", 1, "field objectId: long, expected string"),
    ],
)
def test_a_type_that_cannot_hold_it(path: str, kind: Any, number: Any, expected: str | None) -> None:
    schema = set_type(SCHEMA, path, kind)
    if path == "cutoutScience":
        schema = set_type(schema, "cutoutTemplate", "null")
        schema = set_type(schema, "cutoutDifference", "null")
    record = alert()
    *outer, name = path.split(".")
    (record[outer[0]] if outer else record)[name] = number
    if name in ztf.CUTOUTS:
        record |= {"cutoutTemplate": None, "cutoutDifference": None}
    data = packet(schema, record)
    if expected is None:
        assert decode([data], ZTF).errors.num_rows == 0
    else:
        assert reason(data) == expected.replace("objectId: missing", "candidate.candid: missing")


def test_an_entry_with_a_wrong_type_is_named_by_its_number() -> None:
    schema = set_type(SCHEMA, "prv_candidates.fid", "long")
    record = alert(previous=3)
    for entry, fid in zip(record["prv_candidates"], (1, 2, 2**40), strict=True):
        entry["fid"] = fid
    assert reason(packet(schema, record)) == "field prv_candidates[2].fid: 1099511627776 does not fit int"


def test_arrays_of_nullable_entries_as_spark_writes_them() -> None:
    schema = bare_schema("3.3")
    entry = record_schema(schema, "prv_candidates")
    schema = set_type(schema, "prv_candidates", ["null", {"type": "array", "items": [entry, "null"]}])
    record = alert(schema=bare_schema("3.3"), previous=3)
    record["prv_candidates"].insert(1, None)
    data = packet(schema, record)
    assert_same_as(decode([data], ZTF, stamps=True), {0: read(data)})
    assert equal(decode(strip_stamps([data], ZTF), ZTF), decode([data], ZTF))


def test_names_of_unknown_fields_in_packet_and_candidate() -> None:
    schema = json.loads(json.dumps(SCHEMA))
    schema["fields"] += [{"name": "rank", "type": "int"}, {"name": "jd", "type": "double"}]
    record_schema(schema, "candidate")["fields"] += [{"name": "rank", "type": "bytes"}, {"name": "seen", "type": "int"}]
    record = alert()
    jd = record["candidate"]["jd"]
    record |= {"rank": 7, "jd": 0.5}
    record["candidate"] |= {"rank": b"\x00\xff", "seen": 3}
    (row,) = decode([packet(schema, record)], ZTF).alerts.to_pylist()
    assert extra_of(row) == {"rank": 7, "jd": 0.5, "candidate.rank": "\x00\u00ff", "seen": 3}
    assert row["jd"] == jd


# Values that no alert has.


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("jd", float("nan"), "field candidate.jd: nan, not in [2400000.0, 2500000.0]"),
        ("jd", 58000.5, "field candidate.jd: 58000.5, not in [2400000.0, 2500000.0]"),
        ("ra", 360.0, "field candidate.ra: 360.0, not in [0, 360)"),
        ("ra", -1e-9, "field candidate.ra: -1e-09, not in [0, 360)"),
        ("dec", 90.00000001, "field candidate.dec: 90.00000001, not in [-90, 90]"),
        ("dec", float("-inf"), "field candidate.dec: -inf, not in [-90, 90]"),
        ("fid", 4, "field candidate.fid: 4.0, not in 1 to 3"),
        ("magpsf", float("nan"), "field candidate.magpsf: nan, not in the finite numbers"),
        ("sigmapsf", float("inf"), "field candidate.sigmapsf: inf, not in the finite numbers"),
        ("candid", 5, "field candidate.candid: 5, the packet's is 4"),
    ],
)
def test_a_value_that_no_alert_has(name: str, number: Any, expected: str) -> None:
    record = alert()
    record["candid"] = record["candidate"]["candid"] = 4
    record["candidate"][name] = number
    assert reason(packet(SCHEMA, record)) == expected


@pytest.mark.parametrize(("candid", "expected"), [(0, "0"), (-5, "-5")])
def test_candid_must_be_positive(candid: int, expected: str) -> None:
    record = alert()
    record["candid"] = record["candidate"]["candid"] = candid
    assert reason(packet(SCHEMA, record)) == f"field candid: {expected}, expected a positive number"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "empty or blank"),
        (" " * 3, "empty or blank"),
        ("Z" * 65, "65 characters, at most 64"),
        ("é" * 64, None),
        ("é" * 65, "65 characters, at most 64"),
        ("Z" * 10_000, "10000 characters, at most 64"),
        *((f"a{chr(code)}b", f"control character U+{code:04X}") for code in (0, 10, 27, 31, 127, 128, 159)),
        *((f"a{chr(code)}b", None) for code in (32, 126, 160, 191, 0x20AC)),
        *((text, None) for text in ("[/bold]", "$x^2$", "../../etc/x", "=1+1", "<b>", "\\", "’")),
    ],
)
def test_object_id(name: str, expected: str | None) -> None:
    data = packet(SCHEMA, alert() | {"objectId": name})
    if expected is None:
        assert decode([data], ZTF).alerts["objectId"].to_pylist() == [name]
    else:
        assert reason(data) == f"field objectId: {expected}"


@pytest.mark.parametrize(
    "path", ["objectId", "candid", "candidate.candid", "candidate.jd", "candidate.fid", "candidate.magpsf"]
)
def test_a_value_that_every_alert_has_is_not_there(path: str) -> None:
    schema = without(SCHEMA, path)
    assert reason(packet(schema, alert(schema=SCHEMA))) == f"field {path}: missing"


def test_entries_never_make_a_packet_bad_by_their_values() -> None:
    record = alert(previous=2, forced=1)
    record["prv_candidates"][0] |= {"jd": float("nan"), "fid": -7, "ra": 1e300, "candid": -1, "isdiffpos": "?"}
    record["fp_hists"][0] |= {"jd": float("inf"), "forcediffimflux": -99999.0}
    data = packet(SCHEMA, record)
    assert_same_as(decode([data], ZTF), {0: read(data)})


# What is not a packet.

BODY = record_bytes(SCHEMA, alert())
HEAD = container(SCHEMA, b"")[: -16 - 2]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, "empty packet"),
        (b"", "empty packet"),
        (b"Ob", "not an Avro container: starts with b'Ob'"),
        (b"Obj\x02" + HEAD[4:], "not an Avro container: starts with b'Obj\\x02'"),
        (b'{"objectId": 1}', "not an Avro container: starts with b'{\"ob'"),
        (b"Obj\x01", "container header is cut off or damaged at byte 4"),
        (HEAD[:100], "container header is cut off or damaged at byte 17"),
        (HEAD[:-1], f"container header is cut off or damaged at byte {len(HEAD) - 16}"),
        (HEAD, "container without a record"),
        (HEAD + b"\x02", f"container header is cut off or damaged at byte {len(HEAD) + 1}"),
        (b"Obj\x01\x00" + MARKER, "container without avro.schema"),
        (container(SCHEMA, BODY, codec=b"zstandard"), "codec b'zstandard', known: null, deflate, snappy"),
        (container(SCHEMA, BODY, codec=b""), "codec b'', known: null, deflate, snappy"),
        (container(SCHEMA, b"", count=0), "block of 0 records, expected 1"),
        (container(SCHEMA, BODY + BODY, count=2), "block of 2 records, expected 1"),
        (container(SCHEMA, BODY, count=-1), "block of -1 records, expected 1"),
        (container(SCHEMA, BODY, size=-4), f"container block of -4 bytes, {len(BODY)} left"),
        (container(SCHEMA, BODY, size=2**62), f"container block of {2**62} bytes, {len(BODY)} left"),
        (container(SCHEMA, BODY)[:-1] + b"x", "container block without the marker of the header at its end"),
        (container(SCHEMA, BODY) + b"tail", "4 bytes after the first block"),
        (container(SCHEMA, BODY + b"xyz"), "3 bytes left over after the record"),
        (container(SCHEMA, BODY[:1]), "field schemavsn: length 4, 0 bytes left"),
        (container(SCHEMA, b""), "field schemavsn: packet ends inside it"),
        (container(SCHEMA, b"\x80" * 30), "field schemavsn: integer longer than 10 bytes"),
        (container(SCHEMA, b"\xff" * 9 + b"\x02"), "field schemavsn: integer longer than 10 bytes"),
        (container(SCHEMA, b"\x01" + BODY), f"field schemavsn: length -1, {len(BODY)} bytes left"),
        (container(SCHEMA, BODY, codec=b"deflate"), "damaged deflate block"),
        (container(SCHEMA, zlib.compress(BODY)[2:-6], codec=b"deflate"), "damaged deflate block"),
        (container(SCHEMA, zlib.compress(BODY)[2:] + b"x", codec=b"deflate"), "damaged deflate block"),
        (container(SCHEMA, BODY, codec=b"snappy"), "damaged snappy block"),
        (container(SCHEMA, b"", codec=b"snappy"), "damaged snappy block"),
        (
            container(SCHEMA, bytes(cramjam.snappy.compress_raw(BODY)) + b"\0\0\0\0", codec=b"snappy"),
            "snappy block with another checksum",
        ),
        (
            container(SCHEMA, long_bytes(2**30) + b"\x00" * 9, codec=b"snappy"),
            "block of more than 16777216 bytes",
        ),
    ],
)  # fmt: skip
def test_what_is_not_a_packet(data: bytes | None, expected: str) -> None:
    assert reason(data) == expected
    assert strip_stamps([data], ZTF).to_pylist() == [data]


def test_the_header_may_have_other_words_in_other_order_and_blocks() -> None:
    text = json.dumps(SCHEMA).encode()
    words = [(b"writer", b"pulsar"), (b"avro.schema", text), (b"avro.schemas", b"{")]
    pairs = [text_bytes(key) + text_bytes(value) for key, value in words]
    blocks = long_bytes(1) + pairs[0] + long_bytes(-2) + long_bytes(len(pairs[1] + pairs[2])) + pairs[1] + pairs[2]
    tail = MARKER + long_bytes(1) + long_bytes(len(BODY)) + BODY + MARKER
    data = b"Obj\x01" + blocks + b"\x00" + tail
    assert_same_as(decode([data], ZTF), {0: read(data)})
    assert decode([container(SCHEMA, BODY, codec=None)], ZTF).alerts.num_rows == 1


@pytest.mark.parametrize("size", [10 << 20, 50 << 20])
def test_megabytes_of_garbage(size: int) -> None:
    garbage = b"<html>" + bytes(size)
    too_long = f"packet of {size + 6} bytes, at most 16777216"
    expected = too_long if size > 16 << 20 else "not an Avro container: starts with b'<htm'"
    assert reason(garbage) == expected


def test_a_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(17 << 20), 9)[2:-4]
    assert len(bomb) < 100_000
    assert reason(container(SCHEMA, bomb, codec=b"deflate")) == "block of more than 16777216 bytes"


def test_utf8_is_what_python_takes_for_it() -> None:
    edges = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xFF)
    some = [bytes(tail) for n in range(4) for tail in itertools.product(edges, repeat=n)]
    sequences = [bytes([lead]) + tail for lead in range(256) for tail in (some if lead >= 0xE0 else some[:200])]
    data = np.frombuffer(b"".join(sequences), np.uint8)
    stops = np.cumsum([len(sequence) for sequence in sequences]).tolist()
    starts = [0, *stops[:-1]]
    taken = [avro_kernels.is_utf8(data, i, j) for i, j in zip(starts, stops, strict=True)]
    assert taken == [sequence.decode("utf-8", "replace").encode() == sequence for sequence in sequences]


# Schemas that are none, or that would cost too much.

DEEP: Any = "int"
for _ in range(200):
    DEEP = {"type": "array", "items": DEEP}


def doubling(levels: int) -> Any:
    """A type of 2**levels nulls in a few lines."""
    inner: Any = "null"
    for level in range(levels):
        fields = [{"name": "a", "type": inner}, {"name": "b", "type": f"L{level - 1}" if level else "null"}]
        inner = {"type": "record", "name": f"L{level}", "fields": fields}
    return inner


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (b"", "schema is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff\xfe\xfd", "schema is not JSON"),
        (b"[" * 100_000, "schema is nested too deep"),
        (b'"string"', "schema is of type string, expected record"),
        (b"3", "schema: 3 is not a type"),
        (b"{}", "schema: a type without `type`"),
        (b'{"type": "record"}', "schema: record without a name"),
        (b'{"type": "record", "name": "a"}', "schema: record 'a' without fields"),
        (b'{"type": "record", "name": "a", "fields": [1]}', "schema: record 'a' has a field without a proper name"),
        (b'{"type": "nothing"}', "schema: type 'nothing' is not defined"),
        (b'["int", ["int"]]', "schema: union inside a union"),
        (b'["int", "int"]', "schema: union with one type twice"),
        (b'{"type": "fixed", "name": "f", "size": -1}', "schema: fixed 'f' of size -1"),
        (b'{"type": "enum", "name": "e", "symbols": 3}', "schema: enum 'e' without symbols"),
        (b'{"type": "array", "items": "null"}', "schema: array of items that take no bytes"),
        (json.dumps({"type": "array", "items": doubling(60)}).encode(), "schema: array of items that take no bytes"),
        (json.dumps(DEEP).encode(), "schema is nested deeper than 64"),
        (b" " * (1 << 20) + b'"int"', "schema of 1048581 bytes, at most 1048576"),
        (json.dumps(set_type(SCHEMA, "candidate.jd", "nothing")).encode(), "schema: type 'nothing' is not defined"),
    ],
)  # fmt: skip
def test_a_schema_that_is_none(schema: bytes, expected: str) -> None:
    assert reason(container(schema, BODY)).startswith(expected)


def test_two_fields_of_one_name() -> None:
    schema = json.loads(json.dumps(SCHEMA))
    record_schema(schema, "candidate")["fields"].append({"name": "jd", "type": "double"})
    assert reason(container(schema, BODY)) == "schema: record 'ztf.alert.candidate' has two fields jd"


def test_a_type_that_contains_itself() -> None:
    schema = json.loads(json.dumps(SCHEMA))
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
    schema["fields"].append({"name": "chain", "type": node})
    data = container(schema, BODY + b"\x02" * 5 + b"\x00")
    (row,) = decode([data], ZTF).alerts.to_pylist()
    assert extra_of(row)["chain"] == read(data)["chain"]
    # fastavro would crash the process here.
    assert reason(container(schema, BODY + b"\x02" * 5_000_000 + b"\x00")) == "field chain: nested deeper than 32"


def test_a_type_that_takes_no_bytes_is_left_out() -> None:
    schema = json.loads(json.dumps(SCHEMA))
    schema["fields"].append({"name": "void", "type": doubling(60)})
    schema = set_type(schema, "candidate.drb", "null")
    record = alert()
    record["candidate"]["drb"] = None
    body = record_bytes(set_type(SCHEMA, "candidate.drb", "null"), record)
    (row,) = decode([container(schema, body)], ZTF).alerts.to_pylist()
    assert row["drb"] is None
    assert row["extra"] is None


@pytest.mark.parametrize(
    ("items", "raw", "expected"),
    [
        ("boolean", long_bytes(2**62), f"block of {2**62} entries, 0 bytes left"),
        ("boolean", long_bytes(-(2**63)) + b"\x00", f"block of {2**63 - 1} entries, 0 bytes left"),
        ("boolean", long_bytes(-1) + long_bytes(2**40), f"length {2**40}, 0 bytes left"),
        ("boolean", b"\x02\x02\x00", "boolean of byte 2"),
        ("boolean", b"\x03\x02\x01\x00\x00", "block of another size than stated"),
        ("string", b"\x02" + long_bytes(2**50), f"length {2**50}, 0 bytes left"),
        ("string", b"\x02\x02\xc0\x00", "text is not UTF-8"),
        ("int", b"\x02" + long_bytes(2**31) + b"\x00", f"{2**31} does not fit int"),
        ("double", b"\x02" + bytes(7), "packet ends inside it"),
        (["null", "int"], b"\x02\x04\x00", "union branch 2 of 2"),
        ([], b"\x02\x00\x00", "union branch 0 of 0"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x02\x02\x00", "enum symbol 1 of 1"),
        ({"type": "fixed", "name": "F", "size": 9}, b"\x02" + bytes(8), "packet ends inside it"),
        ({"type": "map", "values": "int"}, b"\x02\x02\x02\xff\x00\x00\x00", "text is not UTF-8"),
    ],
)  # fmt: skip
def test_damage_inside_an_unknown_field(items: Any, raw: bytes, expected: str) -> None:
    schema = json.loads(json.dumps(SCHEMA))
    schema["fields"].append({"name": "many", "type": {"type": "array", "items": items}})
    assert reason(container(schema, BODY + raw)) == f"field many: {expected}"


def test_a_damaged_count_asks_for_no_memory() -> None:
    record = alert(previous=0)
    body = record_bytes(SCHEMA, record)
    at = _place_of_previous(record)
    pool = pa.default_memory_pool()
    watched = pa.proxy_memory_pool(pool)
    pa.set_memory_pool(watched)
    try:
        for count in (2**62, -(2**63), 10**6):
            data = container(SCHEMA, body[:at] + long_bytes(count) + body[at:])
            assert reason(data).startswith("field prv_candidates")
    finally:
        pa.set_memory_pool(pool)
    assert 0 < watched.max_memory() < 2 << 20


def test_tables_grow_and_stop_at_a_limit() -> None:
    slim = {
        "type": "record",
        "name": "slim",
        "fields": [{"name": "fid", "type": "int"}, {"name": "new", "type": "int"}],
    }
    schema = set_type(SCHEMA, "prv_candidates", {"type": "array", "items": slim})
    data = []
    for n in (3, 5_000, 0, 10_000):
        record = alert(previous=0) | {"prv_candidates": [{"fid": i % 3, "new": i} for i in range(n)]}
        data.append(packet(schema, record))
    decoded = decode([*data[:2], good(), *data[2:]], ZTF)
    assert decoded.errors.num_rows == 0
    assert decoded.previous["alert"].to_pylist() == [0] * 3 + [1] * 5_000 + [2] * 2 + [4] * 10_000
    entries = decoded.previous.filter(pa.compute.equal(decoded.previous["alert"], 4))
    assert entries["fid"].to_pylist() == [i % 3 for i in range(10_000)]
    assert entries["extra"].to_pylist()[-1] == [("new", "9999")]
    assert decoded.previous["jd"].null_count == 15_003
    record["prv_candidates"].append({"fid": 1, "new": 1})
    assert reason(packet(schema, record)) == "field prv_candidates: 10001 entries, at most 10000"


@pytest.mark.parametrize("before", range(9))
def test_a_bad_packet_leaves_nothing_in_the_rows_of_the_next(before: int) -> None:
    full = record_bytes(SCHEMA, alert(previous=70, forced=30, nulls=0.0))
    data = [
        packet(SCHEMA, alert(2, previous=before, forced=before)),
        container(SCHEMA, full[:-1]),
        packet(SCHEMA, alert(3, previous=90, forced=40, nulls=1.0)),
    ]
    decoded = decode(data, ZTF, stamps=True)
    assert reasons(decoded).keys() == {1}
    assert_same_as(decoded, {0: read(data[0]), 2: read(data[2])})


def test_unknown_values_have_a_limit() -> None:
    names = [f"n{i}" for i in range(21)]
    wide = {"type": "record", "name": "wide", "fields": [{"name": n, "type": "boolean"} for n in names]}
    schema = set_type(SCHEMA, "prv_candidates", {"type": "array", "items": wide})
    record = alert() | {"prv_candidates": [dict.fromkeys(names, True)] * 1000}
    assert reason(packet(schema, record)) == f"more than {avro_kernels.MAX_EXTRAS} values of unknown fields"


def test_schemas_come_and_go() -> None:
    """More schemas than are kept, some of them bad, in one batch and over many: every packet by its own schema."""
    data, bad = [], {}
    for number in range(3 * avro.MAX_PLANS):
        schema = json.loads(json.dumps(SCHEMA))
        schema["fields"].append({"name": f"new{number % 150}", "type": "int" if number % 7 else "nothing"})
        if number % 7:
            data.append(packet(schema, alert(number) | {f"new{number % 150}": number}))
        else:
            bad[number] = "schema: type 'nothing' is not defined"
            data.append(container(schema, BODY))
    records = {row: read(one) for row, one in enumerate(data) if row not in bad}
    for _ in range(2):
        decoded = decode(data, ZTF)
        assert_same_as(decoded, records)
        assert reasons(decoded) == bad
    assert len(avro._reader(ZTF).catalog.plans) <= avro.MAX_PLANS
    for row in range(0, len(data), 17):
        decoded = decode(data[row : row + 1], ZTF)
        assert reasons(decoded) == ({0: bad[row]} if row in bad else {})


# Packets without stamps.


def test_a_cutout_that_may_not_be_null_stays() -> None:
    schema = bare_schema("3.3")
    schema = set_type(schema, "cutoutScience", record_schema(schema, "cutoutScience"))
    record = alert(schema=schema)
    data = packet(schema, record)
    (after,) = strip_stamps([data], ZTF).to_pylist()
    expected = read(data) | {"cutoutTemplate": None, "cutoutDifference": None}
    assert repr(sorted(read(after).items())) == repr(sorted(expected.items()))


def test_the_schema_loses_its_texts_and_nothing_else() -> None:
    schema = ztf.avro_schema("4.02")
    schema["fields"].append({"name": "doc", "type": "string", "doc": "of a field named doc", "default": "doc"})
    data = container(schema, record_bytes(SCHEMA, alert()) + text_bytes(b"kept"))
    (after,) = strip_stamps([data], ZTF).to_pylist()
    written = fastavro.reader(io.BytesIO(after)).metadata["avro.schema"]
    assert json.loads(written)["fields"][-1] == {"name": "doc", "type": "string", "default": "doc"}
    assert json.loads(written)["fields"][:-1] == SCHEMA["fields"]
    assert read(after)["doc"] == "kept"
    assert set(read(after)) - KNOWN_TOP == {"doc"}


def test_nulls_come_back_as_nulls() -> None:
    assert strip_stamps(pa.array([None, b"x"], pa.binary()), ZTF).to_pylist() == [None, b"x"]


# Signs.


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["t", "1", "f", "0", "-1", "T", "true", "+1", "", None], pa.string()),
        (["t", "1", "f", "0", "-1", "T", "true", "+1", "", None], pa.large_string()),
        ([1, 1, 0, -1, -1, 2, -2, 127, -128, None], pa.int8()),
        ([1, 1, 0, -1, -1, 2, -2, 2**62, -(2**63), None], pa.int64()),
        ([True, True, False, False, False, None, None, None, None, None], pa.bool_()),
    ],
)
def test_sign(values: list[Any], kind: pa.DataType) -> None:
    expected = [1, 1, -1, -1, -1, None, None, None, None, None]
    array = pa.array(values, kind)
    for given_as in (array, pa.chunked_array([array[:3], array[3:]])):
        result = sign(given_as)
        assert result.type == pa.int8()
        assert result.to_pylist() == expected


def test_sign_of_what_has_none() -> None:
    assert sign(pa.nulls(2)).to_pylist() == [None, None]
    assert sign(pa.array([1.0])).to_pylist() == [None]
    assert sign(pa.array([], pa.string())).to_pylist() == []


def test_a_thousand_simulated_packets_of_every_version() -> None:
    traits = replace(Traits.like_ztf(), codecs=("null", "deflate", "snappy"))
    night = simulate(3, objects=200, nights=30, version=ztf.VERSIONS, traits=traits)
    packets = night.packets[:1200]
    assert len(packets) == 1200
    assert_same_as(decode(packets, ZTF, stamps=True), dict(enumerate(read(packet) for packet in packets)))
