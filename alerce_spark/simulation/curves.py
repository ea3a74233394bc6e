"""Labelled light curves without packets: the broker's data on simulated objects, made fast, for training.

Uses the same code as the packets (visits, `observe`, measurements), then the broker's correction
(lightcurves/correction.py) and selection (features/select.py). An object has the same magnitudes here and in packets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from alerce_spark.features import curves as features
from alerce_spark.features.select import MAX_ERROR, MIN_DETECTIONS, MIN_RB, from_offsets
from alerce_spark.lightcurves.correction import correct
from alerce_spark.simulation.measurements import Context, candids, photometry_columns, surroundings
from alerce_spark.simulation.observations import Part, Points, observe
from alerce_spark.simulation.randoms import Floats, Ints, uniform
from alerce_spark.simulation.simulator import HISTORY_DAYS
from alerce_spark.simulation.sources import KIND_NAMES, KINDS, Draws, Objects, object_ids
from alerce_spark.simulation.survey import N_FIELDS, Survey, Visits, field_of

#: Kinds that have a light curve and therefore a class.
CLASSES = tuple(kind.name for kind in KINDS if kind.branch)
#: First night of the survey, and its length in days: ZTF's from its first public alerts to the end of 2021.
FIRST_NIGHT, SURVEY_DAYS = 58200, 1280
#: Objects made at a time, and the mean number of tries per object before giving up.
_BLOCK, _TRIES = 1024, 200

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LabelledCurves:
    """n objects with detections and upper limits, as the broker would have them, and their true properties.

    Object i has detections `offsets[i]:offsets[i + 1]` and upper limits `limit_offsets[i]:limit_offsets[i + 1]`, in
    time order. `detections` has the columns of features/select.py: candid, mjd [d], fid, diffmaglim, magpsf, sigmapsf,
    magpsf_corr, sigmapsf_corr_ext [mag], isdiffpos (+1, -1), corrected, ra, dec [deg], rb, sgscore1; `non_detections`
    mjd, fid, diffmaglim. `wise` is (4, n), W1 to W4, NaN where none. `truth` has one value an object: ra, dec, begin
    and end of its observation [mjd] and its brightest difference magnitude `peak`.
    """

    oid: NDArray[np.object_]
    label: NDArray[np.str_]
    offsets: Ints
    detections: Columns
    limit_offsets: Ints
    non_detections: Columns
    wise: Floats
    truth: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.oid)

    def objects(self) -> features.Objects:
        """The objects after the selection of the features, in the same order."""
        wise = {f"w{k}mpro": values for k, values in enumerate(self.wise, 1)}
        return from_offsets(self.oid, self.offsets, self.detections, self.limit_offsets, self.non_detections, wise)

    def take(self, rows: Any) -> LabelledCurves:
        """The objects at `rows` (indices or a mask)."""
        chosen = np.arange(len(self))[rows]
        at, offsets = _rows_of(self.offsets, chosen)
        limits_at, limit_offsets = _rows_of(self.limit_offsets, chosen)
        return LabelledCurves(
            self.oid[chosen],
            self.label[chosen],
            offsets,
            {name: column[at] for name, column in self.detections.items()},
            limit_offsets,
            {name: column[limits_at] for name, column in self.non_detections.items()},
            self.wise[:, chosen],
            {name: column[chosen] for name, column in self.truth.items()},
        )

    def keep(self, detections: NDArray[np.bool_], limits: NDArray[np.bool_]) -> LabelledCurves:
        """The same objects with only the detections and upper limits selected by the masks."""
        return LabelledCurves(
            self.oid,
            self.label,
            _counted(self.offsets, detections),
            {name: column[detections] for name, column in self.detections.items()},
            _counted(self.limit_offsets, limits),
            {name: column[limits] for name, column in self.non_detections.items()},
            self.wise,
            self.truth,
        )


def light_curves(
    seed: int,
    counts: Mapping[str, int] | int,
    *,
    start_mjd: float = FIRST_NIGHT,
    survey_days: int = SURVEY_DAYS,
    span_days: tuple[float, float] = (180.0, 1280.0),
    cadence: int = 3,
    visits_per_night: int = 2,
    scatter: float = 0.1,
) -> LabelledCurves:
    """Objects with enough usable detections for features: `counts[name]` of each class, or one number for every class.

    Positions follow the population. Each object is observed for a random time, uniform in `span_days`, within
    `survey_days` from `start_mjd`. An object that the broker could not classify is replaced by another of its class.
    The other arguments are those of `night.simulate`. Seed and arguments determine the result; the counts change only
    the number of objects of a class, not the objects. Ordered by class as in `counts`. Raises ValueError for an unknown
    class, a negative count or a span longer than the survey, RuntimeError for a class that is hardly ever detected.
    """
    requested = dict.fromkeys(CLASSES, counts) if isinstance(counts, int) else dict(counts)
    unknown = set(requested) - set(CLASSES)
    if unknown or min(requested.values(), default=0) < 0:
        raise ValueError(f"counts must be non-negative numbers of {', '.join(CLASSES)}; got {counts}")
    if not 0 < span_days[0] <= span_days[1] <= survey_days:
        raise ValueError(f"span_days must be two increasing lengths up to {survey_days} d; got {span_days}")
    start = int(start_mjd)
    sky = _Sky(seed, Survey(seed, cadence, visits_per_night), start, float(survey_days), span_days, scatter, _BLOCK)
    return concatenate([sky.of_class(name, count) for name, count in requested.items()])


@dataclass
class _Sky:
    """Positions and observing times of the objects of `light_curves`."""

    seed: int
    survey: Survey
    start: int
    days: float
    span: tuple[float, float]
    scatter: float
    block: int

    def of_class(self, name: str, count: int) -> LabelledCurves:
        """The first `count` usable objects of class `name`."""
        found: list[LabelledCurves] = []
        tried = made = 0
        while made < count or not found:
            if tried > _TRIES * (count + 10):
                raise RuntimeError(f"only {made} of {tried} objects of class {name} can be classified")
            share = (made + 1.0) / (tried + 1.0) if tried else 0.7
            size = int(np.clip((count - made) / share * 1.05 + 8, 32, self.block))
            curves = self._some(name, np.arange(tried, tried + size))
            found.append(curves.take(slice(0, count - made)))
            made, tried = made + len(found[-1]), tried + size
        return concatenate(found)

    def _some(self, name: str, serial: Ints) -> LabelledCurves:
        """The usable objects among those numbered `serial` of a class."""
        code = KIND_NAMES.index(name)
        kind, index = KINDS[code], serial * len(KINDS) + code
        span = self.span[0] + (self.span[1] - self.span[0]) * uniform(self.seed, "span", index)
        begin = np.floor(self.start + (self.days - span) * uniform(self.seed, "begin", index))
        draws = Draws(self.seed, name, index, begin, begin + np.floor(span), _never)
        ra, dec = kind.place(draws)
        field, rcid = field_of(ra, dec)
        nothing = np.zeros_like(index)
        objects = Objects(
            index, index, np.full_like(index, code), ra, dec, field, rcid, nothing, draws.begin, draws.end
        )
        part = Part(kind, np.arange(index.size), draws)
        fields, window = np.arange(1, N_FIELDS + 1), (draws.begin, draws.end + 1.0)
        points = observe(self.seed, objects, fields, self.visits, [part], window=window)
        ctx = Context(self.seed, self.scatter, objects, surroundings(self.seed, objects, [part]), self.visits, points)
        curves = known(ctx, kind.wise(draws), _have_enough(points))
        return curves.take(np.diff(curves.objects().both.offsets) > 0)

    @cached_property
    def visits(self) -> Visits:
        """Visits of the whole sky."""
        return self.survey.visits(np.arange(1, N_FIELDS + 1), self.start, self.start + int(self.days))


def _never(part: Floats) -> Floats:
    """No visit: kinds with a single detection have no light curve."""
    return np.full(part.size, np.nan)


def known(ctx: Context, wise: Floats, enough: NDArray[np.bool_] | None = None) -> LabelledCurves:
    """Light curves of `enough` objects of `ctx` (all by default), as in the broker: every detection, and the upper
    limits of the 30 days before each. wise: (4, objects)."""
    points, objects = ctx.points, ctx.objects
    chosen = np.ones(len(objects), np.bool_) if enough is None else enough
    rows = np.flatnonzero(points.is_detection & chosen[points.row])
    limits = np.flatnonzero(_carried(points.starts, points.mjd, points.is_detection, HISTORY_DAYS) & chosen[points.row])
    place = np.cumsum(chosen) - 1
    kept = objects.take(chosen)
    columns = _detections(ctx, rows)
    peak = np.full(len(kept), np.inf)
    np.minimum.at(peak, place[points.row[rows]], columns["magpsf"])
    return LabelledCurves(
        oid=np.array(object_ids(ctx.seed, kept), dtype=object),
        label=np.array([kind.name for kind in KINDS])[kept.kind],
        offsets=_offsets(place[points.row[rows]], len(kept)),
        detections=columns,
        limit_offsets=_offsets(place[points.row[limits]], len(kept)),
        non_detections={
            "mjd": points.mjd[limits],
            "fid": points.fid[limits],
            "diffmaglim": points.limit[limits],
        },
        wise=wise[:, chosen],
        truth={"ra": kept.ra, "dec": kept.dec, "begin": kept.begin, "end": kept.end, "peak": peak},
    )


def _detections(ctx: Context, rows: Ints) -> dict[str, NDArray[Any]]:
    points = ctx.points
    row = points.row[rows]
    columns: dict[str, NDArray[Any]] = photometry_columns(ctx, rows)
    is_brighter = np.where(points.flux[rows] > 0, 1.0, -1.0)
    names = ("magpsf", "sigmapsf", "magnr", "sigmagnr", "distnr")
    result = correct(**{name: columns[name] for name in names}, sign=is_brighter)
    return {
        "candid": candids(ctx.objects, points, rows),
        "mjd": points.mjd[rows],
        "fid": points.fid[rows],
        "diffmaglim": points.limit[rows],
        **{name: columns[name] for name in ("magpsf", "sigmapsf", "ra", "dec", "rb")},
        "isdiffpos": is_brighter,
        "corrected": result.corrected,
        "magpsf_corr": result.magpsf_corr,
        "sigmapsf_corr_ext": result.sigmapsf_corr_ext,
        "sgscore1": ctx.around.sgscore1[row],
    }


@njit(cache=True)
def _carried(starts: Any, mjd: Any, is_detection: Any, days: float) -> Any:
    """Mask of the points that are not detections but lie within `days` before a detection of the same object."""
    out = np.zeros(mjd.size, np.bool_)
    for k in range(starts.size - 1):
        following = np.inf
        for i in range(starts[k + 1] - 1, starts[k] - 1, -1):
            if is_detection[i]:
                following = mjd[i]
            else:
                out[i] = following - mjd[i] <= days
    return out


def _have_enough(points: Points) -> NDArray[np.bool_]:
    """Objects with enough detections in g or in r before any quality cut; only these can be selected."""
    n = points.starts.size - 1
    numbers = [
        np.bincount(points.row[points.is_detection & (points.fid == fid)], minlength=n) for fid in features.BANDS
    ]
    return np.max(numbers, axis=0) >= MIN_DETECTIONS


def truncate(
    curves: LabelledCurves,
    rng: np.random.Generator,
    *,
    early: float = 0.5,
    one_band: float = 0.1,
    without_wise: float = 0.15,
) -> LabelledCurves:
    """The same objects with less data, so that a classifier learns to be uncertain.

    early, one_band, without_wise: shares of the objects, chosen independently, that are cut off after a number of
    usable detections (log-uniform from 6 to all, in the band that has more); that lose the other band; that lose their
    AllWISE match. An object keeps enough data to be classified. Raises ValueError if a share is outside 0 … 1.
    """
    for share in (early, one_band, without_wise):
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"shares lie between 0 and 1; got {share}")
    n = len(curves)
    d = curves.detections
    group = np.repeat(np.arange(n), np.diff(curves.offsets))
    limit_group = np.repeat(np.arange(n), np.diff(curves.limit_offsets))
    usable = _usable(d)
    counts = np.array([np.bincount(group[usable & (d["fid"] == fid)], minlength=n) for fid in features.BANDS])
    band = np.array(features.BANDS)[np.argmax(counts, axis=0)]
    most = np.maximum(counts.max(axis=0), MIN_DETECTIONS)

    chosen = rng.uniform(size=n) < early
    last = np.floor(MIN_DETECTIONS * ((most + 1.0) / MIN_DETECTIONS) ** rng.uniform(size=n))
    last = np.where(chosen, np.clip(last, MIN_DETECTIONS, most), most + 1.0)
    counted = np.flatnonzero(usable & (d["fid"] == band[group]))
    rank = np.arange(counted.size) - np.searchsorted(group[counted], group[counted]) + 1
    until = np.full(n, np.inf)
    at = counted[rank == last[group[counted]]]
    until[group[at]] = d["mjd"][at]

    alone = rng.uniform(size=n) < one_band
    in_band = ~alone[group] | (d["fid"] == band[group])
    limits = curves.non_detections
    limit_in_band = ~alone[limit_group] | (limits["fid"] == band[limit_group])
    cut = curves.keep((d["mjd"] <= until[group]) & in_band, (limits["mjd"] < until[limit_group]) & limit_in_band)
    wise = np.where(rng.uniform(size=n) < without_wise, np.nan, curves.wise)
    return replace(cut, wise=wise)


def _usable(d: Columns) -> NDArray[np.bool_]:
    """Detections that the selection keeps with and without correction of the object."""
    good = d["rb"] >= MIN_RB
    for error in (d["sigmapsf"], d["sigmapsf_corr_ext"]):
        good = good & ~(error >= MAX_ERROR)
    return good & ~(d["corrected"] & ~np.isfinite(d["magpsf_corr"]))


def concatenate(parts: Sequence[LabelledCurves]) -> LabelledCurves:
    """Several sets of curves joined in order. Raises ValueError without any."""
    if not parts:
        raise ValueError("nothing to concatenate")

    def joined(name: str) -> Any:
        columns = [getattr(part, name) for part in parts]
        return {key: np.concatenate([c[key] for c in columns]) for key in columns[0]}

    def offsets(name: str) -> Ints:
        return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(getattr(part, name)) for part in parts]))])

    return LabelledCurves(
        oid=np.concatenate([part.oid for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        offsets=offsets("offsets"),
        detections=joined("detections"),
        limit_offsets=offsets("limit_offsets"),
        non_detections=joined("non_detections"),
        wise=np.concatenate([part.wise for part in parts], axis=1),
        truth=joined("truth"),
    )


def _offsets(group: Ints, n: int) -> Ints:
    return np.searchsorted(group, np.arange(n + 1))


def _rows_of(offsets: Ints, chosen: Ints) -> tuple[Ints, Ints]:
    """Rows of the groups `chosen`, and their new offsets."""
    count = np.diff(offsets)[chosen]
    new = np.concatenate([[0], np.cumsum(count)])
    return np.arange(new[-1]) + np.repeat(offsets[chosen] - new[:-1], count), new


def _counted(offsets: Ints, mask: NDArray[np.bool_]) -> Ints:
    """Offsets of the groups after applying `mask`."""
    return np.concatenate([[0], np.cumsum(mask)])[offsets]
