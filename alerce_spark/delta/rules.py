"""Rules that a table sets for its rows: columns that are never null, CHECK constraints and invariants of columns.

Conditions are in Spark's SQL. Polars evaluates those of columns, literals, comparisons, + - *, AND, OR, NOT, IN,
BETWEEN, IS NULL, abs and length, which mean the same there; a rule that uses more cannot be checked here, so rows are
refused. As in Spark, a row for which a condition is null breaks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import polars as pl
import pyarrow as pa
from polars.exceptions import PolarsError

from alerce_spark.delta.protocol import Metadata
from alerce_spark.errors import LakeError

_CONSTRAINT = "delta.constraints."
_WORDS = {"AND", "OR", "NOT", "IN", "IS", "NULL", "BETWEEN", "TRUE", "FALSE", "ABS", "LENGTH"}
_TOKEN = re.compile(
    r"""\s*(?: (?P<text>'(?:[^'\\]|'')*' | "[^"\\]*") | `(?P<quoted>[^`]+)` | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
    (?![\w.]) | (?P<word>[A-Za-z_]\w*) | (?P<sign><=(?!>)|>=|<>|!=|==|[=<>+\-*(),]) )""",
    re.VERBOSE,
)


class RuleBroken(LakeError, ValueError):
    """Rows break a rule of their table, or the rule cannot be checked; nothing was written."""


def check(table: str, metadata: Metadata, rows: pa.Table) -> None:
    """Raise RuleBroken where rows break a rule of their table. Columns that the rows lack count as null."""
    names = {field["name"] for field in metadata.fields}
    if foreign := [name for name in rows.schema.names if name not in names]:
        raise RuleBroken(f"table {table} has no columns {', '.join(foreign)}: add them, or write rows without them")
    _check_nulls(table, metadata, rows)
    frame = None
    for name, condition in _conditions(metadata):
        try:
            expression, used = _translated(condition, tuple(names))
            if frame is None or not set(used) <= set(frame.columns):
                frame = _frame(rows, {*used, *(frame.columns if frame is not None else ())})
            failed = frame.filter(~expression.fill_null(False))
        except (PolarsError, ValueError) as error:
            raise RuleBroken(
                f"table {table}: the check {name} ({condition}) cannot be evaluated here ({_first(error)}): "
                "drop it, or write these rows by Spark"
            ) from None
        if len(failed):
            raise RuleBroken(
                f"table {table}: {len(failed)} rows fail the check {name} ({condition}): {failed[0]}; correct them "
                "or drop the check"
            )


def _check_nulls(table: str, metadata: Metadata, rows: pa.Table) -> None:
    there = set(rows.schema.names)
    required = [field["name"] for field in metadata.fields if not field["nullable"]]
    empty = [name for name in required if name not in there or rows[name].null_count]
    if empty and rows.num_rows:
        raise RuleBroken(
            f"table {table}: nulls in required columns {', '.join(empty)}: give them values, or drop NOT NULL"
        )
    defaults = [
        field["name"]
        for field in metadata.fields
        if field["name"] not in there and "CURRENT_DEFAULT" in (field.get("metadata") or {})
    ]
    if defaults:
        raise RuleBroken(
            f"table {table}: the rows lack columns with default values, {', '.join(defaults)}: drop the defaults"
        )
    nested = [f["name"] for f in metadata.fields if f["name"] in there and _requires_inside(f["type"])]
    if nested:
        raise RuleBroken(
            f"table {table}: NOT NULL inside the columns {', '.join(nested)} cannot be checked here: drop it"
        )


def _requires_inside(kind: Any) -> bool:
    """Whether a type has fields inside that may not be null, or have invariants."""
    if not isinstance(kind, dict):
        return False
    if kind["type"] == "struct":
        fields = kind["fields"]
        return any(
            not f["nullable"] or "delta.invariants" in (f.get("metadata") or {}) or _requires_inside(f["type"])
            for f in fields
        )
    return any(_requires_inside(kind.get(part)) for part in ("elementType", "keyType", "valueType"))


def _conditions(metadata: Metadata) -> Iterable[tuple[str, str]]:
    """Name and SQL of every CHECK constraint and invariant."""
    for key, sql in sorted(metadata.configuration.items()):
        if key.startswith(_CONSTRAINT):
            yield key.removeprefix(_CONSTRAINT), sql
    for field in metadata.fields:
        invariant = (field.get("metadata") or {}).get("delta.invariants")
        if invariant is not None:
            yield f"invariant of {field['name']}", json.loads(invariant)["expression"]["expression"]


def _frame(rows: pa.Table, names: set[str]) -> pl.DataFrame:
    there = [name for name in rows.schema.names if name in names]
    frame = pl.DataFrame(rows.select(there))
    return frame.with_columns(pl.lit(None).alias(name) for name in names - set(there)) if names - set(there) else frame


@lru_cache(maxsize=256)
def _translated(sql: str, columns: tuple[str, ...]) -> tuple[pl.Expr, tuple[str, ...]]:
    """The condition for polars, and its columns. Raises ValueError for syntax that may mean something else there."""
    known: Mapping[str, str] = {name.lower(): name for name in columns}
    parts, used, at = [], [], 0
    sql = sql.strip()
    while at < len(sql):
        token = _TOKEN.match(sql, at)
        if token is None:
            raise ValueError(f"at {sql[at : at + 20]!r}")
        at = token.end()
        name = token["quoted"] or token["word"]
        if token["text"]:
            text = token["text"]
            parts.append(text if text[0] == "'" else "'" + text[1:-1].replace("'", "''") + "'")
        elif name is None:
            parts.append("=" if token["sign"] == "==" else token["sign"] or token["number"])
        elif name.lower() in known:
            used.append(known[name.lower()])
            parts.append('"' + used[-1].replace('"', '""') + '"')
        elif token["word"] and name.upper() in _WORDS:
            parts.append(name.upper())
        else:
            raise ValueError(f"{name!r} is neither a column nor known here")
    return pl.sql_expr(" ".join(parts)), tuple(used)


def _first(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
