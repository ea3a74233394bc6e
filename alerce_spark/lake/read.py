"""Tables for people: Spark DataFrames or polars LazyFrames of any table, by object or by cone, partitions pruned."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from alerce_spark import sky
from alerce_spark.lake.storage import LakeError, delta_table, healpix_order, table_path
from alerce_spark.lake.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

#: Columns with the position of a row, by table; of a table without, `healpix29` (0.4 mas) stands for it.
_POSITIONS: dict[str, tuple[str, ...]] = {
    "detections": ("ra", "dec"),
    "forced_photometry": ("ra", "dec"),
    "objects": ("meanra", "meandec"),
}


@dataclass(frozen=True)
class Cone:
    """A disc on the sky: centre [deg], radius [arcsec]."""

    ra: float
    dec: float
    radius: float


@dataclass(frozen=True)
class Lake:
    """A lake opened for reading.

    `table` gives polars LazyFrames and needs no Spark; `spark_table` Spark DataFrames. Both take

    * `oid`: one object or several;
    * `cone`: a Cone; rows of tables with a position are cut exactly, others by their pixel of order 29;
    * `version`: of the Delta table, for time travel.

    With a cone, only partitions that it touches are read. By object alone, the home of each is looked up in `objects`
    first, so that this prunes too.
    """

    path: str
    order: int

    def table(
        self, name: str, *, oid: str | Sequence[str] | None = None, cone: Cone | None = None, version: int | None = None
    ) -> pl.LazyFrame:
        """A table as a polars LazyFrame. Raises LakeError for an unknown table."""
        handle = delta_table(self.path, name)
        if version is not None:
            handle.load_as_version(version)
        frame = pl.scan_delta(handle)
        oids = _listed(oid)
        pixels = self._pixels(name, oids, cone)
        if pixels is not None:
            frame = frame.filter(pl.col("pixel").is_in(pl.Series(pixels, dtype=pl.Int32).implode()))
        if oids is not None:
            frame = frame.filter(pl.col("oid").is_in(oids))
        if cone is not None:
            columns = _POSITIONS.get(name, ("healpix29",))
            inside = pl.struct(columns).map_batches(
                lambda row: pl.Series(_inside(cone, *(row.struct.field(c).to_numpy() for c in columns))),
                return_dtype=pl.Boolean,
            )
            frame = frame.filter(inside)
        return frame

    def spark_table(
        self,
        spark: SparkSession,
        name: str,
        *,
        oid: str | Sequence[str] | None = None,
        cone: Cone | None = None,
        version: int | None = None,
    ) -> DataFrame:
        """A table as a Spark DataFrame. Raises LakeError for an unknown table."""
        from pyspark.sql import functions as F  # noqa: PLC0415 - polars readers need no Spark

        reader = spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        frame = reader.load(table_path(self.path, name))
        oids = _listed(oid)
        pixels = self._pixels(name, oids, cone)
        if pixels is not None:
            frame = frame.where(F.col("pixel").isin([int(p) for p in pixels]))
        if oids is not None:
            frame = frame.where(F.col("oid").isin(oids))
        if cone is not None:
            frame = frame.where(_spark_inside(frame, name, cone))
        return frame

    def _pixels(self, name: str, oids: list[str] | None, cone: Cone | None) -> np.ndarray | None:
        if not TABLES[name].on_sky:
            if oids is not None or cone is not None:
                raise LakeError(f"table {name} has neither objects nor positions")
            return None
        if cone is not None:
            # Homes may lie 10 arcsec away from the row's position.
            margin = sky.OBJECT_RADIUS if name in ("objects", "magstats") else 0.0
            return sky.cone_pixels(cone.ra, cone.dec, cone.radius + margin, self.order)
        if oids is None:
            return None
        known = self.table("objects").filter(pl.col("oid").is_in(oids)).select("pixel", "meanra", "meandec").collect()
        near = sky.near_pixels(known["meanra"], known["meandec"], self.order) if len(known) else np.empty(0, np.int64)
        return np.union1d(near, known["pixel"].to_numpy())


def open_lake(path: str) -> Lake:
    """Open the lake at `path` for reading. Raises LakeError where there is none."""
    return Lake(path, healpix_order(path))


def _listed(oid: str | Sequence[str] | None) -> list[str] | None:
    if oid is None:
        return None
    return [oid] if isinstance(oid, str) else list(oid)


def _inside(cone: Cone, *position: np.ndarray) -> np.ndarray:
    ra, dec = position if len(position) == 2 else sky.position(position[0])
    return sky.separation(ra, dec, cone.ra, cone.dec) <= cone.radius


def _spark_inside(frame: DataFrame, name: str, cone: Cone) -> Column:
    from pyspark.sql import functions as F  # noqa: PLC0415

    def inside(*position: pa.Array) -> pa.Array:
        return pa.array(_inside(cone, *(p.to_numpy() for p in position)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it prefers type hints, which this module keeps as text
        test = F.arrow_udf(inside, returnType="boolean", functionType=F.ArrowUDFType.SCALAR)
    return test(*(frame[c] for c in _POSITIONS.get(name, ("healpix29",))))
