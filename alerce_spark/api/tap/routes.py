"""TAP's addresses: /tap/sync, /tap/async, and descriptions of the service."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response, StreamingResponse

from alerce_spark.api import examples
from alerce_spark.api.tap import documents, formats, uploads
from alerce_spark.api.tap import request as requests
from alerce_spark.api.tap.adql import QueryError
from alerce_spark.api.tap.engine import Engine, Result
from alerce_spark.api.tap.formats import Format
from alerce_spark.api.tap.jobs import DONE, PHASES, Job, Jobs
from alerce_spark.api.tap.request import Asked
from alerce_spark.errors import AlerceError, LakeError
from alerce_spark.serving import scan

router = APIRouter(prefix="/tap", tags=["Virtual Observatory"])

Route = Callable[..., Awaitable[Response]]
_XML = "text/xml"
_RETRY_S = "30"
#: Longest wait of a request for the next phase of a job [s].
_LONGEST_WAIT = 60.0


class NoSuchJob(Exception):
    """There is no such job."""


def _answering(route: Route) -> Route:
    """Errors as VOTables."""

    @wraps(route)
    async def answer(*arguments: Any, **named: Any) -> Response:
        try:
            return await route(*arguments, **named)
        except QueryError as error:
            return _failed(str(error), 400)
        except NoSuchJob:
            return _failed("there is no such job, or no longer", 404)
        except AlerceError as error:
            return _failed(str(error), 503)
        except OSError as error:
            return _failed(f"the data cannot be read now: {type(error).__name__}", 503)

    return answer


def _failed(message: str, status: int) -> Response:
    headers = {"Retry-After": _RETRY_S} if status == 503 else None
    return Response(formats.failure(message), status, headers, formats.VOTABLE_TYPE)


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.services.tap
    return engine


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.services.tap_jobs
    return jobs


def _address(request: Request) -> str:
    return f"{request.base_url}tap"


def _xml(body: bytes) -> Response:
    return Response(body, media_type=_XML)


# Queries that are waited for.


@router.get("/sync", openapi_extra=examples.TAP, response_class=Response)
@router.post("/sync", include_in_schema=False)
@_answering
async def sync(request: Request) -> Response:
    """Rows of a query in ADQL."""
    parameters, files = await requests.read(request)
    if parameters.get("REQUEST", "").lower() == "getcapabilities":
        return capabilities(request)
    return await run_in_threadpool(_answered, request, parameters, files)


def _with_tables(request: Request, parameters: dict[str, str], files: Mapping[str, bytes]) -> Asked:
    """A query with its tables: uploaded ones, and results of jobs of this server, by their address."""

    def result(address: str) -> Result | None:
        name, _, rest = address.removeprefix(f"{_address(request)}/async/").partition("/")
        one = _jobs(request).get(name) if rest == "results/result" else None
        return None if one is None else one.result

    return Asked(parameters, uploads.read(parameters.get("UPLOAD"), files, result))


def _answered(request: Request, parameters: dict[str, str], files: Mapping[str, bytes]) -> Response:
    asked = _with_tables(request, parameters, files)
    asked.check()
    engine = _engine(request)
    folder = engine.place()
    try:
        seconds = request.app.state.services.tap_timeout_s
        result = engine.run(asked.query, asked.uploads, asked.most(engine.most_rows), seconds, folder)
        formats.described(result)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return _sent(asked.format, result, asked.query, folder)


def _sent(form: Format, result: Result, query: str, folder: Path | None) -> Response:
    """A result, written while it is sent; then its folder is deleted."""

    def parts() -> Iterator[bytes]:
        try:
            yield from form.write(result, query)
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    return StreamingResponse(parts(), media_type=form.type)


# Jobs.


@router.get("/async", include_in_schema=False)
@_answering
async def listed(request: Request) -> Response:
    """An empty list: jobs are not shown to others, only the address of a job gives access to it."""
    return _xml(documents.jobs([], f"{_address(request)}/async"))


@router.post("/async", include_in_schema=False)
@_answering
async def make(request: Request) -> Response:
    """A new job."""
    parameters, files = await requests.read(request)
    phase = parameters.pop("PHASE", None)
    asked = await run_in_threadpool(_with_tables, request, parameters, files)
    one = _jobs(request).make(asked)
    if phase is not None:
        _turn(request, one, phase)
    return _see(request, one)


def _see(request: Request, one: Job) -> Response:
    return RedirectResponse(f"{_address(request)}/async/{one.name}", 303)


def _job(request: Request, name: str) -> Job:
    one = _jobs(request).get(name)
    if one is None:
        raise NoSuchJob
    return one


def _turn(request: Request, one: Job, phase: str) -> None:
    if phase.upper() == "RUN":
        _jobs(request).run(one)
    elif phase.upper() == "ABORT":
        _jobs(request).abort(one)
    else:
        raise QueryError("PHASE is RUN or ABORT")


@router.get("/async/{name}", include_in_schema=False)
@_answering
async def job(request: Request, name: str) -> Response:
    """A job; with WAIT the answer comes at its next phase, or after so many seconds."""
    one = _job(request, name)
    parameters, _ = await requests.read(request)
    await _waited(one, parameters)
    return _xml(documents.job(one, f"{_address(request)}/async/{name}"))


async def _waited(one: Job, parameters: dict[str, str]) -> None:
    if "WAIT" not in parameters:
        return
    try:
        seconds = float(parameters["WAIT"])
    except ValueError:
        raise QueryError("WAIT takes a number of seconds") from None
    left = _LONGEST_WAIT if seconds < 0 else min(seconds, _LONGEST_WAIT)
    before = parameters.get("PHASE", one.phase)
    while left > 0 and one.phase == before and one.phase not in DONE and one.phase != "PENDING":
        await asyncio.sleep(0.05)
        left -= 0.05


@router.post("/async/{name}", include_in_schema=False)
@_answering
async def change(request: Request, name: str) -> Response:
    """Delete a job, for clients that cannot send DELETE."""
    one = _job(request, name)
    parameters, _ = await requests.read(request)
    if parameters.get("ACTION", "").upper() != "DELETE":
        raise QueryError("ACTION is DELETE")
    return _gone(request, one)


@router.delete("/async/{name}", include_in_schema=False)
@_answering
async def delete(request: Request, name: str) -> Response:
    """Delete a job."""
    return _gone(request, _job(request, name))


def _gone(request: Request, one: Job) -> Response:
    _jobs(request).delete(one)
    return RedirectResponse(f"{_address(request)}/async", 303)


@router.get("/async/{name}/results/result", include_in_schema=False)
@_answering
async def result(request: Request, name: str) -> Response:
    """Rows of a job that is done."""
    one = _job(request, name)
    if one.result is None:
        raise NoSuchJob
    return _sent(one.asked.format, one.result, one.asked.query, None)


@router.get("/async/{name}/{part}", include_in_schema=False)
@_answering
async def part(request: Request, name: str, part: str) -> Response:
    """One property of a job."""
    one = _job(request, name)
    fields = one.fields()
    plain = {"phase": "phase", "quote": "quote", "executionduration": "executionDuration"}
    plain |= {"destruction": "destruction", "owner": "ownerId"}
    if part in plain:
        return Response(fields[plain[part]] or "", media_type="text/plain")
    if part == "parameters":
        return _xml(documents.parameters(one))
    if part == "results":
        return _xml(documents.results(one, f"{_address(request)}/async/{name}"))
    if part == "error":
        return Response(formats.failure(one.error or "none"), media_type=formats.VOTABLE_TYPE)
    raise NoSuchJob


@router.post("/async/{name}/{part}", include_in_schema=False)
@_answering
async def set_part(request: Request, name: str, part: str) -> Response:
    """Start or stop a job, or change its parameters before it runs."""
    one = _job(request, name)
    parameters, files = await requests.read(request)
    if part == "phase":
        _turn(request, one, parameters.get("PHASE", ""))
    elif part == "parameters" and one.phase == PHASES[0]:
        made = await run_in_threadpool(_with_tables, request, parameters, files)
        one.asked = Asked({**one.parameters, **made.parameters}, {**one.asked.uploads, **made.uploads})
    elif part == "executionduration":
        one.duration = _seconds(parameters.get("EXECUTIONDURATION", ""), _jobs(request).seconds)
    elif part == "destruction":
        one.destruction = min(one.destruction, _moment(parameters.get("DESTRUCTION", "")))
    else:
        raise QueryError(f"{part} of this job cannot be changed")
    return _see(request, one)


def _seconds(text: str, most: float) -> float:
    if not text.isdigit():
        raise QueryError("EXECUTIONDURATION takes a number of seconds")
    return min(float(text) or most, most)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise QueryError("DESTRUCTION takes a time as 2026-01-01T00:00:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


# The service.


@router.get("/availability", include_in_schema=False)
def availability(request: Request) -> Response:
    """Whether the service answers queries."""
    try:
        scan.pinned(request.app.state.services.lake, ["objects"])
    except (LakeError, OSError) as error:
        reason = str(error) if isinstance(error, LakeError) else type(error).__name__
        return _xml(documents.availability(f"the lake cannot be read: {reason}"))
    return _xml(documents.availability(None))


@router.get("/capabilities", include_in_schema=False)
def capabilities(request: Request) -> Response:
    """Capabilities of the service."""
    services = request.app.state.services
    seconds = services.tap_timeout_s, services.tap_jobs.seconds
    return _xml(documents.capabilities(_address(request), seconds, services.tap.most_rows, uploads.MOST_ROWS))


@router.get("/examples", include_in_schema=False)
def shown(request: Request) -> Response:
    """Example queries."""
    return Response(documents.examples(), media_type="application/xhtml+xml")


@router.get("/tables", include_in_schema=False)
@router.get("/tables/{name}", include_in_schema=False)
def tables(name: str | None = None) -> Response:
    """Tables and their columns."""
    body = documents.tables(name)
    return _failed(f"there is no table {name}", 404) if body is None else _xml(body)


@router.get("", include_in_schema=False)
def root(request: Request) -> Response:
    """Capabilities, also at the address of the service."""
    return RedirectResponse(f"{_address(request)}/capabilities", 303)
