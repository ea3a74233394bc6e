"""Fourier series of seven harmonics at the best period: amplitudes, relative phases, residual (docs/features.md).

Weighted least squares with rows scaled by 1/(e + 0.01), solved by the pseudo-inverse: if the points do not determine
all 15 coefficients, it gives the solution of least norm. Two choices are ours. The mean magnitude is subtracted first,
which matters only in that case and keeps the zero point of the magnitudes out of the amplitudes. Singular values below
1e-6 of the largest count as zero (upstream: 1e-15), since smaller ones carry only the rounding noise of the epochs.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from alerce_spark.features.curves import Curves, Family, Float, Int, Objects, Scratch, per_band
from alerce_spark.features.trigonometry import sincos_turns

HARMONICS = 7
NAMES = (
    *(f"Harmonics_mag_{k}" for k in range(1, HARMONICS + 1)),
    *(f"Harmonics_phase_{k}" for k in range(2, HARMONICS + 1)),
    "Harmonics_mse",
)
#: Added to every error [mag] before it becomes a weight.
ERROR_FLOOR = 0.01
#: Singular values below this share of the largest count as zero.
RCOND = 1e-6
#: A single point has no shape.
MIN_POINTS = 2

_TERMS = 2 * HARMONICS + 1
# With a triangle as well conditioned as this no singular value comes near RCOND, and substitution does.
_GOOD_TRIANGLE = 1e-3


@njit(cache=True, error_model="numpy")
def _dot(a: Float, b: Float) -> float:
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(cache=True, error_model="numpy")
def _shortest(rows: Float, target: Float) -> Float:
    """Solution of least norm of `rows` (n, p) x = `target` (n,), n ≤ p; both are overwritten.

    One-sided Jacobi rotations, also applied to the target, make the rows orthogonal; then rows contribute separately.
    """
    n, p = rows.shape
    for _ in range(40):
        largest = 0.0
        for i in range(n):
            for j in range(i + 1, n):
                alpha = beta = inner = 0.0
                for k in range(p):
                    alpha += rows[i, k] * rows[i, k]
                    beta += rows[j, k] * rows[j, k]
                    inner += rows[i, k] * rows[j, k]
                size = np.sqrt(alpha * beta)
                if abs(inner) <= 1e-15 * size:
                    continue
                largest = max(largest, abs(inner) / size)
                zeta = (beta - alpha) / (2.0 * inner)
                t = (1.0 if zeta >= 0.0 else -1.0) / (abs(zeta) + np.sqrt(1.0 + zeta * zeta))
                c = 1.0 / np.sqrt(1.0 + t * t)
                s = c * t
                for k in range(p):
                    x = rows[i, k]
                    y = rows[j, k]
                    rows[i, k] = c * x - s * y
                    rows[j, k] = s * x + c * y
                x = target[i]
                y = target[j]
                target[i] = c * x - s * y
                target[j] = s * x + c * y
        if largest < 1e-14:
            break
    square = np.empty(n)
    for i in range(n):
        square[i] = _dot(rows[i], rows[i])
    solution = np.zeros(p)
    cut = RCOND * RCOND * square.max()
    for i in range(n):
        if square[i] > cut:
            for k in range(p):
                solution[k] += rows[i, k] * (target[i] / square[i])
    return solution


@njit(cache=True, error_model="numpy")
def _solve(columns: Float, target: Float) -> Float:
    """Least-squares coefficients (p,) of `target` (n,) on `columns` (p, n); both are overwritten."""
    p, n = columns.shape
    if n < p:
        return _shortest(columns.T.copy(), target)
    # modified Gram-Schmidt with the target as last column is as stable as Householder's method (Björck 1967)
    r = np.zeros((p, p))
    z = np.zeros(p)
    for i in range(p):
        r[i, i] = np.sqrt(_dot(columns[i], columns[i]))
        if r[i, i] == 0.0:
            continue
        columns[i] /= r[i, i]
        for j in range(i + 1, p):
            r[i, j] = _dot(columns[i], columns[j])
            for k in range(n):
                columns[j, k] -= r[i, j] * columns[i, k]
        z[i] = _dot(columns[i], target)
        for k in range(n):
            target[k] -= z[i] * columns[i, k]
    diagonal = np.diag(r)
    if diagonal.min() < _GOOD_TRIANGLE * diagonal.max():
        return _shortest(r, z)
    for i in range(p - 1, -1, -1):
        for j in range(i + 1, p):
            z[i] -= r[i, j] * z[j]
        z[i] /= r[i, i]
    return z


@njit(cache=True, error_model="numpy")
def fit(time: Float, mag: Float, err: Float, period: float) -> Float:
    """Coefficients (15,): constant, 7 cosines, 7 sines of a series in `time` [d, from any origin] with `period` [d]."""
    n = time.size
    mean = 0.0
    for i in range(n):
        mean += mag[i] - mag[0]
    mean = mag[0] + mean / n
    columns = np.empty((_TERMS, n))
    target = np.empty(n)
    for i in range(n):
        w = 1.0 / (err[i] + ERROR_FLOOR)
        turns = time[i] / period
        turns -= np.floor(turns)
        target[i] = w * (mag[i] - mean)
        columns[0, i] = w
        for k in range(1, HARMONICS + 1):
            sine, cosine = sincos_turns(k * turns)
            columns[k, i] = w * cosine
            columns[HARMONICS + k, i] = w * sine
    coefficients = _solve(columns, target)
    coefficients[0] += mean
    return coefficients


@njit(cache=True, error_model="numpy")
def model(time: Float, period: float, coefficients: Float) -> Float:
    """Magnitudes (n,) of the series of `fit` at `time` [d, same origin]."""
    out = np.empty(time.size)
    for i in range(time.size):
        turns = time[i] / period
        turns -= np.floor(turns)
        out[i] = coefficients[0]
        for k in range(1, HARMONICS + 1):
            sine, cosine = sincos_turns(k * turns)
            out[i] += coefficients[k] * cosine + coefficients[HARMONICS + k] * sine
    return out


@njit(cache=True, error_model="numpy")
def _all(offsets: Int, mjd: Float, mag: Float, err: Float, period: Float, out: Float) -> None:
    """Fill one row of `out` per curve; NaN without a period or points."""
    for c in range(offsets.size - 1):
        lo, hi = offsets[c], offsets[c + 1]
        out[c, :] = np.nan
        if hi - lo < MIN_POINTS or not period[c] > 0.0:
            continue
        time = mjd[lo:hi] - mjd[lo]
        x = fit(time, mag[lo:hi], err[lo:hi], period[c])
        first = np.arctan2(x[HARMONICS + 1], x[1])
        for k in range(1, HARMONICS + 1):
            out[c, k - 1] = np.hypot(x[k], x[HARMONICS + k])
            if k > 1:
                out[c, HARMONICS + k - 2] = (np.arctan2(x[HARMONICS + k], x[k]) - k * first) % (2.0 * np.pi)
        fitted = model(time, period[c], x)
        square = 0.0
        for i in range(lo, hi):
            square += (fitted[i - lo] - mag[i]) ** 2
        out[c, 2 * HARMONICS - 1] = square / (hi - lo)


def _band(curves: Curves, period: Float) -> Float:
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mjd, curves.mag, curves.err, period, out)
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    """Times count from each band's first point: amplitudes and phase_k − k·phase_1 do not depend on the origin."""
    return np.hstack([_band(curves, scratch.period) for curves in objects.bands])


FAMILY = Family("harmonics", per_band(NAMES), _compute, needs=("periodogram",))
