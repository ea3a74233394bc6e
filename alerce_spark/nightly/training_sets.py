"""Training sets of a lake: made from labels and features, and stored as Delta tables with their provenance.

A set is named `name@version`. Its commit has the version of each source table, or the seed of its simulation, so that a
model can be reproduced to the bit. The tables are in `<lake>/_training` and are not vacuumed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import Schema

from alerce_spark import delta
from alerce_spark.classifiers.taxonomy import STAMP
from alerce_spark.delta import Change, Definition, Metadata
from alerce_spark.delta.files import put
from alerce_spark.delta.files import rows as rows_of
from alerce_spark.errors import InputError, LakeError
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.lake.handles import collect, delta_table, is_made
from alerce_spark.lake.read import BY_VERSION, open_lake
from alerce_spark.lake.write import unhindered
from alerce_spark.location import Location, at, lake_path
from alerce_spark.training.sets import SCHEMA, FeatureSet, from_arrow

_PROVENANCE = "alerce.provenance"
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TABLES = ("features", "objects", "magstats")
#: The log keeps every commit: provenance is part of it.
_PROPERTIES = {"delta.logRetentionDuration": "interval 36500 days"}


def write(lake: str, name: str, features: FeatureSet) -> str:
    """Write a set as a new version of the table `name`; return `name@version`, by which `read` finds it.

    One commit; rows are sorted by oid. Raises LakeError for a name with other characters than letters, digits, _ and -.
    """
    place, rows = _place(lake, name), features.to_arrow()
    schema = Schema.from_arrow(rows.schema).to_json()
    described = "A labelled set of light-curve features; where it comes from is in the commit."
    definition = Definition(schema, described, name, configuration=_PROPERTIES)
    info = {_PROVENANCE: json.dumps(dict(features.provenance))}
    added = [put(place, rows, {}, ())]
    if delta.create(place, definition, added=added, info=info, synced=False):
        return f"{name}@0"
    table = delta.open(place)

    def change() -> int:
        now = table.live()
        fields = json.loads(schema)["fields"]
        metadata = None if fields == now.metadata.fields else Metadata(now.metadata.action | {"schemaString": schema})
        removed = {path: file.vector for path, file in now.files.items()}
        return table.commit(now.version, Change(added, removed=removed, metadata=metadata, info=info), synced=False)

    return f"{name}@{unhindered(change)}"


def read(lake: str, named: str) -> FeatureSet:
    """The set `name@version`, sorted by oid, with its provenance. Raises LakeError for an unknown set."""
    name, _, version = named.partition("@")
    table = delta.open(_place(lake, name))
    if not version.isdecimal() or not delta.is_made(table.location):
        raise LakeError(f"no training set {named!r} in {lake}; it is written name@version")
    newest = table.newest().version
    if int(version) > newest:
        raise LakeError(f"no training set {named!r} in {lake}; the newest is {name}@{newest}")
    commit = next((info for number, info in table.history() if number == int(version)), {})
    if _PROVENANCE not in commit:
        raise LakeError(f"{named} in {lake} is no training set; the newest is {name}@{newest}")
    stored = table.at(int(version))
    names = {field["name"] for field in stored.metadata.fields}
    schema = pa.schema([field for field in SCHEMA if field.name in names])
    rows = pa.concat_tables([schema.empty_table(), *(rows_of(table, f, schema) for f in stored.files.values())])
    return from_arrow(rows, json.loads(commit[_PROVENANCE]))


def newest(lake: str, name: str) -> str:
    """`name@version` of the newest set of this name. Raises LakeError for an unknown name."""
    place = _place(lake, name)
    if not delta.is_made(place):
        raise LakeError(f"no training set {name!r} in {lake}")
    return f"{name}@{delta.open(place).newest().version}"


def _place(lake: str, name: str) -> Location:
    if not _NAME.fullmatch(name):
        raise LakeError(f"{name!r} is no name of a training set: letters, digits, _ and - only")
    return at(f"{lake_path(lake)}/_training/{name}")


def from_lake(lake: str, labels: pa.Table) -> FeatureSet:
    """Latest features of labelled objects; columns of `labels`: oid, class_name. Objects without features are left out.

    Latest by mjd (then by detections used, then candid), of the present FEATURES_VERSION only; magnitude from
    `magstats` (apparent where there is one), position from `objects`. Provenance has the Delta versions and a checksum
    of the labels. Raises InputError for an object with two labels, LakeError where no labelled object has features.
    """
    named = pl.DataFrame(labels.select(["oid", "class_name"])).unique().sort("oid")
    if (twice := named.filter(pl.col("oid").is_duplicated())).height:
        raise InputError(f"{twice['oid'].n_unique()} objects have two labels, among them {twice['oid'][0]!r}")
    checksum = hashlib.sha256(named.write_csv().encode()).hexdigest()
    rows, at = _latest(lake, named["oid"].to_list())
    rows = rows.join(named, "oid")
    if rows.is_empty():
        example = f", for instance {named['oid'][0]!r}" if named.height else ""
        raise LakeError(f"none of the {named.height} labelled objects is in {lake} with features{example}")
    return _feature_set(rows, {**at, "labels_sha256": checksum, "labels": str(named.height)})


def unlabelled(lake: str, labelled: Sequence[str], limit: int, seed: int) -> FeatureSet:
    """Latest features of at most `limit` objects that have no label, drawn with `seed`; class names are empty."""
    at = delta_table(lake, "features").version()
    table = open_lake(lake).table("features", version=at).filter(pl.col("version") == FEATURES_VERSION)
    known = collect(lake, table.filter(pl.col("ndet_used") > 0).select("oid").unique())["oid"].sort()
    free = known.filter(~known.is_in(pl.Series(labelled, dtype=pl.String).implode())).to_numpy()
    chosen = np.random.default_rng(seed).permutation(len(free))[:limit]
    rows, versions = _latest(lake, free[np.sort(chosen)].tolist())
    return _feature_set(rows.with_columns(class_name=pl.lit("")), versions)


def _latest(lake: str, oids: Sequence[str]) -> tuple[pl.DataFrame, dict[str, str]]:
    """Newest row of features of each object with its place and magnitude, sorted by oid; and the versions read."""
    at = {name: int(delta_table(lake, name).version()) for name in _TABLES}
    opened = open_lake(lake)
    features, objects, magstats = (opened.table(name, oid=oids, version=at[name]) for name in _TABLES)
    newest = (
        features.filter((pl.col("version") == FEATURES_VERSION) & (pl.col("ndet_used") > 0))
        .sort("mjd", "ndet_used", "candid")
        .unique("oid", keep="last", maintain_order=True)
        .select("oid", "ndet_used", *FEATURES)
    )
    brightness = (
        magstats.filter(pl.col("fid").is_in([1, 2]))
        .sort("fid")
        .group_by("oid")
        .agg(pl.coalesce("magmean_corr", "magmean").drop_nulls().last().alias("magnitude"))
    )
    place = objects.select("oid", "meanra", "meandec")
    rows = collect(lake, newest.join(place, "oid", "left").join(brightness, "oid", "left").sort("oid"))
    return rows, {f"{name}_version": str(version) for name, version in at.items()}


def _feature_set(rows: pl.DataFrame, provenance: dict[str, str]) -> FeatureSet:
    named = rows.rename({"ndet_used": "ndet", "meanra": "ra", "meandec": "dec"})
    table = named.select(SCHEMA.names).to_arrow()
    return from_arrow(table, {"source": "lake", "features_code": FEATURES_VERSION, **provenance})


def stamp_classes(lake: str, oids: Sequence[str]) -> dict[str, str]:
    """Stamp classes of the objects that have one: that of the newest version at the earliest candid."""
    if not is_made(lake, "probabilities"):
        return {}
    rows = open_lake(lake).table("probabilities", oid=oids).filter(pl.col("classifier") == STAMP)
    first = rows.sort(BY_VERSION, "candid", descending=[True, False]).unique("oid", keep="first", maintain_order=True)
    return dict(collect(lake, first.select("oid", "class")).iter_rows())
