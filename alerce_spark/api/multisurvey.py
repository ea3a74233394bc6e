"""ALeRCE's multi-survey routes: data of ZTF; there are none of other surveys yet.

Invalid parameters are status 422, as in ALeRCE's API.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from fastapi import APIRouter, Request
from starlette.responses import Response

from alerce_spark.api import examples, stamps
from alerce_spark.api.errors import NotFound, Unprocessable, reply
from alerce_spark.api.parameters import Parameters
from alerce_spark.api.state import State
from alerce_spark.api.ztf import CONE_RADIUS, MAX_PAGE_SIZE, ORDERS
from alerce_spark.serving.query import MAX_RADIUS, Cone, Filter, Item, Key

router = APIRouter(tags=["Multi-survey"])

_SURVEYS = ("ztf", "lsst")
_BANDS = {"1": "g", "2": "r", "3": "i"}
_MOST_OIDS = 200
_TABLES = {"detections": "detections", "non_detections": "non_detections", "forced_photometry": "forced_photometry"}
_COLUMNS = {
    "detections": (
        *("oid", "candid", "pid", "diffmaglim", "isdiffpos", "nid", "magpsf", "sigmapsf", "magap", "sigmagap"),
        *("distnr", "rb", "rbversion", "drb", "drbversion", "magapbig", "sigmagapbig", "rfid", "magpsf_corr"),
        *("sigmapsf_corr", "sigmapsf_corr_ext", "corrected", "dubious", "parent_candid", "has_stamp", "mjd", "ra"),
        *("dec", "fid"),
    ),
    "non_detections": ("oid", "mjd", "fid", "diffmaglim"),
    "forced_photometry": (
        *("oid", "pid", "mjd", "fid", "ra", "dec", "mag", "e_mag", "mag_corr", "e_mag_corr", "e_mag_corr_ext"),
        *("isdiffpos", "corrected", "parent_candid"),
    ),
}
_ORDERS = {**ORDERS, "n_det": "ndet", "deltamjd": "deltamjd"}


def _state(request: Request) -> State:
    state: State = request.app.state.services
    return state


def _check(asked: Parameters) -> None:
    if asked.errors:
        raise Unprocessable(asked.errors)


@router.get("/object_api/list_objects", openapi_extra=examples.LIST_OBJECTS)
def list_objects(request: Request) -> Response:
    """Objects of a survey by id, class, counts, dates and place; page by page."""
    asked = Parameters(request.query_params)
    survey = asked.required("survey", _SURVEYS)
    order = asked.choice("order_by", _ORDERS, "probability") or "probability"
    descending = asked.choice("order_mode", ("ASC", "DESC"), "DESC") == "DESC"
    page, size, count = asked.whole("page") or 1, asked.whole("page_size") or 10, asked.flag("count", False)
    wanted = _filter(asked)
    _check(asked)
    page, size = min(max(page, 1), 10**9), min(max(size, 1), MAX_PAGE_SIZE)
    shown, has_next, total = [], False, 0
    if survey == "ztf":
        index = _state(request).index

        def keys(limit: int, offset: int) -> list[Key]:
            return index.keys(wanted, order=_ORDERS[order], descending=descending, limit=limit, offset=offset)

        with index.one_state():
            who = f"{request.client and request.client.host} {request.headers.get('user-agent')} "
            who += f"{index.about()['built']} {wanted} {order} {descending} {size}"
            chosen, has_next = _state(request).walks.page(who, page, size, keys)
            shown = [_item(item) for item in index.items(chosen)]
            total = index.count(wanted) if count else 0
    pages: Item = {"next": page + 1 if has_next else None, "has_next": has_next, "prev": page - 1 if page > 1 else None}
    pages |= {"has_prev": page > 1, "current_page": page, "info_message": None if shown else "Empty query"}
    return reply({"total": total if count else None, **pages, "items": shown})


def _filter(asked: Parameters) -> Filter:
    ra, dec = asked.number("ra", -360, 360), asked.number("dec", -90, 90)
    radius = asked.number("radius", 0, MAX_RADIUS)
    return Filter(
        oids=asked.texts("oid"),
        classifier=asked.text("classifier"),
        class_name=asked.text("class_name"),
        ranking=asked.whole("ranking"),
        probability=asked.number("probability"),
        ndet=asked.range("n_det", whole=True),
        firstmjd=asked.range("firstmjd"),
        lastmjd=asked.range("lastmjd"),
        cone=None if ra is None or dec is None else Cone(ra % 360, dec, CONE_RADIUS if radius is None else radius),
    )


def _object(item: Item) -> Item:
    names = ("meanra", "meandec", "sigmara", "sigmadec", "firstmjd", "lastmjd", "deltamjd")
    counts = {"n_det": item["ndet"], "n_forced": None, "n_non_det": None}
    return {"oid": item["oid"], "tid": 0, "sid": 0, **{name: item[name] for name in names}, **counts}


def _item(item: Item) -> Item:
    own = ("stellar", "corrected", "g_r_max", "g_r_max_corr", "g_r_mean", "g_r_mean_corr", "probability", "ranking")
    names = {"class_name": "class", "classifier_name": "classifier", "classifier_version": "version"}
    return _object(item) | {name: item[name] for name in own} | {new: item[old] for new, old in names.items()}


def _oids(request: Request) -> tuple[str, tuple[str, ...]]:
    """Survey and objects of a request. Raises Unprocessable."""
    asked = Parameters(request.query_params)
    survey = asked.required("survey_id", _SURVEYS)
    oids = asked.texts("oid")
    if not 0 < len(oids) <= _MOST_OIDS:
        asked.errors.setdefault("oid", f"from 1 to {_MOST_OIDS} objects can be requested")
    _check(asked)
    return survey, oids


@router.get("/object_api/object", openapi_extra=examples.MS_OBJECT)
def single_object(request: Request) -> Response:
    """One object."""
    survey, oids = _oids(request)
    item = _state(request).index.object(oids[0]) if survey == "ztf" else None
    if item is None:
        raise NotFound(f"no object {oids[0]} of {survey}")
    return reply(_object(item) | {"created_date": None, "updated_date": None})


def _rows(request: Request, tables: Sequence[str]) -> dict[str, list[Item]]:
    """Rows of objects, those of an object together; unknown objects have no rows."""
    survey, oids = _oids(request)
    found: dict[str, list[Item]] = {table: [] for table in tables}
    for oid in oids if survey == "ztf" else ():
        rows = _state(request).rows(oid, {table: _COLUMNS[table] for table in tables})
        for table, frame in (rows or {}).items():
            found[table] += _banded(frame, table)
    return found


def _banded(frame: pl.DataFrame, table: str) -> list[Item]:
    if table == "non_detections":
        frame = frame.drop_nulls("diffmaglim")
    if "candid" in frame.columns:
        frame = frame.with_columns(measurement_id=pl.col("candid").cast(pl.String)).drop("candid")
    rows = frame.sort("mjd", "fid").rename({"fid": "band"}).iter_rows(named=True)
    return [row | {"survey_id": "ztf", "band_map": _BANDS} for row in rows]


@router.get("/lightcurve_api/detections", openapi_extra=examples.MS_ROWS)
def detections(request: Request) -> Response:
    """Detections of objects, by time."""
    return reply(_rows(request, ["detections"])["detections"])


@router.get("/lightcurve_api/non_detections", openapi_extra=examples.MS_ROWS)
def non_detections(request: Request) -> Response:
    """Upper limits of objects, by time."""
    return reply(_rows(request, ["non_detections"])["non_detections"])


@router.get("/lightcurve_api/forced-photometry", openapi_extra=examples.MS_ROWS)
def forced_photometry(request: Request) -> Response:
    """Forced photometry of objects, by time."""
    return reply(_rows(request, ["forced_photometry"])["forced_photometry"])


@router.get("/lightcurve_api/lightcurve", openapi_extra=examples.MS_LIGHTCURVE)
def lightcurve(request: Request) -> Response:
    """Detections, upper limits and forced photometry of objects."""
    return reply(_rows(request, list(_TABLES)))


@router.get("/probability_api/probability", openapi_extra=examples.PROBABILITIES)
def probability(request: Request) -> Response:
    """Probabilities of all classes of an object, best first."""
    asked = Parameters(request.query_params)
    oid, classifier = asked.required("oid"), asked.text("classifier")
    survey = asked.choice("survey_id", _SURVEYS, "ztf")
    _check(asked)
    found: list[Any] | None = _state(request).index.probabilities(oid) if survey == "ztf" else None
    chosen = [row for row in found or [] if classifier in (None, row["classifier_name"])]
    if not chosen:
        raise NotFound(f"no probabilities of {oid}")
    return reply(chosen)


@router.get("/stamps_api/stamp", openapi_extra=examples.MS_STAMP, response_class=Response)
def stamp(request: Request) -> Response:
    """A stamp of an alert."""
    asked = Parameters(request.query_params)
    asked.choice("survey_id", _SURVEYS)
    kinds = {field: kind for kind, field in stamps.CUTOUTS.items()}
    field = asked.required("stamp_type", kinds)
    form = asked.choice("file_format", ("png", "fits"), "fits") or "fits"
    candid = asked.whole("measurement_id")
    if candid is None:
        asked.errors.setdefault("measurement_id", "missing required parameter")
    _check(asked)
    packet = stamps.packet_of(_state(request), "ztf", candid or 0, asked.text("oid"))
    return stamps.stamp_of(packet, kinds[field], form)


@router.get("/stamps_api/avro", openapi_extra=examples.MS_AVRO)
@router.get("/stamps_api/get_avro", openapi_extra=examples.MS_AVRO)
def avro(request: Request) -> Response:
    """The packet of an alert as JSON, without its stamps."""
    asked = Parameters(request.query_params)
    asked.choice("survey_id", _SURVEYS)
    candid = asked.whole("measurement_id")
    if candid is None:
        asked.errors.setdefault("measurement_id", "missing required parameter")
    _check(asked)
    oid = asked.text("oid")
    return reply(stamps.without_stamps(stamps.packet_of(_state(request), "ztf", candid or 0, oid)))
