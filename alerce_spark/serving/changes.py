"""Commits of a table of the lake, one after the other: which files came, which rows went. All that reads Delta's log.

Compaction moves rows and changes none (`dataChange` is false): its files are no change here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import NotFoundError

from alerce_spark.lake import deletion_vectors
from alerce_spark.lake.handles import delta_table
from alerce_spark.lake.snapshots import Reader, commit_path
from alerce_spark.lake.storage import Action, LakeError
from alerce_spark.lake.tables import TABLES


class HistoryGone(LakeError):
    """The log or the files no longer tell what happened since a version: whoever follows must start again."""


@dataclass(frozen=True)
class Shrunk:
    """A file of which rows went: as it was, and as it is (None: it went whole)."""

    before: Action
    after: Action | None


@dataclass(frozen=True)
class Commit:
    """What one version changed: files with new rows, files that lost rows."""

    version: int
    added: list[Action]
    shrunk: list[Shrunk]

    @property
    def is_empty(self) -> bool:
        """Whether no row came or went."""
        return not self.added and not self.shrunk


class Changes(Reader):
    """A table that is followed from a version (None: the newest) on. Not for several threads at once."""

    def __init__(self, lake: str, table: str, version: int | None = None) -> None:
        super().__init__(lake, table)
        try:
            self._update(version)
        except FileNotFoundError as error:
            raise HistoryGone(str(error)) from error
        self._mark = self._written()

    @property
    def version(self) -> int:
        """The version up to which commits were taken."""
        return self._version

    @property
    def live(self) -> Mapping[str, Action]:
        """Actions of the live files at `version`, by path."""
        return self._files

    def next(self) -> Commit | None:
        """Take the next commit; None where there is none yet. Raises HistoryGone."""
        actions = self._read(self._version + 1)
        if actions is None:
            self._check_history()
            return None
        commit = self._commit(actions)
        self._apply(actions)
        self._version += 1
        self._mark = self._written()
        return commit

    def rows(self, add: Action, columns: Sequence[str]) -> pa.Table:
        """Rows of a file that are not deleted; columns that it was written without are null. Raises HistoryGone."""
        table = self._table_of(add, columns)
        dead = self._deleted(add)
        if not dead.size:
            return table
        kept = np.ones(table.num_rows, bool)
        kept[dead] = False
        return table.filter(pa.array(kept))

    def gone(self, shrunk: Shrunk, columns: Sequence[str]) -> pa.Table:
        """Rows that a file lost. Raises HistoryGone."""
        table = self._table_of(shrunk.before, columns)
        now = np.arange(table.num_rows) if shrunk.after is None else self._deleted(shrunk.after)
        return table.take(pa.array(np.setdiff1d(now, self._deleted(shrunk.before))))

    def _commit(self, actions: list[Action]) -> Commit:
        adds = {a["add"]["path"]: a["add"] for a in actions if "add" in a and a["add"].get("dataChange", True)}
        removed = [a["remove"]["path"] for a in actions if "remove" in a and a["remove"].get("dataChange", True)]
        shrunk = [Shrunk(self._files[path], adds.get(path)) for path in removed if path in self._files]
        added = [add for path, add in adds.items() if path not in self._files]
        return Commit(self._version + 1, added, shrunk)

    def _check_history(self) -> None:
        """Raise HistoryGone where commits are missing in between, or another table lies in the same place."""
        newest = self._last_checkpoint()
        last = -1 if newest is None else newest["version"]
        missed = last > self._version and self._read(self._version + 1) is None
        written = self._written()
        # The clean-up of the log takes commits that a checkpoint holds.
        if missed or (written != self._mark and not (written is None and last >= self._version)):
            raise HistoryGone(f"the log of {self._table} in {self._lake} no longer follows version {self._version}")

    def _written(self) -> Any:
        try:
            return self._store.head(commit_path(self._version))["last_modified"]
        except (NotFoundError, FileNotFoundError):
            return None

    def _table_of(self, add: Action, columns: Sequence[str]) -> pa.Table:
        schema = TABLES[self._table].arrow
        try:
            data = bytes(self._store.get(add["path"]).bytes())
        except (NotFoundError, FileNotFoundError) as error:
            raise HistoryGone(f"{add['path']} of {self._table} in {self._lake} was vacuumed") from error
        file = pq.ParquetFile(io.BytesIO(data))
        stored = file.read([name for name in columns if name in file.schema_arrow.names])
        values = {name: stored[name].cast(schema.field(name).type) for name in stored.schema.names}
        for name, text in add["partitionValues"].items():
            kind = schema.field(name).type
            values[name] = pa.repeat(pa.scalar(text).cast(kind), stored.num_rows)
        arrays = [values.get(name, pa.nulls(stored.num_rows, schema.field(name).type)) for name in columns]
        return pa.table(arrays, names=list(columns))

    def _deleted(self, add: Action) -> np.ndarray:
        vector = add.get("deletionVector")
        if vector is None:
            return np.empty(0, np.int64)
        try:
            gone = deletion_vectors.read(self._store, vector)
        except FileNotFoundError as error:
            raise HistoryGone(str(error)) from error
        return np.fromiter(gone, np.int64, len(gone))


def commits(changes: Changes) -> Iterator[Commit]:
    """The commits that are there and were not taken yet."""
    while (commit := changes.next()) is not None:
        yield commit


def identity(lake: str, tables: Sequence[str]) -> str:
    """Ids of tables: other ones where a lake was made again in the same place. Raises LakeError where there is none."""
    return " ".join(str(delta_table(lake, table).metadata().id) for table in tables)
