"""Supernova detection and non-detection features against the definitions in polars and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from feature_checks import Part, assert_independent, light_curves, part, walks
from feature_curves import START, curves, noise, objects
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark.features import sn_detections as det
from alerce_spark.features import sn_non_detections as non
from alerce_spark.features.curves import Curves, Limits, Scratch
from alerce_spark.features.sn_detections import sn_detections
from alerce_spark.features.sn_non_detections import sn_non_detections


def limits(parts: list[tuple[list[float], list[float]]]) -> Limits:
    """Upper limits of each object from (mjd, diffmaglim)."""
    offsets = np.cumsum([0, *(len(p[0]) for p in parts)])
    return Limits(offsets, *(np.concatenate([np.array(p[k], dtype=np.float64) for p in parts]) for k in (0, 1)))


def named(names: tuple[str, ...], row: np.ndarray) -> dict[str, float]:
    return dict(zip(names, row.tolist(), strict=True))


def test_detections_by_hand() -> None:
    data = curves(
        [part(START + np.arange(4.0), [18.0, 17.2, 17.5, 19.1], 0.1), part(START + np.arange(1.0), [18.0], 0.1)]
    )
    data = replace(data, sign=np.array([1.0, 1.0, -1.0, 1.0, -1.0]))
    found = sn_detections(data)
    assert named(det.NAMES, found[0]) == pytest.approx({"delta_mag_fid": 19.1 - 17.2, "positive_fraction": 0.75})
    assert found[1].tolist() == [0.0, 0.0]


def test_signs_that_are_unknown_do_not_count() -> None:
    data = curves([part(START + np.arange(3.0), [18.0, 17.2, 17.5], 0.1)])
    assert sn_detections(replace(data, sign=np.array([1.0, np.nan, -1.0])))[0, 1] == 0.5
    assert np.isnan(sn_detections(replace(data, sign=np.full(3, np.nan)))[0, 1])


def test_non_detections_by_hand() -> None:
    """A limit at the very time of the first detection is after it."""
    data = curves([part(START + np.array([10.0, 20.0]), [18.5, 17.0], 0.1)])
    found = sn_non_detections(
        data,
        limits(
            [([START + 1.0, START + 4.0, START + 7.0, START + 10.0, START + 30.0], [20.5, 19.0, 20.0, 19.5, 20.25])]
        ),
    )
    assert named(non.NAMES, found[0]) == pytest.approx(
        {
            "n_non_det_before_fid": 3.0,
            "max_diffmaglim_before_fid": 20.5,
            "median_diffmaglim_before_fid": 20.0,
            "last_diffmaglim_before_fid": 20.0,
            "dmag_first_det_fid": 20.0 - 18.5,
            "dmag_non_det_fid": 20.0 - 17.0,
            "n_non_det_after_fid": 2.0,
            "max_diffmaglim_after_fid": 20.25,
            "median_diffmaglim_after_fid": 19.875,
        }
    )


def test_sides_without_limits() -> None:
    data = curves([part(START + np.array([10.0, 20.0]), [18.5, 17.0], 0.1)] * 3)
    none, before, after = sn_non_detections(data, limits([([], []), ([START], [20.0]), ([START + 50.0], [20.0])]))
    counts = [non.NAMES.index(name) for name in ("n_non_det_before_fid", "n_non_det_after_fid")]
    assert none[counts].tolist() == [0.0, 0.0]
    assert np.isnan(np.delete(none, counts)).all()
    assert before[counts].tolist() == [1.0, 0.0]
    assert after[counts].tolist() == [0.0, 1.0]
    for name, a, b in zip(non.NAMES, before, after, strict=True):
        if name.startswith(("max", "median", "last", "dmag")):
            assert np.isnan(a) == ("after" in name), name
            assert np.isnan(b) == ("after" not in name), name


def test_band_without_detections() -> None:
    nothing = curves([part(np.empty(0), np.empty(0), 0.1), part(START + np.arange(3.0), 18.0, 0.1)])
    assert np.isnan(sn_detections(nothing)[0]).all()
    assert np.isnan(sn_non_detections(nothing, limits([([START], [20.0]), ([START - 1.0], [20.0])]))[0]).all()
    assert np.isfinite(sn_detections(nothing)[1]).all()
    empty = Curves(np.zeros(1, np.int64), *(np.empty(0) for _ in range(6)), np.empty(0, np.int64))
    assert sn_detections(empty).shape == (0, 2)
    assert sn_non_detections(empty, Limits(np.zeros(1, np.int64), np.empty(0), np.empty(0))).shape == (0, 9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(light_curves(most=8), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.floats(58000.0, 61000.0), st.floats(15.0, 22.0)), max_size=40),
    st.randoms(use_true_random=False),
)
def test_equals_polars(parts: list[Part], loose: list[tuple[int, float, float]], random: object) -> None:
    """The same numbers from a join and group-by."""
    signs = [random.choice([-1.0, 1.0]) for _ in range(sum(len(p[0]) for p in parts))]  # type: ignore[attr-defined]
    data = replace(curves(parts), sign=np.array(signs, dtype=np.float64))
    rows = sorted((k, t, m) for k, t, m in loose if k < len(parts))
    upper = limits([([t for k, t, _ in rows if k == i], [m for k, _, m in rows if k == i]) for i in range(len(parts))])
    index = np.repeat(np.arange(len(parts)), np.diff(data.offsets))
    detections = pl.DataFrame({"i": index, "mjd": data.mjd, "mag": data.mag, "sign": data.sign})
    per_object = detections.group_by("i").agg(
        first_mjd=pl.col("mjd").first(),
        first=pl.col("mag").first(),
        least=pl.col("mag").min(),
        delta_mag_fid=pl.col("mag").max() - pl.col("mag").min(),
        positive_fraction=(pl.col("sign") > 0).mean(),
    )
    schema = {"i": pl.Int64, "t": pl.Float64, "lim": pl.Float64}
    joined = pl.DataFrame(rows, schema=schema, orient="row").join(per_object, on="i")
    lim = pl.col("lim")
    before = (
        joined.filter(pl.col("t") < pl.col("first_mjd"))
        .group_by("i", maintain_order=True)
        .agg(
            n_non_det_before_fid=pl.len(),
            max_diffmaglim_before_fid=lim.max(),
            median_diffmaglim_before_fid=lim.median(),
            last_diffmaglim_before_fid=lim.last(),
            dmag_first_det_fid=lim.last() - pl.col("first").first(),
            dmag_non_det_fid=lim.median() - pl.col("least").first(),
        )
    )
    after = (
        joined.filter(pl.col("t") >= pl.col("first_mjd"))
        .group_by("i")
        .agg(n_non_det_after_fid=pl.len(), max_diffmaglim_after_fid=lim.max(), median_diffmaglim_after_fid=lim.median())
    )
    counts = pl.col("n_non_det_before_fid", "n_non_det_after_fid").fill_null(0)
    expected = (
        pl.DataFrame({"i": np.arange(len(parts))})
        .join(
            per_object.join(before, on="i", how="left").join(after, on="i", how="left").with_columns(counts),
            on="i",
            how="left",
        )
        .sort("i")
    )
    found = {
        **dict(zip(det.NAMES, sn_detections(data).T, strict=True)),
        **dict(zip(non.NAMES, sn_non_detections(data, upper).T, strict=True)),
    }
    for name, column in found.items():
        np.testing.assert_allclose(
            column, expected[name].cast(pl.Float64).fill_null(np.nan).to_numpy(), rtol=1e-12, atol=1e-12, err_msg=name
        )


def test_batches_do_not_mix() -> None:
    parts = walks(6, 9, seed=3)
    assert_independent(sn_detections, parts)
    upper = [([START + 1.0 * k, START + 400.0], [20.0 + 0.1 * k, 19.0]) for k in range(6)]
    together = sn_non_detections(curves(parts), limits(upper))
    alone = [sn_non_detections(curves([p]), limits([u])) for p, u in zip(parts, upper, strict=True)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_families_take_each_band_with_its_limits() -> None:
    rng = np.random.default_rng(4)
    data = objects([noise(rng, 20), noise(rng, 20)])
    g, r = limits([([START - 5.0], [20.0]), ([], [])]), limits([([], []), ([START - 9.0], [19.0])])
    data = replace(data, limits=(g, r))
    found = dict(zip(non.FAMILY.columns, non.FAMILY.compute(data, Scratch()).T, strict=True))
    assert found["n_non_det_before_fid_1"].tolist() == [1.0, 0.0]
    assert found["n_non_det_before_fid_2"].tolist() == [0.0, 1.0]
    assert found["last_diffmaglim_before_fid_2"][1] == 19.0
    assert det.FAMILY.columns == ("delta_mag_fid_1", "positive_fraction_1", "delta_mag_fid_2", "positive_fraction_2")
    np.testing.assert_array_equal(
        det.FAMILY.compute(data, Scratch()), np.hstack([sn_detections(band) for band in data.bands])
    )
