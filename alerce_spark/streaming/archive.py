"""Query `archive`: each packet as it came → the Avro repository. What it cannot store now, it stores later.

A packet that cannot be stored fails the batch, after the attempts that the repository makes. The query then starts the
batch again after a wait (`streaming/run.py`); the offsets of a batch are committed when all of it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pyarrow as pa
from pyspark.sql import DataFrame

from alerce_spark.alerts.avro import decode
from alerce_spark.config import ArchiveSettings
from alerce_spark.repository import Repository, RepositoryError, absolute, key, open_repository, unreadable_key


def archive(packets: DataFrame, settings: ArchiveSettings, survey: str) -> int:
    """Store every packet; returns their number. Raises when one could not be stored; repeating is harmless.

    A relative directory of the settings is that of the driver. A null packet is stored as an empty one.
    """
    stored = packets.select("packet").mapInArrow(uploader(absolute(settings), survey), "stored BIGINT").collect()
    return sum(row.stored for row in stored)


def uploader(settings: ArchiveSettings, survey: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The worker's part: stores the batches' column `packet`, yields the number of packets of each as `stored`.

    Of packets with one key in a batch the last is stored. Raises RepositoryError.
    """

    def upload(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                packets = batch.column("packet")
                row_of = _keys(packets, survey)
                _repository(settings).put_all((k, _bytes(packets[row])) for k, row in row_of.items())
                yield pa.RecordBatch.from_pydict({"stored": pa.array([len(packets)], pa.int64())})
        except RepositoryError:
            _repository.cache_clear()  # credentials that were mended are seen by the next attempt
            raise

    return upload


@cache
def _repository(settings: ArchiveSettings) -> Repository:
    """One for all tasks of a worker: to make an S3 client takes 60 ms."""
    return open_repository(settings)


def _keys(packets: pa.Array, survey: str) -> dict[str, int]:
    decoded = decode(packets)
    row_of = {unreadable_key(survey, _bytes(packets[row])): row for row in decoded.errors["row"].to_pylist()}
    columns = (decoded.alerts[name].to_pylist() for name in ("row", "jd", "candid"))
    return row_of | {key(survey, jd, candid): row for row, jd, candid in zip(*columns, strict=True)}


def _bytes(packet: pa.Scalar) -> bytes:
    return packet.as_py() or b""
