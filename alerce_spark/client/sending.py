"""Requests and their answers: how often and when one is sent again, and which error a refusal is."""

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

#: How often a request is sent, and the waits between [s]: doubled each time, half of it by chance, up to the longest.
ATTEMPTS = 6
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
#: The server says that it will answer later.
_LATER = (429, 503)
#: Requests that change nothing: the others are never sent twice.
_SAFE = ("GET", "HEAD")
_OK = 400
_ERRORS: dict[int, type[APIError]] = {400: ParseError, 422: ParseError, 404: ObjectNotFoundError}

Parameters = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Request:
    """What is asked of the server."""

    path: str
    parameters: Parameters = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    body: Any = None


def get(path: str, headers: Mapping[str, str] | None = None, /, **parameters: Any) -> Request:
    """A request; parameters that are None are left out, lists are repeated."""
    return Request(path, tuple(_pairs(parameters)), headers or {})


def path(template: str, *parts: Any) -> str:
    """A path with names of objects and features in it."""
    return template.format(*(quote(str(part), safe="/") for part in parts))


def _pairs(parameters: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in parameters.items():
        values = [value] if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) else value
        yield from ((name, str(one)) for one in values if one is not None)


class Attempts:
    """One request, sent until it is answered: `after` tells how long to wait, or raises what went wrong."""

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
    """Seconds that the header Retry-After asks for, as a number or a date; None where it tells nothing."""
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
    """The error that an answer is, in the server's words."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    detail, data = body.get("detail"), body.get("errors") or {}
    message = body.get("message") or (detail if isinstance(detail, str) else "") or response.text[:200]
    kind = _ERRORS.get(response.status_code, APIError)
    return kind(message or response.reason_phrase, response.status_code, data, str(response.url)[:200])
