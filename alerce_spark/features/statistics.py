"""Simple statistics of one band's light curve: the turbo-fats family (docs/features.md, "Simple statistics")."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy.special import chdtr

from alerce_spark.features.curves import Curves, Family, Float, Int, Objects, Scratch, per_band

NAMES = (
    "Amplitude",
    "AndersonDarling",
    "Autocor_length",
    "Beyond1Std",
    "Con",
    "Eta_e",
    "ExcessVar",
    "Gskew",
    "LinearTrend",
    "MaxSlope",
    "Meanvariance",
    "MedianAbsDev",
    "MedianBRP",
    "PairSlopeTrend",
    "PercentAmplitude",
    "Pvar",
    "Q31",
    "Rcs",
    "Skew",
    "SmallKurtosis",
    "Std",
    "StetsonK",
)

#: Curves with fewer points have no statistics (docs/features.md, "Simple statistics").
MIN_POINTS = 6

_PVAR = NAMES.index("Pvar")
_LAST = 30  # points that PairSlopeTrend looks at, and its divisor whatever the length
_FAR_TAIL = 37.0  # erfc underflows beyond this many sigma
_SQRT_HALF = math.sqrt(0.5)
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


@njit(cache=True, error_model="numpy")
def _log_tails(z: float) -> tuple[float, float]:
    """Logarithms of the normal distribution function at z and at -z, accurate in both tails."""
    x = abs(z)
    if x < _FAR_TAIL:
        tail = 0.5 * math.erfc(x * _SQRT_HALF)
        small = math.log(tail)
        large = math.log1p(-tail)
    else:
        v = 1.0 / (x * x)
        small = -0.5 * x * x - _LOG_SQRT_2PI - math.log(x) + math.log1p(-v * (1.0 - 3.0 * v))
        large = 0.0
    if z < 0.0:
        return small, large
    return large, small


@njit(cache=True, error_model="numpy")
def _middle(s: Float, lo: int, hi: int) -> float:
    """Median of the sorted values s[lo:hi]."""
    k = (lo + hi) // 2
    return s[k] if (hi - lo) % 2 else 0.5 * (s[k - 1] + s[k])


@njit(cache=True, error_model="numpy")
def _percentile(s: Float, q: float) -> float:
    """q-quantile of sorted s by linear interpolation, in NumPy's order of operations so that ties with data agree."""
    at = q * (s.size - 1)
    k = min(int(at), s.size - 2)
    f = at - k
    d = s[k + 1] - s[k]
    return s[k + 1] - d * (1.0 - f) if f >= 0.5 else s[k] + d * f


@njit(cache=True, error_model="numpy")
def _median_deviation(s: Float, med: float) -> float:
    """Median of |s - med| for sorted s: merges the deviations on both sides, which are sorted already."""
    n = s.size
    right = n // 2
    left = right - 1
    before = 0.0
    now = 0.0
    for _ in range(n // 2 + 1):
        before = now
        if right >= n or (left >= 0 and med - s[left] <= s[right] - med):
            now = abs(med - s[left])
            left -= 1
        else:
            now = abs(s[right] - med)
            right += 1
    return now if n % 2 else 0.5 * (before + now)


@njit(cache=True, error_model="numpy")
def _lagged(d: Float, lag: int) -> float:
    """Sum of d[i]·d[i + lag], in four partial sums of fixed order."""
    n = d.size - lag
    a = 0.0
    b = 0.0
    c = 0.0
    e = 0.0
    i = 0
    while i + 4 <= n:
        a += d[i] * d[i + lag]
        b += d[i + 1] * d[i + 1 + lag]
        c += d[i + 2] * d[i + 2 + lag]
        e += d[i + 3] * d[i + 3 + lag]
        i += 4
    while i < n:
        a += d[i] * d[i + lag]
        i += 1
    return (a + b) + (c + e)


@njit(cache=True, error_model="numpy")
def _one(t: Float, m: Float, e: Float, o: Float) -> None:
    """Fill o with the statistics of one curve in the order of NAMES; the Pvar slot gets the χ² sum."""
    n = m.size
    s = np.sort(m)
    span = s[n - 1] - s[0]
    flat = span == 0.0
    mean = 0.0
    for i in range(n):
        mean += m[i] - s[0]
    mean = s[0] + mean / n  # exact where all magnitudes are equal
    d = m - mean
    least = e[0]
    for i in range(n):
        least = min(least, e[i])
    # Moments, and the weighted mean with weights in units of the largest, so that tiny errors cannot overflow.
    m2 = 0.0
    m3 = 0.0
    m4 = 0.0
    sw = 0.0
    swd = 0.0
    chi2 = 0.0
    e2 = 0.0
    low = 0.0
    high = 0.0
    run = 0.0
    for i in range(n):
        x = d[i]
        q = x * x
        m2 += q
        m3 += q * x
        m4 += q * q
        r = least / e[i]
        sw += r * r
        swd += r * r * x
        chi2 += (x / e[i]) ** 2
        e2 += e[i] * e[i]
        run += x
        if i == 0 or run < low:
            low = run
        if i == 0 or run > high:
            high = run
    var = m2 / n
    sd = math.sqrt(var)
    med = _middle(s, 0, n)
    shift = swd / sw  # weighted mean minus mean

    k = math.ceil(0.05 * n)
    o[0] = 0.5 * (_middle(s, n - k, n) - _middle(s, 0, k))

    if flat:
        o[1] = np.nan
        o[2] = np.nan
    else:
        ad = 0.0
        scale = 1.0 / math.sqrt(m2 / (n - 1))
        for i in range(n):
            lower, upper = _log_tails((s[i] - mean) * scale)
            ad += (2 * i + 1) * lower + (2 * (n - i) - 1) * upper
        o[1] = 1.0 / (1.0 + math.exp(-10.0 * (-n - ad / n - 0.3)))
        lag = 1  # the autocorrelations of lags 1 to n - 1 sum to -1/2: one of them is below 1/e
        bound = m2 * math.exp(-1.0)
        while lag < n - 1 and _lagged(d, lag) >= bound:
            lag += 1
        o[2] = lag

    # One pass for counts about the centres.
    sw_dev = 0.0
    top = 0.0
    for i in range(n):
        sw_dev += (d[i] - shift) ** 2
        top = max(top, abs(d[i] - shift) * (least / e[i]))
    wide = math.sqrt(sw_dev / (n - 1))
    outside = 0
    inside = 0
    beyond = 0
    triples = 0
    tenth = span / 10.0
    ka = 0.0
    kq = 0.0
    for i in range(n):
        x = d[i] - shift
        if abs(x) > wide:
            outside += 1
        if med - tenth < m[i] < med + tenth:
            inside += 1
        beyond = beyond + 1 if abs(d[i]) > 2.0 * sd else 0
        if beyond >= 3:
            triples += 1
        z = x * (least / e[i]) / top  # StetsonK does not depend on the scale of its residuals
        ka += abs(z)
        kq += z * z
    o[3] = outside / n
    o[4] = triples / (n - 2)

    # Differences of neighbours.
    shortest = np.inf
    for i in range(n - 1):
        shortest = min(shortest, t[i + 1] - t[i])
    if shortest > 0.0:
        num = 0.0
        den = 0.0
        slope = 0.0
        for i in range(n - 1):
            dt = t[i + 1] - t[i]
            dm = m[i + 1] - m[i]
            w = (shortest / dt) ** 2
            num += w * dm * dm
            den += w
            slope = max(slope, abs(dm) / dt)
        o[5] = num / den / var
        o[9] = slope
    else:
        o[5] = np.nan
        o[9] = np.nan
    o[6] = (m2 - e2) / n / (mean * mean)

    p3 = _percentile(s, 0.03)
    p97 = _percentile(s, 0.97)
    a = 1
    while a < n and s[a] <= p3:
        a += 1
    b = n - 1
    while b > 0 and s[b - 1] >= p97:
        b -= 1
    o[7] = _middle(s, 0, a) + _middle(s, b, n) - 2.0 * med

    mid = 0.0
    for i in range(n):
        mid += t[i] - t[0]
    mid /= n
    st = 0.0
    sm = 0.0
    for i in range(n):
        x = (t[i] - t[0]) - mid
        st += x * x
        sm += x * d[i]
    o[8] = sm / st if t[n - 1] > t[0] else np.nan

    o[10] = sd / mean
    o[11] = _median_deviation(s, med)
    o[12] = inside / n
    trend = 0
    for i in range(max(0, n - _LAST), n - 1):
        trend += 1 if m[i + 1] > m[i] else -1
    o[13] = trend / _LAST
    o[14] = max(s[n - 1] - med, med - s[0]) / med
    o[15] = chi2
    o[16] = _percentile(s, 0.75) - _percentile(s, 0.25)
    o[20] = sd
    if flat:
        o[17] = np.nan
        o[18] = np.nan
        o[19] = np.nan
        o[21] = np.nan
    else:
        o[17] = (high - low) / (n * sd)
        o[18] = m3 / n / (var * sd)
        x = (n - 1.0) * (n - 2.0) * (n - 3.0)
        o[19] = n * (n + 1.0) / x * m4 / (var * var) - 3.0 * (n - 1.0) ** 3 / x
        o[21] = ka / math.sqrt(n * kq)


@njit(cache=True, error_model="numpy")
def _all(offsets: Int, mjd: Float, mag: Float, err: Float, out: Float) -> None:
    """Fill one row of `out` per curve; NaN for curves that are too short."""
    for c in range(offsets.size - 1):
        a = offsets[c]
        b = offsets[c + 1]
        if b - a < MIN_POINTS:
            out[c, :] = np.nan
        else:
            _one(mjd[a:b], mag[a:b], err[a:b], out[c])


def statistics(curves: Curves) -> Float:
    """The 22 simple statistics of n curves as (n, 22), columns NAMES, of `mag` and `err` [mag] over `mjd` [d].

    Definitions: docs/features.md (turbo-fats; Nun et al. 2015, Kim et al. 2014, Richards et al. 2011). Standard
    deviations have ddof 0 except in Beyond1Std and inside the Anderson–Darling statistic (ddof 1). A curve of fewer
    than 6 points gives NaN. Undefined values are NaN: equal magnitudes (AndersonDarling,
    Autocor_length, Eta_e, Rcs, Skew, SmallKurtosis, StetsonK), a repeated mjd (Eta_e, MaxSlope), no time base
    (LinearTrend), mean or median of zero (the quantities relative to it).

    The number of lags searched for Autocor_length is reset for each curve (docs/differences.md D11). Since the
    autocorrelations of all lags sum to -1/2, a lag below 1/e always exists unless all magnitudes are equal.
    """
    out = np.empty((len(curves), len(NAMES)))
    _all(curves.offsets, curves.mjd, curves.mag, curves.err, out)
    points = np.diff(curves.offsets).astype(np.float64)
    out[:, _PVAR] = chdtr(points - 1.0, out[:, _PVAR])
    out[~np.isfinite(out)] = np.nan
    return out


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.hstack([statistics(curves) for curves in objects.bands])


FAMILY = Family(name="statistics", columns=per_band(NAMES), compute=_compute)
