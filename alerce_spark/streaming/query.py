"""The declaration of a query: all that engine, settings, metrics, leases, warm-up and demo know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from alerce_spark.config import ConfigError, Settings, StreamSettings
from alerce_spark.kafka.topics import subscription

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Application:
    """Objects that the queries of one application share. `closing` closes what they opened, when all have ended."""

    spark: SparkSession
    settings: Settings
    check_lease: Callable[[], None]
    closing: ExitStack


@runtime_checkable
class Timed(Protocol):
    """Result of a batch that knows how long its alerts waited."""

    @property
    def latency(self) -> Mapping[str, np.ndarray]:
        """By step, the seconds from each alert's time in Kafka to its result or row."""


class InUse(NamedTuple):
    """The version of a classifier that a query uses (None: none), and why that is not the current one, if so."""

    classifier: str
    version: str | None
    alarm: str | None


class Limits(NamedTuple):
    """How often a query makes a batch [s], and of how many messages; without `min_messages` of whatever waits."""

    interval_s: float
    min_messages: int | None
    max_messages: int


#: Handles a batch of messages in the columns of PACKETS (`streaming/source.py`) and returns what it did.
Handler = Callable[["DataFrame"], object]
#: Messages in the columns of PACKETS → messages for Kafka's sink (`streaming/sink.py`).
Publisher = Callable[["DataFrame", Settings], "DataFrame"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query: what it reads and writes, how often, and how it is made by one of `handle` and `publish`.

    purpose: what it does, in a few words.
    interval_s, min_messages, max_messages: as in Limits, unless `[stream.<name>]` says otherwise.
    reads: topics of ours, as a Java regular expression; None for the alert topics of the settings. A query that reads
        ours ends last where all end when they are done.
    tables, topics: what it writes. Who writes tables keeps others out by its lease. elsewhere: what it writes besides.
    handle: called once in an application, makes the handler of its batches.
    publish: messages for Kafka's sink, without a batch in the driver.
    warm_up: as `publish`, of packets that are not of the sky; workers load what they need before the first alert.
    compile: calls whatever its workers compile, given an empty lake, the survey and some PACKETS.
    models: of a lake, with a clock, what looks at the models in use.
    """

    name: str
    purpose: str
    interval_s: float
    max_messages: int
    min_messages: int | None = None
    reads: str | None = None
    tables: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    elsewhere: str = ""
    handle: Callable[[Application], Handler] | None = None
    publish: Publisher | None = None
    warm_up: Publisher | None = None
    compile: Callable[[str, str, pa.RecordBatch], None] | None = None
    models: Callable[[str, Callable[[], float]], Callable[[], Iterable[InUse]]] | None = None

    def __post_init__(self) -> None:
        if (self.handle is None) == (self.publish is None):
            raise ValueError(f"query {self.name}: one of handle and publish makes it")

    def limits(self, stream: StreamSettings) -> Limits:
        """Those of the settings over those of the declaration. Raises ConfigError where no batch could begin."""
        own = stream.table(self.name)
        found = Limits(*(getattr(self if getattr(own, f) is None else own, f) for f in Limits._fields))
        if found.min_messages is not None and found.min_messages > found.max_messages:
            raise ConfigError(
                f"stream.{self.name}.min_messages = {found.min_messages} is above stream.{self.name}.max_messages = "
                f"{found.max_messages}: no batch could begin"
            )
        return found

    def pattern(self, settings: Settings) -> str:
        """Regular expression (Java) of the topics that it reads."""
        return self.reads or subscription(settings.kafka.topics)

    @property
    def writes(self) -> str:
        """Tables, topics and whatever else it writes, in words."""
        topics = [f"topic {name}" for name in self.topics]
        return ", ".join([*self.tables, *topics, *([self.elsewhere] if self.elsewhere else [])])
