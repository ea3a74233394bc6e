"""Query `lightcurves`: alert → stored history ∪ what the packet carries → features → class, on Kafka at once.

One native stage, Kafka → Python worker → Kafka, without a Delta commit in its path (docs/design.md, "Data flow"). A
result is the object's at its latest alert that is known, with everything known of it: an alert that comes late improves
the result of the latest one (its `ndet_used` grows), and the order of arrival does not show in the end. Objects with
fewer than six detections in g and in r have no features and give no message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike
from pyspark.sql import DataFrame

from alerce_spark import sky, surveys
from alerce_spark.alerts.avro import decode
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.taxonomy import BRANCHES, LIGHTCURVE, LIGHTCURVE_CLASSES, OUTLIER
from alerce_spark.config import KafkaSettings, Settings
from alerce_spark.features.curves import Objects
from alerce_spark.features.io import from_objects
from alerce_spark.features.names import FEATURES
from alerce_spark.features.select import MIN_DETECTIONS, select
from alerce_spark.kafka import records
from alerce_spark.lake import catalogs, lookup
from alerce_spark.lake.serving import LightcurveModels, Serving
from alerce_spark.lightcurves import novelty
from alerce_spark.lightcurves.assemble import DETECTION_COLUMNS, LIMIT_COLUMNS, Stored, light_curves, statistics_of
from alerce_spark.streaming import places
from alerce_spark.streaming.query import InUse, Query
from alerce_spark.streaming.sink import MESSAGES, Message, Topics, error_message, messages
from alerce_spark.worker import map_in_workers, together

log = logging.getLogger(__name__)

STAGE = "lightcurves"
_COLUMNS = (*DETECTION_COLUMNS, "sigmapsf_corr_ext", "rb")
_NO_FORCED = pl.DataFrame(
    schema={"oid": pl.String, "pid": pl.Int64, "rfid": pl.Int64, "parent_candid": pl.Int64}
)  # forced photometry is stored, not used (docs/differences.md D24)
#: What the numerics may raise; anything else is a defect of ours and stops the query with its trace.
_FAILURES = (ValueError, ArithmeticError, IndexError, np.linalg.LinAlgError)
_FIELDS = tuple(records.field_name(name) for name in FEATURES)
#: Columns of a message that are those of the table objects.
_STATISTICS = ("ndet", "firstmjd", "lastmjd", "meanra", "meandec", "corrected", "stellar")


def lightcurves(packets: DataFrame, lake: str, survey: str, kafka: KafkaSettings | None) -> DataFrame:
    """Messages for the Kafka sink (`streaming/sink.py`): one for each object of a batch that has features."""
    return map_in_workers(packets, classifier(lake, survey, kafka), MESSAGES)


def of_stored(objects: DataFrame, lake: str, survey: str) -> DataFrame:
    """Messages about stored objects (columns oid, ra, dec), from what the lake holds of them; no packet is needed."""
    return map_in_workers(objects.select("oid", "ra", "dec"), _stored_classifier(lake, survey), MESSAGES)


@dataclass(frozen=True)
class _Worker:
    """State that a worker keeps from batch to batch."""

    lake: str
    models: LightcurveModels
    out: Topics


@cache
def _worker(lake: str, broker: str | None) -> _Worker:
    kafka = None if broker is None else KafkaSettings.model_validate_json(broker)
    return _Worker(lake, LightcurveModels(lake), Topics(kafka))


def classifier(
    lake: str, survey: str, kafka: KafkaSettings | None
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def classify(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        worker = _worker(lake, kafka and kafka.model_dump_json())
        for batch in together(batches):
            yield messages(_classified(batch, survey, worker))

    return classify


def _stored_classifier(lake: str, survey: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def classify(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        worker = _worker(lake, None)
        for batch in batches:
            if not batch.num_rows:
                continue
            oid, ra, dec = (batch.column(name) for name in ("oid", "ra", "dec"))
            number = sky.places(pl.Series(oid), np.arange(batch.num_rows), ra, dec)
            for n in np.unique(number):
                rows = pa.array(number == n)
                where = (column.filter(rows).to_numpy() for column in (ra, dec))
                stored = _stored(lake, pl.Series(oid.filter(rows)), *where)
                features, failures = _features(stored.detections, stored.limits, lake)
                for name, reason in failures:
                    log.error("%s of %s: %s", STAGE, name, reason)
                yield messages(_published(features, stored.detections, stored.limits, survey, worker, {}))

    return classify


def _classified(batch: pa.RecordBatch, survey: str, worker: _Worker) -> Iterator[Message]:
    # Packets that cannot be decoded are the business of `photometry`, which quarantines them.
    described = surveys.get(survey)
    decoded = decode(batch.column("packet"), described)
    alerts = decoded.alerts
    if not alerts.num_rows:
        return
    if len(parts := places.parts(batch, alerts)) > 1:
        for part in parts:
            yield from _classified(part, survey, worker)
        return
    where = (alerts[name].to_numpy() for name in ("ra", "dec"))
    detections, limits = light_curves(decoded, _stored(worker.lake, pl.Series(alerts["objectId"]), *where), described)
    features, failures = _features(detections, limits, worker.lake)
    # The alert in this batch that an object's message is about: its time in Kafka, its packet where something fails.
    rows = dict(zip(alerts["objectId"].to_pylist(), alerts["row"].to_pylist(), strict=True))
    for oid, reason in failures:
        yield error_message(batch, rows[oid], STAGE, survey, oid, reason, worker.out)
    received = batch.column("received").take(pa.array(rows.values(), pa.int64())).to_pylist()
    yield from _published(features, detections, limits, survey, worker, dict(zip(rows, received, strict=True)))


def _published(
    features: pa.Table,
    detections: pl.DataFrame,
    limits: pl.DataFrame,
    survey: str,
    worker: _Worker,
    received: Mapping[str, datetime | None],
) -> Iterator[Message]:
    if not features.num_rows:
        return
    for record in _records(features, detections, limits, worker.models.get()):
        came = received.get(record["oid"])
        topic = worker.out.daily(records.LIGHTCURVE_TOPIC, came)
        message = records.LIGHTCURVE.encode(record | {"survey": survey, "received": came})
        yield Message(topic, record["oid"], message)


def _stored(lake: str, oids: pl.Series, ra: ArrayLike, dec: ArrayLike) -> Stored:
    """Stored rows of objects at these positions [deg]: detections and upper limits."""
    detections = lookup.read_near(lake, "detections", _COLUMNS, oids, ra, dec)
    limits = lookup.read_near(lake, "non_detections", LIMIT_COLUMNS, oids, ra, dec)
    return Stored(detections, limits, _NO_FORCED)


def _features(detections: pl.DataFrame, limits: pl.DataFrame, lake: str) -> tuple[pa.Table, list[tuple[str, str]]]:
    """Features of the objects that have enough detections, and those that could not be computed with the reason."""
    failures: list[tuple[str, str]] = []
    wise = _wise(detections, lake)
    try:
        found = _table(detections, limits, wise)
    except _FAILURES:
        # One object that cannot be computed must not take the others of its batch with it.
        parts = [_table(detections.clear(), limits.clear(), wise)]
        for oid in detections["oid"].unique(maintain_order=True):
            try:
                parts.append(_table(detections.filter(oid=oid), limits.filter(oid=oid), wise))
            except _FAILURES as error:
                failures.append((oid, f"features: {type(error).__name__}: {error}"))
        found = pa.concat_tables(parts)
    return found.filter(pc.greater(found["ndet_used"], 0)), failures


def _wise(detections: pl.DataFrame, lake: str) -> pa.Table | None:
    """AllWISE magnitudes of the objects that may have features, where their earliest alerts are."""
    own = detections.filter(pl.len().over("oid") >= MIN_DETECTIONS, "has_stamp")
    firsts = own.sort("candid").unique("oid", keep="first", maintain_order=True)
    return catalogs.wise(lake, firsts.select("oid", "ra", "dec", "mjd"))


def _table(detections: pl.DataFrame, limits: pl.DataFrame, wise: pa.Table | None) -> pa.Table:
    objects = select(detections.to_arrow(), limits.to_arrow(), wise)
    return from_objects(objects).append_column("novelty", pa.array(_novelty(objects), from_pandas=True))


def _novelty(objects: Objects) -> np.ndarray:
    """How unexpected the latest detection of each object is; NaN where its band has too few before."""
    offsets, mjd = tuple(b.offsets for b in objects.bands), tuple(b.mjd for b in objects.bands)
    points = tuple(novelty.significance(b.offsets, b.mjd, b.mag, b.err, only_last=True) for b in objects.bands)
    return novelty.latest(offsets, mjd, points)


def _nullable(matrix: np.ndarray) -> list[list[float | None]]:
    values = matrix.astype(object)
    values[np.isnan(matrix)] = None
    return list(values.tolist())


def _records(
    features: pa.Table, detections: pl.DataFrame, limits: pl.DataFrame, serving: Serving
) -> Iterator[records.Record]:
    """Messages (kafka/schemas/lc_classifier.avsc, without survey and received) of the rows of `features`."""
    oids = features.select(["oid"])
    matrix = np.column_stack([features[name].to_numpy() for name in FEATURES])
    found = serving.classifier.classify(matrix)
    probabilities, top, children = (records.published(a) for a in (found.probabilities, found.top, found.children))
    own = detections.filter("has_stamp").with_columns(nown=pl.len().over("oid").cast(pl.Int32))
    latest = own.sort("mjd", "candid").unique("oid", keep="last").select("oid", "candid", "mjd", "ra", "dec", "nown")
    about = pl.DataFrame(oids).join(latest, on="oid", maintain_order="left")
    statistics = pl.DataFrame(
        statistics_of(detections.filter(pl.col("oid").is_in(about["oid"].implode())), limits, about)[1]
    )
    places = {name: [LIGHTCURVE_CLASSES.index(c) for c in classes] for name, classes in BRANCHES.items()}
    rows = zip(
        about.iter_rows(named=True),
        statistics.select(_STATISTICS).iter_rows(named=True),
        features.select(["version", "ndet_used", "period_false_alarm", "novelty"]).to_pylist(),
        _nullable(matrix),
        serving.outlier(matrix, found),
        strict=True,
    )
    for k, (of, counted, made, values, outlier) in enumerate(rows):
        yield {
            **of,
            **counted,
            **outlier,
            "features": dict(zip(_FIELDS, values, strict=True)),
            "lc_classification": {
                "probabilities": dict(zip(LIGHTCURVE_CLASSES, probabilities[k].tolist(), strict=True)),
                "class": LIGHTCURVE_CLASSES[int(np.argmax(found.probabilities[k]))],
                "hierarchical": {
                    "top": dict(zip(BRANCHES, top[k].tolist(), strict=True)),
                    "children": {
                        branch: {LIGHTCURVE_CLASSES[i]: float(children[k, i]) for i in inside}
                        for branch, inside in places.items()
                    },
                },
            },
            "version": serving.version,
            "features_version": made["version"],
            "ndet_used": made["ndet_used"],
            "period_false_alarm": made["period_false_alarm"],
            "novelty": made["novelty"],
        }


def _publish(packets: DataFrame, settings: Settings) -> DataFrame:
    return lightcurves(packets, settings.lake.path, settings.survey, settings.kafka)


def _compile(lake: str, survey: str, packets: pa.RecordBatch) -> None:
    list(classifier(lake, survey, None)(iter([packets])))


def _models(lake: str, clock: Callable[[], float]) -> Callable[[], Iterator[InUse]]:
    models = LightcurveModels(lake, clock)

    def look() -> Iterator[InUse]:
        try:
            serving = models.get()
        except ModelError as error:
            yield InUse(LIGHTCURVE, None, str(error))
        else:
            yield InUse(LIGHTCURVE, serving.version, models.classifier.alarm)
            yield InUse(OUTLIER, serving.outlier_version, models.alarm)

    return look


QUERY = Query(
    name="lightcurves",
    purpose="features, class and outlier score of an object, from its light curve",
    interval_s=0.5,
    max_messages=2000,
    topics=(f"{records.LIGHTCURVE_TOPIC}_<date>", records.ERROR_TOPIC),
    publish=_publish,
    warm_up=_publish,
    compile=_compile,
    models=_models,
)
