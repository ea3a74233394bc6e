"""Query `stamps`: the first alert of an object → class from its stamps, on Kafka at once.

One native stage, Kafka → Python worker → Kafka, without a Delta commit in its path (docs/design.md, "Data flow"). An
alert is its object's first where neither the lake nor this worker's memory has an own alert of the object with a
smaller candid. So the earliest alert is always classified, whatever the order of arrival; when a later one came before
it, both are, and the earliest candid of an object, classifier and version is *the* stamp class. The lake lags by a
minute, and the memory is one worker's: a repeat is possible and harmless.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from alerce_spark import sky, surveys
from alerce_spark.alerts import stamps as cutouts
from alerce_spark.alerts.avro import decode
from alerce_spark.alerts.model import Decoded, sign
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.stamp import StampModel, is_known_mover
from alerce_spark.classifiers.taxonomy import STAMP, STAMP_CLASSES
from alerce_spark.config import KafkaSettings, Settings
from alerce_spark.kafka import records
from alerce_spark.lake import lookup
from alerce_spark.lake.models import Served
from alerce_spark.lake.serving import stamp_models
from alerce_spark.streaming import places
from alerce_spark.streaming.query import InUse, Query
from alerce_spark.streaming.sink import MESSAGES, Message, Topics, error_message, messages
from alerce_spark.surveys.survey import Survey
from alerce_spark.worker import map_in_workers, together

STAGE = "stamps"
#: Objects that a worker remembers: enough for the minutes until the lake has them.
_REMEMBERED = 200_000


def stamps(
    packets: DataFrame, lake: str, survey: str, kafka: KafkaSettings | None, is_warm_up: bool = False
) -> DataFrame:
    """Messages for the Kafka sink (`streaming/sink.py`): one for each first alert, a class or an error.

    is_warm_up: the packets are not of the sky, workers must not remember their objects.
    """
    return map_in_workers(packets, classifier(lake, survey, kafka, is_warm_up), MESSAGES)


@dataclass
class Seen:
    """Smallest candid of an own alert of each object that was seen last, of up to `size` ids of objects."""

    size: int
    #: By oid, for each place where one is: the candid, and the position [deg].
    _smallest: OrderedDict[str, list[tuple[int, float, float]]] = field(default_factory=OrderedDict, repr=False)

    def is_first(self, oid: str, candid: int, ra: float, dec: float) -> bool:
        """Whether no own alert of the object there with a smaller candid was seen; remembers this one."""
        known = self._smallest.setdefault(oid, [])
        self._smallest.move_to_end(oid)
        if len(self._smallest) > self.size:
            self._smallest.popitem(last=False)
        for k, (before, ra0, dec0) in enumerate(known):
            if sky.separation(ra0, dec0, ra, dec) <= sky.OBJECT_RADIUS:
                known[k] = (min(before, candid), ra0, dec0)
                return candid <= before
        known.append((candid, ra, dec))
        return True


@dataclass(frozen=True)
class _Worker:
    """State that a worker keeps from batch to batch."""

    lake: str
    model: Served[StampModel]
    seen: Seen
    out: Topics


@cache
def _worker(lake: str, broker: str | None) -> _Worker:
    kafka = None if broker is None else KafkaSettings.model_validate_json(broker)
    return _Worker(lake, stamp_models(lake), Seen(_REMEMBERED), Topics(kafka))


def classifier(
    lake: str, survey: str, kafka: KafkaSettings | None, is_warm_up: bool
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def classify(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        worker = _worker(lake, kafka and kafka.model_dump_json())
        if is_warm_up:
            worker = replace(worker, seen=Seen(_REMEMBERED))
        for batch in together(batches):
            yield messages(_classified(batch, survey, worker))

    return classify


def _classified(batch: pa.RecordBatch, survey: str, worker: _Worker) -> Iterator[Message]:
    # Packets that cannot be decoded are the business of `photometry`, which quarantines them.
    described = surveys.get(survey)
    decoded = decode(batch.column("packet"), described, stamps=True)
    if len(parts := places.parts(batch, decoded.alerts)) > 1:
        for part in parts:
            yield from _classified(part, survey, worker)
        return
    firsts = _first_alerts(decoded, worker.lake, worker.seen)
    if not firsts.size:
        return
    alerts = decoded.alerts.take(pa.array(firsts))
    images = cutouts.of(alerts, described)
    is_mover = is_known_mover(alerts, *described.mover)
    model, version = worker.model.get()
    probabilities, outlying, reasons = model.judge(images.images, alerts)
    probabilities[is_mover] = np.eye(len(STAMP_CLASSES))[STAMP_CLASSES.index("asteroid")]
    probabilities = records.published(probabilities)
    flags = _flags(alerts, is_mover, described)
    received = batch.column("received")
    rows = zip(
        alerts["row"].to_pylist(),
        alerts["objectId"].to_pylist(),
        alerts["candid"].to_pylist(),
        alerts["mjd"].to_pylist(),
        alerts["ra"].to_pylist(),
        alerts["dec"].to_pylist(),
        strict=True,
    )
    for k, (row, oid, candid, mjd, ra, dec) in enumerate(rows):
        reason = None if is_mover[k] else images.reason[k] or reasons[k]
        if reason is not None:
            yield error_message(batch, row, STAGE, survey, oid, str(reason), worker.out)
            continue
        values = probabilities[k].tolist()
        record = {
            "objectId": oid,
            "candid": candid,
            "probabilities": dict(zip(STAMP_CLASSES, values, strict=True)),
            "class": STAMP_CLASSES[int(np.argmax(values))],
            "version": version,
            "flags": flags[k],
            "outlier_score": None if np.isnan(outlying[k]) else float(outlying[k]),
            "survey": survey,
            "received": received[row].as_py(),
            "mjd": mjd,
            "ra": ra,
            "dec": dec,
        }
        topic = worker.out.daily(records.STAMP_TOPIC, record["received"])
        yield Message(topic, oid, records.STAMP.encode(record))


def _first_alerts(decoded: Decoded, lake: str, seen: Seen) -> np.ndarray:
    """Rows of `decoded.alerts` that are the first of their object."""
    alerts = decoded.alerts
    if not alerts.num_rows:
        return np.empty(0, np.int64)
    oids = pl.Series("oid", alerts["objectId"])
    ra, dec = (alerts[name].to_numpy() for name in ("ra", "dec"))
    stored = lookup.read_near(lake, "detections", ["oid", "candid", "has_stamp"], oids, ra, dec)
    earliest = dict(stored.filter("has_stamp").group_by("oid").agg(pl.col("candid").min()).iter_rows())
    candids = alerts["candid"].to_pylist()
    # In order of candid, so that of two alerts of one object in a batch only the earlier is a first.
    is_first = np.zeros(len(candids), bool)
    for i in np.argsort(candids, kind="stable").tolist():
        is_first[i] = seen.is_first(oids[i], candids[i], ra[i], dec[i]) and candids[i] <= earliest.get(
            oids[i], candids[i]
        )
    return np.flatnonzero(is_first)


def _flags(alerts: pa.Table, is_mover: np.ndarray, survey: Survey) -> list[list[str]]:
    """Flags of each alert, see kafka/schemas/stamp_classifier.avsc."""
    negative = pc.equal(sign(alerts["isdiffpos"], survey.spellings), -1).to_numpy(zero_copy_only=False)
    distance, score = (alerts[name] for name in survey.star)
    near = pc.and_(pc.less(distance, 1.0), pc.greater_equal(distance, 0.0))
    stellar = pc.fill_null(pc.and_(near, pc.greater(score, 0.5)), False).to_numpy()
    named = (("ephemeris", is_mover), ("negative", negative), ("stellar", stellar))
    return [[name for name, has in named if has[k]] for k in range(alerts.num_rows)]


def _publish(packets: DataFrame, settings: Settings, is_warm_up: bool = False) -> DataFrame:
    return stamps(packets, settings.lake.path, settings.survey, settings.kafka, is_warm_up)


def _compile(lake: str, survey: str, packets: pa.RecordBatch) -> None:
    list(classifier(lake, survey, None, is_warm_up=True)(iter([packets])))


def _models(lake: str, clock: Callable[[], float]) -> Callable[[], Iterator[InUse]]:
    models = stamp_models(lake, clock)

    def look() -> Iterator[InUse]:
        try:
            _, version = models.get()
        except ModelError as error:
            yield InUse(STAMP, None, str(error))
        else:
            yield InUse(STAMP, version, models.alarm)

    return look


QUERY = Query(
    name="stamps",
    purpose="the class of an object's first alert, from its stamps",
    interval_s=0.2,
    max_messages=2000,
    topics=(f"{records.STAMP_TOPIC}_<date>", records.ERROR_TOPIC),
    publish=_publish,
    warm_up=partial(_publish, is_warm_up=True),
    compile=_compile,
    models=_models,
)
