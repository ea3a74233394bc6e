"""The cases of delta-io's acceptance tables, made by Spark and read by us; and what we write, read by the others."""

from __future__ import annotations

import base64
import datetime
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, QueryBuilder
from pyroaring import BitMap64
from pyspark.sql import DataFrame, SparkSession

from alerce_spark import delta
from alerce_spark.delta import Change, Definition, files
from alerce_spark.delta.deletion_vectors import _MAGIC, _TO_Z85
from alerce_spark.delta.handles import Handle, checkpoint, scan
from alerce_spark.errors import LakeError
from alerce_spark.location import at

COLUMNS = "id BIGINT, text STRING, value DOUBLE, day DATE, at TIMESTAMP"
ODD = ["a b", "c/d", "e=f", "50%", "%41", "ü:é", "x'y", 'q"r', "", None, "__HIVE", "#?&"]


def rows(first: int, count: int) -> list[tuple[Any, ...]]:
    day, at_ = datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 23, 59, 59, 123456)
    return [
        (k, ODD[k % len(ODD)], k / 7 if k % 5 else None, day + datetime.timedelta(k) if k % 3 else None, at_)
        for k in range(first, first + count)
    ]


def make(
    spark: SparkSession, path: Path, by: str | None = None, properties: dict[str, str] | None = None, count: int = 30
) -> None:
    """A table of Spark in two commits."""
    parts = f"PARTITIONED BY ({by})" if by else ""
    settings = ", ".join(f"'{k}' = '{v}'" for k, v in (properties or {}).items())
    with_settings = f"TBLPROPERTIES ({settings})" if settings else ""
    spark.sql(f"CREATE TABLE delta.`{path}` ({COLUMNS}) USING delta {parts} {with_settings}")
    append(spark, path, 0, count)


def append(spark: SparkSession, path: Path, first: int, count: int) -> None:
    frame = spark.createDataFrame(rows(first, count), COLUMNS).coalesce(1)
    frame.write.format("delta").mode("append").save(str(path))


def by_spark(frame: DataFrame) -> list[dict[str, Any]]:
    return sorted(frame.toArrow().to_pylist(), key=lambda row: row["id"])


def by_us(path: Path, schema: pa.Schema, version: int | None = None) -> list[dict[str, Any]]:
    table = delta.Table(at(str(path)))
    snapshot = table.newest() if version is None else table.at(version)
    parts = [files.rows(table, file, schema) for file in snapshot.files.values()]
    return sorted(pa.concat_tables([schema.empty_table(), *parts]).to_pylist(), key=lambda row: row["id"])


def assert_read(spark: SparkSession, path: Path, version: int | None = None) -> list[dict[str, Any]]:
    """Our rows are Spark's; they are returned."""
    reader = spark.read.format("delta")
    frame = (reader if version is None else reader.option("versionAsOf", version)).load(str(path))
    expected = by_spark(frame)
    assert by_us(path, frame.toArrow().schema, version) == expected
    return expected


def test_partitions_with_nulls_and_special_characters(spark: SparkSession, tmp_path: Path) -> None:
    make(spark, tmp_path / "t", "text, day, at, value", count=len(ODD))
    assert len(assert_read(spark, tmp_path / "t")) == len(ODD)


def _log(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "_delta_log").iterdir() if not file.name.startswith("."))


def _forget_before(path: Path, version: int) -> None:
    for name in _log(path):
        if name.endswith(".json") and name[:20].isdecimal() and int(name[:20]) < version and "checkpoint" not in name:
            (path / "_delta_log" / name).unlink()
            (path / "_delta_log" / f".{name}.crc").unlink(missing_ok=True)


V2 = {"delta.checkpointPolicy": "v2"}
CHECKPOINTS: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "classic": ({}, {}, ".checkpoint.parquet"),
    "in parts": ({}, {"spark.databricks.delta.checkpoint.partSize": "3"}, ".parquet"),
    "without stats as JSON": ({"delta.checkpoint.writeStatsAsJson": "false"}, {}, ".checkpoint.parquet"),
    "v2, parquet": (V2, {"spark.databricks.delta.checkpointV2.topLevelFileFormat": "parquet"}, ".parquet"),
    "v2, json": (V2, {"spark.databricks.delta.checkpointV2.topLevelFileFormat": "json"}, ".json"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_and_logs_without_their_first_commits(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    properties, settings, suffix = CHECKPOINTS[kind]
    path = tmp_path / "t"
    for key, value in settings.items():
        spark.conf.set(key, value)
    try:
        make(spark, path, "text", properties | {"delta.checkpointInterval": "3"}, count=8)
        for k in range(3):
            append(spark, path, 100 * (k + 1), 3)
    finally:
        for key in settings:
            spark.conf.unset(key)
    made = [name for name in _log(path) if ".checkpoint." in name]
    assert made
    assert all(name.endswith(suffix) for name in made)
    assert (len(made) > 1) == (kind == "in parts")
    expected = assert_read(spark, path)
    schema = spark.read.format("delta").load(str(path)).toArrow().schema
    then = by_us(path, schema, 3)
    _forget_before(path, 3)
    for _ in range(2):
        assert by_us(path, schema) == expected
        assert by_us(path, schema, 3) == then
        (path / "_delta_log" / "_last_checkpoint").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="no longer has version 1"):
        by_us(path, schema, 1)


def test_deletion_vectors_time_travel_and_growing_columns(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "t"
    make(spark, path, properties={"delta.enableDeletionVectors": "true"}, count=40)
    spark.sql(f"DELETE FROM delta.`{path}` WHERE id % 3 = 0")
    spark.sql(f"ALTER TABLE delta.`{path}` ADD COLUMNS (more ARRAY<STRING>)")
    spark.sql(f"UPDATE delta.`{path}` SET more = array('x', null), value = -1 WHERE id BETWEEN 10 AND 20")
    spark.sql(f"OPTIMIZE delta.`{path}`")
    newest = DeltaTable(str(path)).version()
    counts = [len(assert_read(spark, path, version)) for version in range(1, newest + 1)]
    assert counts[:2] == [40, 26]
    assert set(counts[1:]) == {26}
    assert any(file.vector for file in delta.Table(at(str(path))).at(2).files.values())


def test_deletion_vectors_in_the_log(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "t"
    make(spark, path, properties={"delta.enableDeletionVectors": "true"}, count=20)
    table = delta.Table(at(str(path)))
    (file,) = (file for file in table.live().files.values())
    gone = BitMap64([0, 7, 19])
    data = struct.pack("<i", _MAGIC) + gone.serialize()
    text = base64.b85encode(data + bytes(-len(data) % 4)).decode().translate(_TO_Z85)
    vector = {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(data), "cardinality": 3}
    assert file.action is not None
    stats = json.dumps(json.loads(file.action["stats"]) | {"tightBounds": False})
    change = Change(
        [file.action | {"deletionVector": vector, "stats": stats}], removed={file.path: None}, operation="DELETE"
    )
    table.commit(1, change, synced=False)
    assert len(assert_read(spark, path)) == 17
    # More rows go: the vector of the log is taken into one in a file.
    more = pl.DataFrame({"path": [file.path], "position": [3]})
    table.commit(2, Change([], more, operation="DELETE"), synced=False)
    assert len(assert_read(spark, path)) == 16


def test_columns_under_other_names_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    make(spark, tmp_path / "t", properties={"delta.columnMapping.mode": "name"}, count=3)
    with pytest.raises(delta.Unsupported, match=r"table t has features .* columnMapping"):
        delta.Table(at(str(tmp_path / "t"))).newest()


SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        pa.field("text", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("pairs", pa.map_(pa.string(), pa.float64())),
    ]
)
FIELDS = [
    {"name": "id", "type": "long", "nullable": False, "metadata": {}},
    {"name": "text", "type": "string", "nullable": True, "metadata": {}},
    {"name": "value", "type": "double", "nullable": True, "metadata": {}},
    {"name": "at", "type": "timestamp", "nullable": True, "metadata": {}},
    {
        "name": "pairs",
        "type": {"type": "map", "keyType": "string", "valueType": "double", "valueContainsNull": True},
        "nullable": True,
        "metadata": {},
    },
]
OTHERS: dict[str, dict[str, str]] = {
    "plain": {},
    "times in the commits": {"delta.feature.inCommitTimestamp": "supported", "delta.enableInCommitTimestamps": "true"},
    "v2 checkpoints": V2,
    "checks": {"delta.constraints.positive": "id >= 0"},
    "features that ask nothing": {
        "delta.feature.timestampNtz": "supported",
        "delta.feature.vacuumProtocolCheck": "supported",
        "delta.feature.domainMetadata": "supported",
        "delta.feature.typeWidening": "supported",
    },
}


def ours(first: int, count: int) -> pa.Table:
    time = datetime.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=datetime.UTC)
    made = [
        {"id": k, "text": ODD[k % len(ODD)], "value": [float("nan"), None, k / 3][k % 3], "at": time}
        | {"pairs": [("a", 1.5), (str(k), None)] if k % 2 else None}
        for k in range(first, first + count)
    ]
    return pa.Table.from_pylist(made, SCHEMA)


def _added(table: delta.Table, batch: pa.Table, by: str | None) -> list[dict[str, Any]]:
    layout = files.Layout((by,) if by else ())
    return files.write(table, batch, SCHEMA, layout, synced=False)


def _sorted(found: pa.Table) -> list[str]:
    """Rows as text, which takes one NaN for another."""
    kept = found.select(SCHEMA.names).cast(SCHEMA).sort_by("id")
    return [repr(row) for row in kept.to_pylist()]


@pytest.mark.parametrize(("how", "by"), [*((how, None) for how in OTHERS), ("plain", "text")])
def test_spark_delta_rs_and_polars_read_what_we_write(
    spark: SparkSession, tmp_path: Path, how: str, by: str | None
) -> None:
    path = tmp_path / "t"
    schema = json.dumps({"type": "struct", "fields": FIELDS})
    definition = Definition(schema, "d", "t", [by] if by else [], deletable=True)
    assert delta.create(at(str(path)), definition, synced=False)
    table = delta.Table(at(str(path)))
    if OTHERS[how]:
        _set(spark, path, OTHERS[how])
    version = table.live().version
    first = ours(0, 24)
    if by:  # in a folder's name an empty text would be a null
        with pytest.raises(delta.RuleBroken, match="cannot hold an empty text"):
            _added(table, first, by)
        first = first.filter(pc.or_kleene(pc.is_null(first[by]), pc.not_equal(first[by], "")))
    version = table.commit(version, Change(_added(table, first, by)), synced=False)
    victims = [(file.path, k) for file in table.live().files.values() for k in range(0, 2, 3)]
    gone = pl.DataFrame(victims, ["path", "position"], orient="row")
    batch = ours(110, 5)
    version = table.commit(version, Change(_added(table, batch, by), gone, operation="MERGE"), synced=False)
    expected = _sorted(
        pa.concat_tables([SCHEMA.empty_table(), *(files.rows(table, f, SCHEMA) for f in table.newest().files.values())])
    )
    assert len(expected) == len(first) + 5 - len(victims)
    assert _sorted(spark.read.format("delta").load(str(path)).toArrow()) == expected
    if how not in ("times in the commits", "v2 checkpoints", "features that ask nothing"):  # delta-rs may not know them
        assert checkpoint(table) == version
    readers: dict[str, Callable[[], pa.Table]] = {
        "polars": lambda: scan(Handle(table)).collect().to_arrow(),
        "delta-rs": lambda: pa.table(
            QueryBuilder().register("t", DeltaTable(str(path))).execute("SELECT * FROM t").read_all()
        ),
    }
    for name, read in readers.items():
        if name == "polars" or how != "features that ask nothing":  # delta-rs by itself does not read all of them
            assert _sorted(_maps(read())) == expected, name


def _maps(found: pa.Table) -> pa.Table:
    """polars has maps as lists of pairs."""
    kind = found.schema.field("pairs").type
    if pa.types.is_map(kind):
        return found
    values = [None if row is None else [(p["key"], p["value"]) for p in row] for row in found["pairs"].to_pylist()]
    index = found.schema.get_field_index("pairs")
    return found.set_column(index, SCHEMA.field("pairs"), pa.array(values, SCHEMA.field("pairs").type))


def _set(spark: SparkSession, path: Path, properties: dict[str, str]) -> None:
    for key, value in properties.items():
        if key.startswith("delta.constraints."):
            spark.sql(f"ALTER TABLE delta.`{path}` ADD CONSTRAINT {key.rpartition('.')[2]} CHECK ({value})")
        else:
            spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('{key}' = '{value}')")


def test_rules_that_spark_added_are_kept(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "t"
    schema = json.dumps({"type": "struct", "fields": FIELDS})
    delta.create(at(str(path)), Definition(schema, deletable=True), synced=False)
    table = delta.Table(at(str(path)))
    version = table.commit(0, Change(_added(table, ours(0, 3), None)), synced=False)
    early = _added(table, ours(10, 1), None)
    spark.sql(f"ALTER TABLE delta.`{path}` ADD CONSTRAINT small CHECK (id < 10 AND `text` IN ('a b', \"c/d\", 'e=f'))")
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.appendOnly' = 'true')")
    with pytest.raises(delta.Conflict):  # the rows were made before there was a check
        table.commit(version, Change(early), synced=False)
    with pytest.raises(delta.RuleBroken, match="table t: 1 rows fail the check small"):
        _added(table, ours(10, 1), None)
    version = table.commit(version + 2, Change(_added(table, ours(1, 2), None)), synced=False)
    gone = pl.DataFrame({"path": [next(iter(table.live().files))], "position": [0]})
    with pytest.raises(LakeError, match=r"table t has delta.appendOnly = true"):
        table.commit(version, Change([], gone), synced=False)
    assert spark.read.format("delta").load(str(path)).count() == 5
