"""A broker that goes away, a lake whose disk is full, lost checkpoints, new and broken models: all heals by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from alerce_spark import local_kafka
from alerce_spark.classifiers import lightcurve
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES
from alerce_spark.cli import main
from alerce_spark.config import Settings
from alerce_spark.features.names import FEATURES
from alerce_spark.kafka import records, topics
from alerce_spark.lake import models
from alerce_spark.local_kafka import Broker
from alerce_spark.nightly.integrity import check
from alerce_spark.streaming import metrics
from alerce_spark.streaming.run import Stream
from tests.e2e.undisturbed import (
    Sent,
    assert_everything_once,
    assert_published,
    assert_same_tables,
    imported,
    settings_of,
    survey,
    tables,
    values,
    wait,
    wait_until_stored,
)

pytestmark = [pytest.mark.spark, pytest.mark.kafka]

NIGHT = "20200605"
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Form:
    """How long a form of the tests is: alerts that come with each outage, of how many objects, and seconds of it."""

    alerts: int
    objects: int
    outage_s: float
    disk_mb: int


SHORT = Form(120, 36, 10.0, 128)
LONG = Form(2000, 700, 60.0, 2048)
FORMS = [
    pytest.param(SHORT, id="short"),
    pytest.param(LONG, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of this test alone, since it is to go away."""
    yield local_kafka.start(f"127.0.0.1:{local_kafka.free_port()}", tmp_path / "kafka")
    local_kafka.stop(tmp_path / "kafka")


@pytest.fixture
def small_disk(form: Form, tmp_path: Path) -> Iterator[Path]:
    """A small file system in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={form.disk_mb}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def running(spark: SparkSession, settings: Settings) -> Iterator[Stream]:
    """A stream beside the test, which must end without an error."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            stream.run()
        except BaseException as error:  # noqa: BLE001  (whatever it is, the test must fail with it)
            failures.append(error)

    stream = Stream(spark, settings)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait(lambda: stream.has_started or bool(failures), "the queries run")
        yield stream
    finally:
        stream.stop()
        thread.join(timeout=180)
        assert not thread.is_alive()
    assert not failures, failures


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left on the disk meanwhile."""
    filler = disk / "filler"
    with filler.open("wb") as out:
        for size in (_MEGABYTE, 4096):
            block = bytes(size)
            try:
                while True:
                    os.write(out.fileno(), block)
            except OSError:
                continue
    try:
        yield
    finally:
        filler.unlink()


def _figures(stream: Stream, query: str = "lightcurves") -> dict[str, Any]:
    found: dict[str, Any] = stream.metrics.status()["queries"][query]
    return found


@pytest.mark.parametrize("form", FORMS)
def test_broker_disk_and_checkpoints_fail_one_after_the_other(
    form: Form, spark: SparkSession, broker: Broker, small_disk: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    servers, topic = broker.bootstrap_servers, f"ztf_{NIGHT}_outages"
    settings = settings_of(tmp_path, servers, topic, lake={"path": str(small_disk / "lake")})
    sent = survey(51, 2 * form.alerts, objects=form.objects, nights=16, cadence=1)
    halves = sent.upto(form.alerts), sent
    rest = Sent(sent.packets[form.alerts :], sent.alerts, [])
    topics.create(servers, [topic], 2)

    def proven(of: Sent) -> None:
        wait_until_stored(settings, of)
        proof = check(spark, settings, NIGHT, wait_s=180)
        assert proof.ok, (proof.broken, proof.rounds[-1].examples, proof.notes)
        assert_everything_once(settings, of)
        assert_published(servers, of)
        assert_same_tables(tables(settings.lake.path), imported(spark, settings, of, tmp_path / "undisturbed"))

    with running(spark, settings) as stream:
        for part in np.array_split(np.array(halves[0].messages(rng), object), 2):
            topics.send(servers, topic, part.tolist())
            if _figures(stream, "photometry")["batch"] < 0:
                local_kafka.stop(tmp_path / "kafka")
                time.sleep(form.outage_s)
                local_kafka.start(servers, tmp_path / "kafka")
        proven(halves[0])

        with full(small_disk):
            before = _figures(stream, "photometry")["failures"]
            topics.send(servers, topic, rest.messages(rng))
            wait(lambda: _figures(stream, "photometry")["failures"] > before, "photometry finds no room")
            time.sleep(form.outage_s)
        proven(halves[1])

    shutil.rmtree(settings.checkpoints)
    with running(spark, settings):
        proven(halves[1])


def _reversed(folder: Path) -> lightcurve.LightcurveModel:
    """A model that differs from the shipped one: the branches have each other's probabilities."""
    shipped = models.bootstrap(LIGHTCURVE)
    assert shipped is not None
    model = lightcurve.load(shipped)
    top = model._forests[lightcurve.TOP]
    top.classes = tuple(reversed(top.classes))
    model.version = "reversed"
    model.save(folder / "reversed.forest")
    return lightcurve.load(folder / "reversed.forest")


def test_a_model_promoted_in_mid_stream_and_a_broken_one(
    spark: SparkSession, kafka: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = "ztf_20200606_promotion"
    settings = settings_of(tmp_path, kafka, topic, stream={"queries": ["lightcurves"]})
    path = settings.lake.path
    topics.create(kafka, [topic], 2)
    shipped = models.bootstrap(LIGHTCURVE)
    assert shipped is not None
    known = {model.version: model for model in (lightcurve.load(shipped), _reversed(tmp_path))}
    old, new = known
    # Each packet carries weeks: the query alone, without tables behind it, has features.
    sent = survey(61, 300, objects=60, nights=28, history_days=0)
    parts = [sent.packets[-200:][k::4] for k in range(4)]
    done: list[int] = []

    def results(part: list[bytes]) -> list[records.Record]:
        """New messages about alerts of this survey after the query has taken a part."""
        taken = _figures(stream)["alerts"] + len(part)
        topics.send(kafka, topic, part)
        wait(lambda: bool(_figures(stream)["alerts"] >= taken), "the alerts are taken")
        found = [records.LIGHTCURVE.decode(value) for value in values(kafka, records.LIGHTCURVE_TOPIC)]
        mine = [r for r in found if r["candid"] in sent.alerts["candid"] and r["candid"] not in done]
        done.extend(r["candid"] for r in mine)
        assert len(mine) > 5
        return mine

    def alarm() -> str | None:
        model = stream.metrics.status()["models"].get(LIGHTCURVE)
        return model and model["alarm"]

    with running(spark, settings) as stream:
        made = results(parts[0])
        assert {r["version"] for r in made} == {old}
        models.register(path, LIGHTCURVE, new, tmp_path / "reversed.forest", state="current")
        made += (after := results(parts[1]))
        assert {r["version"] for r in after} == {new}

        (tmp_path / "broken").write_bytes((tmp_path / "reversed.forest").read_bytes()[:5000])
        models.register(path, LIGHTCURVE, "broken", tmp_path / "broken", state="current")
        made += (after := results(parts[2]))
        assert {r["version"] for r in after} == {new}
        wait(lambda: alarm() is not None, "the alarm")
        wait(lambda: (metrics.read(path) or {})["models"][LIGHTCURVE]["alarm"] == alarm(), "the status file has it")
        with pytest.raises(SystemExit, match="0"):
            main(["status", "--lake", path])
        shown = " ".join(capsys.readouterr().out.split())
        assert "ALARM: the current model cannot be used" in shown
        assert f"{LIGHTCURVE}: model {new}" in shown

        models.roll_back(path, LIGHTCURVE)
        wait(lambda: alarm() is None, "the end of the alarm")
        made += (after := results(parts[3]))
        assert {r["version"] for r in after} == {new}
    for version, model in known.items():
        rows = [r for r in made if r["version"] == version]
        values_of = [[r["features"][records.field_name(name)] for name in FEATURES] for r in rows]
        found = [[r["lc_classification"]["probabilities"][name] for name in LIGHTCURVE_CLASSES] for r in rows]
        expected = model.classify(np.array(values_of, float)).probabilities
        np.testing.assert_allclose(found, expected, atol=1e-6)
