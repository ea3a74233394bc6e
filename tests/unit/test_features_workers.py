"""Rows that reach Spark's workers are checked as files are, and their error becomes the user's message."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from alerce_spark.errors import InputError
from alerce_spark.udfs import _compute
from alerce_spark.worker import input_error


def _batch(**changed: Any) -> pa.RecordBatch:
    row = {"mjd": 59000.5, "fid": 1, "magpsf": 18.0, "sigmapsf": 0.1, "candid": 1, "isdiffpos": "t", "has_stamp": None}
    return pa.RecordBatch.from_pydict({"oid": ["a", "b"], "detections": [[row], [row | changed]]})


def test_workers_take_what_is_right() -> None:
    (found,) = _compute()(iter([_batch()]))
    assert found["oid"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(("column", "value"), [("mjd", 2459000.5), ("isdiffpos", "maybe")])
def test_workers_refuse_what_files_may_not_hold(column: str, value: object) -> None:
    with pytest.raises(InputError, match=f"detections: {column}"):
        list(_compute()(iter([_batch(**{column: value})])))


def test_the_error_of_a_worker_is_found_in_that_of_spark() -> None:
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1\n'
    told = RuntimeError(
        f"Job aborted\n{trace}alerce_spark.tablefiles.opening.TableFileError: detections: mjd is JD\n\nat"
    )
    assert str(input_error(told)) == "detections: mjd is JD"
    assert input_error(RuntimeError(f"{trace}KeyError: 'a'")) is None
