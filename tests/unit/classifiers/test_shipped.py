"""The models that ship with the package: small, current, and modest where they know little."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from alerce_spark import classifiers
from alerce_spark.classifiers import lightcurve
from alerce_spark.classifiers.artefact import ModelError
from alerce_spark.classifiers.lightcurve import LightcurveModel
from alerce_spark.classifiers.stamp import StampModel
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES, STAMP, STAMP_CLASSES
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.lake.models import bootstrap
from alerce_spark.simulation.curves import LabelledCurves, light_curves, truncate
from alerce_spark.training.light_curves import from_curves
from alerce_spark.training.metrics import indices


@pytest.fixture(scope="module")
def model() -> LightcurveModel:
    file = bootstrap(LIGHTCURVE)
    assert file is not None
    assert file.stat().st_size <= 10e6
    return lightcurve.load(file)


@pytest.fixture(scope="module")
def curves() -> LabelledCurves:
    return light_curves(424242, 25)


def _told(model: LightcurveModel, curves: LabelledCurves) -> tuple[np.ndarray, np.ndarray]:
    """Highest probability, and whether the class is right, of each object that has features."""
    made = from_curves(curves)
    found = model.classify(made.matrix)
    is_known = found.class_codes >= 0
    right = found.class_codes == indices(made.labels, LIGHTCURVE_CLASSES)
    return found.probabilities.max(axis=1)[is_known], right[is_known]


def test_the_forest_reads_the_features_of_this_code(model: LightcurveModel) -> None:
    assert model.features == FEATURES
    assert model.features_version == FEATURES_VERSION
    assert not model.version.startswith("toy")


def test_new_simulated_objects_are_classified_far_better_than_by_chance(
    model: LightcurveModel, curves: LabelledCurves
) -> None:
    _, right = _told(model, curves)
    assert right.mean() > 0.5


@pytest.mark.parametrize(
    "loss",
    [{"early": 1.0}, {"one_band": 1.0}, {"without_wise": 1.0}, {"early": 1.0, "one_band": 1.0, "without_wise": 1.0}],
)
def test_less_light_lowers_confidence_and_never_breaks(
    model: LightcurveModel, curves: LabelledCurves, loss: dict[str, float]
) -> None:
    whole, _ = _told(model, curves)
    nothing = {"early": 0.0, "one_band": 0.0, "without_wise": 0.0}
    less, right = _told(model, truncate(curves, np.random.default_rng(1), **(nothing | loss)))
    assert less.mean() < whole.mean()
    assert less.mean() < right.mean() + 0.05  # not surer than right


def test_an_object_without_cross_match_and_without_a_band_still_has_a_class(model: LightcurveModel) -> None:
    matrix = from_curves(light_curves(3, 2)).matrix
    for gone in ("_1", "_2", "W"):
        blind = matrix.copy()
        blind[:, [gone in name for name in FEATURES]] = np.nan
        assert (model.classify(blind).class_codes >= 0).all()


def test_a_shipped_network_with_a_changed_bit_is_refused(tmp_path: Path) -> None:
    file = bootstrap(STAMP)
    assert file is not None
    for one in (file, file.with_name("SHA256SUMS")):
        shutil.copy(one, tmp_path)
    copy = tmp_path / file.name
    assert StampModel.load(copy).version == StampModel.load(file).version
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1  # a weight: ONNX Runtime reads it
    copy.write_bytes(content)
    with pytest.raises(ModelError, match=f"{file.name} is not the file that ships"):
        StampModel.load(copy)


def test_every_shipped_model_has_its_checksum_listed() -> None:
    folder = Path(classifiers.__file__).parent / "bootstrap"
    listed = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert listed == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name != "SHA256SUMS"
    }


def test_the_network_is_small_and_knows_its_classes() -> None:
    file = bootstrap(STAMP)
    assert file is not None
    assert file.stat().st_size <= 2e6
    assert StampModel.load(file).classes == STAMP_CLASSES
