"""The SQL that a query means: a route of ALeRCE's first API (2020), whose database users could ask themselves.

It runs as it is on an index in PostgreSQL, whose views are ALeRCE's tables; TAP reads ADQL, which is written otherwise.
What a user gave is written as a literal, never as SQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from alerce_spark.api import examples
from alerce_spark.api.errors import BadParameters
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, STAMP

router = APIRouter(tags=["ZTF"])

#: Columns by their names of 2020, and names to sort by.
_SORTED = {"oid": "oid", "nobs": "ndet", "ndet": "ndet", "firstmjd": "firstmjd", "lastmjd": "lastmjd"}
_SORTED |= {
    "meanra": "meanra",
    "meandec": "meandec",
    "pclassrf": "late.probability",
    "pclassearly": "early.probability",
}
#: Classifiers by the ending of their names of 2020: of the light curve, of the first stamps.
_CLASSIFIERS = {"rf": (LIGHTCURVE, "late"), "early": (STAMP, "early")}
_MOST_ROWS = 100_000
_EMPTY: Mapping[str, Any] = {}


@router.post("/get_sql", openapi_extra=examples.GET_SQL, response_class=Response)
async def get_sql(request: Request) -> Response:
    """The SQL of a query in the format of 2020: filters, coordinates (sr in degrees), dates."""
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise BadParameters({"body": f"no JSON: {error}"}) from None
    return Response(_Body(body).sql(), media_type="text/plain")


class _Body:
    """Reads the body of a query; errors name values as the body does."""

    def __init__(self, body: Any) -> None:
        self._errors: dict[str, str] = {}
        self._body = self._part(body, "body")
        self._asked = self._part(self._body.get("query_parameters"), "query_parameters")
        self._filters = self._part(self._asked.get("filters"), "filters")

    def sql(self) -> str:
        """The SQL. Raises BadParameters."""
        joins, conditions = list(self._joins()), list(self._conditions())
        limit = min(self._number(self._body, "records_per_pages", 20, least=1), _MOST_ROWS)
        page = self._number(self._body, "page", 1, least=1)
        by = str(self._body.get("sortBy") or "nobs")
        if by not in _SORTED or ("." in _SORTED[by] and not any(_SORTED[by].split(".")[0] in join for join in joins)):
            self._errors["sortBy"] = f"{by!r} cannot be sorted by; there are {', '.join(_SORTED)} of what is asked"
        if self._errors:
            raise BadParameters(self._errors)
        column = _SORTED[by] if "." in _SORTED[by] else f"object.{_SORTED[by]}"
        where = ["WHERE " + "\n  AND ".join(conditions)] if conditions else []
        order = f"ORDER BY {column} DESC, object.oid\nLIMIT {int(limit)} OFFSET {int((page - 1) * limit)}"
        return "\n".join(["SELECT object.*", "FROM alerce.object", *joins, *where, order])

    def _joins(self) -> Iterator[str]:
        for ending, (classifier, name) in _CLASSIFIERS.items():
            class_, least = self._filters.get(f"class{ending}"), self._number(self._filters, f"pclass{ending}")
            if class_ is not None or least is not None:
                conditions = [f"{name}.oid = object.oid", f"{name}.classifier_name = {_text(classifier)}"]
                conditions += [f"{name}.ranking = 1"]
                conditions += [] if class_ is None else [f"{name}.class_name = {_text(class_)}"]
                conditions += [] if least is None else [f"{name}.probability >= {least!r}"]
                yield f"JOIN alerce.probability AS {name} ON " + " AND ".join(conditions)

    def _conditions(self) -> Iterator[str]:
        if (oid := self._filters.get("oid")) is not None:
            names = oid if isinstance(oid, list) else [oid]
            yield f"object.oid IN ({', '.join(map(_text, names))})"
        yield from self._range(self._filters, "nobs", "ndet")
        yield from self._range(self._part(self._asked.get("dates"), "dates"), "firstmjd", "firstmjd")
        yield from self._cone(self._part(self._asked.get("coordinates"), "coordinates"))

    def _range(self, part: Mapping[str, Any], name: str, column: str) -> Iterator[str]:
        ends = self._part(part.get(name), name)
        for end, sign in (("min", ">="), ("max", "<=")):
            value = self._number(ends, end)
            if value is not None:
                yield f"object.{column} {sign} {value!r}"

    def _cone(self, part: Mapping[str, Any]) -> Iterator[str]:
        ra, dec, radius = (self._number(part, name) for name in ("ra", "dec", "sr"))
        if ra is None or dec is None or radius is None:
            if part:
                self._errors["coordinates"] = "a cone has ra, dec and sr, all in degrees"
            return
        # The haversine of the separation: exact for the smallest ones, without an extension of the database.
        half = f"power(sin(radians(object.meandec - {dec!r}) / 2), 2)"
        across = f"power(sin(radians(object.meanra - {ra!r}) / 2), 2)"
        along = f"cos(radians({dec!r})) * cos(radians(object.meandec))"
        yield f"{half} + {along} * {across} <= power(sin(radians({radius!r}) / 2), 2)"

    def _part(self, value: Any, name: str) -> Mapping[str, Any]:
        if value is not None and not isinstance(value, dict):
            self._errors[name] = "is no object of JSON"
            return _EMPTY
        return value or _EMPTY

    def _number(self, part: Mapping[str, Any], name: str, default: Any = None, least: float | None = None) -> Any:
        value = part.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (least is not None and value < least):
            self._errors[name] = f"{value!r} is no number" + ("" if least is None else f" from {least} on")
            return default
        return value


def _text(value: Any) -> str:
    """A literal of SQL."""
    return "'" + str(value).replace("'", "''") + "'"
