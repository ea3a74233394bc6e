"""First alerts of simulated objects with stamps and class: the training set of the stamp classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alerce_spark.classifiers.taxonomy import STAMP_CLASSES, stamp_class_of
from alerce_spark.simulation import stamps
from alerce_spark.simulation.measurements import Context, candidate_columns, candids, surroundings
from alerce_spark.simulation.randoms import Ints, uniform
from alerce_spark.simulation.simulator import Simulator
from alerce_spark.simulation.sources import KINDS
from alerce_spark.simulation.survey import JD_MINUS_MJD

#: Most objects, exposures and nights of one of the skies from which alerts are taken, and the least number of skies.
_OBJECTS, _FIELDS, _NIGHTS = 800, 24, 60
_LEAST_SKIES = 12
#: Days for which a sky was observed before the first alert that counts, one after another: a broker that begins in the
#: middle of a survey meets old variables for the first time with many detections, and young ones with one.
_HISTORIES = (0.0, 20.0, 90.0, 300.0)
#: Share of stamps cut at the border of the detector, as in real packets.
_SHORT = 0.01
#: Skies tried before giving up.
_MOST_SKIES = 2000
_LEFT_OUT = ("pdiffimfilename", "programpi", "rbversion", "drbversion")


@dataclass(frozen=True)
class StampSet:
    """First alerts of n objects.

    images: float32 (n, 3, 63, 63), as `alerts.stamps.decode` gives them: NaN where there is no pixel. columns: those of
    the candidate record (names of the packet; isdiffpos and ssnamenr as text; sentinels as the survey writes them).
    label: stamp class (n,). kind: kind of the simulated object (n,).
    """

    images: npt.NDArray[np.float32]
    columns: dict[str, npt.NDArray[Any]]
    label: npt.NDArray[np.str_]
    kind: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.label)


def stamp_class(kind: str) -> str:
    """Stamp class of a kind of simulated object. Raises ValueError for a name that is none."""
    return kind if kind in STAMP_CLASSES else stamp_class_of(kind)


def first_alerts(seed: int, count: int | Mapping[str, int]) -> StampSet:
    """The first alerts of `count` objects of each stamp class (or of so many as it maps to each), in random order.

    Objects lie all over the survey's sky and in five of its years; the kinds of a class are equally frequent as far as
    they send alerts. Sources that never end are first met at any time, so most have earlier detections; what appears
    and vanishes is met with its first one. Same arguments, same alerts. Memory: 48 kB an alert.

    Raises ValueError for an unknown class and RuntimeError where a class sends hardly any alerts.
    """
    wanted = dict.fromkeys(STAMP_CLASSES, count) if isinstance(count, int) else dict(count)
    if set(wanted) - set(STAMP_CLASSES):
        raise ValueError(f"stamp classes are {', '.join(STAMP_CLASSES)}; got {', '.join(wanted)}")
    missing = {name: number for name, number in wanted.items() if number > 0}
    total = sum(missing.values())
    images = np.empty((total, 3, stamps.SIDE, stamps.SIDE), np.float32)
    tables: list[dict[str, npt.NDArray[Any]]] = []
    at = 0
    for number in range(_MOST_SKIES):
        if not missing:
            break
        for sky in _alerts(seed, number, missing, total):
            rows = _chosen(sky["label"], missing)
            part = {name: values[rows] for name, values in sky.items()}
            images[at : at + rows.size] = _images(seed, part)
            at += rows.size
            tables.append(part)
    else:
        raise RuntimeError(f"{_MOST_SKIES} skies lack alerts: {missing}")
    order = np.argsort(uniform(seed, "order", np.arange(total)), kind="stable")
    columns = {name: np.concatenate([t[name] for t in tables])[order] for name in (tables[0] if tables else ())}
    label, kind = (columns.pop(name, np.empty(0, str)) for name in ("label", "kind"))
    columns.pop("scene", None)
    return StampSet(_permuted(images, order), columns, label, kind)


def _permuted(images: npt.NDArray[np.float32], order: Ints) -> npt.NDArray[np.float32]:
    """images[order] without a second copy of them all: cycle by cycle of the permutation."""
    done = np.zeros(order.size, bool)
    for start in range(order.size):
        if done[start]:
            continue
        first, k = images[start].copy(), start
        while not done[k]:
            done[k] = True
            source = int(order[k])
            images[k] = first if source == start else images[source]
            k = source
    return images


def _chosen(label: npt.NDArray[np.str_], missing: dict[str, int]) -> Ints:
    """Rows of the labels that are still missing, which are counted down."""
    rows = [np.flatnonzero(label == name)[:number] for name, number in missing.items()]
    for name in list(missing):
        missing[name] -= min(missing[name], int((label == name).sum()))
        if missing[name] == 0:
            del missing[name]
    return np.sort(np.concatenate(rows)) if rows else np.empty(0, np.int64)


def _alerts(seed: int, number: int, missing: Mapping[str, int], total: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """First alerts of one sky as columns, with label, kind and scene; only of classes that are missing."""
    labels = np.array([stamp_class(kind.name) for kind in KINDS])
    mix = {
        kind.name: missing[label] / float((labels == label).sum())
        for kind, label in zip(KINDS, labels, strict=True)
        if label in missing
    }
    # Steps of the golden angle in right ascension, bands of declination, and a prime number of days.
    centre = (137.508 * number % 360.0, (-15.0, 10.0, 35.0, 60.0)[number % 4])
    sim = Simulator(
        seed=seed * 100_003 + number,
        objects=min(_OBJECTS, 60 + min(2 * sum(missing.values()), total // _LEAST_SKIES)),
        start_mjd=58700 + 197 * number % 1800,
        nights=_NIGHTS,
        history_days=_HISTORIES[number // 4 % len(_HISTORIES)],
        centre=centre,
        fields=_FIELDS,
        mix=mix,
        stamps=False,
    )
    visits = sim.visits(sim.first_night, sim.last_night)
    slots = np.arange(sim.objects)
    begin = np.full(slots.size, float(sim.start))
    objects = sim.sky.at(slots, np.zeros(slots.size, np.int64), begin, begin + sim.nights)
    parts = sim.parts(objects, visits)
    points = sim.observe(objects, visits, parts)
    endless = np.isinf([kind.lifetime for kind in KINDS])[objects.kind]
    met = sim.start + np.where(endless, (sim.nights - 10) * uniform(sim.seed, "met", objects.index), 0.0)
    detected = np.flatnonzero(points.is_detection)
    since = detected[points.mjd[detected] >= met[points.row[detected]]]
    row, at = np.unique(points.row[since], return_index=True)
    if not row.size:
        return
    chosen = since[at]
    first_of = np.searchsorted(points.row[detected], row)
    earlier, first = 1 + np.searchsorted(detected, chosen) - first_of, points.mjd[detected[first_of]]
    around = surroundings(sim.seed, objects, parts)
    ctx = Context(sim.seed, sim.scatter, objects, around, visits, points)
    first_jd = np.round(first + JD_MINUS_MJD, 7)
    columns = candidate_columns(ctx, chosen, np.zeros(chosen.size, bool), earlier, first_jd)
    kind = objects.kind[row]
    yield stamps.plain({name: values for name, values in columns.items() if name not in _LEFT_OUT}) | {
        "candid": candids(objects, points, chosen),
        "label": labels[kind],
        "kind": np.array([k.name for k in KINDS])[kind],
        "scene": np.array([k.scene for k in KINDS])[kind],
    }


def _images(seed: int, table: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Stamps of alerts as the reader of packets would give them."""
    key = table["candid"]
    images = stamps.render(table, table["scene"], key, seed)
    for i in np.flatnonzero(uniform(seed, "short", key) < _SHORT):
        side = 41 + int(22 * uniform(seed, "side", key[i : i + 1])[0])
        images[i, :, :, side:] = np.nan
    return images
