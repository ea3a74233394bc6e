"""The page /metrics of the services: its figures against those of polars, of delta-rs and of what was asked."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pytest
import requests
from deltalake import DeltaTable
from prometheus_client.parser import text_string_to_metric_families

from alerce_spark.api import metrics
from alerce_spark.lake import write
from alerce_spark.lake.tables import TABLES
from alerce_spark.serving import follow
from tests import small_lake
from tests.served import Served, answering, settings_of

Labels = frozenset[tuple[str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small lake with quarantine and a nightly report."""
    folder = tmp_path_factory.mktemp("metrics")
    packets = small_lake.packets(objects=10, nights=3)
    small_lake.make(str(folder / "lake"), packets)
    small_lake.keep(folder / "archive", packets)
    quarantine(str(folder / "lake"), "photometry", 3)
    report(str(folder / "lake"), "20260101", 2, 0, [])
    report(str(folder / "lake"), "20260102", 1, 4, [("ndet", 2.0), ("archive", 1.0)])
    return folder


@pytest.fixture
def served(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server in front of a copy of it; nobody follows the lake, and each scrape looks at it."""
    monkeypatch.setattr(metrics, "_LOOK_S", 0.0)
    monkeypatch.setattr(metrics, "_PATIENCE_S", 60.0)
    shutil.copytree(made, tmp_path / "here")
    lake = str(tmp_path / "here" / "lake")
    settings = settings_of(lake, tmp_path / "here" / "archive", rate_limit="20/60 seconds")
    follow.build(lake, settings.index)
    with answering(settings) as url:
        yield Served(lake, [], url)


def quarantine(lake: str, stage: str, rows: int) -> None:
    """Packets in quarantine."""
    values = [
        {"sha256": f"{stage}{k}", "stage": stage, "survey": "ztf", "source": "t", "reason": "r", "packet": b"x"}
        for k in range(rows)
    ]
    write.insert(lake, "quarantine", pa.Table.from_pylist(values, TABLES["quarantine"].arrow))


def report(lake: str, night: str, number: int, missing: int, broken: list[tuple[str, float]]) -> None:
    """A round of integrity."""
    row = {"night": night, "round": number, "finished": datetime(2026, 1, 3, 12, tzinfo=UTC), "expected": 100}
    row |= {"missing": missing, "resent": 7, "broken": broken}
    write.insert(lake, "nightly_reports", pa.Table.from_pylist([row], TABLES["nightly_reports"].arrow))


def scrape(served: Served) -> dict[str, dict[Labels, float]]:
    """Values of the page by name and labels."""
    answer = served.get("/metrics")
    assert answer.status_code == 200
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def by(values: dict[Labels, float], label: str) -> dict[str, float]:
    """Values by one label."""
    return {dict(labels)[label]: value for labels, value in values.items()}


def test_requests_are_counted_by_template_and_status(served: Served) -> None:
    oid = served.table("objects")["oid"][0]
    objects, one = "/ztf/v1/objects", "/ztf/v1/objects/{oid}"
    asked = [(objects, objects), (objects + "/", objects), (f"{objects}/{oid}", one), (f"{objects}/nobody", one)]
    asked += [("/mine/secret", "other"), ("/docs", "other")]
    expected: dict[Labels, float] = {}
    for path, route in asked:
        status = str(served.get(path).status_code)
        key = frozenset({("route", route), ("status", status)})
        expected[key] = expected.get(key, 0) + 1
    counted = scrape(served)["alerce_request_seconds_count"]
    assert expected == counted
    assert by(counted, "status").keys() == {"200", "404"}
    text = served.get("/metrics").text
    assert not any(word in text for word in (oid, "nobody", "secret"))


def test_a_fault_of_the_server_is_counted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("alerce_spark.serving.query.Index.object", broken)
    assert served.get("/ztf/v1/objects/x").status_code == 500
    key = frozenset({("route", "/ztf/v1/objects/{oid}"), ("status", "500")})
    assert scrape(served)["alerce_request_seconds_count"][key] == 1


def test_a_scrape_has_no_rate_limit_and_refused_requests_are_counted(served: Served) -> None:
    assert {served.get("/metrics").status_code for _ in range(25)} == {200}
    statuses = [served.get("/ztf/v1/objects").status_code for _ in range(25)]
    assert statuses.count(429) >= 1
    counted = by(scrape(served)["alerce_request_seconds_count"], "status")
    assert counted["429"] == statuses.count(429)


def test_kept_replies_are_counted(served: Served) -> None:
    oid = served.table("objects")["oid"][0]
    assert by(scrape(served)["alerce_kept_replies_total"], "result") == {"hit": 0, "miss": 0}
    for _ in range(3):
        assert served.get(f"/ztf/v1/objects/{oid}/lightcurve").status_code == 200
    assert by(scrape(served)["alerce_kept_replies_total"], "result") == {"hit": 2, "miss": 1}


def test_queries_of_tap_are_counted_by_result(served: Served) -> None:
    for query in ("SELECT TOP 1 oid FROM lake.objects", "SELECT nothing FROM nowhere"):
        served.get("/tap/sync", LANG="ADQL", QUERY=query)
    job = requests.post(f"{served.url}/tap/async", {"LANG": "ADQL", "QUERY": "SELECT TOP 1 oid FROM lake.objects"})
    requests.post(f"{job.url}/phase", {"PHASE": "RUN"})
    while requests.get(f"{job.url}/phase").text in ("QUEUED", "EXECUTING"):
        time.sleep(0.05)
    found = scrape(served)
    assert by(found["alerce_tap_queries_total"], "result") == {
        "done": 2,
        "refused": 1,
        "busy": 0,
        "stopped": 0,
        "failed": 0,
    }
    for name in ("alerce_tap_running", "alerce_tap_waiting", "alerce_tap_queued_jobs"):
        assert list(found[name].values()) == [0]


def test_the_lag_of_the_index_is_that_of_the_oldest_commit_it_lacks(served: Served) -> None:
    zero = {"taxonomy": 0, "objects": 0, "probabilities": 0}
    found = scrape(served)
    assert by(found["alerce_index_lag_versions"], "table") == by(found["alerce_index_lag_seconds"], "table") == zero
    one, rng = served.table("objects").to_dicts()[0], np.random.default_rng(1)
    for k in range(2):
        rows = [{**row, "candid": row["candid"] + 10 + k} for row in small_lake.classes(one, rng)]
        small_lake.replace(served.lake, "probabilities", rows)
    history = DeltaTable(f"{served.lake}/probabilities").history()
    first = sorted(entry["timestamp"] for entry in history)[-2] / 1000
    before = time.time()
    found = scrape(served)
    assert by(found["alerce_index_lag_versions"], "table") == zero | {"probabilities": 2}
    assert before - first <= by(found["alerce_index_lag_seconds"], "table")["probabilities"] <= time.time() - first


def test_tables_have_the_files_that_delta_rs_sees(served: Served) -> None:
    small_lake.compact(served.lake, "detections")
    found = scrape(served)
    for name in TABLES:
        stored = DeltaTable(f"{served.lake}/{name}")
        adds = pa.table(stored.get_add_actions())
        assert by(found["alerce_table_version"], "table")[name] == stored.version()
        assert by(found["alerce_table_files"], "table")[name] == adds.num_rows
        assert by(found["alerce_table_bytes"], "table")[name] == sum(adds["size_bytes"].to_pylist())
    assert found["alerce_lake_free_bytes"][frozenset()] == pytest.approx(shutil.disk_usage(served.lake).free, rel=0.2)


def test_quarantine_is_counted_by_stage_as_rows_come(served: Served) -> None:
    assert by(scrape(served)["alerce_quarantine_rows"], "stage") == {"photometry": 3}
    quarantine(served.lake, "stamps", 2)
    counts = served.table("quarantine")["stage"].value_counts().rows()
    assert by(scrape(served)["alerce_quarantine_rows"], "stage") == dict(counts) == {"photometry": 3, "stamps": 2}


def test_the_last_night_counts_and_of_it_the_last_round(served: Served) -> None:
    night = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    found = scrape(served)
    assert found["alerce_nightly_night_seconds"][frozenset()] == night
    assert found["alerce_nightly_finished_seconds"][frozenset()] == datetime(2026, 1, 3, 12, tzinfo=UTC).timestamp()
    assert found["alerce_nightly_missing"][frozenset()] == 4
    assert by(found["alerce_nightly_broken"], "invariant") == {"ndet": 2, "archive": 1}
    report(served.lake, "20260102", 2, 0, [])
    found = scrape(served)
    assert found["alerce_nightly_missing"][frozenset()] == 0
    assert "alerce_nightly_broken" not in found


def test_a_lake_that_cannot_be_read_is_told(served: Served) -> None:
    assert scrape(served)["alerce_lake_readable"][frozenset()] == 1
    shutil.move(served.lake, f"{served.lake}-away")
    found = scrape(served)
    assert found["alerce_lake_readable"][frozenset()] == found["alerce_index_readable"][frozenset()] == 0
    assert "alerce_table_files" not in found
    assert found["alerce_tap_running"][frozenset()] == 0


def test_a_lake_that_does_not_answer_does_not_hold_a_scrape(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    known = scrape(served)["alerce_table_files"]
    looks, answer = [], Event()

    def hangs(watch: metrics.Watch) -> None:
        looks.append(watch)
        answer.wait(60)
        raise OSError

    monkeypatch.setattr(metrics.Watch, "look", hangs)
    monkeypatch.setattr(metrics, "_PATIENCE_S", 0.05)
    try:
        assert [scrape(served)["alerce_table_files"] for _ in range(5)] == [known] * 5
        assert len(looks) == 1
    finally:
        answer.set()
