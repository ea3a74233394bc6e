"""A broker that asks for a password: Spark, the admin client and the producer reach it with the same options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from pyspark.sql import SparkSession

from alerce_spark import local_kafka
from alerce_spark.config import KafkaSettings
from alerce_spark.kafka import topics
from alerce_spark.nightly import packets

pytestmark = [pytest.mark.spark, pytest.mark.kafka]

_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_LISTENER = f'{_MODULE} username="broker" password="inner" user_broker="inner" user_alerce="it\'s;secret";'


def _options(password: str) -> dict[str, str]:
    return {
        "kafka.security.protocol": "SASL_PLAINTEXT",
        "kafka.sasl.mechanism": "PLAIN",
        "kafka.sasl.jaas.config": f'{_MODULE} username="alerce" password="{password}";',
    }


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a broker that lets in who knows the password."""
    plain = local_kafka._properties

    def guarded(host: str, port: int, controller: int, data: Path) -> str:
        text = plain(host, port, controller, data).replace("PLAINTEXT", "SASL_PLAINTEXT")
        text = text.replace("CONTROLLER:SASL_PLAINTEXT", "CONTROLLER:PLAINTEXT")
        text += "sasl.enabled.mechanisms=PLAIN\nsasl.mechanism.inter.broker.protocol=PLAIN\n"
        return f"{text}listener.name.sasl_plaintext.plain.sasl.jaas.config={_LISTENER}\n"

    folder = tmp_path_factory.mktemp("guarded")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(local_kafka, "_properties", guarded)
        running = local_kafka.start(f"127.0.0.1:{local_kafka.free_port()}", folder)
    yield running.bootstrap_servers
    local_kafka.stop(folder)


def test_one_set_of_options_serves_spark_and_us(spark: SparkSession, broker: str) -> None:
    kafka = KafkaSettings(bootstrap_servers=broker, options=_options("it's;secret"), topics=["night_[0-9]+"])
    assert topics.create(broker, ["night_20200601"], 2, options=kafka.revealed) == ["night_20200601"]
    assert topics.create(broker, ["night_20200601"], 2, options=kafka.revealed) == []
    assert topics.send(broker, "night_20200601", [b"no packet", b"nor this"], options=kafka.revealed) == 2
    assert packets.topics_of(spark, kafka, "20200601").whole == ["night_20200601"]
    assert packets.read(spark, kafka, "ztf", "20200601")["sha256"].n_unique() == 2


def test_a_wrong_password_is_said(broker: str) -> None:
    with pytest.raises(KafkaException, match="uthentication failed"):
        topics.create(broker, ["night_20200602"], 1, options=_options("guessed"))
