"""The survey: a field grid, a cadence with weather, moon and seasons, and the depth and calibration of every visit.

All of it is a pure function of the seed, the field and the night. Numbers are set by eye to the packets and upper
limits in the project's real data (limits: 5, 50, 95 % at 18.2, 19.9 and 20.8 mag; zero points 26.2 ± 0.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alerce_spark.simulation.randoms import Floats, Ints, normal, uniform

#: Bands of declination of the field grid; ZTF exposures are 6.9 degrees on a side.
N_BANDS = 27
BAND_HEIGHT = 180.0 / N_BANDS
#: A readout channel, in pixels; 64 of them, 8 by 8 here, make a field.
X_PIXELS, Y_PIXELS = 3072.0, 3080.0
#: mjd of 2017-01-01, from which ZTF counts its nights (`nid`).
NID_ZERO = 57754
JD_MINUS_MJD = 2400000.5
#: Part of a UTC day in which the survey's site observes.
DUSK, DAWN = 0.12, 0.47
#: Limit of a dark, clear exposure by band (g, r, i) and what a full moon takes away.
DARK_LIMIT = np.array([20.95, 20.85, 20.3])
MOON_LOSS = np.array([1.3, 1.0, 0.5])
ZERO_POINT = np.array([26.28, 26.2, 25.6])
COLOUR_TERM = np.array([-0.04, 0.09, 0.005])


def _fields_in_band() -> Ints:
    edges = -90.0 + BAND_HEIGHT * np.arange(N_BANDS + 1)
    widest = np.cos(np.radians(np.minimum(np.abs(edges[:-1]), np.abs(edges[1:]))))
    return np.ceil(360.0 * widest / 6.9).astype(np.int64)


FIELDS_IN_BAND = _fields_in_band()
FIRST_FIELD = 1 + np.concatenate([[0], np.cumsum(FIELDS_IN_BAND)])
N_FIELDS = int(FIELDS_IN_BAND.sum())


def field_of(ra: Floats, dec: Floats) -> tuple[Ints, Ints]:
    """Field (1 … N_FIELDS) and readout channel (0 … 63) at ra, dec in degrees."""
    band = np.clip(((dec + 90.0) / BAND_HEIGHT).astype(np.int64), 0, N_BANDS - 1)
    across = np.mod(ra, 360.0) / 360.0 * FIELDS_IN_BAND[band]
    column = np.minimum(across.astype(np.int64), FIELDS_IN_BAND[band] - 1)
    up = (dec + 90.0) / BAND_HEIGHT - band
    quadrant_x = np.clip(((across - column) * 8).astype(np.int64), 0, 7)
    quadrant_y = np.clip((up * 8).astype(np.int64), 0, 7)
    return FIRST_FIELD[band] + column, quadrant_y * 8 + quadrant_x


def position_in(field: Ints, rcid: Ints, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """ra, dec in degrees of the point at fractions x, y (0–1) of readout channel `rcid` of `field`."""
    band = np.searchsorted(FIRST_FIELD, field, side="right") - 1
    column = field - FIRST_FIELD[band]
    ra = (column + (rcid % 8 + x) / 8) / FIELDS_IN_BAND[band] * 360.0
    dec = -90.0 + BAND_HEIGHT * (band + (rcid // 8 + y) / 8)
    return np.mod(ra, 360.0), dec


def pixel_on_chip(ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
    """x, y in pixels of ra, dec in degrees on its readout channel."""
    band = np.clip(((dec + 90.0) / BAND_HEIGHT).astype(np.int64), 0, N_BANDS - 1)
    across = np.mod(ra, 360.0) / 360.0 * FIELDS_IN_BAND[band] * 8
    up = ((dec + 90.0) / BAND_HEIGHT - band) * 8
    return np.mod(across, 1.0) * X_PIXELS, np.clip(np.mod(up, 1.0), 0, 1) * Y_PIXELS


def fields_near(ra: float, dec: float, count: int) -> Ints:
    """The `count` fields whose centres are nearest to ra, dec in degrees, nearest first."""
    fields = np.arange(1, N_FIELDS + 1)
    middle = np.full(N_FIELDS, 27)  # channel 27 ends at the centre of the 8 by 8
    field_ra, field_dec = position_in(fields, middle, np.full(N_FIELDS, 1.0), np.full(N_FIELDS, 1.0))
    d_ra, d1, d2 = np.radians(field_ra - ra), np.radians(field_dec), np.radians(dec)
    closeness = np.sin(d1) * np.sin(d2) + np.cos(d1) * np.cos(d2) * np.cos(d_ra)
    return fields[np.argsort(-closeness, kind="stable")[:count]]


def sun_ra(mjd: float) -> float:
    """Right ascension of the mean Sun in degrees."""
    return float((mjd - 59293.4) * 360.0 / 365.2422 % 360.0)


@dataclass(frozen=True)
class Visits:
    """Exposures of some fields, sorted by field and time; field k of the request has rows starts[k]:starts[k+1].

    mjd has the resolution of real packets, 1e-7 d in jd. `code` (night · 10⁵ + time in 10⁻⁵ d) names the exposure.
    `limit` is the 5-sigma limit in mag, `fwhm` in pixels, `zp` and its relatives in mag.
    """

    starts: Ints
    field: Ints
    mjd: Floats
    fid: Ints
    code: Ints
    limit: Floats
    fwhm: Floats
    zp: Floats
    colour_term: Floats
    sky: Floats

    @property
    def nid(self) -> Ints:
        """Night number of the survey."""
        return self.code // 100000

    @property
    def jd(self) -> Floats:
        """Julian date, rounded to 1e-7 d as in packets."""
        return np.round(self.mjd + JD_MINUS_MJD, 7)


@dataclass(frozen=True)
class Survey:
    """Rules of the survey.

    A field is visited every `cadence` days, `visits_per_night` times, g and r in turn and 4 % in i, when the night is
    clear (70 %, in spells) and, with `seasons`, the Sun is more than 60 degrees of right ascension away. On
    `sure_nights` the sky is clear and every field visited: a simulated night shall have alerts.
    """

    seed: int
    cadence: int = 3
    visits_per_night: int = 2
    seasons: bool = True
    sure_nights: tuple[int, ...] = ()

    def visits(self, fields: Ints, first_night: int, last_night: int) -> Visits:
        """Visits of `fields` in the nights (integer mjd) first_night … last_night, the last included."""
        nights = np.arange(first_night, last_night + 1)
        grid = np.meshgrid(np.arange(fields.size), nights, np.arange(self.visits_per_night), indexing="ij")
        which, night, turn = (g.ravel() for g in grid)
        kept = self._observed(fields[which], night, turn)
        which, night, turn = which[kept], night[kept], turn[kept]
        field = fields[which]

        mjd = self._times(field, night, turn)
        code = (night - NID_ZERO) * 100000 + np.floor((mjd - night) * 1e5).astype(np.int64)
        in_i = uniform(self.seed, "filter i", field, night * 64 + turn) < 0.04
        fid = np.where(in_i, 3, 1 + (turn + night // self.cadence) % 2)
        starts = np.searchsorted(which, np.arange(fields.size + 1))
        return Visits(starts, field, mjd, fid, code, *self._conditions(field, code, mjd, fid))

    def _observed(self, field: Ints, night: Ints, turn: Ints) -> np.ndarray:
        spell = uniform(self.seed, "weather spell", night // 5)
        clear = (spell > 0.12) & (uniform(self.seed, "weather", night) < 0.8)
        phase = (uniform(self.seed, "phase", field) * self.cadence).astype(np.int64)
        due = (night + phase) % self.cadence == 0
        # some fields are visited less than their due, which spreads the length of histories
        share_lost = 0.05 + 0.5 * uniform(self.seed, "share lost", field) ** 2
        not_lost = uniform(self.seed, "lost", field, night * 64 + turn) > share_lost
        observed = clear & due & not_lost
        if self.seasons:
            sun = (night - 59293.4) * 360.0 / 365.2422
            centre_ra, centre_dec = position_in(
                field, np.full(field.size, 27), np.ones(field.size), np.ones(field.size)
            )
            away = np.abs((centre_ra - sun + 180.0) % 360.0 - 180.0)
            observed &= (away > 60.0) | (np.abs(centre_dec) > 60.0)
        return observed | np.isin(night, self.sure_nights)

    def _times(self, field: Ints, night: Ints, turn: Ints) -> Floats:
        # Each field has its own slot in each pass over the sky, so no two exposures of a night share a time and a pid.
        between = (DAWN - DUSK) / self.visits_per_night
        slot = min(40.0 / 86400.0, between / N_FIELDS)
        jitter = 0.5 * slot * uniform(self.seed, "time", field, night * 64 + turn)
        mjd = night + DUSK + turn * between + (field - 1) * slot + jitter
        return np.round(mjd + JD_MINUS_MJD, 7) - JD_MINUS_MJD

    def _conditions(self, field: Ints, code: Ints, mjd: Floats, fid: Ints) -> tuple[Floats, ...]:
        seed, band = self.seed, fid - 1
        full_moon = 0.5 * (1.0 - np.cos(2 * np.pi * (mjd - 58872.9) / 29.530588))
        night = code // 100000
        haze = np.where(np.isin(night + NID_ZERO, self.sure_nights), 0.05, 0.35)
        clouds = -haze * np.log(uniform(seed, "haze", night)) - 0.15 * np.log(uniform(seed, "clouds", code, field))
        fwhm = np.clip(2.3 * np.exp(0.22 * normal(seed, "seeing", code, field)), 1.3, 6.0)
        limit = DARK_LIMIT[band] - MOON_LOSS[band] * full_moon**2 - clouds - 1.2 * np.log10(fwhm / 2.3)
        limit = np.clip(limit + 0.08 * normal(seed, "depth", code, field), 16.4, 21.3)
        zp = ZERO_POINT[band] - 0.4 * clouds + 0.03 * normal(seed, "zero point", code, field)
        colour_term = COLOUR_TERM[band] + 0.012 * normal(seed, "colour term", code, field)
        sky = np.array([150.0, 250.0, 400.0])[band] * (1.0 + 2.0 * full_moon**2)
        return limit, fwhm, zp, colour_term, sky
