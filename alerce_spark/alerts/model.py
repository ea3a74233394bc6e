"""The common columns of decoded alerts: Arrow schemas of the four tables of a decoder, and the sign of a detection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from alerce_spark.surveys.survey import T_OR_F, Field, Spellings, Survey

ARROW_TYPES: dict[str, pa.DataType] = {
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
}

#: Unknown fields of a record: name to JSON text.
EXTRA = pa.field("extra", pa.map_(pa.string(), pa.string()))
ERRORS_SCHEMA = pa.schema([pa.field("row", pa.int32()), pa.field("reason", pa.string())])


@dataclass(frozen=True)
class Schemas:
    """Arrow schemas of a survey's decoded tables: the owner of the row, derived common columns, fields, `extra`.

    `alerts_stamps` is `alerts` followed by the three stamps.
    """

    alerts: pa.Schema
    alerts_stamps: pa.Schema
    previous: pa.Schema
    forced: pa.Schema


@cache
def schemas(survey: Survey) -> Schemas:
    """Schemas of the tables of `avro.decode`."""
    compared = {check.column for check in survey.checks if check.kind == "same id"}
    alert = [f for record in survey.records() for f in record.fields if f.target not in compared]
    alerts = _schema("row", alert, survey)
    stamps = pa.schema([*alerts, *(pa.field(name, pa.binary()) for name in survey.cutouts.names)])
    previous, forced = (_schema("alert", record.fields, survey) for record in (survey.previous, survey.forced))
    return Schemas(alerts, stamps, previous, forced)


def _schema(owner: str, fields: Iterable[Field], survey: Survey) -> pa.Schema:
    columns = [pa.field(f.target, ARROW_TYPES[f.type]) for f in fields]
    names = {column.name for column in columns}
    derived = [pa.field(d.name, ARROW_TYPES[d.type]) for d in survey.derived if d.source in names]
    return pa.schema([pa.field(owner, pa.int32()), *derived, *columns, EXTRA])


@dataclass(frozen=True)
class Decoded:
    """A batch of packets as tables. Values are those of the packets: sentinels stay, absent fields are null.

    The columns do not depend on the packets' schema versions. Every input row is in `alerts` or in `errors`, once.
    """

    #: One row a good packet, in input order: `Schemas.alerts`, or `alerts_stamps` where stamps were asked for.
    #: `row` is the packet's index in the input; stamps are the unchanged FITS files of the packet.
    alerts: pa.Table
    #: One row an entry of `Survey.previous`; `alert` is the row number in `alerts`.
    previous: pa.Table
    #: One row an entry of `Survey.forced`; `alert` as above.
    forced: pa.Table
    #: One row a bad packet: its index in the input and what is wrong with it.
    errors: pa.Table


def sign(isdiffpos: pa.Array | pa.ChunkedArray, spellings: Spellings = T_OR_F) -> pa.Int8Array:
    """Sign of a difference flux from any spelling of `isdiffpos`.

    +1 for the spellings of brighter, true and 1; -1 for those of fainter, false, 0 and -1; null for everything else.
    """
    if isinstance(isdiffpos, pa.ChunkedArray):
        isdiffpos = isdiffpos.combine_chunks()
    kind = isdiffpos.type
    if pa.types.is_boolean(kind):
        positive, negative = isdiffpos, pc.invert(isdiffpos)
    elif pa.types.is_integer(kind):
        positive = pc.equal(isdiffpos, 1)
        negative = pc.and_(pc.less_equal(isdiffpos, 0), pc.greater_equal(isdiffpos, -1))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        positive = pc.is_in(isdiffpos, pa.array(spellings.positive, kind))
        negative = pc.is_in(isdiffpos, pa.array(spellings.negative, kind))
    else:
        return pa.nulls(len(isdiffpos), pa.int8())
    one = pa.scalar(1, pa.int8())
    none = pa.scalar(None, pa.int8())
    return pc.if_else(positive, one, pc.if_else(negative, pc.negate(one), none))
