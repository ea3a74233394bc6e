"""Tables made, changed and read without Spark, as delta-rs and polars see them; tests/spark reads them by Spark."""

from __future__ import annotations

import json
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark import delta, sky
from alerce_spark.errors import LakeError
from alerce_spark.lake import files, lookup, write
from alerce_spark.lake.handles import delta_table
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES, Column
from alerce_spark.lake.write import Change, Conflict
from alerce_spark.location import at

ORDER = 3


@pytest.fixture
def lake(tmp_path: Path) -> str:
    path = str(tmp_path / "lake")
    write.create(path, ORDER)
    return path


def magstats(objects: dict[int, int]) -> pa.Table:
    """Rows of magstats: object k, at the k-th place, with so many detections."""
    rows = []
    for k, ndet in objects.items():
        index = int(sky.healpix(10.0 + 7.3 * k % 340, -60 + 11.7 * k % 120))
        row = {c.name: None for c in TABLES["magstats"].columns}
        row |= {c.name: False for c in TABLES["magstats"].columns if c.required and c.type == "boolean"}
        row |= {"pixel": int(sky.parent(index, ORDER)), "healpix29": index, "survey": "ztf", "oid": f"Z{k}", "fid": 1}
        row |= {"ndet": ndet, "ndubious": 0, "nrfid": 1, "firstmjd": 59000.0, "lastmjd": 59000.0 + ndet}
        rows.append(row)
    return pa.Table.from_pylist(rows, TABLES["magstats"].arrow)


def store(lake: str, objects: dict[int, int]) -> Change:
    version = lookup.versions(lake, ["magstats"])["magstats"]
    change = write.replace(lake, "magstats", magstats(objects), version)
    write.commit(lake, "magstats", version, change)
    return change


def stored(lake: str) -> dict[str, int]:
    rows = pl.scan_delta(delta_table(lake, "magstats")).select("oid", "ndet").collect()
    assert rows["oid"].is_unique().all()
    return dict(rows.iter_rows())


@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(
        st.dictionaries(st.integers(0, 30), st.integers(1, 99), min_size=1, max_size=12), min_size=1, max_size=8
    ),
    forget=st.booleans(),
)
def test_rows_replace_those_of_their_key(
    batches: list[dict[int, int]], forget: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lake = str(tmp_path_factory.mktemp("lake"))
    write.create(lake, ORDER)
    expected: dict[str, int] = {}
    for batch in batches:
        if forget:  # another process, which reads the log from its beginning
            delta.forget()
        store(lake, batch)
        expected |= {f"Z{k}": ndet for k, ndet in batch.items()}
        assert stored(lake) == expected
    one = next(iter(expected))
    query = f"SELECT ndet FROM magstats WHERE oid = '{one}'"
    found = QueryBuilder().register("magstats", delta_table(lake, "magstats")).execute(query)
    assert pa.table(found.read_all())["ndet"].to_pylist() == [expected[one]]
    located = lookup.read(
        lake, "magstats", ["oid", "ndet"], list(expected), np.unique(magstats(dict.fromkeys(range(31), 1))["pixel"])
    )
    assert dict(located.iter_rows()) == expected


def test_checkpoints_are_read_and_commits_after_them(lake: str) -> None:
    for k in range(47):
        store(lake, {k % 9: k + 1})
    names = {f.name for f in Path(lake, "magstats", "_delta_log").glob("*.checkpoint.parquet")}
    assert len(names) == 2
    expected = stored(lake)
    for old in Path(lake, "magstats", "_delta_log").glob("*.json"):  # as the clean-up of the log does
        if int(old.stem) < 40:
            old.unlink()
    delta.forget()
    store(lake, {3: 1000})
    assert stored(lake) == expected | {"Z3": 1000}


def test_of_writers_from_the_same_version_one_wins(lake: str) -> None:
    version = lookup.versions(lake, ["magstats"])["magstats"]
    changes = [write.replace(lake, "magstats", magstats({1: k}), version) for k in (1, 2)]
    write.commit(lake, "magstats", version, changes[0])
    with pytest.raises(Conflict, match="version"):
        write.commit(lake, "magstats", version, changes[1])
    assert stored(lake) == {"Z1": 1}


def test_a_version_that_another_process_made_unseen_is_a_conflict(lake: str) -> None:
    store(lake, {1: 1})
    table = delta.Table(at(f"{lake}/magstats"))
    version = table.live().version
    change = write.replace(lake, "magstats", magstats({1: 2}), version)
    reading = table.live
    # The other one commits after this one looked.
    table.live = lambda: (reading(), store(lake, {2: 1}))[0]  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="written by another application"):
        table.commit(version, change, synced=True)
    assert stored(lake) == {"Z1": 1, "Z2": 1}


def test_inserts_of_two_threads_keep_keys_unique(lake: str) -> None:
    def rows(first: int) -> pa.Table:
        made = [
            {"sha256": str(k), "stage": "s", "survey": "ztf", "source": "t", "reason": "r", "packet": b"x"}
            for k in range(first, first + 5)
        ]
        return pa.Table.from_pylist([*made, *made], TABLES["quarantine"].arrow)

    threads = [threading.Thread(target=write.insert, args=(lake, "quarantine", rows(k))) for k in (0, 2, 4, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = pl.scan_delta(delta_table(lake, "quarantine")).select("sha256").collect()["sha256"]
    assert sorted(found.to_list()) == [str(k) for k in range(9)]


def test_a_file_without_rows_left_leaves_the_table(lake: str) -> None:
    store(lake, {1: 1})
    before = delta_table(lake, "magstats").file_uris()
    store(lake, {1: 2})
    after = delta_table(lake, "magstats").file_uris()
    assert len(after) == 1
    assert after != before


def test_nothing_to_do_is_no_commit(lake: str) -> None:
    assert write.commit(lake, "magstats", 0, Change([])) == 0
    assert delta_table(lake, "magstats").version() == 0


def test_files_say_what_is_in_them(lake: str) -> None:
    table = magstats({k: k + 1 for k in range(40)})
    table = table.set_column(
        table.schema.get_field_index("magmean"), "magmean", pa.array([np.nan] + [float(k) for k in range(39)])
    )
    write.commit(lake, "magstats", 0, write.append(lake, "magstats", table))
    actions = pl.DataFrame(delta_table(lake, "magstats").get_add_actions(flatten=True))
    rows = pl.DataFrame(table)
    for one in actions.iter_rows(named=True):
        inside = rows.filter(pl.col("pixel") == one["partition.pixel"])
        assert one["num_records"] == len(inside)
        for name in ("healpix29", "oid", "ndet", "ndubious"):
            assert (one[f"min.{name}"], one[f"max.{name}"]) == (inside[name].min(), inside[name].max())
        bounds = (one["min.magmean"], one["max.magmean"])
        expected = (
            (None, None) if inside["magmean"].is_nan().any() else (inside["magmean"].min(), inside["magmean"].max())
        )
        assert bounds == expected
        assert one["null_count.magmean"] == 0


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("magstats", "oid", None, "nulls in required columns oid"),
        ("models", "state", "unknown", "known_state"),
    ],
)
def test_rows_that_break_a_rule_of_the_table_are_not_written(
    lake: str, table: str, column: str, value: object, message: str
) -> None:
    if table == "magstats":
        row = magstats({1: 1}).to_pylist()[0]
    else:
        row = {"classifier": "c", "version": "1", "state": "current", "artefact": "a", "sha256": "s"}
    rows = pa.Table.from_pylist(
        [row | {column: value}], pa.schema([f.with_nullable(True) for f in TABLES[table].arrow])
    )
    with pytest.raises(ValueError, match=message):
        files.write(lake, table, rows)
    assert not list(Path(lake, table).rglob("*.parquet"))


def test_a_feature_that_is_not_known_here_is_refused(lake: str) -> None:
    name = Path(lake, "magstats", "_delta_log", f"{0:020d}.json")
    actions = [json.loads(line) for line in name.read_text().splitlines()]
    for action in actions:
        if "protocol" in action:
            action["protocol"]["writerFeatures"].append("rowTracking")
    name.write_text("\n".join(map(json.dumps, actions)))
    delta.forget()
    with pytest.raises(LakeError, match="rowTracking"):
        write.append(lake, "magstats", magstats({1: 1}))
    change = Change([{"path": "p", "partitionValues": {"pixel": "1"}, "size": 1, "stats": '{"numRecords":1}'}])
    with pytest.raises(LakeError, match="rowTracking"):
        write.commit(lake, "magstats", 0, change)


def test_a_damaged_deletion_vector_is_an_error_not_a_row_that_comes_back(lake: str) -> None:
    rows = magstats({40: 1, 41: 1, 42: 1}).to_pylist()
    rows = [row | {name: rows[0][name] for name in ("pixel", "healpix29")} for row in rows]

    def table(k: int, ndet: int) -> pa.Table:
        return pa.Table.from_pylist([rows[k] | {"ndet": ndet}], TABLES["magstats"].arrow)

    write.commit(lake, "magstats", 0, write.append(lake, "magstats", pa.concat_tables(table(k, 1) for k in range(3))))
    write.commit(lake, "magstats", 1, write.replace(lake, "magstats", table(0, 7), 1))
    change = write.replace(lake, "magstats", table(1, 7), 2)
    for vector in Path(lake, "magstats").glob("deletion_vector_*.bin"):
        vector.write_bytes(vector.read_bytes()[:-2] + b"\x00\x00")
    with pytest.raises(LakeError, match="damaged"):
        write.commit(lake, "magstats", 2, change)


def test_rows_that_are_kept_are_those_of_delta_rs(lake: str) -> None:
    def masks(vectors: pa.Table) -> dict[str, list[bool]]:
        rows = zip(vectors["filepath"].to_pylist(), vectors["selection_vector"].to_pylist(), strict=True)
        return {path.removeprefix("file://"): mask for path, mask in rows}

    store(lake, dict.fromkeys(range(1200), 1))  # several in a pixel
    for k in range(3):
        store(lake, dict.fromkeys(range(k, 300, 5), k))
        handle = delta_table(lake, "magstats")
        theirs = masks(pa.table(DeltaTable.deletion_vectors(handle)))  # few enough for it
        ours = masks(handle.deletion_vectors())
        assert theirs
        assert set(ours) == set(theirs)
        for path, mask in theirs.items():  # rows after the last deleted one are kept, said or not
            assert ours[path] == mask[: len(ours[path])]
            assert all(mask[len(ours[path]) :])


def test_readers_never_ask_delta_rs_for_deletion_vectors(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # It never returns where 512 files have one.
    def hangs(self: DeltaTable) -> None:
        raise AssertionError("asked")

    store(lake, dict.fromkeys(range(1200), 1))  # several in a pixel
    monkeypatch.setattr(DeltaTable, "deletion_vectors", hangs)
    store(lake, dict.fromkeys(range(0, 300, 5), 2))
    assert len(delta_table(lake, "magstats").deletion_vectors())
    expected = {f"Z{k}": 2 if k < 300 and k % 5 == 0 else 1 for k in range(1200)}
    assert stored(lake) == expected
    pixels = np.unique(magstats(dict.fromkeys(range(1200), 1))["pixel"])
    assert dict(lookup.read(lake, "magstats", ["oid", "ndet"], list(expected), pixels).iter_rows()) == expected


def test_snapshots_go_back_and_forth(lake: str) -> None:
    known = {}
    store(lake, dict.fromkeys(range(1200), 1))  # several in a pixel
    for k in range(45):
        store(lake, {k % 9: k + 1})
        moving = delta.Table(at(f"{lake}/magstats"))
        now = moving.newest()
        known[now.version] = {path: moving.kept(file) for path, file in now.files.items()}
    for old in Path(lake, "magstats", "_delta_log").glob("*.json"):  # as the clean-up of the log does
        if int(old.stem) <= 20:
            old.unlink()
    newest = max(known)
    assert any(mask is not None for mask in known[newest].values())
    moving = delta.Table(at(f"{lake}/magstats"))
    for version in (newest, 41, 25, 39, 20, newest, 30):
        fresh = delta.Table(at(f"{lake}/magstats"))
        for reader in (moving, fresh):
            files_then = reader.at(version).files
            assert {path: file.path for path, file in files_then.items()} == {p: p for p in known[version]}
            for path, mask in known[version].items():
                found = reader.kept(files_then[path])
                assert (found is None) == (mask is None)
                assert found is None or np.array_equal(found, mask)
    with pytest.raises(FileNotFoundError, match="no longer has version 3"):
        delta.Table(at(f"{lake}/magstats")).at(3)
    with pytest.raises(LakeError, match="no table"):
        delta.Table(at(f"{lake}/nowhere/magstats")).at(3)
    with pytest.raises(FileNotFoundError, match="no longer has version"):
        moving.at(newest + 1)


def test_a_look_up_keeps_little_of_each_file(lake: str) -> None:
    # Statistics as a commit has them of the 32 first columns; every process keeps what it needs of every live file.
    numbers = {f"column{k}": 59000.123456789 + k for k in range(32)}
    counts = dict.fromkeys(numbers, 0)
    stats = json.dumps({"numRecords": 1, "minValues": numbers, "maxValues": numbers, "nullCount": counts})
    added = [
        {"path": f"pixel={k % 700}/part-{k:032d}.parquet", "partitionValues": {"pixel": str(k % 700)}, "size": 9000 + k}
        | {"modificationTime": 1_700_000_000_000 + k, "dataChange": True, "stats": stats}
        for k in range(2000)
    ]
    write.commit(lake, "detections", 0, Change(added))
    tracemalloc.start()
    try:
        opened = delta.Table(at(f"{lake}/detections"), "healpix29")
        assert len(opened.at(1).files) == len(added)
        a_file = tracemalloc.get_traced_memory()[0] / len(added)
    finally:
        tracemalloc.stop()
    assert a_file < len(stats) / 2


def test_making_a_table_twice_changes_nothing(lake: str) -> None:
    before = DeltaTable(f"{lake}/objects").metadata().id
    assert write.create(lake, ORDER) == []
    assert DeltaTable(f"{lake}/objects").metadata().id == before


def moved(lake: str) -> tuple[int, Change]:
    """Compact: all rows of the table in one file a pixel."""
    live = table_of(lake, "magstats").live()
    rows = lookup.rows_of_files(lake, "magstats", list(live.files), live.version)
    removed = {path: file.vector for path, file in live.files.items()}
    return live.version, Change(files.write(lake, "magstats", rows), removed=removed, operation="OPTIMIZE", moves=True)


def test_rows_that_only_move_are_committed_on_a_later_version(lake: str) -> None:
    for k in range(3):
        store(lake, {1: k, 2: k})
    version, change = moved(lake)
    store(lake, {5: 1})
    assert write.commit(lake, "magstats", version, change) == version + 2
    assert stored(lake) == {"Z1": 2, "Z2": 2, "Z5": 1}
    last = json.loads(Path(lake, "magstats", "_delta_log", f"{version + 2:020d}.json").read_text().splitlines()[1])
    assert last["remove"]["dataChange"] is False


def test_a_move_and_a_change_of_the_same_rows_never_both_happen(lake: str) -> None:
    store(lake, {1: 1, 2: 1})
    store(lake, {1: 2})
    version, change = moved(lake)
    store(lake, {1: 3})
    with pytest.raises(Conflict):
        write.commit(lake, "magstats", version, change)
    late = write.replace(lake, "magstats", magstats({1: 4}), version + 1)
    version, change = moved(lake)
    write.commit(lake, "magstats", version, change)
    with pytest.raises(Conflict):
        write.commit(lake, "magstats", version, late)
    assert stored(lake) == {"Z1": 3, "Z2": 1}


def test_columns_of_a_new_version_are_added_to_an_old_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = str(tmp_path / "lake")
    new = TABLES["magstats"]
    old = replace(new, columns=tuple(column for column in new.columns if column.name != "dt_first"))
    with monkeypatch.context() as patch:
        patch.setitem(TABLES, "magstats", old)
        write.create(lake, ORDER)
        rows = magstats({1: 5})
        version = lookup.versions(lake, ["magstats"])["magstats"]
        write.commit(lake, "magstats", version, Change(files.write(lake, "magstats", rows)))
    assert write.create(lake, ORDER) == []
    assert "dt_first" in [field.name for field in delta_table(lake, "magstats").schema().fields]
    _store_with_dt_first(lake, 2, 7.5)
    seen = pl.scan_delta(delta_table(lake, "magstats")).select("oid", "dt_first").collect()
    assert dict(seen.iter_rows()) == {"Z1": None, "Z2": 7.5}
    _store_with_dt_first(lake, 1, 6.5)
    seen = pl.scan_delta(delta_table(lake, "magstats")).select("oid", "dt_first").collect()
    assert dict(seen.iter_rows()) == {"Z1": 6.5, "Z2": 7.5}
    assert write.add_columns(lake, new) == []
    with pytest.raises(LakeError, match="magstats lacks more"):
        write.add_columns(lake, replace(new, columns=(*new.columns, Column("more", "int", "", required=True))))


def _store_with_dt_first(lake: str, number: int, days: float) -> None:
    rows = magstats({number: 1})
    rows = rows.set_column(rows.schema.get_field_index("dt_first"), "dt_first", pa.array([days]))
    version = lookup.versions(lake, ["magstats"])["magstats"]
    write.commit(lake, "magstats", version, write.replace(lake, "magstats", rows, version))
