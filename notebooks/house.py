"""What the plots of the notebooks share: the style, the colours of bands and branches, a light curve on axes."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.axes import Axes

pl.Config.set_tbl_rows(15)
plt.style.use(Path(__file__).with_name("house.mplstyle"))

#: Colours of the bands and of the branches of the light-curve classifier.
BANDS = {"g": "#2a9d3a", "r": "#c8312b", "i": "#b8860b"}
BRANCHES = {"Transient": "#D55E00", "Stochastic": "#0072B2", "Periodic": "#009E73"}


def draw(axes: Axes, curve: pl.DataFrame, x: str = "mjd", limits: bool = True) -> None:
    """Draw a frame of `Lake.light_curve` of one object: points with errors, upper limits as open triangles.

    x: its column on the abscissa. The ordinate is `mag`, brighter is up.
    """
    for band, colour in BANDS.items():
        mine = curve.filter(pl.col("band") == band)
        points = mine.filter(pl.col("detected") & pl.col("mag").is_not_null())
        if points.height:
            axes.errorbar(points[x], points["mag"], points["e_mag"], fmt="o", lw=0.8, color=colour, label=band)
        below = mine.filter(~pl.col("detected") & pl.col("diffmaglim").is_not_null())
        if limits and below.height:
            axes.scatter(below[x], below["diffmaglim"], marker="v", s=12, fc="none", ec=colour, lw=0.6, alpha=0.5)
    axes.yaxis.set_inverted(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", handletextpad=0.1)
