"""Run queries: translate them, choose their files, and start one process each, within limits."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore, Event, Lock
from typing import Any

import pyarrow.parquet as pq
from prometheus_client import Counter, Gauge

from alerce_spark.api.tap import process
from alerce_spark.api.tap.adql import QueryError, Translated, translate
from alerce_spark.api.tap.geometry import MACROS
from alerce_spark.api.tap.sources import Reference, Upload
from alerce_spark.api.tap.tables import STORED, Column, quoted
from alerce_spark.config import ServicesSettings
from alerce_spark.errors import AlerceError
from alerce_spark.lake.tables import TABLES as LAKE
from alerce_spark.serving import scan
from alerce_spark.serving.scan import Files

log = logging.getLogger(__name__)

#: Address space of a process besides the engine's memory: code, threads, mapped files.
_ROOM = 4 << 30
#: Longest wait of a query for others to end, and number that may wait.
_PATIENCE_S, _WAITING = 30.0, 20
_RESULTS = ("done", "refused", "busy", "stopped", "failed")


class Busy(AlerceError):
    """Too many queries run for another one."""


class Stopped(Exception):
    """The owner of the query stopped it."""


@dataclass(frozen=True)
class Result:
    """Rows of a query in a Parquet file, one more than allowed where there are more."""

    file: Path
    rows: int
    has_more: bool
    columns: Sequence[Column | None]


class Engine:
    """Runs queries on one lake."""

    def __init__(self, lake: str, settings: ServicesSettings) -> None:
        self._lake, self._settings = lake, settings
        self._turns = BoundedSemaphore(settings.tap_queries)
        self._waiting = BoundedSemaphore(settings.tap_queries + _WAITING)
        self._folder: Path | None = None
        self._lock = Lock()
        self.running = Gauge("alerce_tap_running", "Queries that run", registry=None)
        self.waiting = Gauge("alerce_tap_waiting", "Queries that wait for others to end", registry=None)
        self.ended = Counter("alerce_tap_queries", "Queries, by what became of them", ["result"], registry=None)
        for result in _RESULTS:  # a rate needs the zero before the first one
            self.ended.labels(result)

    @property
    def most_rows(self) -> int:
        """Most rows of a result."""
        return self._settings.tap_rows

    def close(self) -> None:
        """Delete the remaining results."""
        with self._lock:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def place(self) -> Path:
        """A new folder for one query."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="alerce-tap-"))
        return Path(tempfile.mkdtemp(dir=self._folder))

    def run(
        self,
        text: str,
        uploads: Mapping[str, Upload],
        most: int,
        seconds: float,
        folder: Path,
        stop: Event | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> Result:
        """Rows of a query, up to `most`, stored in `folder`. Raises QueryError, Busy, Stopped and LakeError."""
        most = min(most, self.most_rows)
        with self._counted():
            translated = translate(text, uploads, most)
            return self._run(translated, text, most, seconds, folder, stop or Event(), patience_s)

    def _run(
        self,
        translated: Translated,
        text: str,
        most: int,
        seconds: float,
        folder: Path,
        stop: Event,
        patience_s: float,
    ) -> Result:
        with self._turn(patience_s):
            asked = self._asked(translated, folder, seconds)
            rows = _processed(asked, seconds, stop, text)
        return Result(Path(asked["result"]), min(rows, most), rows > most, translated.columns)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a query by its result; a mistake in it or a limit of it make it `refused`."""
        result = "failed"
        try:
            yield
            result = "done"
        except QueryError:
            result = "refused"
            raise
        except Busy:
            result = "busy"
            raise
        except Stopped:
            result = "stopped"
            raise
        finally:
            self.ended.labels(result).inc()

    @contextmanager
    def _turn(self, patience_s: float) -> Iterator[None]:
        """Wait until fewer queries run. Raises Busy."""
        if not self._waiting.acquire(blocking=False):
            raise Busy("too many queries wait; ask again later, or as a job (async)")
        try:
            with self.waiting.track_inprogress():
                has_turn = self._turns.acquire(timeout=patience_s)
            if not has_turn:
                raise Busy("other queries run; ask again later, or as a job (async)")
            try:
                with self.running.track_inprogress():
                    yield
            finally:
                self._turns.release()
        finally:
            self._waiting.release()

    def _asked(self, translated: Translated, folder: Path, seconds: float) -> dict[str, Any]:
        """The input of the process: views over the files of the newest versions, limits."""
        statements, paths = [*MACROS], []
        names = {r.table.base for r in translated.references if r.table is not None and r.table.base is not None}
        if "probabilities" in names:
            names.add("taxonomy")
        live = scan.pinned(self._lake, names)
        if "probabilities" in names:
            files = scan.chosen(self._lake, "taxonomy", live["taxonomy"], ())
            rows, used = _rows("taxonomy", files, folder / "taxonomy.parquet")
            paths += used
            statements.append(
                "CREATE VIEW __orders AS SELECT classifier, arg_max(classes, version) AS classes "
                f"FROM {rows} GROUP BY 1"
            )
        for reference in translated.references:
            base = None if reference.table is None else reference.table.base
            if base is None:
                sql, used = _given(reference, folder)
            else:
                files = scan.chosen(self._lake, base, live[base], reference.bounds)
                rows, used = _rows(base, files, folder / f"{reference.view}.parquet")
                sql = reference.table.sql(rows, reference.admitted) if reference.table is not None else rows
            paths += used
            statements.append(f"CREATE VIEW {reference.view} AS {sql}")
        settings = self._settings
        return {
            "statements": statements,
            "query": translated.sql,
            "paths": sorted(set(paths)),
            "folder": str(folder),
            "result": str(folder / "result.parquet"),
            "threads": settings.tap_threads,
            "memory_mb": settings.tap_memory_mb,
            "room_bytes": _ROOM,
            "spill_mb": 4 * settings.tap_memory_mb,
            "file_bytes": (4 * settings.tap_memory_mb) << 20,
            "seconds": seconds,
        }


def _given(reference: Reference, folder: Path) -> tuple[str, list[str]]:
    """SQL of a table whose rows are not in the lake: an uploaded one, or one of TAP_SCHEMA."""
    if reference.upload is not None:
        path = folder / f"{reference.view}.parquet"
        pq.write_table(reference.upload.rows, path)
        return f"SELECT * FROM read_parquet({_text(str(path))})", [str(path)]
    table = reference.table
    assert table is not None
    names = [quoted(column.name) for column in table.columns]
    kinds = [STORED[column.type] for column in table.columns]
    listed = ", ".join(f"{name}::{kind} AS {name}" for name, kind in zip(names, kinds, strict=True))
    rows = ", ".join(f"({', '.join(map(_value, row))})" for row in table.rows)
    return f"SELECT {listed} FROM (VALUES {rows}) AS given({', '.join(names)})", []


def _value(value: object) -> str:
    return "NULL" if value is None else _text(value) if isinstance(value, str) else str(value)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _rows(table: str, files: Files, deleted: Path) -> tuple[str, list[str]]:
    """SQL of the rows of a table that are not deleted, with the types of its definition, and the paths it reads."""
    columns = [column for column in LAKE[table].columns if column.name != "pixel" and column.type in STORED]
    if not files.paths:
        listed = ", ".join(f"NULL::{STORED[c.type]} AS {quoted(c.name)}" for c in columns)
        return f"(SELECT {listed} WHERE false)", []
    schema = ", ".join(
        f"{_text(c.name)}: {{name: {_text(c.name)}, type: {_text(STORED[c.type])}, default_value: NULL}}"
        for c in columns
    )
    names, parts, paths = ", ".join(quoted(c.name) for c in columns), [], files.paths

    def read(listed: Sequence[str], more: str = "") -> str:
        paths = ", ".join(map(_text, listed))
        return f"read_parquet([{paths}], schema = MAP {{{schema}}}, hive_partitioning = false{more})"

    if files.whole:
        parts.append(f"SELECT {names} FROM {read(files.whole)}")
    if files.marked:
        pq.write_table(files.deleted, deleted)
        paths = [*paths, str(deleted)]
        numbered = read(files.marked, ", filename = true, file_row_number = true")
        parts.append(
            f"SELECT {names} FROM {numbered} AS marked ANTI JOIN "
            f"read_parquet({_text(str(deleted))}) AS gone ON marked.filename = gone.path "
            "AND marked.file_row_number = gone.position"
        )
    return f"({' UNION ALL '.join(parts)})", paths


def _processed(asked: Mapping[str, Any], seconds: float, stop: Event, text: str) -> int:
    """Rows that the process wrote. Raises QueryError, Stopped, and AlerceError where the process failed."""
    command = [sys.executable, "-I", process.__file__]
    environment = {"PATH": "", "TMPDIR": asked["folder"], "HOME": asked["folder"]}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as child:
        try:
            out, err = _conversation(child, json.dumps(asked) + "\n", seconds, stop)
        finally:
            child.kill()
    if child.returncode == process.QUERY_FAULT:
        raise QueryError(*_explained(json.loads(out)["error"], text, asked))
    if child.returncode != 0:
        log.error("a query failed with status %s: %s", child.returncode, err.strip()[-2000:])
        raise AlerceError("the query could not be run; it may need too much memory, or files were removed meanwhile")
    return int(json.loads(out)["rows"])


def _conversation(child: subprocess.Popen[str], line: str, seconds: float, stop: Event) -> tuple[str, str]:
    """Output of a process, which has so many seconds."""
    assert child.stdin is not None
    child.stdin.write(line)
    child.stdin.flush()
    waited = 0.0
    while True:
        if stop.is_set():
            raise Stopped
        try:
            child.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            waited += _LOOK_S
            if waited >= seconds:
                raise QueryError(
                    f"the query was ended after {seconds:g} s; ask for less, or as a job (async)"
                ) from None
            continue
        assert child.stdout is not None
        assert child.stderr is not None
        return child.stdout.read(), child.stderr.read()


#: Interval of checks whether a query is to be stopped.
_LOOK_S = 0.05


def _explained(message: str, text: str, asked: Mapping[str, Any]) -> tuple[str, tuple[int, int] | None]:
    """An error of the engine for users: its first line without our paths, and the place of the name in the query."""
    first = message.strip().splitlines()[0].removesuffix("!")
    for path in [asked["folder"], *asked["paths"]]:
        first = first.replace(path, "")
    named = re.search(r'(?:column|named|alias) "([^"]+)"', first)
    found = named and re.search(rf"(?<!\w){re.escape(named[1])}(?!\w)", text, re.IGNORECASE)
    if not found:
        return first, None
    before = text[: found.start()]
    return first, (before.count("\n") + 1, found.start() - before.rfind("\n"))
