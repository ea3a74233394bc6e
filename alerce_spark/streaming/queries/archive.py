"""Query `archive`: each packet as it came → the Avro repository. What it cannot store now, it stores later.

A packet that cannot be stored fails the batch, after the attempts that the repository makes. The query then starts the
batch again after a wait (`streaming/run.py`); the offsets of a batch are committed when all of it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pyarrow as pa
from pyspark.sql import DataFrame

from alerce_spark import surveys
from alerce_spark.alerts.avro import decode
from alerce_spark.config import ArchiveSettings
from alerce_spark.repository import (
    Repository,
    RepositoryError,
    absolute,
    key,
    open_repository,
    second_key,
    unreadable_key,
)
from alerce_spark.streaming.query import Application, Handler, Query
from alerce_spark.surveys.survey import Survey
from alerce_spark.worker import map_in_workers


def archive(packets: DataFrame, settings: ArchiveSettings, survey: str) -> int:
    """Store every packet; returns their number. Repeating is harmless.

    A relative directory of the settings is that of the driver. A null packet is stored as an empty one. Raises
    RepositoryError when a packet could not be stored.
    """
    upload = uploader(absolute(settings), survey)
    tasks = map_in_workers(packets.select("packet"), upload, "stored BIGINT, error STRING").collect()
    for task in tasks:
        if task.error is not None:
            raise RepositoryError(task.error)
    return sum(task.stored for task in tasks)


def uploader(settings: ArchiveSettings, survey: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A task's part: stores the column `packet` of batches and yields one row, the number `stored` and the `error`.

    After an error nothing more is stored. It is told, not raised, since a Python worker that raises or leaves input
    behind is not used again, and a new one takes seconds to import and load what it needs. Of packets with one key in a
    batch the last is stored.
    """

    def upload(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stored, failure = 0, None
        for batch in batches:
            if failure is None:
                try:
                    _store(batch.column("packet"), settings, survey)
                    stored += batch.num_rows
                except RepositoryError as error:
                    failure = str(error)
                    _repository.cache_clear()  # the next attempt reads the credentials again
        yield pa.RecordBatch.from_pydict({"stored": pa.array([stored]), "error": pa.array([failure], pa.string())})

    return upload


@cache
def _repository(settings: ArchiveSettings) -> Repository:
    """One for all tasks of a worker: to make an S3 client takes 60 ms."""
    return open_repository(settings)


def _store(packets: pa.Array, settings: ArchiveSettings, survey: str) -> None:
    described = surveys.get(survey)
    decoded = decode(packets, described)
    repository = _repository(settings)
    bad = {unreadable_key(described, _bytes(packets[row])): row for row in decoded.errors["row"].to_pylist()}
    repository.put_all((name, _bytes(packets[row])) for name, row in bad.items())
    columns = (decoded.alerts[name].to_pylist() for name in ("mjd", "candid", "objectId", "row"))
    row_of = {(mjd, candid, oid): row for mjd, candid, oid, row in zip(*columns, strict=True)}
    good = ((key(described, mjd, candid), _bytes(packets[row])) for (mjd, candid, _), row in row_of.items())
    if there := repository.create_all(good):
        repository.put_all({_own_key(name, packet, repository, described): packet for name, packet in there}.items())


def _own_key(name: str, packet: bytes, repository: Repository, survey: Survey) -> str:
    """Where a packet belongs whose key is taken: there, or beside it where it is that of another object."""
    alerts = decode([repository.get(name), packet], survey).alerts
    oids = alerts["objectId"].to_pylist()
    if len(oids) < 2 or oids[0] == oids[1]:
        return name
    mjd, candid = (alerts[column][1].as_py() for column in ("mjd", "candid"))
    return second_key(survey, mjd, candid, oids[1])


def _bytes(packet: pa.Scalar) -> bytes:
    return packet.as_py() or b""


def _handler(application: Application) -> Handler:
    settings = application.settings
    return lambda packets: archive(packets, settings.archive, settings.survey)


QUERY = Query(
    name="archive",
    purpose="keep every packet as it came",
    interval_s=10.0,
    max_messages=4000,
    elsewhere="the Avro repository",
    handle=_handler,
)
