"""Limits of requests: their rate, size and length of address; paths work with and without a final slash."""

from __future__ import annotations

import math
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alerce_spark.api.errors import failure
from alerce_spark.api.metrics import PATH as METRICS
from alerce_spark.errors import InputError

#: Largest path and query [bytes]: some thousands of ids.
_LONGEST = 60_000
#: Largest body of a request [bytes].
MAX_UPLOAD = 50 << 20
_TOO_LARGE = f"a request may bring up to {MAX_UPLOAD >> 20} MiB"
#: Number of requests that a request for a light curve counts as.
_CURVE = 2
_CURVES = ("/detections", "/non_detections", "/lightcurve", "/features", "/magstats", "/finding_chart")


class Bounds:
    """Refuses requests with too long an address (414) or too many of them (429), before they cost anything."""

    def __init__(self, app: ASGIApp, rate: RateLimitItem | None) -> None:
        self._app = app
        self._item = rate
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if len(path) + len(scope["query_string"]) > _LONGEST:
            await failure(414, f"the address has more than {_LONGEST} characters; ask in parts")(scope, receive, send)
            return
        if scope["method"] == "POST" and _size(scope) > MAX_UPLOAD:
            await failure(413, _TOO_LARGE)(scope, receive, send)
            return
        wait = self._wait(scope)
        if wait:
            message = f"too many requests from this address; ask again in {wait} s"
            await failure(429, message, {"Retry-After": str(wait)})(scope, receive, send)
            return
        if len(path) > 1 and path.endswith("/"):
            scope["path"] = path.rstrip("/") or "/"  # in place: what is outside of this reads the route from it
        await self._app(scope, _counted(receive), send)

    def _wait(self, scope: Scope) -> int:
        """Seconds until the client may send this request; 0 for now."""
        if self._item is None or scope["method"] == "OPTIONS" or scope["path"] == METRICS:
            return 0
        who = scope["client"][0] if scope.get("client") else ""
        if self._limiter.hit(self._item, who, cost=min(_cost(scope), self._item.amount)):
            return 0
        reset = self._limiter.get_window_stats(self._item, who).reset_time
        return max(1, math.ceil(reset - time.time()))


def _cost(scope: Scope) -> int:
    """Number of requests that one counts as; ten light curves in one request count as one."""
    path = scope["path"]
    if path.startswith("/bulk/"):
        return _CURVE + scope["query_string"].count(b"oid=") // 10
    return _CURVE if "forced-photometry" in path or any(c in path for c in _CURVES) else 1


def _size(scope: Scope) -> int:
    """Bytes announced by a request; 0 for one that sends pieces, whose bytes are counted."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _counted(receive: Receive) -> Receive:
    """Bytes of a request, as they arrive; too many are refused (413)."""
    brought = 0

    async def counting() -> Message:
        nonlocal brought
        message = await receive()
        brought += len(message.get("body", b""))
        if brought > MAX_UPLOAD:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return counting


def rate_of(text: str) -> RateLimitItem | None:
    """A limit such as "10000/10 seconds"; None for an empty text. Raises InputError for other texts."""
    if not text:
        return None
    try:
        return parse(text)
    except ValueError:
        raise InputError(f"services.rate_limit = {text!r} is no limit; write it as '10000/10 seconds', or ''") from None
