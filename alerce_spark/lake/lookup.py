"""History of a few objects, read in a worker or in the driver without Spark: polars over open delta-rs handles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from numpy.typing import ArrayLike, NDArray

from alerce_spark import sky
from alerce_spark.lake.storage import delta_table, healpix_order
from alerce_spark.lightcurves.assemble import DETECTION_COLUMNS, FORCED_COLUMNS, LIMIT_COLUMNS, Stored

T = TypeVar("T")

_handles: dict[tuple[str, str], DeltaTable] = {}


def versions(lake: str, tables: Sequence[str]) -> dict[str, int]:
    """Newest versions of the tables, to be fixed for a batch."""
    return {table: _at(lake, table, None).version() for table in tables}


def read(
    lake: str,
    table: str,
    columns: Sequence[str],
    oids: Sequence[str] | pl.Series,
    pixels: NDArray[np.int64],
    version: int | None = None,
) -> pl.DataFrame:
    """Rows of `oids` in the partitions `pixels` at `version` (None: the newest), columns as asked.

    Only the files of the pixels are opened. A handle whose files were vacuumed meanwhile is renewed once.
    """

    def scan(handle: DeltaTable) -> pl.DataFrame:
        rows = pl.scan_delta(handle).filter(
            pl.col("pixel").is_in(pl.Series(pixels, dtype=pl.Int32).implode())
            & pl.col("oid").is_in(pl.Series(oids, dtype=pl.String).implode())
        )
        return rows.select(columns).collect()

    return _with_fresh_handle(lake, table, version, scan)


def stored_history(lake: str, oids: pl.Series, ra: ArrayLike, dec: ArrayLike, at: dict[str, int]) -> Stored:
    """What the lake holds of objects seen at these positions [deg], at the table versions `at`.

    An object's rows lie in the pixels of their own positions, within 10 arcsec of each other.
    """
    pixels = sky.near_pixels(ra, dec, healpix_order(lake))

    def history(table: str, columns: Sequence[str]) -> pl.DataFrame:
        return read(lake, table, columns, oids, pixels, at[table])

    return Stored(
        history("detections", DETECTION_COLUMNS),
        history("non_detections", LIMIT_COLUMNS),
        history("forced_photometry", FORCED_COLUMNS),
    )


def stored_homes(lake: str, oids: pl.Series, ra: ArrayLike, dec: ArrayLike, version: int) -> pl.DataFrame:
    """Home pixels of the objects that the lake knows: oid, pixel."""
    return read(lake, "objects", ["oid", "pixel"], oids, sky.near_pixels(ra, dec, healpix_order(lake)), version)


def _with_fresh_handle(lake: str, table: str, version: int | None, scan: Callable[[DeltaTable], T]) -> T:
    try:
        return scan(_at(lake, table, version))
    except (FileNotFoundError, DeltaError, pl.exceptions.ComputeError):
        _handles.pop((lake, table), None)
        return scan(_at(lake, table, version))


def _at(lake: str, table: str, version: int | None) -> DeltaTable:
    handle = _handles.get((lake, table))
    if handle is None:
        handle = _handles[lake, table] = delta_table(lake, table)
    if version is None or handle.version() < version:
        handle.update_incremental()
    if version is not None and handle.version() != version:
        handle.load_as_version(version)
    return handle
