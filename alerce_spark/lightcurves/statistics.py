"""Statistics of light curves: one row for each object and band (magstats), one for each object (objects).

Columns and rules are those of ALeRCE's database as of the paper (its bulk version), except where it is known to be
wrong: names match their content, undefined magnitudes are left out instead of entering as 100, and right ascensions
may straddle 0/360. *First* and *last* are by mjd, then candid. Standard deviations have ddof 1: NaN for one point.

A `det` argument holds flat columns of n detections, (oid, candid) unique, in any order; nothing depends on the order:

| column | type, unit | |
|---|---|---|
| candid, fid | integer | |
| mjd | d | finite |
| magpsf, sigmapsf, magap | mag | |
| magpsf_corr | mag | NaN where undefined: `correction.correct` |
| ra, dec | deg | |
| isdiffpos | | +1, -1 or NaN |
| corrected, dubious | bool | `summarise` computes dubious |
| distnr, chinr, sharpnr, distpsnr1, sgscore1 | | counterparts, as in the packet |
| rfid | integer | NULL_RFID for null |
| mjdendref or jdendref | d | end of the reference image |
| ndethist, ncovhist, mjdstarthist or jdstarthist, mjdendhist or jdendhist | d | history of the position |

Floats are NaN where null. Detections known only from the `prv_candidates` of a packet lack distpsnr1, sgscore1, rfid,
the end of the reference and the history, so:

* distnr, chinr and sharpnr come from the first detection of the band, as `corrected` does;
* the PS1 counterpart (distpsnr1, sgscore1) comes from the first detection of the band that has it, or if none has it,
  from the first of the object: it does not depend on the band, and packets of the other bands list the same source;
* the history comes from the last detection of the object that has ndethist, all four values from one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alerce_spark.lightcurves._groups import (
    Groups,
    count_distinct,
    describe,
    floats,
    group_rows,
    integers,
    mean_angle,
    pick,
    same_length,
    total,
    value_at,
)
from alerce_spark.lightcurves.correction import dubious, stellar_flags
from alerce_spark.lightcurves.nondetections import DMDT, dmdt
from alerce_spark.surveys.survey import MJD_ZERO

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
Columns = Mapping[str, NDArray]

#: Null in the integer column rfid.
NULL_RFID = np.iinfo(np.int64).min
#: Corrected magnitudes brighter than this are saturated in ZTF.
SATURATION = 13.2

_SEVEN = ("mean", "median", "max", "min", "sigma", "last", "first")
_MAGPSF = tuple(f"mag{name}" for name in _SEVEN)
_MAGPSF_CORR = tuple(f"mag{name}_corr" for name in _SEVEN)
_MAGAP = tuple(f"magap{name}" for name in _SEVEN)
_NEIGHBOURS = ("nearZTF", "nearPS1", "stellarZTF", "stellarPS1")
_TIMES = ("sigmapsf_first", "firstmjd", "lastmjd", "saturation_rate")

#: Columns of one object and band after `object` and `fid`, in order. ALeRCE's names; the seven of the aperture
#: magnitude are magapmean to magapfirst.
MAGSTATS = (
    *("stellar", "corrected", "ndet", "ndubious", "nrfid"),
    *(*DMDT, *_MAGPSF, *_MAGPSF_CORR, *_MAGAP, *_TIMES, *_NEIGHBOURS),
)

#: Columns of one object, in order.
OBJECTS = (
    *("ndethist", "ncovhist", "mjdstarthist", "mjdendhist", "corrected", "stellar", "ndet", "ndubious"),
    *("g_r_max", "g_r_max_corr", "g_r_mean", "g_r_mean_corr", "meanra", "meandec", "sigmara", "sigmadec"),
    *("firstmjd", "lastmjd", "deltamjd", "diffpos", "reference_change", "nearZTF", "nearPS1"),
)


@dataclass(frozen=True)
class _Sorted:
    """Detections in the order of their groups."""

    groups: Groups
    det: Columns
    mjd: Float
    candid: Int

    @classmethod
    def of(cls, group: ArrayLike, det: Columns, n_objects: int | None) -> _Sorted:
        objects = integers(group, "group")
        if n_objects is None:
            n_objects = int(objects.max()) + 1 if len(objects) else 0
        fid, candid, mjd = integers(det["fid"], "fid"), integers(det["candid"], "candid"), floats(det["mjd"])
        groups = group_rows(objects, fid, mjd, candid, n_objects)
        return cls(groups, det, mjd[groups.order], candid[groups.order])

    def floats(self, name: str) -> Float:
        return self._gather(name, np.asarray(self.det[name], dtype=np.float64))

    def flags(self, name: str) -> Bool:
        return self._gather(name, np.asarray(self.det[name], dtype=np.bool_))

    def integers(self, name: str) -> Int:
        return self._gather(name, integers(self.det[name], name))

    def _gather(self, name: str, values: NDArray) -> NDArray:
        same_length(**{"group": self.groups.order, name: values})
        return values[self.groups.order]

    def epoch(self, name: str) -> Float:
        """The time `mjd<name>` [d], from the column of that name or from `jd<name>`."""
        if f"mjd{name}" in self.det:
            return self.floats(f"mjd{name}")
        return self.floats(f"jd{name}") - MJD_ZERO


def summarise(
    group: ArrayLike, det: Columns, nondet: Columns | None, n_objects: int
) -> tuple[dict[str, NDArray], dict[str, NDArray], Bool]:
    """All statistics of a batch with one sort: magstats, objects and the dubious flags, (n,) in the order of the input.

    `group` (n,) is the object of each detection, 0 to n_objects - 1; `det` its columns (module text), where `dubious`
    is not read but computed against the first detection of each object and band. `nondet` holds the columns `object`,
    `fid`, `mjd` [d], `diffmaglim` [mag] of the non-detections of the same objects, in any order, or is None.
    Results as of `magstats` and `objects`; errors as there.
    """
    rows = _Sorted.of(group, det, n_objects)
    bounds = rows.groups.bounds
    corrected = rows.flags("corrected")
    first = np.repeat(corrected[bounds[:-1]], np.diff(bounds))
    flags = dubious(corrected, rows.floats("isdiffpos"), first)
    per_band = _magstats(rows, flags, nondet)
    per_object = _objects(rows, per_band, n_objects)
    unsorted = np.empty_like(flags)
    unsorted[rows.groups.order] = flags
    return per_band, per_object, unsorted


def magstats(group: ArrayLike, det: Columns, nondet: Columns | None = None) -> dict[str, NDArray]:
    """Statistics of each object and band: columns `object`, `fid`, then MAGSTATS, sorted by object and fid, shape (m,).

    Mean, median, extremes and standard deviation skip undefined magnitudes; first and last are the values of the first
    and last detection, undefined or not. `corrected` is that of the first detection. `nrfid` counts reference images.
    `saturation_rate` is the share of detections brighter than 13.2 mag among those with a corrected magnitude, NaN
    without any. Without `nondet` (see `summarise`) the dm/dt columns are NaN and `close_nondet` is false.
    Counts are int64, flags bool, all others float64 with NaN for null.

    Raises KeyError for a missing column, TypeError for ids that are not integers, ValueError for columns of different
    lengths, an object out of range or an mjd that is not finite.
    """
    rows = _Sorted.of(group, det, None)
    return _magstats(rows, rows.flags("dubious"), nondet)


def objects(group: ArrayLike, det: Columns, magstats_result: Columns, n_objects: int) -> dict[str, NDArray]:
    """Statistics of each object: columns OBJECTS, row i for object i, shape (n_objects,).

    `magstats_result` is the result of `magstats` for the same detections. Positions are plain means over all detections
    [deg], meanra in [0, 360). `corrected`, `stellar`, `nearZTF`, `nearPS1` are true if true in every band; `ndet` and
    `ndubious` are sums. `g_r_max` is brightest g minus brightest r, `g_r_mean` mean g minus mean r. `diffpos`: no
    detection is negative. `reference_change`: a reference image ends after the first detection. Counts and flags of an
    object without detections are 0 and false; ndethist and ncovhist are float64, as they may be null. Errors as
    `magstats`.
    """
    return _objects(_Sorted.of(group, det, n_objects), magstats_result, n_objects)


def _magstats(rows: _Sorted, dubious_rows: Bool, nondet: Columns | None) -> dict[str, NDArray]:
    groups, bounds = rows.groups, rows.groups.bounds
    first, last = bounds[:-1], bounds[1:] - 1
    corrected, magpsf_corr = rows.flags("corrected"), rows.floats("magpsf_corr")
    measured = corrected & np.isfinite(magpsf_corr)
    n_measured = total(measured, bounds)
    saturated = total(measured & (magpsf_corr < SATURATION), bounds)
    out: dict[str, NDArray] = {
        "object": groups.object,
        "fid": groups.fid,
        "corrected": corrected[first],
        "ndet": np.diff(bounds),
        "ndubious": total(dubious_rows, bounds),
        "nrfid": count_distinct(rows.integers("rfid"), bounds, NULL_RFID),
        "sigmapsf_first": rows.floats("sigmapsf")[first],
        "firstmjd": rows.mjd[first],
        "lastmjd": rows.mjd[last],
        "saturation_rate": np.divide(saturated, n_measured, out=np.full(len(first), np.nan), where=n_measured > 0),
        **dict(zip(_MAGPSF, describe(rows.floats("magpsf"), bounds), strict=True)),
        **dict(zip(_MAGPSF_CORR, describe(magpsf_corr, bounds), strict=True)),
        **dict(zip(_MAGAP, describe(rows.floats("magap"), bounds), strict=True)),
        **_counterparts(rows),
    }
    out |= _rise(out, nondet)
    return {name: out[name] for name in ("object", "fid", *MAGSTATS)}


def _counterparts(rows: _Sorted) -> dict[str, NDArray]:
    """Stellar flags of each object and band, from the rows that the module text names."""
    groups = rows.groups
    first = groups.bounds[:-1]
    distpsnr1 = rows.floats("distpsnr1")
    known = np.isfinite(distpsnr1)
    of_band = pick(known, groups.bounds, rows.mjd, rows.candid, False)
    of_object = pick(known, groups.object_bounds, rows.mjd, rows.candid, False)
    ps1 = np.where(of_band >= 0, of_band, of_object[groups.slot])
    return stellar_flags(
        rows.floats("distnr")[first],
        value_at(distpsnr1, ps1),
        value_at(rows.floats("sgscore1"), ps1),
        rows.floats("chinr")[first],
        rows.floats("sharpnr")[first],
    )._asdict()


def _rise(stats: Columns, nondet: Columns | None) -> dict[str, NDArray]:
    if nondet is None:
        nondet = dict.fromkeys(("object", "fid", "mjd", "diffmaglim"), np.empty(0, np.int64))
    return dmdt(
        stats["object"],
        stats["fid"],
        stats["firstmjd"],
        stats["magfirst"],
        stats["sigmapsf_first"],
        nondet["object"],
        nondet["fid"],
        nondet["mjd"],
        nondet["diffmaglim"],
    )


def _objects(rows: _Sorted, stats: Columns, n_objects: int) -> dict[str, NDArray]:
    groups, bounds = rows.groups, rows.groups.object_bounds
    first = bounds[:-1]
    ra, sigmara = mean_angle(rows.floats("ra"), bounds)
    dec, sigmadec = mean_angle(rows.floats("dec"), bounds)
    ra = np.mod(ra, 360.0)
    sign, ndethist = rows.floats("isdiffpos"), rows.floats("ndethist")
    latest = pick(np.isfinite(ndethist), bounds, rows.mjd, rows.candid, True)
    firstmjd = np.minimum.reduceat(rows.mjd, first)
    lastmjd = np.maximum.reduceat(rows.mjd, first)
    of_present: dict[str, NDArray] = {
        "ndethist": value_at(ndethist, latest),
        "ncovhist": value_at(rows.floats("ncovhist"), latest),
        "mjdstarthist": value_at(rows.epoch("starthist"), latest),
        "mjdendhist": value_at(rows.epoch("endhist"), latest),
        "meanra": np.where(ra == 360.0, 0.0, ra),  # np.mod(-1e-20, 360) rounds to 360
        "meandec": dec,
        "sigmara": sigmara,
        "sigmadec": sigmadec,
        "firstmjd": firstmjd,
        "lastmjd": lastmjd,
        "deltamjd": lastmjd - firstmjd,
        "diffpos": np.fmin.reduceat(sign, first) > 0,
        "reference_change": np.fmax.reduceat(rows.epoch("endref"), first) > firstmjd,
    }
    out = {name: _scatter(values, groups.present, n_objects) for name, values in of_present.items()}
    out |= _over_bands(stats, n_objects)
    return {name: out[name] for name in OBJECTS}


def _scatter(values: NDArray, where: Int, n: int) -> NDArray:
    """An array of n with `values` at `where`, NaN or false elsewhere."""
    out = np.zeros(n, np.bool_) if values.dtype == np.bool_ else np.full(n, np.nan)
    out[where] = values
    return out


def _over_bands(stats: Columns, n_objects: int) -> dict[str, NDArray]:
    """Statistics of an object over its rows in magstats."""
    of, fid = stats["object"], stats["fid"]
    out: dict[str, NDArray] = {}
    for name in ("corrected", "stellar", "nearZTF", "nearPS1"):
        out[name] = _scatter(np.ones(len(of), np.bool_), of, n_objects)
        out[name][of[~stats[name]]] = False
    for name in ("ndet", "ndubious"):
        out[name] = np.zeros(n_objects, np.int64)
        np.add.at(out[name], of, stats[name])
    for name, column in (
        ("g_r_max", "magmin"),
        ("g_r_max_corr", "magmin_corr"),
        ("g_r_mean", "magmean"),
        ("g_r_mean_corr", "magmean_corr"),
    ):
        g, r = (_scatter(stats[column][fid == band], of[fid == band], n_objects) for band in (1, 2))
        out[name] = g - r
    return out
