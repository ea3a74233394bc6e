"""The light-curve classifier: a hierarchy of four balanced random forests over the 152 features (paper, section 3.4).

One forest separates the branches Stochastic, Periodic and Transient; one per branch separates its classes.
P(class) = P(branch) · P(class | branch). Classification needs only NumPy and numba; training needs imbalanced-learn.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from alerce_spark.classifiers import artefact
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.forest import Forest, from_sklearn
from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE, LIGHTCURVE_CLASSES, VERSION, branch_of
from alerce_spark.errors import InputError
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.tablefiles import OIDS, TableFileError, opened
from alerce_spark.tablefiles.values import ids, strict_numbers

Float = NDArray[np.float64]

TOP = "top"
#: The forests by name, each with its possible classes in the order of its columns.
LEVELS: dict[str, tuple[str, ...]] = {TOP: tuple(BRANCHES), **BRANCHES}

#: Value of a missing feature in the forests' input.
MISSING = -999.0
#: Magnitude above which a value is a failed fit and counts as 0.
LARGEST = 1e32

#: Hyper-parameters of the paper's notebook. The last three are the defaults of imbalanced-learn at that time; 0.14 has
#: sampling_strategy="all", replacement=True, bootstrap=False: draws of the minority's size with replacement, no second
#: bootstrap. The notebook drew that number without replacement, and each tree a bootstrap of the draw.
PARAMETERS: dict[str, Any] = {
    "criterion": "entropy",
    "class_weight": "balanced_subsample",
    "max_depth": None,
    "min_samples_split": 2,
    "min_samples_leaf": 1,
    "bootstrap": True,
    "sampling_strategy": "auto",
    "replacement": False,
}
#: Features tried at a split: the square root of their number, but a fifth of them in the stochastic branch.
MAX_FEATURES: dict[str, str | float] = dict.fromkeys(LEVELS, "sqrt") | {"Stochastic": 0.2}

#: Other names of features in published tables.
RENAMED = {"Period_fit": "PPE"}
_CHUNK = 1 << 16  # rows of a table that are a matrix at one time


@dataclass(frozen=True)
class Classification:
    """Probabilities of n objects; NaN and code -1 for an object without a single feature.

    probabilities: (n, 15) in the order of LIGHTCURVE_CLASSES, sum 1. top: (n, 3) of the branches, in the order of
    BRANCHES. children: (n, 15) given the branch, so that each branch sums to 1. class_codes: (n,) index of the most
    probable of the 15 classes.
    """

    probabilities: Float
    top: Float
    children: Float
    class_codes: NDArray[np.int64]

    @property
    def class_names(self) -> list[str | None]:
        """Name of the most probable class of each object; None for an unclassified object."""
        return [LIGHTCURVE_CLASSES[code] if code >= 0 else None for code in self.class_codes.tolist()]


class LightcurveModel:
    """The four forests and the facts of their training. Use `train`, `load` and `save`.

    `version` names the model, `features` the columns its forests read, `features_version` the feature definitions of
    the training set; `importances[level]` (one number per feature, sum 1) are the mean decreases of impurity;
    `training` holds what the trainer recorded about the training.
    """

    names = LIGHTCURVE_CLASSES

    def __init__(
        self,
        forests: dict[str, Forest],
        *,
        version: str,
        features: Sequence[str],
        features_version: str,
        importances: dict[str, NDArray[np.float32]],
        training: dict[str, Any],
    ) -> None:
        """Raises ValueError if forests, classes and features do not match."""
        self.version, self.features, self.features_version = version, tuple(features), features_version
        self.importances, self.training = importances, training
        self._forests = forests
        self._check()
        self._columns = np.array([FEATURES.index(name) for name in self.features])
        self._classes = {
            level: np.array([LEVELS[level].index(name) for name in forest.classes]) for level, forest in forests.items()
        }

    def _check(self) -> None:
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown:
            raise ValueError(f"features that this code does not know: {', '.join(unknown[:5])}")
        if set(self._forests) != set(LEVELS):
            raise ValueError(f"forests {', '.join(self._forests)}; needed are {', '.join(LEVELS)}")
        for level, forest in self._forests.items():
            if len(set(forest.classes)) != len(forest.classes) or not set(forest.classes) <= set(LEVELS[level]):
                raise ValueError(f"forest {level} has classes {', '.join(forest.classes)}")
            if forest.columns != len(self.features) or self.importances[level].shape != (len(self.features),):
                raise ValueError(f"forest {level} does not have the {len(self.features)} columns of the features")

    def classify(self, matrix: ArrayLike) -> Classification:
        """Classify rows of the features of FEATURES, (n, 152), NaN where undefined.

        Raises ValueError for another shape.
        """
        values = np.asarray(matrix, np.float64)
        if values.ndim != 2 or values.shape[1] != len(FEATURES):
            raise ValueError(f"a matrix of shape {values.shape} was given, (n, {len(FEATURES)}) is needed")
        if self.features != FEATURES:
            values = values[:, self._columns]
        rows, known = _prepared(values)
        levels = {}
        for level, forest in self._forests.items():
            levels[level] = np.zeros((len(rows), len(LEVELS[level])))
            levels[level][:, self._classes[level]] = forest.predict_proba(rows)
            levels[level][~known] = np.nan
        top = levels.pop(TOP)
        children = np.concatenate([levels[branch] for branch in BRANCHES], axis=1)
        probabilities = np.repeat(top, [len(classes) for classes in BRANCHES.values()], axis=1) * children
        return Classification(probabilities, top, children, np.where(known, probabilities.argmax(axis=1), -1))

    def save(self, path: str | Path) -> None:
        """Write the model file atomically."""
        header = {
            "version": self.version,
            "taxonomy_version": VERSION,
            "features": list(self.features),
            "features_version": self.features_version,
            "classes": {level: list(forest.classes) for level, forest in self._forests.items()},
            "training": self.training,
        }
        arrays = {
            f"{level}.{name}": array
            for level, forest in self._forests.items()
            for name, array in {**forest.arrays, "importances": self.importances[level]}.items()
        }
        artefact.write(Path(path), LIGHTCURVE, header, arrays)


def load(path: str | Path) -> LightcurveModel:
    """A model from its file. Raises ModelError."""
    header, arrays = artefact.read(Path(path), LIGHTCURVE)
    if not _is_header(header):
        raise ModelError(f"{path}: the header is not that of a light-curve model")
    features, forests = header["features"], {}
    try:
        for level, names in header["classes"].items():
            splits, trees, leaves = (arrays[f"{level}.{name}"] for name in ("splits", "trees", "leaves"))
            forests[level] = Forest(splits, trees, leaves, tuple(names), len(features))
        return LightcurveModel(
            forests,
            version=header["version"],
            features=features,
            features_version=header["features_version"],
            importances={level: arrays[f"{level}.importances"] for level in forests},
            training=header["training"],
        )
    except KeyError as error:
        raise ModelError(f"{path} has no array {error}") from None
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None


def _is_header(header: dict[str, Any]) -> bool:
    match header:
        case {
            "version": str(),
            "features": [*features],
            "features_version": str(),
            "classes": {**classes},
            "training": {},
        }:
            lists = [features, *classes.values()]
            return all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in lists)
        case _:
            return False


def _prepared(values: Float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Input of the forests (missing and infinite values as MISSING, failed fits as 0), and the rows with any value."""
    finite: NDArray[np.bool_] = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        sound = np.where(np.abs(values) > LARGEST, 0.0, values)
    return np.where(finite, sound, MISSING).astype(np.float32), np.any(finite, axis=1)


def train(
    matrix: ArrayLike, labels: Sequence[str], *, seed: int, version: str, trees: int = 500, jobs: int = 1
) -> LightcurveModel:
    """Train the four forests on rows of FEATURES (n, 152; NaN missing) with light-curve classes as labels.

    The model depends on the rows, their order and the seed, not on `jobs`. A class without rows has probability 0.
    Raises ValueError for unknown labels, rows without any feature, and branches with fewer than two classes.
    """
    values = np.asarray(matrix, np.float64)
    names = np.asarray(labels, dtype=object)
    if values.shape != (names.size, len(FEATURES)):
        raise ValueError(f"a matrix of shape {values.shape} was given, {(names.size, len(FEATURES))} is needed")
    branches = np.array([branch_of(name) for name in names], dtype=object)
    rows, known = _prepared(values)
    if not known.all():
        raise ValueError(f"{(~known).sum()} rows without a single feature cannot be learned from")
    seeds = dict(zip(LEVELS, np.random.SeedSequence(seed).generate_state(len(LEVELS)).tolist(), strict=True))
    forests, importances = {}, {}
    for level in LEVELS:
        inside = slice(None) if level == TOP else branches == level
        of_level = (branches if level == TOP else names)[inside]
        forests[level], importances[level] = _train_level(level, rows[inside], of_level, seeds[level], trees, jobs)
    training = {
        "seed": seed,
        "trees": trees,
        "objects": dict(sorted(Counter(names.tolist()).items())),
        "parameters": PARAMETERS,
        "max_features": MAX_FEATURES,
        "libraries": _libraries(),
    }
    return LightcurveModel(
        forests,
        version=version,
        features=FEATURES,
        features_version=FEATURES_VERSION,
        importances=importances,
        training=training,
    )


def _train_level(
    level: str, rows: NDArray[np.float32], names: NDArray[Any], seed: int, trees: int, jobs: int
) -> tuple[Forest, NDArray[np.float32]]:
    """One forest, and the importances of its features."""
    from imblearn.ensemble import BalancedRandomForestClassifier  # noqa: PLC0415  (training is an extra)

    classes = sorted(set(names.tolist()))
    if len(classes) < 2:
        raise ValueError(f"level {level} has {len(classes)} classes to tell apart: {', '.join(classes) or 'none'}")
    model = BalancedRandomForestClassifier(
        trees, max_features=MAX_FEATURES[level], random_state=seed, n_jobs=jobs, **PARAMETERS
    )
    with warnings.catch_warnings():
        # imbalanced-learn announces at every fit with these parameters that its defaults have changed.
        warnings.simplefilter("ignore", FutureWarning)
        model.fit(rows, names.astype(str))
    return from_sklearn(model), model.feature_importances_.astype(np.float32)


def _libraries() -> dict[str, str]:
    import imblearn  # noqa: PLC0415
    import sklearn  # noqa: PLC0415

    return {"imbalanced-learn": imblearn.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__}


def read_features(path: str | Path) -> pa.Table:
    """Ids and features of a table in any format of `tablefiles`: `oid` as text or integers, then numbers.

    Column names are those of `classify_table`, in any case; other columns are left out. Raises TableFileError for a
    file without ids, without any feature or without rows, for a feature that is not a number, and for ids that are
    missing or have lost digits.
    """
    with opened(path) as file:
        oid = file.need(oid=OIDS)["oid"]
        found = {name: file.find(_spellings(name)) for name in FEATURES}
        known = {name: column for name, column in found.items() if column is not None}
        if not known:
            raise TableFileError(
                f"{path} has none of the {len(FEATURES)} features; its columns are {_some(file.names)}"
            )
        rows = file.table([oid, *known.values()])
    if not len(rows):
        raise TableFileError(f"{path} holds no objects, only a header")
    names = ids(rows[oid], f"{path}: {oid}")
    if names.null_count:
        raise TableFileError(f"{path}: {names.null_count} rows have no {oid}")
    whole = pa.types.is_integer(rows[oid].type)
    columns = {name: strict_numbers(rows[column], f"{path}: {column}") for name, column in known.items()}
    return pa.table({"oid": rows[oid] if whole else names, **columns})


def _spellings(feature: str) -> list[str]:
    return [feature, *(old for old, new in RENAMED.items() if new == feature)]


def _some(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def classify_table(features: pa.Table, model: LightcurveModel) -> tuple[pa.Table, list[str]]:
    """Classify a table with `oid` (or `objectId`) and columns named as in FEATURES or RENAMED, null where undefined.

    Other columns are ignored. Returns the classes in the order of the rows: `oid`, `class_name`, `probability`, one
    column for each of the 15 classes and the 3 branches, `model_version`, null for rows without any feature; and the
    names of the features that the table lacks, whose values count as missing. Raises InputError for a table without
    ids and for a feature that is not numeric.
    """
    id_column = next((name for name in OIDS if name in features.schema.names), None)
    if id_column is None:
        raise InputError(f"no column {' or '.join(OIDS)} with the ids of the objects")
    chosen, absent = _columns_of(features)
    parts = [_classes(chosen.slice(begin, _CHUNK), model) for begin in range(0, max(features.num_rows, 1), _CHUNK)]
    classes = pa.concat_tables(parts)
    names = features.column(features.schema.names.index(id_column))
    return classes.add_column(0, pa.field("oid", names.type), names), absent


def _columns_of(features: pa.Table) -> tuple[pa.Table, list[str]]:
    """The 152 columns of a table as numbers (the first if a name repeats), and the names of the missing ones."""
    found: dict[str, int] = {}
    for index, name in enumerate(features.schema.names):
        found.setdefault(RENAMED.get(name, name), index)
    columns = {}
    for name in FEATURES:
        if name not in found:
            columns[name] = pa.nulls(features.num_rows, pa.float64())
            continue
        try:
            columns[name] = features.column(found[name]).cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"column {features.schema.names[found[name]]!r} is not numeric: {error}") from None
    return pa.table(columns), [name for name in FEATURES if name not in found]


def _classes(features: pa.Table, model: LightcurveModel) -> pa.Table:
    matrix = np.empty((features.num_rows, len(FEATURES)))
    for index, column in enumerate(features.columns):
        matrix[:, index] = pc.fill_null(column, np.nan).to_numpy()
    result = model.classify(matrix)
    values = {
        "class_name": pa.array(result.class_names, pa.string()),
        "probability": pa.array(result.probabilities.max(axis=1), from_pandas=True),
        **{name: pa.array(p, from_pandas=True) for name, p in zip(model.names, result.probabilities.T, strict=True)},
        **{name: pa.array(p, from_pandas=True) for name, p in zip(BRANCHES, result.top.T, strict=True)},
        "model_version": pa.repeat(model.version, len(matrix)),
    }
    return pa.table(values)
