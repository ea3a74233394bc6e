"""SIGKILL at random moments: afterwards every alert is exactly once wherever it belongs, as if nothing had happened."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from alerce_spark import local_kafka
from alerce_spark.kafka import topics
from alerce_spark.nightly.integrity import check
from tests.e2e.undisturbed import (
    Application,
    assert_everything_once,
    assert_published,
    assert_same_tables,
    imported,
    settings_of,
    survey,
    tables,
    wait_until_stored,
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


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[str]:
    """A broker of this test alone: on output topics that others share, results would be of their alerts too."""
    yield local_kafka.start(f"127.0.0.1:{local_kafka.free_port()}", tmp_path / "kafka").bootstrap_servers
    local_kafka.stop(tmp_path / "kafka")


@pytest.mark.parametrize("form", FORMS)
def test_killed_at_random_moments(form: Form, spark: SparkSession, servers: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(form.kills)
    sent = survey(41, form.alerts, objects=form.objects, nights=16, cadence=1, bad=8)
    topic = f"ztf_{NIGHT}_kills_{form.name}"
    settings = settings_of(tmp_path, servers, topic)
    undisturbed = imported(spark, settings, sent, tmp_path / "undisturbed")

    topics.create(servers, [topic], 2)
    application = Application(settings, tmp_path / "application")
    messages = np.array_split(np.array(sent.messages(rng), object), form.kills + 1)
    try:
        for part in messages[:-1]:
            topics.send(servers, topic, part.tolist())
            application.start()
            if rng.random() < 0.9:
                application.wait_until_it_runs()
            time.sleep(rng.uniform(0, form.span_s))
            application.kill(str(rng.choice(["all", "all", "driver", "jvm"])))
        topics.send(servers, topic, messages[-1].tolist())
        application.start()
        wait_until_stored(settings, sent)
        proof = check(spark, settings, NIGHT, wait_s=180)
        assert proof.ok, (proof.broken, proof.rounds[-1].examples, proof.notes)
        application.stop()
    finally:
        application.end()
    assert_everything_once(settings, sent)
    assert_published(servers, sent)
    assert_same_tables(tables(settings.lake.path), undisturbed)
