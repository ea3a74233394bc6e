"""Structure function of one band: amplitude at one year and slope of a power law (Schmidt et al. 2010)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from alerce_spark.features.curves import Curves, Family, Float, Int, Objects, Scratch, per_band

NAMES = ("SF_ML_amplitude", "SF_ML_gamma")

#: Curves with fewer points have no structure function (docs/features.md, "Structure function").
MIN_POINTS = 6

_LONGEST = 365.0  # d, the longest separation of a pair
_EDGES = 10.0 ** np.arange(np.log10(5.0), np.log10(2000.0), 0.1)  # d; the shortest separation is the first edge
_USED = int(np.searchsorted(_EDGES, _LONGEST, side="right"))  # bins that can hold a pair
_TAU = 0.5 * (_EDGES[:_USED] + _EDGES[1 : _USED + 1]) / 365.0  # yr
_FITTED = (_TAU > 0.01) & (_TAU <= 0.5)
_LOG_TAU = np.log10(_TAU)
_NO_FIT = -0.5  # value of both features where no line can be fitted


@njit(cache=True, error_model="numpy")
def _bin_sums(t: Float, m: Float, e: Float, total: Float, pairs: Int) -> None:
    """Add to total[b] the sum of Δm² - e_i² - e_j² over the pairs of bin b, and to pairs[b] their number.

    With times sorted the partners of a point in one bin are a run of points, so sums over them are differences of
    running sums; both ends of the run only move forward. Cost n × bins instead of n².
    """
    n = t.size
    mean = 0.0
    for i in range(n):
        mean += m[i] - m[0]
    mean = m[0] + mean / n
    s1 = np.empty(n + 1)  # running sums of x = m - mean and of x² - e²
    s2 = np.empty(n + 1)
    s1[0] = 0.0
    s2[0] = 0.0
    for i in range(n):
        x = m[i] - mean
        s1[i + 1] = s1[i] + x
        s2[i + 1] = s2[i] + (x * x - e[i] * e[i])
    first = np.zeros(_USED + 1, dtype=np.int64)  # first partner at or beyond each edge
    for i in range(n):
        x = m[i] - mean
        own = x * x - e[i] * e[i]
        lo = 0
        for b in range(_USED + 1):
            j = first[b]
            if b < _USED:
                while j < n and t[j] - t[i] < _EDGES[b]:
                    j += 1
            else:
                while j < n and t[j] - t[i] <= _LONGEST:
                    j += 1
            first[b] = j
            if b > 0 and j > lo:
                k = j - lo
                pairs[b - 1] += k
                total[b - 1] += k * own - 2.0 * x * (s1[j] - s1[lo]) + (s2[j] - s2[lo])
            if j == n:  # no partner in a longer bin, and none for later points either
                for longer in range(b + 1, _USED + 1):
                    first[longer] = n
                break
            lo = j
        if first[0] == n:
            break


@njit(cache=True, error_model="numpy")
def _one(t: Float, m: Float, e: Float) -> tuple[float, float]:
    """Amplitude and slope of one curve."""
    total = np.zeros(_USED)
    pairs = np.zeros(_USED, dtype=np.int64)
    _bin_sums(t, m, e, total, pairs)
    bins = 0
    k = 0
    sx = 0.0
    sy = 0.0
    sxx = 0.0
    sxy = 0.0
    for b in range(_USED):
        if pairs[b] == 0 or total[b] < 0.0:
            continue
        bins += 1
        if _FITTED[b]:
            x = _LOG_TAU[b]
            y = 0.5 * math.log10(total[b] / pairs[b])
            k += 1
            sx += x
            sy += y
            sxx += x * x
            sxy += x * y
    if bins < 2 or k < 2:
        return _NO_FIT, _NO_FIT
    gamma = (k * sxy - sx * sy) / (k * sxx - sx * sx)
    amplitude = 10.0 ** ((sy - gamma * sx) / k)
    if not (math.isfinite(gamma) and math.isfinite(amplitude)):
        return _NO_FIT, _NO_FIT
    if amplitude < 0.005:
        return 0.0, 0.0
    return min(amplitude, 15.0), min(max(gamma, -0.5), 3.0)


@njit(cache=True, error_model="numpy")
def _all(offsets: Int, mjd: Float, mag: Float, err: Float, out: Float) -> None:
    """Fill one row of `out` per curve; NaN for curves that are too short."""
    for c in range(offsets.size - 1):
        a = offsets[c]
        b = offsets[c + 1]
        if b - a < MIN_POINTS:
            out[c, :] = np.nan
        else:
            out[c, 0], out[c, 1] = _one(mjd[a:b], mag[a:b], err[a:b])


def structure_function(curves: Curves) -> Float:
    """Structure function of n curves as (n, 2): SF_ML_amplitude [mag at 1 yr], SF_ML_gamma; rows sorted by mjd.

    Definition: docs/features.md, after Schmidt et al. (2010). Pairs of 5 to 365 d in bins of 0.1 dex, noise
    subtracted, line through the logarithms of the bins with 0.01 < tau <= 0.5 yr. Fewer than 6 points: NaN. Fewer than
    two bins, fewer than two of them in the fitted range (upstream's least squares then returns an arbitrary line), or a
    bin of exactly zero: both values are -0.5. Amplitude below 0.005: both 0; capped at 15; slope within [-0.5, 3].
    """
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mjd, curves.mag, curves.err, out)
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.hstack([structure_function(curves) for curves in objects.bands])


FAMILY = Family(name="structure_function", columns=per_band(NAMES), compute=_compute)
