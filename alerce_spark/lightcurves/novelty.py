"""Unexpected points within a light curve: how far each point lies from the prediction by the points before it.

A bank of robust Kalman filters runs along each curve (one object in one band). Each filter assumes a damped random
walk with a different amplitude and time scale about an unknown mean, observed with the error of each point. The time
since the last point is part of the model, so uneven sampling needs no special treatment. The prediction of the bank is
the mixture of its filters' predictions, weighted by how well each has predicted so far (multiple-model estimation,
Magill 1965, IEEE TAC 10, 434; with forgetting, Raftery et al. 2010, Technometrics 52, 52). So the parameters come from
the history alone, one pass gives the significance of every point at the time when it was new, and a short history
gives a wide prediction.

A filter allows that a point is an outlier, with a small probability, and updates by the posterior probability that the
point was good (Bar-Shalom's probabilistic data association with one candidate): a past flare neither shifts the
prediction nor widens it much.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from alerce_spark.lightcurves._groups import Float, Int, floats, integers, same_length

#: Least number of points before a point that is judged.
MIN_HISTORY = 6
#: Significance beyond which a point counts as unexpected.
THRESHOLD = 3.0
#: Largest significance reported; tails beyond it come from the model, not from the data.
LARGEST = 30.0

#: Amplitudes [mag] and time scales [d] of the bank; the shortest is white noise at any cadence, so it also covers
#: underestimated errors and variation that is faster than the visits.
_AMPLITUDES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_TIME_SCALES = (0.02, 3.0, 30.0, 1000.0)
_FOREIGN = 0.02  # share of points that belong to no model
_FOREIGN_SCALE = 8.0  # and how much wider than good ones they scatter; good is its 64th power in the kernel
_MEMORY, _EVERY = 0.85, 8  # the weights' logarithms lose this factor every so many points: they remember about 50
_LEAST = 1e-280


@njit(cache=True)
def _tail(z: float) -> float:
    """Logarithm of the upper tail of the normal distribution beyond z; for large z by its continued fraction."""
    if z < 5.0:
        return math.log(0.5 * math.erfc(z / math.sqrt(2.0)))
    return -0.5 * z * z - math.log(z + 1.0 / (z + 2.0 / (z + 3.0 / (z + 4.0 / z)))) - 0.5 * math.log(2.0 * math.pi)


@njit(cache=True, error_model="numpy")
def _filter(t: Float, y: Float, e: Float, amplitudes: Float, scales: Float, first: int, out: Float) -> None:
    """Logarithms of the upper and lower tail of the predictions of points `first` and later, (n, 2), else NaN.

    amplitudes (a,) and scales (s,) make a bank of a · s filters and one without any variation.
    """
    n, models = y.size, amplitudes.size * scales.size + 1
    out[:] = np.nan
    if n <= MIN_HISTORY:
        return
    # The median of the first points counts as one observation, so that an outlier among them does not set the level.
    level = np.median(y[:MIN_HISTORY])
    noise = np.median(e[:MIN_HISTORY]) ** 2
    mean, walk = np.full(models, level), np.zeros(models)
    # Covariance of mean and walk: (mean, mean), (mean, walk), (walk, walk).
    variance = np.zeros(models)
    for k in range(models - 1):
        variance[k] = amplitudes[k // scales.size] ** 2
    p_mean, p_both, p_walk = variance + noise, np.zeros(models), variance.copy()
    weight = np.full(models, 1.0 / models)
    keep = np.ones(scales.size)
    for i in range(n):
        if i:
            for j in range(scales.size):
                keep[j] = math.exp((t[i - 1] - t[i]) / scales[j])
        is_judged = i >= max(MIN_HISTORY, first)
        up, down = -np.inf, -np.inf
        total = 0.0
        for k in range(models):
            f = keep[k % scales.size]
            p_walk[k] = f * f * p_walk[k] + variance[k] * (1.0 - f * f)
            p_both[k] *= f
            walk[k] *= f
            residual = y[i] - mean[k] - walk[k]
            to_mean, to_walk = p_mean[k] + p_both[k], p_both[k] + p_walk[k]
            s = to_mean + to_walk + e[i] * e[i]
            square = residual * residual / s
            if is_judged:
                z, w = residual / math.sqrt(s), math.log(weight[k])
                a, b = w + _tail(z), w + _tail(-z)
                up = max(up, a) + math.log1p(math.exp(-abs(up - a)))
                down = max(down, b) + math.log1p(math.exp(-abs(down - b)))
            foreign = math.exp(-0.5 * square / _FOREIGN_SCALE**2)
            good = foreign**64 * (1.0 - _FOREIGN)
            density = good + foreign * _FOREIGN / _FOREIGN_SCALE
            weight[k] *= density / math.sqrt(s)
            total += weight[k]
            share = good / (density + _LEAST)
            a, b = to_mean / s, to_walk / s
            mean[k] += share * a * residual
            walk[k] += share * b * residual
            # Less by what a good point tells, more by not knowing whether it was one.
            change = s * share * ((1.0 - share) * square - 1.0)
            p_mean[k] += change * a * a
            p_both[k] += change * a * b
            p_walk[k] += change * b * b
        if is_judged:
            out[i, 0], out[i, 1] = up, down
        forget = i % _EVERY == _EVERY - 1
        again = 0.0
        for k in range(models):
            weight[k] = max(weight[k] / total, _LEAST) if total > 0.0 else 1.0 / models
            if forget:
                weight[k] = weight[k] ** _MEMORY
            again += weight[k]
        for k in range(models):
            weight[k] /= again


@njit(cache=True)
def _all(
    offsets: Int, mjd: Float, mag: Float, err: Float, amplitudes: Float, scales: Float, only_last: bool, out: Float
) -> None:
    for i in range(offsets.size - 1):
        a, b = offsets[i], offsets[i + 1]
        _filter(mjd[a:b], mag[a:b], err[a:b], amplitudes, scales, b - a - 1 if only_last else 0, out[a:b])


def significance(
    offsets: ArrayLike, mjd: ArrayLike, mag: ArrayLike, err: ArrayLike, *, only_last: bool = False
) -> Float:
    """Signed significance (points,) of each point given those before it in its curve, above 0 where it is brighter.

    The number of standard deviations at which a normal distribution has the same one-sided tail; at most LARGEST; NaN
    for the first MIN_HISTORY points of a curve, and with `only_last`, which is faster, for all but the last. Curve i is
    rows `offsets[i]:offsets[i + 1]`, one object in one band in time order; mjd [d], mag and its error err [mag]. Raises
    ValueError for columns of different length, values that are not finite, or errors that are not positive.
    """
    times, values, errors = floats(mjd), floats(mag), floats(err)
    n = same_length(mjd=times, mag=values, err=errors)
    bounds = integers(offsets, "offsets")
    if not (
        np.isfinite(times).all() and np.isfinite(values).all() and np.isfinite(errors).all() and (errors > 0).all()
    ):
        raise ValueError("mjd, mag and err must be finite, and err positive")
    if bounds[0] != 0 or bounds[-1] != n or (np.diff(bounds) < 0).any():
        raise ValueError(f"offsets must rise from 0 to {n}")
    tails = np.empty((n, 2))
    _all(bounds, times, values, errors, np.array(_AMPLITUDES), np.array(_TIME_SCALES), only_last, tails)
    # Fainter than expected is a larger magnitude: the upper tail.
    size = _normal(tails.min(axis=1))
    return np.where(tails[:, 0] < tails[:, 1], -size, size)


def _normal(log_tail: Float) -> Float:
    """Standard deviations with this (logarithm of the) one-sided tail, from 0 to LARGEST."""
    direct = -ndtri(np.exp(np.maximum(log_tail, -500.0)))
    # Far out z² = -2 ln(tail) - ln(2π) - 2 ln z, by two rounds of iteration.
    z = np.sqrt(np.maximum(-2.0 * log_tail, 1.0))
    for _ in range(3):
        z = np.sqrt(np.maximum(-2.0 * log_tail - math.log(2.0 * math.pi) - 2.0 * np.log(z), 1.0))
    return np.clip(np.where(log_tail < -500.0, z, direct), 0.0, LARGEST)


def latest(offsets: tuple[Int, ...], mjd: tuple[Float, ...], points: tuple[Float, ...]) -> NDArray[np.float64]:
    """Significance (n,) of the latest point of each of n objects over its bands; NaN where its history is too short.

    One element per band: offsets (n + 1,), times and significances of its points.
    """
    n = len(offsets[0]) - 1
    newest, found = np.full(n, -np.inf), np.full(n, np.nan)
    for bounds, times, values in zip(offsets, mjd, points, strict=True):
        objects = np.flatnonzero(np.diff(bounds))
        last = bounds[objects + 1] - 1
        is_newer = times[last] > newest[objects]
        newest[objects[is_newer]] = times[last[is_newer]]
        found[objects[is_newer]] = values[last[is_newer]]
    return found
