"""TAP: pyvo, STILTS and plain requests against a served lake; values are those that polars reads."""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pyvo
import requests
from astropy.coordinates import SkyCoord
from astropy.table import Table
from mocpy import MOC

from alerce_spark.features.names import FEATURES
from alerce_spark.serving import scan
from tests import small_lake
from tests.served import Served, counting, serving


@pytest.fixture(scope="session")
def tap(served: Served) -> pyvo.dal.TAPService:
    """pyvo's view of the service."""
    return pyvo.dal.TAPService(f"{served.url}/tap")


def sync(served: Served, query: str, form: str = "json", **more: Any) -> requests.Response:
    """An answer."""
    asked = {"LANG": "ADQL", "QUERY": query, "RESPONSEFORMAT": form, **more}
    return requests.post(f"{served.url}/tap/sync", data=asked, timeout=120)


def rows(served: Served, query: str) -> list[dict[str, Any]]:
    """Rows of an answer."""
    reply = sync(served, query)
    assert reply.status_code == 200, reply.text
    return list(reply.json())


# Values.


def test_objects_are_those_of_the_lake(served: Served) -> None:
    live = scan.pinned(served.lake, ["objects"])["objects"]
    assert scan.chosen(served.lake, "objects", live, ()).marked, "the lake needs files with deleted rows"
    expected = served.table("objects").sort("oid")
    found = rows(served, "SELECT oid, meanra, meandec, ndet, deltajd, corrected, g_r_max FROM ztf.object ORDER BY oid")
    names = {"deltajd": "deltamjd"}
    for name in found[0]:
        assert [row[name] for row in found] == expected[names.get(name, name)].to_list(), name


@pytest.mark.parametrize("table", ["detections", "non_detections", "forced_photometry", "magstats", "features"])
def test_every_column_of_a_table_is_that_of_the_lake(served: Served, table: str) -> None:
    reply = sync(served, f"SELECT * FROM lake.{table}", "parquet")
    found = pl.read_parquet(io.BytesIO(reply.content))
    expected = served.table(table).drop("pixel")
    nested = [name for name, kind in expected.schema.items() if kind.is_nested()]
    keys = [c for c in ("oid", "candid", "pid", "fid", "mjd") if c in expected.columns]
    names = [name for name in expected.columns if name not in nested]
    assert found.columns == expected.columns
    assert found.select(names).sort(keys).equals(expected.select(names).sort(keys))


def test_probabilities_are_those_that_count(served: Served) -> None:
    found = rows(served, "SELECT * FROM ztf.probability")
    first = {(r["oid"], r["classifier_name"]): r for r in found if r["ranking"] == 1}
    expected = {(oid, classifier): row for oid, classifier, row in counting(served)}
    assert first.keys() == expected.keys()
    for key, row in expected.items():
        mine = [r for r in found if (r["oid"], r["classifier_name"]) == key]
        values = dict(row["probabilities"])
        assert (first[key]["class_name"], first[key]["classifier_version"]) == (row["class"], row["version"])
        assert {r["class_name"]: r["probability"] for r in mine} == values
        ranked = sorted(mine, key=lambda r: r["ranking"])
        assert [r["ranking"] for r in ranked] == list(range(1, len(values) + 1))
        assert all(a["probability"] >= b["probability"] for a, b in pairwise(ranked[1:]))


def test_rankings_are_those_of_the_other_routes(served: Served) -> None:
    oid = served.table("probabilities")["oid"][0]
    found = rows(served, f"SELECT * FROM ztf.probability WHERE oid = '{oid}'")
    by_route = served.get(f"/ztf/v1/objects/{oid}/probabilities").json()
    key = ("classifier_name", "classifier_version", "class_name", "probability", "ranking")
    assert {tuple(r[k] for k in key) for r in found} == {tuple(r[k] for k in key) for r in by_route}


def test_features_are_the_latest_in_alerces_form(served: Served) -> None:
    oid = served.table("features")["oid"][0]
    latest = served.table("features").filter(oid=oid).sort("mjd", "ndet_used", "candid").row(-1, named=True)
    found = rows(served, f"SELECT name, fid, value FROM ztf.feature WHERE oid = '{oid}'")
    by_route = served.get(f"/ztf/v1/objects/{oid}/features").json()
    assert len(found) == len(FEATURES)
    assert {(r["name"], r["fid"], r["value"]) for r in found} == {(r["name"], r["fid"], r["value"]) for r in by_route}
    one = rows(served, f"SELECT fid, value FROM ztf.feature WHERE oid = '{oid}' AND name = 'Amplitude' ORDER BY fid")
    assert one == [{"fid": band, "value": latest[f"Amplitude_{band}"]} for band in (1, 2)]
    assert rows(served, "SELECT oid FROM ztf.feature WHERE name = 'Amplitude' AND name = 'Rcs'") == []


def test_side_tables_have_the_first_alert(served: Served) -> None:
    alerts = served.table("detections").filter("has_stamp")
    for table, column, key in (("ps1_ztf", "objectidps1", ["oid"]), ("reference", "rfid", ["oid", "rfid"])):
        known = alerts.drop_nulls(column).sort("candid").unique(key, keep="first")
        found = rows(served, f"SELECT oid, candid, {column} FROM ztf.{table}")
        assert {tuple(r.values()) for r in found} == set(known.select("oid", "candid", column).iter_rows())
    same = alerts.group_by("oid").agg(same=pl.col("objectidps1").n_unique() == 1)
    found = rows(served, "SELECT oid, unique1 FROM ztf.ps1_ztf")
    assert {r["oid"]: r["unique1"] for r in found} == dict(same.iter_rows())


def test_numbers_behave_as_the_language_says(served: Served) -> None:
    query = (
        "SELECT 7/2 AS a, 7/2.0 AS b, LOG(10) AS c, LOG10(100) AS d, MOD(7, 3) AS e, TRUNCATE(18.129, 2) AS f, "
        "ROUND(2.345, 1) AS g, POWER(2, 10) AS h, 0.1 + 0.2 AS i, 'a' || 'b' AS j, COUNT(*) AS k FROM ztf.taxonomy"
    )
    (found,) = rows(served, query)
    expected = [3, 3.5, math.log(10), 2, 1, 18.12, 2.3, 1024, 0.1 + 0.2, "ab", 2]
    assert found.pop("j") == expected.pop(9)
    assert list(found.values()) == pytest.approx(expected)


# Files: only those that can hold a row are read.


def test_a_cone_reads_the_files_of_its_pixels_only(served: Served) -> None:
    live = scan.pinned(served.lake, ["detections"])["detections"]
    every = scan.chosen(served.lake, "detections", live, ()).paths
    from alerce_spark.api.tap.adql import translate

    query = "SELECT oid FROM ztf.detection WHERE 1 = CONTAINS(POINT(ra, dec), CIRCLE(120.0, 0.0, 0.01))"
    (reference,) = translate(query, {}, 10).references
    few = scan.chosen(served.lake, "detections", live, reference.bounds)
    assert 0 < len(few.paths) < len(every) / 2
    kept = {path.rpartition("/")[2] for path in few.paths}
    holding = served.table("detections").filter(pl.col("ra").is_between(119.99, 120.01), pl.col("dec").abs() < 0.01)
    names = {path.rpartition("/")[2]: path for path in every}
    for name in names.keys() - kept:
        lost = pl.read_parquet(names[name]).filter(pl.col("candid").is_in(holding["candid"].to_list()))
        assert lost.is_empty()


def test_rows_deleted_and_files_of_older_schemas(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    small_lake.make(lake, small_lake.packets(3, objects=10, nights=3))
    with serving(lake, tmp_path / "archive") as url:
        served = Served(lake, [], url)
        keys = served.table("detections").select("oid", "candid").rows()
        small_lake.remove(lake, "detections", keys[::3])
        count = "SELECT COUNT(*) AS n FROM lake.detections"
        assert rows(served, count) == [{"n": len(keys) - len(keys[::3])}]
        left = {row["candid"] for row in rows(served, "SELECT candid FROM ztf.detection")}
        assert (
            left
            == set(served.table("detections")["candid"].to_list())
            == {k[1] for k in keys} - {k[1] for k in keys[::3]}
        )
        small_lake.compact(lake, "detections")
        assert rows(served, count) == [{"n": len(left)}]


# Clients.


def test_pyvo_asks_as_alerces_notebooks_do(served: Served, tap: pyvo.dal.TAPService) -> None:
    classified = served.table("probabilities")["oid"].to_list()
    objects = served.table("objects").filter(pl.col("oid").is_in(classified), pl.col("meandec").is_between(29, 31))
    one = objects.sort("oid").row(0, named=True)
    found = tap.search(
        "SELECT o.oid, p.class_name, p.probability FROM ztf.object AS o INNER JOIN ztf.probability AS p "
        f"ON p.oid = o.oid WHERE CONTAINS(POINT('ICRS', o.meanra, o.meandec), CIRCLE('ICRS', {one['meanra']}, "
        f"{one['meandec']}, 0.001)) = 1 ORDER BY p.probability DESC"
    ).to_table()
    assert set(found["oid"]) == {one["oid"]}
    assert found["oid"].description == "Object"
    assert tap.search("SELECT * FROM ztf.object", maxrec=5).to_table()["meanra"].unit == "deg"
    assert len(tap.run_async("SELECT TOP 4 oid FROM alerce_tap.object")) == 4
    names = {table.name for table in tap.tables.values()}
    assert {"ztf.object", "alerce_tap.detection", "lake.objects", "tap_schema.columns"} <= names
    assert len(tap.examples) >= 5


def test_jobs_have_a_life(served: Served, tap: pyvo.dal.TAPService) -> None:
    job = tap.submit_job("SELECT COUNT(*) AS n FROM ztf.detection")
    assert job.phase == "PENDING"
    job.run().wait(timeout=60)
    assert job.phase == "COMPLETED"
    assert job.fetch_result()["n"][0] == len(served.table("detections"))
    again = {"LANG": "ADQL", "QUERY": "SELECT n FROM tap_upload.x", "UPLOAD": f"x,{job.result_uri}"}
    reply = requests.post(f"{served.url}/tap/sync", data={**again, "FORMAT": "json"}, timeout=60)
    assert reply.json() == [{"n": len(served.table("detections"))}]
    address = job.url
    job.delete()
    assert requests.get(address, timeout=60).status_code == 404
    wrong = tap.submit_job("SELECT nosuch FROM ztf.object").run()
    with pytest.raises(pyvo.dal.DALQueryError, match="nosuch"):
        wrong.wait(timeout=60).raise_if_error()


def test_an_endless_job_is_ended_by_its_owner(served: Served, tap: pyvo.dal.TAPService) -> None:
    endless = "SELECT COUNT(*) FROM ztf.detection a, ztf.detection b, ztf.detection c, ztf.detection d"
    job = tap.submit_job(endless).run()
    while job.phase in ("PENDING", "QUEUED"):
        time.sleep(0.05)
    job.abort()
    assert job.phase == "ABORTED"
    assert len(rows(served, "SELECT TOP 1 oid FROM ztf.object")) == 1


def test_lists_of_ids_and_positions_are_joined(served: Served, tap: pyvo.dal.TAPService) -> None:
    objects = served.table("objects").sort("oid")
    ids = Table({"oid": objects["oid"][:5].to_list(), "mine": [1, 2, 3, 4, 5]})
    query = "SELECT d.oid, d.candid, u.mine FROM ztf.detection AS d JOIN tap_upload.mylist AS u ON d.oid = u.oid"
    found = tap.search(query, uploads={"mylist": ids}).to_table()
    expected = served.table("detections").filter(pl.col("oid").is_in(objects["oid"][:5].to_list()))
    assert sorted(found["candid"]) == sorted(expected["candid"])
    numbers = np.arange(len(objects))
    places = Table({"name": numbers, "ra": objects["meanra"].to_numpy(), "dec": objects["meandec"].to_numpy()})
    places["ra"] = (places["ra"] + 0.3 / 3600) % 360
    for radius in (1.0, 60.0, 4000.0):
        near = tap.search(
            "SELECT u.name, o.oid, 3600 * DISTANCE(POINT(u.ra, u.dec), POINT(o.meanra, o.meandec)) AS sep "
            "FROM tap_upload.mine AS u JOIN ztf.object AS o ON 1 = CONTAINS(POINT('ICRS', o.meanra, o.meandec), "
            f"CIRCLE('ICRS', u.ra, u.dec, {radius} / 3600.0))",
            uploads={"mine": places},
        ).to_table()
        a = SkyCoord(places["ra"], places["dec"], unit="deg")
        b = SkyCoord(objects["meanra"].to_numpy(), objects["meandec"].to_numpy(), unit="deg")
        apart = a[:, None].separation(b[None, :]).arcsec
        pairs = {(int(i), objects["oid"][int(j)]) for i, j in zip(*np.nonzero(apart <= radius), strict=True)}
        assert {(int(n), o) for n, o in zip(near["name"], near["oid"], strict=True)} == pairs
        assert len(near) == len(pairs)


@pytest.mark.skipif(shutil.which("stilts") is None, reason="STILTS (Debian package stilts) is not installed")
def test_stilts_finds_no_error(served: Served) -> None:
    command = ["stilts", "taplint", f"tapurl={served.url}/tap", "maxrepeat=5", "report=EF"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False).stdout
    # A stage for tables of planned observations, which are not there, fails.
    faults = [line for line in said.splitlines() if line.startswith(("E-", "F-")) and "ivoa.obsplan" not in line]
    assert not faults
    assert "Errors: 0" in said


@pytest.mark.skipif(shutil.which("stilts") is None, reason="STILTS (Debian package stilts) is not installed")
def test_stilts_asks_the_cone_search(served: Served, tmp_path: Path) -> None:
    objects = served.table("objects").filter(pl.col("meandec").is_between(29, 31))
    (tmp_path / "in.csv").write_text(objects.select("oid", "meanra", "meandec").write_csv())
    command = ["stilts", "coneskymatch", f"serviceurl={served.url}/scs", f"in={tmp_path / 'in.csv'}", "ifmt=csv"]
    command += ["ra=meanra", "dec=meandec", "sr=0.0003", "find=best", f"out={tmp_path / 'out.csv'}", "ofmt=csv"]
    subprocess.run([*command, "verb=2"], check=True, capture_output=True, timeout=300)
    found = pl.read_csv(tmp_path / "out.csv")
    given, answered = (found[name].to_list() for name in found.columns if name.startswith("oid"))
    assert given == answered
    assert set(given) == set(objects["oid"])


# Formats and limits.


def test_formats_say_the_same(served: Served) -> None:
    query = "SELECT oid, ndet, meanra, corrected, g_r_max, classes FROM ztf.object, ztf.taxonomy ORDER BY oid, classes"
    by_json = pl.DataFrame(sync(served, query).json())
    by_csv = pl.read_csv(sync(served, query, "csv").content)
    by_parquet = pl.read_parquet(sync(served, query, "parquet").content)
    votable = Table.read(io.BytesIO(sync(served, query, "votable").content), format="votable")
    assert by_json.equals(by_parquet.cast({"ndet": pl.Int64}))
    assert by_csv.equals(by_parquet.cast({"ndet": pl.Int64}))
    for name in by_json.columns:
        values = [None if isinstance(v, float) and math.isnan(v) else v for v in votable[name].tolist()]
        assert values == by_json[name].to_list()


def test_a_result_that_is_cut_says_so(served: Served) -> None:
    for query, most, given, cut in (
        ("SELECT oid FROM ztf.object", 3, 3, True),
        ("SELECT oid FROM ztf.object", 0, 0, True),
        ("SELECT TOP 3 oid FROM ztf.object", 3, 3, False),
        ("SELECT TOP 5 oid FROM ztf.object", 3, 3, True),
        ("SELECT oid FROM ztf.object", 100_000, 24, False),
    ):
        body = sync(served, query, "votable", MAXREC=most)
        assert (body.text.count("<TR>"), "OVERFLOW" in body.text) == (given, cut), (query, most)


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE ztf.object",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        'SELECT * FROM "/etc/passwd"',
        "SELECT * FROM 'http://127.0.0.1/x.parquet'",
        "SELECT * FROM read_parquet('s3://x/y')",
        "SELECT * FROM glob('*')",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM information_schema.tables",
        "WITH sqlite_master AS (SELECT 1 AS x) SELECT sql FROM (SELECT * FROM sqlite_master) AS s, pg_class",
        "PRAGMA database_list",
        "ATTACH '/tmp/x.db'",
        "COPY ztf.object TO '/tmp/x'",
        "INSTALL httpfs",
        "SET threads = 64",
        "CALL pragma_version()",
        "EXPLAIN SELECT * FROM ztf.object",
        "SELECT * INTO x FROM ztf.object",
        "SELECT repeat('a', 1000000000) FROM ztf.object",
        "SELECT * FROM range(1000000000000)",
        "SELECT getenv('HOME') FROM ztf.object",
        "SELECT current_setting('threads') FROM ztf.object",
        "WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a) SELECT * FROM a",
        "SELECT * FROM ztf.object, LATERAL (SELECT 1) AS x",
        "SELECT [1, 2] FROM ztf.object",
        "SELECT {'a': 1} FROM ztf.object",
        "SELECT o FROM ztf.object AS o",
        "SELECT oid FROM ztf.object ORDER BY nosuch",
        "SELECT POINT(1, 2) FROM ztf.object",
        "SELECT oid FROM ztf.object WHERE 1 = CONTAINS(POINT('GALACTIC', meanra, meandec), CIRCLE(1, 2, 3))",
        "SELECT " + "(" * 100 + "1" + ")" * 100 + " FROM ztf.object",
        "SELECT oid FROM ztf.object WHERE",
        "SELECT 'a FROM ztf.object",
        "SELECT oid FROM tap_upload.nothing",
        "SELECT oid FROM lake.quarantine",
        "",
    ],
)
def test_what_is_no_query_is_refused(served: Served, query: str) -> None:
    reply = sync(served, query)
    assert reply.status_code == 400
    assert 'name="QUERY_STATUS" value="ERROR"' in reply.text
    assert served.lake not in reply.text
    assert "/tmp" not in reply.text.replace("'/tmp", "")


def test_errors_say_where(served: Served) -> None:
    for query, at in (
        ("SELECT oid,\n nosuch FROM ztf.object", "line 2, column 2"),
        ("SELECT oid FROM ztf.objects", "line 1, column 17"),
        ("SELECT oid FROM ztf.object WHERE repeat(oid, 3) = 'a'", "line 1, column"),
        ("SELECT oid FROM WHERE x", "line 1, column 21"),
    ):
        assert at in sync(served, query).text, query


def test_bombs_are_ended_with_a_reason(tmp_path: Path, served: Served) -> None:
    doubled = "SELECT oid || oid AS x FROM ztf.object"
    for _ in range(28):
        doubled = f"SELECT a.x || a.x AS x FROM ({doubled}) AS a"
    crossed = "SELECT COUNT(*) FROM " + ", ".join(f"ztf.detection AS d{k}" for k in range(6))
    four = "lake.detections AS a, ztf.detection AS b, ztf.detection AS c, ztf.detection AS d"
    sorted_ = f"SELECT a.oid FROM {four} ORDER BY a.magpsf + b.magpsf"
    with serving(served.lake, tmp_path, tap_timeout_s=3.0, tap_memory_mb=128, index=str(tmp_path / "i")) as url:
        short = Served(served.lake, [], url)
        for query in (f"SELECT MAX(x) FROM ({doubled}) AS z", crossed, sorted_):
            reply = sync(short, query)
            assert reply.status_code in (400, 503), query
            assert "ended after 3 s" in reply.text or "memory" in reply.text
        assert rows(short, "SELECT COUNT(*) AS n FROM ztf.object") == [{"n": 24}]


def test_uploads_cannot_lead_elsewhere(served: Served) -> None:
    head = '<VOTABLE version="1.3"><RESOURCE><TABLE><FIELD name="a" datatype="int"/><DATA><BINARY>'
    elsewhere = head + '<STREAM href="file:///etc/passwd"/></BINARY></DATA></TABLE></RESOURCE></VOTABLE>'
    entity = (
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
        + head
        + "<STREAM>&e;</STREAM></BINARY></DATA></TABLE></RESOURCE></VOTABLE>"
    )
    for body in (elsewhere, entity, "a,b\n1,2\n", ""):
        asked = {"LANG": "ADQL", "QUERY": "SELECT * FROM tap_upload.x", "UPLOAD": "x,param:t"}
        reply = requests.post(f"{served.url}/tap/sync", data=asked, files={"t": body}, timeout=60)
        assert reply.status_code == 400
        assert "root:" not in reply.text
    asked = {"LANG": "ADQL", "QUERY": "SELECT * FROM tap_upload.x", "UPLOAD": "x,http://127.0.0.1:1/secret"}
    assert requests.post(f"{served.url}/tap/sync", data=asked, timeout=60).status_code == 400


def test_requests_in_pieces_are_bounded_too(served: Served) -> None:
    def pieces(count: int) -> Any:
        for name, value in (("LANG", "ADQL"), ("QUERY", "SELECT TOP 1 oid FROM ztf.object")):
            yield f'--cut\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        yield b'--cut\r\nContent-Disposition: form-data; name="t"; filename="t"\r\n\r\n'
        for _ in range(count):
            yield b"x" * (1 << 20)
        yield b"\r\n--cut--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    asked = f"{served.url}/tap/sync"
    assert requests.post(asked, data=pieces(1), headers=headers, timeout=60).status_code == 200
    assert requests.post(asked, data=pieces(60), headers=headers, timeout=60).status_code == 413


# Coverage.


def test_the_coverage_has_every_object(served: Served, tmp_path: Path) -> None:
    objects = served.table("objects")
    (tmp_path / "moc.fits").write_bytes(served.get("/moc").content)
    coordinates = SkyCoord(objects["meanra"].to_numpy(), objects["meandec"].to_numpy(), unit="deg")
    for moc in (MOC.load(tmp_path / "moc.fits", "fits"), MOC.from_json(served.get("/moc", format="json").json())):
        assert moc.contains_skycoords(coordinates).all()
        assert moc.max_order == 8
        assert moc.sky_fraction <= len(objects) / (12 * 4**8)
    assert json.loads(served.get("/moc", order=99).text)["errors"].keys() == {"order"}
