"""The unmodified client of ALeRCE on a lake of ours: every method, every format; values are those that polars reads."""

from __future__ import annotations

import gzip
import io
import warnings
from typing import Any

import fastavro
import numpy as np
import pandas as pd
import polars as pl
import pytest
from astropy.io import fits

from tests.served import Served, counting

pytestmark = pytest.mark.filterwarnings("ignore")
FORMATS = ("json", "pandas", "votable", "csv")


def rows_of(found: Any, form: str) -> list[dict[str, Any]]:
    """Rows of a result of the client, without nulls."""
    if form == "json":
        rows = found
    elif form == "pandas":
        rows = found.to_dict("records")
    elif form == "csv":
        rows = pd.read_csv(
            io.StringIO(found), dtype={"candid": str, "ndethist": str, "classifier_version": str}
        ).to_dict("records")
    else:
        rows = [dict(zip(found.colnames, row, strict=True)) for row in found.iterrows()]
    return [{name: value for name, value in row.items() if not _is_nothing(value)} for row in rows]


def _is_nothing(value: Any) -> bool:
    return value is None or value is np.ma.masked or (isinstance(value, float) and np.isnan(value))


def lake_rows(frame: pl.DataFrame, names: dict[str, str] | list[str]) -> list[dict[str, Any]]:
    """Rows of the lake under the names of the API; what has no value is left out."""
    chosen = (
        frame.select(**{new: pl.col(old) for new, old in names.items()}) if isinstance(names, dict) else frame[names]
    )
    return [
        {name: value for name, value in row.items() if not _is_nothing(value)} for row in chosen.iter_rows(named=True)
    ]


def assert_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]], exact: bool) -> None:
    """The same rows in the same order; what the lake does not have is not looked at."""
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        for name, value in want.items():
            if exact:
                assert got[name] == value, name
                assert type(got[name]) is type(value), name
            elif isinstance(value, float):
                assert got[name] == pytest.approx(value, rel=1e-12), name
            else:
                assert str(got[name]) == str(value), name


DETECTION = [
    *("candid", "mjd", "fid", "pid", "diffmaglim", "isdiffpos", "nid", "distnr", "magpsf", "magpsf_corr", "magap"),
    *("sigmapsf", "sigmapsf_corr", "sigmapsf_corr_ext", "sigmagap", "ra", "dec", "rb", "rbversion", "drb", "magapbig"),
    *("sigmagapbig", "rfid", "has_stamp", "corrected", "dubious", "parent_candid"),
]
OBJECT = {
    **{name: name for name in ("oid", "ncovhist", "mjdstarthist", "mjdendhist", "corrected", "stellar", "ndet")},
    **{name: name for name in ("g_r_max", "g_r_max_corr", "g_r_mean", "g_r_mean_corr", "firstmjd", "lastmjd")},
    **{name: name for name in ("meanra", "meandec", "sigmara", "sigmadec")},
    "deltajd": "deltamjd",
}


@pytest.fixture(scope="module")
def objects(served: Served) -> pl.DataFrame:
    return served.table("objects").sort("oid").with_columns(ndethist=pl.col("ndethist").cast(pl.String))


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_objects_are_those_of_the_lake(alerce: Any, objects: pl.DataFrame, form: str) -> None:
    found = alerce.query_objects(survey="ztf", format=form, order_by="oid", page_size=1000)
    if form == "csv":  # the client puts the whole page into one cell
        assert objects["oid"][0] in found
        return
    rows = rows_of(found["items"] if form == "json" else found, form)
    assert_rows(rows, lake_rows(objects, OBJECT | {"ndethist": "ndethist"}), form == "json")


def test_one_object(alerce: Any, objects: pl.DataFrame, form: str) -> None:
    for one in objects[:3].iter_slices(1):
        if form == "votable":
            continue  # the client makes a table of a dictionary of numbers, which astropy refuses
        found = alerce.query_object(one["oid"][0], format=form, survey="ztf")
        rows = rows_of([found] if form == "json" else found, form)
        assert_rows(rows, lake_rows(one, OBJECT | {"ndethist": "ndethist"}), form == "json")


def _detections(served: Served, oid: str) -> list[dict[str, Any]]:
    mine = served.table("detections").filter(oid=oid).sort("mjd", "candid")
    return lake_rows(mine.with_columns(pl.col("candid").cast(pl.String)), DETECTION)


def _limits(served: Served, oid: str) -> list[dict[str, Any]]:
    mine = served.table("non_detections").filter(oid=oid).drop_nulls("diffmaglim").sort("mjd", "fid")
    return lake_rows(mine, ["mjd", "fid", "diffmaglim"])


def test_light_curves(alerce: Any, served: Served, objects: pl.DataFrame, form: str) -> None:
    compared = 0
    for oid in objects["oid"]:
        expected, limits = _detections(served, oid), _limits(served, oid)
        assert_rows(rows_of(alerce.query_detections(oid, format=form, survey="ztf"), form), expected, form == "json")
        if form != "csv" or limits:  # a CSV file without columns is none
            found = alerce.query_non_detections(oid, format=form, survey="ztf")
            assert_rows(rows_of(found, form), limits, form == "json")
        compared += len(expected) + len(limits)
    assert compared > 80
    both = alerce.query_lightcurve(objects["oid"][0], format="json", survey="ztf")
    assert_rows(both["detections"], _detections(served, objects["oid"][0]), True)
    assert_rows(both["non_detections"], _limits(served, objects["oid"][0]), True)


def test_statistics(alerce: Any, served: Served, objects: pl.DataFrame, form: str) -> None:
    names = ["fid", "stellar", "corrected", "ndet", "ndubious", "magmean", "magmedian", "magmax", "magmin", "magsigma"]
    names += ["maglast", "magfirst", "firstmjd", "lastmjd"]
    for oid in objects["oid"][:5]:
        expected = lake_rows(served.table("magstats").filter(oid=oid).sort("fid"), names)
        found = rows_of(alerce.query_magstats(oid, format=form, survey="ztf"), form)
        assert_rows(found, expected, form == "json")


def test_probabilities_and_their_ranks(alerce: Any, served: Served, form: str) -> None:
    order = {row["classifier"]: row["classes"] for row in served.table("taxonomy").iter_rows(named=True)}
    ties = 0
    for oid, classifier, row in counting(served):
        found = rows_of(alerce.query_probabilities(oid, format=form, survey="ztf"), form)
        mine = [r for r in found if r["classifier_name"] == classifier]
        values = dict(row["probabilities"])
        assert [r["ranking"] for r in mine] == list(range(1, len(order[classifier]) + 1))
        assert mine[0]["class_name"] == row["class"]
        assert {r["class_name"]: r["probability"] for r in mine} == pytest.approx(values)
        assert {r["classifier_version"] for r in mine} == {row["version"]}
        rest = [(-r["probability"], order[classifier].index(r["class_name"])) for r in mine[1:]]
        assert rest == sorted(rest)
        ties += len(values) - len(set(values.values()))
    assert ties > 20


def test_features(alerce: Any, served: Served, objects: pl.DataFrame, form: str) -> None:
    both = ("g-r_max", "g-r_max_corr", "g-r_mean", "g-r_mean_corr", "Multiband_period", "PPE")
    both += tuple(f"Power_rate_{x}" for x in ("1/4", "1/3", "1/2", "2", "3", "4"))
    whole = ("gal_b", "gal_l", "rb", "sgscore1", "W1-W2", "W2-W3", "g-W2", "g-W3", "r-W2", "r-W3")
    oid = objects["oid"][0]
    row = served.table("features").filter(oid=oid).sort("mjd").to_dicts()[-1]
    columns = [name for name in row if name in both + whole or name.endswith(("_1", "_2"))]
    expected = {}
    for name in columns:
        fid = 12 if name in both else 0 if name in whole else int(name[-1])
        expected[name[:-2] if fid in (1, 2) else name, fid] = row[name]
    found = rows_of(alerce.query_features(oid, format=form, survey="ztf"), form)
    values = {(r["name"], int(r["fid"])): r.get("value") for r in found}
    assert len(values) == len(found) == 152
    assert values.keys() == expected.keys()
    assert values == (expected if form == "json" else pytest.approx(expected))
    assert sum(0 < abs(v) < 1e-3 for v in values.values() if v is not None) > 5
    for name in ("Amplitude", "Power_rate_1/4"):
        one = rows_of(alerce.query_feature(oid, name, format=form, survey="ztf"), form)
        assert {(r["name"], int(r["fid"])) for r in one} == {key for key in expected if key[0] == name}


def test_classifiers_have_versions_of_models(alerce: Any, served: Served, form: str) -> None:
    used = {(classifier, row["version"]) for _, classifier, row in counting(served)}
    found = rows_of(alerce.query_classifiers(format=form, survey="ztf"), form)
    assert {(r["classifier_name"], str(r["classifier_version"])) for r in found} == used
    order = {row["classifier"]: row["classes"] for row in served.table("taxonomy").iter_rows(named=True)}
    if form == "json":
        assert all(r["classes"] == order[r["classifier_name"]] for r in found)
    for name, version in used:
        classes = rows_of(alerce.query_classes(name, version, format=form, survey="ztf"), form)
        assert [r["name"] for r in classes] == order[name]


def test_forced_photometry(alerce: Any, served: Served, objects: pl.DataFrame) -> None:
    compared = 0
    for oid in objects["oid"]:
        mine = served.table("forced_photometry").filter(oid=oid).drop_nulls("mag").sort("mjd", "pid")
        names = ["pid", "oid", "mjd", "fid", "ra", "dec", "mag", "e_mag", "mag_corr", "e_mag_corr", "isdiffpos"]
        found = alerce.query_forced_photometry(oid, format="json", survey="ztf")
        assert_rows([{k: v for k, v in row.items() if v is not None} for row in found], lake_rows(mine, names), True)
        frame = alerce.query_forced_photometry(oid, format="pandas", survey="ztf")
        assert len(frame) == len(mine)
        if len(mine):
            assert frame["procstatus"].to_list() == mine["procstatus"].to_list()
        compared += len(mine)
    assert compared > 50


def test_stamps_and_packets(alerce: Any, served: Served) -> None:
    for packet in served.packets[:4]:
        record = next(fastavro.reader(io.BytesIO(packet)))
        found = alerce.get_stamps(record["objectId"], record["candid"], survey="ztf")
        for hdu, name in zip(found, ("cutoutScience", "cutoutTemplate", "cutoutDifference"), strict=True):
            with fits.open(io.BytesIO(gzip.decompress(record[name]["stampData"]))) as file:
                np.testing.assert_array_equal(hdu.data, file[0].data)
        avro = alerce.get_avro(record["objectId"], record["candid"], survey="ztf")
        assert avro == packet or next(fastavro.reader(io.BytesIO(avro)))["candid"] == record["candid"]
    # Without a candid the client looks for the first alert with stamps.
    first = min(
        d["candid"] for d in served.table("detections").filter(oid=record["objectId"], has_stamp=True).to_dicts()
    )
    one = alerce.get_stamps(record["objectId"], survey="ztf")
    stored = next(r for p in served.packets if (r := next(fastavro.reader(io.BytesIO(p))))["candid"] == first)
    with fits.open(io.BytesIO(gzip.decompress(stored["cutoutScience"]["stampData"]))) as file:
        np.testing.assert_array_equal(one[0].data, file[0].data)


def test_errors_are_those_of_the_client(alerce: Any) -> None:
    from alerce.exceptions import ObjectNotFoundError, ParseError

    for ask in (alerce.query_object, alerce.query_detections, alerce.query_magstats, alerce.query_features):
        with pytest.raises(ObjectNotFoundError):
            ask("ZTF99nowhere", survey="ztf")
    with pytest.raises(ParseError) as refused:
        alerce.query_objects(survey="ztf", order_by="size")
    assert "order_by" in refused.value.data
    assert alerce.query_forced_photometry("ZTF99nowhere", format="json", survey="ztf") == []


def test_what_clients_also_send_is_ignored(alerce: Any, objects: pl.DataFrame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = alerce.query_objects(
            format="json", first_mjd=[0, 1], ndet=[2, None], lastmjd=[None, None], order_by="None", order_mode=None,
            page_size=1000,
        )  # fmt: skip
    assert len(found["items"]) == objects.filter(pl.col("ndet") >= 2).height


def test_long_lists_of_ids_keep_their_order(alerce: Any, objects: pl.DataFrame) -> None:
    names = objects["oid"].shuffle(3).to_list()
    strangers = [f"ZTF99{k:07d}" for k in range(400)]
    asked = [name for pair in zip(strangers, names * 20, strict=False) for name in pair]
    found = alerce.query_objects(survey="ztf", oid=asked, format="pandas", page_size=1000)
    assert found["oid"].to_list() == names
    assert alerce.query_objects(survey="ztf", oid=asked, format="pandas")["oid"].to_list() == names[:10]
