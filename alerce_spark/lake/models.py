"""The registry of models: the table `models`, the folder `_models` of the lake, and the model that a worker serves.

The table has a few dozen rows, so every change rewrites it in one commit, which fails where the table is no longer at
the version that was read: two changes never mix, and a reader sees one current model of a classifier or none. Model
files never change. The metadata of commits list the versions that were current before, newest last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from alerce_spark import classifiers
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, OUTLIER, STAMP
from alerce_spark.delta import Conflict, Snapshot, Table
from alerce_spark.delta.files import rows as rows_of
from alerce_spark.errors import LakeError
from alerce_spark.lake import write
from alerce_spark.lake.handles import is_made
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES
from alerce_spark.location import at, lake_path

log = logging.getLogger(__name__)

CANDIDATE, CURRENT, RETIRED = "candidate", "current", "retired"

_TABLE = TABLES["models"]
_FOLDER = "_models"
_BOOTSTRAP = {LIGHTCURVE: "lc_classifier.forest", STAMP: "stamp_classifier.onnx", OUTLIER: "outlier.gaussians"}
#: Models that are calibrated on the answers of another and are promoted with it: see `promote`.
_COMPANIONS = {LIGHTCURVE: OUTLIER}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
#: Key of the commit metadata with the versions that were current before, by classifier, as JSON.
_PREVIOUS = "alerce.previous"
_REMEMBERED = 20
_LONGEST_NAME = 100
_LONGEST_CHANGE_S = 60.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0


@dataclass(frozen=True)
class Entry:
    """A registered model. `artefact` is the path of its file in the lake."""

    classifier: str
    version: str
    state: str
    artefact: str
    sha256: str
    training_set: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def bootstrap(classifier: str) -> Path | None:
    """The model file that ships with the package, for a lake without a trained model; None for other classifiers."""
    path = Path(classifiers.__file__).parent / "bootstrap" / _BOOTSTRAP[classifier]
    return path if path.is_file() else None


def register(
    lake: str,
    classifier: str,
    version: str,
    file: str | Path,
    *,
    training_set: str | None = None,
    metrics: dict[str, float] | None = None,
    state: str = CANDIDATE,
) -> Entry:
    """Copy a model file into the lake and register it; with state "current" it is promoted in the same commit.

    Makes the table where it is missing. Registering the same file again changes nothing. Raises LakeError for a version
    that is registered with another file, a missing file, and names that cannot be part of a path.
    """
    source = Path(file)
    _refuse_unknown(classifier)
    for name in (version, source.name):
        if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
            shown = name[: 2 * _LONGEST_NAME]
            raise LakeError(f"{shown!r} cannot be a name here: up to {_LONGEST_NAME} letters, digits and . _ + -")
    if state not in (CANDIDATE, CURRENT):
        raise LakeError(f"a model is registered as {CANDIDATE} or {CURRENT}, not as {state!r}")
    if not source.is_file():
        raise LakeError(f"no model file {source}")
    digest = _digest(source)
    artefact = f"{_FOLDER}/{classifier}/{version}/{digest[:12]}-{source.name}"
    entry = Entry(classifier, version, CANDIDATE, artefact, digest, training_set, metrics or {})
    _store(lake, source, artefact)

    def edit(registry: _Registry) -> None:
        known = registry.entries.get((classifier, version))
        if known is not None and known.sha256 != digest:
            raise LakeError(f"{classifier} {version} is registered with another file: a version is never overwritten")
        if known is None:
            registry.entries[classifier, version] = entry
        if state == CURRENT:
            registry.promote(classifier, version)

    return _change(lake, edit).entries[classifier, version]


def _refuse_unknown(classifier: str) -> None:
    if classifier not in _BOOTSTRAP:
        raise LakeError(f"no classifier {classifier!r}; there are {', '.join(_BOOTSTRAP)}")


def listing(lake: str, classifier: str | None = None) -> pa.Table:
    """The table `models`, sorted by classifier and version. Raises LakeError without such a table."""
    found = _arrow(_newest(lake).entries.values())
    if classifier is not None:
        found = found.filter(pc.field("classifier") == classifier)
    return found.sort_by([("classifier", "ascending"), ("version", "ascending")])


def current(lake: str, classifier: str) -> Entry | None:
    """The model in use; None where no version was promoted. Raises LakeError without a table of models."""
    return _newest(lake).current(classifier)


def promote(lake: str, classifier: str, version: str) -> Entry:
    """Make a version current and retire the one before, in one commit.

    Every change of the current light-curve classifier here also makes the outlier model of the same version current, in
    the same commit; without such a model no outlier model is current, since its scores are calibrated on the
    classifier's answers. Raises LakeError for a version that is not registered or whose file is
    missing or damaged.
    """
    with fetched(lake, _newest(lake).known(classifier, version)):
        pass  # the file is there and whole
    return _change(lake, lambda registry: registry.promote(classifier, version)).entries[classifier, version]


def retire(lake: str, classifier: str, version: str) -> Entry:
    """Retire a version; where it was current, workers go back to the bootstrap model.

    Raises LakeError for a version that is not registered.
    """
    return _change(lake, lambda registry: registry.retire(classifier, version)).entries[classifier, version]


def roll_back(lake: str, classifier: str) -> Entry:
    """Retire the current version and make the one before it current again, in one commit.

    A second call goes one version further back. Raises LakeError where no earlier version is known.
    """
    _refuse_unknown(classifier)
    registry = _change(lake, lambda registry: registry.roll_back(classifier))
    return next(e for e in registry.entries.values() if e.classifier == classifier and e.state == CURRENT)


@dataclass
class _Registry:
    """Rows by classifier and version, and the versions that were current before, the latest last."""

    entries: dict[tuple[str, str], Entry]
    previous: dict[str, list[str]]

    def current(self, classifier: str) -> Entry | None:
        return next((e for e in self.entries.values() if e.classifier == classifier and e.state == CURRENT), None)

    def known(self, classifier: str, version: str) -> Entry:
        _refuse_unknown(classifier)
        if (classifier, version) not in self.entries:
            versions = [v for c, v in self.entries if c == classifier]
            raise LakeError(f"no version {version} of {classifier}; there are {', '.join(versions) or 'none'}")
        return self.entries[classifier, version]

    def promote(self, classifier: str, version: str) -> None:
        self.known(classifier, version)
        old = self.current(classifier)
        self._forget(classifier, version)
        if old is not None and old.version != version:
            self.previous[classifier] = [*self.previous.get(classifier, []), old.version][-_REMEMBERED:]
            self._set(classifier, old.version, RETIRED)
        self._set(classifier, version, CURRENT)

    def retire(self, classifier: str, version: str) -> None:
        self.known(classifier, version)
        self._forget(classifier, version)
        self._set(classifier, version, RETIRED)

    def roll_back(self, classifier: str) -> None:
        earlier = self.previous.get(classifier, [])
        if not earlier:
            raise LakeError(f"no version of {classifier} is known to have been current before: promote one by name")
        old = self.current(classifier)
        if old is not None:
            self._set(classifier, old.version, RETIRED)
        self._set(classifier, earlier[-1], CURRENT)
        self.previous[classifier] = earlier[:-1]

    def follow(self, before: _Registry) -> None:
        """Promote or retire the companions of models that became current since `before`."""
        for leader, companion in _COMPANIONS.items():
            old, new = before.current(leader), self.current(leader)
            if (old and old.version) == (new and new.version):
                continue
            if new is not None and (companion, new.version) in self.entries:
                self.promote(companion, new.version)
            elif (left := self.current(companion)) is not None:
                self.previous[companion] = [*self.previous.get(companion, []), left.version][-_REMEMBERED:]
                self._set(companion, left.version, RETIRED)

    def _forget(self, classifier: str, version: str) -> None:
        if classifier in self.previous:
            self.previous[classifier] = [v for v in self.previous[classifier] if v != version]

    def _set(self, classifier: str, version: str, state: str) -> None:
        self.entries[classifier, version] = replace(self.entries[classifier, version], state=state)


def _registry(table: Table, now: Snapshot) -> _Registry:
    """The registry at a version."""
    rows = [row for file in now.files.values() for row in rows_of(table, file, _TABLE.arrow).to_pylist()]
    entries = [Entry(**{**row, "metrics": dict(row["metrics"] or [])}) for row in rows]
    return _Registry({(e.classifier, e.version): e for e in entries}, _previous(table, now))


def _newest(lake: str) -> _Registry:
    """The newest registry. Raises LakeError without a table of models."""
    table = table_of(lake, _TABLE.name)
    return _registry(table, table.newest())


def _previous(table: Table, now: Snapshot) -> dict[str, list[str]]:
    # The last commit has it, unless another program (an OPTIMIZE, say) committed after us.
    for _, commit in table.log.history(now.version):
        if _PREVIOUS in commit:
            return {name: list(versions) for name, versions in json.loads(commit[_PREVIOUS]).items()}
    return {}


def _arrow(entries: Sequence[Entry] | Any) -> pa.Table:
    rows = [{**asdict(entry), "metrics": list(entry.metrics.items())} for entry in entries]
    return pa.Table.from_pylist(rows, _TABLE.arrow)


def _change(lake: str, edit: Callable[[_Registry], None]) -> _Registry:
    """Apply `edit` to the newest registry and commit it; start again where another writer was faster."""
    for attempt in Retrying(
        retry=retry_if_exception_type(Conflict),
        wait=wait_random(0, 0.1),
        stop=stop_after_delay(_LONGEST_CHANGE_S),
        reraise=True,
    ):
        with attempt:
            table = _opened_or_made(lake)
            now = table.newest()
            registry = _registry(table, now)
            before = deepcopy(registry)
            edit(registry)
            registry.follow(before)
            if registry != before:
                info = {_PREVIOUS: json.dumps(registry.previous)}
                rows = _arrow(registry.entries.values())
                write.commit(
                    lake, _TABLE.name, now.version, write.replace_all(lake, _TABLE.name, rows, now.version, info)
                )
    return registry


def _opened_or_made(lake: str) -> Table:
    """The table, made from its definition where it is missing."""
    if not is_made(lake, _TABLE.name):
        write.make(lake, _TABLE, {"delta.deletedFileRetentionDuration": "interval 1 days"})
    return table_of(lake, _TABLE.name)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _store(lake: str, source: Path, artefact: str) -> None:
    """Put a file into the lake, whole or not at all."""
    place = at(lake_path(lake))
    place.put(artefact, source.read_bytes())
    place.settle([artefact])


@contextmanager
def fetched(lake: str, entry: Entry) -> Iterator[Path]:
    """The file of a model, checked against its checksum; a temporary copy for a lake on S3. Raises LakeError."""
    if not entry.artefact.startswith(f"{_FOLDER}/") or ".." in entry.artefact.split("/"):
        raise LakeError(f"{entry.classifier} {entry.version}: {entry.artefact!r} is not in the folder of the models")
    place = at(lake_path(lake))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = place.file(entry.artefact, Path(scratch))
            digest = _digest(path)
        except OSError as error:
            raise LakeError(f"{entry.classifier} {entry.version}: cannot read {entry.artefact}: {error}") from None
        if digest != entry.sha256:
            raise LakeError(f"{entry.classifier} {entry.version}: {entry.artefact} does not have its checksum")
        yield path


class Versioned(Protocol):
    """A model that knows its version."""

    @property
    def version(self) -> str: ...


M = TypeVar("M", bound=Versioned)


class Served(Generic[M]):
    """The current model of a classifier in a worker: `get`, called for each batch, follows promotions.

    `loader` makes a model from a file or raises; `fallback` is the model file to use while the lake has no current
    model, or without a lake (None). `alarm` says why the newest model could not be loaded, else it is None.
    """

    def __init__(
        self,
        lake: str | None,
        classifier: str,
        loader: Callable[[Path], M],
        fallback: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.alarm: str | None = None
        self._lake, self._classifier, self._loader = lake, classifier, loader
        self._fallback, self._clock = fallback, clock
        self._table: Table | None = None
        self._seen: Snapshot | None = None  # version of the table that was read last
        self._served: tuple[M, str] | None = None
        self._key: str | None = None  # checksum of the served file, None for the fallback
        self._wait, self._not_before = _FIRST_WAIT_S, -float("inf")

    def get(self) -> tuple[M, str]:
        """The model to use now, and its version.

        Where the current model cannot be loaded, the one before it serves, `alarm` says why, and the current one is
        tried again after a while. Raises ModelError where no model can be loaded.
        """
        if self._lake is not None and self._clock() >= self._not_before:
            try:
                self._follow(self._lake)
                self.alarm, self._wait = None, _FIRST_WAIT_S
            except Exception as error:  # noqa: BLE001  (whatever a loader raises, the model before it serves)
                self._raise_alarm(f"{self._classifier}: {error}")
                self._table = None
                self._not_before = self._clock() + self._wait
                self._wait = min(2 * self._wait, _LONGEST_WAIT_S)
        if self._served is None:
            self._served = self._bootstrapped()
        return self._served

    def _raise_alarm(self, alarm: str) -> None:
        if alarm != self.alarm:
            log.error("%s", alarm)
        self.alarm = alarm

    def _follow(self, lake: str) -> None:
        """Serve the model that the table names, if it changed."""
        if self._table is None:
            if not is_made(lake, _TABLE.name):
                return
            self._table = table_of(lake, _TABLE.name)
        now = self._table.newest()
        if now is self._seen:
            return
        registry = _registry(self._table, now)
        entry = registry.current(self._classifier)
        if entry is None:
            if self._key is not None:
                self._served, self._key = self._bootstrapped(), None
        else:
            try:
                self._serve(lake, entry)
            except Exception:
                self._serve_earlier(lake, registry)
                raise
        self._seen = now

    def _serve(self, lake: str, entry: Entry) -> None:
        if self._served is not None and (entry.sha256, entry.version) == (self._key, self._served[1]):
            return
        with fetched(lake, entry) as path:
            model = self._loader(path)
        self._served, self._key = (model, entry.version), entry.sha256

    def _serve_earlier(self, lake: str, registry: _Registry) -> None:
        """Serve the version that was current before, or the latest that can be loaded; otherwise keep the model.

        All workers shall agree, and one that started late or was idle has never served that version.
        """
        for version in reversed(registry.previous.get(self._classifier, [])):
            try:
                self._serve(lake, registry.entries[self._classifier, version])
                return
            except Exception as error:  # noqa: BLE001  (as in `get`)
                log.error("%s %s, which was current before: %s", self._classifier, version, error)

    def _bootstrapped(self) -> tuple[M, str]:
        if self._fallback is None:
            lacks = "ships with this package" if self._lake is None else f"was promoted in {self._lake}"
            raise ModelError(self.alarm or f"no model of {self._classifier} {lacks}")
        model = self._loader(self._fallback)
        return model, model.version
