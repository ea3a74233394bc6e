"""Active learning: choose the few unlabelled objects whose labels would teach a classifier most."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.special import xlogy

Float = NDArray[np.float64]
Int = NDArray[np.int64]

#: Number of principal components used for distances, and the neighbour whose distance sets the scale of similarity.
COMPONENTS, NEIGHBOUR = 16, 10


def uncertainty(probabilities: ArrayLike) -> Float:
    """Entropy (n,) of rows of class probabilities (n, classes), 0 (sure) to 1 (all alike); NaN for a row with NaN.

    For a hierarchical classifier it is the entropy of the branches plus that within each, weighted by its probability.
    """
    p = np.asarray(probabilities, np.float64)
    entropy: Float = -xlogy(p, p).sum(axis=1) / np.log(p.shape[1])
    return entropy


def choose(points: ArrayLike, weight: ArrayLike, count: int, known: ArrayLike | None = None) -> tuple[Int, Float]:
    """At most `count` of the points (n, d), the most informative first, and the share of all weight that each adds.

    A label informs about its object and, less with distance, about its neighbours: similarity is exp(−d²/2s²), with s
    the median distance to the NEIGHBOUR-th neighbour, along the first COMPONENTS principal axes. The chosen points
    cover Σ weight · (largest similarity to a chosen point); each step takes the point that adds most (the facility
    location function, Wei, Iyer & Bilmes 2015, ICML, whose greedy maximum is within 1 − 1/e of the best). So an
    uncertain object counts more among many similar ones, and its copies count nothing once it is chosen. `known` (m, d)
    are already labelled. Memory grows as n². Ends when no point adds anything. Raises ValueError for weights that are
    negative or not finite, and for a wrong number of them.
    """
    every, amount = np.asarray(points, np.float64), np.asarray(weight, np.float64)
    if amount.shape != every.shape[:1] or not (np.isfinite(amount) & (amount >= 0)).all():
        raise ValueError("one finite weight of 0 or more is needed for each point")
    if not len(every):
        return np.empty(0, np.int64), np.empty(0)
    middle = every.mean(axis=0)
    axes = np.linalg.svd(every - middle, full_matrices=False)[2][:COMPONENTS]
    placed = (every - middle) @ axes.T
    distance = cdist(placed, placed)
    neighbour = min(NEIGHBOUR, len(every) - 1)
    scale = max(float(np.median(np.partition(distance, neighbour, axis=1)[:, neighbour])), 1e-9)
    similar = np.exp(-0.5 * (distance / scale) ** 2).astype(np.float32)
    covered = np.zeros(len(every), np.float32)
    if known is not None and len(np.asarray(known)):
        nearest = cdist(placed, (np.asarray(known, np.float64) - middle) @ axes.T).min(axis=1)
        covered = np.exp(-0.5 * (nearest / scale) ** 2).astype(np.float32)
    total = max(float(amount.sum()), 1e-300)
    chosen, added = [], []
    for _ in range(min(count, len(every))):
        gain = amount @ np.maximum(similar - covered[:, None], 0.0)
        best = int(np.argmax(gain))
        if gain[best] <= 1e-6 * total:
            break
        chosen.append(best)
        added.append(float(gain[best]) / total)
        covered = np.maximum(covered, similar[:, best])
    return np.array(chosen, np.int64), np.array(added)
