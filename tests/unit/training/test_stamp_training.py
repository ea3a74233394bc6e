"""Training of the stamp network on drawn images whose class needs both the images and the columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("tensorflow", reason="the extra `training` is not installed")

from alerce_spark.classifiers import stamp
from alerce_spark.classifiers.stamp import StampModel
from alerce_spark.classifiers.taxonomy import STAMP_CLASSES
from alerce_spark.training import stamp_evaluation, stamps
from alerce_spark.training.stamps import Options, Trained

SMALL = Options(
    columns=("sgscore1", "distpsnr1", "magpsf"),
    filters=(8, 8),
    dense=16,
    dropout=0.1,
    epochs=5,
    settling=1,
    batch=32,
    on_stars=0.0,
    odds=(1.0,) * 5,
)
Drawn = tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]


def drawn(n: int, seed: int) -> Drawn:
    """The images tell {AGN, VS}, {SN, asteroid} and bogus apart, the star score AGN and VS, the distance the others."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 5, n)
    y, x = np.mgrid[-31:32, -31:32]
    spot = np.exp(-(x**2 + y**2) / 3.0)
    template = np.where(np.isin(label, (0, 2))[:, None, None], 300 * spot, 0.0)
    pixel = (np.hypot(x, y) < 1).astype(float)
    change = rng.uniform(50, 150, (n, 1, 1)) * np.where(label[:, None, None] == 4, 2 * pixel, spot)
    noise = rng.normal(0, 7, (n, 63, 63))
    images = np.stack([template + change + noise, template + rng.normal(0, 1.5, noise.shape), change + noise], axis=1)
    score = np.where(label == 2, rng.uniform(0.5, 1, n), np.where(label == 0, rng.uniform(0, 0.5, n), rng.random(n)))
    distance = np.where(
        label == 3, rng.uniform(15, 30, n), np.where(label == 1, rng.uniform(0, 15, n), 30 * rng.random(n))
    )
    columns = {"sgscore1": score, "distpsnr1": distance, "magpsf": rng.uniform(17, 20, n)}
    return images.astype(np.float32), columns, label


@pytest.fixture(scope="module")
def trained() -> Trained:
    return stamps.train(*drawn(900, 1), seed=3, version="test", options=SMALL)


def _accuracy(model: StampModel, data: Drawn) -> float:
    return float((model.classify(data[0], data[1])[0].argmax(axis=1) == data[2]).mean())


def _loaded(trained: Trained, folder: Path) -> StampModel:
    return StampModel.load(trained.save(folder / "models" / "stamp.onnx"))


def test_the_model_file_answers_as_keras_does(trained: Trained, tmp_path: Path) -> None:
    model = _loaded(trained, tmp_path)
    images, columns, _ = drawn(100, 5)
    images[7, :, :, 45:] = np.nan
    table = stamp.normalise(stamp.inputs(columns, SMALL.columns, 100), trained.inputs)
    fine, coarse, _ = stamp.views(images)
    views = [np.moveaxis(view, 1, -1) for view in (fine, coarse)]
    expected = trained.network.predict([*views, table], verbose=0)
    np.testing.assert_allclose(model.classify(images, columns)[0], expected, atol=1e-5)
    assert (model.version, model.classes) == ("test", STAMP_CLASSES)
    assert [one.name for one in model.inputs] == list(SMALL.columns)
    assert model.inputs == trained.inputs


def test_outliers_are_found_and_the_answers_are_the_same_to_the_bit(trained: Trained, tmp_path: Path) -> None:
    bare = onnx.load_from_string(trained.content)
    del bare.graph.output[1:]
    (tmp_path / "bare.onnx").write_bytes(bare.SerializeToString())
    images, columns, _ = drawn(300, 11)
    plain, _ = StampModel.load(tmp_path / "bare.onnx").classify(images, columns)
    probabilities, scores, _ = _loaded(trained, tmp_path).judge(images, columns)
    assert np.array_equal(probabilities, plain)
    # Shares of ordinary alerts: about uniform for others of the kind.
    assert abs(scores.mean() - 0.5) < 0.12
    trail = np.abs(np.arange(63)[:, None] - np.arange(63)) < 2
    _, odd, _ = _loaded(trained, tmp_path).judge(images + 300.0 * trail[None, None] * [[[[1]], [[0]], [[1]]]], columns)
    assert np.mean(odd > 0.95) > 0.5
    without = images.copy()
    without[0, 1] = np.nan
    assert np.isnan(_loaded(trained, tmp_path).judge(without, columns)[1][0])


def test_images_and_columns_together_beat_either_alone(trained: Trained, tmp_path: Path) -> None:
    data = drawn(400, 9)
    both = _accuracy(_loaded(trained, tmp_path), data)
    for change in ({"columns": ()}, {"with_images": False}):
        alone = stamps.train(*drawn(900, 1), seed=3, options=Options(**{**vars(SMALL), **change}))
        assert _accuracy(_loaded(alone, tmp_path), data) < both - 0.1, change


def test_metrics_and_history_are_kept(trained: Trained) -> None:
    assert trained.metrics["learned"] + trained.metrics["validated"] == 900
    assert len(trained.history) == trained.metrics["epochs"] <= SMALL.epochs + SMALL.settling
    assert 0.5 < trained.metrics["balanced_accuracy"] <= 1.0


def test_odds_multiply_the_probabilities() -> None:
    _, full = stamps.networks(SMALL)
    rng = np.random.default_rng(3)
    taken = [rng.normal(size=(5, 21, 21, 4)), rng.normal(size=(5, 21, 21, 4)), rng.normal(size=(5, 3))]
    before = full.predict(taken, verbose=0)
    odds = np.array([1.0, 2.0, 1.0, 0.5, 1.0])
    stamps._answer_for(full, odds)
    expected = before * odds / (before * odds).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(full.predict(taken, verbose=0), expected, atol=1e-6)


def test_normalisation_is_that_of_the_training_set() -> None:
    table = np.array([[0.2, 40.0], [0.4, np.nan], [np.nan, 10.0]])
    score, distance = stamps.fit_inputs(table, ["sgscore1", "distpsnr1"])
    assert score.mean == pytest.approx(np.mean([0.2, 0.4, 0.5]))  # unknown kind: undecided
    assert distance.mean == pytest.approx(np.mean([30.0, 30.0, 10.0]))  # clipped, and none within 30″
    assert distance.std == pytest.approx(np.std([30.0, 30.0, 10.0]))


def test_a_class_without_alerts_is_refused() -> None:
    images, columns, label = drawn(50, 1)
    label[label == 1] = 0
    with pytest.raises(ValueError, match="no alert of class SN"):
        stamps.train(images, columns, label, seed=1, options=SMALL)


def test_augmented_images_keep_the_candidate() -> None:
    images, _, _ = drawn(60, 2)
    images[:, 2, 29:34, 29:34] += 2000.0
    changed = stamps.augment(images, np.random.default_rng(0))
    assert changed.shape == images.shape
    assert not np.shares_memory(changed, images)
    assert (np.nanmax(changed[:, 2, 27:36, 27:36], axis=(1, 2)) > 1000).all()
    assert 0 < np.isnan(changed).mean() < 0.2
    again = stamps.augment(images, np.random.default_rng(0))
    np.testing.assert_array_equal(changed, again)


def test_a_bad_subtraction_leaves_no_flux_and_keeps_the_star() -> None:
    images, _, label = drawn(300, 6)
    rng = np.random.default_rng(1)
    stars = [one for one, k in zip(images, label, strict=True) if k in (0, 2)]
    made = [stamps.bad_subtraction(one, rng) for one in stars]
    for one, changed in zip(stars, made, strict=True):
        assert changed is not None
        np.testing.assert_array_equal(changed[1], one[1])
        centre = changed[2, 26:37, 26:37]
        assert abs(centre.sum()) < 0.3 * np.abs(centre).sum()
        assert np.abs(centre).max() > 20.0
    assert stamps.bad_subtraction(images[label == 1][0], rng) is None  # no star there


@pytest.mark.real_data
def test_the_report_holds_simulated_and_real_figures(trained: Trained, data_dir: Path, tmp_path: Path) -> None:
    model = _loaded(trained, tmp_path)
    images, columns, label = drawn(300, 12)
    out = stamp_evaluation.report(model, images, columns, label, data_dir, tmp_path / "report.html")
    found = json.loads(out.with_suffix(".json").read_text())
    assert 0.5 < found["levels"]["class"]["scores"]["balanced_accuracy"]["value"] <= 1.0
    labels = {(row["weak label"], row["half"]) for row in found["sheets"]["Real alerts"]}
    assert ("asteroid", "test") in labels
    assert {row["numbers"] for row in found["sheets"]["Real against simulated"]} == {"images", "columns"}
    assert all(0.0 <= row["AUC"] <= 1.0 for row in found["sheets"]["Real against simulated"])


def test_separation_of_the_same_is_chance_and_of_others_is_certain() -> None:
    rng = np.random.default_rng(4)
    names = ["a", "b"]
    same = stamp_evaluation.separation(
        rng.normal(size=(200, 2)), rng.normal(size=(300, 2)), np.arange(200).astype(str), names, seed=0
    )
    other = stamp_evaluation.separation(
        rng.normal((0, 9), 1, (200, 2)), rng.normal(size=(300, 2)), np.arange(200).astype(str), names, seed=0
    )
    assert 0.35 < same.auc < 0.65
    assert other.auc > 0.99
    assert other.telling[0][0] == "b"


@pytest.mark.real_data
def test_real_alerts_have_weak_labels_in_both_halves(data_dir: Path) -> None:
    real = stamp_evaluation.read_real(data_dir)
    counts = {group.name: int(group.members.sum()) for group in real.groups}
    assert counts["asteroid"] == 82
    assert counts["VS history"] == 103
    halves = [real.half(name) for name in stamp_evaluation.HALVES]
    assert (halves[0] ^ halves[1]).all()
    assert not set(real.oid[halves[0]]) & set(real.oid[halves[1]])
    assert len({oid for group in real.groups if group.name == "SN" for oid in real.oid[group.members]}) == 7
