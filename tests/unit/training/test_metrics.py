"""Scores against scikit-learn, intervals against theory, latitudes against astropy, and the gate of a promotion."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import BarycentricMeanEcliptic, Galactic, SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alerce_spark.training import metrics
from alerce_spark.training.metrics import Standing

CLASSES = ("QSO", "RRL", "SNIa", "SNIbc")


def _answers(
    rng: np.random.Generator, truth: NDArray[np.int64], skill: float, k: int = len(CLASSES)
) -> NDArray[np.float64]:
    """Probabilities whose largest is right with probability `skill` (else a random class), at that confidence."""
    called = np.where(rng.random(truth.size) < skill, truth, rng.integers(0, k, truth.size))
    probabilities = np.full((truth.size, k), (1 - skill) / k)
    probabilities[np.arange(truth.size), called] += skill
    return probabilities


@settings(deadline=None)  # the first example imports scikit-learn
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 200))
def test_scores_equal_those_of_scikit_learn(seed: int, k: int, n: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth, called = rng.integers(0, k, n), rng.integers(0, k, n)
    counts = metrics.crosstab(truth, called, k, k)
    np.testing.assert_array_equal(counts, sklearn.confusion_matrix(truth, called, labels=range(k)))
    there = np.unique(truth)
    expected = sklearn.precision_recall_fscore_support(truth, called, labels=there, zero_division=0)
    for ours, theirs in zip(metrics.class_scores(counts), expected, strict=False):
        np.testing.assert_allclose(ours[there], theirs)
        assert np.isnan(np.delete(ours, there)).all()
    scores = metrics.aggregate_scores(counts)
    np.testing.assert_allclose(scores["accuracy"], sklearn.accuracy_score(truth, called))
    np.testing.assert_allclose(scores["recall"], expected[1].mean())
    np.testing.assert_allclose(scores["balanced_accuracy"], expected[1].mean())
    np.testing.assert_allclose(scores["f1"], expected[2].mean())


def test_published_matrix_has_the_published_scores() -> None:
    """Top level of the paper's single split: accuracy .9874, balanced .9846 (Sánchez-Sáez et al. 2021)."""
    counts = [[343, 1, 1], [23, 5549, 179], [13, 80, 17461]]
    scores = metrics.aggregate_scores(counts)
    assert scores["accuracy"] == pytest.approx(0.9874, abs=5e-5)
    assert scores["balanced_accuracy"] == pytest.approx(0.9846, abs=5e-5)


def test_bootstrap_intervals_are_binomial_and_keep_the_support() -> None:
    truth = np.repeat([0, 1], [400, 25])
    called = np.where(np.arange(truth.size) % 5 == 0, 1 - truth, truth)  # one in five is wrong
    level = metrics.evaluate("two", ("a", "b"), truth, called, seed=3, draws=4000)
    drawn = metrics.resample(level.counts, 3, 100)
    assert (drawn.sum(axis=2) == [400, 25]).all()
    for i, n in enumerate((400, 25)):
        assert level.recall[i].value == 0.8
        error = np.sqrt(0.8 * 0.2 / n)
        assert level.recall[i].high - level.recall[i].low == pytest.approx(2 * 1.96 * error, rel=0.1)
        assert level.low[i, i] == level.recall[i].low
    assert level.counts.tolist() == [[320, 80], [5, 20]]
    np.testing.assert_allclose(level.fraction, [[0.8, 0.2], [0.2, 0.8]])


def test_the_seed_decides_the_interval() -> None:
    truth, called = np.random.default_rng(0).integers(0, 3, (2, 200))
    one, same, other = (metrics.evaluate("x", ("a", "b", "c"), truth, called, seed=s) for s in (1, 1, 2))
    assert one.scores == same.scores
    assert one.scores != other.scores


def test_classes_without_objects_are_nan_and_outside_the_means() -> None:
    level = metrics.evaluate("x", CLASSES, [0, 0, 2], [0, 0, 3], seed=1)
    assert np.isnan(level.fraction[[1, 3]]).all()
    assert np.isnan(level.recall[1].value)
    assert level.scores["recall"].value == 0.5
    assert level.scores["accuracy"].value == pytest.approx(2 / 3)


def test_unknown_classes_are_named() -> None:
    assert metrics.indices(["SNIa", "QSO"], CLASSES).tolist() == [2, 0]
    with pytest.raises(ValueError, match="no such class: Nova, SN; there are QSO"):
        metrics.indices(["SN", "QSO", "Nova"], CLASSES)
    with pytest.raises(ValueError, match="outside"):
        metrics.evaluate("x", CLASSES, [4], [0])


def test_wilson_interval_equals_scipy() -> None:
    from scipy.stats import binomtest

    for hits, n in ((0, 5), (3, 7), (90, 100), (4, 4)):
        expected = binomtest(hits, n).proportion_ci(method="wilson")
        low, high = metrics.wilson(hits, n)
        assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_recall_against_magnitude_and_detections() -> None:
    truth, called = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 1, 0])
    against = metrics.recall_against_magnitude([15.0, 15.9, 16.0, 30.0, 15.5, np.nan], truth, called, 2, [15, 16, 17])
    assert against.labels == ("15–16", "16–17")
    assert against.counts.tolist() == [[2, 1], [1, 0]]
    np.testing.assert_array_equal(against.recall, [[0.5, 1.0], [1.0, np.nan]])
    by_points = metrics.recall_against_detections([6, 10, 11, 60, 5, 51], truth, called, 2)
    assert by_points.labels[0] == "6–10"
    assert by_points.counts.tolist() == [[2, 1, 0, 0], [0, 0, 0, 2]]
    assert by_points.recall[1, 3] == 0.5


def test_calibration_of_an_honest_and_of_a_boastful_classifier() -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 4, 40_000)
    ndet = rng.choice([6, 30], truth.size)
    honest = metrics.calibration(truth, _answers(rng, truth, 0.6))
    assert honest.ece < 0.01  # right in 0.6 + 0.4/4 of the cases, and says so
    boast = np.eye(4)[_answers(rng, truth, 0.6).argmax(axis=1)]
    parts = metrics.calibration_by_detections(truth, boast, ndet)
    assert set(parts) == {"all", "6–10", "11–20", "21–50", "≥ 51"}
    assert parts["all"].ece == pytest.approx(0.3, abs=0.01)
    assert parts["all"].excess == pytest.approx(0.3, abs=0.01)
    assert parts["6–10"].counts.sum() == (ndet == 6).sum()
    assert np.isnan(parts["≥ 51"].ece)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.91, 0.09], [0.45, 0.55], [1.0, 0.0]])
    found = metrics.calibration([0, 1, 1, 0], probabilities)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    confidence = (0.95 + 0.91 + 1.0) / 3
    assert found.ece == pytest.approx((0.45 + 3 * abs(2 / 3 - confidence)) / 4)
    assert found.boast == pytest.approx(3 * (confidence - 2 / 3) / 4)
    assert found.excess == pytest.approx((0.95 + 0.91 + 0.55 + 1.0) / 4 - 3 / 4)


def test_latitudes_equal_astropy_and_fill_the_histograms() -> None:
    rng = np.random.default_rng(8)
    ra, dec = rng.uniform(0, 360, 5000), np.degrees(np.arcsin(rng.uniform(-1, 1, 5000)))
    position = SkyCoord(ra * u.deg, dec * u.deg)
    ecliptic = position.transform_to(BarycentricMeanEcliptic()).lat.deg
    np.testing.assert_allclose(metrics.ecliptic_latitude(ra, dec), ecliptic, atol=1e-4)
    called = rng.integers(0, 4, 5000)
    sky = metrics.predicted_sky(np.append(called, 0), np.append(ra, np.nan), np.append(dec, 0.0), CLASSES)
    assert sky.counts.tolist() == np.bincount(called).tolist()
    for c in range(4):
        b = position[called == c].transform_to(Galactic()).b.deg
        assert sky.galactic[c].tolist() == np.histogram(b, sky.edges)[0].tolist()
        assert sky.ecliptic[c].tolist() == np.histogram(ecliptic[called == c], sky.edges)[0].tolist()


def _sky(plane_share: float, ia: int, ibc: int) -> metrics.Sky:
    """Quasars of which a share lies in the plane, among variables that all do, and supernovae at the pole."""
    rng = np.random.default_rng(1)
    called = np.repeat([0, 1, 2, 3], [200, 400, ia, ibc])
    in_plane = np.where(called == 0, rng.random(called.size) < plane_share, called == 1)
    where = SkyCoord(rng.uniform(0, 360, called.size) * u.deg, np.where(in_plane, 2, 60) * u.deg, frame="galactic").icrs
    return metrics.predicted_sky(called, where.ra.deg, where.dec.deg, CLASSES)


def test_sky_is_sane_where_quasars_avoid_the_plane_and_ia_outnumber_ibc() -> None:
    assert _sky(0.01, 100, 20).sane
    crowded = _sky(1.0, 100, 20)
    assert [f.holds for f in crowded.findings] == [False, True, True]
    assert "100.0% of QSO within 10° of the Galactic plane" in crowded.findings[0].text
    odd = _sky(0.01, 20, 100)
    assert not odd.sane
    assert odd.findings[-1].text == "20 SNIa and 100 SNIbc"
    assert not metrics.predicted_sky([], [], [], CLASSES).findings


def _standing(skill: float, seed: int, n: int = 400, sky: metrics.Sky | None = None) -> tuple[Standing, np.ndarray]:
    truth = np.arange(n) % 4
    return Standing(CLASSES, _answers(np.random.default_rng(seed), truth, skill), sky), truth


def test_gate_promotes_the_same_and_the_better_and_keeps_out_the_worse() -> None:
    current, truth = _standing(0.7, 1)
    assert metrics.gate(current, current, truth).promote
    assert metrics.gate(_standing(0.9, 2)[0], current, truth).promote
    assert metrics.gate(_standing(0.7, 3)[0], current, truth).promote  # another draw of the same skill
    worse = metrics.gate(_standing(0.5, 4)[0], current, truth)
    assert not worse.promote
    assert worse.reasons[0].startswith("macro recall 0.")


def test_gate_pairs_the_answers() -> None:
    """Ten objects of a thousand less: lost in two separate intervals, plain when the same objects are compared."""
    truth = np.arange(1000) % 4
    current = _answers(np.random.default_rng(1), truth, 0.7)
    right = np.flatnonzero(current.argmax(axis=1) == truth)
    candidate = current.copy()
    candidate[right[:10]] = np.roll(candidate[right[:10]], 1, axis=1)
    verdict = metrics.gate(Standing(CLASSES, candidate), Standing(CLASSES, current), truth)
    assert not verdict.promote


def test_gate_names_a_lost_class() -> None:
    current, truth = _standing(0.9, 1)
    blind = current.probabilities.copy()
    blind[:, 3] = 0
    verdict = metrics.gate(Standing(CLASSES, blind), current, truth)
    assert not verdict.promote
    assert verdict.reasons[0] == "class SNIbc is lost: recall 0.000"
    first = metrics.gate(Standing(CLASSES, blind), None, truth)
    assert not first.promote
    fewer = Standing(CLASSES[:3], current.probabilities[:, :3])
    assert metrics.gate(fewer, current, truth).reasons == ("classes missing from the candidate: SNIbc",)


def test_gate_watches_calibration_of_short_light_curves() -> None:
    current, truth = _standing(0.6, 1, n=4000)
    ndet = np.where(np.arange(truth.size) % 20 == 0, 6, 40)
    sure = current.probabilities.copy()
    sure[ndet == 6] = np.eye(4)[sure[ndet == 6].argmax(axis=1)]
    verdict = metrics.gate(Standing(CLASSES, sure), current, truth, ndet)
    assert not verdict.promote
    assert len([r for r in verdict.reasons if r.startswith("objects with 6–10 detections surer than right by 0.")]) == 1
    assert metrics.gate(Standing(CLASSES, sure), current, truth).promote


def test_gate_lets_doubt_pass() -> None:
    current, truth = _standing(0.8, 1, n=4000)
    doubting = 0.5 * current.probabilities + 0.5 / len(CLASSES)
    assert metrics.calibration(truth, doubting).ece > 0.3
    assert metrics.gate(Standing(CLASSES, doubting), current, truth).promote


def test_gate_asks_for_a_sane_sky_and_the_same_objects() -> None:
    current, truth = _standing(0.7, 1)
    insane = Standing(CLASSES, current.probabilities, _sky(1.0, 100, 20))
    verdict = metrics.gate(insane, current, truth)
    assert not verdict.promote
    assert verdict.reasons[0].startswith("unlabelled sky: 100.0% of QSO")
    assert not metrics.gate(insane, None, truth).promote
    with pytest.raises(ValueError, match="for 399 objects"):
        metrics.gate(current, None, truth[1:])


def test_stamp_and_light_curve_classes_of_the_same_objects() -> None:
    found = metrics.crosstab([0, 1, 1, 0], [2, 0, 0, 2], 2, 3)
    assert found.tolist() == [[0, 0, 2], [2, 0, 0]]
