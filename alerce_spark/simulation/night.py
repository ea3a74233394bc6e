"""A night of alerts: packets of a synthetic sky in time order, for one night, many nights, or without end.

`simulate` gives every packet of some nights, `last_night` those of the last one only, `stream` yields alerts night
after night with memory for the objects but not for the alerts. Seed and arguments determine every byte.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alerce_spark.simulation.measurements import candids
from alerce_spark.simulation.observations import Flags, Points
from alerce_spark.simulation.randoms import Floats, Ints, uniform
from alerce_spark.simulation.simulator import HISTORY_DAYS, Alert, Simulator
from alerce_spark.simulation.sources import Objects
from alerce_spark.simulation.survey import JD_MINUS_MJD, Visits
from alerce_spark.simulation.traits import PLAIN, Traits

#: Objects and alerts handled at a time: enough for vectors, few enough for memory.
_BLOCK = 512
_SCAN_BLOCK = 20000
#: Most objects tried at one place until one sends an alert.
_ATTEMPTS = 100


@dataclass(frozen=True)
class Night:
    """Packets in time order, with candid and object id of each; `truth` has the kind of every object by its id."""

    packets: list[bytes]
    candids: Ints
    oids: list[str]
    truth: dict[str, str]


def _counts(points: Points) -> tuple[Ints, Floats]:
    """For each point the number of its object's detections so far, itself included, and the mjd of the first."""
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
    """For each place of the sky the first tried object that sends an alert in the simulated nights."""
    pending = np.arange(sim.objects)
    found: list[Objects] = []
    most = int(np.diff(visits.starts).max(initial=1))
    for attempt in range(_ATTEMPTS):
        objects = _born_at_start(sim, pending, attempt)
        quiet = []
        for block in _blocks(objects, most, _SCAN_BLOCK):
            points = sim.observe(block, visits, sim.parts(block, visits))
            alerts = points.is_detection & (points.mjd >= sim.start)
            has_alert = np.bincount(points.row[alerts], minlength=len(block)) > 0
            found.append(block.take(has_alert))
            quiet.append(block.slot[~has_alert])
        pending = np.concatenate(quiet)
        if not pending.size:
            break
    else:
        raise RuntimeError(f"{pending.size} of {sim.objects} objects send no alert in {_ATTEMPTS} tries")
    columns = (np.concatenate([getattr(o, name) for o in found]) for name in Objects.__dataclass_fields__)
    objects = Objects(*columns)
    return objects.take(np.argsort(objects.slot, kind="stable"))


def _born_at_start(sim: Simulator, slots: Ints, attempt: int) -> Objects:
    begin = np.full(slots.size, float(sim.start))
    return sim.sky.at(slots, np.full(slots.size, attempt), begin, begin + sim.nights)


def _make(sim: Simulator, from_night: int, alerts_per_object: int | None) -> Night:
    visits = sim.visits(sim.first_night, sim.last_night)
    alerts: list[Alert] = []
    truth = {}
    for objects in _blocks(_alerting_objects(sim, visits), int(np.diff(visits.starts).max(initial=1)), _BLOCK):
        parts = sim.parts(objects, visits)
        points = sim.observe(objects, visits, parts)
        earlier, first = _counts(points)
        is_alert = points.is_detection & (points.mjd >= from_night)
        if alerts_per_object is not None:
            is_alert &= _rank_in_object(points, is_alert) < alerts_per_object
        chosen = np.flatnonzero(is_alert)
        first_jd = np.round(first[chosen] + JD_MINUS_MJD, 7)
        for alert in sim.packets(objects, visits, parts, points, chosen, earlier[chosen], first_jd):
            alerts.append(alert)
            truth[alert.oid] = alert.kind
    alerts.sort(key=lambda alert: alert.candid)
    return Night(
        [a.packet for a in alerts], np.array([a.candid for a in alerts], np.int64), [a.oid for a in alerts], truth
    )


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
    traits: Traits = PLAIN,
    alerts_per_object: int | None = None,
) -> Night:
    """All packets that `objects` objects send in `nights` nights from `start_mjd`; each object sends at least one.

    version: one schema version, or several that the packets mix. history_days: how long before the start the sky was
    observed. positions: (objects, 2) ra, dec in degrees; default random places in the `fields` ZTF-like exposures
    nearest to `centre` (ra, dec in degrees; default opposite the Sun). mix: weight of each kind (`sources.KIND_NAMES`).
    cadence: days between visits of a field; the first and the last night always have some. scatter: astrometric error
    per axis in arcsec. alerts_per_object: keep at most this many packets of each object, its first ones. With
    `nights=400` an object that varies strongly has about forty detections, sixty with `cadence=2`.
    Everything is held in memory (about 62 kB per packet); use `stream` for more. Raises ValueError for bad arguments,
    RuntimeError if nothing is observable with the arguments.
    """
    sim = Simulator(
        seed=seed,
        objects=objects,
        start_mjd=start_mjd,
        nights=nights,
        version=version,
        history_days=history_days,
        positions=positions,
        fields=fields,
        centre=centre,
        mix=mix,
        cadence=cadence,
        visits_per_night=visits_per_night,
        scatter=scatter,
        stamps=stamps,
        traits=traits,
    )
    return _make(sim, sim.start, alerts_per_object)


def last_night(seed: int, *, nights: int = 400, **options: Any) -> Night:
    """The packets of the last of `nights` nights only, equal to those that `simulate` gives for that night.

    options: those of `simulate`, without alerts_per_object. Raises ValueError for bad arguments.
    """
    sim = _simulator(seed, nights=nights, **options)
    return _make(sim, sim.last_night, None)


def stream(
    seed: int,
    *,
    objects: int = 10_000,
    nights: int | None = None,
    start_mjd: float = 59000.0,
    seasons: bool = False,
    **options: Any,
) -> Iterator[tuple[int, str, bytes]]:
    """Yield candid, object id and packet of each alert in order of candid, for `nights` nights or without end.

    Night follows night from `start_mjd`. Variables stay; supernovae, asteroids and artefacts are replaced by new
    objects at the end of their lives, so the rate of alerts is steady. Memory grows with `objects`, not with alerts.
    options: those of `simulate`, without alerts_per_object. Raises ValueError for bad arguments.
    """
    sim = _simulator(seed, objects=objects, start_mjd=start_mjd, nights=1, seasons=seasons, **options)
    return _nightly(sim, nights)


def _simulator(seed: int, *, objects: int = 40, start_mjd: float = 59000.0, **options: Any) -> Simulator:
    return Simulator(seed, objects, start_mjd, **options)


class _Memory:
    """For each place of a sky the number of detections of its present object, and the time of the first."""

    def __init__(self, places: int) -> None:
        self._index = np.full(places, -1)
        self._count = np.zeros(places, np.int64)
        self._first = np.full(places, np.inf)

    def count(self, objects: Objects, points: Points, chosen: Ints) -> tuple[Ints, Floats]:
        """Number of detections up to and including each chosen one, and mjd of the first; `points` end there.

        Chosen detections of one object must come in time order over all calls; their counts are kept.
        """
        slot = objects.slot
        is_new = self._index[slot] != objects.index
        row = points.row[chosen]
        counts, first = _counts(points)
        first_chosen = np.unique(row, return_index=True)
        before = np.zeros(len(objects), np.int64)
        before[first_chosen[0]] = counts[chosen][first_chosen[1]] - 1
        before = np.where(is_new, before, np.maximum(before, self._count[slot]))
        rank = np.arange(chosen.size) - first_chosen[1][np.searchsorted(first_chosen[0], row)]
        earliest = np.full(len(objects), np.inf)
        earliest[row] = first[chosen]
        earliest = np.where(is_new, earliest, np.minimum(earliest, self._first[slot]))
        self._index[slot], self._first[slot] = objects.index, earliest
        self._count[slot] = before + np.bincount(row, minlength=len(objects))
        return before[row] + rank + 1, earliest[row]


def _living(sim: Simulator, slots: Ints, night: int) -> Objects:
    """The objects that live in `slots` on `night`: the generation whose lifetime includes it."""
    life = sim.sky.lifetimes(slots)
    is_mortal = np.isfinite(life)
    span = np.where(is_mortal, life, 1.0)
    phase = np.floor(uniform(sim.seed, "birth", slots) * span)
    generation = np.where(is_mortal, np.floor((night - sim.start + phase) / span), 0.0)
    begin = np.where(is_mortal, sim.start - phase + generation * span, sim.start)
    end = np.where(is_mortal, begin + span, np.inf)
    return sim.sky.at(slots, generation.astype(np.int64), begin, end)


def _nightly(sim: Simulator, nights: int | None) -> Iterator[tuple[int, str, bytes]]:
    memory = _Memory(sim.objects)
    for night in itertools.count(sim.start) if nights is None else range(sim.start, sim.start + nights):
        candid, slot = _detections_of(sim, night)
        visits = sim.visits(night - HISTORY_DAYS - 1, night)
        for at in range(0, candid.size, _BLOCK):
            part = slice(at, at + _BLOCK)
            objects = _living(sim, np.unique(slot[part]), night)
            parts = sim.parts(objects, visits)
            points = sim.observe(objects, visits, parts)
            detected = np.flatnonzero(points.is_detection & (points.mjd >= night))
            chosen = detected[np.isin(candids(objects, points, detected), candid[part])]
            count, first = memory.count(objects, points, chosen)
            first_jd = np.round(first + JD_MINUS_MJD, 7)
            alerts = sorted(
                sim.packets(objects, visits, parts, points, chosen, count, first_jd), key=lambda alert: alert.candid
            )
            for alert in alerts:
                yield alert.candid, alert.oid, alert.packet


def _detections_of(sim: Simulator, night: int) -> tuple[Ints, Ints]:
    """Candids of a night's detections, sorted, and the position of each."""
    visits = sim.visits(night, night)
    found, slots = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for at in range(0, sim.objects if visits.mjd.size else 0, _SCAN_BLOCK):
        objects = _living(sim, np.arange(at, min(at + _SCAN_BLOCK, sim.objects)), night)
        points = sim.observe(objects, visits, sim.parts(objects, visits))
        detected = np.flatnonzero(points.is_detection)
        found.append(candids(objects, points, detected))
        slots.append(objects.slot[points.row[detected]])
    candid, slot = np.concatenate(found), np.concatenate(slots)
    order = np.argsort(candid, kind="stable")
    return candid[order], slot[order]
