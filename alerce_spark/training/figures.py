"""Figures of classifier metrics, in colour-blind safe colours: confusion, recall, calibration, sky, importance."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alerce_spark.training.metrics import Binned, Calibration, Float, Int, Level, Sky

# Blue, vermilion and grey of Okabe & Ito 2008, distinguishable with every common kind of colour blindness.
_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#8c8c8c"
_COLUMNS = 5  # panels in a row
_WHITE_ABOVE = 0.55  # cells darker than this share take white numbers
_TALLEST = 15  # bars of a figure of importances


@dataclass(frozen=True)
class Agreement:
    """Counts (r, c) of objects by the classes that two classifiers give them (Fig. 5 of the paper)."""

    row_title: str
    rows: tuple[str, ...]
    column_title: str
    columns: tuple[str, ...]
    counts: Int


def as_html(figure: Figure, title: str, dpi: int = 110) -> str:
    """An <img> element that holds the figure as PNG."""
    png = io.BytesIO()
    # Without matplotlib's version in the file, equal numbers give equal bytes.
    figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}">'


def confusion(level: Level) -> Figure:
    """Confusion matrix in percent of the true class, with the distance to the bounds of the intervals."""
    k = len(level.classes)
    figure, axes = _square(k, k)
    share = 100 * np.nan_to_num(level.fraction)
    axes.imshow(share / 100, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(k, k):
        if np.isnan(level.fraction[i, j]):
            continue
        up, down = 100 * level.high[i, j] - share[i, j], share[i, j] - 100 * level.low[i, j]
        text = f"${share[i, j]:.0f}^{{+{up:.0f}}}_{{-{down:.0f}}}$" if share[i, j] >= 0.5 else "0"
        _number(axes, j, i, text, float(level.fraction[i, j]), k)
    support = level.counts.sum(axis=1)
    _matrix_axes(
        axes, "predicted", level.classes, "true", [f"{c}  ({n})" for c, n in zip(level.classes, support, strict=True)]
    )
    return figure


def agreement(table: Agreement) -> Figure:
    """Matrix of two classifiers' classes for the same objects: percent of each row, and the objects of the row."""
    r, c = table.counts.shape
    figure, axes = _square(max(r, 4), c)
    support = table.counts.sum(axis=1)
    share = table.counts / np.maximum(support, 1)[:, None]
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(r, c):
        _number(axes, j, i, f"{100 * share[i, j]:.0f}", share[i, j], c)
    rows = [f"{name}  ({n})" for name, n in zip(table.rows, support, strict=True)]
    _matrix_axes(axes, table.column_title, table.columns, table.row_title, rows)
    return figure


def _square(rows: int, columns: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(2.4 + 0.68 * columns, 1.6 + 0.62 * rows), layout="constrained")
    return figure, figure.subplots()


def _number(axes: Axes, x: int, y: int, text: str, share: float, columns: int) -> None:
    colour = "white" if share > _WHITE_ABOVE else "black"
    axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=13 if columns <= 6 else 10.5)


def _matrix_axes(axes: Axes, x: str, columns: Sequence[str], y: str, rows: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=x, ylabel=y)


def recall(binned: Binned, classes: Sequence[str]) -> Figure:
    """Recall of each class against a quantity, with 95 % intervals; bins without objects are left out."""
    figure, panels = _panels(len(classes), sharey=True)
    x = np.arange(len(binned.labels))
    for k, (name, axes) in enumerate(zip(classes, panels, strict=True)):
        there = binned.counts[k] > 0
        spread = np.abs(np.array([binned.low[k], binned.high[k]]) - binned.recall[k])[:, there]
        axes.errorbar(x[there], binned.recall[k, there], spread, fmt="o-", color=_BLUE, ms=4, lw=1.2, capsize=2)
        axes.set_title(f"{name}  ({binned.counts[k].sum()})", fontsize=10)
        axes.set(ylim=(-0.03, 1.03), xlim=(-0.5, len(x) - 0.5))
        axes.set_xticks(x, binned.labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.grid(alpha=0.3)
    figure.supylabel("recall")
    figure.supxlabel(binned.quantity)
    return figure


def calibration(parts: Mapping[str, Calibration]) -> Figure:
    """Reliability diagrams, one per group: share of correct answers against confidence, objects per bin as bars."""
    figure, panels = _panels(len(parts), sharey=True)
    for (label, part), axes in zip(parts.items(), panels, strict=True):
        edges = np.linspace(0, 1, len(part.counts) + 1)
        axes.bar(edges[:-1], part.counts / max(part.counts.max(), 1), np.diff(edges), align="edge", color="0.88")
        axes.plot([0, 1], [0, 1], ":", color=_GREY)
        axes.plot(part.confidence, part.accuracy, "o-", color=_BLUE, ms=4)
        axes.set_title(f"{label}  ({part.counts.sum()})\nerror {part.ece:.3f}, excess {part.excess:+.3f}", fontsize=10)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    figure.supylabel("share right")
    figure.supxlabel("confidence (bars: objects, scaled)")
    return figure


def sky(found: Sky) -> Figure:
    """Share of each predicted class by Galactic (blue) and ecliptic (vermilion) latitude; grey: all objects."""
    predicted = np.flatnonzero(found.counts)
    figure, panels = _panels(max(len(predicted), 1))
    middle = (found.edges[:-1] + found.edges[1:]) / 2
    for k, axes in zip(predicted, panels, strict=False):
        for histogram, colour in ((found.galactic, _BLUE), (found.ecliptic, _RED)):
            _steps(axes, middle, histogram.sum(axis=0), "--", colour, 0.8)
            _steps(axes, middle, histogram[k], "-", colour, 1.6)
        axes.set_title(f"{found.classes[k]}  ({found.counts[k]})", fontsize=10)
        axes.set(xlim=(-90, 90), ylim=(0, None), xticks=(-90, -45, 0, 45, 90))
    figure.supylabel("share of the class (dashed: of all objects)")
    figure.supxlabel("latitude [deg]: Galactic blue, ecliptic vermilion")
    return figure


def _steps(axes: Axes, middle: Float, counts: Int, style: str, colour: str, width: float) -> None:
    axes.step(middle, counts / max(counts.sum(), 1), where="mid", ls=style, color=colour, lw=width)


def importances(forests: Mapping[str, Sequence[tuple[str, float]]]) -> Figure:
    """The most important features, one panel per forest."""
    figure = Figure(figsize=(3.6 * len(forests), 4.2), layout="constrained")
    for axes, (name, weights) in zip(figure.subplots(1, len(forests), squeeze=False)[0], forests.items(), strict=True):
        top = sorted(weights, key=lambda w: -w[1])[:_TALLEST][::-1]
        axes.barh([w[0] for w in top], [w[1] for w in top], color=_BLUE)
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
    return figure


def _panels(n: int, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """n panels in rows of _COLUMNS; unused panels of the last row are empty."""
    rows, columns = -(-n // _COLUMNS), min(n, _COLUMNS)
    figure = Figure(figsize=(2.5 * columns + 0.8, 2.5 * rows + 0.6), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels[n:]:
        axes.remove()
    return figure, panels[:n]
