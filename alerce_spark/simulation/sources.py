"""Sources of the synthetic sky: kinds of objects, their populations, light curves, reference images and positions.

A kind is a small class with a population (drawn by name from `Draws`) and a light curve; `KINDS` lists them. A new kind
needs nothing else. Fluxes are in µJy (AB zero point 23.9); a difference flux is that of the source minus that of its
reference image, as ZTF measures it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numba import njit

from alerce_spark.simulation import survey
from alerce_spark.simulation.randoms import Floats, Ints, key_of, normal, normal_one, uniform

ZERO_FLUX = 23.9
#: Days before an object's begin from which its light curve is defined.
LONGEST_HISTORY = 400.0


def flux_of(mag: Any) -> Any:
    """Flux in µJy of an AB magnitude; NaN stays NaN."""
    return 10.0 ** (-0.4 * (np.asarray(mag) - ZERO_FLUX))


@dataclass(frozen=True)
class Draws:
    """The random properties of some objects of one kind, each a pure function of seed, its name and the object.

    begin, end: mjd of the nights between which the objects may send alerts. `visit_in_life` gives the mjd of one visit
    between them for a number in (0, 1), NaN where there is none.
    """

    seed: int
    kind: str
    index: Ints
    begin: Floats
    end: Floats
    visit_in_life: Callable[[Floats], Floats]

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Floats:
        """Uniform in (low, high), one for each object."""
        return low + (high - low) * uniform(self.seed, f"{self.kind} {name}", self.index)

    def normal(self, name: str) -> Floats:
        """Standard normal, one for each object."""
        return normal(self.seed, f"{self.kind} {name}", self.index)


class Kind(Protocol):
    """A kind of object. `row` gives for each point the object in `draws` that it belongs to; fid is 1, 2 or 3."""

    @property
    def name(self) -> str:
        """Class label."""

    @property
    def lifetime(self) -> float:
        """Days after which an endless stream replaces the object by a new one of its kind; infinite: never."""

    @property
    def scene(self) -> str:
        """What its stamps show, see `stamps.py`."""

    @property
    def is_real(self) -> bool:
        """False for artefacts."""

    @property
    def is_on_reference(self) -> bool:
        """True where the reference image shows the object itself."""

    def reference(self, draws: Draws) -> Floats:
        """Magnitude of the nearest reference source in g, r, i: shape (3, objects)."""

    def difference(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        """Difference flux in µJy at each point."""


def _colours(r_mag: Floats, g_minus_r: Floats) -> Floats:
    return np.stack([r_mag + g_minus_r, r_mag, r_mag - 0.4 * g_minus_r])


@dataclass(frozen=True)
class _Variable(ABC):
    """A star or nucleus that is on its own reference image: subclasses give mean magnitude and deviation from it."""

    lifetime: float = np.inf
    scene: str = "star"
    is_real: bool = True
    is_on_reference: bool = True

    @abstractmethod
    def mean_mag(self, draws: Draws) -> Floats:
        """Mean magnitudes in the three bands."""

    @abstractmethod
    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        """Deviations from the mean at the points [mag]."""

    def reference(self, draws: Draws) -> Floats:
        return self.mean_mag(draws)

    def difference(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        mean = flux_of(self.mean_mag(draws)[fid - 1, row])
        return mean * (10.0 ** (-0.4 * self.deviation(draws, row, mjd, fid)) - 1.0)


@dataclass(frozen=True)
class RRLyrae(_Variable):
    """RRab-like: period 0.45–0.75 d, a steep rise and a slow fall, amplitude falling from g to i."""

    name: str = "RRL"

    def mean_mag(self, draws: Draws) -> Floats:
        return _colours(draws.uniform("mag", 15.3, 18.8), draws.uniform("colour", 0.1, 0.4))

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        phase = mjd / draws.uniform("period", 0.45, 0.75)[row] + draws.uniform("phase")[row]
        wave = sum(np.sin(2 * np.pi * k * phase) / k**1.25 for k in range(1, 6)) / 1.5
        return np.array([1.0, 0.72, 0.58])[fid - 1] * draws.uniform("amplitude", 0.3, 0.6)[row] * wave


@dataclass(frozen=True)
class Eclipsing(_Variable):
    """Two Gaussian eclipses of unlike depth and an ellipsoidal wave, periods 0.25–5 d (log-uniform)."""

    name: str = "E"

    def mean_mag(self, draws: Draws) -> Floats:
        return _colours(draws.uniform("mag", 14.5, 18.0), draws.uniform("colour", 0.2, 0.9))

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        phase = mjd / 10.0 ** draws.uniform("log period", -0.6, 0.7)[row] + draws.uniform("phase")[row]
        width = draws.uniform("width", 0.03, 0.09)[row]
        depth = draws.uniform("depth", 0.4, 1.2)[row]
        second = depth * draws.uniform("second", 0.3, 0.95)[row]

        def dip(centre: float) -> Floats:
            return np.exp(-0.5 * ((np.mod(phase - centre + 0.5, 1.0) - 0.5) / width) ** 2)

        wave = 0.25 * depth * np.cos(4 * np.pi * phase)
        return depth * dip(0.0) + second * dip(0.5) + wave - (depth + second) * width * 2.5


@dataclass(frozen=True)
class LongPeriod(_Variable):
    """Red pulsating giants: periods 100–500 d, amplitudes of 1–4 mag in g and less to the red."""

    name: str = "LPV"

    def mean_mag(self, draws: Draws) -> Floats:
        return _colours(draws.uniform("mag", 14.0, 18.0), draws.uniform("colour", 1.2, 2.2))

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        phase = mjd / draws.uniform("period", 100.0, 500.0)[row] + draws.uniform("phase")[row]
        wave = np.sin(2 * np.pi * phase) + 0.2 * np.sin(4 * np.pi * phase + 1.0)
        return np.array([1.0, 0.75, 0.5])[fid - 1] * draws.uniform("amplitude", 0.5, 2.0)[row] * wave


@njit(cache=True)
def _damped_walk(key: Any, index: Any, row: Any, days: Any, tau: Any, step: float) -> Any:
    """Damped random walk of unit variance at `days` since each object's origin; points of one object stand together."""
    out = np.empty(row.size)
    last, node, left, right = -1, 0, 0.0, 0.0
    for i in range(row.size):
        k = row[i]
        damp = np.exp(-step / tau[k])
        kick = np.sqrt(1.0 - damp * damp)
        target = np.int64(days[i] / step)
        if k != last or target < node:
            last, node = k, 0
            left = normal_one(key, index[k], 0)
            right = left * damp + kick * normal_one(key, index[k], 1)
        while node < target:
            node += 1
            left = right
            right = left * damp + kick * normal_one(key, index[k], node + 1)
        part = days[i] / step - node
        out[i] = left + part * (right - left)
    return out


@dataclass(frozen=True)
class ActiveNucleus(_Variable):
    """Damped random walk in magnitude (Kelly et al. 2009): sigma 0.15–0.45 mag, tau 50–300 d, stronger in the blue.

    The walk is exact at nodes two days apart, from LONGEST_HISTORY before the object's begin, and linear between them.
    """

    name: str = "AGN"
    scene: str = "nucleus"

    def mean_mag(self, draws: Draws) -> Floats:
        return _colours(draws.uniform("mag", 16.6, 18.8), draws.uniform("colour", 0.1, 0.6))

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        days = mjd - draws.begin[row] + LONGEST_HISTORY
        walk = _damped_walk(
            key_of(draws.seed, "AGN walk"), draws.index, row, days, draws.uniform("tau", 50.0, 300.0), 2.0
        )
        return np.array([1.0, 0.85, 0.75])[fid - 1] * draws.uniform("sigma", 0.15, 0.45)[row] * walk


@dataclass(frozen=True)
class Supernova:
    """Like a type Ia: rise in 15–20 d, e-folding fall of 17 d in g to 32 d in i, a slow tail; beside a host galaxy."""

    name: str = "SN"
    lifetime: float = 150.0
    scene: str = "host"
    is_real: bool = True
    is_on_reference: bool = False

    def reference(self, draws: Draws) -> Floats:
        return _colours(draws.uniform("host", 16.0, 21.5), draws.uniform("host colour", 0.3, 1.0))

    def difference(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        spread = np.maximum(draws.end - draws.begin - 130.0, 15.0)
        peak = draws.begin - 10.0 + draws.uniform("peak") * spread
        colour = draws.uniform("colour", -0.1, 0.2)[row] * np.array([0.5, -0.5, -0.9])[fid - 1]
        stretch = draws.uniform("stretch", 0.85, 1.2)[row]
        t = (mjd - peak[row]) / stretch
        fall = np.array([17.0, 26.0, 32.0])[fid - 1]
        rise = np.clip((t + 17.0) / 17.0, 0.0, 1.0) ** 2
        late = np.maximum(t, 0.0)
        shape = np.where(t < 0.0, rise * (2.0 - rise), 0.92 * np.exp(-late / fall) + 0.08 * np.exp(-late / 90.0))
        return flux_of(draws.uniform("mag", 16.8, 19.6)[row] + colour) * shape


@dataclass(frozen=True)
class _Single(ABC):
    """Seen once, at a random visit of its life, with the flux `brightness` gives (µJy)."""

    lifetime: float = 1.0
    is_on_reference: bool = False

    def reference(self, draws: Draws) -> Floats:
        return _colours(draws.uniform("neighbour", 14.0, 22.0), draws.uniform("neighbour colour", 0.0, 1.5))

    def difference(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        seen = draws.visit_in_life(draws.uniform("moment"))[row]
        return np.where(np.abs(mjd - seen) < 1e-6, self.brightness(draws)[row], 0.0)

    @abstractmethod
    def brightness(self, draws: Draws) -> Floats:
        """Difference flux of its one visit."""


@dataclass(frozen=True)
class Asteroid(_Single):
    """A minor planet: one detection, with a known body within 2 arcsec and nothing on the reference image."""

    name: str = "asteroid"
    scene: str = "mover"
    is_real: bool = True

    def brightness(self, draws: Draws) -> Floats:
        return flux_of(draws.uniform("mag", 16.5, 19.8))


@dataclass(frozen=True)
class Bogus(_Single):
    """An artefact of the subtraction: one detection of either sign, near a star, with a low score."""

    name: str = "bogus"
    scene: str = "artefact"
    is_real: bool = False

    def brightness(self, draws: Draws) -> Floats:
        return flux_of(draws.uniform("mag", 16.5, 19.6)) * np.where(draws.uniform("sign") < 0.6, 1.0, -1.0)


KINDS: tuple[Kind, ...] = (
    RRLyrae(),
    Eclipsing(),
    LongPeriod(),
    ActiveNucleus(),
    Supernova(),
    Asteroid(),
    Bogus(),
)
KIND_NAMES = tuple(kind.name for kind in KINDS)
#: Share of each kind among the simulated objects (not that of the sky: variables would drown the rest).
DEFAULT_MIX: Mapping[str, float] = {
    "RRL": 0.18,
    "E": 0.12,
    "LPV": 0.18,
    "AGN": 0.14,
    "SN": 0.12,
    "asteroid": 0.12,
    "bogus": 0.14,
}


@dataclass(frozen=True)
class Objects:
    """Some objects of a sky; arrays of one length. `begin`, `end`: nights (mjd) between which alerts may come."""

    slot: Ints
    index: Ints
    kind: Ints
    ra: Floats
    dec: Floats
    field: Ints
    rcid: Ints
    tblid: Ints
    begin: Floats
    end: Floats

    def __len__(self) -> int:
        return self.slot.size

    def take(self, rows: Any) -> Objects:
        """The objects at `rows` (indices or a mask)."""
        return Objects(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


#: Rows that one object may fill in an extraction table: itself and its twin, in two successive generations.
ROWS_PER_OBJECT = 4


@dataclass
class Sky:
    """`objects` places ("slots") on the sky, each with objects of one kind one after another, its generations.

    positions: (objects, 2) ra, dec in degrees, or None for random places in `fields`. mix: kind name → weight.
    Raises ValueError for positions off the sphere, an unknown kind, or more objects than a readout channel can number.
    """

    seed: int
    objects: int
    fields: Ints
    positions: Floats | None = None
    mix: Mapping[str, float] | None = None
    _slot_field: Ints = field(init=False, repr=False)
    _slot_rcid: Ints = field(init=False, repr=False)
    _slot_kind: Ints = field(init=False, repr=False)
    _slot_serial: Ints = field(init=False, repr=False)

    def __post_init__(self) -> None:
        slots = np.arange(self.objects)
        self._slot_kind = self._kinds(slots)
        if self.positions is None:
            pick = (uniform(self.seed, "field", slots) * self.fields.size).astype(np.int64)
            self._slot_field = self.fields[pick]
            self._slot_rcid = (uniform(self.seed, "rcid", slots) * 64).astype(np.int64)
        else:
            self.positions = _valid_positions(self.positions, self.objects)
            self._slot_field, self._slot_rcid = survey.field_of(self.positions[:, 0], self.positions[:, 1])
            self.fields = np.unique(self._slot_field)
        self._slot_serial = _serial_in_group(self._slot_field * 64 + self._slot_rcid)
        if self.objects and int(self._slot_serial.max()) * ROWS_PER_OBJECT >= 99 * 5000:
            raise ValueError("too many objects in one readout channel; spread them over more fields")

    def _kinds(self, slots: Ints) -> Ints:
        mix = DEFAULT_MIX if self.mix is None else self.mix
        unknown = set(mix) - set(KIND_NAMES)
        weights = np.array([mix.get(name, 0.0) for name in KIND_NAMES])
        if unknown or not np.all(weights >= 0) or not 0 < weights.sum() < np.inf:
            raise ValueError(f"mix must give weights of {', '.join(KIND_NAMES)}; got {dict(mix)}")
        return np.searchsorted(np.cumsum(weights)[:-1] / weights.sum(), uniform(self.seed, "kind", slots), side="right")

    def lifetimes(self, slots: Ints) -> Floats:
        """Lifetime in days of the kind in each slot."""
        return np.array([kind.lifetime for kind in KINDS])[self._slot_kind[slots]]

    def at(self, slots: Ints, generation: Ints, begin: Floats, end: Floats) -> Objects:
        """Objects of `slots` in `generation`, which may send alerts from night `begin` to night `end`."""
        index = slots + generation * self.objects
        group_field, rcid = self._slot_field[slots], self._slot_rcid[slots]
        if self.positions is None:
            x, y = uniform(self.seed, "x", index), uniform(self.seed, "y", index)
            ra, dec = survey.position_in(group_field, rcid, 0.01 + 0.98 * x, 0.01 + 0.98 * y)
        else:
            ra, dec = self.positions[slots, 0], self.positions[slots, 1]
        tblid = self._slot_serial[slots] * ROWS_PER_OBJECT + 2 * (generation % 2)
        return Objects(slots, index, self._slot_kind[slots], ra, dec, group_field, rcid, tblid, begin, end)


def _valid_positions(positions: Any, count: int) -> Floats:
    places = np.array(positions, np.float64)
    if places.shape != (count, 2) or not np.all(np.isfinite(places)) or np.any(np.abs(places[:, 1]) > 90):
        raise ValueError(f"positions must be {count} pairs of ra, dec in degrees, |dec| ≤ 90; got {places.shape}")
    places[:, 0] = np.mod(places[:, 0], 360.0)
    return places


def _serial_in_group(group: Ints) -> Ints:
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    is_first = np.r_[True, ordered[1:] != ordered[:-1]] if group.size else np.zeros(0, bool)
    first_at = np.maximum.accumulate(np.where(is_first, np.arange(group.size), 0))
    serial = np.empty(group.size, np.int64)
    serial[order] = np.arange(group.size) - first_at
    return serial


def object_ids(seed: int, objects: Objects) -> list[str]:
    """ZTF-like ids, `ZTF`, year and seven letters, each object of a sky its own (8·10⁹ of them)."""
    letters = 26**7
    # the factor has no divisor in common with 26, so the map is one to one, and the product fits 63 bits
    scrambled = (objects.index % letters * 1000000007 % letters + seed * 1000003 % letters) % letters
    year = (objects.begin + 2400000.5 - 2451544.5) / 365.25
    places = 26 ** np.arange(6, -1, -1)
    rows = (97 + scrambled[:, None] // places % 26).astype(np.uint8)
    return [f"ZTF{int(y) % 100:02d}{bytes(r).decode()}" for y, r in zip(year, rows, strict=True)]
