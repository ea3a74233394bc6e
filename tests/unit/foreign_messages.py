"""Messages that are not ours, as somebody may send them to the topics of our results; they are judged in a process.

`python -m tests.unit.foreign_messages` puts each of `messages` between two good ones, takes them as the query `results`
does, and prints for each what became of it, and at last how much memory all took. Its processor time is limited.
"""

from __future__ import annotations

import io
import json
import resource
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import fastavro
import pyarrow as pa

from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE_CLASSES, STAMP_CLASSES
from alerce_spark.features.names import FEATURES
from alerce_spark.kafka import records
from alerce_spark.streaming.pieces import unpack
from alerce_spark.streaming.queries import results
from tests.unit.alert_packets import long_bytes

TOPIC = {
    "stamp": "stamp_classifier_20200601",
    "curve": "lc_classifier_20200601",
    "error": records.ERROR_TOPIC,
    "again": records.RECLASSIFIED_TOPIC,
}
SCHEMA = {"stamp": records.STAMP, "curve": records.LIGHTCURVE, "error": records.ERROR, "again": records.RECLASSIFIED}
CAME = datetime(2020, 6, 1, 3, tzinfo=UTC)
PROCESSOR_S = 100


def stamp() -> dict[str, Any]:
    about = {"objectId": "ZTF20aaaaaaa", "candid": 2**60 + 1, "class": "SN", "version": "1", "flags": ["negative"]}
    where = {"survey": "ztf", "received": CAME, "mjd": 59000.25, "ra": 10.0, "dec": -20.0}
    return about | where | {"probabilities": dict.fromkeys(STAMP_CLASSES, 0.2), "outlier_score": 0.25}


def curve() -> dict[str, Any]:
    children = {branch: dict.fromkeys(names, 0.0) for branch, names in BRANCHES.items()}
    found = {"probabilities": dict.fromkeys(LIGHTCURVE_CLASSES, 0.0) | {"SNIa": 0.75, "SNII": 0.25}, "class": "SNIa"}
    found["hierarchical"] = {"top": dict.fromkeys(BRANCHES, 0.0), "children": children}
    about = {"oid": "ZTF20a", "candid": 2**60 + 1, "version": "7", "features_version": "1.0.0", "survey": "ztf"}
    counts = {"ndet_used": 12, "nown": 3, "ndet": 14, "corrected": False, "stellar": False}
    times = {"received": CAME, "mjd": 59000.25, "firstmjd": 58990.0, "lastmjd": 59000.25}
    places = {"ra": 359.9999, "dec": 10.0, "meanra": 359.9999, "meandec": 10.0}
    scores = {"period_false_alarm": None, "outlier_score": 0.995, "outlier_version": "6", "novelty": -4.5}
    features = {records.field_name(name): None if k % 2 else float(k) for k, name in enumerate(FEATURES)}
    return about | counts | times | places | scores | {"features": features, "lc_classification": found}


def again() -> dict[str, Any]:
    wanted = [field["name"] for field in records.RECLASSIFIED.definition["fields"]]
    found = curve() | {"class": "SNIa", "probabilities": curve()["lc_classification"]["probabilities"]}
    return {name: found[name] for name in wanted}


def error() -> dict[str, Any]:
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # sha256sum of "x"
    about = {"sha256": digest, "stage": "stamps", "survey": "ztf", "source": "ztf_20200601_programid1"}
    return about | {"partition": 0, "offset": 5, "reason": "science: no pixel has a value", "packet": b"x"}


GOOD = {"stamp": stamp, "curve": curve, "error": error, "again": again}


def container(schema: Any, record: bytes, count: int = 1, codec: bytes = b"null") -> bytes:
    """A container file of these very bytes."""
    text = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
    pairs = b"".join(long_bytes(len(b)) + b for b in (b"avro.codec", codec, b"avro.schema", text))
    head = b"Obj\x01" + long_bytes(2) + pairs + long_bytes(0)
    return head + b"m" * 16 + long_bytes(count) + long_bytes(len(record)) + record + b"m" * 16


def written(kind: str, record: dict[str, Any], schema: Any = None) -> bytes:
    """A container file as fastavro writes it."""
    out = io.BytesIO()
    fastavro.writer(out, schema or SCHEMA[kind].definition, [record])
    return out.getvalue()


def body(kind: str, record: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA[kind].definition), record)
    return out.getvalue()


def altered(kind: str, change: Any) -> dict[str, Any]:
    """Our schema with something changed."""
    schema = json.loads(json.dumps(SCHEMA[kind].definition))
    change(schema)
    return dict(schema)


def without(*names: str) -> Any:
    def change(schema: dict[str, Any]) -> None:
        schema["fields"] = [field for field in schema["fields"] if field["name"] not in names]

    return change


def retyped(name: str, kind: Any) -> Any:
    def change(schema: dict[str, Any]) -> None:
        for field in schema["fields"]:
            if field["name"] == name:
                field["type"] = kind

    return change


def more(*fields: dict[str, Any]) -> Any:
    def change(schema: dict[str, Any]) -> None:
        schema["fields"] += fields

    return change


def _values() -> Iterator[tuple[str, str, bytes]]:
    """Records of our schemas with impossible values."""
    nan, inf = float("nan"), float("inf")
    odd: dict[str, list[dict[str, Any]]] = {
        "stamp": [
            *({"ra": x} for x in (nan, inf, 360.0, -1e-9, 1e300)),
            *({"dec": x} for x in (nan, 90.0001)),
            *({"mjd": x} for x in (nan, -inf, 1e18)),
            *({"candid": x} for x in (0, -5)),
            *({"objectId": x} for x in ("", "x" * 65, "x" * 10_000)),
            *({"class": x} for x in ("", "Supernova")),
            *({"probabilities": dict.fromkeys(STAMP_CLASSES, x)} for x in (nan, 1.5, -0.2, 0.0)),
            *({"flags": x} for x in (["f"] * 1000, ["f" * 5000])),
            *({"outlier_score": x} for x in (nan, -1.0, 7.0)),
            {"version": "v" * 100_000},
            {"survey": ""},
            {"received": datetime(1950, 1, 1, tzinfo=UTC)},
        ],
        "curve": [
            {"ndet_used": -1},
            {"nown": -(2**31)},
            {"period_false_alarm": 2.0},
            {"novelty": nan},
            {"features": dict.fromkeys(curve()["features"], nan)},
            {"features_version": ""},
            {"lc_classification": curve()["lc_classification"] | {"class": "x"}},
            {"lc_classification": curve()["lc_classification"] | {"probabilities": {}}},
            {"lc_classification": curve()["lc_classification"] | {"probabilities": {"SNIa": 1.0}}},
        ],
        "again": [{"probabilities": {str(k): 0.0 for k in range(5000)}}, {"class": "AGN!"}, {"dec": -91.0}],
        "error": [{"sha256": "0" * 64}, {"stage": ""}, {"reason": "r" * 10**6}, {"partition": -1}, {"source": ""}],
    }
    for kind, changes in odd.items():
        for change in changes:
            (name,) = change
            yield f"{kind}: {name} {str(change[name])[:24]}", kind, SCHEMA[kind].encode(GOOD[kind]() | change)


def _bombs() -> Iterator[tuple[str, str, bytes]]:
    """Few bytes that mean much memory or time."""
    nulls = {"type": "array", "items": "null"}
    many = long_bytes(2**40) + long_bytes(0)
    itself = {"type": "record", "name": "alerce.stamp_classifier", "fields": []}
    itself["fields"] = [{"name": "again", "type": "alerce.stamp_classifier"}]
    chain = {"type": "record", "name": "alerce.stamp_classifier", "fields": []}
    chain["fields"] = [{"name": "next", "type": ["null", "alerce.stamp_classifier"]}]
    yield "a schema that contains itself", "stamp", container(itself, b"")
    yield "a chain of a million records", "stamp", container(chain, long_bytes(1) * 1_000_000 + long_bytes(0))
    yield "2^40 nulls for flags", "stamp", container(altered("stamp", retyped("flags", nulls)), many)
    yield "2^40 nulls in front", "stamp", container({**itself, "fields": [{"name": "x", "type": nulls}]}, many)
    doubling = {"type": "record", "name": "r30", "fields": [{"name": "n", "type": "null"}]}
    for k in range(29, 0, -1):
        twice = [{"name": "a", "type": doubling}, {"name": "b", "type": f"r{k + 1}"}]
        doubling = {"type": "record", "name": f"r{k}", "fields": twice}
    yield "2^29 records of nothing", "stamp", container(altered("stamp", more({"name": "x", "type": doubling})), b"")
    wide = {"type": "record", "name": "wide", "fields": [{"name": f"n{k}", "type": "null"} for k in range(2000)]}
    wide["fields"].append({"name": "b", "type": "boolean"})
    field = {"name": "x", "type": {"type": "array", "items": wide}}
    yield (
        "an array of 900,000 records of 2,000 nulls",
        "stamp",
        container(
            altered("stamp", more(field)),
            body("stamp", stamp()) + long_bytes(900_000) + b"\0" * 900_000 + long_bytes(0),
        ),
    )
    deep = b'{"type": "array", "items": ' * 3000 + b'"int"' + b"}" * 3000
    text = json.dumps(altered("stamp", more({"name": "x", "type": "int"}))).encode()
    yield "a schema 3,000 deep", "stamp", container(text.replace(b'"x", "type": "int"', b'"x", "type": ' + deep), b"")
    yield "a schema of 100,000 brackets", "stamp", container(b"[" * 100_000, b"")
    fields = [{"name": f"f{k}", "type": "int"} for k in range(60_000)]
    yield "a schema of 60,000 fields", "stamp", container(altered("stamp", more(*fields)), b"\0" * 60_000)
    press = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(press.compress(bytes(1 << 20)) for _ in range(1024)) + press.flush()
    yield "a deflate bomb of 1 GB", "stamp", container(SCHEMA["stamp"].definition, bomb, 1, b"deflate")
    yield "a text of 2^40 bytes", "stamp", container(SCHEMA["stamp"].definition, long_bytes(2**40) + b"x")
    yield "a text of -5 bytes", "stamp", container(SCHEMA["stamp"].definition, long_bytes(-5) + body("stamp", stamp()))
    yield "a million flags", "stamp", written("stamp", stamp() | {"flags": [""] * 900_000})
    yield "two million flags", "stamp", written("stamp", stamp() | {"flags": [""] * 2_000_000})
    yield "2^40 records", "stamp", container(SCHEMA["stamp"].definition, body("stamp", stamp()), 2**40)
    yield "two records", "stamp", container(SCHEMA["stamp"].definition, body("stamp", stamp()) * 2, 2)
    parsed = {"__fastavro_parsed__": True, "__named_schemas": {}, **itself}
    yield "a schema that says it is parsed", "stamp", container(parsed, b"")


def _others() -> Iterator[tuple[str, str, bytes]]:
    """Other schemas, other bytes."""
    ours = SCHEMA["stamp"].definition
    good = body("stamp", stamp())
    for text in (b"", b"<html>", b"null", b"{}", b"Obj\x01", b"Obj\x01" + bytes(40), b"\0\0\0\0\x07" + good):
        yield f"bytes {text[:12]!r}", "stamp", text
    for schema in (b"", b"{", b'"string"', b"[]", b'{"type": "record"}', b'{"type": 5}', b"1" * 10_000, b"\xff\xfe"):
        yield f"schema {schema[:20]!r}", "stamp", container(schema, good)
    yield "survey is missing", "stamp", written("stamp", stamp(), altered("stamp", without("survey")))
    yield "probabilities are missing", "again", written("again", again(), altered("again", without("probabilities")))
    yield "mjd is a text", "stamp", written("stamp", stamp() | {"mjd": "a"}, altered("stamp", retyped("mjd", "string")))
    yield (
        "candid is a double",
        "stamp",
        written("stamp", stamp() | {"candid": 1.5}, altered("stamp", retyped("candid", "double"))),
    )
    yield (
        "ra may be null and is",
        "stamp",
        written("stamp", stamp() | {"ra": None}, altered("stamp", retyped("ra", ["null", "double"]))),
    )
    for ms in (317_000_000_000_000, -(2**63), 2**63 - 1, 10**17):
        plain = altered("stamp", retyped("received", ["null", "long"]))
        (bare,) = fastavro.reader(io.BytesIO(written("stamp", stamp() | {"received": ms}, plain)))
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(plain), bare)
        yield f"received {ms}", "stamp", container(ours, out.getvalue())
    yield "a stamp message on the topic of curves", "curve", records.STAMP.encode(stamp())
    yield "a curve message on the topic of stamps", "stamp", records.LIGHTCURVE.encode(curve())
    yield "an error on the topic of classes again", "again", records.ERROR.encode(error())
    yield "another name", "stamp", container(ours | {"name": "other"}, good)
    yield "another namespace", "stamp", container(ours | {"namespace": "other"}, good)
    yield "a byte too many", "stamp", container(ours, good + b"\0")
    yield "a byte too few", "stamp", container(ours, good[:-1])
    yield "bytes after the container", "stamp", container(ours, good) + b"x"
    yield "branch 7 of a union", "stamp", container(ours, good.replace(b"\x06ztf\x02", b"\x06ztf\x0e"))


def messages() -> list[tuple[str, str, bytes]]:
    """Description, kind of topic and bytes of each message."""
    return [*_values(), *_bombs(), *_others()]


def judged(topics: list[str], values: list[bytes], published: list[int] | None = None) -> dict[str, list[Any]]:
    """Rows by kind of messages in one batch, as workers make them; published [ms since 1970]."""
    size = len(values)
    times = pa.array(published or [None] * size, pa.timestamp("ms", tz="UTC"))
    columns = {
        "source": pa.array(topics),
        "partition": pa.array([0] * size, pa.int32()),
        "offset": pa.array(range(size), pa.int64()),
        "packet": pa.array(values, pa.binary()),
        "received": times.cast(pa.timestamp("us", tz="UTC")),
    }
    found: dict[str, list[Any]] = {}
    for made in results._parser(4, "ztf")(iter([pa.RecordBatch.from_pydict(columns)])):
        rows = unpack(made.column("data")[0]).to_pylist()
        found.setdefault(made.column("kind")[0].as_py(), []).extend(rows)
    return found


def main() -> None:
    """Judge each of the messages between two good ones."""
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
    good = records.LIGHTCURVE.encode(curve())
    judged([TOPIC["curve"]], [good])
    listed = messages()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, kind, message in listed:
        found = judged([TOPIC["curve"], TOPIC[kind], TOPIC["curve"]], [good, message, good])
        refused = [(row["offset"], row["reason"]) for row in found.get("refused", []) if row["stage"] == "results"]
        rows = {table: len(found.get(table, [])) for table in ("features", "probabilities")}
        print(json.dumps({"name": name, "refused": refused, "rows": rows}), flush=True)
    print(json.dumps({"kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before}))


if __name__ == "__main__":
    main()
