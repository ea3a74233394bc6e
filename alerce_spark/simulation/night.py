"""A night of alerts: packets of a synthetic sky in time order, for one night, many nights, or without end.

`simulate` gives every packet of some nights, `last_night` those of the last one only, `stream` yields alerts night
after night with memory for the objects but not for the alerts. Seed and arguments determine every byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alerce_spark.alerts import ztf
from alerce_spark.simulation.measurements import (
    Context,
    candidate_columns,
    candids,
    forced_columns,
    history_columns,
    surroundings,
)
from alerce_spark.simulation.observations import Flags, Points, observe
from alerce_spark.simulation.packets import CODECS, Parts, array_parts, container, encode, record_parts
from alerce_spark.simulation.randoms import Floats, Ints, uniform
from alerce_spark.simulation.sources import KINDS, Objects, Sky, object_ids
from alerce_spark.simulation.stamps import StampPool
from alerce_spark.simulation.survey import JD_MINUS_MJD, Survey, Visits, fields_near, sun_ra

#: Length of the history that a packet carries, days.
HISTORY_DAYS = 30
#: Objects and alerts handled at once: enough for vectors, few enough for memory.
_BLOCK = 512
_SCAN_BLOCK = 20000
#: New objects tried in one place until one sends an alert.
_ATTEMPTS = 24


@dataclass(frozen=True)
class Traits:
    """How packets differ from the plain form; shares lie between 0 and 1. `Traits.like_ztf()` has real rates.

    digits: entries (alerts and previous detections, each in each packet) whose isdiffpos is 1/0 instead of t/f, so the
    same detection comes both ways. rounded_history: previous detections have six significant digits.
    null_history, unsorted: packets whose prv_candidates is null, or in random order.
    twins: detections that are there twice, with the same jd, fid and pid but another candid (both send alerts).
    repeated: packets with one history entry twice. late: packets whose history goes on to the alert itself and beyond.
    bad_limits: upper limits with a diffmaglim of -999. edge_stamps, nan_stamps: packets whose stamps are not 63 x 63 or
    have NaN pixels. codecs: codec of the Avro container, one of them at random for each packet.
    """

    digits: float = 0.0
    rounded_history: bool = False
    null_history: float = 0.0
    unsorted: float = 0.0
    twins: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    bad_limits: float = 0.0
    edge_stamps: float = 0.0
    nan_stamps: float = 0.0
    codecs: Sequence[str] = ("null",)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float | int) and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is a share between 0 and 1; got {value}")
        if not self.codecs or set(self.codecs) - set(CODECS):
            raise ValueError(f"codecs must be some of {', '.join(CODECS)}; got {self.codecs}")

    @classmethod
    def like_ztf(cls) -> Traits:
        """Rates measured on real packets; rare ones (order, late points) are raised to where a night shows some."""
        return cls(
            digits=0.04,
            rounded_history=True,
            null_history=0.005,
            unsorted=0.01,
            twins=0.004,
            repeated=0.01,
            late=0.01,
            bad_limits=0.002,
            edge_stamps=0.01,
            nan_stamps=0.13,
        )


@dataclass(frozen=True)
class Night:
    """Packets in time order, with candid and object id of each; `truth` has the kind of every object by its id."""

    packets: list[bytes]
    candids: Ints
    oids: list[str]
    truth: dict[str, str]


@dataclass(frozen=True)
class Alert:
    """One packet, and what is in it."""

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
    stamps: bool = True
    traits: Traits = Traits()
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
            raise ValueError(f"unknown ZTF schema version(s) {unknown}; known: {', '.join(ztf.VERSIONS)}")
        if (
            self.objects < 1
            or self.nights < 1
            or self.visits_per_night < 1
            or self.cadence < 1
            or self.history_days < 0
        ):
            raise ValueError(
                "objects, nights, visits_per_night and cadence must be positive, history_days not negative"
            )
        self.start = int(self.start_mjd)
        ra, dec = self.centre or ((sun_ra(self.start) + 180.0) % 360.0, 20.0)
        self.sky = Sky(self.seed, self.objects, np.sort(fields_near(ra, dec, self.fields)), self.positions, self.mix)
        sure = (self.start, self.start + self.nights - 1)
        # Places that the caller chose must be seen whatever the season.
        seasons = self.positions is None and self.centre is None if self.seasons is None else self.seasons
        self.survey = Survey(self.seed, self.cadence, self.visits_per_night, seasons, sure)
        self.pool = StampPool(self.seed)

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

    def observe(self, objects: Objects, visits: Visits) -> Points:
        """Points of `objects` at `visits`."""
        return observe(self.seed, objects, self.sky.fields, visits, self.traits.twins)

    def packets(
        self, objects: Objects, visits: Visits, points: Points, chosen: Ints, earlier: Ints, first_jd: Floats
    ) -> Iterator[Alert]:
        """Packets of the detections `chosen` (rows of points, in order of objects and time).

        earlier, first_jd: for each chosen one the object's detections up to and with it, and the jd of the first.
        """
        around = surroundings(self.seed, objects, self.sky.fields, visits)
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
            cutouts = self._cutouts(ctx, chosen[mine], candid[mine])
            for i, k in enumerate(mine.tolist()):
                row = points.row[chosen[k]]
                record = record_parts(
                    self.versions[v], ids[row], int(candid[k]), own.slice(i, i + 1), *history.parts(i), cutouts[i]
                )
                packet = container(self.versions[v], self.traits.codecs[codec[k]], record)
                yield Alert(int(candid[k]), ids[row], KINDS[objects.kind[row]].name, packet)

    def _has(self, trait: str, candid: Ints) -> Flags:
        """Which packets have the trait of that name."""
        return uniform(self.seed, trait, candid) < getattr(self.traits, trait)

    def _cutouts(self, ctx: Context, chosen: Ints, candid: Ints) -> list[list[tuple[str, bytes]] | None]:
        if not self.stamps:
            return [None] * chosen.size
        p, kind = ctx.points, ctx.objects.kind
        has_edge, has_nan = self._has("edge_stamps", candid), self._has("nan_stamps", candid)
        draw = (uniform(self.seed, "stamp", candid) * 2**30).astype(np.int64).tolist()
        flaw = np.where(has_edge, "edge", np.where(has_nan, "nan", "")).tolist()
        snr = (np.abs(p.flux[chosen]) / p.sigma[chosen]).tolist()
        is_brighter, scenes = (p.flux[chosen] > 0).tolist(), kind[p.row[chosen]].tolist()
        out: list[list[tuple[str, bytes]] | None] = []
        for k, c in enumerate(candid.tolist()):
            science, reference, difference = self.pool.triplet(
                KINDS[scenes[k]].scene, is_brighter[k], snr[k], flaw[k], draw[k]
            )
            name = f"candid{c}_pid{c // 1000000}_targ_"
            out.append(
                [
                    (f"{name}sci.fits.gz", science),
                    (f"candid{c}_ref.fits.gz", reference),
                    (f"{name}scimref.fits.gz", difference),
                ]
            )
        return out


def _history_bounds(points: Points, chosen: Ints) -> tuple[Ints, Ints]:
    """First and one past the last point of the 30 days before each chosen one, of its object."""
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
        self._key = ctx.objects.index[points.row[rows]] * 2 + points.is_twin[rows], points.code[rows]
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
        """Parts of the arrays prv_candidates and fp_hists of packet i; None (null) where there is nothing."""
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
        draw = uniform(self._seed, "history entry", self._candid[i], np.arange(stop - start))
        if self._is_repeated[i]:
            entries.insert(0, start + int(draw[0] * (stop - start)))
        if self._is_unsorted[i]:
            entries = [entries[k] for k in np.argsort(draw[: len(entries)])] + entries[draw.size :]
        spelled = np.zeros(len(entries), np.int64)
        if self._digits > 0:
            spelled = (uniform(self._seed, "digits entry", self._candid[i], np.array(entries)) < self._digits) * 1
        items = [self._encoded[s].slice(e, e + 1) for s, e in zip(spelled.tolist(), entries, strict=True)]
        return array_parts(len(items), items)


def _counts(points: Points) -> tuple[Ints, Floats]:
    """For each point the object's detections up to and with it, and the mjd of the object's first detection."""
    total = np.cumsum(points.is_detection)
    before = np.r_[0, total][points.starts[:-1]]
    first = np.full(points.starts.size - 1, np.inf)
    np.minimum.at(first, points.row[points.is_detection], points.mjd[points.is_detection])
    return total - before[points.row], first[points.row]


def _blocks(objects: Objects, points_each: int, most: int) -> Iterator[Objects]:
    """`objects` in parts of at most `most` objects and about 2·10⁵ points."""
    size = max(1, min(most, 200_000 // max(points_each, 1)))
    for at in range(0, len(objects), size):
        yield objects.take(slice(at, at + size))


def _alerting_objects(sim: Simulator, visits: Visits) -> Objects:
    """For each place of the sky the first object that sends an alert in the simulated nights, of some tries."""
    pending = np.arange(sim.objects)
    found: list[Objects] = []
    most = int(np.diff(visits.starts).max(initial=1))
    for attempt in range(_ATTEMPTS):
        objects = _born_at_start(sim, pending, attempt)
        quiet = []
        for block in _blocks(objects, most, _SCAN_BLOCK):
            points = sim.observe(block, visits)
            alerts = points.is_detection & (points.mjd >= sim.start)
            has_alert = np.bincount(points.row[alerts], minlength=len(block)) > 0
            found.append(block.take(has_alert))
            quiet.append(block.slot[~has_alert])
        pending = np.concatenate(quiet)
        if not pending.size:
            break
    columns = (np.concatenate([getattr(o, name) for o in found]) for name in Objects.__dataclass_fields__)
    objects = Objects(*columns)
    return objects.take(np.argsort(objects.slot, kind="stable"))


def _born_at_start(sim: Simulator, slots: Ints, attempt: int) -> Objects:
    begin = np.full(slots.size, float(sim.start))
    return sim.sky.at(slots, np.full(slots.size, attempt), begin, begin + sim.nights)


def _make(sim: Simulator, from_night: int, alerts_per_object: int | None) -> Night:
    visits = sim.visits(sim.first_night, sim.last_night)
    made: list[Alert] = []
    truth = {}
    for objects in _blocks(_alerting_objects(sim, visits), int(np.diff(visits.starts).max(initial=1)), _BLOCK):
        points = sim.observe(objects, visits)
        earlier, first = _counts(points)
        is_alert = points.is_detection & (points.mjd >= from_night)
        if alerts_per_object is not None:
            is_alert &= _rank_in_object(points, is_alert) < alerts_per_object
        chosen = np.flatnonzero(is_alert)
        first_jd = np.round(first[chosen] + JD_MINUS_MJD, 7)
        for alert in sim.packets(objects, visits, points, chosen, earlier[chosen], first_jd):
            made.append(alert)
            truth[alert.oid] = alert.kind
    made.sort(key=lambda alert: alert.candid)
    return Night([a.packet for a in made], np.array([a.candid for a in made], np.int64), [a.oid for a in made], truth)


def _rank_in_object(points: Points, flags: Flags) -> Ints:
    total = np.cumsum(flags)
    return total - np.r_[0, total][points.starts[:-1]][points.row] - flags


def simulate(
    seed: int,
    *,
    objects: int = 40,
    nights: int = 1,
    start_mjd: float = 59000.0,
    version: str | Sequence[str] = "3.3",
    history_days: float = HISTORY_DAYS,
    positions: Any = None,
    fields: int = 3,
    centre: tuple[float, float] | None = None,
    mix: Mapping[str, float] | None = None,
    cadence: int = 3,
    visits_per_night: int = 2,
    scatter: float = 0.1,
    stamps: bool = True,
    traits: Traits = Traits(),
    alerts_per_object: int | None = None,
) -> Night:
    """All packets that `objects` objects send in `nights` nights from `start_mjd`; each object sends at least one.

    version: one schema version, or several that the packets mix. history_days: how long before the start the sky was
    observed. positions: (objects, 2) ra, dec in degrees; default random places in the `fields` ZTF-like exposures
    nearest to `centre` (ra, dec in degrees; default opposite the Sun). mix: weight of each kind (`sources.KIND_NAMES`).
    cadence: days between visits of a field; the first and the last night always have some. scatter: astrometric error
    per axis in arcsec. alerts_per_object: at most so many packets of each object, its first ones. With `nights=400` an
    object that varies strongly has a hundred detections or so.
    Everything is held in memory (about 65 kB a packet); `stream` is for more. Raises ValueError for bad arguments.
    """
    sim = Simulator(
        seed, objects, start_mjd, nights, version, history_days, positions, fields, centre, mix, cadence,
        visits_per_night, scatter, stamps, traits,
    )  # fmt: skip
    return _make(sim, sim.start, alerts_per_object)


def last_night(seed: int, *, nights: int = 400, **options: Any) -> Night:
    """The packets of the last of `nights` nights only, equal to those that `simulate` gives for that night.

    options: those of `simulate`, without alerts_per_object. Raises ValueError for bad arguments.
    """
    sim = _simulator(seed, nights=nights, **options)
    return _make(sim, sim.last_night, None)


def stream(
    seed: int, *, objects: int = 10_000, start_mjd: float = 59000.0, seasons: bool = False, **options: Any
) -> Iterator[tuple[int, str, bytes]]:
    """Candid, object id and packet of one alert after another, in order of candid, without end.

    Night follows night from `start_mjd`. Variables stay; supernovae, asteroids and artefacts are replaced by new
    objects when their time is over, so the rate of alerts is steady. Memory grows with `objects`, not with alerts.
    options: those of `simulate`, without nights and alerts_per_object. Raises ValueError for bad arguments.
    """
    sim = _simulator(seed, objects=objects, start_mjd=start_mjd, nights=1, seasons=seasons, **options)
    return _endless(sim)


def _simulator(seed: int, *, objects: int = 40, start_mjd: float = 59000.0, **options: Any) -> Simulator:
    return Simulator(seed, objects, start_mjd, **options)


class _Memory:
    """For each place of a sky how many detections its present object had, and when the first was."""

    def __init__(self, places: int) -> None:
        self._index = np.full(places, -1)
        self._count = np.zeros(places, np.int64)
        self._first = np.full(places, np.inf)

    def count(self, objects: Objects, points: Points, chosen: Ints) -> tuple[Ints, Floats]:
        """Detections up to and with each chosen one, and mjd of the first; `points` are a window that ends there.

        Chosen ones of one object must come in time order from call to call; they are remembered.
        """
        slot = objects.slot
        is_new = self._index[slot] != objects.index
        row = points.row[chosen]
        seen, first = _counts(points)
        first_chosen = np.unique(row, return_index=True)
        before = np.zeros(len(objects), np.int64)
        before[first_chosen[0]] = seen[chosen][first_chosen[1]] - 1
        before = np.where(is_new, before, np.maximum(before, self._count[slot]))
        rank = np.arange(chosen.size) - first_chosen[1][np.searchsorted(first_chosen[0], row)]
        earliest = np.full(len(objects), np.inf)
        earliest[row] = first[chosen]
        earliest = np.where(is_new, earliest, np.minimum(earliest, self._first[slot]))
        self._index[slot], self._first[slot] = objects.index, earliest
        self._count[slot] = before + np.bincount(row, minlength=len(objects))
        return before[row] + rank + 1, earliest[row]


def _living(sim: Simulator, slots: Ints, night: int) -> Objects:
    """The objects that live in `slots` on `night`: the generation whose life holds it."""
    life = sim.sky.lifetimes(slots)
    is_mortal = np.isfinite(life)
    span = np.where(is_mortal, life, 1.0)
    phase = np.floor(uniform(sim.seed, "birth", slots) * span)
    generation = np.where(is_mortal, np.floor((night - sim.start + phase) / span), 0.0)
    begin = np.where(is_mortal, sim.start - phase + generation * span, sim.start)
    end = np.where(is_mortal, begin + span, np.inf)
    return sim.sky.at(slots, generation.astype(np.int64), begin, end)


def _endless(sim: Simulator) -> Iterator[tuple[int, str, bytes]]:
    memory, night = _Memory(sim.objects), sim.start
    while True:
        candid, slot = _detections_of(sim, night)
        visits = sim.visits(night - HISTORY_DAYS - 1, night)
        for at in range(0, candid.size, _BLOCK):
            part = slice(at, at + _BLOCK)
            objects = _living(sim, np.unique(slot[part]), night)
            points = sim.observe(objects, visits)
            detected = np.flatnonzero(points.is_detection & (points.mjd >= night))
            chosen = detected[np.isin(candids(objects, points, detected), candid[part])]
            count, first = memory.count(objects, points, chosen)
            first_jd = np.round(first + JD_MINUS_MJD, 7)
            alerts = sorted(
                sim.packets(objects, visits, points, chosen, count, first_jd), key=lambda alert: alert.candid
            )
            for alert in alerts:
                yield alert.candid, alert.oid, alert.packet
        night += 1


def _detections_of(sim: Simulator, night: int) -> tuple[Ints, Ints]:
    """Candids of a night's detections, sorted, and the place of each."""
    visits = sim.visits(night, night)
    found, slots = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for at in range(0, sim.objects if visits.mjd.size else 0, _SCAN_BLOCK):
        objects = _living(sim, np.arange(at, min(at + _SCAN_BLOCK, sim.objects)), night)
        points = sim.observe(objects, visits)
        detected = np.flatnonzero(points.is_detection)
        found.append(candids(objects, points, detected))
        slots.append(objects.slot[points.row[detected]])
    candid, slot = np.concatenate(found), np.concatenate(slots)
    order = np.argsort(candid, kind="stable")
    return candid[order], slot[order]
