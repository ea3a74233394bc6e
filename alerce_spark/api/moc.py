"""The coverage: the sky in which the broker has objects, as a map that Aladin, TOPCAT and mocpy read (a MOC)."""

from __future__ import annotations

import io

import numpy as np
from fastapi import APIRouter, Request
from mocpy import MOC
from starlette.responses import Response

from alerce_spark.api import examples
from alerce_spark.api.parameters import Parameters
from alerce_spark.api.state import State

router = APIRouter(tags=["Virtual Observatory"])

_TYPES = {"fits": "application/fits", "json": "application/json"}
_ORDERS = (3, 12)
_ORDER = 8


@router.get("/moc", openapi_extra=examples.MOC, response_class=Response)
def coverage(request: Request) -> Response:
    """Pixels with objects."""
    asked = Parameters(request.query_params)
    form, order = asked.choice("format", _TYPES, "fits") or "fits", asked.whole("order")
    order = _ORDER if order is None else order
    if not _ORDERS[0] <= order <= _ORDERS[1]:
        asked.errors["order"] = f"a HEALPix order from {_ORDERS[0]} to {_ORDERS[1]}"
    asked.check()
    state: State = request.app.state.services
    seen = state.index.pixels(order)
    made = MOC.from_healpix_cells(np.asarray(seen, np.uint64), np.full(len(seen), order, np.uint8), order)
    if form == "json":
        return Response(made.to_string(format="json"), media_type=_TYPES[form])
    out = io.BytesIO()
    made.serialize("fits").writeto(out)
    headers = {"Content-Disposition": 'attachment; filename="moc.fits"'}
    return Response(out.getvalue(), headers=headers, media_type=_TYPES[form])
