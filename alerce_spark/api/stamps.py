"""Packets and their stamps: the routes of ALeRCE's Avro and stamp service on the Avro repository."""

from __future__ import annotations

import gzip
import io
from typing import Any

import fastavro
import numpy as np
from astropy.io import fits
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import Response

from alerce_spark import repository, surveys
from alerce_spark.api import examples
from alerce_spark.api.errors import NotFound, reply
from alerce_spark.api.parameters import Parameters
from alerce_spark.api.state import State
from alerce_spark.errors import InputError

router = APIRouter(tags=["Stamps and packets"])

#: Field of a packet by type of stamp.
CUTOUTS = {"science": "cutoutScience", "template": "cutoutTemplate", "difference": "cutoutDifference"}
_SURVEYS = ("ztf", "atlas")
#: Pixels around the centre whose largest value is black.
_CORE = 2

Record = dict[str, Any]


@router.get("/get_stamp", openapi_extra=examples.STAMP, response_class=Response)
def get_stamp(request: Request) -> Response:
    """A stamp of an alert, as in the packet (gzipped FITS) or as a picture (PNG)."""
    asked = Parameters(request.query_params)
    kind, form = asked.required("type", CUTOUTS), asked.required("format", ("png", "fits"))
    return stamp_of(asked_for(request, asked), kind, form)


@router.get("/get_avro", openapi_extra=examples.AVRO, response_class=Response)
def get_avro(request: Request) -> Response:
    """The unchanged packet of an alert."""
    asked = Parameters(request.query_params)
    packet = asked_for(request, asked)
    headers = {"Content-Disposition": f'attachment; filename="{asked.whole("candid")}.avro"'}
    return Response(packet, headers=headers, media_type="application/avro+binary")


@router.get("/get_avro_info", openapi_extra=examples.AVRO_INFO)
def get_avro_info(request: Request) -> Response:
    """The packet of an alert as JSON without its stamps; with `field` (as `candidate.magpsf`) that field alone."""
    asked = Parameters(request.query_params)
    field = asked.text("field")
    shown: Any = without_stamps(asked_for(request, asked))
    if field is None:
        return reply(shown)
    for name in field.split("."):
        if not isinstance(shown, dict) or name not in shown:
            raise NotFound(f"the packet has no field {field}")
        shown = shown[name]
    return reply({field: shown})


def stamp_of(packet: bytes, kind: str, form: str) -> Response:
    """A stamp of a packet, unchanged (fits) or as a picture (png). Raises NotFound."""
    record = _record(packet)
    stamp = (record.get(CUTOUTS[kind]) or {}).get("stampData")
    if not stamp:
        raise NotFound(f"the alert has no {kind} stamp")
    if form == "png":
        return Response(picture(stamp, kind), media_type="image/png")
    # No Content-Encoding: the file itself is gzipped, and clients decompress it.
    name = f"{record['objectId']}_{record['candid']}_{kind}.fits.gz"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(stamp, headers=headers, media_type="application/fits+gzip")


def without_stamps(packet: bytes) -> Record:
    """The record of a packet without its stamps, with values that JSON can hold."""
    shown = {name: value for name, value in _record(packet).items() if name not in CUTOUTS.values()}
    shown["candidate"]["candid"] = str(shown["candidate"]["candid"])
    return shown


def _record(packet: bytes) -> Record:
    record = next(iter(fastavro.reader(io.BytesIO(packet))))
    assert isinstance(record, dict)
    return record


def picture(stamp: bytes, kind: str) -> bytes:
    """A stamp as PNG: dark where there is light, scaled to the centre; a difference over its whole range."""
    image = _pixels(stamp)
    low, high = _range(image, kind)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.clip((image - low) / (high - low), 0, 1)
    grey = np.round(255 * (1 - np.nan_to_num(scaled, nan=0.0))).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(grey).save(out, "png")
    return out.getvalue()


def _pixels(stamp: bytes) -> NDArray[np.float64]:
    data = gzip.decompress(stamp) if stamp[:2] == b"\x1f\x8b" else stamp
    with fits.open(io.BytesIO(data), ignore_missing_simple=True) as file:
        return np.asarray(file[0].data, np.float64)


def _range(image: NDArray[np.float64], kind: str) -> tuple[float, float]:
    """Values shown as white and as black."""
    values = image[np.isfinite(image)]
    if not values.size:
        return 0.0, 1.0
    if kind == "difference":
        return float(values.min()), float(values.max())
    y, x = (side // 2 for side in image.shape)
    core = image[max(y - _CORE, 0) : y + _CORE + 1, max(x - _CORE, 0) : x + _CORE + 1]
    core = core[np.isfinite(core)]
    deviation = float(np.median(np.abs(values - np.median(values))))
    return float(values.min()) + 0.2 * deviation, float(core.max() if core.size else values.max())


def asked_for(request: Request, asked: Parameters) -> bytes:
    """The packet of a request. Raises BadParameters, NotFound."""
    candid, oid = asked.whole("candid"), asked.text("oid")
    survey = asked.choice("survey_id", _SURVEYS, _SURVEYS[0])
    if candid is None:
        asked.errors.setdefault("candid", "missing required parameter")
    asked.check()
    return packet_of(request.app.state.services, str(survey), candid or 0, oid)


def packet_of(state: State, survey: str, candid: int, oid: str | None) -> bytes:
    """A packet of the repository; the night in its key follows from the candid. Raises NotFound."""
    try:
        of = surveys.get(survey)
        packet = state.repository.get(repository.key(of, of.date_of(candid), candid))
    except (InputError, KeyError, OverflowError):
        raise NotFound("AVRO not found") from None
    if oid is not None and _record(packet)["objectId"] != oid:
        raise NotFound("AVRO not found")
    return packet
