"""Objects worth a look in a lake: outlying ones in order, and uncertain ones that are not each other's copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_sets import lake_table

from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES
from alerce_spark.cli import main
from alerce_spark.errors import LakeError
from alerce_spark.features.names import FEATURES, FEATURES_VERSION
from alerce_spark.nightly import discovery

#: Class, its probability, outlier score, novelty, and the place of the features of each object.
OBJECTS: dict[str, tuple[str, float, float | None, float | None, float]] = {
    "odd": ("SNIa", 0.5, 1.0, 0.5, 0.0),
    "odd_and_sure": ("RRL", 0.9, 1.0, -7.0, 3.0),
    "plain": ("RRL", 0.99, 0.2, None, 6.0),
    "copy": ("SNIa", 0.5, 0.6, None, 0.0),
    "other": ("QSO", 0.45, 0.5, 4.0, -3.0),
    "unscored": ("QSO", 0.97, None, None, 6.0),
}


@pytest.fixture
def lake(tmp_path: Path) -> str:
    pixels = {"pixel": 0, "healpix29": 0, "survey": "ztf"}
    features, classes, objects = [], [], []
    for oid, (name, probability, score, novelty, place) in OBJECTS.items():
        rest = (1 - probability) / 14
        told = {c: probability if c == name else rest for c in LIGHTCURVE_CLASSES}
        same: dict[str, Any] = {**pixels, "oid": oid, "candid": 7, "mjd": 59000.0, "ndet_used": 9, "nown": 9}
        values = {f: place + 0.01 * k for k, f in enumerate(FEATURES)}
        features.append(same | values | {"version": FEATURES_VERSION, "novelty": novelty})
        head = {"classifier": LIGHTCURVE, "version": "1", "class": name, "probability": probability, "flags": []}
        outlier = {"outlier_score": score, "outlier_version": "1" if score is not None else None}
        classes.append(same | head | outlier | {"probabilities": list(told.items())})
        objects.append({**pixels, "oid": oid, "ndet": 9, "meanra": 10.0, "meandec": 5.0})
    for table, rows in (("features", features), ("probabilities", classes), ("objects", objects)):
        lake_table(tmp_path, table, rows)
    row = {"classifier": LIGHTCURVE, "version": "1", "classes": list(LIGHTCURVE_CLASSES)}
    pl.DataFrame([row]).write_delta(tmp_path / "taxonomy")
    return str(tmp_path)


def test_outlying_objects_come_in_order_and_by_what_is_asked(lake: str) -> None:
    found = discovery.outlying(lake, columns=["Amplitude_1", "ndubious"])
    assert found["oid"].to_list() == ["odd", "odd_and_sure", "copy", "other", "plain"]
    assert found["ndet"].to_list() == [9] * 5
    assert found["Amplitude_1"].to_list() == [0.0, 3.0, 0.0, -3.0, 6.0]
    assert found["odd"].str.contains("%").all()
    assert discovery.outlying(lake, branch="Periodic")["oid"].to_list() == ["odd_and_sure", "plain"]
    assert discovery.outlying(lake, min_score=0.9, limit=1)["oid"].to_list() == ["odd"]
    assert discovery.outlying(lake, min_novelty=3.0)["oid"].to_list() == ["odd_and_sure", "other"]
    assert discovery.outlying(lake, min_score=1.1).is_empty()
    for asked in ({"branch": "Variable"}, {"columns": ["no"]}):
        with pytest.raises(LakeError, match=r"no branch|column 'no'"):
            discovery.outlying(lake, **asked)


def test_uncertain_objects_are_no_copies(lake: str) -> None:
    found = discovery.uncertain(lake, 2)
    assert found["oid"].to_list() in (["odd", "other"], ["copy", "other"])
    assert found["uncertainty"].is_between(0.3, 1).all()
    labelled = discovery.uncertain(lake, 1, ["copy"])
    assert labelled["oid"].to_list() == ["other"]
    everything = discovery.uncertain(lake)["oid"].to_list()
    assert len(everything) == len(set(everything)) < len(OBJECTS)


def test_the_commands_say_where_nothing_fits(lake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nobody.csv").write_text("oid,class_name\nnobody,SNIa\n")
    (tmp_path / "no_oid.csv").write_text("name\ncopy\n")
    for command, status, said in (
        (["outliers", "--min-novelty", "1000000"], 2, "nothing to list"),
        (["outliers", "--out", str(tmp_path)], 2, "results are written as"),
        (["uncertain", "--labels", str(tmp_path / "nobody.csv")], 2, "none of the 1 objects"),
        (["uncertain", "--labels", str(tmp_path / "no_oid.csv")], 2, "no column oid or objectId"),
    ):
        with pytest.raises(SystemExit) as done:
            main([*command, "--lake", lake])
        assert done.value.code == status
        captured = capsys.readouterr()
        assert said in captured.out + captured.err


def test_the_commands_write_what_they_find(lake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.csv").write_text("oid,class_name\ncopy,SNIa\n")
    for command in (
        ["outliers", "--limit", "2", "--column", "Amplitude_1"],
        ["uncertain", "--count", "1", "--labels", str(tmp_path / "labels.csv")],
    ):
        out = tmp_path / f"{command[0]}.csv"
        with pytest.raises(SystemExit, match="0"):
            main([*command, "--lake", lake, "--out", str(out)])
        with pytest.raises(SystemExit, match="0"):
            main([*command, "--lake", lake])
    assert "odd_and_sure" in capsys.readouterr().out
    outlying, uncertain = (pl.read_csv(tmp_path / f"{name}.csv") for name in ("outliers", "uncertain"))
    assert outlying["oid"].to_list() == ["odd", "odd_and_sure"]
    assert uncertain["oid"].to_list() == ["other"]
    assert np.isfinite(outlying["Amplitude_1"].to_numpy()).all()
