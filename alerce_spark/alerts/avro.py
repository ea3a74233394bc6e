"""Avro packets to Arrow columns (reference path over fastavro; the compiled decoder replaces it)."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from typing import Any

import fastavro
import pyarrow as pa

from alerce_spark.alerts import ztf
from alerce_spark.alerts.model import (
    ALERTS_SCHEMA,
    ALERTS_STAMPS_SCHEMA,
    ERRORS_SCHEMA,
    FORCED_SCHEMA,
    PREVIOUS_SCHEMA,
    Decoded,
)

_TOP = {"schemavsn", "publisher", "objectId", "candid", "candidate", "prv_candidates", "fp_hists", *ztf.CUTOUTS}


class _Bad(ValueError):
    """A packet that is not an alert; the message is the reason."""


def _read(packet: bytes) -> dict[str, Any]:
    if not packet:
        raise _Bad("empty packet")
    if packet[:4] != b"Obj\x01":
        raise _Bad(f"not an Avro container: starts with {packet[:4]!r}")
    try:
        records = list(fastavro.reader(io.BytesIO(packet)))
    except Exception as error:
        raise _Bad(f"undecodable: {error}") from error
    if len(records) != 1 or not isinstance(records[0], dict):
        raise _Bad(f"{len(records)} records, expected 1")
    return records[0]


def _extra(record: dict[str, Any], known: set[str]) -> dict[str, str] | None:
    return {k: json.dumps(v, default=repr) for k, v in record.items() if k not in known} or None


def _check(record: dict[str, Any]) -> None:
    candidate = record.get("candidate")
    if not isinstance(candidate, dict):
        raise _Bad("field candidate: null, expected record")
    name = record.get("objectId")
    if not isinstance(name, str) or not 0 < len(name) <= 64:
        raise _Bad(f"field objectId: {name!r}")
    candid = record.get("candid")
    if not isinstance(candid, int) or candid <= 0 or candid != candidate.get("candid"):
        raise _Bad(f"field candid: {candid}, in the candidate {candidate.get('candid')}")
    limits = {
        "jd": (2.4e6, 2.5e6),
        "dec": (-90.0, 90.0),
        "fid": (1, 3),
        "magpsf": (-1e99, 1e99),
        "sigmapsf": (-1e99, 1e99),
    }
    for key, (low, high) in limits.items():
        value = candidate.get(key)
        if not isinstance(value, int | float) or not low <= value <= high:
            raise _Bad(f"field candidate.{key}: {value}, not in [{low}, {high}]")
    ra = candidate.get("ra")
    if not isinstance(ra, float) or not math.isfinite(ra) or not 0 <= ra < 360:
        raise _Bad(f"field candidate.ra: {ra}, not in [0, 360)")


def _rows(entries: list[dict[str, Any]] | None, schema: pa.Schema, alert: int) -> list[dict[str, Any]]:
    known = set(schema.names)
    return [{**e, "alert": alert, "extra": _extra(e, known)} for e in entries or []]


def decode(packets: pa.Array | pa.ChunkedArray | Sequence[bytes], *, stamps: bool = False) -> Decoded:
    """Packets to columns; never raises because of a packet."""
    if isinstance(packets, pa.Array | pa.ChunkedArray):
        packets = packets.to_pylist()
    alerts: list[dict[str, Any]] = []
    previous: list[dict[str, Any]] = []
    forced: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for row, packet in enumerate(packets):
        try:
            record = _read(packet or b"")
            _check(record)
            candidate = record["candidate"]
            extra = {**(_extra(record, _TOP) or {}), **(_extra(candidate, set(ALERTS_SCHEMA.names)) or {})}
            alert = {**candidate, "row": row, "extra": extra or None}
            alert |= {k: record.get(k) for k in ("schemavsn", "publisher", "objectId", "candid")}
            alert |= {k: (record.get(k) or {}).get("stampData") for k in ztf.CUTOUTS}
            prv = _rows(record.get("prv_candidates"), PREVIOUS_SCHEMA, len(alerts))
            fp = _rows(record.get("fp_hists"), FORCED_SCHEMA, len(alerts))
            pa.Table.from_pylist([alert], schema=ALERTS_SCHEMA)
            pa.Table.from_pylist(prv, schema=PREVIOUS_SCHEMA)
            pa.Table.from_pylist(fp, schema=FORCED_SCHEMA)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            errors.append({"row": row, "reason": str(error)})
            continue
        alerts.append(alert)
        previous += prv
        forced += fp
    return Decoded(
        pa.Table.from_pylist(alerts, schema=ALERTS_STAMPS_SCHEMA if stamps else ALERTS_SCHEMA),
        pa.Table.from_pylist(previous, schema=PREVIOUS_SCHEMA),
        pa.Table.from_pylist(forced, schema=FORCED_SCHEMA),
        pa.Table.from_pylist(errors, schema=ERRORS_SCHEMA),
    )


def _without_stamps(packet: bytes) -> bytes:
    try:
        record = _read(packet)
        reader = fastavro.reader(io.BytesIO(packet))
        schema = reader.writer_schema
        record |= {name: None for name in ztf.CUTOUTS if name in record}
        out = io.BytesIO()
        fastavro.writer(out, schema, [record])
    except Exception:  # noqa: BLE001  unreadable packets go on as they are
        return packet
    return out.getvalue()


def strip_stamps(packets: pa.Array | Sequence[bytes]) -> pa.BinaryArray:
    """The same packets with null cutouts, codec null; what cannot be read comes back unchanged."""
    if isinstance(packets, pa.Array | pa.ChunkedArray):
        packets = packets.to_pylist()
    return pa.array([None if p is None else _without_stamps(p) for p in packets], pa.binary())
