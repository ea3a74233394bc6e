"""Whole runs for tests: the packets sent, tables in canonical form, and the application as a process to kill."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, TopicPartition
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from alerce_spark import lake
from alerce_spark.alerts.avro import decode
from alerce_spark.classifiers.taxonomy import STAMP
from alerce_spark.config import Settings, load
from alerce_spark.features.select import select
from alerce_spark.kafka import records
from alerce_spark.lake import write
from alerce_spark.lake.tables import TABLES
from alerce_spark.simulation.defects import corrupt
from alerce_spark.simulation.night import Night, Traits, simulate
from alerce_spark.streaming import metrics
from alerce_spark.streaming.backfill import import_alerts
from alerce_spark.surveys.ztf import ZTF
from tests.lakes import assert_complete, assert_keys_unique
from tests.lakes import records as fastavro_records

#: Tables that alerts fill.
FILLED = tuple(name for name in TABLES if name not in ("taxonomy", "models", "nightly_reports", "tns_reports"))
#: Columns whose values depend on the order of arrival; all others must be equal.
ARRIVAL_COLUMNS = {
    "objects": ("pixel",),  # the home: where the alert was that came first; it never moves
    "magstats": ("pixel",),  # likewise
    "xmatch": ("attempted",),  # when; about which alert and position is the same
    "quarantine": ("source", "partition", "offset"),  # where the bytes were met first
}
#: Rows that depend on the order of arrival are left out; these are compared.
COMPARED_ROWS = {
    "features": "at an object's latest alert: those of earlier alerts tell how it evolved while alerts came",
    "probabilities": "likewise; of stamps at its first alert: a later one that came before it is classified too",
    "quarantine": "all of photometry; of stamps those of first alerts, likewise",
}
#: Two computations of one figure.
_TOLERANCE = {"features": 1e-9, "probabilities": 1e-6}
_PATIENCE_S = 300.0
DEFECTS = ("html", "empty", "truncated", "nan_position")


@dataclass(frozen=True)
class Sent:
    """Alerts that a survey sends, each once and in order of time, and undecodable packets; the simulation's own truth.

    alerts: oid and candid of each packet.
    """

    packets: list[bytes]
    alerts: pl.DataFrame
    bad: list[bytes]

    def upto(self, number: int) -> Sent:
        """The first `number` alerts and the bad packets."""
        return Sent(self.packets[:number], self.alerts.head(number), self.bad)

    @property
    def first(self) -> set[int]:
        """Candid of the first alert of each object."""
        return set(self.alerts.group_by("oid").agg(pl.col("candid").min())["candid"])

    def messages(self, rng: np.random.Generator, copies: int = 5) -> list[bytes]:
        """Everything out of order; one packet in five up to `copies` times."""
        every = [*self.packets, *self.bad]
        again = np.where(rng.random(len(every)) < 0.2, rng.integers(1, copies, len(every), endpoint=True), 1)
        numbers = np.repeat(np.arange(len(every)), again)
        return [every[i] for i in rng.permutation(numbers)]


def survey(seed: int, alerts: int, *, bad: int = 4, **options: Any) -> Sent:
    """The first `alerts` alerts of a simulated sky with all traits of real packets. options: those of `simulate`."""
    chosen = {"version": ("3.3", "4.02"), "traits": Traits.like_ztf(), "cadence": 2, "history_days": 40} | options
    night: Night = simulate(seed, **chosen)
    assert len(night.packets) >= alerts, f"{len(night.packets)} packets: too few for {alerts}"
    rng = np.random.default_rng(seed)
    spoilt = [corrupt(night.packets[k], DEFECTS[k % len(DEFECTS)], rng) for k in range(bad)]
    keys = pl.DataFrame({"oid": night.oids, "candid": night.candids}).head(alerts)
    return Sent(night.packets[:alerts], keys, sorted(set(spoilt)))


def settings_of(folder: Path, servers: str, topic: str, **overrides: dict[str, Any]) -> Settings:
    """Settings of a lake below `folder` whose queries have a fast rhythm; sections override by keyword."""
    rhythm = {
        "photometry": {"interval_s": 1.0, "min_messages": 200, "max_messages": 1000},
        "archive": {"interval_s": 1.0, "max_messages": 1000},
        "crossmatch": {"interval_s": 1.0},
        "results": {"interval_s": 1.0, "max_messages": 2000},
    }
    sections: dict[str, dict[str, Any]] = {
        "lake": {"path": str(folder / "lake"), "lease_timeout_s": 2.0},
        "archive": {"url": f"file:{folder / 'archive'}"},
        "kafka": {"bootstrap_servers": servers, "topics": [topic], "partitions": 2},
        "stream": {**rhythm, "restart_wait_s": 0.5, "restart_wait_max_s": 2.0},
    }
    chosen = {name: section | overrides.get(name, {}) for name, section in sections.items()}
    return load(Path(__file__).resolve().parents[2] / "conf" / "alerce.toml", chosen)


def imported(spark: SparkSession, settings: Settings, sent: Sent, folder: Path) -> dict[str, pl.DataFrame]:
    """Canonical tables of a batch import of the same packets, which nothing disturbs; in `folder`, added to others."""
    alerts = folder / f"alerts-{len(sent.packets)}"
    alerts.mkdir(parents=True)
    for k, packet in enumerate([*sent.packets, *sent.bad]):
        (alerts / f"{k:06d}.avro").write_bytes(packet)
    lake_settings = settings.lake.model_copy(update={"path": str(folder / "lake")})
    import_alerts(spark, settings.model_copy(update={"lake": lake_settings}), [alerts])
    shutil.rmtree(alerts)
    return tables(lake_settings.path)


def tables(path: str) -> dict[str, pl.DataFrame]:
    """Every table that alerts fill, sorted by key, without what depends on arrival."""
    opened = lake.open(path)
    found = {name: opened.table(name).collect() for name in FILLED}
    own = found["detections"].filter("has_stamp").select("oid", "candid", "mjd")
    latest = own.sort("mjd", "candid").unique("oid", keep="last").select("oid", "candid")
    first = own.group_by("oid").agg(pl.col("candid").min())
    found["features"] = found["features"].join(latest, ["oid", "candid"], "semi")
    of_stamps = found["probabilities"]["classifier"] == STAMP
    ends = ((~of_stamps, latest), (of_stamps, first))
    classes = [found["probabilities"].filter(mine).join(end, ["oid", "candid"], "semi") for mine, end in ends]
    found["probabilities"] = pl.concat(classes)
    refused = found["quarantine"]
    firsts = _candids(refused["packet"]).is_in(first["candid"].implode()).fill_null(False)
    found["quarantine"] = refused.filter((pl.col("stage") != "stamps") | firsts)
    return {name: rows.drop(ARRIVAL_COLUMNS.get(name, ())).sort(TABLES[name].key) for name, rows in found.items()}


def assert_same_tables(left: dict[str, pl.DataFrame], right: dict[str, pl.DataFrame]) -> None:
    """Canonical tables equal by key and by value; sums of floats may differ in the last digits."""
    for name in FILLED:
        tolerance = _TOLERANCE.get(name, 1e-12)
        try:
            assert_frame_equal(left[name], right[name], rel_tol=tolerance, abs_tol=tolerance)
        except AssertionError as error:
            raise AssertionError(f"table {name}: {error}\n{_difference(left[name], right[name], name)}") from None


def _difference(left: pl.DataFrame, right: pl.DataFrame, name: str) -> str:
    key = list(TABLES[name].key)
    only = [a.join(b, key, "anti").select(key) for a, b in ((left, right), (right, left))]
    both = left.join(right, key, suffix="_other")
    columns = [c for c in left.columns if c not in key and f"{c}_other" in both.columns]
    unequal = {c: both.filter(pl.col(c).ne_missing(pl.col(f"{c}_other"))) for c in columns}
    lines = [f"only left: {only[0]}", f"only right: {only[1]}"]
    lines += [f"{c}: {len(rows)} differ: {rows.select(*key, c, f'{c}_other').head(5)}" for c, rows in unequal.items()]
    return "\n".join(line for line in lines if " 0 differ" not in line)


def assert_everything_once(settings: Settings, sent: Sent) -> None:
    """Every alert is exactly once in every table it belongs to, and every packet in the repository."""
    path = settings.lake.path
    opened = lake.open(path)
    found = {name: opened.table(name).collect() for name in FILLED}
    assert_keys_unique(found)
    refused = found["quarantine"]
    assert sorted(refused.filter(stage="photometry")["packet"]) == sorted(sent.bad)
    assert_complete(found, fastavro_records(sent.packets))
    own = found["detections"].filter("has_stamp").select("oid", "candid")
    assert_frame_equal(own, sent.alerts, check_row_order=False)
    assert set(found["objects"]["oid"]) == set(sent.alerts["oid"])
    bands = found["detections"].select("oid", "fid").unique()
    assert_frame_equal(found["magstats"].select("oid", "fid"), bands, check_row_order=False)
    _assert_classified(found, sent)
    if "archive" in settings.stream.queries:
        folder = Path(settings.archive.url.removeprefix("file:"))
        stored = [file.read_bytes() for file in folder.rglob("*") if file.is_file() and ".parts" not in file.parts]
        assert sorted(stored) == sorted([*sent.packets, *sent.bad])


def _assert_classified(found: dict[str, pl.DataFrame], sent: Sent) -> None:
    """Features and class at the latest alert of each object that has enough detections; a stamp class at its first."""
    answered = found["probabilities"].filter(classifier=STAMP)["candid"]
    reasons = _candids(found["quarantine"].filter(stage="stamps")["packet"])
    assert sent.first <= set(answered) | set(reasons), "first alerts without stamp class or reason"
    assert set(answered) | set(reasons) <= set(sent.alerts["candid"])
    objects = select(found["detections"].to_arrow())
    used = pl.DataFrame({"oid": objects.oid.tolist(), "ndet_used": np.diff(objects.both.offsets)})
    own = found["detections"].filter("has_stamp").with_columns(nown=pl.len().over("oid"))
    latest = own.sort("mjd", "candid").unique("oid", keep="last").select("oid", "candid", "nown")
    due = latest.join(used.filter(pl.col("ndet_used") > 0), "oid").cast({"nown": pl.Int32, "ndet_used": pl.Int32})
    assert len(due), "no object has features: the test shows little"
    key = ["oid", "candid", "ndet_used", "nown"]
    for table in (found["features"], found["probabilities"].filter(pl.col("classifier") != STAMP)):
        short = due.join(table, key, "anti")
        assert short.is_empty(), f"objects without a complete result at their latest alert: {short}"


def _candids(packets: pl.Series) -> pl.Series:
    """Candid of each packet, null where it cannot be decoded."""
    alerts = decode(pa.array(packets.to_list(), pa.binary()), ZTF).alerts
    candid = dict(zip(alerts["row"].to_pylist(), alerts["candid"].to_pylist(), strict=True))
    return pl.Series([candid.get(row) for row in range(len(packets))], dtype=pl.Int64)


def assert_published(servers: str, sent: Sent) -> None:
    """Every first alert has a stamp result on the output topics or a reason on that of errors."""
    results = [records.STAMP.decode(value) for value in values(servers, records.STAMP_TOPIC)]
    errors = [records.ERROR.decode(value) for value in values(servers, records.ERROR_TOPIC)]
    refused = {record["sha256"] for record in errors if record["stage"] == "stamps"}
    digests = {hashlib.sha256(packet).hexdigest() for packet in sent.packets}
    of = dict(zip((hashlib.sha256(p).hexdigest() for p in sent.packets), sent.alerts["candid"], strict=True))
    answered = {record["candid"] for record in results} | {of[digest] for digest in refused & digests}
    assert sent.first <= answered, f"{len(sent.first - answered)} first alerts without an answer"


def values(servers: str, prefix: str) -> list[bytes]:
    """Every message of the topics whose name begins so, partition by partition."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "undisturbed", "enable.auto.commit": False})
    found: list[bytes] = []
    try:
        listed = consumer.list_topics(timeout=20).topics
        for topic in [name for name in listed if name.startswith(prefix)]:
            for partition in listed[topic].partitions:
                begin, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
                consumer.assign([TopicPartition(topic, partition, begin)])
                while begin < end:
                    message = consumer.poll(20)
                    assert message is not None
                    assert not message.error()
                    value = message.value()
                    assert value is not None
                    found.append(value)
                    begin = int(message.offset() or 0) + 1
    finally:
        consumer.close()
    return found


def wait_until_stored(settings: Settings, sent: Sent) -> None:
    """Until every alert has its own row: what comes next is about results that were made before.

    How long a backlog takes is the machine's affair; it fails where nothing more is stored.
    """
    stored, since = -1, time.monotonic()
    while stored < len(sent.alerts):
        before = stored
        own = lake.open(settings.lake.path).table("detections").filter("has_stamp").select("candid").collect()
        stored = len(own)
        since = time.monotonic() if stored > before else since
        late = f"{stored} of {len(sent.alerts)} alerts are stored, and none more in {_PATIENCE_S:.0f} s"
        assert time.monotonic() - since < _PATIENCE_S, late
        time.sleep(1.0)


def wait(condition: Callable[[], bool], what: str, limit: float = _PATIENCE_S, pause: float = 0.1) -> None:
    """Until the condition holds; what is waited for, for the message where it never does."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            _show_threads()
            raise AssertionError(f"waited {limit:.0f} s in vain until {what}")
        time.sleep(pause)


def _show_threads() -> None:
    """Print where all threads stand, those of this process and of the JVMs on this machine that it started."""
    faulthandler.dump_traceback(sys.__stderr__)
    family = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=False).stdout
    parents = {int(pid): int(parent) for pid, parent, _ in (line.split(maxsplit=2) for line in family.splitlines())}
    for pid, _, program in (line.split(maxsplit=2) for line in family.splitlines()):
        above = int(pid)
        while above in parents and above != os.getpid():
            above = parents[above]
        if program == "java" and above == os.getpid() and shutil.which("jstack"):
            subprocess.run(["jstack", pid], stdout=sys.__stderr__, check=False, timeout=60)


class Crash(Exception):
    """Injected: the process would have died here."""


@dataclass
class CrashingCommits:
    """Once `install` was called and while `armed`, the first commit to each table crashes, one table after the other.

    Rows are in files before the commit that names them, so a crash before one commit is a crash after the one before
    it. What changes nothing is no commit.
    """

    armed: bool = False
    crashed: set[str] = field(default_factory=set)
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand before the function that makes all commits."""
        commit = write.commit

        def guarded(lake: str, table: str, version: int, change: write.Change) -> int:
            with self._guard:
                if self.armed and not change.is_empty and table not in self.crashed:
                    self.crashed.add(table)
                    raise Crash(f"injected before a commit to {table}")
            return commit(lake, table, version, change)

        monkeypatch.setattr(write, "commit", guarded)

    def again_and_again(self, step: Callable[[], object], between: Callable[[], object] = lambda: None) -> None:
        """Run `step` with a crash at each of its commits until it ends; others do `between` after each crash."""
        while True:
            self.armed = True
            try:
                step()
                break
            except Crash:
                self.armed = False
                between()
        self.armed = False


@dataclass
class Application:
    """`alerce-spark stream` as a separate process, with its log in `folder`; started again and again."""

    settings: Settings
    folder: Path
    lives: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it; the one before must have ended."""
        assert self._process is None
        self.lives += 1
        environment = os.environ | _environment(self.settings) | {"SPARK_LOCAL_DIRS": str(self.folder / "spark")}
        code = "from alerce_spark.cli import main; main(['stream'])"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            # A new session: one signal reaches driver, JVM and workers.
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_it_runs(self) -> None:
        """Until its queries have started and it says so in its status file."""

        def runs() -> bool:
            told = metrics.read(self.settings.lake.path) or {}
            return told.get("pid") == self._alive and all(q["state"] == metrics.RUNS for q in told["queries"].values())

        wait(runs, "the stream runs")

    def kill(self, victim: str = "all") -> None:
        """SIGKILL to `all` of it, or to its `driver` or `jvm` alone, when the rest must end by itself."""
        group = self._alive
        pids = [pid for pid, name in _group(group) if victim == "all" or (victim == "jvm") == ("java" in name)]
        for pid in [group] if victim == "driver" else pids:
            with suppress(ProcessLookupError):  # a worker may end by itself meanwhile
                os.kill(pid, signal.SIGKILL)
        process, self._process = self._process, None
        assert process is not None
        try:
            process.wait(60)
            wait(lambda: not _group(group), f"the others end after the {victim} was killed", 60)
        finally:
            for pid, _ in _group(group):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def pause(self, victims: str) -> None:
        """SIGSTOP to `all` of it, or to its `driver` alone: its JVM and workers run on."""
        self._signal(victims, signal.SIGSTOP)

    def go_on(self, victims: str) -> tuple[int, str]:
        """SIGCONT to what was paused; the exit status of the application, which must end, and its log."""
        self._signal(victims, signal.SIGCONT)
        process, self._process = self._process, None
        assert process is not None
        # Not the end alone: threads of Java print what they die of whenever they do.
        return process.wait(_PATIENCE_S), self._log.read_text(errors="replace")

    def _signal(self, victims: str, number: signal.Signals) -> None:
        leader = self._alive
        for pid in [leader] if victims == "driver" else [pid for pid, _ in _group(leader)]:
            os.kill(pid, number)

    def stop(self) -> None:
        """SIGTERM: it ends after its running batches, without an error."""
        os.kill(self._alive, signal.SIGTERM)
        process, self._process = self._process, None
        assert process is not None
        assert process.wait(_PATIENCE_S) == 0, self._tail()

    def end(self) -> None:
        """Kill it if it still runs: for the end of a test that failed."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def _alive(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, f"the stream ended by itself: {self._tail()}"
        return self._process.pid

    @property
    def _log(self) -> Path:
        return self.folder / f"life-{self.lives}.log"

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])


def _environment(settings: Settings) -> dict[str, str]:
    """Settings as the variables that give them."""
    found = {}
    for section in ("lake", "kafka", "archive", "stream"):
        for name, value in getattr(settings, section).model_dump(mode="json", exclude_none=True).items():
            # The tables of queries have a variable for each key.
            keys = value if section == "stream" and isinstance(value, dict) else {}
            found |= {f"ALERCE_{section}__{name}__{key}".upper(): json.dumps(one) for key, one in keys.items()}
            if not keys:
                found[f"ALERCE_{section}__{name}".upper()] = value if isinstance(value, str) else json.dumps(value)
    return found


def _group(leader: int) -> list[tuple[int, str]]:
    """Processes of a group that still run: id and program."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat=,comm="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 3) for line in listed.stdout.splitlines()]
    return [(int(pid), name) for pid, group, state, name in rows if int(group) == leader and state[0] != "Z"]
