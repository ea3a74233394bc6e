"""Refused packets on their way into the table quarantine: the parts that run in workers, and the commit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from alerce_spark import lake
from alerce_spark.lake import lookup, write
from alerce_spark.lake.tables import TABLES
from alerce_spark.streaming import quarantine


def _rows(packets: Sequence[bytes], stage: str = "photometry") -> pa.RecordBatch:
    rows = [
        {
            "sha256": hashlib.sha256(packet).hexdigest(),
            "stage": stage,
            "survey": "ztf",
            "source": f"topic {k}",
            "partition": None,
            "offset": k,
            "reason": "empty packet",
            "packet": packet,
        }
        for k, packet in enumerate(packets)
    ]
    packed = quarantine.packed(pa.Table.from_pylist(rows, TABLES["quarantine"].arrow))
    return pa.RecordBatch.from_arrays([pa.array(packed, pa.binary())], names=["refused"])


def _keep(path: str, batches: list[pa.RecordBatch]) -> list[int]:
    """As `keep` with one task; bytes of what each change brings to the driver."""
    version = lookup.versions(path, ["quarantine"])["quarantine"]
    keyed = list(quarantine._keyed(iter(batches)))
    for batch in keyed:
        assert batch.schema == quarantine._KEYED
    met = iter([batch.select(["row"]) for batch in keyed])
    made = [row for change in quarantine._writer(path, version)(met) for row in change.to_pylist()]
    write.commit(path, "quarantine", version, write.joined([write.unpacked(row["change"]) for row in made]))
    return [len(row["change"]) for row in made]


def test_a_refused_packet_is_stored_once_however_often_it_comes(tmp_path: Path) -> None:
    path = str(tmp_path)
    write.create(path, 4)
    packets = [bytes([k]) * k for k in range(1, 6)]
    _keep(path, [_rows(packets[:3]), _rows([*packets[2:4], packets[0], packets[0]])])
    _keep(path, [_rows(packets), _rows(packets[:1], stage="stamps")])
    stored = lake.open(path).table("quarantine").collect()
    assert sorted(stored.filter(stage="photometry")["packet"].to_list()) == sorted(packets)
    assert stored.filter(stage="stamps")["packet"].to_list() == packets[:1]
    first = stored.filter(pl.col("packet") == packets[2], stage="photometry")
    assert first["source"].to_list() == ["topic 2"]


def test_the_driver_gets_no_bytes_of_packets(tmp_path: Path) -> None:
    path = str(tmp_path)
    write.create(path, 4)
    packets = [os.urandom(12 << 20) for _ in range(6)]
    brought = _keep(path, [_rows(packets[:5]), _rows(packets[5:])])
    assert len(brought) == 2  # two files, of 36 and 36 MB
    assert sum(brought) < 10_000
    assert set(lake.open(path).table("quarantine").collect()["packet"]) == set(packets)
