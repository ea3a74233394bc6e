"""Measurements: the values that the survey's pipeline reports for each point, as columns of the three packet records.

Quantities that the broker uses (fluxes, magnitudes, limits, positions, reference source, neighbours, histories, scores)
follow from the simulated sky; other ZTF fields (shapes, sky, zero point details …) are random within the real range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alerce_spark.simulation import survey
from alerce_spark.simulation.observations import Flags, Part, Points
from alerce_spark.simulation.packets import NULL_INT, Columns, Text, digits, text
from alerce_spark.simulation.randoms import Floats, Ints, normal, uniform
from alerce_spark.simulation.sources import KINDS, ZERO_FLUX, Objects, flux_of
from alerce_spark.simulation.survey import Visits

SENTINEL = -999.0
NO_FORCED = -99999.0
PIXEL_SCALE = 1.01
RADIAN_ARCSEC = 180.0 * 3600.0 / np.pi
MAG_PER_RELATIVE_FLUX = 2.5 / np.log(10.0)
#: Share of forced photometry that fails (procstatus 61), and of entries without a reference source.
FORCED_FAILED, FORCED_NO_REFERENCE = 0.2, 0.3
N_NEIGHBOURS = 3
#: Neighbours in packets are nearer than 30 arcsec.
FARTHEST = 28.0


def offset(ra: Floats, dec: Floats, east: Floats, north: Floats) -> tuple[Floats, Floats]:
    """ra, dec in degrees (to 1e-7, 0 ≤ ra < 360) of points `east` and `north` arcsec off; valid at the poles."""
    a, d = np.radians(ra), np.radians(dec)
    e, n = east / RADIAN_ARCSEC, north / RADIAN_ARCSEC
    x = np.cos(a) * np.cos(d) - e * np.sin(a) - n * np.cos(a) * np.sin(d)
    y = np.sin(a) * np.cos(d) + e * np.cos(a) - n * np.sin(a) * np.sin(d)
    z = np.sin(d) + n * np.cos(d)
    new_ra = np.round(np.mod(np.degrees(np.arctan2(y, x)), 360.0), 7)
    new_dec = np.asarray(np.round(np.degrees(np.arctan2(z, np.hypot(x, y))), 7), np.float64)
    return np.where(new_ra >= 360.0, 0.0, new_ra), new_dec


def separation(ra1: Floats, dec1: Floats, ra2: Floats, dec2: Floats) -> Floats:
    """Separation in arcsec of positions in degrees (haversine)."""
    d1, d2 = np.radians(dec1), np.radians(dec2)
    half = np.sin((d2 - d1) / 2) ** 2 + np.cos(d1) * np.cos(d2) * np.sin(np.radians(ra2 - ra1) / 2) ** 2
    return 2.0 * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0))) * RADIAN_ARCSEC


@dataclass(frozen=True)
class Surroundings:
    """Surroundings of each object: the reference source and the nearest PS1 sources, nearest first.

    Arrays have one value for each object; mag (3, objects) in g, r, i, PS1 ones (3 sources, objects), ps1_mag
    (4 bands griz, 3 sources, objects). Degrees and magnitudes; -999 where PS1 has no magnitude.
    """

    ra: Floats
    dec: Floats
    mag: Floats
    is_star: Flags
    ps1_ra: Floats
    ps1_dec: Floats
    ps1_mag: Floats
    ps1_id: Ints
    ps1_score: Floats
    ps1_count: Ints

    @property
    def sgscore1(self) -> Floats:
        """Score of the nearest PS1 source as in packets, -999 without one."""
        return np.where(self.ps1_count > 0, self.ps1_score[0], SENTINEL)


def surroundings(seed: int, objects: Objects, parts: Sequence[Part]) -> Surroundings:
    """Reference source and PS1 neighbours of `objects`, which consist of `parts`."""
    n, index = len(objects), objects.index
    mag, reach, near_score, has_class = np.zeros((3, n)), np.zeros(n), np.zeros(n), np.zeros(n, bool)
    for part in parts:
        mag[:, part.rows] = part.kind.reference(part.draws)
        reach[part.rows] = np.minimum(part.kind.separation(part.draws), FARTHEST)
        near_score[part.rows] = part.kind.star_score(part.draws)
        has_class[part.rows] = bool(part.kind.branch)
    is_star = near_score > 0.5
    angle = 2 * np.pi * uniform(seed, "angle", index)
    ra, dec = offset(objects.ra, objects.dec, reach * np.sin(angle), reach * np.cos(angle))

    count = (uniform(seed, "ps1 count", index) ** 2 * 24).astype(np.int64) + has_class
    beyond = np.sort([uniform(seed, f"ps1 far {k}", index) for k in range(1, N_NEIGHBOURS)], axis=0)
    far = reach + 1.0 + (FARTHEST - reach) * beyond
    ps1_ra, ps1_dec = np.empty((N_NEIGHBOURS, n)), np.empty((N_NEIGHBOURS, n))
    ps1_ra[0], ps1_dec[0] = ra, dec
    ps1_mag = np.empty((4, N_NEIGHBOURS, n))
    ps1_mag[:, 0] = np.stack([mag[0], mag[1], mag[2], mag[2] - 0.1]) + 0.03
    score = np.empty((N_NEIGHBOURS, n))
    score[0] = near_score
    for k in range(1, N_NEIGHBOURS):
        turn = 2 * np.pi * uniform(seed, f"ps1 angle {k}", index)
        ps1_ra[k], ps1_dec[k] = offset(objects.ra, objects.dec, far[k - 1] * np.sin(turn), far[k - 1] * np.cos(turn))
        r_mag = 22.5 - 6.0 * uniform(seed, f"ps1 mag {k}", index) ** 2
        ps1_mag[:, k] = r_mag + np.array([0.6, 0.0, -0.25, -0.35])[:, None]
        score[k] = uniform(seed, f"ps1 score {k}", index)
    ps1_mag[ps1_mag > 22.4] = SENTINEL
    # Pan-STARRS numbers its sources by zone of declination (1/120 degree), right ascension and a rest: 17 or 18 digits.
    zone = np.floor((ps1_dec + 90.0) * 120.0).astype(np.int64)
    rest = (1000 * uniform(seed, "ps1 id", index)).astype(np.int64)
    ps1_id = zone * 10**13 + np.floor(ps1_ra * 1e7).astype(np.int64) * 1000 + rest
    return Surroundings(ra, dec, mag, is_star, ps1_ra, ps1_dec, ps1_mag, ps1_id, score, count)


@dataclass(frozen=True)
class Context:
    """Input of a measurement: the sky's seed, some objects with surroundings, their points, and the survey's visits.

    scatter: astrometric error in arcsec along each axis.
    """

    seed: int
    scatter: float
    objects: Objects
    around: Surroundings
    visits: Visits
    points: Points


def pid_of(code: Ints, rcid: Ints) -> Ints:
    """Processing id: night, time of night in 1e-5 d, readout channel, 15."""
    return code * 10000 + rcid * 100 + 15


def candid_of(code: Ints, rcid: Ints, tblid: Ints, is_brighter: Flags) -> Ints:
    """Candidate id: pid, then 15 (brighter) or 10 (fainter) thousand and the row of the extraction table, as ZTF's."""
    return pid_of(code, rcid) * 1000000 + (1 + tblid // 5000) * 10000 + np.where(is_brighter, 5000, 0) + tblid % 5000


def candids(objects: Objects, points: Points, rows: Ints) -> Ints:
    """Candidate ids of the detections at `rows` of `points`."""
    row = points.row[rows]
    tblid = objects.tblid[row] + points.is_twin[rows]
    return candid_of(points.code[rows], objects.rcid[row], tblid, points.flux[rows] > 0)


def exposure_columns(ctx: Context, rows: Ints) -> dict[str, Any]:
    """Columns of the exposure, common to detections and upper limits."""
    p, v = ctx.points, ctx.visits
    visit, rcid = p.visit[rows], ctx.objects.rcid[p.row[rows]]
    code, fid, zp = p.code[rows], p.fid[rows], v.zp[visit]
    is_tess = uniform(ctx.seed, "programme", code) < 0.02
    return {
        "jd": v.jd[visit],
        "fid": fid,
        "pid": pid_of(code, rcid),
        "diffmaglim": p.limit[rows],
        "programpi": text(np.where(is_tess, "TESS", "Kulkarni").tolist(), rows.size),
        "programid": np.ones(rows.size, np.int64),
        "nid": v.nid[visit],
        "rcid": rcid,
        "field": v.field[visit],
        "magzpsci": zp,
        "magzpsciunc": 3e-6 * 10.0 ** (0.25 * normal(ctx.seed, "zpunc", code, rcid)),
        "magzpscirms": 0.034 * np.exp(0.15 * normal(ctx.seed, "zprms", code, rcid)),
        "clrcoeff": v.colour_term[visit],
        "clrcounc": 8e-6 * 10.0 ** (0.25 * normal(ctx.seed, "clrunc", code, rcid)),
        "rbversion": text("t17_f5_c3", rows.size),
    }


def file_names(ctx: Context, rows: Ints, archived: bool) -> Text:
    """Names of the difference images: bare, as in an alert, or with the archive's path, as in a history."""
    p, n = ctx.points, rows.size
    code, rcid = p.code[rows], ctx.objects.rcid[p.row[rows]]
    day = (np.datetime64("1858-11-17") + (code // 100000 + survey.NID_ZERO)).astype("datetime64[D]")
    month = day.astype("datetime64[M]").astype(np.int64)
    year, month_of_year = month // 12 + 1970, month % 12 + 1
    day_of_month = (day - day.astype("datetime64[M]")).astype(np.int64) + 1
    yyyy, mmdd = digits(year, 4), np.hstack([digits(month_of_year, 2), digits(day_of_month, 2)])
    part = digits(code % 100000 * 10, 6)

    def same(word: str) -> np.ndarray:
        return text(word, n).chars

    band = np.frombuffer(b"gri", np.uint8)[p.fid[rows] - 1][:, None]
    name = [same("ztf_"), yyyy, mmdd, part, same("_"), digits(ctx.objects.field[p.row[rows]], 6), same("_z"), band]
    name += [same("_c"), digits(rcid // 4 + 1, 2), same("_o_q"), digits(rcid % 4 + 1, 1), same("_scimrefdiffimg.fits")]
    if archived:
        path = [same("/ztf/archive/sci/"), yyyy, same("/"), mmdd, same("/"), part, same("/")]
        name = [*path, *name, same(".fz")]
    chars = np.hstack(name)
    return Text(chars, np.full(n, chars.shape[1]))


def photometry_columns(ctx: Context, rows: Ints) -> dict[str, Any]:
    """Columns from which the broker makes light curves, of the detections at `rows`.

    Position [deg], difference magnitude and error, reference source, and the real/bogus score.
    """
    p, o, s = ctx.points, ctx.objects, ctx.around
    row, fid, code = p.row[rows], p.fid[rows], p.code[rows]
    key = o.index[row] * 2 + p.is_twin[rows]
    size = np.abs(p.flux[rows])
    east, north = normal(ctx.seed, "east", key, code), normal(ctx.seed, "north", key, code)
    ra, dec = offset(o.ra[row], o.dec[row], ctx.scatter * east, ctx.scatter * north)
    return {
        "ra": ra,
        "dec": dec,
        "magpsf": ZERO_FLUX - 2.5 * np.log10(size),
        "sigmapsf": MAG_PER_RELATIVE_FLUX * p.sigma[rows] / size,
        "distnr": separation(ra, dec, s.ra[row], s.dec[row]) / PIXEL_SCALE,
        **_reference_photometry(s, row, fid),
        "rb": _real_bogus(ctx, rows, key),
    }


def _real_bogus(ctx: Context, rows: Ints, key: Ints) -> Floats:
    """Score `rb` of detections: low for artefacts, else a logistic curve of normal deviates.

    In real packets its median is 0.75 at signal-to-noise below 7, 0.84 to 12, 0.90 to 25 and 0.80 above; that of whole
    objects scatters and is lower in the crowded Galactic plane (0.75) than far from it (0.9).
    """
    p, o = ctx.points, ctx.objects
    row, code = p.row[rows], p.code[rows]
    snr = np.abs(p.flux[rows]) / p.sigma[rows]
    typical = np.interp(np.log(snr), np.log([5.0, 8.0, 12.0, 20.0, 35.0]), [0.75, 1.35, 1.75, 1.7, 1.1])
    crowding = np.minimum(np.abs(survey.GALACTIC_LATITUDE[o.field - 1]), 40.0) / 40.0 - 0.4
    of_object = crowding + 0.5 * normal(ctx.seed, "rb of object", o.index)
    deviate = of_object[row] + 0.8 * normal(ctx.seed, "rb", key, code)
    is_real = np.array([kind.is_real for kind in KINDS])[o.kind[row]]
    score = 1.0 / (1.0 + np.exp(-typical - deviate))
    return np.where(is_real, np.clip(score, 0.01, 0.99), 0.02 + 0.5 * uniform(ctx.seed, "rb", key, code))


def detection_columns(ctx: Context, rows: Ints) -> dict[str, Any]:
    """Numeric columns of detections that alerts and histories share; `rows` are detections."""
    p, o, s, v = ctx.points, ctx.objects, ctx.around, ctx.visits
    row, visit, fid = p.row[rows], p.visit[rows], p.fid[rows]
    key = o.index[row] * 2 + p.is_twin[rows]
    code, flux, sigma, limit = p.code[rows], p.flux[rows], p.sigma[rows], p.limit[rows]

    def u(name: str) -> Floats:
        return uniform(ctx.seed, name, key, code)

    def g(name: str) -> Floats:
        return normal(ctx.seed, name, key, code)

    photometry = photometry_columns(ctx, rows)
    ra, dec, magpsf, sigmapsf = (photometry[name] for name in ("ra", "dec", "magpsf", "sigmapsf"))
    x, y = survey.pixel_on_chip(ra, dec)
    edge = np.minimum(np.minimum(x, survey.X_PIXELS - x), np.minimum(y, survey.Y_PIXELS - y))
    snr = np.abs(flux) / sigma
    magdiff = 0.6 * sigmapsf * g("magdiff") + 0.01
    magap = magpsf + magdiff
    noise = MAG_PER_RELATIVE_FLUX / 5.0 * flux_of(limit) / np.abs(flux)
    sigmagap = np.hypot(1.15 * noise, 0.004)
    is_real = np.array([kind.is_real for kind in KINDS])[o.kind[row]]
    is_asteroid = np.array([kind.scene == "mover" for kind in KINDS])[o.kind[row]]
    fwhm = v.fwhm[visit] * np.exp(0.2 * g("fwhm"))
    bimage = fwhm * (0.29 + 0.05 * np.abs(g("bimage")))
    elong = 1.0 + 0.1 * np.abs(g("elong")) + np.where(is_real, 0.0, 0.4 * u("elong bogus"))
    return {
        "candid": candids(o, p, rows),
        "tblid": o.tblid[row] + p.is_twin[rows],
        "xpos": x,
        "ypos": y,
        **photometry,
        "chipsf": np.exp(0.3 * np.abs(g("chipsf"))) * (1.0 + (snr / 40.0) ** 2) + np.where(is_real, 0.0, 15 * u("chi")),
        "magap": magap,
        "sigmagap": sigmagap,
        **_reference_shape(ctx, row, fid),
        "sky": 0.6 * g("sky"),
        "magdiff": magdiff,
        "fwhm": fwhm,
        "classtar": np.clip(1.0 - 0.25 * u("classtar") ** 3 - np.where(is_real, 0.0, 0.5 * u("class")), 0.0, 1.0),
        "mindtoedge": edge,
        "magfromlim": limit - magap,
        "seeratio": np.clip(fwhm / v.fwhm[visit], 0.4, 2.0),
        "aimage": bimage * elong,
        "bimage": bimage,
        "aimagerat": bimage * elong / fwhm,
        "bimagerat": bimage / fwhm,
        "elong": elong,
        "nneg": (np.where(is_real, 5.0, 13.0) * u("nneg") ** 2).astype(np.int64),
        "nbad": (u("nbad") > np.where(is_real, 0.99, 0.7)).astype(np.int64),
        "ssdistnr": np.where(is_asteroid, 0.2 + 1.6 * u("ssdistnr") ** 2, SENTINEL),
        "ssmagnr": np.where(is_asteroid, np.round(magpsf + 0.3 * g("ssmagnr"), 1), SENTINEL),
        "sumrat": np.where(is_real, 1.0 - 0.2 * u("sumrat") ** 4, 0.4 + 0.5 * u("sumrat")),
        "magapbig": magap + 0.5 * sigmagap * g("magapbig"),
        "sigmagapbig": 1.2 * sigmagap,
        "ranr": s.ra[row],
        "decnr": s.dec[row],
        "scorr": np.maximum(0.85 * snr * np.exp(0.4 * g("scorr")), 5.0 + 0.2 * u("scorr least")),
    }


def _reference_photometry(s: Surroundings, row: Ints, fid: Ints) -> dict[str, Floats]:
    """Magnitude and error in the reference catalogue of the nearest source to the objects `row` in the bands `fid`."""
    mag = s.mag[fid - 1, row]
    return {
        "magnr": np.round(mag, 3),
        "sigmagnr": np.round(0.01 + 0.3 * 10.0 ** (0.3 * (np.minimum(mag, 22.5) - 22.5)), 3),
    }


def _reference_shape(ctx: Context, row: Ints, fid: Ints) -> dict[str, Floats]:
    """Shape of the nearest source in the reference catalogue."""
    is_star, index = ctx.around.is_star[row], ctx.objects.index[row]
    return {
        "chinr": np.where(is_star, 0.7, 1.9) * np.exp(0.2 * normal(ctx.seed, "chinr", index, fid)),
        "sharpnr": np.where(is_star, -0.01, 0.25) + 0.03 * normal(ctx.seed, "sharpnr", index, fid),
    }


def sign_column(ctx: Context, rows: Ints, as_digits: bool, is_detection: Flags) -> Text:
    """`isdiffpos` as t/f or as 1/0; null for upper limits."""
    plus, minus = b"10" if as_digits else b"tf"
    chars = np.where(ctx.points.flux[rows] > 0, plus, minus).astype(np.uint8)[:, None]
    return Text(chars, np.where(is_detection, 1, -1))


def body_names(ctx: Context, rows: Ints) -> Text:
    """`ssnamenr`: a catalogue number for asteroids, the text "null" for everything else."""
    index = ctx.objects.index[ctx.points.row[rows]]
    is_asteroid = np.array([kind.scene == "mover" for kind in KINDS])[ctx.objects.kind[ctx.points.row[rows]]]
    number = (10000 + 89999 * uniform(ctx.seed, "ssnamenr", index)).astype(np.int64)
    chars = np.hstack([digits(number, 5)])
    chars[~is_asteroid, :4] = np.frombuffer(b"null", np.uint8)
    return Text(chars, np.where(is_asteroid, 5, 4))


def round_like_history(values: Floats) -> Floats:
    """Round to six significant digits, as ZTF does with the numbers of a packet's history."""
    size = np.floor(np.log10(np.maximum(np.abs(values), 1e-300)))
    scale = 10.0 ** (5.0 - size)
    return np.where(np.isfinite(values) & (values != 0.0), np.round(values * scale) / scale, values)


#: Numbers that histories keep in full: times and positions.
_UNROUNDED = frozenset({"jd", "ra", "dec", "ranr", "decnr", "distnr"})


def history_columns(
    ctx: Context, rows: Ints, as_digits: bool, rounded: bool, bad_limits: float, has_exposure_ids: bool
) -> Columns:
    """Columns of PRV_CANDIDATE for detections and upper limits at `rows`.

    rounded: six significant digits, as ZTF writes histories; else the exact values. bad_limits: share of upper limits
    whose diffmaglim is -999. has_exposure_ids: false if upper limits lack nid, rcid and field (old versions).
    """
    p = ctx.points
    n, is_detection = rows.size, p.is_detection[rows]
    at = np.flatnonzero(is_detection)
    columns = exposure_columns(ctx, rows)
    if bad_limits > 0:
        index = ctx.objects.index[p.row[rows]]
        is_bad = ~is_detection & (uniform(ctx.seed, "bad limit", index, p.code[rows]) < bad_limits)
        columns["diffmaglim"] = np.where(is_bad, SENTINEL, columns["diffmaglim"])
    if not has_exposure_ids:
        for name in ("nid", "rcid", "field"):
            columns[name] = np.where(is_detection, columns[name], NULL_INT)
    for name, values in detection_columns(ctx, rows[at]).items():
        columns[name] = np.full(n, np.nan if values.dtype.kind == "f" else NULL_INT, values.dtype)
        columns[name][at] = values
    for name in ("ssdistnr", "ssmagnr"):  # ZTF's histories do not have them
        columns[name] = np.full(n, np.nan)
    columns["ssnamenr"] = Text(np.zeros((n, 1), np.uint8), np.full(n, -1))
    if rounded:
        for name, column in columns.items():
            if name not in _UNROUNDED and not isinstance(column, Text) and column.dtype.kind == "f":
                columns[name] = round_like_history(column)
    columns["isdiffpos"] = sign_column(ctx, rows, as_digits, is_detection)
    columns["pdiffimfilename"] = file_names(ctx, rows, archived=True)
    return columns


def candidate_columns(ctx: Context, rows: Ints, as_digits: Flags, earlier: Ints, first_jd: Floats) -> Columns:
    """Columns of CANDIDATE for the alerts at `rows`.

    as_digits: mask of alerts that write isdiffpos as 1/0. earlier: number of detections of the object up to and
    including this one (`ndethist`), the first at first_jd.
    """
    p, o = ctx.points, ctx.objects
    row, fid, n = p.row[rows], p.fid[rows], rows.size
    index, code = o.index[row], p.code[rows]

    def u(name: str) -> Floats:
        return uniform(ctx.seed, name, index, code)

    columns = {**detection_columns(ctx, rows), **exposure_columns(ctx, rows)}
    ra, dec, jd = columns["ra"], columns["dec"], columns["jd"]
    snr = p.sigma[rows] / np.abs(p.flux[rows])
    signs = [sign_column(ctx, rows, spelled, np.ones(n, bool)).chars for spelled in (False, True)]
    columns["isdiffpos"] = Text(np.where(as_digits[:, None], signs[1], signs[0]), np.ones(n, np.int64))
    columns["pdiffimfilename"] = file_names(ctx, rows, archived=False)
    columns["ssnamenr"] = body_names(ctx, rows)
    columns |= _neighbour_columns(ctx, row, ra, dec)
    is_real = np.array([kind.is_real for kind in KINDS])[o.kind[row]]
    covered = np.floor((jd - 2458150.0) * (0.35 + 0.4 * uniform(ctx.seed, "coverage", o.field[row])))
    template = o.field[row] * 10000 + fid * 100 + o.rcid[row]
    start_ref = np.round(2458154.6 + 130.0 * uniform(ctx.seed, "reference start", template), 6)
    peak = 1.0 / snr
    dsnrms, ssnrms = peak * (0.6 + 0.3 * u("dsnrms")), peak * (1.5 + u("ssnrms"))
    return columns | {
        "ndethist": earlier,
        "ncovhist": np.maximum(covered.astype(np.int64), 0) + earlier,
        "jdstarthist": first_jd,
        "jdendhist": jd,
        "tooflag": np.zeros(n, np.int64),
        "rfid": o.field[row] * 1000000 + 120000 + fid * 100 + o.rcid[row],
        "jdstartref": start_ref,
        "jdendref": np.round(start_ref + 30.0 + 150.0 * uniform(ctx.seed, "reference span", template), 6),
        "nframesref": 15 + (3 * uniform(ctx.seed, "reference frames", template)).astype(np.int64),
        "dsnrms": dsnrms,
        "ssnrms": ssnrms,
        "dsdiff": dsnrms - ssnrms,
        "nmatches": (400 + 1500 * uniform(ctx.seed, "calibrators", template)).astype(np.int64),
        "zpclrcov": -5e-6 * 10.0 ** (0.3 * normal(ctx.seed, "zpclrcov", code)),
        "zpmed": columns["magzpsci"] + 0.04,
        "clrmed": 0.45 + 0.3 * uniform(ctx.seed, "clrmed", template),
        "clrrms": 0.18 + 0.15 * uniform(ctx.seed, "clrrms", template),
        "exptime": np.full(n, 30.0),
        "drb": np.where(is_real, 1.0 - 10.0 ** (-1.0 - 4.0 * u("drb")), 10.0 ** (-0.3 - 4.0 * u("drb"))),
        "drbversion": text("d6_m7", n),
    }


def _neighbour_columns(ctx: Context, row: Ints, ra: Floats, dec: Floats) -> dict[str, Any]:
    """PS1 and Gaia neighbours of alerts at ra, dec of the objects `row`; sentinels without one."""
    s, index = ctx.around, ctx.objects.index[row]
    columns: dict[str, Any] = {"nmtchps": s.ps1_count[row]}
    for k in range(N_NEIGHBOURS):
        has = s.ps1_count[row] > k
        number = str(k + 1)
        for b, band in enumerate("griz"):
            columns[f"s{band}mag{number}"] = np.where(has, s.ps1_mag[b, k, row], SENTINEL)
        columns[f"sgscore{number}"] = np.where(has, s.ps1_score[k, row], SENTINEL)
        away = separation(ra, dec, s.ps1_ra[k, row], s.ps1_dec[k, row])
        columns[f"distpsnr{number}"] = np.where(has, away, SENTINEL)
        columns[f"objectidps{number}"] = np.where(has, s.ps1_id[k, row], int(SENTINEL))
    near = separation(ra, dec, s.ra[row], s.dec[row])
    in_gaia = s.mag[1, row] < 20.8
    has_bright = uniform(ctx.seed, "gaia bright", index) < 0.5
    return columns | {
        "neargaia": np.where(in_gaia, near + 0.01, 5.0 + 40.0 * uniform(ctx.seed, "gaia", index)),
        "maggaia": np.where(in_gaia, s.mag[1, row] + 0.1, 15.0 + 5.5 * uniform(ctx.seed, "gaia mag", index)),
        "neargaiabright": np.where(has_bright, 10.0 + 80.0 * uniform(ctx.seed, "gaia near", index), SENTINEL),
        "maggaiabright": np.where(has_bright, 14.0 - 3.0 * uniform(ctx.seed, "gaia bmag", index) ** 2, SENTINEL),
    }


def forced_columns(ctx: Context, rows: Ints) -> Columns:
    """Columns of FP_HIST for every visit at `rows`: flux in DN of the image's zero point, -99999 if it failed."""
    p, o, s, v = ctx.points, ctx.objects, ctx.around, ctx.visits
    row, visit, fid = p.row[rows], p.visit[rows], p.fid[rows]
    index, code, n = o.index[row], p.code[rows], rows.size
    to_dn = 10.0 ** (0.4 * (v.zp[visit] - ZERO_FLUX))
    draw = uniform(ctx.seed, "forced", index, code)
    failed = draw < FORCED_FAILED
    unknown = failed | (draw < FORCED_FAILED + FORCED_NO_REFERENCE)
    status = np.where(failed, "61", np.where(unknown, "56", "0")).tolist()
    columns = exposure_columns(ctx, rows)
    reference = {
        "distnr": separation(o.ra[row], o.dec[row], s.ra[row], s.dec[row]) / PIXEL_SCALE,
        "ranr": s.ra[row],
        "decnr": s.dec[row],
        **_reference_photometry(s, row, fid),
        **_reference_shape(ctx, row, fid),
    }
    return (
        columns
        | {name: np.where(unknown, NO_FORCED, values) for name, values in reference.items()}
        | {
            "rfid": o.field[row] * 1000000 + 120000 + fid * 100 + o.rcid[row],
            "sciinpseeing": v.fwhm[visit],
            "scibckgnd": v.sky[visit],
            "scisigpix": 0.6 * np.sqrt(v.sky[visit]),
            "exptime": np.full(n, 30.0),
            "adpctdif1": 0.08 + 0.02 * uniform(ctx.seed, "adpct1", code),
            "adpctdif2": 0.08 + 0.02 * uniform(ctx.seed, "adpct2", code),
            "forcediffimflux": np.where(failed, NO_FORCED, p.flux[rows] * to_dn),
            "forcediffimfluxunc": np.where(failed, NO_FORCED, 0.8 * p.background[rows] * to_dn),
            "procstatus": text(status, n),
        }
    )
