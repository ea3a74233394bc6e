"""A model file: a JSON header and aligned arrays, guarded by a checksum; it holds no code.

    bytes 0-7    magic
    8-11, 12-15  format version, length of the header (little-endian, unsigned)
    16-23        length of the whole file
    24-          header: JSON in UTF-8 with `kind`, `arrays` (name, type, shape, offset from the end of the header) and
                 what the writer put in, blanks up to a multiple of 64
    ...          arrays, little-endian, each at a multiple of 64 bytes
    last 32      SHA-256 of everything before

A file is written under a temporary name and renamed. It is read into memory, not mapped: if a mapped file is truncated,
for instance by copying over it, the next access kills the process. Shipped files have checksums in SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from alerce_spark.errors import AlerceError

FORMAT_VERSION = 1
_MAGIC = b"ALERCEmf"
_SUMS = "SHA256SUMS"
_PREFIX = struct.Struct("<8sIIQ")
_ALIGNMENT = 64
_DIGEST = hashlib.sha256().digest_size
_TYPES = {name: np.dtype(name) for name in ("<u4", "<i8", "<f4", "<f8")}


class ModelError(AlerceError):
    """A model file cannot be used; the message names the file and says what is wrong."""


def write(path: Path, kind: str, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write a model file atomically. `header` must be JSON; `arrays` have the types u4, i8, f4 and f8."""
    data, listed = bytearray(), []
    for name, array in arrays.items():
        data += bytes(-len(data) % _ALIGNMENT)
        stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        listed.append([name, stored.dtype.str, list(stored.shape), len(data)])
        data += stored.tobytes()
    head = json.dumps({**header, "kind": kind, "arrays": listed}, ensure_ascii=False).encode()
    head += b" " * (-(_PREFIX.size + len(head)) % _ALIGNMENT)
    length = _PREFIX.size + len(head) + len(data) + _DIGEST
    content = _PREFIX.pack(_MAGIC, FORMAT_VERSION, len(head), length) + head + data
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.write(hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays (read-only) of a model file of this kind. Raises ModelError."""
    content = load(path)
    if len(content) < _PREFIX.size + _DIGEST or content[:8] != _MAGIC:
        raise ModelError(f"{path} is not a model file")
    _, version, head_length, length = _PREFIX.unpack_from(content)
    if version > FORMAT_VERSION:
        raise ModelError(f"{path} has format {version}, this code reads up to {FORMAT_VERSION}: update alerce-spark")
    if len(content) != length:
        raise ModelError(f"{path} is truncated or has a tail: {len(content)} bytes of {length}")
    view = content[:-_DIGEST]
    if hashlib.sha256(view).digest() != content[-_DIGEST:]:
        raise ModelError(f"{path} is damaged: its checksum does not match")
    if (_PREFIX.size + head_length) % _ALIGNMENT:
        raise ModelError(f"{path}: the header does not end at a multiple of {_ALIGNMENT} bytes")
    data = view[_PREFIX.size + head_length :]
    header = _header(path, bytes(view[_PREFIX.size : _PREFIX.size + head_length]))
    if header.get("kind") != kind:
        raise ModelError(f"{path} is a model of kind {header.get('kind')!r}, not {kind!r}")
    listed = header.pop("arrays", None)
    if not isinstance(listed, list):
        raise ModelError(f"{path}: the header lists no arrays")
    return header, dict(_array(path, data, entry) for entry in listed)


def load(path: Path) -> memoryview:
    """The bytes of a model file, read-only and aligned to 64 bytes.

    Raises ModelError if it cannot be read, or its checksum differs from the one in SHA256SUMS in the same folder.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            memory = mmap.mmap(-1, max(size, 1))  # of no file: aligned, and ours alone
            got = file.readinto(memory)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    content = memoryview(memory)[:got].toreadonly()
    checksum = _listed(path)
    if checksum is not None and hashlib.sha256(content).hexdigest() != checksum:
        raise ModelError(f"{path} is not the file that ships: it has another checksum than in {_SUMS}; install again")
    return content


def _listed(path: Path) -> str | None:
    """The checksum of a file in SHA256SUMS in its folder (format of sha256sum); None if it is not listed."""
    try:
        lines = path.with_name(_SUMS).read_text().splitlines()
    except OSError:
        return None
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines if line)}.get(path.name)


def _header(path: Path, head: bytes) -> dict[str, Any]:
    try:
        header = json.loads(head)
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: the header is not JSON") from None
    if not isinstance(header, dict):
        raise ModelError(f"{path}: the header is not an object")
    return header


def _array(path: Path, data: memoryview, entry: object) -> tuple[str, NDArray[Any]]:
    """The array that a header entry describes. Raises ModelError unless it lies within `data`."""
    match entry:
        case [str(name), str(code), [*sizes], int(offset)] if code in _TYPES:
            shape = [n for n in sizes if type(n) is int and 0 <= n <= len(data)]
            count = math.prod(shape)
            if not 1 <= len(shape) == len(sizes) <= 2:
                raise ModelError(f"{path}: array {name!r} has the shape {str(sizes)[:80]}")
            if offset < 0 or offset % _ALIGNMENT or offset + count * _TYPES[code].itemsize > len(data):
                raise ModelError(f"{path}: array {name!r} lies outside the file")
            if count == 0:
                return name, np.empty(shape, _TYPES[code])
            return name, np.frombuffer(data, _TYPES[code], count, offset).reshape(shape)
        case _:
            raise ModelError(f"{path}: an array is described as {str(entry)[:80]!r}")
