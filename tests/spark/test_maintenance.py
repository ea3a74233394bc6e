"""A simulated week of commits with compaction beside them: few small files, no row lost, old files gone."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from alerce_spark import delta, sky
from alerce_spark.lake import lookup, write
from alerce_spark.lake.compact import compact, files_of_pixels, vacuum
from alerce_spark.lake.handles import delta_table
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES

pytestmark = pytest.mark.spark

ORDER = 1
TABLE = "magstats"
#: In a night so many commits of so many of the objects; a real night has a thousand.
NIGHTS, COMMITS, OBJECTS, EACH = 7, 16, 60, 15
#: As `maintenance.max_files`, smaller because there are fewer commits.
MAX_FILES = 6
RETENTION_H = 24.0
#: The nights lie so long ago [s].
_AGO_S = 2 * 86_400


def test_small_files_stay_bounded_over_a_week(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta.table, "_now_ms", lambda: int(1000 * (time.time() - _AGO_S)))
    lake = str(tmp_path / "lake")
    write.create(lake, ORDER)
    rng = np.random.default_rng(3)
    truth: dict[str, int] = {}
    errors: list[BaseException] = []
    night_ends = threading.Event()

    def maintain() -> None:
        try:
            while not night_ends.wait(0.5):
                compact(spark, lake, TABLE, MAX_FILES)
        except BaseException as error:  # noqa: BLE001 (a thread's error must reach the test)
            errors.append(error)

    for night in range(NIGHTS):
        if night == NIGHTS - 1:  # one that has just ended
            monkeypatch.undo()
        night_ends.clear()
        beside = threading.Thread(target=maintain)
        beside.start()
        for _ in range(COMMITS):
            some = {f"Z{k}": int(rng.integers(1, 1000)) for k in rng.choice(OBJECTS, EACH, replace=False)}
            write.unhindered(partial(_store, lake, _rows(some)))
            truth |= some
            time.sleep(0.05)
        night_ends.set()
        beside.join()
        assert not errors
        assert _stored(lake) == truth
        compact(spark, lake, TABLE, MAX_FILES)
        assert _most_files(lake) <= MAX_FILES
        if night < NIGHTS - 1:
            _age(Path(lake) / TABLE)
        dead = _on_disk(lake) - _live(lake)
        compact(spark, lake, TABLE)
        vacuum(spark, lake, TABLE, RETENTION_H)
        assert _most_files(lake) == 1
        assert _stored(lake) == truth
        if night < NIGHTS - 1:
            assert _on_disk(lake) & dead == set()
    assert dead
    assert _on_disk(lake) >= dead | _live(lake)
    rows = spark.read.format("delta").load(f"{lake}/{TABLE}").select("oid", "ndet").collect()
    assert {row["oid"]: row["ndet"] for row in rows} == truth


def _rows(objects: dict[str, int]) -> pa.Table:
    rows = []
    for oid, ndet in objects.items():
        k = int(oid[1:])
        index = int(sky.healpix(90.0 * (k % 4) + 0.05 * k, 20.0))  # four pixels
        row = {c.name: False if c.required and c.type == "boolean" else None for c in TABLES[TABLE].columns}
        row |= {"pixel": int(sky.parent(index, ORDER)), "healpix29": index, "survey": "ztf", "oid": oid, "fid": 1}
        row |= {"ndet": ndet, "ndubious": 0, "nrfid": 1, "firstmjd": 59000.0, "lastmjd": 59000.0 + ndet}
        rows.append(row)
    return pa.Table.from_pylist(rows, TABLES[TABLE].arrow)


def _store(lake: str, rows: pa.Table) -> int:
    version = lookup.versions(lake, [TABLE])[TABLE]
    return write.commit(lake, TABLE, version, write.replace(lake, TABLE, rows, version))


def _stored(lake: str) -> dict[str, int]:
    rows = pl.scan_delta(delta_table(lake, TABLE)).select("oid", "ndet").collect()
    assert rows["oid"].is_unique().all()
    return dict(rows.iter_rows())


def _most_files(lake: str) -> int:
    """Files of the pixel that has most."""
    return int(files_of_pixels(lake, TABLE)["files"].max())  # type: ignore[arg-type]


def _live(lake: str) -> set[str]:
    return set(table_of(lake, TABLE).live().files)


def _on_disk(lake: str) -> set[str]:
    table = Path(lake) / TABLE
    return {str(f.relative_to(table)) for f in table.rglob("*.parquet") if "_delta_log" not in f.parts}


def _age(table: Path) -> None:
    """Let the files be as old as the log says."""
    for file in table.rglob("*.*"):
        when = time.time() - _AGO_S
        os.utime(file, (when, when))
