"""Period search: multiband floating-mean generalised Lomb-Scargle with refined peaks; PPE; significance of the peak.

The statistic is that of a multi-harmonic analysis of variance with one harmonic (Schwarzenberg-Czerny 1996, ApJ 460,
L107), which equals a weighted Lomb-Scargle periodogram with floating mean (Zechmeister & Kürster 2009, A&A 496, 577):
each band has its own mean and sinusoid, and the bands share the frequency. Here it is kept as x = Σθ/Σχ²₀, the share of
the weighted sum of squares that the model explains; the power of the features is F = Σd₂·x/(d₁·(1 − x)).

A search has two passes. The coarse pass evaluates x on the whole grid in single precision, as matrix products: with
f = f_c ± δ, sums over points such as Σ w cos 2πf(t − t₀) are products of a factor that depends on (f_c, t) and one that
depends on (δ, t), which takes 6 multiply-adds per point and frequency at the speed of the linear algebra library. It
only chooses candidate frequencies. The second pass works in double precision with a fixed order of operations, and all
results of `search` come from it, so they depend neither on the vector width nor on that library.

One harmonic finds the period of any shape, but the residual of an RR Lyrae or a Cepheid from a sinusoid acts as noise
on the position of the maximum, up to 1e-3 of long periods. So the period is that of the maximum of a series of up to
five harmonics within the peak of one harmonic, with as many as the Bayesian information criterion supports.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gamma, lgamma, pi
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alerce_spark.features.curves import BANDS, Curves, Family, Float, Int, Objects, Scratch, per_band
from alerce_spark.features.trigonometry import fill_sincos

Float32 = NDArray[np.float32]

#: Shortest and longest period searched [d] (docs/differences.md D12).
MIN_PERIOD, MAX_PERIOD = 0.045, 500.0
#: Largest phase shift [turns] over half the time span between neighbouring grid frequencies (D12).
MAX_SHIFT = 0.2
#: Least size of the grid: short spans have few independent frequencies, but their peaks must be resolved too.
MIN_GRID = 1000
#: Longest time span [d] that is searched. Longer ones are broken dates; the grid would grow without bound.
MAX_SPAN = 36525.0
#: A band is used if it has at least this many points: three are needed for its mean and sinusoid.
MIN_POINTS = 6
#: Highest local maxima that are refined, and how many grid values enter PPE.
PEAKS, PPE_VALUES = 10, 100
#: Power_rate_k compares the power at k times the best period (docs/features.md, "Period").
RATE_FACTORS = (0.25, 1 / 3, 0.5, 2.0, 3.0, 4.0)

#: Most harmonics of the last step; each band needs this many points for every coefficient.
MAX_HARMONICS, POINTS_A_TERM = 5, 2

# How far from the maximum of one harmonic that of the series may lie, in units of 1/(time span), and the steps to it.
_REACH, _STRIDE = 0.3, 0.03
# The coarse pass is exact to ~1e-6 of x: it proposes this many more than are wanted and double precision ranks them.
_SPARE_PEAKS, _SPARE_VALUES = 6, 20
# Frequencies are handled in blocks of 2·_HALF, _CHUNK blocks at a time: 0.2 MB of sums, which stays in the L2 cache.
_HALF, _CHUNK = 128, 32
# Below this determinant single precision loses too many digits; such frequencies are evaluated in double precision.
_MIN_DETERMINANT32 = np.float32(1e-3)
# Below this one, sine and cosine are proportional at all epochs: the frequency cannot be tested.
_MIN_DETERMINANT = 1e-10
# A model that explains everything would have infinite power; 1 − x is kept above this.
_MIN_REST = 1e-12


class _Points(NamedTuple):
    """Points of one object: band k is rows `starts[k]:starts[k + 1]`; time from the middle of the object's time span.

    `weight` sums to 1 in each band; `product` is weight·(m − mean), scaled so that Σθ comes out as a share of Σχ²₀;
    `share` is the part of each band in Σχ²₀.
    """

    starts: Int
    time: Float
    weight: Float
    product: Float
    share: Float

    def band(self, k: int) -> _Points:
        """The k-th band alone."""
        lo, hi = self.starts[k], self.starts[k + 1]
        product = self.product[lo:hi] / np.sqrt(self.share[k])
        return _Points(np.array([0, hi - lo]), self.time[lo:hi], self.weight[lo:hi], product, np.ones(1))

    def rest_dof(self) -> int:
        """d₂: degrees of freedom that the model leaves."""
        return len(self.time) - 3 * (len(self.starts) - 1)


class _Factors(NamedTuple):
    """Matrices of the coarse pass: rows of `left` belong to a block's centre, columns of `right` to offsets from it.

    `left` has, for each block, product·cos, product·sin, weight·cos, weight·sin; `left2` weight·cos and weight·sin of
    twice the frequency. `right` and `right2` have the cosines of all offsets, then the sines.
    """

    left: Float32
    left2: Float32
    right: Float32
    right2: Float32


@dataclass(frozen=True)
class _Grid:
    """Frequencies first + step·k [1/d], k = 0 … size − 1."""

    first: float
    step: float
    size: int

    def at(self, k: NDArray[Any]) -> Float:
        """Frequencies [1/d] of the grid points k."""
        return np.asarray(self.first + self.step * k, dtype=np.float64)


@dataclass(frozen=True)
class Search:
    """Result of the period search of one object: periods [d], powers F, a probability; NaN without a period.

    `rates` are the powers at the grid frequencies nearest to 1/(k·period), over `power`, for k in RATE_FACTORS.
    """

    period: float = np.nan
    ppe: float = np.nan
    band_period: tuple[float, ...] = (np.nan,) * len(BANDS)
    false_alarm: float = np.nan
    power: float = np.nan
    rates: tuple[float, ...] = (np.nan,) * len(RATE_FACTORS)


@njit(cache=True, error_model="numpy")
def _explained(frequency: float, points: _Points, sine: Float, cosine: Float) -> tuple[float, float]:
    """x at one frequency and its derivative [d], in double precision; `sine`, `cosine` (n,) are work space."""
    fill_sincos(frequency, points.time, sine, cosine)
    total = 0.0
    slope = 0.0
    for b in range(points.starts.size - 1):
        yc = ys = c = s = cc = cs = 0.0
        dyc = dys = dc = ds = dcc = dcs = 0.0
        for i in range(points.starts[b], points.starts[b + 1]):
            t = points.time[i]
            x = cosine[i]
            z = sine[i]
            px = points.product[i] * x
            pz = points.product[i] * z
            wx = points.weight[i] * x
            wz = points.weight[i] * z
            yc += px
            ys += pz
            c += wx
            s += wz
            cc += wx * x
            cs += wx * z
            dyc -= t * pz
            dys += t * px
            dc -= t * wz
            ds += t * wx
            dcc -= t * wx * z
            dcs += t * (wx * x - wz * z)
        # sums about the mean, SS = 1 − CC before that, then θ = (SS·YC² + CC·YS² − 2·CS·YC·YS)/(CC·SS − CS²)
        dcc *= 2.0
        dss = -dcc - 2.0 * s * ds
        dcc = dcc - 2.0 * c * dc
        dcs = dcs - c * ds - s * dc
        ss = 1.0 - cc - s * s
        cc = cc - c * c
        cs = cs - c * s
        d = cc * ss - cs * cs
        if d < _MIN_DETERMINANT:
            continue
        dd = dcc * ss + cc * dss - 2.0 * cs * dcs
        n = ss * yc * yc + cc * ys * ys - 2.0 * cs * yc * ys
        dn = dss * yc * yc + dcc * ys * ys - 2.0 * dcs * yc * ys
        dn += 2.0 * (ss * yc * dyc + cc * ys * dys - cs * (dyc * ys + yc * dys))
        total += n / d
        slope += (dn - n * dd / d) / d
    return total, 2.0 * pi * slope


@njit(cache=True, error_model="numpy")
def _evaluate(frequency: Float, points: _Points) -> Float:
    """x at each of `frequency` (k,), in double precision."""
    sine = np.empty(points.time.size)
    cosine = np.empty(points.time.size)
    out = np.empty(frequency.size)
    for k in range(frequency.size):
        out[k] = _explained(frequency[k], points, sine, cosine)[0]
    return out


@njit(cache=True, error_model="numpy")
def _refine(at: float, step: float, points: _Points) -> tuple[float, float]:
    """Frequency and x of the maximum within a step of `at`, a maximum of the grid: root of x′ by Illinois' method."""
    sine = np.empty(points.time.size)
    cosine = np.empty(points.time.size)
    x, slope = _explained(at, points, sine, cosine)
    start = at
    x_start = x
    a = b = at
    if slope > 0.0:
        b = at + step
    else:
        a = at - step
    x_a, s_a = _explained(a, points, sine, cosine)
    s_b = _explained(b, points, sine, cosine)[1]
    side = 0
    for _ in range(60):
        guess = b - (b - a) * s_b / (s_b - s_a) if s_a > 0.0 and s_b < 0.0 else 0.5 * (a + b)
        moved = abs(guess - at)
        at = guess
        x, slope = _explained(at, points, sine, cosine)
        if slope > 0.0 and x >= x_a - 1e-12:
            a, x_a, s_a = at, x, slope
            if side > 0:
                s_b *= 0.5
            side = 1
        else:
            b, s_b = at, slope
            if side < 0:
                s_a *= 0.5
            side = -1
        if moved <= 1e-14 * at:
            break
    # beside frequencies that cannot be tested there may be no smooth maximum to find
    return (at, x) if x >= x_start - 1e-12 else (start, x_start)


@njit(cache=True, error_model="numpy")
def _series(frequency: float, harmonics: int, points: _Points) -> tuple[float, float]:
    """x of a series of `harmonics` at one frequency and its derivative [d]; NaN where points do not determine it."""
    terms = 2 * harmonics + 1
    n = points.time.size
    sine = np.empty((2 * harmonics + 1, n))
    cosine = np.empty((2 * harmonics + 1, n))
    for k in range(1, 2 * harmonics + 1):
        fill_sincos(k * frequency, points.time, sine[k], cosine[k])
    normal = np.empty((terms, terms))
    right = np.empty(terms)
    sums = np.empty((2, 2 * harmonics + 1))
    total = 0.0
    slope = 0.0
    for b in range(points.starts.size - 1):
        lo, hi = points.starts[b], points.starts[b + 1]
        sums[0, 0] = 1.0
        sums[1, 0] = 0.0
        right[0] = 0.0
        for k in range(1, 2 * harmonics + 1):
            c = s = yc = ys = 0.0
            for i in range(lo, hi):
                c += points.weight[i] * cosine[k, i]
                s += points.weight[i] * sine[k, i]
                yc += points.product[i] * cosine[k, i]
                ys += points.product[i] * sine[k, i]
            sums[0, k] = c
            sums[1, k] = s
            if k <= harmonics:
                right[2 * k - 1] = yc
                right[2 * k] = ys
        # products of sines and cosines are half the sums of those of sum and difference of the angles
        normal[0, 0] = 1.0
        for j in range(1, harmonics + 1):
            normal[2 * j - 1, 0] = sums[0, j]
            normal[2 * j, 0] = sums[1, j]
            for k in range(1, j + 1):
                normal[2 * j - 1, 2 * k - 1] = 0.5 * (sums[0, j - k] + sums[0, j + k])
                normal[2 * j, 2 * k] = 0.5 * (sums[0, j - k] - sums[0, j + k])
                normal[2 * j, 2 * k - 1] = 0.5 * (sums[1, j + k] + sums[1, j - k])
                normal[2 * j - 1, 2 * k] = 0.5 * (sums[1, j + k] - sums[1, j - k])
        for p in range(terms):  # Cholesky factor in place, forward substitution along with it
            for q in range(p + 1):
                value = normal[p, q]
                for r in range(q):
                    value -= normal[p, r] * normal[q, r]
                if q < p:
                    normal[p, q] = value / normal[q, q]
                elif value < _MIN_DETERMINANT:
                    return np.nan, np.nan
                else:
                    normal[p, p] = np.sqrt(value)
            for q in range(p):
                right[p] -= normal[p, q] * right[q]
            right[p] /= normal[p, p]
            total += right[p] * right[p]
        for p in range(terms - 1, -1, -1):
            for q in range(p + 1, terms):
                right[p] -= normal[q, p] * right[q]
            right[p] /= normal[p, p]
        for i in range(lo, hi):
            fitted = right[0]
            change = 0.0
            for k in range(1, harmonics + 1):
                fitted += right[2 * k - 1] * cosine[k, i] + right[2 * k] * sine[k, i]
                change += k * (right[2 * k] * cosine[k, i] - right[2 * k - 1] * sine[k, i])
            slope += (points.product[i] - points.weight[i] * fitted) * change * points.time[i]
    return total, 4.0 * pi * slope


@njit(cache=True, error_model="numpy")
def _polish(frequency: float, span: float, points: _Points) -> float:
    """Frequency of the maximum of the best-supported series near `frequency`, the maximum of one harmonic."""
    n = points.time.size
    bands = points.starts.size - 1
    smallest = np.diff(points.starts).min()
    harmonics = 1
    best = np.inf
    for h in range(1, MAX_HARMONICS + 1):
        if smallest < POINTS_A_TERM * (2 * h + 1):
            break
        x, _ = _series(frequency, h, points)
        if not x >= 0.0:
            break
        criterion = n * np.log(max(1.0 - x, _MIN_REST)) + 2 * h * bands * np.log(n)
        if criterion < best:
            best = criterion
            harmonics = h
    if harmonics == 1:
        return frequency
    # climb in strides until the slope changes its sign, then find its root
    a = frequency
    s_a = _series(a, harmonics, points)[1]
    stride = _STRIDE / span if s_a > 0.0 else -_STRIDE / span
    b = a
    s_b = s_a
    while s_a * s_b > 0.0:
        a, s_a = b, s_b
        b = a + stride
        if abs(b - frequency) > _REACH / span or b * MAX_PERIOD < 1.0 or b * MIN_PERIOD > 1.0:
            return frequency
        s_b = _series(b, harmonics, points)[1]
    at = a
    side = 0
    for _ in range(60):
        guess = b - (b - a) * s_b / (s_b - s_a)
        moved = abs(guess - at)
        at = guess
        s = _series(at, harmonics, points)[1]
        if not abs(s) >= 0.0:
            return frequency
        if s * s_a > 0.0:
            a, s_a = at, s
            if side > 0:
                s_b *= 0.5
            side = 1
        else:
            b, s_b = at, s
            if side < 0:
                s_a *= 0.5
            side = -1
        if moved <= 1e-14 * at or s == 0.0:
            break
    return at


@njit(cache=True, error_model="numpy")
def _fill_left(points: _Points, centre: Float, factors: _Factors) -> None:
    """Fill `left` and `left2` for blocks around the frequencies `centre` (blocks,)."""
    sine = np.empty(points.time.size)
    cosine = np.empty(points.time.size)
    left = factors.left
    left2 = factors.left2
    for k in range(centre.size):
        fill_sincos(centre[k], points.time, sine, cosine)
        for i in range(points.time.size):
            x = cosine[i]
            z = sine[i]
            p = points.product[i]
            w = points.weight[i]
            left[4 * k, i] = p * x
            left[4 * k + 1, i] = p * z
            left[4 * k + 2, i] = w * x
            left[4 * k + 3, i] = w * z
            left2[2 * k, i] = w * (1.0 - 2.0 * z * z)
            left2[2 * k + 1, i] = 2.0 * w * x * z


@njit(cache=True, error_model="numpy")
def _fill_right(points: _Points, step: float, factors: _Factors) -> None:
    """Fill `right` and `right2` for offsets of step·(½, 3⁄2, …) from the centre of a block."""
    half = factors.right.shape[1] // 2
    offset = step * (np.arange(half) + 0.5)
    sine = np.empty(half)
    cosine = np.empty(half)
    for i in range(points.time.size):
        fill_sincos(points.time[i], offset, sine, cosine)
        right = factors.right[i]
        right2 = factors.right2[i]
        for j in range(half):
            right[j] = cosine[j]
            right[half + j] = sine[j]
            right2[j] = 1.0 - 2.0 * sine[j] * sine[j]
            right2[half + j] = 2.0 * sine[j] * cosine[j]


@njit(cache=True, error_model="numpy")
def _combine(sums: Float32, sums2: Float32, out: Float32) -> None:
    """x of each block from its products of matrices into `out` (blocks, 2·half); −1 where the determinant is small."""
    half = out.shape[1] // 2
    value = np.empty((2, half), np.float32)
    for k in range(out.shape[0]):
        p, q, u, v = sums[4 * k], sums[4 * k + 1], sums[4 * k + 2], sums[4 * k + 3]
        u2, v2 = sums2[2 * k], sums2[2 * k + 1]
        for side in range(2):
            sign = np.float32(1.0 - 2.0 * side)  # f_c + δ, then f_c − δ
            row = value[side]
            for j in range(half):
                h = half + j
                yc = p[j] - sign * q[h]
                ys = q[j] + sign * p[h]
                c = u[j] - sign * v[h]
                s = v[j] + sign * u[h]
                c2 = u2[j] - sign * v2[h]
                s2 = v2[j] + sign * u2[h]
                cc = np.float32(0.5) * (np.float32(1.0) + c2) - c * c
                ss = np.float32(0.5) * (np.float32(1.0) - c2) - s * s
                cs = np.float32(0.5) * s2 - c * s
                d = cc * ss - cs * cs
                n = ss * yc * yc + cc * ys * ys - (cs + cs) * yc * ys
                row[j] = n / d if d > _MIN_DETERMINANT32 else np.float32(-1.0)
        for j in range(half):
            out[k, half + j] = value[0, j]
            out[k, half - 1 - j] = value[1, j]


@njit(cache=True, error_model="numpy")
def _repair(x: Float32, first: float, step: float, points: _Points) -> None:
    """Evaluate in double precision what the single-precision pass marked with −1."""
    sine = np.empty(points.time.size)
    cosine = np.empty(points.time.size)
    for k in range(x.size):
        if x[k] < 0.0:
            x[k] = _explained(first + step * k, points, sine, cosine)[0]


@njit(cache=True, error_model="numpy")
def _maxima(x: Float32, want: int) -> Int:
    """Indices of at most `want` highest interior local maxima of x, highest first."""
    index = np.empty(want, np.int64)
    value = np.empty(want, np.float32)
    n = 0
    floor = np.float32(0.0)
    for k in range(1, x.size - 1):
        v = x[k]
        if v > floor and v > x[k - 1] and v >= x[k + 1]:
            p = min(n, want - 1)
            while p > 0 and value[p - 1] < v:
                value[p] = value[p - 1]
                index[p] = index[p - 1]
                p -= 1
            value[p] = v
            index[p] = k
            n = min(n + 1, want)
            if n == want:
                floor = value[want - 1]
    return index[:n]


@njit(cache=True, error_model="numpy")
def _normalise(starts: Int, mag: Float, err: Float) -> tuple[Float, Float, Float]:
    """`weight`, `product` and `share` of `_Points`."""
    weight = 1.0 / (err * err)
    product = np.empty(mag.size)
    share = np.zeros(starts.size - 1)
    for b in range(starts.size - 1):
        zero = mag[starts[b]]  # differences from one point: an added constant changes nothing
        total = 0.0
        mean = 0.0
        for i in range(starts[b], starts[b + 1]):
            total += weight[i]
            mean += weight[i] * (mag[i] - zero)
        mean /= total
        for i in range(starts[b], starts[b + 1]):
            d = mag[i] - zero - mean
            share[b] += weight[i] * d * d
            product[i] = weight[i] * d / np.sqrt(total)
            weight[i] /= total
    total = share.sum()
    for i in range(mag.size):
        product[i] /= np.sqrt(total)
    return weight, product, share / total


def _take(curves: tuple[Curves, ...], i: int) -> tuple[list[int], _Points, float] | None:
    """Usable bands of object i for the search, their points and time span [d]; None without any."""
    parts = []
    for band, curve in enumerate(curves):
        rows = slice(curve.offsets[i], curve.offsets[i + 1])
        mjd, mag, err = curve.mjd[rows], curve.mag[rows], curve.err[rows]
        if len(mjd) < MIN_POINTS or not (np.isfinite(mjd).all() and np.isfinite(mag).all() and np.isfinite(err).all()):
            continue
        if mag.min() < mag.max() and err.min() > 0.0:
            parts.append((band, mjd, mag, err))
    if not parts:
        return None
    first = min(float(part[1].min()) for part in parts)
    span = max(float(part[1].max()) for part in parts) - first
    if not 0.0 < span <= MAX_SPAN:
        return None
    starts = np.cumsum([0, *(len(part[1]) for part in parts)])
    mjd, mag, err = (np.concatenate([part[k] for part in parts]) for k in (1, 2, 3))
    points = _Points(starts, mjd - (first + 0.5 * span), *_normalise(starts, mag, err))
    return [part[0] for part in parts], points, span


def _grid(span: float) -> _Grid:
    first, last = 1.0 / MAX_PERIOD, 1.0 / MIN_PERIOD
    size = max(ceil((last - first) * span / (2.0 * MAX_SHIFT)), MIN_GRID)
    return _Grid(first, (last - first) / (size - 1), size)


def _scan(points: _Points, grid: _Grid) -> Float32:
    """The coarse pass: x on the grid in single precision, of one band."""
    n = len(points.time)
    blocks = -(-grid.size // (2 * _HALF))
    centre = grid.at(2 * _HALF * np.arange(blocks) + (_HALF - 0.5))
    shapes = ((4 * _CHUNK, n), (2 * _CHUNK, n), (n, 2 * _HALF), (n, 2 * _HALF))
    factors = _Factors(*(np.empty(shape, np.float32) for shape in shapes))
    _fill_right(points, grid.step, factors)
    sums, sums2 = np.empty((4 * _CHUNK, 2 * _HALF), np.float32), np.empty((2 * _CHUNK, 2 * _HALF), np.float32)
    out = np.empty((blocks, 2 * _HALF), np.float32)
    for k in range(0, blocks, _CHUNK):
        m = min(_CHUNK, blocks - k)
        _fill_left(points, centre[k : k + m], factors)
        np.matmul(factors.left[: 4 * m], factors.right, out=sums[: 4 * m])
        np.matmul(factors.left2[: 2 * m], factors.right2, out=sums2[: 2 * m])
        _combine(sums, sums2, out[k : k + m])
    x = out.reshape(-1)[: grid.size]
    _repair(x, grid.first, grid.step, points)
    return x


def _best(x: Float32, grid: _Grid, points: _Points) -> tuple[float, float]:
    """Frequency and x of the highest refined maximum of one harmonic, from `x` on the grid; NaN without a maximum."""
    index = _maxima(x, PEAKS + _SPARE_PEAKS)
    exact = _evaluate(grid.at(index), points)
    index = np.sort(index[np.lexsort((index, -exact))][:PEAKS])
    peaks = [_refine(at, grid.step, points) for at in grid.at(index)]
    return max(peaks, key=lambda peak: peak[1], default=(np.nan, np.nan))


def _power(x: Float, points: _Points) -> Float:
    """F = Σd₂·x/(d₁·(1 − x)) with d₁ = 2 and d₂ = N − 3 in each band."""
    return 0.5 * points.rest_dof() * x / np.maximum(1.0 - x, _MIN_REST)


def _ppe(x: Float32, grid: _Grid, points: _Points) -> float:
    """1 − H/ln 100, H the entropy of the 100 highest powers of the grid, 0.01 added to each, normalised."""
    want = PPE_VALUES + _SPARE_VALUES
    index = np.argpartition(x, -want)[-want:]
    exact = np.sort(_evaluate(grid.at(index), points))[-PPE_VALUES:]
    p = _power(exact, points) + 0.01
    p /= p.sum()
    return float(1.0 + (p * np.log(p)).sum() / np.log(PPE_VALUES))


def _false_alarm(x: float, points: _Points) -> float:
    """Probability that white noise alone gives a peak as high as x anywhere on the grid.

    Davies' bound in the form of Baluev 2008 (MNRAS 385, 1279) for a floating mean and unknown noise. For two bands the
    rate at which a χ² process of d = 4 degrees of freedom crosses a level u upwards takes the place of that of d = 2:
    (λ/π)^½ (u/2)^((d−1)/2) e^(−u/2)/Γ(d/2).
    """
    bands = len(points.starts) - 1
    dof, null, rest = 2 * bands, len(points.time) - bands, points.rest_dof()
    variance = 0.0
    for lo, hi in zip(points.starts[:-1], points.starts[1:], strict=True):
        w, t = points.weight[lo:hi], points.time[lo:hi]
        variance += float(w @ (t * t) - (w @ t) ** 2) / bands
    width = (1.0 / MIN_PERIOD - 1.0 / MAX_PERIOD) * np.sqrt(4.0 * np.pi * variance)
    left = max(1.0 - x, _MIN_REST)
    once = left ** (0.5 * rest) * (1.0 if bands == 1 else 1.0 + 0.5 * rest * x)
    scale = np.sqrt(2.0 / null) * np.exp(lgamma(0.5 * null) - lgamma(0.5 * (null - 1)))
    upward = scale * width * left ** (0.5 * (rest - 1)) * (0.5 * null * x) ** (0.5 * (dof - 1)) / gamma(0.5 * dof)
    return float(-np.expm1(np.log1p(-min(once, 1.0 - 1e-15)) - upward))


def search(curves: tuple[Curves, ...], i: int) -> Search:
    """Period search of object i over its bands `curves`; all NaN if no band has enough points that vary."""
    usable = _take(curves, i)
    if usable is None:
        return Search()
    bands, points, span = usable
    grid = _grid(span)
    x = np.zeros(grid.size, np.float32)
    band_period = [np.nan] * len(curves)
    for k, band in enumerate(bands):
        alone = points.band(k)
        explained = _scan(alone, grid)
        x += np.float32(points.share[k]) * explained
        frequency, best = _best(explained, grid, alone)
        if best > 0.0:
            band_period[band] = 1.0 / _polish(frequency, span, alone)
    frequency, best = _best(x, grid, points)
    if not best > 0.0:
        return Search()
    frequency = _polish(frequency, span, points)
    nearest = np.rint((frequency / np.array(RATE_FACTORS) - grid.first) / grid.step).clip(0, grid.size - 1)
    values = np.append(_evaluate(grid.at(nearest), points), best)
    *rates, power = _power(values, points)
    return Search(
        period=1.0 / frequency,
        ppe=_ppe(x, grid, points),
        band_period=tuple(band_period),
        false_alarm=_false_alarm(best, points),
        power=power,
        rates=tuple(rate / power for rate in rates),
    )


def spectrum(objects: Objects, i: int) -> tuple[Float, Float]:
    """Frequencies [1/d] and power F of object i on the grid of the search, for figures; empty without a search."""
    return power_of(objects.bands, i)


def power_of(curves: tuple[Curves, ...], i: int) -> tuple[Float, Float]:
    """The same of object i over its bands `curves`."""
    usable = _take(curves, i)
    if usable is None:
        return np.empty(0), np.empty(0)
    bands, points, span = usable
    grid = _grid(span)
    x = np.zeros(grid.size)
    for k in range(len(bands)):
        x += points.share[k] * _scan(points.band(k), grid)
    return grid.at(np.arange(grid.size)), _power(x, points)


def _compute(objects: Objects, scratch: Scratch) -> Float:
    found = [search(objects.bands, i) for i in range(len(objects))]
    scratch.period = np.array([one.period for one in found], dtype=np.float64)
    scratch.extra["power"] = np.array([one.power for one in found], dtype=np.float64)
    scratch.extra["false_alarm"] = np.array([one.false_alarm for one in found], dtype=np.float64)
    scratch.extra["rates"] = np.array([one.rates for one in found], dtype=np.float64).reshape(-1, len(RATE_FACTORS))
    band_period = np.array([one.band_period for one in found], dtype=np.float64).reshape(-1, len(BANDS))
    ppe = np.array([one.ppe for one in found], dtype=np.float64)
    return np.column_stack((scratch.period, ppe, np.abs(scratch.period[:, None] - band_period)))


FAMILY = Family("periodogram", ("Multiband_period", "PPE", *per_band(("delta_period",))), _compute)
