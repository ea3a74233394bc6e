"""Simulated feature sets: a function of seed and counts, class by class, whoever works on them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alerce_spark.features.extract import extract
from alerce_spark.features.names import FEATURES
from alerce_spark.simulation.curves import light_curves
from alerce_spark.training.light_curves import (
    from_curves,
    mean_magnitude,
    simulated_provenance,
    simulated_set,
)
from alerce_spark.training.sets import FeatureSet


@pytest.fixture(scope="module")
def some() -> FeatureSet:
    return simulated_set(5, {"RRL": 6, "SNIa": 4}, workers=1)


def _same(one: FeatureSet, two: FeatureSet) -> None:
    for name in ("oid", "labels", "matrix", "ndet", "magnitude", "ra", "dec"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_every_object_asked_for_has_features(some: FeatureSet) -> None:
    assert some.counts() == {"RRL": 6, "SNIa": 4}
    assert (some.ndet >= 6).all()
    assert np.isfinite(some.matrix).any(axis=1).all()
    assert np.isfinite([some.magnitude, some.ra, some.dec]).all()
    assert all(oid.startswith("sim5-") for oid in some.oid)
    assert some.provenance == simulated_provenance(5, {"RRL": 6, "SNIa": 4})


def test_two_processes_make_the_same_set_in_order(some: FeatureSet) -> None:
    heard: list[tuple[int, int]] = []
    again = simulated_set(5, {"SNIa": 4, "RRL": 6}, workers=2, progress=lambda *done: heard.append(done))
    _same(some, again)
    assert heard[-1] == (10, 10)


def test_a_class_is_the_same_whatever_the_others_and_other_seeds_differ(some: FeatureSet) -> None:
    _same(simulated_set(5, {"RRL": 6, "DSCT": 0}, workers=1), some.take(some.labels == "RRL"))
    other = simulated_set(6, {"RRL": 6}, workers=1)
    assert not set(other.oid) & set(some.oid)
    assert not np.isin(other.ra, some.ra).any()


def test_without_degrading_features_are_those_of_the_whole_light_curve() -> None:
    untouched = simulated_set(5, {"RRL": 6}, workers=1, degraded={"early": 0, "one_band": 0, "without_wise": 0})
    curves = light_curves(5, {"RRL": 6})
    objects = curves.objects()
    np.testing.assert_array_equal(untouched.matrix, extract(objects))
    assert untouched.ndet.tolist() == np.diff(objects.both.offsets).tolist()
    for i, band in ((i, b) for i in range(6) for b in (objects.bands[1],)):
        rows = slice(band.offsets[i], band.offsets[i + 1])
        if rows.stop > rows.start:
            assert mean_magnitude(objects)[i] == pytest.approx(band.mag[rows].mean())


def test_degrading_cuts_hides_bands_and_drops_wise() -> None:
    everything = {"early": 1.0, "one_band": 1.0, "without_wise": 1.0}
    whole = simulated_set(5, {"RRL": 6}, workers=1, degraded=dict.fromkeys(everything, 0.0))
    less = simulated_set(5, {"RRL": 6}, workers=1, degraded=everything)
    assert (less.ndet <= whole.ndet).all()
    assert (less.ndet < whole.ndet).any()
    assert (less.ndet >= 6).all()
    wise = [k for k, name in enumerate(FEATURES) if "W2" in name or "W3" in name]
    assert np.isnan(less.matrix[:, wise]).all()
    bands = [np.isfinite(less.matrix[:, FEATURES.index(f"Std_{fid}")]) for fid in (1, 2)]
    assert (bands[0] ^ bands[1]).all()


def test_objects_without_enough_points_are_left_out() -> None:
    curves = light_curves(5, {"RRL": 6})
    group = np.repeat(np.arange(6), np.diff(curves.offsets))
    first_only = (group > 0) | (np.arange(len(group)) < 3)
    kept = from_curves(curves.keep(first_only, np.ones(len(curves.non_detections["mjd"]), bool)))
    assert kept.oid.tolist() == curves.oid[1:].tolist()


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    """Spawned workers begin with the caller's main module, which here leaves a line at each run."""
    script, lines = tmp_path / "script.py", tmp_path / "lines"
    script.write_text(
        f"open({str(lines)!r}, 'a').write('run\\n')\n"
        "from alerce_spark.training.light_curves import simulated_set\n"
        "assert len(simulated_set(1, {'RRL': 1, 'SNIa': 1}, workers=2)) == 2\n"
        "assert __file__ and __name__ == '__main__'\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
    assert lines.read_text() == "run\n"
