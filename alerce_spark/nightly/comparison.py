"""Compare versions of classifiers: the stored classes of some alerts and those of a replay."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from alerce_spark.classifiers.taxonomy import STAMP
from alerce_spark.lake.handles import table_path
from alerce_spark.pages import page
from alerce_spark.training import figures
from alerce_spark.training.figures import Agreement

_COLUMNS = ("oid", "candid", "classifier", "version", "class", "probability", "probabilities", "ndet_used")
_OF_OBJECT = ["oid", "classifier"]
_PAIRS = pl.List(pl.Struct({"key": pl.String, "value": pl.Float64}))


@dataclass(frozen=True)
class Change:
    """An object whose probabilities changed: the alert, both classes, and `distance`, half the sum of |differences|."""

    oid: str
    candid: int
    stored_class: str
    stored_probability: float
    replayed_class: str
    replayed_probability: float
    distance: float
    stored_ndet_used: int
    replayed_ndet_used: int


@dataclass(frozen=True)
class Versions:
    """One stored version of a classifier compared with the replayed one, at the same alerts.

    objects: number that both classified; `same_input` of them with equal numbers of detections, `changed` with another
    class, `changed_on_same_input` with both. only_stored: objects without a replayed class. distance: mean of
    `Change.distance`.
    confusion: objects by stored class (rows) and replayed class (columns) of `classes`. largest: the biggest changes.
    """

    classifier: str
    stored: str
    replayed: str
    objects: int
    same_input: int
    changed: int
    changed_on_same_input: int
    only_stored: int
    distance: float
    classes: list[str]
    confusion: list[list[int]]
    largest: list[Change]


@dataclass(frozen=True)
class Comparison:
    """Result of a replay of a night. `only_replayed`: objects without a stored class at that alert, by classifier."""

    night: str
    lake: str
    into: str
    models: dict[str, str]
    packets: int
    refused: int
    objects: int
    versions: list[Versions]
    only_replayed: dict[str, int]

    def report(self, path: Path) -> None:
        """Write an HTML page, and the same numbers beside it with the suffix .json."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_page(self), encoding="utf-8")
        path.with_suffix(".json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def classes(spark: SparkSession, lake: str, alerts: DataFrame) -> pl.DataFrame:
    """Rows of `probabilities` at `alerts` (columns oid, candid, mjd, pixel): one per object, classifier and version.

    For stamps, which are classified once, it is the row at the earliest of the alerts, for others that at the latest.
    """
    pixels = [row.pixel for row in alerts.select("pixel").distinct().collect()]  # at most a few thousand
    table = (
        spark.read.format("delta")
        .load(table_path(lake, "probabilities"))
        .where(F.col("pixel").isin(pixels))
        .drop("mjd")
    )
    at = table.join(F.broadcast(alerts.drop("pixel")), ["oid", "candid"]).select(*_COLUMNS, "mjd").toArrow()
    found = pl.DataFrame(at).sort("candid")
    once = pl.col("classifier") == STAMP
    key = [*_OF_OBJECT, "version"]
    latest = alerts.groupBy("oid").agg(F.max(F.struct("mjd", "candid")).alias("latest"))
    last = pl.DataFrame(latest.select("oid", "latest.candid").toArrow())
    others = found.filter(~once).join(last, ["oid", "candid"], "semi")
    return pl.concat([found.filter(once).unique(key, keep="first"), others]).drop("mjd")


def compare(stored: pl.DataFrame, replayed: pl.DataFrame, most: int = 20) -> tuple[list[Versions], dict[str, int]]:
    """Comparison of each stored version with the replayed one, and objects without a stored class, by classifier.

    Both arguments are rows as from `classes`; the replay has one version of a classifier. `most` is the length of
    `largest`.
    """
    new = replayed.join(stored, _OF_OBJECT, "anti").group_by("classifier").len()
    only_replayed = dict(sorted(new.iter_rows()))
    found = []
    for (classifier, version), old in sorted(stored.group_by("classifier", "version"), key=lambda part: part[0]):
        given = replayed.filter(classifier=classifier)
        if len(given):
            found.append(_versions(str(classifier), str(version), old, given, most))
    return found, only_replayed


def _versions(classifier: str, version: str, old: pl.DataFrame, new: pl.DataFrame, most: int) -> Versions:
    one = old.drop("probabilities").join(new.drop("probabilities"), ["oid", "candid"], suffix="_new")
    both = one.join(_distances(old, new), "oid").with_columns(
        changed=pl.col("class") != pl.col("class_new"), same=pl.col("ndet_used") == pl.col("ndet_used_new")
    )
    names = sorted({*both["class"], *both["class_new"]})
    counts = np.zeros((len(names), len(names)), np.int64)
    for before, after, objects in both.group_by("class", "class_new").len().iter_rows():
        counts[names.index(before), names.index(after)] = objects
    largest = both.sort(["distance", "oid"], descending=[True, False]).head(most)
    return Versions(
        classifier=classifier,
        stored=version,
        replayed=str(new["version"][0]),
        objects=len(both),
        same_input=int(both["same"].sum()),
        changed=int(both["changed"].sum()),
        changed_on_same_input=int((both["changed"] & both["same"]).sum()),
        only_stored=len(old.join(new, ["oid", "candid"], "anti")),
        distance=float(both.select(pl.col("distance").mean().fill_null(0.0)).item()),
        classes=names,
        confusion=counts.tolist(),
        largest=[_change(row) for row in largest.iter_rows(named=True)],
    )


def _distances(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Distance of the two distributions of each object: oid, distance. A missing class has probability 0."""
    before, after = (
        part.select("oid", pl.col("probabilities").cast(_PAIRS)).explode("probabilities").unnest("probabilities")
        for part in (old, new)
    )
    joined = before.join(after, ["oid", "key"], "full", suffix="_new", coalesce=True)
    difference = (pl.col("value").fill_null(0.0) - pl.col("value_new").fill_null(0.0)).abs()
    return joined.group_by("oid").agg(distance=difference.sum() / 2)


def _change(row: dict[str, Any]) -> Change:
    return Change(
        oid=row["oid"],
        candid=row["candid"],
        stored_class=row["class"],
        stored_probability=row["probability"],
        replayed_class=row["class_new"],
        replayed_probability=row["probability_new"],
        distance=row["distance"],
        stored_ndet_used=row["ndet_used"],
        replayed_ndet_used=row["ndet_used_new"],
    )


def _page(done: Comparison) -> str:
    refused = f", {done.refused} that cannot be decoded" if done.refused else ""
    models = ", ".join(f"{escape(name)} {escape(version)}" for name, version in done.models.items())
    parts = [
        f"<p>{done.packets} packets{refused}; {done.objects} objects; by {models}.",
        f"<p>Stored: {escape(done.lake)}. Replayed: {escape(done.into)}.",
    ]
    for name, objects in done.only_replayed.items():
        parts.append(
            f"<p>{objects} objects have a class by {escape(name)} in the replay and none stored at that alert."
        )
    for versions in done.versions:
        parts += _section(versions)
    if not done.versions:
        parts.append("<p><b>Nothing to compare</b>: the lake holds no class at these alerts.")
    return page(f"Replay of the night {done.night}", "".join(parts))


_HEADER = ("object", "alert", "stored class", "probability", "replayed class", "probability", "distance", "detections")


def _section(of: Versions) -> list[str]:
    matrix = Agreement(
        f"stored, {of.stored}", tuple(of.classes), f"replayed, {of.replayed}", tuple(of.classes), np.array(of.confusion)
    )
    parts = [
        f"<h2>{escape(of.classifier)}: {escape(of.stored)} → {escape(of.replayed)}</h2>",
        f"<p>{of.objects} objects have both; {of.changed} changed class. {of.same_input} were classified from as many "
        f"detections, of these {of.changed_on_same_input} changed class. {of.only_stored} have no class in the replay. "
        f"Mean distance of the probabilities (half the sum of their differences): {of.distance:.4f}.",
    ]
    if not of.objects:
        return parts
    rows = "".join(
        f"<tr><td>{escape(c.oid)}<td>{c.candid}<td>{escape(c.stored_class)}<td>{c.stored_probability:.3f}"
        f"<td>{escape(c.replayed_class)}<td>{c.replayed_probability:.3f}<td>{c.distance:.3f}"
        f"<td>{c.stored_ndet_used} → {c.replayed_ndet_used}"
        for c in of.largest
    )
    return [
        *parts,
        "<p>Percent of the objects of a stored class, by replayed class:</p>",
        figures.as_html(figures.agreement(matrix), f"{of.classifier}, stored against replayed"),
        f"<h3>Biggest changes</h3><table><tr>{''.join(f'<th>{name}' for name in _HEADER)}{rows}</table>",
    ]
