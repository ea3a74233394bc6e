"""Rows of the table xmatch, attempts to find objects in catalogues: read from the lake and made for it."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike

from alerce_spark import sky
from alerce_spark.lake import lookup
from alerce_spark.lake.handles import healpix_order
from alerce_spark.lake.tables import TABLES

_XMATCH = TABLES["xmatch"].arrow


def stored(
    lake: str, oids: pl.Series | pa.ChunkedArray, ra: ArrayLike, dec: ArrayLike, version: int | None
) -> pl.DataFrame:
    """Stored attempts for objects at these positions [deg]: oid, catalog, candid, is_stored."""
    rows = lookup.read_near(lake, "xmatch", ["oid", "catalog", "candid"], pl.Series(oids), ra, dec, version)
    return rows.with_columns(is_stored=pl.lit(True))


def table_rows(
    found: pa.Table,
    oid: pa.ChunkedArray,
    candid: pa.Array | pa.ChunkedArray,
    ra: pa.ChunkedArray,
    dec: pa.ChunkedArray,
    survey: str,
    lake: str,
) -> pa.Table:
    """Attempts (columns of ATTEMPTS except `row`) as rows of the table xmatch; one oid, candid and position a row."""
    size = found.num_rows
    longitude = ra.to_numpy() % 360
    index = sky.healpix(longitude, dec.to_numpy())
    values = {
        "pixel": pa.array(sky.parent(index, healpix_order(lake))),
        "healpix29": pa.array(index),
        "survey": pa.repeat(survey, size),
        "oid": oid,
        "candid": candid,
        "ra": pa.array(longitude),
        "dec": dec,
        "attempted": pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")), size),
        **{name: found[name] for name in ("catalog", "radius", "source_id", "separation", "attributes")},
    }
    return pa.table([values[name] for name in _XMATCH.names], _XMATCH.names).cast(_XMATCH)
