"""The whole stream on this machine: latency at fixed rates, and the rate it sustains, with every query running.

`python -m benchmarks.bench_stream [--stored 6000] [--rates 5 25 75] [--seconds 120] [--sustained 0] [--quick]`
prints JSON. Simulated alerts of a steady sky (with stamps and 30 days of history) come night after night: the first
`--stored` of them are imported, so that objects have histories in the lake; the following ones are produced to a real
Kafka broker while archive (a directory), stamps, lightcurves, photometry and results run in one application, producer
and consumer on the same cores. Latency is the Kafka timestamp of a result less that of its alert. Baseline of the rate:
the 150 alerts/s that ALeRCE tested its pipeline at.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from confluent_kafka import Producer
from pyspark.sql import SparkSession

from alerce_spark import lake as lakes
from alerce_spark.config import Settings, conf_dir, load
from alerce_spark.kafka import local, topics
from alerce_spark.lake.compact import compact_lake
from alerce_spark.session import spark_session
from alerce_spark.simulation import night
from alerce_spark.streaming.backfill import import_alerts
from alerce_spark.streaming.run import Stream
from benchmarks.bench_ingest import Memory

PAPER_RATE = 150.0
QUERIES = ["archive", "stamps", "lightcurves", "photometry", "results"]


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def settings_of(folder: Path, servers: str, topic: str) -> Settings:
    return load(
        conf_dir() / "alerce.toml",
        {
            "lake": {"path": str(folder / "lake"), "healpix_order": 4},
            "kafka": {"bootstrap_servers": servers, "topics": [topic]},
            "archive": {"url": f"file:{folder / 'archive'}"},
            "stream": {"queries": QUERIES, "checkpoints": str(folder / f"checkpoints_{topic}")},
        },
    )


class Running:
    """A stream in a thread while it is entered, with the latencies that its queries report."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.stream = Stream(spark, settings)
        self.waits: dict[str, list[np.ndarray]] = {}
        feed = self.stream.metrics.latency

        def keep(step: str, seconds: Any) -> None:
            self.waits.setdefault(step, []).append(np.asarray(seconds))
            feed(step, seconds)

        self.stream.metrics.latency = keep  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self.stream.run)

    def __enter__(self) -> Running:
        self._thread.start()
        while not self.stream.has_started:
            time.sleep(0.2)
        time.sleep(10.0)  # the first, empty look at the topics
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.stop()
        self._thread.join()

    def taken(self, query: str) -> int:
        """Messages that a query has taken."""
        return int(self.stream.metrics.status()["queries"][query]["alerts"])

    def wait_for(self, query: str, count: int, limit_s: float = 600.0) -> None:
        """Until a query has taken so many messages."""
        end = time.monotonic() + limit_s
        while self.taken(query) < count and time.monotonic() < end:
            time.sleep(0.2)

    def parts(self) -> dict[str, dict[str, float]]:
        """Median milliseconds of the parts of a batch of each query, and its messages, by Spark's own account."""
        found = {}
        for name, query in self.stream._running.items():
            batches = [json.loads(p.json) for p in query.recentProgress if p.numInputRows]
            names = sorted({part for batch in batches for part in batch["durationMs"]})
            found[name] = {part: float(np.median([b["durationMs"].get(part, 0) for b in batches])) for part in names}
            if batches:
                found[name]["messages"] = float(np.median([b["numInputRows"] for b in batches]))
        return found

    def latency(self) -> dict[str, dict[str, float]]:
        """Percentiles of every step in seconds."""
        found = {}
        for step, parts in sorted(self.waits.items()):
            waits = np.concatenate(parts)
            values = np.percentile(waits, (50, 95, 99))
            found[step] = {"results": waits.size} | dict(
                zip(("p50", "p95", "p99"), np.round(values, 2).tolist(), strict=True)
            )
        return found


def produce(servers: str, topic: str, packets: Iterator[bytes], rate: float, seconds: float) -> int:
    """Send packets at a steady rate; returns their number."""
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 5, "message.max.bytes": 64 << 20, "log_level": 0})
    begin, sent = time.monotonic(), 0
    for packet in islice(packets, int(rate * seconds)):
        delay = begin + sent / rate - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        producer.produce(topic, packet)
        producer.poll(0)
        sent += 1
    producer.flush(60)
    return sent


def at_rate(
    spark: SparkSession, folder: Path, servers: str, packets: Iterator[bytes], rate: float, seconds: float
) -> dict[str, Any]:
    """Latencies at one rate."""
    topic = f"bench_{rate:g}".replace(".", "_")
    topics.create(servers, [topic, *result_topics()], 4)
    with Running(spark, settings_of(folder, servers, topic)) as running:
        running.waits.clear()
        sent = produce(servers, topic, packets, rate, seconds)
        running.wait_for("lightcurves", sent)
        running.wait_for("photometry", sent)
        time.sleep(35.0)  # until `results` has read the last messages
        parts = running.parts()
    say(f"{rate:g}/s: {running.latency()}")
    return {"alerts": sent, "latency_s": running.latency(), "median_batch_ms": parts}


def result_topics() -> list[str]:
    today = f"{datetime.now(UTC):%Y%m%d}"
    return [f"stamp_classifier_{today}", f"lc_classifier_{today}", "alerce_errors"]


def sustained(spark: SparkSession, folder: Path, servers: str, packets: Iterator[bytes], count: int) -> dict[str, Any]:
    """Alerts that wait on the topic, through every query, until the last query has taken the last one."""
    topic = "bench_backlog"
    topics.create(servers, [topic], 4)
    sent = topics.send(servers, topic, islice(packets, count))
    marks: dict[str, list[tuple[float, int]]] = {name: [] for name in QUERIES}
    with Memory(without=0) as memory, Running(spark, settings_of(folder, servers, topic)) as running:
        begin = time.monotonic()
        while any(running.taken(name) < sent for name in QUERIES if name != "results"):
            for name in QUERIES:
                marks[name].append((time.monotonic() - begin, running.taken(name)))
            time.sleep(0.5)
            if time.monotonic() - begin > 1200:
                break
        for name in QUERIES:
            marks[name].append((time.monotonic() - begin, running.taken(name)))
    rates = {}
    for name in QUERIES:
        at = np.array(marks[name])
        # From a quarter of the way on: workers and JVM are warm.
        warm = at[(at[:, 1] >= sent / 4)]
        done = warm[warm[:, 1] >= warm[:, 1].max()][0]
        if done[0] > warm[0][0]:
            rates[name] = round(float((done[1] - warm[0][1]) / (done[0] - warm[0][0])), 1)
    slowest = min(rate for name, rate in rates.items() if name != "results")
    return {
        "alerts": sent,
        "alerts_per_s": rates,
        "slowest_per_s": slowest,
        "slowest_over_paper_rate": round(slowest / PAPER_RATE, 2),
        "peak_memory_mb": memory.peak,
    }


def mix(path: str) -> dict[str, Any]:
    """What the stored sky is like: objects, and detections and days of those with features."""
    opened = lakes.open(path)
    objects = opened.table("objects").select("ndet", "deltamjd").collect()
    many = objects.filter(pl.col("ndet") >= 12)
    return {
        "objects": len(objects),
        "detections": opened.table("detections").select(pl.len()).collect().item(),
        "median_ndet_of_objects_with_12": many["ndet"].median(),
        "median_days_of_objects_with_12": many["deltamjd"].median(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stored", type=int, default=6000)
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--rates", type=float, nargs="*", default=[5.0, 25.0, 75.0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--sustained", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.stored, args.objects, args.rates, args.seconds, args.sustained = 500, 60, [5.0], 10.0, 300
    packets = (packet for _, _, packet in night.stream(7, objects=args.objects))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        servers = f"127.0.0.1:{local.free_port()}"
        local.start(servers, folder / "kafka")
        try:
            say("making and importing the past")
            past = folder / "past"
            past.mkdir()
            for k, packet in enumerate(islice(packets, args.stored)):
                (past / f"{k:08d}.avro").write_bytes(packet)
            settings = settings_of(folder, servers, "bench_none")
            spark = spark_session(settings, "alerce-spark bench")
            import_alerts(spark, settings, [past], lambda done, files, summary: say(f"{done} of {files} imported"))
            list(compact_lake(spark, settings.lake.path, 1, 168.0))
            result: dict[str, Any] = {"mix": mix(settings.lake.path), "latency": {}}
            for rate in args.rates:
                result["latency"][f"{rate:g}_per_s"] = at_rate(spark, folder, servers, packets, rate, args.seconds)
            if args.sustained:
                result["sustained"] = sustained(spark, folder, servers, packets, args.sustained)
            spark.stop()
        finally:
            local.stop(folder / "kafka")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
