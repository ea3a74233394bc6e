"""A night once more: the tables of a replay are those of the time, its classes are compared with the stored ones."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import fastavro
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from alerce_spark import lake
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, STAMP
from alerce_spark.config import Settings, conf_dir
from alerce_spark.crossmatch.catalogs import load
from alerce_spark.errors import LakeError
from alerce_spark.lake import catalogs, models
from alerce_spark.nightly.replay import replay
from alerce_spark.repository import key, open_repository
from alerce_spark.simulation.night import simulate
from alerce_spark.streaming.backfill import import_alerts
from alerce_spark.surveys.survey import MJD_ZERO
from alerce_spark.surveys.ztf import ZTF
from tests.lakes import snapshot

pytestmark = pytest.mark.spark


def test_a_night_is_replayed_as_it_was_by_another_version(
    spark: SparkSession, settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_for()
    # Ten weeks, so that the history of an object is longer than what a packet carries of it (30 days).
    made = simulate(11, objects=8, nights=70, cadence=4, history_days=0, mix={"RRL": 1}, fields=1)
    alerts = [next(fastavro.reader(io.BytesIO(packet))) for packet in made.packets]
    nights = [ZTF.night(alert["candidate"]["jd"] - MJD_ZERO) for alert in alerts]
    chosen = sorted(set(nights))[-3]
    repository = open_repository(settings.archive)
    for alert, packet in zip(alerts, made.packets, strict=True):
        repository.put(key(ZTF, alert["candidate"]["jd"] - MJD_ZERO, alert["candid"]), packet)
    repository.put(f"ztf/{chosen}/1.avro", b"no packet")

    # Half of the objects have a counterpart, so that W colours are features of some.
    places = {a["objectId"]: (a["candidate"]["ra"], a["candidate"]["dec"]) for a in alerts}
    rows = [f"J{k},{ra},{dec},{14 + k / 8},13.5,12.0" for k, (ra, dec) in enumerate(places.values()) if k % 2]
    wise = tmp_path / "wise.csv"
    wise.write_text("\n".join(["designation,ra,dec,w1mpro,w2mpro,w3mpro", *rows]) + "\n")
    known = load(conf_dir() / "catalogs.toml", ZTF)["allwise"]
    catalogs.import_catalog(settings.lake.path, "allwise", known, [wise])

    def take(name: str, wanted: Callable[[str], bool], classify: bool) -> None:
        folder = tmp_path / name
        folder.mkdir()
        for k, packet in enumerate(made.packets):
            if wanted(nights[k]):
                (folder / f"{k}.avro").write_bytes(packet)
        import_alerts(spark, settings, [folder], classify=classify)

    take("before", lambda name: name <= chosen, classify=True)
    then = snapshot(settings.lake.path)
    classes_then = lake.open(settings.lake.path).table("probabilities").collect()
    take("after", lambda name: name > chosen, classify=False)
    shipped = models.bootstrap(LIGHTCURVE)
    assert shipped is not None
    models.register(settings.lake.path, LIGHTCURVE, "other.1", shipped)
    now = snapshot(settings.lake.path)

    done = replay(spark, settings, chosen, wanted=["other.1"])

    of_night = [alert for alert, name in zip(alerts, nights, strict=True) if name == chosen]
    seen = sorted({alert["objectId"] for alert in of_night})
    assert done.into == f"{settings.lake.path}/replays/{chosen}-other.1"
    assert (done.packets, done.refused, done.objects) == (len(of_night) + 1, 1, len(seen))
    # The stored lake is as before, that of the replay is what it was then, for the objects of the night.
    assert all(table.equals(now[name]) for name, table in snapshot(settings.lake.path).items())
    replayed = snapshot(done.into)
    for name in ("detections", "non_detections", "forced_photometry", "objects", "magstats"):
        expected = then[name].filter(pl.col("oid").is_in(seen))
        assert_frame_equal(replayed[name], expected, rel_tol=1e-12, abs_tol=1e-12)
    assert replayed["objects"]["ndet"].max() > now["objects"]["ndet"].min()  # type: ignore[operator]

    # The same forest under another name gives the same probabilities.
    classes = lake.open(done.into).table("probabilities").filter(classifier=LIGHTCURVE).sort("oid").collect()
    stored = classes_then.filter(pl.col("classifier") == LIGHTCURVE, pl.col("oid").is_in(seen)).sort("oid")
    assert len(stored) > 3
    assert set(classes["version"]) == {"other.1"}
    assert_frame_equal(classes.drop("version"), stored.drop("version"))
    features, features_then = (
        lake.open(path).table("features").join(classes.lazy(), ["oid", "candid"], "semi").sort("oid").collect()
        for path in (done.into, settings.lake.path)
    )
    assert_frame_equal(features, features_then)
    assert 0 < features["W1-W2"].count() < len(features)
    (versions,) = [v for v in done.versions if v.classifier == LIGHTCURVE]
    assert (versions.replayed, versions.objects, versions.only_stored) == ("other.1", len(stored), 0)
    assert (versions.same_input, versions.changed, versions.distance) == (len(stored), 0, 0.0)
    assert done.only_replayed.get(LIGHTCURVE, 0) == 0
    # An object's stamp class belongs to its first alert.
    firsts = {min(a["candid"] for a in alerts if a["objectId"] == oid) for oid in seen}
    stamps = lake.open(done.into).table("probabilities").filter(classifier=STAMP).collect()
    assert set(stamps["candid"]) == firsts & {a["candid"] for a in of_night}

    page = tmp_path / "reports" / "replay.html"
    done.report(page)
    assert "20" + chosen[2:] in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["models"][LIGHTCURVE] == "other.1"
    with pytest.raises(LakeError, match="is a lake"):
        replay(spark, settings, chosen, wanted=["other.1"])
    with pytest.raises(LakeError, match=r"no model 'other.2'.*other\.1"):
        replay(spark, settings, chosen, wanted=["other.2"])
    with pytest.raises(ValueError, match="no packet of ztf and the night 20010101"):
        replay(spark, settings, "20010101")
