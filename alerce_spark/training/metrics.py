"""Metrics of a classifier: scores with intervals, calibration, the predicted sky, and the gate for a promotion.

Paper §3.5–3.6. Everything works on class indices and a list of class names, so that both classifiers share it.
Bootstrap samples are drawn within each true class, which keeps the number of objects of rare classes: the counts of a
row of the confusion matrix are then multinomial, and a thousand samples cost one draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alerce_spark.features.coordinates import galactic

Float = NDArray[np.float64]
Int = NDArray[np.int64]

#: Percentiles of the bootstrap that bound an interval, and number of samples.
INTERVAL = (2.5, 97.5)
DRAWS = 1000
#: Bins of the number of detections for calibration and recall; the first bin has barely enough points.
DETECTION_BINS = ((6, 10), (11, 20), (21, 50), (51, None))
#: Edges of magnitude bins [mag].
MAGNITUDE_EDGES = tuple(np.arange(13.0, 21.5, 1.0).tolist())
#: The aggregate scores of `Level.scores`.
SCORES = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")

_OBLIQUITY = np.radians(23.4392911)  # of the ecliptic at J2000 (IAU 1976), enough for histograms
_PLANE = 10.0  # |b| [deg] within which dust hides extragalactic sources
_ECLIPTIC = 20.0  # |β| [deg] within which most of the main belt lies
_EXTRAGALACTIC = ("AGN", "QSO", "Blazar", "SN", "SNIa", "SNIbc", "SNII", "SLSN")
_ENOUGH = 50  # least number of objects of a class to check its distribution on the sky
_FEW = 10  # least number of held-out objects of a class to call it lost


@dataclass(frozen=True)
class Estimate:
    """A number and the bounds of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Level:
    """Scores of one level of classes, of n objects with a known class.

    `counts[i, j]` objects of class i were called j; `fraction` is the same divided by the row sum, `low` and `high`
    bound it; rows of classes without objects are NaN. `scores` has the keys of SCORES; precision, recall and F1 are
    macro means over the classes that have objects. `precision`, `recall` and `f1` are by class, in order.
    """

    name: str
    classes: tuple[str, ...]
    counts: Int
    fraction: Float
    low: Float
    high: Float
    scores: dict[str, Estimate]
    precision: tuple[Estimate, ...]
    recall: tuple[Estimate, ...]
    f1: tuple[Estimate, ...]


def crosstab(rows: ArrayLike, columns: ArrayLike, n_rows: int, n_columns: int) -> Int:
    """Counts (n_rows, n_columns) of pairs of indices; of truth and prediction this is the confusion matrix.

    For stamp and light-curve class of the same objects it is Fig. 5 of the paper. Raises ValueError for an index
    outside the table.
    """
    r, c = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    if r.shape != c.shape:
        raise ValueError(f"{r.size} rows and {c.size} columns")
    if r.size and (min(r.min(), c.min()) < 0 or r.max() >= n_rows or c.max() >= n_columns):
        raise ValueError("a class index is outside the list of classes")
    return np.bincount(r * n_columns + c, minlength=n_rows * n_columns).reshape(n_rows, n_columns)


def indices(names: Sequence[str] | NDArray[np.object_], classes: Sequence[str]) -> Int:
    """Index in `classes` of each name. Raises ValueError that lists unknown names."""
    place = {name: k for k, name in enumerate(classes)}
    if unknown := sorted(set(names) - set(place)):
        raise ValueError(f"no such class: {', '.join(map(str, unknown))}; there are {', '.join(classes)}")
    return np.array([place[name] for name in names], np.int64)


def class_scores(counts: ArrayLike) -> tuple[Float, Float, Float]:
    """Precision, recall and F1 of each class, (..., k), of confusion matrices (..., k, k).

    NaN for classes without objects. The precision of a class that is never predicted is 0.
    """
    table = np.asarray(counts, np.float64)
    hit = np.diagonal(table, axis1=-2, axis2=-1)
    truth, called = table.sum(axis=-1), table.sum(axis=-2)
    there = truth > 0
    recall = np.divide(hit, truth, out=np.full_like(hit, np.nan), where=there)
    precision = np.where(there, np.divide(hit, called, out=np.zeros_like(hit), where=called > 0), np.nan)
    f1 = np.where(there, np.divide(2 * hit, truth + called, out=np.zeros_like(hit), where=truth + called > 0), np.nan)
    return precision, recall, f1


def aggregate_scores(counts: ArrayLike) -> dict[str, Float]:
    """The SCORES of confusion matrices (..., k, k), each (...); NaN without any object.

    Balanced accuracy is the macro recall (paper §3.5): both names are kept because both are published.
    """
    table = np.asarray(counts, np.float64)
    total = table.sum(axis=(-2, -1))
    hits = np.trace(table, axis1=-2, axis2=-1)
    accuracy = np.divide(hits, total, out=np.full_like(total, np.nan), where=total > 0)
    precision, recall, f1 = (_macro(values) for values in class_scores(table))
    return dict(zip(SCORES, (accuracy, recall, precision, recall, f1), strict=True))


def _macro(values: Float) -> Float:
    there = np.isfinite(values)
    count = there.sum(axis=-1)
    total = np.where(there, values, 0.0).sum(axis=-1)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def resample(counts: ArrayLike, seed: int, draws: int = DRAWS) -> Int:
    """Bootstrap samples (draws, r, c) of a table of counts (r, c): objects are resampled within each row."""
    table = np.asarray(counts, np.int64)
    support = table.sum(axis=1)
    share = np.where(support[:, None] > 0, table / np.maximum(support, 1)[:, None], 1.0 / table.shape[1])
    return np.random.default_rng(seed).multinomial(support, share, size=(draws, len(table)))


def evaluate(
    name: str, classes: Sequence[str], truth: ArrayLike, predicted: ArrayLike, *, seed: int = 0, draws: int = DRAWS
) -> Level:
    """Scores of predicted against true class indices, with intervals. Raises ValueError for an invalid index."""
    k = len(classes)
    counts = crosstab(truth, predicted, k, k)
    drawn = resample(counts, seed, draws)
    support = counts.sum(axis=1)
    divisor = np.where(support > 0, support, np.nan)[:, None]
    low, high = np.percentile(drawn, INTERVAL, axis=0)
    scores, samples = aggregate_scores(counts), aggregate_scores(drawn)
    by_class = zip(class_scores(counts), class_scores(drawn), strict=True)
    precision, recall, f1 = (tuple(_estimates(values, sampled)) for values, sampled in by_class)
    return Level(
        name,
        tuple(classes),
        counts,
        counts / divisor,
        low / divisor,
        high / divisor,
        {key: _estimates(np.atleast_1d(scores[key]), samples[key][:, None])[0] for key in SCORES},
        precision,
        recall,
        f1,
    )


def _estimates(values: Float, samples: Float) -> list[Estimate]:
    low, high = np.percentile(samples, INTERVAL, axis=0)
    return [Estimate(float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True)]


@dataclass(frozen=True)
class Binned:
    """Recall of each class (k) in bins (b) of a quantity: labels of the bins; objects, recall, Wilson bounds (k, b)."""

    quantity: str
    labels: tuple[str, ...]
    counts: Int
    recall: Float
    low: Float
    high: Float


def recall_against_magnitude(
    magnitude: ArrayLike, truth: ArrayLike, predicted: ArrayLike, k: int, edges: Sequence[float] = MAGNITUDE_EDGES
) -> Binned:
    """Recall by class in bins of magnitude [mag] (paper §3.5); objects without or outside the edges are left out."""
    bins = np.searchsorted(edges, np.asarray(magnitude, np.float64), side="right") - 1
    labels = tuple(f"{a:g}–{b:g}" for a, b in pairwise(edges))
    return _binned("magnitude", labels, bins, truth, predicted, k)


def recall_against_detections(ndet: ArrayLike, truth: ArrayLike, predicted: ArrayLike, k: int) -> Binned:
    """Recall by class in DETECTION_BINS of the number of detections used."""
    bins = np.full(np.size(ndet), -1)
    for place, members in enumerate(detection_bins(ndet).values()):
        bins[members] = place
    return _binned("detections", tuple(detection_bins(ndet)), bins, truth, predicted, k)


def detection_bins(ndet: ArrayLike) -> dict[str, NDArray[np.bool_]]:
    """Masks of the objects in each of DETECTION_BINS, by its label."""
    n = np.asarray(ndet)
    return {
        f"{first}–{last}" if last else f"≥ {first}": (n >= first) & (n <= (last or np.inf))
        for first, last in DETECTION_BINS
    }


def _binned(
    quantity: str, labels: tuple[str, ...], bins: Int, truth: ArrayLike, predicted: ArrayLike, k: int
) -> Binned:
    true, called = np.asarray(truth, np.int64), np.asarray(predicted, np.int64)
    inside = (bins >= 0) & (bins < len(labels))
    counts = crosstab(true[inside], bins[inside], k, len(labels))
    right = inside & (true == called)
    hits = crosstab(true[right], bins[right], k, len(labels))
    recall = np.divide(hits, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    return Binned(quantity, labels, counts, recall, *wilson(hits, counts))


def wilson(hits: ArrayLike, trials: ArrayLike) -> tuple[Float, Float]:
    """Bounds of the 95 % score interval of a share (Wilson 1927); NaN without trials."""
    n = np.asarray(trials, np.float64)
    n = np.where(n > 0, n, np.nan)
    p, z = np.asarray(hits, np.float64) / n, 1.959963984540054
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


@dataclass(frozen=True)
class Calibration:
    """Confidence (the largest probability) against the share of correct answers, in equal bins of confidence.

    `confidence`, `accuracy` are means of each bin, NaN where `counts` is 0. `ece` is the expected calibration error
    (Naeini et al. 2015): the mean of |accuracy − confidence| of the bins over the objects, and `boast` the part of it
    from overconfident bins. `excess` is mean confidence minus accuracy.
    """

    counts: Int
    confidence: Float
    accuracy: Float
    ece: float
    boast: float
    excess: float


def calibration(truth: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> Calibration:
    """Calibration of probabilities (n, k) against true class indices (n,); NaN without any object."""
    p, true = np.asarray(probabilities, np.float64), np.asarray(truth, np.int64)
    if not true.size:
        return Calibration(
            np.zeros(bins, np.int64), np.full(bins, np.nan), np.full(bins, np.nan), np.nan, np.nan, np.nan
        )
    confidence, right = p.max(axis=1), p.argmax(axis=1) == true
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    divisor = np.where(counts > 0, counts, np.nan)
    sure = np.bincount(place, confidence, bins) / divisor
    share = np.bincount(place, right, bins) / divisor
    over = np.nan_to_num(sure - share) * counts / true.size
    ece, boast = float(np.abs(over).sum()), float(np.maximum(over, 0.0).sum())
    return Calibration(counts, sure, share, ece, boast, float(confidence.mean() - right.mean()))


def calibration_by_detections(truth: ArrayLike, probabilities: ArrayLike, ndet: ArrayLike) -> dict[str, Calibration]:
    """Calibration of all objects (key `all`) and of each of DETECTION_BINS by its label."""
    p, true = np.asarray(probabilities), np.asarray(truth)
    parts = {label: calibration(true[inside], p[inside]) for label, inside in detection_bins(ndet).items()}
    return {"all": calibration(true, p), **parts}


@dataclass(frozen=True)
class Finding:
    """One check of the unlabelled sky: whether it holds, and a sentence with the figures."""

    holds: bool
    text: str


@dataclass(frozen=True)
class Sky:
    """Distribution of the predicted classes of unlabelled objects: counts (k,), latitude histograms (k, b)."""

    classes: tuple[str, ...]
    counts: Int
    edges: Float
    galactic: Int
    ecliptic: Int
    findings: tuple[Finding, ...]

    @property
    def sane(self) -> bool:
        """Whether every check holds."""
        return all(finding.holds for finding in self.findings)


def ecliptic_latitude(ra: ArrayLike, dec: ArrayLike) -> Float:
    """Ecliptic latitude [deg] of positions [deg], mean ecliptic of J2000."""
    alpha, delta = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    sine = np.sin(delta) * np.cos(_OBLIQUITY) - np.cos(delta) * np.sin(_OBLIQUITY) * np.sin(alpha)
    return np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0)))


def predicted_sky(predicted: ArrayLike, ra: ArrayLike, dec: ArrayLike, classes: Sequence[str]) -> Sky:
    """Distribution of predicted class indices over the sky (paper §3.5), ra and dec in degrees, with its checks.

    Classes are compared with all objects together, so that an uneven survey does not count: extragalactic classes must
    have a smaller share within 10° of the Galactic plane, asteroids a larger one within 20° of the ecliptic; and there
    must be more SNIa than SNIbc. Classes with fewer than 50 objects and objects without a position are left out.
    """
    position = np.array([ra, dec], np.float64)
    known = np.isfinite(position).all(axis=0)
    called, position = np.asarray(predicted, np.int64)[known], position[:, known]
    b, beta = galactic(*position)[0], ecliptic_latitude(*position)
    edges = np.arange(-90.0, 90.1, 10.0)
    k = len(classes)
    counts = np.bincount(called, minlength=k)
    found: list[Finding] = []
    for name in [c for c in classes if c in _EXTRAGALACTIC]:
        found += _place(name, called == classes.index(name), np.abs(b) < _PLANE, "10° of the Galactic plane", False)
    if "asteroid" in classes:
        near = np.abs(beta) < _ECLIPTIC
        found += _place("asteroid", called == classes.index("asteroid"), near, "20° of the ecliptic", True)
    if {"SNIa", "SNIbc"} <= set(classes):
        ia, ibc = (int(counts[classes.index(name)]) for name in ("SNIa", "SNIbc"))
        if ia + ibc >= _ENOUGH:
            found.append(Finding(ia > ibc, f"{ia} SNIa and {ibc} SNIbc"))
    galactic_counts, ecliptic_counts = (
        crosstab(called, np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2), k, len(edges) - 1)
        for x in (b, beta)
    )
    return Sky(tuple(classes), counts, edges, galactic_counts, ecliptic_counts, tuple(found))


def _place(name: str, members: NDArray[np.bool_], near: NDArray[np.bool_], where: str, more: bool) -> list[Finding]:
    """Check that a class has a larger, or smaller, share nearby than all objects; no check without enough objects."""
    if members.sum() < _ENOUGH or not near.any():
        return []
    share, of_all = float(near[members].mean()), float(near.mean())
    holds = share > of_all if more else share < of_all
    return [Finding(holds, f"{share:.1%} of {name} within {where}, {of_all:.1%} of all objects")]


@dataclass(frozen=True)
class Standing:
    """Input of the gate for one model: probabilities (n, k) for the held-out objects, and its unlabelled sky."""

    classes: tuple[str, ...]
    probabilities: Float
    sky: Sky | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether to promote the candidate; `reasons` are sentences, those against it first."""

    promote: bool
    reasons: tuple[str, ...]


#: How much the `Calibration.boast` of a candidate may exceed that of the current model (absolute). Underconfidence does
#: not count: a balanced forest that learns from more objects is right more often at the same confidence.
CALIBRATION_MARGIN = 0.02


def gate(
    candidate: Standing,
    current: Standing | None,
    truth: ArrayLike,
    ndet: ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Verdict:
    """Whether a candidate may replace the current model, both judged on the same held-out objects (n,).

    It must not be worse in macro recall or macro F1 (the upper bound of the paired bootstrap interval of the difference
    is not below 0). It must not lose a class of ten or more objects (recall no better than chance, while the current
    model's is better). Its overconfidence must not exceed the current model's by CALIBRATION_MARGIN, overall or on
    objects with 6 to 10 detections. The checks of the unlabelled sky must hold. Without a current model, or with one of
    other classes, only lost classes and the sky count. Raises ValueError for a wrong number of objects.
    """
    true = np.asarray(truth, np.int64)
    for standing in (candidate, current):
        if standing is not None and standing.probabilities.shape != (true.size, len(standing.classes)):
            raise ValueError(f"{standing.probabilities.shape} probabilities for {true.size} objects")
    if current is not None and (missing := [c for c in current.classes if c not in candidate.classes]):
        return Verdict(False, (f"classes missing from the candidate: {', '.join(missing)}",))
    comparable = current if current is not None and current.classes == candidate.classes else None
    against, pro = _lost_classes(candidate, comparable, true)
    if comparable is not None:
        few = next(iter(detection_bins(ndet).values())) if ndet is not None else np.zeros(true.size, np.bool_)
        for bad, text in (
            *_worse_scores(candidate, comparable, true, seed, draws),
            _worse_calibration("all objects", candidate, comparable, true, np.ones(true.size, np.bool_)),
            *(
                [_worse_calibration("objects with 6–10 detections", candidate, comparable, true, few)]
                if few.any()
                else []
            ),
        ):
            (against if bad else pro).append(text)
    else:
        pro.append("no current model with these classes to compare with")
    for finding in candidate.sky.findings if candidate.sky is not None else ():
        (pro if finding.holds else against).append(f"unlabelled sky: {finding.text}")
    return Verdict(not against, (*against, *pro))


def _lost_classes(candidate: Standing, current: Standing | None, truth: Int) -> tuple[list[str], list[str]]:
    k = len(candidate.classes)
    chance = 1.0 / k
    recalls = [
        class_scores(crosstab(truth, s.probabilities.argmax(axis=1), k, k))[1] for s in (candidate, current) if s
    ]
    alive = np.bincount(truth, minlength=k) >= _FEW
    if current is not None:
        alive &= recalls[1] > chance
    lost = [
        f"class {name} is lost: recall {recalls[0][i]:.3f}"
        for i, name in enumerate(candidate.classes)
        if alive[i] and recalls[0][i] <= chance
    ]
    return lost, [] if lost else ["no class is lost"]


def _worse_scores(candidate: Standing, current: Standing, truth: Int, seed: int, draws: int) -> list[tuple[bool, str]]:
    """Compare macro recall and F1; the difference is bootstrapped over pairs of answers for the same object."""
    k = len(candidate.classes)
    new, old = (s.probabilities.argmax(axis=1) for s in (candidate, current))
    pairs = crosstab(truth, new * k + old, k, k * k)
    drawn = resample(pairs, seed, draws).reshape(draws, k, k, k)
    scored = []
    for table in (pairs.reshape(1, k, k, k), drawn):
        a, b = aggregate_scores(table.sum(axis=3)), aggregate_scores(table.sum(axis=2))
        scored.append({key: (a[key], b[key]) for key in ("recall", "f1")})
    found = []
    for key, label in (("recall", "macro recall"), ("f1", "macro F1")):
        now, before = (float(x[0]) for x in scored[0][key])
        low, high = np.percentile(scored[1][key][0] - scored[1][key][1], INTERVAL)
        text = f"{label} {now:.3f} against {before:.3f}, difference {now - before:+.3f} [{low:+.3f}, {high:+.3f}]"
        found.append((bool(high < 0), text))
    return found


def _worse_calibration(
    of: str, candidate: Standing, current: Standing, truth: Int, inside: NDArray[np.bool_]
) -> tuple[bool, str]:
    new, old = (calibration(truth[inside], s.probabilities[inside]) for s in (candidate, current))
    text = f"{of} surer than right by {new.boast:.3f} against {old.boast:.3f}, calibration error {new.ece:.3f}"
    return new.boast > old.boast + CALIBRATION_MARGIN, f"{text} against {old.ece:.3f}"
