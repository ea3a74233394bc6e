"""The application: routes, errors, limits. `alerce-spark serve` runs the result of `make`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter, run_sync
from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from alerce_spark.api import (
    bulk,
    catshtm,
    chart,
    metrics,
    moc,
    multisurvey,
    period,
    scs,
    sql,
    stamps,
    tns,
    xmatch,
    ztf,
)
from alerce_spark.api.errors import add_handlers, reply
from alerce_spark.api.limits import Bounds, rate_of
from alerce_spark.api.state import THREADS, State
from alerce_spark.api.tap import routes as tap
from alerce_spark.config import Settings

_ABOUT = """Objects, light curves, classes, features, stamps and packets of an alert stream, at ALeRCE's routes.
Point ALeRCE's Python client here with the file that `alerce-spark client-config` writes. Reading needs no account."""
_LEAST_GZIPPED = 2_000
_EXPOSED = ["Retry-After", "X-Has-Next", "X-Total", bulk.UNKNOWN]
_FILES = ("/get_", "/stamps_api/", "/finding_chart")


class _Gzip(GZipMiddleware):
    """Compresses replies except stamps and packets, which are files that clients decompress."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_file = scope["type"] == "http" and scope["path"].startswith(_FILES)
        await (self.app if is_file else super().__call__)(scope, receive, send)


def make(settings: Settings) -> FastAPI:
    """The application of one lake. Raises ConfigError and InputError for settings that cannot be used."""
    rate = rate_of(settings.services.rate_limit)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = THREADS
        yield
        app.state.services.close()

    app = FastAPI(title="alerce_spark", description=_ABOUT, version="1", lifespan=lifespan, redirect_slashes=False)
    app.state.services = State(settings)
    add_handlers(app)
    for router in (
        *(ztf.router, ztf.forced_router, bulk.router, stamps.router, multisurvey.router),
        *(catshtm.router, moc.router, scs.router, tap.router, xmatch.router, chart.router, period.router, sql.router),
        tns.router,
    ):
        app.include_router(router)

    @app.get("/status", tags=["Server"])
    def status(request: Request) -> Response:
        """Versions of the lake's tables that the answers show, and time of the index's build [s since 1970]."""
        index = request.app.state.services.index
        return reply({"built": int(index.about()["built"]), "versions": index.versions()})

    one_at_a_time = CapacityLimiter(1)

    @app.get(metrics.PATH, include_in_schema=False)
    async def figures(request: Request) -> Response:
        # Not in the threads of the requests: they may all be busy.
        page = await run_sync(request.app.state.services.metrics.page, limiter=one_at_a_time)
        return Response(page, media_type=metrics.CONTENT_TYPE)

    app.add_middleware(_Gzip, minimum_size=_LEAST_GZIPPED, compresslevel=5)
    app.add_middleware(Bounds, rate=rate)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET"], expose_headers=_EXPOSED)
    app.add_middleware(metrics.Timed, metrics=app.state.services.metrics)
    return app
