"""Correction of difference photometry for the reference source, and the flags that come with it.

An alert gives the magnitude of the difference to a reference image. If the reference has a source at this position, the
apparent magnitude of the object is that of the sum of both fluxes (Förster et al. 2020, Eq. 1-2 and appendix A).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

#: A reference source (`distnr`) or PS1 source (`distpsnr1`) nearer than this is the object itself.
NEAR = 1.4
#: PS1 sources with a larger star/galaxy score `sgscore1` are stars.
STAR_SCORE = 0.4
#: Reference sources with `chinr` below this and `sharpnr` strictly inside the range are point-like.
CHINR_MAX = 2.0
SHARPNR_RANGE = (-0.13, 0.1)
#: ALeRCE's published code for "no positive flux" and "no valid error".
SENTINEL = 100.0


@dataclass(frozen=True)
class Corrected:
    """Corrected photometry of n detections, arrays of shape (n,); undefined magnitudes are NaN.

    `corrected`: the detection lies on a source of the reference. `magpsf_corr` [mag]: apparent magnitude.
    `sigmapsf_corr` [mag]: its error for a point source, after subtracting the variance of the reference; NaN if the
    result is not positive, as for about half of all real detections. `sigmapsf_corr_ext` [mag]: its error for an
    extended source, with the reference taken as exact. `no_flux`: corrected and measured, but the sum of both fluxes is
    not positive.
    """

    corrected: Bool
    magpsf_corr: Float
    sigmapsf_corr: Float
    sigmapsf_corr_ext: Float
    no_flux: Bool


class StellarFlags(NamedTuple):
    """Flags of counterparts in ZTF's reference and in PS1, and whether they are stars: boolean arrays of shape (n,)."""

    nearZTF: Bool
    nearPS1: Bool
    stellarPS1: Bool
    stellarZTF: Bool
    stellar: Bool


def correct(
    magpsf: ArrayLike, sigmapsf: ArrayLike, magnr: ArrayLike, sigmagnr: ArrayLike, distnr: ArrayLike, sign: ArrayLike
) -> Corrected:
    """Apparent magnitudes and errors of n detections: Eq. 1-2, A28 and A29 of Förster et al. 2020.

    All inputs have shape (n,), NaN where null: difference magnitude and error [mag], magnitude and error of the nearest
    reference source [mag], its distance as the packet gives it, and the sign of the difference, +1, -1 or NaN.
    Corrected means 0 <= distnr < 1.4, which excludes the code -999 for "no neighbour". Negative or null magnitudes
    (codes) and an unknown sign give NaN. The arithmetic is in double precision for any input type.
    """
    magpsf, sigmapsf, magnr, sigmagnr = (_finite(values) for values in (magpsf, sigmapsf, magnr, sigmagnr))
    corrected = _near(np.asarray(distnr, dtype=np.float64))
    reference = 10.0 ** (-0.4 * np.where(corrected & (magnr >= 0.0), magnr, np.nan))
    difference = 10.0 ** (-0.4 * np.where(magpsf >= 0.0, magpsf, np.nan))
    total = reference + np.asarray(sign, dtype=np.float64) * difference
    flux = np.where(total > 0.0, total, np.nan)
    error = difference * sigmapsf
    variance = error**2 - (reference * sigmagnr) ** 2
    return Corrected(
        corrected=corrected,
        magpsf_corr=-2.5 * np.log10(flux),
        sigmapsf_corr=np.sqrt(np.where(variance >= 0.0, variance, np.nan)) / flux,
        sigmapsf_corr_ext=error / flux,
        no_flux=total <= 0.0,
    )


def with_sentinels(c: Corrected) -> Corrected:
    """The same in ALeRCE's published convention, for comparison with its tables: 100 for values that have no result.

    No positive flux: all three are 100. A magnitude without a valid point-source error: that error is 100. Values whose
    input is missing stay NaN.
    """
    no_error = np.isnan(c.sigmapsf_corr) & np.isfinite(c.magpsf_corr)
    return Corrected(
        corrected=c.corrected,
        magpsf_corr=np.where(c.no_flux, SENTINEL, c.magpsf_corr),
        sigmapsf_corr=np.where(c.no_flux | no_error, SENTINEL, c.sigmapsf_corr),
        sigmapsf_corr_ext=np.where(c.no_flux, SENTINEL, c.sigmapsf_corr_ext),
        no_flux=c.no_flux,
    )


def dubious(corrected: ArrayLike, sign: ArrayLike, first_corrected: ArrayLike) -> Bool:
    """Detections whose correction cannot be trusted, shape (n,): their flag differs from that of the first detection
    of the object in the band, or they are negative without a reference source to be fainter than.

    `sign` is +1, -1 or NaN; `first_corrected` is the flag of the first detection (smallest mjd, then candid) of each
    row's object and band (Förster et al. 2020, appendix A).
    """
    corrected = np.asarray(corrected, dtype=np.bool_)
    first_corrected = np.asarray(first_corrected, dtype=np.bool_)
    return (~corrected & (np.asarray(sign) == -1)) | (corrected != first_corrected)


def stellar_flags(
    distnr: ArrayLike, distpsnr1: ArrayLike, sgscore1: ArrayLike, chinr: ArrayLike, sharpnr: ArrayLike
) -> StellarFlags:
    """Counterparts and star flags from packet fields of shape (n,), NaN where null, which makes a flag false.

    The star/galaxy score of a PS1 counterpart decides; the shape of ZTF's reference source counts only if PS1 has no
    counterpart. Nothing is stellar without a ZTF reference source.
    """
    distnr, distpsnr1, sgscore1, chinr, sharpnr = (
        np.asarray(values, dtype=np.float64) for values in (distnr, distpsnr1, sgscore1, chinr, sharpnr)
    )
    near_ztf, near_ps1 = _near(distnr), _near(distpsnr1)
    stellar_ps1 = sgscore1 > STAR_SCORE
    stellar_ztf = (chinr < CHINR_MAX) & (sharpnr > SHARPNR_RANGE[0]) & (sharpnr < SHARPNR_RANGE[1])
    stellar = near_ztf & np.where(near_ps1, stellar_ps1, stellar_ztf)
    return StellarFlags(near_ztf, near_ps1, stellar_ps1, stellar_ztf, stellar)


def _near(distance: Float) -> Bool:
    return (distance >= 0.0) & (distance < NEAR)


def _finite(values: ArrayLike) -> Float:
    """Double precision with NaN for infinities, so that later steps raise no warnings."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)
