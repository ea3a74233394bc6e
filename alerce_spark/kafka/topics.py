"""Topics: creation by the admin client, and their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.error import KafkaError as KafkaErrorCode

#: Missing and corrected packets are sent again to <topic> + this suffix; every alert query reads both.
REPROCESS_SUFFIX = "_reprocess"

_WAIT_S = 60.0
_LARGEST_MESSAGE = 64 << 20


def create(bootstrap_servers: str, names: Iterable[str], partitions: int, replication: int = 1) -> list[str]:
    """Create the topics that are not there yet; returns the names of those that were made.

    Raises KafkaException where the broker cannot be reached or refuses.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    made = []
    for name, future in admin.create_topics([NewTopic(n, partitions, replication) for n in names]).items():
        try:
            future.result(_WAIT_S)
            made.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaErrorCode.TOPIC_ALREADY_EXISTS:
                raise
    return made


def subscription(topics: Iterable[str]) -> str:
    """Regular expression (Java) that matches each topic name or pattern and its reprocess topic."""
    return "|".join(f"({topic})({REPROCESS_SUFFIX})?" for topic in topics)


def send(
    bootstrap_servers: str, topic: str, packets: Iterable[bytes], progress: Callable[[int], None] = lambda sent: None
) -> int:
    """Produce packets to a topic and wait until the broker has them all; returns their number.

    `progress` is called with the number sent so far. Raises BufferError where some were not taken in time.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "message.max.bytes": _LARGEST_MESSAGE,
            "linger.ms": 20,
            "log_level": 0,
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
