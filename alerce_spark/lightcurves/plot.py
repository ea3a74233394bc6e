"""Light curves as figures: corrected and difference magnitudes with upper limits."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alerce_spark.text import printable

_BANDS = {1: ("g", "#2a9d3a"), 2: ("r", "#c8312b"), 3: ("i", "#b8860b")}


def figure(detections: pl.DataFrame, non_detections: pl.DataFrame, oids: Sequence[str]) -> Figure:
    """One panel per object: detections with errors (apparent magnitudes if the object is corrected), limits as arrows.

    Columns as in the tables of the same names.
    """
    drawn = Figure(figsize=(8, 2.6 * len(oids)), layout="constrained")
    for axes, oid in zip(drawn.subplots(len(oids), 1, squeeze=False)[:, 0], oids, strict=True):
        _panel(axes, detections.filter(pl.col("oid") == oid), non_detections.filter(pl.col("oid") == oid))
        axes.set_title(printable(oid, 60), loc="left", fontsize=10, parse_math=False)
    axes.set_xlabel("MJD")
    return drawn


def _panel(axes: Axes, detections: pl.DataFrame, limits: pl.DataFrame) -> None:
    apparent = detections.height > 0 and bool(detections.sort("mjd")["corrected"][0])
    mag, error = ("magpsf_corr", "sigmapsf_corr_ext") if apparent else ("magpsf", "sigmapsf")
    for fid, (band, colour) in _BANDS.items():
        points = detections.filter((pl.col("fid") == fid) & pl.col(mag).is_not_null())
        below = limits.filter((pl.col("fid") == fid) & pl.col("diffmaglim").is_not_null())
        if points.height:
            axes.errorbar(points["mjd"], points[mag], points[error], fmt="o", ms=4, lw=1, c=colour, label=band)
        if below.height and not apparent:
            axes.scatter(below["mjd"], below["diffmaglim"], marker="v", s=14, c=colour, alpha=0.35, lw=0)
    axes.invert_yaxis()
    axes.set_ylabel("apparent mag" if apparent else "difference mag")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
