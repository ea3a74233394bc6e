"""Whether Kafka answers, which topics it has and what waits there: asked by the driver, since Spark says nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from confluent_kafka.error import KafkaError

from alerce_spark.config import KafkaSettings
from alerce_spark.errors import AlerceError
from alerce_spark.kafka.options import client_options
from alerce_spark.streaming.checkpoints import Offsets

#: Seconds that an answer may take, and between two questions.
_ANSWER_S, ASK_S = 4.0, 5.0
#: Topics that are named where none is the right one.
_NAMED = 5
_REFUSALS = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED)


class KafkaRefuses(AlerceError):
    """The brokers answer, and do not let this client in; the message says why."""


class KafkaAway(AlerceError):
    """No broker answers; the message says where and why."""


class Broker:
    """The brokers of `kafka.bootstrap_servers` as the driver sees them."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.servers = kafka.bootstrap_servers
        self._said: KafkaError | None = None
        self._topics: list[str] = []
        configuration: dict[str, Any] = {**client_options(kafka.bootstrap_servers, kafka.revealed)}
        configuration["error_cb"] = self._hear
        self._client = AdminClient(configuration)

    def problem(self) -> str | None:
        """Why no broker answers; None where one does. Raises KafkaRefuses."""
        self._said = None
        try:
            self._topics = sorted(self._client.list_topics(timeout=_ANSWER_S).topics)
        except KafkaException as error:
            self._client.poll(0)
            said = self._said or error.args[0]
            if said.code() in _REFUSALS:
                raise KafkaRefuses(
                    f"Kafka at {self.servers} does not let this client in: {said.str()}; see kafka.options"
                ) from error
            # librdkafka names the connection twice, and how long it took.
            return re.sub(r"^\S+/bootstrap: | \(after [^)]*\)$", "", str(said.str()))
        return None

    def require(self) -> None:
        """Raise KafkaAway within seconds where no broker answers, KafkaRefuses where it lets nobody in."""
        if problem := self.problem():
            raise KafkaAway(
                f"no Kafka broker answers at {self.servers}: {problem}. Start it, or set kafka.bootstrap_servers"
            )

    def unmatched(self, pattern: str) -> str | None:
        """Where none of the topics, as `problem` has seen them last, matches a pattern: those that are there."""
        try:
            matches = re.compile(pattern).fullmatch
        except re.error:  # Java knows forms that Python does not
            return None
        if any(map(matches, self._topics)):
            return None
        others = [name for name in self._topics if not name.startswith("__")]  # Kafka's own
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        return f"{', '.join(others[:_NAMED])}{more}" if others else "none at all"

    def waiting(self, pattern: str, taken: Offsets | None) -> int:
        """Messages on the topics of a pattern after the offsets `taken`; where there are none, all that Kafka has.

        Raises KafkaException where the broker does not answer.
        """
        listed = self._client.list_topics(timeout=_ANSWER_S).topics
        places = [
            TopicPartition(name, partition)
            for name, topic in listed.items()
            if re.fullmatch(pattern, name)
            for partition in topic.partitions
        ]
        last = self._offsets(places, OffsetSpec.latest())
        known = {name: {int(p): offset for p, offset in parts.items()} for name, parts in (taken or {}).items()}
        unknown = [place for place in places if place.partition not in known.get(place.topic, {})]
        first = self._offsets(unknown, OffsetSpec.earliest())
        for name, parts in known.items():
            first |= {(name, partition): offset for partition, offset in parts.items()}
        return sum(max(0, offset - first.get(place, offset)) for place, offset in last.items())

    def _offsets(self, places: Iterable[TopicPartition], which: OffsetSpec) -> dict[tuple[str, int], int]:
        asked = dict.fromkeys(places, which)
        if not asked:
            return {}
        answers = self._client.list_offsets(asked, request_timeout=_ANSWER_S)
        return {(place.topic, place.partition): int(future.result().offset) for place, future in answers.items()}

    def _hear(self, error: KafkaError) -> None:
        """Why a connection failed, which the call that waits for it does not know."""
        if self._said is None or error.code() in _REFUSALS or self._said.code() == KafkaError._ALL_BROKERS_DOWN:
            self._said = error
