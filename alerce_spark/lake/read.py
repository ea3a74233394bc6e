"""The lake for people: tables by object, cone and version, with polars or Spark; light curves, classes, features."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from alerce_spark import sky
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, STAMP, version_order
from alerce_spark.errors import InputError, LakeError
from alerce_spark.lake.handles import collect, delta_table, healpix_order, scan, table_path
from alerce_spark.lake.tables import TABLES
from alerce_spark.location import lake_path

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

#: Columns with the position of a row, by table; in other tables `healpix29` (0.4 mas) is the position.
_POSITIONS: dict[str, tuple[str, ...]] = {
    "detections": ("ra", "dec"),
    "forced_photometry": ("ra", "dec"),
    "objects": ("meanra", "meandec"),
}
_BANDS = {1: "g", 2: "r", 3: "i"}
_POINTS = (
    *("oid", "mjd", "band", "detected", "mag", "e_mag", "magpsf", "sigmapsf", "isdiffpos", "magpsf_corr"),
    *("sigmapsf_corr", "sigmapsf_corr_ext", "corrected", "dubious", "diffmaglim", "fid", "candid", "has_stamp"),
)


@dataclass(frozen=True)
class Cone:
    """A disc on the sky: centre [deg], radius [arcsec]. Raises InputError for invalid values."""

    ra: float
    dec: float
    radius: float

    def __post_init__(self) -> None:
        for name in ("ra", "dec", "radius"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise InputError(f"a cone's {name} is a finite number, not {value!r}")
            object.__setattr__(self, name, float(value))
        if not -90 <= self.dec <= 90:
            raise InputError(f"a cone's dec lies between -90 and 90 deg, not at {self.dec!r}")
        if self.radius < 0:
            raise InputError(f"a cone's radius is 0 arcsec or more, not {self.radius!r}")


@dataclass(frozen=True)
class Lake:
    """A lake opened for reading.

    `table` gives polars LazyFrames and needs no Spark; `spark_table` Spark DataFrames. Both take

    * `oid`: one object or several;
    * `cone`: a Cone; rows of tables with a position are cut exactly, others by their pixel of order 29;
    * `version`: of the Delta table, or a time with a time zone: the table as it was then (`history` lists both).

    With a cone, only the partitions that it touches are read. With objects alone, the table `objects` gives their home
    pixels first, so that only those partitions are read.

    `light_curve`, `cone_search`, `classes` and `features` answer the most frequent questions, without Spark.
    """

    path: str
    order: int

    def table(
        self,
        name: str,
        *,
        oid: str | Sequence[str] | None = None,
        cone: Cone | None = None,
        version: int | datetime | None = None,
    ) -> pl.LazyFrame:
        """A table as a polars LazyFrame.

        Raises LakeError for an unknown table, a version that it does not have and a time before its first row;
        InputError for an invalid id or version.
        """
        handle = delta_table(self.path, name)
        if version is not None:
            handle.load_as_version(self._version(name, version))
        frame = scan(handle)
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
        version: int | datetime | None = None,
    ) -> DataFrame:
        """A table as a Spark DataFrame. Raises LakeError as `table` does."""
        from pyspark.sql import functions as F  # noqa: PLC0415 - polars readers need no Spark

        reader = spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", self._version(name, version))
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

    def light_curve(self, oid: str | Sequence[str]) -> pl.DataFrame:
        """Detections and upper limits of one object or several: one row a point, by object and time.

        `detected` is true for detections; `diffmaglim` [mag] is the 5-sigma limit of the difference image of both.
        `mag`, `e_mag` [mag] are what the features use: apparent (`magpsf_corr`, `sigmapsf_corr_ext`) where the object
        is corrected, otherwise of the difference flux (`magpsf`, `sigmapsf`), whose sign is `isdiffpos`; null where
        undefined. `mjd` [d, UTC], `band` g, r, i. Forced photometry is in another table.
        """
        apparent = collect(self.path, self.table("objects", oid=oid).select("oid", apparent="corrected"))
        points = pl.concat(
            [
                self.table("detections", oid=oid).with_columns(detected=True),
                self.table("non_detections", oid=oid).with_columns(detected=False),
            ],
            how="diagonal",
        ).join(apparent.lazy(), "oid", "left")
        mag, error = (
            pl.when("apparent").then(corrected).otherwise(plain)
            for corrected, plain in (("magpsf_corr", "magpsf"), ("sigmapsf_corr_ext", "sigmapsf"))
        )
        band = pl.col("fid").replace_strict(_BANDS, return_dtype=pl.String)
        rows = points.with_columns(mag=mag, e_mag=error, band=band).select(_POINTS)
        return collect(self.path, rows.sort("oid", "mjd", "fid"))

    def cone_search(self, ra: float, dec: float, radius: float) -> pl.DataFrame:
        """Objects within `radius` [arcsec] of a position [deg], the nearest first, with their `separation` [arcsec]."""
        cone = Cone(ra, dec, radius)
        found = collect(self.path, self.table("objects", cone=cone))
        separation = pl.Series("separation", sky.separation(found["meanra"], found["meandec"], cone.ra, cone.dec))
        return found.select("oid", separation, pl.exclude("oid")).sort("separation", "oid")

    def classes(
        self,
        classifier: str = LIGHTCURVE,
        *,
        oid: str | Sequence[str] | None = None,
        cone: Cone | None = None,
        version: int | datetime | None = None,
    ) -> pl.LazyFrame:
        """The valid class of each object: one row an object, with one column a class for its probability.

        By the light curve it is that of the latest alert, by the stamps that of the first alert; where several model
        versions classified it, the newest counts. `oid`, `cone`, `version` as of `table`. Raises LakeError for a
        classifier that the lake does not know.
        """
        rows = self.table("probabilities", oid=oid, cone=cone, version=version)
        rows = rows.filter(pl.col("classifier") == classifier)
        if classifier == STAMP:
            chosen = rows.sort(BY_VERSION, "candid", descending=[True, False]).unique(
                "oid", keep="first", maintain_order=True
            )
        else:
            chosen = rows.sort("mjd", BY_VERSION, "ndet_used", "candid").unique("oid", keep="last", maintain_order=True)
        each = [pl.col("probabilities").map.get(name).alias(name) for name in self._class_names(classifier)]
        return chosen.select(pl.exclude("probabilities"), *each).sort("oid")

    def features(
        self,
        *,
        oid: str | Sequence[str] | None = None,
        cone: Cone | None = None,
        version: int | datetime | None = None,
    ) -> pl.LazyFrame:
        """The latest features of each object, one row an object; of several code versions at one alert the newest.

        `oid`, `cone`, `version` as of `table`. Objects with fewer than six detections in g and in r have no row.
        """
        rows = self.table("features", oid=oid, cone=cone, version=version).filter(pl.col("ndet_used") > 0)
        return (
            rows.sort("mjd", BY_VERSION, "ndet_used", "candid")
            .unique("oid", keep="last", maintain_order=True)
            .sort("oid")
        )

    def history(self, name: str) -> pl.DataFrame:
        """Versions of a table, oldest first: `version`, `timestamp` (UTC) of its commit, `operation`.

        Raises LakeError for an unknown table.
        """
        commits = [
            (c["version"], datetime.fromtimestamp(c["timestamp"] / 1000, UTC), c["operation"])
            for c in delta_table(self.path, name).history()
        ]
        columns = pl.Schema({"version": pl.Int64(), "timestamp": pl.Datetime("ms", "UTC"), "operation": pl.String()})
        return pl.DataFrame(commits, columns, orient="row").sort("version")

    def _version(self, name: str, version: int | datetime) -> int:
        """The version that was newest at a time."""
        if not isinstance(version, datetime):
            return self._numbered(name, version)
        if version.tzinfo is None:
            raise LakeError(f"{version.isoformat()} has no time zone; write datetime(..., tzinfo=UTC)")
        made = self.history(name).filter(pl.col("timestamp") <= version)
        if made.is_empty():
            raise LakeError(f"table {name} was not there at {version.isoformat()}")
        return int(made["version"][-1])

    def _numbered(self, name: str, version: int) -> int:
        if isinstance(version, bool) or not isinstance(version, Integral):
            raise InputError(f"a version of a table is a whole number or a datetime, not {version!r}")
        newest = delta_table(self.path, name).version()
        if not 0 <= version <= newest:
            raise LakeError(f"table {name} has no version {version}; it has 0 to {newest}")
        return int(version)

    def _class_names(self, classifier: str) -> list[str]:
        known = collect(self.path, self.table("taxonomy").sort(BY_VERSION))
        mine = known.filter(pl.col("classifier") == classifier)
        if mine.is_empty():
            raise LakeError(f"no classifier {classifier!r}; there are {', '.join(known['classifier'].unique().sort())}")
        return list(mine["classes"][-1])

    def _pixels(self, name: str, oids: list[str] | None, cone: Cone | None) -> np.ndarray | None:
        if not TABLES[name].on_sky:
            if oids is not None or cone is not None:
                raise LakeError(f"table {name} has neither objects nor positions")
            return None
        if cone is not None:
            if not isinstance(cone, Cone):
                raise InputError(f"cone is a Cone(ra, dec, radius), not {cone!r}")
            # Homes may lie 10 arcsec away from the row's position.
            margin = sky.OBJECT_RADIUS if name in ("objects", "magstats") else 0.0
            return sky.cone_pixels(cone.ra, cone.dec, cone.radius + margin, self.order)
        if oids is None:
            return None
        rows = self.table("objects").filter(pl.col("oid").is_in(oids)).select("pixel", "meanra", "meandec")
        known = collect(self.path, rows)
        near = sky.near_pixels(known["meanra"], known["meandec"], self.order) if len(known) else np.empty(0, np.int64)
        return np.union1d(near, known["pixel"].to_numpy())


def open_lake(path: str | os.PathLike[str]) -> Lake:
    """Open the lake at `path` for reading. Raises LakeError without a lake there, InputError for an invalid path."""
    place = lake_path(path)
    return Lake(place, healpix_order(place))


def _ordered(versions: pl.Series) -> pl.Series:
    """Key by which versions sort as text."""
    known = versions.unique()
    orders = [None if version is None else version_order(version) for version in known]
    return versions.replace_strict(known, pl.Series(orders, dtype=pl.String), return_dtype=pl.String)


#: Expression that sorts versions of models and of code, oldest first (`taxonomy.version_order`).
BY_VERSION = pl.col("version").map_batches(_ordered, return_dtype=pl.String)


def _listed(oid: str | Sequence[str] | None) -> list[str] | None:
    if oid is None:
        return None
    oids = [oid] if isinstance(oid, str) or not isinstance(oid, Iterable) else list(oid)
    if wrong := [one for one in oids if not isinstance(one, str)]:
        raise InputError(f"ids of objects are text, not {wrong[0]!r}")
    return oids


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
