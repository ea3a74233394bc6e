"""Alert in, class out: both classifiers through a real broker, their results in the tables, each exactly once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, TopicPartition
from pyspark.sql import SparkSession

from alerce_spark import lake
from alerce_spark.alerts import stamps
from alerce_spark.alerts.avro import decode
from alerce_spark.classifiers import lightcurve, outliers
from alerce_spark.classifiers.stamp import StampModel, is_known_mover
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES, OUTLIER, STAMP, STAMP_CLASSES
from alerce_spark.config import Settings
from alerce_spark.features.io import table as features_of
from alerce_spark.features.names import FEATURES
from alerce_spark.kafka import records, topics
from alerce_spark.lake import models
from alerce_spark.lake.models import bootstrap
from alerce_spark.lease import Lease
from alerce_spark.nightly.reclassify import reclassify
from alerce_spark.simulation.defects import corrupt
from alerce_spark.simulation.night import simulate
from alerce_spark.streaming.backfill import import_alerts
from alerce_spark.streaming.queries import writers
from alerce_spark.streaming.run import Stream
from alerce_spark.surveys.ztf import ZTF

pytestmark = [pytest.mark.spark, pytest.mark.kafka]

_TOPIC = "ztf_20200701_programid1"


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    """Four weeks, so that each packet carries its object's whole history; out of order, some broken, some twice."""
    night = simulate(5, objects=30, nights=28, cadence=2, history_days=0)
    rng = np.random.default_rng(3)
    made = [night.packets[i] for i in rng.permutation(len(night.packets))]
    made[:6] = [_without_stamps(packet) for packet in made[:6]]
    bad = [corrupt(made[10], kind, rng) for kind in ("html", "truncated")]
    return [*made, *made[:20], *bad]


def _without_stamps(packet: bytes) -> bytes:
    """The packet with its first gzip header spoilt: the alert is whole, its science stamp is not."""
    at = packet.index(b"\x1f\x8b\x08")
    return packet[:at] + b"\x00\x00\x00" + packet[at + 3 :]


@pytest.fixture(scope="module")
def run(
    spark: SparkSession, kafka: str, packets: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, Callable[[], None]]:
    """A lake after the stream took everything, and a function that runs the stream again."""
    from alerce_spark.config import load

    folder = tmp_path_factory.mktemp("classified")
    topics.create(kafka, [_TOPIC], 2)
    topics.send(kafka, _TOPIC, packets)
    settings = load(
        Path(__file__).resolve().parents[2] / "conf" / "alerce.toml",
        {
            "lake": {"path": str(folder / "lake")},
            "kafka": {"bootstrap_servers": kafka, "topics": [_TOPIC]},
            "stream": {"queries": ["stamps", "lightcurves", "photometry", "results"], "restart_wait_s": 0.1},
        },
    )

    def again() -> None:
        Stream(spark, settings, until_empty=True).run()

    again()
    return settings, again


@pytest.fixture(scope="module")
def alerts(packets: list[bytes]) -> pa.Table:
    """The good alerts, each once."""
    found = decode(pa.array(packets, pa.binary()), ZTF, stamps=True).alerts
    keep = pl.Series(found["candid"]).is_first_distinct().to_list()
    return found.filter(pa.array(keep))


def _probabilities(settings: Settings, classifier: str) -> pl.DataFrame:
    found = lake.open(settings.lake.path).table("probabilities").filter(pl.col("classifier") == classifier)
    return found.sort("oid", "candid").collect()


def _values(cell: dict[str, float], names: tuple[str, ...]) -> list[float]:
    return [cell[name] for name in names]


def test_every_first_alert_has_one_stamp_class_or_one_reason(
    run: tuple[Settings, Callable[[], None]], alerts: pa.Table
) -> None:
    settings, _ = run
    first = pl.DataFrame(alerts.select(["objectId", "candid"])).group_by("objectId").agg(pl.col("candid").min())
    found = _probabilities(settings, STAMP)
    assert not found.select("oid", "candid").is_duplicated().any()
    refused = lake.open(settings.lake.path).table("quarantine").filter(stage="stamps").collect()
    reasons = decode(pa.array(refused["packet"].to_list(), pa.binary()), ZTF).alerts
    answered = set(found["candid"]) | set(reasons["candid"].to_pylist())
    assert set(first["candid"]) <= answered
    # An alert that came before its object's first may have been classified too; nothing else.
    assert answered <= set(alerts["candid"].to_pylist())
    assert not set(found["candid"]) & set(reasons["candid"].to_pylist())
    assert refused["reason"].str.contains("science").all()
    # What has no stamps keeps its photometry.
    stored = lake.open(settings.lake.path).table("detections").filter("has_stamp").select("candid").collect()
    assert set(stored["candid"]) == set(alerts["candid"].to_pylist())


def test_stamp_classes_are_those_of_the_model(run: tuple[Settings, Callable[[], None]], alerts: pa.Table) -> None:
    settings, _ = run
    shipped = bootstrap(STAMP)
    assert shipped is not None
    model = StampModel.load(shipped)
    found = _probabilities(settings, STAMP)
    mine = alerts.filter(pa.compute.is_in(alerts["candid"], pa.array(found["candid"].to_list())))
    mine = mine.sort_by([("objectId", "ascending"), ("candid", "ascending")])
    x, y = (mine[name].to_numpy() for name in ("xpos", "ypos"))
    images = stamps.decode(
        *(mine[name] for name in ("cutoutScience", "cutoutTemplate", "cutoutDifference")), xpos=x, ypos=y
    )
    expected, scores, _ = model.judge(images.images, mine)
    np.testing.assert_allclose(found["outlier_score"], scores, atol=2 / outliers.LEVELS)
    expected[is_known_mover(mine, *ZTF.mover)] = np.eye(5)[STAMP_CLASSES.index("asteroid")]
    actual = np.array([_values(cell, STAMP_CLASSES) for cell in found["probabilities"].to_list()])
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert found["version"].unique().to_list() == [model.version]
    assert [STAMP_CLASSES[k] for k in actual.argmax(axis=1)] == found["class"].to_list()
    is_flagged = found["flags"].list.contains("ephemeris").to_numpy()
    np.testing.assert_array_equal(is_flagged, is_known_mover(mine, *ZTF.mover))


def test_features_and_classes_equal_those_of_the_stored_light_curves(run: tuple[Settings, Callable[[], None]]) -> None:
    settings, _ = run
    opened = lake.open(settings.lake.path)
    detections, limits = (opened.table(name).collect().to_arrow() for name in ("detections", "non_detections"))
    expected = pl.DataFrame(features_of(detections, limits)).filter(pl.col("ndet_used") > 0).sort("oid")
    latest = pl.DataFrame(detections).filter("has_stamp").sort("mjd", "candid").unique("oid", keep="last")
    expected = expected.join(latest.select("oid", "candid"), on="oid").sort("oid")
    assert len(expected) >= 5
    found = opened.table("features").collect().join(expected.select("oid", "candid"), on=["oid", "candid"]).sort("oid")
    assert found["oid"].to_list() == expected["oid"].to_list()
    assert found["ndet_used"].to_list() == expected["ndet_used"].to_list()
    np.testing.assert_allclose(
        found.select(FEATURES).to_numpy(), expected.select(FEATURES).to_numpy(), rtol=1e-6, atol=1e-9, equal_nan=True
    )
    shipped = bootstrap(LIGHTCURVE)
    assert shipped is not None
    model = lightcurve.load(shipped)
    classes = (
        _probabilities(settings, LIGHTCURVE).join(expected.select("oid", "candid"), on=["oid", "candid"]).sort("oid")
    )
    actual = np.array([_values(cell, LIGHTCURVE_CLASSES) for cell in classes["probabilities"].to_list()])
    matrix = expected.select(FEATURES).to_numpy()
    np.testing.assert_allclose(actual, model.classify(matrix).probabilities, atol=1e-6)
    scorer = outliers.load(bootstrap(OUTLIER) or "")
    scores = scorer.score(matrix, model.classify(matrix))
    # Features differ by 1e-6 at most, so a score may cross a level.
    np.testing.assert_allclose(classes["outlier_score"], scores, atol=2 / outliers.LEVELS)
    assert set(classes["outlier_version"]) == {scorer.version}
    assert 0 < found["novelty"].count() < len(found)
    assert classes["ndet_used"].to_list() == expected["ndet_used"].to_list()


def test_import_gives_the_same_results(
    spark: SparkSession, run: tuple[Settings, Callable[[], None]], packets: list[bytes], tmp_path: Path
) -> None:
    streamed, _ = run
    (tmp_path / "alerts").mkdir()
    for k, packet in enumerate(packets):
        (tmp_path / "alerts" / f"{k:05d}.avro").write_bytes(packet)
    settings = streamed.model_copy(update={"lake": streamed.lake.model_copy(update={"path": str(tmp_path / "lake")})})
    import_alerts(spark, settings, [tmp_path / "alerts"])
    imported = lake.open(settings.lake.path).table("features").sort("oid").collect()
    assert len(imported) >= 5
    found = lake.open(streamed.lake.path).table("features").collect()
    found = found.join(imported.select("oid", "candid"), on=["oid", "candid"]).sort("oid")
    # What the stream knew by copies only, integrity would send again.
    apart = ("mjd", "nown", *FEATURES)
    assert found.drop(apart).equals(imported.drop(apart))
    values = (frame.select(FEATURES).to_numpy() for frame in (found, imported))
    np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12, equal_nan=True)
    for classifier in (STAMP, LIGHTCURVE):
        mine = _probabilities(settings, classifier)
        theirs = _probabilities(streamed, classifier).join(mine.select("oid", "candid"), on=["oid", "candid"])
        theirs = theirs.sort("oid", "candid")
        assert mine["class"].to_list() == theirs["class"].to_list()
        assert mine["version"].to_list() == theirs["version"].to_list()
        np.testing.assert_allclose(mine["probability"], theirs["probability"], atol=1e-6)


def test_messages_say_what_the_tables_say(run: tuple[Settings, Callable[[], None]]) -> None:
    settings, _ = run
    published = [
        records.STAMP.decode(value) for value in _messages(settings.kafka.bootstrap_servers, records.STAMP_TOPIC)
    ]
    stored = _probabilities(settings, STAMP)
    assert {(r["objectId"], r["candid"]) for r in published} == set(stored.select("oid", "candid").iter_rows())
    curves = [
        records.LIGHTCURVE.decode(value)
        for value in _messages(settings.kafka.bootstrap_servers, records.LIGHTCURVE_TOPIC)
    ]
    objects = lake.open(settings.lake.path).table("objects").select("oid", "ndet", "meanra", "lastmjd").collect()
    ndet = dict(objects.select("oid", "ndet").iter_rows())
    best = {r["oid"]: r for r in sorted(curves, key=lambda r: (r["mjd"], r["ndet"]))}
    assert best
    for oid, record in best.items():
        assert record["ndet"] == ndet[oid]
        assert sum(record["lc_classification"]["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)


def _messages(servers: str, name: str) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "enable.auto.commit": False})
    found: list[bytes] = []
    try:
        listed = consumer.list_topics(timeout=20).topics
        for topic in [t for t in listed if t.startswith(f"{name}_")]:
            for partition in listed[topic].partitions:
                _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
                consumer.assign([TopicPartition(topic, partition, 0)])
                for _ in range(end):
                    message = consumer.poll(20)
                    assert message is not None
                    assert not message.error()
                    value = message.value()
                    assert value is not None
                    found.append(value)
    finally:
        consumer.close()
    return found


def test_a_replay_changes_nothing(run: tuple[Settings, Callable[[], None]]) -> None:
    settings, again = run
    opened = lake.open(settings.lake.path)
    keys = {"probabilities": ["oid", "classifier", "version", "candid"], "features": ["oid", "candid", "version"]}
    before = {name: opened.table(name).sort(key).collect() for name, key in keys.items()}
    for name in ("stamps", "lightcurves", "results"):
        shutil.rmtree(Path(settings.checkpoints) / name)
    again()
    for name, key in keys.items():
        after = opened.table(name).sort(key).collect()
        assert not after.select(key).is_duplicated().any()
        # A replay meets the whole history at once: rows of earlier alerts need not come again, none goes.
        assert after.select(key).rows() == before[name].select(key).rows()


def test_a_promoted_model_classifies_new_alerts_and_quiet_objects(
    spark: SparkSession, run: tuple[Settings, Callable[[], None]], packets: list[bytes], tmp_path: Path
) -> None:
    settings, again = run
    path = settings.lake.path
    objects = lake.open(path).table("features").select(pl.col("oid").n_unique()).collect().item()

    def promote(version: str) -> None:
        shipped = bootstrap(LIGHTCURVE)
        assert shipped is not None
        model = lightcurve.load(shipped)
        model.version = version
        model.save(tmp_path / "lc_classifier.forest")
        scorer = outliers.load(bootstrap(OUTLIER) or "")
        scorer.training = {outliers.CLASSIFIER_KEY: version}
        scorer.save(tmp_path / "outlier.gaussians")
        models.register(path, OUTLIER, version, tmp_path / "outlier.gaussians")
        models.register(path, LIGHTCURVE, version, tmp_path / "lc_classifier.forest", state="current")

    def objects_of(version: str) -> int:
        found = _probabilities(settings, LIGHTCURVE).filter(pl.col("version") == version)
        assert not found.select("oid", "candid").is_duplicated().any()
        assert (found["outlier_version"] == version).all()
        assert found["outlier_score"].is_between(0, 1).all()
        return found["oid"].n_unique()

    promote("second")
    assert reclassify(spark, settings) == (objects, "second", False)
    assert objects_of("second") == objects
    assert reclassify(spark, settings) == (0, "second", False)

    # Beside a running stream, which holds the lake, they go through it.
    promote("third")
    with Lease(path, "a stream", 60.0, writers()):
        assert reclassify(spark, settings) == (objects, "third", True)
    assert objects_of("third") == 0
    again()
    assert objects_of("third") == objects

    # Workers of the stream follow without a restart of theirs.
    promote("fourth")
    topics.send(settings.kafka.bootstrap_servers, _TOPIC, packets)
    again()
    assert objects_of("fourth") == objects
