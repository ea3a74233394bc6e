"""Feature sets of simulated light curves, to train the classifier without labels and to evaluate it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import as_completed
from functools import cache, partial
from importlib import resources

import numpy as np

from alerce_spark.classifiers.taxonomy import LIGHTCURVE_CLASSES
from alerce_spark.features.curves import Float, Objects
from alerce_spark.features.extract import extract
from alerce_spark.features.names import FEATURES_VERSION
from alerce_spark.processes import submitted
from alerce_spark.simulation.curves import LabelledCurves, light_curves, truncate
from alerce_spark.training.sets import FeatureSet, concatenate

#: Shares of simulated objects, chosen independently, whose data are degraded: cut off early, with six points or more;
#: one band only; without AllWISE. Each object is in a set once, so that no copy leaks.
DEGRADED = {"early": 0.5, "one_band": 0.1, "without_wise": 0.15}

_CHUNK = 500  # light curves whose features are computed at a time
#: Rooms whose code decides what a simulated set holds.
_ROOMS = ("simulation", "features", "lightcurves")

Progress = Callable[[int, int], None]


@cache
def code_version() -> str:
    """Checksum of the code that decides what a simulated set holds."""
    digest = hashlib.sha256()
    for room in _ROOMS:
        modules = (m for m in resources.files(f"alerce_spark.{room}").iterdir() if m.name.endswith(".py"))
        for module in sorted(modules, key=lambda m: m.name):
            digest.update(f"{room}/{module.name}".encode() + module.read_bytes())
    return digest.hexdigest()[:16]


def simulated_set(
    seed: int,
    counts: Mapping[str, int] | int,
    *,
    workers: int = 2,
    degraded: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> FeatureSet:
    """Features of simulated objects: `counts` of each class by name, or the same number of all 15; sorted by class.

    A few are missing (2 of 3,000) if degrading leaves an object without enough points. The result depends on seed,
    `degraded` (default DEGRADED) and code, not on `workers`; the objects of a class do not depend on the counts of
    other classes. Objects of two seeds have different names. `progress` is called with the numbers of finished and
    requested objects. Raises ValueError for an unknown class or a share outside 0 … 1.
    """
    requested, shares = _wanted(counts), {**DEGRADED, **(degraded or {})}
    parts: dict[str, FeatureSet] = {}
    for name, features in _each(partial(_of_class, seed, shares), requested, workers):
        parts[name] = features
        if progress is not None:
            progress(sum(len(part) for part in parts.values()), sum(requested.values()))
    return concatenate([parts[name] for name in requested], **simulated_provenance(seed, counts, degraded))


def simulated_provenance(
    seed: int, counts: Mapping[str, int] | int, degraded: Mapping[str, float] | None = None
) -> dict[str, str]:
    """The provenance of the `simulated_set` of these arguments: sets with equal provenance are bit-identical."""
    shares = {**DEGRADED, **(degraded or {})}
    return {
        "source": "simulation",
        "simulation_seed": str(seed),
        "simulation_code": code_version(),
        "simulation_counts": ", ".join(f"{name} {count}" for name, count in _wanted(counts).items()),
        "simulation_degraded": ", ".join(f"{name} {share:g}" for name, share in shares.items()),
        "features_code": FEATURES_VERSION,
    }


def _wanted(counts: Mapping[str, int] | int) -> dict[str, int]:
    requested = dict.fromkeys(LIGHTCURVE_CLASSES, counts) if isinstance(counts, int) else counts
    return {name: requested[name] for name in sorted(requested) if requested[name]}


def _each(
    make: Callable[[str, int], FeatureSet], requested: Mapping[str, int], workers: int
) -> Iterable[tuple[str, FeatureSet]]:
    """Run `make` for each class, in this process or in a pool; results in order of completion."""
    if workers == 1:
        yield from ((name, make(name, count)) for name, count in requested.items())
        return
    with submitted(make, requested.items(), workers) as running:
        names = dict(zip(running, requested, strict=True))
        yield from ((names[done], done.result()) for done in as_completed(running))


def _of_class(seed: int, shares: Mapping[str, float], name: str, count: int) -> FeatureSet:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    curves = truncate(light_curves(seed, {name: count}), rng, **shares)
    return concatenate([from_curves(part, f"sim{seed}-") for part in _chunks(curves)])


def _chunks(curves: LabelledCurves) -> Iterator[LabelledCurves]:
    yield from (curves.take(slice(begin, begin + _CHUNK)) for begin in range(0, len(curves), _CHUNK))


def from_curves(curves: LabelledCurves, prefix: str = "") -> FeatureSet:
    """Features of labelled curves with enough usable detections; `prefix` goes before each oid."""
    objects = curves.objects()
    whole = FeatureSet(
        np.array([prefix + oid for oid in objects.oid], object),
        np.asarray(curves.label, object),
        extract(objects),
        np.diff(objects.both.offsets).astype(np.int32),
        mean_magnitude(objects),
        curves.truth["ra"],
        curves.truth["dec"],
        {},
    )
    return whole.take(whole.ndet > 0)


def mean_magnitude(objects: Objects) -> Float:
    """Mean magnitude [mag] of each object in r, or in g if it has none in r; NaN without any."""
    means = []
    for band in objects.bands:
        count = np.diff(band.offsets)
        total = np.add.reduceat(np.append(band.mag, 0.0), band.offsets[:-1])
        means.append(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))
    return np.where(np.isfinite(means[1]), means[1], means[0])
