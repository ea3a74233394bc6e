"""The common columns of decoded alerts: Arrow schemas of the four tables of a decoder, and the sign of a detection."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from alerce_spark.alerts import ztf

ARROW_TYPES: dict[str, pa.DataType] = {
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
}

#: Unknown fields of a record: name to JSON text.
EXTRA = pa.field("extra", pa.map_(pa.string(), pa.string()))


def _fields(record: tuple[ztf.Field, ...], without: str = "") -> list[pa.Field]:
    return [pa.field(f.name, ARROW_TYPES[f.type]) for f in record if f.name != without]


ALERTS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int32()),
        pa.field("schemavsn", pa.string()),
        pa.field("publisher", pa.string()),
        pa.field("objectId", pa.string()),
        pa.field("candid", pa.int64()),
        *_fields(ztf.CANDIDATE, without="candid"),
        EXTRA,
    ]
)
#: ALERTS_SCHEMA followed by the three stamps.
ALERTS_STAMPS_SCHEMA = pa.schema([*ALERTS_SCHEMA, *(pa.field(name, pa.binary()) for name in ztf.CUTOUTS)])
PREVIOUS_SCHEMA = pa.schema([pa.field("alert", pa.int32()), *_fields(ztf.PRV_CANDIDATE), EXTRA])
FORCED_SCHEMA = pa.schema([pa.field("alert", pa.int32()), *_fields(ztf.FP_HIST), EXTRA])
ERRORS_SCHEMA = pa.schema([pa.field("row", pa.int32()), pa.field("reason", pa.string())])


@dataclass(frozen=True)
class Decoded:
    """A batch of packets as tables. Values are those of the packets: sentinels stay, absent fields are null.

    The columns do not depend on the packets' schema versions. Every input row is in `alerts` or in `errors`, once.
    """

    #: One row a good packet, in input order: ALERTS_SCHEMA, or ALERTS_STAMPS_SCHEMA where stamps were asked for.
    #: `row` is the packet's index in the input; stamps are gzipped FITS files.
    alerts: pa.Table
    #: One row an entry of `prv_candidates`: PREVIOUS_SCHEMA; `alert` is the row number in `alerts`.
    previous: pa.Table
    #: One row an entry of `fp_hists`: FORCED_SCHEMA.
    forced: pa.Table
    #: One row a bad packet: its index in the input and what is wrong with it.
    errors: pa.Table


def sign(isdiffpos: pa.Array | pa.ChunkedArray) -> pa.Int8Array:
    """Sign of a difference flux from any spelling of `isdiffpos`.

    +1 for 't', '1', true and 1; -1 for 'f', '0', '-1', false, 0 and -1; null for everything else.
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
        positive = pc.is_in(isdiffpos, pa.array(["t", "1"], kind))
        negative = pc.is_in(isdiffpos, pa.array(["f", "0", "-1"], kind))
    else:
        return pa.nulls(len(isdiffpos), pa.int8())
    one = pa.scalar(1, pa.int8())
    none = pa.scalar(None, pa.int8())
    return pc.if_else(positive, one, pc.if_else(negative, pc.negate(one), none))
