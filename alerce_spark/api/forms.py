"""Replies as Arrow (IPC stream), Parquet or JSON, written part by part: only one part is in memory.

Each kind of reply has one schema, whatever its rows: a column without values keeps its type. Ids are int64; in JSON
they are strings, since its readers may keep 53 bits only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Request
from starlette.responses import Response, StreamingResponse

from alerce_spark.api.parameters import Parameters

JSON, ARROW, PARQUET = "json", "arrow", "parquet"
MEDIA_TYPES = {
    JSON: "application/json",
    ARROW: "application/vnd.apache.arrow.stream",
    PARQUET: "application/vnd.apache.parquet",
}
#: Columns with more digits than a float has.
_IDS = ("candid", "parent_candid")


def form_of(request: Request, asked: Parameters) -> str:
    """Form of a reply: `format=`, else the first known one of the header Accept, else JSON."""
    form = asked.choice("format", MEDIA_TYPES)
    if form is not None:
        return form
    accepted = [part.split(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    forms = {media_type: name for name, media_type in MEDIA_TYPES.items()}
    return next((forms[media_type] for media_type in accepted if media_type in forms), JSON)


def schema_of(frame: pl.DataFrame) -> pa.Schema:
    """Schema of the replies made of frames like this one."""
    wide = frame.to_arrow().schema
    return pa.schema(
        [(field.name, pa.string() if pa.types.is_large_string(field.type) else field.type) for field in wide]
    )


def stream(parts: Iterable[pa.Table], schema: pa.Schema, form: str, headers: dict[str, str]) -> Response:
    """A reply of tables, all of this schema. The first table is made now, so that its errors become error replies."""
    pieces = _WRITERS[form](iter(parts), schema)
    first = next(pieces, b"")
    # Arrow and Parquet are compressed already: the middleware must not compress them again.
    packed = {} if form == JSON else {"Content-Encoding": "identity"}
    more = headers | packed | {"Vary": "Accept"}
    return StreamingResponse(chain([first], pieces), headers=more, media_type=MEDIA_TYPES[form])


class _Sink:
    """A write-only file; its bytes are taken out part by part."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length = 0

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._length += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._length

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def _arrow(parts: Iterator[pa.Table], schema: pa.Schema) -> Iterator[bytes]:
    sink = _Sink()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for part in parts:
            writer.write_table(part)
            yield sink.take()
    yield sink.take()


def _parquet(parts: Iterator[pa.Table], schema: pa.Schema) -> Iterator[bytes]:
    sink = _Sink()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(part)
            yield sink.take()
    yield sink.take()


def _json(parts: Iterator[pa.Table], schema: pa.Schema) -> Iterator[bytes]:
    texts = [name for name in _IDS if name in schema.names]
    before = b"["
    for part in parts:
        for name in texts:
            place = part.schema.get_field_index(name)
            part = part.set_column(place, name, part.column(name).cast(pa.string()))  # noqa: PLW2901
        rows = orjson.dumps(part.to_pylist())[1:-1]
        if rows:
            yield before + rows
            before = b","
    yield b"[]" if before == b"[" else b"]"


_WRITERS: dict[str, Callable[[Iterator[pa.Table], pa.Schema], Iterator[bytes]]] = {
    JSON: _json,
    ARROW: _arrow,
    PARQUET: _parquet,
}
