"""Spark's names of Kafka's security in the words of librdkafka; what has none is an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from alerce_spark.config import KafkaSettings, StreamSettings
from alerce_spark.errors import InputError
from alerce_spark.kafka import records, topics
from alerce_spark.kafka.options import Configuration, client_options
from alerce_spark.nightly import packets
from alerce_spark.streaming import sink, source
from tests.unit.foreign_messages import error

_BARE = {"bootstrap.servers": "b:9092", "log_level": 0}
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


def _translated(**options: str) -> Configuration:
    """`options` with dots written as double underscores, and without the `kafka.` before them."""
    return client_options("b:9092", {f"kafka.{k.replace('__', '.')}": v for k, v in options.items()})


def test_what_is_not_security_is_for_spark_alone() -> None:
    options = {"minPartitions": "8", "kafka.fetch.max.bytes": "1", "kafka.metadata.max.age.ms": "1"}
    assert client_options("b:9092", options) == _BARE


@pytest.mark.parametrize(
    ("jaas", "user", "password"),
    [
        (f'{_PLAIN} required username="alerce" password="s3cret";', "alerce", "s3cret"),
        (f"  {_PLAIN}   required\n username='a b'\n password='it;s=x' ; ", "a b", "it;s=x"),
        (f'{_PLAIN} required password="quo\\"te" username=plain;', "plain", 'quo"te'),
    ],
)
def test_user_and_password_are_read_from_the_login_configuration(jaas: str, user: str, password: str) -> None:
    made = _translated(security__protocol="SASL_SSL", sasl__mechanism="SCRAM-SHA-512", sasl__jaas__config=jaas)
    assert made == _BARE | {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": user,
        "sasl.password": password,
    }
    AdminClient(made)  # librdkafka knows all of these


def test_certificates() -> None:
    pem = {"security__protocol": "SSL", "ssl__truststore__type": "PEM", "ssl__keystore__type": "pem"}
    made = _translated(ssl__truststore__location="/ca", ssl__keystore__location="/key", ssl__key__password="p", **pem)
    bare = _BARE | {"security.protocol": "SSL"}
    assert made == bare | {
        "ssl.ca.location": "/ca",
        "ssl.certificate.location": "/key",
        "ssl.key.location": "/key",
        "ssl.key.password": "p",
    }
    made = _translated(
        security__protocol="SSL",
        ssl__keystore__location="/key.p12",
        ssl__keystore__type="PKCS12",
        ssl__keystore__password="p",
        ssl__endpoint__identification__algorithm="",
    )
    assert made == bare | {
        "ssl.keystore.location": "/key.p12",
        "ssl.keystore.password": "p",
        "ssl.endpoint.identification.algorithm": "none",
    }
    inline = _translated(
        security__protocol="SSL",
        ssl__truststore__certificates="C",
        ssl__keystore__certificate__chain="D",
        ssl__keystore__key="E",
    )
    assert inline == bare | {"ssl.ca.pem": "C", "ssl.certificate.pem": "D", "ssl.key.pem": "E"}


_SASL = {"security__protocol": "SASL_SSL", "sasl__mechanism": "PLAIN"}
_SSL = {"security__protocol": "SSL"}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (_SSL | {"ssl__truststore__location": "/s3cret.jks"}, "kafka.ssl.truststore.location is of type JKS"),
        (_SSL | {"ssl__truststore__location": "/a", "ssl__truststore__type": "PKCS12"}, "give a PEM file"),
        (_SASL | {"sasl__jaas__config": f"{_PLAIN} required s3cret;"}, "kafka.sasl.jaas.config must read"),
        (_SASL | {"sasl__jaas__config": f'{_PLAIN} required username="s3cret'}, "must read"),
        (_SASL | {"sasl__jaas__config": "Krb5LoginModule required;", "sasl__mechanism": "GSSAPI"}, "PLAIN, SCRAM"),
        (_SASL, "SASL_SSL needs kafka.sasl.mechanism and kafka.sasl.jaas.config"),
        ({"sasl__login__class": "Mine"}, "kafka.sasl.login.class"),
        ({"security__protocol": "s3cret"}, "kafka.security.protocol is one of PLAINTEXT, SSL"),
    ],
)
def test_what_cannot_be_translated_is_named(options: dict[str, str], wanted: str) -> None:
    with pytest.raises(InputError) as error:
        _translated(**options)
    assert wanted in str(error.value)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("security.protocol", "'kafka.security.protocol'"),
        ("sasl.jaas.config", "'kafka.sasl.jaas.config'"),
        ("kafka.sasl.jaas.conf", "'kafka.sasl.jaas.config'"),
        ("KAFKA.SECURITY.PROTOCOL", "'kafka.security.protocol'"),
        ("kafka.sasl.mechanisms", "kafka.sasl.mechanism"),
        ("kafka.sasl.password", "kafka.sasl.jaas.config"),
        ("ssl.ca.location", "kafka.ssl.truststore.location"),
        ("startingOffsets", "known are"),
        ("kafka.isolation.level", "known are"),
    ],
)
def test_an_option_that_spark_would_drop_is_refused_with_the_name_it_needs(name: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        client_options("b:9092", {name: "s3cret"})
    assert name in str(error.value)
    assert hint in str(error.value)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"sasl__mechanism": "PLAIN", "sasl__jaas__config": f'{_PLAIN} required username="a" password="b";'},
        {"security__protocol": "SSL", "sasl__jaas__config": f'{_PLAIN} required username="a" password="b";'},
        {"ssl__truststore__location": "/ca", "ssl__truststore__type": "PEM"},
        {"security__protocol": "sasl_plaintext", "ssl__truststore__location": "/ca"},
    ],
)
def test_a_login_or_certificate_that_the_protocol_leaves_unused_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"has no effect with kafka.security.protocol"):
        _translated(**options)


class _Loaded(Exception):
    """Options that a reader received before it read."""


class _Reader:
    """In place of a Spark session: notes the options of its Kafka source."""

    readStream = read = property(lambda self: self)

    def format(self, name: str) -> _Reader:
        assert name == "kafka"
        return self

    def options(self, **given: str) -> _Reader:
        self.given = given
        return self

    def load(self) -> None:
        raise _Loaded


def test_every_consumer_reads_committed_messages_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = KafkaSettings()
    sources: list[Callable[[Any], object]] = [
        lambda reader: source.from_kafka(reader, kafka, StreamSettings(), 10),
        lambda reader: source.from_kafka(reader, kafka, StreamSettings(), 10, pattern="x"),
        lambda reader: packets._messages(reader, kafka, {}),
    ]
    for read in sources:
        reader = _Reader()
        with pytest.raises(_Loaded):
            read(reader)
        assert reader.given["kafka.isolation.level"] == "read_committed"
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(topics, "Consumer", made.append)
    topics.consumer("127.0.0.1:1", "g", kafka.revealed)
    assert made[0]["isolation.level"] == "read_committed"


def test_a_message_about_a_largest_packet_fits_the_producer() -> None:
    options = sink.sink_options(KafkaSettings())
    assert int(options["kafka.max.request.size"]) >= len(records.ERROR.encode(error() | {"packet": bytes(16 << 20)}))
