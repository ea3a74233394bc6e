"""Objects of a lake worth a look: those that fit no class, and those whose label would teach the models most."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl

from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE, LIGHTCURVE_CLASSES
from alerce_spark.errors import InputError, LakeError
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.lake.handles import collect
from alerce_spark.lake.read import Lake, open_lake
from alerce_spark.lake.serving import LightcurveModels
from alerce_spark.training import active

#: Most uncertain objects among which `uncertain` chooses: their distances to each other are kept in memory.
AMONG = 4000
_ABOUT = ("ndet", "meanra", "meandec", "firstmjd", "lastmjd")


def outlying(
    lake: str,
    *,
    branch: str | None = None,
    min_score: float = 0.0,
    min_novelty: float = 0.0,
    limit: int = 100,
    columns: Sequence[str] = (),
) -> pl.DataFrame:
    """The objects with the largest outlier scores, the largest first; of equal ones the most uncertain class first.

    Columns: oid, outlier_score, novelty (of its latest detection, above 0 brighter), class, probability, ndet, meanra,
    meandec [deg], firstmjd, lastmjd [d], odd (features that make it odd, with their share of its distance to the
    predicted class), candid, version, outlier_version, and `columns` of the table objects or features. `branch` is that
    of the predicted class; `min_novelty` is for brighter or fainter. Raises LakeError for an unknown branch or column,
    InputError for a limit below 1 and bounds that are no numbers.
    """
    if limit < 1:
        raise InputError(f"limit = {limit}: at least one object is wanted")
    if math.isnan(min_score) or math.isnan(min_novelty):
        raise InputError("the least score and novelty are numbers, not NaN")
    if branch is not None and branch not in BRANCHES:
        raise LakeError(f"no branch {branch!r}; there are {', '.join(BRANCHES)}")
    opened = open_lake(lake)
    rows = opened.classes(LIGHTCURVE).filter(pl.col("outlier_score") >= min_score)
    if branch is not None:
        rows = rows.filter(pl.col("class").is_in(BRANCHES[branch]))
    novelty = opened.features().select("oid", "candid", "novelty")
    rows = rows.join(novelty, ["oid", "candid"], "left")
    if min_novelty > 0:
        rows = rows.filter(pl.col("novelty").abs() >= min_novelty)
    named = ("oid", "outlier_score", "novelty", "class", "probability", "candid", "version", "outlier_version")
    first = rows.sort("outlier_score", "probability", "oid", descending=[True, False, False]).head(limit)
    found = collect(lake, first.select(named))
    oids = found["oid"].to_list()
    objects, features = collect(lake, opened.table("objects", oid=oids)), _features(opened, oids)
    extra = {}
    for name in columns:
        if name in found.columns:
            continue
        table = next((t for t in (objects, features) if name in t.columns), None)
        if table is None:
            raise LakeError(f"neither objects nor features has a column {name!r}")
        extra[name] = table.select("oid", name)
    found = found.join(objects.select("oid", *_ABOUT), "oid", "left", maintain_order="left")
    found = found.join(_odd(lake, features), "oid", "left", maintain_order="left")
    for name, table in extra.items():
        if name not in found.columns:
            found = found.join(table, "oid", "left", maintain_order="left")
    last = ("candid", "version", "outlier_version")
    return found.select(pl.exclude(*last), *last)


def uncertain(lake: str, count: int = 100, labelled: Sequence[str] = ()) -> pl.DataFrame:
    """The `count` objects whose labels would teach the light-curve classifier most (training/active.py).

    They are chosen among the AMONG most uncertain ones: far from each other and from `labelled` objects, with many
    similar objects. Columns, the most useful first: oid, class, probability, second (class), uncertainty (0 to 1),
    covers (share of the uncertainty that the label would resolve), ndet, meanra, meandec [deg],
    firstmjd, lastmjd [d]. Raises ModelError where the lake has no models, InputError for a count below 1.
    """
    if count < 1:
        raise InputError(f"count = {count}: at least one object is wanted")
    opened = open_lake(lake)
    classes = collect(lake, opened.classes(LIGHTCURVE))
    doubt = active.uncertainty(classes.select(LIGHTCURVE_CLASSES).to_numpy())
    classes = classes.with_columns(uncertainty=pl.Series(doubt))
    free = classes.filter(~pl.col("oid").is_in(list(labelled))).sort("uncertainty", "oid", descending=[True, False])
    features = _features(opened, [*free["oid"].head(AMONG), *labelled])
    scorer = LightcurveModels(lake).scorer()
    points, _ = scorer.normal(np.ascontiguousarray(features.select(FEATURES).to_numpy(), np.float64))
    is_known = features["oid"].is_in(list(labelled)).to_numpy()
    among = features.filter(~is_known).select("oid").join(free, "oid", "left", maintain_order="left")
    chosen, covers = active.choose(points[~is_known], among["uncertainty"].to_numpy(), count, points[is_known])
    found = among[chosen].with_columns(covers=pl.Series(covers))
    order = np.argsort(-found.select(LIGHTCURVE_CLASSES).to_numpy(), axis=1)[:, 1]
    found = found.with_columns(second=pl.Series([LIGHTCURVE_CLASSES[k] for k in order], dtype=pl.String))
    about = collect(lake, opened.table("objects", oid=found["oid"].to_list()).select("oid", *_ABOUT))
    named = ("oid", "class", "probability", "second", "uncertainty", "covers")
    return found.select(named).join(about, "oid", "left", maintain_order="left")


def _features(opened: Lake, oids: Sequence[str]) -> pl.DataFrame:
    """Latest features of these objects, of the present FEATURES_VERSION, sorted by oid."""
    rows = opened.features(oid=list(oids)).filter(pl.col("version") == FEATURES_VERSION)
    return collect(opened.path, rows)


def _odd(lake: str, features: pl.DataFrame) -> pl.DataFrame:
    """Columns oid, odd: the oddest features of each row and their shares, as text; no rows without an outlier model."""
    serving = LightcurveModels(lake).get()
    words: list[str | None] = [None] * len(features)
    if serving.outliers is not None and len(features):
        matrix = features.select(FEATURES).to_numpy()
        odd = serving.outliers.odd_features(matrix, serving.classifier.classify(matrix), 3)
        words = [", ".join(f"{name} {share:.0%}" for name, share in row) for row in odd]
    return features.select("oid").with_columns(odd=pl.Series(words, dtype=pl.String))
