"""Tables of detections to tables of features."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_curves import LightCurve, noise, periodic
from test_features_extract import table as simulated

from alerce_spark.features import io
from alerce_spark.features.extract import extract
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.features.select import select


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


def test_empty_table(tables: list[pa.Table]) -> None:
    found = io.table(tables[0].slice(0, 0))
    assert found.num_rows == 0
    assert found.schema == io.schema()
