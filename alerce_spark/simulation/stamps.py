"""Stamps: gzipped FITS cutouts of the science, reference and difference image, from a small pool for each scene.

Compressing three images takes milliseconds, so packets share images: the pool holds a few variants of each scene, sign
and brightness, made when first asked for. Which variant a packet gets is a pure function of its candid.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field

import numpy as np

from alerce_spark.simulation.randoms import key_of

SIDE = 63
#: Peak signal-to-noise of the difference, for faint, medium and bright alerts, and the limits between them.
LEVELS = (5.5, 15.0, 60.0)
LEVEL_EDGES = (9.0, 17.0)
VARIANTS = 6
SKY_LEVEL, NOISE = 150.0, 7.0

Triplet = tuple[bytes, bytes, bytes]


def fits_gz(image: np.ndarray) -> bytes:
    """A 2-D image as gzipped FITS (float32, big endian, header as in ZTF's stamps); same image, same bytes."""
    rows, columns = image.shape
    cards = ("SIMPLE", "T"), ("BITPIX", "-32"), ("NAXIS", "2"), ("NAXIS1", str(columns)), ("NAXIS2", str(rows))
    header = "".join(f"{name:<8}= {value:>20}".ljust(80) for name, value in cards)
    header += "BUNIT   = 'DN      '".ljust(80) + "END".ljust(80)
    data = image.astype(">f4").tobytes()
    padding = b"\0" * (-len(data) % 2880)
    return gzip.compress(header.ljust(2880).encode() + data + padding, compresslevel=6, mtime=0)


@dataclass
class StampPool:
    """Stamps of one seed. Kinds of stamp: scene of the source, sign and brightness of the alert, and flaw."""

    seed: int
    _made: dict[tuple[str, bool, int, str, int], Triplet] = field(default_factory=dict, repr=False)

    def triplet(self, scene: str, is_brighter: bool, snr: float, flaw: str, draw: int) -> Triplet:
        """Science, reference and difference stamp.

        scene: "star", "nucleus", "host", "mover" or "artefact". flaw: "" for none, "edge" for fewer than 63 pixels on a
        side (the detector's edge), "nan" for some pixels without a value. draw: picks the variant.
        """
        level = sum(snr > edge for edge in LEVEL_EDGES)
        key = (scene, is_brighter, level, flaw, draw % VARIANTS)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _make(self, scene: str, is_brighter: bool, level: int, flaw: str, variant: int) -> Triplet:
        rng = np.random.default_rng(int(key_of(self.seed, f"stamp {scene} {is_brighter} {level} {flaw} {variant}")))
        images = _images(rng, scene, 1.0 if is_brighter else -1.0, LEVELS[level] * rng.uniform(0.8, 1.3))
        if flaw == "edge":
            short = int(rng.integers(41, SIDE))
            images = [im[:, :short] for im in images] if rng.random() < 0.5 else [im[-short:] for im in images]
        elif flaw == "nan":
            masked = _masked_pixels(rng)
            for image in images:
                image[masked] = np.nan
        science, reference, difference = (fits_gz(image) for image in images)
        return science, reference, difference


def _gaussian(centre: np.ndarray, fwhm: float, elongation: float = 1.0, angle: float = 0.0) -> np.ndarray:
    """Elliptical Gaussian of unit peak at pixel x, y = centre."""
    v, u = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    along = (u - centre[0]) * np.cos(angle) + (v - centre[1]) * np.sin(angle)
    across = -(u - centre[0]) * np.sin(angle) + (v - centre[1]) * np.cos(angle)
    return np.exp(-0.5 * ((along / elongation) ** 2 + across**2) * (2.3548 / fwhm) ** 2)


def _images(rng: np.random.Generator, scene: str, sign: float, snr: float) -> list[np.ndarray]:
    """Science, reference and difference image of a scene; the source changes by sign · snr · noise at its peak."""
    fwhm = rng.uniform(1.8, 3.2)
    centre = 31 + rng.normal(0, 0.25, 2)
    fixed = np.zeros((SIDE, SIDE))
    for _ in range(rng.poisson(4)):
        fixed += 10.0 ** rng.uniform(1.3, 3.2) * _gaussian(rng.uniform(0, SIDE, 2), fwhm)
    change = sign * snr * NOISE * _gaussian(centre, fwhm)
    if scene == "star":
        fixed += (snr * NOISE * rng.uniform(2.0, 8.0)) * _gaussian(centre, fwhm)
    elif scene == "nucleus":
        fixed += 400 * _gaussian(centre, fwhm) + 80 * _gaussian(centre, 9.0, rng.uniform(1, 2), rng.uniform(0, 3))
    elif scene == "host":
        away = centre + rng.normal(0, 3.0, 2)
        fixed += 10.0 ** rng.uniform(1.6, 2.6) * _gaussian(
            away, rng.uniform(5, 10), rng.uniform(1, 2.5), rng.uniform(0, 3)
        )
    elif scene == "mover":
        change = sign * snr * NOISE * _gaussian(centre, fwhm, rng.uniform(1.0, 1.4), rng.uniform(0, 3))
    else:
        change = _artefact(rng, centre, fwhm, sign * snr * NOISE)
    sky_noise, reference_noise = rng.normal(0, NOISE, (SIDE, SIDE)), rng.normal(0, NOISE / 4, (SIDE, SIDE))
    science = SKY_LEVEL + fixed + change + sky_noise
    reference = SKY_LEVEL + fixed + reference_noise
    residual = 0.01 * fixed * rng.normal(0, 1, (SIDE, SIDE))
    return [science, reference, change + sky_noise - reference_noise + residual]


def _artefact(rng: np.random.Generator, centre: np.ndarray, fwhm: float, peak: float) -> np.ndarray:
    """Dipole of a badly aligned star, cosmic ray of one or two pixels, or bleeding columns."""
    form = rng.integers(3)
    if form == 0:
        shift = rng.normal(0, 1.2, 2)
        return 2.0 * peak * (_gaussian(centre + shift, fwhm) - 0.9 * _gaussian(centre - shift, fwhm))
    image = np.zeros((SIDE, SIDE))
    if form == 1:
        image[31, 31 : 31 + rng.integers(1, 4)] = 3.0 * peak
        return image
    image[:, 30 : 31 + rng.integers(1, 4)] = peak
    return image


def _masked_pixels(rng: np.random.Generator) -> np.ndarray:
    """Some whole columns or a corner patch without values, as saturated stars and detector edges leave."""
    masked = np.zeros((SIDE, SIDE), bool)
    if rng.random() < 0.5:
        first = rng.integers(0, SIDE - 3)
        masked[:, first : first + rng.integers(1, 4)] = True
    else:
        masked[: rng.integers(2, 15), : rng.integers(2, 15)] = True
    return masked
