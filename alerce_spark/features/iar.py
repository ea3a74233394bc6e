"""IAR_phi: autocorrelation per day of an irregular autoregressive process (Eyheramendy et al. 2018) in one band."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from alerce_spark.features.curves import Curves, Family, Float, Int, Objects, Scratch, per_band

NAMES = ("IAR_phi",)

#: Curves with fewer points have no IAR_phi (algorithms.md 2.4).
MIN_POINTS = 6

_XATOL = 1e-12
_MAX_EVALUATIONS = 500
_RELATIVE = math.sqrt(2.2e-16)  # a minimum is flat to rounding within this fraction of its place
_GOLDEN = 0.5 * (3.0 - math.sqrt(5.0))
_LEAST_ERROR = 1e-10  # in standard deviations of the curve; smaller errors and repeated times would divide by zero
_BIG = 1e60  # a running product of variances beyond this is put into the logarithm


@njit(cache=True, error_model="numpy")
def _objective(phi: float, dt: Float, y: Float, v: Float, step: Float) -> float:
    """(sum of ln Λ + sum of squared residuals / Λ)/n of algorithms.md 2.4; v holds σ², step is work space."""
    n = y.size
    rate = math.log(phi)
    for i in range(n - 1):
        step[i] = math.exp(rate * dt[i])
    spread = 1.0
    at = 0.0
    logs = 0.0
    product = 1.0
    squares = 0.0
    for i in range(n - 1):
        lam = spread + v[i + 1]
        gain = spread / lam
        product *= lam
        if product > _BIG or product < 1.0 / _BIG:
            logs += math.log(product)
            product = 1.0
        r = y[i] - at
        squares += r * r / lam
        at = step[i] * (at + gain * r)
        kept = step[i] * step[i]
        spread = (1.0 - kept) + kept * (gain * v[i + 1])  # Σ - Σ²/Λ = Σσ²/Λ, without cancellation
    return (logs + math.log(product) + squares) / n


@njit(cache=True, error_model="numpy")
def _minimise(dt: Float, y: Float, v: Float) -> float:
    """Place of a minimum of the objective in (0, 1): Brent (1973, chapter 5), golden section with parabolic steps.

    Starting point and tolerances are those of the classical routine (Forsythe, Malcolm & Moler 1977), which SciPy's
    bounded search follows too: where there are several minima both find the same.
    """
    work = np.empty(y.size)
    a = 0.0
    b = 1.0
    x = a + _GOLDEN * (b - a)  # best so far; w second best, u the one before
    w = x
    u = x
    fx = _objective(x, dt, y, v, work)
    fw = fx
    fu = fx
    step = 0.0
    before = 0.0  # the step before the last
    for _ in range(_MAX_EVALUATIONS):
        middle = 0.5 * (a + b)
        tol = _RELATIVE * abs(x) + _XATOL / 3.0
        if abs(x - middle) <= 2.0 * tol - 0.5 * (b - a):
            break
        golden = True
        if abs(before) > tol:
            r = (x - w) * (fx - fu)
            q = (x - u) * (fx - fw)
            p = (x - u) * q - (x - w) * r
            q = 2.0 * (q - r)
            if q > 0.0:
                p = -p
            q = abs(q)
            older = before
            before = step
            if abs(p) < abs(0.5 * q * older) and p > q * (a - x) and p < q * (b - x):
                step = p / q
                z = x + step
                if z - a < 2.0 * tol or b - z < 2.0 * tol:
                    step = tol if middle >= x else -tol
                golden = False
        if golden:
            before = a - x if x >= middle else b - x
            step = _GOLDEN * before
        size = max(abs(step), tol)
        z = x + size if step >= 0.0 else x - size
        fz = _objective(z, dt, y, v, work)
        if fz <= fx:
            if z >= x:
                a = x
            else:
                b = x
            u = w
            fu = fw
            w = x
            fw = fx
            x = z
            fx = fz
        else:
            if z < x:
                a = z
            else:
                b = z
            if fz <= fw or w == x:
                u = w
                fu = fw
                w = z
                fw = fz
            elif fz <= fu or u in (x, w):
                u = z
                fu = fz
    return x


@njit(cache=True, error_model="numpy")
def _all(offsets: Int, mjd: Float, mag: Float, err: Float, out: Float) -> None:
    """IAR_phi of each curve; NaN for curves that are too short or constant."""
    for c in range(offsets.size - 1):
        a = offsets[c]
        n = offsets[c + 1] - a
        out[c, 0] = np.nan
        if n < MIN_POINTS:
            continue
        m = mag[a : a + n]
        mean = 0.0
        for i in range(n):
            mean += m[i] - m[0]
        mean = m[0] + mean / n
        square = 0.0
        for i in range(n):
            square += (m[i] - mean) ** 2
        sd = math.sqrt(square / (n - 1))
        if not sd > 0.0:
            continue
        y = (m - mean) / sd
        v = np.maximum(err[a : a + n] / sd, _LEAST_ERROR) ** 2
        out[c, 0] = _minimise(np.diff(mjd[a : a + n]), y, v)


def iar(curves: Curves) -> Float:
    """IAR_phi of n curves as (n, 1), between 0 and 1 (correlation after one day); rows sorted by mjd.

    The objective is that of algorithms.md 2.4 (turbo-fats), minimised over (0, 1). It differs from the likelihood of
    Eyheramendy et al. (2018, MNRAS 481, 4311) by dividing the residual of a point by the variance predicted with
    the next point's error; published values have it so. Fewer than 6 points or equal magnitudes: NaN. Errors
    below 1e-10 standard deviations of the curve count as that.
    """
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mjd, curves.mag, curves.err, out)
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.hstack([iar(curves) for curves in objects.bands])


FAMILY = Family(name="iar", columns=per_band(NAMES), compute=_compute)
