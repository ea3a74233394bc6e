"""The demo: a night of alerts through a real broker, every query, the integrity check and a report, on one machine."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from py4j.protocol import Py4JError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alerce_spark import lake, local_kafka, needs
from alerce_spark.alerts.files import OTHER, Unread, find_files, packets_of
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES, STAMP, STAMP_CLASSES
from alerce_spark.config import Settings, load, query_names
from alerce_spark.errors import InputError
from alerce_spark.jars import Jars, cache, kafka, locked, log
from alerce_spark.kafka import records, topics
from alerce_spark.lightcurves.plot import figure
from alerce_spark.nightly.integrity import Integrity, check
from alerce_spark.pages import page
from alerce_spark.profiles import profile
from alerce_spark.progress import Stages
from alerce_spark.session import spark_session
from alerce_spark.simulation.defects import corrupt
from alerce_spark.simulation.first_alerts import stamp_class
from alerce_spark.simulation.night import Traits, simulate
from alerce_spark.simulation.packets import SURVEY
from alerce_spark.streaming import kernels
from alerce_spark.streaming.queries import declared
from alerce_spark.streaming.query import Query, Timed
from alerce_spark.streaming.run import Stream
from alerce_spark.text import printable
from alerce_spark.training import figures, metrics

_SHOWN = (
    *("detections", "non_detections", "forced_photometry", "objects", "xmatch"),
    *("features", "probabilities", "quarantine"),
)
#: A consumer without messages for so long has read everything [s].
_SILENCE_S = 6.0
#: Files and folders of a demo.
_LOG = "spark.log"
_MADE = {"archive", "kafka", "lake", "report.html", _LOG}
_DEFECTS = ("html", "truncated", "nan_position")


@dataclass
class _Told:
    """Report of the queries on the run: its seconds, waits of alerts by step."""

    seconds: float = 0.0
    waits: dict[str, list[np.ndarray]] = field(default_factory=dict)


def run(base: Settings, folder: Path, alerts: Path | None, number: int, console: Console) -> None:
    """Make `folder` again: broker, lake, archive, report. `alerts` replaces the `number` simulated packets.

    However it ends, the broker and Spark end with it. Raises MissingError where the machine lacks something.
    """
    folder = folder.resolve()
    needs.to_run(folder)
    night = f"{datetime.now(UTC):%Y%m%d}"
    topic = SURVEY.topic.format(night=night)
    settings = _settings(base, folder, topic)
    servers = settings.kafka.bootstrap_servers
    console.print(_to_fetch(settings), highlight=False, soft_wrap=True)
    _clear(folder)
    said = f"What Spark prints goes to {folder / _LOG}"
    console.print(f"{said}; what Ivy prints as it fetches, to {log()}", highlight=False, soft_wrap=True)
    # The compiler needs a core for a minute, the first time; the stages before the stream hardly need one.
    with Stages(console) as stages, kernels.compiling() as compiled:
        for jars in _jars(settings):
            if jars.missing_bytes:
                with stages.stage(f"fetching {jars.missing_bytes / 1e6:.0f} MB of Java archives"):
                    jars.fetch()
        unread: list[tuple[str, str]] = []
        with stages.stage("making the night"):
            packets, truth = _packets(alerts, number, lambda *pair: unread.append(pair))
        if not packets:
            raise InputError(f"{alerts}: no packet can be read: {unread[:3]}")
        try:
            with stages.stage("starting Kafka"):
                local_kafka.start(servers, settings.kafka.local_dir, settings.kafka.local_heap)
                topics.create(servers, [topic], settings.kafka.partitions)
            with stages.stage("compiling kernels, the rest"):
                compiled()
            told, proof = _stream(settings, night, topic, packets, folder / _LOG, stages)
            with stages.stage("listening to the output topics"):
                heard = _listen(servers)
        finally:
            local_kafka.stop(settings.kafka.local_dir)
        with stages.stage("report"):
            opened = lake.open(settings.lake.path)
            classes = opened.table("probabilities").collect()
            report = folder / "report.html"
            sent = len(packets)
            report.write_text(_page(opened, sent, told, classes, truth, proof, heard), encoding="utf-8")
    _summary(opened, sent, told, classes, console)
    for name, messages in heard.items():
        console.print(f"topic {name}: {len(messages)} messages")
    for name, reason in unread:
        if reason != OTHER:
            console.print(Text(printable(f"not read {name}: {reason}", 500)))
    console.print(stages.table())
    console.print(f"integrity of the night: {'complete and right' if proof.ok else proof.broken}")
    console.print(f"Report: {report}\nTables: {settings.lake.path}  (alerce-spark tables describe)", soft_wrap=True)


def _settings(base: Settings, folder: Path, topic: str) -> Settings:
    return load(
        overrides={
            **base.model_dump(mode="json", exclude_unset=True),
            "lake": {"path": str(folder / "lake"), "healpix_order": 3},
            "kafka": {
                "bootstrap_servers": f"127.0.0.1:{local_kafka.free_port()}",
                "topics": [topic],
                "local_dir": str(folder / "kafka"),
                "local_heap": "256m",
            },
            "archive": {"url": f"file:{folder / 'archive'}"},
            "stream": {
                "queries": query_names(),
                **{name: _table(declared(name)) for name in query_names()},
            },
            # The same memory on every machine.
            "spark": {"profile": "laptop"},
        }
    )


def _table(query: Query) -> dict[str, float | None]:
    """Settings of a query for a short run of a thousand alerts."""
    few = query.min_messages and min(query.min_messages, 2000)
    most = query.max_messages if few is None else few
    return {"interval_s": min(query.interval_s, 5.0), "min_messages": few, "max_messages": most}


def _jars(settings: Settings) -> list[Jars]:
    spark = locked(profile(settings.spark.profile)["spark.jars.packages"])
    return [jars for jars in (spark, kafka()) if jars is not None]


def _to_fetch(settings: Settings) -> str:
    missing = sum(jars.missing_bytes for jars in _jars(settings))
    if not missing:
        return "Nothing is to be fetched: all Java archives are there."
    return f"To be fetched once: Java archives of Kafka and Delta, {missing / 1e6:.0f} MB, into {cache()}"


def _clear(folder: Path) -> None:
    """An empty folder. Raises InputError where it has files that no demo made."""
    if folder.is_dir():
        if others := sorted({path.name for path in folder.iterdir()} - _MADE):
            raise InputError(f"{folder} holds {others[0]}, which no demo made: name another folder by --folder")
        local_kafka.stop(folder / "kafka")  # of a demo that was killed
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _packets(alerts: Path | None, number: int, unread: Unread) -> tuple[list[bytes], dict[str, str]]:
    """Packets in order of time, three broken ones among simulated ones; and the true class of each simulated object."""
    if alerts is not None:
        return [packet for file in find_files([alerts], unread) for packet, _ in packets_of(file, unread)], {}
    # Four weeks: each packet carries the whole history of its object, so a stream that catches up knows all of it.
    night = simulate(
        1,
        objects=max(40, number // 8),
        nights=29,
        cadence=2,
        history_days=0,
        version=("3.3", "4.02"),
        traits=Traits.like_ztf(),
    )
    packets = night.packets[:number]
    rng = np.random.default_rng(1)
    broken = [corrupt(packets[k], kind, rng) for k, kind in enumerate(_DEFECTS)]
    return [*packets[: number // 2], *broken, *packets[number // 2 :]], dict(night.truth)


def _stream(
    settings: Settings, night: str, topic: str, packets: list[bytes], output: Path, stages: Stages
) -> tuple[_Told, Integrity]:
    sent = len(packets)
    told = _Told()

    def report(query: str, epoch: int, result: object) -> None:
        if isinstance(result, Timed):
            for step, waits in result.latency.items():
                told.waits.setdefault(step, []).append(waits)

    with stages.stage("starting Spark"):
        spark = spark_session(settings, "alerce-spark demo", output)
    stream = Stream(spark, settings, report)
    running = threading.Thread(target=stream.run, name="demo stream")
    try:
        with stages.stage("starting the queries"):
            running.start()
            while running.is_alive() and not stream.has_started:
                time.sleep(0.2)
        with stages.stage("streaming"):
            began = time.monotonic()
            topics.send(settings.kafka.bootstrap_servers, topic, packets)
            done = {name: 0 for name in query_names() if declared(name).reads is None}
            while running.is_alive() and any(count < sent for count in done.values()):
                told_of = stream.metrics.status()["queries"]
                done = {name: told_of[name]["alerts"] for name in done}
                stages.counts(done, sent)
                time.sleep(0.2)
            told.seconds = time.monotonic() - began
        with stages.stage("integrity of the night"):
            # Packets that came faster than the tables could follow are sent again, while the stream runs.
            proof = check(spark, settings, night, rounds=3, wait_s=60.0)
    except KeyboardInterrupt:
        _be_quiet()
        raise
    finally:
        stream.stop()
        if running.ident is not None:
            running.join()
        with suppress(Py4JError, OSError):  # a signal to the group of processes has ended the JVM
            spark.stop()
    return told, proof


def _be_quiet() -> None:
    """No more traces: a signal to the group of processes ends the JVM too, and each thread that uses it would tell."""
    logging.disable()
    threading.excepthook = lambda error: None


def _listen(servers: str) -> dict[str, list[dict[str, Any]]]:
    """Messages of the output topics, by topic."""
    consumer = topics.consumer(servers, "demo")
    consumer.subscribe(
        [f"^{records.STAMP_TOPIC}(_[0-9]{{8}})?$", f"^{records.LIGHTCURVE_TOPIC}(_[0-9]{{8}})?$", records.ERROR_TOPIC]
    )
    heard: dict[str, list[dict[str, Any]]] = {}
    while (message := consumer.poll(_SILENCE_S)) is not None:
        if message.error() is None:
            topic = str(message.topic())
            heard.setdefault(topic, []).append(records.schema_of(topic).decode(message.value() or b""))
    consumer.close()
    return heard


def _summary(opened: lake.Lake, sent: int, told: _Told, classes: pl.DataFrame, console: Console) -> None:
    rate = f"{sent} alerts in {told.seconds:.1f} s: {sent / told.seconds:.0f} alerts/s, first batch included"
    console.print(rate, soft_wrap=True)
    rows = Table("table", "rows")
    for name in _SHOWN:
        rows.add_row(name, str(opened.table(name).select(pl.len()).collect().item()))
    console.print(rows)
    counts = Table("classifier", "class", "objects")
    for classifier, name, objects in _counts(classes).iter_rows():
        counts.add_row(classifier, name, str(objects))
    console.print(counts)


def _latest(classes: pl.DataFrame, classifier: str) -> pl.DataFrame:
    """One class an object: the first stamps decide, the latest light curve."""
    chosen = classes.filter(classifier=classifier).sort("mjd", "candid")
    return chosen.unique("oid", keep="first" if classifier == STAMP else "last", maintain_order=True)


def _counts(classes: pl.DataFrame) -> pl.DataFrame:
    both = pl.concat([_latest(classes, name) for name in (STAMP, LIGHTCURVE)])
    return both.group_by("classifier", "class").len("objects").sort("classifier", "objects", descending=True)


def _page(
    opened: lake.Lake,
    sent: int,
    told: _Told,
    classes: pl.DataFrame,
    truth: dict[str, str],
    proof: Integrity,
    heard: dict[str, list[dict[str, Any]]],
) -> str:
    parts = [
        ("Classes of the objects", _bars(classes)),
        ("Where they are", _sky(opened, classes)),
        (f"From Kafka to result: {sent} alerts that came in one burst", _waits(told)),
        ("Light curves", _light_curves(opened)),
    ]
    if truth:
        for classifier, names in ((STAMP, STAMP_CLASSES), (LIGHTCURVE, LIGHTCURVE_CLASSES)):
            title = f"{classifier}: true and predicted classes of the simulated objects"
            parts.append((title, _confusion(_latest(classes, classifier), truth, classifier, names)))
    body = "".join(f"<h2>{escape(title)}</h2>{figures.as_html(drawn, title)}" for title, drawn in parts)
    body += "<h2>Messages on the output topics</h2>"
    for name, messages in heard.items():
        example = json.dumps(messages[-1], indent=1, default=str)
        body += f"<details><summary>{escape(name)}: {len(messages)}; the last one</summary>"
        body += f"<pre>{escape(example)}</pre></details>"
    wrong = "nothing is missing and no invariant is broken" if proof.ok else f"broken: {proof.broken}"
    head = f"{sent} alerts in {told.seconds:.0f} s through {', '.join(query_names())}. Integrity of the night: {wrong}."
    return page("alerce_spark: the demo", f"<p>{escape(head)}</p>{body}")


def _bars(classes: pl.DataFrame) -> Figure:
    drawn = Figure(figsize=(10, 4), layout="constrained")
    counts = _counts(classes)
    for axes, classifier in zip(drawn.subplots(1, 2), (STAMP, LIGHTCURVE), strict=True):
        mine = counts.filter(classifier=classifier)
        axes.barh(mine["class"].to_list()[::-1], mine["objects"].to_list()[::-1], color="#0072B2")
        axes.set(title=classifier, xlabel="objects")
    return drawn


def _sky(opened: lake.Lake, classes: pl.DataFrame) -> Figure:
    drawn = Figure(figsize=(10, 5), layout="constrained")
    axes = drawn.add_subplot(projection="mollweide")
    places = opened.table("objects").select("oid", "meanra", "meandec").collect()
    placed = _latest(classes, STAMP).join(places, on="oid")
    for name in STAMP_CLASSES:
        mine = placed.filter(pl.col("class") == name)
        ra = np.radians((mine["meanra"].to_numpy() + 180) % 360 - 180)
        axes.plot(ra, np.radians(mine["meandec"].to_numpy()), ".", label=name)
    axes.grid(alpha=0.3)
    axes.legend(title="stamp class", loc="lower right")
    return drawn


def _waits(told: _Told) -> Figure:
    drawn = Figure(figsize=(8, 4), layout="constrained")
    axes = drawn.add_subplot()
    for step, parts in told.waits.items():
        waits = np.sort(np.concatenate(parts))
        axes.step(waits, np.arange(1, waits.size + 1) / waits.size, where="post", label=step)
    axes.set(xlabel="seconds since the alert came to Kafka", ylabel="share of alerts", ylim=(0, 1.02))
    axes.legend()
    axes.grid(alpha=0.3)
    return drawn


def _light_curves(opened: lake.Lake) -> Figure:
    # The best-observed object without a source in the reference (a transient, if there is one), and two with.
    objects = opened.table("objects").sort("ndet", "oid", descending=[True, False]).collect()
    best = [oid for corrected, n in ((False, 1), (True, 2)) for oid in objects.filter(corrected=corrected)["oid"][:n]]
    detections, limits = (opened.table(name, oid=best).collect() for name in ("detections", "non_detections"))
    return figure(detections, limits, best)


def _confusion(found: pl.DataFrame, truth: dict[str, str], classifier: str, names: tuple[str, ...]) -> Figure:
    true = found["oid"].replace_strict(truth, default=None)
    if classifier == STAMP:
        true = true.map_elements(stamp_class, return_dtype=pl.String)
    known = found.with_columns(true=true).filter(pl.col("true").is_in(names))
    codes = (metrics.indices(known[column].to_list(), names) for column in ("true", "class"))
    return figures.confusion(metrics.evaluate(classifier, names, *codes))
