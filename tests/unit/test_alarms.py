"""A current model that cannot be used: workers go on with the one before, and every place where one looks says so."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from alerce_spark.classifiers import lightcurve, outliers
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, OUTLIER, STAMP
from alerce_spark.cli import main
from alerce_spark.lake import models
from alerce_spark.lake.serving import LightcurveModels
from alerce_spark.local_kafka import free_port
from alerce_spark.streaming import metrics
from alerce_spark.streaming.alarms import ModelWatch
from alerce_spark.streaming.causes import Cause
from alerce_spark.streaming.metrics import Metrics


def test_a_broken_model_is_told_until_it_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, port, now = str(tmp_path), free_port(), [0.0]
    told = Metrics(["lightcurves"], lake, port)
    watch = ModelWatch(lake, told.names, told.model, lambda: now[0])

    def look() -> dict[str, str | None]:
        now[0] += 100.0
        watch.look("lightcurves")
        watch.look("photometry")
        told.write()
        found = metrics.read(lake)
        assert found is not None
        assert STAMP not in found["models"]
        return dict(found["models"][LIGHTCURVE])

    shipped = look()
    assert shipped["version"]
    assert shipped["alarm"] is None
    (tmp_path / "model").write_bytes(b"no model")
    models.register(lake, LIGHTCURVE, "broken", tmp_path / "model", state="current")
    with caplog.at_level(logging.WARNING, "alerce_spark"):
        for _ in range(3):
            found = look()
        assert found["version"] == shipped["version"]
        assert found["alarm"] is not None
        assert [r.levelname for r in caplog.records if "ALARM" in r.message] == ["ERROR"]
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert f'alerce_alarm{{model="{LIGHTCURVE}"}} 1.0' in answer.read().decode().splitlines()
        with pytest.raises(SystemExit, match="0"):
            main(["status", "--lake", lake])
        assert "ALARM" in capsys.readouterr().out

        models.retire(lake, LIGHTCURVE, "broken")
        assert look() == shipped
        assert "alarm over" in caplog.text


def test_outliers_are_scored_with_the_classifier_that_they_are_calibrated_on_alone(tmp_path: Path) -> None:
    lake, now = str(tmp_path), [0.0]
    models_served = LightcurveModels(lake, lambda: now[0])
    told: dict[str, tuple[str | None, str | None]] = {}
    watch = ModelWatch(lake, ["lightcurves"], lambda *of: told.update({of[0]: of[1:]}), lambda: now[0])

    def look() -> tuple[str, str | None, str | None]:
        now[0] += 100.0
        serving = models_served.get()
        watch.look("lightcurves")
        assert told[LIGHTCURVE] == (serving.version, models_served.classifier.alarm)
        assert told[OUTLIER] == (serving.outlier_version, models_served.alarm)
        return serving.version, serving.outlier_version, models_served.alarm

    def register(classifier: str, version: str, goes_with: str = "", state: str = "candidate") -> None:
        name = models.bootstrap(classifier)
        assert name is not None
        if classifier == LIGHTCURVE:
            model = lightcurve.load(name)
            model.version = version
            model.save(tmp_path / "file")
        else:
            scorer = outliers.load(name)
            scorer.version, scorer.training = version, {"lc_classifier": goes_with}
            scorer.save(tmp_path / "file")
        models.register(lake, classifier, version, tmp_path / "file", state=state)

    shipped = look()
    assert shipped[1] is not None
    assert shipped[2] is None
    register(LIGHTCURVE, "alone", state="current")
    version, outlier_version, alarm = look()
    assert (version, outlier_version) == ("alone", None)
    assert alarm is not None
    assert "not with alone" in alarm
    # Registered under one version both are promoted, and rolled back, in one commit.
    register(OUTLIER, "pair", "pair")
    register(LIGHTCURVE, "pair", state="current")
    assert look() == ("pair", "pair", None)
    # A broken one: the one before serves, an alarm, and the classes go on.
    (tmp_path / "broken").write_bytes(b"no model")
    models.register(lake, OUTLIER, "broken", tmp_path / "broken", state="current")
    version, outlier_version, alarm = look()
    assert (version, outlier_version) == ("pair", "pair")
    assert alarm is not None
    models.roll_back(lake, OUTLIER)
    assert look() == ("pair", "pair", None)
    models.roll_back(lake, LIGHTCURVE)
    assert look()[:2] == ("alone", None)
    models.promote(lake, LIGHTCURVE, "pair")
    assert look() == ("pair", "pair", None)
    models.retire(lake, LIGHTCURVE, "pair")
    assert look() == shipped


def test_the_last_error_of_a_query_stays_with_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = Metrics(["photometry"], str(tmp_path))
    told.failed("photometry", Cause("disk full", "no [space] left"))
    told.progress("photometry", {"batchId": 3, "numInputRows": 5, "sources": [{}]})
    told.latency("photometry", [1.0, 2.0, 3.0])
    told.write()
    with pytest.raises(SystemExit, match="0"):
        main(["status", "--lake", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "2.00 s" in shown  # the median
    found = metrics.read(str(tmp_path))
    assert found is not None
    photometry = found["queries"]["photometry"]
    assert (photometry["failures"], photometry["error"]) == (1, "disk full: no [space] left")
    assert photometry["last_failure"] <= photometry["last_batch"]


def test_a_worker_that_starts_with_a_broken_model_serves_the_one_before(tmp_path: Path) -> None:
    lake = str(tmp_path)

    def load(path: Path) -> Named:
        text = path.read_text()
        if text.startswith("broken"):
            raise ValueError("no model")
        return Named(text)

    for version in ("1", "2", "broken", "broken-too"):
        (tmp_path / "model").write_text(version)
        models.register(lake, LIGHTCURVE, version, tmp_path / "model", state="current")
    (tmp_path / "fallback").write_text("shipped")
    served = models.Served(lake, LIGHTCURVE, load, tmp_path / "fallback")
    assert served.get() == (Named("2"), "2")
    assert served.alarm == f"{LIGHTCURVE}: no model"
    models.roll_back(lake, LIGHTCURVE)
    models.roll_back(lake, LIGHTCURVE)
    again = models.Served(lake, LIGHTCURVE, load, tmp_path / "fallback")
    assert again.get() == (Named("2"), "2")
    assert again.alarm is None


@dataclass(frozen=True)
class Named:
    """A model that is nothing but its version."""

    version: str
