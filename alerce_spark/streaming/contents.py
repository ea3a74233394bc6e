"""Contents of messages as rows of the tables: every value is checked first, since anybody may have sent them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from alerce_spark.alerts.avro_kernels import MAX_ID_CHARACTERS
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES, STAMP, STAMP_CLASSES
from alerce_spark.features.names import FEATURES
from alerce_spark.kafka import records
from alerce_spark.kafka.records import MessageError, Record
from alerce_spark.lake.tables import TABLES, Column
from alerce_spark.streaming.source import RECEIVED_YEARS
from alerce_spark.surveys.survey import MJD_RANGE

Row = dict[str, Any]

_YEARS = (RECEIVED_YEARS[0], RECEIVED_YEARS[1] + 1)
#: Times in Kafka that are believed [µs since 1970]: the first, and the first after them.
_RECEIVED = tuple(int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000 for year in _YEARS)
_SHARE = (0.0, 1.0)
#: Smallest and largest value of columns; those of `ra` are the last number below 360.
_LIMITS: dict[str, tuple[float, float]] = {
    "candid": (1, 2**63 - 1),
    "mjd": MJD_RANGE,
    "ra": (0.0, math.nextafter(360.0, 0.0)),
    "dec": (-90.0, 90.0),
    "ndet_used": (0, 2**31 - 1),
    "nown": (0, 2**31 - 1),
    "probability": _SHARE,
    "outlier_score": _SHARE,
    "period_false_alarm": _SHARE,
    "novelty": (-1e300, 1e300),
    "partition": (0, 2**31 - 1),
    "offset": (0, 2**63 - 1),
}
#: Characters of texts; of others _CHARACTERS.
_LONGEST = {"oid": MAX_ID_CHARACTERS, "survey": 32, "source": 1024, "reason": 64 << 10}
_CHARACTERS = 256
#: Texts of a list, and how far from 1 the sum of probabilities may be (they have single precision).
_MOST_FLAGS, _SUM_TOLERANCE = 16, 1e-2


def rows_of(topic: str, message: bytes, published: int | None) -> Iterator[tuple[str, Row]]:
    """Rows of one message with the names of their tables; those on the sky have ra and dec in place of the pixel.

    `published` is the message's time in Kafka [µs since 1970]; with it comes a row of `latency`. Raises MessageError.
    """
    record = records.schema_of(topic).decode(message)
    try:
        yield from _rows(topic, record, published)
    except KeyError as error:
        raise MessageError(f"no field {error}") from None


def _rows(topic: str, record: Record, published: int | None) -> Iterator[tuple[str, Row]]:
    if topic == records.ERROR_TOPIC:
        row = _checked("quarantine", record)
        if row["sha256"] != hashlib.sha256(row["packet"]).hexdigest():
            raise MessageError("field sha256: not the checksum of the packet")
        yield "quarantine", row
    elif topic == records.RECLASSIFIED_TOPIC:
        classes = _classes(LIGHTCURVE, record["class"], record["probabilities"], LIGHTCURVE_CLASSES)
        yield "probabilities", _checked("probabilities", record | classes | {"flags": []})
    elif topic.startswith(records.STAMP_TOPIC):
        yield "probabilities", _checked("probabilities", _of_stamps(record))
        yield from _latency(STAMP, record["received"], published)
    else:
        values = {name: record["features"][records.field_name(name)] for name in FEATURES}
        yield "features", _checked("features", record | values | {"version": record["features_version"]})
        found = record["lc_classification"]
        classes = _classes(LIGHTCURVE, found["class"], found["probabilities"], LIGHTCURVE_CLASSES)
        yield "probabilities", _checked("probabilities", record | classes | {"flags": []})
        yield from _latency(LIGHTCURVE, record["received"], published)


def _of_stamps(record: Record) -> Record:
    # The stamp classifier itself knows what is outlying.
    version = record["version"] if record["outlier_score"] is not None else None
    classes = _classes(STAMP, record["class"], record["probabilities"], STAMP_CLASSES)
    one = {"oid": record["objectId"], "ndet_used": 1, "nown": 1, "outlier_version": version}
    return record | classes | one


def _classes(classifier: str, name: str, probabilities: dict[str, float], classes: tuple[str, ...]) -> Record:
    if set(probabilities) != set(classes):
        odd = sorted(set(probabilities) ^ set(classes))
        raise MessageError(f"field probabilities: these classes are too many or lack: {', '.join(odd)[:200]}")
    for one, share in probabilities.items():
        if not _SHARE[0] <= share <= _SHARE[1]:
            raise MessageError(f"field probabilities.{one}: {share}, not from 0 to 1")
    if abs(sum(probabilities.values()) - 1.0) > _SUM_TOLERANCE:
        raise MessageError(f"field probabilities: their sum is {sum(probabilities.values())}, not 1")
    if name not in probabilities:
        raise MessageError(f"field class: {name[:40]!r} is no class of {classifier}")
    return {
        "classifier": classifier,
        "class": name,
        "probability": probabilities[name],
        "probabilities": list(probabilities.items()),
    }


def _latency(classifier: str, received: datetime | None, published: int | None) -> Iterator[tuple[str, Row]]:
    if received is None:
        return
    came = round(received.timestamp() * 1000) * 1000
    if not _RECEIVED[0] <= came < _RECEIVED[1]:
        raise MessageError(f"field received: {received.isoformat()}, not from 2000 to 2199")
    if published is not None and _RECEIVED[0] <= published < _RECEIVED[1]:
        yield "latency", {"classifier": classifier, "seconds": (published - came) / 1e6}


def _checked(table: str, record: Record) -> Row:
    """The columns of a table from a record that has them by name, and its position. Raises MessageError."""
    row = {}
    for column in TABLES[table].columns:
        if column.name not in ("pixel", "healpix29"):
            value = record[column.name]
            if (reason := _fault(column, value)) is not None:
                raise MessageError(f"field {column.name}: {reason}")
            row[column.name] = value
    if TABLES[table].on_sky:
        for name in ("ra", "dec"):
            if not _LIMITS[name][0] <= record[name] <= _LIMITS[name][1]:
                raise MessageError(f"field {name}: {record[name]}, not a place on the sky")
            row[name] = record[name]
    return row


def _fault(column: Column, value: Any) -> str | None:
    """The fault of a value of a column."""
    if value is None:
        return "missing" if column.required else None
    if column.name in _LIMITS:
        low, high = _LIMITS[column.name]
        return None if low <= value <= high else f"{value}, not from {low} to {high}"
    if isinstance(value, float):
        return "not a number" if math.isnan(value) else None
    if isinstance(value, str):
        most = _LONGEST.get(column.name, _CHARACTERS)
        return None if 0 < len(value) <= most else f"{len(value)} characters, not 1 to {most}"
    if column.type == "list" and (len(value) > _MOST_FLAGS or any(len(text) > _CHARACTERS for text in value)):
        return f"more than {_MOST_FLAGS} texts, or one of more than {_CHARACTERS} characters"
    return None
