"""Mexican-hat power spectrum: variance of the flux on scales of 100 and 10 days (Arévalo et al. 2012, MNRAS 426, 1793).

Definition in docs/features.md. The flux minus its mean is smoothed with two Gaussians of widths σ and 2σ, each
normalised by the sampling smoothed with the same Gaussian. The power on that scale is the mean square of the
difference, divided by the square integral of the filter and the squared mean flux.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from alerce_spark.features.curves import Curves, Family, Float, Int, Objects, Scratch, per_band

NAMES = ("MHPS_high", "MHPS_low", "MHPS_ratio")

#: Time scales [d] of MHPS_low and MHPS_high.
LOW, HIGH = 100.0, 10.0
#: The filter extends to at least six times this [d]. Published values used 5.0 (docs/differences.md D15).
DT = 5.0
#: A point is used if more than this many points, itself included, lie within two thirds of the filter's reach.
MIN_NEIGHBOURS = 3

_ZERO_POINT = 19.0
_ROUNDING = 1e-26  # power left over of equal fluxes
_LN10 = math.log(10.0)


@njit(cache=True, error_model="numpy")
def _filter_integral(sigma: float, reach: float) -> float:
    """∫(G₁/∫G₁ − G₂/∫G₂)² within ±reach, G₁ and G₂ Gaussians of widths σ and 2σ (in closed form; upstream sums)."""
    root = math.sqrt(math.pi)
    s1, s2 = sigma, 2.0 * sigma
    n1 = math.sqrt(2.0) * s1 * root * math.erf(reach / (math.sqrt(2.0) * s1))
    n2 = math.sqrt(2.0) * s2 * root * math.erf(reach / (math.sqrt(2.0) * s2))
    s12 = math.sqrt(2.0 / (1.0 / (s1 * s1) + 1.0 / (s2 * s2)))
    return (
        s1 * root * math.erf(reach / s1) / (n1 * n1)
        + s2 * root * math.erf(reach / s2) / (n2 * n2)
        - 2.0 * s12 * root * math.erf(reach / s12) / (n1 * n2)
    )


@njit(cache=True, error_model="numpy")
def _smooth(mjd: Float, flux: Float, scale: float, dt: float, used: Int) -> float:
    """Mean square of the filtered flux over the filter's square integral; `used` (n,) says which points count."""
    n = mjd.size
    sigma = 0.225 * scale / math.sqrt(2.0)
    reach = 6.0 * max(sigma, dt)
    rate = np.empty((2, n))
    mask = np.ones((2, n))
    used[:] = 1
    for i in range(n):
        rate[0, i] = flux[i]
        rate[1, i] = flux[i]
    for i in range(n):
        for j in range(i + 1, n):
            gap = mjd[j] - mjd[i]
            if gap >= reach:
                break
            wide = math.exp(-gap * gap / (8.0 * sigma * sigma))
            narrow = wide * wide * wide * wide
            rate[0, i] += narrow * flux[j]
            rate[1, i] += wide * flux[j]
            rate[0, j] += narrow * flux[i]
            rate[1, j] += wide * flux[i]
            mask[0, i] += narrow
            mask[1, i] += wide
            mask[0, j] += narrow
            mask[1, j] += wide
            if gap <= reach / 3.0 * 2.0:
                used[i] += 1
                used[j] += 1
    total = 0.0
    count = 0
    for i in range(n):
        if used[i] > MIN_NEIGHBOURS:
            used[i] = 1
            count += 1
            total += (rate[0, i] / mask[0, i] - rate[1, i] / mask[1, i]) ** 2
        else:
            used[i] = 0
    return total / count / _filter_integral(sigma, reach)


@njit(cache=True, error_model="numpy")
def _all(offsets: Int, mjd: Float, mag: Float, err: Float, dt: float, out: Float) -> None:
    """Fill one row (high, low, ratio) of `out` per curve; NaN if no point has enough neighbours."""
    for c in range(offsets.size - 1):
        lo, hi = offsets[c], offsets[c + 1]
        n = hi - lo
        out[c, :] = np.nan
        if n <= MIN_NEIGHBOURS:
            continue
        flux = np.empty(n)
        used = np.empty(n, np.int64)
        mean = 0.0
        for i in range(n):
            flux[i] = 10.0 ** (0.4 * (_ZERO_POINT - mag[lo + i]))
            mean += flux[i]
        mean /= n
        noise = flux * err[lo:hi] * (0.4 * _LN10)
        flux -= mean
        low = _smooth(mjd[lo:hi], flux, LOW, dt, used) / (mean * mean)
        error = 0.0
        count = 0
        for i in range(n):
            if used[i]:
                error += noise[i]
                count += 1
        poisson = (error / count / mean) ** 2
        high = _smooth(mjd[lo:hi], flux, HIGH, dt, used) / (mean * mean)
        if high > poisson:
            high -= poisson
        out[c, 0] = high
        out[c, 1] = low - poisson
        if high > _ROUNDING:
            out[c, 2] = out[c, 1] / high


def power_spectrum(curves: Curves, dt: float = DT) -> Float:
    """(n, 3) MHPS_high, MHPS_low and their ratio of n curves; `dt` [d] as in DT. NaN where undefined."""
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mjd, curves.mag, curves.err, dt, out)
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.hstack([power_spectrum(curves) for curves in objects.bands])


FAMILY = Family("mhps", per_band(NAMES), _compute)
