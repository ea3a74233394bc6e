"""The nightly proof through a real broker: what is hidden from the lake is found, named, and back after a round."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from confluent_kafka import Producer
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from alerce_spark import lake
from alerce_spark.config import Settings
from alerce_spark.errors import InputError, LakeError
from alerce_spark.kafka import topics
from alerce_spark.lake import lookup, write
from alerce_spark.lake.handles import table_path
from alerce_spark.lake.tables import TABLES
from alerce_spark.nightly import packets as night_packets
from alerce_spark.nightly.integrity import Integrity, check
from alerce_spark.simulation.defects import corrupt
from alerce_spark.simulation.night import Traits, simulate
from alerce_spark.streaming.run import Stream
from tests.lakes import assert_complete, assert_keys_unique, assert_same, records, snapshot

pytestmark = [pytest.mark.spark, pytest.mark.kafka]
NIGHT = "20200531"
TOPIC, NEXT = f"ztf_{NIGHT}_integrity", "ztf_20200601_integrity"
#: Packets that are on the topic before the stream begins with the latest.
HIDDEN = 40


@pytest.fixture(scope="module")
def packets(kafka: str) -> list[bytes]:
    """A night with repeated, unordered and broken packets, some without stamps; the next night is not its business."""
    options = {"nights": 4, "cadence": 1, "version": ("3.3", "4.02"), "traits": Traits.like_ztf()}
    night = simulate(71, objects=16, **options).packets[:70]
    rng = np.random.default_rng(3)
    bad = [corrupt(night[0], kind, rng) for kind in ("html", "truncated")]
    mixed = [*night, *night[:10], *simulate(72, objects=4, stamps=False, **options).packets[:12], *bad]
    topics.create(kafka, [TOPIC, NEXT], 2)
    topics.send(kafka, NEXT, simulate(73, objects=3, stamps=False).packets)
    return [mixed[i] for i in rng.permutation(len(mixed))]


def _settings(folder: Path, kafka: str, **stream: object) -> Settings:
    from alerce_spark.config import load

    conf = Path(__file__).resolve().parents[2] / "conf" / "alerce.toml"
    rhythm = {query: {"interval_s": 1.0} for query in ("archive", "results")}
    rhythm["photometry"] = {"interval_s": 1.0, "min_messages": 500}
    return load(
        conf,
        {
            "lake": {"path": str(folder / "lake"), "lease_timeout_s": 3.0},
            "archive": {"url": f"file:{folder / 'archive'}"},
            "kafka": {"bootstrap_servers": kafka, "topics": [TOPIC], "partitions": 1},
            "stream": {**rhythm, "restart_wait_s": 0.2, **stream},
        },
    )


@contextmanager
def running(spark: SparkSession, settings: Settings) -> Iterator[None]:
    """A stream beside the test."""
    stream = Stream(spark, settings)
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        yield
    finally:
        stream.stop()
        thread.join(timeout=120)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def mended(
    spark: SparkSession, kafka: str, packets: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Integrity]:
    """Folder with lake and repository of a stream that began in mid-night, and the job that ran beside it."""
    folder = tmp_path_factory.mktemp("night")
    settings = _settings(folder, kafka, starting_offsets="latest")
    topics.send(kafka, TOPIC, packets[:HIDDEN])
    with running(spark, settings):
        for query in ("archive", "stamps", "lightcurves", "photometry"):
            _wait((folder / f"lake/_checkpoints/{query}/sources/0/0").exists)
        topics.send(kafka, TOPIC, packets[HIDDEN:])
        return folder, check(spark, settings, NIGHT, wait_s=180)


@pytest.fixture
def settings(mended: tuple[Path, Integrity], kafka: str, tmp_path: Path) -> Settings:
    """A copy of the night, checkpoints too."""
    for part in ("lake", "archive"):
        shutil.copytree(mended[0] / part, tmp_path / part)
    return _settings(tmp_path, kafka)


def _sql(spark: SparkSession, settings: Settings, statement: str) -> None:
    table = statement.partition("{")[2].partition("}")[0]
    spark.sql(statement.replace(f"{{{table}}}", f"delta.`{table_path(settings.lake.path, table)}`"))


def _alerts(packets: list[bytes]) -> pl.DataFrame:
    """Distinct alerts as fastavro reads them: oid, candid."""
    pairs = {(record["objectId"], record["candid"]) for record in records(packets)}
    return pl.DataFrame(sorted(pairs), schema=["oid", "candid"], orient="row")


def _tables(path: str) -> dict[str, pl.DataFrame]:
    """Tables that `photometry` writes; which later alerts were tried for a stamp class depends on arrival."""
    tables = snapshot(path)
    return tables | {"quarantine": tables["quarantine"].filter(stage="photometry")}


def _results(path: str, oids: list[str]) -> dict[str, pl.DataFrame]:
    """Features and classes at the latest alert of each object, stamp classes at the first; others depend on arrival."""
    opened = lake.open(path)
    own = opened.table("detections", oid=oids).filter("has_stamp").select("oid", "candid", "mjd").collect()
    latest = own.sort("mjd", "candid").unique("oid", keep="last").select("oid", "candid")
    first = own.group_by("oid").agg(pl.col("candid").min())
    features, classes = (opened.table(name).collect() for name in ("features", "probabilities"))
    of_stamps = classes["classifier"] == "stamp_classifier"
    ends = [classes.filter(~of_stamps).join(latest, ["oid", "candid"], "semi")]
    ends.append(classes.filter(of_stamps).join(first, ["oid", "candid"], "semi"))
    found = {"features": features.join(latest, ["oid", "candid"], "semi"), "probabilities": pl.concat(ends)}
    return {name: rows.sort(TABLES[name].key) for name, rows in found.items()}


def _add_results(path: str, oid: str) -> None:
    """Features and a class of other objects' at the latest alert of this one, as if more of it had counted before."""
    own = lake.open(path).table("detections", oid=[oid]).filter("has_stamp").sort("mjd", "candid").collect()
    row = own.with_columns(nown=pl.len().cast(pl.Int32)).tail(1)
    for name in ("features", "probabilities"):
        table = lake.open(path).table(name).collect()
        of = table.filter(classifier="lc_classifier") if name == "probabilities" else table
        here = [row[column].alias(column) for column in ("oid", "candid", "nown", "healpix29", "pixel")]
        rows = of.head(1).with_columns(here).to_arrow().select(TABLES[name].names).cast(TABLES[name].arrow)
        version = lookup.versions(path, [name])[name]
        write.commit(path, name, version, write.append(path, name, rows))


def test_packets_that_a_stream_never_saw(mended: tuple[Path, Integrity], packets: list[bytes]) -> None:
    folder, done = mended
    assert done.ok, (done.broken, done.notes)
    assert done.rounds[0].missing >= len(set(packets[:HIDDEN]) - set(packets[HIDDEN:]))
    assert done.rounds[0].resent >= done.rounds[0].missing
    tables = snapshot(str(folder / "lake"))
    assert_keys_unique(tables)
    refused = set(tables["quarantine"].filter(stage="photometry")["packet"].to_list())
    assert len(refused) == 2
    assert_complete(tables, records(p for p in packets if p not in refused))
    stored = {path.read_bytes() for path in (folder / "archive" / "ztf").rglob("*") if path.is_file()}
    assert stored == set(packets)
    # Packets without stamps are excused by a recorded reason, the others have a class.
    oids = _alerts(packets)["oid"].unique().to_list()
    assert len(_results(str(folder / "lake"), oids)["features"]) > 0
    assert not tables["quarantine"].filter(stage="stamps").is_empty()


def test_a_night_that_is_right_is_proven(
    spark: SparkSession, settings: Settings, mended: tuple[Path, Integrity], packets: list[bytes], tmp_path: Path
) -> None:
    done = check(spark, settings, NIGHT)
    assert done.ok, done.broken
    assert not done.broken
    assert not done.notes
    before = len(mended[1].rounds)
    assert [(r.number, r.expected, r.missing, r.resent) for r in done.rounds] == [(before + 1, len(set(packets)), 0, 0)]
    stored = lake.open(settings.lake.path).table("nightly_reports").sort("round").collect()
    assert stored.select("night", "round", "expected", "missing", "resent").rows() == [
        (NIGHT, r.number, r.expected, r.missing, r.resent) for r in (*mended[1].rounds, *done.rounds)
    ]
    assert stored["broken"][0] == {name: float(count) for name, count in mended[1].rounds[0].broken.items()}
    done.report(tmp_path / "report.html")
    assert "everything is there and right" in (tmp_path / "report.html").read_text()


def test_what_is_hidden_is_found_and_comes_back(
    spark: SparkSession, settings: Settings, mended: tuple[Path, Integrity], packets: list[bytes]
) -> None:
    alerts = _alerts(packets)
    oids = alerts.group_by("oid", maintain_order=True).len().filter(pl.col("len") > 1)["oid"].to_list()
    undisturbed = str(mended[0] / "lake")
    results = _results(undisturbed, alerts["oid"].unique().to_list())
    dull, classed = results["features"]["oid"].unique(maintain_order=True).to_list()[:2]
    stamped = results["probabilities"].filter(classifier="stamp_classifier")["oid"][0]
    few = alerts.filter(~pl.col("oid").is_in([*results["features"]["oid"], stamped]))["oid"].min()
    lost, bare, counted, shifted, gone = [oid for oid in oids if oid not in (dull, classed, stamped, few)][:5]
    candid = alerts.filter(oid=lost)["candid"][-1]
    for statement in (
        f"DELETE FROM {{detections}} WHERE oid = '{lost}' AND candid = {candid}",
        f"DELETE FROM {{objects}} WHERE oid = '{bare}'",
        f"UPDATE {{objects}} SET ndet = ndet + 3 WHERE oid = '{counted}'",
        f"UPDATE {{magstats}} SET firstmjd = firstmjd + 1e-3 WHERE oid = '{shifted}'",
        f"UPDATE {{features}} SET ndet_used = ndet_used - 1 WHERE oid = '{dull}'",
        f"DELETE FROM {{probabilities}} WHERE oid = '{classed}' AND classifier = 'lc_classifier'",
        f"DELETE FROM {{probabilities}} WHERE oid = '{stamped}' AND classifier = 'stamp_classifier'",
        "DELETE FROM {quarantine} WHERE stage = 'photometry'",
        *(f"DELETE FROM {{{name}}} WHERE oid = '{gone}'" for name, table in TABLES.items() if table.on_sky),
    ):
        _sql(spark, settings, statement)
    _add_results(settings.lake.path, few)
    archive = Path(settings.archive.url.removeprefix("file:"))
    files = sorted(archive.rglob("*.avro"))[:3] + sorted((archive / "ztf" / "unreadable").iterdir())[:1]
    kept = {file: file.read_bytes() for file in files}
    for file in files:
        file.unlink()

    found = check(spark, settings, NIGHT, rounds=0)
    assert not found.ok
    of_gone, refused = len(alerts.filter(oid=gone)), len(set(packets)) - len(alerts)
    assert found.rounds[0].missing == 1 + of_gone + refused
    assert found.broken["archive"] == 4
    examples = found.rounds[0].examples
    # The lost alert is missed by its object and in its band.
    assert [key.split()[0] for key in examples["ndet"]] == sorted([lost, lost, bare, counted])
    assert set(examples["statistics"]) >= {counted, shifted}
    assert dull in examples["features"][0] + examples["features"][-1]
    assert any(key.startswith(classed) for key in examples["lightcurve_class"])
    assert any(key.startswith(stamped) for key in examples["stamp_class"])
    assert [key.split()[0] for key in examples["too_few"]] == [few]

    alone = check(spark, settings, NIGHT, rounds=2, wait_s=1)
    assert not alone.ok
    assert "does it run?" in alone.notes[0]
    assert len(alone.rounds) == 1

    with running(spark, settings):
        done = check(spark, settings, NIGHT, wait_s=180)
    assert done.ok, (done.broken, done.notes)
    assert done.rounds[0].resent > 0
    assert done.rounds[-1].resent == 0
    assert_same(_tables(settings.lake.path), _tables(undisturbed))
    # The values of features depend on which copies of an object's alerts were at hand; their number must not.
    for name, rows in _results(settings.lake.path, alerts["oid"].unique().to_list()).items():
        counted_by = [*TABLES[name].key, "ndet_used"]
        assert_frame_equal(rows.select(counted_by), results[name].select(counted_by))
    assert {file: file.read_bytes() for file in files} == kept


def test_keys_that_are_twice_are_found_and_not_mended(spark: SparkSession, settings: Settings) -> None:
    tables = {
        name: spark.read.format("delta").load(table_path(settings.lake.path, name))
        for name in ("objects", "detections", "non_detections", "quarantine")
    }
    tables["non_detections"] = tables["non_detections"].selectExpr("* EXCEPT (mjd)", "mjd + 1e-7 AS mjd")
    for name, table in tables.items():
        some = table.limit(1).toArrow()
        spark.createDataFrame(some).write.format("delta").mode("append").save(table_path(settings.lake.path, name))
    done = check(spark, settings, NIGHT, wait_s=0)
    assert done.broken == {f"twice:{name}": 1 for name in tables}
    assert [r.resent for r in done.rounds] == [0]


def test_a_lake_and_a_night_must_be_there(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2020-05-31"):
        check(spark, settings, "2020-05-31")
    with pytest.raises(LakeError, match="no table objects"):
        check(spark, _settings(tmp_path / "nowhere", settings.kafka.bootstrap_servers), NIGHT)
    with pytest.raises(InputError, match="nothing was proven"):
        check(spark, settings, "20200602")
    reports = lake.open(settings.lake.path).table("nightly_reports").filter(pl.col("night") == "20200602")
    assert reports.collect().is_empty()


def test_topics_without_a_date_are_cut_by_the_time_of_their_messages(
    spark: SparkSession, kafka: str, packets: list[bytes]
) -> None:
    topics.create(kafka, ["integrity_alerts"], 3)
    producer = Producer({"bootstrap.servers": kafka})
    midnight = datetime(2020, 5, 31, tzinfo=UTC).timestamp()
    for i, second in enumerate((-1, 0, 86399, 86400)):
        producer.produce("integrity_alerts", packets[i], partition=i % 3, timestamp=int((midnight + second) * 1000))
    producer.produce("integrity_alerts", None, partition=2, timestamp=int((midnight + 7) * 1000))
    producer.flush()
    alerts = _settings(Path("unused"), kafka).kafka.model_copy(update={"topics": ["integrity_alert[st]"]})
    found = night_packets.read(spark, alerts, "ztf", NIGHT).sort("partition", "offset")
    assert found.select("partition", "offset").rows() == [(1, 0), (2, 0), (2, 1)]
    assert found["sha256"].to_list() == [sha256(p).hexdigest() for p in (packets[1], packets[2], b"")]
    assert night_packets.read(spark, alerts, "ztf", "20200530").select("partition", "offset").rows() == [(0, 0)]
    assert night_packets.read(spark, alerts, "ztf", "20200529").is_empty()


def _wait(condition: Callable[[], bool], limit: float = 240) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
