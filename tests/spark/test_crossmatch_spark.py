"""The crossmatch query with Spark: packets as workers get them, rows that Spark reads."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from pyspark.sql import SparkSession

from alerce_spark import lake as lakes
from alerce_spark.crossmatch.catalogs import Catalog
from alerce_spark.lake import catalogs, write
from alerce_spark.simulation.night import simulate
from alerce_spark.streaming.queries.crossmatch import Crossmatch
from alerce_spark.streaming.source import PACKETS
from alerce_spark.surveys.ztf import ZTF

CATALOGS = tuple(neighbour.catalog for neighbour in ZTF.neighbours)
pytestmark = pytest.mark.spark


def test_packets_become_rows_that_spark_reads(spark: SparkSession, tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    write.create(lake, 4)
    night = simulate(41, objects=12, nights=6, stamps=False)
    file = tmp_path / "sources.csv"
    file.write_text("name,ra,dec,kind\nfar,180,89,x\n")
    settings = Catalog(title="mine", id=("name",), ra=("ra",), dec=("dec",), radius=2.0)
    catalogs.import_catalog(lake, "mine", settings, [file])
    now = datetime.now(UTC)
    rows = [(packet, "night", 0, k, now) for k, packet in enumerate([*night.packets, *night.packets[:5], b"none"])]
    packets = spark.createDataFrame(rows, PACKETS).repartition(2)

    query = Crossmatch(spark, lake, "ztf", lambda: None)
    done = query.process(packets)
    objects = len(set(night.oids))
    assert done.alerts == len(night.packets) + 5
    assert done.rows == dict.fromkeys(("mine", *CATALOGS), objects)
    assert query.process(packets).rows == {}

    stored = lakes.open(lake)
    there = stored.spark_table(spark, "xmatch")
    assert there.count() == objects * 4
    named = there.where("catalog = 'ps1_ztf' AND source_id IS NOT NULL").selectExpr(
        "oid", "attributes['sgscore1'] AS s"
    )
    own = stored.table("xmatch").filter(catalog="ps1_ztf").filter(pl.col("source_id").is_not_null()).collect()
    assert named.where("s IS NOT NULL").count() > 0
    assert sorted(row.oid for row in named.collect()) == sorted(own["oid"])
    catalog = spark.read.format("delta").load(f"{lake}/catalogs/mine")
    assert [row.source_id for row in catalog.collect()] == ["far"]
