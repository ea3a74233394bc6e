"""Checks for every per-band feature family: awkward curves, neighbours in a batch, shifts."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from feature_curves import START, cadence, curves
from hypothesis import strategies as st

from alerce_spark.features.curves import Curves, Float

Part = tuple[Float, Float, Float]
Extract = Callable[[Curves], Float]


def part(mjd: Float, mag: Float, err: Float | float) -> Part:
    """(mjd, mag, err) as float arrays of one length; a single error serves all points."""
    t = np.asarray(mjd, dtype=np.float64)
    return t, np.broadcast_to(np.asarray(mag, dtype=np.float64), t.shape).copy(), np.broadcast_to(err, t.shape) * 1.0


def damped_walk(rng: np.random.Generator, t: Float, variance: float, tau: float) -> Float:
    """An exact realisation of the damped random walk at times t."""
    x = np.empty(len(t))
    x[0] = rng.normal() * np.sqrt(variance)
    for i in range(1, len(t)):
        kept = np.exp(-(t[i] - t[i - 1]) / tau)
        x[i] = kept * x[i - 1] + rng.normal() * np.sqrt(variance * (1.0 - kept**2))
    return x


def walks(count: int, n: int, seed: int = 0, span: float = 900.0) -> list[Part]:
    """Single-band curves of correlated and uncorrelated variability in a realistic cadence."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        mjd, fid = cadence(rng, 2 * n, span)
        t = mjd[fid == 1]
        err = rng.uniform(0.01, 0.08, len(t))
        mag = 17.5 + damped_walk(rng, t, rng.uniform(0.0, 0.1), 10.0 ** rng.uniform(-1.0, 2.5))
        out.append((t, mag + err * rng.normal(size=len(t)), err))
    return out


def awkward() -> dict[str, Part]:
    """Curves at the edge of every definition, by name."""
    rng = np.random.default_rng(5)
    t = START + np.sort(rng.uniform(0.0, 400.0, 20))
    mag = 18.0 + rng.normal(size=20) * 0.3
    many = START + np.sort(rng.uniform(0.0, 2500.0, 10_000))
    twice = np.sort(np.r_[t[:10], t[:10]])
    gaps = np.r_[START + np.arange(7.0), START + 3000.0 + np.arange(7.0), START + 9000.0]
    return {
        "empty": part(t[:0], mag[:0], 0.1),
        "one point": part(t[:1], mag[:1], 0.1),
        "five points": part(t[:5], mag[:5], 0.1),
        "six points": part(t[:6], mag[:6], 0.1),
        "seven points": part(t[:7], mag[:7], 0.1),
        "equal magnitudes": part(t, np.full(20, 18.1), 0.1),
        "equal but one": part(t, np.where(np.arange(20) == 7, 18.2, 18.1), 0.1),
        "one unit of rounding": part(t, np.where(np.arange(20) % 2, 18.1, np.nextafter(18.1, 19.0)), 0.1),
        "one time": part(np.full(20, START), mag, 0.1),
        "one time, equal magnitudes": part(np.full(20, START), np.full(20, 18.1), 0.1),
        "each time twice": part(twice, mag, 0.1),
        "each time twice, tiny errors": part(twice, mag, 1e-12),
        "tiny errors": part(t, mag, 1e-12),
        "denormal errors": part(t, mag, 5e-324),
        "errors near one": part(t, mag, 0.999),
        "one tiny error": part(t, mag, np.where(np.arange(20) == 3, 1e-300, 0.1)),
        "gaps of years": part(gaps, 18.0 + np.sin(gaps), 0.05),
        "within one night": part(START + np.arange(20) * 1e-4, mag, 0.05),
        "neighbouring doubles": part(np.nextafter(START, START + 1.0) + np.arange(20) * 7.3e-12, mag, 0.05),
        "outlier": part(t, np.where(np.arange(20) == 11, 5.0, mag), 0.05),
        "zero magnitudes": part(t, np.zeros(20), 0.05),
        "mean of zero": part(t, np.where(np.arange(20) % 2, 1.0, -1.0), 0.05),
        "steep trend": part(t, 15.0 + (t - START) * 0.02, 0.02),
        "extreme magnitudes": part(t, np.where(np.arange(20) % 2, 300.0, -300.0), 0.05),
        "many points": part(many, 17.0 + np.sin(many / 50.0) + rng.normal(size=len(many)) * 0.05, 0.05),
        "many points, slow": part(many, 17.0 + (many - START) * 1e-3, 0.01),
    }


def assert_survives(extract: Extract, columns: int) -> dict[str, Float]:
    """No exception, no warning, no infinity on any awkward curve, alone or in a batch; returns each curve's row."""
    cases = awkward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together = extract(curves(list(cases.values())))
        rows = {name: extract(curves([case]))[0] for name, case in cases.items()}
    assert together.shape == (len(cases), columns)
    assert together.dtype == np.float64
    assert not np.isinf(together).any()
    np.testing.assert_array_equal(together, np.array(list(rows.values())))
    for name in ("empty", "one point", "five points"):
        assert np.isnan(rows[name]).all(), name
    nothing = Curves(np.zeros(1, np.int64), *(np.empty(0) for _ in range(6)), np.empty(0, np.int64))
    assert extract(nothing).shape == (0, columns)
    return rows


@st.composite
def light_curves(draw: st.DrawFn, least: int = 0, most: int = 40) -> Part:
    """A curve sorted by mjd with 0 < err < 1; times may repeat, magnitudes may tie."""
    n = draw(st.integers(least, most))
    floats = {"allow_nan": False, "allow_infinity": False, "width": 64}
    t = draw(st.lists(st.floats(58000.0, 61000.0, **floats), min_size=n, max_size=n))
    m = draw(st.lists(st.integers(12_000, 22_000).map(lambda x: x / 1000.0), min_size=n, max_size=n))
    e = draw(st.lists(st.floats(0.001, 0.9, **floats), min_size=n, max_size=n))
    return np.sort(np.array(t, dtype=np.float64)), np.array(m, dtype=np.float64), np.array(e, dtype=np.float64)


def assert_independent(extract: Extract, parts: list[Part]) -> None:
    """A batch gives exactly what its curves give one at a time."""
    together = extract(curves(parts))
    np.testing.assert_array_equal(together, np.concatenate([extract(curves([p])) for p in parts]))


def moved(parts: list[Part], days: float = 0.0, mag: float = 0.0) -> list[Part]:
    """The curves later by `days` and fainter by `mag`."""
    return [(t + days, m + mag, e) for t, m, e in parts]


def nudged(parts: list[Part]) -> list[Part]:
    """The curves with each error moved to the next double: as other machines' last bits of exp and log would."""
    return [(t, m, np.nextafter(e, 1.0)) for t, m, e in parts]
