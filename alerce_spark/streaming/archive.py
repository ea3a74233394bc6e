"""Query `archive`: each packet as it came → the Avro repository. What it cannot store now, it stores later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from alerce_spark.alerts.avro import decode
from alerce_spark.config import ArchiveSettings
from alerce_spark.repository import key, open_repository, unreadable_key


def archive(packets: DataFrame, settings: ArchiveSettings, survey: str) -> int:
    """Store every packet; returns their number. Raises when one could not be stored; repeating is harmless."""
    stored = packets.select("packet", "received").mapInArrow(_uploader(settings, survey), "stored BIGINT")
    return int(stored.agg(F.coalesce(F.sum("stored"), F.lit(0))).first()[0])  # type: ignore[index]


def _uploader(settings: ArchiveSettings, survey: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def upload(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        repository = open_repository(settings)
        with ThreadPoolExecutor(settings.connections) as pool:
            for batch in batches:
                packets, received = batch.column("packet"), batch.column("received")
                decoded = decode(packets)
                keys = {
                    e: unreadable_key(survey, received[e].as_py(), packets[e].as_py() or b"")
                    for e in decoded.errors["row"].to_pylist()
                }
                readable = (decoded.alerts[name].to_pylist() for name in ("row", "jd", "candid"))
                keys |= {row: key(survey, jd, candid) for row, jd, candid in zip(*readable, strict=True)}
                done = [pool.submit(repository.put, k, packets[row].as_py() or b"") for row, k in keys.items()]
                for result in done:
                    result.result()
                yield pa.RecordBatch.from_pydict({"stored": pa.array([len(done)], pa.int64())})

    return upload
