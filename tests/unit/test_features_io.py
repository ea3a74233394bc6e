"""Tables of detections to tables of features."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_curves import LightCurve, noise, periodic
from test_features_extract import table as simulated

from alerce_spark.errors import InputError
from alerce_spark.features import io
from alerce_spark.features.extract import extract
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.features.select import REQUIRED, select


@pytest.fixture(scope="module")
def tables() -> list[pa.Table]:
    rng = np.random.default_rng(1)
    short = LightCurve(*(values[:7] for values in noise(rng, 20)[:4]), np.nan)
    curves = [periodic(rng, "RRL", 0.51, 60), short, noise(rng, 30)]
    return [pa.table({k: pa.array(v.tolist()) for k, v in columns.items()}) for columns in simulated(curves)]


def test_one_row_an_object_with_every_feature(tables: list[pa.Table]) -> None:
    found = io.table(*tables)
    assert found.schema == io.schema()
    assert found.schema.names[4:] == list(FEATURES)
    assert found["oid"].to_pylist() == sorted(set(tables[0]["oid"].to_pylist()))
    assert found["ndet_used"].to_pylist() == [60, 0, 30]
    assert set(found["version"].to_pylist()) == {FEATURES_VERSION}
    matrix = np.column_stack([found[name].to_numpy() for name in FEATURES])
    np.testing.assert_array_equal(matrix, extract(select(*tables)))
    alarm = found["period_false_alarm"].to_pylist()
    assert alarm[0] < 1e-6
    assert alarm[1] is None
    assert alarm[2] > 1e-3


def test_undefined_values_are_null(tables: list[pa.Table]) -> None:
    found = io.table(tables[0])
    assert found["g-W2"].null_count == 3
    assert found["Std_1"].null_count == 1
    assert not any(np.isnan(found[name].drop_null().to_numpy()).any() for name in FEATURES)


def test_survives_parquet_and_integer_ids(tables: list[pa.Table]) -> None:
    ids = pa.array([2**60 + ord(oid[-1]) for oid in tables[0]["oid"].to_pylist()])
    detections = tables[0].drop_columns("oid").append_column("objectId", ids)
    sink = pa.BufferOutputStream()
    pq.write_table(io.table(detections), sink)
    found = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert found["oid"].to_pylist() == sorted(set(ids.to_pylist()))
    assert found.drop_columns("oid").equals(io.table(tables[0]).drop_columns("oid"))


def test_dictionary_encoded_ids(tables: list[pa.Table]) -> None:
    encoded = tables[0].set_column(0, "oid", tables[0]["oid"].dictionary_encode())
    assert io.table(encoded).equals(io.table(tables[0]))


def test_missing_columns_are_listed(tables: list[pa.Table]) -> None:
    with pytest.raises(ValueError, match="columns mjd, sigmapsf"):
        io.table(tables[0].drop_columns(["mjd", "sigmapsf"]))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("isdiffpos", lambda signs: ["True" if s == 1 else "false" for s in signs]),
        ("isdiffpos", lambda signs: ["1.0" if s == 1 else "-1.0" for s in signs]),
        ("fid", lambda fids: ["gri"[f - 1] for f in fids]),
        ("magpsf", lambda mags: [repr(m) for m in mags]),
        ("candid", lambda ids: [str(i) for i in ids]),
        ("oid", lambda oids: [f" {oid}".encode() for oid in oids]),
    ],
)
def test_columns_in_other_types_mean_the_same(
    tables: list[pa.Table], column: str, values: Callable[[list[Any]], list[Any]]
) -> None:
    detections = tables[0]
    if column not in detections.schema.names:
        made = {"isdiffpos": [1, -1, 1] * len(detections), "candid": list(range(2**60, 2**60 + len(detections)))}
        detections = detections.append_column(column, pa.array(made[column][: len(detections)]))
    at = detections.schema.names.index(column)
    other = detections.set_column(at, column.upper(), pa.array(values(detections[column].to_pylist())))
    assert io.checked(other, REQUIRED, "x").equals(io.checked(detections, REQUIRED, "x"))


def test_columns_without_a_value_are_absent(tables: list[pa.Table]) -> None:
    names = [name for name in ("rb", "parent_candid") if name in tables[0].schema.names]
    without = tables[0].drop_columns(names)
    nothing = without.append_column("rb", pa.array([np.nan] * len(without))).append_column(
        "parent_candid", pa.array([""] * len(without))
    )
    assert io.checked(nothing, REQUIRED, "x").equals(io.checked(without, REQUIRED, "x"))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("candid", 1.246231265715015e18, "does not keep all digits"),
        ("isdiffpos", "pos", "isdiffpos holds 'pos'"),
        ("has_stamp", "maybe", "has_stamp holds 'maybe'"),
        ("mjd", 2459000.5, "a Julian Date: subtract 2400000.5"),
        ("mjd", -999.0, "is not the MJD"),
        ("mjd", 1.6e9, "is not the MJD"),
        ("mjd", 0.0, "more than a century"),
        ("mjd", datetime.datetime(2020, 1, 1), "not numbers or text"),
        ("magpsf", "bright", "magpsf holds 'bright' in row 1"),
        ("oid", None, "rows have no id"),
    ],
)
def test_values_that_are_refused(tables: list[pa.Table], column: str, value: object, said: str) -> None:
    kept = [name for name in tables[0].schema.names if name != column]
    cells = tables[0]["mjd"].to_pylist() if column == "mjd" and isinstance(value, float) else [value] * len(tables[0])
    cells[0] = value
    with pytest.raises(InputError, match=said):
        io.table(tables[0].select(kept).append_column(column, pa.array(cells)))


def test_a_column_that_is_there_twice_is_refused(tables: list[pa.Table]) -> None:
    with pytest.raises(InputError, match="2 columns are called mjd"):
        io.table(tables[0].append_column("mjd", tables[0]["mjd"]))


def test_empty_table(tables: list[pa.Table]) -> None:
    found = io.table(tables[0].slice(0, 0))
    assert found.num_rows == 0
    assert found.schema == io.schema()
    nothing = pa.table({name: pa.nulls(0) for name in ("oid", *REQUIRED)})
    assert io.table(nothing).schema == io.schema()
