"""An index in PostgreSQL answers as one in SQLite does, and people read it by SQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alerce_spark.serving import follow
from alerce_spark.serving.databases import store
from alerce_spark.serving.engine import Unreachable
from alerce_spark.serving.query import CLASS_ORDERS, OBJECT_ORDERS, Cone, Filter, Index, QueryTooLong
from tests.postgres_server import PostgresServer
from tests.served import Served, serving


@pytest.fixture(scope="module")
def url(served: Served, postgres: PostgresServer) -> str:
    """An index of the served lake in PostgreSQL."""
    url = postgres.new()
    follow.build(served.lake, url)
    return url


@pytest.fixture(scope="module")
def both(served: Served, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Index, Index]]:
    """The index of one lake in either database."""
    file = str(tmp_path_factory.mktemp("index") / "index.sqlite")
    follow.build(served.lake, file)
    indices = Index(file), Index(url)
    yield indices
    for index in indices:
        index.close()


def found(index: Index, asked: Filter, order: str | None, descending: bool) -> tuple[int, list[dict[str, Any]]]:
    """Number and rows of a list."""
    keys = index.keys(asked, order=order, descending=descending, limit=50, offset=1)
    rows = [{name: value for name, value in item.items() if name != "id"} for item in index.items(keys)]
    return index.count(asked), rows


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_lists_are_those_of_sqlite(both: tuple[Index, Index], data: st.DataObject) -> None:
    objects = both[0].items(both[0].keys(Filter(), order="oid", limit=1000))
    one = data.draw(st.sampled_from(objects))
    ndet = st.sampled_from([None, *sorted({o["ndet"] for o in objects})])
    mjd = st.sampled_from([None, *sorted({o["firstmjd"] for o in objects})])
    asked = Filter(
        oids=data.draw(st.sampled_from([(), (one["oid"],), tuple(o["oid"] for o in objects[::-2])])),
        pattern=data.draw(st.sampled_from([None, "ZTF*", one["oid"][:6] + "*", "*a", "z*"])),
        classifier=data.draw(st.sampled_from([None, one["classifier"], "lc_classifier", "none"])),
        class_name=data.draw(st.sampled_from([None, one["class"], "SN", "AGN"])),
        ranking=data.draw(st.sampled_from([None, 1, 2])),
        probability=data.draw(st.sampled_from([None, 0.0, 0.3, 0.9])),
        ndet=(data.draw(ndet), data.draw(ndet)),
        firstmjd=(data.draw(mjd), data.draw(mjd)),
        cone=data.draw(st.sampled_from([None, Cone(one["meanra"], one["meandec"], 30.0), Cone(0.0, 0.0, 36_000.0)])),
    )
    order = data.draw(st.sampled_from([None, *OBJECT_ORDERS, *CLASS_ORDERS]))
    descending = data.draw(st.booleans())
    sqlite, postgresql = (found(index, asked, order, descending) for index in both)
    assert postgresql == sqlite


def test_objects_near_positions_are_those_of_sqlite(both: tuple[Index, Index]) -> None:
    objects = both[0].items(both[0].keys(Filter(), order="oid", limit=1000))
    rng = np.random.default_rng(3)
    ra = np.array([o["meanra"] for o in objects] + [0.0, 12.0, 360.0])
    dec = np.array([o["meandec"] for o in objects] + [0.0, 90.0, -90.0]) + rng.uniform(-1e-3, 1e-3, ra.size)
    answers = [index.near(ra, dec, 5.0, every=True) for index in both]
    assert len(answers[0]) > 10
    assert answers[0] == answers[1]


def test_all_that_is_known_of_an_object_is_that_of_sqlite(both: tuple[Index, Index]) -> None:
    sqlite, postgresql = both
    for item in sqlite.items(sqlite.keys(Filter(), order="oid", limit=1000)):
        assert postgresql.object(item["oid"]) == sqlite.object(item["oid"])
        assert postgresql.probabilities(item["oid"]) == sqlite.probabilities(item["oid"])
    assert postgresql.classifiers() == sqlite.classifiers()
    assert postgresql.limits() == sqlite.limits()
    assert postgresql.versions() == sqlite.versions()


def test_a_query_that_takes_too_long_is_ended(url: str) -> None:
    index = Index(url, limit_s=0.05)
    with pytest.raises(QueryTooLong, match=r"more than 0\.05 s"), index.one_state(), index._connect() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(5)")
    assert index.versions()
    index.close()


def test_a_reader_cannot_write(url: str) -> None:
    index = Index(url)
    with pytest.raises(Exception, match="read-only transaction"), index._connect() as connection:
        connection.exec_driver_sql("DELETE FROM object")
    index.close()


def test_people_read_the_views_by_a_role_that_reads_only(served: Served, url: str, postgres: PostgresServer) -> None:
    """As docs/operations.md makes the role; a new build keeps its rights."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE astronomer LOGIN IN ROLE pg_read_all_data")
    follow.build(served.lake, url)
    reading = psycopg.connect(url.replace("//postgres@", "//astronomer@"), autocommit=True)
    objects = served.table("objects").sort("oid")
    rows = reading.execute("SELECT oid, ndet, deltajd, nearztf FROM alerce.object ORDER BY oid").fetchall()
    assert rows == objects.select("oid", "ndet", "deltamjd", "nearZTF").rows()
    best = "SELECT count(DISTINCT oid), min(ranking), count(*) FROM alerce.probability WHERE ranking = 1"
    number, ranking, rows_of_rank_one = reading.execute(best).fetchone() or (0, 0, 0)
    assert ranking == 1
    assert 0 < number <= rows_of_rank_one
    assert reading.execute("SELECT count(*) FROM alerce.taxonomy").fetchone() == (served.table("taxonomy").height,)
    for statement in ("DELETE FROM alerce_index.object", "CREATE TABLE alerce.mine (a int)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reading.execute(statement)  # type: ignore[arg-type]
    reading.close()


def test_the_server_answers_again_when_the_database_does(
    served: Served, postgres: PostgresServer, tmp_path: Path
) -> None:
    with serving(served.lake, tmp_path / "archive", index=postgres.new()) as address:

        def ask() -> requests.Response:
            return requests.get(address + "/ztf/v1/objects", params={"page_size": 5}, timeout=60)

        before = ask()
        assert before.status_code == 200
        postgres.stop()
        try:
            away = ask()
        finally:
            postgres.start()
        assert away.status_code == 503
        assert int(away.headers["Retry-After"]) > 0
        assert "does not answer" in away.text or "cannot be used" in away.text
        assert ask().json() == before.json()


def test_no_message_has_the_password(postgres: PostgresServer) -> None:
    place = store(f"postgresql://someone:hunter2@127.0.0.1:{postgres.port}/nowhere")
    assert "hunter2" not in place.name
    with pytest.raises(Unreachable) as error, place.only_follower():
        pass
    assert "hunter2" not in str(error.value)
    assert "nowhere" in str(error.value)


def test_the_sql_of_a_query_of_2020_finds_what_the_query_finds(served: Served, url: str) -> None:
    one = served.get("/ztf/v1/objects", classifier="lc_classifier", page_size=1).json()["items"][0]
    place = {"ra": one["meanra"], "dec": one["meandec"]}
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"filters": {"nobs": {"min": 2, "max": 4}}}, {"ndet": [2, 4]}),
        (
            {"filters": {"classrf": one["class"], "pclassrf": 0.1}},
            {"classifier": "lc_classifier", "class": one["class"]},
        ),
        ({"filters": {"pclassearly": 0.2}}, {"classifier": "stamp_classifier", "ranking": 1, "probability": 0.2}),
        ({"coordinates": place | {"sr": 0.01}}, place | {"radius": 36}),
        ({"dates": {"firstmjd": {"max": one["firstmjd"]}}}, {"firstmjd": [0, one["firstmjd"]]}),
        ({"filters": {"oid": [one["oid"], "x'; DROP TABLE alerce_index.object; --"]}}, {"oid": one["oid"]}),
        ({}, {}),
    ]
    cases[1][1]["probability"] = 0.1
    with psycopg.connect(url, autocommit=True) as connection:
        for asked, parameters in cases:
            body = {"query_parameters": asked, "records_per_pages": 1000}
            answer = requests.post(served.url + "/get_sql", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            cursor = connection.execute(answer.text)  # type: ignore[arg-type]
            expected = served.get("/ztf/v1/objects", page_size=1000, **parameters).json()["items"]
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            assert (
                {(row["oid"], row["ndet"], row["deltajd"]) for row in rows}
                == {(row["oid"], row["ndet"], row["deltajd"]) for row in expected}
                != set()
            )
            assert [row["ndet"] for row in rows] == sorted((row["ndet"] for row in expected), reverse=True)


def test_the_sql_of_a_query_that_cannot_be_used(served: Served) -> None:
    for body, names in (
        ({"sortBy": "ndet; DROP TABLE x", "page": 0}, {"sortBy", "page"}),
        ({"query_parameters": {"filters": {"nobs": {"min": "1 OR 1=1"}, "pclassrf": "x"}}}, {"min", "pclassrf"}),
        ({"query_parameters": {"coordinates": {"ra": 1}}}, {"coordinates"}),
        ({"query_parameters": []}, {"query_parameters"}),
        ([], {"body"}),
        ({"sortBy": "pclassrf"}, {"sortBy"}),
    ):
        answer = requests.post(served.url + "/get_sql", json=body, timeout=60)
        assert answer.status_code == 400
        assert set(answer.json()["errors"]) == names
    assert requests.post(served.url + "/get_sql", data=b"{", timeout=60).status_code == 400
