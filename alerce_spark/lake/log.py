"""Tables made and changed without Spark: files added, rows deleted by deletion vectors, a new version of the Delta log.

Spark needs two to three seconds of driver CPU for an append or a MERGE of any size; writing the version ourselves
takes milliseconds (docs/decisions.md, "Commits"). What is written follows the Delta protocol (PROTOCOL.md of
delta-io/delta: "Add File and Remove File", "Deletion Vectors"), so Spark, delta-rs and polars read it like any other.

A commit is made from the version that its writer read, or not at all: the file of the next version is created only if
it is not there, which file systems and S3 do atomically. A writer that was overtaken gets Conflict and starts over.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import logging
import struct
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from deltalake import Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from numpy.typing import NDArray
from obstore.exceptions import AlreadyExistsError, NotFoundError
from pyroaring import BitMap64

from alerce_spark.lake.storage import LakeError, Store, delta_table, store
from alerce_spark.lake.tables import Table

log = logging.getLogger(__name__)

Action = dict[str, Any]

#: Features of the tables that this writer honours; it refuses a table with another one.
_KNOWN_FEATURES = {"deletionVectors", "invariants", "appendOnly", "checkConstraints"}
#: A checkpoint is written every so many versions.
_CHECKPOINT_EVERY = 20
#: First number of a serialised array of bitmaps, and the byte that opens a file of them.
_MAGIC = 1681511377
_DV_FILE_VERSION = b"\x01"
#: Python's base85 has the characters of RFC 1924, Delta those of Z85, in the same order of values.
_RFC1924 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_TO_Z85, _FROM_Z85 = str.maketrans(_RFC1924, _Z85), str.maketrans(_Z85, _RFC1924)
_UUID_CHARS = 20


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
    info = _info("CREATE TABLE", {}, {})
    try:
        store(lake, table.name).put(
            _commit_path(0), _lines([info, {"protocol": protocol}, {"metaData": described}]), mode="create"
        )
    except AlreadyExistsError:
        return False
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


class _Reader:
    """The live files of a table at a version, kept up to date by reading what was committed since."""

    def __init__(self, lake: str, table: str) -> None:
        self._lake, self._table = lake, table
        self._store: Store = store(lake, table)
        self._version = -1
        self._files: dict[str, Action] = {}
        self._features: set[str] = set()

    def _update(self, until: int | None = None) -> None:
        """Read what was committed up to the version `until`, or up to the newest."""
        newest = last = self._last_checkpoint()
        if until is not None and newest is not None and newest["version"] > until:
            last = self._checkpoint_before(until)
        # The first look takes a checkpoint, or one after commits so old that the log no longer has them one by one.
        ahead = last if last is not None and last["version"] > self._version else None
        if ahead is not None and (self._version < 0 or self._read(self._version + 1) is None):
            self._load(ahead)
        while self._version != until and (actions := self._read(self._version + 1)) is not None:
            self._apply(actions)
            self._version += 1
        if self._version < 0 and newest is None:
            raise LakeError(f"no table {self._table} in {self._lake}; make it with: alerce-spark tables create")
        if until is not None and self._version < until:
            raise FileNotFoundError(f"the log of {self._table} no longer has version {until}")

    def _last_checkpoint(self) -> Action | None:
        try:
            found = self._store.get("_delta_log/_last_checkpoint").bytes()
        except (NotFoundError, FileNotFoundError):
            return None
        checkpoint: Action = json.loads(bytes(found))
        return checkpoint

    def _checkpoint_before(self, version: int) -> Action | None:
        """The last checkpoint of ours up to a version that is older than the newest checkpoint."""
        for made in range(version - version % _CHECKPOINT_EVERY, 0, -_CHECKPOINT_EVERY):
            with suppress(NotFoundError, FileNotFoundError):
                self._store.head(_checkpoint_path(made))
                return {"version": made}
        return None

    def _load(self, last: Action) -> None:
        self._files.clear()
        parts = last.get("parts")
        whole = _checkpoint_path(last["version"])
        stem = whole.removesuffix(".parquet")
        names = [f"{stem}.{k + 1:010d}.{parts:010d}.parquet" for k in range(parts)] if parts else [whole]
        for name in names:
            file = pq.ParquetFile(io.BytesIO(bytes(self._store.get(name).bytes())))
            wanted = [c for c in ("add", "protocol") if c in file.schema_arrow.names]
            self._apply(_without_nulls(row) for row in file.read(wanted).to_pylist())
        self._version = int(last["version"])

    def _read(self, version: int) -> list[Action] | None:
        try:
            found = self._store.get(_commit_path(version)).bytes()
        except (NotFoundError, FileNotFoundError):
            return None
        return [json.loads(line) for line in bytes(found).splitlines() if line]

    def _apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if "add" in action:
                add = action["add"]
                if isinstance(add["partitionValues"], list):  # a map of a checkpoint
                    add["partitionValues"] = dict(add["partitionValues"])
                self._files[add["path"]] = add
            elif "remove" in action:
                # A file whose deletion vector changes is removed and added in one commit: the order does not matter.
                remove = action["remove"]
                known = self._files.get(remove["path"])
                if known is not None and known.get("deletionVector") == remove.get("deletionVector"):
                    del self._files[remove["path"]]
            elif "protocol" in action:
                self._features = set(action["protocol"].get("writerFeatures") or ())

    def _deleted(self, vector: Action) -> BitMap64:
        """Rows of a file that are deleted already. Raises LakeError for a vector that is damaged or not in a file."""
        text = vector["pathOrInlineDv"]
        if vector["storageType"] != "u":
            raise LakeError(f"a deletion vector of {self._table} is stored in a way not known here: {vector}")
        prefix, name = text[:-_UUID_CHARS], base64.b85decode(text[-_UUID_CHARS:].translate(_FROM_Z85))
        path = f"{prefix}/" * bool(prefix) + f"deletion_vector_{uuid.UUID(bytes=name)}.bin"
        size = vector["sizeInBytes"]
        try:
            found = bytes(self._store.get_range(path, start=vector["offset"], length=size + 8))
        except NotFoundError as error:
            raise FileNotFoundError(f"the deletion vector {path} of {self._table} is gone") from error
        data = found[4:-4]
        if struct.unpack(">i", found[:4])[0] != size or struct.unpack(">I", found[-4:])[0] != binascii.crc32(data):
            raise LakeError(f"the deletion vector {path} of {self._table} is damaged")
        return BitMap64.deserialize(data[4:])


class Snapshots(_Reader):
    """Files of a table at one version after the other, and which of their rows are deleted.

    In place of delta-rs' `deletion_vectors`, which reads those of all files, each in a thread that waits for another
    thread of the same 512: with so many files that have one it waits for ever (docs/decisions.md).
    """

    def __init__(self, lake: str, table: str) -> None:
        super().__init__(lake, table)
        self._kept: dict[str, tuple[Action, NDArray[np.bool_]]] = {}

    def at(self, version: int) -> dict[str, Action]:
        """Actions of the live files at `version`, by path; not to be changed, and good until the next call."""
        if version == self._version:
            return self._files
        if version < self._version:
            self._files, self._version = {}, -1
        self._update(version)
        if len(self._kept) > 2 * len(self._files):
            self._kept = {path: kept for path, kept in self._kept.items() if path in self._files}
        return self._files

    def kept(self, path: str) -> NDArray[np.bool_] | None:
        """Which rows of a live file are there, up to the last one that is not; None where all are.

        Raises FileNotFoundError where the vector was vacuumed, LakeError where it is damaged.
        """
        vector = self._files[path].get("deletionVector")
        if vector is None:
            return None
        known = self._kept.get(path)
        if known is None or known[0] != vector:
            gone = self._deleted(vector)
            kept = np.ones(gone.max() + 1 if gone else 0, bool)
            kept[np.fromiter(gone, np.int64, len(gone))] = False
            known = self._kept[path] = vector, kept
        return known[1]


class _Log(_Reader):
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
        if made % _CHECKPOINT_EVERY == 0:
            self._checkpoint()
        return made

    def _try(self, version: int, change: Change) -> int | None:
        """The new version; None where another writer was faster and rows only move: then once more."""
        self._update()
        moves = bool(change.removed)
        if self._version != version and not moves:
            raise Conflict(f"{self._table} stands at version {self._version}, the rows were made from {version}")
        self._check_features(change)
        actions = [_commit_info(version, change), *self._removals(change)]
        actions += [{"add": add | {"dataChange": not moves}} for add in change.added]
        made = self._version + 1
        try:
            self._store.put(_commit_path(made), _lines(actions), mode="create")
        except AlreadyExistsError:
            if moves:
                return None
            raise Conflict(f"version {made} of {self._table} was written by another application") from None
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
        file, offset, kept = f"{uuid.uuid4()}", len(_DV_FILE_VERSION), [_DV_FILE_VERSION]
        for (path,), rows in change.deleted.group_by("path"):
            add = self._file(str(path))
            gone = BitMap64(rows["position"].to_numpy().astype(np.uint64))
            if add.get("deletionVector"):
                gone |= self._deleted(add["deletionVector"])
            yield self._remove(str(path), True)
            stats = json.loads(add["stats"])
            if len(gone) == stats["numRecords"]:
                continue
            data = struct.pack("<i", _MAGIC) + gone.serialize()
            vector = {
                "storageType": "u",
                "pathOrInlineDv": base64.b85encode(uuid.UUID(file).bytes).decode().translate(_TO_Z85),
                "offset": offset,
                "sizeInBytes": len(data),
                "cardinality": len(gone),
            }
            kept.append(struct.pack(">i", len(data)) + data + struct.pack(">I", binascii.crc32(data)))
            offset += len(kept[-1])
            stats = json.dumps(stats | {"tightBounds": False}, separators=(",", ":"))
            yield {"add": add | {"deletionVector": vector, "stats": stats, "dataChange": True}}
        if len(kept) > 1:
            self._store.put(f"deletion_vector_{file}.bin", b"".join(kept))

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
            delta_table(self._lake, self._table).create_checkpoint()
        except (DeltaError, OSError) as error:
            # Readers then take more commits one by one; the next one is tried in _CHECKPOINT_EVERY versions.
            log.warning("no checkpoint of %s at version %d: %s", self._table, self._version, error)


def _commit_info(version: int, change: Change) -> Action:
    rows = sum(json.loads(add["stats"])["numRecords"] for add in change.added)
    deleted = 0 if change.deleted is None else len(change.deleted)
    counts = {"numFiles": str(len(change.added)), "numOutputRows": str(rows), "numDeletedRows": str(deleted)}
    parameters = {"mode": "Append"} if change.operation == "WRITE" else {}
    return _info(change.operation, parameters, {"readVersion": version, "operationMetrics": counts})


def _info(operation: str, parameters: dict[str, str], more: Action) -> Action:
    info = {"timestamp": _now_ms(), "operation": operation, "operationParameters": parameters, **more}
    info |= {"isolationLevel": "Serializable", "isBlindAppend": False, "engineInfo": "alerce_spark"}
    return {"commitInfo": info | {"txnId": str(uuid.uuid4())}}


def _lines(actions: Iterable[Action]) -> bytes:
    return "\n".join(json.dumps(action, separators=(",", ":")) for action in actions).encode()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def _commit_path(version: int) -> str:
    return f"_delta_log/{version:020d}.json"


def _checkpoint_path(version: int) -> str:
    return f"_delta_log/{version:020d}.checkpoint.parquet"


def _now_ms() -> int:
    return int(time.time() * 1000)


_logs: dict[tuple[str, str], _Log] = {}
_logs_lock = threading.Lock()


def _log(lake: str, table: str) -> _Log:
    with _logs_lock:
        if (lake, table) not in _logs:
            _logs[lake, table] = _Log(lake, table)
        return _logs[lake, table]
