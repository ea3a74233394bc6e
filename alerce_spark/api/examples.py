"""Texts of the OpenAPI page for each route: its parameters, an example of a reply, and its errors."""

from __future__ import annotations

from typing import Any

Extra = dict[str, Any]


def _parameter(name: str, kind: str, meaning: str, *, repeated: bool = False, choices: tuple[str, ...] = ()) -> Extra:
    schema: Extra = {"type": kind} | ({"enum": list(choices)} if choices else {})
    if repeated:
        schema = {"type": "array", "items": schema}
    return {"name": name, "in": "query", "description": meaning, "schema": schema, "required": False}


def _needed(parameter: Extra) -> Extra:
    return parameter | {"required": True}


def _json(example: Any) -> Extra:
    return {"application/json": {"schema": {}, "example": example}}


def _of(example: Any, *parameters: Extra, errors: tuple[int, ...] = (), content: Extra | None = None) -> Extra:
    """A route that replies with JSON like `example`, or with other content."""
    known = {
        400: ("A parameter cannot be used", _FAILED | {"errors": {"order_by": "'size' is not a valid choice; …"}}),
        404: ("There is no such thing", {"message": "no object ZTF99aaaaaaa", "detail": "no object ZTF99aaaaaaa"}),
    }
    responses: Extra = {"200": {"description": "What was asked for", "content": content or _json(example)}}
    for status in errors:
        meaning, body = known[status]
        responses[str(status)] = {"description": meaning, "content": _json(body)}
    return {"responses": responses} | ({"parameters": list(parameters)} if parameters else {})


_FAILED = {"message": "Input payload validation failed", "detail": "order_by: 'size' is not a valid choice; …"}
_OBJECT = {
    **{"oid": "ZTF20aaelulu", "ndethist": "1052", "ncovhist": 1523, "mjdstarthist": 58234.2, "mjdendhist": 58899.1},
    **{"corrected": False, "stellar": False, "ndet": 48, "g_r_max": -0.41, "g_r_max_corr": -0.38, "g_r_mean": 0.32},
    **{"g_r_mean_corr": 0.35, "firstmjd": 58855.5, "lastmjd": 58972.3, "deltajd": 116.8, "meanra": 185.728865},
    **{"meandec": 15.823615, "sigmara": 1.2e-05, "sigmadec": 9.8e-06, "step_id_corr": "alerce_spark"},
}
_ITEM = _OBJECT | {"class": "SNIbc", "classifier": "lc_classifier", "probability": 0.512}
_DETECTION = {
    **{"tid": "ztf", "mjd": 58972.3, "candid": "1231314561015015003", "fid": 1, "pid": 1231314561015, "isdiffpos": 1},
    **{"magpsf": 18.41, "sigmapsf": 0.07, "ra": 185.72886, "dec": 15.82361, "rb": 0.91, "has_stamp": True},
    **{"corrected": False, "dubious": False, "diffmaglim": 20.1, "phase": 0.0, "step_id_corr": "alerce_spark"},
}
_LIMIT = {"tid": "ztf", "mjd": 58970.3, "fid": 2, "diffmaglim": 20.4}
_SURVEY = _parameter("survey_id", "string", "Survey; of others there is nothing", choices=("ztf", "atlas"))
_CANDID = _needed(_parameter("candid", "string", "Alert"))
_OID = _parameter("oid", "string", "Object; a packet of another one is not found")

OBJECTS = _of(
    {"total": None, "page": 1, "next": 2, "has_next": True, "prev": None, "has_prev": False, "items": [_ITEM]},
    _parameter("oid", "string", "Objects, in this order; one alone may hold * for any letters", repeated=True),
    _parameter("classifier", "string", "Name of a classifier"),
    _parameter("classifier_version", "string", "Version of its model"),
    _parameter("class", "string", "Class"),
    _parameter("ranking", "integer", "Rank of the class; 1 where classifier, version or class are given"),
    _parameter("probability", "number", "Least probability of the class"),
    _parameter("ndet", "integer", "Detections: the least, then the most", repeated=True),
    _parameter("firstmjd", "number", "First detection [d]: the earliest, then the latest", repeated=True),
    _parameter("lastmjd", "number", "Last detection [d]: the earliest, then the latest", repeated=True),
    _parameter("ra", "number", "Right ascension of a cone [deg]"),
    _parameter("dec", "number", "Declination of a cone [deg]"),
    _parameter("radius", "number", "Radius of a cone [arcsec], 30 by default, up to 36000"),
    _parameter("page", "integer", "Page, from 1"),
    _parameter("page_size", "integer", "Objects of a page, 10 by default, up to 100000"),
    _parameter("count", "boolean", "Whether to count all; up to 50001"),
    _parameter(
        "order_by", "string", "Column of the reply, or class_name, classifier_name, classifier_version, ranking"
    ),
    _parameter("order_mode", "string", "Direction", choices=("ASC", "DESC")),
    errors=(400,),
)
LIMIT_VALUES = _of({"min_ndet": 1, "max_ndet": 1042, "min_firstmjd": 58239.1, "max_firstmjd": 59134.4})
OBJECT = _of(_OBJECT, errors=(404,))
DETECTIONS = _of([_DETECTION], _SURVEY, errors=(400, 404))
NON_DETECTIONS = _of([_LIMIT], _SURVEY, errors=(400, 404))
LIGHTCURVE = _of({"detections": [_DETECTION], "non_detections": [_LIMIT]}, _SURVEY, errors=(400, 404))
MAGSTATS = _of(
    [
        {
            **{"fid": 1, "stellar": False, "corrected": False, "ndet": 22, "ndubious": 0, "magmean": 18.6},
            **{"magmedian": 18.5, "magmax": 19.9, "magmin": 17.8, "magsigma": 0.4, "maglast": 19.9, "magfirst": 19.1},
            **{"firstmjd": 58855.5, "lastmjd": 58970.4, "step_id_corr": "alerce_spark"},
        }
    ],
    errors=(404,),
)
FORCED = _of(
    [
        {
            **{"candid": "ZTF20aaelulu1231314561015", "tid": "ztf", "sid": None, "aid": None, "pid": 1231314561015},
            **{"oid": "ZTF20aaelulu", "mjd": 58972.3, "fid": 1, "ra": 185.72886, "dec": 15.82361, "e_ra": None},
            **{"e_dec": None, "mag": 18.4, "e_mag": 0.06, "mag_corr": None, "e_mag_corr": None},
            **{"e_mag_corr_ext": None, "isdiffpos": 1, "corrected": False, "dubious": False},
            **{"parent_candid": 1231314561015015003, "has_stamp": False, "extra_fields": {"pid": 1231314561015}},
        }
    ],
    _SURVEY | {"schema": {"type": "string", "enum": ["all", "ztf", "atlas"]}},
    errors=(400,),
)
PROBABILITIES = _of(
    [
        {
            **{"classifier_name": "lc_classifier", "classifier_version": "20261001.1", "class_name": "SNIbc"},
            **{"probability": 0.512, "ranking": 1},
        }
    ],
    _parameter("classifier", "string", "Only this classifier"),
    _parameter("classifier_version", "string", "Only this version"),
    errors=(404,),
)
FEATURES = _of(
    [{"name": "Amplitude", "value": 0.83, "fid": 1, "version": "1.0.0"}],
    _parameter("fid", "integer", "Band: 1 g, 2 r, 12 both, 0 of the object"),
    _parameter("version", "string", "Version of the features; the latest by default"),
    errors=(400, 404),
)
CLASSIFIERS = _of(
    [{"classifier_name": "stamp_classifier", "classifier_version": "bootstrap-1.0.0", "classes": ["AGN", "SN"]}]
)
CLASSES = _of([{"name": "AGN"}, {"name": "SN"}], errors=(404,))
_FILE: Extra = {"schema": {"type": "string", "format": "binary"}}
STAMP = _of(
    None,
    _CANDID,
    _OID,
    _needed(_parameter("type", "string", "Which stamp", choices=("science", "template", "difference"))),
    _needed(_parameter("format", "string", "Picture or gzipped FITS", choices=("png", "fits"))),
    errors=(400, 404),
    content={"image/png": _FILE, "application/fits+gzip": _FILE},
)
AVRO = _of(None, _CANDID, _OID, errors=(400, 404), content={"application/avro+binary": _FILE})
AVRO_INFO = _of(
    {"objectId": "ZTF20aaelulu", "candidate": {"candid": "1231314561015015003", "magpsf": 18.41}},
    _CANDID,
    _OID,
    _parameter("field", "string", "Only this field, as candidate.magpsf"),
    errors=(400, 404),
)


_QUERY = {
    **{"records_per_pages": 20, "page": 1, "sortBy": "nobs"},
    "query_parameters": {
        "filters": {"nobs": {"min": 6, "max": 40}, "classrf": "SNIa", "pclassrf": 0.5},
        "coordinates": {"ra": 185.7, "dec": 15.8, "sr": 0.5},
        "dates": {"firstmjd": {"min": 58855.0}},
    },
}
_SQL = (
    "SELECT object.*\nFROM alerce.object\nWHERE object.ndet >= 6\n"
    "ORDER BY object.ndet DESC, object.oid\nLIMIT 20 OFFSET 0"
)
GET_SQL = _of(None, errors=(400,), content={"text/plain": {"schema": {"type": "string"}, "example": _SQL}})
GET_SQL["requestBody"] = {"content": _json(_QUERY)}


# Many objects.

_FORMAT = _parameter(
    "format", "string", "Form of the reply; else the header Accept tells", choices=("json", "arrow", "parquet")
)
_OIDS = _needed(_parameter("oid", "string", "Objects, up to 500", repeated=True))
_TABLES: Extra = {"application/vnd.apache.arrow.stream": _FILE, "application/vnd.apache.parquet": _FILE}
OBJECTS["parameters"].append(_FORMAT)
OBJECTS["responses"]["200"]["content"] |= _TABLES


def _bulk(of_one: Extra) -> Extra:
    """A route that returns for many objects the data of another route for one object."""
    content = of_one["responses"]["200"]["content"]["application/json"]
    rows = [
        {"oid": "ZTF20aaelulu"} | {k: v for k, v in row.items() if k != "extra_fields"} for row in content["example"]
    ]
    return _of(None, _OIDS, _FORMAT, errors=(400,), content=_json(rows) | _TABLES)


BULK = {
    "detections": _bulk(DETECTIONS),
    "non_detections": _bulk(NON_DETECTIONS),
    "forced_photometry": _bulk(FORCED),
    "features": _bulk(FEATURES),
    "magstats": _bulk(MAGSTATS),
    "probabilities": _bulk(PROBABILITIES),
}


# Multi-survey.

_MS_SURVEY = _needed(_parameter("survey_id", "string", "Survey", choices=("ztf", "lsst")))
_MS_OIDS = _needed(_parameter("oid", "string", "Objects, up to 200", repeated=True))
_MS_OBJECT = {
    **{"oid": "ZTF20aaelulu", "tid": 0, "sid": 0, "meanra": 185.728865, "meandec": 15.823615, "sigmara": 1.2e-05},
    **{"sigmadec": 9.8e-06, "firstmjd": 58855.5, "lastmjd": 58972.3, "deltamjd": 116.8, "n_det": 48},
    **{"n_forced": None, "n_non_det": None},
}
_MS_CLASS = {
    **{"class_name": "SNIbc", "classifier_name": "lc_classifier", "classifier_version": "20261001.1"},
    **{"probability": 0.512, "ranking": 1},
}
_MS_ROW = {
    **{"oid": "ZTF20aaelulu", "survey_id": "ztf", "measurement_id": "1231314561015015003", "mjd": 58972.3, "band": 1},
    **{"band_map": {"1": "g", "2": "r", "3": "i"}, "magpsf": 18.41, "sigmapsf": 0.07, "ra": 185.72886, "dec": 15.82361},
}
LIST_OBJECTS = _of(
    {
        **{"total": None, "next": 2, "has_next": True, "prev": None, "has_prev": False, "current_page": 1},
        **{"info_message": None, "items": [_MS_OBJECT | _MS_CLASS]},
    },
    _needed(_parameter("survey", "string", "Survey", choices=("ztf", "lsst"))),
    _parameter("oid", "string", "Objects", repeated=True),
    _parameter("classifier", "string", "Name of a classifier"),
    _parameter("class_name", "string", "Class"),
    _parameter("ranking", "integer", "Rank of the class"),
    _parameter("probability", "number", "Least probability of the class"),
    _parameter("n_det", "integer", "Detections: the least, then the most", repeated=True),
    _parameter("firstmjd", "number", "First detection [d]: the earliest, then the latest", repeated=True),
    _parameter("lastmjd", "number", "Last detection [d]: the earliest, then the latest", repeated=True),
    _parameter("ra", "number", "Right ascension of a cone [deg]"),
    _parameter("dec", "number", "Declination of a cone [deg]"),
    _parameter("radius", "number", "Radius of a cone [arcsec], 30 by default"),
    _parameter("page", "integer", "Page, from 1"),
    _parameter("page_size", "integer", "Objects of a page"),
    _parameter("count", "boolean", "Whether to count all; up to 50001"),
    _parameter("order_by", "string", "Column of the reply; probability by default"),
    _parameter("order_mode", "string", "Direction", choices=("ASC", "DESC")),
)
MS_OBJECT = _of(_MS_OBJECT | {"created_date": None, "updated_date": None}, _MS_SURVEY, _MS_OIDS, errors=(404,))
MS_ROWS = _of([_MS_ROW], _MS_SURVEY, _MS_OIDS)
MS_LIGHTCURVE = _of({"detections": [_MS_ROW], "non_detections": [], "forced_photometry": []}, _MS_SURVEY, _MS_OIDS)
_MEASUREMENT = _needed(_parameter("measurement_id", "string", "Alert"))
MS_STAMP = _of(
    None,
    _MEASUREMENT,
    _OID,
    _needed(
        _parameter(
            "stamp_type", "string", "Which stamp", choices=("cutoutScience", "cutoutTemplate", "cutoutDifference")
        )
    ),
    _parameter("file_format", "string", "Picture or gzipped FITS", choices=("png", "fits")),
    errors=(404,),
    content={"image/png": _FILE, "application/fits+gzip": _FILE},
)
MS_AVRO = _of(
    {"objectId": "ZTF20aaelulu", "candidate": {"candid": "1231314561015015003"}}, _MEASUREMENT, _OID, errors=(404,)
)

# Catalogues.

_PLACE = (
    _needed(_parameter("ra", "number", "Right ascension [deg]")),
    _needed(_parameter("dec", "number", "Declination [deg]")),
    _parameter("radius", "number", "Radius [arcsec], up to 3600; that of the catalogue by default"),
)
_CATALOG = _needed(_parameter("catalog", "string", "Name of a catalogue of the lake"))
_CONE = {"RA": {"units": "deg", "values": [185.7288]}, "Dec": {"units": "deg", "values": [15.8236]}}
_NEAREST = {"RA": {"unit": "deg", "value": 185.7288}, "distance": {"unit": "arcsec", "value": 0.41}}
CATSHTM_CONE = _of({"allwise": _CONE}, _CATALOG, *_PLACE, errors=(400,))
CATSHTM_CONE_ALL = _of({"catalogs": [{"allwise": _CONE}]}, *_PLACE, errors=(400,))
CATSHTM_NEAREST = _of(_NEAREST, _CATALOG, *_PLACE, errors=(400,))
CATSHTM_NEAREST_ALL = _of([{"allwise": _NEAREST}], *_PLACE, errors=(400,))
SCS = _of(
    None,
    _needed(_parameter("RA", "number", "Right ascension [deg]")),
    _needed(_parameter("DEC", "number", "Declination [deg]")),
    _needed(_parameter("SR", "number", "Radius [deg], up to 10; 0 gives the columns alone")),
    _parameter("MAXREC", "integer", "Objects at the most"),
    _parameter("VERB", "integer", "1: id and place, 2 and 3: all columns"),
    content={"application/x-votable+xml": _FILE},
)
TAP = _of(
    None,
    _needed(_parameter("QUERY", "string", "One SELECT in ADQL; tables are listed in TAP_SCHEMA.tables")),
    _parameter("LANG", "string", "Language of the query", choices=("ADQL",)),
    _parameter("MAXREC", "integer", "Rows at the most"),
    _parameter("RESPONSEFORMAT", "string", "Form of the result", choices=("votable", "csv", "json", "parquet")),
    content={"application/x-votable+xml": _FILE},
)
MOC = _of(
    None,
    _parameter("format", "string", "Form of the map", choices=("fits", "json")),
    _parameter("order", "integer", "HEALPix order of the map, 3 to 12"),
    errors=(400,),
    content={"application/fits": _FILE},
)
XMATCH = {
    "responses": {
        "202": {
            "description": "The job was taken",
            "content": _json({"job": "5f1c…", "state": "running", "result": "/xmatch/5f1c…"}),
        },
        "400": {"description": "A parameter or the file cannot be used", "content": _json(_FAILED)},
    }
}
XMATCH_RESULT = _of({"job": "5f1c…", "state": "running"}, errors=(404,))
CHART = _of(
    None,
    _CANDID,
    _OID,
    _parameter("format", "string", "Form of the page", choices=("pdf", "png")),
    errors=(400, 404),
    content={"application/pdf": _FILE, "image/png": _FILE},
)
_TNS_ROW = {
    **{"objid": 48999, "ra": 185.728875, "declination": 15.823611, "name_prefix": "SN", "name": "2020oi"},
    **{"redshift": 0.0052, "type": "SN Ic", "internal_names": "ZTF20aaelulu", "separation": 0.04},
}
_TNS_STEP = {
    **{"oid": "ZTF20aaelulu", "bot": "a_bot", "number": 1, "state": "approved", "who": "a.person", "via": None},
    **{"report_id": None, "name": None, "note": None, "at": "2026-12-01T02:00:00.000+00:00"},
}
TNS_NEAREST = _of({"object_name": "2020oi", "object_type": "SN Ic", "object_data": _TNS_ROW})
TNS_SEARCH = _of(
    {"source": "catalogue", "items": [_TNS_ROW]},
    _parameter("ra", "number", "Right ascension [deg]"),
    _parameter("dec", "number", "Declination [deg]"),
    _parameter("radius", "number", "Radius [arcsec], 3 by default, up to 60"),
    _parameter("name", "string", "Name of an object, with or without AT or SN, or one of its internal names"),
    _parameter("remote", "boolean", "Ask TNS itself where the catalogue has nothing; its limits are told as 429"),
    errors=(400,),
)
TNS_REPORTS = _of([_TNS_STEP])
TNS_REPORT = _of({"steps": [_TNS_STEP], "report": {"internal_name": "ZTF20aaelulu"}}, errors=(404,))
TNS_STEP = _of(_TNS_STEP, errors=(400,))
