"""Model files: a round trip, and errors that name the file for any other bytes."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alerce_spark.classifiers import artefact
from alerce_spark.classifiers.artefact import ModelError

ARRAYS = {
    "a": np.arange(6, dtype=np.uint32).reshape(3, 2),
    "b": np.array([np.nan, 1.5], np.float32),
    "none": np.empty((0, 4)),
    "c": np.array([2**60]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.forest"
    artefact.write(path, "kind", {"name": "σ"}, ARRAYS)
    return path


def signed(content: bytes, header: dict[str, Any] | bytes | None = None, align: int = 64) -> bytes:
    """A file with its header replaced, with matching lengths and checksum, as in an attack."""
    magic, version, head_length, _ = struct.unpack_from("<8sIIQ", content)
    head = content[24 : 24 + head_length]
    if isinstance(header, dict):
        header = json.dumps(json.loads(head) | header).encode()
    head = header or head
    head += b" " * (-(24 + len(head)) % align)
    body = head + content[24 + head_length : -32]
    body = struct.pack("<8sIIQ", magic, version, len(head), 24 + len(body) + 32) + body
    return body + hashlib.sha256(body).digest()


def test_what_is_written_is_read(file: Path) -> None:
    header, arrays = artefact.read(file, "kind")
    assert header == {"name": "σ", "kind": "kind"}
    assert list(arrays) == list(ARRAYS)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.dtype == ARRAYS[name].dtype
        assert array.size == 0 or array.ctypes.data % 64 == 0
        assert array.size == 0 or not array.flags.writeable
    assert [path.name for path in file.parent.iterdir()] == ["m.forest"]


def test_a_file_that_was_replaced_stays_as_it_was_for_its_readers(file: Path) -> None:
    _, arrays = artefact.read(file, "kind")
    artefact.write(file, "kind", {}, {"a": np.zeros(99)})
    np.testing.assert_array_equal(arrays["a"], ARRAYS["a"])


def test_a_file_that_is_cut_while_it_is_used_changes_nothing(file: Path) -> None:
    # Mapped, the next access would end the process by SIGBUS: so another process does it.
    program = (
        "import os, sys, pathlib; from alerce_spark.classifiers import artefact;"
        "path = pathlib.Path(sys.argv[1]); _, arrays = artefact.read(path, 'kind'); os.truncate(path, 0);"
        "print(arrays['a'].sum(), arrays['c'][0])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(15), str(2**60)]


def test_a_file_that_ships_has_the_checksum_that_is_listed(file: Path) -> None:
    sums = file.with_name("SHA256SUMS")
    sums.write_text(f"{'0' * 64}  other.forest\n")
    artefact.read(file, "kind")
    sums.write_text(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
    artefact.read(file, "kind")
    sums.write_text(f"{'0' * 64}  {file.name}\n")
    with pytest.raises(ModelError, match="not the file that ships"):
        artefact.read(file, "kind")


def test_a_write_that_fails_leaves_the_old_file(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(TypeError):
        artefact.write(file, "kind", {"not JSON": object()}, ARRAYS)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("what", "edit"),
    [
        ("is not a model file", lambda content: b""),
        ("is not a model file", lambda content: b"\x80\x04\x95" + content),
        ("is not a model file", lambda content: content[:40]),
        ("is truncated or has a tail: .* bytes of", lambda content: content[:-1]),
        ("is truncated or has a tail: .* bytes of", lambda content: content + b"\0"),
        ("is damaged", lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:]),
        ("is damaged", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("format 2, this code reads up to 1: update", lambda content: content[:8] + b"\2" + content[9:]),
        ("header is not JSON", lambda content: signed(content, b"{" + b"[" * 100_000)),
        ("header is not JSON", lambda content: signed(content, b"\xff\xfe")),
        ("header is not an object", lambda content: signed(content, b"[]")),
        ("kind None, not 'kind'", lambda content: signed(content, b"{}")),
        ("does not end at a multiple of 64", lambda content: signed(content, b"{}", align=1)),
        ("lists no arrays", lambda content: signed(content, {"arrays": None})),
        ("described as 'a'", lambda content: signed(content, {"arrays": ["a"]})),
        ("described as", lambda content: signed(content, {"arrays": [["a", "|O", [1], 0]]})),
        ("has the shape", lambda content: signed(content, {"arrays": [["a", "<f4", [-1], 0]]})),
        ("has the shape", lambda content: signed(content, {"arrays": [["a", "<f4", [True], 0]]})),
        ("has the shape", lambda content: signed(content, {"arrays": [["a", "<f4", [1e300], 0]]})),
        ("has the shape", lambda content: signed(content, {"arrays": [["a", "<f4", [0, 10**30], 0]]})),
        ("has the shape", lambda content: signed(content, {"arrays": [["a", "<f4", [1] * 70, 0]]})),
        ("lies outside the file", lambda content: signed(content, {"arrays": [["a", "<f4", [99, 99], 0]]})),
        ("lies outside the file", lambda content: signed(content, {"arrays": [["a", "<f4", [1], -64]]})),
        ("lies outside the file", lambda content: signed(content, {"arrays": [["a", "<f4", [1], 10**30]]})),
        ("lies outside the file", lambda content: signed(content, {"arrays": [["a", "<f4", [1], 2]]})),
    ],
)
def test_other_bytes(file: Path, what: str, edit: Callable[[bytes], bytes]) -> None:
    file.write_bytes(edit(file.read_bytes()))
    with pytest.raises(ModelError, match=what) as raised:
        artefact.read(file, "kind")
    assert str(file) in str(raised.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing cannot be read: No such file"):
        artefact.read(tmp_path / "nothing", "kind")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        artefact.read(tmp_path, "kind")


def test_another_kind(file: Path) -> None:
    with pytest.raises(ModelError, match="of kind 'kind', not 'stamp_classifier'"):
        artefact.read(file, "stamp_classifier")
