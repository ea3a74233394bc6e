"""Many light curves as flat arrays with offsets, the input of every feature family; and the description of a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]

#: Bands that features are computed in: `fid` 1 is g (suffix `_1`), 2 is r (suffix `_2`); i (3) is ignored (paper §3.3).
BANDS = (1, 2)


@dataclass(frozen=True)
class Curves:
    """n light curves; curve i is rows `offsets[i]:offsets[i + 1]` of each array, sorted by mjd. A curve may be empty.

    `mag`, `err` are magpsf_ml, sigmapsf_ml (corrected where the object is); `magpsf`, `sigmapsf` the difference
    photometry [mag]; `sign` is isdiffpos as +1 or -1; `fid` the band of each row; `mjd` in days.
    """

    offsets: Int
    mjd: Float
    mag: Float
    err: Float
    magpsf: Float
    sigmapsf: Float
    sign: Float
    fid: Int

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Limits:
    """Upper limits of n objects in one band: rows `offsets[i]:offsets[i + 1]`, sorted by mjd; diffmaglim in mag."""

    offsets: Int
    mjd: Float
    diffmaglim: Float


@dataclass(frozen=True)
class Objects:
    """n objects after the selection of docs/features.md: `bands[b]` and `limits[b]` hold the n curves of BANDS[b].

    `both` holds the g and r rows of each object merged in time order. `rb`, `sgscore1`, `meanra`, `meandec` [deg] and
    the AllWISE magnitudes `w1` … `w4` have one value per object, NaN where unknown. `corrected` is the object's flag.
    """

    oid: NDArray[np.object_]
    bands: tuple[Curves, Curves]
    both: Curves
    limits: tuple[Limits, Limits]
    corrected: NDArray[np.bool_]
    meanra: Float
    meandec: Float
    rb: Float
    sgscore1: Float
    w1: Float
    w2: Float
    w3: Float
    w4: Float

    def __len__(self) -> int:
        return len(self.oid)


@dataclass
class Scratch:
    """Values that one family passes to the next: the period search writes, families with a period read."""

    period: Float = field(default_factory=lambda: np.empty(0))  # (n,) days, NaN where none
    extra: dict[str, Float] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A feature family: `compute(objects, scratch)` returns float64 (n, len(columns)), NaN where undefined.

    `columns` are final names, band suffix included, in the order of the returned columns. `needs` lists the names of
    families that must run first.
    """

    name: str
    columns: tuple[str, ...]
    compute: Callable[[Objects, Scratch], Float]
    needs: tuple[str, ...] = ()


def per_band(names: tuple[str, ...]) -> tuple[str, ...]:
    """Column names of a per-band family: all of g, then all of r."""
    return tuple(f"{name}_{fid}" for fid in BANDS for name in names)
