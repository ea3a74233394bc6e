"""Stored and replayed classes side by side: counts, distances and matrices of made-up rows."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from alerce_spark.nightly.comparison import Comparison, compare

_SCHEMA = {
    "oid": pl.String,
    "candid": pl.Int64,
    "classifier": pl.String,
    "version": pl.String,
    "class": pl.String,
    "probability": pl.Float64,
    "probabilities": pl.List(pl.Struct({"key": pl.String, "value": pl.Float64})),
    "ndet_used": pl.Int32,
}


def _rows(*rows: tuple[str, str, str, dict[str, float], int]) -> pl.DataFrame:
    made = [
        {
            "oid": oid,
            "candid": 7,
            "classifier": classifier,
            "version": version,
            "class": max(values, key=lambda name: values[name]),
            "probability": max(values.values()),
            "probabilities": [{"key": name, "value": value} for name, value in values.items()],
            "ndet_used": ndet,
        }
        for oid, classifier, version, values, ndet in rows
    ]
    return pl.DataFrame(made, schema=_SCHEMA)


@pytest.fixture
def done() -> Comparison:
    stored = _rows(
        ("a", "lc", "1", {"QSO": 0.7, "AGN": 0.2, "RRL": 0.1}, 20),
        ("b", "lc", "1", {"QSO": 0.6, "AGN": 0.4}, 30),
        ("c", "lc", "1", {"RRL": 1.0}, 9),
        ("d", "lc", "1", {"RRL": 1.0}, 9),
        ("a", "lc", "0", {"AGN": 0.9, "QSO": 0.1}, 20),
        ("a", "stamp", "1", {"SN": 1.0}, 1),
    )
    replayed = _rows(
        ("a", "lc", "2", {"QSO": 0.5, "AGN": 0.3, "RRL": 0.2}, 20),
        ("b", "lc", "2", {"QSO": 0.1, "AGN": 0.9}, 31),
        ("c", "lc", "2", {"E": 0.8, "RRL": 0.2}, 9),
        ("e", "lc", "2", {"E": 1.0}, 9),
        ("e", "stamp", "1", {"SN": 1.0}, 1),
    )
    versions, new = compare(stored, replayed, most=2)
    return Comparison("20200701", "lake", "lake/replays/x", {"lc": "2"}, 9, 1, 4, versions, new)


def test_counts_and_distances(done: Comparison) -> None:
    old, new, stamp = done.versions
    assert [(v.classifier, v.stored, v.replayed) for v in done.versions] == [
        ("lc", "0", "2"),
        ("lc", "1", "2"),
        ("stamp", "1", "1"),
    ]
    assert (new.objects, new.same_input, new.changed, new.changed_on_same_input, new.only_stored) == (3, 2, 2, 1, 1)
    assert new.distance == pytest.approx((0.2 + 0.5 + 0.8) / 3)
    assert new.classes == ["AGN", "E", "QSO", "RRL"]
    assert new.confusion == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0]]
    assert [(c.oid, c.stored_class, c.replayed_class) for c in new.largest] == [("c", "RRL", "E"), ("b", "QSO", "AGN")]
    assert [c.distance for c in new.largest] == pytest.approx([0.8, 0.5])
    assert (old.objects, old.changed) == (1, 1)
    assert (stamp.objects, stamp.only_stored, stamp.distance, stamp.largest) == (0, 1, 0.0, [])
    assert done.only_replayed == {"lc": 1, "stamp": 1}


def test_report_says_the_same_to_people_and_to_programs(done: Comparison, tmp_path: Path) -> None:
    page = tmp_path / "new" / "replay.html"
    done.report(page)
    text = page.read_text()
    for part in ("Replay of the night 20200701", "lc: 1 → 2", "3 objects have both; 2 changed class", "9 packets, 1"):
        assert part in text
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert numbers["versions"][1]["confusion"][2] == [1, 0, 1, 0]
    assert numbers["versions"][1]["largest"][0]["oid"] == "c"
