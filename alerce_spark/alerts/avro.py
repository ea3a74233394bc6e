"""Avro packets to Arrow columns: a table-driven decoder for container files of one alert each.

A packet is an Avro object container file (codec null, deflate or snappy) with exactly one record. The whole packet is
either good or bad. It is bad if it cannot be read to its last byte (the reason names the field), if a known field has
a type that our column cannot hold, or if the identity, time, position, filter or magnitude of the alert is missing or
impossible (`Survey.checks`). An entry of its history makes a packet bad only if its bytes cannot be decoded.

A good packet does not prove that these are the bytes that the survey sent. Avro has no checksums except for snappy
blocks. A bit flipped inside a number, a stamp or a text usually gives another valid value, and a changed union branch
may turn a value into a null if the bytes after it still fit. The decoder does guarantee three things: such a packet
gives the values that any Avro reader finds in its bytes, its neighbours are unaffected, and nothing outside it is read.

fastavro is the oracle of the tests, not a fallback: a damaged packet whose schema is recursive crashes the process
(fastavro recurses in C), and an array of nulls with a damaged count makes it loop endlessly.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import cramjam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from alerce_spark.alerts import avro_kernels as k
from alerce_spark.alerts.avro_plan import Catalog, Layout, Plan, Target, compile_schema
from alerce_spark.alerts.model import ERRORS_SCHEMA, EXTRA, Decoded
from alerce_spark.surveys.survey import Survey

#: Bytes of packets decoded at a time, and the most bytes that decompression may add to them.
SLICE_BYTES = 64 << 20
MAX_RECORD = 16 << 20
SIDE_BYTES = 64 << 20
#: Schemas kept between calls. A survey uses a handful at a time; damaged packets may bring any number.
MAX_PLANS = 64
MAX_PLAN_BYTES = 8 << 20

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

_NOTHING = Catalog([])


def _words(*texts: bytes) -> Bytes:
    rows = np.zeros((len(texts), 1 + max(map(len, texts))), np.uint8)
    for row, text in zip(rows, texts, strict=True):
        row[0] = len(text)
        row[1 : 1 + len(text)] = np.frombuffer(text, np.uint8)
    return rows


_HEADER_WORDS = _words(b"avro.schema", b"avro.codec", b"null", b"deflate", b"snappy")


# Packets to records: container files, schemas, compression.


@dataclass
class _Batch:
    """Packets that one pass of the kernels handles: their bytes, and where the record of each is."""

    row: int
    data: Bytes
    offsets: Longs
    side: Bytes
    bodies: Longs
    problems: Longs
    catalog: Catalog


def _as_bytes(buffer: Any) -> Bytes:
    """A view that is never writable, so that the kernels are compiled for one type."""
    view: Bytes = np.frombuffer(buffer, np.uint8) if buffer is not None and len(buffer) else np.empty(0, np.uint8)
    view.flags.writeable = False
    return view


def _state() -> Longs:
    return np.zeros(k.STATE_SIZE, np.int64)


def _chunks(packets: pa.Array | pa.ChunkedArray | Sequence[bytes]) -> list[pa.Array]:
    if not isinstance(packets, pa.Array | pa.ChunkedArray):
        packets = pa.array(packets, pa.large_binary())
    chunks = packets.chunks if isinstance(packets, pa.ChunkedArray) else [packets]
    if not (pa.types.is_large_binary(packets.type) or pa.types.is_binary(packets.type)):
        chunks = [chunk.cast(pa.large_binary()) for chunk in chunks]
    return [chunk.fill_null(b"") if chunk.null_count else chunk for chunk in chunks if len(chunk)]


def _batches(packets: pa.Array | pa.ChunkedArray | Sequence[bytes], reader: _Reader) -> Iterator[_Batch]:
    row = 0
    for chunk in _chunks(packets):
        n = len(chunk)
        _, offset_buffer, data_buffer = chunk.buffers()
        width = np.dtype(np.int64 if pa.types.is_large_binary(chunk.type) else np.int32)
        offsets = np.frombuffer(offset_buffer, width, n + 1, chunk.offset * width.itemsize).astype(np.int64)
        data = _as_bytes(data_buffer)
        first = 0
        while first < n:
            stop = int(np.searchsorted(offsets, offsets[first] + SLICE_BYTES, side="right")) - 1
            batch = _open(reader, row + first, data, offsets[first : max(stop, first + 1) + 1])
            first += len(batch.bodies)
            yield batch
        row += n


def _open(reader: _Reader, row: int, data: Bytes, offsets: Longs) -> _Batch:
    n = len(offsets) - 1
    bodies = np.zeros((n, k.N_BODY), np.int64)
    problems = np.zeros((n, k.N_PROBLEM), np.int64)
    catalog = reader.catalog
    k.split_containers(data, offsets, _HEADER_WORDS, catalog.texts, catalog.text_starts, bodies, problems, _state())
    sizes = np.diff(offsets)
    problems[sizes > k.MAX_PACKET, k.CODE] = k.TOO_LONG
    problems[sizes > k.MAX_PACKET, 1 + k.VALUE] = sizes[sizes > k.MAX_PACKET]
    unknown = np.flatnonzero((problems[:, k.CODE] == 0) & (bodies[:, k.PLAN] < 0))
    if len(unknown):
        texts = {int(p): data[bodies[p, k.TEXT] : bodies[p, k.TEXT_END]].tobytes() for p in unknown}
        catalog = reader.learn(set(texts.values()))
        for p, text in texts.items():
            bodies[p, k.PLAN] = catalog.numbers[text]
    if catalog.failed.any():
        problems[(problems[:, k.CODE] == 0) & catalog.failed[bodies[:, k.PLAN]], k.CODE] = k.SCHEMA
    side, n = _decompress(data, bodies, problems)
    return _Batch(row, data, offsets[: n + 1], side, bodies[:n], problems[:n], catalog)


def opened(head: bytes) -> tuple[Longs, int]:
    """Where the parts of one container are (the columns of `bodies`), and the code of its problem or 0."""
    bodies, problems = np.zeros((1, k.N_BODY), np.int64), np.zeros((1, k.N_PROBLEM), np.int64)
    data, ends, none = _as_bytes(head), np.array([0, len(head)]), Catalog([])
    k.split_containers(data, ends, _HEADER_WORDS, none.texts, none.text_starts, bodies, problems, _state())
    return bodies[0], int(problems[0, k.CODE])


def record_ends(schema: bytes, data: bytes, count: int) -> Longs:
    """End of each of `count` consecutive records; fewer if one cannot be read.

    Raises BlockError for a schema whose records cannot be read.
    """
    plan = _plan(schema)
    if plan.reason:
        raise BlockError(plan.reason)
    ends = np.empty(min(count, len(data)), np.int64)
    return ends[: k.record_ends(_as_bytes(data), plan.node_table, plan.kid_table, ends, _state())]


@lru_cache(maxsize=4)
def _plan(schema: bytes) -> Plan:
    """A schema whose records are only skipped."""
    return compile_schema(schema)


def _decompress(data: Bytes, bodies: Longs, problems: Longs) -> tuple[Bytes, int]:
    """Decompressed records in one buffer, `bodies` pointing into it; and the number of packets before it got full."""
    parts: list[bytes] = []
    total = 0
    n = len(bodies)
    for p in np.flatnonzero((bodies[:, k.CODEC_OF] != k.NULL_CODEC) & (problems[:, k.CODE] == 0)):
        block = data[bodies[p, k.START] : bodies[p, k.END]].tobytes()
        try:
            record = unpacked(block, int(bodies[p, k.CODEC_OF]))
        except BlockError as error:
            problems[p, k.CODE] = k.PACKED
            problems[p, 1 + k.VALUE] = _BLOCK_REASONS.index(str(error))
            continue
        if total + len(record) > SIDE_BYTES and parts:
            n = int(p)
            break
        bodies[p, [k.START, k.END, k.SIDE]] = total, total + len(record), 1
        parts.append(record)
        total += len(record)
    return _as_bytes(b"".join(parts)), n


_BLOCK_REASONS = (
    "damaged deflate block",
    "damaged snappy block",
    "snappy block with another checksum",
    f"block of more than {MAX_RECORD} bytes",
)


class BlockError(ValueError):
    """A block that cannot be decompressed; the message is one of _BLOCK_REASONS."""


def unpacked(block: bytes, codec: int) -> bytes:
    """Records of a container's block. Raises BlockError."""
    if codec == k.NULL_CODEC:
        return block
    return _inflate(block) if codec == k.DEFLATE else _unsnap(block)


def _inflate(block: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=-15)
    try:
        record = stream.decompress(block, MAX_RECORD + 1)
    except zlib.error as error:
        raise BlockError(_BLOCK_REASONS[0]) from error
    if len(record) > MAX_RECORD:
        raise BlockError(_BLOCK_REASONS[3])
    # fastavro leaves three of the four bytes of zlib's checksum behind the block.
    if not stream.eof or len(stream.unused_data) > 4:
        raise BlockError(_BLOCK_REASONS[0])
    return record


def _unsnap(block: bytes) -> bytes:
    """Avro's snappy: a raw snappy block, then the big-endian CRC-32 of what it holds."""
    try:
        if len(block) < 5:
            raise BlockError(_BLOCK_REASONS[1])
        if cramjam.snappy.decompress_raw_len(block[:-4]) > MAX_RECORD:
            raise BlockError(_BLOCK_REASONS[3])
        record = bytes(cramjam.snappy.decompress_raw(block[:-4]))
    except cramjam.DecompressionError as error:
        raise BlockError(_BLOCK_REASONS[1]) from error
    if zlib.crc32(record) != int.from_bytes(block[-4:], "big"):
        raise BlockError(_BLOCK_REASONS[2])
    return record


# Records to columns.


def _empty(rows: int, columns: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Uninitialised memory from Arrow's pool, which reuses pages without new page faults."""
    size = rows * columns * np.dtype(dtype).itemsize
    return np.frombuffer(pa.allocate_buffer(size), dtype).reshape(columns, rows)


class _Output:
    """The columns of one Arrow table: where the kernels write values, and which columns are derived from others."""

    def __init__(self, schema: pa.Schema, layout: Layout, survey: Survey) -> None:
        self.schema = schema
        self.columns = [(f.type, layout.columns[f.name]) for f in schema if f.name in layout.columns]
        self.texts = 1 + max((c.index for _, c in self.columns if c.destination in _TEXTS), default=-1)
        self.derived = [d for d in survey.derived if d.name in schema.names]
        self._at = schema.get_field_index("extra") - 1 - len(self.derived)
        self._names = [f.name for f in schema if f.name in layout.columns]

    def table(self, arrays: list[pa.Array], owner: pa.Array, extra: pa.Array) -> pa.Table:
        """The Arrow table: owner and common columns first, `extra` after the fields, before the stamps."""
        derived = [d.make(arrays[self._names.index(d.source)]) for d in self.derived]
        at = self._at
        return pa.Table.from_arrays([owner, *derived, *arrays[:at], extra, *arrays[at:]], schema=self.schema)


_TEXTS = (k.TO_TEXT, k.TO_STAMP)


class _Reader:
    """Per-process state for the packets of a survey: where their values go, and the schemas read so far."""

    def __init__(self, survey: Survey) -> None:
        self.target = target = Target(survey)
        of, layouts = target.schemas, target.layouts
        self.alerts = _Output(of.alerts, layouts[k.ALERTS], survey)
        self.alerts_stamps = _Output(of.alerts_stamps, layouts[k.ALERTS], survey)
        self.previous = _Output(of.previous, layouts[k.PREVIOUS], survey)
        self.forced = _Output(of.forced, layouts[k.FORCED], survey)
        self.catalog = Catalog([])
        self._lock = threading.Lock()

    def learn(self, texts: set[bytes]) -> Catalog:
        """The catalogue with the schemas of `texts`; later calls reuse it unless it has grown too large."""
        with self._lock:
            catalog = self.catalog.with_texts(sorted(texts - self.catalog.numbers.keys()), self.target)
            small = len(catalog.plans) <= MAX_PLANS and len(catalog.texts) <= MAX_PLAN_BYTES
            self.catalog = catalog if small else Catalog([])
            return catalog


@cache
def _reader(survey: Survey) -> _Reader:
    return _Reader(survey)


class _Table:
    """Column-major buffers of one table, and how they become Arrow arrays."""

    def __init__(self, layout: Layout, rows: int) -> None:
        self.layout = layout
        self._allocate(rows)

    def _allocate(self, rows: int) -> None:
        """Room for at least `rows` rows: an odd number of blocks, so that columns start at different cache lines."""
        layout = self.layout
        self.capacity = rows = k.BLOCK_ROWS * (-(-rows // k.BLOCK_ROWS) | 1)
        self.buffers = (
            _empty(rows, 1, np.int32)[0],
            _empty(rows, layout.words4 + 1, np.uint32),
            _empty(rows, layout.words8, np.uint64),
            _empty(rows, layout.texts, np.int64),
            _empty(rows, layout.texts, np.int32),
            _empty(rows // 8, len(layout.columns), np.uint8),
        )

    def grow(self) -> None:
        """Double the capacity and keep the content."""
        old = self.buffers
        self._allocate(2 * self.capacity)
        for new, before in zip(self.buffers, old, strict=True):
            new[..., : before.shape[-1]] = before

    def arrays(self, output: _Output, rows: int, batch: _Batch) -> list[pa.Array]:
        """Arrow arrays over the buffers for the columns of `output`."""
        _, words4, words8, text_start, text_length, valid = self.buffers
        offsets = np.empty((output.texts, rows + 1), np.int32)
        k.text_offsets(text_length, rows, offsets)
        starts = np.zeros(output.texts + 1, np.int64)
        np.cumsum(offsets[:, -1], out=starts[1:])
        text = _empty(int(starts[-1]), 1, np.uint8)[0]
        k.copy_texts(batch.data, batch.side, text_start, offsets, starts, text)
        fours, eights, ends, characters, bits = map(pa.py_buffer, (words4, words8, offsets, text, valid))
        four, eight, end, bitmap = 4 * self.capacity, 8 * self.capacity, 4 * (rows + 1), self.capacity // 8
        places = starts.tolist()
        arrays = []
        for arrow_type, column in output.columns:
            validity = bits.slice(column.validity * bitmap, bitmap)
            at = column.index
            if column.destination in (k.TO_TEXT, k.TO_STAMP):
                content = characters.slice(places[at], places[at + 1] - places[at])
                values = [validity, ends.slice(at * end, end), content]
            elif column.destination in (k.TO_INT32, k.TO_FLOAT32):
                values = [validity, fours.slice(at * four, four)]
            else:
                values = [validity, eights.slice(at * eight, eight)]
            arrays.append(pa.Array.from_buffers(arrow_type, rows, values))
        return arrays


def _read(batch: _Batch, target: Target) -> tuple[list[_Table], Longs, Longs]:
    """Run the kernel over a batch; return the three tables, positions of unknown fields, and rows used per table."""
    n = len(batch.bodies)
    catalog = batch.catalog
    tables = [_Table(layout, rows) for layout, rows in zip(target.layouts, (n, 32 * n, 16 * n), strict=True)]
    extras = np.empty((4 * n, k.N_EXTRA), np.int64)
    state = _state()
    packet = 0
    while True:
        packet, full = k.read_packets(
            packet, batch.data, batch.side, batch.bodies, batch.problems,
            catalog.starts, catalog.nodes, catalog.kids, catalog.ops, target.checks, target.ranges,
            tables[k.ALERTS].buffers, tables[k.PREVIOUS].buffers, tables[k.FORCED].buffers, extras, state,
        )  # fmt: skip
        if full == 0:
            return tables, extras[: state[k.N_EXTRAS]], state[k.ROWS : k.ROWS + k.N_TABLES]
        if full == k.GROW + k.N_TABLES:
            extras = np.concatenate([extras, np.empty_like(extras)])
        else:
            tables[full - k.GROW].grow()


def _extra(batch: _Batch, extras: Longs, table: int, rows: int) -> pa.Array:
    """Unknown fields of one table's rows as name -> JSON text; null for rows without any."""
    mine = extras[extras[:, k.X_TABLE] == table]
    if not len(mine):
        return pa.nulls(rows, EXTRA.type)
    names, texts = [], []
    for _, _, packet, op, start, end in mine.tolist():
        plan = batch.catalog.plans[batch.bodies[packet, k.PLAN]]
        raw = batch.side[start - k.SIDE_BASE : end - k.SIDE_BASE] if start >= k.SIDE_BASE else batch.data[start:end]
        names.append(plan.keys[op])
        texts.append(plan.json_text(op, raw.tobytes()))
    counts = np.bincount(mine[:, k.X_ROW], minlength=rows)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    absent = np.append(counts == 0, False)
    return pa.MapArray.from_arrays(
        pa.array(offsets, pa.int32(), mask=absent), pa.array(names, pa.string()), pa.array(texts, pa.string())
    )


def _decode(batch: _Batch, reader: _Reader, stamps: bool, first_alert: int) -> Decoded:
    tables, extras, used = _read(batch, reader.target)

    def table(which: int, output: _Output, base: int) -> pa.Table:
        rows = int(used[which])
        if rows == 0:
            return output.schema.empty_table()
        owner = pa.array(tables[which].buffers[0][:rows] + np.int32(base))
        arrays = tables[which].arrays(output, rows, batch)
        return output.table(arrays, owner, _extra(batch, extras, which, rows))

    bad = np.flatnonzero(batch.problems[:, k.CODE])
    reasons = [_reason(batch, int(packet), reader.target.survey) for packet in bad]
    return Decoded(
        alerts=table(k.ALERTS, reader.alerts_stamps if stamps else reader.alerts, batch.row),
        previous=table(k.PREVIOUS, reader.previous, first_alert),
        forced=table(k.FORCED, reader.forced, first_alert),
        errors=pa.table([pa.array(bad + batch.row, pa.int32()), pa.array(reasons, pa.string())], schema=ERRORS_SCHEMA),
    )


def decode(packets: pa.Array | pa.ChunkedArray | Sequence[bytes], survey: Survey, *, stamps: bool = False) -> Decoded:
    """Decode packets of a survey to columns. Never raises because of a packet.

    `packets` are binary Arrow arrays of any kind or a sequence of bytes; `stamps` adds the three cutouts, unchanged
    FITS files. Rows keep the order of the input; a null is a bad packet.
    """
    reader = _reader(survey)
    parts: list[Decoded] = []
    alerts = 0
    for batch in _batches(packets, reader):
        parts.append(_decode(batch, reader, stamps, alerts))
        alerts += parts[-1].alerts.num_rows
    if len(parts) == 1:
        return parts[0]

    def whole(name: str, schema: pa.Schema) -> pa.Table:
        return pa.concat_tables([getattr(part, name) for part in parts]) if parts else schema.empty_table()

    of = reader.target.schemas
    return Decoded(
        alerts=whole("alerts", of.alerts_stamps if stamps else of.alerts),
        previous=whole("previous", of.previous),
        forced=whole("forced", of.forced),
        errors=whole("errors", ERRORS_SCHEMA),
    )


# Reasons.


def _reason(batch: _Batch, packet: int, survey: Survey | None) -> str:
    """The fault of a packet in a few words, with the field and the value."""
    code, op, node, value, limit, entry = batch.problems[packet].tolist()
    if code >= k.MISSING and survey is not None:
        return _value_reason(survey, code, op, value, limit)
    if code >= k.EMPTY:
        return _container_reason(batch, packet, code, value, limit)
    if code == k.LEFT:
        return f"{value} bytes left over after the record"
    plan = batch.catalog.plans[batch.bodies[packet, k.PLAN]]
    path = plan.paths[op].replace("[]", f"[{entry}]" if entry >= 0 else "")
    return f"field {path}: {_field_reason(plan, code, op, node, value, limit)}"


def _field_reason(  # noqa: PLR0911  one a reason
    plan: Plan, code: int, op: int, node: int, value: int, limit: int
) -> str:
    match code:
        case k.TYPE:
            return f"{plan.type_name(node)}, expected {plan.expected(op)}"
        case k.FIT:
            return f"{value} does not fit {plan.narrower(node, op, value)}"
        case k.BRANCH:
            return f"union branch {value} of {limit}"
        case k.SYMBOL:
            return f"enum symbol {value} of {limit}"
        case k.LENGTH:
            return f"length {value}, {limit} bytes left"
        case k.COUNT:
            return f"block of {value} entries, {limit} bytes left"
        case k.MANY:
            return f"{value} entries, at most {k.MAX_ENTRIES}"
        case k.NOT_BOOLEAN:
            return f"boolean of byte {value}"
    return {
        k.ENDS: "packet ends inside it",
        k.VARINT: "integer longer than 10 bytes",
        k.UTF8: "text is not UTF-8",
        k.BLOCK_BYTES: "block of another size than stated",
        k.DEPTH: f"nested deeper than {k.MAX_DEPTH}",
    }[code]


def _container_reason(batch: _Batch, packet: int, code: int, value: int, limit: int) -> str:
    match code:
        case k.SCHEMA:
            return batch.catalog.plans[batch.bodies[packet, k.PLAN]].reason
        case k.NOT_AVRO:
            start, end = batch.offsets[packet : packet + 2]
            return f"not an Avro container: starts with {batch.data[start:end][:4].tobytes()!r}"
        case k.CODEC:
            return f"codec {batch.data[value:limit][:20].tobytes()!r}, known: null, deflate, snappy"
        case k.PACKED:
            return _BLOCK_REASONS[value]
    return {
        k.EMPTY: "empty packet",
        k.TOO_LONG: f"packet of {value} bytes, at most {k.MAX_PACKET}",
        k.HEADER: f"container header is cut off or damaged at byte {value}",
        k.NO_SCHEMA: "container without avro.schema",
        k.NO_RECORD: "container without a record",
        k.RECORDS: f"block of {value} records, expected 1",
        k.BLOCK: f"container block of {value} bytes, {limit} left",
        k.MARK: "container block without the marker of the header at its end",
        k.AFTER: f"{value} bytes after the first block",
    }[code]


def _value_reason(survey: Survey, code: int, which: int, value: int, limit: int) -> str:
    if code == k.EXTRA_LIMIT:
        return f"more than {k.MAX_EXTRAS} values of unknown fields"
    check = survey.checks[which]
    what = {
        k.MISSING: "missing",
        k.EMPTY_ID: "empty or blank",
        k.CONTROL_ID: f"control character U+{value & 0xFFFF:04X}",
        k.LONG_ID: f"{value} characters, at most {k.MAX_ID_CHARACTERS}",
        k.NOT_POSITIVE: f"{value}, expected a positive number",
        k.CANDIDS: f"{limit}, the packet's is {value}",
        k.OUTSIDE: f"{float(np.int64(value).view(np.float64))!r}, not in {check.limits}",
    }[code]
    return f"field {survey.path_of(check.column)}: {what}"


# Records of other schemas than a packet's.


def split(file: bytes) -> tuple[bytes, bytes]:
    """Text of the schema and bytes of the record of a container file: one record, not compressed.

    Raises ValueError with the reason for any other bytes. The bytes of the record are not checked: see `flaw`.
    """
    data = _as_bytes(file)
    bodies, problems = np.zeros((1, k.N_BODY), np.int64), np.zeros((1, k.N_PROBLEM), np.int64)
    offsets = np.array([0, len(data)])
    k.split_containers(data, offsets, _HEADER_WORDS, _NOTHING.texts, _NOTHING.text_starts, bodies, problems, _state())
    if problems[0, k.CODE]:
        raise ValueError(_reason(_Batch(0, data, offsets, data, bodies, problems, _NOTHING), 0, None))
    if bodies[0, k.CODEC_OF] != k.NULL_CODEC:
        raise ValueError("a compressed container: our messages never are")
    start, end, text, text_end = bodies[0, [k.START, k.END, k.TEXT, k.TEXT_END]].tolist()
    return file[text:text_end], file[start:end]


def flaw(record: bytes, plan: Plan) -> str | None:
    """Reason why these bytes are not exactly one record of the schema of `plan`; None if they are.

    The number of bytes and k.MAX_DEPTH bound time and memory, whatever the schema and the counts say.
    """
    state = _state()
    end = k.skip(_as_bytes(record), 0, len(record), 0, plan.node_table, plan.kid_table, state)
    if end < 0:
        value, limit = state[[k.VALUE, k.LIMIT]].tolist()
        return _field_reason(plan, -end, 0, int(state[k.NODE]), value, limit)
    return None if end == len(record) else f"{len(record) - end} bytes left over after the record"


# Packets without stamps.


def strip_stamps(packets: pa.Array | pa.ChunkedArray | Sequence[bytes], survey: Survey) -> pa.BinaryArray:
    """Packets with their three cutouts set to null, a third of the size, for sending between workers.

    Each result is a container file with codec null, a schema without `doc` texts and no other metadata; the bytes of
    its record are the same except for the cutouts. A cutout that the schema does not allow to be null stays. Unreadable
    packets and nulls are returned unchanged. Raises pyarrow.ArrowInvalid if the result would be longer than 2 GiB.
    """
    parts = [_strip(batch) for batch in _batches(packets, _reader(survey))]
    out = pa.concat_arrays(parts).cast(pa.binary()) if parts else pa.array([], pa.binary())
    absent = _absent(packets)
    return out if absent is None else pc.if_else(absent, pa.scalar(None, pa.binary()), out)


def _absent(packets: pa.Array | pa.ChunkedArray | Sequence[bytes]) -> pa.Array | None:
    """Mask of the packets that are null; None if none is."""
    if not isinstance(packets, pa.Array | pa.ChunkedArray):
        absent = pa.array([packet is None for packet in packets], pa.bool_())
        return absent if pc.any(absent).as_py() else None
    if packets.null_count == 0:
        return None
    return pc.is_null(packets.combine_chunks() if isinstance(packets, pa.ChunkedArray) else packets)


def _strip(batch: _Batch) -> pa.LargeBinaryArray:
    n = len(batch.bodies)
    cuts = np.empty((n, 3, 3), np.int64)
    sizes = np.diff(batch.offsets)
    catalog = batch.catalog
    lengths = np.zeros(n, np.int64)
    k.find_stamps(
        batch.data, batch.side, batch.bodies, batch.problems, catalog.starts, catalog.nodes, catalog.kids, catalog.ops,
        catalog.header_starts, cuts, lengths, sizes, _state(),
    )  # fmt: skip
    starts = np.zeros(n + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    out = _empty(int(starts[-1]), 1, np.uint8)[0]
    k.write_without_stamps(
        batch.data, batch.side, batch.offsets, batch.bodies, batch.problems, cuts, lengths,
        catalog.headers, catalog.header_starts, starts, out,
    )  # fmt: skip
    return pa.Array.from_buffers(pa.large_binary(), n, [None, pa.py_buffer(starts), pa.py_buffer(out)])
