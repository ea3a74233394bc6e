"""Avro records of the topics that we publish: a message is a container file of one record, with its schema.

Anyone who may write to a topic can send any bytes, so messages are checked. The container must have our form (one
record, not compressed, of bounded length), and the kernels that read packets (`alerts/avro.py`) check the record to the
last byte before fastavro decodes it: time and memory are bounded by the size of the message.

Other versions of this package write other versions of the schemas. A message can be read if each field of our schema is
also in the message's schema, with the same type or one that Avro promotes to it, or has a default in ours; other fields
of the message are ignored. So a new version may add fields, but those that it reads need a default. A schema may use
primitive types, unions, arrays, maps and records defined in place: no type is named twice or contains itself.
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

#: The names of classifiers' topics end with the UTC date of the alert's Kafka timestamp: <name>_YYYYMMDD.
STAMP_TOPIC = "stamp_classifier"
LIGHTCURVE_TOPIC = "lc_classifier"
#: Errors of all steps, in one topic without a date.
ERROR_TOPIC = "alerce_errors"
#: Classes of stored objects by a newly promoted model; only the query `results` reads them.
RECLASSIFIED_TOPIC = "alerce_reclassified"

Record = dict[str, Any]

#: Largest messages [bytes]: one with classes has 8 to 25 kB, one about a failed packet contains the packet (16 MiB).
_LONGEST, _LONGEST_ERROR = 1 << 20, 17 << 20
#: Largest schema [bytes] and its deepest nesting: our largest has 15 kB and is nested 5 deep.
_LONGEST_SCHEMA, _DEEPEST = 128 << 10, 12
_DATE = re.compile(r"_[0-9]{8}")


class MessageError(AlerceError, ValueError):
    """A message cannot be read; the message says why."""


class Schema:
    """One of kafka/schemas/: `encode` makes messages of records, `decode` reads them.

    The header of the container is the same for every message, with the checksum of the schema as its sync marker: the
    same record gives the same bytes in every process.
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
        """The record of a message. Raises MessageError for bytes that fit no version of this schema."""
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
        except Exception as error:  # noqa: BLE001  any error of the library comes from the foreign bytes
            raise MessageError(f"no message of {self.name}: {error or type(error).__name__}") from None
        return cast("Record", found)

    @cached_property
    def parsed(self) -> Any:
        """The schema in fastavro's form."""
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
    """Tables of the kernels, fastavro's form, and the schema to read with if another, for the schema of a message."""
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
    """The types of a schema without other attributes. Raises ValueError for types that let few bytes cause much work.

    Every allowed type takes at least one byte (null only as a branch of a union), and no type is named elsewhere.
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
    """Probabilities as stored in messages and tables: rounded to single precision, as float64."""
    return probability.astype(np.float32).astype(np.float64)
