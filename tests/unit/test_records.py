"""Messages that we publish: fastavro reads them, ALeRCE's fields are there, the same record gives the same bytes."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerce_spark.classifiers.taxonomy import STAMP_CLASSES
from alerce_spark.features.names import FEATURES
from alerce_spark.kafka import records

#: Products page of ALeRCE's streams: names and types that its consumers rely on.
ALERCE_STAMP = {
    "type": "record",
    "name": "stamp_classifier",
    "namespace": "alerce",
    "fields": [
        {"name": "objectId", "type": "string"},
        {"name": "candid", "type": "long"},
        {
            "name": "probabilities",
            "type": {
                "type": "record",
                "name": "probabilities",
                "fields": [{"name": name, "type": "float"} for name in ("SN", "AGN", "VS", "asteroid", "bogus")],
            },
        },
    ],
}


def stamp_record(**changes: object) -> records.Record:
    return {
        "objectId": "ZTF20aaaaaaa",
        "candid": 2**60 + 1,
        "probabilities": dict.fromkeys(STAMP_CLASSES, 0.2),
        "class": "SN",
        "version": "1",
        "flags": ["negative"],
        "outlier_score": 0.25,
        "survey": "ztf",
        "received": datetime(2020, 6, 1, tzinfo=UTC),
        "mjd": 59000.25,
        "ra": 10.0,
        "dec": -20.0,
    } | changes


def test_a_reader_with_alerces_own_schema_finds_its_fields() -> None:
    message = records.STAMP.encode(stamp_record())
    (found,) = fastavro.reader(io.BytesIO(message), reader_schema=ALERCE_STAMP)
    assert isinstance(found, dict)
    assert found["candid"] == 2**60 + 1
    assert set(found) == {"objectId", "candid", "probabilities"}
    assert found["probabilities"]["asteroid"] == pytest.approx(0.2, abs=1e-7)


@given(candid=st.integers(-(2**63), 2**63 - 1), oid=st.text(max_size=300), ra=st.floats(0, 360))
def test_what_is_encoded_is_decoded(candid: int, oid: str, ra: float) -> None:
    record = stamp_record(candid=candid, objectId=oid, ra=ra)
    message = records.STAMP.encode(record)
    found = records.STAMP.decode(message)
    assert {name: found[name] for name in ("candid", "objectId", "ra", "flags")} == {
        name: record[name] for name in ("candid", "objectId", "ra", "flags")
    }
    assert message == records.STAMP.encode(record)


def test_the_light_curve_schema_has_every_feature_once() -> None:
    fields = {field["name"]: field for field in records.LIGHTCURVE.definition["fields"]}
    names = [field["name"] for field in fields["features"]["type"]["fields"]]
    assert names == [records.field_name(name) for name in FEATURES]
    assert len(set(names)) == len(FEATURES)
    assert list(fields)[:4] == ["oid", "candid", "features", "lc_classification"]


@pytest.mark.parametrize("message", [b"", b"Obj\x01", b"<html>", b"Obj\x01" + bytes(40)], ids=repr)
def test_what_is_no_container_is_an_error(message: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        records.STAMP.decode(message)


def test_a_truncated_message_is_an_error() -> None:
    whole = records.STAMP.encode(stamp_record())
    for end in range(0, len(whole) - 17, 7):
        with pytest.raises(ValueError, match=r".+"):
            records.STAMP.decode(whole[:end])
