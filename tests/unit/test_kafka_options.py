"""Spark's names of Kafka's security in the words of librdkafka; what has none is an error that names it."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient

from alerce_spark.config import ConfigError
from alerce_spark.kafka.topics import Configuration, client_options

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
    pem = {"ssl__truststore__type": "PEM", "ssl__keystore__type": "pem"}
    made = _translated(ssl__truststore__location="/ca", ssl__keystore__location="/key", ssl__key__password="p", **pem)
    assert made == _BARE | {
        "ssl.ca.location": "/ca",
        "ssl.certificate.location": "/key",
        "ssl.key.location": "/key",
        "ssl.key.password": "p",
    }
    made = _translated(
        ssl__keystore__location="/key.p12",
        ssl__keystore__type="PKCS12",
        ssl__keystore__password="p",
        ssl__endpoint__identification__algorithm="",
    )
    assert made == _BARE | {
        "ssl.keystore.location": "/key.p12",
        "ssl.keystore.password": "p",
        "ssl.endpoint.identification.algorithm": "none",
    }
    inline = _translated(
        ssl__truststore__certificates="C", ssl__keystore__certificate__chain="D", ssl__keystore__key="E"
    )
    assert inline == _BARE | {"ssl.ca.pem": "C", "ssl.certificate.pem": "D", "ssl.key.pem": "E"}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"ssl__truststore__location": "/a.jks"}, "kafka.ssl.truststore.location = '/a.jks' is of type JKS"),
        ({"ssl__truststore__location": "/a", "ssl__truststore__type": "PKCS12"}, "give a PEM file"),
        ({"sasl__jaas__config": f"{_PLAIN} required;", "sasl__mechanism": "PLAIN"}, "kafka.sasl.jaas.config must read"),
        ({"sasl__jaas__config": f'{_PLAIN} required username="', "sasl__mechanism": "PLAIN"}, "must read"),
        ({"sasl__jaas__config": "Krb5LoginModule required;"}, "kafka.sasl.mechanism = 'GSSAPI'"),
        ({"sasl__login__class": "Mine"}, "kafka.sasl.login.class"),
    ],
)
def test_what_cannot_be_translated_is_named(options: dict[str, str], wanted: str) -> None:
    with pytest.raises(ConfigError) as error:
        _translated(**options)
    assert wanted in str(error.value)
