"""Files are on the disk before a commit names them; damage by a power cut is named, or ignored in a hint."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from alerce_spark import delta, local_kafka, location
from alerce_spark.delta.log import commit_path
from alerce_spark.errors import LakeError
from alerce_spark.lake import handles, lookup, models, write
from alerce_spark.lake.handles import delta_table, scan
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES
from alerce_spark.lake.write import Change
from tests.unit.test_log import ORDER, magstats, store, stored

OBJECTS = dict.fromkeys(range(8), 1)


@pytest.fixture
def lake(tmp_path: Path) -> str:
    path = str(tmp_path / "lake")
    write.create(path, ORDER)
    return path


class Disk:
    """Notes what was synchronised, with the size that it had, until a commit gets its name; and after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.safe: dict[Path, int] = {}
        self.at_commit: list[tuple[Path, dict[Path, int]]] = []
        fsync, link = os.fsync, os.link

        def note(handle: int) -> None:
            fsync(handle)
            path = Path(os.readlink(f"/proc/self/fd/{handle}"))
            self.safe[path] = path.stat().st_size

        def name(source: Path, target: Path) -> None:
            self.at_commit.append((target, dict(self.safe) | {target: self.safe.get(source, -1)}))
            link(source, target)

        monkeypatch.setattr(location.os, "fsync", note)
        monkeypatch.setattr(location.os, "link", name)


def test_a_commit_gets_its_name_when_all_that_it_names_is_safe(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store(lake, OBJECTS)
    disk = Disk(monkeypatch)
    store(lake, dict.fromkeys(range(0, 8, 2), 2) | dict.fromkeys(range(20, 24), 1))
    ((commit, safe),) = disk.at_commit
    table = Path(lake, "magstats")
    actions = [json.loads(line) for line in commit.read_text().splitlines()]
    added = [action["add"] for action in actions if "add" in action]
    assert len(added) > 4
    new = {table / add["path"] for add in added}
    new |= set(table.glob("deletion_vector_*.bin"))
    assert safe[commit] == commit.stat().st_size
    for path in new:
        assert safe[path] == path.stat().st_size
        assert {above for above in path.parents if above.is_relative_to(table)} <= set(safe)
    assert commit.parent in disk.safe
    assert not list(table.rglob("*.tmp"))


def test_a_lake_that_is_made_and_its_registry_are_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    lake = str(tmp_path / "lake")
    write.create(lake, ORDER)
    model = tmp_path / "some.model"
    model.write_bytes(b"weights")
    entry = models.register(lake, "lc_classifier", "1", model, state=models.CURRENT)
    for commit, safe in disk.at_commit:
        assert safe[commit] == commit.stat().st_size
    assert {commit.parent for commit, _ in disk.at_commit} == set(Path(lake).rglob("_delta_log")) <= set(disk.safe)
    assert {Path(lake, name) for name in TABLES} <= set(disk.safe)
    newest = max(Path(lake, "models", "_delta_log").glob("*.json"))
    for path in (newest, *Path(lake, "models").glob("*.parquet"), Path(lake, entry.artefact)):
        assert (disk.safe | disk.at_commit[-1][1])[path] == path.stat().st_size
    assert Path(lake, entry.artefact).parent in disk.safe


def test_a_lake_without_synchronising_is_one_by_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = str(tmp_path / "lake")
    write.create(lake, ORDER, sync=False)
    disk = Disk(monkeypatch)
    store(lake, OBJECTS)
    assert not disk.safe
    assert stored(lake) == {f"Z{k}": 1 for k in OBJECTS}
    write.create(lake, ORDER)
    store(lake, {1: 5})
    assert disk.safe
    assert handles.is_synced(lake)
    assert delta_table(lake, "objects").metadata().configuration[handles.SYNC_PROPERTY] == "true"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut in a line": lambda whole: whole[: len(whole) // 2],
    "cut between lines": lambda whole: whole[: whole.rindex(b"\n") + 1],
    "zeros": lambda whole: bytes(len(whole)),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_newest_commit_is_an_error_not_fewer_rows(lake: str, how: str) -> None:
    for k in range(3):
        store(lake, dict.fromkeys(range(k, k + 4), k))
    version = table_of(lake, "magstats").live().version
    lookup.versions(lake, ["magstats"])
    opened = delta_table(lake, "magstats")
    expected = stored(lake)
    store(lake, {1: 9})
    commit = Path(lake, "magstats", "_delta_log", f"{version + 1:020d}.json")
    whole = commit.read_bytes()
    commit.write_bytes(DAMAGE[how](whole))
    delta.forget()
    readers: list[Callable[[], object]] = [
        lambda: stored(lake),
        lambda: table_of(lake, "magstats").live(),
        lambda: lookup.versions(lake, ["magstats"]),
        lambda: write.commit(lake, "magstats", version, write.append(lake, "magstats", magstats({99: 1}))),
        opened.update_incremental,
    ]
    for read in readers:
        with pytest.raises(LakeError, match=rf"{commit.name} of the table magstats .*After a power cut"):
            read()
    commit.unlink()  # the remedy
    delta.forget()
    assert stored(lake) == expected


@pytest.mark.parametrize("how", ["empty", "cut in a line", "zeros"])
def test_a_damaged_hint_of_the_last_checkpoint_is_passed_over(
    lake: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    for k in range(23):
        store(lake, {k % 9: k + 1})
    expected = stored(lake)
    hint = Path(lake, "magstats", "_delta_log", "_last_checkpoint")
    hint.write_bytes(DAMAGE[how](hint.read_bytes()))
    for old in hint.parent.glob("*.json"):  # as the clean-up of the log does
        if int(old.stem) < 20:
            old.unlink()
    delta.forget()
    delta.log._named.clear()
    for _ in range(3):
        assert stored(lake) == expected
    assert table_of(lake, "magstats").live().version == 23
    assert [record.getMessage().split(" is damaged")[0] for record in caplog.records] == [str(hint)]


def test_a_damaged_checkpoint_is_passed_over_while_the_commits_are_there(
    lake: str, caplog: pytest.LogCaptureFixture
) -> None:
    for k in range(21):
        store(lake, {k % 9: k + 1})
    live = set(table_of(lake, "magstats").live().files)
    checkpoint = next(Path(lake, "magstats", "_delta_log").glob("*.checkpoint.parquet"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    delta.forget()
    with caplog.at_level(logging.WARNING):
        assert set(table_of(lake, "magstats").live().files) == live
    assert checkpoint.name in caplog.text
    for old in checkpoint.parent.glob("*.json"):
        if int(old.stem) < 20:
            old.unlink()
    delta.forget()
    with pytest.raises(LakeError, match=f"{checkpoint.name} of the table magstats"):
        table_of(lake, "magstats").live()


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_data_file_that_is_empty_or_cut_off_is_named(lake: str, kept: float) -> None:
    store(lake, OBJECTS)
    oids = [f"Z{k}" for k in OBJECTS]
    pixels = np.unique(magstats(OBJECTS)["pixel"])
    file = next(Path(lake, "magstats").rglob("*.parquet"))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole))])
    name = f"{file.parent.name}/{file.name} of the table magstats"
    with pytest.raises(LakeError, match=name):
        scan(delta_table(lake, "magstats"))
    with pytest.raises(LakeError, match=name):
        lookup.read(lake, "magstats", ["oid", "ndet"], oids, pixels)
    live = table_of(lake, "magstats").live()
    with pytest.raises(LakeError, match=name):
        lookup.rows_of_files(lake, "magstats", list(live.files), live.version)
    file.write_bytes(whole)
    assert len(lookup.read(lake, "magstats", ["oid", "ndet"], oids, pixels)) == len(OBJECTS)


@pytest.mark.parametrize("kept", [0, 5])
def test_a_deletion_vector_that_is_empty_or_cut_off_is_named(lake: str, kept: int) -> None:
    same = magstats({40: 1, 41: 1}).to_pylist()
    place = {name: same[0][name] for name in ("pixel", "healpix29")}
    both = pa.Table.from_pylist([row | place for row in same], TABLES["magstats"].arrow)
    write.commit(lake, "magstats", 0, write.append(lake, "magstats", both))
    write.commit(lake, "magstats", 1, write.replace(lake, "magstats", both.slice(0, 1), 1))
    (vector,) = Path(lake, "magstats").glob("deletion_vector_*.bin")
    vector.write_bytes(vector.read_bytes()[:kept])
    delta.forget()
    with pytest.raises(LakeError, match=f"{vector.name} .* is damaged"):
        lookup.read(lake, "magstats", ["oid", "ndet"], ["Z40", "Z41"], both["pixel"].unique())


def test_pages_of_a_data_file_that_are_zeros_are_named(lake: str) -> None:
    store(lake, OBJECTS)
    file = next(Path(lake, "magstats").rglob("*.parquet"))
    whole = file.read_bytes()
    at = whole.index(b"Z") // 2 + 4
    file.write_bytes(whole[:4] + bytes(at) + whole[4 + at :])
    live = table_of(lake, "magstats").live()
    with pytest.raises(LakeError, match=file.name):
        lookup.rows_of_files(lake, "magstats", list(live.files), live.version)


def test_an_inserted_row_of_a_table_without_pixels_needs_whole_files(lake: str) -> None:
    file = next(Path(lake, "taxonomy").rglob("*.parquet"))
    file.write_bytes(b"")
    with pytest.raises(LakeError, match=f"{file.name} of the table taxonomy"):
        write.create(lake, ORDER)


def test_nothing_is_left_of_a_commit_that_came_second(lake: str) -> None:
    assert not location.at(f"{lake}/magstats").create(commit_path(0), b"{}", synced=True)
    assert [f.name for f in Path(lake, "magstats", "_delta_log").iterdir()] == [f"{0:020d}.json"]
    assert write.commit(lake, "magstats", 0, Change([])) == 0
    assert pl.scan_delta(delta_table(lake, "magstats")).collect().is_empty()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "\0\0\0"])
def test_a_damaged_note_of_the_broker_is_passed_over(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    note = tmp_path / "broker.json"
    note.write_text(text)
    assert local_kafka.status(tmp_path) is None
    assert str(note) in caplog.text
