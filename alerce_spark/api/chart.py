"""The finding chart of an alert, as PDF or PNG."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock
from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from alerce_spark.api import examples, stamps
from alerce_spark.api.parameters import Parameters
from alerce_spark.charts import finding_chart

router = APIRouter(tags=["Finding chart"])

_TYPES = {"pdf": "application/pdf", "png": "image/png"}
#: A page costs a fifth of a second of a core: pages are made one at a time, and the last ones are kept.
_drawing = Lock()
_PAGES = 64


@router.get("/finding_chart", openapi_extra=examples.CHART, response_class=Response)
def chart(request: Request) -> Response:
    """Finding chart of an alert: reference image with cross, scale and directions, stamps, light curve, coordinates."""
    asked = Parameters(request.query_params)
    form = asked.choice("format", _TYPES, "pdf") or "pdf"
    packet = stamps.asked_for(request, asked)
    with _drawing:
        page = _drawn(packet, "png" if form == "png" else "pdf")
    name = f"{asked.whole('candid')}.{form}"
    return Response(page, headers={"Content-Disposition": f'inline; filename="{name}"'}, media_type=_TYPES[form])


@lru_cache(maxsize=_PAGES)
def _drawn(packet: bytes, form: Literal["pdf", "png"]) -> bytes:
    return finding_chart(packet, form)
