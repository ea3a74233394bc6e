"""Supernova parametric model of one band: a bounded least-squares fit to signed difference fluxes."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from alerce_spark.features.curves import Curves, Family, Float, Int, Objects, Scratch, per_band

NAMES = ("SPM_A", "SPM_beta", "SPM_chi", "SPM_gamma", "SPM_t0", "SPM_tau_fall", "SPM_tau_rise")

#: Curves with fewer points are not fitted: the model has six parameters.
MIN_POINTS = 6

# Parameters inside this module: A in units of the highest flux, t0, gamma, beta, tau_rise, tau_fall.
_LO = np.array((1.0 / 3.0, -50.0, 1.0, 0.0, 1.0, 1.0))
_HI = np.array((3.0, 50.0, 100.0, 1.0, 100.0, 100.0))
_RANGE = _HI - _LO
_SIZE = 6

_SMOOTH = 3.0  # d, width of the step from plateau to decline
_GONE = 40.0  # exp(-40) is below the rounding of 1
_FLAT = 1e-10  # curvature, for parameters as fractions of their ranges, that counts as flat
_MAX_DAMPING = 1e8
_MAX_ITERATIONS = 100
_ROUGH_ITERATIONS = 20
_STARTS = 6  # values of gamma that are followed up
_TOLERANCE = 1e-9  # relative gain that is not worth another pass
_FLOOR_ERROR = 0.01  # mJy, added to the errors in SPM_chi
_ZERO_POINT = 10.0 ** (26.0 - 48.6 / 2.5)  # mJy of magnitude 0

# Nodes of the scan over the four parameters in which the model is not linear [d].
_SCAN_T0 = np.array((-40.0, -15.0, -5.0, 3.0, 10.0, 20.0, 35.0, 50.0))
_SCAN_GAMMA = np.array((1.5, 5.0, 10.0, 16.0, 25.0, 38.0, 58.0, 85.0))
_SCAN_RISE = np.array((1.5, 5.0, 30.0))
_SCAN_FALL = np.array((4.0, 20.0, 70.0))


@njit(cache=True, error_model="numpy")
def _model(t: float, p: Float, j: Float) -> float:
    """Model flux at time t [d after the first point]; j receives its derivatives in the parameters."""
    amplitude = p[0]
    gamma = p[2]
    beta = p[3]
    rise = p[4]
    fall = p[5]
    since = t - p[1]
    x = since - gamma
    z = x / _SMOOTH
    if z > _GONE:
        s = 1.0
        c = 0.0
        h = math.exp(-x / fall)
    elif z < -_GONE:
        s = 0.0
        c = 1.0
        h = math.exp(z - x / fall)
    else:
        s = 1.0 / (1.0 + math.exp(-z))
        c = 1.0 - s if z < 0.0 else math.exp(-z) * s
        h = math.exp(-x / fall) * s
    up = since / rise
    if up > _GONE:
        d = 1.0
        rest = 0.0
    else:
        q = math.exp(-up)
        d = 1.0 / (1.0 + q)
        rest = q * d
    line = 1.0 - beta * since / gamma
    shape = (1.0 - beta) * h + line * c
    turn = (1.0 - beta) * h * (1.0 / fall - c / _SMOOTH) + line * s * c / _SMOOTH
    f = d * shape
    top = amplitude * d
    j[0] = f
    j[1] = top * (turn + beta / gamma * c - shape * rest / rise)
    j[2] = top * (turn + beta * since / (gamma * gamma) * c)
    j[3] = -top * (h + since / gamma * c)
    j[4] = -top * shape * rest * since / (rise * rise)
    j[5] = top * (1.0 - beta) * h * x / (fall * fall)
    return amplitude * f


@njit(cache=True, error_model="numpy")
def _normal(t: Float, y: Float, tail: Float, p: Float, curvature: Float, slope: Float) -> float:
    """Sum of squared residuals; curvature and slope receive JᵀJ (lower half) and Jᵀr for parameters as fractions.

    tail[i] is the sum of y² from point i on: there is nothing else to add once the model is below rounding.
    """
    j = np.empty(_SIZE)
    curvature[:, :] = 0.0
    slope[:] = 0.0
    cost = 0.0
    end = p[1] + p[2] + _GONE * max(_SMOOTH, p[5])
    for i in range(t.size):
        if t[i] > end:
            return cost + tail[i]
        r = y[i] - _model(t[i], p, j)
        cost += r * r
        for a in range(_SIZE):
            ja = j[a] * _RANGE[a]
            j[a] = ja
            slope[a] += ja * r
            for b in range(a + 1):
                curvature[a, b] += ja * j[b]
    return cost


@njit(cache=True, error_model="numpy")
def _solve(curvature: Float, damping: float, rhs: Float, free: Int, low: Float, out: Float) -> None:
    """Solve the damped system for the free parameters by Cholesky's method; out is 0 for the others."""
    for a in range(_SIZE):
        out[a] = 0.0
        if free[a] == 0:
            continue
        for b in range(a + 1):
            if free[b] == 0:
                continue
            v = curvature[a, b]
            if a == b:
                v += damping * (v + _FLAT) + _FLAT
            for k in range(b):
                if free[k]:
                    v -= low[a, k] * low[b, k]
            if a == b:
                low[a, a] = math.sqrt(max(v, _FLAT * 1e-3))
            else:
                low[a, b] = v / low[b, b]
        v = rhs[a]
        for k in range(a):
            if free[k]:
                v -= low[a, k] * out[k]
        out[a] = v / low[a, a]
    for a in range(_SIZE - 1, -1, -1):
        if free[a]:
            v = out[a]
            for k in range(a + 1, _SIZE):
                if free[k]:
                    v -= low[k, a] * out[k]
            out[a] = v / low[a, a]


@njit(cache=True, error_model="numpy")
def _step(p: Float, curvature: Float, slope: Float, damping: float, work: Float, step: Float) -> float:
    """Damped Gauss–Newton step (as fractions) that stays within the bounds; returns the gain it promises.

    A parameter whose step would leave its range goes to the bound, and the rest is solved again with it held there.
    """
    free = np.ones(_SIZE, dtype=np.int64)
    held = np.zeros(_SIZE)
    rhs = slope.copy()
    for a in range(_SIZE):
        if (p[a] <= _LO[a] and slope[a] <= 0.0) or (p[a] >= _HI[a] and slope[a] >= 0.0):
            free[a] = 0
    for _ in range(_SIZE):
        _solve(curvature, damping, rhs, free, work, step)
        again = False
        for a in range(_SIZE):
            if free[a]:
                below = (_LO[a] - p[a]) / _RANGE[a]
                above = (_HI[a] - p[a]) / _RANGE[a]
                if step[a] < below or step[a] > above:
                    held[a] = below if step[a] < below else above
                    free[a] = 0
                    again = True
                    for b in range(_SIZE):
                        rhs[b] -= held[a] * (curvature[a, b] if b <= a else curvature[b, a])
        if not again:
            break
    gain = 0.0
    for a in range(_SIZE):
        if not free[a]:
            step[a] = held[a]
    for a in range(_SIZE):
        row = 0.0
        for b in range(_SIZE):
            row += (curvature[a, b] if b <= a else curvature[b, a]) * step[b]
        gain += step[a] * (2.0 * slope[a] - row)
    return gain


@njit(cache=True, error_model="numpy")
def _minimise(t: Float, y: Float, tail: Float, p: Float, iterations: int) -> float:
    """Move p to a minimum of the sum of squares within the bounds (Levenberg–Marquardt); returns the sum there."""
    curvature = np.empty((_SIZE, _SIZE))
    slope = np.empty(_SIZE)
    curvature1 = np.empty((_SIZE, _SIZE))
    slope1 = np.empty(_SIZE)
    work = np.empty((_SIZE, _SIZE))
    step = np.empty(_SIZE)
    p1 = np.empty(_SIZE)
    cost = _normal(t, y, tail, p, curvature, slope)
    damping = 1e-2
    for _ in range(iterations):
        gain = _step(p, curvature, slope, damping, work, step)
        for a in range(_SIZE):
            p1[a] = min(max(p[a] + step[a] * _RANGE[a], _LO[a]), _HI[a])
        cost1 = _normal(t, y, tail, p1, curvature1, slope1)
        if cost1 < cost:
            done = abs(gain) < _TOLERANCE * cost
            ratio = (cost - cost1) / gain
            p[:] = p1
            cost = cost1
            curvature, curvature1 = curvature1, curvature
            slope, slope1 = slope1, slope
            if ratio > 0.75:
                damping *= 0.1
            elif ratio < 0.25:
                damping *= 4.0
            damping = max(damping, 1e-12)
            if done:
                break
        else:
            if damping > _MAX_DAMPING:
                break
            damping *= 6.0
    return cost


@njit(cache=True, error_model="numpy")
def _scan(t: Float, y: Float, total: float, costs: Float, starts: Float) -> None:
    """Best node of the scan for each gamma: its sum of squares in costs, its parameters in starts.

    At given t0, gamma, tau_rise, tau_fall the model is A·u - A·beta·v with known u and v, so that A and beta follow
    from five sums. Different minima mostly differ in gamma: the end of the plateau falls between other points.
    """
    n = t.size
    s = np.empty(n)
    c = np.empty(n)
    ramp = np.empty(n)
    h = np.empty(n)
    d = np.empty((_SCAN_RISE.size, n))
    costs[:] = np.inf
    for t0 in _SCAN_T0:
        for k in range(_SCAN_RISE.size):
            for i in range(n):
                d[k, i] = 1.0 / (1.0 + math.exp((t0 - t[i]) / _SCAN_RISE[k]))
        for a in range(_SCAN_GAMMA.size):
            gamma = _SCAN_GAMMA[a]
            t1 = t0 + gamma
            for i in range(n):
                s[i] = 1.0 / (1.0 + math.exp((t1 - t[i]) / _SMOOTH))
                c[i] = 1.0 - s[i]
                ramp[i] = (t[i] - t0) / gamma * c[i]
            for fall in _SCAN_FALL:
                for i in range(n):
                    h[i] = math.exp((t1 - t[i]) / fall) * s[i]
                for k in range(_SCAN_RISE.size):
                    uu = 0.0
                    uv = 0.0
                    vv = 0.0
                    uy = 0.0
                    vy = 0.0
                    for i in range(n):
                        u = d[k, i] * (h[i] + c[i])
                        v = d[k, i] * (h[i] + ramp[i])
                        uu += u * u
                        uv += u * v
                        vv += v * v
                        uy += u * y[i]
                        vy += v * y[i]
                    amplitude = uy * vv - vy * uv  # these two times the determinant
                    product = uy * uv - vy * uu
                    beta = 0.0
                    if amplitude > 0.0 and uu * vv - uv * uv > 1e-12 * uu * vv:
                        beta = min(max(product / amplitude, _LO[3]), _HI[3])
                    wy = uy - beta * vy
                    ww = uu - 2.0 * beta * uv + beta * beta * vv
                    amplitude = min(max(wy / ww, _LO[0]), _HI[0]) if ww > 0.0 else 1.0
                    cost = total + amplitude * (amplitude * ww - 2.0 * wy)
                    if cost < costs[a]:
                        costs[a] = cost
                        starts[a, 0] = amplitude
                        starts[a, 1] = t0
                        starts[a, 2] = gamma
                        starts[a, 3] = beta
                        starts[a, 4] = _SCAN_RISE[k]
                        starts[a, 5] = fall


@njit(cache=True, error_model="numpy")
def _fit(t: Float, y: Float, p: Float) -> None:
    """Fill p with the parameters of the least sum of squares found; y in units of its highest value."""
    n = t.size
    tail = np.zeros(n + 1)
    for i in range(n - 1, -1, -1):
        tail[i] = tail[i + 1] + y[i] * y[i]
    costs = np.empty(_SCAN_GAMMA.size)
    starts = np.empty((_SCAN_GAMMA.size, _SIZE))
    _scan(t, y, tail[0], costs, starts)
    order = np.argsort(costs)
    best = order[0]
    least = np.inf
    for k in order[:_STARTS]:
        if costs[k] < np.inf:
            cost = _minimise(t, y, tail, starts[k], _ROUGH_ITERATIONS)
            if cost < least:
                least = cost
                best = k
    p[:] = starts[best]
    _minimise(t, y, tail, p, _MAX_ITERATIONS)


@njit(cache=True, error_model="numpy")
def _one(mjd: Float, mag: Float, err: Float, sign: Float, o: Float) -> None:
    """Fill o in the order of NAMES for one curve."""
    o[:] = np.nan
    n = 0
    t = np.empty(mjd.size)
    flux = np.empty(mjd.size)
    sigma = np.empty(mjd.size)
    top = 0.0
    for i in range(mjd.size):
        f = sign[i] * _ZERO_POINT * 10.0 ** (-0.4 * mag[i])
        if math.isfinite(f):
            t[n] = mjd[i]
            flux[n] = f
            sigma[n] = abs(f) * (10.0 ** (0.4 * err[i]) - 1.0)
            top = max(top, f)
            n += 1
    if n < MIN_POINTS or not top > 0.0:
        return
    t = t[:n] - t[0]
    p = np.empty(_SIZE)
    _fit(t, flux[:n] / top, p)
    o[0] = p[0] * top
    o[1] = p[3]
    o[3] = p[2]
    o[4] = p[1]
    o[5] = p[5]
    o[6] = p[4]
    if n > _SIZE:
        j = np.empty(_SIZE)
        chi = 0.0
        for i in range(n):
            chi += ((flux[i] - top * _model(t[i], p, j)) / (sigma[i] + _FLOOR_ERROR)) ** 2
        o[2] = chi / (n - _SIZE)


@njit(cache=True, error_model="numpy")
def _all(offsets: Int, mjd: Float, mag: Float, err: Float, sign: Float, out: Float) -> None:
    """Fill one row of `out` per curve."""
    for c in range(offsets.size - 1):
        a = offsets[c]
        b = offsets[c + 1]
        _one(mjd[a:b], mag[a:b], err[a:b], sign[a:b], out[c])


def supernova_model(curves: Curves) -> Float:
    """Supernova parametric model of n curves as (n, 7), columns NAMES; A in mJy, times in d, t0 after the first point.

    Model and bounds: docs/features.md (Villar et al. 2019; Sánchez-Sáez et al. 2021). Input is the difference
    photometry with its sign, flux = sign·10^(26 - (magpsf + 48.6)/2.5) mJy; a point of unknown sign is left out. The
    fit is unweighted, as upstream, and finds the true minimum where upstream stops early or on a bound
    (docs/differences.md D14): a scan over the four parameters that are not linear gives starting points, the best six
    of different gamma are followed for 20 Levenberg–Marquardt steps and the best of these to convergence.

    SPM_chi = Σ(residual/(σ + 0.01 mJy))²/(n - 6), σ = |flux|·(10^(0.4·sigmapsf) - 1). Fewer than 6 points, or no point
    of positive flux (the bounds on A are multiples of the highest flux): all NaN. Exactly 6 points: SPM_chi is NaN.
    """
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mjd, curves.magpsf, curves.sigmapsf, curves.sign, out)
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.hstack([supernova_model(curves) for curves in objects.bands])


FAMILY = Family(name="spm", columns=per_band(NAMES), compute=_compute)
