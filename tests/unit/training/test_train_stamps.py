"""The command that trains the stamp classifier: gate, registry, report; the training itself has other tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from alerce_spark.classifiers.taxonomy import STAMP
from alerce_spark.config import Settings, load
from alerce_spark.lake import models
from alerce_spark.nightly.retrain import HELD_OUT_SEED
from alerce_spark.nightly.train_stamps import train_stamps
from alerce_spark.training import stamps

CONF = Path(__file__).resolve().parents[3] / "conf" / "alerce.toml"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(CONF, {"lake": {"path": str(tmp_path / "lake")}})


def _shipped(blind: bool) -> bytes:
    """The shipped model; `blind`: with a last layer that says one class whatever it sees."""
    file = models.bootstrap(STAMP)
    assert file is not None
    network = onnx.load(file)
    if blind:
        bias = next(t for t in network.graph.initializer if onnx.numpy_helper.to_array(t).shape == (5,))
        changed = onnx.numpy_helper.from_array(np.array([50, 0, 0, 0, 0], np.float32), bias.name)
        bias.CopyFrom(changed)
    return bytes(network.SerializeToString())


def _train(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    trained = stamps.Trained(content, None, (), {}, [])
    monkeypatch.setattr(stamps, "train_simulated", lambda *args, **kwargs: trained)


def test_a_model_as_good_as_the_current_one_is_promoted(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(monkeypatch, _shipped(blind=False))
    done = train_stamps(settings, date="20260101", out=tmp_path / "out", seed=1, held_out_per_class=12)
    assert (done.version, done.exit_code) == ("20260101.1", 0)
    entry = models.current(settings.lake.path, STAMP)
    assert entry is not None
    assert entry.version == done.version
    assert 0.0 < entry.metrics["balanced_accuracy"] <= 1.0
    assert "<html" in done.report.read_text()


def test_a_model_that_says_one_class_is_kept_out(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(monkeypatch, _shipped(blind=True))
    done = train_stamps(settings, date="20260101", out=tmp_path / "out", seed=1, held_out_per_class=12)
    assert done.exit_code == 3
    assert models.current(settings.lake.path, STAMP) is None
    assert models.listing(settings.lake.path, STAMP)["state"].to_pylist() == ["candidate"]


def test_what_judges_is_never_trained_on(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="held-out"):
        train_stamps(settings, date="20260101", out=tmp_path, seed=HELD_OUT_SEED)
