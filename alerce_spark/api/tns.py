"""The Transient Name Server: searches, in the local catalogue first, and reports.

ALeRCE's route returns the nearest object, here within 3 arcsec; a reply has both of the formats that clients read. TNS
itself is asked only if a request says so, since it allows few searches; its answers are kept for a while.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from alerce_spark.api import examples
from alerce_spark.api.errors import BadParameters, NotFound, reply
from alerce_spark.api.parameters import Parameters
from alerce_spark.api.state import State
from alerce_spark.api.tokens import person
from alerce_spark.config import ConfigError
from alerce_spark.errors import InputError
from alerce_spark.lake import catalogs
from alerce_spark.lease import Lease, LeaseHeld
from alerce_spark.tns import reports, sending
from alerce_spark.tns.catalog import NAME
from alerce_spark.tns.draft import Host, draft
from alerce_spark.tns.http import Limited, TnsError
from alerce_spark.tns.reports import Overtaken, Report
from alerce_spark.tns.server import bare

router = APIRouter(tags=["Transient Name Server"])

Item = dict[str, Any]

_RADIUS, _MAX_RADIUS = 3.0, 60.0
_MOST = 100
#: Longest wait for the reply to a report [s].
_REPLY_S = 5.0
_NAMES = {"source_id": "objid", "dec": "declination"}

Person = Annotated[str, Depends(person)]


class Place(BaseModel):
    """A position [deg]."""

    ra: Annotated[float, Field(ge=0, le=360, allow_inf_nan=False)]
    dec: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]


class Wish(BaseModel):
    """Values that a person adds to a draft."""

    host_name: Annotated[str | None, Field(max_length=200)] = None
    host_redshift: Annotated[float | None, Field(allow_inf_nan=False)] = None
    remarks: Annotated[str, Field(max_length=2000)] = ""
    known: bool = False


@router.post("/v2/tns_api/search", openapi_extra=examples.TNS_NEAREST)
@router.post("/search", openapi_extra=examples.TNS_NEAREST)
def nearest(request: Request, place: Place) -> Response:
    """The object of TNS nearest to a position, within 3 arcsec; empty if none is that near."""
    state: State = request.app.state.services
    found = _near(state, place.ra % 360, place.dec, _RADIUS)
    if not found:
        return reply({})
    row = found[0]
    older = {"discoverer": row["reporters"], "discovery_data_source": {"group_name": row["source_group"]}}
    return reply({"object_name": row["name"], "object_type": row["type"], "object_data": row | older})


@router.get("/tns/search", openapi_extra=examples.TNS_SEARCH)
def search(request: Request) -> Response:
    """Objects of TNS by position or name: from the local catalogue, else, with `remote`, from TNS itself."""
    asked = Parameters(request.query_params)
    ra, dec = asked.number("ra", 0, 360), asked.number("dec", -90, 90)
    radius, name = asked.number("radius", 0, _MAX_RADIUS), asked.text("name")
    remote = asked.flag("remote", False)
    if name is None:
        for parameter, value in (("ra", ra), ("dec", dec)):
            if value is None:
                asked.errors.setdefault(parameter, "missing required parameter; or give a name")
    asked.check()
    state: State = request.app.state.services
    here: Callable[[], list[Item]]
    there: Callable[[], list[Item]]
    if name is not None:
        here, there = partial(_called, state, name.strip()), lambda: state.tns_searches.called(name.strip())
    else:
        place = (ra or 0.0) % 360, dec or 0.0, radius or _RADIUS
        here, there = partial(_near, state, *place), lambda: state.tns_searches.near(*place)
    items = here()
    if items or not remote:
        return reply({"source": "catalogue", "items": items[:_MOST]})
    with _answering():
        return reply({"source": "tns", "items": there()})


def _near(state: State, ra: float, dec: float, radius: float) -> list[Item]:
    with state.catalogs:
        if catalogs.local(state.lake, NAME) is None:
            return []
        return _rows(catalogs.sources(state.lake, NAME, ra, dec, radius))


def _called(state: State, name: str) -> list[Item]:
    """Objects with this name, with or without prefix, or this internal name."""
    with state.catalogs:
        if catalogs.local(state.lake, NAME) is None:
            return []
        rows = catalogs.everything(state.lake, NAME).filter(pl.col("name") == bare(name))
        return _rows(pl.concat([rows, sending.called(state.lake, name)]).unique("source_id"))


def _rows(found: pl.DataFrame) -> list[Item]:
    return found.rename(_NAMES).with_columns(pl.col("objid").cast(pl.Int64)).to_dicts()


@router.get("/tns/reports", openapi_extra=examples.TNS_REPORTS)
def standing(request: Request) -> Response:
    """The last step of every report."""
    state: State = request.app.state.services
    return reply([_said(one) for one in reports.standing(state.lake)])


@router.get("/tns/reports/{oid}", openapi_extra=examples.TNS_REPORT)
def history(request: Request, oid: str) -> Response:
    """Every step of the reports of an object, the last one with its content."""
    state: State = request.app.state.services
    steps = reports.steps(state.lake, oid)
    if not steps:
        raise NotFound(f"no report of {oid}")
    return reply({"steps": [_said(one) for one in steps], "report": steps[-1].content})


@router.post("/tns/reports/{oid}/draft", openapi_extra=examples.TNS_STEP)
def make(request: Request, oid: str, wish: Wish, who: Person) -> Response:
    """Make a draft from an object; it replaces an earlier one that was not sent. Needs a token."""
    state: State = request.app.state.services
    tns = state.settings.tns
    if wish.host_redshift is not None and not wish.host_name:
        raise BadParameters({"host_redshift": "a host has a name too"})
    host = Host(wish.host_name, wish.host_redshift) if wish.host_name else None
    with _answering(), state.catalogs:
        content = draft(state.lake, oid, tns, host=host, remarks=wish.remarks, known=wish.known)
        done = reports.store_draft(state.lake, oid, tns.bot_name, content, who)
    return reply(_said(done) | {"report": content})


@router.post("/tns/reports/{oid}/approve", openapi_extra=examples.TNS_STEP)
def approve(request: Request, oid: str, who: Person) -> Response:
    """Approve a draft for sending; the name of the token's owner is stored. Needs a token."""
    state: State = request.app.state.services
    with _answering():
        return reply(_said(reports.approve(state.lake, oid, state.settings.tns.bot_name, who)))


@router.post("/tns/reports/{oid}/send", openapi_extra=examples.TNS_STEP)
def send(request: Request, oid: str, who: Person) -> Response:
    """Send an approved report, or ask TNS for the result of one that was sent. Needs a token."""
    state: State = request.app.state.services
    lake = state.settings.lake
    with _answering():
        tns = state.tns
        with Lease(lake.path, "alerce-spark serve", lake.lease_timeout_s, [sending.LEASE]) as lease:
            sender = sending.Sender(lake.path, state.settings.tns, tns, None, lease.check, who, _REPLY_S)
            return reply(_said(sender.advance(oid)))


def _said(report: Report) -> dict[str, Any]:
    names = ("oid", "bot", "number", "state", "who", "via", "report_id", "name", "note")
    return {name: getattr(report, name) for name in names} | {"since": report.since.isoformat(timespec="milliseconds")}


@contextmanager
def _answering() -> Iterator[None]:
    """Turn errors of reports and of TNS into answers."""
    try:
        yield
    except Limited as error:
        raise HTTPException(429, str(error), {"Retry-After": str(math.ceil(error.wait))}) from None
    except TnsError as error:
        raise HTTPException(502, str(error)) from None
    except ConfigError as error:
        raise HTTPException(501, str(error)) from None
    except (Overtaken, LeaseHeld) as error:
        raise HTTPException(409, str(error)) from None
    except InputError as error:
        raise HTTPException(400, str(error)) from None
