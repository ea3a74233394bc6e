"""Split Avro container files with any number of records into packets of one record each.

Topics carry one record a message; a user's file may hold a whole night. A packet alone in its file keeps its bytes;
other packets get the header of their file, with codec null, and its marker.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Protocol

import numpy as np

from alerce_spark.alerts import avro
from alerce_spark.alerts import avro_kernels as k
from alerce_spark.alerts.avro_plan import container_header, encoded_long

MAGIC = b"Obj\x01"
#: Bytes read to find the header of a file, and the largest size of a record.
HEAD = k.MAX_PACKET
_MARKER = 16


class ContainerError(ValueError):
    """A container that cannot be read any further; the records before this point are good."""


class Readable(Protocol):
    """A source of bytes: `read(n)` returns n bytes, and fewer only at the end."""

    def read(self, n: int, /) -> bytes:
        """The next n bytes."""


def is_one_packet(head: bytes) -> bool:
    """Whether `avro.decode` should judge the bytes as one packet: true unless a container has several records.

    Also false if another file follows, as after `cat`: the packets of the first file are good.
    """
    body, problem = avro.opened(head)
    if problem == k.RECORDS:
        return not _begins_block(head[body[k.MARKER] + _MARKER :])
    rest = head[body[k.END] + _MARKER :]
    return problem != k.AFTER or not (rest.startswith(MAGIC) or _begins_block(rest))


def _begins_block(data: bytes) -> bool:
    try:
        _size(_Reader(data, BytesIO()))
    except ContainerError:
        return False
    return True


def packets(head: bytes, rest: Readable) -> Iterator[bytes]:
    """Packets of a container of several records: `head` is its first bytes (at most HEAD), `rest` what follows.

    Raises ContainerError at the first block that cannot be read, and any error of `rest`.
    """
    body, _ = avro.opened(head)
    start = int(body[k.MARKER])
    marker, schema = head[start : start + _MARKER], head[body[k.TEXT] : body[k.TEXT_END]]
    header = container_header(schema) + marker
    blocks = _Reader(head[start + _MARKER :], rest)
    good = 0
    while not blocks.is_at_end:
        try:
            for record in _records(*_block(blocks, marker, int(body[k.CODEC_OF])), schema):
                yield header + b"\x02" + encoded_long(len(record)) + record + marker
                good += 1
        except (ContainerError, avro.BlockError) as error:
            raise ContainerError(f"{error}; the {good} records before it are read") from error


class _Reader:
    """Bytes in memory, followed by those of a source."""

    def __init__(self, ahead: bytes, rest: Readable) -> None:
        self._ahead, self._rest, self._at = ahead, rest, 0

    @property
    def is_at_end(self) -> bool:
        """Whether nothing follows."""
        if self._at == len(self._ahead):
            self._ahead, self._at = self._rest.read(1 << 16), 0
        return not self._ahead

    def take(self, n: int) -> bytes:
        data = self._ahead[self._at : self._at + n]
        self._at += len(data)
        if len(data) < n:
            data += self._rest.read(n - len(data))
        if len(data) < n:
            raise ContainerError(f"the file ends inside a block, {n - len(data)} bytes are missing")
        return data

    def long(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return (value >> 1) ^ -(value & 1)
            if shift > 63:
                raise ContainerError("no block: an integer longer than 10 bytes")


def _size(blocks: _Reader) -> tuple[int, int]:
    """Number of records and bytes of the next block, which begins here."""
    count, size = blocks.long(), blocks.long()
    if count < 1 or not 0 <= size <= k.MAX_PACKET:
        raise ContainerError(f"no block: {count} records in {size} bytes, at most {k.MAX_PACKET}")
    return count, size


def _block(blocks: _Reader, marker: bytes, codec: int) -> tuple[int, bytes]:
    """Number of records and bytes of the next block."""
    count, size = _size(blocks)
    block = blocks.take(size)
    if blocks.take(_MARKER) != marker:
        raise ContainerError("a block without the marker of the header at its end")
    return count, avro.unpacked(block, codec)


def _records(count: int, data: bytes, schema: bytes) -> Iterator[bytes]:
    """The records of a block one by one."""
    ends = avro.record_ends(schema, data, count) if count > 1 else np.array([len(data)])
    yield from (data[a:b] for a, b in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
    if len(ends) < count:
        raise ContainerError(f"record {len(ends) + 1} of a block of {count} cannot be read")
    if ends[-1] != len(data):
        raise ContainerError(f"{len(data) - ends[-1]} bytes are left over after the records of a block")
