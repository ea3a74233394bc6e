"""Records of the broker's Kafka topics: classes of alerts, new ones or those that Kafka has kept.

for message in messages("host:9092", "lc_classifier", night="20261201"):
    message.record["oid"], message.record["lc_classification"]
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from alerce_spark.client.errors import ClientError
from alerce_spark.errors import InputError
from alerce_spark.kafka import records, topics
from alerce_spark.kafka.options import client_options

log = logging.getLogger(__name__)

#: Topics with a date at the end of their name, one a night; the others have no date.
NIGHTLY = (records.LIGHTCURVE_TOPIC, records.STAMP_TOPIC)
NAMES = (*NIGHTLY, records.RECLASSIFIED_TOPIC, records.ERROR_TOPIC)
#: Interval of searches for topics of new nights, and longest wait for the brokers [s].
_LOOK_S, _WAIT_S, _POLL_S = 10.0, 30.0, 0.5
_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Received:
    """A record, its place in Kafka, and the time when it was written [ms since 1970]."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    record: dict[str, Any]


def messages(
    bootstrap_servers: str,
    name: str = records.LIGHTCURVE_TOPIC,
    *,
    night: str | None = None,
    survey: str | None = None,
    group: str | None = None,
    beginning: bool = False,
    follow: bool = False,
    options: Mapping[str, str] = _NO_OPTIONS,
) -> Iterator[Received]:
    """Records of the topics `name` of a night (YYYYMMDD), or of all nights that are kept; of one survey, or all.

    Without a `group` they begin with the earliest. A group remembers its position and continues there (`beginning`:
    with the earliest). A record counts as read when the next is requested, so that none is lost; the last one before a
    crash may come twice. Use one reader a group at a time. Reading ends with the present records, or with `follow`
    never: then topics of new nights are read too. `options` are those of `kafka.options`.

    Messages that cannot be read are logged and skipped. Raises InputError, and ClientError for brokers that cannot
    be reached.
    """
    pattern = _pattern(name, night)
    own = {"group.id": group or "alerce-spark-client", "enable.auto.commit": False, "enable.auto.offset.store": False}
    ends = {"enable.partition.eof": True, "auto.offset.reset": "earliest"}
    consumer = Consumer({**client_options(bootstrap_servers, options), **topics.ISOLATION, **own, **ends})
    try:
        reader = _Reader(consumer, pattern, group is not None, beginning)
        for one in reader.read(follow):
            if survey is None or one.record.get("survey") == survey:
                yield one
    finally:
        consumer.close()


def _pattern(name: str, night: str | None) -> re.Pattern[str]:
    if name not in NAMES:
        raise InputError(f"there are no topics {name!r}; there are {', '.join(NAMES)}")
    if night is not None and (name not in NIGHTLY or not re.fullmatch(r"[0-9]{8}", night)):
        raise InputError(
            f"night={night!r}: a night is written as 20261201, and topics {', '.join(NIGHTLY)} have nights"
        )
    return re.compile(f"{name}_{night or '[0-9]{8}'}" if name in NIGHTLY else name)


class _Reader:
    """Reads all partitions of topics, new ones too."""

    def __init__(self, consumer: Consumer, pattern: re.Pattern[str], remembers: bool, beginning: bool) -> None:
        self._consumer, self._pattern = consumer, pattern
        self._remembers, self._beginning = remembers, beginning
        self._read: set[tuple[str, int]] = set()
        self._ended: set[tuple[str, int]] = set()

    def read(self, follow: bool) -> Iterator[Received]:
        """Records until the present end of the topics, or without end."""
        looked = time.monotonic()
        self._look()
        while follow or self._ended < self._read:
            if follow and time.monotonic() - looked >= _LOOK_S:
                self._look()
                looked = time.monotonic()
            message = self._consumer.poll(_POLL_S)
            if message is None:
                continue
            received = self._received(message)
            if received is not None:
                yield received
                self._remember(received)

    def _look(self) -> None:
        """Add the partitions that are not read yet."""
        try:
            known = self._consumer.list_topics(timeout=_WAIT_S).topics
            new = [
                TopicPartition(topic, partition)
                for topic, about in known.items()
                if self._pattern.fullmatch(topic)
                for partition in about.partitions
                if (topic, partition) not in self._read
            ]
            if new:
                self._consumer.incremental_assign([self._start(one) for one in self._committed(new)])
        except KafkaException as error:
            raise ClientError(f"the brokers give no answer: {error.args[0].str()}") from error
        self._read |= {(one.topic, one.partition) for one in new}

    def _committed(self, new: list[TopicPartition]) -> list[TopicPartition]:
        if not self._remembers or self._beginning:
            return new
        found: list[TopicPartition] = self._consumer.committed(new, timeout=_WAIT_S)
        return found

    def _start(self, one: TopicPartition) -> TopicPartition:
        # Where the group has no position yet: the earliest.
        return TopicPartition(one.topic, one.partition, one.offset if one.offset >= 0 else -2)

    def _received(self, message: Message) -> Received | None:
        where = (message.topic() or "", message.partition() or 0)
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._ended.add(where)
            elif error.fatal() or not error.retriable():
                log.warning("%s: %s", where[0] or "brokers", error.str())
            return None
        try:
            record = records.schema_of(where[0]).decode(message.value() or b"")
        except records.MessageError as reason:
            log.warning("%s, partition %d, offset %s cannot be read: %s", *where, message.offset(), reason)
            return None
        return Received(*where, message.offset() or 0, message.timestamp()[1], record)

    def _remember(self, one: Received) -> None:
        if self._remembers:
            self._consumer.commit(offsets=[TopicPartition(one.topic, one.partition, one.offset + 1)], asynchronous=True)
