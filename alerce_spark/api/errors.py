"""Errors as replies. A body says the same in both of ALeRCE's dialects: `message` with `errors`, and `detail`."""

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

#: After so long a client may ask again for what cannot be had now [s].
_RETRY_S = 10


class BadParameters(Exception):
    """Parameters that cannot be used: name to what is wrong with its value."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(errors)
        self.errors = dict(errors)


class Unprocessable(BadParameters):
    """The same, where a route answers in the way of FastAPI (422)."""


class NotFound(Exception):
    """What was asked for is not there."""


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A body as JSON; what is no number is null."""
    return Response(orjson.dumps(body), status, headers, "application/json")


def failure(status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """A reply that says what is wrong."""
    return reply({"message": message, "detail": message, **more}, status, headers)


def add_handlers(app: FastAPI) -> None:
    """Every error that a route may raise becomes a reply; none tells more than its message."""

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
        # What libraries say of a failing store may name places that are nobody's business.
        reason = str(error) if isinstance(error, AlerceError) else type(error).__name__
        message = f"the data cannot be read now: {reason}"
        return failure(503, message, {"Retry-After": str(_RETRY_S)})

    for kind in (AlerceError, OSError):
        app.add_exception_handler(kind, unavailable)

    @app.exception_handler(Exception)
    def fault(request: Request, error: Exception) -> Response:
        return failure(500, "a fault of the server; it is in its log")
