"""Supernovae: types Ia, Ib/c, II and superluminous ones, with redshift, dust of two galaxies, and hosts.

A magnitude-limited sample: peak magnitudes of numbers ∝ 10^(0.6 m), absolute magnitudes as observed in such a sample
(Perley et al. 2020, the ZTF Bright Transient Survey; figures of its catalogue are in the docstrings); the redshift
follows. Light curves are functions of rest-frame days and wavelength, so redshift dilates and reddens them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from alerce_spark.simulation.galaxy import (
    DUST,
    Place,
    allwise,
    extragalactic_place,
    kpc_per_arcsec,
    modulus_of,
    redshift_of,
)
from alerce_spark.simulation.kinds import (
    REFERENCE_DEPTH,
    Draws,
    colours,
    field_scores,
    flux_of,
    galaxy_scores,
    neighbour_separation,
)
from alerce_spark.simulation.randoms import Floats, Ints

#: Effective wavelengths of g, r, i [Å].
WAVELENGTH = np.array([4770.0, 6230.0, 7630.0])
#: h c / k [Å K].
_HC_K = 1.4388e8
#: Faintest peak magnitudes in spectroscopic samples.
SAMPLE_DEPTH = 19.2


def black_body(wavelength: Any, temperature: Any) -> Floats:
    """Magnitudes (AB, no zero point) of a black body at `wavelength` [Å] and `temperature` [K]."""
    x = _HC_K / (np.asarray(wavelength) * temperature)
    return np.asarray(2.5 * np.log10(np.asarray(wavelength) / 6230.0) * 3.0 + 2.5 * np.log10(np.expm1(x)))


@dataclass(frozen=True)
class Supernova:
    """Common parts of supernovae: position, peak, redshift, host and reference image; subclasses give the light curve.

    1.5 % of the reference images hold light of the supernova: later fluxes are then negative.
    """

    branch: str = "Transient"
    lifetime: float = 150.0
    scene: str = "host"
    is_real: bool = True
    is_on_reference: bool = False
    #: Absolute r magnitude of hosts and their scatter; half-light radius 3.6 kpc at −20.5, ∝ L^0.3 (Shen et al. 2003).
    host_mag: float = -20.3
    host_scatter: float = 1.2

    @abstractmethod
    def absolute_peak(self, draws: Draws) -> Floats:
        """Absolute magnitude at peak in r, with the host's extinction, as observed."""

    @abstractmethod
    def light(self, draws: Draws, row: Ints, days: Floats, wavelength: Floats) -> Floats:
        """Magnitudes below the peak in r at rest-frame days from it and rest-frame wavelengths [Å] of each point."""

    @abstractmethod
    def rise(self, draws: Draws) -> Floats:
        """Rest-frame days from the explosion to the peak."""

    def sky(self, draws: Draws) -> Place:
        """Places behind the Galaxy's dust."""
        place: Place = draws.once("sky", lambda: extragalactic_place(draws))
        return place

    def place(self, draws: Draws) -> tuple[Floats, Floats]:
        return self.sky(draws).equatorial()

    def peak_mag(self, draws: Draws) -> Floats:
        """Observed magnitude at peak in r."""
        depth = SAMPLE_DEPTH + draws.normal("depth", 0.0, 0.3)
        return np.maximum(depth + np.log10(draws.uniform("mag")) / 0.6, 12.5)

    def redshift(self, draws: Draws) -> Floats:
        """Redshift."""
        place = self.sky(draws)
        return redshift_of(self.peak_mag(draws) - DUST[1] * place.a_v - self.absolute_peak(draws))

    def peak_time(self, draws: Draws) -> Floats:
        """mjd of the peak, such that the supernova is active between begin and end.

        Explosions are spread evenly over a window longer than a life; in a shorter one they began up to half a life
        earlier.
        """
        span = np.minimum(draws.end - draws.begin, 1e4)
        first = draws.begin - np.clip(0.5 * self.lifetime - span, 0.0, 60.0)
        last = draws.begin + np.maximum(span - 0.5 * self.lifetime, 0.15 * span) - 2.0
        start = first + (last - first) * draws.uniform("explosion")
        return start + self.rise(draws) * (1.0 + self.redshift(draws))

    def difference(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        z, place = self.redshift(draws), self.sky(draws)
        days = (mjd - self.peak_time(draws)[row]) / (1.0 + z)[row]
        wavelength = WAVELENGTH[fid - 1] / (1.0 + z)[row]
        galactic = (DUST - DUST[1])[:, None] * place.a_v
        mags = self.peak_mag(draws)[row] + galactic[fid - 1, row] + self.light(draws, row, days, wavelength)
        flux = np.where(days > -self.rise(draws)[row], flux_of(np.minimum(mags, 40.0)), 0.0)
        inside = np.where(draws.uniform("in reference") < 0.015, draws.uniform("reference share", 0.02, 0.3), 0.0)
        return flux - inside[row] * flux_of(self.peak_mag(draws))[row]

    def _host(self, draws: Draws) -> Floats:
        """Apparent magnitudes (3, n) of the host in a seeing-sized aperture."""
        r_abs = draws.clipped("host", self.host_mag, self.host_scatter, -23.3, -13.5)
        z = self.redshift(draws)
        g_r = np.clip(0.55 - 0.07 * (r_abs + 20.5), 0.15, 0.85) + draws.normal("host colour", 0.0, 0.1) + 1.2 * z
        core = 0.6 * np.maximum(0.0, 2.5 * np.log10(0.3 + self._half_light(draws)))
        return self.sky(draws).redden(colours(r_abs + modulus_of(z) + 0.5 + core, g_r))

    def _half_light(self, draws: Draws) -> Floats:
        r_abs = draws.clipped("host", self.host_mag, self.host_scatter, -23.3, -13.5)
        size = 3.6 * 10.0 ** (-0.4 * 0.3 * (r_abs + 20.5)) * np.exp(draws.normal("host size", 0.0, 0.35))
        return np.asarray(size / kpc_per_arcsec(np.maximum(self.redshift(draws), 1e-3)))

    def _offset(self, draws: Draws) -> Floats:
        """Offset from the host [arcsec]: an exponential disc, median one half-light radius (Kelly+ 2012)."""
        turns = -np.log(draws.uniform("offset 1") * draws.uniform("offset 2"))
        return np.hypot(0.6 * turns * self._half_light(draws), 0.1 * draws.normal("centroid"))

    def _is_seen(self, draws: Draws) -> Any:
        return (self._host(draws)[1] < REFERENCE_DEPTH) & (draws.uniform("nearer star") > 0.08)

    def reference(self, draws: Draws) -> Floats:
        r_mag = draws.uniform("neighbour", 16.0, REFERENCE_DEPTH)
        other = colours(r_mag, draws.uniform("neighbour colour", 0.2, 1.4))
        return np.where(self._is_seen(draws), self._host(draws), other)

    def separation(self, draws: Draws) -> Floats:
        return np.where(self._is_seen(draws), self._offset(draws), neighbour_separation(draws))

    def star_score(self, draws: Draws) -> Floats:
        return np.where(self._is_seen(draws), galaxy_scores(draws, self._host(draws)[1]), field_scores(draws))

    def wise(self, draws: Draws) -> Floats:
        r_mag = self._host(draws)[1]
        spiral = draws.uniform("host type")
        w2 = r_mag - draws.normal("r-W2", 3.4, 0.6) - 0.4 * (1.0 - spiral)
        w1_w2 = draws.normal("W1-W2", 0.12, 0.1)
        w3 = w2 - np.interp(spiral, [0.0, 0.25, 1.0], [0.6, 2.2, 4.2])
        mags = np.stack([w2 + w1_w2, w2, w3, w3 - 2.0])
        is_near = (self._offset(draws) < 1.0) & self._is_seen(draws)
        return np.where(is_near, allwise(draws, mags), np.nan)


#: SNe Ia: wavelengths [Å] from the ultraviolet over U, B, V, R to I; for rest-frame days from B maximum (first column)
#: the AB magnitudes there, from that of r at maximum, for stretch 1 (rounded from the templates of Nugent et al. 2002
#: and Hsiao et al. 2007; second maximum in R and I).
_IA_WAVELENGTH = np.array([3300.0, 3650.0, 4400.0, 5500.0, 6400.0, 7900.0])
_IA_TABLE = np.array(
    [
        [-18.0, 7.5, 7.0, 6.5, 6.5, 6.5, 6.8],
        [-16.0, 4.6, 4.0, 3.5, 3.5, 3.5, 3.8],
        [-14.0, 3.3, 2.6, 2.2, 2.2, 2.2, 2.4],
        [-12.0, 2.3, 1.6, 1.3, 1.35, 1.35, 1.55],
        [-10.0, 1.7, 0.9, 0.7, 0.8, 0.85, 1.1],
        [-7.0, 1.15, 0.35, 0.15, 0.28, 0.33, 0.65],
        [-4.0, 0.95, 0.15, -0.08, 0.03, 0.1, 0.5],
        [0.0, 1.0, 0.2, -0.15, -0.08, 0.02, 0.55],
        [4.0, 1.3, 0.5, 0.0, -0.03, 0.08, 0.75],
        [8.0, 1.75, 0.95, 0.28, 0.12, 0.3, 1.02],
        [12.0, 2.4, 1.6, 0.68, 0.33, 0.58, 1.2],
        [16.0, 3.0, 2.2, 1.12, 0.56, 0.7, 1.18],
        [20.0, 3.5, 2.7, 1.6, 0.8, 0.74, 1.05],
        [25.0, 3.95, 3.1, 2.1, 1.1, 0.82, 0.92],
        [30.0, 4.2, 3.35, 2.45, 1.42, 1.05, 0.98],
        [35.0, 4.35, 3.5, 2.65, 1.72, 1.38, 1.25],
        [40.0, 4.45, 3.6, 2.8, 1.95, 1.65, 1.6],
        [50.0, 4.6, 3.75, 2.95, 2.25, 2.05, 2.15],
        [60.0, 4.75, 3.9, 3.1, 2.5, 2.4, 2.6],
        [80.0, 5.1, 4.25, 3.4, 3.0, 3.05, 3.4],
        [100.0, 5.5, 4.6, 3.75, 3.5, 3.65, 4.0],
        [150.0, 6.5, 5.5, 4.6, 4.7, 5.0, 5.2],
    ]
)
_IA_GRID_DAYS = np.arange(-18.0, 151.0, 1.0)
_IA_GRID = np.stack([np.interp(_IA_GRID_DAYS, _IA_TABLE[:, 0], mags) for mags in _IA_TABLE.T[1:]])


@dataclass(frozen=True)
class TypeIa(Supernova):
    """Type Ia: template in time and wavelength with stretch and colour (SALT2-like; Guy et al. 2007).

    M_B = −19.36 − 0.14 x1 + 3.1 c + 0.1 (Tripp 1998; Scolnic & Kessler 2016: x1 ~ N(0.2, 1), c ~ N(−0.09, 0.04) with a
    red tail of 0.12), stretch 0.98 + 0.091 x1 (Guy et al. 2007, eq. 6). 91T-like 4 %, 91bg-like and Iax 3 % (fainter by
    1.3 mag, faster, redder), which gives BTS's −19.2 (median; 10–90 %: −19.6 … −18.6). Rise 18 d (Miller et al. 2020);
    it does not follow the decline (Hayden et al. 2010: 8 %), and the second maximum varies by itself in r and i.
    """

    name: str = "SNIa"

    def _x1(self, draws: Draws) -> Floats:
        normal = draws.clipped("x1", 0.2, 1.0, -2.5, 2.3)
        return np.choose(self._type(draws), [normal, 1.2, -2.6])

    def _colour(self, draws: Draws) -> Floats:
        tail = -0.12 * np.log(draws.uniform("red"))
        return draws.normal("c", -0.09, 0.05) + tail + np.choose(self._type(draws), [0.0, 0.0, 0.25])

    def _type(self, draws: Draws) -> Ints:
        """0 normal, 1 91T-like, 2 91bg-like."""
        return draws.choice("type", (0.93, 0.04, 0.03))

    def absolute_peak(self, draws: Draws) -> Floats:
        other = np.choose(self._type(draws), [0.0, -0.2, 0.4])
        # M_r is 0.15 fainter than M_B, and reddening takes 0.74 from r of what it takes from B
        return -19.21 - 0.14 * self._x1(draws) + 2.3 * self._colour(draws) + other + draws.normal("M", 0.0, 0.2)

    def rise(self, draws: Draws) -> Floats:
        return 18.0 * self._stretch(draws) * self._haste(draws)

    def _haste(self, draws: Draws) -> Floats:
        """Time of the rise over that of the stretch."""
        return draws.clipped("haste", 1.0, 0.08, 0.8, 1.2)

    def _stretch(self, draws: Draws) -> Floats:
        return 0.98 + 0.091 * self._x1(draws)

    def light(self, draws: Draws, row: Ints, days: Floats, wavelength: Floats) -> Floats:
        phase = days / self._stretch(draws)[row]
        phase = np.where(phase < 0.0, phase / self._haste(draws)[row], phase)
        t = np.clip(phase + 18.0, 0.0, _IA_GRID_DAYS.size - 1.001)
        j = t.astype(np.int64)
        x = t - j
        k = np.clip(np.searchsorted(_IA_WAVELENGTH, wavelength) - 1, 0, _IA_WAVELENGTH.size - 2)
        y = (wavelength - _IA_WAVELENGTH[k]) / (_IA_WAVELENGTH[k + 1] - _IA_WAVELENGTH[k])
        low = _IA_GRID[k, j] * (1.0 - x) + _IA_GRID[k, j + 1] * x
        high = _IA_GRID[k + 1, j] * (1.0 - x) + _IA_GRID[k + 1, j + 1] * x
        # colour law of dust, zero at r
        tint = self._colour(draws)[row] * 4.1 * (5800.0 / wavelength - 5800.0 / 6230.0)
        shoulder = draws.normal("shoulder", 0.03, 0.08)[row] * np.exp(-0.5 * ((phase - 22.0) / 8.0) ** 2)
        red_only = np.clip((wavelength - 4800.0) / 1200.0, 0.0, 1.0)
        return low + y * (high - low) + np.clip(tint, -1.5, 1.5) + shoulder * red_only


@dataclass(frozen=True)
class Cooling(Supernova):
    """A light curve in r and a temperature: other bands follow from black bodies, with metal lines in the blue."""

    @abstractmethod
    def in_r(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        """Magnitudes below the peak, at rest-frame days from the peak, in r."""

    @abstractmethod
    def temperature(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        """Colour temperature [K]."""

    def light(self, draws: Draws, row: Ints, days: Floats, wavelength: Floats) -> Floats:
        heat = self.temperature(draws, row, days)
        colour = black_body(wavelength, heat) - black_body(6230.0, heat)
        # iron lines absorb the blue once it is cool
        colour += np.clip((6500.0 - heat) / 1500.0, 0.0, 1.0) * np.clip((5000.0 - wavelength) / 1000.0, 0.0, 1.0) * 0.6
        dust = draws.once("host dust", lambda: self.host_dust(draws))
        reddening = dust[row] * (DUST[1] * 6230.0 / wavelength - DUST[1])
        return self.in_r(draws, row, days) + colour + reddening

    def host_dust(self, draws: Draws) -> Floats:
        """A_V of the host [mag], exponential."""
        return -0.25 * np.log(draws.uniform("host A_V"))


def _bump(days: Floats, rise: Floats, fall: Floats) -> Floats:
    """Magnitudes of a smooth peak (Bazin et al. 2009): e-folding `rise` and `fall` [d], 0 at maximum."""
    ratio = np.minimum(rise / fall, 0.9)
    shift = rise * np.log(np.maximum(1.0 / ratio - 1.0, 0.05))
    x = days + shift  # so that the maximum is at 0
    log_flux = -x / fall - np.logaddexp(0.0, -x / rise)
    at_peak = -shift / fall - np.logaddexp(0.0, -shift / rise)
    return -1.0857 * (log_flux - at_peak)


@dataclass(frozen=True)
class TypeIbc(Cooling):
    """Types Ib (31 %), Ic (43 %), Ic-BL (17 %) and Ibn (9 %), as in BTS: M −17.4, −17.6, −18.4 and −19.1, ± 0.6 to 0.9.

    Rise 12–25 d, fall by half in 8–20 d, of which each varies by itself (BTS: rise 11 d, 10–90 % 8–20, fade 12 d, 6–20;
    less what SNe Ia, nearly alike, show as its errors), then a tail of 0.018 mag/d. Colour temperature 8000 K before,
    5000 K 20 d after the peak, warmer for Ic-BL, so g − r is 0.3–0.9 at peak and redder after. Host extinction A_V 0.5
    on average (Stritzinger et al. 2018, fig. 16): one in twenty is brighter in g than in r (BTS). Ibn rise and fall
    within days and stay hot (Hosseinzadeh et al. 2017; BTS: rise 4 d, fade 9 d, 94 % brighter in g).
    """

    name: str = "SNIbc"
    host_mag: float = -20.2
    host_scatter: float = 1.3

    def kinds(self, draws: Draws) -> Ints:
        """0 Ib, 1 Ic, 2 Ic-BL, 3 Ibn."""
        return draws.choice("type", (0.31, 0.43, 0.17, 0.09))

    def absolute_peak(self, draws: Draws) -> Floats:
        kind = self.kinds(draws)
        mean, sigma = np.array([-17.4, -17.6, -18.4, -19.1])[kind], np.array([0.9, 0.75, 0.8, 0.6])[kind]
        return np.clip(draws.normal("M", 0.0, 1.0) * sigma + mean, -20.2, -15.3)

    def host_dust(self, draws: Draws) -> Floats:
        return -np.array([0.5, 0.5, 0.35, 0.15])[self.kinds(draws)] * np.log(draws.uniform("host A_V"))

    def rise(self, draws: Draws) -> Floats:
        return np.where(self.kinds(draws) == 3, 7.0, 18.0) * self._width(draws) + 3.0

    def _width(self, draws: Draws) -> Floats:
        """Time of the rise, 1 on average."""
        return np.exp(draws.clipped("width", 0.0, 0.25, -0.6, 0.9))

    def _fall(self, draws: Draws) -> Floats:
        """Time of the decline, 1 on average; half of its scatter goes with that of the rise."""
        return np.exp(draws.clipped("fall", 0.0, 0.27, -0.7, 0.8)) * np.sqrt(self._width(draws))

    def in_r(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        is_fast = (self.kinds(draws) == 3)[row]
        time = np.where(days < 0.0, self._width(draws)[row], self._fall(draws)[row])
        peak = _bump(days / time, np.where(is_fast, 1.7, 4.6), np.where(is_fast, 9.5, 11.5))
        tail = draws.uniform("tail", 1.6, 2.6)[row] + np.where(is_fast, 1.0, 0.0) + 0.018 * np.maximum(days, 0.0)
        return -2.5 * np.log10(
            10.0 ** (-0.4 * peak) + 10.0 ** (-0.4 * tail) / (1.0 + np.exp((12.0 - days) / 4.0)) + 1e-12
        )

    def temperature(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        kind = self.kinds(draws)[row]
        warm = draws.clipped("warm", 1.0, 0.12, 0.75, 1.35)[row] * np.where(kind == 2, 1.08, 1.0)
        t = days / self._fall(draws)[row]
        stripped = np.interp(t, [-15.0, -5.0, 0.0, 10.0, 20.0, 40.0, 80.0], [9500, 7800, 7000, 5600, 5000, 5200, 5600])
        return warm * np.where(kind == 3, np.interp(t, [-8.0, 0.0, 30.0, 80.0], [17e3, 12e3, 8000, 7000]), stripped)


@dataclass(frozen=True)
class TypeII(Cooling):
    """Types IIP/L (72 %), IIn (16 %) and IIb (12 %), shares of BTS.

    IIP/L: M −17.3 ± 0.9 (BTS −17.7 with its bright end), rise 5–30 d in r (Gall et al. 2015; González-Gaitán et al.
    2015; BTS: 11 d to half flux, 10–90 % 4–30), plateau slopes 0–5 mag per 100 d after a steeper first month, faster
    for brighter ones (Anderson et al. 2014, fig. 7; BTS: half flux after 24 d, 12–49), plateaus of 100 ± 18 d, a drop
    of 2 mag, a tail of 0.0098 mag/d (⁵⁶Co); cooling from 18 000 K to 6000 K in 35 d, one in five 20 % cooler or warmer;
    host A_V 0.45 on average, so that one in two or three is brighter in g (BTS 32 %). IIn: M −18.9 ± 1.0, rise 20 d
    (6–39), fade 31 d (13–55) to half flux, 10 000 to 7000 K (Nyholm et al. 2020). IIb: as Ib/c, some with a
    shock-cooling peak.
    """

    name: str = "SNII"
    lifetime: float = 200.0
    host_mag: float = -19.9
    host_scatter: float = 1.4

    def kinds(self, draws: Draws) -> Ints:
        """0 IIP/L, 1 IIn, 2 IIb."""
        return draws.choice("type", (0.72, 0.16, 0.12))

    def absolute_peak(self, draws: Draws) -> Floats:
        kind = self.kinds(draws)
        mean, sigma = np.array([-17.5, -18.9, -17.5])[kind], np.array([0.8, 0.95, 0.75])[kind]
        return np.clip(draws.normal("M", 0.0, 1.0) * sigma + mean, -20.9, -14.8)

    def host_dust(self, draws: Draws) -> Floats:
        return -0.45 * np.log(draws.uniform("host A_V"))

    def rise(self, draws: Draws) -> Floats:
        swift = 11.0 * np.exp(draws.clipped("rise", 0.0, 0.5, -1.1, 1.3))
        slow = 24.0 * np.exp(draws.normal("rise", 0.0, 0.5))
        return np.choose(self.kinds(draws), [swift, np.clip(slow, 7.0, 80.0), 19.0])

    def in_r(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        kind = self.kinds(draws)[row]
        out = np.empty(row.size)
        for code, part in enumerate((self._plateau, self._narrow, self._stripped)):
            at = np.flatnonzero(kind == code)
            out[at] = part(draws, row[at], days[at])
        return out

    def _plateau(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        bright = -0.5 * (self.absolute_peak(draws) + 17.3)
        slope = np.clip(draws.normal("slope", 0.95, 0.9) + bright, -0.2, 5.0)[row] / 100.0
        steep = np.clip(draws.normal("steep", 0.15, 0.22) + 0.3 * bright, 0.0, 1.2)[row]
        length = np.clip(draws.normal("length", 100.0, 15.0) - 8.0 * bright, 55.0, 140.0)[row]
        rise = self.rise(draws)[row]
        since = np.maximum(days + rise, 1e-3)
        early = -2.5 * np.log10(-np.expm1(-((since / rise) ** 1.5) * 4.0))
        drop = draws.uniform("drop", 1.3, 2.4)[row] / (1.0 + np.exp(-(since - length) / 5.0))
        late = np.maximum(since - length, 0.0)
        first_month = -steep * np.expm1(-np.maximum(days, 0.0) / 15.0)
        return early + first_month + slope * np.clip(days, 0.0, length - rise) + drop + 0.0098 * late

    def _narrow(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        fall = (36.0 * np.exp(draws.normal("fall", 0.0, 0.5)))[row]
        return _bump(days, np.minimum(0.28 * self.rise(draws)[row], 0.45 * fall), fall)

    def _stripped(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        time = np.exp(np.where(days < 0.0, draws.normal("width", 0.0, 0.25)[row], draws.normal("fall", 0.0, 0.33)[row]))
        peak = _bump(days / time, np.full(1, 4.6), np.full(1, 11.0))
        tail = 2.0 + 0.018 * np.maximum(days, 0.0)
        shock = np.where(draws.uniform("shock") < 0.4, draws.uniform("shock size", 0.2, 1.2), 0.0)[row]
        since = np.maximum(days + 19.0, 0.0)
        first = shock * np.clip(since, 0.0, 1.0) * np.exp(-((since / 4.0) ** 1.5))
        return -2.5 * np.log10(
            10.0 ** (-0.4 * peak) + 10.0 ** (-0.4 * tail) / (1.0 + np.exp((12.0 - days) / 4.0)) + first + 1e-12
        )

    def temperature(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        since = days + self.rise(draws)[row]
        warm = draws.clipped("warm", 1.0, 0.13, 0.75, 1.35)[row]
        plateau = np.interp(
            since, [0, 3, 8, 15, 25, 40, 60, 110, 200], [22e3, 18e3, 13e3, 10200, 8000, 6500, 5700, 5000, 4800]
        )
        narrow = np.interp(days, [-30, 0, 40, 120], [14e3, 10500, 8000, 6800])
        stripped = np.interp(days, [-19, -15, -8, 0, 10, 20, 80], [15e3, 9500, 8500, 7600, 6000, 5200, 5400])
        return warm * np.choose(self.kinds(draws)[row], [plateau, narrow, stripped])


@dataclass(frozen=True)
class Superluminous(Cooling):
    """Superluminous supernovae, type I (66 %) and II: M −21.1 ± 0.65 and −20.8 ± 0.7 (BTS), z 0.09–0.3.

    Rise 15–90 d (half flux to peak 14–60 d in BTS), fall 1.3 times the rise with scatter (Nicholl et al. 2015, fig. 5:
    rise and fall correlate; BTS: to half flux in 17–62 d), type II slower by a quarter; 15 000 K before, 10 000 K at,
    6500 K 60 d after the peak. Hosts are dwarfs: M −17.5 ± 1.6 (Lunnan et al. 2014), so a third is unseen.
    """

    name: str = "SLSN"
    lifetime: float = 300.0
    host_mag: float = -17.6
    host_scatter: float = 1.6

    def absolute_peak(self, draws: Draws) -> Floats:
        return np.clip(draws.normal("M", 0.0, 0.65) - np.where(self._is_one(draws), 21.1, 20.8), -22.9, -19.7)

    def _is_one(self, draws: Draws) -> Any:
        """Type I rather than II."""
        return draws.uniform("type") < 0.66

    def host_dust(self, draws: Draws) -> Floats:
        return -0.15 * np.log(draws.uniform("host A_V"))

    def _time(self, draws: Draws) -> Floats:
        return np.exp(draws.clipped("time", 3.15, 0.45, 2.2, 4.3)) * np.where(self._is_one(draws), 1.0, 1.25)

    def rise(self, draws: Draws) -> Floats:
        return 2.2 * self._time(draws)

    def in_r(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        time = self._time(draws)
        fall = 1.5 * time * np.exp(draws.normal("fall", 0.0, 0.33))
        wave = draws.uniform("bumps", 0.0, 0.25)[row] * np.sin(days / 12.0 + 6.28 * draws.uniform("bump phase")[row])
        return _bump(days, 0.45 * time[row], fall[row]) + wave * np.clip(days / 30.0, 0.0, 1.0)

    def temperature(self, draws: Draws, row: Ints, days: Floats) -> Floats:
        t = days / (self._time(draws)[row] / 27.0)
        return draws.normal("warm", 1.0, 0.12)[row] * np.interp(
            t, [-50, 0, 30, 60, 150], [17e3, 11e3, 8000, 6500, 5800]
        )
