"""Avro records of the topics that we publish: a message is a container file of one record, so it brings its schema."""

from __future__ import annotations

import hashlib
import io
import json
from functools import cached_property
from importlib.resources import files
from typing import Any

import fastavro
import numpy as np
from fastavro.schema import SchemaParseException

#: Topics of the classifiers have the UTC date of the alert's Kafka timestamp behind their name: <name>_YYYYMMDD.
STAMP_TOPIC = "stamp_classifier"
LIGHTCURVE_TOPIC = "lc_classifier"
#: What a step could not do; one topic for ever.
ERROR_TOPIC = "alerce_errors"
#: Classes of stored objects by a newly promoted model; read by the query `results` alone.
RECLASSIFIED_TOPIC = "alerce_reclassified"

Record = dict[str, Any]


class Schema:
    """One of kafka/schemas/: `encode` makes messages of records.

    The header of the container is the same bytes for every message, with the checksum of the schema as its marker: the
    same record gives the same bytes wherever it is made.
    """

    def __init__(self, name: str) -> None:
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

    @cached_property
    def _container(self) -> tuple[bytes, bytes, Any]:
        text = json.dumps(self.definition, separators=(",", ":")).encode()
        marker = hashlib.md5(text, usedforsecurity=False).digest()
        metadata = b"".join(
            (_long(2), _bytes(b"avro.codec"), _bytes(b"null"), _bytes(b"avro.schema"), _bytes(text), _long(0))
        )
        return b"Obj\x01" + metadata + marker, marker, fastavro.parse_schema(self.definition)


STAMP = Schema(STAMP_TOPIC)
LIGHTCURVE = Schema(LIGHTCURVE_TOPIC)
ERROR = Schema(ERROR_TOPIC)
RECLASSIFIED = Schema(RECLASSIFIED_TOPIC)


def field_name(column: str) -> str:
    """Name of a feature in a record: Avro names have neither - nor /."""
    return column.replace("-", "_").replace("/", "_")


def decode(message: bytes) -> Record:
    """The record of a message, whatever its schema. Raises ValueError where it is no such container."""
    try:
        record = next(fastavro.reader(io.BytesIO(message)))
    except (StopIteration, EOFError, LookupError, AttributeError, SchemaParseException) as error:
        raise ValueError(f"no container of one record: {type(error).__name__} {error}") from None
    if not isinstance(record, dict):
        raise ValueError("no container of one record")
    return record


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
