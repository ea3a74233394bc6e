"""The whole stream on this machine: cost of each query, sustained rate, and latency.

`python -m benchmarks.bench_stream [--parts cost sustained latency scaling] [--quick]` prints JSON. Simulated
alerts of a steady sky of all kinds (with stamps and 30 days of history) come night after night; the first 420 days are
imported, so that most alerts have a long light curve. The following nights are produced to a real Kafka broker, beside
the stream on the same cores, and go through every query: archive (a directory), stamps, lightcurves, photometry,
crossmatch and results. The sky is large enough that few objects have two alerts
in one batch, which would be one result. Baseline of the rate: the 150 alerts/s that ALeRCE tested its cluster at
(Förster et al. 2020, section 4.9).

cost: each query alone over the same alerts; processor time of driver, JVM and workers after their warm-up.
sustained: alerts that wait on the topic, until every query has taken the last one.
latency: Kafka timestamp of a result less that of its alert, at fixed rates.
scaling: the sustained rate with every process held to one core, over that with all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from pyspark.sql import SparkSession

from alerce_spark import local_kafka
from alerce_spark.config import Settings, conf_dir, load, query_names
from alerce_spark.kafka import topics
from alerce_spark.kafka.records import LIGHTCURVE_TOPIC
from alerce_spark.lake.compact import compact
from alerce_spark.lake.tables import TABLES
from alerce_spark.session import spark_session
from alerce_spark.streaming.backfill import import_alerts
from alerce_spark.streaming.queries import declared
from alerce_spark.streaming.run import Stream
from benchmarks.processes import Memory, Processor, tree
from benchmarks.sky import Sky, mix, say

PAPER_RATE = 150.0
RUBIN_RATE = 350.0
#: Queries that read alerts, then queries that read the results of the first.
QUERIES = sorted(query_names(), key=lambda name: declared(name).reads is not None)
PARTS = ["cost", "sustained", "latency", "scaling"]
#: Share of the cores that a stream may use on average, so that it can catch up.
_LOAD = 0.7


class Running:
    """Context with a stream in a thread, and the latencies that its queries report."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.stream = Stream(spark, settings)
        self.queries = settings.stream.queries
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
            time.sleep(0.1)
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.stop()
        self._thread.join()

    def taken(self, query: str) -> int:
        """Number of messages that a query has read."""
        return int(self.stream.metrics.status()["queries"][query]["alerts"])

    def wait_for(self, queries: Sequence[str], count: int, limit_s: float = 1500.0) -> None:
        """Wait until each of the queries has read so many messages. Raises TimeoutError."""
        end = time.monotonic() + limit_s
        while any(self.taken(query) < count for query in queries):
            if time.monotonic() > end:
                raise TimeoutError(f"not taken in {limit_s:g} s: { {q: self.taken(q) for q in queries} } of {count}")
            time.sleep(0.1)

    def parts(self) -> dict[str, dict[str, float]]:
        """Median milliseconds of the parts of a batch of each query, and its messages, as reported by Spark."""
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


class Bench:
    """A broker, a lake with a past, and the alerts that follow."""

    def __init__(self, folder: Path, objects: int, days: int) -> None:
        self.folder = folder
        self.servers = f"127.0.0.1:{local_kafka.free_port()}"
        self._sky = Sky(7, objects, days)
        self._number = 0

    def __enter__(self) -> Bench:
        self.broker = local_kafka.start(self.servers, self.folder / "kafka").pid
        settings = self.settings("none", QUERIES)
        self.spark = spark_session(settings, "alerce-spark bench")
        past = self.folder / "past"
        count = self._sky.past(past)
        say(f"the past is {count} packets")
        import_alerts(self.spark, settings, [past], lambda done, files, _: say(f"{done} of {files} imported"))
        self.compact(settings.lake.path)
        sizes = [file.stat().st_size for file in past.iterdir()]
        self.mix = mix(settings.lake.path, sum(sizes) / len(sizes) / 1e6)
        say(f"{self.mix}")
        self.live = self._sky.live()
        return self

    def __exit__(self, *error: object) -> None:
        self.spark.stop()
        local_kafka.stop(self.folder / "kafka")

    def settings(self, topic: str, queries: Sequence[str], lake: str = "lake") -> Settings:
        return load(
            conf_dir() / "alerce.toml",
            {
                "lake": {"path": str(self.folder / lake), "healpix_order": 4},
                "kafka": {"bootstrap_servers": self.servers, "topics": [topic]},
                "archive": {"url": f"file:{self.folder / 'archive'}"},
                "stream": {
                    "queries": list(queries),
                    "checkpoints": str(self.folder / f"checkpoints_{topic}_{'_'.join(queries)}_{lake}"),
                },
            },
        )

    def topic(self) -> str:
        """Create a new topic, and those of today's results."""
        self._number += 1
        name = f"bench_{self._number}"
        today = f"{datetime.now(UTC):%Y%m%d}"
        results = [f"stamp_classifier_{today}", f"lc_classifier_{today}", "alerce_errors"]
        topics.create(self.servers, [name, *results], 4)
        return name

    def cost(self, count: int) -> dict[str, Any]:
        """Core-milliseconds an alert of each query, alone with the same alerts."""
        topic = self.topic()
        packets = list(islice(self.live, count))
        # The first half is the warm-up of JVM and workers.
        found = {name: self.alone(topic, [name], packets) for name in QUERIES if name != "results"}
        found["results"] = self.results(count // 2)
        total = sum(found.values())
        return {
            "alerts": count // 2,
            "core_ms_an_alert": {name: round(value, 2) for name, value in found.items()} | {"all": round(total, 2)},
            "cores_for_350_per_s": round(RUBIN_RATE * total / 1000 / _LOAD, 1),
        }

    def alone(self, topic: str, queries: Sequence[str], packets: list[bytes], lake: str = "lake") -> float:
        """Core-milliseconds an alert of queries over the second half of the packets; the topic is empty again then."""
        half = len(packets) // 2
        topics.send(self.servers, topic, iter(packets[:half]))
        with Running(self.spark, self.settings(topic, queries, lake)) as running:
            running.wait_for(queries, half)
            time.sleep(2.0)
            with Processor(without=self.broker) as processor:
                topics.send(self.servers, topic, iter(packets[half:]))
                producing = processor.seconds
                running.wait_for(queries, len(packets))
                time.sleep(1.0)
        say(f"{queries}: {processor.seconds:.1f} s, {producing:.1f} s of them while the alerts were sent")
        self._renew(topic)
        return 1000 * processor.seconds / (len(packets) - half)

    def compact(self, lake: str) -> None:
        """One file a pixel, as every night leaves the tables."""
        for name, table in TABLES.items():
            if table.on_sky:
                compact(self.spark, lake, name)

    def _renew(self, topic: str) -> None:
        """Empty a topic: the next query finds what is sent to it then."""
        client = topics.admin(self.servers)
        for future in client.delete_topics([topic]).values():
            future.result()
        time.sleep(2.0)
        topics.create(self.servers, [topic], 4)

    def results(self, alerts: int) -> float:
        """The query `results` over what the others published meanwhile."""
        with Running(self.spark, self.settings("none", ["results"])) as running:
            quiet = 0
            last = -1
            with Processor(without=self.broker) as processor:
                while quiet < 8:
                    time.sleep(5.0)
                    quiet = quiet + 1 if running.taken("results") == last else 0
                    last = running.taken("results")
        say(f"results: {processor.seconds:.1f} s for {last} messages")
        return 1000 * processor.seconds / (2 * alerts)

    def sustained(self, count: int) -> dict[str, Any]:
        """Rate at which every query processes alerts that wait on a topic."""
        topic = self.topic()
        sent = topics.send(self.servers, topic, islice(self.live, count))
        say(f"{sent} alerts wait")
        alert_queries = [name for name in QUERIES if name != "results"]
        marks: dict[str, list[tuple[float, int]]] = {name: [] for name in QUERIES}
        with (
            Memory(without=self.broker) as memory,
            Running(self.spark, self.settings(topic, QUERIES)) as running,
            Processor(without=self.broker) as processor,
        ):
            begin, published = time.monotonic(), self._published()
            while any(running.taken(name) < sent for name in alert_queries):
                for name in QUERIES:
                    marks[name].append((time.monotonic() - begin, running.taken(name)))
                time.sleep(0.5)
            seconds, used = time.monotonic() - begin, processor.seconds
            parts, published = running.parts(), self._published() - published
        ends = {name: next((at for at, taken in marks[name] if taken >= sent), seconds) for name in alert_queries}
        rate = sent / seconds
        say(f"{rate:.1f} alerts/s")
        return {
            "alerts": sent,
            "seconds": round(seconds, 1),
            "alerts_per_s": round(rate, 1),
            "rate_over_paper_rate": round(rate / PAPER_RATE, 2),
            "core_ms_an_alert": round(1000 * used / sent, 2),
            "lightcurve_results_an_alert": round(published / sent, 3),
            "seconds_until_last": {name: round(value, 1) for name, value in ends.items()},
            "median_batch_ms": parts,
            "peak_memory_mb": memory.peak,
        }

    def _published(self) -> int:
        """Messages on the topics of light-curve results."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "bench"})
        found = consumer.list_topics(timeout=30).topics.items()
        parts = [
            TopicPartition(name, k) for name, t in found if name.startswith(LIGHTCURVE_TOPIC) for k in t.partitions
        ]
        count = sum(consumer.get_watermark_offsets(part, timeout=30)[1] for part in parts)
        consumer.close()
        return count

    def latency(self, rate: float, seconds: float) -> dict[str, Any]:
        """Latencies at one rate."""
        topic = self.topic()
        with Running(self.spark, self.settings(topic, QUERIES)) as running:
            time.sleep(15.0)  # the first, empty looks at the topics
            running.waits.clear()
            sent = produce(self.servers, topic, self.live, rate, seconds)
            running.wait_for(["stamps", "lightcurves", "photometry"], sent)
            time.sleep(35.0)  # until `results` has read the last messages
            parts, found = running.parts(), running.latency()
        say(f"{rate:g}/s: {found}")
        return {"alerts": sent, "latency_s": found, "median_batch_ms": parts}

    def scaling(self, count: int) -> dict[str, Any]:
        """The sustained rate on one core and on all of them."""
        cores = sorted(os.sched_getaffinity(0))
        found = {}
        for number in (1, len(cores)):
            self._hold(set(cores[:number]))
            found[number] = self.sustained(count)["alerts_per_s"]
        return {
            "alerts": count,
            "alerts_per_s": {f"{number}_cores": rate for number, rate in found.items()},
            "all_cores_over_one": round(found[len(cores)] / found[1], 2),
        }

    def _hold(self, cores: set[int]) -> None:
        """Hold every process, that of the broker too, to some cores."""
        for process in [self.broker, *(number for number, _ in tree(self.broker))]:
            for thread in Path(f"/proc/{process}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), cores)


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--objects", type=int, default=6000)
    parser.add_argument("--days", type=int, default=420)
    parser.add_argument("--alerts", type=int, default=50_000, help="of the part `sustained`")
    parser.add_argument("--some", type=int, default=4000, help="alerts of `cost`")
    parser.add_argument("--rates", type=float, nargs="*", default=[25.0])
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.objects, args.days, args.alerts, args.some = 80, 60, 300, 200
        args.rates, args.seconds = [5.0], 10.0
    with tempfile.TemporaryDirectory() as scratch, Bench(Path(scratch), args.objects, args.days) as bench:
        result: dict[str, Any] = {"mix": bench.mix}
        if "cost" in args.parts:
            result["cost"] = bench.cost(args.some)
        if "latency" in args.parts:
            result["latency"] = {f"{rate:g}_per_s": bench.latency(rate, args.seconds) for rate in args.rates}
        if "sustained" in args.parts:
            result["sustained"] = bench.sustained(args.alerts)
        if "scaling" in args.parts:
            result["scaling"] = bench.scaling(min(args.alerts, 8_000))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
