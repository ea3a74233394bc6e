"""The methods of both clients, under ALeRCE's names: their requests, and the conversion of the answers.

A method is written once, as a generator: it yields batches of requests and receives their answers. The clients send
them.
"""

from __future__ import annotations

import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import httpx

from alerce_spark.client import formats
from alerce_spark.client.errors import CandidError, ClientError, ObjectNotFoundError
from alerce_spark.client.formats import Row
from alerce_spark.client.progress import Progress, reporter
from alerce_spark.client.sending import Request, get, path

#: Objects in one request for rows, and objects of a page of a list.
_AT_ONCE, _PAGE = 100, 5_000
_UNKNOWN, _HAS_NEXT = "x-unknown-oids", "x-has-next"
#: The name of no object.
_NOBODY = "-"
#: Number of unknown objects that a warning names.
_NAMED = 10
_STAMPS = {"science": "cutoutScience", "template": "cutoutTemplate", "difference": "cutoutDifference"}
#: Names that ALeRCE's catalogues have in requests.
_CATALOGS = {"2MASS": "TMASS", "2MASSxsc": "TMASSxsc", "GAIA/DR1": "GAIADR1", "GAIA/DR2": "GAIADR2"}
_CATALOGS |= {"SDSS/DR10": "SDSSDR10"}
_ZTF = "/ztf/v1/objects/{}"
#: Routes of one object.
_ONE = {
    **{kind: f"{_ZTF}/{kind}" for kind in ("detections", "non_detections", "magstats", "probabilities", "features")},
    "forced_photometry": "/v2/lightcurve/forced-photometry/{}",
}
#: The same of other surveys.
_OTHERS = {
    "detections": "/lightcurve_api/detections",
    "non_detections": "/lightcurve_api/non_detections",
    "forced_photometry": "/lightcurve_api/forced-photometry",
    "probabilities": "/probability_api/probability",
}

Oids = str | int | Iterable[str | int]


@dataclass(frozen=True)
class Batch:
    """Requests that may be sent in parallel; `done` is called with the number answered."""

    requests: Sequence[Request]
    done: Callable[[int], None] = lambda count: None


Steps = Generator[Batch, list[httpx.Response], Any]


class Queries(ABC):
    """Every method takes `format`: pandas, votable, json, csv, polars or arrow.

    `oid` may be a list in all methods about an object: rows then have the column `oid`, and a warning names unknown
    objects. Errors: APIError with its subclasses ParseError (an invalid parameter) and ObjectNotFoundError.
    """

    @abstractmethod
    def _run(self, steps: Steps) -> Any:
        """Send the requests of the steps and return their result, or (async) an awaitable."""

    # Objects.

    def query_objects(
        self,
        format: str = "pandas",
        index: str | None = None,
        sort: str | None = None,
        survey: str | None = "ztf",
        **parameters: Any,
    ) -> Any:
        """One page of the objects that meet `parameters`: oid, classifier, class_name, probability, ranking, ndet,
        firstmjd, lastmjd [least, most], ra, dec [deg], radius [arcsec], page, page_size, count, order_by, order_mode.

        As json with the server's data about the page; in other formats the objects alone.
        """
        return self._run(_objects(formats.checked(format), index, sort, _survey(survey), parameters))

    def query_all_objects(
        self,
        format: str = "pandas",
        index: str | None = None,
        sort: str | None = None,
        survey: str | None = "ztf",
        page_size: int = _PAGE,
        progress: Progress = None,
        **parameters: Any,
    ) -> Any:
        """All pages of `query_objects` as one list, without repeated or lost objects while the server's data grow."""
        walk = _all_objects(formats.checked(format), index, sort, _survey(survey), page_size, progress, parameters)
        return self._run(walk)

    def query_object(
        self, oid: Oids, format: str = "json", survey: str | None = "ztf", progress: Progress = None
    ) -> Any:
        """One object, or those of a list, in its order."""
        return self._run(_object(oid, formats.checked(format), _survey(survey), progress))

    # Rows of objects.

    def query_detections(
        self,
        oid: Oids,
        format: str = "json",
        survey: str | None = "ztf",
        index: str | None = None,
        sort: str | None = None,
        progress: Progress = None,
    ) -> Any:
        """Detections of an object, or of several."""
        return self._run(_rows("detections", oid, format, survey, index, sort, progress))

    def query_non_detections(
        self,
        oid: Oids,
        format: str = "json",
        survey: str | None = "ztf",
        index: str | None = None,
        sort: str | None = None,
        progress: Progress = None,
    ) -> Any:
        """Upper limits of an object, or of several."""
        return self._run(_rows("non_detections", oid, format, survey, index, sort, progress))

    def query_forced_photometry(
        self,
        oid: Oids,
        format: str = "json",
        survey: str | None = "ztf",
        index: str | None = None,
        sort: str | None = None,
        progress: Progress = None,
    ) -> Any:
        """Forced photometry of an object, or of several; no rows for an unknown one."""
        return self._run(_rows("forced_photometry", oid, format, survey, index, sort, progress))

    def query_magstats(
        self,
        oid: Oids,
        format: str = "json",
        survey: str | None = "ztf",
        index: str | None = None,
        sort: str | None = None,
        progress: Progress = None,
    ) -> Any:
        """Statistics of an object, or of several, in each band."""
        return self._run(_rows("magstats", oid, format, survey, index, sort, progress))

    def query_probabilities(
        self,
        oid: Oids,
        format: str = "json",
        survey: str | None = "ztf",
        index: str | None = None,
        sort: str | None = None,
        progress: Progress = None,
    ) -> Any:
        """Probabilities of all classes of an object, or of several."""
        return self._run(_rows("probabilities", oid, format, survey, index, sort, progress))

    def query_features(
        self,
        oid: Oids,
        format: str = "json",
        survey: str | None = "ztf",
        index: str | None = None,
        sort: str | None = None,
        progress: Progress = None,
    ) -> Any:
        """Features of the light curve of an object, or of several."""
        return self._run(_rows("features", oid, format, survey, index, sort, progress))

    def query_feature(
        self, oid: Oids, name: str, format: str = "json", survey: str | None = "ztf", progress: Progress = None
    ) -> Any:
        """One feature of an object, or of several, in each band where it is defined."""
        return self._run(_feature(oid, name, format, survey, progress))

    def query_lightcurve(
        self, oid: Oids, format: str = "json", survey: str | None = "ztf", progress: Progress = None
    ) -> Any:
        """Detections and upper limits of an object as in ALeRCE's client: json, pandas and csv have one row of two
        lists. The other formats, and all formats for several objects, are two tables by name.
        """
        return self._run(_lightcurve(oid, formats.checked(format), _survey(survey), progress))

    # Classifiers.

    def query_classifiers(self, format: str = "json", survey: str | None = "ztf") -> Any:
        """Classifiers by name and version of their model, with their classes."""
        return self._run(_list("/ztf/v1/classifiers", formats.checked(format), survey))

    def query_classes(
        self, classifier_name: str, classifier_version: str, format: str = "json", survey: str | None = "ztf"
    ) -> Any:
        """Classes of one version of a classifier."""
        route = path("/ztf/v1/classifiers/{}/{}/classes", classifier_name, classifier_version)
        return self._run(_list(route, formats.checked(format), survey))

    # Catalogues.

    def catshtm_conesearch(
        self, ra: float, dec: float, radius: float, catalog_name: str = "all", format: str = "pandas"
    ) -> Any:
        """Sources within `radius` arcsec of a position [deg]: of all catalogues by name, or of one (None if empty)."""
        return self._run(_cone(ra, dec, radius, catalog_name, formats.checked(format)))

    def catshtm_crossmatch(
        self, ra: float, dec: float, radius: float, catalog_name: str = "all", format: str = "pandas"
    ) -> Any:
        """The source nearest to a position [deg] within `radius` arcsec: of all catalogues by name, or of one."""
        return self._run(_nearest(ra, dec, radius, catalog_name, formats.checked(format)))

    def catshtm_redshift(
        self, ra: float, dec: float, radius: float, format: str = "votable", verbose: bool = False
    ) -> Any:
        """A redshift within `radius` arcsec of a position [deg]: spectroscopic, else photometric, or None."""
        return self._run(_redshift(ra, dec, radius, verbose))

    # Stamps and packets.

    def get_stamps(
        self,
        oid: str | int,
        candid: int | str | None = None,
        measurement_id: int | str | None = None,
        format: str = "HDUList",
        survey: str | None = "ztf",
    ) -> Any:
        """Science, template and difference stamps of an alert (default: the first with stamps), as an HDUList of FITS
        or as `numpy` arrays.
        """
        return self._run(_stamps(oid, candid or measurement_id, format, _survey(survey)))

    def get_avro(self, oid: str | int, candid: int | str | None = None, survey: str | None = "ztf") -> Any:
        """The packet of an alert (default: the first with stamps), as bytes."""
        return self._run(_avro(oid, candid, _survey(survey)))

    def plot_stamps(
        self, oid: str | int, candid: int | str | None = None, measurement_id: int | str | None = None
    ) -> Any:
        """Show the stamps of an alert (default: the first with stamps) in a notebook."""
        return self._run(_plot(self.url, oid, candid or measurement_id))

    # SQL.

    def get_sql(self, params: dict[str, Any]) -> Any:
        """The SQL of a query in the words of ALeRCE's first client, for an index in PostgreSQL.

        params: {"query_parameters": {"filters": {oid, nobs {min, max}, classrf, pclassrf, classearly, pclassearly},
        "coordinates": {ra, dec, sr [deg]}, "dates": {"firstmjd": {min, max}}}, records_per_pages, page, sortBy}.
        """
        return self._run(_sql(params))

    #: Address of the server.
    url: str


def _survey(survey: str | None) -> str:
    return (survey or "ztf").lower()


def _list_of(oid: Oids) -> list[str] | None:
    """Objects of a list, each once; None for one object."""
    if isinstance(oid, (str, int)):
        return None
    return list(dict.fromkeys(map(str, oid)))


def _filters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters with the server's names."""
    return {"class" if name == "class_name" else name: value for name, value in parameters.items()}


def _one_of(request: Request) -> Generator[Batch, list[httpx.Response], httpx.Response]:
    (answer,) = yield Batch([request])
    return answer


def _only_ztf(survey: str | None, what: str) -> None:
    if _survey(survey) != "ztf":
        raise ClientError(f"{what} of {survey} cannot be had from this server; there are those of ztf")


# Objects.


def _objects(form: str, index: str | None, sort: str | None, survey: str, parameters: dict[str, Any]) -> Steps:
    answer = yield from _one_of(_page(form, survey, parameters))
    if form in formats.TYPED and survey == "ztf":
        return formats.of_arrow(formats.arrow_of([answer.content]), form)
    body = answer.json()
    return body if form == "json" else formats.of_rows(body["items"], form, index, sort)


def _page(form: str, survey: str, parameters: dict[str, Any], agent: str | None = None) -> Request:
    headers = {"User-Agent": agent} if agent else {}
    if survey != "ztf":
        return get("/object_api/list_objects", headers, survey=survey, **parameters)
    typed = {"format": "arrow"} if form in formats.TYPED else {}
    return get("/ztf/v1/objects", headers, **_filters(parameters), **typed)


def _all_objects(
    form: str,
    index: str | None,
    sort: str | None,
    survey: str,
    size: int,
    progress: Progress,
    parameters: dict[str, Any],
) -> Steps:
    # The server remembers the rows of a list that it sent to a client. A unique name makes each walk a client.
    agent = f"alerce-spark-client {uuid.uuid4()}"
    rows: list[Row] = []
    tables: list[bytes] = []
    seen, page, has_next, report = 0, 1, True, None
    while has_next:
        asked = {**parameters, "page": page, "page_size": size, "count": page == 1}
        answer = yield from _one_of(_page(form, survey, asked, agent))
        if form in formats.TYPED and survey == "ztf":
            tables.append(answer.content)
            seen += formats.arrow_of(tables[-1:]).num_rows
            has_next, total = answer.headers[_HAS_NEXT] == "true", answer.headers.get("x-total")
        else:
            body = answer.json()
            rows += body["items"]
            seen, has_next, total = len(rows), body["has_next"], body["total"]
        if report is None:
            whole = max(int(total or 0), seen)
            report = reporter(progress, "objects", whole, 2 if has_next else 1)
        report(seen, max(whole, seen + has_next))
        page += 1
    if tables:
        return formats.of_arrow(formats.arrow_of(tables), form)
    return formats.of_rows(rows, form, index, sort)


def _object(oid: Oids, form: str, survey: str, progress: Progress) -> Steps:
    oids, typed = _list_of(oid), form in formats.TYPED and survey == "ztf"
    if oids is None and not typed:
        other = get("/object_api/object", oid=oid, survey_id=survey)
        answer = yield from _one_of(get(path(_ZTF, oid)) if survey == "ztf" else other)
        return formats.of_rows(answer.json(), form)
    _only_ztf(survey, "lists of objects")
    names = [str(oid)] if oids is None else oids
    parts = _parts(names)
    requests = [_page(form, survey, {"oid": part, "page_size": len(part)}) for part in parts]
    answers = yield Batch(requests, _counted(progress, "objects", parts))
    if typed:
        table = formats.arrow_of([answer.content for answer in answers])
        found = table["oid"].to_pylist()
    else:
        rows = [row for answer in answers for row in answer.json()["items"]]
        found = [row["oid"] for row in rows]
    known = set(found)
    missing = [name for name in names if name not in known]
    if oids is None and missing:
        raise ObjectNotFoundError(f"no object {oid}", 404)
    _warn(names, missing)
    return formats.of_arrow(table, form) if typed else formats.of_rows(rows, form)


# Rows of objects.


def _rows(
    kind: str,
    oid: Oids,
    form: str,
    survey: str | None,
    index: str | None = None,
    sort: str | None = None,
    progress: Progress = None,
    quiet: bool = False,
) -> Steps:
    form, survey = formats.checked(form), _survey(survey)
    if survey != "ztf":
        return (yield from _rows_of_others(kind, oid, form, survey, index, sort))
    oids = _list_of(oid)
    if oids is None and form not in formats.TYPED:
        answer = yield from _one_of(get(path(_ONE[kind], oid)))
        rows = answer.json()
        if kind == "forced_photometry":
            rows = [_flat(row) for row in rows]
        return formats.of_rows(rows, form, index, sort)
    return (yield from _bulk(kind, oid, oids, form, index, sort, progress, quiet))


def _flat(row: Row) -> Row:
    """A row of forced photometry in the form of ALeRCE's client."""
    own = {name: value for name, value in row.items() if name not in ("extra_fields", "aid", "sid")}
    return own | row["extra_fields"]


def _bulk(
    kind: str,
    oid: Oids,
    oids: list[str] | None,
    form: str,
    index: str | None = None,
    sort: str | None = None,
    progress: Progress = None,
    quiet: bool = False,
) -> Steps:
    parts = _parts([str(oid)] if oids is None else oids)
    typed = form in formats.TYPED
    if not parts and typed:  # the server gives the columns of a table without rows
        parts, quiet = [[_NOBODY]], True
    requests = [get(f"/bulk/{kind}", oid=part, format="arrow" if typed else "json") for part in parts]
    if not requests:
        return formats.of_rows([], form)
    answers = yield Batch(requests, _counted(progress, kind.replace("_", " "), parts))
    missing = [name for answer in answers for name in _unknown(answer)]
    if oids is None and missing and kind != "forced_photometry":
        raise ObjectNotFoundError(f"no object {oid}", 404)
    if oids is not None and not quiet:
        _warn(oids, missing)
    if typed:
        return formats.of_arrow(formats.arrow_of([answer.content for answer in answers]), form)
    return formats.of_rows([row for answer in answers for row in answer.json()], form, index, sort)


def _rows_of_others(kind: str, oid: Oids, form: str, survey: str, index: str | None, sort: str | None) -> Steps:
    if kind not in _OTHERS:
        _only_ztf(survey, kind)
    parts = _parts(_list_of(oid) or [str(oid)])
    answers = yield Batch([get(_OTHERS[kind], oid=part, survey_id=survey) for part in parts])
    rows = [_band(row) for answer in answers for row in answer.json()]
    return formats.of_rows(rows, form, index, sort)


def _band(row: Row) -> Row:
    """A row with the name of its band instead of the names of all."""
    if "band_map" not in row:
        return row
    return {name: v for name, v in row.items() if name != "band_map"} | {"band_name": row["band_map"][str(row["band"])]}


def _feature(oid: Oids, name: str, form: str, survey: str | None, progress: Progress) -> Steps:
    form = formats.checked(form)
    _only_ztf(survey, "features")
    oids = _list_of(oid)
    if oids is None and form not in formats.TYPED:
        answer = yield from _one_of(get(path(_ONE["features"] + "/{}", oid, name)))
        return formats.of_rows(answer.json(), form)
    own = form if form in formats.TYPED else "json"
    found = yield from _bulk("features", oid, oids, own, progress=progress)
    if form == "polars":
        return found.filter(found["name"] == name)
    if form == "arrow":
        import pyarrow.compute as pc

        return found.filter(pc.equal(found["name"], name))
    return formats.of_rows([row for row in found if row["name"] == name], form)


def _lightcurve(oid: Oids, form: str, survey: str, progress: Progress) -> Steps:
    if survey != "ztf":
        parts = _parts(_list_of(oid) or [str(oid)])
        answers = yield Batch([get("/lightcurve_api/lightcurve", oid=part, survey_id=survey) for part in parts])
        kinds = {name: [_band(row) for answer in answers for row in answer.json()[name]] for name in answers[0].json()}
        return kinds if form == "json" else {name: formats.of_rows(rows, form) for name, rows in kinds.items()}
    oids = _list_of(oid)
    if oids is None and form not in (*formats.TYPED, "votable"):
        answer = yield from _one_of(get(path(_ZTF + "/lightcurve", oid)))
        return formats.of_rows(answer.json(), form)
    found: dict[str, Any] = {}
    for kind in ("detections", "non_detections"):
        found[kind] = yield from _rows(kind, oid, form, survey, progress=progress, quiet=bool(found))
    return found


def _parts(oids: Sequence[str]) -> list[list[str]]:
    return [list(oids[begin : begin + _AT_ONCE]) for begin in range(0, len(oids), _AT_ONCE)]


def _counted(progress: Progress, what: str, parts: list[list[str]]) -> Callable[[int], None]:
    """Reports the number of objects done, from the number of parts done."""
    total = sum(map(len, parts))
    report = reporter(progress, f"{what} of objects", total, len(parts))
    return lambda count: report(min(count * _AT_ONCE, total), total)


class UnknownObjects(UserWarning):
    """Some objects of a list are unknown."""


def _unknown(answer: httpx.Response) -> list[str]:
    text = answer.headers.get(_UNKNOWN, "")
    return [unquote(name) for name in text.split(",")] if text else []


def _warn(oids: Sequence[str], missing: Sequence[str]) -> None:
    if missing:
        named = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
        warnings.warn(f"{len(missing)} of {len(oids)} objects are not there: {named}", UnknownObjects, stacklevel=5)


# Classifiers and catalogues.


def _list(route: str, form: str, survey: str | None) -> Steps:
    _only_ztf(survey, "classifiers")
    answer = yield from _one_of(get(route))
    return formats.of_rows(answer.json(), form)


def _cone(ra: float, dec: float, radius: float, name: str, form: str) -> Steps:
    place = {"ra": ra, "dec": dec, "radius": radius}
    if name == "all":
        answer = yield from _one_of(get("/conesearch_all", **place))
        return _catalogs(answer.json()["catalogs"], form)
    answer = yield from _one_of(get("/conesearch", catalog=_CATALOGS.get(name, name), **place))
    found = answer.json()
    return next((formats.catalog(key, columns, form) for key, columns in found.items()), None)


def _nearest(ra: float, dec: float, radius: float, name: str, form: str) -> Steps:
    place = {"ra": ra, "dec": dec, "radius": radius}
    if name == "all":
        answer = yield from _one_of(get("/crossmatch_all", **place))
        return _catalogs(answer.json(), form)
    answer = yield from _one_of(get("/crossmatch", catalog=_CATALOGS.get(name, name), **place))
    return formats.catalog(name, answer.json(), form)


def _catalogs(found: Sequence[dict[str, Any]], form: str) -> dict[str, Any]:
    return {key: formats.catalog(key, columns, form) for one in found for key, columns in one.items() if columns}


def _redshift(ra: float, dec: float, radius: float, verbose: bool) -> Steps:
    found = yield from _nearest(ra, dec, radius, "all", "json")
    for names in (("z",), ("zphot", "z_phot")):
        for catalog, columns in found.items():
            for name in names:
                value = columns.get(name, {}).get("value")
                if value is not None:
                    if verbose:
                        print(f"Redshift found: {catalog}[{name}]")  # noqa: T201  as ALeRCE's client
                    return float(value)
    if verbose:
        print("No redshift found.")  # noqa: T201
    return None


# Stamps and packets.


def _first(oid: str | int) -> Generator[Batch, list[httpx.Response], str]:
    """The first alert of an object that has stamps."""
    answer = yield from _one_of(get(path(_ONE["detections"], oid)))
    candids = [int(row["candid"]) for row in answer.json() if row["has_stamp"]]
    if not candids:
        raise CandidError(f"no alert of {oid} has stamps")
    return str(min(candids))


def _stamps(oid: str | int, candid: int | str | None, form: str, survey: str) -> Steps:
    if candid is None:
        _only_ztf(survey, "the first stamps")
        candid = yield from _first(oid)
    if survey == "ztf":
        requests = [get("/get_stamp", oid=oid, candid=candid, type=kind, format="fits") for kind in _STAMPS]
    else:
        about = {"oid": oid, "measurement_id": candid, "survey_id": survey, "file_format": "fits"}
        requests = [get("/stamps_api/stamp", **about, stamp_type=field) for field in _STAMPS.values()]
    answers = yield Batch(requests)
    images = [formats.stamp(answer.content, kind) for kind, answer in zip(_STAMPS, answers, strict=True)]
    if form == "numpy":
        return [image.data.copy() for image in images]
    from astropy.io.fits import HDUList

    found = HDUList()
    for image in images:
        found.append(image)  # which makes extensions of all but the first
    return found


def _avro(oid: str | int, candid: int | str | None, survey: str) -> Steps:
    _only_ztf(survey, "packets")
    if candid is None:
        candid = yield from _first(oid)
    answer = yield from _one_of(get("/get_avro", oid=oid, candid=candid))
    return answer.content


def _plot(url: str, oid: str | int, candid: int | str | None) -> Steps:
    if candid is None:
        candid = yield from _first(oid)
    try:
        from IPython.display import HTML, display
    except ImportError:
        raise ClientError("stamps are shown in a notebook; get_stamps gives them elsewhere") from None
    addresses = [f"{url}/get_stamp?oid={oid}&candid={candid}&type={kind}&format=png" for kind in _STAMPS]
    images = "".join(f'<img src="{address}" style="width:20%">' for address in addresses)
    display(HTML(f"<div>ZTF oid: {oid}, candid: {candid}</div><div>{images}</div>"))
    return None


def _sql(params: dict[str, Any]) -> Steps:
    answer = yield from _one_of(Request("/get_sql", method="POST", body=params))
    return answer.text
