"""Requests and their answers: retries, and the errors of refusals."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx

from alerce_spark.client.errors import APIError, ObjectNotFoundError, ParseError

#: Attempts of a request, and first and longest wait between them [s]: doubled each time, half of it random.
ATTEMPTS = 6
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
#: Statuses after which the server will answer later.
_LATER = (429, 503)
#: Methods that change nothing: requests with others are never sent twice.
_SAFE = ("GET", "HEAD")
_OK = 400
_ERRORS: dict[int, type[APIError]] = {400: ParseError, 422: ParseError, 404: ObjectNotFoundError}

Parameters = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Request:
    """A request to the server."""

    path: str
    parameters: Parameters = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    body: Any = None


def get(path: str, headers: Mapping[str, str] | None = None, /, **parameters: Any) -> Request:
    """A request; parameters that are None are left out, lists are repeated."""
    return Request(path, tuple(_pairs(parameters)), headers or {})


def path(template: str, *parts: Any) -> str:
    """A path with quoted names of objects and features."""
    return template.format(*(quote(str(part), safe="/") for part in parts))


def _pairs(parameters: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in parameters.items():
        values = [value] if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) else value
        yield from ((name, str(one)) for one in values if one is not None)


class Attempts:
    """One request, sent until it is answered: `after` returns the next wait, or raises the error."""

    def __init__(self, request: Request, attempts: int) -> None:
        self._request, self._attempts, self._sent = request, attempts, 0

    def after(self, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds to wait before it is sent again; None where the outcome is an answer. Raises APIError."""
        self._sent += 1
        lost = isinstance(outcome, httpx.TransportError)
        again = self._request.method in _SAFE and self._sent < self._attempts
        if not isinstance(outcome, httpx.Response):
            if not again:
                raise APIError(self._no_answer(outcome), url=self._request.path) from outcome
        elif outcome.status_code < _OK:
            return None
        elif outcome.status_code not in _LATER or not again:
            raise refused(outcome)
        asked = None if lost else retry_after(outcome.headers.get("retry-after"))  # type: ignore[union-attr]
        if asked is not None:
            return asked
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (self._sent - 1))
        return longest * random.uniform(0.5, 1)

    def _no_answer(self, error: httpx.TransportError) -> str:
        times = "" if self._sent == 1 else f" after {self._sent} attempts"
        return f"no answer from the server{times}: {type(error).__name__} {error}"


def retry_after(text: str | None) -> float | None:
    """Seconds of the header Retry-After, given as a number or a date; None where it has neither."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def refused(response: httpx.Response) -> APIError:
    """The error of an answer, with the server's message."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    detail, data = body.get("detail"), body.get("errors") or {}
    message = body.get("message") or (detail if isinstance(detail, str) else "") or response.text[:200]
    kind = _ERRORS.get(response.status_code, APIError)
    return kind(message or response.reason_phrase, response.status_code, data, str(response.url)[:200])
