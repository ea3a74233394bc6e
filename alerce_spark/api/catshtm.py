"""The catalogues of the lake, in the format of ALeRCE's catsHTM service, which its client reads.

A column is {"units", "values"} in a cone and {"unit", "value"} of the nearest source. The client takes a column `z` for
a redshift, so ours of that name is served as `z`, and a magnitude z as `z_mag`.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from fastapi import APIRouter, Request
from starlette.responses import Response

from alerce_spark.api import examples
from alerce_spark.api.errors import BadParameters, reply
from alerce_spark.api.parameters import Parameters
from alerce_spark.api.state import State
from alerce_spark.lake import catalogs
from alerce_spark.lake.catalogs import Local

router = APIRouter(tags=["Catalogues"])

#: The largest radius [arcsec], and most sources of one answer.
_MAX_RADIUS = 3600.0
_MOST = 10_000
_NAMES = {"ra": "RA", "dec": "Dec", "z": "z_mag", "redshift": "z", "photometric_redshift": "zphot"}
_UNITS = {"ra": "deg", "dec": "deg", "separation": "arcsec", "pmra": "mas/yr", "pmdec": "mas/yr"}

Column = dict[str, Any]


@router.get("/conesearch", openapi_extra=examples.CATSHTM_CONE)
def conesearch(request: Request) -> Response:
    """Sources of one catalogue in a cone, the nearest first."""
    state, one, place = _asked(request, named=True)
    found = _found(state, one[0], *place)
    return reply({one[0].name: _cone(one[0], found)} if len(found) else {})


@router.get("/conesearch_all", openapi_extra=examples.CATSHTM_CONE_ALL)
def conesearch_all(request: Request) -> Response:
    """Sources of every catalogue in a cone."""
    state, every, place = _asked(request, named=False)
    found = ((one, _found(state, one, *place)) for one in every)
    return reply({"catalogs": [{one.name: _cone(one, rows)} for one, rows in found if len(rows)]})


@router.get("/crossmatch", openapi_extra=examples.CATSHTM_NEAREST)
def crossmatch(request: Request) -> Response:
    """The source of one catalogue that is nearest to a position."""
    state, one, place = _asked(request, named=True)
    return reply(_nearest(one[0], _found(state, one[0], *place)))


@router.get("/crossmatch_all", openapi_extra=examples.CATSHTM_NEAREST_ALL)
def crossmatch_all(request: Request) -> Response:
    """The source of each catalogue that is nearest to a position."""
    state, every, place = _asked(request, named=False)
    found = ((one, _found(state, one, *place)) for one in every)
    return reply([{one.name: _nearest(one, rows)} for one, rows in found if len(rows)])


def _asked(request: Request, named: bool) -> tuple[State, list[Local], tuple[float, float, float | None]]:
    """Catalogues and position of a request. Raises BadParameters."""
    asked = Parameters(request.query_params)
    ra, dec = asked.number("ra", -360, 360), asked.number("dec", -90, 90)
    radius = asked.number("radius", 0, _MAX_RADIUS)
    name = asked.required("catalog") if named else ""
    for parameter, value in (("ra", ra), ("dec", dec)):
        if value is None:
            asked.errors.setdefault(parameter, "missing required parameter")
    asked.check()
    state: State = request.app.state.services
    with state.catalogs:
        known = catalogs.imported(state.lake)
    chosen = [one for one in known if not named or one.name == name.lower()]
    if named and not chosen:
        there = ", ".join(one.name for one in known) or "none yet"
        raise BadParameters({"catalog": f"{name!r} is no catalogue here; there are {there}"})
    return state, chosen, ((ra or 0.0) % 360, dec or 0.0, radius)


def _found(state: State, one: Local, ra: float, dec: float, radius: float | None) -> pl.DataFrame:
    with state.catalogs:
        reach = one.settings.radius if radius is None else radius
        return catalogs.sources(state.lake, one.name, ra, dec, max(reach, 1e-6))[:_MOST]


def _unit(one: Local, column: str) -> str:
    attribute = one.settings.attributes.get(column)
    return attribute.unit if attribute is not None else _UNITS.get(column, "")


def _cone(one: Local, found: pl.DataFrame) -> dict[str, Column]:
    places = found.drop("separation")
    ordered = ("ra", "dec", *(name for name in places.columns if name not in ("ra", "dec")))
    return {_NAMES.get(n, n): {"units": _unit(one, n), "values": places[n].to_list()} for n in ordered}


def _nearest(one: Local, found: pl.DataFrame) -> dict[str, Column]:
    if found.is_empty():
        return {}
    row = found.row(0, named=True)
    values = {_NAMES.get(name, name): {"unit": _unit(one, name), "value": row[name]} for name in row}
    return values | {"distance": values.pop("separation")}
