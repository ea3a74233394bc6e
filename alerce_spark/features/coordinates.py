"""Galactic latitude and longitude of the mean position: the system of Blaauw et al. 1960, as a rotation of ICRS."""

from __future__ import annotations

import numpy as np

from alerce_spark.features.curves import Family, Float, Objects, Scratch

#: ICRS position [deg] of the north galactic pole and galactic longitude [deg] of the north celestial pole: the B1950
#: definition carried to FK5 by Reid & Brunthaler 2004 and to ICRS by the frame bias, as in astropy.
POLE_RA, POLE_DEC, NODE = 192.85947789477606, 27.128252414968028, 122.93192525541662


def galactic(ra: Float, dec: Float) -> tuple[Float, Float]:
    """(b, l) [deg], b in ±90 and l in [0, 360), of ICRS `ra`, `dec` [deg]; NaN stays NaN."""
    alpha, delta = np.radians(ra - POLE_RA), np.radians(dec)
    pole = np.radians(POLE_DEC)
    x = np.cos(delta) * np.sin(alpha)
    y = np.cos(pole) * np.sin(delta) - np.sin(pole) * np.cos(delta) * np.cos(alpha)
    z = np.sin(pole) * np.sin(delta) + np.cos(pole) * np.cos(delta) * np.cos(alpha)
    return np.degrees(np.arctan2(z, np.hypot(x, y))), (NODE - np.degrees(np.arctan2(x, y))) % 360.0


def _compute(objects: Objects, scratch: Scratch) -> Float:
    return np.column_stack(galactic(objects.meanra, objects.meandec))


FAMILY = Family("coordinates", ("gal_b", "gal_l"), _compute)
