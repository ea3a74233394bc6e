"""The report stands alone, repeats to the byte, and shows the numbers that the JSON beside it holds."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from alerce_spark.training import metrics, report
from alerce_spark.training.figures import Agreement
from alerce_spark.training.report import Report

STAMP = ("AGN", "SN", "VS", "asteroid", "bogus")


@pytest.fixture(scope="module")
def stamp_report() -> Report:
    """Of a stamp classifier that is right four times in five; no bogus among the objects."""
    rng = np.random.default_rng(2)
    truth, ndet = rng.integers(0, 4, 300), np.ones(300)
    called = np.where(rng.random(300) < 0.8, truth, rng.integers(0, 5, 300))
    probabilities = np.eye(5)[called] * 0.6 + 0.08
    ra, dec = rng.uniform(0, 360, 300), rng.uniform(-30, 90, 300)
    return Report(
        "Stamp <classifier>",
        {"model": "20260101.1", "seed": "2"},
        (metrics.evaluate("class", STAMP, truth, called),),
        (metrics.recall_against_magnitude(rng.uniform(14, 20, 300), truth, called, 5),),
        {
            "all": metrics.calibration(truth, probabilities),
            **metrics.calibration_by_detections(truth, probabilities, ndet),
        },
        metrics.predicted_sky(called, ra, dec, STAMP),
        Agreement("stamp class", STAMP, "light-curve class", ("SNIa", "RRL"), metrics.crosstab([0, 1], [1, 0], 5, 2)),
        {"all": [("W1-W2", 0.7), ("rb", 0.3)]},
        metrics.Verdict(False, ("class SN & more is lost",)),
        (report.Sheet("Real", ("set", "recall"), (("30 SNe", metrics.Estimate(0.9, 0.8, 1.0)), ("98", np.nan))),),
        report.PUBLISHED_STAMP,
    )


def test_page_stands_alone_and_escapes(stamp_report: Report, tmp_path: Path) -> None:
    out = report.write(stamp_report, tmp_path / "deep" / "report.html")
    page = out.read_text()
    assert "<h1>Stamp &lt;classifier&gt;</h1>" in page
    assert "class SN &amp; more is lost" in page
    assert "http" not in page
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(images) == page.count("<img") == 6
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)


def test_published_numbers_are_marked_as_measured_elsewhere(stamp_report: Report, tmp_path: Path) -> None:
    page = report.write(stamp_report, tmp_path / "r.html").read_text()
    assert "published*" in page
    assert "measured on other data" in page
    assert "<td>0.98</td>" in page  # asteroids in Fig. 4


def test_json_holds_the_numbers_of_the_metrics(stamp_report: Report, tmp_path: Path) -> None:
    found = json.loads(report.write(stamp_report, tmp_path / "r.html").with_suffix(".json").read_text())
    level = stamp_report.levels[0]
    assert found["levels"]["class"]["confusion"] == level.counts.tolist()
    assert found["levels"]["class"]["scores"]["recall"] == vars(level.scores["recall"])
    assert found["levels"]["class"]["classes"]["bogus"]["recall"]["value"] is None
    assert found["recall"]["magnitude"]["SN"]["14–15"]["objects"] == int(stamp_report.recall[0].counts[1, 1])
    assert found["calibration"]["all"]["objects"] == 300
    assert found["calibration"]["6–10"]["ece"] is None
    assert found["verdict"] == {"promote": False, "reasons": ["class SN & more is lost"]}
    assert found["sheets"]["Real"][0]["recall"] == {"value": 0.9, "low": 0.8, "high": 1.0}
    assert found["agreement"]["AGN"] == {"SNIa": 0, "RRL": 1}


def test_same_numbers_same_bytes(stamp_report: Report, tmp_path: Path) -> None:
    one, two = (report.write(stamp_report, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == two


def test_a_report_of_one_matrix_has_no_empty_parts(stamp_report: Report, tmp_path: Path) -> None:
    page = report.write(Report("Bare", {}, stamp_report.levels), tmp_path / "r.html").read_text()
    assert page.count("<h2>") == page.count("<img") == 1
    assert "published" not in page


def test_published_light_curve_recalls_average_to_the_published_macro_recall() -> None:
    from alerce_spark.training.report import PUBLISHED_LIGHT_CURVE

    known = {p.quantity: p.value for p in PUBLISHED_LIGHT_CURVE if p.level == "class"}
    by_class = [v for k, v in known.items() if k not in metrics.SCORES]
    assert len(by_class) == 15
    assert np.mean(by_class) == pytest.approx(known["recall"], abs=0.01)
