"""ALeRCE's ZTF API: /ztf/v1 and forced photometry of /v2, with the names and types that its clients read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
from fastapi import APIRouter, Request
from starlette.responses import Response

from alerce_spark.api import examples, forms
from alerce_spark.api.errors import NotFound, reply
from alerce_spark.api.parameters import Parameters
from alerce_spark.api.state import State
from alerce_spark.features.names import FEATURES, OBJECT_FEATURES
from alerce_spark.lake.tables import TABLES
from alerce_spark.serving.query import CLASS_ORDERS, MAX_RADIUS, OBJECT_ORDERS, Cone, Filter, Index, Item, Key

router = APIRouter(prefix="/ztf/v1", tags=["ZTF"])
forced_router = APIRouter(prefix="/v2/lightcurve", tags=["ZTF"])

#: Value where ALeRCE names the step of its pipeline that corrected the photometry.
STEP = "alerce_spark"
MAX_PAGE_SIZE = 100_000
_LAST_PAGE = 10**9
#: Default radius of a cone [arcsec].
CONE_RADIUS = 30.0

#: Columns of `/objects/{oid}`, with ALeRCE's names; `deltajd` is our deltamjd.
_OBJECT = (
    *("oid", "ndethist", "ncovhist", "mjdstarthist", "mjdendhist", "corrected", "stellar", "ndet", "g_r_max"),
    *("g_r_max_corr", "g_r_mean", "g_r_mean_corr", "firstmjd", "lastmjd", "deltajd", "meanra", "meandec"),
    *("sigmara", "sigmadec", "step_id_corr"),
)
_OTHERS = {"ndethist": pa.string(), "deltajd": pa.float64(), "step_id_corr": pa.string(), "class": pa.string()}
_OTHERS |= {"classifier": pa.string(), "probability": pa.float64()}
#: Objects as tables.
_OBJECT_SCHEMA = pa.schema(
    [
        (name, _OTHERS[name] if name in _OTHERS else TABLES["objects"].arrow.field(name).type)
        for name in (*_OBJECT, "class", "classifier", "probability")
    ]
)
#: Rows of a part of a reply.
_PART = 5_000
#: Names by which lists can be ordered, and the columns of the index.
ORDERS = {**{name: name for name in (*OBJECT_ORDERS, *CLASS_ORDERS)}, "deltajd": "deltamjd"}

DETECTION = (
    *("mjd", "candid", "fid", "pid", "diffmaglim", "isdiffpos", "nid", "distnr", "magpsf", "magpsf_corr"),
    *("magap", "sigmapsf", "sigmapsf_corr", "sigmapsf_corr_ext", "sigmagap", "ra", "dec", "rb", "rbversion", "drb"),
    *("magapbig", "sigmagapbig", "rfid", "has_stamp", "corrected", "dubious", "parent_candid"),
)
LIMIT = ("mjd", "fid", "diffmaglim")
MAGSTAT = (
    *("fid", "stellar", "corrected", "ndet", "ndubious", "magmean", "magmedian", "magmax", "magmin", "magsigma"),
    *("maglast", "magfirst", "firstmjd", "lastmjd"),
)
FEATURE_COLUMNS = ("mjd", "version", "ndet_used", "candid", *FEATURES)
FORCED = (
    *("pid", "oid", "mjd", "fid", "ra", "dec", "mag", "e_mag", "mag_corr", "e_mag_corr", "e_mag_corr_ext"),
    *("isdiffpos", "corrected", "parent_candid"),
)
_OURS = ("pixel", "healpix29", "survey", "extra", *FORCED)
#: Values of the images and the fit for a forced measurement: `extra_fields`.
FORCED_EXTRA = tuple(c.name for c in TABLES["forced_photometry"].columns if c.name not in _OURS)


def _state(request: Request) -> State:
    state: State = request.app.state.services
    return state


# Objects.


@router.get("/objects", openapi_extra=examples.OBJECTS)
def objects(request: Request) -> Response:
    """Objects by id, class, probability, counts, dates and place; page by page."""
    asked = Parameters(request.query_params)
    wanted, order, descending = _filter(asked), _order(asked), asked.choice("order_mode", ("ASC", "DESC"), "ASC")
    page, size, count = asked.whole("page"), asked.whole("page_size"), asked.flag("count", False)
    form = forms.form_of(request, asked)
    asked.check()
    page = min(max(page or 1, 1), _LAST_PAGE)
    size = 10 if size is None or size < 0 else min(size, MAX_PAGE_SIZE)
    state = _state(request)
    index = state.index

    def keys(limit: int, offset: int) -> list[Key]:
        return index.keys(wanted, order=order, descending=descending == "DESC", limit=limit, offset=offset)

    with index.one_state():
        who = f"{request.client and request.client.host} {request.headers.get('user-agent')} {index.about()['built']}"
        shown, has_next = state.walks.page(f"{who} {wanted} {order} {descending} {size}", page, size, keys)
        total = index.count(wanted) if count else None
        if form != forms.JSON:
            return _table(index, shown, form, total, has_next)
        items = index.items(shown)
    return reply(
        {
            "total": total,
            "page": page,
            "next": page + 1 if has_next else None,
            "has_next": has_next,
            "prev": page - 1 if page > 1 else None,
            "has_prev": page > 1,
            "items": [_object(item) | _class(item) for item in items],
        }
    )


def _table(index: Index, shown: Sequence[Key], form: str, total: int | None, has_next: bool) -> Response:
    """A page as a table; headers have the other values of the JSON reply."""
    # The whole page is made now, from one state of the index: 100 000 compressed rows take some 20 MB.
    begins = range(0, len(shown), _PART)
    items = ([_object(i) | _class(i) for i in index.items(shown[begin : begin + _PART])] for begin in begins)
    parts = [pa.Table.from_pylist(part, _OBJECT_SCHEMA) for part in items]
    about = {"X-Has-Next": str(has_next).lower()} | ({} if total is None else {"X-Total": str(total)})
    return forms.stream(parts, _OBJECT_SCHEMA, form, about)


def _filter(asked: Parameters) -> Filter:
    oids = asked.texts("oid")
    is_pattern = len(oids) == 1 and "*" in oids[0]
    ra, dec = asked.number("ra", -360, 360), asked.number("dec", -90, 90)
    radius = asked.number("radius", 0, MAX_RADIUS)
    ndet = asked.range("ndet", whole=True)
    return Filter(
        oids=() if is_pattern else oids,
        pattern=oids[0] if is_pattern else None,
        classifier=asked.text("classifier"),
        version=asked.text("classifier_version"),
        class_name=asked.text("class"),
        ranking=asked.whole("ranking"),
        probability=asked.number("probability"),
        ndet=ndet,
        firstmjd=asked.range("firstmjd"),
        lastmjd=asked.range("lastmjd"),
        cone=None if ra is None or dec is None else Cone(ra % 360, dec, CONE_RADIUS if radius is None else radius),
    )


def _order(asked: Parameters) -> str | None:
    name = asked.choice("order_by", ORDERS)
    return None if name is None else ORDERS[name]


def _object(item: Item) -> Item:
    values = item | {"deltajd": item["deltamjd"], "step_id_corr": STEP}
    values["ndethist"] = None if item["ndethist"] is None else str(item["ndethist"])
    return {name: values[name] for name in _OBJECT}


def _class(item: Item) -> Item:
    return {name: item[name] for name in ("class", "classifier", "probability")}


@router.get("/objects/limit_values", openapi_extra=examples.LIMIT_VALUES)
def limit_values(request: Request) -> Response:
    """Smallest and largest counts and first dates of all objects."""
    return reply(_state(request).index.limits())


@router.get("/objects/{oid}", openapi_extra=examples.OBJECT)
def single_object(request: Request, oid: str) -> Response:
    """One object: counts, dates, place, colours."""
    item = _state(request).index.object(oid)
    if item is None:
        raise NotFound(f"no object {oid}")
    return reply(_object(item))


# Light curves.


def _check_survey(request: Request, choices: tuple[str, ...] = ("ztf", "atlas")) -> str:
    asked = Parameters(request.query_params)
    survey = asked.choice("survey_id", choices, choices[0])
    asked.check()
    return survey or choices[0]


@router.get("/objects/{oid}/detections", openapi_extra=examples.DETECTIONS)
def detections(request: Request, oid: str) -> Response:
    """Detections of one object, by time. Fields without a value are left out."""
    if _check_survey(request) != "ztf":
        return reply(_nothing(request, oid, []))
    return _kept(request, "detections", oid, {"detections": DETECTION}, lambda rows: _detections(rows["detections"]))


@router.get("/objects/{oid}/non_detections", openapi_extra=examples.NON_DETECTIONS)
def non_detections(request: Request, oid: str) -> Response:
    """Upper limits of one object, by time; visits without a limit are left out."""
    if _check_survey(request) != "ztf":
        return reply(_nothing(request, oid, []))
    columns = {"non_detections": LIMIT}
    return _kept(request, "non_detections", oid, columns, lambda rows: _limits(rows["non_detections"]))


@router.get("/objects/{oid}/lightcurve", openapi_extra=examples.LIGHTCURVE)
def lightcurve(request: Request, oid: str) -> Response:
    """Detections and upper limits of one object."""
    if _check_survey(request) != "ztf":
        return reply(_nothing(request, oid, {"detections": [], "non_detections": []}))
    return _kept(
        request,
        "lightcurve",
        oid,
        {"detections": DETECTION, "non_detections": LIMIT},
        lambda rows: {
            "detections": _detections(rows["detections"]),
            "non_detections": _limits(rows["non_detections"]),
        },
    )


def _nothing(request: Request, oid: str, empty: Any) -> Any:
    """An empty reply about an object. Raises NotFound."""
    if _state(request).index.place(oid) is None:
        raise NotFound(f"no object {oid}")
    return empty


def _kept(
    request: Request,
    name: str,
    oid: str,
    columns: Mapping[str, Sequence[str]],
    make: Callable[[dict[str, pl.DataFrame]], Any],
) -> Response:
    body = _state(request).kept(name, oid, columns, lambda rows: orjson.dumps(make(rows)))
    return Response(body, media_type="application/json")


def _detections(rows: pl.DataFrame) -> list[Item]:
    fixed = {"tid": "ztf", "phase": 0.0, "step_id_corr": STEP}
    return [
        {name: value for name, value in row.items() if value is not None} | fixed | {"candid": str(row["candid"])}
        for row in rows.sort("mjd", "candid").iter_rows(named=True)
    ]


def _limits(rows: pl.DataFrame) -> list[Item]:
    return [{"tid": "ztf"} | row for row in rows.drop_nulls("diffmaglim").sort("mjd", "fid").iter_rows(named=True)]


@router.get("/objects/{oid}/magstats", openapi_extra=examples.MAGSTATS)
def magstats(request: Request, oid: str) -> Response:
    """Statistics of one object in each band."""
    return _kept(request, "magstats", oid, {"magstats": MAGSTAT}, lambda rows: _magstats(rows["magstats"]))


def _magstats(rows: pl.DataFrame) -> list[Item]:
    return [row | {"step_id_corr": STEP} for row in rows.sort("fid").iter_rows(named=True)]


@forced_router.get("/forced-photometry/{oid}", openapi_extra=examples.FORCED)
def forced_photometry(request: Request, oid: str) -> Response:
    """Forced photometry of one object, by time; measurements without a magnitude are left out."""
    if _check_survey(request, ("all", "ztf", "atlas")) == "atlas":
        return reply([])
    try:
        columns = {"forced_photometry": (*FORCED, *FORCED_EXTRA)}
        return _kept(request, "forced", oid, columns, lambda rows: _forced(rows["forced_photometry"]))
    except NotFound:
        return reply([])


def _forced(rows: pl.DataFrame) -> list[Item]:
    absent = {"tid": "ztf", "sid": None, "aid": None, "e_ra": None, "e_dec": None, "dubious": False, "has_stamp": False}
    found = []
    for row in rows.drop_nulls("mag").sort("mjd", "pid").iter_rows(named=True):
        values = {name: row[name] for name in FORCED} | absent | {"candid": f"{row['oid']}{row['pid']}"}
        # Clients join both by their common columns, so both have `pid`.
        found.append(values | {"extra_fields": {name: row[name] for name in ("pid", *FORCED_EXTRA)}})
    return found


# Classes and features.


@router.get("/objects/{oid}/probabilities", openapi_extra=examples.PROBABILITIES)
def probabilities(request: Request, oid: str) -> Response:
    """Probabilities of all classes by each classifier, best first."""
    asked = Parameters(request.query_params)
    classifier, version = asked.text("classifier"), asked.text("classifier_version")
    found = _state(request).index.probabilities(oid)
    if found is None:
        raise NotFound(f"no object {oid}")
    wanted = (classifier, "classifier_name"), (version, "classifier_version")
    return reply([row for row in found if all(value in (None, row[name]) for value, name in wanted)])


@router.get("/objects/{oid}/features", openapi_extra=examples.FEATURES)
def features(request: Request, oid: str) -> Response:
    """Features of the light curve of one object, the latest ones. `fid` 0: of the object, 12: of both bands."""
    return _features(request, oid, None)


@router.get("/objects/{oid}/features/{name:path}", openapi_extra=examples.FEATURES)
def feature(request: Request, oid: str, name: str) -> Response:
    """One feature of the light curve of one object, in each band where it is defined."""
    return _features(request, oid, name)


def _features(request: Request, oid: str, name: str | None) -> Response:
    asked = Parameters(request.query_params)
    fid, version = asked.whole("fid"), asked.text("version")
    asked.check()

    def make(rows: dict[str, pl.DataFrame]) -> list[Item]:
        return list(long(rows["features"], version))

    body = _state(request).kept(
        f"features {version}", oid, {"features": FEATURE_COLUMNS}, lambda rows: orjson.dumps(make(rows))
    )
    if name is None and fid is None:
        return Response(body, media_type="application/json")
    chosen = ((fid, "fid"), (name, "name"))
    return reply([row for row in orjson.loads(body) if all(v in (None, row[column]) for v, column in chosen)])


def long(rows: pl.DataFrame, version: str | None) -> Iterable[Item]:
    """The latest features, one row each, with ALeRCE's names: the band is `fid`, not a part of the name."""
    rows = rows.filter(pl.col("ndet_used") > 0)
    if version is not None:
        rows = rows.filter(pl.col("version") == version)
    for row in rows.sort("mjd", "version", "ndet_used", "candid").tail(1).iter_rows(named=True):
        for column in FEATURES:
            name, fid = _feature_name(column)
            yield {"name": name, "value": row[column], "fid": fid, "version": row["version"]}


def _feature_name(column: str) -> tuple[str, int]:
    if column not in OBJECT_FEATURES:
        name, _, band = column.rpartition("_")
        return name, int(band)
    return column, 12 if column.startswith(("g-r", "Multiband", "PPE", "Power_rate")) else 0


@router.get("/classifiers", openapi_extra=examples.CLASSIFIERS)
def classifiers(request: Request) -> Response:
    """Classifiers by name and version of their model, with their classes; the last of a name is the newest."""
    names = ("classifier_name", "classifier_version", "classes")
    return reply([dict(zip(names, found, strict=True)) for found in _state(request).index.classifiers()])


@router.get("/classifiers/{name}/{version}/classes", openapi_extra=examples.CLASSES)
def classes(request: Request, name: str, version: str) -> Response:
    """Classes of one version of a classifier."""
    for found in _state(request).index.classifiers():
        if (found.name, found.version) == (name, version):
            return reply([{"name": class_} for class_ in found.classes])
    raise NotFound(f"no classifier {name} {version}")
