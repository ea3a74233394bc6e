"""The survey: a field grid, a cadence with weather, moon and seasons, and the depth and calibration of every visit.

All values are pure functions of the seed, the field and the night. Numbers come from the project's real data: limits,
moon and zero points from the packets' 4,000 visits; hours of the night, weather and coverage from 57,000 exposures of
the data-release light curves (public and partnership time); tails from 5,449 objects of one field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from alerce_spark.simulation.randoms import Floats, Ints, normal, uniform

#: Bands of declination of the field grid; ZTF exposures are 6.9 degrees on a side.
N_BANDS = 27
BAND_HEIGHT = 180.0 / N_BANDS
#: A readout channel, in pixels; 64 of them, 8 by 8 here, make a field.
X_PIXELS, Y_PIXELS = 3072.0, 3080.0
#: mjd of 2017-01-01, from which ZTF counts its nights (`nid`).
NID_ZERO = 57754
JD_MINUS_MJD = 2400000.5
#: mjd of a March equinox, and the tropical year.
SUN_AT_EQUINOX, YEAR = 59293.4, 365.2422
#: The site: latitude and longitude in degrees (Palomar), and the depression of the Sun at which observing begins.
LATITUDE, LONGITUDE, TWILIGHT = 33.36, -116.86, 12.0
#: Fields with centres south of this are too low to be observed.
SOUTHERN_LIMIT = -30.0
#: Fields with centres nearer to the Galactic plane than this are visited three times as often.
PLANE = 7.5
#: Share of fields that other programmes visit as well, and how often, in units of `visits_per_night`.
DEEP_SHARE, DEEP_VISITS = 0.05, 3
#: Share of visits followed by another exposure in the same band within minutes: in a third of the fields, and in the
#: others.
AGAIN_SHARES = (0.25, 0.01)
#: Share of exposures with a bad photometric calibration: 8 % of the real ones are flagged.
BAD_SHARE = 0.08
#: Limit of a dark, clear exposure by band (g, r, i) and what a full moon takes away.
DARK_LIMIT = np.array([21.15, 21.0, 20.35])
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
#: Resolution of the time in an exposure's code and pid, days.
TICK = 1e-5


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
    d_ra, d1, d2 = np.radians(CENTRE_RA - ra), np.radians(CENTRE_DEC), np.radians(dec)
    closeness = np.sin(d1) * np.sin(d2) + np.cos(d1) * np.cos(d2) * np.cos(d_ra)
    return 1 + np.argsort(-closeness, kind="stable")[:count]


def sun_ra(mjd: float) -> float:
    """Right ascension of the mean Sun in degrees."""
    return float((mjd - SUN_AT_EQUINOX) * 360.0 / YEAR % 360.0)


def _centres() -> tuple[Floats, Floats]:
    """ra, dec in degrees of the centre of every field."""
    fields = np.arange(1, N_FIELDS + 1)
    middle = np.full(N_FIELDS, 27)  # channel 27 ends at the centre of the 8 by 8
    return position_in(fields, middle, np.ones(N_FIELDS), np.ones(N_FIELDS))


CENTRE_RA, CENTRE_DEC = _centres()


def _galactic_latitude() -> Floats:
    """Galactic latitude in degrees of every field's centre; the pole is that of Hipparcos (J2000, ESA 1997)."""
    pole_ra, pole_dec = np.radians(192.85948), np.radians(27.12825)
    ra, dec = np.radians(CENTRE_RA), np.radians(CENTRE_DEC)
    sine = np.sin(dec) * np.sin(pole_dec) + np.cos(dec) * np.cos(pole_dec) * np.cos(ra - pole_ra)
    return np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0)))


#: Galactic latitude of every field's centre, degrees.
GALACTIC_LATITUDE = _galactic_latitude()
IS_IN_PLANE = np.abs(GALACTIC_LATITUDE) < PLANE


def darkness(night: Any) -> tuple[Floats, Floats]:
    """Beginning and end of observing in `night` (integer mjd) at the site, as fractions of the UTC day."""
    longitude = 2 * np.pi * (np.asarray(night) + 0.3 - SUN_AT_EQUINOX) / YEAR
    dec = np.arcsin(0.3978 * np.sin(longitude))
    latitude = np.radians(LATITUDE)
    cosine = (-np.sin(np.radians(TWILIGHT)) - np.sin(latitude) * np.sin(dec)) / (np.cos(latitude) * np.cos(dec))
    half = 0.5 - np.arccos(np.clip(cosine, -1.0, 1.0)) / (2 * np.pi)
    midnight = -LONGITUDE / 360.0
    return midnight - half, midnight + half


def transit(ra: Floats, night: Any) -> Floats:
    """Time at which `ra` [deg] crosses the site's meridian, as a fraction of the UTC day, within 0.5 of midnight."""
    sidereal_midnight = 100.46 + 0.985647 * (np.asarray(night) - 51544.0)  # at Greenwich, degrees
    away = (ra - sidereal_midnight - LONGITUDE - 360.98565 * (-LONGITUDE / 360.0) + 180.0) % 360.0 - 180.0
    return -LONGITUDE / 360.0 + away / 360.98565


def airmass(hour_angle: Floats, dec: Floats) -> Floats:
    """Airmass at hour angle and declination in degrees, at most 3."""
    latitude, h, d = np.radians(LATITUDE), np.radians(hour_angle), np.radians(dec)
    altitude = np.sin(latitude) * np.sin(d) + np.cos(latitude) * np.cos(d) * np.cos(h)
    return 1.0 / np.maximum(altitude, 1.0 / 3.0)


@dataclass(frozen=True)
class Visits:
    """Exposures of some fields, sorted by field and time; field k of the request has rows starts[k]:starts[k+1].

    mjd has the resolution of real packets, 1e-7 d in jd. `code` (night · 10⁵ + time in 10⁻⁵ d) names the exposure.
    `limit` is the 5-sigma limit in mag, `fwhm` in pixels, `zp` and its relatives in mag; `gain` is the relative error
    of the flux scale, large in the few exposures that are badly calibrated.
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
    gain: Floats

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

    A field is visited every `cadence` days, three times as often near the Galactic plane, and `visits_per_night` times
    a night: in g and r alternately, 3 % in i, in some fields often with an immediate second exposure. A visit needs a
    clear night (more frequent in summer, in spells) and, with `seasons`, a field north of SOUTHERN_LIMIT that is high
    enough in the dark. Fields lose a share of their visits, so that some have many and some few. Exposures are taken
    near the meridian if the night allows. On `sure_nights` the sky is clear and every field is visited, so that a
    simulated night has alerts.
    """

    seed: int
    cadence: int = 3
    visits_per_night: int = 2
    seasons: bool = True
    sure_nights: tuple[int, ...] = ()

    def visits(self, fields: Ints, first_night: int, last_night: int) -> Visits:
        """Visits of `fields` in the nights (integer mjd) first_night … last_night, inclusive."""
        which, night = self._due(fields, np.arange(first_night, last_night + 1))
        kept = self._observed_nights(fields[which], night)
        which, night = which[kept], night[kept]
        turns = np.where(self._is_deep(fields[which]), DEEP_VISITS, 1) * self.visits_per_night
        each = np.repeat(np.arange(which.size), turns)
        turn = np.arange(each.size) - np.repeat(np.cumsum(turns) - turns, turns)
        kept = self._observed_turns(fields[which[each]], night[each], turn)
        which, night, turn = which[each[kept]], night[each[kept]], turn[kept]
        again = uniform(self.seed, "again", fields[which], night * 64 + turn) < np.where(
            uniform(self.seed, "repeated", fields[which]) < 1 / 3, *AGAIN_SHARES
        )
        again, each = np.r_[np.zeros(which.size, bool), np.ones(again.sum(), bool)], np.flatnonzero(again)
        which, night, turn = (np.r_[values, values[each]] for values in (which, night, turn))
        field = fields[which]
        in_i = uniform(self.seed, "filter i", field, night * 64 + turn) < 0.03
        fid = np.where(in_i, 3, 1 + (turn + night // self.cadence) % 2)
        mjd = self._times(field, night, turn, again)
        high = self._is_high(field, night, mjd)
        which, field, night, mjd, fid = which[high], field[high], night[high], mjd[high], fid[high]
        code = (night - NID_ZERO) * 100000 + np.floor((mjd - night) * 1e5).astype(np.int64)
        order = np.lexsort((mjd, which))
        which, field, mjd, fid, code = which[order], field[order], mjd[order], fid[order], code[order]
        starts = np.searchsorted(which, np.arange(fields.size + 1))
        return Visits(starts, field, mjd, fid, code, *self._conditions(field, code, mjd, fid))

    def _is_deep(self, field: Ints) -> np.ndarray:
        return (uniform(self.seed, "deep", field) < DEEP_SHARE) & (self.visits_per_night * DEEP_VISITS <= 16)

    def _due(self, fields: Ints, nights: Ints) -> tuple[Ints, Ints]:
        """Indices of `fields` and nights with a visit due and a clear sky, by field and night."""
        season = 0.75 + 0.17 * np.cos(2 * np.pi * (nights - SUN_AT_EQUINOX - 130.0) / YEAR)
        # spells of bad weather: most of a night's weather is that of its four nights
        spell, single = normal(self.seed, "spell", nights // 4), normal(self.seed, "weather", nights)
        clear = np.sqrt(0.6) * spell + np.sqrt(0.4) * single < ndtri(season)
        every = np.where(IS_IN_PLANE[fields - 1] | self._is_deep(fields), max(1, self.cadence // 3), self.cadence)
        phase = (uniform(self.seed, "phase", fields) * every).astype(np.int64)
        due = clear & ((nights + phase[:, None]) % every[:, None] == 0)
        which, night = np.nonzero(due | np.isin(nights, self.sure_nights))
        return which, nights[night]

    def _observed_nights(self, field: Ints, night: Ints) -> np.ndarray:
        kept = (
            1.0 - np.where(IS_IN_PLANE[field - 1], 0.15, 0.05) - 0.55 * uniform(self.seed, "share lost", field) ** 1.5
        )
        if self.seasons:
            # a field that is observable for longer is visited more often, up to seven hours
            first, last = self._window(field, night)
            kept *= np.clip((last - first) * 24.0 / 7.0, 0.0, 1.0) * (CENTRE_DEC[field - 1] > SOUTHERN_LIMIT)
        return (uniform(self.seed, "lost", field, night) < kept) | np.isin(night, self.sure_nights)

    def _observed_turns(self, field: Ints, night: Ints, turn: Ints) -> np.ndarray:
        observed = uniform(self.seed, "lost turn", field, night * 64 + turn) > 0.1
        sure = np.isin(night, self.sure_nights) & (turn < self.visits_per_night)
        # a band has no difference images before its reference image exists
        band = turn % 2
        is_late = uniform(self.seed, "late reference", field, band) < 0.12
        begin = 58200.0 + 450.0 * uniform(self.seed, "reference", field, band)
        return (observed & ~(is_late & (night < begin))) | sure

    def _window(self, field: Ints, night: Ints) -> tuple[Floats, Floats]:
        """Fractions of the UTC day between which a field is in the dark and not too low; first > last if never."""
        dusk, dawn = darkness(night)
        middle = transit(CENTRE_RA[field - 1], night)
        reach = (2.8 + 2.2 * np.clip((CENTRE_DEC[field - 1] + 30.0) / 90.0, 0.0, 1.0)) / 24.0
        return np.maximum(dusk, middle - reach), np.minimum(dawn, middle + reach)

    def _is_high(self, field: Ints, night: Ints, mjd: Floats) -> np.ndarray:
        """Exposures whose field is not too low; the last of many visits of a night may come too late."""
        if not self.seasons:
            return np.ones(mjd.size, bool)
        first, last = self._window(field, night)
        part = mjd - night
        return ((part > first - 0.02) & (part < last + 0.02)) | np.isin(night, self.sure_nights)

    def _times(self, field: Ints, night: Ints, turn: Ints, again: np.ndarray) -> Floats:
        """mjd of each exposure, near the field's transit.

        A night is cut into rounds; in each round every field has two unique ticks, an even one for a visit and an odd
        one for the exposure `again` that may follow, so no two exposures share a time and a pid.
        """
        round_length = 2 * N_FIELDS * TICK
        dusk, dawn = darkness(night)
        first, last = self._window(field, night)
        spread = (2.0 * normal(self.seed, "hour", field, night) - 0.4) / 24.0
        wanted = np.clip(transit(CENTRE_RA[field - 1], night) + spread, np.minimum(first, dawn), np.maximum(last, dusk))
        # targets that pile up at one end of the window are spread over the next hour and a half
        into = 1.5 / 24.0 * uniform(self.seed, "late hour", field, night)
        wanted += np.where(wanted <= first, into, 0.0) - np.where(wanted >= last, into, 0.0)
        rounds = np.floor((dawn - dusk) / round_length).astype(np.int64)
        most = np.where(self._is_deep(field), DEEP_VISITS, 1) * self.visits_per_night
        step = 1 + (3.0 * uniform(self.seed, "step", field, night)).astype(np.int64)
        step = np.maximum(1, np.minimum(step, (rounds - 1) // np.maximum(most - 1, 1)))
        begin = np.floor((wanted - dusk) / round_length).astype(np.int64)
        begin = np.clip(begin, 0, np.maximum(rounds - 1 - step * (most - 1), 0))
        shift, later = ((uniform(self.seed, name, night) * N_FIELDS).astype(np.int64) for name in ("shift", "later"))
        place = 2 * ((field + shift + np.where(again, later // 2, 0)) % N_FIELDS) + again
        tick = np.ceil(dusk / TICK) + (begin + step * turn) * 2 * N_FIELDS + place
        part = 0.1 + 0.8 * uniform(self.seed, "time", field, night * 64 + turn + 32 * again)
        return np.round(night + (tick + part) * TICK + JD_MINUS_MJD, 7) - JD_MINUS_MJD

    def _conditions(self, field: Ints, code: Ints, mjd: Floats, fid: Ints) -> tuple[Floats, ...]:
        seed, band = self.seed, fid - 1
        full_moon = 0.5 * (1.0 - np.cos(2 * np.pi * (mjd - 58872.9) / 29.530588))
        night = code // 100000 + NID_ZERO
        height = airmass((mjd - night - transit(CENTRE_RA[field - 1], night)) * 360.98565, CENTRE_DEC[field - 1])
        haze = np.where(np.isin(night, self.sure_nights), 0.05, 0.25)
        clouds = -haze * np.log(uniform(seed, "haze", night)) - 0.15 * np.log(uniform(seed, "clouds", code, field))
        clouds += 0.15 * (height - 1.0)
        fwhm = 2.2 * height**0.6 * np.exp(0.12 * normal(seed, "seeing night", night))
        fwhm = np.clip(fwhm * np.exp(0.17 * normal(seed, "seeing", code, field)), 1.3, 6.0)
        limit = DARK_LIMIT[band] - MOON_LOSS[band] * full_moon**2 - clouds - 1.2 * np.log10(fwhm / 2.3)
        limit += 0.12 * normal(seed, "field depth", field, fid)
        limit = np.clip(limit + 0.08 * normal(seed, "depth", code, field), 16.4, 21.3)
        zp = ZERO_POINT[band] - 0.4 * clouds + 0.03 * normal(seed, "zero point", code, field)
        colour_term = COLOUR_TERM[band] + 0.012 * normal(seed, "colour term", code, field)
        sky = np.array([150.0, 250.0, 400.0])[band] * (1.0 + 2.0 * full_moon**2)
        is_bad = uniform(seed, "bad exposure", code, field) < BAD_SHARE
        gain = np.where(is_bad, 0.03, 0.006) * normal(seed, "gain", code, field)
        return limit, fwhm, zp, colour_term, sky, gain
