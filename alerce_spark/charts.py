"""Finding chart of one alert on a page: reference image with a cross, scale and directions; stamps; light curve.

All data come from the packet; no service is queried. The same packet gives the same bytes.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from typing import Any, Literal

import astropy.units as u
import fastavro
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.visualization import ZScaleInterval
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alerce_spark.surveys.survey import MJD_ZERO

#: Pixel size of ZTF's stamps [arcsec]; north is up and east is left if the first row is at the top.
_PIXEL = 1.01
_BANDS = {1: ("g", "#0F9D58"), 2: ("r", "#DB4437"), 3: ("i", "#5E35B1")}
_STAMPS = {"science": "cutoutScience", "reference": "cutoutTemplate", "difference": "cutoutDifference"}
_A4 = (8.27, 11.69)
#: Inner and outer end of the arms of the cross [arcsec], which leaves the object visible.
_ARMS = (3.0, 9.0)
_BAR = 10.0


def finding_chart(packet: bytes, form: Literal["pdf", "png"] = "pdf") -> bytes:
    """The page of a packet. Raises ValueError if it cannot be read."""
    record = next(iter(fastavro.reader(io.BytesIO(packet))))
    if not isinstance(record, dict):
        raise ValueError("the packet has no record")
    page = Figure(figsize=_A4)
    grid = page.add_gridspec(4, 3, height_ratios=(0.5, 2.7, 1.2, 1.2), hspace=0.3, top=0.95, bottom=0.06)
    _head(page.add_subplot(grid[0, :]), record)
    images = {name: _image(record.get(field)) for name, field in _STAMPS.items()}
    _reference(page.add_subplot(grid[1, :]), images["reference"])
    for k, (name, image) in enumerate(images.items()):
        _show(page.add_subplot(grid[2, k]), image, name)
    _light_curve(page.add_subplot(grid[3, :]), record)
    out = io.BytesIO()
    if form == "pdf":
        FigureCanvasPdf(page)
        page.savefig(out, format="pdf", metadata={"Title": record["objectId"], "CreationDate": None})
    else:
        FigureCanvasAgg(page)
        page.savefig(out, format="png", dpi=110, metadata={"Title": record["objectId"], "Software": None})
    return out.getvalue()


def _head(axes: Axes, record: dict[str, Any]) -> None:
    candidate = record["candidate"]
    at = SkyCoord(candidate["ra"], candidate["dec"], unit="deg")
    ra = at.ra.to_string(u.hour, sep=":", precision=2, pad=True)
    dec = at.dec.to_string(u.deg, sep=":", precision=1, pad=True, alwayssign=True)
    band = _BANDS.get(candidate["fid"], ("?", ""))[0]
    axes.axis("off")
    axes.text(0, 1, record["objectId"], fontsize=18, weight="bold", va="top")
    axes.text(
        0, 0.3, f"{ra}  {dec}   ({candidate['ra']:.6f}, {candidate['dec']:.6f})  J2000", family="monospace", va="top"
    )
    measured = f"{band} = {candidate['magpsf']:.2f} ± {candidate['sigmapsf']:.2f} mag, difference image"
    lines = f"alert {record['candid']}\n{measured}\nMJD {candidate['jd'] - MJD_ZERO:.5f}"
    axes.text(1, 1, lines, fontsize=9, ha="right", va="top")


def _image(cutout: dict[str, Any] | None) -> NDArray[np.float64] | None:
    """Pixels of a stamp; None if it is absent or damaged."""
    data = (cutout or {}).get("stampData")
    if not data:
        return None
    try:
        with fits.open(io.BytesIO(gzip.decompress(data)), ignore_missing_simple=True) as file:
            return np.asarray(file[0].data, np.float64)
    except (OSError, ValueError, TypeError, EOFError):
        return None


def _show(axes: Axes, image: NDArray[np.float64] | None, title: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    if image is None:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
        return
    values = image[np.isfinite(image)]
    low, high = ZScaleInterval().get_limits(values) if values.size else (0.0, 1.0)
    half_y, half_x = (side * _PIXEL / 2 for side in image.shape)
    reach = (half_x, -half_x, -half_y, half_y)  # east is positive, and left
    axes.imshow(image, cmap="gray_r", vmin=low, vmax=high, origin="upper", extent=reach, interpolation="nearest")


def _reference(axes: Axes, image: NDArray[np.float64] | None) -> None:
    """Draw the reference image with a cross, a scale bar and directions for observers."""
    _show(axes, image, "reference image")
    if image is None:
        return
    near, far = _ARMS
    axes.plot([-near, -far], [0, 0], "r", [0, 0], [near, far], "r", lw=1.3)
    left, right = axes.get_xlim()
    bottom, _ = axes.get_ylim()
    axes.plot([right + 4 + _BAR, right + 4], [bottom + 4] * 2, "b", lw=2)
    axes.text(right + 4 + _BAR / 2, bottom + 5, f'{_BAR:g}"', color="b", ha="center", va="bottom")
    corner = (left - 6 - _BAR, bottom + 4)
    north, east = (corner[0], corner[1] + _BAR), (corner[0] + _BAR, corner[1])
    for end in (north, east):
        axes.annotate("", end, corner, arrowprops={"arrowstyle": "->", "color": "b"})
    axes.text(north[0], north[1] + 1, "N", color="b", ha="center")
    axes.text(east[0] + 1, east[1], "E", color="b", ha="right", va="center")


def _light_curve(axes: Axes, record: dict[str, Any]) -> None:
    """Draw the detections of the packet, and its upper limits as arrows."""
    for fid, (band, colour) in _BANDS.items():
        points = np.array(list(_points(record, fid, "magpsf")), float).reshape(-1, 3)
        limits = np.array(list(_points(record, fid, "diffmaglim")), float).reshape(-1, 3)
        if len(points):
            axes.errorbar(points[:, 0], points[:, 1], points[:, 2], fmt="o", ms=3, color=colour, label=band)
        if len(limits):
            axes.plot(limits[:, 0], limits[:, 1], "v", ms=3, color=colour, alpha=0.3)
    axes.invert_yaxis()
    axes.set_xlabel("MJD [d]", fontsize=8)
    axes.set_ylabel("difference [mag]", fontsize=8)
    axes.tick_params(labelsize=7)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def _points(record: dict[str, Any], fid: int, column: str) -> Iterator[tuple[float, float, float]]:
    """mjd, magnitude, error of detections (`magpsf`) or upper limits (`diffmaglim`)."""
    for entry in (record["candidate"], *(record.get("prv_candidates") or [])):
        is_detection = entry.get("magpsf") is not None
        if entry["fid"] == fid and is_detection == (column == "magpsf") and (entry.get(column) or -1) > 0:
            yield entry["jd"] - MJD_ZERO, entry[column], entry.get("sigmapsf") or 0.0
