"""A real TOM finds objects on our server as a user does it, makes targets, brings light curves: limits as limits."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
import requests
from astropy.time import Time

from alerce_spark.client import APIError, Client, ClientError
from alerce_spark.client.tom import HandedOver, hand_over
from alerce_spark.errors import InputError
from tests.served import Served
from tests.tom_project import Tom, running

pytestmark = pytest.mark.tom
SERVICE = {"data_service": "alerce_spark"}


@pytest.fixture(scope="module")
def tom(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tom]:
    with running(tmp_path_factory.mktemp("tom"), served.url) as one:
        yield one


class Browser(requests.Session):
    """A user of the TOM, logged in."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.send_form("/accounts/login/", login="mira", username="mira", password="ceti")

    def see(self, path: str, **parameters: Any) -> str:
        page = self.get(self.url + path, params=parameters, timeout=120)
        assert page.status_code == 200, page.text[-2000:]
        return page.text

    def send_form(self, path: str, **fields: Any) -> str:
        if "csrftoken" not in self.cookies:
            self.get(self.url + "/accounts/login/", timeout=120)
        form = {"csrfmiddlewaretoken": self.cookies["csrftoken"], **fields}
        page = self.post(self.url + path, data=form, headers={"Referer": self.url}, timeout=120)
        assert page.status_code == 200, page.text[-2000:]
        return page.text


@pytest.fixture(scope="module")
def browser(tom: Tom) -> Browser:
    return Browser(tom.url)


def found(browser: Browser, **fields: Any) -> dict[str, str]:
    """Objects that a query of the TOM finds, and the id of each in its table."""
    page = browser.send_form("/tom_dataservices/query/create/", **SERVICE, survey="ZTF", query_name="", **fields)
    ids = re.findall(r'name="selected_results"[^>]*value="([^"]+)"', page)
    names = list(dict.fromkeys(re.findall(r"ZTF\d\d[a-z]{7}", page)))
    assert len(ids) == len(names), page[-3000:]
    return dict(zip(names, ids, strict=True))


def photometry(tom: Tom, name: str) -> list[tuple[Any, ...]]:
    """Data of a target in the database of the TOM: time, band, magnitude, error, limit."""
    with sqlite3.connect(tom.database) as database:
        return database.execute(
            "SELECT p.timestamp, p.bandpass, p.brightness, p.brightness_error, p.'limit'"
            " FROM tom_dataproducts_photometryreduceddatum p JOIN tom_targets_basetarget t ON t.id = p.target_id"
            " WHERE t.name = ? AND p.source_name = 'alerce_spark'",
            (name,),
        ).fetchall()


def expected(served: Served, oid: str) -> list[tuple[Any, ...]]:
    """The same from the lake."""
    detections = served.table("detections").filter(oid=oid).select("mjd", "fid", "magpsf", "sigmapsf")
    limits = served.table("non_detections").filter(oid=oid).drop_nulls("diffmaglim")
    rows = [(*row, None) for row in detections.rows()]
    rows += [(mjd, fid, None, None, limit) for mjd, fid, limit in limits.select("mjd", "fid", "diffmaglim").rows()]
    return [(str(Time(mjd, format="mjd").to_datetime()), "?gri"[fid], *values) for mjd, fid, *values in rows]


def test_the_form_has_the_classes_of_the_server(browser: Browser, served: Served) -> None:
    page = browser.see("/tom_dataservices/query/create/", **SERVICE)
    for one in served.get("/ztf/v1/classifiers").json():
        assert f"cfield_{one['classifier_name']}" in page
        assert all(f'value="{name}"' in page for name in one["classes"])


def test_a_query_makes_targets_with_light_curves(browser: Browser, tom: Tom, served: Served) -> None:
    alone = served.table("objects").filter(pl.col("meandec").is_between(25, 35))
    limits = served.table("non_detections").drop_nulls("diffmaglim").join(alone, "oid", "semi")
    counts = limits.group_by("oid").len().sort("len", "oid")
    oid = counts["oid"][-1]
    assert found(browser, object_id=oid).keys() == {oid}
    one = served.table("objects").filter(oid=oid).row(0, named=True)
    near = found(browser, ra=one["meanra"], dec=one["meandec"], radius=2)
    assert near.keys() == {oid}
    browser.send_form("/tom_dataservices/query/create_targets/", **SERVICE, query_id="", selected_results=near[oid])
    stored, lake = photometry(tom, oid), expected(served, oid)
    assert sum(limit is not None for *_, limit in stored) == counts["len"][-1] > 0
    assert sorted(stored, key=str) == sorted(lake, key=str)
    (target,) = api(tom, name=oid)
    assert (target["name"], target["ra"], target["dec"]) == (oid, one["meanra"], one["meandec"])


def test_open_ranges_and_zeros_are_asked(browser: Browser, served: Served) -> None:
    objects = served.table("objects")
    middle = float(objects["lastmjd"].median())  # type: ignore[arg-type]
    assert set(found(browser, lastmjd_gt=middle, ndet_min=1)) <= set(objects.filter(pl.col("lastmjd") >= middle)["oid"])
    # Two objects lie within 6 arcsec of a place with a zero.
    at_zero = objects.filter((pl.col("meandec").abs() < 0.01) & ((pl.col("meanra") - 120).abs() < 0.01))["oid"]
    assert set(found(browser, ra=120, dec=0, radius=20)) == set(at_zero)
    assert len(at_zero) == 2


def test_a_class_is_asked(browser: Browser, served: Served) -> None:
    asked = {"classifier": "stamp_classifier", "class": "SN", "probability": 0.1}
    rows = served.get("/ztf/v1/objects", **asked).json()["items"]
    fields = {"cfield_stamp_classifier": "SN", "prob_cfield_stamp_classifier": 0.1}
    assert set(found(browser, **fields)) == {row["oid"] for row in rows} != set()


def api(tom: Tom, **parameters: Any) -> list[dict[str, Any]]:
    """Targets as the API of the TOM gives them."""
    headers = {"Authorization": f"Token {tom.token}"}
    answer = requests.get(f"{tom.url}/api/targets/", params=parameters, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_a_list_is_handed_over(tom: Tom, served: Served) -> None:
    rows = Client(served.url).query_objects(format="json", order_by="oid", order_mode="DESC", page_size=4)["items"]
    told = hand_over(tom.url, tom.token, rows[:3], groups=["supernovae"], extras=["class", "ndet", "g_r_max_corr"])
    assert {one.state for one in told} <= {"made", "known"}
    assert sum(one.state == "made" for one in told) >= 2
    again = hand_over(tom.url + "/", tom.token, rows)
    assert [one.state for one in again[:3]] == ["known"] * 3
    for one, row in zip(told, rows, strict=False):
        (target,) = api(tom, name=row["oid"])
        assert (target["ra"], target["dec"]) == (row["meanra"], row["meandec"])
        if one.state == "made":
            extras = {extra["key"]: extra["value"] for extra in target["targetextra_set"]}
            wanted = {name: str(row[name]) for name in ("class", "ndet") if row[name] is not None}
            assert extras.items() >= wanted.items()
    bad = {"oid": "ZTF99bad", "meanra": "east", "meandec": 1.0}
    (refused,) = hand_over(tom.url, tom.token, [bad])
    assert refused.state == "refused"
    assert "ra" in refused.message


def test_hand_over_says_what_is_wrong(tom: Tom) -> None:
    one = {"oid": "ZTF99x", "meanra": 1.0, "meandec": 2.0}
    with pytest.raises(APIError, match="does not take the token"):
        hand_over(tom.url, "stranger", [one])
    with pytest.raises(InputError, match="meandec"):
        hand_over(tom.url, tom.token, [{"oid": "ZTF99x", "meanra": 1.0, "meandec": None}])
    with pytest.raises(ClientError, match="gives no answer"):
        hand_over("http://127.0.0.1:9", tom.token, [one])
    assert hand_over(tom.url, tom.token, []) == []
    assert HandedOver("x", "made").message == ""
