"""The nightly integrity check of a large night on this machine, without faults and with some.

`python -m benchmarks.bench_integrity [--alerts 200000] [--quick]` prints JSON. A night of simulated alerts of all
kinds, with stamps and 30 days of history, stands in a directory as the Avro repository has it, is imported with all
results, and lies on a topic of a real Kafka broker. Then rows of `detections` and files of the repository are hidden:
the check must find each of them. Baseline: fastavro reading some of the same packets on one core.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fastavro
from deltalake import DeltaTable

from alerce_spark import local_kafka
from alerce_spark.config import Settings, conf_dir, load
from alerce_spark.kafka import topics
from alerce_spark.nightly.integrity import check
from alerce_spark.repository import key, open_repository
from alerce_spark.session import spark_session
from alerce_spark.simulation.night import stream
from alerce_spark.streaming.backfill import import_alerts
from alerce_spark.surveys.ztf import ZTF
from benchmarks.processes import Memory, Processor
from benchmarks.sky import say

START_MJD = 59000
#: Mean number of alerts of each place of the sky per night.
_ALERTS_EACH = 0.5
#: One in this many alerts of the repository is hidden.
_HIDDEN = 5000
_DETECTIONS = "detections"


def store(settings: Settings, count: int) -> list[str]:
    """A night of up to `count` alerts in the repository; their keys."""
    repository = open_repository(settings.archive)
    keys: list[str] = []

    def items() -> Iterator[tuple[str, bytes]]:
        alerts = stream(11, objects=int(count / _ALERTS_EACH), start_mjd=START_MJD, nights=1)
        for candid, _, packet in islice(alerts, count):
            keys.append(key(ZTF, START_MJD, candid))
            if len(keys) % 20_000 == 0:
                say(f"{len(keys)} packets made")
            yield keys[-1], packet

    repository.put_all(items())
    return keys


def fastavro_ms(settings: Settings, keys: list[str]) -> float:
    """Milliseconds of a core that fastavro takes to read a packet."""
    repository = open_repository(settings.archive)
    packets = [repository.get(name) for name in keys]
    start = time.process_time()
    for packet in packets:
        next(fastavro.reader(io.BytesIO(packet)))
    return 1000 * (time.process_time() - start) / len(packets)


def measure(folder: Path, count: int) -> dict[str, Any]:
    """All of it."""
    servers = f"127.0.0.1:{local_kafka.free_port()}"
    date = ZTF.night(START_MJD)
    topic = f"ztf_{date}_bench"
    settings = load(
        conf_dir() / "alerce.toml",
        {
            "lake": {"path": str(folder / "lake")},
            "archive": {"url": f"file:{folder / 'archive'}"},
            "kafka": {"bootstrap_servers": servers, "topics": [topic]},
        },
    )
    keys = store(settings, count)
    broker = local_kafka.start(servers, folder / "kafka")
    try:
        repository = open_repository(settings.archive)
        topics.create(servers, [topic], 4)
        topics.send(servers, topic, (repository.get(name) for name in keys))
        say(f"{len(keys)} packets on the topic")
        spark = spark_session(settings, "bench_integrity")
        import_alerts(spark, settings, [folder / "archive"], lambda done, files, _: say(f"{done} of {files} imported"))
        result: dict[str, Any] = {
            "alerts": len(keys),
            "fastavro_ms_a_packet": round(fastavro_ms(settings, keys[:500]), 2),
        }
        with Memory(without=broker.pid) as memory:
            result["right"] = _timed(spark, settings, date, broker.pid)
            hidden = keys[::_HIDDEN]
            for name in hidden:
                (folder / "archive" / name).unlink()
            candids = [int(Path(name).stem) for name in keys[1::_HIDDEN]]
            DeltaTable(settings.lake.path + f"/{_DETECTIONS}").delete(f"candid IN ({', '.join(map(str, candids))})")
            result["damaged"] = {"hidden_files": len(hidden), "hidden_rows": len(candids)}
            result["damaged"] |= _timed(spark, settings, date, broker.pid)
        result["peak_memory_mb"] = memory.peak
        spark.stop()
    finally:
        local_kafka.stop(folder / "kafka")
    core_ms = result["right"]["core_ms_a_packet"]
    result["fastavro_alone_over_whole_check"] = round(result["fastavro_ms_a_packet"] / core_ms, 2)
    return result


def _timed(spark: Any, settings: Settings, date: str, broker: int) -> dict[str, Any]:
    start = time.monotonic()
    with Processor(without=broker) as processor:
        done = check(spark, settings, date, rounds=0, progress=say)
    seconds, used = time.monotonic() - start, processor.seconds
    last = done.rounds[-1]
    return {
        "seconds": round(seconds, 1),
        "core_ms_a_packet": round(1000 * used / last.expected, 3),
        "packets": last.expected,
        "missing": last.missing,
        "broken": last.broken,
    }


def main() -> None:
    """Prints the measurement as one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--alerts", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="600 alerts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_integrity") as folder:
        print(json.dumps(measure(Path(folder), 600 if options.quick else options.alerts), indent=1))


if __name__ == "__main__":
    main()
