"""Sources of the synthetic sky: the list of kinds, kinds with a single detection, and the objects of a sky.

A kind is a small class with a population (drawn by name from `Draws`) and a light curve; `KINDS` lists them: the
fifteen classes of the taxonomy (transients.py, stochastic.py, periodic.py), asteroids and artefacts. A new kind needs
only an entry in this list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alerce_spark.simulation import survey
from alerce_spark.simulation.galaxy import SOUTH, equatorial
from alerce_spark.simulation.kinds import (
    LONGEST_HISTORY,
    ZERO_FLUX,
    Attempt,
    Draws,
    Kind,
    colours,
    field_scores,
    first_accepted,
    flux_of,
    neighbour_separation,
)
from alerce_spark.simulation.periodic import Cepheid, DeltaScuti, Eclipsing, LongPeriod, OtherPeriodic, RRLyrae
from alerce_spark.simulation.randoms import Floats, Ints, uniform
from alerce_spark.simulation.stochastic import Blazar, Cataclysmic, Quasar, Seyfert, YoungStar
from alerce_spark.simulation.transients import Superluminous, TypeIa, TypeIbc, TypeII

__all__ = ["DEFAULT_MIX", "KINDS", "KIND_NAMES", "LONGEST_HISTORY", "ZERO_FLUX", "Draws", "Kind", "Objects", "Sky"]
__all__ += ["ROWS_PER_OBJECT", "flux_of", "object_ids"]


def _band_of_stars(draws: Draws) -> tuple[Floats, Floats]:
    """Positions distributed like all stars: half of them within some degrees of the Galactic plane."""

    def attempt(a: Attempt) -> tuple[Floats, Any]:
        lon, side = a.uniform("lon", 0.0, 360.0), a.uniform("up", -1.0, 1.0)
        even, near = np.degrees(np.arcsin(side)), 6.0 * side / np.sqrt(1.0001 - side**2)
        lat = np.clip(np.where(a.uniform("plane") < 0.5, near, even), -90.0, 90.0)
        ra, dec = equatorial(lon, lat)
        return np.stack([ra, dec]), dec > SOUTH

    ra, dec = first_accepted(draws, attempt, 2)
    return ra, dec


@dataclass(frozen=True)
class _Single(ABC):
    """A kind detected once, at a random visit of its life, with the flux of `brightness` (µJy)."""

    branch: str = ""
    lifetime: float = 1.0
    is_on_reference: bool = False

    def reference(self, draws: Draws) -> Floats:
        return colours(draws.uniform("neighbour", 14.0, 22.0), draws.uniform("neighbour colour", 0.0, 1.5))

    def separation(self, draws: Draws) -> Floats:
        return neighbour_separation(draws)

    def star_score(self, draws: Draws) -> Floats:
        return field_scores(draws)

    def wise(self, draws: Draws) -> Floats:
        return np.full((4, len(draws)), np.nan)

    def difference(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        moment = draws.visit_in_life(draws.uniform("moment"))[row]
        return np.where(np.abs(mjd - moment) < 1e-6, self.brightness(draws)[row], 0.0)

    @abstractmethod
    def brightness(self, draws: Draws) -> Floats:
        """Difference flux of its one visit."""


@dataclass(frozen=True)
class Asteroid(_Single):
    """A minor planet: one detection, with a known body within 2 arcsec and no source on the reference image.

    Near the ecliptic: latitudes of σ 8 degrees (main belt; Jedicke et al. 2015).
    """

    name: str = "asteroid"
    scene: str = "mover"
    is_real: bool = True

    def place(self, draws: Draws) -> tuple[Floats, Floats]:
        lon, lat = draws.uniform("lon", 0.0, 2 * np.pi), np.radians(draws.clipped("lat", 0.0, 8.0, -30.0, 30.0))
        tilt = np.radians(23.4393)
        up = np.sin(lat) * np.cos(tilt) + np.cos(lat) * np.sin(tilt) * np.sin(lon)
        east = np.sin(lon) * np.cos(lat) * np.cos(tilt) - np.sin(lat) * np.sin(tilt)
        ra = np.mod(np.degrees(np.arctan2(east, np.cos(lon) * np.cos(lat))), 360.0)
        return ra, np.clip(np.degrees(np.arcsin(up)), SOUTH + 0.1, None)

    def brightness(self, draws: Draws) -> Floats:
        return np.asarray(flux_of(draws.uniform("mag", 16.5, 19.8)))


@dataclass(frozen=True)
class Bogus(_Single):
    """An artefact of the subtraction: one detection of either sign, near a star, with a low score."""

    name: str = "bogus"
    scene: str = "artefact"
    is_real: bool = False

    def place(self, draws: Draws) -> tuple[Floats, Floats]:
        return _band_of_stars(draws)

    def separation(self, draws: Draws) -> Floats:
        return np.where(
            draws.uniform("on star") < 0.5, draws.uniform("on star away", 0.1, 1.4), neighbour_separation(draws)
        )

    def brightness(self, draws: Draws) -> Floats:
        flux = flux_of(draws.uniform("mag", 16.5, 19.6))
        return np.asarray(flux * np.where(draws.uniform("sign") < 0.6, 1.0, -1.0))


KINDS: tuple[Kind, ...] = (
    TypeIa(),
    TypeIbc(),
    TypeII(),
    Superluminous(),
    Quasar(),
    Seyfert(),
    Blazar(),
    YoungStar(),
    Cataclysmic(),
    LongPeriod(),
    Eclipsing(),
    DeltaScuti(),
    RRLyrae(),
    Cepheid(),
    OtherPeriodic(),
    Asteroid(),
    Bogus(),
)
KIND_NAMES = tuple(kind.name for kind in KINDS)
#: Share of each kind among the simulated objects (not that of the sky, where variables far outnumber the rest).
DEFAULT_MIX: Mapping[str, float] = {
    "SNIa": 0.08,
    "SNIbc": 0.03,
    "SNII": 0.04,
    "SLSN": 0.02,
    "QSO": 0.07,
    "AGN": 0.06,
    "Blazar": 0.04,
    "YSO": 0.05,
    "CV/Nova": 0.04,
    "LPV": 0.07,
    "E": 0.09,
    "DSCT": 0.03,
    "RRL": 0.12,
    "CEP": 0.04,
    "Periodic-Other": 0.04,
    "asteroid": 0.09,
    "bogus": 0.09,
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


#: Most rows of one object in an extraction table: itself and its twin, in two successive generations.
ROWS_PER_OBJECT = 4


@dataclass
class Sky:
    """`objects` places ("slots") on the sky, each with a sequence of objects of one kind, its generations.

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
    """ZTF-like ids, `ZTF`, year and seven letters, unique for each object of a sky (8·10⁹ of them)."""
    letters = 26**7
    # the factor has no divisor in common with 26, so the map is one to one, and the product fits 63 bits
    scrambled = (objects.index % letters * 1000000007 % letters + seed * 1000003 % letters) % letters
    year = (objects.begin + 2400000.5 - 2451544.5) / 365.25
    places = 26 ** np.arange(6, -1, -1)
    rows = (97 + scrambled[:, None] // places % 26).astype(np.uint8)
    return [f"ZTF{int(y) % 100:02d}{bytes(r).decode()}" for y, r in zip(year, rows, strict=True)]
