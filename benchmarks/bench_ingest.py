"""Alerts per second into the tables on this machine: import of files, and the stream from a real Kafka broker.

`python -m benchmarks.bench_ingest [--alerts 24000] [--batch 8000] [--quick]` prints JSON. Alerts are simulated RR
Lyrae, eclipsing binaries, long-period variables and active nuclei, with stamps and 30 days of history, night after
night. Each of three passes starts with an empty lake: import of files, the query `photometry` alone, `photometry` and
`archive` (into a directory) side by side. The first batch of a pass is its warm-up and reported apart. The baseline is
fastavro's decoding alone, on one core, of the same packets. The producer has finished before a stream starts.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import fastavro
import polars as pl
from pyspark.sql import SparkSession

from alerce_spark import local_kafka
from alerce_spark.alerts.files import find_files, insist
from alerce_spark.config import Settings, conf_dir, load
from alerce_spark.kafka import topics
from alerce_spark.lake import write
from alerce_spark.lake.handles import delta_table
from alerce_spark.session import spark_session
from alerce_spark.simulation import night
from alerce_spark.streaming.queries.photometry import Photometry, Summary
from alerce_spark.streaming.run import Stream
from alerce_spark.streaming.source import from_files, names
from benchmarks.processes import Memory

MIX = {"RRL": 1.0, "E": 1.0, "LPV": 1.0, "AGN": 1.0}
TOPIC = "ztf_20200531_programid1"
PARTITIONS = 4
TABLES = ("detections", "non_detections", "forced_photometry", "objects", "magstats")


def make_alerts(folder: Path, number: int) -> list[Path]:
    """Files of simulated alerts in order of time."""
    for candid, _, packet in islice(night.stream(3, objects=max(40, number // 12), mix=MIX), number):
        (folder / f"{candid}.avro").write_bytes(packet)
    return find_files([folder], insist)


def fastavro_per_second(files: list[Path]) -> float:
    """Packets that fastavro decodes in a second on one core."""
    packets = [file.read_bytes() for file in files]
    start = time.process_time()
    for packet in packets:
        next(fastavro.reader(io.BytesIO(packet)))
    return len(packets) / (time.process_time() - start)


def import_files(spark: SparkSession, settings: Settings, files: list[Path], batch: int) -> dict[str, Any]:
    """The import in batches of `batch`, into an empty lake."""
    lake = settings.lake
    write.create(lake.path, lake.healpix_order)
    slices = spark.sparkContext.defaultParallelism
    photometry = Photometry(spark, lake.path, settings.survey, slices, lambda: None)
    done: list[tuple[float, Summary]] = []
    for at in range(0, len(files), batch):
        start = time.perf_counter()
        summary = photometry.process(from_files(spark, files[at : at + batch], slices, names(spark)))
        done.append((time.perf_counter() - start, summary))
        progress(f"import: {summary.alerts} alerts in {done[-1][0]:.1f} s")
    return rates(done) | {"lake": state(lake.path, len(files))}


def rates(done: list[tuple[float, Summary]]) -> dict[str, Any]:
    """Alerts/s without the first batch, and the mean seconds of each part of a batch; (seconds, what was done) each."""
    (first_s, first), warm = done[0], done[1:]
    alerts = sum(summary.alerts for _, summary in warm)
    parts = {part for _, summary in warm for part in summary.seconds}
    return {
        "first_batch": {"alerts": first.alerts, "seconds": round(first_s, 2)},
        "warm_batches": len(warm),
        "warm_alerts": alerts,
        "warm_alerts_per_s": round(alerts / sum(seconds for seconds, _ in warm), 1),
        "warm_batch_s": {
            part: round(sum(summary.seconds.get(part, 0.0) for _, summary in warm) / len(warm), 2)
            for part in sorted(parts)
        },
    }


def state(lake: str, alerts: int) -> dict[str, Any]:
    """Rows and size of the tables. Raises RuntimeError unless they hold every alert: a speed would be meaningless."""
    rows, size = {}, 0
    for table in TABLES:
        handle = delta_table(lake, table)
        rows[table] = pl.scan_delta(handle).select(pl.len()).collect().item()
        size += sum(pl.DataFrame(handle.get_add_actions())["size_bytes"])
    stored = pl.scan_delta(delta_table(lake, "detections")).select(pl.col("has_stamp").sum()).collect().item()
    if stored != alerts:
        raise RuntimeError(f"{stored} of {alerts} alerts are in {lake}")
    return {"rows": rows, "mb": round(size / 1e6)}


def stream(spark: SparkSession, settings: Settings, alerts: int) -> dict[str, Any]:
    """The stream into an empty lake, until it has read everything on the topic."""
    ends: list[tuple[float, Summary]] = []
    start = time.perf_counter()

    def report(query: str, epoch: int, result: object) -> None:
        seconds = time.perf_counter() - start
        progress(
            f"{query} {epoch}: {result if isinstance(result, int) else getattr(result, 'alerts', '')} {seconds:.1f} s"
        )
        if isinstance(result, Summary):
            ends.append((seconds, result))

    Stream(spark, settings, report, until_empty=True).run()
    whole = time.perf_counter() - start
    times = [0.0, *(seconds for seconds, _ in ends)]
    done = [(times[i + 1] - times[i], summary) for i, (_, summary) in enumerate(ends)]
    # All queries must have finished: the archive may end after the tables.
    behind = whole - ends[0][0]
    found = rates(done) | {"seconds_from_start_to_all_queries_through": round(whole, 1)}
    found["all_queries_warm_alerts_per_s"] = round(found["warm_alerts"] / behind, 1)
    return found | {"lake": state(settings.lake.path, alerts)}


def progress(text: str) -> None:
    """Print a line of progress."""
    print(f"  {text}", file=sys.stderr, flush=True)


def measure(folder: Path, number: int, batch: int) -> dict[str, Any]:
    """All passes."""
    start = time.perf_counter()
    alerts = folder / "alerts"
    alerts.mkdir()
    files = make_alerts(alerts, number)
    sizes = [file.stat().st_size for file in files]
    simulated_s = time.perf_counter() - start
    progress(f"{len(files)} alerts made in {simulated_s:.0f} s")
    result: dict[str, Any] = {
        "alerts": len(files),
        "mean_bytes": round(sum(sizes) / len(sizes)),
        "batch": batch,
        "simulation_alerts_per_s": round(len(files) / simulated_s, 1),
    }
    baseline = fastavro_per_second(files[: min(1000, number)])
    result["baseline_fastavro_decode_alone_per_s"] = round(baseline, 1)
    broker = local_kafka.start(f"127.0.0.1:{local_kafka.free_port()}", folder / "kafka")
    try:
        topics.create(broker.bootstrap_servers, [TOPIC], PARTITIONS)
        topics.send(broker.bootstrap_servers, TOPIC, (file.read_bytes() for file in files))
        with Memory(without=broker.pid) as memory:
            spark = None
            for name, queries in (
                ("import", []),
                ("photometry", ["photometry"]),
                ("photometry_and_archive", ["photometry", "archive"]),
            ):
                settings = _settings(folder, name, broker.bootstrap_servers, queries or ["photometry"], batch)
                spark = spark or spark_session(settings, "bench_ingest", **_scratch(folder))
                one = stream(spark, settings, len(files)) if queries else import_files(spark, settings, files, batch)
                result[name] = one
        result["peak_memory_mb"] = memory.peak
    finally:
        local_kafka.stop(folder / "kafka")
    for name in ("import", "photometry", "photometry_and_archive"):
        rate = result[name].get("all_queries_warm_alerts_per_s", result[name]["warm_alerts_per_s"])
        result[name]["warm_rate_over_fastavro_decode_alone"] = round(rate / baseline, 3)
    return result


def _settings(folder: Path, name: str, servers: str, queries: list[str], batch: int) -> Settings:
    return load(
        conf_dir() / "alerce.toml",
        {
            "lake": {"path": str(folder / name)},
            "archive": {"url": f"file:{folder / 'archive'}"},
            "kafka": {"bootstrap_servers": servers, "topics": [TOPIC]},
            # Rounding in each partition of the topic would leave a last batch of a few alerts.
            "stream": {"queries": queries, "photometry": {"min_messages": 1, "max_messages": batch + PARTITIONS}},
        },
    )


def _scratch(folder: Path) -> dict[str, str]:
    return {"spark__local__dir": str(folder / "spark"), "spark__sql__warehouse__dir": str(folder / "warehouse")}


def main() -> None:
    """Prints the measurement as one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--alerts", type=int, default=24_000)
    parser.add_argument("--batch", type=int, default=8000, help="alerts of a batch of photometry")
    parser.add_argument("--quick", action="store_true", help="600 alerts in batches of 200")
    options = parser.parse_args()
    number, batch = (600, 200) if options.quick else (options.alerts, options.batch)
    with tempfile.TemporaryDirectory(prefix="bench_ingest") as folder:
        print(json.dumps(measure(Path(folder), number, batch), indent=1))


if __name__ == "__main__":
    main()
