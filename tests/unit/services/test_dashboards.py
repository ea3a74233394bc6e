"""Dashboards and alarms, asked of a real Prometheus that scrapes a server and the page of the stream."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
import yaml

from alerce_spark.lake import write
from alerce_spark.lake.tables import TABLES
from alerce_spark.streaming.causes import Cause
from alerce_spark.streaming.metrics import Metrics
from dashboards.boards import FOLDER, boards
from tests import small_lake
from tests.missing import missing
from tests.served import ROOT, serving

CONF = ROOT / "conf" / "prometheus"
BOARDS = {file.name: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))}
QUERIES = ("stamps", "lightcurves", "photometry")
#: Ranges that Grafana would put in; `$__rate_interval` is four times the interval of the scrapes.
RANGES = {"$__rate_interval": "8s", "$__range": "60s"}
Answers = list[dict[str, Any]]


def program(name: str) -> str:
    """A program of Prometheus."""
    return shutil.which(name) or missing("Prometheus")


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Panels with queries."""
    return [panel for panel in board["panels"] if panel.get("targets")]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stream:
    """The page of a stream in which everything happens that the dashboards show."""

    def __init__(self) -> None:
        self.port = free_port()
        self._metrics = Metrics(QUERIES, port=self.port)
        self._rng = np.random.default_rng(1)
        self._batch = 0
        self._metrics.model("lc_classifier", "20260101.1", "damaged")
        self._metrics.kafka("no broker answers")

    def goes_on(self) -> None:
        """One more batch of each query, and a failure."""
        self._batch += 1
        for name in QUERIES:
            ends = [{"endOffset": {"t": {"0": self._batch}}, "latestOffset": {"t": {"0": 5000 + self._batch}}}]
            batch = {"batchId": self._batch, "numInputRows": 50, "processedRowsPerSecond": 25.0, "sources": ends}
            self._metrics.progress(name, batch)
            self._metrics.latency(name, self._rng.lognormal(0.0, 0.7, 50))
        self._metrics.failed("photometry", Cause("disk full", "no space left"))


class Prometheus:
    """A Prometheus with the scrapes and rules of conf/prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, expression: str) -> Answers:
        """The answer of now."""
        for name, seconds in RANGES.items():
            expression = expression.replace(name, seconds)
        answer = requests.get(f"{self._url}/query", {"query": expression}, timeout=10).json()
        assert answer["status"] == "success", answer
        found: Answers = answer["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """The alarms as they are."""
        groups = requests.get(f"{self._url}/rules", timeout=10).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextmanager
def prometheus(folder: Path, ports: dict[str, int]) -> Iterator[Prometheus]:
    """A running Prometheus that finds the pages at these ports."""
    config = yaml.safe_load((CONF / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    (folder / "prometheus.yml").write_text(json.dumps(config))
    shutil.copy(CONF / "alerce.rules.yml", folder)
    port = free_port()
    command = [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with subprocess.Popen(command) as child:
        try:
            yield Prometheus(port)
        finally:
            child.terminate()


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Stream]]:
    """A stream, a server whose routes are asked, and a Prometheus that scraped both some times."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("scraped")
    lake, stream = str(folder / "lake"), Stream()
    packets = small_lake.packets(objects=10, nights=3)
    small_lake.make(lake, packets)
    small_lake.keep(folder / "archive", packets)
    troubles(lake)
    oid = small_lake.read(lake, "objects")["oid"][0]
    with serving(lake, folder / "archive") as url:
        ports = {"alerce-api": int(url.rpartition(":")[2]), "alerce-stream": stream.port}
        with prometheus(folder, ports) as running:
            wait_for(running, "count_over_time(up[1m]) >= 4", 2, lambda: use(url, oid, stream))
            yield running, stream


def troubles(lake: str) -> None:
    """A packet in quarantine, a night that is broken."""
    packet = {"sha256": "1", "stage": "photometry", "survey": "ztf", "source": "t", "reason": "r", "packet": b"x"}
    night = {"night": "20260101", "round": 1, "finished": datetime(2026, 1, 2, tzinfo=UTC), "expected": 9}
    night |= {"missing": 2, "resent": 1, "broken": [("ndet", 2.0)]}
    for table, row in (("quarantine", packet), ("nightly_reports", night)):
        write.insert(lake, table, pa.Table.from_pylist([row], TABLES[table].arrow))


def use(url: str, oid: str, stream: Stream) -> None:
    """What users and the stream do."""
    stream.goes_on()
    for path in (f"objects/{oid}", f"objects/{oid}/lightcurve", "objects", "objects/nobody"):
        requests.get(f"{url}/ztf/v1/{path}", timeout=10)
    requests.get(f"{url}/tap/sync", {"LANG": "ADQL", "QUERY": "SELECT nothing FROM nowhere"}, timeout=10)


def wait_for(running: Prometheus, expression: str, series: int, meanwhile: Any) -> None:
    """Wait until an expression has so many series."""
    for _ in range(300):
        try:
            if len(running.ask(expression)) >= series:
                return
        except requests.ConnectionError:
            pass
        meanwhile()
        time.sleep(0.1)
    pytest.fail(f"Prometheus has no {expression}")


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_has_an_answer_with_the_labels_of_its_legend(scraped: tuple[Prometheus, Stream], name: str) -> None:
    asked = 0
    for panel in panels(BOARDS[name]):
        for target in panel["targets"]:
            found = scraped[0].ask(target["expr"])
            assert any(math.isfinite(float(one["value"][1])) for one in found), f"{panel['title']} is empty"
            labels = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            for change in panel.get("transformations") or ():
                if change["id"] == "groupingToMatrix":
                    labels |= {change["options"]["rowField"], change["options"]["columnField"]}
            assert all(labels <= one["metric"].keys() for one in found), f"{panel['title']}: {labels}"
            lines = [tuple(one["metric"].get(label) for label in sorted(labels)) for one in found]
            assert len(set(lines)) == len(lines), f"{panel['title']}: two lines have one name"
            asked += 1
    assert asked >= 7


def test_distributions_rise_to_the_share_that_was_fed(scraped: tuple[Prometheus, Stream]) -> None:
    panel = next(p for p in panels(BOARDS["stream.json"]) if p["type"] == "trend")
    found = scraped[0].ask(panel["targets"][0]["expr"])
    for step in QUERIES:
        curve = sorted((float(o["metric"]["le"]), float(o["value"][1])) for o in found if o["metric"]["step"] == step)
        edges, shares = np.array(curve).T
        assert (np.diff(shares) >= 0).all()
        assert shares[-1] == pytest.approx(1)
        # lognormal(0, 0.7): half of the values below 1
        assert shares[edges == 1.0] == pytest.approx(0.5, abs=0.1)


def test_alarms_of_what_happens_are_on_and_no_others(scraped: tuple[Prometheus, Stream]) -> None:
    wait_for(scraped[0], 'ALERTS{alertname="StreamFailing"}', 1, lambda: None)
    rules = scraped[0].rules()
    assert {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")} == {}
    on = {rule["name"] for rule in rules if rule["state"] != "inactive"}
    expected = {"StreamFailing", "StreamRestartsOften", "KafkaAway", "ModelAlarm"}
    on -= {"DiskFull", "DiskFillsUp"}  # of the disk of this machine
    assert on == expected | {"IntegrityBroken", "IntegrityMissing", "IntegrityNotRun"}


def test_the_files_are_what_the_code_makes() -> None:
    assert boards() == {name: (FOLDER / name).read_text() for name in BOARDS}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What the tool of Prometheus says."""
    return subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)


def test_files_are_right_to_promtool() -> None:
    for kind, name in (("rules", "alerce.rules.yml"), ("config", "prometheus.yml")):
        done = promtool("check", kind, CONF / name)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alarm_is_on_when_it_should_and_off_when_all_is_well(tmp_path: Path) -> None:
    text = (Path(__file__).parent / "alerce.rules.test.yml").read_text()
    rules = CONF / "alerce.rules.yml"
    (tmp_path / "test.yml").write_text(text.replace("RULES", str(rules)))
    done = promtool("test", "rules", tmp_path / "test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    names = {rule["alert"] for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"]}
    wrong, well = yaml.safe_load(text)["tests"]
    assert names == {case["alertname"] for case in wrong["alert_rule_test"] if case["exp_alerts"]}
    assert names == {case["alertname"] for case in well["alert_rule_test"]}
