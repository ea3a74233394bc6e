"""Invariants of the objects of a night, checked from the tables alone, by look-ups and without Spark.

The rows of each object are read as the stream reads them (`lake/lookup.py`) and compared with each other and with the
alerts that are known to exist. Each violation is a finding: invariant, object, alert, and the key as text.

| invariant | holds where |
|---|---|
| missing | every alert has its own row in detections |
| twice:<table> | no key is in a table twice |
| ndet | objects and magstats count the detections that are there |
| statistics | objects, magstats and the flag `dubious` equal a new computation; for a sample of the objects |
| features | an object with enough detections has features at its latest alert, made of all that count |
| lightcurve_class | and a class, of any model |
| too_few | an object with too few has neither there |
| stamp_class | an object whose first alert is among these has a stamp class for it, of any model |
| crossmatch | every object has an attempt |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from alerce_spark.classifiers.taxonomy import LIGHTCURVE, STAMP
from alerce_spark.features.select import select
from alerce_spark.lake import lookup
from alerce_spark.lake.tables import TABLES
from alerce_spark.lightcurves.assemble import DETECTION_COLUMNS, LIMIT_COLUMNS, LIMIT_MJD_STEP, statistics_of

FINDINGS = pa.schema([("invariant", pa.string()), ("oid", pa.string()), ("candid", pa.int64()), ("key", pa.string())])
#: Alerts to be checked. The statistics of `sampled` objects are recomputed.
ALERTS = pa.schema(
    [("oid", pa.string()), ("candid", pa.int64()), ("ra", pa.float64()), ("dec", pa.float64()), ("sampled", pa.bool_())]
)
MISSING, ARCHIVE, NDET, STATISTICS = "missing", "archive", "ndet", "statistics"
FEATURES, LIGHTCURVE_CLASS, STAMP_CLASS, CROSSMATCH = "features", "lightcurve_class", "stamp_class", "crossmatch"
TOO_FEW = "too_few"
TWICE = "twice:"

_DETECTIONS = (*DETECTION_COLUMNS, "sigmapsf_corr_ext", "rb")
#: Two computations of a statistic agree to this, relative to its size or to 1.
_TOLERANCE = 1e-9

#: Function of table and columns that returns the rows of the objects.
Read = Callable[[str, Sequence[str]], pl.DataFrame]


def reader(alerts: pl.DataFrame, lake: str) -> Read:
    """Reader of columns of a table, for the objects of these ALERTS. Raises LakeError where there is no lake."""
    return lambda table, columns: lookup.read_near(lake, table, columns, *alerts.select("oid", "ra", "dec"))


def violations(alerts: pl.DataFrame, read: Read, queries: Collection[str]) -> pl.DataFrame:
    """FINDINGS about these alerts (ALERTS, at least one) and their objects, whose rows `read` returns.

    Only results of the stream's queries are expected: those of `photometry` always, others where `queries` has their
    query.
    """
    detections = read("detections", _DETECTIONS)
    found = [twice("detections", detections)]
    found += [twice(name, read(name, t.key)) for name, t in TABLES.items() if t.on_sky and name != "detections"]
    detections = detections.unique(["oid", "candid"])
    found += [_missing(alerts, detections), *_counts(detections, read)]
    found.append(_statistics(detections, alerts.filter("sampled")["oid"].unique(), read))
    if "results" in queries:
        classes = read("probabilities", ["oid", "classifier", "candid", "ndet_used", "nown"])
        if "lightcurves" in queries:
            features = read("features", ["oid", "candid", "ndet_used", "nown"])
            found += _light_curves(detections, features, classes.filter(classifier=LIGHTCURVE))
        if "stamps" in queries:
            found.append(_stamps(alerts, detections, classes.filter(classifier=STAMP)))
    if "crossmatch" in queries:
        found.append(_findings(CROSSMATCH, alerts.select("oid").unique().join(read("xmatch", ["oid"]), "oid", "anti")))
    return pl.concat(found)


def twice(table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """FINDINGS of keys that a table has more than once; upper limits of one visit have one key."""
    keys = rows.select(TABLES[table].key)
    if table == "non_detections":
        keys = keys.with_columns((pl.col("mjd") / LIMIT_MJD_STEP).round() * LIMIT_MJD_STEP)
    return _findings(TWICE + table, keys.filter(keys.is_duplicated()).unique())


def _findings(invariant: str, rows: pl.DataFrame) -> pl.DataFrame:
    """FINDINGS of rows that may have `oid` and `candid`; their key is all of their columns."""
    named = {name: pl.col(name) if name in rows.columns else pl.lit(None) for name in ("oid", "candid")}
    key = pl.concat_str(pl.all().cast(pl.String), separator=" ", ignore_nulls=True)
    found = rows.select(pl.lit(invariant).alias("invariant"), **named, key=key)
    return found.cast({"oid": pl.String, "candid": pl.Int64})


def _missing(alerts: pl.DataFrame, detections: pl.DataFrame) -> pl.DataFrame:
    own = detections.filter("has_stamp")
    return _findings(MISSING, alerts.select("oid", "candid").unique().join(own, ["oid", "candid"], "anti"))


def _counts(detections: pl.DataFrame, read: Read) -> list[pl.DataFrame]:
    found = []
    for table, key in (("objects", ["oid"]), ("magstats", ["oid", "fid"])):
        stored = read(table, [*key, "ndet"]).unique(key)
        counted = detections.group_by(key).len("count")
        both = counted.join(stored, key, "full", coalesce=True)
        wrong = both.filter(pl.col("ndet").ne_missing(pl.col("count").cast(pl.Int32)))
        found.append(wrong.select("oid", *key[1:]))
    return [_findings(NDET, rows) for rows in found]


def _statistics(detections: pl.DataFrame, oids: pl.Series, read: Read) -> pl.DataFrame:
    detections = detections.filter(pl.col("oid").is_in(oids.implode()))
    if detections.is_empty():
        return _findings(STATISTICS, pl.DataFrame(schema={"oid": pl.String}))
    homes = detections.select("oid").unique().sort("oid")
    limits = read("non_detections", LIMIT_COLUMNS)
    per_band, per_object, dubious = statistics_of(detections, limits, homes)
    objects = pl.DataFrame(per_object).with_columns(homes["oid"])
    bands = pl.DataFrame(per_band).with_columns(oid=homes["oid"].gather(per_band["object"])).drop("object")
    wrong = [
        _unequal(objects, read("objects", objects.columns), ["oid"]),
        _unequal(bands, read("magstats", bands.columns), ["oid", "fid"]),
        detections.filter(pl.Series(dubious) != pl.col("dubious"))["oid"],
    ]
    return _findings(STATISTICS, pl.concat(wrong).unique().to_frame())


def _unequal(computed: pl.DataFrame, stored: pl.DataFrame, key: list[str]) -> pl.Series:
    """Objects whose rows in the two tables differ; NaN counts as null."""
    both = computed.join(stored.unique(key), key, suffix="_stored").with_columns(pl.selectors.float().fill_nan(None))
    differ = []
    for name in set(computed.columns) - set(key):
        ours, theirs = pl.col(name), pl.col(f"{name}_stored")
        if computed[name].dtype.is_float():
            near = (ours - theirs).abs() <= _TOLERANCE * pl.max_horizontal(ours.abs(), pl.lit(1.0))
            differ.append((ours.is_null() != theirs.is_null()) | ~near.fill_null(True))
        else:
            differ.append(ours.ne_missing(theirs))
    return both.filter(pl.any_horizontal(differ))["oid"]


def _light_curves(detections: pl.DataFrame, features: pl.DataFrame, classes: pl.DataFrame) -> list[pl.DataFrame]:
    if detections.is_empty():
        return []
    objects = select(detections.to_arrow())
    counted = pl.DataFrame({"oid": objects.oid.tolist(), "ndet_used": np.diff(objects.both.offsets).astype(np.int32)})
    own = detections.filter("has_stamp").with_columns(nown=pl.len().over("oid").cast(pl.Int32))
    latest = own.sort("mjd", "candid").unique("oid", keep="last").select("oid", "candid", "nown")
    due = counted.filter(pl.col("ndet_used") > 0).join(latest, "oid")
    found = []
    for invariant, stored in ((FEATURES, features), (LIGHTCURVE_CLASS, classes)):
        made = due.join(stored, ["oid", "candid"], suffix="_stored")
        of_all = (pl.col("nown_stored") == pl.col("nown")) & (pl.col("ndet_used_stored") == pl.col("ndet_used"))
        # A result may include alerts that the table still lacks: that is a finding about the table.
        complete = made.filter(of_all | (pl.col("nown_stored") > pl.col("nown")))
        found.append(_findings(invariant, due.join(complete, "oid", "anti").select("oid", "candid")))
    key = ["oid", "candid"]
    results = pl.concat([features.select(*key, "nown"), classes.select(*key, "nown")])
    few = latest.join(due, "oid", "anti").join(results, key, suffix="_stored")
    found.append(_findings(TOO_FEW, few.filter(pl.col("nown_stored") <= pl.col("nown")).select(key).unique()))
    return found


def _stamps(alerts: pl.DataFrame, detections: pl.DataFrame, classes: pl.DataFrame) -> pl.DataFrame:
    key = ["oid", "candid"]
    own = pl.concat([detections.filter("has_stamp").select(key), alerts.select(key)])
    first = own.group_by("oid").agg(pl.col("candid").min())
    new = first.join(alerts, key, "semi")
    return _findings(STAMP_CLASS, new.join(classes, key, "anti"))
