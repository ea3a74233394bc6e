"""ADQL: parse a query, check every node of its tree against a list of allowed ones, translate it to the engine's SQL.

Tables become views that are made for the query (`Reference`). Each knows the query's conditions on its rows, so that
files without such rows are not read: ranges of `healpix29` for cones, intervals for values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import sqlglot
from sqlglot import exp, tokens
from sqlglot.dialects.dialect import Dialect, NormalizationStrategy
from sqlglot.errors import ParseError, SqlglotError

from alerce_spark.api.tap import geometry, sources
from alerce_spark.api.tap.geometry import Unsupported
from alerce_spark.api.tap.sources import Reference, Upload
from alerce_spark.api.tap.tables import Column

#: Limits of a query's characters, nodes and depth of brackets: lists of some ten thousand ids fit.
_LONGEST, _DEEPEST = 600_000, 60


class QueryError(Exception):
    """A query cannot be answered; the message gives the place in its text, if known."""

    def __init__(self, message: str, at: tuple[int, int] | None = None) -> None:
        super().__init__(message if at is None else f"{message} (line {at[0]}, column {at[1]})")
        self.at = at


class ADQL(Dialect):
    """The language; nulls come last in any order."""

    NULL_ORDERING = "nulls_are_last"
    NORMALIZATION_STRATEGY = NormalizationStrategy.CASE_INSENSITIVE

    class Tokenizer(tokens.Tokenizer):
        """Words of the language."""

        KEYWORDS: ClassVar = {**tokens.Tokenizer.KEYWORDS, "TOP": tokens.TokenType.TOP}


@dataclass(frozen=True)
class Translated:
    """SQL of the engine over views, the views, and known metadata of the result's columns."""

    sql: str
    references: list[Reference]
    columns: list[Column | None]


_BINARY = ("this", "expression")
_ONE = ("this",)
_ENDS = ("order", "limit", "offset", "with_")
#: Kinds of nodes allowed in a query, and their allowed parts.
_ALLOWED: dict[type[exp.Expr], Sequence[str]] = {
    exp.Select: (
        "expressions",
        "distinct",
        "from_",
        "joins",
        "where",
        "group",
        "having",
        "order",
        "limit",
        "offset",
        "with_",
    ),
    **dict.fromkeys(
        (exp.Union, exp.Except, exp.Intersect), (*_BINARY, "distinct", "by_name", "order", "limit", "offset", "with_")
    ),
    exp.With: ("expressions",),
    exp.CTE: ("this", "alias"),
    exp.From: _ONE,
    exp.Join: ("this", "on", "using", "side", "kind", "method"),
    exp.Table: ("this", "db", "alias"),
    exp.TableAlias: _ONE,
    exp.Subquery: ("this", "alias"),
    exp.Where: _ONE,
    exp.Having: _ONE,
    exp.Group: ("expressions",),
    exp.Order: ("expressions",),
    exp.Ordered: ("this", "desc", "nulls_first"),
    exp.Limit: ("expression",),
    exp.Offset: ("expression",),
    exp.Distinct: ("expressions",),
    exp.Alias: ("this", "alias"),
    exp.Column: ("this", "table", "db"),
    exp.Identifier: ("this", "quoted"),
    exp.Star: (),
    exp.Literal: ("this", "is_string"),
    exp.Null: (),
    exp.Boolean: _ONE,
    exp.In: ("this", "expressions", "query"),
    exp.Exists: _ONE,
    exp.Between: ("this", "low", "high"),
    exp.Case: ("this", "ifs", "default"),
    exp.If: ("this", "true", "false"),
    exp.Cast: ("this", "to"),
    exp.DataType: ("this", "expressions", "nested"),
    exp.DataTypeParam: _ONE,
    exp.Escape: _BINARY,
    exp.Anonymous: ("this", "expressions"),
    exp.Round: ("this", "decimals"),
    exp.Trunc: ("this", "decimals"),
    exp.Log: _BINARY,
    exp.Atan2: _BINARY,
    exp.Coalesce: ("this", "expressions"),
    exp.Count: ("this", "big_int"),
    exp.Contains: _BINARY,
    **dict.fromkeys((exp.Paren, exp.Neg, exp.Not), _ONE),
    **dict.fromkeys((exp.Add, exp.Sub, exp.Mul, exp.Mod, exp.Pow, exp.And, exp.Or), _BINARY),
    **dict.fromkeys((exp.Div, exp.DPipe), (*_BINARY, "typed", "safe")),
    **dict.fromkeys((exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Like, exp.ILike, exp.Is), _BINARY),
    **dict.fromkeys((exp.Sum, exp.Avg, exp.Min, exp.Max), _ONE),
    **dict.fromkeys((exp.Abs, exp.Ceil, exp.Floor, exp.Sqrt, exp.Exp, exp.Ln, exp.Lower, exp.Upper), _ONE),
    **dict.fromkeys((exp.Sin, exp.Cos, exp.Tan, exp.Asin, exp.Acos, exp.Atan, exp.Cot), _ONE),
    **dict.fromkeys((exp.Degrees, exp.Radians), _ONE),
    **dict.fromkeys((exp.Pi, exp.Rand), ()),
}
_KINDS = {
    "side": ("", "LEFT", "RIGHT", "FULL"),
    "kind": ("", "INNER", "OUTER", "CROSS"),
    "method": ("", "NATURAL"),
}
_TYPES = {"SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "CHAR", "VARCHAR", "TEXT", "TIMESTAMP", "BOOLEAN", "DECIMAL"}


def translate(text: str, uploads: Mapping[str, Upload], most: int) -> Translated:
    """The SQL that answers a query with up to `most` rows. Raises QueryError."""
    tree = _parsed(text)
    try:
        _check(tree)
        tree = _rewritten(tree)
        references = sources.resolve(tree, uploads)
    except Unsupported as error:
        raise QueryError(str(error), None if error.node is None else _place(error.node)) from None
    except RecursionError:
        raise QueryError("the query is nested too deeply") from None
    columns = sources.described(tree)
    _limit(tree, most)
    return Translated(tree.sql("duckdb", identify=True, comments=False), references, columns)


def _parsed(text: str) -> exp.Expr:
    if len(text) > _LONGEST:
        raise QueryError(f"the query has more than {_LONGEST} characters; upload a list as a table instead")
    if _depth(text) > _DEEPEST:
        raise QueryError(f"the query has more than {_DEEPEST} brackets in one another")
    try:
        trees = sqlglot.parse(text.strip().rstrip(";"), read=ADQL)
    except ParseError as error:
        first = error.errors[0] if error.errors else {}
        at = (first["line"], first["col"]) if first.get("line") else None
        near = f" near {first['highlight']!r}" if first.get("highlight") else ""
        raise QueryError(f"this is not ADQL{near}: {first.get('description', 'it cannot be read')}", at) from None
    except SqlglotError as error:
        raise QueryError(f"this is not ADQL: {str(error).splitlines()[0][:200]}") from None
    except RecursionError:
        raise QueryError("the query is nested too deeply") from None
    if len(trees) != 1 or not isinstance(trees[0], exp.Select | exp.SetOperation):
        raise QueryError("a query is one SELECT, and nothing else")
    return trees[0]


def _depth(text: str) -> int:
    """Depth of nested brackets; those inside quotes count too."""
    deep = deepest = 0
    for bracket in re.findall(r"[()]", text):
        deep += 1 if bracket == "(" else -1
        deepest = max(deepest, deep)
    return deepest


def _place(node: exp.Expr) -> tuple[int, int] | None:
    """Line and column of the first name in a part of a query."""
    places = [(n.meta["line"], n.meta["col"] - len(n.name) + 1) for n in node.walk() if "line" in n.meta]
    return min(places, default=None)


# What is allowed.


def _check(tree: exp.Expr) -> None:
    for node in tree.walk():
        allowed = _ALLOWED.get(type(node))
        if allowed is None:
            raise QueryError(f"{_spoken(node)} is not part of ADQL here", _place(node) or _place_above(node))
        for name, value in node.args.items():
            if value and name not in allowed:
                raise QueryError(f"{_spoken(node)} is used in a way that ADQL does not have here", _place(node))
        _check_words(node)


def _check_words(node: exp.Expr) -> None:
    for name, words in _KINDS.items():
        if isinstance(node, exp.Join) and str(node.args.get(name) or "").upper() not in words:
            raise QueryError(f"there is no {node.args[name]} JOIN in ADQL", _place(node))
    if isinstance(node, exp.DataType) and node.this.name not in _TYPES:
        raise QueryError(f"there is no type {node.this.name} to CAST to", _place(node) or _place_above(node))
    if isinstance(node, exp.Anonymous) and geometry.name_of(node) is None:
        raise QueryError(f"there is no function {node.name}", _place(node) or _place_above(node))
    if isinstance(node, exp.Limit | exp.Offset) and not _is_count(node.expression):
        raise QueryError("TOP and OFFSET take a whole number", _place(node))
    if isinstance(node, exp.Subquery) and not isinstance(node.this, exp.Select | exp.SetOperation | exp.Subquery):
        raise QueryError("a part in brackets is no query", _place(node))


def _is_count(node: exp.Expr | None) -> bool:
    return isinstance(node, exp.Literal) and not node.is_string and node.this.isdigit() and len(node.this) < 16


def _spoken(node: exp.Expr) -> str:
    return node.sql_name() if isinstance(node, exp.Func) else type(node).__name__.upper()


def _place_above(node: exp.Expr) -> tuple[int, int] | None:
    """Place of a part; for one without a name, that of the part around it."""
    above = node.parent
    while above is not None:
        if (at := _place(above)) is not None:
            return at
        above = above.parent
    return None


# What differs from the engine's SQL.


def _rewritten(tree: exp.Expr) -> exp.Expr:
    """Translate geometry to separations, decimal numbers to doubles, LOG to the natural logarithm; leaves first."""
    for node in reversed(list(tree.walk(bfs=True))):
        made = _rewrite(node)
        if made is not node:
            node.replace(made)
    for node in tree.walk():
        if geometry.name_of(node) is not None:
            raise Unsupported(
                f"{geometry.name_of(node) or ''} can stand in CONTAINS, INTERSECTS and DISTANCE only", node
            )
    return tree


def _rewrite(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.Literal) and not node.is_string and not node.this.isdigit():
        return exp.Literal.number(node.this if "e" in node.this.lower() else f"{node.this}e0")
    if isinstance(node, exp.Log):
        return _logarithm(node)
    name = geometry.name_of(node)
    if name in ("contains", "intersects"):
        return _condition(node, name)
    if name == "distance":
        return _distance(node, geometry.arguments(node))
    if name in ("coord1", "coord2"):
        return _coordinate(node, name)
    return node


def _logarithm(node: exp.Log) -> exp.Expr:
    """Logarithm: LOG is the natural one; the parser gives LOG10 two arguments."""
    if node.args.get("expression") is None:
        return exp.Ln(this=node.this)
    if geometry.constant(node.this) != 10:
        raise Unsupported("LOG takes one number", node)
    return exp.Anonymous(this="log10", expressions=[node.args["expression"]])


def _coordinate(node: exp.Expr, name: str) -> exp.Expr:
    given = geometry.arguments(node)
    if len(given) != 1:
        raise Unsupported(f"{name.upper()} takes a POINT", node)
    at = geometry.point(given[0])
    return exp.paren(at.ra if name == "coord1" else at.dec)


def _distance(node: exp.Expr, given: Sequence[exp.Expr]) -> exp.Expr:
    if len(given) == 4:
        return geometry.distance(geometry.Point(*given[:2]), geometry.Point(*given[2:]))
    if len(given) != 2:
        raise Unsupported("DISTANCE takes two POINTs", node)
    return geometry.distance(geometry.point(given[0]), geometry.point(given[1]))


def _condition(node: exp.Expr, name: str) -> exp.Expr:
    """Translate to 1 or 0; a comparison with 1 becomes the condition itself."""
    given = geometry.arguments(node)
    if len(given) != 2:
        raise Unsupported(f"{name.upper()} takes two shapes", node)
    a, b = map(geometry.shape, given)
    made = geometry.contains(a, b, node) if name == "contains" else geometry.intersects(a, b, node)
    above = node.parent
    if isinstance(above, exp.EQ) and 1.0 in (geometry.constant(above.this), geometry.constant(above.expression)):
        above.replace(exp.Paren(this=made))
        return node
    return exp.Cast(this=exp.Paren(this=made), to=exp.DataType.build("INT"))


def _limit(tree: exp.Expr, most: int) -> None:
    """Limit the rows to one more than allowed, so that a truncated result is recognised."""
    asked = tree.args.get("limit")
    count = most + 1 if asked is None else min(int(asked.expression.this), most + 1)
    tree.set("limit", exp.Limit(expression=exp.Literal.number(count)))
