"""Outlier scores (paper, section 3.7): how badly the features of an object fit every class of its branch.

Two kinds of evidence are combined with `_WEIGHTS`:

- probabilities of the light-curve classifier: a low best probability, or one spread over the branch's classes;
- distances in feature space: each feature is mapped to a normal distribution by its quantiles in the training set,
  each class is a Gaussian with a separate mean and covariance, and the distance to the nearest class is compared with
  those to the whole branch and to all objects (relative Mahalanobis distance, Ren et al. 2021, arXiv:2106.09022),
  since an object with few or bad points is far from everything.

Within a branch the evidence is expressed as the share of its ordinary objects that have less. These shares are averaged
over the branches, weighted by probability, and the score is the share of all ordinary objects with a lower mean, so it
means the same in every version. Inference needs NumPy and numba; `fit` needs labelled features and a classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, xlogy

from alerce_spark.classifiers import artefact
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.lightcurve import Classification
from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE_CLASSES, OUTLIER
from alerce_spark.features.names import FEATURES, FEATURES_VERSION

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Single = NDArray[np.float32]

#: Number of quantiles stored for a feature, and for the evidence of ordinary objects of a branch.
KNOTS, LEVELS = 63, 400
#: Share of the diagonal in a covariance, and the least number of objects for a class to get a Gaussian.
SHRINKAGE, ENOUGH = 0.2, 10
#: Key of the classifier's version in `training`.
CLASSIFIER_KEY = "lc_classifier"
#: Largest value of a mapped feature, in standard deviations.
_LIMIT = 6.0

#: Weights of the kinds of evidence: the inverse of their scatter among simulated objects, rounded; half of that for the
#: plain distance, which is better at injected events and worse at classes left out of the training. Fitted weights
#: were no better (docs/reports/outliers.html).
_WEIGHTS = {
    "best_class": 5.0,
    "undecided": 4.0,
    "distance": 2.5,
    "distance_to_branch": 15.0,
    "distance_to_all": 10.0,
}
#: Branches less probable than this do not enter the score.
_IMPROBABLE = 0.05
_SLICES = {
    branch: slice(LIGHTCURVE_CLASSES.index(classes[0]), LIGHTCURVE_CLASSES.index(classes[-1]) + 1)
    for branch, classes in BRANCHES.items()
}
#: Gaussians in the order of the arrays of a model: the classes, the branches, all objects.
_GAUSSIANS = (*LIGHTCURVE_CLASSES, *BRANCHES, "all")
_ALL = len(_GAUSSIANS) - 1


class OutlierModel:
    """Gaussians of the classes, and quantiles of features and evidence. Use `fit`, `load` and `save`.

    `knots` (152, KNOTS) are quantiles of the features; `means` (19, 152) and `whitening` (19, 152, 152) are those of
    the classes, branches and all objects, NaN for an unknown class; `levels` (4, LEVELS) are quantiles of the evidence
    in each branch and of their mean; `training` holds what the trainer recorded about the training.
    """

    def __init__(
        self,
        knots: Single,
        means: Single,
        whitening: Single,
        levels: Float,
        *,
        version: str,
        features_version: str,
        training: dict[str, Any],
    ) -> None:
        """Raises ValueError if the arrays do not match."""
        p, g = len(FEATURES), len(_GAUSSIANS)
        shapes = (knots.shape, means.shape, whitening.shape, levels.shape)
        for shape, wanted in zip(shapes, ((p, KNOTS), (g, p), (g, p, p), (len(BRANCHES) + 1, LEVELS)), strict=True):
            if shape != wanted:
                raise ValueError(f"an array of shape {shape} was given, {wanted} is needed")
        self.version, self.features_version, self.training = version, features_version, training
        self._knots, self._means, self._whitening, self._levels = knots, means, whitening, levels
        self._known = np.isfinite(means[:, 0])

    @property
    def classifier(self) -> str:
        """Version of the light-curve classifier that the scores were calibrated with; "" if not recorded."""
        return str(self.training.get(CLASSIFIER_KEY, ""))

    def score(self, matrix: ArrayLike, found: Classification) -> Float:
        """Scores (n,) from 0 (ordinary) to 1 of rows of the features of FEATURES, (n, 152), NaN where undefined.

        `found` is their classification. NaN for a row without any feature. Raises ValueError for another shape.
        """
        values = _checked(matrix, len(found.class_codes))
        mean = self._mean_share(values, found)
        return np.where(np.isnan(mean), np.nan, np.searchsorted(self._levels[-1], mean) / LEVELS)

    def _mean_share(self, values: Float, found: Classification) -> Float:
        """Shares of ordinary objects with less evidence, averaged over the branches by their probability."""
        known = found.class_codes >= 0
        weights = np.where(found.top < _IMPROBABLE, 0.0, found.top)
        total = np.zeros(len(values))
        for k in range(len(BRANCHES)):
            rows = np.flatnonzero(known & (weights[:, k] > 0))
            share = np.searchsorted(self._levels[k], self.evidence(values, found, k, rows)) / LEVELS
            total[rows] += weights[rows, k] * share
        return np.divide(total, weights.sum(axis=1), out=np.full(len(values), np.nan), where=known)

    def evidence(self, matrix: ArrayLike, found: Classification, branch: int, rows: Int) -> Float:
        """The weighted evidence that each of `rows` of the matrix (n, 152) is of no class of a branch (its number)."""
        if not rows.size:
            return np.empty(0)
        name, inside = list(_SLICES.items())[branch]
        children = found.children[rows, inside]
        entropy = -xlogy(children, children).sum(axis=1) / np.log(children.shape[1])
        normal, missing = self.normal(_checked(matrix, len(found.class_codes))[rows])
        known = [k for k in range(inside.start, inside.stop) if self._known[k]]
        nearest = np.min([self._distance(normal, missing, k) for k in known], axis=0)
        kinds = {
            "best_class": 1.0 - found.top[rows, branch] * children.max(axis=1),
            "undecided": entropy,
            "distance": nearest,
            "distance_to_branch": nearest - self._distance(normal, missing, _GAUSSIANS.index(name)),
            "distance_to_all": nearest - self._distance(normal, missing, _ALL),
        }
        return np.asarray(sum(weight * kinds[kind] for kind, weight in _WEIGHTS.items()))

    def normal(self, values: Float) -> tuple[Single, NDArray[np.bool_]]:
        """Features as standard deviations of a normal distribution, 0 where missing, and which are missing."""
        out = np.empty(values.shape, np.float32)
        _normalise(values, self._knots, _TARGETS, out)
        return out, ~np.isfinite(values)

    def _distance(self, normal: Single, missing: NDArray[np.bool_], k: int) -> Float:
        """Root mean square over the known features of the whitened deviations from Gaussian k."""
        squares = np.empty(len(normal))
        _squares(normal, missing, self._means[k], self._whitening[k], squares)
        return np.sqrt(squares / np.maximum((~missing).sum(axis=1), 1))

    def odd_features(self, matrix: ArrayLike, found: Classification, count: int = 5) -> list[list[tuple[str, float]]]:
        """The features that make each row an outlier, largest first: name and share of the distance to its class.

        The squared distance to the nearest class is a sum over features of deviation times whitened deviation; returns
        only terms above 0.
        """
        values = _checked(matrix, len(found.class_codes))
        normal, missing = self.normal(values)
        names: list[list[tuple[str, float]]] = []
        for i, code in enumerate(found.class_codes.tolist()):
            if code < 0 or not self._known[code]:
                names.append([])
                continue
            deviation = np.where(missing[i], 0.0, normal[i] - self._means[code])
            parts = deviation * (self._whitening[code] @ (deviation @ self._whitening[code]))
            chosen = [j for j in np.argsort(-parts)[:count].tolist() if parts[j] > 0]
            names.append([(FEATURES[j], float(parts[j] / parts.sum())) for j in chosen])
        return names

    def save(self, path: str | Path) -> None:
        """Write the model file atomically."""
        header = {"version": self.version, "features_version": self.features_version, "training": self.training}
        arrays: dict[str, NDArray[Any]] = {
            "knots": self._knots,
            "means": self._means,
            "whitening": self._whitening.reshape(-1, len(FEATURES)),
            "levels": self._levels,
        }
        artefact.write(Path(path), OUTLIER, header, arrays)


_TARGETS = ndtri((np.arange(KNOTS) + 0.5) / KNOTS)


def load(path: str | Path) -> OutlierModel:
    """A model from its file. Raises ModelError."""
    header, arrays = artefact.read(Path(path), OUTLIER)
    match header:
        case {"version": str(version), "features_version": str(features), "training": dict(training)}:
            pass
        case _:
            raise ModelError(f"{path}: the header is not that of a model of outliers")
    try:
        shape = (len(_GAUSSIANS), len(FEATURES), len(FEATURES))
        return OutlierModel(
            arrays["knots"],
            arrays["means"],
            arrays["whitening"].reshape(shape),
            arrays["levels"],
            version=version,
            features_version=features,
            training=training,
        )
    except KeyError as error:
        raise ModelError(f"{path} has no array {error}") from None
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None


def _checked(matrix: ArrayLike, n: int) -> Float:
    values = np.ascontiguousarray(matrix, np.float64)
    if values.shape != (n, len(FEATURES)):
        raise ValueError(f"a matrix of shape {values.shape} was given, {(n, len(FEATURES))} is needed")
    return values


@njit(cache=True)
def _normalise(values: Float, knots: Single, targets: Float, out: Single) -> None:
    """Map values (n, p) by the quantiles of their column to a normal distribution; tails grow logarithmically."""
    last = targets.size - 1
    for j in range(values.shape[1]):
        column = knots[j]
        scale = (column[last - last // 16] - column[last // 16]) / 3.0
        scale = max(scale, abs(column[last // 2]) * 1e-6, 1e-12)
        for i in range(values.shape[0]):
            x = values[i, j]
            if not np.isfinite(x):
                out[i, j] = 0.0
                continue
            single = np.float32(x)
            low = np.searchsorted(column, single, "left")
            high = np.searchsorted(column, single, "right")
            if high > low:  # of equal knots the middle: a feature may have few values
                z = 0.5 * (targets[low] + targets[high - 1])
            elif low == 0:
                z = targets[0] - np.log1p((column[0] - x) / scale)
            elif low > last:
                z = targets[last] + np.log1p((x - column[last]) / scale)
            else:
                share = (x - column[low - 1]) / (column[low] - column[low - 1])
                z = targets[low - 1] + share * (targets[low] - targets[low - 1])
            out[i, j] = min(max(z, -_LIMIT), _LIMIT)


@njit(cache=True)
def _squares(normal: Single, missing: NDArray[np.bool_], mean: Single, whitening: Single, out: Float) -> None:
    """Squared distances (n,) of rows (n, p) from a Gaussian; `whitening` is the lower triangular root of its inverse.

    Row by row in a fixed order, unlike a matrix product: a score must not depend on the batch that an object is in.
    """
    p = mean.size
    white = np.empty(p, np.float32)
    for r in range(len(normal)):
        white[:] = 0.0
        for i in range(p):
            if not missing[r, i]:
                deviation = normal[r, i] - mean[i]
                for j in range(i + 1):
                    white[j] += deviation * whitening[i, j]
        total = 0.0
        for j in range(p):
            total += np.float64(white[j]) * np.float64(white[j])
        out[r] = total


def fit(
    matrix: ArrayLike,
    labels: Sequence[str],
    ordinary: ArrayLike,
    found: Classification,
    *,
    version: str,
    training: dict[str, Any] | None = None,
) -> OutlierModel:
    """Fit a model to labelled rows of FEATURES (n, 152), NaN missing; classes with fewer than ENOUGH rows are unknown.

    `ordinary` (m, 152) are rows that no model was trained on, and `found` is their classification by the model that
    will be used for scores: they define the usual evidence. Raises ValueError if a branch has no class, or no ordinary
    object.
    """
    values = _checked(matrix, len(labels))
    names = np.asarray(labels, dtype=object).astype(str)
    knots = _quantiles(values)
    normal = np.empty(values.shape, np.float32)
    _normalise(values, knots, _TARGETS, normal)
    normal[~np.isfinite(values)] = np.nan
    for branch, classes in BRANCHES.items():
        if max((names == name).sum() for name in classes) < ENOUGH:
            raise ValueError(f"no class of branch {branch} has {ENOUGH} objects")
    members = {name: names == name for name in LIGHTCURVE_CLASSES}
    members |= {branch: np.isin(names, classes) for branch, classes in BRANCHES.items()} | {"all": names != ""}
    pairs = [gaussian(normal[members[name]]) for name in _GAUSSIANS]
    means, whitening = (np.stack([pair[k] for pair in pairs]) for k in (0, 1))
    model = OutlierModel(
        knots,
        means,
        whitening,
        np.zeros((len(BRANCHES) + 1, LEVELS)),
        version=version,
        features_version=FEATURES_VERSION,
        training=training or {},
    )
    _calibrate(model, _checked(ordinary, len(found.class_codes)), found)
    return model


def _quantiles(values: Float) -> Single:
    """Quantiles (152, KNOTS) of the finite values of each column; zeros for a column without any."""
    shares = (np.arange(KNOTS) + 0.5) / KNOTS
    knots = np.zeros((values.shape[1], KNOTS), np.float32)
    for j, column in enumerate(values.T):
        finite = column[np.isfinite(column)]
        if finite.size:
            knots[j] = np.clip(np.quantile(finite, shares), -3e38, 3e38)
    return knots


def gaussian(rows: Single, shrinkage: float = SHRINKAGE) -> tuple[Single, Single]:
    """Mean (p,) and whitening matrix (p, p), lower triangular, of rows (n, p); NaN for fewer than ENOUGH rows.

    A missing value (NaN) counts as the mean. `shrinkage` is the share of the mean variance in the covariance.
    """
    p = rows.shape[1]
    if len(rows) < ENOUGH:
        return np.full(p, np.nan, np.float32), np.full((p, p), np.nan, np.float32)
    there = np.isfinite(rows)
    count = there.sum(axis=0)
    mean = np.where(there, rows, 0.0).sum(axis=0) / np.maximum(count, 1)
    deviation = np.where(there, rows - mean, 0.0)
    covariance = deviation.T @ deviation / len(rows)
    covariance *= 1.0 - shrinkage
    covariance[np.diag_indices(p)] += shrinkage * np.trace(covariance) / ((1.0 - shrinkage) * p)
    return mean.astype(np.float32), np.linalg.cholesky(np.linalg.inv(covariance)).astype(np.float32)


def _calibrate(model: OutlierModel, matrix: Float, found: Classification) -> None:
    """Set the quantiles of evidence from the objects of each most probable branch, then those of the mean from all."""
    shares = (np.arange(LEVELS) + 0.5) / LEVELS
    known = found.class_codes >= 0
    for k, name in enumerate(BRANCHES):
        rows = np.flatnonzero(known & (np.nan_to_num(found.top).argmax(axis=1) == k))
        if not rows.size:
            raise ValueError(f"no ordinary object of branch {name}")
        model._levels[k] = np.quantile(model.evidence(matrix, found, k, rows), shares)
    model._levels[-1] = np.quantile(model._mean_share(matrix, found)[known], shares)
