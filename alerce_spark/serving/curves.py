"""Rows of one object from the lake's tables, for many threads: its position from the index, tables read in parallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from alerce_spark.lake import lookup


class Place(NamedTuple):
    """Place of an object's rows: partitions, ranges of `healpix29`."""

    pixels: NDArray[np.int64]
    ranges: NDArray[np.int64]


def place(ra: ArrayLike, dec: ArrayLike, order: int) -> Place:
    """Place of the rows of objects at these positions [deg], in a lake of HEALPix order `order`."""
    return Place(*lookup.near(ra, dec, order))


class Curves:
    """Reads objects; the caller closes it. Raises the errors of `lookup.read`."""

    def __init__(self, lake: str, threads: int = 8) -> None:
        self._lake = lake
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="lake")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def read(self, oids: Sequence[str], where: Place, columns: Mapping[str, Sequence[str]]) -> dict[str, pl.DataFrame]:
        """Requested columns of the rows of objects, at the newest version of each table, in no fixed order."""

        def rows(table: str) -> pl.DataFrame:
            return lookup.read(self._lake, table, columns[table], oids, where.pixels, None, where.ranges)

        if len(columns) == 1:
            return {table: rows(table) for table in columns}
        return dict(zip(columns, self._threads.map(rows, columns), strict=True))
