"""The follower: applies the commits of the lake to the index, one transaction a version; builds it from nothing.

A transaction writes rows together with the version of their table, so a follower that dies at any moment goes on after
the last whole transaction. A build is one transaction too: readers see the old index until the new one is complete.
Where the log or the files no longer show the changes since the index's version, the index is rebuilt.

For each object and classifier the best classification counts. A new one is compared with the one that counts. Where the
one that counts is deleted or ranks lower than before, or the object was unknown when it arrived, all classifications of
the object are read from the newest version of the lake. That may be later than the version being applied: applying the
commits in between again changes nothing.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa
from sqlalchemy import Connection, Delete, Engine, Select, Table, bindparam, delete, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex

from alerce_spark.classifiers.taxonomy import STAMP, version_order
from alerce_spark.errors import AlerceError
from alerce_spark.lake import lookup
from alerce_spark.lake.handles import healpix_order
from alerce_spark.lake.tables import TABLES as LAKE_TABLES
from alerce_spark.serving import schema
from alerce_spark.serving.changes import Changes, Commit, File, HistoryGone, commits, identity
from alerce_spark.serving.databases import store
from alerce_spark.serving.engine import IndexFault, Unreachable

log = logging.getLogger(__name__)

#: Tables of the lake that the index shows, in the order in which they are updated.
TABLES = ("taxonomy", "objects", "probabilities")
_KEY = ("oid", "classifier", "version", "candid")
_CLASSES = (*_KEY, "mjd", "ndet_used", "class", "probabilities")
#: Rows in one INSERT, and objects in one SELECT.
_ROWS = 20_000
_ASKED = 5_000
#: Bytes of the files that a build has in memory together.
_GROUP_BYTES = 16 << 20
_LONGEST_WAIT_S = 30.0

T = TypeVar("T")

Row = dict[str, Any]
#: Objects by name: id, ndet, firstmjd, lastmjd.
Objects = dict[str, tuple[Any, ...]]
#: Classification that counts, by object and classifier: rank, version, candid.
Counting = dict[tuple[str, str], tuple[Any, ...]]


@dataclass(frozen=True)
class Progress:
    """Result of a step: number of commits applied, whether the index was built from nothing."""

    commits: int
    rebuilt: bool


class Follower:
    """Writes the index of one lake. The caller must hold `Store.only_follower`."""

    def __init__(self, lake: str, url: str) -> None:
        self._lake = lake
        self._place = store(url)
        self._engine: Engine = self._place.writer()
        self._following: dict[str, Changes] | None = None
        self._numbers: dict[str, int] = {}

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def step(self) -> Progress:
        """Apply the commits that the index lacks. Raises LakeError where the lake cannot be read."""
        try:
            if self._following is None:
                self._following = self._resume()
            if self._following is not None:
                return Progress(sum(self._catch_up(changes, name) for name, changes in self._following.items()), False)
        except (HistoryGone, FileNotFoundError) as gone:
            log.warning("the index is built again: %s", gone)
        self.build()
        return Progress(0, True)

    def build(self) -> None:
        """Build the index from the newest version of the lake, in one transaction."""
        self._following = None
        lake = identity(self._lake, TABLES)
        following = {name: Changes(self._lake, name) for name in TABLES}
        with self._engine.begin() as connection, self._place.building(connection):
            self._numbers = {}
            for name, changes in following.items():
                for group in _groups(changes):
                    self._apply(connection, name, changes, Commit(changes.version, group, []))
                if name == "objects":
                    _create_indices(connection, schema.objects)
                connection.execute(insert(schema.applied).values(table=name, version=changes.version))
            for table in schema.metadata.sorted_tables:
                if table is not schema.objects:
                    _create_indices(connection, table)
            facts = {
                "schema": schema.fingerprint(),
                "lake": lake,
                "healpix_order": str(healpix_order(self._lake)),
                "built": f"{time.time():.0f}",
            }
            connection.execute(insert(schema.about), [{"name": k, "value": v} for k, v in facts.items()])
        self._following = following

    def _resume(self) -> dict[str, Changes] | None:
        """Followers of the tables from the index's versions on; None where there is no such index of this lake."""
        with self._engine.connect() as connection:
            if not self._engine.dialect.has_table(connection, "about"):
                return None
            facts = dict(connection.execute(select(schema.about.c.name, schema.about.c.value)).all())
            done = dict(connection.execute(select(schema.applied.c.table, schema.applied.c.version)).all())
        if facts.get("schema") != schema.fingerprint() or facts.get("lake") != identity(self._lake, TABLES):
            return None
        return {name: Changes(self._lake, name, done[name]) for name in TABLES}

    def _catch_up(self, changes: Changes, name: str) -> int:
        taken = 0
        try:
            for commit in commits(changes):
                with self._engine.begin() as connection:
                    self._numbers = {}  # those of a failed transaction are invalid
                    self._note(connection, name, commit.version)
                    self._apply(connection, name, changes, commit)
                taken += 1
        except BaseException:
            self._following = None  # it may be ahead of the index: start from the version in the index
            raise
        return taken

    def _note(self, connection: Connection, name: str, version: int) -> None:
        """Begin a transaction with a statement whose lock and condition exclude a follower that fell behind."""
        t = schema.applied.c
        one_less = update(schema.applied).where(t.table == name, t.version == version - 1).values(version=version)
        if connection.execute(one_less).rowcount != 1:
            raise IndexFault(f"the index {self._place.name} was brought to {name} {version} by another follower")

    def _apply(self, connection: Connection, name: str, changes: Changes, commit: Commit) -> None:
        if not commit.is_empty:
            {"taxonomy": self._taxonomy, "objects": self._objects, "probabilities": self._classes}[name](
                connection, changes, commit
            )

    def _taxonomy(self, connection: Connection, changes: Changes, commit: Commit) -> None:
        columns = ("classifier", "version", "classes")
        for shrunk in commit.shrunk:
            for row in changes.gone(shrunk, columns[:2]).to_pylist():
                connection.execute(delete(schema.taxonomy).filter_by(**row))
        for add in commit.added:
            for row in changes.rows(add, columns).to_pylist():
                known = self._place.upsert(schema.taxonomy).values(row | {"classes": json.dumps(row["classes"])})
                key = ["classifier", "version"]
                connection.execute(
                    known.on_conflict_do_update(index_elements=key, set_={"classes": known.excluded.classes})
                )

    def _objects(self, connection: Connection, changes: Changes, commit: Commit) -> None:
        added = _frame([changes.rows(add, schema.OBJECT_COLUMNS) for add in commit.added], schema.OBJECT_COLUMNS)
        gone = _frame([changes.gone(shrunk, ("oid",)) for shrunk in commit.shrunk], ("oid",))
        self._delete_objects(connection, gone.join(added, "oid", "anti")["oid"].unique().to_list())
        for rows in added.iter_slices(_ROWS):
            self._upsert_objects(connection, rows)

    def _delete_objects(self, connection: Connection, oids: list[str]) -> None:
        """Delete objects that the lake no longer has; their remaining classes are kept as waiting."""
        if not oids:
            return
        o, c = schema.objects.c, schema.classified.c
        ids = dict(_in(connection, select(o.id, o.oid), o.oid, oids))
        known = _in(connection, select(c.id).distinct(), c.id, ids)
        self._wait(connection, {ids[id_] for (id_,) in known})
        for table in (schema.objects, schema.classified, schema.probability):
            _each(connection, delete(table), table.c.id, ids)

    def _wait(self, connection: Connection, oids: set[str]) -> None:
        if oids:
            row = self._place.upsert(schema.waiting).on_conflict_do_nothing()
            connection.execute(row, [{"oid": oid} for oid in sorted(oids)])

    def _upsert_objects(self, connection: Connection, rows: pl.DataFrame) -> None:
        row = self._place.upsert(schema.objects)
        fresh = {name: row.excluded[name] for name in schema.OBJECT_COLUMNS if name != "oid"}
        # An upsert needs the index of the names, which a build makes after the rows.
        if not self._following:
            self._place.add(connection, schema.objects, rows.to_dicts())
            return
        connection.execute(row.on_conflict_do_update(index_elements=["oid"], set_=fresh), rows.to_dicts())
        o = schema.objects.c
        ids = dict(_in(connection, select(o.oid, o.id), o.oid, rows["oid"].to_list()))
        repeated = ("ndet", "firstmjd", "lastmjd")
        connection.execute(
            update(schema.probability)
            .where(schema.probability.c.id == bindparam("_id"), schema.probability.c.ranking == 1)
            .values({name: bindparam(f"_{name}") for name in repeated}),
            [
                {"_id": ids[oid], **{f"_{name}": value for name, value in zip(repeated, values, strict=True)}}
                for oid, *values in rows.select("oid", *repeated).iter_rows()
            ],
        )
        came = _in(connection, select(schema.waiting.c.oid), schema.waiting.c.oid, rows["oid"].to_list())
        if waited := [oid for (oid,) in came]:
            self._choose_again(connection, waited)
            _each(connection, delete(schema.waiting), schema.waiting.c.oid, waited)

    def _classes(self, connection: Connection, changes: Changes, commit: Commit) -> None:
        added = [changes.rows(add, _CLASSES) for add in commit.added]
        gone = {key for shrunk in commit.shrunk for key in _keys(changes.gone(shrunk, _KEY))}
        if gone:
            gone.difference_update(key for table in added for key in _keys(table))
        again = self._counting(connection, gone)
        for table in added:
            for begin in range(0, table.num_rows, _ROWS):
                again |= self._compare(connection, table.slice(begin, _ROWS).to_pylist())
        self._choose_again(connection, sorted(again))

    def _counting(self, connection: Connection, keys: set[tuple[Any, ...]]) -> set[str]:
        """Objects for which one of these classifications counts."""
        counting = self._known(connection, sorted({key[0] for key in keys}))[1]
        return {key[0] for key in keys if counting.get((key[0], key[1]), ())[1:] == key[2:]}

    def _known(self, connection: Connection, oids: Sequence[str]) -> tuple[Objects, Counting]:
        """Those of the objects that the index has, and their classifications that count."""
        o, c = schema.objects.c, schema.classified.c
        name, version = schema.words.alias(), schema.words.alias()
        found = select(o.oid, o.id, o.ndet, o.firstmjd, o.lastmjd)
        objects = {row[0]: tuple(row[1:]) for row in _in(connection, found, o.oid, oids)}
        counting = (
            select(o.oid, name.c.word, version.c.word, c.candid, c.mjd, c.ndet_used)
            .join_from(schema.objects, schema.classified, o.id == c.id)
            .join(name, name.c.id == c.classifier)
            .join(version, version.c.id == c.version)
        )
        rows = _in(connection, counting, o.oid, oids)
        return objects, {
            (oid, classifier): (_rank(classifier, version, candid, mjd, used), version, candid)
            for oid, classifier, version, candid, mjd, used in rows
        }

    def _compare(self, connection: Connection, rows: list[Row]) -> set[str]:
        """Store classifications that rank above those that count; return objects that must be read from the lake."""
        again: set[str] = set()
        best: dict[tuple[str, str], Row] = {}
        for row in rows:
            key = row["oid"], row["classifier"]
            if key not in best or _rank_of(row) > _rank_of(best[key]):
                best[key] = row
        objects, counting = self._known(connection, sorted({oid for oid, _ in best}))
        self._wait(connection, {oid for oid, _ in best} - objects.keys())
        # A row with the key of the one that counts replaces it; if it ranks lower now, another may count.
        for row in rows:
            rank, version, candid = counting.get((row["oid"], row["classifier"]), (None, None, None))
            if (version, candid) == (row["version"], row["candid"]) and _rank_of(row) < rank:
                again.add(row["oid"])
        won = [
            row
            for key, row in best.items()
            if row["oid"] in objects and (key not in counting or _rank_of(row) >= counting[key][0])
        ]
        self._store(connection, won, objects, counting.keys())
        return again

    def _choose_again(self, connection: Connection, oids: Sequence[str]) -> None:
        """Read the classifications of objects from the lake and store those that count."""
        for part in _parts(list(oids), _ASKED):
            o = schema.objects.c
            places = _in(connection, select(o.id, o.oid, o.meanra, o.meandec), o.oid, part)
            if not places:
                continue
            ids, names, ra, dec = zip(*places, strict=True)
            pixels, ranges = lookup.near(ra, dec, healpix_order(self._lake))
            stored = lookup.read(self._lake, "probabilities", _CLASSES, names, pixels, None, ranges)
            _each(connection, delete(schema.classified), schema.classified.c.id, ids)
            _each(connection, delete(schema.probability), schema.probability.c.id, ids)
            self._compare(connection, stored.to_arrow().to_pylist())

    def _store(
        self, connection: Connection, rows: list[Row], objects: Objects, had: Collection[tuple[str, str]]
    ) -> None:
        """Store classifications that count and delete the old ones: `had` has their objects and classifiers."""
        if not rows:
            return
        order = dict(self._orders(connection))
        counted: list[Row] = []
        classes: list[Row] = []
        beaten: list[Row] = []
        for row in rows:
            id_, *repeated = objects[row["oid"]]
            classifier, version = self._number(connection, row["classifier"]), self._number(connection, row["version"])
            head = {"id": id_, "classifier": classifier, "version": version}
            if (row["oid"], row["classifier"]) in had:
                beaten.append({"_id": id_, "_classifier": classifier})
            counted.append(head | {name: row[name] for name in ("candid", "mjd", "ndet_used")})
            for ranking, (name, value) in enumerate(_ranked(row, order.get(row["classifier"], {})), 1):
                first = repeated if ranking == 1 else [None] * 3
                classes.append(
                    head
                    | {"class": self._number(connection, name), "ranking": ranking, "probability": value}
                    | dict(zip(("ndet", "firstmjd", "lastmjd"), first, strict=True))
                )
        if beaten:
            for table in (schema.classified, schema.probability):
                old = table.c.id == bindparam("_id"), table.c.classifier == bindparam("_classifier")
                connection.execute(delete(table).where(*old), beaten)
        self._place.add(connection, schema.classified, counted)
        self._place.add(connection, schema.probability, classes)

    def _orders(self, connection: Connection) -> Iterator[tuple[str, dict[str, int]]]:
        t = schema.taxonomy.c
        for classifier, classes in connection.execute(select(t.classifier, t.classes).order_by(t.version)):
            yield classifier, {name: place for place, name in enumerate(json.loads(classes))}

    def _number(self, connection: Connection, word: str) -> int:
        if not self._numbers:
            known = connection.execute(select(schema.words.c.word, schema.words.c.id))
            self._numbers = dict(known.all())
        if word not in self._numbers:
            made = connection.execute(insert(schema.words).values(word=word).returning(schema.words.c.id))
            self._numbers[word] = made.scalar_one()
        return self._numbers[word]


def follow(
    lake: str,
    url: str,
    poll_s: float,
    stop: threading.Event,
    progress: Callable[[Progress], None] = lambda done: None,
) -> None:
    """Keep the index up to date until `stop`; retry where lake or database does not answer.

    Raises IndexFault at once where another follower has the index.
    """
    place = store(url)
    wait = poll_s

    def failed(error: Exception) -> None:
        nonlocal wait
        wait = min(2 * wait + 0.5, _LONGEST_WAIT_S)
        log.error("the index stands still, next look in %.0f s: %s", wait, error)

    while not stop.is_set():
        try:
            with place.only_follower(), closing(Follower(lake, url)) as follower:
                while not stop.is_set():
                    try:
                        done = follower.step()
                        wait = poll_s
                        progress(done)
                    except (AlerceError, OSError) as error:
                        failed(error)
                    stop.wait(wait)
        except (DBAPIError, Unreachable) as error:  # The right to write may be lost: request it again.
            failed(place.fault(error) if isinstance(error, DBAPIError) else error)
            stop.wait(wait)


def build(lake: str, url: str) -> None:
    """Build the index from nothing. Raises IndexFault where a follower has it, LakeError where there is no lake."""
    place = store(url)
    with place.only_follower(), closing(Follower(lake, url)) as follower:
        try:
            follower.build()
        except DBAPIError as error:
            raise place.fault(error) from error


def _groups(changes: Changes) -> Iterator[list[File]]:
    """The live files in groups of up to _GROUP_BYTES; those of a pixel follow each other."""
    group: list[File] = []
    size = 0
    for _, add in sorted(changes.live.items()):
        if group and size + add.size > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(add)
        size += add.size
    if group:
        yield group


def _create_indices(connection: Connection, table: Table) -> None:
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        connection.execute(CreateIndex(index, if_not_exists=True))


def _frame(tables: list[pa.Table], columns: Sequence[str]) -> pl.DataFrame:
    schema_ = pa.schema([LAKE_TABLES["objects"].arrow.field(name).with_nullable(True) for name in columns])
    return pl.DataFrame(pa.concat_tables([schema_.empty_table(), *(t.cast(schema_) for t in tables)]))


def _keys(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in _KEY), strict=True)


def _parts(items: list[T], size: int) -> Iterator[list[T]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def _in(connection: Connection, query: Select[Any], column: Any, values: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Rows of a query for given values of a column."""
    parts = _parts(list(values), _ASKED)
    return [tuple(row) for part in parts for row in connection.execute(query.where(column.in_(part)))]


def _each(connection: Connection, change: Delete, column: Any, values: Iterable[Any]) -> None:
    for part in _parts(list(values), _ASKED):
        connection.execute(change.where(column.in_(part)))


def _ranked(row: Row, order: dict[str, int]) -> list[tuple[str, float]]:
    """Classes by rank: the row's class first, then by probability; equal ones in the order of the taxonomy."""
    values = [(name, value) for name, value in row["probabilities"] or [] if value is not None]
    return sorted(values, key=lambda v: (v[0] != row["class"], -v[1], order.get(v[0], len(order)), v[0]))


def _rank(classifier: str, version: str, candid: int, mjd: float, used: int) -> tuple[Any, ...]:
    """Key by which the largest classification counts, as in `lake.Lake.classes`."""
    order = version_order(version)
    return (order, -candid) if classifier == STAMP else (mjd, order, used, candid)


def _rank_of(row: Row) -> tuple[Any, ...]:
    return _rank(row["classifier"], row["version"], row["candid"], row["mjd"], row["ndet_used"])
