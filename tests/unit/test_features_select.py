"""Selection of detections: each rule of docs/features.md, in flat and grouped form, with every awkward input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark.features.curves import Objects
from alerce_spark.features.select import from_offsets, select

Columns = dict[str, np.ndarray]


def detections(n: int = 8, oid: str = "ZTF18aaaaaaa", fid: int = 1, start: int = 1, **columns: Any) -> Columns:
    """n good detections of one object, a day apart; `columns` replace values."""
    given_ = {
        "oid": np.full(n, oid, dtype=object),
        "candid": start + np.arange(n),
        "mjd": 58300.0 + start + np.arange(float(n)),
        "fid": np.full(n, fid),
        "magpsf": 18.0 + 0.1 * np.arange(n),
        "sigmapsf": np.full(n, 0.1),
        "isdiffpos": np.full(n, "t", dtype=object),
        "ra": np.full(n, 10.0),
        "dec": np.full(n, -5.0),
        "rb": np.full(n, 0.9),
        "sgscore1": np.full(n, 0.99),
    }
    return given_ | {name: np.asarray(value) for name, value in columns.items()}


def join(*parts: Columns) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_equal(a: Objects, b: Objects) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        pairs = [(value, other)] if isinstance(value, np.ndarray) else []
        for x, y in [] if pairs else zip(*((v if isinstance(v, tuple) else (v,)) for v in (value, other)), strict=True):
            pairs += [(left, vars(y)[key]) for key, left in vars(x).items()]
        for x, y in pairs:
            np.testing.assert_array_equal(x, y, err_msg=name)


def test_rows_become_sorted_curves_of_each_band() -> None:
    rows = join(detections(fid=2, start=100), detections(fid=1), detections(3, fid=3, start=200))
    found = select({name: values[::-1] for name, values in rows.items()})
    assert found.oid.tolist() == ["ZTF18aaaaaaa"]
    for curve, fid, first in zip(found.bands, (1, 2), (58301.0, 58400.0), strict=True):
        np.testing.assert_array_equal(curve.offsets, [0, 8])
        np.testing.assert_array_equal(curve.mjd, first + np.arange(8))
        np.testing.assert_array_equal(curve.fid, fid)
        np.testing.assert_allclose(curve.mag, 18.0 + 0.1 * np.arange(8))
    assert (np.diff(found.both.mjd) > 0).all()
    assert len(found.both.mjd) == 16


@pytest.mark.parametrize("missing", ["mjd", "fid", "magpsf", "sigmapsf", "oid"])
def test_missing_columns_are_named(missing: str) -> None:
    rows = detections()
    del rows[missing], rows["ra"]
    with pytest.raises(ValueError, match=missing):
        select(rows)
    with pytest.raises(ValueError, match="diffmaglim"):
        select(detections(), {"oid": np.array(["a"]), "mjd": np.zeros(1), "fid": np.ones(1)})


def test_only_the_required_columns_are_needed() -> None:
    rows = detections()
    few = {name: rows[name] for name in ("mjd", "fid", "magpsf", "sigmapsf")} | {"objectId": rows["oid"]}
    found = select(few)
    assert found.bands[0].offsets[-1] == 8
    assert np.isnan([found.meanra, found.meandec, found.rb, found.sgscore1, found.w1]).all()
    assert (found.bands[0].sign == 1.0).all()
    assert not found.corrected[0]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("mjd", np.nan),
        ("magpsf", np.nan),
        ("magpsf", 100.0),
        ("magpsf", -999.0),
        ("magpsf", np.inf),
        ("sigmapsf", np.nan),
        ("sigmapsf", 0.0),
        ("sigmapsf", 1.0),
        ("sigmapsf", 100.0),
        ("rb", 0.5499),
        ("rb", np.nan),
        ("ra", np.nan),
        ("isdiffpos", None),
        ("isdiffpos", "x"),
    ],
)
def test_unusable_rows_go(column: str, value: Any) -> None:
    rows = detections()
    rows[column] = rows[column].copy()
    rows[column][3] = value
    found = select(rows)
    np.testing.assert_array_equal(found.bands[0].mjd, np.delete(58301.0 + np.arange(8), 3))


def test_rows_without_star_galaxy_score_stay() -> None:
    rows = detections(sgscore1=[np.nan, 0.9, -999.0, 0.8, np.nan, 0.8, np.nan, np.nan], rb=[0.55, *[0.8] * 7])
    found = select(rows)
    assert found.bands[0].offsets[-1] == 8
    assert found.sgscore1[0] == 0.8
    assert found.rb[0] == 0.8


@pytest.mark.parametrize(("g", "r", "enough"), [(6, 0, True), (0, 6, True), (5, 5, False), (5, 6, True), (5, 1, False)])
def test_six_in_one_band_are_enough(g: int, r: int, enough: bool) -> None:
    rows = join(detections(g), detections(r, fid=2, start=50), detections(9, fid=3, start=90))
    found = select(rows)
    assert found.oid.tolist() == ["ZTF18aaaaaaa"]
    assert [int(curve.offsets[-1]) for curve in found.bands] == ([g, r] if enough else [0, 0])
    assert np.isfinite(found.meanra[0]) == enough
    assert np.isfinite(found.rb[0]) == enough


def corrected_columns(n: int = 8) -> Columns:
    return {
        "magpsf_corr": 16.0 + 0.1 * np.arange(n),
        "sigmapsf_corr_ext": np.full(n, 0.02),
        "corrected": np.ones(n, np.bool_),
    }


def test_corrected_objects_use_corrected_magnitudes() -> None:
    curve = select(detections(**corrected_columns())).bands[0]
    np.testing.assert_allclose(curve.mag, 16.0 + 0.1 * np.arange(8))
    np.testing.assert_allclose(curve.err, 0.02)
    np.testing.assert_allclose(curve.magpsf, 18.0 + 0.1 * np.arange(8))
    np.testing.assert_allclose(curve.sigmapsf, 0.1)


def test_first_detection_of_every_band_says_whether_an_object_is_corrected() -> None:
    later, first, infrared = corrected_columns(), corrected_columns(), corrected_columns()
    later["corrected"][1:] = False
    first["corrected"][0] = False
    infrared["corrected"][0] = False
    assert select(detections(**later)).corrected[0]
    assert not select(detections(**first)).corrected[0]
    g, r = detections(**corrected_columns()), detections(fid=2, start=50, **first)
    assert not select(join(g, r)).corrected[0]
    assert not select(join(g, detections(fid=3, start=50, **infrared))).corrected[0]


def test_codes_of_the_correction_never_reach_a_curve() -> None:
    columns = corrected_columns()
    columns["magpsf_corr"][2], columns["sigmapsf_corr_ext"][2] = 100.0, 100.0
    columns["magpsf_corr"][4], columns["sigmapsf_corr_ext"][4] = np.nan, np.nan
    found = select(detections(**columns)).bands[0]
    assert len(found.mjd) == 6
    assert found.mag.max() < 17.0


def test_own_alert_counts_before_copies_and_the_smallest_carrier_before_others() -> None:
    rows = detections(7)
    rows["parent_candid"] = np.zeros(7, np.int64)
    copies = {name: np.repeat(values[:2], 2) for name, values in rows.items()}
    copies |= {"parent_candid": np.array([9, 8, 7, 6]), "magpsf": np.array([18.5, 18.6, 18.7, 18.8])}
    only_copies = {name: values[2:] for name, values in join(rows, copies).items()}
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(11)
        found = select({name: values[order] for name, values in join(rows, copies).items()}).bands[0]
        np.testing.assert_allclose(found.mag, 18.0 + 0.1 * np.arange(7))
        order = np.random.default_rng(seed).permutation(9)
        found = select({name: values[order] for name, values in only_copies.items()}).bands[0]
        np.testing.assert_allclose(found.mag[:2], [18.6, 18.8])


def test_has_stamp_marks_the_own_alert() -> None:
    rows = detections(8, candid=[1, 1, 2, 3, 4, 5, 6, 7], mjd=58300.0 + np.array([0, 0, 1, 2, 3, 4, 5, 6]))
    rows["has_stamp"] = np.array([False, True, *[True] * 6])
    assert select(rows).bands[0].magpsf[0] == pytest.approx(18.1)


def test_one_row_an_epoch_own_then_best_rb_then_smallest_candid() -> None:
    mjd = 58300.0 + np.array([0, 0, 0, 1, 2, 3, 4, 5])
    rows = detections(8, mjd=mjd, rb=[0.7, 0.8, 0.6, *[0.9] * 5])
    assert select(rows).bands[0].magpsf[0] == pytest.approx(18.1)
    rows["rb"] = np.full(8, 0.9)
    assert select(rows).bands[0].magpsf[0] == pytest.approx(18.0)
    rows["has_stamp"] = np.array([False, False, *[True] * 6])
    assert select(rows).bands[0].magpsf[0] == pytest.approx(18.2)


def test_large_ids_are_kept_apart() -> None:
    """Two ids beyond 2⁵³ that are one number in floating point are two detections."""
    base = 2**60
    rows = detections(8, candid=base + np.arange(8))
    assert select(rows).bands[0].offsets[-1] == 8
    table = pa.table({name: pa.array(values.tolist()) for name, values in rows.items()})
    assert select(table).bands[0].offsets[-1] == 8


@pytest.mark.parametrize("spelling", [["t", "f"], ["1", "0"], [1, 0], [1, -1], [True, False], [1.0, -1.0]])
def test_every_spelling_of_the_sign(spelling: list[Any]) -> None:
    signs = [spelling[k % 2] for k in range(8)]
    rows = detections(isdiffpos=np.array(signs, dtype=object if isinstance(signs[0], str) else None))
    expected = np.resize([1.0, -1.0], 8)
    np.testing.assert_array_equal(select(rows).bands[0].sign, expected)
    table = pa.table({**{k: pa.array(v.tolist()) for k, v in rows.items()}, "isdiffpos": pa.array(signs)})
    np.testing.assert_array_equal(select(table).bands[0].sign, expected)


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view(), pa.large_string()])
def test_every_kind_of_text(kind: pa.DataType) -> None:
    rows = detections()
    text = {name: pa.array(rows[name].tolist()).cast(kind) for name in ("oid", "isdiffpos")}
    assert_equal(select(pa.table({k: pa.array(v.tolist()) for k, v in rows.items()} | text)), select(rows))


def test_upper_limits_of_each_band() -> None:
    limits = {
        "oid": np.array(["ZTF18aaaaaaa"] * 7 + ["other"], dtype=object),
        "mjd": 58200.0 + np.array([5.0, 3.0, 3.0 + 1e-7, 3.0, 9.0, 8.0, np.nan, 1.0]),
        "fid": np.array([1, 1, 1, 2, 1, 1, 1, 1]),
        "diffmaglim": np.array([20.0, 19.0, 19.5, 18.0, -999.0, np.nan, 20.0, 20.0]),
    }
    g, r = select(detections(), limits).limits
    np.testing.assert_allclose(g.mjd, [58203.0, 58205.0])
    np.testing.assert_array_equal(g.diffmaglim, [19.5, 20.0])
    np.testing.assert_array_equal(r.diffmaglim, [18.0])
    assert select(detections(3), limits).limits[0].offsets[-1] == 0


def test_wise_magnitudes_find_their_object() -> None:
    rows = join(detections(oid="b"), detections(oid="a", start=50))
    match = {
        "oid": np.array(["a", "a", "z"]),
        "w1mpro": np.array([14.0, 13.0, 1.0]),
        "w2mpro": np.array([13.5, 12.5, 1.0]),
    }
    found = select(rows, xmatch=match)
    assert found.oid.tolist() == ["a", "b"]
    np.testing.assert_array_equal(found.w1, [13.0, np.nan])
    np.testing.assert_array_equal(found.w2, [12.5, np.nan])
    np.testing.assert_array_equal(found.w3, [np.nan, np.nan])


def test_grouped_objects_bring_their_matches_and_keep_their_order() -> None:
    rows = join(detections(oid="b"), detections(oid="a", start=50))
    del rows["oid"]
    match = {"w1mpro": np.array([13.0, np.nan]), "w3mpro": np.array([9.0, 8.0])}
    found = from_offsets(np.array(["b", "a"], dtype=object), np.array([0, 8, 16]), rows, xmatch=match)
    assert found.oid.tolist() == ["b", "a"]
    np.testing.assert_array_equal(found.w1, [13.0, np.nan])
    np.testing.assert_array_equal(found.w3, [9.0, 8.0])
    assert np.isnan(found.w2).all()
    assert found.bands[0].mjd[0] == 58301.0


def test_mean_position_across_the_meridian() -> None:
    found = select(detections(ra=np.resize([359.9999, 0.0003], 8)))
    assert found.meanra[0] == pytest.approx(0.0001, abs=1e-9)
    assert found.meandec[0] == -5.0


def test_nothing_in_nothing_out() -> None:
    empty = {name: values[:0] for name, values in detections().items()}
    assert len(select(empty)) == 0
    assert len(from_offsets(np.empty(0, object), np.zeros(1, np.int64), empty)) == 0


def sample(seed: int) -> tuple[Columns, Columns]:
    """Detections of four objects with copies, gaps and codes, grouped by object; and their upper limits."""
    rng = np.random.default_rng(seed)
    n = 120
    rows = detections(
        n,
        oid="",
        candid=rng.integers(1, 90, n),
        mjd=58300.0 + rng.integers(0, 80, n),
        fid=rng.integers(1, 4, n),
        rb=rng.choice([0.2, 0.6, 0.9, np.nan], n, p=[0.1, 0.4, 0.4, 0.1]),
        magpsf=rng.choice([18.0, 18.5, 19.0, np.nan, 100.0], n),
        magpsf_corr=rng.normal(17.0, 1.0, n),
        sigmapsf_corr_ext=rng.choice([0.05, 0.1, 100.0, np.nan], n),
        corrected=rng.random(n) < 0.8,
        parent_candid=rng.choice([0, 5, 7], n),
    )
    rows["oid"] = np.sort(rng.choice(["a", "b", "c", "d"], n)).astype(object)
    limits = {name: rows[name] for name in ("oid", "mjd", "fid")} | {"diffmaglim": rng.normal(20.0, 0.3, n)}
    return rows, limits


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_order_of_rows_changes_nothing(seed: int) -> None:
    rows, limits = sample(seed)
    order = np.random.default_rng(seed).permutation(len(rows["mjd"]))
    shuffled = [{name: values[order] for name, values in table.items()} for table in (rows, limits)]
    assert_equal(select(rows, limits), select(*shuffled))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_grouped_rows_are_flat_rows(seed: int) -> None:
    rows, limits = sample(seed)
    oid, counts = np.unique(rows["oid"].astype(str), return_counts=True)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    grouped = from_offsets(oid.astype(object), offsets, rows, offsets, limits)
    assert_equal(select(rows, limits), grouped)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_arrow_tables_are_arrays(seed: int) -> None:
    rows, limits = sample(seed)
    tables = [pa.table({k: pa.array(v, from_pandas=True) for k, v in table.items()}) for table in (rows, limits)]
    assert_equal(select(rows, limits), select(*tables))
    chunked = [pa.concat_tables([table.slice(0, 50), table.slice(50)]) for table in tables]
    assert_equal(select(rows, limits), select(*chunked))


@pytest.mark.real_data
def test_repeated_rows_of_the_real_sample_count_once(data_dir: Path) -> None:
    table = pq.read_table(data_dir / "lightcurves" / "detections_sample.parquet")
    found = select(table, pq.read_table(data_dir / "lightcurves" / "non_detections_sample.parquet"))
    assert len(found) == 10
    assert table.num_rows == 2586
    info = pq.read_table(data_dir / "lightcurves" / "object_info_sample.parquet").sort_by("oid")
    assert info["oid"].to_pylist() == found.oid.tolist()
    np.testing.assert_array_equal(found.corrected, info["corrected"])
    np.testing.assert_allclose(found.meanra, info["meanra"], atol=1e-4)
    names = ("oid", "mjd", "rb", "sigmapsf_corr_ext")  # every object of the sample is corrected
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    usable = {(oid, mjd) for oid, mjd, rb, err in rows if rb >= 0.55 and err is not None and 0.0 < err < 1.0}
    assert len(found.both.mjd) == len(usable)
    for curve in (*found.bands, found.both):
        assert (np.abs(curve.mag - 17.0) < 6.0).all()
        for lo, hi in zip(curve.offsets[:-1], curve.offsets[1:], strict=True):
            assert (np.diff(curve.mjd[lo:hi]) > 0).all()
