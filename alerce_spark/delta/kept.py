"""A cache of values read from a table, bounded in memory: a stream runs for months."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import pyarrow.parquet as pq
from pyarrow import fs

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

#: Bytes of parsed footers that a process keeps: those of 300 files of the widest tables, or of ten of a catalogue.
_FOOTER_BYTES = 64 << 20
#: Bytes that a parsed footer takes for each column, and for each column of each row group (pyarrow 24). It is 10 to 35
#: times what it takes in the file.
_COLUMN_BYTES, _CHUNK_BYTES = 1000, 870


class Kept(Generic[Key, Value]):
    """A cache of the values used last; all but the newest take up to `most` bytes together. Safe between threads."""

    def __init__(self, most: int, size: Callable[[Value], int]) -> None:
        """size: bytes that a value takes in memory."""
        self._most, self._size = most, size
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """The value of a key; None where the cache does not have it."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: Key, value: Value) -> Value:
        """Keep a value, which must not change; drop those that were not used for longest."""
        with self._lock:
            before = self._values.pop(key, None)
            self.bytes += self._size(value) - (0 if before is None else self._size(before))
            self._values[key] = value
            while self.bytes > self._most and len(self._values) > 1:
                self.bytes -= self._size(self._values.popitem(last=False)[1])
            return value


def footer_bytes(metadata: pq.FileMetaData) -> int:
    """Bytes that a parsed footer takes in memory."""
    return int(metadata.num_columns * (_COLUMN_BYTES + _CHUNK_BYTES * metadata.num_row_groups))


_footers: Kept[tuple[str, str], pq.FileMetaData] = Kept(_FOOTER_BYTES, footer_bytes)


def parquet_file(table: str, path: str, filesystem: fs.FileSystem, **options: Any) -> pq.ParquetFile:
    """Open a file of a table (given by its address); the caller closes it. `path` is that on the table's file system.

    The footer is parsed once and kept, since such a file never changes. `options` are those of
    pyarrow.parquet.ParquetFile.
    """
    known = _footers.get((table, path))
    opened = pq.ParquetFile(path, metadata=known, filesystem=filesystem, **options)
    if known is None:
        _footers.put((table, path), opened.metadata)
    return opened
