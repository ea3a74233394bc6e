"""The comparison of simulation and reality: its numbers against scipy, its judge on sets that are known to differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from alerce_spark.features.names import FEATURES
from alerce_spark.training.realism import (
    DIFFERENT_BY_DESIGN,
    FeatureRows,
    compare,
    compare_features,
    development_rows,
    discriminate,
    release_samples,
    visit_samples,
)


def test_numbers_are_those_of_scipy_and_numpy() -> None:
    rng = np.random.default_rng(1)
    real, made = rng.normal(0, 1, 300), np.r_[rng.normal(0.5, 1, 200), [np.nan] * 50]
    (row,) = compare({"x": real, "only real": real}, {"x": made}, "g").to_pylist()
    expected = stats.ks_2samp(real, made[:200])
    assert (row["ks"], row["p"]) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert (row["n_made"], row["null_made"]) == (200, pytest.approx(0.2))
    spread = (np.quantile(real, 0.84) - np.quantile(real, 0.16)) / 2
    assert row["shift"] == pytest.approx((np.median(made[:200]) - np.median(real)) / spread)


def _rows(seed: int, shift: float) -> FeatureRows:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(0, 1, (150, len(FEATURES)))
    matrix[:, FEATURES.index("Amplitude_1")] += shift
    return FeatureRows(matrix, np.array(["RRL", "QSO", "E"] * 50))


def test_the_judge_cannot_tell_equal_sets_and_tells_unequal_ones_by_the_right_feature() -> None:
    equal = discriminate(_rows(1, 0.0), _rows(2, 0.0), 0, repeats=1)
    assert 0.35 < equal.auc < 0.65
    told = discriminate(_rows(1, 0.0), _rows(2, 6.0), 0, repeats=1)
    assert told.auc > 0.98
    assert told.importance[0][0] == "Amplitude_1"
    assert not {name for name, _ in told.importance} & set(DIFFERENT_BY_DESIGN)


def test_features_are_compared_class_by_class() -> None:
    table = pl.DataFrame(pl.from_arrow(compare_features(_rows(1, 0.0), _rows(2, 6.0))))
    assert set(table["group"]) == {"all", "RRL", "QSO", "E"}
    moved = table.filter(pl.col("quantity") == "Amplitude_1")
    assert moved["shift"].min() > 3
    assert table.filter("by_design")["quantity"].str.starts_with("SPM_").all()


@pytest.mark.real_data
def test_only_the_development_half_is_looked_at(data_dir: Path) -> None:
    rows = development_rows(data_dir)
    published = pl.read_csv(data_dir / "lightcurves" / "100_objects_features.csv")
    assert len(rows.label) <= -(-len(published) // 2)
    odd = published[1::2]["Amplitude_1"].drop_nulls().to_numpy()
    assert not np.isin(odd, rows.matrix[:, FEATURES.index("Amplitude_1")]).any()


@pytest.mark.real_data
def test_the_survey_observes_when_the_real_one_does(data_dir: Path) -> None:
    real, ra, dec = release_samples(data_dir)
    table = {row["quantity"]: row for row in compare(real, visit_samples(1, ra, dec), "survey").to_pylist()}
    hour_angle = next(name for name in table if "hour angle" in name)
    assert table[hour_angle]["ks"] < 0.1
