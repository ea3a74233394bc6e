"""Bytes of files: unzipped to their end, with the errors of damaged ones, and text in one encoding."""

from __future__ import annotations

import codecs
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from alerce_spark.errors import InputError

_GZIP = b"\x1f\x8b"
_FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"Rar!": "a rar archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x89HDF": "HDF5",
    b"%PDF": "a PDF",
    b"Obj\x01": "Avro",
    b"ARROW1": "an Arrow file",
}
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_HEAD = 1 << 18  # bytes that show the format of a file; descriptions of journals' tables are shorter
_BLOCK = 1 << 20


class TableFileError(InputError):
    """A file of a table that cannot be read or written; the message names the file, the place and the remedy."""


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turns errors of reading `path` into messages for users."""
    try:
        yield
    except EOFError:
        raise TableFileError(f"{path} is cut: its gzip data end early. Nothing was read; get the file again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise TableFileError(f"{path} is damaged: {error}. Nothing was read; get the file again") from None
    except OSError as error:
        raise TableFileError(f"{path} cannot be read: {error.strerror or error}") from None


def is_zipped(path: Path) -> bool:
    """Whether a file is gzipped, whatever its name says."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def unzipping(path: Path) -> BinaryIO:
    """The bytes of a file, unzipped; reading to the end verifies all checksums."""
    return cast(BinaryIO, gzip.open(path, "rb")) if is_zipped(path) else path.open("rb")


def head(path: Path) -> bytes:
    """The first bytes of a file, unzipped. Raises TableFileError for an empty file and for those of other programs."""
    with unzipping(path) as file:
        first = file.read(_HEAD)
    if not first:
        raise TableFileError(f"{path} is empty")
    for magic, kind in (_FOREIGN | {_GZIP: "gzipped twice"}).items():
        if first.startswith(magic):
            raise TableFileError(f"{path} is {kind}, not a table that can be read here: unpack or convert it first")
    return first


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file with random access: the file itself, or if it is gzipped, an unzipped copy with verified checksum."""
    if not is_zipped(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="alerce-unzipped-") as folder:
        copy = Path(folder) / path.name.removesuffix(".gz")  # a ReadMe describes it by this name
        with unzipping(path) as file, copy.open("wb") as out:
            shutil.copyfileobj(file, out, _BLOCK)
        yield copy


class Text:
    """A text file as UTF-8 without a byte-order mark and with lines that end in a line feed; lines can be pushed back.

    Bytes that are not UTF-8 stay unchanged. Raises TableFileError for NUL bytes, which text cannot contain.
    """

    closed = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = unzipping(path)
        self._kept = b""
        self._last = b"\n"
        first = self._file.read(_HEAD)
        encoding = next((name for mark, name in _ENCODINGS.items() if first.startswith(mark)), None)
        self._file.seek(0)
        if encoding is not None:
            self._file = cast(BinaryIO, codecs.EncodedFile(self._file, "utf-8", encoding))
        elif first.startswith(codecs.BOM_UTF8):
            self._file.read(len(codecs.BOM_UTF8))
        self._old_mac = encoding is None and b"\r" in first and b"\n" not in first

    @property
    def ends_within_a_line(self) -> bool:
        """Whether the bytes read so far end without a line end."""
        return self._last != b"\n"

    def read(self, size: int = -1) -> bytes:
        """Read some bytes; none at the end."""
        kept, self._kept = self._kept, b""
        return kept or self._block(size)

    def readline(self) -> bytes:
        """The next line with its end; empty at the end."""
        while b"\n" not in self._kept:
            block = self._block(_BLOCK)
            if not block:
                break
            self._kept += block
        line, end, self._kept = self._kept.partition(b"\n")
        return line + end

    def give_back(self, lines: list[bytes]) -> None:
        """Push lines back, to be read again."""
        self._kept = b"".join(lines) + self._kept

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._file.close()

    def _block(self, size: int) -> bytes:
        try:
            block = self._file.read(size)
        except UnicodeDecodeError as error:
            raise TableFileError(f"{self._path} is not the text that its first bytes announce: {error}") from None
        if b"\0" in block:
            raise TableFileError(f"{self._path} has NUL bytes: it is neither text nor a format that can be read here")
        if self._old_mac:
            block = block.replace(b"\r", b"\n")
        self._last = block[-1:] or self._last
        return block


def as_text(line: bytes) -> str:
    """UTF-8, else Latin-1."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")
