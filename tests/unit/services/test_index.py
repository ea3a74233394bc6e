"""The index shows what the lake holds, whatever was committed and wherever its follower was killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psycopg
import pytest
from deltalake import Field
from deltalake.schema import PrimitiveType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from sqlalchemy import event

from alerce_spark import delta, sky
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, STAMP
from alerce_spark.errors import LakeError
from alerce_spark.lake import write
from alerce_spark.lake.handles import delta_table
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES
from alerce_spark.serving import schema
from alerce_spark.serving.databases import store
from alerce_spark.serving.engine import IndexFault
from alerce_spark.serving.follow import Follower
from alerce_spark.serving.query import Filter, Index
from tests import small_lake
from tests.postgres_server import PostgresServer

CLASSES = {LIGHTCURVE: ("AGN", "RRL", "SNIa"), STAMP: ("AGN", "bogus")}
Row = dict[str, Any]


def objects(names: dict[str, int]) -> list[Row]:
    """Objects with so many detections, each at its place."""
    rows = []
    for name, ndet in names.items():
        ra, dec = 40.0 + 0.5 * int(name[1:]), 10.0
        index = int(sky.healpix(ra, dec))
        row = {c.name: False if c.type == "boolean" else 0 for c in TABLES["objects"].columns if c.required}
        row |= {"pixel": int(sky.parent(index, small_lake.ORDER)), "healpix29": index, "survey": "ztf", "oid": name}
        rows.append(
            row | {"meanra": ra, "meandec": dec, "ndet": ndet, "firstmjd": 59000.0 - ndet, "lastmjd": 1.0 * ndet}
        )
    return rows


def classes(found: list[tuple[str, str, str, int, int, int]]) -> list[Row]:
    """Classifications: object, classifier, version, candid, detections used, a number that makes the probabilities."""
    rows: dict[tuple[Any, ...], Row] = {}
    for name, classifier, version, candid, used, number in found:
        place = objects({name: 1})[0]
        names = CLASSES[classifier]
        values = [((number >> k) & 3) / 4 for k in range(len(names))]
        row = {k: place[k] for k in ("pixel", "healpix29", "survey", "oid")}
        row |= {"classifier": classifier, "version": version, "candid": candid, "mjd": float(candid // 2), "nown": 1}
        row |= {"class": names[int(np.argmax(values))], "probability": max(values), "ndet_used": used}
        rows[name, classifier, version, candid] = row | {"probabilities": list(zip(names, values, strict=True))}
    return list(rows.values())


def in_lake(lake: str) -> tuple[list[Row], dict[tuple[str, str], tuple[str, list[tuple[str, float]]]]]:
    """Objects, and by object and classifier the version that counts and its classes by rank; as polars reads them."""
    table = small_lake.read(lake, "objects").select(schema.OBJECT_COLUMNS).sort("oid")
    rows = small_lake.read(lake, "probabilities").filter(pl.col("oid").is_in(table["oid"].implode())).to_dicts()
    order = {r["classifier"]: r["classes"] for r in small_lake.read(lake, "taxonomy").iter_rows(named=True)}
    counting: dict[tuple[str, str], Row] = {}

    def rank(row: Row) -> tuple[Any, ...]:
        if row["classifier"] == STAMP:
            return row["version"], -row["candid"]
        return row["mjd"], row["version"], row["ndet_used"], row["candid"]

    for row in rows:
        key = row["oid"], row["classifier"]
        if key not in counting or rank(row) > rank(counting[key]):
            counting[key] = row
    ranked = {}
    for key, row in counting.items():
        pairs = dict(row["probabilities"])
        first = [(row["class"], pairs.pop(row["class"]))]
        rest = sorted(pairs.items(), key=lambda pair: (-pair[1], order[key[1]].index(pair[0])))
        ranked[key] = row["version"], first + rest
    return table.to_dicts(), ranked


def in_index(url: str) -> tuple[list[Row], dict[tuple[str, str], tuple[str, list[tuple[str, float]]]]]:
    """The same, as the index has them; what lists are chosen by agrees with the objects."""
    index = Index(url)
    try:
        items = index.items(index.keys(Filter(), order="oid", limit=1000))
        found: dict[tuple[str, str], tuple[str, list[tuple[str, float]]]] = {}
        for item in items:
            for row in index.probabilities(item["oid"]) or []:
                key = item["oid"], row["classifier_name"]
                pairs = found.setdefault(key, (row["classifier_version"], []))[1]
                assert row["ranking"] == len(pairs) + 1
                pairs.append((row["class_name"], row["probability"]))
            for (oid, classifier), (version, pairs) in found.items():
                if oid == item["oid"]:
                    exact = Filter(
                        classifier=classifier,
                        version=version,
                        class_name=pairs[0][0],
                        ndet=(item["ndet"], item["ndet"]),
                        firstmjd=(item["firstmjd"], item["firstmjd"]),
                        lastmjd=(item["lastmjd"], item["lastmjd"]),
                    )
                    assert oid in [i["oid"] for i in index.items(index.keys(exact, limit=1000))]
        versions = {(classifier, version) for (_, classifier), (version, _) in found.items()}
        assert {(c.name, c.version) for c in index.classifiers()} == versions
        names = [*schema.OBJECT_COLUMNS]
        return [{name: item[name] for name in names} for item in items], found
    finally:
        index.close()


def assert_same(lake: str, url: str) -> None:
    expected, found = in_lake(lake), in_index(url)
    assert found[0] == expected[0]
    assert found[1] == expected[1]


NAMES = st.sampled_from([f"Z{k}" for k in range(6)])
OBJECTS = st.dictionaries(NAMES, st.integers(1, 9), min_size=1, max_size=4)
FOUND = st.lists(
    st.tuples(
        NAMES,
        st.sampled_from(sorted(CLASSES)),
        st.sampled_from(["1", "2"]),
        st.integers(1, 4),
        st.integers(1, 3),
        st.integers(1, 63),
    ),
    min_size=1,
    max_size=6,
)
#: Events of the lake, and of the follower: it looks, dies or is a new one.
STEPS = st.one_of(
    st.tuples(st.just("objects"), OBJECTS),
    st.tuples(st.just("classes"), FOUND),
    st.tuples(st.just("no objects"), st.sets(NAMES, min_size=1, max_size=2)),
    st.tuples(st.just("no classes"), st.sets(st.integers(0, 9), min_size=1, max_size=4)),
    st.tuples(st.just("compact"), st.sampled_from(["objects", "probabilities"])),
    st.tuples(st.sampled_from(["follow", "follow again"]), st.none()),
)


def change(lake: str, what: str, value: Any) -> None:
    """One commit."""
    if what == "objects":
        small_lake.replace(lake, "objects", objects(value))
    elif what == "classes":
        small_lake.replace(lake, "probabilities", classes(value))
    elif what == "no objects":
        small_lake.remove(lake, "objects", [(name,) for name in value])
    elif what == "no classes":
        key = list(TABLES["probabilities"].key)
        stored = sorted(small_lake.read(lake, "probabilities").select(key).rows())
        small_lake.remove(lake, "probabilities", [stored[k % len(stored)] for k in value] if stored else [])
    elif what == "compact":
        small_lake.compact(lake, value)


@pytest.fixture(scope="session", params=["SQLite", "PostgreSQL"])
def new(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Gives places for an index."""
    if request.param == "SQLite":
        return lambda: str(tmp_path_factory.mktemp("index") / "index.sqlite")
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.new


def copy_of(url: str, new: Callable[[], str]) -> str:
    """A copy of an index that nobody uses."""
    copy = new()
    if "://" not in url:
        shutil.copy(url, copy)
        return copy
    database, name = url.rsplit("/", 1)[1], copy.rsplit("/", 1)[1]
    with psycopg.connect(url.rsplit("/", 1)[0] + "/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
        make = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(make.format(sql.Identifier(name), sql.Identifier(database)))
    return copy


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=3, max_size=14))
def test_the_index_follows_any_commits(
    steps: list[tuple[str, Any]], new: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lake, url = str(tmp_path_factory.mktemp("lake") / "lake"), new()
    write.create(lake, small_lake.ORDER)
    follower = Follower(lake, url)
    follower.step()
    for what, value in steps:
        if what == "follow again":
            follower.close()
            follower = Follower(lake, url)
        if what.startswith("follow"):
            assert not follower.step().rebuilt
        else:
            change(lake, what, value)
    follower.step()
    assert_same(lake, url)
    follower.build()
    assert_same(lake, url)
    follower.close()


@pytest.fixture
def changed(tmp_path: Path, new: Callable[[], str]) -> tuple[str, str]:
    """A lake that went on after its index was built: it has changes of every kind."""
    lake, url = str(tmp_path / "lake"), new()
    write.create(lake, small_lake.ORDER)
    change(lake, "objects", {f"Z{k}": k + 1 for k in range(6)})
    found = [
        (f"Z{k % 7}", name, version, 1 + k % 3, 2, 7 * k + 1) for k in range(40) for name in CLASSES for version in "12"
    ]
    change(lake, "classes", found)
    follower = Follower(lake, url)
    follower.step()
    follower.close()
    for what, value in (
        ("objects", {"Z1": 9, "Z6": 3}),
        ("classes", [("Z2", LIGHTCURVE, "3", 9, 2, 5), ("Z8", LIGHTCURVE, "1", 9, 2, 5)]),
        ("no classes", {0, 7, 9}),
        ("compact", "probabilities"),
        ("no objects", {"Z3"}),
        ("objects", {"Z8": 1}),
    ):
        change(lake, what, value)
    return lake, url


class Killed(BaseException):
    """Stands for a process that dies."""


def test_a_follower_that_dies_at_any_statement_goes_on(changed: tuple[str, str], new: Callable[[], str]) -> None:
    lake, url = changed
    died = 0
    for statement in range(0, 200, 2 if "://" not in url else 5):
        copy = copy_of(url, new)
        follower = Follower(lake, copy)
        _die_at(follower, statement)
        try:
            follower.step()
        except Killed:
            died += 1
        else:
            break
        finally:
            follower.close()
        again = Follower(lake, copy)
        assert not again.step().rebuilt
        again.close()
        assert_same(lake, copy)
    assert died > 5
    assert_same(lake, copy)


def _die_at(follower: Follower, statement: int) -> None:
    left = [statement]

    @event.listens_for(follower._engine, "before_cursor_execute")
    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed


def test_a_build_that_dies_leaves_the_old_index(changed: tuple[str, str]) -> None:
    lake, url = changed
    before = in_index(url)
    follower = Follower(lake, url)
    _die_at(follower, 25)
    with pytest.raises(Killed):
        follower.build()
    follower.close()
    assert in_index(url) == before


def _vacuum(lake: str, table: str) -> None:
    """Delete what the newest version does not need, and the commits before the last checkpoint."""
    live = set(table_of(lake, table).live().files)
    for file in Path(lake, table).rglob("*.parquet"):
        if "_delta_log" not in str(file) and file.relative_to(Path(lake, table)).as_posix() not in live:
            file.unlink()
    delta_table(lake, table).create_checkpoint()
    for commit in sorted(Path(lake, table, "_delta_log").glob("*.json"))[:-1]:
        commit.unlink()


def _made_again(lake: str) -> None:
    shutil.rmtree(lake)
    delta.forget()  # the writer of the new lake is another process
    write.create(lake, small_lake.ORDER)
    for k in range(12):
        change(lake, "objects", {f"Z{k % 6}": k + 1})


GONE: dict[str, Callable[[str], None]] = {
    "vacuumed": lambda lake: [_vacuum(lake, table) for table in ("objects", "probabilities")] and None,
    "made again": _made_again,
}


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("how", sorted(GONE))
def test_where_history_is_gone_the_index_is_built_again(changed: tuple[str, str], how: str, running: bool) -> None:
    lake, url = changed
    follower = Follower(lake, url)
    if running:
        follower.step()
        change(lake, "objects", {"Z9": 1})
        change(lake, "no objects", {"Z9"})
    GONE[how](lake)
    assert follower.step().rebuilt
    assert_same(lake, url)
    change(lake, "objects", {"Z4": 4})
    assert not follower.step().rebuilt
    assert_same(lake, url)
    follower.close()


def test_new_columns_of_the_lake_are_no_rebuild(changed: tuple[str, str]) -> None:
    lake, url = changed
    follower = Follower(lake, url)
    follower.step()
    delta_table(lake, "objects").alter.add_columns([Field("parallax", PrimitiveType("double"))])
    change(lake, "objects", {"Z2": 7})
    done = follower.step()
    follower.close()
    assert (done.commits, done.rebuilt) == (2, False)
    assert_same(lake, url)


def test_an_index_of_another_schema_is_refused_and_built_again(
    changed: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, url = changed
    monkeypatch.setattr(schema, "fingerprint", lambda: "another")
    with pytest.raises(IndexFault, match="index build"):
        Index(url).about()
    follower = Follower(lake, url)
    assert follower.step().rebuilt
    follower.close()
    assert Index(url).about()["schema"] == "another"


def test_two_followers_at_once_are_refused(new: Callable[[], str]) -> None:
    url = new()
    with store(url).only_follower(), pytest.raises(IndexFault, match="is followed by"), store(url).only_follower():
        pass
    with store(url).only_follower():
        pass


def test_a_follower_that_fell_behind_another_changes_nothing(changed: tuple[str, str]) -> None:
    """Two that hold no lock: the slower one gives up its transaction and starts from what the index says."""
    lake, url = changed
    slow, fast = Follower(lake, url), Follower(lake, url)
    slow.step()
    change(lake, "objects", {"Z1": 2})
    fast.step()
    change(lake, "objects", {"Z1": 5})
    fast.step()
    with pytest.raises(IndexFault, match="another follower"):
        slow.step()
    assert_same(lake, url)
    change(lake, "objects", {"Z2": 8})
    assert slow.step().commits == 1
    assert_same(lake, url)
    for follower in (slow, fast):
        follower.close()


def test_without_a_lake_or_an_index_errors_say_what_to_do(tmp_path: Path, new: Callable[[], str]) -> None:
    follower = Follower(str(tmp_path / "nowhere"), new())
    with pytest.raises(LakeError, match="alerce-spark tables create"):
        follower.step()
    follower.close()
    with pytest.raises(IndexFault, match="alerce-spark index build"):
        Index(new())


def is_there(url: str) -> bool:
    """Whether there is an index."""
    try:
        Index(url).close()
    except IndexFault:
        return False
    return True


def test_a_killed_follower_process_loses_nothing(tmp_path: Path, new: Callable[[], str]) -> None:
    lake, url = str(tmp_path / "lake"), new()
    write.create(lake, small_lake.ORDER)
    change(lake, "objects", {f"Z{k}": 1 for k in range(6)})
    command = [sys.executable, "-c", "from alerce_spark.cli import main; main()", "index", "follow"]
    rng = np.random.default_rng(5)
    for round_ in range(3):
        process = subprocess.Popen([*command, "--lake", lake, "--index", url])
        try:
            while not is_there(url):
                time.sleep(0.05)
            for k in range(12):
                change(lake, "objects", {f"Z{k % 6}": 100 * round_ + k})
                change(lake, "classes", [(f"Z{k % 6}", LIGHTCURVE, "1", 20 * round_ + k, 2, 1 + k)])
                time.sleep(float(rng.uniform(0, 0.1)))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    follower = Follower(lake, url)
    follower.step()
    follower.close()
    assert_same(lake, url)
