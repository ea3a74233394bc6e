"""Neighbours that a ZTF alert itself carries: Solar System objects, PS1, Gaia DR1; normalised into attempts.

The survey looked for them at the alert's position, so each packet is an attempt on these catalogues, within the radii
of its documentation (Masci et al. 2019, PASP 131, 018003, and the notes of the alert schema). Codes for "none" (-999,
the text "null") are no match. Packets without a catalogue's fields, Gaia's before schema 3.0, are no attempt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alerce_spark.crossmatch.rows import ATTEMPTS, attempts


@dataclass(frozen=True)
class _Neighbour:
    """Fields of a packet about one catalogue; of several sources that it names, the first is the nearest."""

    catalog: str
    radius: float  # arcsec
    id: str | None
    distance: str
    attributes: tuple[str, ...]


_NEIGHBOURS = (
    _Neighbour("ss_ztf", 30.0, "ssnamenr", "ssdistnr", ("ssmagnr",)),
    _Neighbour(
        "ps1_ztf",
        30.0,
        "objectidps1",
        "distpsnr1",
        (
            *(f"{name}1" for name in ("sgmag", "srmag", "simag", "szmag", "sgscore")),
            *(
                f"{n}{k}"
                for k in (2, 3)
                for n in ("objectidps", "distpsnr", "sgmag", "srmag", "simag", "szmag", "sgscore")
            ),
            "nmtchps",
        ),
    ),
    # Packets do not name the Gaia source.
    _Neighbour("gaia_ztf", 90.0, None, "neargaia", ("maggaia", "neargaiabright", "maggaiabright")),
)

#: Catalogues of `neighbours`.
CATALOGS = tuple(n.catalog for n in _NEIGHBOURS)


def neighbours(alerts: pa.Table) -> pa.Table:
    """Attempts (schema ATTEMPTS) of decoded alerts (`alerts/model.py`); `row` counts the alerts from 0.

    Attributes have the packet's names; magnitudes of PS1 and Gaia [mag], distances [arcsec].
    """
    return pa.concat_tables([ATTEMPTS.empty_table(), *(_attempts(alerts, n) for n in _NEIGHBOURS)])


def _attempts(alerts: pa.Table, neighbour: _Neighbour) -> pa.Table:
    asked = np.flatnonzero(alerts[neighbour.distance].is_valid())
    about = alerts.take(pa.array(asked))
    distance = pc.cast(_known(about[neighbour.distance]), pa.float64()).fill_null(np.nan)
    ids = pa.nulls(len(asked), pa.string()) if neighbour.id is None else _known(about[neighbour.id]).cast(pa.string())
    columns = {name: _known(about[name]) for name in neighbour.attributes}
    return attempts(asked, neighbour.catalog, neighbour.radius, ids, distance.to_numpy(), columns)


def _known(column: pa.ChunkedArray) -> pa.Array:
    """The column with nulls for the survey's codes for "none"."""
    values = column.combine_chunks()
    if pa.types.is_string(values.type):
        return pc.if_else(pc.is_in(values, pa.array(["null", ""])), None, values)
    return pc.if_else(pc.less_equal(values, pa.scalar(-99, values.type)), None, values)
