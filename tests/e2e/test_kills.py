"""SIGKILL at random moments: afterwards every alert is exactly once wherever it belongs, as if nothing had happened."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from alerce_spark.config import Settings, load
from alerce_spark.kafka import topics
from alerce_spark.nightly.integrity import check
from alerce_spark.streaming.backfill import import_alerts
from tests.e2e.undisturbed import (
    Application,
    Sent,
    assert_everything_once,
    assert_published,
    assert_same_tables,
    survey,
    tables,
)

pytestmark = [pytest.mark.spark, pytest.mark.kafka]

NIGHT = "20200604"


@dataclass(frozen=True)
class Form:
    """How long a form of the test is: alerts of how many objects, kills, and within how long they come [s]."""

    name: str
    alerts: int
    objects: int
    kills: int
    span_s: float


SHORT = Form("short", 1000, 120, 2, 6.0)
LONG = Form("long", 20_000, 2300, 50, 12.0)
FORMS = [
    pytest.param(SHORT, id=SHORT.name),
    pytest.param(LONG, id=LONG.name, marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
]


def _settings(folder: Path, servers: str, topic: str) -> Settings:
    rhythm = {f"{query}_interval_s": 1.0 for query in ("photometry", "archive", "results")}
    limits = {"photometry_min_alerts": 200, "photometry_max_alerts": 1000, "archive_max_alerts": 1000}
    return load(
        Path(__file__).resolve().parents[2] / "conf" / "alerce.toml",
        {
            "lake": {"path": str(folder / "lake"), "lease_timeout_s": 2.0},
            "archive": {"url": f"file:{folder / 'archive'}"},
            "kafka": {"bootstrap_servers": servers, "topics": [topic], "partitions": 2},
            "stream": {**rhythm, **limits, "results_max_messages": 2000, "restart_wait_s": 0.5},
        },
    )


def imported(spark: SparkSession, settings: Settings, sent: Sent, folder: Path) -> Settings:
    """The lake of a batch import of the same packets, which nothing disturbs."""
    settings = settings.model_copy(
        update={"lake": settings.lake.model_copy(update={"path": str(folder / "undisturbed")})}
    )
    (folder / "alerts").mkdir()
    for k, packet in enumerate([*sent.packets, *sent.bad]):
        (folder / "alerts" / f"{k:06d}.avro").write_bytes(packet)
    import_alerts(spark, settings, [folder / "alerts"])
    return settings


@pytest.mark.parametrize("form", FORMS)
def test_killed_at_random_moments(form: Form, spark: SparkSession, kafka: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(form.kills)
    sent = survey(41, form.alerts, objects=form.objects, nights=16, cadence=1, bad=8)
    topic = f"ztf_{NIGHT}_kills_{form.name}"
    settings = _settings(tmp_path, kafka, topic)
    undisturbed = tables(imported(spark, settings, sent, tmp_path).lake.path)

    topics.create(kafka, [topic], 2)
    application = Application(settings, tmp_path / "application")
    messages = np.array_split(np.array(sent.messages(rng), object), form.kills + 1)
    try:
        for part in messages[:-1]:
            topics.send(kafka, topic, part.tolist())
            application.start()
            if rng.random() < 0.9:
                application.wait_until_it_runs()
            time.sleep(rng.uniform(0, form.span_s))
            application.kill(str(rng.choice(["all", "all", "driver", "jvm"])))
        topics.send(kafka, topic, messages[-1].tolist())
        application.start()
        application.wait_until_it_runs()
        proof = check(spark, settings, NIGHT, wait_s=120, progress=print)
        assert proof.ok, (proof.broken, proof.rounds[-1].examples, proof.notes)
        application.stop()
    finally:
        application.end()
    assert_everything_once(settings, sent)
    assert_published(kafka, sent)
    assert_same_tables(tables(settings.lake.path), undisturbed)
