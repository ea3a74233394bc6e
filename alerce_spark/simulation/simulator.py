"""Simulator: a sky, a survey, and the packets that the survey sends for chosen detections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from alerce_spark.errors import InputError
from alerce_spark.simulation.measurements import (
    Context,
    candidate_columns,
    candids,
    forced_columns,
    history_columns,
    surroundings,
)
from alerce_spark.simulation.observations import Flags, Part, Points, observe, parts_of
from alerce_spark.simulation.packets import Columns, Parts, array_parts, container, encode, record_parts
from alerce_spark.simulation.randoms import Floats, Ints, uniform
from alerce_spark.simulation.sources import KINDS, LONGEST_HISTORY, Objects, Sky, object_ids
from alerce_spark.simulation.stamps import StampPool, plain, triplets
from alerce_spark.simulation.survey import N_FIELDS, Survey, Visits, fields_near, sun_ra
from alerce_spark.simulation.traits import PLAIN, Traits
from alerce_spark.surveys import ztf

#: Length of the history that a packet carries, days.
HISTORY_DAYS = 30


@dataclass(frozen=True)
class Alert:
    """One packet and its content."""

    candid: int
    oid: str
    kind: str
    packet: bytes


@dataclass
class Simulator:
    """A sky, its survey and the form of its packets; the arguments are those of `simulate`, which documents them."""

    seed: int
    objects: int
    start_mjd: float
    nights: int
    version: str | Sequence[str] = "3.3"
    history_days: float = HISTORY_DAYS
    positions: Any = None
    fields: int = 3
    centre: tuple[float, float] | None = None
    mix: Mapping[str, float] | None = None
    cadence: int = 3
    visits_per_night: int = 2
    scatter: float = 0.1
    stamps: bool | Literal["pool"] = True
    traits: Traits = PLAIN
    seasons: bool | None = None
    start: int = field(init=False)
    versions: tuple[str, ...] = field(init=False)
    sky: Sky = field(init=False)
    survey: Survey = field(init=False)
    pool: StampPool = field(init=False)

    def __post_init__(self) -> None:
        self.versions = (self.version,) if isinstance(self.version, str) else tuple(self.version)
        unknown = set(self.versions) - set(ztf.VERSIONS)
        if unknown or not self.versions:
            named = ", ".join(sorted(unknown)) or "none"
            raise InputError(f"unknown ZTF schema version(s) {named}; known: {', '.join(ztf.VERSIONS)}")
        self._check_ranges()
        self.start = int(self.start_mjd)
        ra, dec = self.centre or ((sun_ra(self.start) + 180.0) % 360.0, 20.0)
        self.sky = Sky(self.seed, self.objects, np.sort(fields_near(ra, dec, self.fields)), self.positions, self.mix)
        sure = (self.start, self.start + self.nights - 1)
        # Positions chosen by the caller must be observed in every season.
        seasons = self.positions is None and self.centre is None if self.seasons is None else self.seasons
        self.survey = Survey(self.seed, self.cadence, self.visits_per_night, seasons, sure)
        self.pool = StampPool(self.seed)

    def _check_ranges(self) -> None:
        limits = {
            "objects": (1, 10**9),
            "nights": (1, 10**4),
            "start_mjd": (58200, 65000),  # from ZTF's first light; candid has room for nights up to mjd 66976
            "history_days": (0, LONGEST_HISTORY),
            "fields": (1, N_FIELDS),
            "cadence": (1, 1000),
            "visits_per_night": (1, 16),  # with more, exposures of different fields would share times
            "scatter": (0, 10),
        }
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} must lie between {least} and {most}; got {getattr(self, name)}")

    @property
    def first_night(self) -> int:
        """Night (integer mjd) of the first observation."""
        return self.start - int(np.ceil(self.history_days))

    @property
    def last_night(self) -> int:
        """Last simulated night (integer mjd)."""
        return self.start + self.nights - 1

    def visits(self, first: int, last: int) -> Visits:
        """Visits of all fields of the sky in nights first … last."""
        return self.survey.visits(self.sky.fields, max(first, self.first_night), last)

    def parts(self, objects: Objects, visits: Visits) -> list[Part]:
        """`objects` by kind, with their properties."""
        return parts_of(self.seed, objects, self.sky.fields, visits, are_moved=True)

    def observe(self, objects: Objects, visits: Visits, parts: list[Part]) -> Points:
        """Points of `objects`, which consist of `parts`, at `visits`."""
        return observe(self.seed, objects, self.sky.fields, visits, parts, twins=self.traits.twins)

    def packets(
        self,
        objects: Objects,
        visits: Visits,
        parts: list[Part],
        points: Points,
        chosen: Ints,
        earlier: Ints,
        first_jd: Floats,
    ) -> Iterator[Alert]:
        """Packets of the detections `chosen` (rows of points, in order of objects and time).

        earlier, first_jd: for each chosen one the number of its object's detections so far, and the jd of the first.
        """
        around = surroundings(self.seed, objects, parts)
        ctx = Context(self.seed, self.scatter, objects, around, visits, points)
        ids = object_ids(self.seed, objects)
        candid = candids(objects, points, chosen)
        start, stop = _history_bounds(points, chosen)
        version = (uniform(self.seed, "version", candid) * len(self.versions)).astype(np.int64)
        codec = (uniform(self.seed, "codec", candid) * len(self.traits.codecs)).astype(np.int64)
        as_digits = self._has("digits", candid)
        for v in np.unique(version):
            mine = np.flatnonzero(version == v)
            columns = candidate_columns(ctx, chosen[mine], as_digits[mine], earlier[mine], first_jd[mine])
            own = encode(ztf.CANDIDATE, self.versions[v], columns, mine.size)
            history = _History(self, ctx, self.versions[v], candid[mine], start[mine], stop[mine])
            cutouts = self._cutouts(ctx, columns, chosen[mine], candid[mine])
            for i, k in enumerate(mine.tolist()):
                row = points.row[chosen[k]]
                record = record_parts(
                    self.versions[v], ids[row], int(candid[k]), own.slice(i, i + 1), *history.parts(i), cutouts[i]
                )
                packet = container(self.versions[v], self.traits.codecs[codec[k]], record)
                yield Alert(int(candid[k]), ids[row], KINDS[objects.kind[row]].name, packet)

    def _has(self, trait: str, candid: Ints) -> Flags:
        """Mask of the packets that have the trait of that name."""
        return uniform(self.seed, trait, candid) < getattr(self.traits, trait)

    def _cutouts(
        self, ctx: Context, columns: Columns, chosen: Ints, candid: Ints
    ) -> list[list[tuple[str, bytes]] | None]:
        """Names and bytes of the stamps of the alerts `chosen`, whose candidate records are `columns`."""
        if not self.stamps:
            return [None] * chosen.size
        p = ctx.points
        scene = np.array([kind.scene for kind in KINDS])[ctx.objects.kind[p.row[chosen]]]
        has_edge, has_nan = self._has("edge_stamps", candid), self._has("nan_stamps", candid)
        if self.stamps == "pool":
            flaw = np.where(has_edge, "edge", np.where(has_nan, "nan", "")).tolist()
            snr, is_brighter = (np.abs(p.flux[chosen]) / p.sigma[chosen]).tolist(), (p.flux[chosen] > 0).tolist()
            draw = (uniform(self.seed, "stamp", candid) * 2**30).astype(np.int64).tolist()
            stamps = list(map(self.pool.triplet, scene.tolist(), is_brighter, snr, flaw, draw))
        else:
            stamps = triplets(plain(columns), scene, candid, self.seed, has_nan, has_edge)
        return [_named(c, *triplet) for c, triplet in zip(candid.tolist(), stamps, strict=True)]


def _named(candid: int, science: bytes, reference: bytes, difference: bytes) -> list[tuple[str, bytes]]:
    """Stamps of an alert with file names like the survey's."""
    name = f"candid{candid}_pid{candid // 1000000}_targ_"
    return [
        (f"{name}sci.fits.gz", science),
        (f"candid{candid}_ref.fits.gz", reference),
        (f"{name}scimref.fits.gz", difference),
    ]


def _history_bounds(points: Points, chosen: Ints) -> tuple[Ints, Ints]:
    """First and one past the last point of the object in the 30 days before each chosen point."""
    # One sorted key for all objects: their number, then time; a double resolves 1e-7 d in it for more than 10⁴ objects.
    key = points.row * 1e5 + (points.mjd - 5e4)
    start = np.searchsorted(key, key[chosen] - HISTORY_DAYS)
    start = np.maximum(start, points.starts[points.row[chosen]])
    return start, chosen - points.is_twin[chosen]


class _History:
    """prv_candidates and fp_hists of some packets of one version, each point encoded once for each spelling."""

    def __init__(self, sim: Simulator, ctx: Context, version: str, candid: Ints, start: Ints, stop: Ints) -> None:
        traits, points = sim.traits, ctx.points
        self._digits, self._seed, self._candid = traits.digits, sim.seed, candid
        is_late = sim._has("late", candid)
        end = points.starts[points.row[stop] + 1]
        stop = np.where(is_late, np.minimum(stop + 2, end), stop)
        needed = np.zeros(points.row.size + 1, np.int64)
        np.add.at(needed, start, 1)
        np.add.at(needed, stop, -1)
        rows = np.flatnonzero(np.cumsum(needed) > 0)
        at = np.searchsorted(rows, np.arange(points.row.size + 1))
        self._start, self._stop = at[start], at[stop]
        self._key = points.code[rows] * 2 + points.is_twin[rows]
        self._is_null, self._is_unsorted = sim._has("null_history", candid), sim._has("unsorted", candid)
        self._is_repeated = sim._has("repeated", candid)
        has_ids = version not in ("1.0", "3.0")
        self._encoded = [
            encode(
                ztf.PRV_CANDIDATE,
                version,
                history_columns(ctx, rows, spelled, traits.rounded_history, traits.bad_limits, has_ids),
                rows.size,
            )
            for spelled in ((False, True) if self._digits > 0 else (False,))
        ]
        self._forced = None
        if version.startswith("4"):
            self._forced = encode(ztf.FP_HIST, version, forced_columns(ctx, rows), rows.size)

    def parts(self, i: int) -> tuple[Parts | None, Parts | None]:
        """Parts of the arrays prv_candidates and fp_hists of packet i; None (null) if empty."""
        start, stop = int(self._start[i]), int(self._stop[i])
        if start == stop:
            return None, None
        forced = None
        if self._forced is not None:
            forced = array_parts(stop - start, [self._forced.slice(start, stop)])
        if self._is_null[i]:
            return None, forced
        if not (self._digits > 0 or self._is_unsorted[i] or self._is_repeated[i]):
            return array_parts(stop - start, [self._encoded[0].slice(start, stop)]), forced
        return self._irregular(i, start, stop), forced

    def _irregular(self, i: int, start: int, stop: int) -> Parts:
        entries = list(range(start, stop))
        draw = uniform(self._seed, "history entry", self._candid[i], np.arange(stop - start + 1))
        if self._is_repeated[i]:
            entries.insert(0, start + int(draw[0] * (stop - start)))
        if self._is_unsorted[i]:
            entries = [entries[k] for k in np.argsort(draw[: len(entries)])]
        spelled = np.zeros(len(entries), np.int64)
        if self._digits > 0:
            draw = uniform(self._seed, "digits entry", self._candid[i], self._key[entries])
            spelled = (draw < self._digits).astype(np.int64)
        items = [self._encoded[s].slice(e, e + 1) for s, e in zip(spelled.tolist(), entries, strict=True)]
        return array_parts(len(items), items)
