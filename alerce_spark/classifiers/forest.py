"""Compiled inference of a forest of decision trees, from flat arrays with eight bytes per split.

A forest is stored as its splits only, tree after tree, each tree in preorder. A split is a 32-bit threshold and a link:

    bits 0-7    column of the matrix that is compared: x <= threshold goes left
    bits 8-9    which sides are leaves: 1 the left one, 2 the right one
    bits 10-31  no leaf: how many splits further the right side begins (the left side always begins at the next split)
                one leaf: its row in the table of leaves (the other side begins at the next split)
                two leaves: row of the left leaf, the right leaf's is the next row

Fully grown trees have pure leaves almost everywhere, so the table has few rows. Every step goes forward, so a walk
ends; `Forest` checks once, when created, that all walks stay inside their tree and the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

#: One split of a tree.
SPLIT = np.dtype([("threshold", "<f4"), ("link", "<u4")])

_COLUMNS = 1 << 8
_REACH = 1 << 22
_LANES = 8  # walks that run side by side, so that one's wait for memory is another's work
_BLOCK = 256  # rows that meet one tree while it is in the cache
_SUM_TOLERANCE = 1e-3


class Forest:
    """A forest over `columns` columns: the mean of its trees' leaves gives the probabilities of `classes`."""

    def __init__(
        self, splits: NDArray[Any], trees: NDArray[Any], leaves: NDArray[Any], classes: tuple[str, ...], columns: int
    ) -> None:
        """Take arrays without a copy; they must not change afterwards. Raises ValueError if they are not a forest.

        splits: (n,) SPLIT, or (n, 2) uint32 with the same bytes. trees: (t + 1,) uint32, where each tree begins, and n.
        leaves: (m, k) float32, probabilities of the k classes.
        """
        self.classes, self.columns = tuple(classes), columns
        self._splits = _frozen(splits if splits.dtype == SPLIT else _as_splits(splits))
        self._trees, self._leaves = _frozen(trees), _frozen(leaves)
        self._check()

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of a model file: `splits` as (n, 2) uint32, `trees`, `leaves`."""
        splits = self._splits.view("<u4").reshape(-1, 2)
        return {"splits": splits, "trees": self._trees, "leaves": self._leaves}

    def predict_proba(self, matrix: ArrayLike) -> NDArray[np.float64]:
        """Probabilities (n, k) of rows (n, columns), which are compared in single precision as scikit-learn does.

        Raises ValueError for another shape or NaN.
        """
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(matrix, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.columns:
            raise ValueError(f"a matrix of shape {rows.shape} was given, (n, {self.columns}) is needed")
        if np.isnan(rows).any():
            raise ValueError("the matrix has NaN")
        sums = np.zeros((len(rows), len(self.classes)))
        if len(rows) < _LANES // 2:
            _add_leaves_row_by_row(rows, self._splits, self._trees, self._leaves, sums)
        else:
            _add_leaves_tree_by_tree(rows, self._splits, self._trees, self._leaves, sums)
        sums /= self._trees.size - 1
        return sums

    def _check(self) -> None:
        """Raise ValueError unless every walk stays within the arrays and ends at a row of probabilities."""
        trees, leaves, count = self._trees, self._leaves, self._splits.size
        _require(trees.ndim == 1 and trees.size >= 2 and trees.dtype == np.uint32, "no trees")
        _require(leaves.ndim == 2 and leaves.dtype == np.float32, "no table of leaves")
        _require(leaves.shape[1] == len(self.classes) > 0, "leaves and classes differ in number")
        _require(0 < self.columns <= _COLUMNS, f"{self.columns} columns; there may be {_COLUMNS}")
        begins = trees.astype(np.int64)
        _require(begins[0] == 0 and begins[-1] == count and bool((np.diff(begins) > 0).all()), "trees overlap")
        link = self._splits["link"]
        kind, reach = (link >> 8) & 3, (link >> 10).astype(np.int64)
        left_after = np.repeat(begins[1:], np.diff(begins)) - np.arange(count)  # splits to the end of the tree
        _require(bool(((link & 0xFF) < self.columns).all()), "a split compares a column that does not exist")
        _require(not np.isnan(self._splits["threshold"]).any(), "a threshold is NaN")
        _require(bool((left_after[kind != 3] > 1).all()), "a tree ends without a leaf")
        forks = kind == 0
        _require(bool(((reach > 1) & (reach < left_after))[forks].all()), "a split leads out of its tree")
        _require(bool((reach[~forks] + (kind[~forks] == 3) < len(leaves)).all()), "a leaf lies outside the table")
        _require(bool(((leaves >= 0) & (leaves <= 1)).all()), "leaves are not probabilities")
        _require(bool((np.abs(leaves.sum(axis=1) - 1) < _SUM_TOLERANCE).all()), "leaves are not probabilities")


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _as_splits(pairs: NDArray[Any]) -> NDArray[Any]:
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype != np.uint32:
        raise ValueError("no forest: splits are not pairs of 32 bits")
    return pairs.view(SPLIT)[:, 0]


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"no forest: {what}")


@njit(cache=True)
def _step(value, split, at):  # type: ignore[no-untyped-def]
    """Next step of a walk from split `at`: the next split, or -1 - row of the leaf."""
    link = np.int64(split.link)
    right = 0 if value <= split.threshold else 1
    kind, reach = (link >> 8) & 3, link >> 10
    if (kind >> right) & 1:
        return -1 - (reach + (right if kind == 3 else 0))
    return at + (reach if right and kind == 0 else 1)


@njit(cache=True)
def _add_leaves_tree_by_tree(rows, splits, trees, leaves, sums):  # type: ignore[no-untyped-def]
    """Add each tree's leaf to the row's sums; rows walk a tree side by side, block by block."""
    n, classes = rows.shape[0], leaves.shape[1]
    at = np.empty(_LANES, np.int64)
    for begin in range(0, n, _BLOCK):
        end = min(begin + _BLOCK, n)
        for tree in range(trees.size - 1):
            root = np.int64(trees[tree])
            for first in range(begin, end, _LANES):
                lanes = min(_LANES, end - first)
                for lane in range(lanes):
                    at[lane] = root
                walking = True
                while walking:
                    walking = False
                    for lane in range(lanes):
                        i = at[lane]
                        if i >= 0:
                            at[lane] = _step(rows[first + lane, splits[i].link & 0xFF], splits[i], i)
                            walking = True
                for lane in range(lanes):
                    leaf = -1 - at[lane]
                    for k in range(classes):
                        sums[first + lane, k] += leaves[leaf, k]


@njit(cache=True)
def _add_leaves_row_by_row(rows, splits, trees, leaves, sums):  # type: ignore[no-untyped-def]
    """Like `_add_leaves_tree_by_tree`, but walks several trees side by side, for few rows."""
    classes, count = leaves.shape[1], trees.size - 1
    at = np.empty(_LANES, np.int64)
    for row in range(rows.shape[0]):
        for first in range(0, count, _LANES):
            lanes = min(_LANES, count - first)
            for lane in range(lanes):
                at[lane] = trees[first + lane]
            walking = True
            while walking:
                walking = False
                for lane in range(lanes):
                    i = at[lane]
                    if i >= 0:
                        at[lane] = _step(rows[row, splits[i].link & 0xFF], splits[i], i)
                        walking = True
            for lane in range(lanes):
                leaf = -1 - at[lane]
                for k in range(classes):
                    sums[row, k] += leaves[leaf, k]


def from_sklearn(model: Any) -> Forest:
    """The forest of a fitted scikit-learn or imbalanced-learn forest classifier.

    Equal to its `predict_proba` but for the rounding of impure leaves to single precision. scikit-learn compares
    single-precision values with double-precision thresholds; the largest single-precision number that is not above
    the threshold gives the same answer for every such value. Raises ValueError for trees that were not grown depth
    first, and for forests that are too large for the format.
    """
    trees = [_Tree(estimator.tree_) for estimator in model.estimators_]
    begins = np.cumsum([0, *(tree.columns.size for tree in trees)])
    of_leaves = np.cumsum([0, *(len(tree.leaves) for tree in trees)])
    # Leaves by their number in the whole forest, then by their distinct distributions.
    distinct, row_of = np.unique(np.concatenate([tree.leaves for tree in trees]), axis=0, return_inverse=True)
    row_of = row_of.reshape(-1)
    sides = [
        np.where(tree.is_leaf, row_of[np.where(tree.is_leaf, tree.sides + first, 0)], tree.sides)
        for tree, first in zip(trees, of_leaves, strict=False)
    ]
    left, right = np.concatenate(sides, axis=1)
    left_is_leaf, right_is_leaf = np.concatenate([tree.is_leaf for tree in trees], axis=1)
    kind = left_is_leaf + 2 * right_is_leaf
    # A split with two leaves names one row and means the next as well: each pair of distributions has its own two rows.
    pairs, pair_of = np.unique(np.stack([left, right], axis=1)[kind == 3], axis=0, return_inverse=True)
    reach = np.select([kind == 1, kind == 2], [left, right], right)
    reach[kind == 3] = len(distinct) + 2 * pair_of.reshape(-1)
    leaves = np.concatenate([distinct, distinct[pairs.reshape(-1)]])
    if max(reach.max(), len(leaves)) >= _REACH:
        raise ValueError("the forest is too large: a tree or the table of leaves has 2^22 entries or more")
    splits = np.empty(kind.size, SPLIT)
    splits["threshold"] = np.concatenate([tree.thresholds for tree in trees])
    splits["link"] = np.concatenate([tree.columns for tree in trees]) | kind << 8 | reach << 10
    classes = tuple(str(name) for name in model.classes_)
    return Forest(splits, begins.astype(np.uint32), leaves.astype(np.float32), classes, model.n_features_in_)


class _Tree:
    """Splits of a scikit-learn tree in preorder: columns, thresholds, and the two sides.

    `sides` (2, n) is the number of a leaf in `leaves` where `is_leaf`, else how many splits further that side begins.
    """

    def __init__(self, tree: Any) -> None:
        is_leaf = tree.children_left < 0
        values = tree.value[is_leaf, 0, :]
        self.leaves = values / values.sum(axis=1, keepdims=True)
        if is_leaf[0]:  # one leaf alone: a split whose sides agree
            self.columns, self.thresholds = np.zeros(1, np.int64), np.zeros(1, np.float32)
            self.sides, self.is_leaf = np.zeros((2, 1), np.int64), np.ones((2, 1), bool)
            return
        nodes = np.flatnonzero(~is_leaf)
        if (tree.children_left[nodes] != nodes + 1).any():
            raise ValueError("the trees were not grown depth first (max_leaf_nodes must be None)")
        children = np.stack([tree.children_left[nodes], tree.children_right[nodes]])
        split_number, leaf_number = np.cumsum(~is_leaf) - 1, np.cumsum(is_leaf) - 1
        self.is_leaf = is_leaf[children]
        self.sides = np.where(self.is_leaf, leaf_number[children], split_number[children] - np.arange(nodes.size))
        self.columns = tree.feature[nodes].astype(np.int64)
        self.thresholds = _not_above(tree.threshold[nodes])


def _not_above(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest single-precision numbers that are not above the thresholds."""
    with np.errstate(over="ignore"):
        single = thresholds.astype(np.float32)
        below = np.nextafter(single, np.float32(-np.inf))
    return np.where(single > thresholds, below, single)
