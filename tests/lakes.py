"""A lake for tests: its tables by key and value, and an oracle of the rows that packets should leave in it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import fastavro
import polars as pl
from polars.testing import assert_frame_equal

from alerce_spark import lake
from alerce_spark.lake.tables import TABLES

WRITTEN = ("detections", "non_detections", "forced_photometry", "objects", "magstats", "quarantine")
#: Depends on arrival: the home of an object, and where a bad packet was first seen.
_ARRIVAL = {"objects": ["pixel"], "magstats": ["pixel"], "quarantine": ["source", "partition", "offset"]}


def snapshot(path: str) -> dict[str, pl.DataFrame]:
    """Every table that ingest writes, sorted by key, without what depends on arrival."""
    opened = lake.open(path)
    tables = {}
    for name in WRITTEN:
        frame = opened.table(name).collect().drop(_ARRIVAL.get(name, []))
        tables[name] = frame.sort(TABLES[name].key)
    return tables


def assert_same(left: dict[str, pl.DataFrame], right: dict[str, pl.DataFrame]) -> None:
    """Tables equal by key and value; sums of floats may differ in the last digits."""
    for name in WRITTEN:
        try:
            assert_frame_equal(left[name], right[name], rel_tol=1e-12, abs_tol=1e-12)
        except AssertionError as error:
            raise AssertionError(f"table {name}: {error}") from None


def assert_keys_unique(tables: dict[str, pl.DataFrame]) -> None:
    """No key twice in any table; upper limits by their rounded time."""
    for name, frame in tables.items():
        keys = frame.select(TABLES[name].key)
        if name == "non_detections":
            keys = keys.with_columns((pl.col("mjd") / 1e-5).round().cast(pl.Int64))
        assert keys.is_duplicated().sum() == 0, f"{name}: keys twice"


def records(packets: Iterable[bytes]) -> list[dict[str, Any]]:
    """Packets as fastavro reads them; those it cannot read are left out."""
    found = []
    for packet in packets:
        try:
            found.append(next(fastavro.reader(io.BytesIO(packet))))
        except (ValueError, StopIteration, EOFError, IndexError, KeyError, TypeError):
            continue
    return found


def assert_complete(tables: dict[str, pl.DataFrame], alerts: Sequence[dict[str, Any]]) -> None:
    """Every candid of every packet and history is there once, by rank (docs/design.md, "Rank"), and counts agree."""
    expected: dict[tuple[str, int], tuple[int, int, float]] = {}
    limits: set[tuple[str, int, int]] = set()
    forced: set[tuple[str, int]] = set()
    for alert in alerts:
        oid, carrier = alert["objectId"], alert["candid"]
        own = (0, 0, alert["candidate"]["magpsf"])
        expected[oid, carrier] = min(expected.get((oid, carrier), own), own)
        for entry in alert["prv_candidates"] or []:
            if entry["candid"] is None:
                limits.add((oid, entry["fid"], round((entry["jd"] - 2400000.5) / 1e-5)))
                continue
            row = (1, carrier, entry["magpsf"])
            expected[oid, entry["candid"]] = min(expected.get((oid, entry["candid"]), row), row)
        forced |= {(oid, entry["pid"]) for entry in alert.get("fp_hists") or []}
    stored = tables["detections"]
    found = {
        (oid, candid): (0 if has_stamp else 1, 0 if has_stamp else parent, magpsf)
        for oid, candid, has_stamp, parent, magpsf in stored.select(
            "oid", "candid", "has_stamp", "parent_candid", "magpsf"
        ).iter_rows()
    }
    assert len(found) == len(stored)
    assert found == expected
    visits = tables["non_detections"].select("oid", "fid", (pl.col("mjd") / 1e-5).round().cast(pl.Int64))
    assert set(visits.iter_rows()) == limits
    assert set(tables["forced_photometry"].select("oid", "pid").iter_rows()) == forced
    counts = stored.group_by("oid").len("stored").join(tables["objects"].select("oid", "ndet"), on="oid", how="full")
    assert counts.filter(pl.col("stored").cast(pl.Int64).ne_missing(pl.col("ndet"))).is_empty()
