"""Packets on disk: Avro files, gzipped ones, and tar archives of them, as surveys publish a night.

The content of a file decides how it is read; its name only decides whether a file in a folder is read at all. Every
file is streamed to its end, so that its checksums are verified. Memory is bounded: a packet has at most 16 MiB,
whatever a header says. A file or member that cannot be read is reported; packets before the fault are kept, and the
files or members after it are read.
"""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alerce_spark.alerts import containers
from alerce_spark.errors import InputError

#: Called with place and reason for each file or member that gives no packet.
Unread = Callable[[str, str], None]
#: The reason for files and members that neither by name nor by content are packets: no alert is lost.
OTHER = "not a packet, by its name and its content"

#: Names of packets and archives, including formats that are not supported, which are reported as such.
#: The last are names of unreadable packets in the broker's archive.
_NAME = re.compile(r"\.(avro|tar|tgz|tbz2?|txz|zip)(\.(gz|bz2|xz|zst|lz4|z))?\Z|\A[0-9a-f]{64}\Z", re.IGNORECASE)
_TAR_NAME = re.compile(r"\.(tar(\.gz)?|tgz)\Z", re.IGNORECASE)
_PACKED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstandard"}
_GZIP = b"\x1f\x8b"
_BLOCK = tarfile.BLOCKSIZE
#: Most levels of archives within archives; gzip counts as one level.
_MAX_DEPTH = 5
#: Types of tar headers that hold the name or the fields of the next member, and the most bytes of one.
_TAR_FIELDS = (b"L", b"K", b"x", b"g", b"X")
_MAX_TAR_FIELDS = 1 << 17
#: Bytes read or inflated at a time: a fault loses the bytes before it in the same chunk.
_READ, _INFLATED = 1 << 14, 1 << 12
_MAX_SHOWN = 500


def find_files(paths: Sequence[Path], unread: Unread) -> list[Path]:
    """Packets and archives at or below `paths`, in order. Links are followed only within the given folder.

    Raises InputError for a missing path and for a folder without packets or archives.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(_below(path, unread))
            if not below:
                raise InputError(f"{path}: no packets (.avro, .avro.gz) and no archives of them (.tar, .tar.gz, .tgz)")
            found += below
        elif path.is_file():
            found.append(path)
        else:
            is_there = os.path.lexists(path)
            raise InputError(f"{path}: " + ("neither a file nor a folder" if is_there else "no such file or folder"))
    return found


def insist(where: str, reason: str) -> None:
    """An `unread` callback for callers that need every packet: raises InputError for a file that should be one."""
    if reason != OTHER:
        raise InputError(f"{where}: {reason}")


def _below(folder: Path, unread: Unread) -> Iterator[Path]:
    base = Path(os.path.realpath(folder))

    def is_outside(path: Path) -> bool:
        return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(base)

    def cannot_be_listed(error: OSError) -> None:
        unread(shown(error.filename), str(error.strerror))

    for place, folders, files in os.walk(folder, onerror=cannot_be_listed):
        for path in (Path(place, name) for name in folders):
            if is_outside(path):
                unread(shown(path), f"a link to a folder outside of {shown(folder)}")
        for path in (Path(place, name) for name in files):
            if not _NAME.search(path.name):
                unread(shown(path), OTHER)
            elif is_outside(path):
                unread(shown(path), f"a link to a file outside of {shown(folder)}")
            elif not path.is_file():
                unread(shown(path), "a link to nothing, a pipe or a device")
            else:
                yield path


def packets_of(path: str | Path, unread: Unread) -> Iterator[tuple[bytes, str]]:
    """Packets of a file or an archive, each with its location. Bad packets are included; `decode` gives the reason.

    `unread` is called for files and members that give no packet: damaged, too large, or of another kind.
    """
    where = shown(path)
    try:
        with open(path, "rb") as file:
            yield from _packets(_Source(file, where), True, unread, 0)
    except OSError as error:
        unread(where, str(error.strerror or error))
    except _Damaged as error:
        unread(error.where, error.reason)


def shown(path: str | Path) -> str:
    """Name of a file or member as text that can be stored: bytes that are not UTF-8 as \\xff, long names cut."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN // 2]}…{text[-_MAX_SHOWN // 2 :]}"


class _Damaged(Exception):
    """A stream that cannot be read any further: the damaged file or member, and the damage."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason


class _Source:
    """The bytes of a file or member. A fault raises _Damaged with the name of this file, or of the enclosing archive.

    Bytes before the fault are returned first.
    """

    def __init__(self, stream: Any, where: str, is_checked: bool = False) -> None:
        """is_checked: the enclosing stream ends with a checksum, so this file is not cut off."""
        self._stream, self.where, self.is_checked = stream, where, is_checked
        self._ahead = b""
        self._fault: _Damaged | None = None

    def peek(self, n: int) -> bytes:
        """The next n bytes without consuming them; fewer at the end or before a fault."""
        while len(self._ahead) < n and (more := self._more(n - len(self._ahead))):
            self._ahead += more
        return self._ahead[:n]

    def read(self, n: int) -> bytes:
        """The next n bytes; fewer only at the end or before a fault."""
        parts, size = [self._ahead[:n]], min(n, len(self._ahead))
        self._ahead = self._ahead[n:]
        while size < n and (more := self._more(n - size)):
            parts.append(more)
            size += len(more)
        if not size and n and self._fault is not None:
            raise self._fault
        return b"".join(parts)

    def _more(self, n: int) -> bytes:
        if self._fault is None:
            try:
                return bytes(self._stream.read(min(n, _READ)))
            except _Damaged as fault:
                self._fault = fault
            except (OSError, EOFError, tarfile.TarError) as error:
                self._fault = _Damaged(self.where, str(error) or type(error).__name__)
        return b""


class _Gunzip:
    """The content of a gzip stream of one part or several; its checksums are compared at the end of each."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._part: Any = None
        self._packed = b""

    def read(self, n: int) -> bytes:
        while True:
            if self._part is None and not self._begins():
                return b""
            try:
                content = self._part.decompress(self._packed, min(n, _INFLATED))
            except zlib.error as error:
                raise _Damaged(self._source.where, f"gzip is damaged, perhaps before here too: {error}") from error
            self._packed = self._part.unconsumed_tail
            if self._part.eof:
                self._packed, self._part = self._part.unused_data, None
            elif not content and not self._packed:
                self._packed = self._source.read(_READ)
                if not self._packed:
                    raise EOFError("gzip is cut off")
            if content:
                return bytes(content)

    def _begins(self) -> bool:
        """Whether another part follows, perhaps after zeros."""
        self._packed = self._packed.lstrip(b"\0") if self._packed else b""
        while not self._packed.strip(b"\0"):
            self._packed = self._source.read(_READ)
            if not self._packed:
                return False
        self._packed = self._packed.lstrip(b"\0")
        if len(self._packed) < len(_GZIP):
            self._packed += self._source.read(_READ)
        if not self._packed.startswith(_GZIP):
            raise EOFError("other bytes follow the gzip stream")
        self._part = zlib.decompressobj(wbits=31)
        return True


class _Member(tarfile.TarInfo):
    """A member's header. The library takes a damaged header for the end of the archive, and allows any field size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _TAR_FIELDS and member.size > _MAX_TAR_FIELDS:
            raise tarfile.ReadError(f"{member.size} bytes of names and fields of a member, at most {_MAX_TAR_FIELDS}")
        return member

    #: How the library says that an archive ends.
    ends: tuple[type[Exception], ...] = (tarfile.EOFHeaderError,)  # type: ignore[attr-defined]

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(archive)
        except cls.ends:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"header at byte {archive.offset}: {error}") from None


class _CheckedMember(_Member):
    """A header in an archive with a verified checksum: the end mark may be missing, as some writers leave it out."""

    ends = (*_Member.ends, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]


def _packets(source: _Source, is_named: bool, unread: Unread, depth: int) -> Iterator[tuple[bytes, str]]:
    """Packets of a file or member; `is_named` says that its name is one of a packet or an archive."""
    head = source.peek(_BLOCK)
    if depth > _MAX_DEPTH:
        raise _Damaged(source.where, f"archives within archives, deeper than {_MAX_DEPTH}")
    if head.startswith(_GZIP):
        yield from _packets(_Source(_Gunzip(source), source.where, is_checked=True), is_named, unread, depth + 1)
    elif head[257:262] == b"ustar" or (_TAR_NAME.search(source.where) and not head.startswith(containers.MAGIC)):
        yield from _members(source, unread, depth + 1)
    elif packed := next((name for magic, name in _PACKED.items() if head.startswith(magic)), None):
        unread(source.where, f"packed with {packed}, which is not read: unpack it, or pack it with gzip")
    elif is_named or head.startswith(containers.MAGIC):
        yield from _contained(source)
    else:
        unread(source.where, OTHER)


def _contained(source: _Source) -> Iterator[tuple[bytes, str]]:
    """The packet of a file or member, or those of a container with several."""
    head = source.read(containers.HEAD)
    if not containers.is_one_packet(head):
        try:
            for number, packet in enumerate(containers.packets(head, source), 1):
                yield packet, f"{source.where}#{number}"
        except containers.ContainerError as error:
            raise _Damaged(source.where, str(error)) from error
    elif source.read(1):
        raise _Damaged(source.where, f"more than {containers.HEAD} bytes, the most that a packet may have")
    else:
        yield head, source.where


def _members(source: _Source, unread: Unread, depth: int) -> Iterator[tuple[bytes, str]]:
    """Packets of the members of a tar archive."""
    is_empty = True
    for archive, member in _opened(source):
        is_empty = False
        yield from _member(archive, member, source, unread, depth)
    if is_empty:
        unread(source.where, "an archive without members")
    while rest := source.read(_READ):
        if rest.strip(b"\0"):
            raise _Damaged(source.where, "bytes follow the end of the tar archive; another archive perhaps")


def _opened(source: _Source) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """A tar archive, positioned at each of its members in turn. The library raises any error for a damaged header."""
    try:
        kind = _CheckedMember if source.is_checked else _Member
        archive = tarfile.open(fileobj=source, mode="r|", tarinfo=kind)  # type: ignore[call-overload]  # noqa: SIM115
        while (member := archive.next()) is not None:
            yield archive, member
            archive.members.clear()  # the library keeps every header that it has read
    except (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        raise _Damaged(source.where, f"tar archive is damaged or cut off: {error}") from error


def _member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, source: _Source, unread: Unread, depth: int
) -> Iterator[tuple[bytes, str]]:
    where = shown(f"{source.where}:{member.name}")
    is_named = bool(_NAME.search(member.name))
    if member.isreg() and not member.issparse():
        inner = _Source(archive.extractfile(member), where)
        try:
            yield from _packets(inner, is_named, unread, depth)
        except _Damaged as error:
            if error.where != where:
                raise
            unread(where, error.reason)
    elif not member.isdir():
        kind = "a link; links in archives are not followed" if member.islnk() or member.issym() else "not a plain file"
        unread(where, kind if is_named else OTHER)
