"""Neighbours listed in alert packets, normalised into attempts (`Survey.neighbours`).

The survey searched for them at the alert's position, so each packet is an attempt on these catalogues, within the radii
of the survey's documentation. Codes for "none" (-999, the text "null") mean "no match". A packet without the fields of
a catalogue is not an attempt on it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alerce_spark.crossmatch.rows import ATTEMPTS, attempts
from alerce_spark.surveys.survey import Neighbour, Survey


def neighbours(alerts: pa.Table, survey: Survey) -> pa.Table:
    """Attempts (schema ATTEMPTS) of decoded alerts (`alerts/model.py`); `row` counts the alerts from 0.

    Attributes have the packet's names; magnitudes [mag], distances [arcsec].
    """
    return pa.concat_tables([ATTEMPTS.empty_table(), *(_attempts(alerts, n) for n in survey.neighbours)])


def _attempts(alerts: pa.Table, neighbour: Neighbour) -> pa.Table:
    rows = np.flatnonzero(alerts[neighbour.distance].is_valid())
    about = alerts.take(pa.array(rows))
    distance = pc.cast(_known(about[neighbour.distance]), pa.float64()).fill_null(np.nan)
    ids = pa.nulls(len(rows), pa.string()) if neighbour.id is None else _known(about[neighbour.id]).cast(pa.string())
    columns = {name: _known(about[name]) for name in neighbour.attributes}
    return attempts(rows, neighbour.catalog, neighbour.radius, ids, distance.to_numpy(), columns)


def _known(column: pa.ChunkedArray) -> pa.Array:
    """The column with null for the survey's codes for "none"."""
    values = column.combine_chunks()
    if pa.types.is_string(values.type):
        return pc.if_else(pc.is_in(values, pa.array(["null", ""])), None, values)
    return pc.if_else(pc.less_equal(values, pa.scalar(-99, values.type)), None, values)
