"""Queries of the index: objects by id, class, counts, dates and position; probabilities; classifiers.

Lists select ids first, in order, and then the values of one page. Statements are made of fixed parts; values from users
are bound parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, local
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sqlalchemy import Connection, Select, and_, case, func, or_, select
from sqlalchemy.exc import DBAPIError

from alerce_spark import sky
from alerce_spark.classifiers.taxonomy import LIGHTCURVE
from alerce_spark.crossmatch.match import within
from alerce_spark.errors import InputError
from alerce_spark.serving import schema
from alerce_spark.serving.databases import store
from alerce_spark.serving.engine import IndexFault, Store

#: Largest total that is counted.
COUNTED = 50_001
#: The largest cone [arcsec].
MAX_RADIUS = 36_000.0
#: Ids in one statement; SQLite takes up to 32,766 values.
_ASKED = 10_000

_o, _p, _w = schema.objects.c, schema.probability.c, schema.words.c

Item = dict[str, Any]
Range = tuple[float | None, float | None]
#: Columns that lists can be ordered by: those of the object, and those of its class.
OBJECT_ORDERS = tuple(name for name in schema.OBJECT_COLUMNS if name not in ("healpix29", "survey"))
CLASS_ORDERS = ("class_name", "classifier_name", "classifier_version", "probability", "ranking")


class QueryTooLong(InputError):
    """A query was stopped because it took too long; a narrower one may succeed."""


class Key(NamedTuple):
    """A row of a list: an object, and the class to show (None: that of its light curve, if any)."""

    id: int
    classifier: int | None = None
    class_: int | None = None


class Cone(NamedTuple):
    """A disc: centre [deg], radius [arcsec]."""

    ra: float
    dec: float
    radius: float


@dataclass(frozen=True)
class Filter:
    """Conditions for the objects of a list. Ranges are inclusive, None leaves an end open.

    `oids`: any of them; `pattern`: an id with `*` for any letters. With one of `classifier`, `version`, `class_name`,
    `ranking`, `probability` (at least) a row shows the class that meets them: where an object has several,
    that of the light curve, then the best. Without these, every object has one row, with its light-curve class if any.
    """

    oids: tuple[str, ...] = ()
    pattern: str | None = None
    classifier: str | None = None
    version: str | None = None
    class_name: str | None = None
    ranking: int | None = None
    probability: float | None = None
    ndet: Range = (None, None)
    firstmjd: Range = (None, None)
    lastmjd: Range = (None, None)
    cone: Cone | None = None

    @property
    def is_of_classes(self) -> bool:
        """Whether objects are chosen by a class."""
        asked = (self.classifier, self.version, self.class_name, self.ranking, self.probability)
        return any(value is not None for value in asked)


class Classifier(NamedTuple):
    """A version of a classifier whose classes count for at least one object."""

    name: str
    version: str
    classes: list[str]


class Index:
    """The index, read by many threads. Raises IndexFault where it is missing."""

    def __init__(self, url: str, *, connections: int = 40, limit_s: float = 10.0) -> None:
        self._store, self._limit_s = store(url), limit_s
        self._lock = Lock()
        self._local = local()
        self._engine = self._store.reader(connections, limit_s)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def one_state(self) -> Iterator[None]:
        """Let all queries of this thread in the context see one state of the index; this is also cheaper."""
        with self._connect():
            yield

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        """A connection that sees one state of the index. Raises QueryTooLong and IndexFault."""
        current: Connection | None = getattr(self._local, "connection", None)
        if current is not None:
            yield current
            return
        with self._new_connection() as connection:
            # Values that change seldom are kept with the connection until the index is written.
            state = self._store.state(connection)
            if _kept(connection).get("state") != state:
                connection.info["kept"] = {"state": state}
            self._local.connection = connection
            try:
                yield connection
            finally:
                self._local.connection = None

    @contextmanager
    def _new_connection(self) -> Iterator[Connection]:
        with self._lock:
            self._store.refresh(self._engine)
        try:
            with self._engine.connect() as connection, self._store.limited(connection, self._limit_s):
                yield connection
        except DBAPIError as error:
            if self._store.is_too_long(error):
                raise QueryTooLong(
                    f"the query took more than {self._limit_s:g} s and was ended; ask for less, or with a filter "
                    "on class, ndet, firstmjd, lastmjd or place"
                ) from None
            raise self._store.fault(error) from error

    # One object.

    def object(self, oid: str) -> Item | None:
        """Columns of an object; None for an unknown one."""
        with self._connect() as connection:
            row = connection.execute(select(*_COLUMNS).where(_o.oid == oid)).mappings().first()
        return None if row is None else dict(row)

    def place(self, oid: str) -> tuple[float, float] | None:
        """Position [deg] of an object; None for an unknown one."""
        with self._connect() as connection:
            row = connection.execute(select(_o.meanra, _o.meandec).where(_o.oid == oid)).first()
        return None if row is None else (row[0], row[1])

    def places(self, oids: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Positions [deg] of those objects that are known."""
        with self._connect() as connection:
            rows = _mappings(connection, select(_o.oid, _o.meanra, _o.meandec), _o.oid, oids)
            return {row["oid"]: (row["meanra"], row["meandec"]) for row in rows}

    def probabilities(self, oid: str) -> list[Item] | None:
        """Classes of an object by each classifier, best first; None for an unknown object."""
        with self._connect() as connection:
            id_ = connection.execute(select(_o.id).where(_o.oid == oid)).scalar()
            if id_ is None:
                return None
            word = _words(connection)
            columns = (_p.classifier, _p.version, _p["class"], _p.probability, _p.ranking)
            rows = connection.execute(select(*columns).where(_p.id == id_)).all()
        names = ("classifier_name", "classifier_version", "class_name")
        found = [dict(zip(names, map(word.get, row[:3]), strict=True)) | _ranked(row) for row in rows]
        return sorted(found, key=lambda item: (item["classifier_name"], item["ranking"]))

    # Lists.

    def keys(
        self, asked: Filter, *, order: str | None = None, descending: bool = False, limit: int, offset: int = 0
    ) -> list[Key]:
        """Rows of a list, in order; equal values always in the same order.

        Without `order` they are in the order of `oids`; else by probability, best first, if the filter names a class;
        else by the first range of the filter, or in the order of insertion. Rows without a value come last.
        """
        with self._connect() as connection:
            query = _query(self._store, connection, asked, order, descending)
            if query is None:
                return []
            if asked.oids and order is None:
                place = {oid: k for k, oid in reversed(list(enumerate(asked.oids)))}
                rows = connection.execute(query.add_columns(_o.oid)).all()
                ordered = sorted(rows, key=lambda row: place[row[-1]])
                return [Key(*row[:-1]) for row in ordered[offset : offset + limit]]
            return [Key(*row) for row in connection.execute(query.limit(limit).offset(offset))]

    def count(self, asked: Filter) -> int:
        """Number of rows of a list, counted up to COUNTED."""
        with self._connect() as connection:
            query = _query(self._store, connection, asked, None, False)
            if query is None:
                return 0
            inner = query.order_by(None).limit(COUNTED).subquery()
            return int(connection.execute(select(func.count()).select_from(inner)).scalar_one())

    def items(self, keys: Sequence[Key]) -> list[Item]:
        """Values of rows of a list: `id` and columns of the object; `class`, `classifier`, `version`, `probability`,
        `ranking` of its class. An object that was deleted meanwhile is left out.
        """
        with self._connect() as connection:
            word = _words(connection)
            lightcurve = {name: number for number, name in word.items()}.get(LIGHTCURVE)
            ids = [key.id for key in keys]
            objects = {row["id"]: row for row in _mappings(connection, select(_o.id, *_COLUMNS), _o.id, ids)}
            shown = [Key(key.id, lightcurve) if key.classifier is None else key for key in keys]
            classes = _classes_of(connection, shown)
        found = []
        for key in shown:
            if key.id not in objects:
                continue
            values = dict(objects[key.id])
            class_, version, probability, ranking = classes.get(key, (None, None, None, None))
            values |= {"class": word.get(class_), "version": word.get(version)}
            values |= {"classifier": None if class_ is None else word.get(key.classifier)}
            found.append(values | {"probability": probability, "ranking": ranking})
        return found

    def near(self, ra: ArrayLike, dec: ArrayLike, radius: float, every: bool = False) -> list[tuple[int, Key, float]]:
        """Objects within `radius` arcsec of each of many positions [deg]: row of the position, object, separation.

        The nearest of each position, or with `every` all, the nearest first. Positions off the sphere match no object.
        """
        ra, dec = (np.atleast_1d(np.asarray(x, np.float64)) for x in (ra, dec))
        placed = np.flatnonzero(np.isfinite(ra) & (np.abs(dec) <= 90))
        placed = placed[np.argsort(sky.healpix(ra[placed], dec[placed]), kind="stable")]
        found: list[tuple[int, Key, float]] = []
        for begin in range(0, placed.size, _ASKED):
            rows = placed[begin : begin + _ASKED]
            with self._connect() as connection:
                ids, *there = _around(self._store, connection, ra[rows], dec[rows], radius)
            pairs = within(ra[rows], dec[rows], there[0], there[1], radius)
            for row, source, separation in zip(pairs.row, pairs.source, pairs.separation, strict=True):
                if every or not found or found[-1][0] != rows[row]:
                    found.append((int(rows[row]), Key(int(ids[source])), float(separation)))
        return sorted(found, key=lambda pair: (pair[0], pair[2]))

    # The whole.

    def limits(self) -> Item:
        """Smallest and largest `ndet` and `firstmjd`; None without any object."""
        ends = (
            select(f(column)).scalar_subquery().label(f"{word}_{column.name}")
            for column in (_o.ndet, _o.firstmjd)
            for word, f in (("min", func.min), ("max", func.max))
        )
        with self._connect() as connection:
            return dict(connection.execute(select(*ends)).mappings().one())

    def pixels(self, order: int) -> list[int]:
        """HEALPix pixels of `order` that have an object, sorted."""
        pixel = _o.healpix29.op(">>")(2 * (sky.INDEX_ORDER - order))
        with self._connect() as connection:
            return list(connection.execute(select(pixel).distinct().order_by(pixel)).scalars())

    def classifiers(self) -> list[Classifier]:
        """The classifiers by name and version of their model; the last of a name is the newest."""
        c, t = schema.classified.c, schema.taxonomy.c
        with self._connect() as connection:
            classes = dict(connection.execute(select(t.classifier, t.classes).order_by(t.version)).all())
            word = _words(connection)
            number = {name: id_ for id_, name in word.items()}
            found = []
            for name, listed in classes.items():
                versions = _distinct(connection, c.version, c.classifier == number.get(name, -1))
                found += [Classifier(name, word[version], json.loads(listed)) for version in versions]
        # Versions are dates, except those of the models that ship with the package, which come first.
        return sorted(found, key=lambda c: (c.name, c.version[:1].isdigit(), c.version))

    def versions(self) -> dict[str, int]:
        """Versions of the lake's tables that the index shows."""
        with self._connect() as connection:
            a = schema.applied.c
            return dict(connection.execute(select(a.table, a.version)).all())

    def about(self) -> dict[str, str]:
        """Facts of the index: schema, lake, healpix_order, built [s since 1970]. Raises IndexFault for an old one."""
        with self._connect() as connection:
            facts = _facts(connection)
        if facts.get("schema") != schema.fingerprint():
            raise IndexFault(
                f"the index {self._store.name} is of another version; build it with: alerce-spark index build"
            )
        return facts

    @property
    def healpix_order(self) -> int:
        """HEALPix order of the lake's partitions."""
        return int(self.about()["healpix_order"])


_COLUMNS = [_o[name] for name in schema.OBJECT_COLUMNS]


def _ranked(row: Any) -> Item:
    return {"probability": row[3], "ranking": row[4]}


def _kept(connection: Connection) -> dict[str, Any]:
    """Values that a connection has read and that hold until the index is written."""
    kept: dict[str, Any] = connection.info.setdefault("kept", {})
    return kept


def _words(connection: Connection) -> dict[int | None, str]:
    kept = _kept(connection)
    if "words" not in kept:
        kept["words"] = dict(connection.execute(select(_w.id, _w.word)).all())
    words: dict[int | None, str] = kept["words"]
    return words


def _facts(connection: Connection) -> dict[str, str]:
    kept = _kept(connection)
    if "facts" not in kept:
        a = schema.about.c
        kept["facts"] = dict(connection.execute(select(a.name, a.value)).all())
    facts: dict[str, str] = kept["facts"]
    return facts


def _distinct(connection: Connection, column: Any, condition: Any) -> list[Any]:
    """Distinct values of an indexed column, each by one step in the index."""
    found: list[Any] = []
    query = select(func.min(column)).where(condition)
    value = connection.execute(query).scalar()
    while value is not None:
        found.append(value)
        value = connection.execute(query.where(column > value)).scalar()
    return found


def _mappings(connection: Connection, query: Select[Any], column: Any, values: Sequence[Any]) -> Iterator[Any]:
    for begin in range(0, len(values), _ASKED):
        yield from connection.execute(query.where(column.in_(values[begin : begin + _ASKED]))).mappings()


def _classes_of(connection: Connection, keys: Sequence[Key]) -> dict[Key, tuple[int, int, float, int]]:
    """Class, version, probability, ranking of keys; for a key without a class, the classifier's best."""
    found: dict[Key, tuple[int, int, float, int]] = {}
    query = select(_p.id, _p.classifier, _p["class"], _p.version, _p.ranking, _p.probability)
    by_classifier: dict[int | None, list[Key]] = {}
    for key in keys:
        by_classifier.setdefault(key.classifier, []).append(key)
    for classifier, mine in by_classifier.items():
        if classifier is None:
            continue
        # Most lists show one class or the best of each object; only these rows are read.
        chosen = query.where(_p.classifier == classifier)
        if all(key.class_ is None for key in mine):
            chosen = chosen.where(_p.ranking == 1)
        elif len(classes := {key.class_ for key in mine}) <= 20 and None not in classes:
            chosen = chosen.where(_p["class"].in_(sorted(c for c in classes if c is not None)))
        for row in _mappings(connection, chosen, _p.id, [key.id for key in mine]):
            value = row["class"], row["version"], row["probability"], row["ranking"]
            found[Key(row["id"], classifier, row["class"])] = value
            if row["ranking"] == 1:
                found[Key(row["id"], classifier)] = value
    return found


def _query(
    store: Store, connection: Connection, asked: Filter, order: str | None, descending: bool
) -> Select[Any] | None:
    """Statement for the ids of a filter, in order; None where no object can match."""
    conditions: list[Any] = []
    if asked.cone is not None:
        inside = _inside(connection, asked.cone)
        if not inside:
            return None
        conditions.append(lambda column: column.in_(store.numbers(inside)))
    if asked.is_of_classes:
        return _of_classes(connection, asked, conditions, order, descending)
    return _of_objects(connection, asked, conditions, order, descending)


def _of_objects(
    connection: Connection, asked: Filter, places: list[Any], order: str | None, descending: bool
) -> Select[Any]:
    query = select(_o.id).where(*(place(_o.id) for place in places), *_object_conditions(asked, _o))
    if order is None and not (places or asked.oids or asked.pattern):
        # The order is free, so the index that chooses the rows also orders them.
        order = next((name for name in ("firstmjd", "lastmjd", "ndet") if getattr(asked, name) != (None, None)), None)
    if order in CLASS_ORDERS:
        number = {word: id_ for id_, word in _words(connection).items()}
        first = and_(_p.id == _o.id, _p.ranking == 1, _p.classifier == number.get(LIGHTCURVE, -1))
        query = query.select_from(schema.objects.outerjoin(schema.probability, first))
    return query.order_by(*_ordered(order, descending, _o, _o.id, is_outer=True))


def _of_classes(
    connection: Connection, asked: Filter, places: list[Any], order: str | None, descending: bool
) -> Select[Any] | None:
    number = {word: id_ for id_, word in _words(connection).items()}
    conditions: list[Any] = [place(_p.id) for place in places]
    classifier = asked.classifier or _only_classifier(connection, asked.class_name)
    for column, value in (
        (_p.classifier, classifier),
        (_p.version, asked.version),
        (_p["class"], asked.class_name),
    ):
        if value is not None:
            if value not in number:
                return None
            conditions.append(column == number[value])
    is_named = any(v is not None for v in (asked.classifier, asked.version, asked.class_name))
    ranking = asked.ranking if asked.ranking is not None else (1 if is_named else None)
    if ranking is not None:
        conditions.append(_p.ranking == ranking)
    if asked.probability is not None:
        conditions.append(_p.probability >= asked.probability)
    # Rows of ranking 1 repeat the columns that objects are chosen by; others need a join with the object.
    repeated = ranking == 1 and not asked.oids and asked.pattern is None
    source: Any = schema.probability
    if not repeated or (order in OBJECT_ORDERS and order not in _REPEATED):
        source = schema.probability.join(schema.objects, _o.id == _p.id)
    conditions += _object_conditions(asked, _p if repeated else _o)
    base = select(_p.id, _p.classifier, _p["class"]).select_from(source).where(*conditions)
    if classifier is None:
        base = _one_an_object(connection, base, conditions, source, number)
    return base.order_by(*_ordered(order or "probability", descending or order is None, _p if repeated else _o, _p.id))


_REPEATED = ("ndet", "firstmjd", "lastmjd")


def _only_classifier(connection: Connection, class_name: str | None) -> str | None:
    """The only classifier that has a class, if there is one."""
    if class_name is None:
        return None
    kept = _kept(connection)
    if "classes" not in kept:
        t = schema.taxonomy.c
        rows = connection.execute(select(t.classifier, t.classes)).all()
        kept["classes"] = [(classifier, json.loads(classes)) for classifier, classes in rows]
    having = {classifier for classifier, classes in kept["classes"] if class_name in classes}
    return having.pop() if len(having) == 1 else None


def _one_an_object(
    connection: Connection, base: Select[Any], conditions: list[Any], source: Any, number: dict[str, int | None]
) -> Select[Any]:
    """Keep one row per object: that of the light-curve classifier, then that of the best rank."""
    first = case((_p.classifier == number.get(LIGHTCURVE, -1), 0), else_=1)
    place = func.row_number().over(partition_by=_p.id, order_by=(first, _p.ranking, _p.classifier)).label("place")
    ranked = select(_p.id, _p.classifier, _p["class"], place).select_from(source).where(*conditions).subquery()
    chosen = and_(
        ranked.c.id == _p.id,
        ranked.c.classifier == _p.classifier,
        ranked.c["class"] == _p["class"],
        ranked.c.place == 1,
    )
    return select(_p.id, _p.classifier, _p["class"]).select_from(source.join(ranked, chosen))


def _object_conditions(asked: Filter, table: Any) -> list[Any]:
    conditions: list[Any] = []
    for name in _REPEATED:
        least, most = getattr(asked, name)
        if least is not None:
            conditions.append(table[name] >= least)
        if most is not None:
            conditions.append(table[name] <= most)
    if asked.oids:
        conditions.append(_o.oid.in_(asked.oids))
    if asked.pattern is not None:
        conditions += _like(asked.pattern)
    return conditions


def _like(pattern: str) -> list[Any]:
    """Ids that match a pattern; the text before its first `*` chooses a range of the ids."""
    text = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")
    conditions: list[Any] = [_o.oid.like(text, escape="\\")]
    if prefix := pattern.partition("*")[0]:
        conditions += [_o.oid >= prefix, _o.oid < prefix[:-1] + chr(ord(prefix[-1]) + 1)]
    return conditions


def _ordered(order: str | None, descending: bool, table: Any, id_: Any, is_outer: bool = False) -> list[Any]:
    if order is None:
        return [id_]
    also: list[Any] = []
    columns: dict[str, Any] = {"probability": _p.probability, "ranking": _p.ranking}
    for name, code in (("class_name", "class"), ("classifier_name", "classifier"), ("classifier_version", "version")):
        columns[name] = select(_w.word).where(_w.id == _p[code]).scalar_subquery()
    if order in _REPEATED:
        column = table[order]
    elif order in columns:
        column = columns[order]
    else:
        column = _o[order]
    is_nullable = is_outer if order in columns else _o[order].nullable
    ordered = column.desc() if descending else column.asc()
    # Equal values are in the order of the indices, so that a page needs no sorting.
    if order in _REPEATED and table is _o:
        second = _o.firstmjd if order == "ndet" else _o.ndet
        also = [second.desc() if descending else second.asc()]
    backwards = descending if also else order == "probability" and not descending
    return [ordered.nulls_last() if is_nullable else ordered, *also, id_.desc() if backwards else id_.asc()]


def _around(store: Store, connection: Connection, ra: Any, dec: Any, radius: float) -> tuple[Any, Any, Any]:
    """Ids and positions of all objects within `radius` arcsec of the positions, and some more."""
    order = int(np.clip(np.floor(np.log2(58.6 * 3600 / (4 * max(radius, 1.0)))), 0, 16))
    cells = sky.near_pixels(ra, dec, order, max(radius, 0.01))
    ends = np.flatnonzero(np.diff(cells) > 1)
    begin, _ = sky.index_range(cells[np.r_[0, ends + 1]], order)
    _, end = sky.index_range(cells[np.r_[ends, cells.size - 1]], order)
    ranges = store.ranges(begin.tolist(), (end - 1).tolist())
    inside = _o.healpix29.between(ranges.c.first, ranges.c.last)
    query = select(_o.id, _o.meanra, _o.meandec).select_from(ranges.join(schema.objects, inside))
    rows = np.array(connection.execute(query).all(), np.float64).reshape(-1, 3)
    return rows[:, 0].astype(np.int64), np.ascontiguousarray(rows[:, 1]), np.ascontiguousarray(rows[:, 2])


def _inside(connection: Connection, cone: Cone) -> list[int]:
    """Ids of the objects in a cone."""
    order = int(np.clip(np.floor(np.log2(58.6 * 3600 / max(cone.radius, 0.1))), 0, 16))
    # The index pixels that touch the cone are read, so also objects a little outside it.
    pixels = sky.cone_pixels(cone.ra % 360, cone.dec, cone.radius + 0.01, order)
    ends = np.flatnonzero(np.diff(pixels) > 1)
    begin, _ = sky.index_range(pixels[np.r_[0, ends + 1]], order)
    _, end = sky.index_range(pixels[np.r_[ends, pixels.size - 1]], order)
    ranges = [and_(_o.healpix29 >= b, _o.healpix29 < e) for b, e in zip(begin.tolist(), end.tolist(), strict=True)]
    query = select(_o.id, _o.meanra, _o.meandec).where(or_(*ranges))
    rows = connection.execute(query).all()
    if not rows:
        return []
    ids, ra, dec = zip(*rows, strict=True)
    inside = sky.separation(ra, dec, cone.ra, cone.dec) <= cone.radius
    return [id_ for id_, is_in in zip(ids, inside.tolist(), strict=True) if is_in]
