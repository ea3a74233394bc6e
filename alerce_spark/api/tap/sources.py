"""Resolve the tables of a query, and find the query's conditions on their rows.

A condition that every row of the result must meet chooses files: a cone as ranges of `healpix29`, a comparison with a
value as an interval. A join of positions with positions of another table uses zones of declination, so that the engine
can join by equality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlglot import exp

from alerce_spark import sky
from alerce_spark.api.tap import geometry
from alerce_spark.api.tap.geometry import Point, Unsupported
from alerce_spark.api.tap.tables import TABLES, Column, Table
from alerce_spark.serving.scan import Interval

UPLOADS = "tap_upload"
#: Names that users cannot use: of views, of queries in WITH, of the column with the zone.
_VIEW, _WITH, _ZONE = "t", "q_", "__zone"
#: Most ranges for one cone in the engine's SQL; more are used to choose files.
_MOST_RANGES = 32
#: Height of a zone where radii differ between rows, and the smallest height [deg].
_ZONE_HEIGHT, _LEAST_HEIGHT = 1 / 60, 1 / 3600
#: Added to a radius, so that rounding loses no row [deg].
_MARGIN = 1e-9
#: A little more is read than a cone: an index pixel has a size [arcsec].
_PIXEL = 0.01

Outputs = list[tuple[str, Column | None]]


@dataclass(frozen=True)
class Upload:
    """A table uploaded with a query."""

    name: str
    columns: tuple[Column, ...]
    rows: pa.Table


@dataclass
class Reference:
    """One use of a table in a query: its view, and the query's conditions on its rows."""

    view: str
    table: Table | None
    upload: Upload | None
    bounds: list[tuple[str, Sequence[Interval]]] = field(default_factory=list)
    admitted: dict[str, frozenset[str]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its columns."""
        return self.table.columns if self.table is not None else self.upload.columns if self.upload else ()


def resolve(tree: exp.Expr, uploads: Mapping[str, Upload]) -> list[Reference]:
    """Replace tables by views, and collect the conditions on their rows. Raises Unsupported for an unknown table."""
    references = list(_name_views(tree, uploads))
    for select in list(tree.find_all(exp.Select)):
        _Scope(select).narrow()
    return references


def described(tree: exp.Expr) -> list[Column | None]:
    """Metadata of the columns of a result; empty where the columns cannot be determined."""
    found = _outputs(tree)
    return [] if found is None else [column for _, column in found]


def _name_views(tree: exp.Expr, uploads: Mapping[str, Upload]) -> Iterator[Reference]:
    queries = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    for node in list(tree.find_all(exp.Table)):
        name = f"{node.db}.{node.name}".lower() if node.db else node.name.lower()
        if node.args.get("alias") is None:
            node.set("alias", exp.TableAlias(this=node.this.copy()))
        if not node.db and name in queries:
            node.set("this", exp.to_identifier(_WITH + name, quoted=True))
            continue
        schema, _, rest = name.partition(".")
        upload = uploads.get(rest) if schema == UPLOADS else None
        if name not in TABLES and upload is None:
            raise Unsupported(_unknown(name, uploads), node)
        number = len([n for n in tree.find_all(exp.Table) if "reference" in n.meta])
        made = Reference(f"{_VIEW}{number}", TABLES.get(name), upload)
        node.meta["reference"] = made
        node.set("this", exp.to_identifier(made.view, quoted=True))
        node.set("db", None)
        yield made
    for cte in tree.find_all(exp.CTE):
        cte.args["alias"].set("this", exp.to_identifier(_WITH + cte.alias.lower(), quoted=True))
    for column in tree.find_all(exp.Column):
        column.set("db", None)


def _unknown(name: str, uploads: Mapping[str, Upload]) -> str:
    if name.startswith(f"{UPLOADS}."):
        return f"no table {name} was uploaded; there are {', '.join(uploads) or 'none'}"
    near = [known for known in TABLES if known.partition(".")[2] == name]
    return f"there is no table {name}" + (f"; did you mean {near[0]}?" if near else "; TAP_SCHEMA.tables lists them")


class _Scope:
    """The tables of one SELECT, by their aliases."""

    def __init__(self, select: exp.Select) -> None:
        self._select = select
        joins = select.args.get("joins") or []
        from_ = select.args.get("from_")
        self._joins = joins
        self._sources = {s.alias_or_name.lower(): s for s in ([from_.this] if from_ else []) + [j.this for j in joins]}
        self._columns = {name: _columns(source) for name, source in self._sources.items()}
        self._zoned: set[str] = set()

    def narrow(self) -> None:
        """Apply to the tables the conditions that every row must meet."""
        for condition in list(self._conditions()):
            disc = _disc(condition)
            if disc is not None:
                self._cone(condition, *disc)
            else:
                self._value(condition)

    def _conditions(self) -> Iterator[exp.Expr]:
        where = self._select.args.get("where")
        if where is not None:
            yield from _conjuncts(where.this)
        for join in self._joins:
            if join.args.get("on") is not None and not join.args.get("side"):
                yield from _conjuncts(join.args["on"])

    def _owner(self, column: exp.Expr) -> str | None:
        """The table of this SELECT that has a column; None where that is not certain."""
        if not isinstance(column, exp.Column) or not isinstance(column.this, exp.Identifier):
            return None
        if column.table:
            return column.table.lower() if column.table.lower() in self._sources else None
        if any(columns is None for columns in self._columns.values()):
            return None
        having = [n for n, columns in self._columns.items() if columns and column.name.lower() in columns]
        return having[0] if len(having) == 1 else None

    def _owners(self, *nodes: exp.Expr) -> set[str | None]:
        return {self._owner(column) for node in nodes for column in node.find_all(exp.Column)}

    def _reference(self, owner: str | None) -> Reference | None:
        found = self._sources[owner].meta.get("reference") if owner else None
        return found if isinstance(found, Reference) else None

    # Cones.

    def _cone(self, condition: exp.Expr, a: Point, b: Point, radius: exp.Expr) -> None:
        reach = geometry.constant(radius)
        for at, centre in ((a, b.constant), (b, a.constant)):
            owner = self._placed(at)
            if centre is not None and reach is not None and owner is not None:
                ranges = _cone_ranges(*centre, reach)
                if ranges is not None:
                    self._within(owner, ranges)
                    condition.replace(exp.paren(exp.and_(_or_of(owner, ranges), exp.paren(condition.copy()))))
                return
        if a.constant is None and b.constant is None:
            self._join(condition, a, b, radius)

    def _placed(self, at: Point) -> str | None:
        """The table whose position, which `healpix29` is made from, a point is."""
        owner = self._owner(at.ra)
        reference = self._reference(owner)
        if reference is None or reference.table is None or self._owner(at.dec) != owner:
            return None
        return owner if (at.ra.name.lower(), at.dec.name.lower()) == reference.table.position else None

    def _within(self, owner: str, ranges: NDArray[np.int64]) -> None:
        reference = self._reference(owner)
        if reference is not None:
            reference.bounds.append(("healpix29", [(first, end - 1) for first, end in ranges.tolist()]))

    def _join(self, condition: exp.Expr, a: Point, b: Point, radius: exp.Expr) -> None:
        """Join positions of two tables: rows of one are repeated for each zone that their circle touches."""
        for circle, other in self._sides(a, b):
            (owner,), others = self._owners(circle.ra, circle.dec), self._owners(other.ra, other.dec)
            if owner is None or owner in self._zoned or self._owners(radius) - {owner} or len(others) != 1:
                continue
            if None in others or owner in others:
                continue
            reach = geometry.constant(radius)
            height = geometry.number(_ZONE_HEIGHT if reach is None else max(reach, _LEAST_HEIGHT))
            self._zone(owner, circle, radius, height)
            zone = exp.EQ(
                this=exp.column(_ZONE, table=owner, quoted=True),
                expression=geometry.call(geometry.ZONE, other.dec, height),
            )
            self._near_upload(owner, circle, other, reach)
            condition.replace(exp.paren(exp.and_(zone, exp.paren(condition.copy()))))
            return

    def _sides(self, a: Point, b: Point) -> list[tuple[Point, Point]]:
        """Both ways to choose the centre of two points; users' tables come first, since they are small."""
        ways = [(p, q) for p, q in ((b, a), (a, b)) if len(self._owners(p.ra, p.dec)) == 1]

        def is_upload(way: tuple[Point, Point]) -> bool:
            (owner,) = self._owners(way[0].ra, way[0].dec)
            reference = self._reference(owner)
            return reference is not None and reference.upload is not None

        return sorted(ways, key=is_upload, reverse=True)

    def _zone(self, owner: str, circle: Point, radius: exp.Expr, height: exp.Expr) -> None:
        """Repeat the rows of a table with the number of each zone, in a hidden column."""
        self._zoned.add(owner)
        source = self._sources[owner]
        dec, reach = circle.dec.copy(), exp.Add(this=exp.paren(radius.copy()), expression=geometry.number(_MARGIN))
        low = geometry.call(geometry.ZONE, exp.Sub(this=exp.paren(dec), expression=exp.paren(reach)), height)
        high = geometry.call(geometry.ZONE, exp.Add(this=exp.paren(dec), expression=exp.paren(reach)), height)
        after = exp.Add(this=high, expression=exp.Literal.number(1))
        zones = exp.Anonymous(this="unnest", expressions=[exp.Anonymous(this="range", expressions=[low, after])])
        inner = exp.Select(expressions=[exp.Star(), exp.alias_(zones, _ZONE, quoted=True)])
        inner.set("from_", exp.From(this=source.copy()))
        alias = exp.TableAlias(this=exp.to_identifier(source.alias_or_name, quoted=True))
        made = exp.Subquery(this=inner, alias=alias)
        made.meta["shown"] = source
        source.replace(made)
        self._sources[owner] = made
        made.meta["reference"] = source.meta.get("reference")
        for star in [e for e in self._select.expressions if e.is_star]:
            _hide_zone(star, owner)

    def _near_upload(self, owner: str, circle: Point, other: Point, reach: float | None) -> None:
        """Use the known positions of a user's table: files far from all of them are not read."""
        reference, placed = self._reference(owner), self._placed(other)
        plain = isinstance(circle.ra, exp.Column) and isinstance(circle.dec, exp.Column)
        if reference is None or reference.upload is None or placed is None or reach is None or not plain:
            return
        ranges = _near_ranges(reference.upload.rows, circle.ra.name, circle.dec.name, reach)
        if ranges is not None:
            self._within(placed, ranges)

    # Values.

    def _value(self, condition: exp.Expr) -> None:
        found = _comparison(condition)
        if found is None:
            return
        column, intervals = found
        reference = self._reference(self._owner(column))
        known = None if reference is None or reference.table is None else reference.table.column(column.name)
        if reference is None or known is None or not _is_of(known, intervals):
            return
        if known.stored is not None:
            reference.bounds.append((known.stored, intervals))
        elif all(first is not None and first == last for first, last in intervals):
            values = frozenset(str(first) for first, _ in intervals)
            before = reference.admitted.get(known.name)
            reference.admitted[known.name] = values if before is None else before & values


def _conjuncts(node: exp.Expr) -> Iterator[exp.Expr]:
    """Parts of a condition that must all hold."""
    if isinstance(node, exp.And):
        yield from _conjuncts(node.this)
        yield from _conjuncts(node.expression)
    elif isinstance(node, exp.Paren):
        yield from _conjuncts(node.this)
    else:
        yield node


def _disc(condition: exp.Expr) -> tuple[Point, Point, exp.Expr] | None:
    """Two points and their largest distance [deg], if the condition is of this kind."""
    if isinstance(condition, exp.LT | exp.LTE):
        distance, radius = condition.this, condition.expression
    elif isinstance(condition, exp.GT | exp.GTE):
        distance, radius = condition.expression, condition.this
    else:
        return None
    if isinstance(distance, exp.Paren):
        distance = distance.this
    if not isinstance(distance, exp.Anonymous) or distance.name != geometry.SEPARATION:
        return None
    ra1, dec1, ra2, dec2 = distance.expressions
    return Point(ra1, dec1), Point(ra2, dec2), radius


_FLIPPED: dict[type[exp.Expr], type[exp.Expr]] = {
    exp.LT: exp.GT,
    exp.LTE: exp.GTE,
    exp.GT: exp.LT,
    exp.GTE: exp.LTE,
    exp.EQ: exp.EQ,
}


def _comparison(node: exp.Expr) -> tuple[exp.Column, list[Interval]] | None:
    """A column and the disjoint, ascending intervals that its value must lie in."""
    if isinstance(node, exp.Between) and isinstance(node.this, exp.Column):
        low, high = _literal(node.args["low"]), _literal(node.args["high"])
        return None if low is None or high is None else (node.this, [(low, high)])
    if isinstance(node, exp.In) and isinstance(node.this, exp.Column) and node.expressions:
        values = [_literal(value) for value in node.expressions]
        if None in values or len({type(value) is str for value in values}) > 1:
            return None
        return node.this, [(value, value) for value in sorted(set(values))]  # type: ignore[type-var]
    kind = type(node)
    if kind not in _FLIPPED:
        return None
    column, value = node.this, _literal(node.expression)
    if not isinstance(column, exp.Column):
        kind, column, value = _FLIPPED[kind], node.expression, _literal(node.this)
    if value is None or not isinstance(column, exp.Column):
        return None
    first = value if kind in (exp.GT, exp.GTE, exp.EQ) else None
    last = value if kind in (exp.LT, exp.LTE, exp.EQ) else None
    return column, [(first, last)]


def _literal(node: exp.Expr) -> float | int | str | None:
    if isinstance(node, exp.Literal) and node.is_string:
        return str(node.this)
    if isinstance(node, exp.Literal) and node.this.isdigit():
        return int(node.this)
    return geometry.constant(node)


def _is_of(column: Column, intervals: Sequence[Interval]) -> bool:
    """Whether values have the type of a column; others cannot be compared with its statistics."""
    is_text = column.type == "string"
    is_number = column.type in ("int", "long", "float", "double")
    values = [value for interval in intervals for value in interval if value is not None]
    return all((is_text and isinstance(v, str)) or (is_number and not isinstance(v, str)) for v in values)


# Columns.


def _columns(source: exp.Expr) -> dict[str, Column | None] | None:
    found = _shown(source)
    return None if found is None else {name.lower(): column for name, column in found}


def _shown(source: exp.Expr) -> Outputs | None:
    """Names and meanings of the columns of a table; None where they cannot be determined."""
    if "shown" in source.meta:
        return _shown(source.meta["shown"])
    reference = source.meta.get("reference")
    if reference is not None:
        return [(column.name, column) for column in reference.columns]
    if isinstance(source, exp.Subquery):
        return _outputs(source.this)
    above = source.parent
    while isinstance(source, exp.Table) and above is not None:
        with_ = above.args.get("with_")
        for cte in with_.expressions if with_ else ():
            if cte.alias == source.name and not any(n is source for n in cte.walk()):
                return _outputs(cte.this)
        above = above.parent
    return None


def _outputs(query: exp.Expr) -> Outputs | None:
    if isinstance(query, exp.Subquery):
        return _outputs(query.this)
    if isinstance(query, exp.SetOperation):
        return _outputs(query.this)
    joins = query.args.get("joins") or []
    from_ = query.args.get("from_")
    all_ = ([from_.this] if from_ else []) + [join.this for join in joins]
    found: Outputs = []
    for expression in query.expressions:
        if expression.is_star:
            if any(join.args.get("using") or join.args.get("method") for join in joins):
                return None
            table = expression.args.get("table")
            for source in all_:
                if table is None or source.alias_or_name.lower() == table.name.lower():
                    shown = _shown(source)
                    if shown is None:
                        return None
                    found += shown
            continue
        found.append((expression.alias_or_name, _meaning(expression.unalias(), all_)))
    return found


def _meaning(node: exp.Expr, all_: Sequence[exp.Expr]) -> Column | None:
    if not isinstance(node, exp.Column):
        return None
    for source in all_:
        if not node.table or source.alias_or_name.lower() == node.table.lower():
            columns = _columns(source) or {}
            if node.name.lower() in columns:
                return columns[node.name.lower()]
    return None


def _hide_zone(star: exp.Expr, owner: str) -> None:
    table = star.args.get("table")
    if table is not None and table.name.lower() != owner:
        return
    inner = star.this if isinstance(star, exp.Column) else star
    inner.set("except_", [exp.to_identifier(_ZONE, quoted=True)])


# Ranges.


def _cone_ranges(ra: float, dec: float, radius: float) -> NDArray[np.int64] | None:
    """Ranges of `healpix29` that cover a cone [deg]; None where the cone is too large to help."""
    if not 0 <= radius < 90 or not -90 <= dec <= 90:
        return None
    reach = radius * 3600 + _PIXEL
    order = int(np.clip(np.floor(np.log2(58.6 * 3600 / max(reach, 0.1))), 0, 16))
    return _merged(sky.cone_pixels(ra % 360, dec, reach, order), order, _MOST_RANGES)


def _near_ranges(rows: pa.Table, ra: str, dec: str, radius: float) -> NDArray[np.int64] | None:
    """Ranges that cover circles around many positions."""
    names = {name.lower(): name for name in rows.schema.names}
    if radius < 0 or radius > 1 or ra.lower() not in names or dec.lower() not in names:
        return None
    try:
        lon, lat = (np.asarray(rows[names[n.lower()]].cast(pa.float64()), float) for n in (ra, dec))
    except pa.ArrowInvalid:
        return None
    known = np.isfinite(lon) & (np.abs(lat) <= 90)
    if not known.any():
        return None
    reach = radius * 3600 + _PIXEL
    order = int(np.clip(np.floor(np.log2(58.6 * 3600 / (4 * max(reach, 1.0)))), 0, 10))
    return _merged(sky.near_pixels(lon[known] % 360, lat[known], order, reach), order, 100_000)


def _merged(pixels: NDArray[np.int64], order: int, most: int) -> NDArray[np.int64]:
    """Half-open ranges of sorted pixels; where there are too many, those with the smallest gaps become one."""
    gaps = np.diff(pixels)
    ends = np.flatnonzero(gaps > 1)
    if ends.size >= most:
        ends = np.sort(ends[np.argsort(gaps[ends])[::-1][: most - 1]])
    begin, _ = sky.index_range(pixels[np.r_[0, ends + 1]], order)
    _, end = sky.index_range(pixels[np.r_[ends, pixels.size - 1]], order)
    return np.stack([begin, end], axis=1)


def _or_of(owner: str, ranges: NDArray[np.int64]) -> exp.Expr:
    column = exp.column("healpix29", table=owner, quoted=True)
    return exp.paren(
        exp.or_(
            *(
                exp.Between(this=column.copy(), low=exp.Literal.number(first), high=exp.Literal.number(end - 1))
                for first, end in ranges.tolist()
            )
        )
    )
