"""Kinds of sources: their random draws, the protocol that all kinds follow, and common parts of variable sources.

Fluxes are in µJy (AB zero point 23.9); a difference flux is that of the source minus that of its reference image, as
ZTF measures it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numba import njit

from alerce_spark.simulation.randoms import Floats, Ints, key_of, normal, normal_one, uniform

ZERO_FLUX = 23.9
#: Days before an object's begin from which its light curve is defined.
LONGEST_HISTORY = 400.0
#: Number of images in a reference image, and the days that they span, from LONGEST_HISTORY before begin.
REFERENCE_FRAMES, REFERENCE_SPAN = 6, 70.0
#: Reference sources fainter than this [mag] are not detected: the nearest one is then an unrelated source.
REFERENCE_DEPTH = 22.0
#: Brighter sources are saturated [mag].
SATURATION = 11.5


def flux_of(mag: Any) -> Any:
    """Flux in µJy of an AB magnitude; NaN stays NaN."""
    return 10.0 ** (-0.4 * (np.asarray(mag) - ZERO_FLUX))


def mag_of(flux: Any) -> Any:
    """AB magnitude of a positive flux in µJy."""
    return ZERO_FLUX - 2.5 * np.log10(np.asarray(flux))


@dataclass(frozen=True)
class Draws:
    """The random properties of some objects of one kind, each a pure function of seed, its name and the object.

    begin, end: mjd of the nights between which the objects may send alerts. `visit_in_life` gives the mjd of one visit
    between them for a number in (0, 1), NaN without one. `toward`: galactic longitude and latitude [deg] of objects
    placed by the caller instead of by their population; dust and distance follow from this direction.
    """

    seed: int
    kind: str
    index: Ints
    begin: Floats
    end: Floats
    visit_in_life: Callable[[Floats], Floats]
    toward: tuple[Floats, Floats] | None = None
    _memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return self.index.size

    def uniform(self, name: str, low: Any = 0.0, high: Any = 1.0) -> Floats:
        """Uniform in (low, high), one for each object; the limits may be arrays."""
        deviates = self.once(f"uniform {name}", lambda: uniform(self.seed, f"{self.kind} {name}", self.index))
        return low + (high - low) * deviates

    def normal(self, name: str, mean: Any = 0.0, sigma: Any = 1.0) -> Floats:
        """Normal with `mean` and `sigma`, one for each object; both may be arrays."""
        deviates = self.once(f"normal {name}", lambda: normal(self.seed, f"{self.kind} {name}", self.index))
        return mean + sigma * deviates

    def clipped(self, name: str, mean: Any, sigma: Any, low: Any, high: Any) -> Floats:
        """Normal with `mean` and `sigma`, clipped to `low` and `high`."""
        return np.clip(self.normal(name, mean, sigma), low, high)

    def choice(self, name: str, weights: Sequence[float]) -> Ints:
        """Index into `weights` for each object, with probability proportional to the weight."""
        edges = np.cumsum(weights)[:-1] / np.sum(weights)
        return np.searchsorted(edges, self.uniform(name), side="right")

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The cached result of `make`, so that populations are drawn once for each `Draws`."""
        if name not in self._memo:
            self._memo[name] = make()
        return self._memo[name]


@dataclass(frozen=True)
class Attempt:
    """Tries of `first_accepted`: row k is try `numbers[k]` for object `rows[k]` of `draws`, with new values."""

    draws: Draws
    rows: Ints
    numbers: Ints

    def uniform(self, name: str, low: Any = 0.0, high: Any = 1.0) -> Floats:
        """Uniform in (low, high), one for each row."""
        d = self.draws
        return low + (high - low) * uniform(d.seed, f"{d.kind} {name}", d.index[self.rows], self.numbers)


#: Rows that `first_accepted` tries at a time: fewer means more numpy calls, more means unneeded tries.
_TRIED_AT_ONCE = 768


def first_accepted(
    draws: Draws, attempt: Callable[[Attempt], tuple[Floats, Any]], width: int, tries: int = 150
) -> Floats:
    """Rejection sampling per object: the (width,) values of the first accepted try of each object.

    attempt: returns (width, rows) values and a mask of accepted rows; rows are independent. If none of `tries` is
    accepted, the last one counts. When few objects are left, several tries run at a time. Returns (width, objects).
    """
    out = np.zeros((width, len(draws)))
    pending = np.arange(len(draws))
    number = 0
    while pending.size and number < tries:
        some = min(tries - number, max(1, _TRIED_AT_ONCE // pending.size))
        numbers = np.repeat(np.arange(number, number + some), pending.size)
        values, is_accepted = attempt(Attempt(draws, np.tile(pending, some), numbers))
        by_try = np.reshape(is_accepted, (some, -1))
        is_found = by_try.any(axis=0)
        first = np.where(is_found, by_try.argmax(axis=0), some - 1)
        out[:, pending] = values[:, first * pending.size + np.arange(pending.size)]
        pending, number = pending[~is_found], number + some
    return out


class Kind(Protocol):
    """A kind of object. `row` is the index in `draws` of the object of each point; fid is 1, 2 or 3.

    Points of one object are contiguous. Bands of arrays (3, objects) are g, r, i.
    """

    @property
    def name(self) -> str:
        """Class label."""

    @property
    def branch(self) -> str:
        """Transient, Stochastic or Periodic; empty for kinds without a light-curve class."""

    @property
    def lifetime(self) -> float:
        """Days after which an endless stream replaces the object by a new one of its kind; infinity: never."""

    @property
    def scene(self) -> str:
        """Content of its stamps, see `stamps.py`."""

    @property
    def is_real(self) -> bool:
        """False for artefacts."""

    @property
    def is_on_reference(self) -> bool:
        """True where the reference image shows the object itself."""

    def place(self, draws: Draws) -> tuple[Floats, Floats]:
        """ra, dec in degrees: the population's own distribution over the sky north of dec -30."""

    def reference(self, draws: Draws) -> Floats:
        """Magnitude of the nearest reference source in g, r, i: shape (3, objects)."""

    def separation(self, draws: Draws) -> Floats:
        """Distance in arcsec from each object to that source."""

    def star_score(self, draws: Draws) -> Floats:
        """PS1 star/galaxy score of the nearest PS1 source: 0 extended, 1 a point."""

    def wise(self, draws: Draws) -> Floats:
        """(4, objects) AllWISE W1 … W4 [mag, Vega] of the source within 1 arcsec; NaN without one."""

    def difference(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        """Difference flux in µJy at each point."""


def colours(r_mag: Floats, g_minus_r: Floats, r_minus_i: Floats | None = None) -> Floats:
    """(3, objects) magnitudes in g, r, i; r − i follows the stellar locus (Covey et al. 2007) unless given."""
    r_i = np.clip(0.42 * g_minus_r - 0.03, -0.4, None) if r_minus_i is None else r_minus_i
    return np.stack([r_mag + g_minus_r, r_mag, r_mag - r_i])


def neighbour_separation(draws: Draws) -> Floats:
    """Distance in arcsec to the nearest unrelated source, for random points on a plane, 2–30 arcsec."""
    return 2.0 + 9.0 * np.sqrt(-np.log(draws.uniform("neighbour away")))


def star_scores(draws: Draws, r_mag: Any = 0.0) -> Floats:
    """PS1 scores of stars of magnitude `r_mag`: near 1 for nine in ten bright ones, in between for blends.

    Less certain from r = 19.5 on, undecided at 22.5 (Tachibana & Miller 2018, figs. 6 and 8). Without a good PS1
    measurement, as for blends or saturated stars, their catalogue gives 0.5 (one in a hundred).
    """
    doubt = np.interp(r_mag, [19.0, 20.5, 22.5], [0.06, 0.25, 0.9])
    clean = 1.0 - doubt * draws.uniform("score") ** np.interp(r_mag, [19.0, 22.0], [2.5, 1.2])
    blend = draws.uniform("blend")
    return np.where(blend < 0.01, 0.5, np.where(blend < 0.06, draws.uniform("blended score", 0.3, 0.95), clean))


def galaxy_scores(draws: Draws, r_mag: Any, compact: Any = 0.03) -> Floats:
    """PS1 scores of galaxies of magnitude `r_mag`: less certain when fainter (Tachibana & Miller 2018, fig. 8).

    compact: share of galaxies that PS1 hardly resolves, with an arbitrary score.
    """
    doubt = np.interp(r_mag, [16.0, 19.0, 20.5, 22.5], [0.06, 0.2, 0.5, 0.95])
    spread = doubt * draws.uniform("galaxy score") ** np.interp(r_mag, [17.0, 20.0, 22.0], [2.5, 1.7, 1.2])
    return np.where(draws.uniform("compact") < compact, draws.uniform("compact score", 0.1, 1.0), spread)


def field_scores(draws: Draws) -> Floats:
    """PS1 scores of the sources nearest to empty places away from the plane: most are faint, half are galaxies."""
    r_mag = 23.0 - np.minimum(-np.log(draws.uniform("field source")) / 0.8, 6.0)
    share = np.interp(r_mag, [18.0, 20.0, 22.0], [0.15, 0.4, 0.65])
    is_galaxy = draws.uniform("field galaxy") < share
    return np.where(is_galaxy, galaxy_scores(draws, r_mag), star_scores(draws, r_mag))


@dataclass(frozen=True)
class Variable(ABC):
    """A star or nucleus that is present on its reference image: subclasses give mean magnitude and deviation from it.

    The reference image is a mean of REFERENCE_FRAMES epochs some months before `begin`, so a slow variable differs
    from it for years: real objects are brighter than their reference in all of their alerts, or in none.
    """

    lifetime: float = np.inf
    scene: str = "star"
    is_real: bool = True
    is_on_reference: bool = True

    @abstractmethod
    def mean_mag(self, draws: Draws) -> Floats:
        """Mean magnitudes (3, objects) of the variable source."""

    @abstractmethod
    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        """Deviations from the mean at the points [mag]."""

    def constant(self, draws: Draws) -> Floats:
        """Constant flux (3, objects) in µJy within the same aperture, such as the core of a host."""
        return np.zeros((3, len(draws)))

    def reference(self, draws: Draws) -> Floats:
        own = mag_of(self._reference_flux(draws) + self.constant(draws))
        r_mag = draws.uniform("neighbour", 18.0, REFERENCE_DEPTH)
        other = colours(r_mag, draws.uniform("neighbour colour", 0.2, 1.4))
        return np.where(own[1] < REFERENCE_DEPTH, own, other)

    def separation(self, draws: Draws) -> Floats:
        own = mag_of(self._reference_flux(draws)[1] + self.constant(draws)[1])
        itself = 0.1 * np.sqrt(-2.0 * np.log(draws.uniform("self away")))
        return np.where(own < REFERENCE_DEPTH, itself, neighbour_separation(draws))

    def star_score(self, draws: Draws) -> Floats:
        return star_scores(draws)

    def difference(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        mean = flux_of(self.mean_mag(draws))
        before = self._reference_flux(draws)
        band = fid - 1
        flux = mean[band, row] * 10.0 ** (-0.4 * self.deviation(draws, row, mjd, fid))
        return np.minimum(flux, flux_of(SATURATION)) - before[band, row]

    def _reference_flux(self, draws: Draws) -> Floats:
        return draws.once("reference flux", lambda: self._mean_of_frames(draws))

    def _mean_of_frames(self, draws: Draws) -> Floats:
        n = len(draws)
        row = np.repeat(np.arange(n), REFERENCE_FRAMES)
        # uneven steps, so that no period of whole days falls on one phase
        part = (np.arange(REFERENCE_FRAMES) + 0.13 * np.arange(REFERENCE_FRAMES) ** 2 % 1.0) / REFERENCE_FRAMES
        start = draws.begin - LONGEST_HISTORY + 3.0 * draws.uniform("reference start")
        mjd = start[row] + REFERENCE_SPAN * np.tile(part, n)
        flux = np.empty((3, n))
        for band in range(3):
            relative = 10.0 ** (-0.4 * self.deviation(draws, row, mjd, np.full(row.size, band + 1)))
            flux[band] = relative.reshape(n, -1).mean(axis=1)
        return np.minimum(flux * flux_of(self.mean_mag(draws)), flux_of(SATURATION))


#: Days between the nodes of a walk, and how often an interval is halved at most.
_STEP, _HALVINGS = 4.0, 6


@njit(cache=True)
def _walks(key: Any, index: Any, row: Any, days: Any, tau: Any, finest: float) -> Any:
    out = np.empty(row.size)
    last, node, left, right = -1, 0, 0.0, 0.0
    damp = kick = 0.0
    depth = 0
    half_damp = np.empty(_HALVINGS)
    half_kick = np.empty(_HALVINGS)
    for i in range(row.size):
        k = row[i]
        target = np.int64(np.floor(days[i] / _STEP))
        if k != last:
            damp = np.exp(-_STEP / tau[k])
            kick = np.sqrt(1.0 - damp * damp)
            depth = 0
            while depth < _HALVINGS and _STEP / 2.0**depth > finest * tau[k]:
                part = np.exp(-_STEP / 2.0 ** (depth + 1) / tau[k])
                half_damp[depth] = part / (1.0 + part * part)
                half_kick[depth] = np.sqrt((1.0 - part * part) / (1.0 + part * part))
                depth += 1
        if k != last or target < node:
            last, node = k, 0
            left = normal_one(key, index[k], 0)
            right = left * damp + kick * normal_one(key, index[k], 64)
        while node < target:
            node += 1
            left = right
            right = left * damp + kick * normal_one(key, index[k], (node + 1) * 64)
        a, b, place = left, right, np.int64(1)
        x = days[i] / _STEP - node
        for level in range(depth):
            middle = half_damp[level] * (a + b) + half_kick[level] * normal_one(key, index[k], node * 64 + place)
            x *= 2.0
            if x >= 1.0:
                x -= 1.0
                a, place = middle, 2 * place + 1
            else:
                b, place = middle, 2 * place
        out[i] = a + x * (b - a)
    return out


def damped_walk(draws: Draws, name: str, row: Ints, mjd: Floats, tau: Floats, finest: float = 0.001) -> Floats:
    """Damped random walk of unit variance and damping time `tau` (objects,) [days] at each point.

    Kelly et al. (2009): covariance exp(−Δt/τ). Nodes 4 d apart are exact from LONGEST_HISTORY before begin; the
    intervals are halved, exactly too (a bridge between their ends), down to `finest` of τ or 1/16 d, then linear.
    Earlier times have the first node's value.
    """
    days = np.maximum(mjd - draws.begin[row] + LONGEST_HISTORY, 0.0)
    return _walks(key_of(draws.seed, f"{draws.kind} {name}"), draws.index, row, days, tau, finest)
