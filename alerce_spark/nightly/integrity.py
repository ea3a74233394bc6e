"""Integrity of a night: packets of its topics that the lake lacks are sent again, until the lake is complete.

A round (paper §4.8) looks for every packet that the night's topics still hold in `detections`, in `quarantine` and in
the Avro repository, and checks the objects of the night against the invariants of `nightly/invariants.py`. Where a
packet can repair a finding, it is sent to `<topic>_reprocess`, which the running stream reads; the next round begins
when the stream has processed these packets or makes no more progress. A quarantined packet is not missing, and a result
that a query refused with a recorded reason is not expected; but a packet that this version can decode belongs in
`detections`, even if an earlier version refused it. Results of objects that turned out to have too few detections are
deleted (`withdrawal.py`). Keys that are in a table twice are reported; only a person can repair them.

Each round adds one row to `nightly_reports`. No other program writes that table, so the job does not need the lease of
the lake, which the running stream holds. The topics are read once: by day a night's topics have ended.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from pyspark.sql import SparkSession

from alerce_spark import lake as lakes
from alerce_spark import surveys
from alerce_spark.config import Settings
from alerce_spark.errors import InputError
from alerce_spark.lake import write
from alerce_spark.lake.handles import collect, healpix_order, is_made
from alerce_spark.lake.tables import TABLES, ddl_of
from alerce_spark.nightly import invariants, packets
from alerce_spark.nightly.invariants import ALERTS, FINDINGS, MISSING
from alerce_spark.nightly.nights import begin_of
from alerce_spark.nightly.withdrawal import withdraw
from alerce_spark.pages import page
from alerce_spark.repository import key, open_repository, second_key
from alerce_spark.sky import healpix, places
from alerce_spark.worker import map_in_workers

#: Alerts whose objects are checked together: a few hundred thousand rows in a worker.
_SLICE_ALERTS = 2000
#: Ids that a note names.
_EXAMPLES = 5
#: Pause between checks of the tables: seconds, and multiple of the time of a check, since the stream needs the cores.
_LEAST_POLL_S = 2.0
_PAUSE = 4.0
#: Invariants of one alert; those of an object are repaired by its latest packet of the night.
_OF_ALERTS = (MISSING, invariants.ARCHIVE, invariants.STAMP_CLASS)
#: Findings that the stream repairs when it gets a packet again.
_BY_PACKETS = ~pl.col("invariant").str.starts_with(invariants.TWICE) & (pl.col("invariant") != invariants.TOO_FEW)


@dataclass(frozen=True)
class Round:
    """Result of one round: counts as in `nightly_reports`, and some keys of each broken invariant."""

    number: int
    finished: datetime
    expected: int
    missing: int
    resent: int
    broken: dict[str, int]
    examples: dict[str, list[str]]

    @property
    def ok(self) -> bool:
        """Whether the round found nothing wrong."""
        return not self.missing and not self.broken


@dataclass(frozen=True)
class Integrity:
    """Results of the rounds of a night; `notes` are remarks for the reader."""

    night: str
    rounds: list[Round]
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the last round found nothing wrong."""
        return self.rounds[-1].ok

    @property
    def broken(self) -> dict[str, int]:
        """Violations that remain, by invariant; missing packets among them."""
        last = self.rounds[-1]
        return ({MISSING: last.missing} if last.missing else {}) | last.broken

    def report(self, path: Path) -> None:
        """Write the rounds as one HTML page."""
        path.write_text(_page(self), encoding="utf-8")


def check(
    spark: SparkSession,
    settings: Settings,
    night: str,
    *,
    rounds: int = 3,
    wait_s: float = 300.0,
    sample: int = 2000,
    examples: int = 5,
    progress: Callable[[str], None] = lambda text: None,
) -> Integrity:
    """Check `night` (YYYYMMDD) and send the packets of findings again, up to `rounds` times; 0 only checks.

    After sending, the next round begins once the stream has made no progress for `wait_s` seconds; the job ends where
    the stream has processed nothing at all. Statistics are recomputed for `sample` objects; `examples` keys are kept of
    each broken invariant. Only what the queries of `stream.queries` produce is expected. Raises InputError
    for a night that is no date or of which no topic holds a packet, LakeError where there is no lake, RepositoryError,
    KafkaException.
    """
    begin_of(night)
    if not {"photometry", "archive"} & set(settings.stream.queries):
        raise InputError("stream.queries has neither photometry nor archive: there is nothing that could be proven")
    healpix_order(settings.lake.path)  # is there a lake?
    job = _Job(spark, settings, sample, progress)
    progress(f"reading the topics of {night}")
    known = packets.read(spark, settings.kafka, settings.survey, night)
    if known.is_empty():
        raise InputError(
            f"no topic of {', '.join(settings.kafka.topics)} at {settings.kafka.bootstrap_servers} holds a packet of "
            f"{night}: nothing was proven. Is it the night that was meant, and are its topics still there?"
        )
    progress(f"{len(known)} messages, {_distinct(known)} packets")
    done = Integrity(night, [], _notes(night, known))
    first = _rounds_before(settings.lake.path, night)
    for sent in range(rounds + 1):
        found = job.findings(known)
        again = _to_send(found, known) if sent < rounds else known.clear()
        withdrawn = withdraw(settings.lake.path, found, known) if sent < rounds else 0
        resent = packets.send_again(spark, settings.kafka, again)
        done.rounds.append(_round(first + sent + 1, known, found, resent, examples))
        _store(settings.lake.path, night, done.rounds[-1])
        progress(_line(done.rounds[-1]))
        if withdrawn:
            progress(f"results of {withdrawn} objects with too few detections are deleted")
        if not resent and not withdrawn:
            break
        if resent and not job.wait(known, found, wait_s):
            done.notes.append(
                f"the stream took none of {resent} packets within {wait_s:.0f} s: does it run? They wait for it on the "
                "reprocess topics"
            )
            break
    return done


def _notes(night: str, known: pl.DataFrame) -> list[str]:
    """Remarks on a night's packets: no packets, or alerts that contradict each other."""
    if not len(known):
        return [f"no topic holds a packet of {night}: nothing was proven"]
    alerts = known.filter(pl.col("oid").is_not_null())
    number = pl.Series(places(*alerts.select("oid", "candid", "ra", "dec")))
    apart = alerts.filter(number > 0)["oid"].unique().sort()
    shared = alerts.group_by("candid").agg(pl.col("oid").n_unique()).filter(pl.col("oid") > 1)["candid"].sort()
    said = (
        (apart, "object ids are seen at places more than 10 arcsec apart; at each place they are an object by itself"),
        (shared, "candids are those of several objects; the alerts of all are kept"),
    )
    return [f"{len(ids)} {text}: {', '.join(map(str, ids[:_EXAMPLES]))}" for ids, text in said if len(ids)]


@dataclass(frozen=True)
class _Job:
    spark: SparkSession
    settings: Settings
    sample: int
    progress: Callable[[str], None]

    def findings(self, known: pl.DataFrame) -> pl.DataFrame:
        """FINDINGS about these packets (PACKETS) and their objects."""
        queries = self.settings.stream.queries
        found = [pl.DataFrame(FINDINGS.empty_table())]
        if "photometry" in queries:
            found += self._in_tables(known)
        if "archive" in queries:
            found.append(self._in_repository(known))
        return pl.concat(found)

    def wait(self, known: pl.DataFrame, found: pl.DataFrame, limit_s: float) -> bool:
        """Wait until the findings are repaired or nothing changes for so long; return whether any was repaired."""
        mendable = found.filter(_BY_PACKETS)
        of = known.filter(
            pl.col("oid").is_in(mendable["oid"].drop_nulls().unique().implode())
            | pl.col("sha256").is_in(mendable.filter(pl.col("oid").is_null())["key"].implode())
        )
        begun = left = len(mendable)
        changed = time.monotonic()
        while left and time.monotonic() - changed < limit_s:
            started = time.monotonic()
            now = self.findings(of).join(mendable, ["invariant", "key"], "semi").height
            if now < left:
                self.progress(f"{now} of {begun} findings are left")
                left, changed = now, time.monotonic()
            pause = max(_LEAST_POLL_S, _PAUSE * (time.monotonic() - started))
            time.sleep(min(pause, limit_s) if left else 0)
        return left < begun

    def _in_tables(self, known: pl.DataFrame) -> Iterator[pl.DataFrame]:
        lake = lakes.open(self.settings.lake.path)
        refused = collect(lake.path, lake.table("quarantine").select("sha256", "stage"))
        unreadable = known.filter(pl.col("oid").is_null()).select("sha256").unique()
        unreadable = unreadable.join(refused.filter(stage="photometry"), "sha256", "anti")
        yield unreadable.select(
            pl.lit(MISSING).alias("invariant"), oid=pl.lit(None, pl.String), candid=pl.lit(None, pl.Int64), key="sha256"
        )
        found = self._of_objects(known.filter(pl.col("oid").is_not_null()))
        yield _without_reason(found, known, refused)
        for name, table in TABLES.items():
            if not table.on_sky and is_made(lake.path, name):
                yield invariants.twice(name, collect(lake.path, lake.table(name).select(table.key)))

    def _of_objects(self, known: pl.DataFrame) -> pl.DataFrame:
        """`invariants.violations` in the workers: slices of the sky, so that each reads few files."""
        if known.is_empty():
            return pl.DataFrame(FINDINGS.empty_table())
        alerts = known.with_columns(number=places(*known.select("oid", "candid", "ra", "dec")))
        alerts = alerts.unique(["oid", "candid", "number"]).sort("candid")
        # An object at two places is checked at each of them alone, so the two are in different slices.
        each = ["number", "oid"]
        place = alerts.unique(each, keep="first", maintain_order=True).sort(each)
        chosen = np.random.default_rng(0).permutation(len(place)) < self.sample
        place = place.select(*each, sampled=chosen, place=pl.Series(healpix(place["ra"], place["dec"])))
        alerts = alerts.join(place, each).sort("number", "place", "oid")
        ends = alerts.group_by(each, maintain_order=True).len()
        before = (pl.col("len").cum_sum() - pl.col("len")).over("number") // _SLICE_ALERTS
        ends = ends.select(*each, slice=pl.struct("number", before=before).rank("dense").cast(pl.Int32) - 1)
        rows = alerts.join(ends, each).select(*ALERTS.names, "slice").to_arrow()
        frame = self.spark.createDataFrame(rows.cast(pa.schema([*ALERTS, pa.field("slice", pa.int32())])))
        slices = int(ends["slice"].max()) + 1  # type: ignore[arg-type]
        path, queries = self.settings.lake.path, frozenset(self.settings.stream.queries)

        def violations(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            met = list(batches)
            if met:
                alerts = pl.DataFrame(pa.Table.from_batches(met))
                found = invariants.violations(alerts, invariants.reader(alerts, path), queries)
                yield from found.to_arrow().cast(FINDINGS).to_batches()

        found = map_in_workers(frame.repartitionById(slices, "slice"), violations, ddl_of(FINDINGS)).toArrow()
        return pl.DataFrame(found.cast(FINDINGS))

    def _in_repository(self, known: pl.DataFrame) -> pl.DataFrame:
        """Packets that the repository lacks. One listing a night: checking each key would take a request per packet."""
        repository, survey = open_repository(self.settings.archive), surveys.get(self.settings.survey)
        good = known.filter(pl.col("oid").is_not_null()).unique(["oid", "candid"])
        bad = known.filter(pl.col("oid").is_null()).unique("sha256")
        keys = [key(survey, *row) for row in good.select("mjd", "candid").iter_rows()]
        others = [second_key(survey, *row) for row in good.select("mjd", "candid", "oid").iter_rows()]
        unreadable = [f"{survey.name}/unreadable/{sha}" for sha in bad["sha256"]]
        folders = {name.rpartition("/")[0] for name in (*keys, *unreadable)}
        stored = {name for folder in folders for name in repository.keys(f"{folder}/")}
        lacks = [*_lacking(keys, others, stored), *(name not in stored for name in unreadable)]
        due = pl.concat([good, bad]).with_columns(lacks=pl.Series(lacks, dtype=pl.Boolean))
        key_text = pl.coalesce(pl.format("{} {}", "oid", "candid"), "sha256")
        return due.filter("lacks").select(pl.lit(invariants.ARCHIVE).alias("invariant"), "oid", "candid", key=key_text)


def _lacking(keys: list[str], others: list[str], stored: set[str]) -> list[bool]:
    """Mask of the packets that are not stored, by their first and second keys.

    Where several objects share a candid, one has its packet under the first key, the others under their second keys.
    """
    sharing = Counter(keys)
    beside = Counter(name for name, other in zip(keys, others, strict=True) if other in stored)
    return [
        other not in stored and (name not in stored or sharing[name] > beside[name] + 1)
        for name, other in zip(keys, others, strict=True)
    ]


#: The query whose recorded reason excuses an invariant.
_STAGES = {
    invariants.STAMP_CLASS: "stamps",
    invariants.FEATURES: "lightcurves",
    invariants.LIGHTCURVE_CLASS: "lightcurves",
}


def _distinct(known: pl.DataFrame) -> int:
    """Number of distinct packets: alerts by id, undecodable packets by their bytes."""
    return known.select(pl.struct(pl.coalesce("oid", "sha256"), "candid").n_unique()).item() if len(known) else 0


def _mending(found: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Findings with the candid of the packet that can repair each: the finding's own, or its object's latest."""
    found = found.filter(pl.col("oid").is_not_null() & _BY_PACKETS)
    latest = known.filter(pl.col("oid").is_not_null()).sort("mjd", "candid").unique("oid", keep="last")
    with_latest = found.join(latest.select("oid", latest="candid"), "oid", "left")
    of_alert = pl.col("invariant").is_in(_OF_ALERTS)
    return with_latest.with_columns(packet=pl.when(of_alert).then("candid").otherwise("latest")).drop("latest")


def _without_reason(found: pl.DataFrame, known: pl.DataFrame, refused: pl.DataFrame) -> pl.DataFrame:
    """Findings without those whose query has refused the packet that would repair them, with a recorded reason."""
    stage = pl.col("invariant").replace_strict(_STAGES, default=None, return_dtype=pl.String)
    due = _mending(found, known).with_columns(stage=stage)
    excused = known.select("oid", "sha256", packet="candid").join(refused, "sha256")
    kept = found.join(due.join(excused, ["oid", "packet", "stage"], "semi"), ["invariant", "key"], "anti")
    return kept.select(FINDINGS.names)


def _to_send(found: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """One message of each packet that can repair a finding."""
    mending = _mending(found, known).select("oid", candid="packet").unique()
    alerts = known.unique(["oid", "candid"], keep="first", maintain_order=True).join(mending, ["oid", "candid"], "semi")
    lost = found.filter(pl.col("oid").is_null() & pl.col("invariant").is_in(_OF_ALERTS))
    unreadable = known.filter(pl.col("oid").is_null() & pl.col("sha256").is_in(lost["key"].implode()))
    return pl.concat([alerts, unreadable.unique("sha256", keep="first", maintain_order=True)])


def _round(number: int, known: pl.DataFrame, found: pl.DataFrame, resent: int, examples: int) -> Round:
    parts = {str(name[0]): part["key"].sort() for name, part in found.group_by("invariant")}
    counts = {name: len(keys) for name, keys in sorted(parts.items())}
    some = {name: keys.head(examples).to_list() for name, keys in sorted(parts.items())}
    missing = counts.pop(MISSING, 0)
    return Round(number, datetime.now(UTC), _distinct(known), missing, resent, counts, some)


def _rounds_before(lake: str, night: str) -> int:
    """Number of the last round of earlier runs for the night: their rows stay, the numbers go on."""
    rounds = lakes.open(lake).table("nightly_reports").filter(pl.col("night") == night).select(pl.col("round").max())
    return rounds.collect().item() or 0


def _store(lake: str, night: str, made: Round) -> None:
    names = ("expected", "missing", "resent", "finished")
    row = {name: getattr(made, name) for name in names} | {"night": night, "round": made.number}
    broken = {name: float(count) for name, count in made.broken.items()}
    table = pa.Table.from_pylist([row | {"broken": list(broken.items())}], TABLES["nightly_reports"].arrow)
    write.insert(lake, "nightly_reports", table)


def _line(made: Round) -> str:
    broken = ", ".join(f"{name} {count}" for name, count in made.broken.items()) or "nothing"
    return (
        f"round {made.number}: {made.expected} packets, {made.missing} missing, broken: {broken}; "
        f"{made.resent} sent again"
    )


def _page(done: Integrity) -> str:
    verdict = "everything is there and right" if done.ok else "something is wrong"
    rows = "".join(
        f"<tr><td>{r.number}<td>{r.finished:%Y-%m-%d %H:%M:%S}<td>{r.expected}<td>{r.missing}<td>{r.resent}"
        f"<td>{escape(', '.join(f'{name}: {count}' for name, count in r.broken.items()) or 'none')}"
        for r in done.rounds
    )
    last = done.rounds[-1].examples
    examples = "".join(f"<li><b>{escape(name)}</b>: {escape('; '.join(keys))}" for name, keys in last.items())
    notes = "".join(f"<p>{escape(note)}</p>" for note in done.notes)
    body = (
        f"<p><b>{verdict}</b></p>{notes}"
        "<table><tr><th>round<th>finished (UTC)<th>packets<th>missing<th>sent again<th>broken invariants"
        f"{rows}</table>" + (f"<h2>Examples</h2><ul>{examples}</ul>" if examples else "")
    )
    return page(f"Integrity of the night {done.night}", body)
