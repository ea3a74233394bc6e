"""First alerts of simulated objects with stamps and class: the training set of the stamp classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from alerce_spark.classifiers.taxonomy import STAMP_CLASSES, stamp_class_of
from alerce_spark.simulation import stamps
from alerce_spark.simulation.measurements import Context, candidate_columns, candids, surroundings
from alerce_spark.simulation.observations import observe, parts_of
from alerce_spark.simulation.randoms import Floats, Ints, uniform
from alerce_spark.simulation.sources import KINDS, Draws, Objects
from alerce_spark.simulation.survey import JD_MINUS_MJD, N_FIELDS, Survey, Visits, field_of

#: First night (mjd) and length in days of the survey, days for which an object is observed, astrometric error (arcsec).
_START, _DAYS, _SPAN, _SCATTER = 58650, 1100.0, (40.0, 400.0), 0.1
#: Share of stamps cut at the border of the detector, as in real packets.
_SHORT = 0.01
#: Objects handled at a time, and objects tried for each that sends an alert before giving up.
_BLOCK, _TRIES = 512, 200
_LEFT_OUT = ("pdiffimfilename", "programpi", "rbversion", "drbversion")

Table = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class StampSet:
    """First alerts of n objects.

    images: float32 (n, 3, 63, 63), as from `alerts.stamps.decode`: NaN beyond the detector. columns: those of the
    candidate record (names of the packet; isdiffpos and ssnamenr as text; sentinels as the survey writes them).
    label: stamp class (n,). kind: kind of the simulated object (n,).
    """

    images: npt.NDArray[np.float32]
    columns: Table
    label: npt.NDArray[np.str_]
    kind: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.label)


def stamp_class(kind: str) -> str:
    """Stamp class of a kind of simulated object. Raises ValueError for an unknown name."""
    return kind if kind in STAMP_CLASSES else stamp_class_of(kind)


def first_alerts(seed: int, count: int | Mapping[str, int]) -> StampSet:
    """The first alerts of `count` objects of each stamp class (or a number per class), in random order.

    Each kind of a class gives the same number. Positions follow the population, and times are spread over three years.
    Persistent sources already have some detections at their first alert, as for a broker that starts during a survey;
    transients send their very first. Seed and arguments determine the result; the counts change only the number of
    objects of a kind, not the objects. Memory: 48 kB per alert.

    Raises ValueError for an unknown class or a negative count, RuntimeError for a kind that hardly ever sends an alert.
    """
    counts = dict.fromkeys(STAMP_CLASSES, count) if isinstance(count, int) else dict(count)
    if set(counts) - set(STAMP_CLASSES) or min(counts.values(), default=0) < 0:
        raise ValueError(f"counts must be non-negative numbers of {', '.join(STAMP_CLASSES)}; got {count}")
    sky = _Sky(seed, Survey(seed))
    tables = []
    for label, number in counts.items():
        codes = [code for code, kind in enumerate(KINDS) if stamp_class(kind.name) == label]
        for k, kind_code in enumerate(codes):
            tables += sky.of_kind(kind_code, (number + len(codes) - 1 - k) // len(codes))
    total = sum(counts.values())
    order = np.argsort(uniform(seed, "order", np.arange(total)), kind="stable")
    target = np.argsort(order)
    images = np.empty((total, 3, stamps.SIDE, stamps.SIDE), np.float32)
    first = 0
    for table in tables:
        rows = target[first : first + table["candid"].size]
        images[rows] = _images(seed, table)
        first += rows.size
    columns = {name: np.concatenate([t[name] for t in tables])[order] for name in (tables[0] if tables else ())}
    code = columns.pop("code", np.empty(0, np.int64))
    kind = np.array([one.name for one in KINDS])[code]
    return StampSet(images, columns, np.array([stamp_class(one.name) for one in KINDS])[code], kind)


@dataclass
class _Sky:
    """Positions and observing times of the objects of `first_alerts`."""

    seed: int
    survey: Survey

    @cached_property
    def visits(self) -> Visits:
        """Visits of the whole sky."""
        return self.survey.visits(np.arange(1, N_FIELDS + 1), _START, _START + int(_DAYS))

    def of_kind(self, code: int, count: int) -> list[Table]:
        """The first `count` objects of a kind that send an alert: columns of their first ones, in blocks."""
        found: list[Table] = []
        tried = made = 0
        while made < count:
            if tried > _TRIES * (count + 10):
                raise RuntimeError(f"only {made} of {tried} objects of kind {KINDS[code].name} send an alert")
            share = (made + 1.0) / (tried + 1.0) if tried else 0.7
            size = int(np.clip((count - made) / share * 1.05 + 8, 16, _BLOCK))
            table = self._some(code, np.arange(tried, tried + size))
            tried += size
            found.append({name: values[: count - made] for name, values in table.items()})
            made += found[-1]["candid"].size
        return found

    def _some(self, code: int, serial: Ints) -> Table:
        """First alerts of the objects numbered `serial` of a kind that send one."""
        kind, index = KINDS[code], serial * len(KINDS) + code
        span = _SPAN[0] + (_SPAN[1] - _SPAN[0]) * uniform(self.seed, "span", index)
        begin = np.floor(_START + (_DAYS - span) * uniform(self.seed, "begin", index))
        end = begin + np.floor(span)
        ra, dec = kind.place(Draws(self.seed, kind.name, index, begin, end, _never))
        field, rcid = field_of(ra, dec)
        # Rows of an extraction table; objects of one field and channel must differ, so that candids do.
        objects = Objects(index, index, np.full_like(index, code), ra, dec, field, rcid, index % 90000 * 4, begin, end)
        fields = np.arange(1, N_FIELDS + 1)
        parts = parts_of(self.seed, objects, fields, self.visits)
        points = observe(self.seed, objects, fields, self.visits, parts, window=(begin, end + 1.0))
        met = begin + np.where(np.isinf(kind.lifetime), 0.8 * span * uniform(self.seed, "met", index), 0.0)
        detected = np.flatnonzero(points.is_detection)
        since = detected[points.mjd[detected] >= met[points.row[detected]]]
        row, at = np.unique(points.row[since], return_index=True)
        chosen, first_of = since[at], np.searchsorted(points.row[detected], row)
        earlier = 1 + np.searchsorted(detected, chosen) - first_of
        first_jd = np.round(points.mjd[detected[first_of]] + JD_MINUS_MJD, 7)
        ctx = Context(self.seed, _SCATTER, objects, surroundings(self.seed, objects, parts), self.visits, points)
        columns = candidate_columns(ctx, chosen, np.zeros(chosen.size, bool), earlier, first_jd)
        return stamps.plain({name: values for name, values in columns.items() if name not in _LEFT_OUT}) | {
            "candid": candids(objects, points, chosen),
            "code": np.full(chosen.size, code),
        }


def _never(part: Floats) -> Floats:
    """No visit: positions on the sky do not depend on the visits."""
    return np.full(part.size, np.nan)


def _images(seed: int, table: Table) -> npt.NDArray[np.float32]:
    """Stamps of alerts as the packet reader would return them."""
    key = table["candid"]
    images = stamps.render(table, np.array([kind.scene for kind in KINDS])[table["code"]], key, seed)
    side = (41 + np.floor(22 * uniform(seed, "side", key))).astype(np.int64)
    for i in np.flatnonzero(uniform(seed, "short", key) < _SHORT):
        images[i, :, :, side[i] :] = np.nan
    return images
