"""Damped random walk of one band's light curve: variance and time scale of maximum likelihood."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from alerce_spark.features.curves import Curves, Family, Float, Int, Objects, Scratch, per_band

NAMES = ("GP_DRW_sigma", "GP_DRW_tau")

#: Curves with fewer points have no damped random walk (docs/features.md, "Damped random walk").
MIN_POINTS = 6

#: Variance [mag²] and time scale [d] are searched within these bounds.
VARIANCE_BOUNDS = (1e-8, 1e4)
TAU_BOUNDS = (1e-3, 1e5)

_TAUS = (0.1, 1.0, 10.0, 100.0, 1000.0)  # d; a search starts from each that is no worse than its neighbours
_LEAST_ERROR = 1e-10  # in standard deviations of the curve; smaller errors and repeated times would divide by zero
_BIG = 1e60  # a running product of variances beyond this is put into the logarithm
_MAX_ITERATIONS = 200
_MAX_STEP = 3.0  # e-folds of variance or time scale in one step
_TOLERANCE = 1e-10  # gain of twice the log-likelihood that is not worth another pass; the last step is taken unseen
_FLAT = 1e-6  # curvature below which a direction counts as flat: there rounding, not the data, gives the slope
_GAIN = 1e-13  # relative gain of likelihood below which a failed step ends the search


@njit(cache=True, error_model="numpy")
def _loss(log_a: float, log_c: float, t: Float, y: Float, v: Float, slopes: bool, g: Float) -> float:
    """Twice the negative log-likelihood of a·exp(-c·Δt) plus variances v, less n·ln 2π; one pass of a Kalman filter.

    The process is Markov, so the exact Gaussian likelihood is a product over points of the density of each given those
    before. With `slopes`, g receives its gradient in (ln a, ln c), then the three entries 11, 12, 22 of the expected
    second derivatives. Every term of the filter is positive, so no variance can come out negative.
    """
    a = math.exp(log_a)
    c = math.exp(log_c)
    p = a  # predicted variance and value, then their derivatives
    x = 0.0
    pa = a
    pc = 0.0
    xa = 0.0
    xc = 0.0
    g0 = 0.0
    g1 = 0.0
    h00 = 0.0
    h01 = 0.0
    h11 = 0.0
    logs = 0.0
    product = 1.0
    squares = 0.0
    n = y.size
    for i in range(n):
        d = p + v[i]
        inverse = 1.0 / d
        z = y[i] - x
        product *= d
        if product > _BIG or product < 1.0 / _BIG:
            logs += math.log(product)
            product = 1.0
        zn = z * inverse
        squares += z * zn
        u = v[i] * inverse
        if i < n - 1:
            ct = c * (t[i + 1] - t[i])
            f = math.exp(-ct)
            f2 = f * f
            lost = 1.0 - f2 if ct > 1e-3 else 2.0 * ct * (1.0 - ct * (1.0 - ct * (2.0 / 3.0 - ct / 3.0)))
        else:
            ct = 0.0
            f = 1.0
            f2 = 1.0
            lost = 0.0
        after = x + p * zn
        kept = p * u
        if slopes:
            ra = pa * inverse
            rc = pc * inverse
            half = 1.0 - z * zn
            g0 += ra * half - 2.0 * zn * xa
            g1 += rc * half - 2.0 * zn * xc
            h00 += ra * ra + 2.0 * xa * xa * inverse
            h01 += ra * rc + 2.0 * xa * xc * inverse
            h11 += rc * rc + 2.0 * xc * xc * inverse
            xa = f * u * (xa + ra * z)
            xc = f * (u * (xc + rc * z) - ct * after)
            pa = f2 * pa * u * u + a * lost
            pc = f2 * (pc * u * u + 2.0 * ct * (a - kept))
        x = f * after
        p = f2 * kept + a * lost
    if slopes:
        g[0] = g0
        g[1] = g1
        g[2] = h00
        g[3] = h01
        g[4] = h11
    return logs + math.log(product) + squares


@njit(cache=True, error_model="numpy")
def _search(t: Float, y: Float, v: Float, lo: Float, hi: Float, x: Float) -> float:
    """Move x = (ln a, ln c) to a minimum of the loss within lo and hi, and return the loss there.

    A damped quasi-Newton search (Levenberg-Marquardt damping, BFGS updates) that starts from the expected curvature.
    """
    g = np.empty(5)
    trial = np.empty(5)
    f = _loss(x[0], x[1], t, y, v, True, g)
    b00, b01, b11 = g[2], g[3], g[4]
    damping = 1e-3
    for _ in range(_MAX_ITERATIONS):
        # A coordinate at a bound that the gradient pushes against stays there.
        free0 = not ((x[0] <= lo[0] and g[0] > 0.0) or (x[0] >= hi[0] and g[0] < 0.0))
        free1 = not ((x[1] <= lo[1] and g[1] > 0.0) or (x[1] >= hi[1] and g[1] < 0.0))
        d00 = b00 * (1.0 + damping) + _FLAT
        d11 = b11 * (1.0 + damping) + _FLAT
        s0 = 0.0
        s1 = 0.0
        if free0 and free1:
            det = d00 * d11 - b01 * b01
            if det > 1e-12 * d00 * d11:
                s0 = -(d11 * g[0] - b01 * g[1]) / det
                s1 = -(d00 * g[1] - b01 * g[0]) / det
            else:
                s0 = -g[0] / d00
                s1 = -g[1] / d11
        elif free0:
            s0 = -g[0] / d00
        elif free1:
            s1 = -g[1] / d11
        s0 = min(max(s0, -_MAX_STEP), _MAX_STEP)
        s1 = min(max(s1, -_MAX_STEP), _MAX_STEP)
        z0 = min(max(x[0] + s0, lo[0]), hi[0])
        z1 = min(max(x[1] + s1, lo[1]), hi[1])
        s0 = z0 - x[0]
        s1 = z1 - x[1]
        size = max(abs(s0), abs(s1))
        promised = -(g[0] * s0 + g[1] * s1)
        if not promised > _TOLERANCE:
            if promised > 0.0:
                x[0] = z0
                x[1] = z1
            break
        fz = _loss(z0, z1, t, y, v, True, trial)
        if not fz <= f + _GAIN * abs(f):
            if damping > 1e8:
                break
            damping = max(damping, 1e-3) * 8.0
            if damping > 1.0:
                b00, b01, b11 = g[2], g[3], g[4]
            continue
        # BFGS update of the curvature; the expected one again where the update would not be positive.
        r0 = trial[0] - g[0]
        r1 = trial[1] - g[1]
        sr = s0 * r0 + s1 * r1
        w0 = b00 * s0 + b01 * s1
        w1 = b01 * s0 + b11 * s1
        sw = s0 * w0 + s1 * w1
        if sr > 1e-8 * sw and sw > 0.0 and size < 0.3:
            b00 += r0 * r0 / sr - w0 * w0 / sw
            b01 += r0 * r1 / sr - w0 * w1 / sw
            b11 += r1 * r1 / sr - w1 * w1 / sw
        else:
            b00, b01, b11 = trial[2], trial[3], trial[4]
        damping = damping * 0.1 if damping > 1e-10 else 0.0
        x[0] = z0
        x[1] = z1
        f = fz
        g[:] = trial
    return f


@njit(cache=True, error_model="numpy")
def _fit(t: Float, m: Float, e: Float) -> tuple[float, float]:
    """Variance and time scale of one curve."""
    n = m.size
    mean = 0.0
    for i in range(n):
        mean += m[i] - m[0]
    mean = m[0] + mean / n
    var = 0.0
    for i in range(n):
        var += (m[i] - mean) ** 2
    var /= n
    if not var > 0.0:
        return np.nan, np.nan
    sd = math.sqrt(var)
    y = (m - mean) / sd
    v = np.maximum(e / sd, _LEAST_ERROR) ** 2
    lo = np.array((math.log(VARIANCE_BOUNDS[0] / var), -math.log(TAU_BOUNDS[1])))
    hi = np.array((math.log(VARIANCE_BOUNDS[1] / var), -math.log(TAU_BOUNDS[0])))
    start = min(max(math.log(max(1.0 - v.mean(), 0.1)), lo[0]), hi[0])
    scan = np.empty(len(_TAUS))
    unused = np.empty(0)
    for k in range(scan.size):
        scan[k] = _loss(start, -math.log(_TAUS[k]), t, y, v, False, unused)
    x = np.empty(2)
    best = np.empty(2)
    least = np.inf
    for k in range(scan.size):
        if (k > 0 and scan[k - 1] < scan[k]) or (k + 1 < scan.size and scan[k + 1] < scan[k]):
            continue
        x[0] = start
        x[1] = -math.log(_TAUS[k])
        f = _search(t, y, v, lo, hi, x)
        if f < least:
            least = f
            best[:] = x
    if not least < np.inf:
        return np.nan, np.nan
    if best[0] <= lo[0]:
        return VARIANCE_BOUNDS[0], np.nan
    return math.exp(best[0]) * var, math.exp(-best[1])


@njit(cache=True, error_model="numpy")
def _all(offsets: Int, mjd: Float, mag: Float, err: Float, out: Float) -> None:
    """Fill one row of `out` per curve; NaN for curves that are too short."""
    for c in range(offsets.size - 1):
        a = offsets[c]
        b = offsets[c + 1]
        if b - a < MIN_POINTS:
            out[c, :] = np.nan
        else:
            out[c, 0], out[c, 1] = _fit(mjd[a:b], mag[a:b], err[a:b])


def damped_random_walk(curves: Curves) -> Float:
    """Damped random walks of n curves as (n, 2): GP_DRW_sigma [mag²], GP_DRW_tau [d]; rows sorted by mjd.

    Kernel a·exp(-Δt/tau) plus err² on the diagonal, magnitudes minus their mean (docs/features.md); the likelihood is
    that of Foreman-Mackey et al. (2017, AJ 154, 220) for a real term. GP_DRW_sigma is a, **a variance** despite its
    name. Both are searched within VARIANCE_BOUNDS and TAU_BOUNDS. Fewer than 6 points or equal magnitudes: NaN. If the
    errors explain all scatter, a is its lower bound, and tau, on which the likelihood then does not depend, is NaN.
    Errors below 1e-10 standard deviations of the curve are raised to that value.
    """
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mjd, curves.mag, curves.err, out)
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.hstack([damped_random_walk(curves) for curves in objects.bands])


FAMILY = Family(name="drw", columns=per_band(NAMES), compute=_compute)
