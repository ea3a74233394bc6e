"""Packets: rows of columns to Avro records and records to ZTF packets, fast, for every schema version.

The points of a light curve are encoded once; a packet then joins slices of those bytes. fastavro would take about a
millisecond for the history of each packet.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cramjam
import numpy as np
from numba import njit

from alerce_spark.simulation.randoms import Ints
from alerce_spark.surveys import ztf

#: The survey whose packets these are.
SURVEY = ztf.ZTF
CODECS = ("null", "deflate", "snappy")
PUBLISHER = "ZTF (www.ztf.caltech.edu)"
#: Null in integer columns; null is NaN in float columns, and a length of -1 in text.
NULL_INT = np.iinfo(np.int64).min

_INT, _FLOAT, _DOUBLE, _STRING = range(4)
_TYPE_CODE = {"int": _INT, "long": _INT, "float": _FLOAT, "double": _DOUBLE, "string": _STRING}
_MAX_BYTES = {_INT: 11, _FLOAT: 5, _DOUBLE: 9, _STRING: 3}


@dataclass(frozen=True)
class Text:
    """A column of short ASCII strings: chars uint8 (rows, width), length of each row, -1 for null."""

    chars: np.ndarray
    length: Ints


#: Columns of a record by field name: float64 or int64 arrays, or Text.
Columns = Mapping[str, Any]
#: Bytes to be joined.
Parts = Sequence[bytes | memoryview]


def text(values: str | Sequence[str], rows: int) -> Text:
    """Text column of one string for all rows, or of one string for each row."""
    if isinstance(values, str):
        chars = np.frombuffer(values.encode(), np.uint8)
        return Text(np.broadcast_to(chars, (rows, chars.size)), np.full(rows, chars.size))
    fixed = np.array([v.encode() for v in values], dtype=bytes)
    width = max(fixed.dtype.itemsize, 1)
    chars = fixed.view(np.uint8).reshape(rows, width) if rows else np.empty((0, width), np.uint8)
    return Text(chars, np.char.str_len(fixed).astype(np.int64))


def digits(values: Ints, width: int) -> np.ndarray:
    """Decimal digits of non-negative integers with leading zeros, as characters: uint8 (rows, width)."""
    powers = 10 ** np.arange(width - 1, -1, -1)
    return (48 + values[:, None] // powers % 10).astype(np.uint8)


@njit(cache=True)
def _put_long(out: Any, at: Any, value: Any) -> Any:
    zigzag = np.uint64((value << 1) ^ (value >> 63))
    while zigzag >= np.uint64(128):
        out[at] = np.uint8((zigzag & np.uint64(127)) | np.uint64(128))
        zigzag >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(zigzag)
    return at + 1


@njit(cache=True)
def _put_rows(
    types: Any,
    nullable: Any,
    null_first: Any,
    place: Any,
    ints: Any,
    floats: Any,
    chars: Any,
    char_at: Any,
    length: Any,
    out: Any,
    offsets: Any,
) -> None:
    single = np.empty(1, np.float32)
    single_bytes = single.view(np.uint8)
    double = np.empty(1, np.float64)
    double_bytes = double.view(np.uint8)
    null_branch = np.uint8(0) if null_first else np.uint8(2)
    value_branch = np.uint8(2) if null_first else np.uint8(0)
    at = 0
    for i in range(offsets.size - 1):
        for j in range(types.size):
            kind, k = types[j], place[j]
            if nullable[j]:
                if kind == _INT:
                    absent = ints[i, k] == NULL_INT
                elif kind == _STRING:
                    absent = length[i, k] < 0
                else:
                    absent = np.isnan(floats[i, k])
                out[at] = null_branch if absent else value_branch
                at += 1
                if absent:
                    continue
            if kind == _INT:
                at = _put_long(out, at, ints[i, k])
            elif kind == _FLOAT:
                single[0] = floats[i, k]
                out[at : at + 4] = single_bytes
                at += 4
            elif kind == _DOUBLE:
                double[0] = floats[i, k]
                out[at : at + 8] = double_bytes
                at += 8
            else:
                n = length[i, k]
                at = _put_long(out, at, n)
                out[at : at + n] = chars[i, char_at[k] : char_at[k] + n]
                at += n
        offsets[i + 1] = at


@dataclass(frozen=True)
class Encoded:
    """Avro records one after another: record i is data[offsets[i]:offsets[i+1]]."""

    data: memoryview
    offsets: list[int]

    def slice(self, start: int, stop: int) -> memoryview:
        """Bytes of the records start … stop-1."""
        return self.data[self.offsets[start] : self.offsets[stop]]


def encode(record: tuple[ztf.Field, ...], version: str, columns: Columns, rows: int) -> Encoded:
    """Avro bytes of `rows` records with the fields `record` in schema `version`.

    Raises KeyError for a field of that version without a column, ValueError for a null where there may be none.
    """
    fields = ztf.fields_of(record, version)
    types = np.array([_TYPE_CODE[f.type] for f in fields])
    nullable = np.array([f.nullable for f in fields])
    place = np.zeros(len(fields), np.int64)
    groups: dict[int, list[str]] = {_INT: [], _FLOAT: [], _STRING: []}
    for j, f in enumerate(fields):
        group = groups[_FLOAT if types[j] == _DOUBLE else types[j]]
        place[j] = len(group)
        group.append(f.name)
        _check_nulls(f, columns[f.name])
    ints = np.empty((rows, len(groups[_INT])), np.int64)
    for k, name in enumerate(groups[_INT]):
        ints[:, k] = columns[name]
    floats = np.empty((rows, len(groups[_FLOAT])))
    for k, name in enumerate(groups[_FLOAT]):
        floats[:, k] = columns[name]
    texts = [columns[name] for name in groups[_STRING]]
    chars = np.concatenate([t.chars for t in texts], axis=1)
    length = np.stack([t.length for t in texts], axis=1)
    char_at = np.r_[0, np.cumsum([t.chars.shape[1] for t in texts])]
    bound = sum(_MAX_BYTES[t] for t in types.tolist()) + chars.shape[1]
    out = np.empty(rows * bound, np.uint8)
    offsets = np.zeros(rows + 1, np.int64)
    null_first = version.startswith("4")
    _put_rows(types, nullable, null_first, place, ints, floats, chars, char_at, length, out, offsets)
    return Encoded(memoryview(out.data)[: offsets[-1]], offsets.tolist())


def _check_nulls(f: ztf.Field, column: Any) -> None:
    if f.nullable:
        return
    if isinstance(column, Text):
        has_null = bool(np.any(column.length < 0))
    elif column.dtype.kind == "f":
        has_null = bool(np.any(np.isnan(column)))
    else:
        has_null = bool(np.any(column == NULL_INT))
    if has_null:
        raise ValueError(f"{f.name} has no null in the schema, but the column has some")


def long_bytes(value: int) -> bytes:
    """Avro's zig-zag variable-length form of a 64-bit integer."""
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag > 127:
        out.append((zigzag & 127) | 128)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def string_bytes(value: str) -> bytes:
    """Avro form of a string."""
    raw = value.encode()
    return long_bytes(len(raw)) + raw


@lru_cache(maxsize=64)
def _container(version: str, codec: str) -> tuple[bytes, bytes]:
    """Header of a container file including the sync marker, and the marker, which depends only on the arguments."""
    if codec not in CODECS:
        raise ValueError(f"unknown codec {codec!r}; known: {', '.join(CODECS)}")
    sync = hashlib.sha256(f"alerce_spark simulation {version} {codec}".encode()).digest()[:16]
    schema = json.dumps(ztf.avro_schema(version)).encode()
    entries = {"avro.schema": schema, "avro.codec": codec.encode()}
    body = b"".join(string_bytes(k) + long_bytes(len(v)) + v for k, v in entries.items())
    return b"Obj\x01" + long_bytes(len(entries)) + body + b"\x00" + sync, sync


def container(version: str, codec: str, record: Parts) -> bytes:
    """An Avro object container file with one record, given as parts, in one block."""
    header, sync = _container(version, codec)
    if codec == "null":
        size = sum(map(len, record))
        return b"".join([header, b"\x02", long_bytes(size), *record, sync])
    raw = b"".join(record)
    if codec == "deflate":
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        block = packer.compress(raw) + packer.flush()
    else:
        block = bytes(cramjam.snappy.compress_raw(raw)) + zlib.crc32(raw).to_bytes(4, "big")
    return b"".join([header, b"\x02", long_bytes(len(block)), block, sync])


def array_parts(count: int, items: Parts) -> Parts:
    """Parts of an Avro array of `count` items, whose bytes come in order in `items`."""
    return [long_bytes(count), *items, b"\x00"] if count else [b"\x00"]


def record_parts(
    version: str,
    oid: str,
    candid: int,
    candidate: memoryview,
    history: Parts | None,
    forced: Parts | None,
    cutouts: Sequence[tuple[str, bytes]] | None,
) -> Parts:
    """Parts of one alert record, in wire order.

    history, forced: parts of the arrays (`array_parts`), None for null; only versions with fp_hists use forced.
    cutouts: file name and gzipped FITS of the three stamps, or None for null.
    """
    null_first = version.startswith("4")
    value, null = (b"\x02", b"\x00") if null_first else (b"\x00", b"\x02")
    head = b"" if version == "1.0" else string_bytes(version) + string_bytes(PUBLISHER)
    parts: list[bytes | memoryview] = [head + string_bytes(oid) + long_bytes(candid), candidate]
    parts += [null] if history is None else [value, *history]
    if null_first:
        parts += [null] if forced is None else [value, *forced]
    if cutouts is None:
        return [*parts, null, null, null]
    for name, stamp in cutouts:
        parts += [value + string_bytes(name) + long_bytes(len(stamp)), stamp]
    return parts
