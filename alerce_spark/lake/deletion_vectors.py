"""Deletion vectors: which rows of a file of a Delta table are deleted (PROTOCOL.md of delta-io/delta, of that name).

In place of delta-rs' own reading, which takes the vectors of all files at once, each in a thread that waits for another
thread of the same 512: with so many files that have one it waits for ever (docs/decisions.md).
"""

from __future__ import annotations

import base64
import binascii
import struct
import uuid

from obstore.exceptions import GenericError, NotFoundError
from pyroaring import BitMap64

from alerce_spark.lake.storage import Action, LakeError, Store

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
        """Take the deleted rows of a file; returns how the log tells where they are."""
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

    def put(self, files: Store) -> str | None:
        """Write the file, if there is anything to write; its path."""
        if len(self._parts) == 1:
            return None
        files.put(_path(self._name), b"".join(self._parts))
        return _path(self._name)


def read(files: Store, vector: Action) -> BitMap64:
    """The deleted rows of a file.

    Raises FileNotFoundError where the vector was vacuumed, LakeError where it is damaged or not in a file.
    """
    if vector["storageType"] != "u":
        raise LakeError(f"a deletion vector is stored in a way not known here: {vector}")
    text, size = vector["pathOrInlineDv"], vector["sizeInBytes"]
    folder, name = text[:-_UUID_CHARS], base64.b85decode(text[-_UUID_CHARS:].translate(_FROM_Z85))
    path = f"{folder}/" * bool(folder) + _path(uuid.UUID(bytes=name))
    try:
        found = bytes(files.get_range(path, start=vector["offset"], length=size + 8))
    except NotFoundError as error:
        raise FileNotFoundError(f"the deletion vector {path} of {files} is gone") from error
    except GenericError:
        # A store says no more about a range that lies behind the end of the file.
        if files.head(path)["size"] >= vector["offset"] + size + 8:
            raise
        found = b""
    data = found[4:-4]
    frame = struct.pack(">i", size) + data + struct.pack(">I", binascii.crc32(data))
    if len(data) != size or found != frame:
        raise LakeError(
            f"the deletion vector {path} of {files} is damaged; docs/operations.md says how to go on: After a power cut"
        )
    return BitMap64.deserialize(data[4:])


def _path(name: uuid.UUID) -> str:
    return f"deletion_vector_{name}.bin"
