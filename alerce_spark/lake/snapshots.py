"""What the log of a Delta table says: its live files at one version after another, their deleted rows.

Read by ourselves, commit after commit from the last checkpoint on (PROTOCOL.md of delta-io/delta, "Actions"): a look
at what is new costs one request, and deletion vectors are read only where they are asked for.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from obstore.exceptions import NotFoundError

from alerce_spark.lake import deletion_vectors
from alerce_spark.lake.storage import Action, LakeError, Store, store

log = logging.getLogger(__name__)

#: A checkpoint is written every so many versions.
CHECKPOINT_EVERY = 20
#: Metric of our commits: how many lines they have, so that one that is cut between two is seen.
ACTIONS = "numActions"
_HINT = "_delta_log/_last_checkpoint"
_CHECKPOINT = re.compile(r"_delta_log/([0-9]{20})\.checkpoint\.parquet")
#: Damaged files that this process has named.
_named: set[str] = set()


class Reader:
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
            self._try_load(ahead)
        while self._version != until and (actions := self._read(self._version + 1)) is not None:
            self._apply(actions)
            self._version += 1
        if self._version < 0 and newest is None:
            raise LakeError(f"no table {self._table} in {self._lake}; make it with: alerce-spark tables create")
        if until is not None and self._version < until:
            raise FileNotFoundError(f"the log of {self._table} no longer has version {until}")

    def damaged(self, path: str, how: str) -> LakeError:
        """The error about a file of the table without which it cannot be read."""
        return LakeError(
            f"{path} of the table {self._table} in {self._lake} {how}; a power cut or a full disk does that. "
            "docs/operations.md says how to go on: After a power cut"
        )

    def _pass_over(self, path: str, error: Exception) -> None:
        """Name a damaged file that can be done without, once."""
        name = f"{self._lake}/{self._table}/{path}"
        if name not in _named:
            _named.add(name)
            log.warning("%s is damaged and passed over: %s", name, str(error).splitlines()[0])

    def _last_checkpoint(self) -> Action | None:
        try:
            found = self._store.get(_HINT).bytes()
        except (NotFoundError, FileNotFoundError):
            return None
        try:
            checkpoint: Action = json.loads(bytes(found))
            checkpoint["version"] = int(checkpoint["version"])
            return checkpoint
        except (ValueError, KeyError, TypeError) as error:
            self._pass_over(_HINT, error)
        return self._newest_checkpoint()

    def _newest_checkpoint(self) -> Action | None:
        """The last checkpoint of ours that is there, without the file that says so."""
        paths = (item["path"] for page in self._store.list("_delta_log") for item in page)
        made = [int(found[1]) for path in paths if (found := _CHECKPOINT.fullmatch(path))]
        return {"version": max(made)} if made else None

    def _checkpoint_before(self, version: int) -> Action | None:
        """The last checkpoint of ours up to a version that is older than the newest checkpoint."""
        for made in range(version - version % CHECKPOINT_EVERY, 0, -CHECKPOINT_EVERY):
            if self._has(_checkpoint_path(made)):
                return {"version": made}
        return None

    def _try_load(self, last: Action) -> None:
        """Begin with a checkpoint, or, where it is damaged and they are there, with the commits before it."""
        try:
            self._load(last)
        except (pa.ArrowInvalid, OSError, NotFoundError) as error:
            path = _checkpoint_path(last["version"])
            if self._read(self._version + 1) is None:
                raise self.damaged(path, "is damaged or missing") from error
            self._pass_over(path, error)

    def _load(self, last: Action) -> None:
        parts = last.get("parts")
        whole = _checkpoint_path(last["version"])
        stem = whole.removesuffix(".parquet")
        names = [f"{stem}.{k + 1:010d}.{parts:010d}.parquet" for k in range(parts)] if parts else [whole]
        rows = []
        for name in names:
            file = pq.ParquetFile(io.BytesIO(bytes(self._store.get(name).bytes())))
            wanted = [c for c in ("add", "protocol") if c in file.schema_arrow.names]
            rows += file.read(wanted).to_pylist()
        self._files.clear()
        self._apply(map(_without_nulls, rows))
        self._version = int(last["version"])

    def _read(self, version: int) -> list[Action] | None:
        try:
            found = self._store.get(commit_path(version)).bytes()
        except (NotFoundError, FileNotFoundError):
            return None
        try:
            actions: list[Action] = [json.loads(line) for line in bytes(found).decode().splitlines() if line]
        except ValueError as error:
            raise self.damaged(commit_path(version), "is damaged or cut off") from error
        if not actions:
            raise self.damaged(commit_path(version), "is empty")
        wanted = actions[0].get("commitInfo", {}).get("operationMetrics", {}).get(ACTIONS)
        if wanted is not None and int(wanted) != len(actions):
            raise self.damaged(commit_path(version), f"has {len(actions)} of {wanted} lines")
        return actions

    def _apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if "add" in action:
                add = action["add"]
                if isinstance(add["partitionValues"], list):  # a map of a checkpoint
                    add["partitionValues"] = dict(add["partitionValues"])
                self._files[add["path"]] = self._known(add)
            elif "remove" in action:
                # A file whose deletion vector changes is removed and added in one commit: the order does not matter.
                remove = action["remove"]
                known = self._files.get(remove["path"])
                if known is not None and known.get("deletionVector") == remove.get("deletionVector"):
                    del self._files[remove["path"]]
            elif "protocol" in action:
                self._features = set(action["protocol"].get("writerFeatures") or ())

    def check(self, version: int) -> None:
        """Raise LakeError where the commit of this version is damaged."""
        self._read(version)

    @property
    def files(self) -> Store:
        """The files of the table."""
        return self._store

    def _known(self, add: Action) -> Action:
        """What is kept of a live file's action: all of it, for whoever commits."""
        return add

    def newest(self) -> int:
        """Read up to the newest version, which is returned. Raises LakeError where a commit is damaged.

        Raises FileNotFoundError where the table was made again.
        """
        before = self._version
        self._update()
        if self._version == before and not self._has(commit_path(before)) and not self._has(_checkpoint_path(before)):
            raise FileNotFoundError(f"the log of {self._table} no longer has version {before}")
        return self._version

    def _has(self, path: str) -> bool:
        try:
            self._store.head(path)
        except (NotFoundError, FileNotFoundError):
            return False
        return True


class Snapshots(Reader):
    """Files of a table at one version after the other, and which of their rows are deleted.

    Every process that reads has one of each table, so it keeps little of a file: 0.6 kB where the log has 2.
    """

    def __init__(self, lake: str, table: str) -> None:
        super().__init__(lake, table)
        self._kept: dict[str, tuple[Action, NDArray[np.bool_]]] = {}

    def _known(self, add: Action) -> Action:
        """path, size, deletionVector, pixel, and the smallest and largest `healpix29`; the last three may be absent."""
        known = {"path": add["path"], "size": add["size"]}
        if vector := add.get("deletionVector"):
            known["deletionVector"] = vector
        if (pixel := add["partitionValues"].get("pixel")) is not None:
            known["pixel"] = int(pixel)
        stats = json.loads(add.get("stats") or "{}")
        bounds = [(stats.get(name) or {}).get("healpix29") for name in ("minValues", "maxValues")]
        if None not in bounds:
            known["healpix29"] = tuple(bounds)
        return known

    def at(self, version: int) -> dict[str, Action]:
        """The live files at `version`, by path, as `_known`; not to be changed, and good until the next call."""
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
            gone = deletion_vectors.read(self._store, vector)
            kept = np.ones(gone.max() + 1 if gone else 0, bool)
            kept[np.fromiter(gone, np.int64, len(gone))] = False
            known = self._kept[path] = vector, kept
        return known[1]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def commit_path(version: int) -> str:
    return f"_delta_log/{version:020d}.json"


def _checkpoint_path(version: int) -> str:
    return f"_delta_log/{version:020d}.checkpoint.parquet"


def checkpoint_paths(version: int) -> list[str]:
    """The files of a checkpoint in one part."""
    return [_checkpoint_path(version), _HINT]
