"""Commits of a table of the lake, one after the other: added files and deleted rows, from Delta's log alone.

Compaction moves rows and changes none (`dataChange` is false), so its files are no change here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from alerce_spark.delta import Action, File
from alerce_spark.delta.files import rows as rows_of
from alerce_spark.delta.log import State, kept_of
from alerce_spark.errors import LakeError
from alerce_spark.lake.handles import INDEX
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES

__all__ = ["Changes", "Commit", "File", "HistoryGone", "Shrunk", "commits", "identity"]


class HistoryGone(LakeError):
    """The log or the files no longer show the changes since a version: a follower must start again."""


@dataclass(frozen=True)
class Shrunk:
    """A file that lost rows: before and after (None: the whole file was removed)."""

    before: File
    after: File | None


@dataclass(frozen=True)
class Commit:
    """Changes of one version: files with new rows, files that lost rows."""

    version: int
    added: list[File]
    shrunk: list[Shrunk]

    @property
    def is_empty(self) -> bool:
        """Whether no row was added or deleted."""
        return not self.added and not self.shrunk


class Changes:
    """Follows a table from a version (None: the newest) on. Not for several threads at once."""

    def __init__(self, lake: str, table: str, version: int | None = None) -> None:
        self._lake, self._name = lake, table
        self._table = table_of(lake, table)
        self._log = self._table.log
        self._state = State(_kept)
        try:
            self._log.update(self._state, version)
        except FileNotFoundError as error:
            raise HistoryGone(str(error)) from error
        self._mark = self._log.mark(self.version)

    @property
    def version(self) -> int:
        """The version of the last commit read."""
        return self._state.version

    @property
    def live(self) -> Mapping[str, File]:
        """The live files at `version`, by path."""
        return self._state.files

    def next(self) -> Commit | None:
        """Read the next commit; None where it does not exist yet. Raises HistoryGone."""
        actions = self._log.read(self.version + 1)
        if actions is None:
            self._check_history()
            return None
        commit = self._commit(actions)
        self._state.apply(actions)
        self._state.version += 1
        self._mark = self._log.mark(self.version)
        return commit

    def rows(self, file: File, columns: Sequence[str]) -> pa.Table:
        """Rows of a file that are not deleted; columns that it lacks are null. Raises HistoryGone."""
        return self._rows(file, columns, deleted=False)

    def gone(self, shrunk: Shrunk, columns: Sequence[str]) -> pa.Table:
        """Rows that a file lost. Raises HistoryGone."""
        whole = self._rows(shrunk.before, columns, deleted=True)
        before = self._there(shrunk.before, whole.num_rows)
        after = np.zeros(whole.num_rows, bool) if shrunk.after is None else self._there(shrunk.after, whole.num_rows)
        return whole.filter(pa.array(before & ~after))

    def _commit(self, actions: list[Action]) -> Commit:
        adds = {a["add"]["path"]: _kept(a["add"]) for a in actions if "add" in a and a["add"].get("dataChange", True)}
        removed = [a["remove"]["path"] for a in actions if "remove" in a and a["remove"].get("dataChange", True)]
        shrunk = [Shrunk(self.live[path], adds.get(path)) for path in removed if path in self.live]
        added = [add for path, add in adds.items() if path not in self.live]
        return Commit(self.version + 1, added, shrunk)

    def _check_history(self) -> None:
        """Raise HistoryGone where commits are missing in between, or another table lies in the same place."""
        newest = self._log.last_checkpoint()
        last = -1 if newest is None else newest.version
        missed = last > self.version and self._log.read(self.version + 1) is None
        mark = self._log.mark(self.version)
        # The clean-up of the log deletes commits that a checkpoint covers.
        if missed or (mark != self._mark and not (mark is None and last >= self.version)):
            raise HistoryGone(f"the log of {self._name} in {self._lake} no longer follows version {self.version}")

    def _rows(self, file: File, columns: Sequence[str], *, deleted: bool) -> pa.Table:
        schema = TABLES[self._name].arrow
        wanted = pa.schema([schema.field(name).with_nullable(True) for name in columns])
        try:
            return rows_of(self._table, file, wanted, deleted=deleted)
        except FileNotFoundError as error:
            raise HistoryGone(f"{file.path} of {self._name} in {self._lake} was vacuumed: {error}") from error

    def _there(self, file: File, size: int) -> np.ndarray:
        """Mask of the rows of a file that are not deleted."""
        try:
            kept = self._table.mask(file)
        except FileNotFoundError as error:
            raise HistoryGone(str(error)) from error
        return np.ones(size, bool) if kept is None else np.pad(kept, (0, size - kept.size), constant_values=True)


def _kept(add: Action) -> File:
    return kept_of(add, INDEX, whole=False)


def commits(changes: Changes) -> Iterator[Commit]:
    """The commits that exist and were not read yet."""
    while (commit := changes.next()) is not None:
        yield commit


def identity(lake: str, tables: Sequence[str]) -> str:
    """Ids of tables, new ones where a lake was made again in the same place. Raises LakeError without a lake."""
    return " ".join(table_of(lake, table).newest().metadata.id for table in tables)
