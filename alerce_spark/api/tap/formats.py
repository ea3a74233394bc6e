"""Results as files: VOTable, CSV, JSON, Parquet; written part by part while they are sent."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from alerce_spark.api.tap.adql import QueryError
from alerce_spark.api.tap.engine import Result
from alerce_spark.api.tap.tables import VOTABLE, Column

VOTABLE_TYPE = "application/x-votable+xml"
_NAMESPACE = "http://www.ivoa.net/xml/VOTable/v1.3"
HEAD = (
    f'<?xml version="1.0" encoding="UTF-8"?>\n<VOTABLE version="1.4" xmlns="{_NAMESPACE}">\n<RESOURCE type="results">\n'
)
TAIL = "</RESOURCE>\n</VOTABLE>\n"
#: Rows in memory at a time.
_ROWS = 20_000


@dataclass(frozen=True)
class Format:
    """A format: its short name, its media type and other accepted types."""

    name: str
    type: str
    also: tuple[str, ...]
    write: Callable[[Result, str], Iterator[bytes]]


@dataclass(frozen=True)
class _Field:
    """A column of a result."""

    name: str
    kind: str
    known: Column | None


def described(result: Result) -> list[_Field]:
    """Columns of a result with known metadata. Raises QueryError for a type that no format has."""
    schema = pq.read_schema(result.file)
    known = list(result.columns) if len(result.columns) == len(schema) else [None] * len(schema)
    return [_Field(field.name, _kind(field), column) for field, column in zip(schema, known, strict=True)]


def _kind(field: pa.Field) -> str:
    kind = field.type
    for is_it, name in (
        (pa.types.is_boolean, "boolean"),
        (pa.types.is_int64, "long"),
        (pa.types.is_unsigned_integer, "long"),
        (pa.types.is_int32, "int"),
        (pa.types.is_integer, "short"),
        (pa.types.is_float32, "float"),
        (pa.types.is_floating, "double"),
        (pa.types.is_decimal, "double"),
        (pa.types.is_string, "string"),
        (pa.types.is_timestamp, "timestamp"),
        (pa.types.is_date, "timestamp"),
        (pa.types.is_null, "string"),
    ):
        if is_it(kind):
            return name
    raise QueryError(f"the column {field.name} is no number, text or date")


def _parts(result: Result) -> Iterator[pl.DataFrame]:
    left = result.rows
    for batch in pq.ParquetFile(result.file).iter_batches(_ROWS):
        if left <= 0:
            return
        part = pl.DataFrame(pa.Table.from_batches([batch.slice(0, left)]))
        left -= len(part)
        yield part.with_columns(
            pl.selectors.datetime().dt.strftime("%Y-%m-%dT%H:%M:%S%.3f"),
            pl.selectors.date().dt.strftime("%Y-%m-%d"),
            pl.selectors.decimal().cast(pl.Float64),
        )


def _votable(result: Result, query: str) -> Iterator[bytes]:
    fields = described(result)
    head = f'{HEAD}<INFO name="QUERY_STATUS" value="OK"/>\n<INFO name="QUERY" value={quoteattr(query)}/>\n<TABLE>\n'
    yield "".join([head, *map(_field, fields), "<DATA>\n<TABLEDATA>\n"]).encode()
    for part in _parts(result):
        cells = [_cell(part.to_series(k), field.kind) for k, field in enumerate(fields)]
        rows = part.select(pl.concat_str([pl.lit("<TR>"), *cells, pl.lit("</TR>")]))
        yield ("\n".join(rows.to_series().to_list()) + "\n").encode()
    overflow = '<INFO name="QUERY_STATUS" value="OVERFLOW"/>\n' if result.has_more else ""
    yield f"</TABLEDATA>\n</DATA>\n</TABLE>\n{overflow}{TAIL}".encode()


def _field(field: _Field) -> str:
    known = field.known
    # The metadata may say that a text is a time.
    is_time = known is not None and known.type == "timestamp" and field.kind == "string"
    datatype, arraysize, xtype = VOTABLE["timestamp" if is_time else field.kind]
    given = {"name": field.name, "datatype": datatype, "arraysize": arraysize, "xtype": xtype}
    if known is not None:
        given |= {"unit": known.unit or None, "ucd": known.ucd}
    listed = " ".join(f"{name}={quoteattr(value)}" for name, value in given.items() if value is not None)
    said = "" if known is None else f"<DESCRIPTION>{escape(known.comment)}</DESCRIPTION>"
    return f"<FIELD {listed}>{said}</FIELD>\n"


#: Characters that XML cannot contain.
_CONTROL = "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f]"


def _cell(values: pl.Series, kind: str) -> pl.Series:
    """Values of a column as cells; a null is an empty cell."""
    if kind == "boolean":
        text = values.replace_strict({True: "T", False: "F"}, default=None, return_dtype=pl.String)
    elif kind in ("string", "timestamp"):
        text = values.cast(pl.String).str.replace_all("&", "&amp;", literal=True)
        text = text.str.replace_all("<", "&lt;", literal=True).str.replace_all(">", "&gt;", literal=True)
        text = text.str.replace_all(_CONTROL, "\N{REPLACEMENT CHARACTER}")
    else:
        text = values.cast(pl.String).replace({"inf": "+Inf", "-inf": "-Inf"})
    return ("<TD>" + text.fill_null("") + "</TD>").alias("")


def _csv(result: Result, _: str) -> Iterator[bytes]:
    fields = described(result)
    yield pl.DataFrame({field.name: [] for field in fields}).write_csv().encode()
    for part in _parts(result):
        yield part.write_csv(include_header=False).encode()


def _json(result: Result, _: str) -> Iterator[bytes]:
    """A list of objects, one a row; NaN is null."""
    described(result)
    yield b"["
    first = True
    for part in _parts(result):
        text = part.with_columns(pl.selectors.float().replace([float("nan"), float("inf"), float("-inf")], None))
        body = text.write_json().strip()[1:-1]
        if body:
            yield (body if first else "," + body).encode()
            first = False
    yield b"]\n"


def _parquet(result: Result, _: str) -> Iterator[bytes]:
    """Columns with unit and meaning in their metadata."""
    fields = described(result)
    sink = io.BytesIO()
    file = pq.ParquetFile(result.file)
    schema = pa.schema([f.with_metadata(_metadata(k)) for f, k in zip(file.schema_arrow, fields, strict=True)])
    left = result.rows
    with pq.ParquetWriter(sink, schema) as writer:
        for batch in file.iter_batches(_ROWS * 5):
            part = batch.slice(0, left)
            left -= len(part)
            if len(part):
                writer.write_batch(pa.RecordBatch.from_arrays(part.columns, schema=schema))
            yield from _drained(sink)
    yield from _drained(sink)


def _drained(sink: io.BytesIO) -> Iterator[bytes]:
    """Take the bytes written since the last call, so that they do not stay in memory."""
    yield sink.getvalue()
    sink.seek(0)
    sink.truncate()


def _metadata(field: _Field) -> dict[str, str]:
    known = field.known
    given = {} if known is None else {"unit": known.unit, "ucd": known.ucd or "", "description": known.comment}
    return {name: value for name, value in given.items() if value}


FORMATS: Sequence[Format] = (
    Format("votable", VOTABLE_TYPE, ("text/xml", "application/x-votable+xml;serialization=tabledata"), _votable),
    Format("csv", "text/csv;header=present", ("text/csv",), _csv),
    Format("json", "application/json", (), _json),
    Format("parquet", "application/vnd.apache.parquet", ("application/x-parquet",), _parquet),
)


def chosen(asked: str | None) -> Format:
    """The format that a request names, VOTable where it names none. Raises QueryError."""
    wanted = (asked or "votable").lower().replace(" ", "")
    for one in FORMATS:
        if wanted in (one.name, one.type, *one.also):
            return one
    if wanted.startswith(VOTABLE_TYPE) or wanted in ("votable/td", "xml"):
        return FORMATS[0]
    raise QueryError(f"there is no format {asked}; there are {', '.join(one.name for one in FORMATS)}")


def failure(message: str) -> bytes:
    """An error in the form of the standard."""
    clean = "".join(c if c.isprintable() or c == "\n" else "?" for c in message)
    return f'{HEAD}<INFO name="QUERY_STATUS" value="ERROR">{escape(clean)}</INFO>\n{TAIL}'.encode()
