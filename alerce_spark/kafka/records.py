"""Avro records of the topics that we publish: a message is a container file of one record, so it brings its schema.

Whoever may write to a topic may send any bytes, so a message is read with care. Its container must be one of ours (one
record, not compressed, of bounded length), and its record is checked to the last byte by the kernels that read packets
(`alerts/avro.py`) before fastavro makes values of it: time and memory are bounded by the bytes of the message.

Other versions of this package write other versions of the schemas. A message is read where each field of our schema
is in its own with the same type (or one that Avro promotes to it), or has a default in ours; fields that ours lacks are
passed over. So a new version may add fields, and must give those that are to be read a default. Types that a schema may
use are primitive ones, unions, arrays, maps and records written in place: none is named twice, none contains itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any, cast

import fastavro
import numpy as np

from alerce_spark.alerts import avro
from alerce_spark.alerts.avro_plan import PRIMITIVES, Plan, compile_schema
from alerce_spark.errors import AlerceError

#: Topics of the classifiers have the UTC date of the alert's Kafka timestamp behind their name: <name>_YYYYMMDD.
STAMP_TOPIC = "stamp_classifier"
LIGHTCURVE_TOPIC = "lc_classifier"
#: What a step could not do; one topic for ever.
ERROR_TOPIC = "alerce_errors"
#: Classes of stored objects by a newly promoted model; read by the query `results` alone.
RECLASSIFIED_TOPIC = "alerce_reclassified"

Record = dict[str, Any]

#: Bytes of a message: one of classes has 8 to 25 kB, one about a packet that failed brings the packet (16 MiB).
_LONGEST, _LONGEST_ERROR = 1 << 20, 17 << 20
#: Bytes of a schema, and how deep it may be nested: the largest of ours has 15 kB and is nested 5 deep.
_LONGEST_SCHEMA, _DEEPEST = 128 << 10, 12
_DATE = re.compile(r"_[0-9]{8}")


class MessageError(AlerceError, ValueError):
    """A message cannot be read; the message says why."""


class Schema:
    """One of kafka/schemas/: `encode` makes messages of records, `decode` reads them.

    The header of the container is the same bytes for every message, with the checksum of the schema as its marker: the
    same record gives the same bytes wherever it is made.
    """

    def __init__(self, name: str, longest: int = _LONGEST) -> None:
        self.name, self.longest = f"alerce.{name}", longest
        self._text = (files("alerce_spark.kafka") / "schemas" / f"{name}.avsc").read_text()

    @cached_property
    def definition(self) -> Record:
        """The schema as JSON."""
        return dict(json.loads(self._text))

    def encode(self, record: Record) -> bytes:
        """A message. Raises ValueError or TypeError for a record that does not fit the schema."""
        header, marker, parsed = self._container
        body = io.BytesIO()
        fastavro.schemaless_writer(body, parsed, record)
        data = body.getvalue()
        return b"".join((header, _long(1), _long(len(data)), data, marker))

    def decode(self, message: bytes) -> Record:
        """The record of a message. Raises MessageError for bytes that are none of any version of this schema."""
        if len(message) > self.longest:
            raise MessageError(f"a message of {len(message)} bytes, at most {self.longest}")
        try:
            text, record = avro.split(message)
            plan, written, wanted = _writer(self, text)
            if (reason := avro.flaw(record, plan)) is not None:
                raise MessageError(f"the record cannot be read: {reason}")
            found = fastavro.schemaless_reader(io.BytesIO(record), written, wanted)
        except MessageError:
            raise
        except Exception as error:  # noqa: BLE001  whatever the library makes of bytes of others, it is their fault
            raise MessageError(f"no message of {self.name}: {error or type(error).__name__}") from None
        return cast("Record", found)

    @cached_property
    def parsed(self) -> Any:
        """The schema as fastavro takes it."""
        return fastavro.parse_schema(self.definition)

    @cached_property
    def _container(self) -> tuple[bytes, bytes, Any]:
        text = json.dumps(self.definition, separators=(",", ":")).encode()
        marker = hashlib.md5(text, usedforsecurity=False).digest()
        metadata = b"".join(
            (_long(2), _bytes(b"avro.codec"), _bytes(b"null"), _bytes(b"avro.schema"), _bytes(text), _long(0))
        )
        return b"Obj\x01" + metadata + marker, marker, self.parsed


STAMP = Schema(STAMP_TOPIC)
LIGHTCURVE = Schema(LIGHTCURVE_TOPIC)
ERROR = Schema(ERROR_TOPIC, _LONGEST_ERROR)
RECLASSIFIED = Schema(RECLASSIFIED_TOPIC)


def field_name(column: str) -> str:
    """Name of a feature in a record: Avro names have neither - nor /."""
    return column.replace("-", "_").replace("/", "_")


def schema_of(topic: str) -> Schema:
    """The schema of the messages of a topic. Raises MessageError for a topic that is not ours."""
    for schema in (STAMP, LIGHTCURVE, ERROR, RECLASSIFIED):
        if _DATE.sub("", topic) == schema.name.removeprefix("alerce."):
            return schema
    raise MessageError(f"{topic} is no topic of ours")


@lru_cache(maxsize=16)
def _writer(ours: Schema, text: bytes) -> tuple[Plan, Any, Any]:
    """Of a schema that came with a message: the kernels' tables; what fastavro takes; and by what, if not by itself."""
    if len(text) > _LONGEST_SCHEMA:
        raise MessageError(f"a schema of {len(text)} bytes, at most {_LONGEST_SCHEMA}")
    try:
        bare = _bare(json.loads(text), _DEEPEST)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"its schema cannot be used: {error}") from None
    if not isinstance(bare, dict) or bare.get("name") != ours.name:
        raise MessageError(f"its schema is not {ours.name}")
    plan = compile_schema(json.dumps(bare).encode())
    if plan.reason:
        raise MessageError(plan.reason)
    is_same = bare == _bare(ours.definition, _DEEPEST)
    return plan, fastavro.parse_schema(bare), None if is_same else ours.parsed


def _bare(schema: Any, deepest: int) -> Any:  # noqa: PLR0911  one a kind of type
    """The types of a schema and nothing else. Raises ValueError for types by which a few bytes could mean much work.

    Every type that is left takes a byte at least (null is a branch of a union only), and none is named elsewhere.
    """
    if deepest == 0:
        raise ValueError("nested too deep")
    if isinstance(schema, str) and schema in PRIMITIVES and schema != "null":
        return schema
    if isinstance(schema, list):
        return [branch if branch == "null" else _bare(branch, deepest - 1) for branch in schema]
    match schema:
        case {"type": "long", "logicalType": "timestamp-millis"}:
            return {"type": "long", "logicalType": "timestamp-millis"}
        case {"type": "array", "items": items}:
            return {"type": "array", "items": _bare(items, deepest - 1)}
        case {"type": "map", "values": values}:
            return {"type": "map", "values": _bare(values, deepest - 1)}
        case {"type": "record", "name": str(name), "fields": [_, *_] as fields}:
            full = f"{schema['namespace']}.{name}" if schema.get("namespace") else name
            return {"type": "record", "name": full, "fields": [_bare_field(field, deepest) for field in fields]}
        case {"type": (str() | list()) as kind}:
            return _bare(kind, deepest - 1)
    raise ValueError(f"the type {json.dumps(schema)[:80]} is not one of those that our schemas use")


def _bare_field(field: Any, deepest: int) -> Record:
    match field:
        case {"name": str(name), "type": kind}:
            return {"name": name, "type": _bare(kind, deepest - 1)}
    raise ValueError(f"{json.dumps(field)[:80]} is no field")


def _long(value: int) -> bytes:
    """Avro's zigzag varint."""
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append((rest & 0x7F) | 0x80)
        rest >>= 7
    return bytes((*out, rest))


def _bytes(value: bytes) -> bytes:
    return _long(len(value)) + value


def published(probability: np.ndarray) -> np.ndarray:
    """Probabilities as a message and the tables hold them: rounded to single precision, as float64."""
    return probability.astype(np.float32).astype(np.float64)
