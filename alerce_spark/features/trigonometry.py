"""Sine and cosine of an angle in turns by arithmetic only: the same bits on every machine, in loops that vectorise."""

from __future__ import annotations

from numba import njit

from alerce_spark.features.curves import Float

# Adding and subtracting 1.5·2⁵² rounds |x| < 2⁵¹ to the nearest integer without a library call.
_ROUND = 6755399441055744.0
_TAU = 6.283185307179586

_S3, _S5, _S7, _S9 = -1 / 6, 1 / 120, -1 / 5040, 1 / 362880
_S11, _S13, _S15 = -1 / 39916800, 1 / 6227020800, -1 / 1307674368000
_C2, _C4, _C6, _C8 = -1 / 2, 1 / 24, -1 / 720, 1 / 40320
_C10, _C12, _C14, _C16 = -1 / 3628800, 1 / 479001600, -1 / 87178291200, 1 / 20922789888000


@njit(cache=True, error_model="numpy", inline="always")
def sincos_turns(turns: float) -> tuple[float, float]:
    """(sin 2πx, cos 2πx) of x turns, |x| < 2⁴⁹; error ≤ 3e-16 once x itself is exact (Taylor series within π/4)."""
    quarter = (4.0 * turns + _ROUND) - _ROUND
    a = _TAU * (turns - 0.25 * quarter)
    z = a * a
    s = _S7 + z * (_S9 + z * (_S11 + z * (_S13 + z * _S15)))
    s = a + a * (z * (_S3 + z * (_S5 + z * s)))
    c = _C8 + z * (_C10 + z * (_C12 + z * (_C14 + z * _C16)))
    c = 1.0 + z * (_C2 + z * (_C4 + z * (_C6 + z * c)))
    # quarter mod 4, in floating point so that the loop around this stays in vector registers
    half = 0.5 * quarter
    odd = half != (half + _ROUND) - _ROUND
    whole = 0.25 * (quarter - 1.0 if odd else quarter)
    flip = -1.0 if whole != (whole + _ROUND) - _ROUND else 1.0
    if odd:
        return flip * c, -flip * s
    return flip * s, flip * c


@njit(cache=True, error_model="numpy")
def fill_sincos(frequency: float, time: Float, sine: Float, cosine: Float) -> None:
    """Fill `sine`, `cosine` (n,) with sin, cos of 2π·frequency·time."""
    for i in range(time.size):
        sine[i], cosine[i] = sincos_turns(frequency * time[i])
