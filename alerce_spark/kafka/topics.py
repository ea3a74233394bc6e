"""Topics: create them, check their names, send packets to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.error import KafkaError as KafkaErrorCode

from alerce_spark.errors import AlerceError, InputError
from alerce_spark.kafka.options import client_options

#: Missing and corrected packets are sent again to <topic> + this suffix; every alert query reads both topics.
REPROCESS_SUFFIX = "_reprocess"

#: For every consumer: skip messages of aborted transactions, which Java's default reads.
ISOLATION = {"isolation.level": "read_committed"}

_WAIT_S, _LOOK_S = 60.0, 0.05
_LARGEST_MESSAGE = 64 << 20
_REFUSALS = (KafkaErrorCode._AUTHENTICATION, KafkaErrorCode._SSL)
_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


class BrokerError(AlerceError):
    """The brokers did not accept messages; the message says how many and where."""


def admin(bootstrap_servers: str, options: Mapping[str, str] = _NO_OPTIONS) -> AdminClient:
    """An admin client of the brokers; `options` are those of `kafka.options`. Raises InputError."""
    return AdminClient(client_options(bootstrap_servers, options))


def consumer(bootstrap_servers: str, group: str, options: Mapping[str, str] = _NO_OPTIONS) -> Consumer:
    """A consumer that begins with the earliest message; `options` are those of `kafka.options`. Raises InputError."""
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
    """Create the missing topics; return their names.

    `replication` -1 is the brokers' default; `options` are those of `kafka.options`. Raises KafkaException where
    the broker cannot be reached or refuses, InputError.
    """
    refused: list[KafkaErrorCode] = []
    # A client with a wrong password would retry until its timeout and report only the timeout.
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


def checked(name: str) -> str:
    """Return `name`; raise InputError where Kafka does not accept it for a topic."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or name in (".", ".."):
        raise InputError(f"{name!r} cannot be a topic: Kafka takes up to 249 letters, digits and . _ -")
    return name


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
    """Produce packets to a topic and wait until the broker has them all; return their number.

    `progress` is called with the number sent so far; `options` are those of `kafka.options`. Raises BrokerError where
    the broker did not accept some in time, InputError.
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
        raise BrokerError(f"{left} of {sent} packets were not taken by {bootstrap_servers} within {_WAIT_S:.0f} s")
    return sent
