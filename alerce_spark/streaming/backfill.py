"""Files and nightly archives into the lake: through the photometry query as batches, or through a running stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pyspark.sql import SparkSession

from alerce_spark.alerts.files import Unread, find_files, packets_of
from alerce_spark.config import Settings
from alerce_spark.kafka import topics
from alerce_spark.lake import write
from alerce_spark.lease import Lease
from alerce_spark.streaming.broker import Broker
from alerce_spark.streaming.queries import writers
from alerce_spark.streaming.queries.crossmatch import Crossmatch
from alerce_spark.streaming.queries.lightcurves import of_stored
from alerce_spark.streaming.queries.photometry import Photometry, Summary
from alerce_spark.streaming.queries.results import Results
from alerce_spark.streaming.queries.stamps import stamps
from alerce_spark.streaming.sink import as_packets
from alerce_spark.streaming.source import from_files, names

#: A batch of files ends at so many bytes or files.
_BATCH_BYTES = 512 << 20
_BATCH_FILES = 8000


def import_alerts(
    spark: SparkSession,
    settings: Settings,
    paths: Sequence[Path],
    progress: Callable[[int, int, Summary], None] = lambda done, files, summary: None,
    classify: bool = True,
) -> Summary:
    """Write the alerts of files, directories and tar archives to the lake; safe to repeat and to interrupt.

    Their objects are cross-matched with what the packets carry and with the catalogues in the lake. With
    `classify` first alerts get a stamp class, and in the end every object of the files its features and class.

    `progress` is called after each batch with files done, files in all, and what the batch did. The sum of all says
    which files and members gave no packet. Raises InputError for a missing path or a folder without packets and
    LeaseHeld while another application writes the lake.
    """
    unread = names(spark)
    files = find_files(paths, lambda name, why: unread.add({(name, why)}))
    lake = settings.lake
    with Lease(lake.path, "alerce-spark import", lake.lease_timeout_s, writers()) as lease:
        write.create(lake.path, lake.healpix_order, sync=lake.sync)
        slices = spark.sparkContext.defaultParallelism
        photometry = Photometry(spark, lake.path, settings.survey, slices, lease.check)
        crossmatch = Crossmatch(spark, lake.path, settings.survey, lease.check)
        results = Results(spark, lake.path, settings.survey, lease.check)
        total = Summary(0, 0, {}, {})
        done = 0
        for batch in _batches(files):
            packets = from_files(spark, batch, slices, unread)
            summary = photometry.process(packets)
            crossmatch.process(packets)
            if classify:
                results.process(as_packets(stamps(packets, lake.path, settings.survey, None)))
            total = total.plus(summary)
            done += len(batch)
            progress(done, len(files), summary)
        if classify and len(total.objects):
            objects = spark.createDataFrame(total.objects.to_arrow()).repartition(slices)
            results.process(as_packets(of_stored(objects, lake.path, settings.survey)))
    return replace(total, unread=tuple(sorted(unread.value)))


def send_through_stream(settings: Settings, paths: Sequence[Path], topic: str, unread: Unread) -> int:
    """Produce the packets of files to `<topic>_reprocess`, which the running stream reads; returns their number.

    `unread` is told of whatever gave no packet. Errors as of `find_files`, `Broker.require`, `topics.create`
    and `topics.send`.
    """
    files = find_files(paths, unread)
    name = topics.checked(topic.removesuffix(topics.REPROCESS_SUFFIX) + topics.REPROCESS_SUFFIX)
    servers, options = settings.kafka.bootstrap_servers, settings.kafka.revealed
    Broker(settings.kafka).require()
    topics.create(servers, [name], settings.kafka.partitions, options=options)
    packets = (packet for file in files for packet, _ in packets_of(file, unread))
    return topics.send(servers, name, packets, options=options)


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    size = 0
    for file in files:
        bytes_ = file.stat().st_size
        if batch and (size + bytes_ > _BATCH_BYTES or len(batch) >= _BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += bytes_
    if batch:
        yield batch
