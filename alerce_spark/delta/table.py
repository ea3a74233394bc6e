"""Tables of a process, one `Table` for each place: its snapshots, and the one way to commit to it.

Spark needs two to three seconds of driver CPU for an append or a MERGE of any size; a commit written here takes
milliseconds (docs/decisions.md, "Commits"). Commits follow the Delta protocol (PROTOCOL.md of delta-io/delta: "Add File
and Remove File", "Deletion Vectors"), so Spark, delta-rs and polars read them like any other.

A commit is made from the version that its writer read, or not at all: the file of the next version is created only if
it is not there, which file systems and S3 do atomically. A writer that was overtaken gets Conflict and starts over.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pyroaring import BitMap64

from alerce_spark.delta import deletion_vectors, rules
from alerce_spark.delta.files import records
from alerce_spark.delta.log import ACTIONS, File, Log, Snapshot, State, checkpoint_paths, commit_path, kept_of
from alerce_spark.delta.protocol import Action, Metadata, refuse_unreadable, refuse_unwritable
from alerce_spark.errors import LakeError
from alerce_spark.location import Location

log = logging.getLogger(__name__)

#: Number of versions between checkpoints.
CHECKPOINT_EVERY = 20
#: Number of snapshots kept of a table: batches that run beside each other read neighbouring versions.
_SNAPSHOTS = 4


class Conflict(LakeError):
    """Another writer committed the same version first: read again and start over."""


@dataclass(frozen=True)
class Change:
    """The changes to one table in one commit.

    added: actions of new files (`files.py`). deleted: rows to delete, columns path (file in the table) and position
    (row in the file, deleted rows counted). removed: files to remove, each with the deletion vector that it had when it
    was read (None: no vector). moves: the rows of `removed` are those of `added`; only such a change may be committed
    on a later version than was read. metadata: new columns and properties. info: more for the commit's description.
    """

    added: list[Action]
    deleted: pl.DataFrame | None = None
    removed: dict[str, Action | None] = field(default_factory=dict)
    operation: str = "WRITE"
    moves: bool = False
    metadata: Metadata | None = None
    info: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        empty = self.deleted is None or self.deleted.is_empty()
        return empty and not self.added and not self.removed and self.metadata is None


@dataclass(frozen=True)
class Definition:
    """Definition of a new table. `schema` is that of Delta's log; `deletable`: rows may be deleted from its files."""

    schema: str
    description: str = ""
    name: str | None = None
    partition_by: Sequence[str] = ()
    configuration: dict[str, str] = field(default_factory=dict)
    deletable: bool = False


class Table:
    """A table in a process. Threads share it; the snapshots that it returns do not change."""

    def __init__(self, location: Location, bounds: str | None = None) -> None:
        """bounds: column whose smallest and largest value in each file are kept."""
        self.location, self.log = location, Log(location)
        self._bounds = bounds
        self._whole = False  # whether the actions of files are kept, which a process needs that commits
        self._lock = threading.RLock()
        self._committing = threading.Lock()
        self._newest: Snapshot | None = None
        self._mark: str | None = None
        self._kept: OrderedDict[int, Snapshot] = OrderedDict()
        self._masks: dict[str, tuple[Action, NDArray[np.bool_]]] = {}

    @property
    def name(self) -> str:
        """Last part of the table's place."""
        return self.log.name

    def known(self) -> Snapshot:
        """The newest version that this process knows; only the first call reads the log."""
        return self._newest or self.newest()

    def newest(self) -> Snapshot:
        """The newest version. Raises LakeError where there is no table, a commit is damaged or it cannot be read."""
        with self._lock:
            before = self._newest
            if before is not None and self._was_made_again(before):
                self.forget()
                before = None
            state = self._state(before)
            self.log.update(state)
            if before is not None and state.version == before.version:
                return before
            return self._seen(state)

    def at(self, version: int) -> Snapshot:
        """The snapshot of a version. Raises FileNotFoundError where the log does not have it, or no longer."""
        with self._lock:
            if version in self._kept:
                self._kept.move_to_end(version)
                return self._kept[version]
            before = self._newest
            if before is not None and before.version < version and self._was_made_again(before):
                self.forget()
                before = None
            ahead = before is None or before.version < version
            state = self._state(before if ahead else None)
            self.log.update(state, version)
            return self._seen(state) if ahead else self._keep(state)

    def kept(self, file: File) -> NDArray[np.bool_] | None:
        """Mask of the rows of a file that are not deleted, up to the last deleted row; None where no row is deleted.

        Raises FileNotFoundError where the vector was vacuumed, LakeError where it is damaged.
        """
        known = self._masks.get(file.path)
        if known is not None and known[0] == file.vector:
            return known[1]
        kept = self.mask(file)
        if kept is None or file.vector is None:
            return None
        with self._lock:
            live = self._newest.files if self._newest is not None else {}
            if len(self._masks) > 2 * len(live) + 1:
                self._masks = {path: mask for path, mask in self._masks.items() if path in live}
            self._masks[file.path] = file.vector, kept
        return kept

    def mask(self, file: File) -> NDArray[np.bool_] | None:
        """The mask of `kept`, read from the file."""
        if file.vector is None:
            return None
        gone = deletion_vectors.read(self.location, file.vector)
        kept = np.ones(gone.max() + 1 if gone else 0, bool)
        kept[np.fromiter(gone, np.int64, len(gone))] = False
        return kept

    def check(self, rows: pa.Table) -> list[str]:
        """Check that rows may be written to the newest version; return the partition columns.

        Raises RuleBroken for rows that break a rule, Unsupported where no row can be written.
        """
        snapshot = self.newest()
        refuse_unwritable(self.name, snapshot.protocol, snapshot.metadata)
        partition = snapshot.metadata.partition_columns
        if len(partition) > 1 or any(name not in rows.schema.names for name in partition):
            raise LakeError(
                f"table {self.name} is partitioned by {', '.join(partition)}: it was not made by alerce-spark"
            )
        rules.check(self.name, snapshot.metadata, rows)
        return partition

    def history(self) -> Iterator[tuple[int, Action]]:
        """Versions that the log has, with their commitInfo, newest first."""
        return self.log.history(self.newest().version)

    def live(self) -> Snapshot:
        """The newest version, with the actions of its files."""
        with self._lock:
            if not self._whole:
                self._whole = True
                self.forget()
            return self.newest()

    def commit(self, version: int, change: Change, *, synced: bool) -> int:
        """Write `change`, made from `version`, as the next version; return that, or `version` for an empty change.

        Raises Conflict where the next version exists already, or where files whose rows move have changed; Unsupported
        and RuleBroken where the table does not allow the change.
        """
        if change.is_empty:
            return version
        with self._committing:
            while (made := self._try(version, change, synced)) is None:
                pass
        if made % CHECKPOINT_EVERY == 0:
            self._checkpoint(synced)
        return made

    def _state(self, before: Snapshot | None) -> State:
        """The state to read on from; it copies the files only when there are new commits."""

        def keep(add: Action) -> File:
            return kept_of(add, self._bounds, self._whole)

        if before is None:
            return State(keep)
        return _Continued(keep, before)

    def _seen(self, state: State) -> Snapshot:
        self._newest = self._keep(state)
        self._mark = self.log.mark(state.version)
        return self._newest

    def _keep(self, state: State) -> Snapshot:
        snapshot = state.snapshot()
        refuse_unreadable(self.name, snapshot.protocol, snapshot.metadata)
        self._kept[snapshot.version] = snapshot
        self._kept.move_to_end(snapshot.version)
        while len(self._kept) > _SNAPSHOTS:
            self._kept.popitem(last=False)
        return snapshot

    def _was_made_again(self, before: Snapshot) -> bool:
        mark = self.log.mark(before.version)
        if mark == self._mark:
            return False
        # The clean-up of the log deletes commits that a checkpoint covers.
        last = None if mark is not None else self.log.last_checkpoint()
        return last is None or last.version < before.version

    def forget(self) -> None:
        """Forget the state, so that the log is read from its beginning."""
        with self._lock:
            self._newest, self._mark = None, None
            self._kept.clear()
            self._masks.clear()

    def _try(self, version: int, change: Change, synced: bool) -> int | None:
        """Try to commit: the new version, or None to try again, where another writer was faster and rows only move."""
        live = self.live()
        if live.version != version and not change.moves:
            raise Conflict(f"{self.name} stands at version {live.version}, the rows were made from {version}")
        self._check(live, version, change)
        actions = [*self._removals(live, change, synced)]
        actions += ({"add": add | {"dataChange": not change.moves}} for add in change.added)
        if change.metadata is not None:
            actions.append({"metaData": change.metadata.action})
        actions = [_commit_info(version, change, len(actions) + 1, live), *actions]
        made = live.version + 1
        if not self.location.create(commit_path(made), _lines(actions), synced=synced):
            if change.moves:
                return None
            raise Conflict(f"version {made} of {self.name} was written by another application")
        with self._lock:
            if self._newest is live:
                state = self._state(live)
                state.apply(actions)
                state.version = made
                self._seen(state)
        return made

    def _check(self, live: Snapshot, version: int, change: Change) -> None:
        """Raise where the table does not allow the change."""
        refuse_unwritable(self.name, live.protocol, live.metadata)
        properties = live.metadata.configuration
        deletes = change.deleted is not None and not change.deleted.is_empty()
        if (
            (deletes or change.removed)
            and not change.moves
            and properties.get("delta.appendOnly", "").lower() == "true"
        ):
            raise LakeError(
                f"table {self.name} has delta.appendOnly = true: rows can be added only; unset it "
                "(ALTER TABLE … UNSET TBLPROPERTIES, by Spark) or use another lake"
            )
        if deletes and properties.get("delta.enableChangeDataFeed", "").lower() == "true":
            raise LakeError(
                f"table {self.name} has delta.enableChangeDataFeed = true: rows cannot be replaced or deleted here: "
                "their changes would be missing in the feed; unset it, or use another lake"
            )
        if deletes and "deletionVectors" not in live.protocol.writer_features:
            raise LakeError(f"table {self.name} lacks deletion vectors: it was not made by alerce-spark tables create")
        if change.added and live.version != version and self._rules_of(version) != live.metadata.rules_mark:
            raise Conflict(f"the rules or columns of {self.name} changed after version {version}")

    def _rules_of(self, version: int) -> str | None:
        try:
            return self.at(version).metadata.rules_mark
        except FileNotFoundError:
            return None

    def _removals(self, live: Snapshot, change: Change, synced: bool) -> Iterator[Action]:
        for path, vector in change.removed.items():
            if (_action(live, path, self.name).get("deletionVector") or None) != (vector or None):
                raise Conflict(f"rows of {path} of {self.name} were deleted meanwhile")
            yield _remove(_action(live, path, self.name), not change.moves)
        if change.deleted is None or change.deleted.is_empty():
            return
        vectors = deletion_vectors.Writer()
        for (path,), rows in change.deleted.group_by("path"):
            add = _action(live, str(path), self.name)
            gone = BitMap64(rows["position"].to_numpy().astype(np.uint64))
            if add.get("deletionVector"):
                gone |= deletion_vectors.read(self.location, add["deletionVector"])
            yield _remove(add, True)
            number = records(self, add)
            if len(gone) == number:
                continue
            stats = json.loads(add.get("stats") or "{}") | {"numRecords": number, "tightBounds": False}
            stats = json.dumps(stats, separators=(",", ":"))
            yield {"add": add | {"deletionVector": vectors.add(gone), "stats": stats, "dataChange": True}}
        if (written := vectors.put(self.location)) is not None and synced:
            self.location.settle([written])

    def _checkpoint(self, synced: bool) -> None:
        from alerce_spark.delta import handles  # noqa: PLC0415 - handles of delta-rs stand on tables

        try:
            version = handles.checkpoint(self)
            if synced:
                self.location.settle(checkpoint_paths(version))
        except (handles.DeltaError, OSError) as error:
            # Readers then read more commits; the next checkpoint is tried after CHECKPOINT_EVERY versions.
            log.warning("no checkpoint of %s at version %d: %s", self.name, self.known().version, error)


class _Continued(State):
    """A state that starts from a snapshot and does not change the snapshot's files."""

    def __init__(self, keep: Callable[[Action], File], before: Snapshot) -> None:
        super().__init__(keep, before.version, dict(before.files), before.protocol.action, before.metadata, before.time)


def _action(live: Snapshot, path: str, table: str) -> Action:
    file = live.files.get(path)
    if file is None or file.action is None:
        raise Conflict(f"{path} is no longer a file of {table}")
    return file.action


def _remove(add: Action, data_change: bool) -> Action:
    remove = {"path": add["path"], "deletionTimestamp": _now_ms(), "dataChange": data_change}
    remove |= {"extendedFileMetadata": True, "partitionValues": add["partitionValues"], "size": add["size"]}
    if add.get("deletionVector"):
        remove["deletionVector"] = add["deletionVector"]
    return {"remove": remove}


def _commit_info(version: int, change: Change, actions: int, live: Snapshot) -> Action:
    rows = sum(json.loads(add["stats"])["numRecords"] for add in change.added)
    deleted = 0 if change.deleted is None else len(change.deleted)
    counts = {"numFiles": str(len(change.added)), "numOutputRows": str(rows), "numDeletedRows": str(deleted)}
    counts[ACTIONS] = str(actions)
    parameters = {"mode": "Append"} if change.operation == "WRITE" and not change.removed else {}
    info = _info(change.operation, parameters, {"readVersion": version, "operationMetrics": counts, **change.info})
    if live.metadata.configuration.get("delta.enableInCommitTimestamps", "").lower() == "true":
        info["commitInfo"]["inCommitTimestamp"] = max(_now_ms(), live.time + 1)
    return info


def _info(operation: str, parameters: dict[str, str], more: Action) -> Action:
    info = {"timestamp": _now_ms(), "operation": operation, "operationParameters": parameters, **more}
    info |= {"isolationLevel": "Serializable", "isBlindAppend": False, "engineInfo": "alerce_spark"}
    return {"commitInfo": info | {"txnId": str(uuid.uuid4())}}


def _lines(actions: Iterable[Action]) -> bytes:
    return "\n".join(json.dumps(action, separators=(",", ":")) for action in actions).encode()


def _now_ms() -> int:
    return int(time.time() * 1000)


def create(
    location: Location,
    definition: Definition,
    *,
    synced: bool,
    added: Sequence[Action] = (),
    info: dict[str, str] | None = None,
) -> bool:
    """Make a table, with the files `added`; False where it exists already. `info` is kept in the commit."""
    features = ["appendOnly", "invariants"]
    configuration = definition.configuration
    protocol: Action = {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": features}
    if any(key.startswith("delta.constraints.") for key in configuration):
        features.append("checkConstraints")
    if definition.deletable:
        features.append("deletionVectors")
        protocol |= {"minReaderVersion": 3, "readerFeatures": ["deletionVectors"]}
        configuration = configuration | {"delta.enableDeletionVectors": "true"}
    named = {} if definition.name is None else {"name": definition.name}
    described = {
        "id": str(uuid.uuid4()),
        **named,
        "description": definition.description,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": definition.schema,
        "partitionColumns": list(definition.partition_by),
        "configuration": configuration,
        "createdTime": _now_ms(),
    }
    metrics = {"operationMetrics": {ACTIONS: str(3 + len(added))}, **(info or {})}
    first = [_info("CREATE TABLE", {}, metrics), {"protocol": protocol}, {"metaData": described}]
    lines = _lines([*first, *({"add": add} for add in added)])
    if not location.create(commit_path(0), lines, synced=synced):
        return False
    if synced:
        location.settle([commit_path(0)])  # and its new folders
    return True


def is_made(location: Location) -> bool:
    """Whether there is a table. Raises LakeError where its store does not answer."""
    return Log(location).is_made()


@cache
def _table(location: Location, bounds: str | None) -> Table:
    return Table(location, bounds)


_opening = threading.Lock()


def open(location: Location, bounds: str | None = None) -> Table:
    """The table at a place, one per process. bounds: column whose smallest and largest value in each file are kept."""
    with _opening:
        return _table(location, bounds)


def forget() -> None:
    """Forget all tables, as in a new process."""
    _table.cache_clear()
