"""Deletion vectors: which rows of a file of a Delta table are deleted (PROTOCOL.md of delta-io/delta, of that name).

They replace the reader of delta-rs, which reads the vectors of all files at once, each in a thread that waits for
another thread of the same pool of 512: with 512 such files it never returns (docs/decisions.md).
"""

from __future__ import annotations

import base64
import binascii
import struct
import uuid

from pyroaring import BitMap64

from alerce_spark.delta.protocol import Action
from alerce_spark.errors import LakeError
from alerce_spark.location import Location

#: First number of a serialised array of bitmaps, and the byte that opens a file of them.
_MAGIC = 1681511377
_FILE_VERSION = b"\x01"
#: Python's base85 has the characters of RFC 1924, Delta those of Z85, in the same order of values.
_RFC1924 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_TO_Z85, _FROM_Z85 = str.maketrans(_RFC1924, _Z85), str.maketrans(_Z85, _RFC1924)
_UUID_CHARS = 20


class Writer:
    """The deletion vectors of one commit, which go into one file of the table."""

    def __init__(self) -> None:
        self._name = uuid.uuid4()
        self._parts = [_FILE_VERSION]
        self._offset = len(_FILE_VERSION)

    def add(self, rows: BitMap64) -> Action:
        """Add the deleted rows of a file; return the log's description of where they are."""
        data = struct.pack("<i", _MAGIC) + rows.serialize()
        vector = {
            "storageType": "u",
            "pathOrInlineDv": base64.b85encode(self._name.bytes).decode().translate(_TO_Z85),
            "offset": self._offset,
            "sizeInBytes": len(data),
            "cardinality": len(rows),
        }
        self._parts.append(struct.pack(">i", len(data)) + data + struct.pack(">I", binascii.crc32(data)))
        self._offset += len(self._parts[-1])
        return vector

    def put(self, files: Location) -> str | None:
        """Write the file, if there is anything to write; return its path."""
        if len(self._parts) == 1:
            return None
        files.put(_path(self._name), b"".join(self._parts))
        return _path(self._name)


def read(files: Location, vector: Action) -> BitMap64:
    """The deleted rows of a file.

    Raises FileNotFoundError where the vector was vacuumed, LakeError where it is damaged or outside the table.
    """
    kind, text, size = vector["storageType"], vector["pathOrInlineDv"], vector["sizeInBytes"]
    if kind == "i":
        return _rows(_decoded(text)[:size], f"in the log of {files.place}")
    if kind != "u":
        raise LakeError(f"a deletion vector of {files.place} is in a file outside the table: {text}; use a copy")
    folder, name = text[:-_UUID_CHARS], _decoded(text[-_UUID_CHARS:])
    path = f"{folder}/" * bool(folder) + _path(uuid.UUID(bytes=name))
    try:
        found = files.get_range(path, vector["offset"], size + 8)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the deletion vector {path} of {files.place} is gone") from error
    data = found[4:-4]
    frame = struct.pack(">i", size) + data + struct.pack(">I", binascii.crc32(data))
    if len(data) != size or found != frame:
        raise _damaged(f"{path} of {files.place}")
    return _rows(data, f"{path} of {files.place}")


def _decoded(text: str) -> bytes:
    return base64.b85decode(text.translate(_FROM_Z85))


def _rows(data: bytes, where: str) -> BitMap64:
    if len(data) < 4 or struct.unpack("<i", data[:4]) != (_MAGIC,):
        raise _damaged(where)
    return BitMap64.deserialize(data[4:])


def _damaged(where: str) -> LakeError:
    return LakeError(f"the deletion vector {where} is damaged; docs/operations.md says how to go on: After a power cut")


def _path(name: uuid.UUID) -> str:
    return f"deletion_vector_{name}.bin"
