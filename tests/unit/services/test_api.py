"""The HTTP contract beyond what one client asks: errors, bounds, cones, pages while the lake changes, outages."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import astropy.units as u
import fastavro
import numpy as np
import polars as pl
import pytest
import requests
from astropy.coordinates import SkyCoord
from astropy.io import fits
from PIL import Image

from tests import small_lake
from tests.served import Served, counting, serving

OBJECTS = "/ztf/v1/objects"


def oids(reply: requests.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [item["oid"] for item in reply.json()["items"]]


@pytest.fixture(scope="module")
def objects(served: Served) -> pl.DataFrame:
    return served.table("objects")


# Lists.


@pytest.mark.parametrize("radius", [0.0, 1.0, 60.0, 3000.0, 36000.0])
@pytest.mark.parametrize(
    "place", [*small_lake.AWKWARD, (360.0, 10.0), (0.0, 90.0), (17.0, -90.0), (200.0, 30.0), (199.9, 30.1)]
)
def test_cones(served: Served, objects: pl.DataFrame, place: tuple[float, float], radius: float) -> None:
    there = SkyCoord(objects["meanra"].to_numpy(), objects["meandec"].to_numpy(), unit="deg")
    inside = there.separation(SkyCoord(*place, unit="deg")) <= radius * u.arcsec
    found = oids(served.get(OBJECTS, ra=place[0], dec=place[1], radius=radius, page_size=1000))
    assert sorted(found) == sorted(objects["oid"].filter(inside))


def test_a_cone_has_thirty_arcsec_and_other_conditions(served: Served, objects: pl.DataFrame) -> None:
    one = objects.filter(pl.col("meandec").is_between(29, 31)).row(0, named=True)
    where = {"ra": one["meanra"], "dec": one["meandec"]}
    assert oids(served.get(OBJECTS, **where)) == [one["oid"]]
    assert oids(served.get(OBJECTS, **where, ndet=one["ndet"] + 1)) == []
    # One coordinate alone is no cone.
    assert len(oids(served.get(OBJECTS, ra=one["meanra"], page_size=1000))) == len(objects)


ORDERS = {
    "ndet": "ndet",
    "firstmjd": "firstmjd",
    "deltajd": "deltamjd",
    "meanra": "meanra",
    "g_r_max": "g_r_max",
    "oid": "oid",
}


@pytest.mark.parametrize("mode", ["ASC", "DESC"])
@pytest.mark.parametrize("order", sorted(ORDERS))
def test_orders_and_pages(served: Served, objects: pl.DataFrame, order: str, mode: str) -> None:
    found: list[dict[str, Any]] = []
    for page in range(1, 100):
        reply = served.get(OBJECTS, order_by=order, order_mode=mode, page=page, page_size=5, count=True).json()
        found += reply["items"]
        assert reply["total"] == len(objects)
        assert (reply["page"], reply["has_prev"], reply["prev"]) == (page, page > 1, page - 1 if page > 1 else None)
        if not reply["has_next"]:
            assert reply["next"] is None
            break
        assert reply["next"] == page + 1
        assert len(reply["items"]) == 5
    assert sorted(item["oid"] for item in found) == sorted(objects["oid"])
    values = objects[ORDERS[order]].sort(descending=mode == "DESC", nulls_last=True).to_list()
    assert [item[order] for item in found] == values


def test_ranges_are_inclusive(served: Served, objects: pl.DataFrame) -> None:
    counts = objects["ndet"].sort()
    low, high = int(counts[5]), int(counts[-5])
    first = objects["firstmjd"].sort()[8]
    for asked, kept in (
        ({"ndet": [low]}, pl.col("ndet") >= low),
        ({"ndet": [low, high]}, pl.col("ndet").is_between(low, high)),
        ({"firstmjd": [first, 1e6]}, pl.col("firstmjd") >= first),
        ({"lastmjd": [0, first]}, pl.col("lastmjd") <= first),
        ({"lastmjd": ["None", ""]}, pl.lit(True)),
    ):
        assert sorted(oids(served.get(OBJECTS, page_size=1000, **asked))) == sorted(objects.filter(kept)["oid"])


def test_classes_of_lists(served: Served) -> None:
    rows = [
        (oid, name, row["version"], dict(row["probabilities"]), row["class"]) for oid, name, row in counting(served)
    ]
    classes = {(name, class_) for _, name, _, _, class_ in rows}
    for name, class_ in classes:
        mine = {oid: p[class_] for oid, n, _, p, c in rows if (n, c) == (name, class_)}
        reply = served.get(OBJECTS, classifier=name, **{"class": class_}, page_size=1000, count="yes").json()
        assert {item["oid"]: item["probability"] for item in reply["items"]} == mine
        assert reply["total"] == len(mine)
        assert {(item["classifier"], item["class"]) for item in reply["items"]} == {(name, class_)}
        likely = served.get(OBJECTS, classifier=name, **{"class": class_}, probability=0.3, page_size=1000)
        assert set(oids(likely)) == {oid for oid, p in mine.items() if p >= 0.3}
        version = served.get(OBJECTS, classifier=name, classifier_version="20260201.1", page_size=1000)
        assert set(oids(version)) == {oid for oid, n, v, _, _ in rows if (n, v) == (name, "20260201.1")}
    second = served.get(OBJECTS, classifier="lc_classifier", ranking=2, page_size=1000).json()["items"]
    of = {oid: p for oid, n, _, p, _ in rows if n == "lc_classifier"}
    assert {item["oid"] for item in second} == set(of)
    assert all(of[item["oid"]][item["class"]] == item["probability"] for item in second)
    # Without a class every object has one row, with its light-curve class if it has one.
    every = served.get(OBJECTS, page_size=1000).json()["items"]
    first = {oid: class_ for oid, n, _, _, class_ in rows if n == "lc_classifier"}
    assert {item["oid"]: item["class"] for item in every} == dict.fromkeys(served.table("objects")["oid"]) | first
    for asked in ({"class": "AGN"}, {"probability": 0.1}, {"ranking": 1}, {"probability": 0.1, "order_by": "ndet"}):
        found = oids(served.get(OBJECTS, page_size=1000, **asked))
        assert len(found) == len(set(found)) > 0
    assert served.get(OBJECTS, classifier="astrologer", count="true").json()["total"] == 0


def test_the_request_of_tom_toolkit(served: Served) -> None:
    """Its broker sends every parameter, absent ones as None."""
    rows = [(oid, row) for oid, name, row in counting(served) if name == "lc_classifier"]
    objects = {row["oid"]: row for row in served.table("objects").iter_rows(named=True)}
    oid, row = next((o, r) for o, r in rows if objects[o]["meandec"] > 20 and objects[o]["meandec"] < 40)
    one = objects[oid]
    asked = f"classifier=lc_classifier&class={row['class']}&probability={row['probability']}&ra={one['meanra']}"
    asked += f"&dec={one['meandec']}&radius=1&firstmjd=58999.0&firstmjd={one['firstmjd']}"
    head = "count=false&order_by=None&order_mode=None&page=1&page_size=20"
    found = requests.get(f"{served.url}{OBJECTS}/?{head}&{asked}", timeout=60).json()
    assert found["total"] is None
    (item,) = found["items"]
    wanted = {name: one[name] for name in ("oid", "meanra", "meandec", "lastmjd")}
    wanted |= {"class": row["class"], "classifier": "lc_classifier", "probability": row["probability"]}
    assert {name: item[name] for name in wanted} == wanted


def test_patterns_of_ids(served: Served, objects: pl.DataFrame) -> None:
    one = objects["oid"][0]
    for pattern in ("*", f"{one[:8]}*", f"*{one[-2:]}", f"{one[:6]}*{one[-1]}", "%", "ZTF__*", one.lower()[:8] + "*"):
        found = oids(served.get(OBJECTS, oid=pattern, page_size=1000))
        begin, star, end = pattern.partition("*")
        fits = [o for o in objects["oid"] if (o.startswith(begin) and o.endswith(end) if star else o == pattern)]
        assert sorted(found) == sorted(fits)


def test_limit_values(served: Served, objects: pl.DataFrame) -> None:
    assert served.get(f"{OBJECTS}/limit_values").json() == {
        "min_ndet": objects["ndet"].min(),
        "max_ndet": objects["ndet"].max(),
        "min_firstmjd": objects["firstmjd"].min(),
        "max_firstmjd": objects["firstmjd"].max(),
    }


# Contract of replies.


def test_keys_and_types(served: Served, objects: pl.DataFrame) -> None:
    keys = ("oid", "ndethist", "ncovhist", "mjdstarthist", "mjdendhist", "corrected", "stellar", "ndet", "g_r_max")
    keys += ("g_r_max_corr", "g_r_mean", "g_r_mean_corr", "firstmjd", "lastmjd", "deltajd", "meanra", "meandec")
    keys += ("sigmara", "sigmadec", "step_id_corr")
    items = served.get(OBJECTS, page_size=1000).json()["items"]
    assert all(set(item) == {*keys, "class", "classifier", "probability"} for item in items)
    assert all(isinstance(item["ndethist"], str) and isinstance(item["corrected"], bool) for item in items)
    oid = objects.sort("ndet")["oid"][-1]
    assert set(served.get(f"{OBJECTS}/{oid}").json()) == set(keys)
    for row in served.get(f"{OBJECTS}/{oid}/detections").json():
        assert None not in row.values()
        assert {"candid", "has_stamp", "tid", "mjd", "fid", "isdiffpos"} <= set(row)
        assert isinstance(row["candid"], str)
    for row in served.get(f"{OBJECTS}/{oid}/non_detections").json():
        assert set(row) == {"tid", "mjd", "fid", "diffmaglim"}
    assert {len(row) for row in served.get(f"{OBJECTS}/{oid}/magstats").json()} == {15}


@pytest.mark.parametrize("path", [OBJECTS, "/ztf/v1/classifiers", "/status"])
def test_with_and_without_the_final_slash(served: Served, path: str) -> None:
    replies = [requests.get(served.url + path + end, allow_redirects=False, timeout=60) for end in ("", "/")]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json() == replies[1].json()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"order_by": "size"}, {"order_by"}),
        ({"order_mode": "UP", "ndet": "many"}, {"order_mode", "ndet"}),
        ({"count": "perhaps"}, {"count"}),
        ({"dec": 91, "ra": 1}, {"dec"}),
        ({"ra": "nan", "dec": 1}, {"ra"}),
        ({"ra": 1, "dec": 1, "radius": -1}, {"radius"}),
        ({"ra": 1, "dec": 1, "radius": 1e9}, {"radius"}),
        ({"ndet": 1.5}, {"ndet"}),
        ({"ndet": 10**30}, {"ndet"}),
        ({"page": "one"}, {"page"}),
        ({"ranking": "first"}, {"ranking"}),
        ({"oid": ["a", "b"], "probability": "high"}, {"probability"}),
    ],
)
def test_bad_parameters_are_named(served: Served, asked: dict[str, Any], named: set[str]) -> None:
    reply = served.get(OBJECTS, **asked)
    assert reply.status_code == 400
    assert set(reply.json()["errors"]) == named
    assert reply.json()["message"] == "Input payload validation failed"
    assert all(name in reply.json()["detail"] for name in named)


@pytest.mark.parametrize(
    "asked",
    [
        {"page": 0}, {"page": -3}, {"page_size": -1}, {"page": 10**6}, {"page": 10**18}, {"oid": "a' OR '1'='1"},
        {"order_by": ""}, {"classifier": "None"}, {"page_size": 0}, {"class": "x" * 5000}, {"anything": ["1", "2"]},
    ],
)  # fmt: skip
def test_what_is_odd_is_no_fault(served: Served, asked: dict[str, Any]) -> None:
    assert served.get(OBJECTS, **asked).status_code == 200


@pytest.mark.parametrize(
    "path", ["", "/detections", "/lightcurve", "/magstats", "/probabilities", "/features", "/features/rb"]
)
def test_unknown_objects_and_routes(served: Served, path: str) -> None:
    reply = served.get(f"{OBJECTS}/ZTF99nowhere{path}")
    assert reply.status_code == 404
    assert "ZTF99nowhere" in reply.json()["message"] == reply.json()["detail"]
    assert served.get("/ztf/v1/nothing").json()["message"] == "Not Found"
    assert served.get("/ztf/v1/classifiers/lc_classifier/0/classes").status_code == 404
    assert served.get("/v2/lightcurve/forced-photometry/ZTF99nowhere").json() == []
    assert served.get(f"{OBJECTS}/ZTF99nowhere/detections", survey_id="hst").status_code == 400
    assert served.get("/v2/lightcurve/forced-photometry/ZTF99nowhere", survey_id="hst").status_code == 400


def test_other_surveys_have_nothing(served: Served, objects: pl.DataFrame) -> None:
    oid = objects["oid"][0]
    assert served.get(f"{OBJECTS}/{oid}/detections", survey_id="atlas").json() == []
    both = {"detections": [], "non_detections": []}
    assert served.get(f"{OBJECTS}/{oid}/lightcurve", survey_id="atlas").json() == both


def test_anybody_may_ask_from_a_web_page(served: Served) -> None:
    reply = requests.get(served.url + OBJECTS, headers={"Origin": "https://tom.example.org"}, timeout=60)
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in reply.headers
    assert requests.post(served.url + OBJECTS, timeout=60).status_code == 405


def test_every_route_is_described_with_an_example(served: Served) -> None:
    paths = served.get("/openapi.json").json()["paths"]
    assert len(paths) >= 16
    for path, methods in paths.items():
        for method in methods.values():
            content = next(r["content"] for status, r in method["responses"].items() if status[0] == "2")
            described = ("example" in c or c["schema"].get("format") == "binary" for c in content.values())
            assert path == "/status" or all(described), path
    # Examples have the keys of replies.
    item = paths[OBJECTS]["get"]["responses"]["200"]["content"]["application/json"]["example"]["items"][0]
    assert set(item) == set(served.get(OBJECTS, page_size=1).json()["items"][0])


# Stamps.


def test_stamps(served: Served) -> None:
    row = served.table("detections").filter("has_stamp").row(0, named=True)
    asked = {"oid": row["oid"], "candid": row["candid"], "type": "science"}
    fits_ = served.get("/get_stamp", format="fits", **asked)
    assert fits_.content[:2] == b"\x1f\x8b"
    assert "Content-Encoding" not in fits_.headers
    assert fits_.headers["Content-Type"] == "application/fits+gzip"
    assert f"{row['oid']}_{row['candid']}_science.fits.gz" in fits_.headers["Content-Disposition"]
    for kind in ("science", "template", "difference"):
        reply = served.get("/get_stamp", format="png", candid=row["candid"], type=kind)
        picture = np.asarray(Image.open(io.BytesIO(reply.content)))
        assert picture.shape == served_pixels(served, row["candid"], kind).shape
        assert picture.min() == 0
        assert picture.max() == 255
    info = served.get("/get_avro_info", candid=row["candid"]).json()
    assert info["objectId"] == row["oid"]
    assert info["candidate"]["candid"] == str(row["candid"])
    assert not any(name.startswith("cutout") for name in info)
    assert served.get("/get_avro_info", candid=row["candid"], field="candidate.fid").json() == {
        "candidate.fid": row["fid"]
    }
    packet = served.get("/get_avro", candid=row["candid"])
    assert packet.content in served.packets
    assert packet.headers["Content-Type"] == "application/avro+binary"


def served_pixels(served: Served, candid: int, kind: str) -> np.ndarray:
    """A stamp as astropy reads it from the packet."""
    records = (next(fastavro.reader(io.BytesIO(packet))) for packet in served.packets)
    record = next(r for r in records if r["candid"] == candid)
    with fits.open(io.BytesIO(gzip.decompress(record[f"cutout{kind.title()}"]["stampData"]))) as file:
        return np.array(file[0].data)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({}, {"candid", "type", "format"}),
        ({"candid": 1, "type": "x", "format": "gif"}, {"type", "format"}),
        ({"candid": "x"}, {"candid", "type", "format"}),
    ],
)
def test_bad_requests_for_stamps(served: Served, asked: dict[str, Any], named: set[str]) -> None:
    reply = served.get("/get_stamp", **asked)
    assert reply.status_code == 400
    assert set(reply.json()["errors"]) == named


@pytest.mark.parametrize("asked", [{"candid": 1}, {"candid": -1}, {"candid": 2**62}, {"candid": 10**15}])
def test_packets_that_are_not_there(served: Served, asked: dict[str, Any]) -> None:
    reply = served.get("/get_avro", **asked)
    assert reply.status_code == 404
    assert reply.json()["message"] == "AVRO not found"
    some = served.table("detections").filter("has_stamp").row(0, named=True)
    assert served.get("/get_avro", candid=some["candid"], oid="ZTF99other").status_code == 404


# Changes.


@pytest.fixture
def copy(packets: list[bytes], tmp_path: Path) -> str:
    """A lake that a test may change, without the last packets."""
    lake = str(tmp_path / "lake")
    small_lake.make(lake, packets[:-12])
    return lake


def until(happens: Any, seconds: float = 30.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_pages_neither_overlap_nor_lose_rows_while_commits_arrive(copy: str, tmp_path: Path) -> None:
    with serving(copy, tmp_path / "archive") as url:
        rng = np.random.default_rng(3)
        before = small_lake.read(copy, "objects")
        for order, mode in (("lastmjd", "DESC"), ("ndet", "ASC"), (None, "ASC"), ("probability", "DESC")):
            found: list[str] = []
            asked = {"order_by": order, "order_mode": mode, "page_size": 4}
            for page in range(1, 100):
                reply = requests.get(url + OBJECTS, params=asked | {"page": page}, timeout=60).json()
                found += [item["oid"] for item in reply["items"]]
                if not reply["has_next"]:
                    break
                now = small_lake.read(copy, "objects").to_dicts()
                chosen = [now[k] for k in rng.choice(len(now), 5, replace=False)]
                changed = [
                    r | {"ndet": int(rng.integers(1, 99)), "lastmjd": float(rng.uniform(1, 9e4))} for r in chosen
                ]
                small_lake.replace(copy, "objects", changed)
                small_lake.replace(
                    copy, "probabilities", [row for one in chosen for row in small_lake.classes(one, rng)]
                )
                until(lambda: _is_shown(url, copy))
                if page > 1:  # asked for once more it is the same; the first page begins again
                    again = requests.get(url + OBJECTS, params=asked | {"page": page}, timeout=60).json()
                    assert [item["oid"] for item in again["items"]] == found[-len(reply["items"]) :]
            assert len(found) == len(set(found))
            assert set(found) == set(before["oid"])


def _is_shown(url: str, lake: str) -> bool:
    from alerce_spark.lake.handles import delta_table

    shown = requests.get(f"{url}/status", timeout=60).json()["versions"]
    return all(delta_table(lake, table).version() == version for table, version in shown.items())


def test_light_curves_are_as_new_as_the_lake(copy: str, packets: list[bytes], tmp_path: Path) -> None:
    with serving(copy, tmp_path / "archive") as url:
        paths = ("detections", "non_detections", "magstats")

        def shown() -> dict[tuple[str, str], int]:
            names = small_lake.read(copy, "objects")["oid"]
            return {
                (o, p): len(requests.get(f"{url}{OBJECTS}/{o}/{p}", timeout=60).json()) for o in names for p in paths
            }

        def stored() -> dict[tuple[str, str], int]:
            names = small_lake.read(copy, "objects")["oid"]
            tables = {name: small_lake.read(copy, name) for name in paths}
            tables["non_detections"] = tables["non_detections"].drop_nulls("diffmaglim")
            return {(o, p): tables[p].filter(oid=o).height for o in names for p in paths}

        before = stored()
        assert shown() == before
        small_lake.store(copy, packets)
        until(lambda: _is_shown(url, copy))
        time.sleep(0.1)  # longer than between two looks at the logs
        assert stored() != before
        assert shown() == stored()
        for table in paths:
            small_lake.compact(copy, table)
        assert shown() == stored()


def test_threads_get_right_answers_while_the_lake_is_written(copy: str, packets: list[bytes], tmp_path: Path) -> None:
    with serving(copy, tmp_path / "archive") as url:
        names = small_lake.read(copy, "objects")["oid"].to_list()
        done = threading.Event()

        def ask(k: int) -> None:
            oid = names[k % len(names)]
            path = ("lightcurve", "detections", "features", "magstats", "probabilities", "")[k % 6]
            reply = requests.get(f"{url}{OBJECTS}/{oid}/{path}", timeout=60)
            assert reply.status_code == 200, reply.text
            assert reply.json()

        def write() -> None:
            for k in range(6):
                small_lake.store(copy, packets[-12 + 2 * k :][:2])
                small_lake.compact(copy, "detections")
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(ask, range(240)))
        writer.join()
        assert done.is_set()


# Bounds and outages.


def test_who_asks_too_much_is_told_when_to_ask_again(served: Served, tmp_path: Path) -> None:
    with serving(served.lake, tmp_path, rate_limit="20/2 seconds", index=str(tmp_path / "index.sqlite")) as url:
        replies = [requests.get(f"{url}/status", timeout=60) for _ in range(30)]
        refused = [reply for reply in replies if reply.status_code == 429]
        assert refused
        assert replies[0].status_code == 200
        wait = int(refused[-1].headers["Retry-After"])
        assert 1 <= wait <= 4
        assert f"{wait} s" in refused[-1].json()["detail"]
        time.sleep(wait)
        until(lambda: requests.get(f"{url}/status", timeout=60).status_code == 200)


def test_addresses_that_are_too_long(served: Served) -> None:
    assert served.get(OBJECTS, oid=[f"ZTF20{k:07d}" for k in range(3000)]).status_code == 200
    assert served.get(OBJECTS, oid=[f"ZTF20{k:07d}" for k in range(3700)]).status_code == 414


def test_without_lake_index_or_packets_the_reply_says_why(copy: str, tmp_path: Path) -> None:
    index = tmp_path / "elsewhere" / "index.sqlite"
    with serving(copy, tmp_path / "archive", index=str(index)) as url:
        oid = small_lake.read(copy, "objects")["oid"][0]
        assert requests.get(f"{url}{OBJECTS}/{oid}/detections", timeout=60).status_code == 200
        Path(copy).rename(tmp_path / "away")
        # What the index knows is answered on.
        assert requests.get(f"{url}{OBJECTS}/{oid}", timeout=60).status_code == 200
        for path in ("features", "magstats"):
            reply = requests.get(f"{url}{OBJECTS}/{oid}/{path}", timeout=60)
            assert reply.status_code == 503
            assert "cannot be read now" in reply.json()["message"]
            assert int(reply.headers["Retry-After"]) > 0
        assert requests.get(f"{url}/get_avro?candid=1", timeout=60).status_code == 404
        (tmp_path / "away").rename(copy)
        until(lambda: requests.get(f"{url}{OBJECTS}/{oid}/features", timeout=60).status_code == 200)


def test_a_server_starts_before_its_lake_and_ends_with_sigterm(copy: str, tmp_path: Path) -> None:
    later = tmp_path / "later"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    code = "from alerce_spark.cli import main; main()"
    arguments = ["serve", "--lake", str(later), "--index", str(tmp_path / "i.sqlite"), "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: _status(f"{url}/status") is not None, 120)
        assert _status(f"{url}/status") == 503
        Path(copy).rename(later)
        until(lambda: _status(f"{url}/status") == 200, 120)
        oid = small_lake.read(str(later), "objects")["oid"][0]
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(requests.get, f"{url}{OBJECTS}/{oid}/features", timeout=60) for _ in range(8)]
            asked[0].result()
            os.kill(process.pid, signal.SIGTERM)
            answered = [one.result().status_code for one in asked if one.exception() is None]
        assert set(answered) == {200}
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def _status(url: str) -> int | None:
    try:
        return requests.get(url, timeout=60).status_code
    except requests.ConnectionError:
        return None


def test_client_config_is_what_the_client_reads() -> None:
    code = "from alerce_spark.cli import main; main()"
    run = [sys.executable, "-c", code, "client-config"]
    made = subprocess.run([*run, "http://host:8800/"], capture_output=True, text=True, check=True)
    assert json.loads(made.stdout)["ztf"]["ZTF_API_URL"] == "http://host:8800"
    refused = subprocess.run([*run, "host"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "http://127.0.0.1:8800" in refused.stderr
