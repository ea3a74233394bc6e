"""Errors as replies. A body has both of ALeRCE's formats: `message` with `errors`, and `detail`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from alerce_spark.errors import AlerceError
from alerce_spark.serving.query import QueryTooLong

log = logging.getLogger(__name__)

#: Time after which a client may repeat a request for unavailable data [s].
_RETRY_S = 10


class BadParameters(Exception):
    """Invalid parameters: the reason by name."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(errors)
        self.errors = dict(errors)


class Unprocessable(BadParameters):
    """Invalid parameters of a route that answers like FastAPI (422)."""


class NotFound(Exception):
    """The requested data do not exist."""


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A body as JSON; NaN and infinite numbers are null."""
    return Response(orjson.dumps(body), status, headers, "application/json")


def failure(status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """A reply with an error."""
    return reply({"message": message, "detail": message, **more}, status, headers)


def add_handlers(app: FastAPI) -> None:
    """Turn every error that a route may raise into a reply, which has its message and no more."""

    @app.exception_handler(BadParameters)
    def bad(_: Request, error: BadParameters) -> Response:
        detail = "; ".join(f"{name}: {text}" for name, text in error.errors.items())
        body = {"message": "Input payload validation failed", "detail": detail, "errors": error.errors}
        return reply(body, 400)

    @app.exception_handler(Unprocessable)
    def unprocessable(_: Request, error: Unprocessable) -> Response:
        detail = [{"type": "value_error", "loc": ["query", n], "msg": text} for n, text in error.errors.items()]
        return reply({"detail": detail, "message": "Input payload validation failed", "errors": error.errors}, 422)

    @app.exception_handler(QueryTooLong)
    def long(_: Request, error: QueryTooLong) -> Response:
        return failure(400, str(error))

    @app.exception_handler(NotFound)
    def missing(_: Request, error: NotFound) -> Response:
        return failure(404, str(error))

    @app.exception_handler(HTTPException)
    def http(_: Request, error: HTTPException) -> Response:
        return failure(error.status_code, str(error.detail), error.headers)

    def unavailable(request: Request, error: Exception) -> Response:
        log.error("no answer to %s: %s", request.url.path, error)
        # Messages of libraries about a failing store may name places that users should not see.
        reason = str(error) if isinstance(error, AlerceError) else type(error).__name__
        message = f"the data cannot be read now: {reason}"
        return failure(503, message, {"Retry-After": str(_RETRY_S)})

    for kind in (AlerceError, OSError):
        app.add_exception_handler(kind, unavailable)

    @app.exception_handler(Exception)
    def fault(request: Request, error: Exception) -> Response:
        return failure(500, "a fault of the server; it is in its log")
