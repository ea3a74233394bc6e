"""Invariants of a night against tables that are right, and against each way to be wrong; no Spark."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from alerce_spark.alerts.avro import decode
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, STAMP
from alerce_spark.lake.tables import TABLES
from alerce_spark.nightly import integrity
from alerce_spark.nightly.invariants import ALERTS, twice, violations
from alerce_spark.nightly.packets import PACKETS
from alerce_spark.simulation.night import Traits, simulate
from alerce_spark.surveys.ztf import ZTF
from tests.unit.test_assemble import MemoryLake

Tables = dict[str, pl.DataFrame]
STREAM = ("photometry", "stamps", "lightcurves", "results")


@pytest.fixture(scope="module")
def alerts() -> tuple[list[bytes], pl.DataFrame]:
    """Packets and what they are about, as ALERTS."""
    night = simulate(
        8, objects=25, nights=3, cadence=1, stamps=False, version=("3.3", "4.02"), traits=Traits.like_ztf()
    )
    found = decode(night.packets, ZTF).alerts
    frame = pl.DataFrame({"oid": found["objectId"], **{name: found[name] for name in ("candid", "ra", "dec")}})
    return night.packets, frame.with_columns(sampled=pl.lit(True)).select(ALERTS.names)


@pytest.fixture(scope="module")
def right(alerts: tuple[list[bytes], pl.DataFrame]) -> Tables:
    """Tables of an undisturbed night, classes and features (of version v1) among them."""
    lake = MemoryLake()
    lake.write(alerts[0])
    tables = dict(lake.tables)
    own = tables["detections"].filter("has_stamp")
    counted = own.with_columns(nown=pl.len().over("oid").cast(pl.Int32))
    latest = counted.sort("mjd", "candid").unique("oid", keep="last").select("oid", "candid", "nown")
    made = _usable(tables["detections"]).join(latest, "oid").with_columns(version=pl.lit("v1"))
    first = own.group_by("oid").agg(pl.col("candid").min()).with_columns(version=pl.lit("v1"), ndet_used=1, nown=1)
    tables["features"] = made
    tables["probabilities"] = pl.concat(
        [
            made.with_columns(classifier=pl.lit(LIGHTCURVE)),
            first.with_columns(classifier=pl.lit(STAMP)).select(*made.columns, "classifier").cast(made.schema),
        ]
    )
    tables["xmatch"] = own.select("oid").unique().with_columns(catalog=pl.lit("packet"))
    return tables


def _usable(detections: pl.DataFrame) -> pl.DataFrame:
    """Objects with six detections in g or in r, and how many enter: docs/features.md, "Selection", written again."""
    first = detections.sort("mjd", "candid").unique(["oid", "fid"], keep="first")
    corrected = first.group_by("oid").agg(is_corrected=pl.col("corrected").all())
    best = pl.col("has_stamp"), pl.col("rb").fill_nan(None), -pl.col("candid")
    single = detections.sort(*best, nulls_last=False).unique(["oid", "mjd"], keep="last", maintain_order=True)
    rows = single.join(corrected, "oid").with_columns(
        mag=pl.when("is_corrected").then("magpsf_corr").otherwise(pl.col("magpsf").cast(pl.Float64)),
        error=pl.when("is_corrected").then("sigmapsf_corr_ext").otherwise(pl.col("sigmapsf").cast(pl.Float64)),
    )
    good = rows.filter(
        pl.col("fid").is_in([1, 2])
        & pl.col("mag").is_between(-50, 90)
        & (pl.col("error") > 0)
        & (pl.col("error") < 1)
        & pl.col("rb").is_between(0.55, 1)
        & pl.col("isdiffpos").is_not_null()
    )
    counted = good.group_by("oid").agg(
        g=(pl.col("fid") == 1).sum(), r=(pl.col("fid") == 2).sum(), ndet_used=pl.len().cast(pl.Int32)
    )
    return counted.filter((pl.col("g") >= 6) | (pl.col("r") >= 6)).select("oid", "ndet_used")


def _broken(alerts: pl.DataFrame, tables: Tables, queries: tuple[str, ...] = STREAM) -> dict[str, list[str]]:
    found = violations(alerts, lambda table, columns: tables[table].select(columns), queries)
    return {str(name[0]): part["key"].sort().to_list() for name, part in found.group_by("invariant")}


def test_tables_that_are_right(alerts: tuple[list[bytes], pl.DataFrame], right: Tables) -> None:
    assert len(right["features"]) > 3
    assert _broken(alerts[1], right, (*STREAM, "crossmatch")) == {}


def test_only_what_queries_make_is_expected(alerts: tuple[list[bytes], pl.DataFrame], right: Tables) -> None:
    bare = right | {name: right[name].clear() for name in ("features", "probabilities", "xmatch")}
    assert set(_broken(alerts[1], bare, (*STREAM, "crossmatch"))) == {
        *("features", "lightcurve_class", "stamp_class", "crossmatch")
    }
    assert set(_broken(alerts[1], bare, ("photometry", "stamps", "results"))) == {"stamp_class"}
    assert _broken(alerts[1], bare, ("photometry", "stamps", "lightcurves")) == {}


def _without(table: str, *key: str) -> Callable[[Tables], Tables]:
    def damage(tables: Tables) -> Tables:
        row = tables[table].sort(key).head(1).select(key)
        return tables | {table: tables[table].join(row, list(key), "anti")}

    return damage


def _with(table: str, **changed: pl.Expr) -> Callable[[Tables], Tables]:
    """Changes in the rows of the object that comes first in a table."""

    def damage(tables: Tables) -> Tables:
        first = pl.col("oid") == pl.col("oid").min()
        changes = {name: pl.when(first).then(value).otherwise(name) for name, value in changed.items()}
        return tables | {table: tables[table].with_columns(**changes)}

    return damage


def _of_too_few(table: str, **changed: pl.Expr) -> Callable[[Tables], Tables]:
    """A result at the latest alert of an object that has too few detections for one."""

    def damage(tables: Tables) -> Tables:
        own = tables["detections"].filter("has_stamp").with_columns(nown=pl.len().over("oid").cast(pl.Int32))
        several = own.filter(pl.col("nown") > 1)  # so that the first alert, with its stamp class, is another
        few = several.join(_usable(tables["detections"]), "oid", "anti").sort("oid", "mjd", "candid")
        of = few.unique("oid", keep="last", maintain_order=True).tail(1)
        rows = of.select("oid", "candid", "nown", classifier=pl.lit(LIGHTCURVE), version=pl.lit("v1"), ndet_used=6)
        row = rows.with_columns(**changed).select(tables[table].columns).cast(dict(tables[table].schema))
        return tables | {table: pl.concat([tables[table], row])}

    return damage


def _also(table: str, **changed: pl.Expr) -> Callable[[Tables], Tables]:
    """Changed copies of the rows beside the right ones."""
    return lambda tables: tables | {table: pl.concat([tables[table], tables[table].with_columns(**changed)])}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_without("detections", "oid", "candid"), {"missing", "ndet"}),
        (_without("objects", "oid"), {"ndet"}),
        (_without("magstats", "oid", "fid"), {"ndet"}),
        (_with("objects", ndet=pl.col("ndet") - 1), {"ndet", "statistics"}),
        (_with("objects", meanra=pl.col("meanra") + 1e-6), {"statistics"}),
        (_with("objects", lastmjd=pl.lit(float("nan"))), {"statistics"}),
        (_with("magstats", stellar=~pl.col("stellar")), {"statistics"}),
        (_with("detections", dubious=~pl.col("dubious")), {"statistics"}),
        (_with("features", ndet_used=pl.col("ndet_used") - 1), {"features"}),
        (_with("features", nown=pl.col("nown") - 1), {"features"}),
        (_with("features", candid=pl.col("candid") - 1), {"features"}),
        (_with("features", ndet_used=pl.col("ndet_used") + 1), {"features"}),
        (_also("features", version=pl.lit("v2"), ndet_used=pl.col("ndet_used") + 1), set()),
        (_also("features", candid=pl.col("candid") - 1, nown=pl.col("nown") - 1), set()),
        (_of_too_few("features"), {"too_few"}),
        (_of_too_few("probabilities"), {"too_few"}),
        (_of_too_few("features", nown=pl.col("nown") + 1), set()),
        (_of_too_few("probabilities", candid=pl.col("candid") - 1), set()),
        (_of_too_few("probabilities", classifier=pl.lit(STAMP)), set()),
        (_without("xmatch", "oid"), {"crossmatch"}),
    ],
)
def test_each_way_to_be_wrong_is_found(
    alerts: tuple[list[bytes], pl.DataFrame], right: Tables, damage: Callable[[Tables], Tables], expected: set[str]
) -> None:
    wrong = damage(right)
    found = _broken(alerts[1], wrong, (*STREAM, "crossmatch"))
    # Without its detection an object has other statistics, another latest and another first alert.
    also = {"statistics", "features", "lightcurve_class", "stamp_class"} if "missing" in expected else set()
    assert expected <= set(found) <= expected | also


@pytest.mark.parametrize("classifier", [STAMP, LIGHTCURVE])
def test_a_class_that_is_missing(alerts: tuple[list[bytes], pl.DataFrame], right: Tables, classifier: str) -> None:
    classes = right["probabilities"]
    row = classes.filter(classifier=classifier).sort("oid").head(1)
    wrong = right | {"probabilities": classes.join(row, ["oid", "classifier"], "anti")}
    name = "stamp_class" if classifier == STAMP else "lightcurve_class"
    assert _broken(alerts[1], wrong) == {name: [f"{row['oid'][0]} {row['candid'][0]}"]}


def test_first_and_latest_alerts_are_own_ones(alerts: tuple[list[bytes], pl.DataFrame], right: Tables) -> None:
    own = right["detections"].filter("has_stamp").sort("mjd", "candid")
    several = own.group_by("oid").len().filter(pl.col("len") > 1)["oid"]
    oid = right["features"].filter(pl.col("oid").is_in(several.implode()))["oid"].sort()[0]
    candids = own.filter(oid=oid)["candid"].to_list()
    first, before, latest = candids[0], *candids[-2:]

    # Carried by another alert only, the latest is missing, and what is there of the one before is the latest result.
    is_latest = (pl.col("oid") == oid) & (pl.col("candid") == latest)
    moved = pl.when(is_latest).then(before).otherwise("candid").alias("candid")
    carried = right | {
        "detections": right["detections"].with_columns(has_stamp=pl.col("has_stamp") & ~is_latest),
        "features": right["features"].with_columns(moved),
        "probabilities": right["probabilities"].with_columns(moved),
    }
    assert _broken(alerts[1], carried) == {"missing": [f"{oid} {latest}"]}

    # A first alert that is missing has no stamp class either.
    of_first = (pl.col("oid") == oid) & (pl.col("candid") == first)
    no_class = {"probabilities": right["probabilities"].filter(~of_first)}
    lost = no_class | {"detections": right["detections"].filter(~of_first)}
    assert _broken(alerts[1], right | lost)["stamp_class"] == [f"{oid} {first}"]

    # It is the business of the night in which it came.
    later = alerts[1].filter(~of_first)
    assert "stamp_class" not in _broken(later, right | no_class)


@pytest.mark.parametrize("table", ["detections", "non_detections", "objects", "magstats", "features", "probabilities"])
def test_a_key_that_is_twice(alerts: tuple[list[bytes], pl.DataFrame], right: Tables, table: str) -> None:
    row = right[table].head(1)
    if table == "non_detections":
        row = row.with_columns(mjd=pl.col("mjd") + 1e-7)
    wrong = right | {table: pl.concat([right[table], row])}
    found = _broken(alerts[1], wrong)
    assert {name: len(keys) for name, keys in found.items()} == {f"twice:{table}": 1}
    assert found[f"twice:{table}"][0].startswith(str(row["oid"][0]))


def test_tables_without_objects_have_keys_too() -> None:
    rows = pl.DataFrame({"sha256": ["a", "a", "b", "a"], "stage": ["x", "x", "x", "y"]})
    assert twice("quarantine", rows).rows() == [("twice:quarantine", None, None, "a x")]
    assert set(TABLES["quarantine"].key) == {"sha256", "stage"}


def _messages(*rows: tuple[str, int, str, str | None, int | None, float | None]) -> pl.DataFrame:
    columns = {
        "topic": [r[0] for r in rows],
        "partition": [0] * len(rows),
        "offset": [r[1] for r in rows],
        "sha256": [r[2] for r in rows],
        "oid": [r[3] for r in rows],
        "candid": [r[4] for r in rows],
        "mjd": [r[5] for r in rows],
        "ra": np.zeros(len(rows)),
        "dec": np.zeros(len(rows)),
    }
    return pl.DataFrame(columns, schema=pl.DataFrame(PACKETS.empty_table()).schema)


KNOWN = _messages(
    ("night", 0, "a1", "A", 1, 10.0),
    ("night", 1, "a1", "A", 1, 10.0),
    ("night", 2, "a2", "A", 2, 11.0),
    ("night", 3, "b1", "B", 3, 10.5),
    ("night", 4, "xx", None, None, None),
    ("night", 5, "xx", None, None, None),
    ("night", 6, "yy", None, None, None),
)


def _found(*rows: tuple[str, str | None, int | None, str]) -> pl.DataFrame:
    schema = {"invariant": pl.String, "oid": pl.String, "candid": pl.Int64, "key": pl.String}
    return pl.DataFrame(list(rows), schema=schema, orient="row")


@pytest.mark.parametrize(
    ("finding", "offsets"),
    [
        (("missing", "A", 1, "A 1"), [0]),
        (("missing", None, None, "xx"), [4]),
        (("archive", None, None, "yy"), [6]),
        (("stamp_class", "A", 1, "A 1"), [0]),
        (("ndet", "A", None, "A"), [2]),
        (("features", "A", 1, "A 1"), [2]),
        (("too_few", "A", 2, "A 2"), []),
        (("twice:objects", "A", None, "A"), []),
        (("twice:quarantine", None, None, "xx photometry"), []),
    ],
)
def test_the_packet_that_mends_a_finding(finding: tuple[str, str | None, int | None, str], offsets: list[int]) -> None:
    assert integrity._to_send(_found(finding), KNOWN)["offset"].to_list() == offsets
    twice_found = _found(finding, finding)
    assert integrity._to_send(twice_found, KNOWN)["offset"].to_list() == offsets


def test_a_recorded_reason_excuses_the_result_of_that_packet_only() -> None:
    found = _found(
        ("stamp_class", "A", 1, "A 1"),
        ("features", "A", 2, "A 2"),
        ("lightcurve_class", "B", 3, "B 3"),
        ("missing", "A", 1, "A 1"),
    )

    def left(*refused: tuple[str, str]) -> list[str]:
        reasons = pl.DataFrame(list(refused), schema={"sha256": pl.String, "stage": pl.String}, orient="row")
        return sorted(integrity._without_reason(found, KNOWN, reasons)["invariant"].to_list())

    everything = ["features", "lightcurve_class", "missing", "stamp_class"]
    assert left() == everything
    assert left(("a1", "photometry"), ("a1", "lightcurves"), ("a2", "stamps")) == everything
    assert left(("a1", "stamps")) == ["features", "lightcurve_class", "missing"]
    assert left(("a2", "lightcurves")) == ["lightcurve_class", "missing", "stamp_class"]
    assert left(("b1", "lightcurves")) == ["features", "missing", "stamp_class"]


def test_packets_are_counted_once() -> None:
    assert integrity._distinct(KNOWN) == 5
    assert integrity._distinct(KNOWN.clear()) == 0
