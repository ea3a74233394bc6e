"""Our client beside ALeRCE's on one server: what each method gives is equal, in every format that both have."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

from alerce_spark.client import (
    APIError,
    AsyncClient,
    CandidError,
    Client,
    FormatValidationError,
    ObjectNotFoundError,
    ParseError,
)
from alerce_spark.client.progress import Lines
from alerce_spark.client.queries import UnknownObjects
from alerce_spark.client.sending import get, retry_after
from alerce_spark.errors import InputError
from tests import small_lake
from tests.served import Served, serving

pytestmark = pytest.mark.filterwarnings("ignore:.*:astropy.utils.exceptions.AstropyWarning")
FORMATS = ("json", "pandas", "votable", "csv")
TABLES = ("detections", "non_detections", "forced_photometry", "magstats", "probabilities", "features")


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as one:
        yield one


@pytest.fixture(scope="module")
def oids(served: Served) -> list[str]:
    return served.table("objects")["oid"].sort().shuffle(5).to_list()


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_same(found: Any, expected: Any) -> None:
    """The same values of the same kinds."""
    assert type(found) is type(expected)
    if isinstance(expected, pd.DataFrame):
        assert_frame_equal(found, expected)
    elif isinstance(expected, pd.Series):
        assert_series_equal(found, expected)
    elif hasattr(expected, "colnames"):
        assert found.colnames == expected.colnames
        assert [str(column.dtype) for column in found.itercols()] == [str(c.dtype) for c in expected.itercols()]
        assert [column.unit for column in found.itercols()] == [column.unit for column in expected.itercols()]
        assert repr([list(row) for row in found]) == repr([list(row) for row in expected])
    else:
        assert found == expected


@pytest.mark.parametrize("kind", TABLES)
def test_rows_of_an_object_are_those_of_alerces_client(
    client: Client, alerce: Any, oids: list[str], kind: str, form: str
) -> None:
    compared = 0
    for oid in oids:
        name = f"query_{kind}"
        found = getattr(client, name)(oid, format=form)
        if kind == "forced_photometry" and form in ("csv", "votable"):
            # ALeRCE's client fails in these; of what it gives in another the same is made here.
            rows = alerce.query_forced_photometry(oid, format="pandas", survey="ztf")
            if form == "csv":
                assert found == rows.to_csv(index=False)
            else:
                assert found.colnames == list(rows.columns)
                assert len(found) == len(rows)
        else:
            assert_same(found, getattr(alerce, name)(oid, format=form, survey="ztf"))
        compared += len(found)
    assert compared > 20
    if form == "pandas" and kind == "detections":
        options = {"format": form, "sort": "magpsf", "index": "candid"}
        assert_same(
            client.query_detections(oids[0], **options), alerce.query_detections(oids[0], survey="ztf", **options)
        )


def test_lists_of_objects_are_those_of_alerces_client(client: Client, alerce: Any, form: str) -> None:
    for asked in (
        {"order_by": "oid", "page_size": 5, "page": 2, "count": True},
        {"classifier": "stamp_classifier", "class_name": "SN", "order_by": "probability", "order_mode": "DESC"},
        {"ra": 0.0, "dec": 10.0, "radius": 5, "ndet": [1, None], "firstmjd": None, "first_mjd": 3},
    ):
        expected = alerce.query_objects(format="json" if form == "csv" else form, survey="ztf", **asked)
        found = client.query_objects(format=form, **asked)
        if form == "csv":  # ALeRCE's client puts the whole page into one cell
            assert found == pd.DataFrame(expected["items"]).to_csv(index=False)
        else:
            assert_same(found, expected)
    assert type(client.query_objects()) is pd.DataFrame


def test_an_object_and_its_light_curve(client: Client, alerce: Any, oids: list[str], form: str) -> None:
    if form == "votable":  # ALeRCE's client fails in both
        assert list(client.query_object(oids[0], format=form)["oid"]) == [oids[0]]
        both = client.query_lightcurve(oids[0], format=form)
        assert_same(both["detections"], alerce.query_detections(oids[0], format=form, survey="ztf"))
        return
    assert_same(client.query_object(oids[0], format=form), alerce.query_object(oids[0], format=form, survey="ztf"))
    expected = alerce.query_lightcurve(oids[0], format=form, survey="ztf")
    assert_same(client.query_lightcurve(oids[0], format=form), expected)


def test_a_feature_and_classifiers(client: Client, alerce: Any, oids: list[str], form: str) -> None:
    for name in ("Amplitude", "Power_rate_1/4", "g-r_max"):
        expected = alerce.query_feature(oids[0], name, format=form, survey="ztf")
        assert_same(client.query_feature(oids[0], name, format=form), expected)
        assert len(expected) > 0
    assert_same(client.query_classifiers(format=form), alerce.query_classifiers(format=form, survey="ztf"))
    for one in client.query_classifiers():
        who = one["classifier_name"], one["classifier_version"]
        assert_same(client.query_classes(*who, format=form), alerce.query_classes(*who, format=form, survey="ztf"))


def test_another_survey(client: Client, alerce: Any) -> None:
    for name in ("query_detections", "query_non_detections", "query_forced_photometry", "query_lightcurve"):
        assert_same(getattr(client, name)(12, survey="lsst"), getattr(alerce, name)(12, survey="lsst"))
    assert client.query_objects(format="json", survey="lsst")["items"] == []
    with pytest.raises(ObjectNotFoundError):
        client.query_probabilities(12, survey="lsst")


def test_stamps_and_packets(client: Client, alerce: Any, served: Served) -> None:
    one = served.table("detections").filter(has_stamp=True).sort("candid").row(0, named=True)
    for candid in (None, one["candid"]):
        expected = alerce.get_stamps(one["oid"], candid, survey="ztf")
        for found, hdu in zip(client.get_stamps(one["oid"], candid), expected, strict=True):
            np.testing.assert_array_equal(found.data, hdu.data)
            assert found.header == hdu.header
        images = client.get_stamps(one["oid"], candid, format="numpy")
        for image, hdu in zip(images, expected, strict=True):
            np.testing.assert_array_equal(image, hdu.data)
        assert client.get_avro(one["oid"], candid) == alerce.get_avro(one["oid"], candid)
    with pytest.raises(ObjectNotFoundError, match="not"):
        client.get_stamps(one["oid"], 1)


def test_errors_are_alerces_with_the_words_of_the_server(client: Client, oids: list[str]) -> None:
    for name in ("query_object", "query_detections", "query_magstats", "query_features"):
        for form in ("json", "polars"):
            with pytest.raises(ObjectNotFoundError, match="no object ZTF99nowhere"):
                getattr(client, name)("ZTF99nowhere", format=form)
    assert client.query_forced_photometry("ZTF99nowhere") == []
    assert client.query_forced_photometry("ZTF99nowhere", format="polars").height == 0
    with pytest.raises(ParseError, match=r"order_by: 'size' is not a valid choice.*status 400") as refused:
        client.query_objects(order_by="size")
    assert refused.value.code == 400
    assert "order_by" in refused.value.data
    with pytest.raises(FormatValidationError, match="excel"):
        client.query_objects(format="excel")
    with pytest.raises(InputError, match="no address"):
        Client("localhost")
    assert issubclass(CandidError, Exception)


# Many objects.


@pytest.mark.parametrize("kind", TABLES)
def test_many_objects_are_one_after_the_other(client: Client, oids: list[str], kind: str) -> None:
    ask = getattr(client, f"query_{kind}")
    each = {oid: ask(oid) for oid in oids}
    found = ask(oids)
    expected = [{"oid": oid} | row for oid in oids for row in each[oid]]
    assert [_plain(row) for row in found] == [_plain(row) for row in expected]
    frame = ask(oids, format="pandas")
    assert len(frame) == len(expected)
    assert frame["oid"].to_list() == [row["oid"] for row in expected]
    assert ask(oids, format="csv") == pd.DataFrame(found).to_csv(index=False)
    assert len(ask(oids, format="votable")) == len(expected)
    typed = ask(oids, format="polars")
    assert isinstance(typed, pl.DataFrame)
    assert [_plain(row) for row in typed.to_dicts()] == [_plain(row) for row in expected]
    arrow = ask(tuple(oids), format="arrow")
    assert isinstance(arrow, pa.Table)
    assert pl.DataFrame(arrow).equals(typed)
    assert ask(oids[0], format="polars").equals(typed.filter(pl.col("oid") == oids[0]))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: str(v) if k in ("candid", "parent_candid") else v for k, v in row.items() if v is not None}


def test_many_objects_by_the_other_methods(client: Client, served: Served, oids: list[str]) -> None:
    assert [row["oid"] for row in client.query_object(oids)] == oids
    assert client.query_object(oids, format="polars")["oid"].to_list() == oids
    both = client.query_lightcurve(oids, format="polars")
    assert both["detections"].equals(client.query_detections(oids, format="polars"))
    assert both["non_detections"].equals(client.query_non_detections(oids, format="polars"))
    for form in ("json", "polars", "arrow"):
        found = client.query_feature(oids, "Amplitude", format=form)
        assert len(found) == 2 * len(oids)
    assert (
        client.query_object(oids[3], format="polars").to_dicts()
        == client.query_object(oids, format="polars")[3].to_dicts()
    )
    assert client.query_detections([]) == []
    assert client.query_object([]) == []
    assert client.query_detections([], format="polars").schema == both["detections"].schema


def test_unknown_objects_are_named(client: Client, oids: list[str]) -> None:
    with pytest.warns(UnknownObjects, match="2 of 3 objects are not there: ZTF99é, ZTF99b") as said:
        client.query_lightcurve(["ZTF99é", oids[0], "ZTF99b"], format="polars")
    assert len(said) == 1
    with pytest.warns(UnknownObjects, match="1 of 2 objects are not there: ZTF99b"):
        client.query_object([oids[0], "ZTF99b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.query_detections(oids)


@pytest.mark.parametrize("form", ["json", "polars"])
def test_all_objects_while_they_change(packets: list[bytes], tmp_path: Any, form: str) -> None:
    """Every object that was there is given once, though the order changes below the pages."""
    lake = str(tmp_path / "lake")
    small_lake.make(lake, packets[: len(packets) // 2])
    before = small_lake.read(lake, "objects")
    with serving(lake, tmp_path / "archive") as url, Client(url) as client:
        versions = client._send(get("/status")).json()["versions"]
        turned: list[int] = []

        def progress(done: int, total: int) -> None:
            turned.append(done)
            if len(turned) != 2:
                return
            small_lake.store(lake, packets[len(packets) // 2 :])
            while client._send(get("/status")).json()["versions"]["objects"] == versions["objects"]:
                time.sleep(0.02)

        asked = {"order_by": "ndet", "order_mode": "DESC", "page_size": 3, "progress": progress}
        found = client.query_all_objects(format=form, **asked)
        names = found["oid"].to_list() if form == "polars" else [row["oid"] for row in found]
    assert len(turned) > 4
    assert len(set(names)) == len(names)
    assert set(names) >= set(before["oid"])


def test_the_async_twin_gives_the_same(client: Client, served: Served, oids: list[str]) -> None:
    counted: list[tuple[int, int]] = []

    async def ask() -> list[Any]:
        async with AsyncClient(served.url) as twin:
            many = [f"ZTF99{k}" for k in range(250)] + oids
            with pytest.warns(UnknownObjects, match="250 of"):
                rows = await twin.query_detections(many, format="polars", progress=lambda *c: counted.append(c))
            with pytest.raises(ObjectNotFoundError):
                await twin.query_object("ZTF99nowhere")
            return [rows, *await asyncio.gather(twin.query_objects(page_size=3), twin.query_features(oids[0]))]

    rows, page, features = asyncio.run(ask())
    assert rows.equals(client.query_detections(oids, format="polars"))
    assert_frame_equal(page, client.query_objects(page_size=3))
    assert features == client.query_features(oids[0])
    assert counted == [(100, 274), (200, 274), (274, 274)]


def test_both_have_every_method_of_alerces_client(alerce: Any) -> None:
    theirs = {name for name in dir(type(alerce)) if not name.startswith("_")}
    own = {"load_config_from_object", "catshtm_catalog_translator", "CATALOG_TRANSLATE"}
    for kind in (Client, AsyncClient):
        assert theirs - own <= set(dir(kind))


# Faults on the way.


class Faulty(ThreadingHTTPServer):
    """Answers as told, one answer a request, the last one from then on; remembers when it was asked."""

    def __init__(self, *answers: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.answers, self.asked = answers, []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Faulty:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Faulty

    def do_GET(self) -> None:
        self.server.asked.append(time.monotonic())
        self.server.answers[min(len(self.server.asked), len(self.server.answers)) - 1](self)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def answer(status: int, body: bytes = b"[]", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def lost(handler: BaseHTTPRequestHandler) -> None:
    """The connection breaks within an answer."""
    answer(200, b"[", Content_Length="100")(handler)
    handler.close_connection = True
    handler.connection.close()


FINE = answer(200, b'[{"classifier_name": "x"}]')


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("fault", [answer(503), answer(429), lost], ids=["503", "429", "lost"])
def test_asks_again(fault: Any, asynchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alerce_spark.client.sending.FIRST_WAIT_S", 0.01)

    async def ask(url: str) -> Any:
        async with AsyncClient(url) as twin:
            return await twin.query_classifiers()

    with Faulty(fault, fault, FINE) as server:
        found = asyncio.run(ask(server.url)) if asynchronous else Client(server.url).query_classifiers()
        assert found == [{"classifier_name": "x"}]
        assert len(server.asked) == 3


def test_waits_as_long_as_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("alerce_spark.client.client.time.sleep", waits.append)
    with Faulty(answer(429, Retry_After="7"), answer(503), answer(503), FINE) as server:
        Client(server.url).query_classifiers()
    assert waits[0] == 7
    assert 0.5 <= waits[1] <= 1 <= waits[2] <= 2


def test_retry_after_may_be_a_date() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert 3e8 < (retry_after("Wed, 21 Oct 2099 07:28:00 GMT") or 0) < 3e9
    assert retry_after("soon") is None
    assert retry_after(None) is None


def test_gives_up_with_the_words_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alerce_spark.client.sending.FIRST_WAIT_S", 0.01)
    refusal = answer(503, b'{"message": "the data cannot be read now", "detail": "x"}')
    with Faulty(refusal) as server, pytest.raises(APIError, match="the data cannot be read now") as error:
        Client(server.url, attempts=3).query_classifiers()
    assert error.value.code == 503
    assert len(server.asked) == 3
    with Faulty(lost) as server, pytest.raises(APIError, match="after 2 attempts"):
        Client(server.url, attempts=2).query_classifiers()
    with pytest.raises(APIError, match="no answer from the server after 2 attempts: ConnectError"):
        Client(server.url, attempts=2).query_classifiers()


@pytest.mark.parametrize("status", [400, 404, 500])
def test_other_refusals_are_final(status: int) -> None:
    with Faulty(answer(status, b"{}"), FINE) as server:
        with pytest.raises(APIError):
            Client(server.url).query_classifiers()
        assert len(server.asked) == 1


@pytest.mark.parametrize("fault", [answer(503), answer(429), lost], ids=["503", "429", "lost"])
def test_what_may_write_is_sent_once(fault: Any) -> None:
    from alerce_spark.client.sending import Request

    with Faulty(fault, FINE) as server:
        with pytest.raises(APIError):
            Client(server.url)._send(Request("/x", method="POST", body={}))
        assert len(server.asked) == 1


def test_a_reply_that_breaks_within_arrow_is_asked_again(
    served: Served, oids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alerce_spark.client.sending.FIRST_WAIT_S", 0.01)
    whole = served.get("/bulk/detections", oid=oids[0], format="arrow").content

    def broken(handler: BaseHTTPRequestHandler) -> None:
        answer(200, whole[: len(whole) // 2], Content_Length=str(len(whole)))(handler)
        handler.connection.close()

    with Faulty(broken, answer(200, whole)) as server:
        assert Client(server.url).query_detections(oids[0], format="arrow").num_rows > 0
        assert len(server.asked) == 2


# Progress, imports.


def test_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr("alerce_spark.client.progress.time.monotonic", lambda: now[0])
    lines = Lines("detections of objects", 1000, log)
    for done in range(100, 1100, 100):
        now[0] += 2
        lines(done, 1000)
    assert log.getvalue().splitlines() == [
        "detections of objects: 300 of 1000, 6 s",
        "detections of objects: 600 of 1000, 12 s",
        "detections of objects: 900 of 1000, 18 s",
        "detections of objects: 1000 of 1000, 20 s",
    ]


def test_long_lists_tell_how_far_they_are(client: Client, oids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    client.query_magstats(oids)
    assert capsys.readouterr().err == ""
    with pytest.warns(UnknownObjects):
        client.query_magstats([*(f"x{k}" for k in range(150)), *oids])
    assert "magstats of objects: 174 of 174" in capsys.readouterr().err


def test_imports_neither_spark_nor_tables() -> None:
    code = "import sys, alerce_spark.client; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"pyspark", "delta", "deltalake", "numpy", "pandas", "polars", "pyarrow", "astropy", "numba", "scipy"}
    heavy |= {"matplotlib", "confluent_kafka", "fastavro", "sqlalchemy", "fastapi", "pydantic"}
    assert heavy & set(loaded) == set()
    assert "alerce_spark" in loaded
