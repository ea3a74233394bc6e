"""Counter-based random numbers: a key and two integers determine each value, so any part of a sky can be made alone.

A light curve in a 30-day window must equal the same part of the whole light curve, independent of order and process; a
generator with a state cannot give that. The mixing function is the 64-bit finaliser of SplitMix (Steele, Lea & Flood
2014, OOPSLA '14, section 4).
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_MASK = (1 << 64) - 1


@njit(cache=True)
def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True)
def uniform_one(key: Any, a: Any, b: Any) -> Any:
    """One uniform deviate in (0, 1) of (key, a, b), for use inside other kernels."""
    x = _mix(np.uint64(key) ^ (np.uint64(a) * np.uint64(0x9E3779B97F4A7C15)))
    x = _mix(x + np.uint64(b) * np.uint64(0xD1B54A32D192ED03) + np.uint64(0x9E3779B97F4A7C15))
    # 53 bits, moved off zero so that a logarithm may follow
    return (np.float64(x >> np.uint64(11)) + 0.5) * 2.0**-53


@njit(cache=True)
def normal_one(key: Any, a: Any, b: Any) -> Any:
    """One standard normal deviate of (key, a, b), by Box and Muller; for use inside other kernels."""
    radius = np.sqrt(-2.0 * np.log(uniform_one(key, a, b)))
    return radius * np.cos(2.0 * np.pi * uniform_one(key ^ np.uint64(0xA5A5A5A5A5A5A5A5), a, b))


@njit(cache=True)
def normal_two(key: Any, a: Any, b: Any) -> Any:
    """Two independent standard normal deviates of (key, a, b), at the cost of one."""
    radius = np.sqrt(-2.0 * np.log(uniform_one(key, a, b)))
    angle = 2.0 * np.pi * uniform_one(key ^ np.uint64(0xA5A5A5A5A5A5A5A5), a, b)
    return radius * np.cos(angle), radius * np.sin(angle)


@njit(cache=True)
def _uniforms(key: Any, a: Any, b: Any) -> Any:
    out = np.empty(a.size)
    for i in range(a.size):
        out[i] = uniform_one(key, a[i], b[i])
    return out


@njit(cache=True)
def _normals(key: Any, a: Any, b: Any) -> Any:
    out = np.empty(a.size)
    for i in range(a.size):
        out[i] = normal_one(key, a[i], b[i])
    return out


@lru_cache(4096)
def key_of(seed: int, name: str) -> np.uint64:
    """Key of the random quantity `name` in the sky of `seed`."""
    x = (seed * 0x9E3779B97F4A7C15 + (zlib.crc32(name.encode()) << 31) + 0x632BE59BD9B4E019) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return np.uint64(x ^ (x >> 31))


def uniform(seed: int, name: str, a: Any, b: Any = 0) -> Floats:
    """Uniform deviates in (0, 1) of the quantity `name` for each pair of `a` and `b` (integers, 1-D, broadcast)."""
    first, second = _pair(a, b)
    return _uniforms(key_of(seed, name), first, second)


def normal(seed: int, name: str, a: Any, b: Any = 0) -> Floats:
    """Standard normal deviates of the quantity `name` for each pair of `a` and `b` (integers, 1-D, broadcast)."""
    first, second = _pair(a, b)
    return _normals(key_of(seed, name), first, second)


def _pair(a: Any, b: Any) -> tuple[Ints, Ints]:
    # np.broadcast_arrays would cost more than the numbers of a few objects
    first, second = np.asarray(a, np.int64), np.asarray(b, np.int64)
    if second.ndim == 0:
        second = np.full(first.shape or 1, second)
    if first.ndim == 0:
        first = np.full(second.shape, first)
    if first.size != second.size:
        raise ValueError(f"{first.size} and {second.size} integers cannot be paired")
    return np.ascontiguousarray(first), np.ascontiguousarray(second)
