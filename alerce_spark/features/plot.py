"""One figure of one object: light curve with limits, folded light curve, periodogram, and the fitted models."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alerce_spark.features import harmonics, periodogram, spm
from alerce_spark.features.curves import Curves, Float, Limits, Objects
from alerce_spark.text import printable

_BANDS = (("g", "#1a9850"), ("r", "#d73027"))
_PHASES = np.linspace(0.0, 2.0, 401)
_DAYS = 0.99727  # sidereal day [d]: daily observations give aliases at ± 1 per day


def figure(objects: Objects, i: int, period: float | None = None) -> Figure:
    """Figure of object i of `objects`, as A4 landscape; `savefig` makes a PNG of it.

    Panels: apparent light curve with upper limits; the light curve folded at the period and at twice the period, with
    the series of seven harmonics; periodogram with the period marked; signed difference flux with the supernova model.
    `period` [d] replaces the best one. A panel without data says so. Raises IndexError if there is no such object.
    """
    oid = objects.oid[i]
    bands = tuple(_one(curves, i) for curves in objects.bands)
    found = periodogram.search(objects.bands, i)
    best = found.period if period is None else period
    page = Figure(figsize=(11.7, 8.3), layout="constrained")
    panels = page.subplot_mosaic([["curve", "curve"], ["once", "twice"], ["power", "flux"]])
    kind = "corrected" if objects.corrected[i] else "difference"
    counts = ", ".join(f"{len(curve.mjd)} in {name}" for curve, (name, _) in zip(bands, _BANDS, strict=True))
    page.suptitle(f"{printable(oid, 60)}   {kind} photometry, {counts}", fontweight="bold", parse_math=False)
    _draw_curve(panels["curve"], bands, [(limits, i) for limits in objects.limits])
    for name, cycles in (("once", 1), ("twice", 2)):
        _draw_folded(panels[name], bands, best, cycles)
    _draw_power(panels["power"], *periodogram.spectrum(objects, i), best, found)
    _draw_flux(panels["flux"], bands)
    return page


def _one(curves: Curves, i: int) -> Curves:
    """Curve i alone."""
    rows = slice(curves.offsets[i], curves.offsets[i + 1])
    columns = {name: values[rows] for name, values in vars(curves).items() if name != "offsets"}
    return Curves(offsets=np.array([0, rows.stop - rows.start]), **columns)


def _nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", color="0.4", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def _points(axes: Axes, x: Float, curve: Curves, band: int) -> None:
    name, colour = _BANDS[band]
    axes.errorbar(x, curve.mag, curve.err, fmt="o", ms=3.5, lw=0.8, color=colour, alpha=0.75, label=name)


def _draw_curve(axes: Axes, bands: tuple[Curves, ...], limits: list[tuple[Limits, int]]) -> None:
    axes.set_title("Light curve", loc="left", fontsize="medium")
    if not any(len(curve.mjd) for curve in bands):
        _nothing(axes, "too few detections")
        return
    for band, (curve, (limit, i)) in enumerate(zip(bands, limits, strict=True)):
        name, colour = _BANDS[band]
        rows = slice(limit.offsets[i], limit.offsets[i + 1])
        if len(limit.mjd[rows]):
            style: dict[str, Any] = {"marker": "v", "s": 14, "facecolors": "none", "edgecolors": colour, "lw": 0.7}
            axes.scatter(
                limit.mjd[rows], limit.diffmaglim[rows], alpha=0.35, label=f"{name} limit (difference)", **style
            )
        if len(curve.mjd):
            _points(axes, curve.mjd, curve, band)
    axes.set(xlabel="MJD [d]", ylabel="magnitude")
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.invert_yaxis()
    axes.legend(loc="best", fontsize="small", ncols=4, framealpha=0.6)


def _draw_folded(axes: Axes, bands: tuple[Curves, ...], period: float, cycles: int) -> None:
    """Phase 0 is the object's first detection, as in the features; each point is drawn in two turns."""
    fold = cycles * period
    axes.set_title(f"Folded at {'' if cycles == 1 else '2 × '}{period:.7g} d", loc="left", fontsize="medium")
    if not fold > 0.0:
        axes.set_title("Folded", loc="left", fontsize="medium")
        _nothing(axes, "no period")
        return
    origin = min(curve.mjd[0] for curve in bands if len(curve.mjd))
    for band, curve in enumerate(bands):
        if not len(curve.mjd):
            continue
        phase = (curve.mjd - origin) / fold % 1.0
        twice = {name: np.tile(getattr(curve, name), 2) for name in ("mag", "err")}
        _points(axes, np.concatenate((phase, phase + 1.0)), Curves(**{**vars(curve), **twice}), band)
        if len(curve.mjd) >= periodogram.MIN_POINTS:
            series = harmonics.fit(curve.mjd - origin, curve.mag, curve.err, period)
            model = harmonics.model(_PHASES * fold, period, series)
            axes.plot(_PHASES, model, color=_BANDS[band][1], lw=1.2)
    mag = np.concatenate([curve.mag for curve in bands])
    margin = 0.15 * np.ptp(mag) + 0.05
    axes.set(xlabel="phase", ylabel="magnitude", xlim=(0.0, 2.0), ylim=(mag.max() + margin, mag.min() - margin))


def _draw_power(axes: Axes, frequency: Float, power: Float, period: float, found: periodogram.Search) -> None:
    axes.set_title("Periodogram", loc="left", fontsize="medium")
    if not len(frequency) or not period > 0.0:
        _nothing(axes, "no period")
        return
    axes.plot(1.0 / frequency, power, color="0.25", lw=0.5, rasterized=True)
    axes.axvline(period, color="#4575b4", lw=1.5, alpha=0.7, label=f"{period:.7g} d")
    for k, days in enumerate((1.0 / _DAYS, -1.0 / _DAYS)):
        alias = 1.0 / abs(1.0 / period + days)
        axes.axvline(alias, color="#f46d43", lw=0.9, ls="--", label=None if k else "daily aliases")
    for k, factor in enumerate((0.5, 2.0)):
        axes.axvline(factor * period, color="#4575b4", lw=0.9, ls=":", label=None if k else "half and double")
    axes.set(xscale="log", xlabel="period [d]", ylabel="power F", xlim=(1.0 / frequency[-1], 1.0 / frequency[0]))
    axes.set_title(f"false alarm {found.false_alarm:.1g}, PPE {found.ppe:.3f}", loc="right", fontsize="small")
    axes.legend(loc="best", fontsize="small", framealpha=0.6)


def _draw_flux(axes: Axes, bands: tuple[Curves, ...]) -> None:
    axes.set_title("Difference flux and supernova model", loc="left", fontsize="medium")
    starts = [curve.mjd[0] for curve in bands if len(curve.mjd)]
    if not starts:
        _nothing(axes, "too few detections")
        return
    origin = min(starts)
    for band, curve in enumerate(bands):
        if not len(curve.mjd):
            continue
        name, colour = _BANDS[band]
        flux = curve.sign * 10.0 ** (26.0 - (curve.magpsf + 48.6) / 2.5)
        error = np.abs(flux) * 0.4 * np.log(10.0) * curve.sigmapsf
        axes.errorbar(curve.mjd - origin, flux, error, fmt="o", ms=3.5, lw=0.8, color=colour, alpha=0.75, label=name)
        values = dict(zip(spm.NAMES, spm.supernova_model(curve)[0], strict=True))
        if np.isfinite(values["SPM_A"]):
            t = np.linspace(0.0, np.ptp(curve.mjd), 400)
            axes.plot(t + curve.mjd[0] - origin, supernova_flux(t, values), color=colour, lw=1.2)
    axes.axhline(0.0, color="0.6", lw=0.6)
    axes.set(xlabel=f"days since {origin:.2f}", ylabel="difference flux [mJy]")
    axes.legend(loc="best", fontsize="small", framealpha=0.6)


def supernova_flux(t: Float, values: dict[str, float]) -> Float:
    """Flux [mJy] of the supernova parametric model (docs/features.md) t days after the first point.

    `values` are the SPM features of one band, by name without suffix.
    """
    t0, gamma, beta = (values[f"SPM_{name}"] for name in ("t0", "gamma", "beta"))
    late = t - t0 - gamma
    mix = 1.0 / (1.0 + np.exp(np.clip(-late / 3.0, -700.0, 700.0)))
    decline = (1.0 - beta) * np.exp(np.clip(-late / values["SPM_tau_fall"], -700.0, 100.0))
    plateau = 1.0 - beta * (t - t0) / gamma
    rise = 1.0 + np.exp(np.clip(-(t - t0) / values["SPM_tau_rise"], -700.0, 700.0))
    return values["SPM_A"] * (decline * mix + plateau * (1.0 - mix)) / rise
