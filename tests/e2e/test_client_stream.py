"""The client's reader of topics against a broker: what is there, what comes, and what is no record."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice

import pytest
from confluent_kafka import Producer

from alerce_spark.client import ClientError, stream
from alerce_spark.client.stream import messages
from alerce_spark.errors import InputError
from alerce_spark.kafka import local, records, topics
from tests.unit.foreign_messages import curve, stamp

pytestmark = pytest.mark.kafka


def curves(numbers: Iterable[int], survey: str = "ztf") -> list[bytes]:
    return [records.LIGHTCURVE.encode(curve() | {"oid": f"ZTF{k}", "candid": k, "survey": survey}) for k in numbers]


def candids(found: Iterable[stream.Received]) -> list[int]:
    return sorted(one.record["candid"] for one in found)


@pytest.fixture(scope="module")
def filled(kafka: str) -> str:
    """Brokers with two nights of curves, one of stamps, and what an aborted transaction left."""
    topics.create(kafka, ["lc_classifier_20261201", "lc_classifier_20261202", "stamp_classifier_20261201"], 3)
    topics.send(kafka, "lc_classifier_20261201", curves(range(20)))
    topics.send(kafka, "lc_classifier_20261202", [*curves(range(20, 30)), b"foreign", *curves([30], "lsst")])
    topics.send(kafka, "stamp_classifier_20261201", [records.STAMP.encode(stamp() | {"candid": 7})])
    lost = Producer({"bootstrap.servers": kafka, "transactional.id": "gone"})
    lost.init_transactions()
    lost.begin_transaction()
    for message in curves(range(100, 110)):
        lost.produce("lc_classifier_20261201", message)
    lost.flush(60)
    lost.abort_transaction()
    return kafka


def test_by_name_night_and_survey_to_the_end(filled: str, caplog: pytest.LogCaptureFixture) -> None:
    assert candids(messages(filled, night="20261201")) == list(range(20))
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        found = list(messages(filled))
    assert candids(found) == list(range(31))
    (told,) = caplog.messages
    assert "lc_classifier_20261202" in told
    assert "cannot be read" in told
    assert {one.topic for one in found} == {"lc_classifier_20261201", "lc_classifier_20261202"}
    assert all(one.record["oid"] == f"ZTF{one.record['candid']}" and one.timestamp > 0 for one in found)
    assert candids(messages(filled, survey="lsst")) == [30]
    assert candids(messages(filled, "stamp_classifier")) == [7]
    assert candids(messages(filled, night="19990101")) == []


def test_a_group_goes_on_where_it_was(filled: str) -> None:
    reading = messages(filled, night="20261201", group="mine")
    first = candids(islice(reading, 8))
    # The eighth was handed out, but nobody asked for the next one: it counts as not read.
    reading.close()
    rest = candids(messages(filled, night="20261201", group="mine"))
    assert sorted({*first, *rest}) == list(range(20))
    assert len(rest) == 13
    assert candids(messages(filled, night="20261201", group="mine")) == []
    assert candids(messages(filled, night="20261201", group="mine", beginning=True)) == list(range(20))
    assert candids(messages(filled, night="20261201", group="other")) == list(range(20))


def test_follows_what_comes_and_new_nights(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_LOOK_S", 0.2)
    reading: Iterator[stream.Received] = messages(filled, "stamp_classifier", follow=True)
    assert next(reading).record["candid"] == 7
    topics.send(filled, "stamp_classifier_20261201", [records.STAMP.encode(stamp() | {"candid": 8})])
    assert next(reading).record["candid"] == 8
    topics.create(filled, ["stamp_classifier_20261203"], 1)
    topics.send(filled, "stamp_classifier_20261203", [records.STAMP.encode(stamp() | {"candid": 9})])
    assert next(reading).record["candid"] == 9
    reading.close()


def test_refusals(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_WAIT_S", 0.5)
    for arguments, word in ((("nobody",), "there are no topics"), (("alerce_errors", "20261201"), "night")):
        name, night = (*arguments, None)[:2]
        with pytest.raises(InputError, match=word):
            next(messages(filled, name, night=night))
    with pytest.raises(InputError, match="night"):
        next(messages(filled, night="2026-12-01"))
    with pytest.raises(ClientError, match="no answer"):
        next(messages(f"127.0.0.1:{local.free_port()}"))
