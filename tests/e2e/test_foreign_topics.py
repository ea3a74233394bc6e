"""Foreign messages between good ones through Kafka and Spark; and messages that were taken back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from alerce_spark import lake
from alerce_spark.config import Settings
from alerce_spark.kafka import records, topics
from alerce_spark.nightly import packets
from alerce_spark.streaming.run import Stream
from tests.unit.foreign_messages import TOPIC, curve, error, messages, stamp

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]


def test_foreign_messages_and_those_that_were_taken_back(
    spark: SparkSession, kafka: str, settings_for: Callable[..., Settings]
) -> None:
    topics.create(kafka, [*TOPIC.values(), "ztf_20200601_programid1"], 2)
    good = {k: records.STAMP.encode(stamp() | {"objectId": f"ZTF{k}", "candid": k + 1}) for k in range(40)}
    foreign = [(TOPIC[kind], message) for _, kind, message in messages()]
    large = records.ERROR.encode(
        error() | {"packet": bytes(5 << 20), "sha256": hashlib.sha256(bytes(5 << 20)).hexdigest()}
    )
    plain = Producer({"bootstrap.servers": kafka, "message.max.bytes": 64 << 20})
    for k, message in good.items():
        plain.produce(TOPIC["stamp"], message)
        if k == 20:
            for topic, other in foreign:
                plain.produce(topic, other)
    plain.produce(TOPIC["error"], large)
    assert plain.flush(60) == 0
    taken_back = Producer({"bootstrap.servers": kafka, "transactional.id": "gone"})
    taken_back.init_transactions()
    taken_back.begin_transaction()
    taken_back.produce(TOPIC["curve"], records.LIGHTCURVE.encode(curve() | {"oid": "ZTFgone"}))
    taken_back.produce("ztf_20200601_programid1", b"gone")
    taken_back.flush(60)
    taken_back.abort_transaction()

    settings = settings_for(kafka={"bootstrap_servers": kafka}, stream={"queries": ["results"]})
    stream = Stream(spark, settings, until_empty=True, attempts=1)
    stream.run()

    opened = lake.open(settings.lake.path)
    found = opened.table("probabilities").select("oid").collect()["oid"]
    assert sorted(found) == sorted(f"ZTF{k}" for k in good)
    refused = opened.table("quarantine").collect()
    of_results = refused.filter(stage="results")
    assert set(of_results["packet"]) == {message for _, message in foreign}
    assert of_results["partition"].null_count() == of_results["offset"].null_count() == 0
    assert set(refused.filter(stage="stamps")["packet"]) == {bytes(5 << 20)}
    assert packets.read(spark, settings.kafka, "ztf", "20200601").is_empty()
    heard = topics.consumer(kafka, "test")
    heard.subscribe([TOPIC["curve"]])
    values = []
    while (message := heard.poll(6.0)) is not None:
        values.append(message.value())
    heard.close()
    assert set(values) == {message for topic, message in foreign if topic == TOPIC["curve"]}
