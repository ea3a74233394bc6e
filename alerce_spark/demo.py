"""The demo: a night of alerts through a real Kafka broker and Spark into Delta tables, on one machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from alerce_spark import lake
from alerce_spark.alerts.files import find_files, packets_of
from alerce_spark.config import Settings, load
from alerce_spark.kafka import local, topics
from alerce_spark.lightcurves.plot import figure
from alerce_spark.session import spark_session
from alerce_spark.simulation import night
from alerce_spark.streaming.photometry import Summary
from alerce_spark.streaming.run import Stream

_TOPIC = "ztf_20200601_programid1"
_SHOWN = ("detections", "non_detections", "forced_photometry", "objects", "magstats", "quarantine")


def run(base: Settings, folder: Path, alerts: Path | None, number: int, console: Console) -> None:
    """Make `folder` anew: broker, lake, archive, figure. `alerts` replaces the `number` simulated packets."""
    folder = folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    settings = load(
        overrides={
            **base.model_dump(mode="json", exclude_unset=True),
            "lake": {"path": str(folder / "lake"), "healpix_order": 3},
            "kafka": {
                "bootstrap_servers": f"127.0.0.1:{local.free_port()}",
                "topics": [_TOPIC],
                "local_dir": str(folder / "kafka"),
            },
            "archive": {"url": f"file:{folder / 'archive'}"},
            "stream": {"queries": ["photometry", "archive"], "photometry_min_alerts": 1, "photometry_max_alerts": 2000},
        }
    )
    servers = settings.kafka.bootstrap_servers
    bar = Progress(
        TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    with bar:
        starting = bar.add_task("starting Kafka", total=1)
        local.start(servers, settings.kafka.local_dir, settings.kafka.local_heap)
        bar.update(starting, completed=1)
        try:
            topics.create(servers, [_TOPIC], settings.kafka.partitions)
            producing = bar.add_task("alerts to Kafka", total=number if alerts is None else None)
            sent = topics.send(servers, _TOPIC, _packets(alerts, number), lambda n: bar.update(producing, completed=n))
            bar.update(producing, total=sent)
            seconds = _stream(settings, sent, bar)
        finally:
            local.stop(settings.kafka.local_dir)
    _summary(settings.lake.path, sent, seconds, console)
    picture = folder / "light_curves.png"
    _draw(settings.lake.path, picture)
    console.print(f"Light curves: {picture}\nTables: {settings.lake.path}  (alerce-spark tables describe)")


def _packets(alerts: Path | None, number: int) -> Iterator[bytes]:
    if alerts is not None:
        return (packet for file in find_files([alerts]) for packet, _ in packets_of(str(file)))
    objects = max(40, number // 12)
    simulated = night.stream(1, objects=objects, version=("3.3", "4.02"), traits=night.Traits.like_ztf())
    return (packet for _, _, packet in islice(simulated, number))


def _stream(settings: Settings, sent: int, bar: Progress) -> float:
    starting = bar.add_task("starting Spark", total=1)
    spark = spark_session(settings, "alerce-spark demo")
    bar.update(starting, completed=1)
    tasks = {str(name): bar.add_task(name, total=sent) for name in settings.stream.queries}

    def report(query: str, epoch: int, result: object) -> None:
        done = result.alerts + result.refused if isinstance(result, Summary) else int(str(result))
        bar.advance(tasks[query], done)

    began = time.monotonic()
    Stream(spark, settings, report, until_empty=True).run()
    seconds = time.monotonic() - began
    spark.stop()
    return seconds


def _summary(path: str, sent: int, seconds: float, console: Console) -> None:
    opened = lake.open(path)
    rows = Table(
        "table", "rows", title=f"{sent} alerts in {seconds:.1f} s: {sent / seconds:.0f} alerts/s, first batch included"
    )
    for name in _SHOWN:
        rows.add_row(name, str(opened.table(name).select(pl.len()).collect().item()))
    console.print(rows)


def _draw(path: str, picture: Path) -> None:
    opened = lake.open(path)
    # The best-observed object without a source in the reference (a transient, if there is one), and two with.
    objects = opened.table("objects").sort("ndet", "oid", descending=[True, False]).collect()
    best = [oid for corrected, n in ((False, 1), (True, 2)) for oid in objects.filter(corrected=corrected)["oid"][:n]]
    detections, limits = (opened.table(name, oid=best).collect() for name in ("detections", "non_detections"))
    figure(detections, limits, best).savefig(picture, dpi=120)
