"""Tables made and changed without Spark: files added, rows deleted by deletion vectors, a new version of the Delta log.

Spark needs two to three seconds of driver CPU for an append or a MERGE of any size; writing the version ourselves
takes milliseconds (docs/decisions.md, "Commits"). What is written follows the Delta protocol (PROTOCOL.md of
delta-io/delta: "Add File and Remove File", "Deletion Vectors"), so Spark, delta-rs and polars read it like any other.

A commit is made from the version that its writer read, or not at all: the file of the next version is created only if
it is not there, which file systems and S3 do atomically. A writer that was overtaken gets Conflict and starts over.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from deltalake import Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from pyroaring import BitMap64

from alerce_spark.lake import deletion_vectors
from alerce_spark.lake.handles import SYNC_PROPERTY, delta_table, is_synced, settle_commit
from alerce_spark.lake.snapshots import ACTIONS, CHECKPOINT_EVERY, Reader, checkpoint_paths, commit_path
from alerce_spark.lake.storage import Action, LakeError, publish, settle, store
from alerce_spark.lake.tables import Table

log = logging.getLogger(__name__)

#: Features of the tables that this writer honours; it refuses a table with another one.
_KNOWN_FEATURES = {"deletionVectors", "invariants", "appendOnly", "checkConstraints"}


class Conflict(LakeError):
    """Another writer made the version that was to be written: read again and start over."""


@dataclass(frozen=True)
class Change:
    """What is to be done to one table in one commit.

    added: actions of new files (`lake/files.py`). deleted: rows to go, columns path (file in the table) and position
    (row in the file, deleted rows counted). removed: files whose rows move into those added, each with the deletion
    vector that it had when it was read (None: none); only these may be committed on a later version than was read.
    """

    added: list[Action]
    deleted: pl.DataFrame | None = None
    removed: dict[str, Action | None] = field(default_factory=dict)
    operation: str = "WRITE"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.added and not self.removed and (self.deleted is None or self.deleted.is_empty())


def create(lake: str, table: Table, configuration: dict[str, str]) -> bool:
    """Make an empty table from its definition; False where it exists already.

    `configuration` holds its properties. Tables on the sky are partitioned by pixel and may have rows deleted.
    """
    protocol: Action = {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["appendOnly", "invariants"]}
    if table.checks:
        protocol["writerFeatures"].append("checkConstraints")
        configuration = configuration | {f"delta.constraints.{name}": sql for name, sql in table.checks}
    if table.on_sky:
        protocol["writerFeatures"].append("deletionVectors")
        protocol |= {"minReaderVersion": 3, "readerFeatures": ["deletionVectors"]}
        configuration = configuration | {"delta.enableDeletionVectors": "true"}
    described = {
        "id": str(uuid.uuid4()),
        "description": table.comment,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": table.delta_schema,
        "partitionColumns": ["pixel"] if table.on_sky else [],
        "configuration": configuration,
        "createdTime": _now_ms(),
    }
    info = _info("CREATE TABLE", {}, {"operationMetrics": {ACTIONS: "3"}})
    files = store(lake, table.name)
    synced = configuration.get(SYNC_PROPERTY) != "false"
    lines = _lines([info, {"protocol": protocol}, {"metaData": described}])
    if not publish(files, commit_path(0), lines, synced=synced):
        return False
    if synced:
        settle(files, [commit_path(0)])  # its new folders too
    return True


def add_columns(lake: str, table: Table) -> list[str]:
    """Add the columns of the definition that a stored table lacks; returns their names. Stored rows have nulls there.

    Raises Conflict where another writer committed meanwhile, LakeError for a new column that may not be null.
    """
    stored = delta_table(lake, table.name)
    known = {field.name for field in stored.schema().fields}
    missing = [field for field in Schema.from_json(table.delta_schema).fields if field.name not in known]
    if required := [field.name for field in missing if not field.nullable]:
        raise LakeError(
            f"table {table.name} lacks {', '.join(required)}: make a new lake and import the archive into it"
        )
    if missing:
        try:
            stored.alter.add_columns(missing)
            settle_commit(stored)
        except CommitFailedError as error:
            raise Conflict(f"columns of {table.name}: {error}") from None
    return [field.name for field in missing]


def commit(lake: str, table: str, version: int, change: Change) -> int:
    """Write `change`, made from `version`, as the version after it; returns the new version, `version` for no change.

    Raises Conflict where that version exists already, or where files whose rows move are no longer as they were;
    LakeError for a table with a feature that is not known here.
    """
    return version if change.is_empty else _log(lake, table).commit(version, change)


@dataclass(frozen=True)
class Live:
    """The live files of a table at a version: their actions, by path."""

    version: int
    files: dict[str, Action]


def files(lake: str, table: str) -> Live:
    """The live files of a table at its newest version."""
    return _log(lake, table).live()


def deleted_share(add: Action) -> float:
    """Share of the rows of a file that are deleted."""
    vector = add.get("deletionVector")
    return vector["cardinality"] / json.loads(add["stats"])["numRecords"] if vector else 0.0


class _Log(Reader):
    """What is committed to a table."""

    def __init__(self, lake: str, table: str) -> None:
        super().__init__(lake, table)
        self._lock = threading.Lock()

    def live(self) -> Live:
        """As the function `files`."""
        with self._lock:
            self._update()
            return Live(self._version, dict(self._files))

    def commit(self, version: int, change: Change) -> int:
        """As the function `commit`."""
        with self._lock:
            while (made := self._try(version, change)) is None:
                pass
        if made % CHECKPOINT_EVERY == 0:
            self._checkpoint()
        return made

    def _try(self, version: int, change: Change) -> int | None:
        """The new version; None where another writer was faster and rows only move: then once more."""
        self._update()
        moves = bool(change.removed)
        if self._version != version and not moves:
            raise Conflict(f"{self._table} stands at version {self._version}, the rows were made from {version}")
        self._check_features(change)
        actions = [*self._removals(change), *({"add": add | {"dataChange": not moves}} for add in change.added)]
        actions = [_commit_info(version, change, len(actions) + 1), *actions]
        made = self._version + 1
        if not publish(self._store, commit_path(made), _lines(actions), synced=is_synced(self._lake)):
            if moves:
                return None
            raise Conflict(f"version {made} of {self._table} was written by another application")
        self._apply(actions)
        self._version = made
        return made

    def _check_features(self, change: Change) -> None:
        if unknown := self._features - _KNOWN_FEATURES:
            raise LakeError(f"table {self._table} has features that are not supported: {', '.join(sorted(unknown))}")
        if change.deleted is not None and len(change.deleted) and "deletionVectors" not in self._features:
            raise LakeError(
                f"table {self._table} lacks deletion vectors: it was not made by alerce-spark tables create"
            )

    def _removals(self, change: Change) -> Iterator[Action]:
        for path, vector in change.removed.items():
            if self._file(path).get("deletionVector") != vector:
                raise Conflict(f"rows of {path} of {self._table} were deleted meanwhile")
            yield self._remove(path, False)
        if change.deleted is None or change.deleted.is_empty():
            return
        vectors = deletion_vectors.Writer()
        for (path,), rows in change.deleted.group_by("path"):
            add = self._file(str(path))
            gone = BitMap64(rows["position"].to_numpy().astype(np.uint64))
            if add.get("deletionVector"):
                gone |= deletion_vectors.read(self._store, add["deletionVector"])
            yield self._remove(str(path), True)
            stats = json.loads(add["stats"])
            if len(gone) == stats["numRecords"]:
                continue
            stats = json.dumps(stats | {"tightBounds": False}, separators=(",", ":"))
            yield {"add": add | {"deletionVector": vectors.add(gone), "stats": stats, "dataChange": True}}
        if (written := vectors.put(self._store)) is not None and is_synced(self._lake):
            settle(self._store, [written])

    def _file(self, path: str) -> Action:
        try:
            return self._files[path]
        except KeyError:
            raise Conflict(f"{path} is no longer a file of {self._table}") from None

    def _remove(self, path: str, data_change: bool) -> Action:
        add = self._file(path)
        remove = {"path": path, "deletionTimestamp": _now_ms(), "dataChange": data_change, "extendedFileMetadata": True}
        remove |= {"partitionValues": add["partitionValues"], "size": add["size"]}
        if add.get("deletionVector"):
            remove["deletionVector"] = add["deletionVector"]
        return {"remove": remove}

    def _checkpoint(self) -> None:
        try:
            handle = delta_table(self._lake, self._table)
            handle.create_checkpoint()
            if is_synced(self._lake):
                settle(self._store, checkpoint_paths(handle.version()))
        except (DeltaError, OSError) as error:
            # Readers then take more commits one by one; the next one is tried in CHECKPOINT_EVERY versions.
            log.warning("no checkpoint of %s at version %d: %s", self._table, self._version, error)


def _commit_info(version: int, change: Change, actions: int) -> Action:
    rows = sum(json.loads(add["stats"])["numRecords"] for add in change.added)
    deleted = 0 if change.deleted is None else len(change.deleted)
    counts = {"numFiles": str(len(change.added)), "numOutputRows": str(rows), "numDeletedRows": str(deleted)}
    counts[ACTIONS] = str(actions)
    parameters = {"mode": "Append"} if change.operation == "WRITE" else {}
    return _info(change.operation, parameters, {"readVersion": version, "operationMetrics": counts})


def _info(operation: str, parameters: dict[str, str], more: Action) -> Action:
    info = {"timestamp": _now_ms(), "operation": operation, "operationParameters": parameters, **more}
    info |= {"isolationLevel": "Serializable", "isBlindAppend": False, "engineInfo": "alerce_spark"}
    return {"commitInfo": info | {"txnId": str(uuid.uuid4())}}


def _lines(actions: Iterable[Action]) -> bytes:
    return "\n".join(json.dumps(action, separators=(",", ":")) for action in actions).encode()


def _now_ms() -> int:
    return int(time.time() * 1000)


_logs: dict[tuple[str, str], _Log] = {}
_logs_lock = threading.Lock()


def _log(lake: str, table: str) -> _Log:
    with _logs_lock:
        if (lake, table) not in _logs:
            _logs[lake, table] = _Log(lake, table)
        return _logs[lake, table]
