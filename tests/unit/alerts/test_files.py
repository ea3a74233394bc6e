"""Files and archives of packets: gzip, tarfile and fastavro make them, and everything that is cut, flipped or odd."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerce_spark.alerts.avro import decode
from alerce_spark.alerts.files import OTHER, find_files, packets_of
from alerce_spark.errors import InputError
from alerce_spark.surveys.ztf import ZTF, avro_schema
from tests.unit.alert_packets import container, random_record, read, record_bytes

Pairs = list[tuple[str, str]]
#: Bytes that no codec makes smaller, of a few sizes.
CONTENTS = [random.Random(i).randbytes(700 + 300 * i) for i in range(6)]
NAMES = [f"{i}.avro" for i in range(6)]


def _tar(members: list[tuple[str, bytes]], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


PLAIN = _tar(list(zip(NAMES, CONTENTS, strict=True)))
with tarfile.open(fileobj=io.BytesIO(PLAIN)) as _archive:
    HEADERS = [member.offset for member in _archive.getmembers()]
#: Where the zeros begin that end the archive.
END = HEADERS[-1] + 512 + -(-len(CONTENTS[-1]) // 512) * 512
ZIPPED = gzip.compress(PLAIN, mtime=0)


def _read(path: Path) -> tuple[list[bytes], Pairs]:
    unread: Pairs = []
    found = [content for content, _ in packets_of(path, lambda where, why: unread.append((where, why)))]
    return found, [(where.replace(str(path.parent), "").lstrip("/"), why) for where, why in unread]


@pytest.fixture(scope="module")
def put(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bytes], Path]:
    folder = tmp_path_factory.mktemp("files")

    def write(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _whole_before(archive: bytes) -> list[bytes]:
    """Members of which every byte lies in the beginning of a plain archive."""
    return [c for at, c in zip(HEADERS, CONTENTS, strict=True) if at + 512 + len(c) <= len(archive)]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ", "a.tar", "A.TAR.GZ", "no_suffix"])
def test_content_decides_how_a_file_is_read(put: Callable[[str, bytes], Path], name: str) -> None:
    for content in (PLAIN, ZIPPED, gzip.compress(PLAIN[:3000]) + gzip.compress(PLAIN[3000:]) + b"\0" * 700):
        assert _read(put(name, content)) == (CONTENTS, [])


def test_an_archive_that_is_whole_by_its_checksum_needs_no_end_mark(put: Callable[[str, bytes], Path]) -> None:
    """Without the end mark, as in archives of ZTF's first nights; a plain archive may be cut there."""
    assert _read(put("a.tar.gz", gzip.compress(PLAIN[:END]))) == (CONTENTS, [])
    found, unread = _read(put("a.tar", PLAIN[:END]))
    assert found == CONTENTS
    assert "cut off" in unread[0][1]


@given(cut=st.integers(1, END))
def test_of_a_cut_archive_the_members_before_the_cut_are_kept(put: Callable[[str, bytes], Path], cut: int) -> None:
    archive = PLAIN[:cut]
    found, unread = _read(put("cut.tar", archive))
    assert found == _whole_before(archive)
    assert unread
    assert unread[-1][0] == "cut.tar"


@given(cut=st.integers(1, len(ZIPPED) - 1))
def test_of_a_cut_gzip_the_members_before_the_cut_are_kept(put: Callable[[str, bytes], Path], cut: int) -> None:
    readable = zlib.decompressobj(31).decompress(ZIPPED[:cut])
    found, unread = _read(put("cut.tar.gz", ZIPPED[:cut]))
    assert found == _whole_before(readable)
    assert unread[-1][0] == "cut.tar.gz"


@given(at=st.integers(0, len(ZIPPED) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_named_or_changes_nothing(put: Callable[[str, bytes], Path], at: int, bit: int) -> None:
    damaged = bytearray(ZIPPED)
    damaged[at] ^= 1 << bit
    found, unread = _read(put("flipped.tar.gz", bytes(damaged)))
    assert unread or found == CONTENTS


@given(at=st.integers(0, 511), member=st.integers(0, 5))
def test_a_damaged_header_does_not_end_an_archive_in_silence(
    put: Callable[[str, bytes], Path], at: int, member: int
) -> None:
    damaged = bytearray(PLAIN)
    damaged[HEADERS[member] + at] ^= 255
    found, unread = _read(put("header.tar", bytes(damaged)))
    assert found[:member] == CONTENTS[:member]
    assert unread or found == CONTENTS  # tar does not use all bytes of the checksum's own field


@given(st.binary(max_size=3000), st.sampled_from(["x.tar", "x.tgz", "x.avro", "x.avro.gz", "x"]))
def test_no_bytes_break_the_reader(put: Callable[[str, bytes], Path], content: bytes, name: str) -> None:
    found, unread = _read(put(name, content))
    assert found or unread


@given(at=st.integers(0, len(PLAIN) - 1), content=st.binary(min_size=1, max_size=600))
def test_no_overwritten_archive_breaks_the_reader(put: Callable[[str, bytes], Path], at: int, content: bytes) -> None:
    _read(put("x.tar", PLAIN[:at] + content + PLAIN[at + len(content) :]))


def test_checksums_at_the_end_count(put: Callable[[str, bytes], Path]) -> None:
    for place in (-8, -1):  # of the checksum and of the length
        damaged = bytearray(ZIPPED)
        damaged[place] ^= 1
        found, unread = _read(put("sum.tar.gz", bytes(damaged)))
        assert found == CONTENTS
        assert [where for where, _ in unread] == ["sum.tar.gz"]
        assert "damaged" in unread[0][1]


def test_what_follows_the_end_is_named(put: Callable[[str, bytes], Path]) -> None:
    for name, content, why in (
        ("two.tar", PLAIN + PLAIN, "another archive"),
        ("junk.tar.gz", ZIPPED + b"junk", "other bytes follow"),
        ("none.tar.gz", gzip.compress(_tar([])), "without members"),
    ):
        found, unread = _read(put(name, content))
        assert found == ([] if name == "none.tar.gz" else CONTENTS)
        assert unread[0][0] == name
        assert why in unread[0][1]


def test_odd_members_are_read_or_named(put: Callable[[str, bytes], Path]) -> None:
    out = io.BytesIO()
    kinds = {"d": tarfile.DIRTYPE, "fifo.avro": tarfile.FIFOTYPE, "device.avro": tarfile.CHRTYPE}
    links = {"hard.avro": tarfile.LNKTYPE, "soft.avro": tarfile.SYMTYPE, "soft": tarfile.SYMTYPE}
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, kind in (kinds | links).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name, content in (
            ("a.AVRO", CONTENTS[0]),
            ("b.avro.gz", gzip.compress(CONTENTS[1])),
            ("c.avro.GZ", gzip.compress(CONTENTS[1])[:-9]),
            ("deeper.tgz", ZIPPED),
            ("e.avro", b""),
            ("n.avro.xz", b"\xfd7zXZ\0and so on"),
            ("readme.txt", b"Read me."),
            ("/etc/" + 300 * "long" + ".avro", CONTENTS[2]),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    found, unread = _read(put("odd.tar.gz", out.getvalue()))
    assert found == [*CONTENTS[:2], *CONTENTS, b"", CONTENTS[2]]
    named = {where.removeprefix("odd.tar.gz:"): why for where, why in unread}
    assert {name for name, why in named.items() if why == OTHER} == {"soft", "readme.txt"}
    lost = {name for name, why in named.items() if why != OTHER}
    assert lost == {"fifo.avro", "device.avro", "hard.avro", "soft.avro", "c.avro.GZ", "n.avro.xz"}


def test_large_members_take_little_memory(put: Callable[[str, bytes], Path]) -> None:
    zeros = bytes(1 << 26)
    bomb = gzip.compress(_tar([("a.avro", CONTENTS[0]), ("zeros.avro", zeros), ("b.avro", CONTENTS[1])]), 9)
    long_name = bytearray(_tar([("n" * 200 + ".avro", CONTENTS[0])], "w"))
    long_name[124:136] = b"%011o\0" % (1 << 26)
    long_name[148:156] = b" " * 8
    long_name[148:156] = b"%06o\0 " % sum(long_name[:512])
    for content in (
        bomb,
        gzip.compress(zeros),
        _tar([("z.avro.gz", gzip.compress(zeros)), ("a.avro", CONTENTS[0]), ("b.avro", CONTENTS[1])]),
        gzip.compress(bytes(long_name) + zeros),
    ):
        path = put("bomb.avro", content)
        tracemalloc.start()
        found, unread = _read(path)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found in (CONTENTS[:2], [])
        assert len(unread) == 1
        assert "at most" in unread[0][1] or "the most" in unread[0][1]
        assert most < 50 << 20


def _record(candid: int) -> dict[str, Any]:
    record = random_record(avro_schema("3.3"), random.Random(candid))
    return record | {"candid": candid, "candidate": record["candidate"] | {"candid": candid}}


@pytest.mark.parametrize("codec", ["null", "deflate", "snappy"])
@pytest.mark.parametrize("interval", [1, 1 << 20])
def test_records_of_one_container_are_read_one_by_one(
    put: Callable[[str, bytes], Path], codec: str, interval: int
) -> None:
    records = [_record(candid) for candid in (11, 12, 13)]
    out = io.BytesIO()
    fastavro.writer(out, avro_schema("3.3"), records, codec=codec, sync_interval=interval)
    whole = out.getvalue()
    found, unread = _read(put("three.avro", whole))
    assert unread == []
    assert repr([read(packet) for packet in found]) == repr(list(fastavro.reader(io.BytesIO(whole))))
    assert decode(found, ZTF).alerts["candid"].to_pylist() == [11, 12, 13]
    # Also inside archives, up to the damage.
    assert _read(put("three.tgz", _tar([("three", whole)], "w:gz")))[0] == found
    found, unread = _read(put("cut.avro", whole[:-5]))
    assert len(found) == (2 if interval == 1 else 0)
    assert f"{len(found)} records before it" in unread[0][1]


def test_what_follows_a_record_and_is_no_block_makes_a_bad_packet(put: Callable[[str, bytes], Path]) -> None:
    """It is returned unchanged, so that quarantine gets its bytes."""
    good = container(avro_schema("3.3"), record_bytes(avro_schema("3.3"), _record(11)))
    for tail in (b"\n", b"\0" * 8, b"\1", b"\x80" * 20, b"\2\3"):
        assert _read(put("tail.avro", good + tail)) == ([good + tail], [])
    for count in (0, -1, -(2**40)):
        odd = container(avro_schema("3.3"), b"", count=count)
        assert _read(put("count.avro", odd)) == ([odd], [])


def test_of_files_put_together_the_first_is_read_and_the_rest_named(put: Callable[[str, bytes], Path]) -> None:
    one, other = (container(avro_schema("3.3"), record_bytes(avro_schema("3.3"), _record(n))) for n in (11, 12))
    found, unread = _read(put("both.avro", one + other))
    assert decode(found, ZTF).alerts["candid"].to_pylist() == [11]
    assert [where for where, _ in unread] == ["both.avro"]
    assert "before it are read" in unread[0][1]


# Folders.


def test_links_are_followed_inside_the_folder_only(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in" / "deep", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "a.avro").write_bytes(CONTENTS[0])
    top = tmp_path / "in"
    (top / "B.AVRO").write_bytes(CONTENTS[1])
    (top / "notes.txt").write_text("Not a packet.")
    (top / ("0f" * 32)).write_bytes(b"<html>")  # as our archive keeps a packet that cannot be read
    (top / "same.avro").symlink_to(inside / "a.avro")
    (top / "other.avro").symlink_to(outside / "a.avro")
    (top / "broken.avro").symlink_to(top / "nothing")
    (top / "loop.avro").symlink_to(top / "loop.avro")
    (top / "folder").symlink_to(outside, target_is_directory=True)
    os.mkfifo(top / "pipe.avro")
    unread: Pairs = []
    found = find_files([top], lambda where, why: unread.append((where, why)))
    assert found == [top / name for name in ("0f" * 32, "B.AVRO", "deep/a.avro", "same.avro")]
    named = {where.removeprefix(f"{top}/"): why for where, why in unread}
    assert set(named) == {"notes.txt", "other.avro", "broken.avro", "loop.avro", "folder", "pipe.avro"}
    assert named["notes.txt"] == OTHER
    assert "outside" in named["other.avro"]
    assert "outside" in named["folder"]


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme").write_text("No packet.")
    for name, why in (("nowhere", "no such"), ("pipe", "neither"), ("loop", "neither"), ("empty", "no packets")):
        with pytest.raises(InputError, match=f"{name}: {why}"):
            find_files([tmp_path / name], lambda where, why: None)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.avro").write_bytes(CONTENTS[0])
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    unread: Pairs = []
    found = find_files([tmp_path], lambda where, why: unread.append((where, why)))
    assert found == [tmp_path / "open" / "a.avro"]
    assert unread == [(str(tmp_path / "closed"), "Permission denied")]


def test_names_that_are_no_text_can_be_shown(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.avro"))
    path.write_bytes(CONTENTS[0])
    (found,) = packets_of(path, lambda where, why: None)
    assert found == (CONTENTS[0], f"{tmp_path}/caf\\xe9.avro")
