"""Rows of attempts: a query of a catalogue at a position, and the source found, if any."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alerce_spark.errors import AlerceError


class CdsError(AlerceError):
    """A service gave no usable answer; the message gives the reason. It does not mean "no match"."""


ATTRIBUTES = pa.map_(pa.string(), pa.string())

#: An attempt: `row` of the queried position; without a source `separation` and `attributes` are null. A source has a
#: null `source_id` if the catalogue or packet does not name it.
ATTEMPTS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("catalog", pa.string(), nullable=False),
        pa.field("radius", pa.float64(), nullable=False, metadata={"unit": "arcsec"}),
        pa.field("source_id", pa.string()),
        pa.field("separation", pa.float64(), metadata={"unit": "arcsec"}),
        pa.field("attributes", ATTRIBUTES),
    ]
)


def attempts(
    row: NDArray[np.int64],
    catalog: str,
    radius: float,
    source_id: pa.Array,
    separation: NDArray[np.float64],
    columns: Mapping[str, pa.Array],
) -> pa.Table:
    """Attempts on one catalogue, schema ATTEMPTS; all arrays have one entry a row.

    separation: NaN without a source; ids and columns of such rows are ignored.
    """
    found = pa.array(np.isfinite(separation))
    size = len(row)
    values = [
        pa.array(row, pa.int64()),
        pa.repeat(pa.scalar(catalog, pa.string()), size),
        pa.repeat(pa.scalar(float(radius), pa.float64()), size),
        pc.if_else(found, source_id.cast(pa.string()), None),
        pa.array(separation, pa.float64(), from_pandas=True),
        _maps(columns, found),
    ]
    return pa.Table.from_arrays(values, schema=ATTEMPTS)


def _maps(columns: Mapping[str, pa.Array], found: pa.Array) -> pa.Array:
    """One map a row from column name to value as text, without nulls; null where `found` is false."""
    size, width = len(found), len(columns)
    texts = [pc.if_else(found, column.cast(pa.string()), None) for column in columns.values()]
    by_row = pa.array((np.arange(size)[:, None] + size * np.arange(width)).ravel())
    values = pa.concat_arrays([pa.array([], pa.string()), *texts]).take(by_row)
    known = values.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(known.reshape(size, width).sum(axis=1))]).astype(np.int32)
    keys = pa.array(np.tile(np.arange(width, dtype=np.int32), size)[known])
    names = pa.array(list(columns), pa.string()).take(keys)
    return pa.MapArray.from_arrays(offsets, names, values.drop_null(), mask=pc.invert(found))


def numbers(maps: pa.Array, names: tuple[str, ...]) -> list[NDArray[np.float64]]:
    """Attributes of each row as float64, one array per name; NaN without a row, an attribute or a number."""
    found = []
    for name in names:
        texts = pc.map_lookup(maps, pa.scalar(name), "first")
        found.append(pc.cast(texts, pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False))
    return found
