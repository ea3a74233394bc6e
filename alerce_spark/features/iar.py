"""IAR_phi: autocorrelation per day of an irregular autoregressive process (Eyheramendy et al. 2018) in one band."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from alerce_spark.features.curves import Curves, Family, Float, Int, Objects, Scratch, per_band

NAMES = ("IAR_phi",)

#: Curves with fewer points have no IAR_phi (docs/features.md, "Irregular autoregression").
MIN_POINTS = 6

_MAX_EVALUATIONS = 100
_COARSE = 1e-2  # fraction of phi to which the minimum is bracketed before its slope takes over
_ROUNDING = 1e-13  # differences of the objective below this are not trusted
_FINE = 1e-9  # fraction of phi; the last step of a secant search is taken unseen
_LEAST = 1e-13  # phi itself is not resolved below this
_GOLDEN = 0.5 * (3.0 - math.sqrt(5.0))
_LEAST_ERROR = 1e-10  # in standard deviations of the curve; smaller errors and repeated times would divide by zero
_BIG = 1e60  # a running product of variances beyond this is put into the logarithm


@njit(cache=True, error_model="numpy")
def _objective(phi: float, dt: Float, y: Float, v: Float, step: Float) -> float:
    """(sum of ln Λ + sum of squared residuals / Λ)/n of docs/features.md; v holds σ², step is work space."""
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
def _slope(phi: float, dt: Float, y: Float, v: Float) -> tuple[float, float]:
    """Derivative of n times the objective in phi, and its expected curvature."""
    n = y.size
    rate = math.log(phi)
    spread = 1.0
    at = 0.0
    spread1 = 0.0  # derivatives in ln phi
    at1 = 0.0
    slope = 0.0
    curvature = 0.0
    for i in range(n - 1):
        inverse = 1.0 / (spread + v[i + 1])
        step = math.exp(rate * dt[i])
        gain = spread * inverse
        lost = v[i + 1] * inverse
        r = y[i] - at
        ratio = spread1 * inverse
        gain1 = ratio * lost
        slope += ratio * (1.0 - r * r * inverse) - 2.0 * r * at1 * inverse
        curvature += ratio * ratio + 2.0 * at1 * at1 * inverse
        after = at + gain * r
        at1 = step * (dt[i] * after + at1 * lost + gain1 * r)
        at = step * after
        kept = step * step
        spread1 = kept * (lost * lost * spread1 - 2.0 * dt[i] * (1.0 - gain * v[i + 1]))
        spread = (1.0 - kept) + kept * (gain * v[i + 1])
    return slope / phi, curvature / (phi * phi)


@njit(cache=True, error_model="numpy")
def _polish(dt: Float, y: Float, v: Float, a: float, b: float, x: float) -> float:
    """Zero of the slope between a and b, by secants from x, by halving where they leave the bracket or lag.

    Around its minimum the objective is flat to rounding, over a wide range of phi if all gaps are long. Its slope is
    not, so the result does not depend on the last bits of exp and log, which differ between machines.
    """
    slope, curvature = _slope(x, dt, y, v)
    before = b - a
    for _ in range(_MAX_EVALUATIONS):
        if slope > 0.0:
            b = x
        else:
            a = x
        z = x - slope / curvature
        if not (a < z < b) or abs(z - x) > 0.7 * before:
            z = 0.5 * (a + b)
        size = abs(z - x)
        if size <= _FINE * x + _LEAST or slope == 0.0:
            return z
        before = size
        slope1, expected = _slope(z, dt, y, v)
        curvature = (slope1 - slope) / (z - x)
        if not curvature > 0.0:
            curvature = expected
        x = z
        slope = slope1
    return x


@njit(cache=True, error_model="numpy")
def _minimise(dt: Float, y: Float, v: Float) -> float:
    """Place of a minimum of the objective in (0, 1): Brent (1973, chapter 5) until it is bracketed, then its slope.

    Brent's search, golden section with parabolic steps, starts where the classical routine (Forsythe, Malcolm & Moler
    1977) starts, which SciPy's bounded search follows too: where there are several minima both find the same.
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
        tol = _COARSE * min(x, 1.0 - x) + _LEAST
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
        if abs(fz - fx) < _ROUNDING * (1.0 + abs(fx)):
            break
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
    return _polish(dt, y, v, a, b, x)


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

    The objective is that of docs/features.md (turbo-fats), minimised over (0, 1). It differs from the likelihood of
    Eyheramendy et al. (2018, MNRAS 481, 4311) by dividing the residual of a point by the variance predicted with
    the next point's error; published values do the same. Fewer than 6 points or equal magnitudes: NaN. Errors
    below 1e-10 standard deviations of the curve are raised to that value.
    """
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mjd, curves.mag, curves.err, out)
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.hstack([iar(curves) for curves in objects.bands])


FAMILY = Family(name="iar", columns=per_band(NAMES), compute=_compute)
