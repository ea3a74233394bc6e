"""Rise from the last non-detections to the first detection: dm/dt (algorithms of Förster et al. 2020, Fig. 16)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from alerce_spark.lightcurves._groups import Bool, Float, Int, floats, integers, same_length

#: A non-detection counts for dm/dt if it is more than this before the first detection [d]; later ones are "close".
CLOSE = 0.5

DMDT = ("dmdt_first", "dm_first", "sigmadm_first", "dt_first", "close_nondet")


def dmdt(
    group: ArrayLike,
    fid: ArrayLike,
    first_mjd: ArrayLike,
    magpsf_first: ArrayLike,
    sigmapsf_first: ArrayLike,
    nd_group: ArrayLike,
    nd_fid: ArrayLike,
    nd_mjd: ArrayLike,
    nd_diffmaglim: ArrayLike,
) -> dict[str, NDArray]:
    """The steepest rise that the limits of each object and band allow: columns DMDT, each of shape (m,).

    `group`, `fid` name the object (>= 0) and band of m first detections, each pair once; `first_mjd` [d],
    `magpsf_first`, `sigmapsf_first` [mag] describe them. The `nd_` arrays, in any order, are non-detections with their
    limit [mag]; those of other objects or bands, at or after the first detection, and with a null or negative limit
    (a code, not a limit) do not count. Over those with mjd < first_mjd - 0.5 d,

        dmdt_first = min (magpsf_first + sigmapsf_first - diffmaglim) / (first_mjd - mjd)    [mag/d]

    the worst case within the error; `dm_first = magpsf_first - diffmaglim` [mag] and `dt_first` [d] are those of the
    limit that gives the minimum (of equal ones the nearest in time). `sigmadm_first` is the error of dm_first, which is
    sigmapsf_first; ALeRCE's tables hold sigmapsf_first - diffmaglim there. NaN if no limit qualifies.
    `close_nondet` (bool): some limit lies within the last 0.5 d before the first detection.
    Raises TypeError for ids that are not integers, ValueError for arrays of different lengths or a negative group.
    """
    objects, band_ids = integers(group, "group"), integers(fid, "fid")
    mjd, mag, sigma = floats(first_mjd), floats(magpsf_first), floats(sigmapsf_first)
    same_length(group=objects, fid=band_ids, first_mjd=mjd, magpsf_first=mag, sigmapsf_first=sigma)
    limits = (integers(nd_group, "nd_group"), integers(nd_fid, "nd_fid"), floats(nd_mjd), floats(nd_diffmaglim))
    same_length(**dict(zip(("nd_group", "nd_fid", "nd_mjd", "nd_diffmaglim"), limits, strict=True)))
    if len(objects) and objects.min() < 0:
        raise ValueError(f"group must not be negative, but is {objects.min()}")
    bands, band = np.unique(band_ids, return_inverse=True)
    row_of = np.full((objects.max(initial=-1) + 1, len(bands)), -1)
    row_of[objects, band] = np.arange(len(objects))
    rate, dm, dt, close = _steepest(row_of, bands, mjd, mag, sigma, *limits)
    return dict(zip(DMDT, (rate, dm, np.where(np.isnan(rate), np.nan, sigma), dt, close), strict=True))


@njit(cache=True, error_model="numpy")
def _steepest(
    row_of: Int,
    bands: Int,
    first_mjd: Float,
    mag: Float,
    sigma: Float,
    nd_group: Int,
    nd_fid: Int,
    nd_mjd: Float,
    limit: Float,
) -> tuple[Float, Float, Float, Bool]:
    """Smallest dm/dt, its dm and dt, and whether a limit is close, for each first detection: one pass over limits.

    `row_of[object, j]` is the first detection of an object in band `bands[j]`, -1 for none. A table instead of a sort
    because limits are many: about eleven for each detection of the survey.
    """
    rate = np.full(len(mag), np.nan)
    dm = np.full(len(mag), np.nan)
    dt = np.full(len(mag), np.nan)
    close = np.zeros(len(mag), np.bool_)
    for i in range(len(limit)):
        if not 0.0 < limit[i] < np.inf or not 0 <= nd_group[i] < len(row_of):
            continue
        row = -1
        for j in range(len(bands)):
            if bands[j] == nd_fid[i]:
                row = row_of[nd_group[i], j]
        if row < 0 or not nd_mjd[i] < first_mjd[row]:
            continue
        if nd_mjd[i] >= first_mjd[row] - CLOSE:
            close[row] = True
            continue
        elapsed = first_mjd[row] - nd_mjd[i]
        slope = (mag[row] + sigma[row] - limit[i]) / elapsed
        if np.isnan(slope):
            continue
        if np.isnan(rate[row]) or slope < rate[row] or (slope == rate[row] and elapsed < dt[row]):
            rate[row] = slope
            dm[row] = mag[row] - limit[i]
            dt[row] = elapsed
    return rate, dm, dt, close
