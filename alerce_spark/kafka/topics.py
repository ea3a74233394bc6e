"""Topics: creation by the admin client, their names, and how clients other than Spark's reach the brokers."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.error import KafkaError as KafkaErrorCode

from alerce_spark.config import ConfigError

#: Missing and corrected packets are sent again to <topic> + this suffix; every alert query reads both.
REPROCESS_SUFFIX = "_reprocess"

#: For every consumer: what a producer took back (an aborted transaction) never happened. Java's default reads it.
ISOLATION = {"isolation.level": "read_committed"}

_WAIT_S, _LOOK_S = 60.0, 0.05
_LARGEST_MESSAGE = 64 << 20
_REFUSALS = (KafkaErrorCode._AUTHENTICATION, KafkaErrorCode._SSL)
_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
#: Options of security that mean the same to Spark, whose client is Java's, and to librdkafka, with the latter's names.
_SAME_VALUE = {
    "security.protocol": "security.protocol",
    "sasl.mechanism": "sasl.mechanism",
    "ssl.key.password": "ssl.key.password",
    "ssl.truststore.certificates": "ssl.ca.pem",
    "ssl.keystore.certificate.chain": "ssl.certificate.pem",
    "ssl.keystore.key": "ssl.key.pem",
    "ssl.cipher.suites": "ssl.cipher.suites",
}
#: Stores of certificates: by option and type the names that take the file.
_STORES = {
    ("ssl.truststore", "PEM"): ("ssl.ca.location",),
    ("ssl.keystore", "PEM"): ("ssl.certificate.location", "ssl.key.location"),
    ("ssl.keystore", "PKCS12"): ("ssl.keystore.location",),
}
Configuration = dict[str, str | int | float | bool]
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def client_options(bootstrap_servers: str, options: Mapping[str, str]) -> Configuration:
    """Configuration of a librdkafka client that reaches the brokers as Spark does with `kafka.options`.

    Encryption and authentication are translated (PLAIN and SCRAM; certificates as PEM, a key also as PKCS12); options
    that concern neither are for Spark alone. Raises ConfigError for one that librdkafka cannot follow.
    """
    given = {k.removeprefix("kafka."): v for k, v in options.items() if k.startswith("kafka.")}
    security = {k: v for k, v in given.items() if k.split(".")[0] in ("security", "sasl", "ssl")}
    made: Configuration = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
    made |= {_SAME_VALUE[k]: security.pop(k) for k in tuple(security) if k in _SAME_VALUE}
    for store in ("ssl.truststore", "ssl.keystore"):
        made |= _store(store, security)
    if "ssl.endpoint.identification.algorithm" in security:
        name = "ssl.endpoint.identification.algorithm"
        made[name] = security.pop(name) or "none"
    if "sasl.jaas.config" in security:
        made |= _login(security.pop("sasl.jaas.config"), str(made.get("sasl.mechanism", "GSSAPI")))
    if security:
        names = ", ".join(f"kafka.{name}" for name in security)
        raise ConfigError(f"kafka.options: the admin client and producer know nothing like {names}; leave it out")
    return made


def _store(store: str, security: dict[str, str]) -> dict[str, str]:
    """Takes the options of a store of certificates from `security`."""
    file = security.pop(f"{store}.location", None)
    kind = security.pop(f"{store}.type", "JKS").upper()
    password = security.pop(f"{store}.password", None)
    if file is None:
        return {}
    if (store, kind) not in _STORES:
        raise ConfigError(
            f"kafka.options: kafka.{store}.location = {file!r} is of type {kind}, which librdkafka does not read; "
            f"give a PEM file and kafka.{store}.type = 'PEM'"
        )
    taken = dict.fromkeys(_STORES[store, kind], file)
    return taken | ({"ssl.keystore.password": password} if kind == "PKCS12" and password is not None else {})


def _login(jaas: str, mechanism: str) -> dict[str, str]:
    """User and password of a line of Java's login configuration: module, flag, name="value" …;"""
    if mechanism not in _MECHANISMS:
        raise ConfigError(
            f"kafka.options: kafka.sasl.mechanism = {mechanism!r}: the admin client and producer know "
            f"{', '.join(_MECHANISMS)} only"
        )
    try:
        words = shlex.split(jaas.strip().rstrip(";"))
    except ValueError:
        words = []
    said = dict(word.split("=", 1) for word in words[2:] if "=" in word)
    if not {"username", "password"} <= set(said):
        raise ConfigError(
            "kafka.options: kafka.sasl.jaas.config must read: org.apache.kafka.common.security.plain.PlainLoginModule "
            'required username="…" password="…"; (or scram.ScramLoginModule)'
        )
    return {"sasl.username": said["username"], "sasl.password": said["password"]}


def admin(bootstrap_servers: str, options: Mapping[str, str] = _NO_OPTIONS) -> AdminClient:
    """An admin client of the brokers; `options` are those of `kafka.options`. Raises ConfigError."""
    return AdminClient(client_options(bootstrap_servers, options))


def consumer(bootstrap_servers: str, group: str, options: Mapping[str, str] = _NO_OPTIONS) -> Consumer:
    """A consumer that begins with the earliest message; `options` are those of `kafka.options`. Raises ConfigError."""
    own = {"group.id": group, "auto.offset.reset": "earliest", **ISOLATION}
    return Consumer({**client_options(bootstrap_servers, options), **own})


def spark_isolation() -> dict[str, str]:
    """ISOLATION as an option of Spark's source."""
    return {f"kafka.{name}": value for name, value in ISOLATION.items()}


def create(
    bootstrap_servers: str,
    names: Iterable[str],
    partitions: int,
    replication: int = -1,
    options: Mapping[str, str] = _NO_OPTIONS,
) -> list[str]:
    """Create the topics that are not there yet; returns the names of those that were made.

    `replication` -1 is what the brokers are set to; `options` are those of `kafka.options`. Raises KafkaException where
    the broker cannot be reached or refuses, ConfigError.
    """
    refused: list[KafkaErrorCode] = []
    # A client whose password is wrong would try until the time is up, and then say no more than that.
    configuration: dict[str, Any] = {**client_options(bootstrap_servers, options)}
    configuration["error_cb"] = lambda error: refused.append(error) if error.code() in _REFUSALS else None
    client = AdminClient(configuration)
    made = []
    for name, future in client.create_topics([NewTopic(n, partitions, replication) for n in names]).items():
        try:
            _wait(client, future, refused)
            made.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaErrorCode.TOPIC_ALREADY_EXISTS:
                raise
    return made


def _wait(client: AdminClient, future: Future[None], refused: list[KafkaErrorCode]) -> None:
    while not future.done() and not refused:
        client.poll(_LOOK_S)
    if refused:
        raise KafkaException(refused[0])
    future.result()


def subscription(topics: Iterable[str]) -> str:
    """Regular expression (Java) that matches each topic name or pattern and its reprocess topic."""
    return "|".join(f"({topic})({REPROCESS_SUFFIX})?" for topic in topics)


def send(
    bootstrap_servers: str,
    topic: str,
    packets: Iterable[bytes],
    progress: Callable[[int], None] = lambda sent: None,
    options: Mapping[str, str] = _NO_OPTIONS,
) -> int:
    """Produce packets to a topic and wait until the broker has them all; returns their number.

    `progress` is called with the number sent so far; `options` are those of `kafka.options`. Raises BufferError where
    some were not taken in time, ConfigError.
    """
    producer = Producer(
        {
            **client_options(bootstrap_servers, options),
            "enable.idempotence": True,
            "message.max.bytes": _LARGEST_MESSAGE,
            "linger.ms": 20,
        }
    )
    sent = 0
    for packet in packets:
        while True:
            try:
                producer.produce(topic, packet)
                break
            except BufferError:  # the local queue is full: let deliveries go on
                producer.poll(0.5)
        producer.poll(0)
        sent += 1
        progress(sent)
    left = producer.flush(_WAIT_S)
    if left:
        raise BufferError(f"{left} of {sent} packets were not taken by {bootstrap_servers} within {_WAIT_S:.0f} s")
    return sent
