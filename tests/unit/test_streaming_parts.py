"""Parts of the streaming queries that need no JVM: what is a first alert, what a message becomes, what metrics say."""

from __future__ import annotations

import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE, LIGHTCURVE_CLASSES, STAMP
from alerce_spark.config import KafkaSettings
from alerce_spark.features.names import FEATURES
from alerce_spark.kafka import records
from alerce_spark.lake.tables import TABLES
from alerce_spark.streaming import checkpoints, metrics
from alerce_spark.streaming.causes import Cause
from alerce_spark.streaming.metrics import Metrics
from alerce_spark.streaming.pieces import unpack
from alerce_spark.streaming.queries import results
from alerce_spark.streaming.queries.stamps import Seen
from alerce_spark.streaming.sink import Topics

CAME = datetime(2020, 6, 1, 3, tzinfo=UTC)


@given(st.permutations(range(1, 7)))
def test_the_earliest_alert_is_always_a_first_one(order: list[int]) -> None:
    seen = Seen(10)
    firsts = [candid for candid in order if seen.is_first("a", candid, 10.0, 20.0)]
    assert firsts == list(np.minimum.accumulate(order)[np.r_[True, np.diff(np.minimum.accumulate(order)) < 0]])
    assert firsts[-1] == 1
    # A batch that is repeated in the same worker gives its result again.
    assert seen.is_first("a", 1, 10.0, 20.0)


def test_an_object_at_two_places_has_a_first_alert_at_each() -> None:
    seen = Seen(10)
    here, there = (359.9999, 20.0), (0.01, 20.0)
    assert [seen.is_first("a", candid, *here) for candid in (2, 3, 1)] == [True, False, True]
    assert [seen.is_first("a", candid, *there) for candid in (5, 6, 4)] == [True, False, True]
    assert not seen.is_first("a", 2, 0.0001, 20.0)  # 0.7 arcsec from the first place


def test_a_worker_forgets_the_objects_it_saw_longest_ago() -> None:
    seen = Seen(2)
    for oid, candid in (("a", 1), ("b", 1), ("a", 2), ("c", 1)):
        seen.is_first(oid, candid, 10.0, 20.0)
    assert seen.is_first("b", 5, 10.0, 20.0)  # forgotten when c came
    assert not seen.is_first("c", 5, 10.0, 20.0)


def _parsed(topic: str, message: bytes, published: datetime | None) -> dict[str, pa.Table]:
    batch = pa.RecordBatch.from_pydict(
        {
            "source": pa.array([topic]),
            "partition": pa.array([3], pa.int32()),
            "offset": pa.array([70], pa.int64()),
            "packet": pa.array([message], pa.binary()),
            "received": pa.array([published], pa.timestamp("us", tz="UTC")),
        }
    )
    pieces = list(results._parser(4, "ztf")(iter([batch])))
    return {p.column("kind")[0].as_py(): unpack(p.column("data")[0]) for p in pieces}


def _light_curve_record() -> records.Record:
    probabilities = dict.fromkeys(LIGHTCURVE_CLASSES, 0.0) | {"SNIa": 0.75, "SNII": 0.25}
    return {
        "oid": "ZTF20a",
        "candid": 2**60 + 1,
        "features": {records.field_name(name): None if k % 2 else float(k) for k, name in enumerate(FEATURES)},
        "lc_classification": {
            "probabilities": probabilities,
            "class": "SNIa",
            "hierarchical": {
                "top": dict.fromkeys(BRANCHES, 0.0) | {"Transient": 1.0},
                "children": {branch: dict.fromkeys(names, 0.0) for branch, names in BRANCHES.items()},
            },
        },
        "version": "7",
        "features_version": "1.0.0",
        "ndet_used": 12,
        "nown": 3,
        "period_false_alarm": None,
        "outlier_score": 0.995,
        "outlier_version": "6",
        "novelty": -4.5,
        "survey": "ztf",
        "received": CAME,
        "mjd": 59000.25,
        "ra": 359.9999,
        "dec": 10.0,
        "ndet": 14,
        "firstmjd": 58990.0,
        "lastmjd": 59000.25,
        "meanra": 359.9999,
        "meandec": 10.0,
        "corrected": False,
        "stellar": False,
    }


def test_a_light_curve_message_becomes_a_row_of_features_and_one_of_probabilities() -> None:
    message = records.LIGHTCURVE.encode(_light_curve_record())
    found = _parsed("lc_classifier_20200601", message, CAME + timedelta(seconds=1.5))
    assert set(found) == {"features", "probabilities", "latency"}
    (features,) = found["features"].to_pylist()
    assert [features[name] for name in FEATURES] == [None if k % 2 else float(k) for k in range(len(FEATURES))]
    assert (features["oid"], features["candid"], features["version"]) == ("ZTF20a", 2**60 + 1, "1.0.0")
    (row,) = found["probabilities"].to_pylist()
    assert (row["classifier"], row["version"], row["class"], row["probability"]) == (LIGHTCURVE, "7", "SNIa", 0.75)
    assert (row["outlier_score"], row["outlier_version"], features["novelty"]) == (0.995, "6", -4.5)
    assert row["pixel"] == features["pixel"] == row["healpix29"] >> 50
    assert found["probabilities"].schema == TABLES["probabilities"].arrow
    assert found["latency"].to_pylist() == [{"classifier": LIGHTCURVE, "seconds": 1.5}]


def test_messages_of_files_have_no_latency() -> None:
    message = records.LIGHTCURVE.encode(_light_curve_record() | {"received": None})
    assert set(_parsed(records.LIGHTCURVE_TOPIC, message, None)) == {"features", "probabilities"}


def test_messages_of_a_version_without_outliers_still_count() -> None:
    later = ("outlier_score", "outlier_version", "novelty")
    schema = records.LIGHTCURVE.definition
    earlier = schema | {"fields": [f for f in schema["fields"] if f["name"] not in later]}
    message = io.BytesIO()
    fastavro.writer(message, earlier, [_light_curve_record()])
    found = _parsed("lc_classifier_20200601", message.getvalue(), None)
    assert found["features"]["novelty"].to_pylist() == [None]
    assert found["probabilities"]["outlier_score"].to_pylist() == [None]
    assert found["probabilities"]["class"].to_pylist() == ["SNIa"]


@pytest.mark.parametrize("message", [b"", b"<html>", b"Obj\x01 and so on"])
def test_what_is_not_ours_is_counted_and_kept_with_its_place(message: bytes) -> None:
    found = _parsed("stamp_classifier_20200601", message, CAME)
    assert set(found) == {"unreadable", "refused"}
    assert found["unreadable"]["topic"].to_pylist() == ["stamp_classifier_20200601"]
    (row,) = found["refused"].to_pylist()
    assert (row["source"], row["partition"], row["offset"]) == ("stamp_classifier_20200601", 3, 70)
    assert (row["stage"], row["packet"]) == ("results", message)
    assert row["sha256"] == hashlib.sha256(message).hexdigest()
    assert row["reason"] == found["unreadable"]["reason"][0].as_py()


def test_a_result_goes_to_the_topic_of_the_day_its_alert_came() -> None:
    out = Topics(None)
    late = datetime(2020, 6, 2, 1, tzinfo=UTC).astimezone()
    assert out.daily(records.STAMP_TOPIC, late) == "stamp_classifier_20200602"
    assert out.daily(records.STAMP_TOPIC, CAME) == "stamp_classifier_20200601"


def test_a_topic_that_was_deleted_is_made_again_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[str]] = []
    monkeypatch.setattr("alerce_spark.kafka.topics.create", lambda servers, names, *_, **__: made.append(list(names)))
    now = [0.0]
    out = Topics(KafkaSettings(), lambda: now[0])
    for seconds in (0.0, 30.0, 59.0, 61.0, 100.0):
        now[0] = seconds
        assert out.named("errors") == "errors"
    assert made == [["errors"], ["errors"]]


def test_a_checkpoint_says_what_was_taken_by_batches_that_are_done(tmp_path: Path) -> None:
    assert checkpoints.committed(str(tmp_path)) is None
    for batch, offset in enumerate((5, 9, 12)):
        for log, line in (("offsets", json.dumps({"t": {"0": offset, "1": 3}})), ("commits", "{}")):
            if (log, batch) != ("commits", 2):  # the third has begun
                (tmp_path / log).mkdir(exist_ok=True)
                head = "v1\n{}\n" if log == "offsets" else "v1\n"
                (tmp_path / log / str(batch)).write_text(f"{head}{line}")
    assert checkpoints.committed(f"file:{tmp_path}") == {"t": {"0": 9, "1": 3}}
    (tmp_path / "offsets" / "1").write_bytes(b"")
    assert checkpoints.committed(str(tmp_path)) is None


def _progress(batch: int, rows: int, taken: int, there: int) -> dict[str, object]:
    offsets = [json.dumps({"t": {"0": n, "1": 5}}) for n in (taken, there)]
    source = {"endOffset": offsets[0], "latestOffset": offsets[1]}
    return {"batchId": batch, "numInputRows": rows, "processedRowsPerSecond": 20.0, "sources": [source]}


def test_metrics_count_each_batch_once_and_know_what_waits(tmp_path: Path) -> None:
    told = Metrics(["stamps", "results"], str(tmp_path))
    for batch, rows, taken in ((0, 10, 15), (0, 10, 15), (1, 20, 35)):
        told.progress("stamps", _progress(batch, rows, taken, 135))
    told.failed("results", Cause("broker away", "no answer"))
    told.latency(STAMP, np.arange(101.0))
    told.write()
    found = metrics.read(str(tmp_path))
    assert found is not None
    stamps = found["queries"]["stamps"]
    assert (stamps["alerts"], stamps["lag"], stamps["lag_s"]) == (30, 100, 5.0)
    assert found["queries"]["results"]["error"] == "broker away: no answer"
    assert found["latency"][STAMP] == {"50": 50.0, "95": 95.0, "99": 99.0}
    assert metrics.read(str(tmp_path / "elsewhere")) is None


def test_metrics_are_served_to_prometheus(tmp_path: Path) -> None:
    from urllib.request import urlopen

    from alerce_spark.local_kafka import free_port

    port = free_port()
    told = Metrics(["stamps"], str(tmp_path), port)
    told.progress("stamps", _progress(0, 10, 15, 20))
    told.latency(STAMP, [0.3, 0.6])
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    assert 'alerce_alerts_total{query="stamps"} 10.0' in lines
    assert 'alerce_lag_alerts{query="stamps"} 5.0' in lines
    assert f'alerce_latency_seconds_bucket{{le="0.5",step="{STAMP}"}} 1.0' in lines


def test_a_taken_port_does_not_end_the_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from alerce_spark.local_kafka import free_port

    port = free_port()
    Metrics(["stamps"], str(tmp_path), port)
    Metrics(["stamps"], str(tmp_path), port)
    assert "stream.metrics_port" in caplog.text
