"""Cross-match of a list of positions with the objects: upload, job, result."""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from astropy.table import Table
from fastapi import APIRouter, File, Form, Request, UploadFile
from polars.exceptions import PolarsError
from starlette.responses import Response

from alerce_spark.api import examples
from alerce_spark.api.errors import BadParameters, NotFound, failure, reply
from alerce_spark.api.jobs import TooManyJobs
from alerce_spark.api.state import State
from alerce_spark.serving.query import Index

router = APIRouter(tags=["Cross-match"])

_MOST_ROWS = 100_000
_MAX_RADIUS = 300.0
_TYPES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
_COLUMNS = ("oid", "meanra", "meandec", "ndet", "firstmjd", "lastmjd", "class", "classifier", "probability")
#: Suffix of our columns where the list has a column of the same name.
_SUFFIX = "_object"


@router.post("/xmatch", status_code=202, openapi_extra=examples.XMATCH)
def take(
    request: Request,
    file: Annotated[UploadFile, File(description="CSV, Parquet, VOTable or FITS; up to 100000 rows")],
    ra: Annotated[str, Form(description="Column of the right ascension [deg]")] = "ra",
    dec: Annotated[str, Form(description="Column of the declination [deg]")] = "dec",
    radius: Annotated[float, Form(description="Radius [arcsec], up to 300")] = 1.5,
    match: Annotated[Literal["nearest", "all"], Form(description="The nearest object, or all")] = "nearest",
    format: Annotated[Literal["csv", "parquet"], Form(description="Form of the result")] = "csv",
) -> Response:
    """Match a list of positions with the objects; the reply names the job."""
    rows = _read(file)
    places = _places(rows, ra, dec)
    if not 0 < radius <= _MAX_RADIUS:
        raise BadParameters({"radius": f"{radius:g} is not above 0 and up to {_MAX_RADIUS:g}"})
    state: State = request.app.state.services
    index = state.index
    try:
        job = state.jobs.take(lambda: _written(_matched(index, rows, places, radius, match == "all"), format))
    except TooManyJobs:
        return failure(503, "too many jobs wait", {"Retry-After": "60"})
    return reply({"job": job, "state": "running", "result": f"/xmatch/{job}"}, 202)


@router.get("/xmatch/{job}", openapi_extra=examples.XMATCH_RESULT)
def result(request: Request, job: str) -> Response:
    """The rows of a list with the objects found, or a note that the job still runs."""
    state: State = request.app.state.services
    try:
        body = state.jobs.result(job)
    except KeyError:
        raise NotFound(f"no job {job}; results are kept for a while") from None
    if body is None:
        return reply({"job": job, "state": "running"}, headers={"Retry-After": "1"})
    return Response(body, media_type=_TYPES["parquet" if body[:4] == b"PAR1" else "csv"])


def _read(file: UploadFile) -> pl.DataFrame:
    """The rows of an upload. Raises BadParameters."""
    data = file.file.read()
    name = (file.filename or "").lower()
    try:
        if data[:4] == b"PAR1":
            rows = pl.read_parquet(data)
        elif data[:9] == b"SIMPLE  =" or name.endswith((".vot", ".votable", ".xml")):
            kind = "fits" if data[:6] == b"SIMPLE" else "votable"
            table = Table.read(io.BytesIO(data), format=kind)
            rows = pl.from_pandas(table.to_pandas())
        else:
            rows = pl.read_csv(data, infer_schema_length=None)
    except (PolarsError, OSError, ValueError, IndexError, TypeError) as error:
        raise BadParameters({"file": f"it cannot be read: {str(error)[:200]}"}) from None
    if len(rows) > _MOST_ROWS:
        raise BadParameters({"file": f"it has {len(rows)} rows, up to {_MOST_ROWS} are taken; send it in parts"})
    return rows


def _places(rows: pl.DataFrame, ra: str, dec: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions [deg]; NaN where a row has no position. Raises BadParameters."""
    errors = {}
    for parameter, column in (("ra", ra), ("dec", dec)):
        if column not in rows.columns:
            errors[parameter] = f"the list has no column {column!r}; it has {', '.join(rows.columns[:50])}"
        elif not rows[column].dtype.is_numeric() and rows[column].null_count() < len(rows):
            errors[parameter] = f"column {column!r} has other things than numbers of degrees"
    if errors:
        raise BadParameters(errors)
    at = [rows[column].cast(pl.Float64).fill_null(np.nan).to_numpy() for column in (ra, dec)]
    return at[0] % 360, at[1]


def _matched(
    index: Index, rows: pl.DataFrame, places: tuple[np.ndarray, np.ndarray], radius: float, every: bool
) -> pl.DataFrame:
    """Each row of the list with the objects found; rows without objects are kept."""
    found = index.near(*places, radius, every)
    items = {item["id"]: item for item in index.items(list(dict.fromkeys(key for _, key, _ in found)))}
    made = [
        {"_row": row, "separation": separation} | {name: items[key.id][name] for name in _COLUMNS}
        for row, key, separation in found
        if key.id in items
    ]
    kinds: dict[str, Any] = {"_row": pl.UInt32, "separation": pl.Float64, **dict.fromkeys(_COLUMNS, pl.Float64)}
    kinds |= {"oid": pl.String, "class": pl.String, "classifier": pl.String, "ndet": pl.Int64}
    objects = pl.DataFrame(made, schema=kinds)
    joined = rows.with_row_index("_row").join(objects, "_row", "left", suffix=_SUFFIX, maintain_order="left_right")
    return joined.drop("_row")


def _written(rows: pl.DataFrame, form: str) -> bytes:
    out = io.BytesIO()
    if form == "csv":
        rows.write_csv(out)
    else:
        rows.write_parquet(out)
    return out.getvalue()
