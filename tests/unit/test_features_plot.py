"""The figure of one object: content of its panels, also without data."""

from __future__ import annotations

import io

import numpy as np
import pytest
from feature_curves import LightCurve, noise, objects, periodic

from alerce_spark.features.plot import figure, supernova_flux
from alerce_spark.features.spm import NAMES, supernova_model


def test_figure_of_a_variable_holds_its_points_and_fits() -> None:
    several = objects([noise(np.random.default_rng(1), 20), periodic(np.random.default_rng(2), "RRL", 0.55, 80)])
    page = figure(several, 1)
    once, power = (next(a for a in page.axes if a.get_title(loc="left").startswith(t)) for t in ("Folded", "Period"))
    assert several.oid[1] in page.get_suptitle()
    assert "40 in g, 40 in r" in page.get_suptitle()
    models = [line for line in once.lines if len(line.get_xdata()) > 100]
    for line, fid in zip(models, (1, 2), strict=True):
        mag = several.bands[fid - 1].mag[20 // 2 :]
        assert np.ptp(line.get_ydata()) == pytest.approx(np.ptp(mag), rel=0.3)
    marked = {round(float(line.get_xdata()[0]), 3) for line in power.lines if len(line.get_xdata()) == 2}
    assert {0.55, 0.275, 1.1} <= marked
    file = io.BytesIO()
    page.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")


def test_another_period_can_be_asked_for() -> None:
    page = figure(objects([periodic(np.random.default_rng(2), "RRL", 0.55, 80)]), 0, period=1.2345)
    assert any("1.2345" in axes.get_title(loc="left") for axes in page.axes)


@pytest.mark.parametrize("n", [0, 3, 8])
def test_figure_of_little(n: int) -> None:
    curve = LightCurve(*(values[:n] for values in noise(np.random.default_rng(3), 20)[:4]), np.nan)
    page = figure(objects([curve]), 0)
    page.savefig(io.BytesIO(), format="png")
    texts = [text.get_text() for axes in page.axes for text in axes.texts]
    assert "no period" in texts
    assert ("too few detections" in texts) == (n == 0)


def test_supernova_curve_is_the_fitted_one() -> None:
    """SPM_chi of the curve as drawn is the feature SPM_chi."""
    rng = np.random.default_rng(4)
    t = np.sort(rng.uniform(58300.0, 58380.0, 40))
    truth = dict(zip(NAMES, (0.4, 0.3, 0.0, 20.0, 8.0, 25.0, 4.0), strict=True))
    flux = supernova_flux(t - t[0], truth) + rng.normal(0.0, 0.005, 40)
    mag = -2.5 * np.log10(np.abs(flux)) - 48.6 + 65.0
    curve = objects([LightCurve(t, mag, np.full(40, 0.02), np.ones(40, np.int64), np.nan)]).bands[0]
    values = dict(zip(NAMES, supernova_model(curve)[0], strict=True))
    assert values["SPM_A"] == pytest.approx(0.4, rel=0.5)
    signed = np.abs(flux)
    sigma = signed * (10.0 ** (0.4 * 0.02) - 1.0) + 0.01
    chi = (((signed - supernova_flux(t - t[0], values)) / sigma) ** 2).sum() / 34
    assert chi == pytest.approx(values["SPM_chi"], rel=1e-6)
