"""Packets of a survey that no room has heard of give the same common columns, by its description alone."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from alerce_spark import surveys
from alerce_spark.alerts.avro import decode, strip_stamps
from alerce_spark.errors import InputError
from alerce_spark.surveys.survey import BELOW_360, Check, Cutouts, Derived, Field, Record
from alerce_spark.surveys.ztf import ZTF

TAI_LATE = 37.0 / 86400.0
BANDS = pa.array(["g", "r", "i", "z", "y", "u"])
ONE = pa.scalar(1, pa.int32())
_SOURCE = (
    Field("diaSourceId", "long", "Alert", column="candid"),
    Field("midpointMjdTai", "double", "Middle of the exposure, TAI", unit="d"),
    Field("ra", "double", "Right ascension", unit="deg"),
    Field("dec", "double", "Declination", unit="deg"),
    Field("psfFlux", "float", "Flux", unit="nJy", nullable=True),
    Field("band", "string", "Band", nullable=True),
)
TOY = replace(
    ZTF,
    name="toy",
    top=Record("", (Field("sourceId", "long", "Alert", column="same"),)),
    alert=(Record("diaSource", _SOURCE), Record("diaObject", (Field("diaObjectId", "long", "Object"),))),
    previous=Record("prvDiaSources", _SOURCE),
    forced=Record("prvDiaForcedSources", (Field("midpointMjdTai", "double", "", "d"), Field("psfFlux", "float", ""))),
    cutouts=Cutouts(("cutoutScience", "cutoutTemplate", "cutoutDifference")),
    checks=(
        Check("candid", "id"),
        Check("same", "same id"),
        Check("midpointMjdTai", "number", 50_000.0, 90_000.0, "[50000, 90000]"),
        Check("ra", "number", 0.0, BELOW_360, "[0, 360)"),
    ),
    derived=(
        Derived("objectId", "string", "diaObjectId", lambda ids: ids.cast(pa.string())),
        Derived("mjd", "double", "midpointMjdTai", lambda tai: pc.subtract(tai, TAI_LATE)),
        Derived("fid", "int", "band", lambda band: pc.add(pc.index_in(band, BANDS), ONE)),
    ),
    topic="toy_alerts_{night}",
    night_begins=0.5,
)


def _schema() -> dict[str, Any]:
    def record(name: str, fields: tuple[Field, ...]) -> dict[str, Any]:
        members = [{"name": f.name, "type": ["null", f.type] if f.nullable else f.type} for f in fields]
        return {"type": "record", "name": name, "fields": members}

    def array(items: Any) -> list[Any]:
        return ["null", {"type": "array", "items": items}]

    fields: list[dict[str, Any]] = [
        {"name": "sourceId", "type": "long"},
        {"name": "diaSource", "type": record("diaSource", _SOURCE)},
        {"name": "prvDiaSources", "type": array("diaSource")},
        {"name": "prvDiaForcedSources", "type": array(record("forced", TOY.forced.fields))},
        {"name": "diaObject", "type": ["null", record("diaObject", TOY.alert[1].fields)]},
        *({"name": name, "type": ["null", "bytes"]} for name in TOY.cutouts.names),
        {"name": "observationReason", "type": "string"},
    ]
    return {"type": "record", "name": "alert", "fields": fields}


def _source(number: int, mjd: float, band: str | None, **others: Any) -> dict[str, Any]:
    about = {"diaSourceId": number, "midpointMjdTai": mjd, "ra": 10.5, "dec": -3.25, "psfFlux": -7.5, "band": band}
    return about | others


def _packet(**others: Any) -> bytes:
    record = {
        "sourceId": 2**60 + 1,
        "diaSource": _source(2**60 + 1, 61000.25, "y"),
        "prvDiaSources": [_source(7, 60999.0, "g"), _source(8, 60999.5, None)],
        "prvDiaForcedSources": [{"midpointMjdTai": 60998.0, "psfFlux": 1.5}],
        "diaObject": {"diaObjectId": 2**59 + 3},
        **{name: name.encode() for name in TOY.cutouts.names},
        "observationReason": "wide",
    }
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(_schema()), [record | others])
    return out.getvalue()


def test_its_packets_give_the_common_columns() -> None:
    found = decode([_packet(), b"no packet"], TOY, stamps=True)
    assert found.errors["row"].to_pylist() == [1]
    (alert,) = found.alerts.to_pylist()
    assert (alert["objectId"], alert["candid"], alert["fid"]) == (str(2**59 + 3), 2**60 + 1, 5)
    assert (alert["mjd"], alert["ra"], alert["dec"]) == (61000.25 - TAI_LATE, 10.5, -3.25)
    assert alert["extra"] == [("observationReason", '"wide"')]
    assert [alert[name] for name in TOY.cutouts.names] == [name.encode() for name in TOY.cutouts.names]
    assert "same" not in alert
    assert found.previous["candid"].to_pylist() == [7, 8]
    assert found.previous["fid"].to_pylist() == [1, None]
    assert found.previous["mjd"].to_pylist() == [60999.0 - TAI_LATE, 60999.5 - TAI_LATE]
    assert found.forced.select(["alert", "mjd", "psfFlux"]).to_pylist() == [
        {"alert": 0, "mjd": 60998.0 - TAI_LATE, "psfFlux": 1.5}
    ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"ra": 360.0}, "field diaSource.ra: 360.0, not in [0, 360)"),
        ({"midpointMjdTai": 2_461_000.0}, "field diaSource.midpointMjdTai: 2461000.0, not in [50000, 90000]"),
        ({"diaSourceId": 0}, "field diaSource.diaSourceId: 0, expected a positive number"),
        ({"diaSourceId": 5}, f"field sourceId: {2**60 + 1}, the packet's is 5"),
    ],
    ids=["place", "time", "no id", "two ids"],
)
def test_its_checks_name_its_fields(source: dict[str, Any], reason: str) -> None:
    packet = _packet(diaSource=_source(2**60 + 1, 61000.25, "y") | source)
    assert decode([packet], TOY).errors["reason"].to_pylist() == [reason]


def test_cutouts_of_plain_bytes_are_taken_out() -> None:
    (bare,) = strip_stamps([_packet()], TOY).to_pylist()
    (record,) = fastavro.reader(io.BytesIO(bare))
    (whole,) = fastavro.reader(io.BytesIO(_packet()))
    assert record == whole | dict.fromkeys(TOY.cutouts.names)


def test_a_packet_of_another_survey_is_bad_and_says_why() -> None:
    (reason,) = decode([_packet()], ZTF).errors["reason"].to_pylist()
    assert reason == "field cutoutScience: bytes, expected record"


def test_nights_and_topics_are_its_own() -> None:
    # 2025-11-21 10 h UTC belongs to the night that began on the 20th at noon.
    assert (TOY.night(61000.41), TOY.night(61000.51)) == ("20251120", "20251121")
    assert TOY.topics == "toy_alerts_[0-9]{8}"
    assert (ZTF.night(61000.41), ZTF.night(61000.51)) == ("20251121", "20251121")


def test_the_registry_names_what_it_knows() -> None:
    assert surveys.get(surveys.DEFAULT) is ZTF
    with pytest.raises(InputError, match="unknown survey 'toy'; known: ztf"):
        surveys.get("toy")
