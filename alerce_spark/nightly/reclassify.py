"""Classify the latest features of every stored object by the current model, after a promotion.

Objects without new alerts get no class of the new version from the stream. Rows go straight into the table where no
stream runs, else through Kafka to its query `results`, the only writer of the table at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from alerce_spark import sky
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES
from alerce_spark.config import Settings
from alerce_spark.errors import LakeError
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.kafka import records, topics
from alerce_spark.lake import lookup, write
from alerce_spark.lake.handles import table_path
from alerce_spark.lake.read import open_lake
from alerce_spark.lake.serving import LightcurveModels
from alerce_spark.lake.tables import TABLES
from alerce_spark.lease import Lease, LeaseHeld
from alerce_spark.streaming.broker import Broker
from alerce_spark.streaming.sink import MESSAGES, Message, messages, sink_options
from alerce_spark.worker import map_in_workers

_SAME = ("pixel", "healpix29", "survey", "oid", "candid", "mjd", "ndet_used", "nown")


def reclassify(spark: SparkSession, settings: Settings) -> tuple[int, str, bool]:
    """Classify all objects whose latest features lack a class of the current version; safe to repeat.

    Returns how many, the version, and whether they went through the running stream. Raises LakeError where nothing has
    features, ModelError where there is no model, Conflict where another job wrote classes meanwhile, KafkaAway
    where a stream holds the lake and its broker does not answer.
    """
    lake = settings.lake
    known = open_lake(lake.path).table("features").filter(pl.col("version") == FEATURES_VERSION).select("oid")
    if known.head(1).collect().is_empty():
        raise LakeError(f"no object in {lake.path} has features of version {FEATURES_VERSION}: nothing to classify")
    version = LightcurveModels(lake.path).get().version
    at = lookup.versions(lake.path, ["probabilities"])["probabilities"]
    missing = _missing(spark, lake.path, version)
    classified = map_in_workers(missing, _classifier(lake.path, version), TABLES["probabilities"].ddl).persist()
    try:
        count = classified.count()
        try:
            with Lease(lake.path, "alerce-spark reclassify", lake.lease_timeout_s, ["results"]):
                made = map_in_workers(classified, _writer(lake.path), "change BINARY").toArrow()["change"].to_pylist()
                write.commit(lake.path, "probabilities", at, write.joined([write.unpacked(change) for change in made]))
            return count, version, False
        except LeaseHeld:
            kafka = settings.kafka
            Broker(kafka).require()
            wanted = [records.RECLASSIFIED_TOPIC]
            topics.create(kafka.bootstrap_servers, wanted, kafka.partitions, options=kafka.revealed)
            sent = map_in_workers(classified, _encode, MESSAGES)
            sent.write.format("kafka").options(**sink_options(settings.kafka)).save()
            return count, version, True
    finally:
        classified.unpersist()


def _missing(spark: SparkSession, lake: str, version: str) -> DataFrame:
    """Latest features of each object that has no class of `version` at that alert."""
    features = spark.read.format("delta").load(table_path(lake, "features")).where(F.col("version") == FEATURES_VERSION)
    latest = features.groupBy("oid").agg(F.max(F.struct("mjd", "candid")).alias("latest"))
    newest = features.join(latest.select("oid", F.col("latest.candid").alias("candid")), ["oid", "candid"])
    known = spark.read.format("delta").load(table_path(lake, "probabilities"))
    known = known.where((F.col("classifier") == LIGHTCURVE) & (F.col("version") == version)).select("oid", "candid")
    return newest.join(known, ["oid", "candid"], "left_anti").select(*_SAME, *(f"`{name}`" for name in FEATURES))


def _classifier(lake: str, version: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    schema = TABLES["probabilities"].arrow

    def classify(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        models = LightcurveModels(lake)
        for batch in batches:
            if not batch.num_rows:
                continue
            serving = models.get()
            if serving.version != version:
                now = serving.version
                raise RuntimeError(f"the current version became {now} while {version} was at work; run it again")
            matrix = np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in FEATURES])
            found = serving.classifier.classify(matrix)
            rows = batch.select([*_SAME]).to_pylist()
            outliers = serving.outlier(matrix, found)
            for row, values, outlier in zip(
                rows, records.published(found.probabilities).tolist(), outliers, strict=True
            ):
                best = int(np.argmax(values))
                row.update(outlier, classifier=LIGHTCURVE, version=version, flags=[])
                row.update({"class": LIGHTCURVE_CLASSES[best], "probability": values[best]})
                row["probabilities"] = list(zip(LIGHTCURVE_CLASSES, values, strict=True))
            yield pa.RecordBatch.from_pylist(rows, schema)

    return classify


def _writer(lake: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def files_of(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = pa.Table.from_batches(batches, TABLES["probabilities"].arrow)
        yield pa.RecordBatch.from_pydict({"change": [write.packed(write.append(lake, "probabilities", rows))]})

    return files_of


def _encode(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    names = [field["name"] for field in records.RECLASSIFIED.definition["fields"]]
    for batch in batches:
        made = []
        for row in batch.to_pylist():
            ra, dec = sky.position([row["healpix29"]])
            record = row | {"ra": float(ra[0]), "dec": float(dec[0]), "probabilities": dict(row["probabilities"])}
            message = records.RECLASSIFIED.encode({name: record[name] for name in names})
            made.append(Message(records.RECLASSIFIED_TOPIC, row["oid"], message))
        yield messages(made)
