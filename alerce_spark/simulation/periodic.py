"""Periodic variables: long-period variables, Cepheids, RR Lyrae, delta Scuti, eclipsing binaries and spotted stars.

Light curves are Fourier series in magnitude, m = Σ a_k cos(2πkφ + φ_k), with the amplitude ratios R_k1 and phases φ_k1
of the OGLE convention (cosines), or eclipses. Amplitudes fall from g to r to i by ratios of each class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from alerce_spark.simulation.galaxy import BRIGHT, Place, allwise, faintest, galactic_place, star_wise
from alerce_spark.simulation.kinds import Draws, Variable, colours, damped_walk, star_scores
from alerce_spark.simulation.randoms import Floats, Ints

#: Amplitudes in g, r, i of pulsating stars of A–K types, of 1 in g (RR Lyrae: Sesar et al. 2010; Cepheids alike).
PULSATION = np.array([1.0, 0.71, 0.56])


@njit(cache=True)
def fourier(phase: Any, row: Any, amplitude: Any, angle: Any) -> Any:
    """Σ_k amplitude[k, row] cos(2π(k + 1) phase + angle[k, row]) at each point; amplitude, angle are (K, objects)."""
    out = np.empty(phase.size)
    for i in range(phase.size):
        x = 2.0 * np.pi * (phase[i] - np.floor(phase[i]))
        c, s = np.cos(x), np.sin(x)
        ck, sk, total = c, s, 0.0
        for k in range(amplitude.shape[0]):
            a = amplitude[k, row[i]]
            total += a * (ck * np.cos(angle[k, row[i]]) - sk * np.sin(angle[k, row[i]]))
            ck, sk = ck * c - sk * s, sk * c + ck * s
        out[i] = total
    return out


def unit_series(ratios: Sequence[Any], phases: Sequence[Any], n: int) -> tuple[Floats, Floats]:
    """Amplitudes and angles (K, n) of a series with R_k1 = ratios and φ_k1 = phases (k = 2 …), peak to peak 1."""
    amplitude = np.stack([np.ones(n), *(np.broadcast_to(r, n) for r in ratios)])
    angle = np.stack([np.zeros(n), *(np.broadcast_to(p, n) for p in phases)])
    row, phase = np.repeat(np.arange(n), 64), np.tile(np.arange(64) / 64.0, n)
    curve = fourier(phase, row, amplitude, angle).reshape(n, -1)
    return amplitude / (curve.max(axis=1) - curve.min(axis=1)), angle


@dataclass(frozen=True)
class Star(Variable):
    """A variable star of the Galaxy; subclasses give its absolute magnitude, colour and amplitude.

    `stars` draws the population once: absolute r magnitude, (g − r)₀, peak-to-peak amplitude in r, and the place.
    """

    branch: str = "Periodic"

    @abstractmethod
    def absolute(self, draws: Draws) -> tuple[Floats, Floats]:
        """Absolute mean magnitude in r, and g − r, without extinction."""

    @abstractmethod
    def amplitude(self, draws: Draws) -> Floats:
        """Peak-to-peak amplitude in r [mag]."""

    def height(self, draws: Draws) -> tuple[Any, Any]:
        """Scale height of the disc in kpc, and which objects are of the halo."""
        return 0.3, False

    def sky(self, draws: Draws) -> Place:
        """Places in the Galaxy."""

        def make() -> Place:
            size = self.amplitude(draws)
            bright = BRIGHT + 0.4 * size
            faint = np.maximum(faintest(0.5 * size), bright + 0.5)
            return galactic_place(draws, self.absolute(draws)[0], faint, *self.height(draws), bright)

        place: Place = draws.once("sky", make)
        return place

    def place(self, draws: Draws) -> tuple[Floats, Floats]:
        return self.sky(draws).equatorial()

    def mean_mag(self, draws: Draws) -> Floats:
        def make() -> Floats:
            r_abs, g_r = self.absolute(draws)
            place = self.sky(draws)
            return place.redden(colours(r_abs + place.modulus, g_r))

        mags: Floats = draws.once("mean mag", make)
        return mags

    def wise(self, draws: Draws) -> Floats:
        r_abs, g_r = self.absolute(draws)
        place = self.sky(draws)
        return allwise(draws, star_wise(draws, place, r_abs + place.modulus, g_r))


def _mixed(kind: Ints, values: Sequence[Any]) -> Floats:
    """The value of each object's subtype."""
    return np.choose(kind, [np.broadcast_to(np.asarray(v, float), kind.shape) for v in values])


@dataclass(frozen=True)
class RRLyrae(Star):
    """RRab (74 %), RRc (24 %) and RRd (2 %) (shares of CRTS and OGLE: Drake et al. 2014; Soszyński et al. 2014).

    Periods: RRab 0.54 d (Oosterhoff I) and 0.65 d (II, one quarter), RRc 0.33 d, RRd 0.40 d with P1/P0 = 0.745.
    RRab amplitudes: A_B = −3.123 − 26.331 log P − 35.853 log² P of M3 (Cacciari et al. 2005, eq. 6), A_g = 0.9 A_B;
    type II is 0.06 longer in log P. A third of RRab show the Blazhko effect (Prudil & Skarka 2017). M_r = 0.55; three
    quarters in the halo, the rest in the thick disc.
    """

    name: str = "RRL"

    def kinds(self, draws: Draws) -> Ints:
        """0 RRab, 1 RRc, 2 RRd."""
        return draws.choice("type", (0.74, 0.24, 0.02))

    def period(self, draws: Draws) -> Floats:
        """Period in days."""
        second = draws.uniform("Oosterhoff") < 0.25
        ab = draws.clipped("Pab", np.where(second, 0.65, 0.54), np.where(second, 0.06, 0.05), 0.38, 0.95)
        return _mixed(
            self.kinds(draws), (ab, draws.clipped("Pc", 0.33, 0.035, 0.22, 0.45), draws.normal("Pd", 0.4, 0.015))
        )

    def amplitude(self, draws: Draws) -> Floats:
        log_p = np.log10(self.period(draws)) - 0.06 * (draws.uniform("Oosterhoff") < 0.25)
        ab = 0.9 * (-3.123 - 26.331 * log_p - 35.853 * log_p**2) + draws.normal("A", 0.0, 0.12)
        g = _mixed(self.kinds(draws), (np.clip(ab, 0.2, 1.5), draws.clipped("Ac", 0.5, 0.08, 0.2, 0.7), 0.45))
        return PULSATION[1] * g

    def absolute(self, draws: Draws) -> tuple[Floats, Floats]:
        g_r = _mixed(self.kinds(draws), (0.24, 0.12, 0.15)) + draws.normal("colour", 0.0, 0.04)
        return draws.normal("M", 0.55, 0.15), g_r

    def height(self, draws: Draws) -> tuple[Any, Any]:
        return 0.8, draws.uniform("halo") < 0.75

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        amplitude, angle = draws.once("series", lambda: self._series(draws))
        cycle = draws.uniform("Blazhko period", np.log10(15.0), np.log10(150.0))
        swing = 2 * np.pi * (mjd / (10.0**cycle)[row] + draws.uniform("Blazhko phase")[row])
        is_blazhko = (draws.uniform("Blazhko") < 0.35) & (self.kinds(draws) == 0)
        depth = np.where(is_blazhko, draws.uniform("Blazhko depth", 0.05, 0.35), 0.0)[row]
        phase = mjd / self.period(draws)[row] + draws.uniform("phase")[row] + 0.06 * depth * np.cos(swing)
        height = self.amplitude(draws)[row] / PULSATION[1] * (1.0 + depth * np.sin(swing))
        wave = fourier(phase, row, amplitude, angle)
        is_double = (self.kinds(draws) == 2)[row]
        wave += 0.2 * is_double * np.cos(2 * np.pi * 0.745 * phase)
        return PULSATION[fid - 1] * height * wave

    def _series(self, draws: Draws) -> tuple[Floats, Floats]:
        """Typical values and scatter of OGLE's RRab and RRc (Soszyński et al. 2014, fig. 4)."""
        kind = self.kinds(draws)
        ratios, phases = [], []
        table = ((0.47, 0.16, 4.1, 4.7), (0.34, 0.07, 2.0, 3.0), (0.22, 0.04, 6.1, 1.6), (0.14, 0.02, 4.0, 0.0))
        scatter = draws.normal("shape")
        longer = self.period(draws) - 0.55
        for k, (ab, c, phase_ab, phase_c) in enumerate(table, 2):
            ratios.append(np.clip(_mixed(kind, (ab, c, c)) * (1.0 + draws.normal(f"R{k}", 0.0, 0.12)), 0.0, 0.6))
            tilt = (k - 1) * (1.5 * longer + 0.12 * scatter)
            phases.append(_mixed(kind, (phase_ab + tilt, phase_c + 0.2 * scatter, phase_c)))
        return unit_series(ratios, phases, len(draws))


@dataclass(frozen=True)
class Cepheid(Star):
    """Classical fundamental (45 %) and overtone (15 %), type II (35 %) and anomalous (5 %) Cepheids.

    Periods: log-normal around 6 and 3 d; type II BL Herculis 1–4 d, W Virginis 4–20 d, RV Tauri 20–60 d; anomalous
    0.5–2 d. Shapes follow the Hertzsprung progression: R21 falls from 0.45 to 0.15 and φ21, φ31 rise towards P = 10 d
    (Soszyński et al. 2008, fig. 2). M_r: −2.6 log P − 1.4 (classical; Fouqué et al. 2007 between V and I), 0.6 brighter
    for overtones; −1.9 log P − 0.1 (type II; Lemasle et al. 2015). Classical ones in the thin disc, type II in thick
    disc and halo (ratio of catalogues used for labels, CRTS and ASAS-SN, where type II are frequent).
    """

    name: str = "CEP"

    def kinds(self, draws: Draws) -> Ints:
        """0 classical, 1 overtone, 2 type II, 3 anomalous."""
        return draws.choice("type", (0.45, 0.15, 0.35, 0.05))

    def period(self, draws: Draws) -> Floats:
        """Period in days."""
        old = np.choose(
            draws.choice("old type", (0.42, 0.43, 0.15)),
            [draws.uniform("BL", 0.0, 0.6), draws.normal("W", 1.16, 0.1), draws.uniform("RV", 1.3, 1.75)],
        )
        log_p = _mixed(
            self.kinds(draws),
            (
                draws.clipped("log P", 0.78, 0.25, 0.25, 1.7),
                draws.clipped("log P1", 0.45, 0.15, 0.0, 0.8),
                old,
                draws.uniform("log PA", -0.3, 0.3),
            ),
        )
        return np.asarray(10.0**log_p)

    def amplitude(self, draws: Draws) -> Floats:
        g = _mixed(
            self.kinds(draws),
            (
                draws.clipped("A", 0.9, 0.25, 0.25, 1.5),
                draws.clipped("A1", 0.45, 0.1, 0.15, 0.7),
                draws.clipped("A2", 0.85, 0.25, 0.25, 1.5),
                draws.clipped("AA", 0.7, 0.15, 0.3, 1.1),
            ),
        )
        return PULSATION[1] * g

    def absolute(self, draws: Draws) -> tuple[Floats, Floats]:
        log_p, kind = np.log10(self.period(draws)), self.kinds(draws)
        young = -2.6 * log_p - 1.4
        r_abs = _mixed(kind, (young, young - 0.6, -1.9 * log_p - 0.1, -1.9 * log_p - 0.9)) + draws.normal(
            "M", 0.0, 0.15
        )
        g_r = _mixed(kind, (0.35 + 0.25 * log_p, 0.32 + 0.2 * log_p, 0.28 + 0.2 * log_p, 0.28))
        return r_abs, g_r + draws.normal("colour", 0.0, 0.06)

    def height(self, draws: Draws) -> tuple[Any, Any]:
        kind = self.kinds(draws)
        return _mixed(kind, (0.08, 0.08, 0.8, 0.8)), (kind >= 2) & (draws.uniform("halo") < 0.35)

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        amplitude, angle = draws.once("series", lambda: self._series(draws))
        # long type II Cepheids and RV Tauri stars are irregular, and every other minimum of RV Tauri is deeper
        is_old = (self.kinds(draws) == 2) & (self.period(draws) > 20.0)
        period = self.period(draws)
        phase = mjd / period[row] + draws.uniform("phase")[row]
        wave = fourier(phase, row, amplitude, angle) + 0.18 * is_old[row] * np.cos(np.pi * phase)
        if is_old.any():
            drift = damped_walk(draws, "cycle", row, mjd, 5.0 * period, 0.05)
            wave *= np.where(is_old[row], 1.0 + 0.2 * drift, 1.0)
        return PULSATION[fid - 1] * self.amplitude(draws)[row] / PULSATION[1] * wave

    def _series(self, draws: Draws) -> tuple[Floats, Floats]:
        kind, log_p = self.kinds(draws), np.log10(self.period(draws))
        nodes = [0.2, 0.5, 0.8, 1.0, 1.2, 1.5]
        classical = np.interp(log_p, nodes, [0.5, 0.45, 0.33, 0.17, 0.28, 0.42])
        r21 = _mixed(kind, (classical, 0.18, np.interp(log_p, [0.0, 0.6, 1.2], [0.35, 0.2, 0.15]), 0.42))
        r31 = _mixed(kind, (0.6 * classical, 0.06, 0.08, 0.22))
        p21 = _mixed(
            kind, (np.interp(log_p, nodes, [3.9, 4.2, 4.7, 5.7, 5.1, 5.0]), 4.5 + log_p, 4.2 + 1.2 * log_p, 4.2)
        )
        p31 = _mixed(
            kind, (np.interp(log_p, nodes, [1.8, 2.3, 3.4, 5.9, 7.4, 7.9]), 3.0 + 3.0 * log_p, 2.5 + log_p, 2.0)
        )
        wobble = [1.0 + draws.normal(f"R{k}", 0.0, 0.12) for k in (2, 3, 4)]
        ratios = [r21 * wobble[0], r31 * wobble[1], 0.5 * r31 * wobble[2]]
        turns = [draws.normal(f"phi{k}", 0.0, 0.12) for k in (2, 3)]
        return unit_series(ratios, [p21 + turns[0], p31 + turns[1], p21 + p31 + turns[1]], len(draws))


@dataclass(frozen=True)
class DeltaScuti(Star):
    """δ Scuti and SX Phoenicis stars: periods 0.03–0.3 d, log-normal around 0.08 d, one to three modes.

    M_V = −2.94 log P − 1.34 (Ziaali et al. 2019). Amplitudes in g: 0.1–0.7 mag, small ones common; those above 0.3 mag
    (HADS) are asymmetric and 30 % have the first overtone at P1/P0 = 0.77 (Petersen & Christensen-Dalsgaard 1996).
    """

    name: str = "DSCT"

    def period(self, draws: Draws) -> Floats:
        """Period in days."""
        return np.asarray(10.0 ** draws.clipped("log P", -1.1, 0.17, -1.5, -0.52))

    def amplitude(self, draws: Draws) -> Floats:
        return PULSATION[1] * np.clip(0.12 - 0.17 * np.log(draws.uniform("A")), 0.1, 0.8)

    def absolute(self, draws: Draws) -> tuple[Floats, Floats]:
        r_abs = -2.94 * np.log10(self.period(draws)) - 1.39 + draws.normal("M", 0.0, 0.3)
        return r_abs, draws.normal("colour", 0.12, 0.08)

    def height(self, draws: Draws) -> tuple[Any, Any]:
        return np.where(draws.uniform("old") < 0.3, 0.8, 0.2), draws.uniform("halo") < 0.1

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        amplitude, angle = draws.once("series", lambda: self._series(draws))
        amp = self.amplitude(draws) / PULSATION[1]
        phase = mjd / self.period(draws)[row] + draws.uniform("phase")[row]
        first = fourier(phase, row, amplitude, angle)
        is_radial = (amp > 0.3) & (draws.uniform("double") < 0.3)
        is_multiple = (amp <= 0.3) & (draws.uniform("double") < 0.6)
        ratio = np.where(is_radial, 0.772, draws.uniform("second period", 0.6, 1.2))
        second = np.where(is_radial | is_multiple, draws.uniform("second amplitude", 0.1, 0.4), 0.0)
        wave = first + second[row] * np.cos(2 * np.pi * (phase / ratio[row] + draws.uniform("second phase")[row]))
        return PULSATION[fid - 1] * amp[row] * wave

    def _series(self, draws: Draws) -> tuple[Floats, Floats]:
        steep = np.clip(self.amplitude(draws) / PULSATION[1] / 0.5, 0.1, 1.0)
        ratios = [0.4 * steep * draws.uniform("R2", 0.7, 1.2), 0.18 * steep * draws.uniform("R3", 0.5, 1.3)]
        return unit_series(ratios, [4.0 + draws.normal("phi2", 0, 0.2), 1.8 + draws.normal("phi3", 0, 0.4)], len(draws))


def _dip(phase: Floats, width: Floats, flat: Floats) -> Floats:
    """Eclipse of half-width `width` [phase] and unit depth at phase 0; `flat`: share of it that is total."""
    away = np.abs(phase - np.round(phase)) / width
    inside = np.clip((1.0 - away) / (1.0 - flat), 0.0, 1.0)
    # the covered area of two discs grows as the power 3/2 of the overlap, then linearly
    smooth = inside * np.sqrt(inside)
    return smooth * (2.5 - 1.5 * inside)


@dataclass(frozen=True)
class Eclipsing(Star):
    """Eclipsing binaries: contact (EW 62 %), semi-detached (EB 13 %) and detached (EA 25 %).

    Shares of ASAS-SN and CRTS (Jayasinghe et al. 2020; Drake et al. 2014). Periods: EW 0.35 d (log-normal 0.09, cut at
    0.2 d), EB 0.6 d (0.25), EA 2 d (0.42) (Paczyński et al. 2006, fig. 6). EW: redder where shorter, g − r = 0.45 at
    0.32 d (Eggen 1967; Chen et al. 2018: M_V = −9.15 log P − 0.23). Depths nearly grey.
    """

    name: str = "E"

    def kinds(self, draws: Draws) -> Ints:
        """0 EW, 1 EB, 2 EA."""
        return draws.choice("type", (0.62, 0.13, 0.25))

    def period(self, draws: Draws) -> Floats:
        """Orbital period in days."""
        log_p = _mixed(
            self.kinds(draws),
            (
                np.maximum(draws.normal("log P", -0.46, 0.09), -0.67),
                np.maximum(draws.normal("log P", -0.22, 0.25), -0.5),
                np.maximum(draws.normal("log P", 0.3, 0.42), -0.4),
            ),
        )
        return np.asarray(10.0**log_p)

    def depth(self, draws: Draws) -> Floats:
        """Depth of the primary eclipse in r [mag], from the maximum."""
        return _mixed(
            self.kinds(draws),
            (
                draws.clipped("depth", 0.36, 0.16, 0.1, 0.95),
                draws.clipped("depth", 0.55, 0.22, 0.15, 1.3),
                np.clip(0.2 - 0.45 * np.log(draws.uniform("EA depth")), 0.2, 2.5),
            ),
        )

    def amplitude(self, draws: Draws) -> Floats:
        # most of an eclipse lies on one side of the mean
        return 1.4 * self.depth(draws)

    def absolute(self, draws: Draws) -> tuple[Floats, Floats]:
        log_p, kind = np.log10(self.period(draws)), self.kinds(draws)
        scatter = draws.normal("M", 0.0, 0.3)
        contact = -9.15 * log_p - 0.35
        wide = draws.clipped("M wide", 2.9, 1.3, -0.5, 6.5)
        r_abs = _mixed(kind, (contact, wide, wide)) + scatter
        contact_colour = 0.45 - 1.9 * (log_p + 0.495)
        main_sequence = np.interp(r_abs, [-0.5, 1.0, 2.5, 4.5, 6.5], [-0.1, 0.05, 0.2, 0.42, 0.85])
        g_r = _mixed(kind, (contact_colour, main_sequence, main_sequence)) + draws.normal("colour", 0.0, 0.08)
        return r_abs, np.clip(g_r, -0.25, 1.4)

    def height(self, draws: Draws) -> tuple[Any, Any]:
        return np.where(draws.uniform("old") < 0.15, 0.8, np.where(self.kinds(draws) == 2, 0.2, 0.3)), False

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        shape = draws.once("shape", lambda: self._shape(draws))
        first, second, width, flat, wave, middle, spot = shape[:, row]
        phase = mjd / self.period(draws)[row] + draws.uniform("phase")[row]
        dips = first * _dip(phase, width, flat) + second * _dip(phase - middle, width, flat)
        turn = 2 * np.pi * phase
        tint = np.array([1.04, 1.0, 0.95])[fid - 1]
        return tint * (dips + wave * np.cos(2.0 * turn) + spot * np.sin(turn) - 0.9 * (first + second) * width)

    def _shape(self, draws: Draws) -> Floats:
        """Depths, half-width, total share, ellipsoidal wave, phase of the second eclipse and spot wave."""
        kind, depth = self.kinds(draws), self.depth(draws)
        wave = _mixed(kind, (0.24, 0.2, 0.02)) * np.minimum(depth, 0.8)
        ratio = _mixed(
            kind,
            (
                draws.uniform("second", 0.8, 1.0),
                draws.uniform("second", 0.25, 0.85),
                draws.uniform("second", 0.03, 1.0),
            ),
        )
        first = np.maximum(depth - 2.0 * wave, 0.02)
        second = np.maximum(ratio * depth - 2.0 * wave, 0.01)
        radii = draws.uniform("radii", 0.12, 0.5) * (2.0 / np.maximum(self.period(draws), 0.5)) ** 0.5
        width = _mixed(kind, (draws.uniform("width", 0.16, 0.22), draws.uniform("width", 0.12, 0.18), 0.32 * radii))
        flat = np.where(draws.uniform("total") < 0.25, draws.uniform("flat", 0.1, 0.5), 0.0)
        eccentric = (kind == 2) & (draws.uniform("eccentric") < 0.25)
        middle = 0.5 + np.where(eccentric, draws.uniform("middle", -0.15, 0.15), 0.0)
        spot = np.where(kind < 2, draws.normal("spot", 0.0, 0.02), 0.0)
        return np.stack([first, second, np.clip(width, 0.012, 0.22), flat, wave, middle, spot])


@dataclass(frozen=True)
class LongPeriod(Star):
    """Pulsating red giants: Miras (25 %), semi-regular (55 %) and small-amplitude ones (OSARG, 20 %).

    Periods: Miras 280 d (σ 90; Mattei 1997), semi-regular 40–400 d, OSARG 15–100 d (Wray, Eyer & Paczyński 2004).
    Peak-to-peak in r: Miras 1.8–6, semi-regular 0.2–1.5, OSARG 0.1–0.3; the latter two have second modes, irregular
    amplitudes and in a third a long secondary period 8 times longer (Wood et al. 1999). W2 from the period–luminosity
    relation M_K = −3.51 (log P − 2.38) − 7.15 (Whitelock et al. 2008); r − W2 and dust (W1 − W2, W2 − W3) grow with
    amplitude. Amplitudes g : r : i as 1.03 : 1 : 0.62 (titanium oxide veils both g and r). Thick inner disc.
    """

    name: str = "LPV"

    def kinds(self, draws: Draws) -> Ints:
        """0 Mira, 1 semi-regular, 2 OSARG."""
        return draws.choice("type", (0.25, 0.55, 0.20))

    def period(self, draws: Draws) -> Floats:
        """Period in days."""
        return _mixed(
            self.kinds(draws),
            (
                draws.clipped("P", 280.0, 90.0, 110.0, 650.0),
                10.0 ** draws.clipped("log P", 2.05, 0.25, 1.5, 2.65),
                10.0 ** draws.uniform("log P small", 1.2, 2.0),
            ),
        )

    def amplitude(self, draws: Draws) -> Floats:
        return _mixed(
            self.kinds(draws),
            (
                draws.clipped("A", 3.4, 0.9, 1.6, 6.0),
                10.0 ** draws.clipped("log A", -0.3, 0.22, -0.8, 0.25),
                10.0 ** draws.uniform("log A small", -1.0, -0.5),
            ),
        )

    def dust(self, draws: Draws) -> Floats:
        """W1 − W2 of the shell [mag], above that of a bare giant; zero for most small amplitudes."""
        size = _mixed(self.kinds(draws), (0.33, 0.09, 0.015))
        return -size * np.log(draws.uniform("dust"))

    def red(self, draws: Draws) -> Floats:
        """Intrinsic r − W2."""
        return _mixed(self.kinds(draws), (7.8, 5.6, 4.6)) + draws.normal("red", 0.0, 0.7) + 1.5 * self.dust(draws)

    def absolute(self, draws: Draws) -> tuple[Floats, Floats]:
        log_p = np.log10(self.period(draws))
        w2 = -3.51 * (log_p - 2.38) - 7.25 + _mixed(self.kinds(draws), (0.0, -0.3, 0.6)) + draws.normal("M", 0.0, 0.4)
        g_r = 1.25 + 0.12 * (self.red(draws) - 4.0) + draws.normal("colour", 0.0, 0.15)
        return w2 + self.red(draws), g_r

    def height(self, draws: Draws) -> tuple[Any, Any]:
        return np.where(draws.uniform("old") < 0.3, 0.7, 0.25), False

    def mean_mag(self, draws: Draws) -> Floats:
        def make() -> Floats:
            r_abs, g_r = self.absolute(draws)
            place = self.sky(draws)
            return place.redden(colours(r_abs + place.modulus, g_r, 0.3 * (self.red(draws) - 3.0) + 0.4))

        mags: Floats = draws.once("mean mag", make)
        return mags

    def wise(self, draws: Draws) -> Floats:
        place, dust = self.sky(draws), self.dust(draws)
        w2 = self.absolute(draws)[0] - self.red(draws) + place.modulus
        w1_w2 = -0.08 + dust + draws.normal("W1-W2", 0.0, 0.04)
        w2_w3 = 0.15 + 1.9 * dust / (0.6 + dust) + np.abs(draws.normal("W2-W3", 0.0, 0.12))
        w3 = w2 - w2_w3
        return allwise(draws, place.redden_wise(np.stack([w2 + w1_w2, w2, w3, w3 - 0.7 * w2_w3])), matched=0.9)

    def star_score(self, draws: Draws) -> Floats:
        # saturated or crowded sources of PS1 have the undecided score
        return np.where(draws.uniform("undecided") < 0.2, 0.5, star_scores(draws))

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        kind, period = self.kinds(draws), self.period(draws)
        amplitude, angle = draws.once("series", lambda: self._series(draws))
        irregular = damped_walk(draws, "irregular", row, mjd, 2.5 * period, 0.05)
        phase = mjd / period[row] + draws.uniform("phase")[row] + _mixed(kind, (0.03, 0.12, 0.15))[row] * irregular
        wave = (1.0 + _mixed(kind, (0.08, 0.25, 0.3))[row] * irregular) * fourier(phase, row, amplitude, angle)
        second = np.where(kind > 0, draws.uniform("second", 0.1, 0.5), 0.0)
        ratio = draws.uniform("second period", 0.45, 0.95)
        wave += (
            second[row] * 0.5 * np.cos(2 * np.pi * (mjd / (ratio * period)[row] + draws.uniform("second phase")[row]))
        )
        is_long = (kind > 0) & (draws.uniform("LSP") < 0.33)
        slow = np.where(is_long, draws.uniform("LSP amplitude", 0.3, 0.8), 0.0)
        wave += slow[row] * 0.5 * np.cos(2 * np.pi * (mjd / (8.0 * period)[row] + draws.uniform("LSP phase")[row]))
        return np.array([1.03, 1.0, 0.62])[fid - 1] * self.amplitude(draws)[row] * wave

    def _series(self, draws: Draws) -> tuple[Floats, Floats]:
        # Miras rise faster than they fall, more so at long periods; some have a hump
        ratios = [np.abs(draws.normal("R2", 0.12, 0.07)), np.abs(draws.normal("R3", 0.0, 0.05))]
        return unit_series(ratios, [4.2 + draws.normal("phi2", 0.0, 0.7), draws.uniform("phi3", 0.0, 6.28)], len(draws))


@dataclass(frozen=True)
class OtherPeriodic(Star):
    """Spotted RS CVn and BY Dra stars (78 %), ellipsoidal binaries (14 %) and α² CVn stars (8 %).

    RS CVn are what CRTS labels most often (Drake et al. 2014). Rotation periods log-normal: RS CVn 4 d (0.5), BY Dra
    1.5 d (0.55); ellipsoidal 0.3–30 d; α² CVn 0.7–10 d. Peak-to-peak in r 0.05–0.5 mag, exponential with 0.11. Two
    spots that change their size over some hundred days (Strassmeier 2009, sections 4 and 5) and a slow cycle of years
    (Baliunas et al. 1995). Amplitudes g : r : i as 1.08 : 1 : 0.88, as of spots 1000 K cooler than a K star.
    """

    name: str = "Periodic-Other"

    def kinds(self, draws: Draws) -> Ints:
        """0 RS CVn, 1 BY Dra, 2 ellipsoidal, 3 α² CVn."""
        return draws.choice("type", (0.55, 0.23, 0.14, 0.08))

    def period(self, draws: Draws) -> Floats:
        """Period in days: of rotation, or of the orbit."""
        log_p = _mixed(
            self.kinds(draws),
            (
                draws.clipped("log P", 0.6, 0.55, -0.55, 2.0),
                draws.clipped("log P", 0.18, 0.55, -0.7, 1.6),
                draws.uniform("log P orbit", -0.5, 1.5),
                draws.uniform("log P orbit", -0.15, 1.0),
            ),
        )
        return np.asarray(10.0**log_p)

    def amplitude(self, draws: Draws) -> Floats:
        return np.clip(0.05 - 0.11 * np.log(draws.uniform("A")), 0.05, 0.8) * _mixed(
            self.kinds(draws), (1.0, 0.8, 1.0, 0.6)
        )

    def absolute(self, draws: Draws) -> tuple[Floats, Floats]:
        kind = self.kinds(draws)
        r_abs = _mixed(
            kind,
            (
                draws.clipped("M", 3.6, 1.3, 0.3, 6.0),
                draws.clipped("M", 7.2, 1.0, 4.5, 9.0),
                draws.clipped("M", 3.0, 1.5, -0.5, 6.0),
                draws.clipped("M", 0.8, 0.5, -0.5, 2.0),
            ),
        )
        dwarf = np.interp(r_abs, [4.5, 6.0, 7.5, 9.0], [0.45, 0.75, 1.2, 1.42])
        g_r = _mixed(kind, (0.82, dwarf, 0.6, -0.1)) + draws.normal("colour", 0.0, 0.13)
        return r_abs, g_r

    def height(self, draws: Draws) -> tuple[Any, Any]:
        return _mixed(self.kinds(draws), (0.3, 0.25, 0.3, 0.1)), False

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        kind, period = self.kinds(draws), self.period(draws)
        is_spotted = kind < 2
        turn = 2 * np.pi * (mjd / period[row] + draws.uniform("phase")[row])
        life = np.maximum(draws.uniform("spot life", 60.0, 500.0), 3.0 * period)
        change = np.where(is_spotted, 0.35, 0.0)[row] * damped_walk(draws, "spots", row, mjd, life, 0.05)
        share = np.where(kind == 2, 1.0, np.where(is_spotted, draws.uniform("second spot", 0.0, 0.7), 0.15))
        late = np.where(kind == 2, 0.0, draws.uniform("second place", 0.0, 2 * np.pi))
        first = np.where(kind == 2, draws.uniform("unequal", 0.0, 0.25), 1.0)[row] * (1.0 + change) * np.cos(turn)
        second = share[row] * (1.0 - change) * np.cos(2.0 * turn + late[row])
        years = draws.uniform("cycle", 900.0, 4000.0)
        slow = np.where(is_spotted, draws.uniform("cycle amplitude", 0.0, 0.6), 0.0)
        trend = slow[row] * np.cos(2 * np.pi * (mjd / years[row] + draws.uniform("cycle phase")[row]))
        scale = 0.5 * self.amplitude(draws) / np.maximum(1.0, share)
        return np.array([1.08, 1.0, 0.88])[fid - 1] * scale[row] * (first + second + trend)
