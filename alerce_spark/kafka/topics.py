"""Topics: creation by the admin client, and their names."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.error import KafkaError as KafkaErrorCode

#: Missing and corrected packets are sent again to <topic> + this suffix; every alert query reads both.
REPROCESS_SUFFIX = "_reprocess"

_WAIT_S = 30.0


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
