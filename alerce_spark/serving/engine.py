"""The interface of the databases that can hold the index: one writer, many readers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, Engine, Select, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable

from alerce_spark.errors import AlerceError
from alerce_spark.serving import schema


class IndexFault(AlerceError):
    """The index cannot be used; the message gives the reason and the remedy."""


class Unreachable(IndexFault):
    """The database does not answer."""


class Store(ABC):
    """A database that holds the index. `name` is for messages: it has no password."""

    name: str
    #: `insert` with `on_conflict_do_update`, as the database spells it.
    upsert: Any

    @abstractmethod
    def writer(self) -> Engine:
        """Connections of the follower; creates the database file or schema if it is missing."""

    @abstractmethod
    def reader(self, connections: int, limit_s: float) -> Engine:
        """Connections that cannot write. Raises IndexFault where there is no index."""

    @abstractmethod
    def only_follower(self) -> AbstractContextManager[None]:
        """Hold the right to write the index; the system releases it when the process dies.

        Raises IndexFault while another process or thread has it.
        """

    @abstractmethod
    def building(self, connection: Connection) -> AbstractContextManager[None]:
        """Make empty tables without indices; readers see the old ones until the transaction has ended."""

    @abstractmethod
    def add(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert many rows, all with the same columns."""

    def refresh(self, engine: Engine) -> None:  # noqa: B027 - most have nothing to do
        """Let readers see an index that replaced theirs. Raises IndexFault where it was deleted."""

    @abstractmethod
    def limited(self, connection: Connection, limit_s: float) -> AbstractContextManager[None]:
        """Stop a reader's queries after `limit_s` seconds, with an error that `is_too_long` recognises."""

    @abstractmethod
    def is_too_long(self, error: DBAPIError) -> bool:
        """Whether a query was stopped because it took too long."""

    @abstractmethod
    def state(self, connection: Connection) -> Hashable:
        """A value that changes when another connection has written."""

    @abstractmethod
    def size(self) -> int:
        """Size of the index [bytes]."""

    @abstractmethod
    def numbers(self, values: Sequence[int]) -> Select[Any]:
        """Integers as rows of a table: there may be more of them than a statement can bind."""

    @abstractmethod
    def ranges(self, first: Sequence[int], last: Sequence[int]) -> Any:
        """Pairs of integers as rows of a table with the columns `first` and `last`."""

    def missing(self) -> IndexFault:
        """The error about a missing index."""
        return IndexFault(f"no index {self.name}; build it with: alerce-spark index build")

    def fault(self, error: DBAPIError) -> IndexFault:
        """The error about a database that fails."""
        return IndexFault(f"the index {self.name} cannot be used: {str(error.orig).strip()}")


def create_tables(connection: Connection) -> None:
    """Make the tables without their indices; a build makes those after the rows."""
    for table in schema.metadata.sorted_tables:
        connection.execute(CreateTable(table))
