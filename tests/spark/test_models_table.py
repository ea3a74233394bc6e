"""Spark and delta-rs share the table of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from alerce_spark.classifiers.taxonomy import LIGHTCURVE
from alerce_spark.lake import models, write
from alerce_spark.lake.handles import table_path
from alerce_spark.lake.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


@pytest.fixture(params=["with the lake", "by the registry"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A lake whose table of models was made with the others or will be made by the registry."""
    path = str(tmp_path / "lake")
    if request.param == "with the lake":
        write.create(path, 4)
    return path


def test_spark_reads_what_the_registry_wrote_and_keeps_the_rules(
    spark: SparkSession, lake: str, tmp_path: Path
) -> None:
    for version in ("1", "2"):
        (tmp_path / version).write_text(version)
        models.register(lake, LIGHTCURVE, version, tmp_path / version, metrics={"f1": 0.5}, training_set="sets@3")
        models.promote(lake, LIGHTCURVE, version)
    path = table_path(lake, "models")
    rows = spark.read.format("delta").load(path).orderBy("version").collect()
    assert [(r["classifier"], r["version"], r["state"]) for r in rows] == [
        (LIGHTCURVE, "1", "retired"),
        (LIGHTCURVE, "2", "current"),
    ]
    assert rows[0]["metrics"] == {"f1": 0.5}
    assert [f.name for f in spark.read.format("delta").load(path).schema] == TABLES["models"].names
    with pytest.raises(Exception, match="known_state"):
        spark.sql(f"UPDATE delta.`{path}` SET state = 'bad'")
    # What Spark writes the registry reads, and what was current before is still known.
    spark.sql(f"UPDATE delta.`{path}` SET training_set = 'sets@4' WHERE version = '1'")
    assert models.roll_back(lake, LIGHTCURVE).training_set == "sets@4"
