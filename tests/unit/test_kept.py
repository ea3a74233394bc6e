"""The memory for kept parts of files stays within a bound, however many files were read."""

from __future__ import annotations

import ctypes
import gc
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from alerce_spark.delta import kept
from alerce_spark.delta.kept import Kept, footer_bytes, parquet_file
from alerce_spark.lake.tables import TABLES


def test_the_values_used_last_stay_and_take_no_more_than_the_bound() -> None:
    values: Kept[int, bytes] = Kept(100, len)
    for number in range(50):
        values.put(number, bytes(30))
        assert values.get(0) is not None, "it was used since"
        assert values.bytes <= 100
    assert len(values) == 3
    assert values.get(1) is None
    assert values.get(49) == bytes(30)


def test_a_value_put_again_counts_once_and_one_above_the_bound_is_kept_alone() -> None:
    values: Kept[str, bytes] = Kept(100, len)
    values.put("a", bytes(40))
    values.put("a", bytes(60))
    assert values.bytes == 60
    values.put("b", bytes(1000))
    assert (len(values), values.bytes) == (1, 1000)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc says what is in use")
def test_a_parsed_footer_takes_about_what_it_is_counted_with() -> None:
    # In a process with nothing else on its heap.
    for found in subprocess.check_output([sys.executable, __file__], text=True).split():
        assert 0.7 < float(found) < 1.3


def test_footers_of_many_files_stay_within_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = TABLES["detections"].arrow.empty_table()
    pq.write_table(wide, tmp_path / "0.parquet")
    one = footer_bytes(pq.read_metadata(tmp_path / "0.parquet"))
    monkeypatch.setattr(kept, "_footers", Kept(5 * one, footer_bytes))
    root = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    for number in range(20):
        pq.write_table(wide, tmp_path / f"{number}.parquet")
        for _ in ("first", "with the footer that is known"):
            with parquet_file(str(tmp_path), f"{number}.parquet", root) as file:
                assert file.read().schema.names == wide.schema.names
        assert kept._footers.bytes <= 5 * one
    assert len(kept._footers) == 5


def _measure(columns: int, groups: int) -> float:
    """Memory of a parsed footer, divided by the estimate."""

    class Heap(ctypes.Structure):
        """Of mallinfo2(3)."""

        _fields_ = (
            *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
            *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
        )

    library = ctypes.CDLL("libc.so.6")
    library.mallinfo2.restype = Heap
    sink = pa.BufferOutputStream()
    values = np.random.default_rng(1).random(groups)
    pq.write_table(pa.table({f"c{k}": values for k in range(columns)}), sink, row_group_size=1)
    file = sink.getvalue().to_pybytes()
    pq.read_metadata(pa.BufferReader(file))
    gc.collect()
    before = library.mallinfo2()
    parsed = [pq.read_metadata(pa.BufferReader(file)) for _ in range(50)]
    after = library.mallinfo2()
    taken = after.uordblks + after.hblkhd - before.uordblks - before.hblkhd
    return float(taken) / sum(map(footer_bytes, parsed))


if __name__ == "__main__":
    for columns, groups in ((13, 1), (120, 1), (15, 100)):
        print(_measure(columns, groups))
