"""Rules and features that others gave a table: kept, passed over where they ask nothing, or refused by name."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError

from alerce_spark import delta
from alerce_spark.delta import Change, Definition, RuleBroken, Unsupported, files
from alerce_spark.errors import LakeError
from alerce_spark.location import at

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("mag", pa.float64())])
FIELDS: list[dict[str, Any]] = [
    {"name": "id", "type": "long", "nullable": True, "metadata": {}},
    {"name": "name", "type": "string", "nullable": True, "metadata": {}},
    {"name": "mag", "type": "double", "nullable": True, "metadata": {}},
]
ROWS: list[dict[str, Any]] = [
    {"id": 1, "name": "a", "mag": 18.5},
    {"id": -3, "name": "b c", "mag": float("nan")},
    {"id": 20, "name": "", "mag": None},
    {"id": None, "name": "o'x", "mag": -1.0},
    {"id": 0, "name": None, "mag": 0.0},
]


def made(folder: Path, fields: list[dict[str, Any]] | None = None, **properties: str) -> delta.Table:
    schema = json.dumps({"type": "struct", "fields": FIELDS if fields is None else fields})
    place = at(str(folder / "t"))
    configuration = {name.replace("__", "."): value for name, value in properties.items()}
    delta.create(place, Definition(schema, configuration=configuration, deletable=True), synced=False)
    return delta.Table(place)


def added(table: delta.Table, *rows: dict[str, Any]) -> list[delta.Action]:
    return files.write(table, pa.Table.from_pylist(list(rows), SCHEMA), SCHEMA, files.Layout(), synced=False)


def protocol(table: delta.Table, **change: Any) -> None:
    """Write another protocol, as somebody else would."""
    name = table.location.place + f"/_delta_log/{0:020d}.json"
    actions = [json.loads(line) for line in Path(name).read_text().splitlines()]
    for action in actions:
        if "protocol" in action:
            action["protocol"] |= change
    Path(name).write_text("\n".join(map(json.dumps, actions)))
    table.forget()


CONDITIONS = (
    "id >= 0",
    "id BETWEEN -3 AND 1",
    "id IS NULL OR NOT (id = 20)",
    "mag < 18.6 AND id <> -3",
    "abs(id) - 1 < 2 * length(name)",
    "name IN ('a', 'b c', 'o''x')",
    "ID != 5 AND Name IS NOT NULL",
)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions_mean_what_they_mean_to_delta_rs(tmp_path: Path, condition: str) -> None:
    table = made(tmp_path, delta__constraints__mine=condition)
    plain = made(tmp_path / "plain")
    version = plain.commit(0, Change(added(plain, *ROWS)), synced=False)
    assert version == 1
    query = f"SELECT * FROM t WHERE {condition.replace('ID', 'id').replace('Name', 'name')}"
    finite = [row for row in ROWS if row["mag"] is None or np.isfinite(row["mag"])]
    kept = pa.table(
        QueryBuilder().register("t", DeltaTable(plain.location.place)).execute(query).read_all()
    ).to_pylist()
    for row in finite:  # what a comparison says of NaN differs among SQL engines: as in Spark it is the largest
        if row in kept:
            added(table, row)
        else:
            with pytest.raises(RuleBroken, match="table t: 1 rows fail the check mine"):
                added(table, row)


def test_nan_is_the_largest_number_as_in_spark(tmp_path: Path) -> None:
    assert added(made(tmp_path / "a", delta__constraints__mine="mag > 3"), ROWS[1])
    with pytest.raises(RuleBroken):
        added(made(tmp_path / "b", delta__constraints__mine="mag < 3"), ROWS[1])


@pytest.mark.parametrize(
    "condition", ["upper(name) = 'A'", "id / 2 > 0", "other > 1", "name LIKE 'a%'", "id = 'x'", "id %"]
)
def test_a_condition_that_cannot_be_evaluated_refuses_the_rows(tmp_path: Path, condition: str) -> None:
    table = made(tmp_path, delta__constraints__odd=condition)
    with pytest.raises(RuleBroken, match=r"table t: the check odd .* drop it"):
        added(table, ROWS[0])
    assert not list(tmp_path.rglob("*.parquet"))


def _field(k: int, **change: Any) -> list[dict[str, Any]]:
    return [field | change if n == k else field for n, field in enumerate(FIELDS)]


NESTED = {"type": "struct", "fields": [{"name": "x", "type": "long", "nullable": False, "metadata": {}}]}
REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "invariant": (
        _field(0, metadata={"delta.invariants": json.dumps({"expression": {"expression": "id > 5"}})}),
        "invariant of id",
    ),
    "not null": (_field(0, nullable=False), "nulls in required columns id"),
    "not null in a new column": (
        [*FIELDS, {"name": "more", "type": "long", "nullable": False, "metadata": {}}],
        "nulls in required columns more",
    ),
    "default of a new column": (
        [*FIELDS, {"name": "more", "type": "long", "nullable": True, "metadata": {"CURRENT_DEFAULT": "1"}}],
        "default values, more",
    ),
    "inside": (_field(1, type=NESTED), "NOT NULL inside the columns name"),
    "generated": (_field(0, metadata={"delta.generationExpression": "1"}), r"generatedColumns \(column id\)"),
    "identity": (_field(0, metadata={"delta.identity.start": 1}), r"identityColumns \(column id\)"),
    "unknown column": (FIELDS[:2], "has no columns mag"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_rules_of_columns_are_kept(tmp_path: Path, how: str) -> None:
    fields, message = REFUSED[how]
    with pytest.raises(LakeError, match=f"table t.*{message}"):
        added(made(tmp_path, fields), ROWS[0] | {"id": None} if how == "not null" else ROWS[0])


HARMLESS = ("changeDataFeed", "generatedColumns", "identityColumns", "domainMetadata", "inCommitTimestamp")
HARMLESS += ("icebergCompatV1", "icebergCompatV2", "allowColumnDefaults")
HARMLESS_TO_ALL = ("v2Checkpoint", "vacuumProtocolCheck", "timestampNtz", "columnMapping", "typeWidening")


@pytest.mark.parametrize("feature", [*HARMLESS, *HARMLESS_TO_ALL])
def test_a_feature_that_asks_nothing_locks_nobody_out(tmp_path: Path, feature: str) -> None:
    table = made(tmp_path)
    features = ["deletionVectors", feature] if feature in HARMLESS_TO_ALL else ["deletionVectors"]
    protocol(table, writerFeatures=["deletionVectors", "invariants", feature], readerFeatures=features)
    assert table.commit(0, Change(added(table, ROWS[0])), synced=False) == 1


@pytest.mark.parametrize("feature", ["rowTracking", "clustering", "materializePartitionColumns", "somethingNew"])
def test_a_feature_that_asks_writers_for_more_is_refused_and_can_be_read(tmp_path: Path, feature: str) -> None:
    table = made(tmp_path)
    table.commit(0, Change(added(table, *ROWS)), synced=False)
    protocol(table, writerFeatures=["deletionVectors", feature])
    assert sum(files.rows(table, file, SCHEMA).num_rows for file in table.newest().files.values()) == len(ROWS)
    with pytest.raises(Unsupported, match=f"table t .*{feature}"):
        added(table, ROWS[0])


@pytest.mark.parametrize("feature", ["catalogManaged", "somethingNew"])
def test_a_feature_that_readers_must_know_is_refused(tmp_path: Path, feature: str) -> None:
    table = made(tmp_path)
    protocol(table, writerFeatures=["deletionVectors", feature], readerFeatures=["deletionVectors", feature])
    with pytest.raises(Unsupported, match=f"table t .*{feature}"):
        table.newest()


@pytest.mark.parametrize("name", ["appendOnly", "enableChangeDataFeed"])
def test_rows_of_a_table_that_only_grows_are_not_deleted(tmp_path: Path, name: str) -> None:
    table = made(tmp_path, **{f"delta__{name}": "true"})
    assert table.commit(0, Change(added(table, *ROWS)), synced=False) == 1
    assert table.commit(1, Change(added(table, *ROWS)), synced=False) == 2
    gone = pl.DataFrame({"path": [next(iter(table.live().files))], "position": [0]})
    with pytest.raises(LakeError, match=rf"table t has delta.{name} = true.*unset it"):
        table.commit(2, Change([], gone), synced=False)
    live = table.live().files
    moved = Change(added(table, *ROWS, *ROWS), removed=dict.fromkeys(live), moves=True, operation="OPTIMIZE")
    assert table.commit(2, moved, synced=False) == 3


def test_a_rule_that_comes_between_writing_and_moving_is_a_conflict(tmp_path: Path) -> None:
    table = made(tmp_path)
    version = table.commit(0, Change(added(table, *ROWS)), synced=False)
    moved = Change(added(table, *ROWS), removed=dict.fromkeys(table.live().files), moves=True)
    other = delta.Table(table.location)
    rule = other.live().metadata.with_properties({"delta.constraints.few": "id < 100"})
    other.commit(version, Change([], metadata=rule), synced=False)
    with pytest.raises(delta.Conflict, match="rules or columns of t changed"):
        table.commit(version, moved, synced=False)


def test_times_in_the_commits_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = made(tmp_path, delta__enableInCommitTimestamps="true")
    monkeypatch.setattr(delta.table, "_now_ms", lambda: 1_700_000_000_000)  # a clock that stands still
    for k in range(4):
        table.forget()
        table.commit(k, Change(added(table, ROWS[0])), synced=False)
    times = [info["inCommitTimestamp"] for version, info in table.history() if version]
    assert times == sorted(set(times), reverse=True)


def test_threads_of_a_process_share_a_table(tmp_path: Path) -> None:
    """Readers go back and forth among versions while others commit; each sees whole versions."""
    table = made(tmp_path)
    table.commit(0, Change(added(table, *ROWS)), synced=False)
    faults: list[BaseException] = []
    stop = threading.Event()

    def write() -> None:
        try:
            for _ in range(20):
                while True:
                    now = table.live()
                    try:
                        table.commit(now.version, Change(added(table, *ROWS)), synced=False)
                        break
                    except delta.Conflict:
                        continue
        except BaseException as error:  # noqa: BLE001 - the test tells of it
            faults.append(error)

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                newest = table.newest()
                assert len(newest.files) == newest.version
                version = int(rng.integers(1, newest.version + 1))
                assert len(table.at(version).files) == version
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    writers = [threading.Thread(target=write) for _ in range(3)]
    readers = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not faults
    assert table.newest().version == 61
    assert DeltaTable(table.location.place).version() == 61


def test_delta_rs_refuses_the_same_rows(tmp_path: Path) -> None:
    """Its reading of a check that we made is ours."""
    table = made(tmp_path, delta__constraints__positive="id >= 0")
    table.commit(0, Change(added(table, ROWS[0])), synced=False)
    batch = pa.Table.from_pylist([ROWS[1]], SCHEMA)
    from deltalake import write_deltalake

    with pytest.raises(DeltaError):
        write_deltalake(table.location.place, batch, mode="append")
    with pytest.raises(RuleBroken):
        added(table, ROWS[1])
