"""Defects: ways in which an arriving message is not a good packet."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro
import numpy as np

#: Size of an oversized packet, bytes.
OVERSIZED = 50_000_000

_HTML = (
    b"<!DOCTYPE HTML>\n<html><head>\n<title>503 Service Unavailable</title>\n</head><body>\n"
    b"<h1>Service Unavailable</h1>\n<p>The requested packet cannot be had at the moment.</p>\n</body></html>\n"
)


#: A fixed sync marker: fastavro's default is random.
_SYNC = bytes(range(16))


def _read(packet: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    reader = fastavro.reader(io.BytesIO(packet))
    record = next(reader)
    if not isinstance(record, dict):
        raise ValueError("a packet holds a record")
    return record, json.loads(reader.metadata["avro.schema"])


def _write(record: dict[str, Any], schema: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, schema, [record], sync_marker=_SYNC)
    return out.getvalue()


def _html(packet: bytes, rng: np.random.Generator) -> bytes:
    return _HTML


def _empty(packet: bytes, rng: np.random.Generator) -> bytes:
    return b""


def _truncated(packet: bytes, rng: np.random.Generator) -> bytes:
    return packet[: int(rng.integers(1, len(packet)))]


def _bitflip(packet: bytes, rng: np.random.Generator) -> bytes:
    flipped = bytearray(packet)
    for at in rng.choice(len(packet), size=int(rng.integers(1, 9)), replace=False):
        flipped[at] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def _bad_magic(packet: bytes, rng: np.random.Generator) -> bytes:
    return b"Obj\x02" + packet[4:] if rng.random() < 0.5 else b"PAR1" + packet[4:]


def _wrong_type(packet: bytes, rng: np.random.Generator) -> bytes:
    record, schema = _read(packet)
    candidate = next(f for f in schema["fields"] if f["name"] == "candidate")["type"]
    names = ("jd", "ra", "magpsf", "fid")
    name = names[int(rng.integers(len(names)))]
    next(f for f in candidate["fields"] if f["name"] == name)["type"] = "string"
    record["candidate"][name] = str(record["candidate"][name])
    return _write(record, schema)


def _nan_position(packet: bytes, rng: np.random.Generator) -> bytes:
    record, schema = _read(packet)
    record["candidate"]["ra" if rng.random() < 0.5 else "dec"] = float("nan")
    return _write(record, schema)


def _ra_out_of_range(packet: bytes, rng: np.random.Generator) -> bytes:
    record, schema = _read(packet)
    record["candidate"]["ra"] += 360.0 if rng.random() < 0.5 else -360.0 - record["candidate"]["ra"] / 2
    return _write(record, schema)


def _oversized(packet: bytes, rng: np.random.Generator) -> bytes:
    record, schema = _read(packet)
    cutout = record["cutoutScience"] or {"fileName": "oversized.fits.gz", "stampData": b""}
    filler = rng.bytes(1 << 16)
    cutout["stampData"] += filler * (OVERSIZED // len(filler) + 1)
    record["cutoutScience"] = cutout
    return _write(record, schema)


_MAKERS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "html": _html,
    "empty": _empty,
    "truncated": _truncated,
    "bitflip": _bitflip,
    "bad_magic": _bad_magic,
    "wrong_type": _wrong_type,
    "nan_position": _nan_position,
    "ra_out_of_range": _ra_out_of_range,
    "oversized": _oversized,
}
#: Kinds of defects that `corrupt` makes.
DEFECTS = tuple(_MAKERS)


def corrupt(packet: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A good packet with the defect `kind`.

    html, empty: not a packet at all. truncated, bitflip, bad_magic: broken bytes (a flipped bit may hit a value and
    leave a packet that can be read). wrong_type: a number of the candidate as a string, with a schema that says so.
    nan_position, ra_out_of_range: readable, with an impossible position. oversized: readable, more than 50 MB.
    Raises ValueError for an unknown kind.
    """
    if kind not in _MAKERS:
        raise ValueError(f"unknown defect {kind!r}; known: {', '.join(DEFECTS)}")
    return _MAKERS[kind](packet, rng)
