"""Requests to TNS and HERMES, with three outcomes; keys appear in no message.

A request is answered, or the server certainly did not accept it (`NotTaken`), or that is unknown (`Unsure`): a report
that may have been accepted must not be sent again before a search for it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import requests
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from alerce_spark.errors import AlerceError

log = logging.getLogger(__name__)

#: Wait where a server refuses too many requests without saying for how long [s].
_UNTOLD_WAIT_S = 60.0
#: Limits of TNS: of all requests, and of searches by position.
_LIMITS = ("x-rate-limit", "x-cone-rate-limit")


class TnsError(AlerceError):
    """A name server gave no usable answer; the message says what happened."""


class NotTaken(TnsError):
    """The server certainly did not accept the request."""


class Unsure(TnsError):
    """The server may have accepted the request."""


class Limited(NotTaken):
    """The server accepts no more requests for `wait` seconds."""

    def __init__(self, server: str, wait: float) -> None:
        super().__init__(f"{server} takes no more requests of ours for {wait:.0f} s; try again then")
        self.wait = wait


class Server:
    """One server, called by POST with fixed headers. Waits up to `patience` seconds where it limits requests."""

    def __init__(self, name: str, url: str, headers: Mapping[str, str], timeout: float, patience: float) -> None:
        self._name, self._url = name, url.rstrip("/")
        self._timeout, self._patience = timeout, patience
        self._session = requests.Session()
        self._session.headers.update(headers)
        self._free_at = 0.0

    def post(self, path: str, **content: Any) -> requests.Response:
        """The answer, of status 200, 201, 400 or 404. `content` is passed to requests. Raises TnsError."""
        until = time.monotonic() + self._patience
        while True:
            self._wait(until)
            answer = self._ask(path, content)
            self._learn(answer)
            if answer.status_code != 429:
                return self._judged(answer)

    def _wait(self, until: float) -> None:
        wait = self._free_at - time.monotonic()
        if wait <= 0:
            return
        if self._free_at > until:
            raise Limited(self._name, math.ceil(wait))
        log.info("%s takes no more requests of ours; waiting %.0f s", self._name, wait)
        time.sleep(wait)

    def _learn(self, answer: requests.Response) -> None:
        """Time at which the next request may be sent."""
        waits = [_seconds(answer.headers.get("Retry-After"))]
        for limit in _LIMITS:
            if answer.headers.get(f"{limit}-remaining") == "0":
                waits.append(_seconds(answer.headers.get(f"{limit}-reset")))
        told = [wait for wait in waits if wait is not None]
        if answer.status_code == 429:
            self._free_at = time.monotonic() + max(told, default=_UNTOLD_WAIT_S)
        elif answer.headers.get("x-rate-limit-remaining") == "0":
            self._free_at = time.monotonic() + (_seconds(answer.headers.get("x-rate-limit-reset")) or 0.0)

    def _ask(self, path: str, content: Mapping[str, Any]) -> requests.Response:
        try:
            # A key goes only to the server of the settings, so redirects are not followed.
            return self._session.post(self._url + path, timeout=self._timeout, allow_redirects=False, **content)
        except requests.RequestException as error:
            kind = NotTaken if _never_connected(error) else Unsure
            raise kind(f"{self._name} gives no answer to {path}: {type(error).__name__}") from None

    def _judged(self, answer: requests.Response) -> requests.Response:
        status, path = answer.status_code, answer.request.path_url
        if status in (200, 201, 400, 404):
            return answer
        if status in (401, 403):
            raise NotTaken(f"{self._name} refuses us ({status}): see the names and keys in [tns] of the settings")
        kind = Unsure if status >= 500 else NotTaken
        raise kind(f"{self._name} answers {path} with status {status}")


def _never_connected(error: requests.RequestException) -> bool:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError | ConnectTimeoutError)


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def body_of(answer: requests.Response) -> Any:
    """The JSON of an answer. Raises Unsure for other content."""
    try:
        return answer.json()
    except requests.JSONDecodeError:
        raise Unsure(f"the answer to {answer.request.path_url} is no JSON") from None
