"""Sources in the Galaxy and behind it: positions, distances, dust, and AllWISE magnitudes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alerce_spark.simulation.kinds import Attempt, Draws, first_accepted
from alerce_spark.simulation.randoms import Floats

#: Distance of the Sun from the centre (GRAVITY Collaboration 2019) and from the plane, kpc.
SUN_R, SUN_Z = 8.2, 0.02
#: Southern limit of the survey, degrees.
SOUTH = -30.0
#: Bright limit of alerts (saturation), and depth of difference images, mag.
BRIGHT, DEPTH = 12.8, 20.3
#: Extinction in g, r, i and W1 … W4 in units of A_V (Schlafly & Finkbeiner 2011, table 6, R_V = 3.1, with 2.742 for V;
#: Yuan, Liu & Xiang 2013, table 2).
DUST = np.array([3.172, 2.271, 1.682]) / 2.742
DUST_WISE = np.array([0.065, 0.045, 0.03, 0.01])
#: Dust: exponential disc of scale length and height [kpc] (Drimmel & Spergel 2001, table 2), A_V per kpc at the Sun.
DUST_LENGTH, DUST_HEIGHT, DUST_LOCAL = 2.26, 0.134, 0.7
#: Largest A_V [mag] through which objects behind the plane are detected.
THINNEST = 2.5
#: Scale length of the stellar disc, kpc (Bland-Hawthorn & Gerhard 2016, thin disc 2.6 ± 0.5).
DISC_LENGTH = 2.6
#: Rows: galactic axes in equatorial coordinates (ESA 1997, Hipparcos catalogue vol. 1, eq. 1.5.11).
_AXES = np.array(
    [
        [-0.0548755604, -0.8734370902, -0.4838350155],
        [0.4941094279, -0.4448296300, 0.7469822445],
        [-0.8676661490, -0.1980763734, 0.4559837762],
    ]
)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


@dataclass(frozen=True)
class Place:
    """Galactic longitude and latitude [deg], distance [kpc, infinite outside the Galaxy] and A_V [mag] of objects."""

    lon: Floats
    lat: Floats
    distance: Floats
    a_v: Floats

    @property
    def modulus(self) -> Floats:
        """Distance modulus [mag]."""
        return 10.0 + 5.0 * np.log10(self.distance)

    def equatorial(self) -> tuple[Floats, Floats]:
        """ra, dec in degrees."""
        return equatorial(self.lon, self.lat)

    def redden(self, mags: Floats) -> Floats:
        """Magnitudes (3, objects) in g, r, i with the extinction of these places."""
        return mags + DUST[:, None] * self.a_v

    def redden_wise(self, mags: Floats) -> Floats:
        """Magnitudes (4, objects) in W1 … W4 with the extinction of these places."""
        return mags + DUST_WISE[:, None] * self.a_v


def equatorial(lon: Any, lat: Any) -> tuple[Floats, Floats]:
    """ra, dec (J2000) in degrees of galactic coordinates in degrees."""
    a, b = np.radians(lon), np.radians(lat)
    x, y, z = _AXES.T @ np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)])
    return np.mod(np.degrees(np.arctan2(y, x)), 360.0), np.degrees(np.arcsin(np.clip(z, -1.0, 1.0)))


def galactic(ra: Any, dec: Any) -> tuple[Floats, Floats]:
    """Galactic longitude and latitude in degrees of ra, dec (J2000) in degrees."""
    a, d = np.radians(ra), np.radians(dec)
    x, y, z = _AXES @ np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    return np.mod(np.degrees(np.arctan2(y, x)), 360.0), np.degrees(np.arcsin(np.clip(z, -1.0, 1.0)))


def extinction(lon: Floats, lat: Floats, distance: Floats) -> Floats:
    """A_V [mag] of a smooth exponential dust disc up to `distance` [kpc] (Drimmel & Spergel 2001).

    The inner 3 kpc have the density at 3 kpc (their hole, filled by half). 0.09 mag towards the pole.
    """
    a, b = np.radians(lon), np.radians(lat)
    reach = np.minimum(np.minimum(distance, 25.0), 8.0 * DUST_HEIGHT / np.maximum(np.abs(np.sin(b)), 1e-3))
    path = reach * (0.5 + 0.5 * _NODES[:, None])
    across = path * np.cos(b)
    radius = np.sqrt(np.maximum(SUN_R**2 + across**2 - 2 * SUN_R * across * np.cos(a), 9.0))
    height = np.abs(path * np.sin(b) + SUN_Z)
    density = np.exp(-height / DUST_HEIGHT - (radius - SUN_R) / DUST_LENGTH)
    return DUST_LOCAL * 0.5 * reach * (_WEIGHTS[:, None] * density).sum(axis=0)


def patchiness(draws: Draws) -> Floats:
    """Factor on the smooth extinction: dust is in clouds (log-normal, 0.35 in the natural logarithm)."""
    return np.exp(draws.normal("dust patch", -0.06, 0.35))


def faintest(semi_amplitude: Any) -> Any:
    """Faintest mean magnitude at which a difference image of DEPTH shows a variation by `semi_amplitude` [mag]."""
    return np.minimum(DEPTH + 2.5 * np.log10(10.0 ** (0.4 * np.asarray(semi_amplitude)) - 1.0), 20.6)


def galactic_place(
    draws: Draws, r_abs: Floats, faint: Floats, height: Any, is_halo: Any = False, bright: Any = BRIGHT
) -> Place:
    """Places of stars of absolute magnitude `r_abs` with mean r between `bright` and `faint`, north of SOUTH.

    Disc: exponential of DISC_LENGTH and scale `height` [kpc] (arrays or numbers). Halo (`is_halo`): density r^-3.3,
    flattened by 0.7, from 1 to 80 kpc (Sesar et al. 2011; Hernitschek et al. 2018). The share of stars labelled in
    catalogues falls with distance, as its power -2/3 in the disc. Stars with given directions (`draws`) get the
    distance that matches a magnitude drawn from that range.
    """
    n = len(draws)
    height, is_halo, bright = (np.broadcast_to(v, n) for v in (height, is_halo, bright))
    patch = patchiness(draws)
    if draws.toward is not None:
        slope = 0.1  # of the logarithm of numbers with magnitude, as the populations have where they are at home
        low = 10.0 ** (slope * (bright - faint))
        r_mag = faint + np.log10(draws.uniform("r", low, 1.0)) / slope
        return _place_toward(*draws.toward, patch, r_abs, r_mag)

    def attempt(a: Attempt) -> tuple[Floats, Any]:
        rows = a.rows
        reach = np.minimum(10.0 ** (0.2 * (faint[rows] - r_abs[rows]) - 2.0), 16.0)
        x, y, z, weight = _disc_point(a, reach, height[rows])
        if is_halo.any():
            halo = _halo_point(a)
            x, y, z, weight = np.where(is_halo[rows], halo, np.stack([x, y, z, weight]))
        across = np.hypot(x, y)
        distance = np.maximum(np.hypot(across, z), 0.02)
        lon, lat = np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, across))
        a_v = patch[rows] * extinction(lon, lat, distance)
        r_mag = r_abs[rows] + 10.0 + 5.0 * np.log10(distance) + DUST[1] * a_v
        visible = (r_mag > bright[rows]) & (r_mag < faint[rows]) & (equatorial(lon, lat)[1] > SOUTH)
        return np.stack([np.mod(lon, 360.0), lat, distance, a_v]), visible & (a.uniform("weight") < weight)

    lon, lat, distance, a_v = first_accepted(draws, attempt, 4)
    # the few without a visible position: the disc is symmetric, and longitude 120 is in the north
    is_south = equatorial(lon, lat)[1] <= SOUTH
    return Place(np.where(is_south, 120.0, lon), lat, distance, a_v)


def _place_toward(lon: Floats, lat: Floats, patch: Floats, r_abs: Floats, r_mag: Floats) -> Place:
    """Places in given directions where stars of absolute magnitude `r_abs` have the mean magnitude `r_mag`."""
    near, far = np.full(lon.size, -4.0), np.maximum(r_mag - r_abs, -3.0)  # distance moduli; by bisection
    for _ in range(16):
        modulus = 0.5 * (near + far)
        a_v = patch * extinction(lon, lat, 10.0 ** (0.2 * modulus - 2.0))
        is_too_far = r_abs + modulus + DUST[1] * a_v > r_mag
        near, far = np.where(is_too_far, near, modulus), np.where(is_too_far, modulus, far)
    distance = 10.0 ** (0.2 * near - 2.0)
    return Place(lon, lat, distance, patch * extinction(lon, lat, distance))


def _disc_point(a: Attempt, reach: Floats, height: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Point around the Sun [kpc], x to the centre, and the probability to keep it."""
    across, turn = reach * a.uniform("across") ** 0.75, 2 * np.pi * a.uniform("turn")
    side = a.uniform("side", -1.0, 1.0)
    z = -height * np.sign(side) * np.log(np.maximum(1.0 - np.abs(side), 1e-12)) - SUN_Z
    x, y = across * np.cos(turn), across * np.sin(turn)
    gain = np.minimum(SUN_R - np.hypot(SUN_R - x, y), SUN_R - 2.0)
    return x, y, z, np.exp((gain - np.minimum(reach, SUN_R - 2.0)) / DISC_LENGTH)


def _halo_point(a: Attempt) -> Floats:
    least, most, slope = 1.0, 80.0, -0.3  # of r^(3-3.3)
    u = a.uniform("halo radius")
    radius = (least**slope + u * (most**slope - least**slope)) ** (1.0 / slope)
    turn, up = 2 * np.pi * a.uniform("halo turn"), a.uniform("halo up", -1.0, 1.0)
    flat = radius * np.sqrt(1.0 - up**2)
    return np.stack([SUN_R - flat * np.cos(turn), flat * np.sin(turn), 0.7 * radius * up, np.ones(u.size)])


def extragalactic_place(draws: Draws) -> Place:
    """Isotropic positions behind the Galaxy, thinned by dust as for counts ∝ 10^(0.6 m).

    Objects with given directions (`draws`) are seen through gaps where the dust is thick: A_V up to THINNEST.
    """
    patch = patchiness(draws)
    if draws.toward is not None:
        lon, lat = draws.toward
        a_v = np.minimum(patch * extinction(lon, lat, np.full(lon.size, np.inf)), THINNEST)
        return Place(lon, lat, np.full(lon.size, np.inf), a_v)

    def attempt(a: Attempt) -> tuple[Floats, Any]:
        lon, up = a.uniform("lon", 0.0, 360.0), a.uniform("up", -1.0, 1.0)
        lat = np.degrees(np.arcsin(up))
        a_v = patch[a.rows] * extinction(lon, lat, np.full(lon.size, np.inf))
        kept = a.uniform("weight") < 10.0 ** (-0.6 * DUST[1] * a_v)
        return np.stack([lon, lat, a_v]), kept & (equatorial(lon, lat)[1] > SOUTH)

    lon, lat, a_v = first_accepted(draws, attempt, 3)
    return Place(lon, lat, np.full(len(draws), np.inf), a_v)


#: Magnitudes of signal-to-noise 5 of AllWISE in W1 … W4 away from the ecliptic poles (Cutri et al. 2013).
WISE_DEPTH = np.array([17.1, 15.7, 11.5, 7.7])


def allwise(draws: Draws, mags: Floats, matched: float = 0.95) -> Floats:
    """AllWISE magnitudes (4, objects) of sources of true magnitudes `mags`; NaN if the catalogue has none.

    A source must be detected in W1. In a band with signal-to-noise below 2 the catalogue gives the upper limit as
    magnitude, so W2 − W3 of a faint star is large. W1 < 8 and W2 < 7 saturate (Cutri et al. 2013, VI.3). matched: share
    of sources with a match within 1 arcsec; the others are lost in crowded fields.
    """
    out = np.empty_like(mags)
    for band, depth in enumerate(WISE_DEPTH):
        name = f"W{band + 1}"
        sigma = np.hypot(0.025, 0.2 * 10.0 ** (0.4 * np.minimum(mags[band] - depth, 3.0)))
        if band < 2:
            sigma = np.where(mags[band] < 8.0 - band, 0.12, sigma)
        measured = mags[band] + np.minimum(sigma, 0.5) * draws.normal(name)
        limit = depth + 1.0 + draws.normal(f"{name} limit", 0.0, 0.25)
        out[band] = np.where(mags[band] > limit, limit, np.minimum(measured, limit))
    is_seen = (mags[0] < 17.1 + draws.normal("W1 depth", 0.0, 0.3)) & (draws.uniform("matched") < matched)
    return np.where(is_seen, out, np.nan)


def star_wise(draws: Draws, place: Place, r_mag: Floats, g_minus_r: Floats) -> Floats:
    """True W1 … W4 of stars without circumstellar dust; r_mag and g_minus_r are free of extinction.

    r − W2 along the main sequence (Vega for W2): 0.75 + 1.95 (g − r), as of dwarfs in Davenport et al. (2014, table 1),
    redder for M dwarfs; W1 − W2 near 0.
    """
    r_w2 = 0.75 + 1.95 * g_minus_r + 2.5 * np.maximum(g_minus_r - 1.35, 0.0) + draws.normal("r-W2", 0.0, 0.12)
    w2 = r_mag - r_w2
    w1_w2 = -0.03 + 0.12 * np.maximum(g_minus_r - 1.2, 0.0) + draws.normal("W1-W2", 0.0, 0.015)
    return place.redden_wise(np.stack([w2 + w1_w2, w2, w2 - 0.05, w2 - 0.06]))


#: Redshifts and luminosity distances [Mpc] of a flat universe, H0 = 70 km/s/Mpc, Ωm = 0.3 (Hogg 1999, eq. 14–21).
_REDSHIFT = np.geomspace(1e-4, 6.0, 3000)
_STEPS = 1.0 / np.sqrt(0.3 * (1.0 + _REDSHIFT) ** 3 + 0.7)
_LUMINOSITY = (
    (299792.458 / 70.0)
    * (1.0 + _REDSHIFT)
    * (_REDSHIFT[0] + np.r_[0.0, np.cumsum(0.5 * (_STEPS[1:] + _STEPS[:-1]) * np.diff(_REDSHIFT))])
)


def modulus_of(redshift: Any) -> Floats:
    """Distance modulus [mag] of a redshift between 1e-4 and 6."""
    return np.asarray(25.0 + 5.0 * np.log10(np.interp(redshift, _REDSHIFT, _LUMINOSITY)))


def redshift_of(modulus: Any) -> Floats:
    """Redshift of a distance modulus [mag], between 1e-4 and 6."""
    return np.asarray(np.interp(10.0 ** (0.2 * (np.asarray(modulus) - 25.0)), _LUMINOSITY, _REDSHIFT))


def kpc_per_arcsec(redshift: Any) -> Floats:
    """Proper length of an arcsec [kpc]."""
    distance = np.interp(redshift, _REDSHIFT, _LUMINOSITY) * 1000.0 / (1.0 + np.asarray(redshift)) ** 2
    return np.asarray(distance * np.pi / 648000.0)
