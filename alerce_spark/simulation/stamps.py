"""Stamps: science, reference and difference image of alerts, consistent with their other columns.

`render` lays out the patch of sky of each alert (the change, the reference source, the PS1 neighbours, further stars
and galaxies) from the columns of its candidate record and has `scenes.py` draw it. The alert's key determines
everything else, so the stamps of an alert do not depend on the order or the other alerts of a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import igzip

from alerce_spark.alerts.stamps import CENTRE, SIDE
from alerce_spark.simulation import scenes
from alerce_spark.simulation.packets import Columns, Text
from alerce_spark.simulation.randoms import Floats, Ints, key_of, normal, uniform
from alerce_spark.simulation.survey import X_PIXELS, Y_PIXELS

SCENES = ("star", "nucleus", "host", "mover", "artefact")
#: Size of a pixel [arcsec].
PIXEL_SCALE = 1.01
#: Share of alerts with masked pixels, and of those whose reference has NO_VALUE for NaN, in 416 real packets.
MASKED, LOWEST = 0.075, 0.1
NO_VALUE = np.float32(-3.4028235e38)
#: Most stars and galaxies in a patch that are not in any column.
MOST_FIELD_SOURCES = 40
#: Faintest of them: what a reference image of 15 frames shows.
FAINTEST = 23.0
N_PS1 = 3
#: Shares of the artefacts without a bright star, in the order of scenes' forms, for candidates brighter than the
#: reference and for fainter ones: particles and stray light leave no holes.
ARTEFACTS = np.array([[0.0, 0.02, 0.30, 0.08, 0.12, 0.12, 0.05, 0.31], [0.0, 0.2, 0.0, 0.12, 0.0, 0.0, 0.0, 0.68]])

Images = npt.NDArray[np.float32]
Table = Mapping[str, npt.NDArray[Any]]
Triplet = tuple[bytes, bytes, bytes]


def plain(columns: Columns) -> dict[str, npt.NDArray[Any]]:
    """Columns of a record as NumPy arrays; texts become arrays of str, empty where null."""
    return {
        name: np.array([bytes(c[: max(k, 0)]).decode() for c, k in zip(values.chars, values.length, strict=True)])
        if isinstance(values, Text)
        else values
        for name, values in columns.items()
    }


def is_brighter(isdiffpos: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Mask of the alerts that brightened, from texts (t, 1: yes) or numbers (above 0: yes)."""
    return np.isin(isdiffpos, ("t", "1")) if isdiffpos.dtype.kind in "UO" else isdiffpos > 0


def render(
    columns: Table, scene: npt.NDArray[Any], key: Ints, seed: int = 0, is_masked: npt.NDArray[Any] | None = None
) -> Images:
    """Stamps of n alerts: float32 (n, 3, 63, 63): science, reference, difference, in DN; NaN for masked pixels.

    columns: candidate records (names and units of the packet; isdiffpos as text or sign). Needs ra, dec, xpos, ypos,
    fid, isdiffpos, magpsf, diffmaglim, magzpsci, fwhm, seeratio, elong, ranr, decnr, magnr, distnr, sgscore1–3,
    distpsnr1–3, objectidps1–3, nmtchps and the PS1 magnitudes. scene: one of SCENES for each. key: an integer for each,
    for example its candid. is_masked: mask of alerts with pixels without a value, by default a share of MASKED. `cut`
    cuts stamps at the border of the detector.

    Raises ValueError for an unknown scene.
    """
    if set(np.unique(scene)) - set(SCENES):
        raise ValueError(f"scenes are {', '.join(SCENES)}; got {sorted(set(np.unique(scene)) - set(SCENES))}")
    patches = _Patches(columns, np.asarray(scene), np.asarray(key, np.int64), seed)
    masked = uniform(seed, "masked", key) < MASKED if is_masked is None else is_masked
    out = np.empty((len(key), 3, SIDE, SIDE), np.float32)
    keys = (uniform(seed, "stamp", key) * 2**53).astype(np.uint64)
    sources = patches.sources()
    scenes.draw(keys, patches.alerts(masked, sources), sources, out)
    return out


@dataclass(frozen=True)
class _Patches:
    """The patches of sky of n alerts as the tables that `scenes.draw` takes."""

    columns: Table
    scene: npt.NDArray[Any]
    key: Ints
    seed: int

    def _u(self, name: str, low: float = 0.0, high: float = 1.0, key: Ints | None = None) -> Floats:
        return low + (high - low) * uniform(self.seed, f"stamp {name}", self.key if key is None else key)

    def _n(self, name: str, key: Ints | None = None) -> Floats:
        return normal(self.seed, f"stamp {name}", self.key if key is None else key)

    @property
    def _object(self) -> Ints:
        """A key of the patch, the same for all alerts of an object: its nearest PS1 source, else its position."""
        place = np.floor(self.columns["ra"] * 500.0).astype(np.int64) * 10**6 + np.floor(
            (self.columns["dec"] + 90.0) * 500.0
        ).astype(np.int64)
        ps1 = self.columns["objectidps1"].astype(np.int64)
        return np.where(ps1 > 0, ps1, place)

    def _zero_point(self) -> Floats:
        zp = self.columns["magzpsci"].astype(np.float64)
        return np.where(zp > 20.0, zp, 26.2)

    def _dn(self, mag: Floats) -> Floats:
        """Flux in DN; 0 if the magnitude is a sentinel or NaN."""
        has = (mag > 5.0) & (mag < 30.0)
        return np.where(has, 10.0 ** (0.4 * (self._zero_point() - np.where(has, mag, 20.0))), 0.0)

    def _centre(self) -> tuple[Floats, Floats]:
        x, y = self.columns["xpos"].astype(np.float64), self.columns["ypos"].astype(np.float64)
        return CENTRE + x - np.rint(x), CENTRE + y - np.rint(y)

    def alerts(self, masked: npt.NDArray[Any], sources: Floats) -> Floats:
        """(n, N_ALERT): the candidate, the two images and the masked pixels."""
        c, n = self.columns, self.key.size
        out = np.zeros((n, scenes.N_ALERT))
        out[:, scenes.X], out[:, scenes.Y] = self._centre()
        out[:, scenes.FLUX] = self._dn(c["magpsf"].astype(np.float64))
        out[:, scenes.SIGN] = np.where(is_brighter(c["isdiffpos"]), 1.0, -1.0)
        seeing = c["fwhm"].astype(np.float64) / np.clip(c["seeratio"].astype(np.float64), 0.4, 2.0)
        out[:, scenes.SEEING] = seeing = np.clip(0.92 * seeing, 1.35, 4.0)
        out[:, scenes.TEMPLATE_SEEING] = np.clip(
            2.2 * np.exp(0.06 * self._n("template seeing", self._object)), 1.8, 2.8
        )
        out[:, scenes.ELONGATION] = 1.0 + 0.07 * np.abs(self._n("elongation"))
        out[:, scenes.ANGLE] = self._u("angle", 0.0, np.pi)
        # The limit is that of a point source: wider images need less noise for the same one.
        limit = self._dn(c["diffmaglim"].astype(np.float64))
        noise = 0.0258 * limit * np.clip(2.1 / seeing, 0.7, 1.4) ** 0.5 * np.exp(0.08 * self._n("noise"))
        out[:, scenes.NOISE] = np.maximum(noise, 1.5)
        # A reference has its own depth; measured: 1.3 to 1.8 DN in half of the packets, 0.9 to 2.5 in nearly all.
        out[:, scenes.TEMPLATE_NOISE] = 1.35 * np.exp(0.22 * self._n("template noise", self._object))
        band = np.clip(c["fid"].astype(np.int64), 1, 3) - 1
        out[:, scenes.SKY] = np.array([109.0, 162.0, 210.0])[band] * np.exp(0.16 * self._n("sky"))
        out[:, scenes.FORM] = self._forms()
        is_mover = self.scene == "mover"
        # Main-belt bodies move by a quarter of a pixel in 30 s, one in thirty by pixels.
        fast = np.where(self._u("fast") < 0.03, self._u("trail", 1.0, 7.0), self._u("trail", 0.1, 0.4))
        out[:, scenes.TRAIL] = np.where(is_mover, fast, 0.0)
        out[:, scenes.TRAIL_ANGLE] = self._u("direction", 0.0, np.pi)
        self._mask(out, masked, sources)
        return out

    def _forms(self) -> Ints:
        """Choose the form of an artefact: residual of a bright star if there is one, else one of the other forms."""
        bright = (np.abs(self.columns["distnr"]) < 2.5) & (self.columns["magnr"] < 18.5)
        edges = np.cumsum(ARTEFACTS, axis=1)[np.where(is_brighter(self.columns["isdiffpos"]), 0, 1)]
        form = (self._u("form")[:, None] * edges[:, -1:] > edges).sum(axis=1).clip(1, scenes.N_FORMS - 1)
        form = np.where(bright & (self._u("star form") < 0.85), scenes.BAD_SUBTRACTION, form)
        return np.where(self.scene == "artefact", form, scenes.REAL)

    def _mask(self, out: Floats, masked: npt.NDArray[Any], sources: Floats) -> None:
        """Choose the masked pixels, never the candidate's, and put a bright star under a masked box."""
        n = self.key.size
        draw = self._u("mask form")
        size = np.where(draw < 0.12, self._u("mask size", 24.0, 40.0), np.floor(self._u("mask size", 7.0, 18.0)))
        form = scenes.BOX + np.searchsorted([0.58, 0.72, 0.86, 0.93], draw, side="right")
        size = np.where(form == scenes.BOX, size, np.floor(self._u("mask size", 1.0, 29.0)))
        out[:, scenes.MASK] = np.where(masked, form, scenes.NO_MASK)
        out[:, scenes.MASK_SIZE] = size
        away, turn = size / 2.0 + self._u("mask away", 4.0, 34.0), self._u("mask turn", 0.0, 2.0 * np.pi)
        # A box around the middle leaves out the candidate along at least one axis.
        reach = np.maximum(np.abs(np.cos(turn)), np.abs(np.sin(turn)))
        x, y = CENTRE + away * np.cos(turn) / reach, CENTRE + away * np.sin(turn) / reach
        out[:, scenes.MASK_X], out[:, scenes.MASK_Y] = np.rint(x), np.rint(y)
        star = masked & (form == scenes.BOX)
        sources[star, -1] = 0.0
        for column, values in ((scenes.S_X, x), (scenes.S_Y, y), (scenes.S_FLUX, self._dn(np.full(n, 12.3)))):
            sources[star, -1, column] = (values * (size / 12.0 if column == scenes.S_FLUX else 1.0))[star]
        sources[star, -1, scenes.S_RATIO] = 1.0

    def sources(self) -> Floats:
        """(n, 1 + 3 + MOST_FIELD_SOURCES, N_SOURCE): reference source, PS1 neighbours, and other sources."""
        out = np.zeros((self.key.size, 1 + N_PS1 + MOST_FIELD_SOURCES, scenes.N_SOURCE))
        out[:, :, scenes.S_RATIO] = 1.0
        x, y, flux = self._reference(out[:, 0])
        for k in range(N_PS1):
            self._neighbour(k, out[:, 1 + k], x, y, flux)
        self._field(out[:, 1 + N_PS1 :])
        return out

    def _reference(self, out: Floats) -> tuple[Floats, Floats, Floats]:
        """Add the nearest source of the reference image; returns its position and flux."""
        c = self.columns
        x, y = self._centre()
        distance = c["distnr"].astype(np.float64)
        east = (np.mod(c["ranr"] - c["ra"] + 180.0, 360.0) - 180.0) * np.cos(np.radians(c["dec"]))
        north = c["decnr"] - c["dec"]
        length = np.maximum(np.hypot(east, north), 1e-9)
        # Rows and columns of ZTF's images run against declination and right ascension.
        x, y = x - distance * east / length, y - distance * north / length
        flux = np.where(distance >= 0.0, self._dn(c["magnr"].astype(np.float64)), 0.0)
        lost = np.where(is_brighter(c["isdiffpos"]) | (self.scene == "artefact"), 0.0, self._dn(c["magpsf"]))
        # A faded source was on the reference: at a near catalogued source, else as an uncatalogued one.
        near = (distance >= 0.0) & (distance < 2.0)
        flux = np.where(near, np.maximum(flux, 1.02 * lost), np.where(lost > 0.0, 1.02 * lost, flux))
        cx, cy = self._centre()
        out[:, scenes.S_X] = np.where((lost > 0.0) & ~near, cx, x)
        out[:, scenes.S_Y] = np.where((lost > 0.0) & ~near, cy, y)
        out[:, scenes.S_FLUX] = flux
        mag = self._zero_point() - 2.5 * np.log10(np.maximum(flux, 1e-3))
        score = c["sgscore1"].astype(np.float64)
        extended = np.isin(self.scene, ("host", "nucleus")) & (distance >= 0.0) & (score < 0.6)
        self._extend(out, extended, mag, "reference")
        nucleus = np.where(self.scene == "nucleus", self._u("point", 0.25, 0.9, self._object), 0.1)
        out[:, scenes.S_POINT] = np.where(extended, nucleus, 1.0)
        return x, y, flux

    def _extend(self, out: Floats, extended: npt.NDArray[Any], mag: Floats, name: str) -> None:
        """Give galaxies a size that follows their magnitude, an axis ratio and a direction."""
        key = self._object
        radius = 2.4 * 10.0 ** (-0.15 * (mag - 18.0)) * np.exp(0.35 * self._n(f"{name} size", key))
        out[:, scenes.S_RADIUS] = np.where(extended, np.clip(radius, 0.5, 18.0), 0.0)
        out[:, scenes.S_RATIO] = np.where(extended, self._u(f"{name} ratio", 0.3, 1.0, key), 1.0)
        out[:, scenes.S_ANGLE] = self._u(f"{name} angle", 0.0, np.pi, key)

    def _neighbour(self, k: int, out: Floats, x: Floats, y: Floats, flux: Floats) -> None:
        """Add PS1 source number k, unless it is the reference source (at x, y with `flux`)."""
        c, number = self.columns, str(k + 1)
        distance = c[f"distpsnr{number}"].astype(np.float64) / PIXEL_SCALE
        band = np.clip(c["fid"].astype(np.int64), 1, 3) - 1
        mags = np.stack([c[f"s{b}mag{number}"].astype(np.float64) for b in "gri"])
        mag = mags[band, np.arange(band.size)]
        mag = np.where(mag > 5.0, mag, np.where(mags[1] > 5.0, mags[1] + 0.5, FAINTEST))
        # At the distance of the reference source and about as bright: the same one.
        same = (np.abs(distance - c["distnr"]) < 1.5) & (flux > 0.0) if k == 0 else np.zeros(band.size, bool)
        key = c[f"objectidps{number}"].astype(np.int64)
        turn = self._u("neighbour turn", 0.0, 2.0 * np.pi, key)
        cx, cy = self._centre()
        out[:, scenes.S_X], out[:, scenes.S_Y] = cx + distance * np.cos(turn), cy + distance * np.sin(turn)
        there = (distance >= 0.0) & ~same
        # No source is nearer than the reference's nearest one, and none lies under a moving object.
        there &= (distance > c["distnr"] - 0.5) | (mag > 22.0)
        out[:, scenes.S_FLUX] = np.where(there, self._dn(mag), 0.0)
        self._extend(out, c[f"sgscore{number}"].astype(np.float64) < 0.3, mag, f"neighbour {number}")
        out[:, scenes.S_POINT] = np.where(out[:, scenes.S_RADIUS] > 0.0, 0.15, 1.0)

    def _field(self, out: Floats) -> None:
        """Add other sources: about twice as dense as PS1's matches within 30 arcsec, and no nearer than the third."""
        c, n = self.columns, self.key.size
        third = c["distpsnr3"].astype(np.float64)
        inner = np.where(third > 0.0, np.clip(third / PIXEL_SCALE, 2.0, 30.0), 30.0)
        matches = np.clip(c["nmtchps"].astype(np.float64) - N_PS1, 0.0, 200.0)
        density = 2.2 * (matches + 1.0) / (np.pi * 30.0**2)
        expected = density * np.clip(SIDE**2 - np.pi * inner**2, 600.0, None)
        count = np.clip(np.rint(expected + np.sqrt(expected) * self._n("count", self._object)), 0, out.shape[1])
        key = np.repeat(self._object, out.shape[1]) * 64 + np.tile(np.arange(out.shape[1]), n)
        shape = (n, out.shape[1])
        x, y = (self._u(f"field {name}", -3.0, SIDE + 2.0, key).reshape(shape) for name in "xy")
        # Star counts double per magnitude.
        mag = FAINTEST + np.log10(self._u("field mag", 0.0, 1.0, key).reshape(shape)) / 0.27
        outside = np.hypot(x - CENTRE, y - CENTRE) > inner[:, None]
        there = outside & (np.arange(out.shape[1]) < count[:, None])
        zp = self._zero_point()[:, None]
        out[:, :, scenes.S_X], out[:, :, scenes.S_Y] = x, y
        out[:, :, scenes.S_FLUX] = np.where(there, 10.0 ** (0.4 * (zp - np.maximum(mag, 12.5))), 0.0)
        galaxy = (self._u("field kind", 0.0, 1.0, key).reshape(shape) < 0.3) & (mag > 16.0)
        radius = 2.4 * 10.0 ** (-0.15 * (mag - 18.0))
        out[:, :, scenes.S_RADIUS] = np.where(galaxy, np.clip(radius, 0.5, 5.0), 0.0)
        out[:, :, scenes.S_RATIO] = self._u("field ratio", 0.3, 1.0, key).reshape(shape)
        out[:, :, scenes.S_ANGLE] = self._u("field angle", 0.0, np.pi, key).reshape(shape)
        out[:, :, scenes.S_POINT] = np.where(galaxy, 0.15, 1.0)


def cut(images: Images, xpos: float, ypos: float) -> Images:
    """The part (3, rows, columns) of one alert's images that lies on the detector; xpos, ypos in pixels from 1 on."""
    x, y = int(np.rint(xpos)) - 1, int(np.rint(ypos)) - 1
    rows = slice(max(CENTRE - y, 0), min(SIDE, CENTRE + int(Y_PIXELS) - y))
    columns = slice(max(CENTRE - x, 0), min(SIDE, CENTRE + int(X_PIXELS) - x))
    return images[:, rows, columns]


def fits_gz(image: npt.NDArray[Any]) -> bytes:
    """A 2-D image as gzipped FITS (float32, big endian, header as in ZTF's stamps); same image, same bytes."""
    rows, columns = image.shape
    cards = ("SIMPLE", "T"), ("BITPIX", "-32"), ("NAXIS", "2"), ("NAXIS1", str(columns)), ("NAXIS2", str(rows))
    header = "".join(f"{name:<8}= {value:>20}".ljust(80) for name, value in cards)
    header += "BUNIT   = 'DN      '".ljust(80) + "END".ljust(80)
    data = image.astype(">f4").tobytes()
    padding = b"\0" * (-len(data) % 2880)
    return bytes(igzip.compress(header.ljust(2880).encode() + data + padding, compresslevel=1, mtime=0))


def triplets(
    columns: Table,
    scene: npt.NDArray[Any],
    key: Ints,
    seed: int,
    is_masked: npt.NDArray[Any],
    is_short: npt.NDArray[Any],
) -> list[Triplet]:
    """Gzipped science, reference and difference stamp of each alert, arguments as `render` has them.

    Stamps are cut at the border of the detector; those of is_short also as if the candidate lay near its far end.
    """
    images = render(columns, scene, key, seed, is_masked)
    lowest = uniform(seed, "stamp lowest", key) < LOWEST
    side = (41 + np.floor(22 * uniform(seed, "stamp side", key))).astype(np.int64)
    by_rows = uniform(seed, "stamp side form", key) < 0.5
    out: list[Triplet] = []
    for i in range(key.size):
        image = cut(images[i], columns["xpos"][i], columns["ypos"][i])
        if is_short[i]:
            image = image[:, : side[i]] if by_rows[i] else image[:, :, : side[i]]
        if lowest[i] and is_masked[i]:
            image[1] = np.where(np.isnan(image[1]), NO_VALUE, image[1])
        science, reference, difference = (fits_gz(one) for one in image)
        out.append((science, reference, difference))
    return out


#: Signal-to-noise limits between faint, medium and bright alerts in a pool, and magnitudes above the limit.
LEVEL_EDGES = (9.0, 17.0)
LEVELS = (0.4, 1.4, 2.8)
VARIANTS = 6


@dataclass
class StampPool:
    """A few stamps of each kind of alert, made on first use and shared by the packets of a load test.

    A pool uses only scene, sign, brightness and flaw of an alert: its stamps do not match the other columns.
    """

    seed: int
    _made: dict[tuple[str, bool, int, str, int], Triplet] = field(default_factory=dict, repr=False)

    def triplet(self, scene: str, brighter: bool, snr: float, flaw: str, draw: int) -> Triplet:
        """Gzipped science, reference and difference stamp.

        scene: one of SCENES. flaw: "" for none, "edge" for fewer than 63 pixels on a side, "nan" for some pixels
        without a value. draw: picks the variant.
        """
        level = sum(snr > edge for edge in LEVEL_EDGES)
        key = (scene, brighter, level, flaw, draw % VARIANTS)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _make(self, scene: str, brighter: bool, level: int, flaw: str, variant: int) -> Triplet:
        key = np.array(
            [key_of(self.seed, f"pool {scene} {brighter} {level} {flaw} {variant}") >> np.uint64(1)], np.int64
        )
        columns = {name: np.array([value]) for name, value in _typical(scene, brighter, level, variant).items()}
        return triplets(
            columns, np.array([scene]), key, self.seed, np.array([flaw == "nan"]), np.array([flaw == "edge"])
        )[0]


def _typical(scene: str, brighter: bool, level: int, variant: int) -> dict[str, Any]:
    """Columns of a typical alert: of a scene, a sign and a brightness."""
    limit = 20.4
    magpsf = limit - LEVELS[level] - 0.1 * variant
    away = {"star": 0.2, "nucleus": 0.2, "host": 1.0 + 0.8 * variant, "mover": 8.0 + variant}.get(scene, 0.3 + variant)
    magnr = {"star": magpsf - 1.5, "nucleus": 18.0, "host": 19.0, "mover": 22.5}.get(scene, 16.0 + variant)
    columns: dict[str, Any] = {
        "ra": 180.0, "dec": 0.0, "ranr": 180.0, "decnr": away * PIXEL_SCALE / 3600.0, "distnr": away, "magnr": magnr,
        "xpos": 1500.0 + 0.1 * variant, "ypos": 1500.3, "fid": 1 + variant % 2, "isdiffpos": "t" if brighter else "f",
        "magpsf": magpsf, "diffmaglim": limit, "magzpsci": 26.2, "fwhm": 2.1, "seeratio": 1.0, "elong": 1.1,
        "nmtchps": 6,
    }  # fmt: skip
    for k in range(N_PS1):
        score = 0.05 if k == 0 and scene in ("nucleus", "host") else 0.95
        columns |= {
            f"distpsnr{k + 1}": away + 9.0 * k,
            f"sgscore{k + 1}": score,
            f"objectidps{k + 1}": variant * 8 + k + 1,
        }
        columns |= {f"s{band}mag{k + 1}": magnr if k == 0 else 20.0 for band in "gri"}
    return columns
