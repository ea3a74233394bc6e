"""Many objects in one reply: rows are those of the routes of one object, in every form; every reply has one schema."""

from __future__ import annotations

import io
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from tests.served import Served

FORMS = ("json", "arrow", "parquet")
MEDIA = {"arrow": "application/vnd.apache.arrow.stream", "parquet": "application/vnd.apache.parquet"}
#: Route of many objects to that of one.
ROUTES = {
    "detections": "/ztf/v1/objects/{}/detections",
    "non_detections": "/ztf/v1/objects/{}/non_detections",
    "forced_photometry": "/v2/lightcurve/forced-photometry/{}",
    "features": "/ztf/v1/objects/{}/features",
    "magstats": "/ztf/v1/objects/{}/magstats",
    "probabilities": "/ztf/v1/objects/{}/probabilities",
}


def table(answer: requests.Response) -> pa.Table:
    """An answer as pyarrow reads it."""
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == MEDIA["arrow"]:
        return pa.ipc.open_stream(answer.content).read_all()
    assert answer.headers["content-type"] == MEDIA["parquet"]
    return pq.read_table(io.BytesIO(answer.content))


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what has no value; ids as numbers."""
    found = {name: value for name, value in row.items() if value is not None}
    extra = found.pop("extra_fields", {})
    found |= {name: value for name, value in extra.items() if value is not None}
    return {
        name: int(v) if name in ("candid", "parent_candid") and str(v).isdigit() else v for name, v in found.items()
    }


@pytest.fixture(scope="module")
def oids(served: Served) -> list[str]:
    """All objects, in an order that nothing else has."""
    return served.table("objects")["oid"].sort().shuffle(5).to_list()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ROUTES)
def test_rows_are_those_of_one_object_after_the_other(served: Served, oids: list[str], kind: str, form: str) -> None:
    expected = [plain({"oid": oid} | row) for oid in oids for row in served.get(ROUTES[kind].format(oid)).json()]
    assert len(expected) > 20
    answer = served.get(f"/bulk/{kind}", oid=oids, format=form)
    found = answer.json() if form == "json" else table(answer).to_pylist()
    assert [plain(row) for row in found] == expected


def test_schema_and_values_are_those_of_the_lake(served: Served, oids: list[str]) -> None:
    found = pl.DataFrame(table(served.get("/bulk/detections", oid=oids, format="parquet")))
    mine = served.table("detections").sort("oid", "mjd", "candid")
    columns = [name for name in found.columns if name in mine.columns]
    assert len(columns) == 28
    assert found.sort("oid", "mjd", "candid").select(columns).equals(mine.select(columns))
    assert found.select(columns).schema == mine.select(columns).schema


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("kind", ROUTES)
def test_a_reply_without_rows_or_values_has_the_same_schema(
    served: Served, oids: list[str], kind: str, form: str
) -> None:
    every, none = (table(served.get(f"/bulk/{kind}", oid=names, format=form)) for names in (oids, ["ZTF99nowhere"]))
    assert none.num_rows == 0
    assert every.schema.equals(none.schema)
    assert not any(pa.types.is_null(field.type) or pa.types.is_large_string(field.type) for field in every.schema)
    if "candid" in every.schema.names and kind != "forced_photometry":
        assert every.schema.field("candid").type == pa.int64()


def test_ids_are_strings_in_json_and_numbers_in_tables(served: Served, oids: list[str]) -> None:
    rows = served.get("/bulk/detections", oid=oids).json()
    numbers = table(served.get("/bulk/detections", oid=oids, format="arrow"))
    for name in ("candid", "parent_candid"):
        assert numbers.schema.field(name).type == pa.int64()
        assert [None if v is None else str(v) for v in numbers[name].to_pylist()] == [row[name] for row in rows]
    assert all(isinstance(row["candid"], str) for row in rows)


def test_the_header_accept_tells_the_form(served: Served, oids: list[str]) -> None:
    for media in MEDIA.values():
        asked = {"Accept": f"text/html, {media};q=0.9, */*"}
        answer = requests.get(f"{served.url}/bulk/magstats", {"oid": oids[0]}, headers=asked, timeout=60)
        assert table(answer).num_rows > 0
        assert "Accept" in answer.headers["vary"]
    answer = requests.get(f"{served.url}/bulk/magstats", {"oid": oids[0]}, headers={"Accept": "*/*"}, timeout=60)
    assert isinstance(answer.json(), list)


def test_objects_that_are_not_there_are_named(served: Served, oids: list[str]) -> None:
    answer = served.get("/bulk/magstats", oid=["ZTF99a", oids[0], "é\n,b"], format="arrow")
    assert answer.headers["x-unknown-oids"] == "ZTF99a,%C3%A9%0A%2Cb"
    assert set(table(answer)["oid"].to_pylist()) == {oids[0]}
    assert "x-unknown-oids" not in served.get("/bulk/magstats", oid=oids).headers
    # A header has bounds: a name is there in full or not at all.
    many = [f"ZTF99{k:030d}" for k in range(300)]
    named = served.get("/bulk/magstats", oid=many).headers["x-unknown-oids"].split(",")
    assert named[-1] == "%E2%80%A6"
    assert named[:-1] == many[: len(named) - 1]


@pytest.mark.parametrize("form", FORMS[1:])
def test_lists_of_objects_as_tables(served: Served, form: str) -> None:
    asked: dict[str, Any] = {"order_by": "ndet", "order_mode": "DESC", "page_size": 7, "count": "true"}
    pages = [(served.get("/ztf/v1/objects", page=k, format=form, **asked), k) for k in (1, 2)]
    for answer, page in pages:
        expected = served.get("/ztf/v1/objects", page=page, **asked).json()
        found = table(answer)
        assert found.to_pylist() == expected["items"]
        assert answer.headers["x-has-next"] == str(expected["has_next"]).lower()
        assert answer.headers["x-total"] == str(expected["total"])
    none = table(served.get("/ztf/v1/objects", classifier="nobody", format=form))
    assert none.num_rows == 0
    assert none.schema.equals(table(pages[0][0]).schema)


def test_bounds(served: Served, oids: list[str]) -> None:
    for parameters, name in (
        ({}, "oid"),
        ({"oid": [f"x{k}" for k in range(501)]}, "oid"),
        ({"format": "xls"}, "format"),
    ):
        answer = served.get("/bulk/detections", **{"oid": oids[0], **parameters} if name == "format" else parameters)
        assert answer.status_code == 400
        assert name in answer.json()["errors"]
    assert served.get("/ztf/v1/objects", format="xls").json()["errors"].keys() == {"format"}


def test_parts_are_made_one_by_one(served: Served) -> None:
    """No more than two parts are made before the first was taken."""
    from alerce_spark.api import forms

    schema, made = pa.schema([("x", pa.int64())]), []

    def parts() -> Any:
        for k in range(50):
            made.append(k)
            yield pa.table({"x": [k]}, schema)

    for form in FORMS:
        made.clear()
        forms.stream(parts(), schema, form, {})
        assert len(made) == 1, form


def test_many_objects_count_as_a_tenth_each() -> None:
    from alerce_spark.api.limits import _cost

    def cost(path: str, query: str = "") -> int:
        return _cost({"path": path, "query_string": query.encode()})

    one = cost("/ztf/v1/objects/ZTF1/detections")
    assert cost("/bulk/detections", "oid=ZTF1&format=arrow") == one == 2
    assert cost("/bulk/probabilities", "&".join(f"oid={k}" for k in range(500))) == one + 50


@pytest.mark.parametrize("form", FORMS)
def test_a_first_part_that_cannot_be_read_is_an_error_and_no_broken_reply(form: str) -> None:
    from alerce_spark.api import forms

    def parts() -> Any:
        raise OSError("the lake is away")
        yield

    with pytest.raises(OSError, match="away"):
        forms.stream(parts(), pa.schema([("x", pa.int64())]), form, {})


def test_documented_with_examples(served: Served) -> None:
    paths = served.get("/openapi.json").json()["paths"]
    for path in (*(f"/bulk/{kind}" for kind in ROUTES), "/ztf/v1/objects"):
        content = paths[path]["get"]["responses"]["200"]["content"]
        assert content["application/json"]["example"]
        assert content.keys() >= set(MEDIA.values())
        assert "format" in {p["name"] for p in paths[path]["get"]["parameters"]}
