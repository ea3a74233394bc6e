"""Stochastic variables: quasars, Seyfert nuclei, blazars, young stars, cataclysmic variables and novae.

Nuclei vary as damped random walks in magnitude with the amplitudes and times of MacLeod et al. (2010); all bands share
one walk, weaker to the red.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from alerce_spark.simulation.galaxy import (
    BRIGHT,
    DUST,
    SOUTH,
    Place,
    allwise,
    equatorial,
    extinction,
    extragalactic_place,
    faintest,
    galactic_place,
    modulus_of,
    patchiness,
)
from alerce_spark.simulation.kinds import (
    LONGEST_HISTORY,
    Attempt,
    Draws,
    Variable,
    colours,
    damped_walk,
    first_accepted,
    flux_of,
    galaxy_scores,
    star_scores,
)
from alerce_spark.simulation.randoms import Floats, Ints, uniform

#: Effective wavelengths of g, r, i [Å].
WAVELENGTH = np.array([4770.0, 6230.0, 7630.0])
#: σ in g, r, i relative to g: (λ/4770 Å)^−0.479 (MacLeod et al. 2010, table 1).
NUCLEAR = (WAVELENGTH / WAVELENGTH[0]) ** -0.479


def walk_of_nuclei(absolute_i: Floats, log_mass: Floats, redshift: Floats) -> tuple[Floats, Floats]:
    """Standard deviation [mag] and observed damping time [d] of quasars in g.

    MacLeod et al. (2010), eq. 7 and table 1: log f = A + B log(λ_RF/4000 Å) + C (M_i + 23) + D log(M_BH/10⁹ M☉), with
    (A, B, C, D) = (−0.51, −0.479, 0.131, 0.18) for SF∞ [mag] and (2.4, 0.17, 0.03, 0.21) for τ [d, rest frame];
    σ = SF∞/√2.
    """
    log_wave = np.log10(WAVELENGTH[0] / (1.0 + redshift) / 4000.0)
    sf = -0.51 - 0.479 * log_wave + 0.131 * (absolute_i + 23.0) + 0.18 * (log_mass - 9.0)
    tau = 2.4 + 0.17 * log_wave + 0.03 * (absolute_i + 23.0) + 0.21 * (log_mass - 9.0)
    return np.asarray(10.0**sf / np.sqrt(2.0)), np.asarray(10.0**tau * (1.0 + redshift))


@dataclass(frozen=True)
class Nucleus(Variable):
    """An active nucleus behind the Galaxy; subclasses give magnitude, colour, host and walk."""

    branch: str = "Stochastic"
    scene: str = "nucleus"

    def sky(self, draws: Draws) -> Place:
        """Places behind the Galaxy's dust."""
        place: Place = draws.once("sky", lambda: extragalactic_place(draws))
        return place

    def place(self, draws: Draws) -> tuple[Floats, Floats]:
        return self.sky(draws).equatorial()

    @abstractmethod
    def walk(self, draws: Draws) -> tuple[Floats, Floats]:
        """σ in g [mag] and observed τ [d]."""

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        sigma, tau = draws.once("walk", lambda: self.walk(draws))
        return NUCLEAR[fid - 1] * sigma[row] * damped_walk(draws, "walk", row, mjd, tau)


def counts(draws: Draws, name: str, slope: Any, bright: Any, faint: Any) -> Floats:
    """Magnitudes with numbers ∝ 10^(slope·m) between `bright` and `faint`."""
    low = 10.0 ** (slope * (bright - faint))
    return np.asarray(faint + np.log10(low + (1.0 - low) * draws.uniform(name)) / slope)


@dataclass(frozen=True)
class Quasar(Nucleus):
    """Quasars: mean r to 20, numbers ∝ 10^(0.5 m) where they vary enough to be seen; redshifts 0.15–3.5 around 1.3.

    M_i from magnitude and redshift (K-correction of a power law α = −0.5), M_BH 10^(8.9 ± 0.4) M☉ growing with
    luminosity (MacLeod et al. 2010, section 2); intrinsic scatter of σ 0.15 dex and of τ 0.3 dex (their section 5.3).
    g − r 0.0–0.4 (Richards et al. 2001), W1 − W2 around 1.15 (Stern et al. 2012: > 0.8), W2 − W3 3.0 ± 0.35 (Wright et
    al. 2010, fig. 12), r − W2 around 5.0. The hosts of those nearer than z = 0.7 may show.
    """

    name: str = "QSO"

    def redshift(self, draws: Draws) -> Floats:
        """Redshift."""
        far = draws.clipped("z", 1.3, 0.65, 0.2, 3.5) + draws.uniform("z smooth", -0.05, 0.05)
        return np.where(draws.uniform("near") < 0.1, draws.uniform("z near", 0.1, 0.5), far)

    def walk(self, draws: Draws) -> tuple[Floats, Floats]:
        z = self.redshift(draws)
        absolute = self._r_mag(draws) - 0.15 - modulus_of(z) + 1.25 * np.log10(1.0 + z)
        mass = 8.9 - 0.3 * (absolute + 26.0) / 2.5 + draws.normal("mass", 0.0, 0.35)
        sigma, tau = walk_of_nuclei(absolute, mass, z)
        spread = np.maximum(draws.normal("sigma"), -1.0)  # what hardly varies sends no alerts
        return sigma * 10.0 ** (0.1 + 0.15 * spread), tau * 10.0 ** draws.normal("tau", 0.0, 0.3)

    def _r_mag(self, draws: Draws) -> Floats:
        return counts(draws, "mag", 0.4, 15.5, 19.6)

    def mean_mag(self, draws: Draws) -> Floats:
        z = self.redshift(draws)
        g_r = 0.12 + 0.1 * np.cos(3.0 * z) + 0.18 * np.maximum(z - 2.6, 0.0) + draws.normal("colour", 0.0, 0.1)
        mags = colours(self._r_mag(draws), g_r, draws.normal("r-i", 0.1, 0.08))
        return self.sky(draws).redden(mags) - 0.7 * DUST[1] * self.sky(draws).a_v

    def wise(self, draws: Draws) -> Floats:
        z = self.redshift(draws)
        w2 = self._r_mag(draws) - draws.normal("r-W2", 5.0, 0.5)
        w1_w2 = 1.15 + 0.15 * np.sin(2.5 * (z - 0.8)) - 0.25 * (z > 2.8) + draws.normal("W1-W2", 0.0, 0.13)
        w3 = w2 - draws.normal("W2-W3", 3.0, 0.32)
        return allwise(draws, np.stack([w2 + w1_w2, w2, w3, w3 - draws.normal("W3-W4", 2.4, 0.3)]))

    def star_score(self, draws: Draws) -> Floats:
        # the host shows up to z of about 0.6, of more quasars the fainter they are
        luminous = self._r_mag(draws) - modulus_of(self.redshift(draws)) < -24.0
        share = np.interp(self.redshift(draws), [0.2, 0.4, 0.7, 1.2], [0.9, 0.6, 0.2, 0.03]) * np.where(
            luminous, 0.5, 1.0
        )
        galaxy = galaxy_scores(draws, self._r_mag(draws), 0.4)
        return np.where(draws.uniform("extended") < share, galaxy, star_scores(draws, self._r_mag(draws)))


@dataclass(frozen=True)
class Seyfert(Nucleus):
    """Seyfert nuclei of galaxies of z 0.02–0.5: the host is most of the light in the reference image.

    Cores of r 14.5–19.3 with 5–60 % from the nucleus; g − r 0.75 − 0.55 × that share. M_i −20 … −23.5, M_BH 10^(7.6 ±
    0.5) M☉: σ and τ of `walk_of_nuclei`. W1 − W2 rises with the share from galaxies' 0.2 to 1.0, W2 − W3 2.5–4 (Wright
    et al. 2010, fig. 12; Assef et al. 2010). Extended, but more point-like in PS1 if the nucleus is more distant or
    stronger. Catalogues call nuclei AGN or QSO by luminosity or by morphology, so both have z 0.15–0.5.
    """

    name: str = "AGN"

    def redshift(self, draws: Draws) -> Floats:
        """Redshift."""
        return np.clip(0.09 * np.exp(draws.normal("z", 0.0, 0.7)), 0.015, 0.5)

    def share(self, draws: Draws) -> Floats:
        """Share of the nucleus in the core's r light."""
        return np.clip(0.75 * draws.uniform("share") ** 1.2, 0.06, 0.75)

    def _core(self, draws: Draws) -> Floats:
        z = self.redshift(draws)
        # of the far ones the luminous are seen
        return np.clip(modulus_of(z) + draws.normal("core", -20.9, 0.7) - 2.5 * np.log10(z / 0.09), 13.8, 19.3)

    def walk(self, draws: Draws) -> tuple[Floats, Floats]:
        z = self.redshift(draws)
        absolute = self._core(draws) - 2.5 * np.log10(self.share(draws)) - modulus_of(z) - 0.2
        mass = draws.normal("mass", 7.7, 0.5)
        sigma, tau = walk_of_nuclei(np.clip(absolute, -24.0, -19.5), mass, z)
        return sigma * 10.0 ** draws.normal("sigma", 0.05, 0.15), tau * 10.0 ** draws.normal("tau", 0.0, 0.35)

    def mean_mag(self, draws: Draws) -> Floats:
        r_mag = self._core(draws) - 2.5 * np.log10(self.share(draws))
        mags = colours(r_mag, draws.normal("colour", 0.2, 0.12), draws.normal("r-i", 0.15, 0.08))
        return self.sky(draws).redden(mags)

    def constant(self, draws: Draws) -> Floats:
        r_mag = self._core(draws) - 2.5 * np.log10(1.0 - self.share(draws))
        return np.asarray(flux_of(self.sky(draws).redden(colours(r_mag, draws.normal("host colour", 0.72, 0.12)))))

    def wise(self, draws: Draws) -> Floats:
        share = self.share(draws)
        w1_w2 = 0.15 + 1.0 * share / (share + 0.25) + draws.normal("W1-W2", 0.0, 0.15)
        w2 = self._core(draws) - draws.normal("r-W2", 4.4, 0.45) - 0.8 * share
        w3 = w2 - draws.clipped("W2-W3", 3.1, 0.45, 1.8, 4.5)
        return allwise(draws, np.stack([w2 + w1_w2, w2, w3, w3 - draws.normal("W3-W4", 2.4, 0.35)]), matched=0.97)

    def star_score(self, draws: Draws) -> Floats:
        # a strong nucleus in a host of a few arcsec hides it (z above 0.1), a weak one never does
        far = np.interp(self.redshift(draws), [0.03, 0.1, 0.2, 0.35], [0.0, 0.15, 0.5, 0.9])
        return galaxy_scores(draws, self._core(draws), 0.05 + 1.3 * far * self.share(draws))


@dataclass(frozen=True)
class Blazar(Nucleus):
    """BL Lacertae objects (60 %) and flat-spectrum radio quasars: strong, fast walks and flares.

    Mean r 14.5–19.8; σ log-normal around 0.33 mag (0.2 dex) and τ around 45 d (0.4 dex), faster and stronger than
    quasars (Ruan et al. 2012, section 5); a second walk of 3–8 d makes flares. BL Lacs are bluer when brighter, FSRQ
    redder when brighter (Bonning et al. 2012). WISE strip: BL Lacs W1 − W2 0.75, W2 − W3 2.1, FSRQ 1.05, 2.8 (Massaro
    et al. 2011; D'Abrusco et al. 2012). One in four lies on a visible elliptical, which it may outshine (Nilsson et al.
    2003: z < 0.5).
    """

    name: str = "Blazar"

    def is_lac(self, draws: Draws) -> Any:
        """BL Lac rather than FSRQ."""
        return draws.uniform("type") < 0.6

    def walk(self, draws: Draws) -> tuple[Floats, Floats]:
        sigma = 0.33 * 10.0 ** draws.clipped("sigma", 0.0, 0.2, -0.35, 0.5)
        return sigma, 45.0 * 10.0 ** draws.clipped("tau", 0.0, 0.4, -1.0, 1.0)

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        sigma, tau = draws.once("walk", lambda: self.walk(draws))
        fast = draws.uniform("flare time", 2.0, 8.0)
        walk = 0.92 * damped_walk(draws, "walk", row, mjd, tau) + 0.4 * damped_walk(draws, "flares", row, mjd, fast)
        bluer = np.where(self.is_lac(draws), draws.normal("trend", 0.06, 0.06), draws.normal("trend", -0.08, 0.1))
        tint = 1.0 - bluer[row] * np.array([0.0, 1.0, 1.8])[fid - 1]
        return tint * sigma[row] * walk

    def _r_mag(self, draws: Draws) -> Floats:
        return counts(draws, "mag", 0.22, 14.3, 19.8)

    def mean_mag(self, draws: Draws) -> Floats:
        g_r = np.where(self.is_lac(draws), 0.42, 0.27) + draws.normal("colour", 0.0, 0.14)
        return self.sky(draws).redden(colours(self._r_mag(draws), g_r)) - 0.7 * DUST[1] * self.sky(draws).a_v

    def wise(self, draws: Draws) -> Floats:
        is_lac = self.is_lac(draws)
        w1_w2 = np.where(is_lac, 0.75, 1.05) + draws.normal("W1-W2", 0.0, 0.15)
        w2 = self._r_mag(draws) - np.where(is_lac, 4.7, 5.1) - draws.normal("r-W2", 0.0, 0.6)
        w3 = w2 - np.where(is_lac, 2.1, 2.8) - draws.normal("W2-W3", 0.0, 0.28)
        return allwise(draws, np.stack([w2 + w1_w2, w2, w3, w3 - draws.normal("W3-W4", 2.1, 0.3)]))

    def star_score(self, draws: Draws) -> Floats:
        stellar = star_scores(draws, self._r_mag(draws))
        return np.where(draws.uniform("extended") < 0.25, galaxy_scores(draws, self._r_mag(draws), 0.4), stellar)


#: Regions of young stars: longitude, latitude, radius [deg], distance [kpc], weight by known members (Porras et al.
#: 2003 and the Handbook of Star Forming Regions, Reipurth 2008).
REGIONS = np.array(
    [
        (209.0, -19.4, 2.5, 0.41, 0.20),  # Orion A
        (206.5, -16.4, 2.0, 0.41, 0.05),  # Orion B
        (170.0, -16.0, 6.0, 0.14, 0.06),  # Taurus
        (160.0, -19.0, 3.0, 0.30, 0.07),  # Perseus
        (80.0, 0.5, 4.0, 1.4, 0.17),  # Cygnus X
        (84.8, -0.6, 1.5, 0.80, 0.08),  # North America nebula
        (104.0, 9.0, 5.0, 0.9, 0.08),  # Cepheus
        (134.0, 1.0, 2.0, 2.0, 0.07),  # W3/4/5
        (203.0, 2.2, 0.8, 0.75, 0.06),  # NGC 2264
        (206.4, -2.0, 1.0, 1.5, 0.04),  # Rosette
        (30.0, 3.5, 2.5, 0.44, 0.07),  # Serpens, Aquila
        (353.0, 17.0, 2.5, 0.14, 0.05),  # rho Ophiuchi
    ]
)


@dataclass(frozen=True)
class YoungStar(Variable):
    """Young stellar objects of infrared class I (10 %), II (50 %) and III (22 %), and misclassified red giants (18 %).

    In star-forming regions (70 %) and along the thin disc. Behaviour after Cody et al. (2014, table 3): dippers 25 %,
    bursters 13 %, quasi-periodic 20 %, stochastic 25 %, spotted (all of class III) the rest. WISE loci of Koenig &
    Leisawitz (2014, fig. 5): class I W1 − W2 > 1, II 0.3–1.0 and W2 − W3 1.3–3, III near the stars. Catalogues from
    SIMBAD hold candidates that are reddened giants (Marton et al. 2016): we keep some, with slow waves.
    """

    name: str = "YSO"
    branch: str = "Stochastic"

    def kinds(self, draws: Draws) -> Ints:
        """Infrared class: 0 I, 1 II, 2 III, 3 a giant."""
        return draws.choice("class", (0.10, 0.50, 0.22, 0.18))

    def modes(self, draws: Draws) -> Ints:
        """Behaviour: 0 dipper, 1 burster, 2 quasi-periodic, 3 stochastic, 4 spotted, 5 slow waves of a giant."""
        disc = draws.choice("mode", (0.27, 0.15, 0.22, 0.36))
        kind = self.kinds(draws)
        return np.where(kind == 3, 5, np.where(kind == 2, 4, disc))

    def amplitude(self, draws: Draws) -> Floats:
        """Peak-to-peak range in r [mag]."""
        size = 10.0 ** draws.clipped("A", 0.0, 0.25, -0.6, 0.6)
        return size * np.array([0.6, 0.55, 0.3, 0.45, 0.16, 0.3])[self.modes(draws)]

    def absolute(self, draws: Draws) -> tuple[Floats, Floats]:
        """Absolute r and g − r, both with the extinction of the star's cloud."""
        kind = self.kinds(draws)
        own = -np.array([4.0, 1.2, 0.8, 1.0])[kind] * np.log(draws.uniform("cloud"))
        r_abs = np.array([4.8, 5.0, 5.2, -1.6])[kind] + draws.normal("M", 0.0, 1.4)
        g_r = np.array([1.15, 1.1, 1.1, 1.5])[kind] + draws.normal("colour", 0.0, 0.15)
        return r_abs + DUST[1] * own, g_r + (DUST[0] - DUST[1]) * own

    def sky(self, draws: Draws) -> Place:
        """Regions of star formation, thin disc elsewhere, giants through the disc."""

        def make() -> Place:
            r_abs = self.absolute(draws)[0]
            faint = np.maximum(faintest(0.5 * self.amplitude(draws)), BRIGHT + 1.0)
            height = np.where(self.kinds(draws) == 3, 0.2, 0.06)
            field = galactic_place(draws, np.minimum(r_abs, faint - 6.0), faint, height)
            if draws.toward is not None:
                return field
            region = _in_region(draws)
            r_mag = r_abs + region.modulus + DUST[1] * region.a_v
            is_member = (draws.uniform("member") < 0.7) & (self.kinds(draws) < 3) & (r_mag > BRIGHT) & (r_mag < faint)
            pairs = ((region.lon, field.lon), (region.lat, field.lat), (region.distance, field.distance))
            lon, lat, distance = (np.where(is_member, a, b) for a, b in pairs)
            return Place(lon, lat, distance, np.where(is_member, region.a_v, field.a_v))

        place: Place = draws.once("sky", make)
        return place

    def place(self, draws: Draws) -> tuple[Floats, Floats]:
        return self.sky(draws).equatorial()

    def mean_mag(self, draws: Draws) -> Floats:
        r_abs, g_r = self.absolute(draws)
        place = self.sky(draws)
        return place.redden(colours(r_abs + place.modulus, g_r, 0.55 * g_r))

    def wise(self, draws: Draws) -> Floats:
        kind, place = self.kinds(draws), self.sky(draws)
        r_abs, g_r = self.absolute(draws)
        # the cloud's extinction of r is in r_abs, nearly absent at W2
        r_w2 = np.array([6.5, 4.6, 3.2, 5.2])[kind] + 2.4 * np.maximum(g_r - 1.2, 0.0) + draws.normal("r-W2", 0.0, 0.6)
        w2 = r_abs + place.modulus - r_w2
        w1_w2 = np.array([1.3, 0.55, 0.08, 0.05])[kind] + np.array([0.35, 0.2, 0.07, 0.1])[kind] * draws.normal("W1-W2")
        w2_w3 = np.array([3.0, 2.1, 0.5, 0.35])[kind] + np.array([0.5, 0.5, 0.35, 0.2])[kind] * draws.normal("W2-W3")
        w3 = w2 - w2_w3
        # nebulae around hide W3 and W4 and take away matches
        w3 -= np.where(draws.uniform("nebula") < 0.15, draws.uniform("nebula excess", 0.0, 1.5), 0.0)
        w4 = w3 - 0.8 * w2_w3
        return allwise(draws, place.redden_wise(np.stack([w2 + w1_w2, w2, w3, w4])), matched=0.82)

    def star_score(self, draws: Draws) -> Floats:
        # nebulae and companions widen the images: labelled ones of the development half have 0.88 to 0.99
        wide = 0.12 * draws.uniform("nebulous score") ** 1.3
        return np.maximum(star_scores(draws, self.mean_mag(draws)[1]) - wide, 0.0)

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        mode = self.modes(draws)
        tau = 10.0 ** (draws.uniform("log tau") * np.array([0.8, 0.8, 0.9, 1.6, 0.6, 0.5])[mode])
        tau *= np.array([1.0, 2.0, 10.0, 3.0, 60.0, 60.0])[mode]
        walk = damped_walk(draws, "walk", row, mjd, tau)
        period = np.where(
            mode == 5, 10.0 ** draws.uniform("log P giant", 1.6, 2.7), 10.0 ** draws.normal("log P", 0.75, 0.3)
        )
        turn = 2 * np.pi * (mjd / period[row] + draws.uniform("phase")[row] + 0.05 * walk)
        wave = 0.5 * np.cos(turn)
        is_dipping = draws.uniform("dips", 0.2, 1.0)[row]
        level = np.stack(
            [
                0.7 * np.maximum(walk + 0.6 * wave - 0.3, 0.0) * is_dipping,
                -0.75 * np.clip(walk - 0.4, 0.0, 2.0),
                0.8 * wave * (1.0 + 0.3 * walk) + 0.12 * walk,
                0.3 * walk,
                0.9 * wave * (1.0 + 0.12 * walk) + 0.05 * walk,
                0.7 * wave * (1.0 + 0.25 * walk) + 0.15 * walk,
            ]
        )[mode[row], np.arange(row.size)]
        slow = 0.12 * damped_walk(draws, "slow", row, mjd, draws.uniform("slow time", 100.0, 800.0), 0.02)
        blue = np.array([1.3, 1.25, 1.2, 1.25, 1.2, 1.15])[mode][row]
        ratio = np.array([1.0, 0.0, -0.8])[fid - 1] * (blue - 1.0) + 1.0
        return ratio * self.amplitude(draws)[row] * (level + slow)


def _in_region(draws: Draws) -> Place:
    """Positions in REGIONS, Gaussian around their centres, with half of the smooth dust in front of them."""
    lon, lat, radius, distance, weight = REGIONS.T
    patch = patchiness(draws)

    def attempt(a: Attempt) -> tuple[Floats, Any]:
        pick = np.searchsorted(np.cumsum(weight)[:-1] / weight.sum(), a.uniform("region"), side="right")
        away = 0.6 * radius[pick] * np.sqrt(-2.0 * np.log(a.uniform("region away")))
        turn = 2 * np.pi * a.uniform("region turn")
        b = lat[pick] + away * np.sin(turn)
        l = lon[pick] + away * np.cos(turn) / np.cos(np.radians(b))  # noqa: E741
        a_v = patch[a.rows] * extinction(l, b, distance[pick])
        return np.stack([np.mod(l, 360.0), b, distance[pick], a_v]), equatorial(l, b)[1] > SOUTH

    return Place(*first_accepted(draws, attempt, 4))


@dataclass(frozen=True)
class Cataclysmic(Variable):
    """Dwarf novae (62 %), nova-likes (18 %), polars (12 %) and classical novae (8 %).

    Dwarf novae: outbursts of 2–6 mag that last 3–12 d and recur after 15–500 d, larger where rarer (Kukarkin–Parenago;
    Coppejans et al. 2016), quiescent M_r 9 ± 1.5. Nova-likes M_r 5 with flickering and VY Scl faint states, polars high
    and low states. Novae: M −7.0 ± 0.8 at maximum, t2 3–100 d (Kasliwal et al. 2011: BTS has M −6 … −7.6). Blue: g − r
    −0.1 … 0.4, bluer in outburst. In the disc of height 0.26 kpc (Pretorius et al. 2007); AllWISE sees few of them.
    """

    name: str = "CV/Nova"
    branch: str = "Stochastic"

    def kinds(self, draws: Draws) -> Ints:
        """0 dwarf nova, 1 nova-like, 2 polar, 3 nova."""
        return draws.choice("type", (0.62, 0.18, 0.12, 0.08))

    def outburst(self, draws: Draws) -> tuple[Floats, Floats, Floats]:
        """Dwarf novae: amplitude [mag], recurrence [d] and duration [d] of outbursts."""
        recurrence = 10.0 ** draws.uniform("log recurrence", 1.15, 2.6)
        size = 1.0 + 1.6 * np.log10(recurrence) + draws.normal("outburst", 0.0, 0.5)
        length = np.clip(3.0 + 2.2 * np.log10(recurrence) + draws.normal("length", 0.0, 1.5), 2.5, 0.4 * recurrence)
        return np.clip(size, 1.5, 7.0), recurrence, length

    def absolute(self, draws: Draws) -> Floats:
        """Absolute r magnitude in quiescence."""
        kind = self.kinds(draws)
        mean, sigma = np.array([9.2, 5.2, 9.0, 4.5])[kind], np.array([1.3, 0.9, 1.2, 1.2])[kind]
        return draws.normal("M", 0.0, 1.0) * sigma + mean

    def sky(self, draws: Draws) -> Place:
        """Positions in the disc at which outbursts or states are detectable."""

        def make() -> Place:
            peak = np.choose(self.kinds(draws), [self.outburst(draws)[0], 0.5, 1.8, 9.0])
            faint = np.where(self.kinds(draws) == 1, faintest(0.35), np.minimum(19.6 + peak, 23.8))
            bright = 11.8 + np.where(self.kinds(draws) == 3, self._nova_size(draws), peak)
            return galactic_place(draws, self.absolute(draws), np.maximum(faint, bright + 1.0), 0.26, bright=bright)

        place: Place = draws.once("sky", make)
        return place

    def place(self, draws: Draws) -> tuple[Floats, Floats]:
        return self.sky(draws).equatorial()

    def _g_r(self, draws: Draws) -> Floats:
        return np.array([0.25, 0.0, 0.2, 0.1])[self.kinds(draws)] + draws.normal("colour", 0.0, 0.15)

    def mean_mag(self, draws: Draws) -> Floats:
        place = self.sky(draws)
        return place.redden(colours(self.absolute(draws) + place.modulus, self._g_r(draws), 0.5 * self._g_r(draws)))

    def wise(self, draws: Draws) -> Floats:
        place = self.sky(draws)
        w2 = self.absolute(draws) + place.modulus - draws.normal("r-W2", 2.6, 0.7)
        w1_w2 = draws.normal("W1-W2", 0.12, 0.12) + np.where(self.kinds(draws) == 2, 0.25, 0.0)
        w3 = w2 - draws.normal("W2-W3", 0.5, 0.4)
        return allwise(draws, place.redden_wise(np.stack([w2 + w1_w2, w2, w3, w3 - 0.3])), matched=0.9)

    def star_score(self, draws: Draws) -> Floats:
        return star_scores(draws, self.mean_mag(draws)[1])

    def deviation(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        kind = self.kinds(draws)[row]
        flicker = damped_walk(draws, "flicker", row, mjd, np.full(len(draws), 0.5))
        out = np.array([0.18, 0.12, 0.25, 0.15])[kind] * flicker
        for code, part in enumerate((self._dwarf, self._nova_like, self._polar, self._nova)):
            at = np.flatnonzero(kind == code)
            if at.size:
                out[at] += part(draws, row[at], mjd[at], fid[at])
        return out

    def _dwarf(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        size, recurrence, length = (v[row] for v in self.outburst(draws))
        days = (mjd - draws.begin[row] + LONGEST_HISTORY) / recurrence + draws.uniform("phase")[row]
        number = np.floor(days).astype(np.int64)
        rise = np.zeros(row.size)
        for k in (0, 1):  # the last outburst may still be falling
            when = number - k + 0.6 * uniform(draws.seed, "CV/Nova outburst", draws.index[row], number - k)
            long = 1.0 + 1.5 * (uniform(draws.seed, "CV/Nova super", draws.index[row], number - k) < 0.2)
            strength = 0.8 + 0.3 * uniform(draws.seed, "CV/Nova strength", draws.index[row], number - k) + 0.12 * long
            t = (days - when) * recurrence
            flat = 0.5 * length * long
            up = np.clip(t / 1.2, 0.0, 1.0)
            fall = np.maximum(t - 1.2 - flat, 0.0) / np.maximum(0.35 * length, 1.0)
            here = size * strength * up * (1.0 - 0.12 * np.clip((t - 1.2) / flat, 0.0, 1.0))
            rise = np.maximum(rise, np.maximum(here - fall * 0.6 * size, 0.0))
        # the disc in outburst is bluer than the star
        blue = np.minimum(0.12 * rise, 0.3)
        return -rise - blue * np.array([0.5, -0.5, -1.0])[fid - 1]

    def _nova_like(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        slow = damped_walk(draws, "slow", row, mjd, draws.uniform("slow time", 10.0, 120.0))
        is_vy = (draws.uniform("VY Scl") < 0.25)[row]
        low = damped_walk(draws, "low", row, mjd, np.full(len(draws), 150.0), 0.02)
        fainter = np.clip(3.0 * (low - 0.9), 0.0, 1.0) * draws.uniform("low state", 1.0, 3.5)[row] * is_vy
        return draws.uniform("slow size", 0.1, 0.35)[row] * slow + fainter

    def _polar(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        state = damped_walk(draws, "state", row, mjd, draws.uniform("state time", 40.0, 200.0), 0.02)
        high = 1.0 / (1.0 + np.exp(-5.0 * state))
        turn = 2 * np.pi * (mjd / draws.uniform("orbit", 0.06, 0.2)[row] + draws.uniform("phase")[row])
        hump = 0.4 * high * np.maximum(np.cos(turn), -0.3) * np.array([0.8, 1.0, 1.1])[fid - 1]
        return -draws.uniform("state size", 1.0, 2.8)[row] * high - hump

    def _nova_size(self, draws: Draws) -> Floats:
        return np.clip(self.absolute(draws) - draws.normal("M peak", -7.0, 0.8), 6.0, 14.0)

    def _nova(self, draws: Draws, row: Ints, mjd: Floats, fid: Ints) -> Floats:
        begin, end = draws.begin, np.minimum(draws.end, draws.begin + 2000.0)
        peak = begin - 20.0 + draws.uniform("peak") * np.maximum(end - begin, 1.0)
        t2 = 10.0 ** draws.uniform("log t2", 0.5, 2.0)
        size = self._nova_size(draws)
        t = mjd - peak[row]
        # t^-1.75 in flux after the first decline (Hachisu & Kato 2006), 4.4 mag per decade
        fall = 4.4 * np.log10(1.0 + np.maximum(t, 0.0) / t2[row] * 1.86)
        wiggle = 0.25 * damped_walk(draws, "wiggle", row, mjd, np.full(len(draws), 8.0))
        bright = np.maximum(size[row] - fall + wiggle * (fall > 0.2), 0.0)
        rise = np.clip((t + 3.0) / 3.0, 0.0, 1.0)
        # H alpha fills r some magnitudes down
        line = np.where(fid == 2, -0.6, 0.0) * np.clip(fall / 3.0, 0.0, 1.0) * (bright > 0.5)
        return -rise * bright + line
