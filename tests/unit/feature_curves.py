"""Simulated light curves in a realistic cadence, and `Objects` made of them, for the tests of the features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alerce_spark.features.curves import Curves, Float, Limits, Objects

START = 58300.0


class LightCurve(NamedTuple):
    """Points of one object in two bands; `period` [d] is the true one, or NaN."""

    mjd: Float
    mag: Float
    err: Float
    fid: NDArray[np.int64]
    period: float


def cadence(rng: np.random.Generator, n: int, span: float) -> tuple[Float, NDArray[np.int64]]:
    """n epochs over `span` days: every third night, 140 days without any a year, g and r visits within hours."""
    nights = np.arange(0.0, span, 3.0)
    nights = nights + rng.integers(0, 2, len(nights))
    nights = nights[(nights % 365.25 < 225.0) | (span < 226.0)]
    g = nights + 0.30 + rng.uniform(-0.12, 0.12, len(nights))
    r = g + rng.uniform(0.02, 0.09, len(nights))
    again = rng.uniform(0.1, 0.14, len(nights))
    pools = [np.concatenate((t, t + again)) if 2 * len(nights) < n else t for t in (g, r)]
    sizes = (n // 2, n - n // 2)
    mjd = [np.sort(rng.choice(pool, size, replace=False)) for pool, size in zip(pools, sizes, strict=True)]
    fid = np.repeat([1, 2], sizes)
    mjd = np.concatenate(mjd)
    order = np.argsort(mjd, kind="stable")
    return START + mjd[order], fid[order]


def shape(kind: str, phase: Float) -> Float:
    """Magnitudes about the mean at `phase` [turns] of an RR Lyrae (RRab), Cepheid, eclipsing binary or sinusoid."""
    terms = {
        "RRL": ((0.36, 0.0), (0.17, 2.35), (0.11, 4.9), (0.07, 1.3), (0.04, 3.9)),
        "CEP": ((0.30, 0.0), (0.12, 2.8), (0.05, 5.3)),
        "sine": ((0.30, 0.0),),
    }
    if kind == "EB":
        eclipse = [np.exp(-0.5 * (((phase - c + 0.5) % 1.0 - 0.5) / 0.05) ** 2) for c in (0.0, 0.5)]
        return 0.65 * eclipse[0] + 0.40 * eclipse[1] + 0.03 * np.cos(4.0 * np.pi * phase)
    return np.sum([a * np.sin(2.0 * np.pi * k * phase + p) for k, (a, p) in enumerate(terms[kind], 1)], axis=0)


def periodic(rng: np.random.Generator, kind: str, period: float, n: int = 150, span: float = 1000.0) -> LightCurve:
    """A variable of the given kind and period, magnitude 16 to 18, with errors that grow towards faint magnitudes."""
    mjd, fid = cadence(rng, n, span)
    phase = (mjd - START) / period + rng.uniform()
    mag = rng.uniform(16.0, 18.0) + np.where(fid == 1, 1.0, 0.75) * shape(kind, phase) + 0.4 * (fid == 1)
    err = np.clip(0.012 * 10.0 ** (0.25 * (mag - 16.0)), 0.01, 0.25)
    return LightCurve(mjd, mag + err * rng.normal(size=n), err, fid, period)


def noise(rng: np.random.Generator, n: int = 60, span: float = 1000.0) -> LightCurve:
    """White noise of the size that the errors say."""
    mjd, fid = cadence(rng, n, span)
    err = rng.uniform(0.02, 0.1, n)
    return LightCurve(mjd, 17.0 + err * rng.normal(size=n), err, fid, np.nan)


def curves(parts: Iterable[tuple[Float, Float, Float]], fid: int = 1) -> Curves:
    """Curves of one band from (mjd, mag, err) of each object; positive differences as bright as the object."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    offsets = np.cumsum([0, *(len(part[0]) for part in parts)])
    mjd, mag, err = (np.asarray(column, dtype=np.float64) for column in columns)
    ones = np.ones(len(mjd))
    return Curves(offsets, mjd, mag, err, mag, err, ones, np.full(len(mjd), fid))


def objects(light_curves: Iterable[LightCurve]) -> Objects:
    """Objects made of light curves without limits, all positive and uncorrected, near the galactic plane."""
    found = list(light_curves)
    bands = [curves([tuple(c[c_.fid == b] for c in c_[:3]) for c_ in found], b) for b in (1, 2)]
    both = curves([c[:3] for c in found])
    both = Curves(**{**vars(both), "fid": np.concatenate([c.fid for c in found])})
    n = len(found)
    none = Limits(np.zeros(n + 1, np.int64), np.empty(0), np.empty(0))
    unknown = np.full(n, np.nan)
    return Objects(
        oid=np.array([f"ZTF18aaaaaa{chr(97 + k % 26)}{k}" for k in range(n)], dtype=object),
        bands=(bands[0], bands[1]),
        both=both,
        limits=(none, none),
        corrected=np.zeros(n, np.bool_),
        meanra=np.full(n, 300.0),
        meandec=np.full(n, 20.0),
        rb=np.full(n, 0.9),
        sgscore1=np.full(n, 0.99),
        **{f"w{k}": unknown for k in (1, 2, 3, 4)},
    )
