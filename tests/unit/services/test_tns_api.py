"""Searches of TNS and reports over HTTP: local first, TNS only when asked, writing only with a token."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from alerce_spark.config import ConfigError, load
from alerce_spark.tns import catalog
from tests import small_lake
from tests.fake_tns import COLUMNS, GROUP, KEY, FakeTns, public_csv
from tests.served import ROOT, Served, answering

TOKEN = "a-long-random-token"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
PLACE = {"ra": 77.0, "dec": 12.0}
ROWS: list[dict[str, Any]] = [
    {"objid": 1, "name_prefix": "SN", "name": "2026abc", "ra": 77.0, "declination": 12.0 + 1 / 3600, "type": "SN Ia"},
    {"objid": 2, "name_prefix": "AT", "name": "2026xyz", "ra": 77.0, "declination": 12.0 - 2 / 3600},
    {"objid": 3, "name_prefix": "AT", "name": "2026far", "ra": 79.0, "declination": 12.0},
]
ROWS[0] |= {"internal_names": "ATLAS26a, ZTF26abc", "redshift": 0.05, "reporters": "A", "source_group": "ZTF"}


@pytest.fixture(scope="module")
def lake(served: Served, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The objects of the served lake, in a lake that reports may change."""
    folder = tmp_path_factory.mktemp("tns-api")
    path = str(folder / "lake")
    shutil.copytree(served.lake, path)
    file = folder / "tns_public_objects.csv"
    file.write_bytes(public_csv(ROWS))
    catalog.import_files(path, [file])
    return path


@pytest.fixture
def fake() -> Iterator[FakeTns]:
    with FakeTns() as server:
        yield server


class Client(requests.Session):
    """Requests to a server; a path stands for its address."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        return super().request(method, self._url + url, *arguments, **options)


@contextmanager
def client(lake: str, fake: FakeTns | None) -> Iterator[Client]:
    """A client of a separate server."""
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    sections: dict[str, Any] = {"lake": {"path": lake}, "services": {"rate_limit": "", "tokens": [f"anna:{digest}"]}}
    if fake is not None:
        who = {"url": fake.url, "bot_id": 7, "bot_name": "bot", "api_key": KEY, "reporters": "A. Person"}
        sections["tns"] = {**who, "reporting_group": GROUP, "data_source": 48, "timeout_s": 5}
    with answering(load(ROOT / "conf" / "alerce.toml", sections)) as url, Client(url) as session:
        yield session


@pytest.fixture
def asked(lake: str, fake: FakeTns) -> Iterator[Client]:
    """A client of a server that may ask the fake."""
    with client(lake, fake) as session:
        yield session


@pytest.mark.parametrize("route", ["/search", "/v2/tns_api/search"])
def test_alerces_route_gives_the_nearest_within_three_arcsec(asked: Client, fake: FakeTns, route: str) -> None:
    found = asked.post(route, json=PLACE).json()
    assert (found["object_name"], found["object_type"]) == ("2026abc", "SN Ia")
    data = found["object_data"]
    assert set(COLUMNS) <= set(data)
    assert {name: data[name] for name in ("objid", "redshift", "discoverydate")} == {
        **{"objid": 1, "redshift": 0.05, "discoverydate": None},
    }
    assert (data["discoverer"], data["discovery_data_source"]) == ("A", {"group_name": "ZTF"})
    # ALeRCE's own gives what is nearest within 5 degrees.
    answer = asked.post(route, json={"ra": 77.0, "dec": 12.0 + 5 / 3600})
    assert (answer.status_code, answer.json()) == (200, {})
    assert asked.post(route, json={"ra": 77.0, "dec": 100}).status_code == 422
    assert fake.asked == []


def test_a_search_looks_here_first_and_asks_tns_only_if_told(asked: Client, fake: FakeTns) -> None:

    def names(**parameters: Any) -> tuple[str, list[str]]:
        answer = asked.get("/tns/search", params=parameters)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return body["source"], [one.get("name") or one["objname"] for one in body["items"]]

    assert names(**PLACE) == ("catalogue", ["2026abc", "2026xyz"])
    assert names(**PLACE, radius=1.5) == ("catalogue", ["2026abc"])
    for name in ("SN2026abc", "2026abc", "AT 2026abc", "ATLAS26a", "ZTF26abc"):
        assert names(name=name, remote=True) == ("catalogue", ["2026abc"])
    assert names(name="ZTF26") == ("catalogue", [])
    assert names(ra=10, dec=10) == ("catalogue", [])
    assert fake.asked == []
    fake.objects.append({"objid": 9, "name_prefix": "AT", "name": "2026new", "ra": 10, "declination": 10 + 1 / 3600})
    fake.objects[0]["internal_names"] = "ZTF26new"
    for parameters in ({"ra": 10, "dec": 10}, {"name": "2026new"}, {"name": "ZTF26new"}):
        assert names(**parameters, remote=True) == ("tns", ["2026new"])
    before = len(fake.asked)
    assert names(ra=10, dec=10, remote=True) == ("tns", ["2026new"])
    assert len(fake.asked) == before
    assert asked.get("/tns/search", params={"dec": 1, "radius": 100}).json()["errors"].keys() == {"ra", "radius"}


def test_tns_that_is_not_set_limited_or_down_is_told(lake: str, fake: FakeTns) -> None:
    there = {"ra": 10, "dec": 10, "remote": True}
    with client(lake, None) as nobody:
        answer = nobody.get("/tns/search", params=there)
    assert (answer.status_code, "not asked" in answer.json()["message"]) == (501, True)
    fake.limit, fake.reset = 1, "33"
    with client(lake, fake) as limited:
        answer = limited.get("/tns/search", params=there)
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "33")
        assert limited.get("/tns/search", params=there).status_code == 429
    assert len(fake.asked) == 1
    with client(lake, fake) as other:
        fake.down = True
        answer = other.get("/tns/search", params=there)
        assert answer.status_code == 502
        assert KEY not in answer.text
        fake.down = False
        statuses = [other.get("/tns/search", params=there | {"ra": k}).status_code for k in range(25)]
    assert statuses == [200] * 19 + [429] * 6


def test_reports_need_a_token_and_keep_its_name(lake: str, asked: Client, fake: FakeTns) -> None:
    oid = small_lake.read(lake, "detections").filter(isdiffpos=1)["oid"].sort()[0]
    place = f"/tns/reports/{oid}"
    steps = (("draft", {"host_name": "NGC 1", "host_redshift": 0.01}), ("approve", None), ("send", None))
    for action, body in steps:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": "x"},
        ):
            answer = asked.post(f"{place}/{action}", json=body, headers=headers)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert asked.get("/tns/reports").json() == []
    assert asked.get(place).status_code == 404
    answer = asked.post(f"{place}/approve", headers=AUTHORIZED)
    assert (answer.status_code, "no report" in answer.json()["message"]) == (400, True)
    for (action, body), state in zip(steps, ("drafted", "approved", "named"), strict=True):
        answer = asked.post(f"{place}/{action}", json=body, headers=AUTHORIZED)
        assert (answer.status_code, answer.json()["state"], answer.json()["who"]) == (200, state, "anna"), answer.text
    history = asked.get(place).json()
    assert [one["state"] for one in history["steps"]] == ["drafted", "approved", "sending", "sent", "named"]
    assert history["report"]["host_name"] == "NGC 1"
    (one,) = asked.get("/tns/reports").json()
    assert one["name"] == "AT20260000"
    assert asked.post(f"{place}/draft", json={}, headers=AUTHORIZED).status_code == 400
    assert fake.counted() == {oid: 1}
    answer = asked.post("/tns/reports/ZTF26nobody/draft", json={}, headers=AUTHORIZED)
    assert (answer.status_code, "no object" in answer.json()["message"]) == (400, True)


@pytest.mark.parametrize("token", ["anna:secret-in-clear", "secret-in-clear", f"a b:{'0' * 64}", f":{'0' * 64}"])
def test_a_token_in_clear_is_refused_and_not_printed(token: str) -> None:
    with pytest.raises(ConfigError, match=r"services\.tokens") as raised:
        load(ROOT / "conf" / "alerce.toml", {"services": {"tokens": [token]}})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", ["api_key", "hermes_token"])
def test_a_key_that_cannot_be_one_is_not_printed(key: str, tmp_path: Path) -> None:
    for value in (1234567, "a secret\nof two lines"):
        with pytest.raises(ConfigError, match=rf"tns\.{key}") as raised:
            load(ROOT / "conf" / "alerce.toml", {"tns": {key: value}})
        assert "secret" not in str(raised.value)
        assert "1234567" not in str(raised.value)
