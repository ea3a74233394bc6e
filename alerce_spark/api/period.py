"""Periodogram of a light curve that a client sends: the search of the features, on its whole grid."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter
from numpy.typing import ArrayLike
from pydantic import BaseModel, Field, model_validator
from scipy.signal import find_peaks
from starlette.responses import Response

from alerce_spark.api.errors import Unprocessable, reply
from alerce_spark.features.curves import Curves
from alerce_spark.features.periodogram import power_of

router = APIRouter(prefix="/period", tags=["Periodogram"])

_BANDS = ("1", "2")
_MOST_POINTS = 10_000
_BEST = 10

Numbers = Annotated[list[float], Field(min_length=1, max_length=_MOST_POINTS)]


class LightCurve(BaseModel):
    """Points of one object, lists of one length. `fid`: 1 or g, 2 or r."""

    mjd: Numbers
    brightness: Numbers
    e_brightness: Numbers
    fid: Annotated[list[str | int], Field(min_length=1, max_length=_MOST_POINTS)]

    @model_validator(mode="after")
    def _one_length(self) -> LightCurve:
        if len({len(self.mjd), len(self.brightness), len(self.e_brightness), len(self.fid)}) > 1:
            raise ValueError("mjd, brightness, e_brightness and fid must have one length")
        return self


_EXAMPLE = {"periods": [0.5503, 0.5502], "scores": [21.4, 22.0], "best_periods": [0.5502], "best_periods_index": [1]}


@router.post(
    "/compute_periodogram",
    openapi_extra={"responses": {"200": {"content": {"application/json": {"schema": {}, "example": _EXAMPLE}}}}},
)
def compute_periodogram(points: LightCurve) -> Response:
    """Trial periods [d], their power, and the highest peaks; empty where too few points vary."""
    band = np.array([{"g": "1", "r": "2"}.get(str(fid), str(fid)) for fid in points.fid])
    if unknown := sorted(set(band.tolist()) - set(_BANDS)):
        raise Unprocessable({"fid": f"{', '.join(unknown)}: only 1 or g, 2 or r are known"})
    columns = [np.asarray(c, np.float64) for c in (points.mjd, points.brightness, points.e_brightness)]
    usable = np.all(np.isfinite(columns), axis=0) & (columns[2] > 0)
    mjd, mag, error = (c[usable] for c in columns)
    first, second = (_curve(mjd, mag, error, band[usable] == name, int(name)) for name in _BANDS)
    frequency, power = power_of((first, second), 0)
    periods = 1 / frequency
    peaks = find_peaks(np.r_[-np.inf, power, -np.inf])[0] - 1
    best = peaks[np.argsort(-power[peaks], kind="stable")][:_BEST]
    return reply(
        {
            "periods": periods.tolist(),
            "scores": power.tolist(),
            "best_periods": periods[best].tolist(),
            "best_periods_index": best.tolist(),
        }
    )


def _curve(mjd: ArrayLike, mag: ArrayLike, error: ArrayLike, of_band: np.ndarray, fid: int) -> Curves:
    time, value, sigma = (np.asarray(x)[of_band] for x in (mjd, mag, error))
    order = np.argsort(time, kind="stable")
    time, value, sigma = time[order], value[order], sigma[order]
    size = time.size
    offsets, bands = np.array([0, size], np.int64), np.full(size, fid, np.int64)
    return Curves(offsets, time, value, sigma, value, sigma, np.ones(size), bands)
