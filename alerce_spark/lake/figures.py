"""Figures of a lake that may be asked for every minute: sizes from the log, rows of new files of its small tables."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from alerce_spark.delta import File, Snapshot
from alerce_spark.delta.files import rows as rows_of
from alerce_spark.lake.handles import is_made
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES
from alerce_spark.location import is_remote, lake_path

_STAGE = pa.schema([("stage", pa.string())])


@dataclass(frozen=True)
class Size:
    """A table: its newest version, live files and their bytes."""

    version: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """The last round of integrity: time of the night and of the end of the round [s since 1970], counts."""

    night: float
    finished: float
    expected: int
    missing: int
    resent: int
    broken: Mapping[str, int]


@dataclass(frozen=True)
class Figures:
    """Content of a lake. `free`: free bytes of its disk; None for an object store."""

    sizes: Mapping[str, Size]
    quarantine: Mapping[str, int]
    report: Report | None
    free: int | None


@dataclass
class Watch:
    """Reads the figures of a lake; a look reads the log and the files that came since the last one. For one thread."""

    lake: str
    _stages: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    _report: tuple[int, Report | None] = (-1, None)

    def look(self) -> Figures:
        """The figures as they are now. Raises LakeError and OSError where the lake cannot be read."""
        there = [name for name in TABLES if is_made(self.lake, name)]
        snapshots = {name: table_of(self.lake, name).newest() for name in there}
        return Figures(
            {name: _size(snapshot) for name, snapshot in snapshots.items()},
            self._quarantine(snapshots["quarantine"]) if "quarantine" in snapshots else {},
            self._last_report(snapshots["nightly_reports"]) if "nightly_reports" in snapshots else None,
            _free(self.lake),
        )

    def _quarantine(self, snapshot: Snapshot) -> Counter[str]:
        """Rows by stage. A file is read once, and again only where rows were deleted from it."""
        before = self._stages
        self._stages = {}
        for file in snapshot.files.values():
            key = file.path, repr(file.vector)
            self._stages[key] = before[key] if key in before else self._count(file)
        return sum(self._stages.values(), Counter())

    def _count(self, file: File) -> Counter[str]:
        return Counter(rows_of(table_of(self.lake, "quarantine"), file, _STAGE)["stage"].to_pylist())

    def _last_report(self, snapshot: Snapshot) -> Report | None:
        if self._report[0] != snapshot.version:
            self._report = snapshot.version, self._read_report(snapshot)
        return self._report[1]

    def _read_report(self, snapshot: Snapshot) -> Report | None:
        stored = table_of(self.lake, "nightly_reports")
        schema = TABLES["nightly_reports"].arrow
        parts = [rows_of(stored, file, schema) for file in snapshot.files.values()]
        rounds = pa.concat_tables([schema.empty_table(), *parts]).sort_by(
            [("night", "ascending"), ("round", "ascending")]
        )
        return _report(rounds.slice(len(rounds) - 1).to_pylist()[0]) if rounds else None


def _size(snapshot: Snapshot) -> Size:
    return Size(snapshot.version, len(snapshot.files), sum(file.size for file in snapshot.files.values()))


def _report(row: Mapping[str, Any]) -> Report:
    night = datetime.strptime(row["night"], "%Y%m%d").replace(tzinfo=UTC)
    broken = {name: int(count) for name, count in row["broken"] or ()}
    counts = {name: row[name] for name in ("expected", "missing", "resent")}
    return Report(night.timestamp(), row["finished"].timestamp(), **counts, broken=broken)


def _free(lake: str) -> int | None:
    path = lake_path(lake)
    return None if is_remote(path) else shutil.disk_usage(path).free
