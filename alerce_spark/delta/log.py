"""The log of a Delta table: its live files at each version.

It is read commit by commit from the last checkpoint on (PROTOCOL.md of delta-io/delta, "Actions", "Checkpoints"), so
looking for new commits costs one request.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from alerce_spark.delta.protocol import Action, Metadata, Protocol
from alerce_spark.errors import LakeError
from alerce_spark.location import Location

log = logging.getLogger(__name__)

#: Metric of our commits: their number of lines, so that a file cut off between two lines is recognised.
ACTIONS = "numActions"
FOLDER = "_delta_log"
HINT = f"{FOLDER}/_last_checkpoint"
#: Checkpoints: whole, in parts (number, of how many), or with a UUID in their name.
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10})|\.[0-9a-f-]{36})?\.(parquet|json)")
_COMMIT = re.compile(r"\d{20}\.json")
#: Damaged files that this process has named.
_named: set[str] = set()
#: Partition values as the log spells them, each kept once.
_partitions: dict[tuple[tuple[str, str | None], ...], dict[str, str | None]] = {}


@dataclass(frozen=True, slots=True)
class File:
    """A live file: its path as the log spells it, bytes, partition values, deletion vector, bounds of one column.

    `action` is the whole action of the log, kept only in a process that commits.
    """

    path: str
    size: int
    partition: Mapping[str, str | None]
    vector: Action | None
    bounds: tuple[Any, Any] | None
    action: Action | None

    @property
    def place(self) -> str:
        """Path of the file in the table, without %-escapes."""
        return unquote(self.path)


@dataclass(frozen=True)
class Snapshot:
    """A table at one version. It does not change, so threads share it."""

    version: int
    files: Mapping[str, File]
    metadata: Metadata
    protocol: Protocol
    #: Time of its commit [ms] where the table has such times (inCommitTimestamp).
    time: int


class NotMade(LakeError):
    """There is no table at this place."""


class Checkpoint(NamedTuple):
    """A checkpoint: its version, and its files in the log."""

    version: int
    paths: list[str]


@dataclass
class State:
    """The state of a table while its log is read. `keep` chooses the part of a file's action that is kept."""

    keep: Callable[[Action], File]
    version: int = -1
    files: dict[str, File] = field(default_factory=dict)
    protocol: Action | None = None
    metadata: Metadata | None = None
    time: int = 0

    def apply(self, actions: Iterable[Action]) -> None:
        """Apply the actions of a commit, or of a part of a checkpoint."""
        for action in actions:
            if "add" in action:
                add = action["add"]
                if isinstance(add["partitionValues"], list):  # a map of a checkpoint
                    add["partitionValues"] = dict(add["partitionValues"])
                self.files[add["path"]] = self.keep(add)
            elif "remove" in action:
                # A file whose deletion vector changes is removed and added in one commit: the order does not matter.
                remove = action["remove"]
                known = self.files.get(remove["path"])
                if known is not None and _same(known.vector, remove.get("deletionVector")):
                    del self.files[remove["path"]]
            elif "protocol" in action:
                self.protocol = action["protocol"]
            elif "metaData" in action:
                described = dict(action["metaData"])
                described["configuration"] = dict(described.get("configuration") or {})
                self.metadata = Metadata(described)
            elif "commitInfo" in action:
                self.time = int(action["commitInfo"].get("inCommitTimestamp") or 0)

    def snapshot(self) -> Snapshot:
        """The state as an immutable Snapshot."""
        assert self.metadata is not None
        return Snapshot(self.version, self.files, self.metadata, Protocol(self.protocol or {}), self.time)


def _same(one: Action | None, other: Action | None) -> bool:
    """Whether two deletion vectors are the same."""
    return _identity(one) == _identity(other)


def _identity(vector: Action | None) -> tuple[Any, ...] | None:
    return None if not vector else (vector["storageType"], vector["pathOrInlineDv"], vector.get("offset"))


def kept_of(add: Action, column: str | None, whole: bool) -> File:
    """The part of an action that is kept: a reader that runs for months in many processes keeps little."""
    values = tuple((add.get("partitionValues") or {}).items())
    bounds = None
    if column is not None and f'"{column}"' in (add.get("stats") or ""):
        stats = json.loads(add["stats"])
        ends = tuple((stats.get(name) or {}).get(column) for name in ("minValues", "maxValues"))
        bounds = None if None in ends else (ends[0], ends[1])
    return File(
        add["path"],
        add["size"],
        _partitions.setdefault(values, dict(values)),
        add.get("deletionVector"),
        bounds,
        add if whole else None,
    )


class Log:
    """The files of a table's log."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.folder, _, self.name = location.place.rpartition("/")

    def is_made(self) -> bool:
        """Whether there is a log."""
        if self.location.status(commit_path(0)) is not None:
            return True
        return any(_COMMIT.fullmatch(n) or _CHECKPOINT.fullmatch(n) for n in self.location.names(FOLDER))

    def read(self, version: int) -> list[Action] | None:
        """The actions of a commit; None where it does not exist. Raises LakeError where it is damaged."""
        try:
            found = self.location.get(commit_path(version))
        except FileNotFoundError:
            return None
        try:
            actions: list[Action] = [json.loads(line) for line in found.decode().splitlines() if line]
        except ValueError as error:
            raise self.damaged(commit_path(version), "is damaged or cut off") from error
        if not actions:
            raise self.damaged(commit_path(version), "is empty")
        wanted = (actions[0].get("commitInfo", {}).get("operationMetrics") or {}).get(ACTIONS)
        if wanted is not None and int(wanted) != len(actions):
            raise self.damaged(commit_path(version), f"has {len(actions)} of {wanted} lines")
        return actions

    def update(self, state: State, until: int | None = None) -> None:
        """Read the commits up to the version `until`, or up to the newest.

        Raises LakeError for a missing or damaged table, FileNotFoundError where the log lacks `until`.
        """
        if state.version >= 0:
            self._advance(state, until)
        if state.version < 0 or state.version != until:
            # The first read needs a checkpoint, and so does one after commits that the log no longer has.
            last = self._ahead(state, until)
            if last is not None:
                self._try_load(last, state)
            if last is not None or state.version < 0:
                self._advance(state, until)
        if state.version < 0 and not self.is_made():
            raise NotMade(f"no table {self.name} in {self.folder}")
        if until is not None and state.version < until:
            raise FileNotFoundError(f"the log of {self.name} no longer has version {until}")
        if state.metadata is None or state.protocol is None:
            raise self.damaged(FOLDER, "lacks its first commits and has no checkpoint, or does not say what it holds")

    def _advance(self, state: State, until: int | None) -> None:
        while state.version != until and (actions := self.read(state.version + 1)) is not None:
            state.apply(actions)
            state.version += 1

    def _ahead(self, state: State, until: int | None) -> Checkpoint | None:
        """A checkpoint that covers commits which the log no longer has, or the last one for a first read."""
        last = self.last_checkpoint()
        if (last is None and state.version < 0 and self.location.status(commit_path(0)) is None) or (
            last is not None and until is not None and last.version > until
        ):
            last = self._checkpoint(until)
        return last if last is not None and last.version > state.version else None

    def last_checkpoint(self) -> Checkpoint | None:
        """The checkpoint that the hint (_last_checkpoint) names; where the hint is damaged, the newest one."""
        try:
            found = self.location.get(HINT)
        except FileNotFoundError:
            return None
        try:
            hint = json.loads(found)
            version, parts = int(hint["version"]), hint.get("parts")
            stem = f"{FOLDER}/{version:020d}.checkpoint"
            if parts:
                return Checkpoint(version, [f"{stem}.{k + 1:010d}.{parts:010d}.parquet" for k in range(parts)])
            if path := (hint.get("v2Checkpoint") or {}).get("path"):
                return Checkpoint(version, [f"{FOLDER}/{path.rpartition('/')[2]}"])
        except (ValueError, KeyError, TypeError) as error:
            self.pass_over(HINT, error)
            return self._checkpoint(None)
        return Checkpoint(version, [f"{stem}.parquet"])

    def _checkpoint(self, until: int | None) -> Checkpoint | None:
        """The last complete checkpoint up to a version, found without the hint."""
        parts: dict[tuple[int, str], list[str]] = {}
        for name in self.location.names(FOLDER):
            if found := _CHECKPOINT.fullmatch(name):
                kind = found[3] or name
                parts.setdefault((int(found[1]), kind), []).append(f"{FOLDER}/{name}")
        whole = {
            version: sorted(paths)
            for (version, kind), paths in sorted(parts.items())
            if (until is None or version <= until) and (not kind.isdecimal() or int(kind) == len(paths))
        }
        return Checkpoint(max(whole), whole[max(whole)]) if whole else None

    def _try_load(self, last: Checkpoint, state: State) -> None:
        """Begin with a checkpoint; where it is damaged, with the commits before it if the log has them."""
        try:
            try:
                self._load(last, state)
            except FileNotFoundError:  # the hint may give it another name
                found = self._checkpoint(last.version)
                if found is None or found.version != last.version or found.paths == last.paths:
                    raise
                self._load(found, state)
        except (pa.ArrowInvalid, OSError, ValueError) as error:
            if self.read(state.version + 1) is None:
                raise self.damaged(last.paths[0], "is damaged or missing") from error
            self.pass_over(last.paths[0], error)

    def _load(self, last: Checkpoint, state: State) -> None:
        rows = [row for path in last.paths for row in self._rows(path)]
        sidecars = [row["sidecar"]["path"] for row in rows if "sidecar" in row]
        for name in sidecars:
            rows += self._rows(f"{FOLDER}/_sidecars/{name.rpartition('/')[2]}")
        state.files = {}
        state.apply(rows)
        state.version, state.time = last.version, 0

    def _rows(self, path: str) -> list[Action]:
        data = self.location.get(path)
        if path.endswith(".json"):
            return [json.loads(line) for line in data.decode().splitlines() if line]
        file = pq.ParquetFile(io.BytesIO(data))
        wanted = []
        for name in ("add", "protocol", "metaData", "sidecar"):
            if name in file.schema_arrow.names:
                kind = file.schema_arrow.field(name).type
                fields = [kind.field(k).name for k in range(kind.num_fields)]
                wanted += [f"{name}.{inside}" for inside in fields if not inside.endswith("_parsed")]
        return [_without_nulls(row) for row in file.read(wanted).to_pylist()]

    def damaged(self, path: str, how: str) -> LakeError:
        """The error about a file that the table cannot be read without."""
        return LakeError(
            f"{path} of the table {self.name} in {self.folder} {how}; a power cut or a full disk does that. "
            "docs/operations.md says how to go on: After a power cut"
        )

    def pass_over(self, path: str, error: Exception) -> None:
        """Log, once, a damaged file that the table can be read without."""
        name = f"{self.location.place}/{path}"
        if name not in _named:
            _named.add(name)
            log.warning("%s is damaged and passed over: %s", name, str(error).splitlines()[0])

    def mark(self, version: int) -> str | None:
        """A mark of a version's commit, another one where the table was made again; None without such a file."""
        found = self.location.status(commit_path(version))
        return None if found is None else found.mark

    def history(self, newest: int) -> Iterator[tuple[int, Action]]:
        """Versions that the log has, with their commitInfo, newest first."""
        for version in range(newest, -1, -1):
            actions = self.read(version)
            if actions is None:
                return
            yield version, next((a["commitInfo"] for a in actions if "commitInfo" in a), {})


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def commit_path(version: int) -> str:
    """Path of a version's commit in the table."""
    return f"{FOLDER}/{version:020d}.json"


def checkpoint_paths(version: int) -> list[str]:
    """The files of a checkpoint in one part."""
    return [f"{FOLDER}/{version:020d}.checkpoint.parquet", HINT]
