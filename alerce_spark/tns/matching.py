"""Match new and changed rows of TNS with stored objects: the table xmatch then agrees with the catalogue.

The query `crossmatch` matches new objects once. An object older than its TNS row is found here: every object with a
source of TNS within the radius is matched again, at the position of its stored attempt, and rows that differ are
written. So the order of arrival does not matter, an interrupted round is completed by the next, and a round without
changes writes nothing.

Commits name the version that was read, so this runs beside a stream and needs no lease.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa

from alerce_spark import sky
from alerce_spark.crossmatch.match import nearest
from alerce_spark.lake import attempts, catalogs, lookup, write
from alerce_spark.lake.handles import delta_table, scan
from alerce_spark.tns.catalog import NAME

_TABLE = "xmatch"
#: Number of partitions of the lake that are read together.
_PIXELS = 64
_ASKED = ("oid", "survey", "candid", "ra", "dec", "source_id", "attributes")


@dataclass(frozen=True)
class Rematched:
    """Objects within the radius of a source of TNS, and rows of xmatch that were written or changed."""

    near: int
    written: int


def rematch(lake: str) -> Rematched:
    """Update the rows of TNS in xmatch from the catalogue. Raises LakeError where the catalogue is not imported."""
    sources = catalogs.everything(lake, NAME)
    known = catalogs.local(lake, NAME)
    radius = known.settings.radius if known is not None else 0.0
    near = written = 0
    for pixels in _pixels(lake):
        done = write.unhindered(partial(_rematch, lake, pixels, sources, radius))
        near, written = near + done.near, written + done.written
    return Rematched(near, written)


def _pixels(lake: str) -> Iterator[list[int]]:
    """Groups of partitions of objects and attempts."""
    tables = ("objects", _TABLE)
    pixels = sorted({int(p["pixel"]) for table in tables for p in delta_table(lake, table).partitions()})
    for start in range(0, len(pixels), _PIXELS):
        yield pixels[start : start + _PIXELS]


def _rematch(lake: str, pixels: Sequence[int], sources: pl.DataFrame, radius: float) -> Rematched:
    version = lookup.versions(lake, [_TABLE])[_TABLE]
    asked = pl.concat([_asked_before(lake, pixels), _not_asked(lake, pixels, sources, radius)])
    with_source = pl.Series(_near(asked, sources, radius))
    asked = asked.filter(with_source | asked["source_id"].is_not_null())
    if asked.is_empty():
        return Rematched(0, 0)
    # TNS has no proper motions, so the time of a position does not matter.
    found = catalogs.match(lake, NAME, asked["ra"], asked["dec"], np.zeros(len(asked)))
    differs = np.flatnonzero(_differs(found, asked))
    parts = []
    for survey in asked["survey"].unique().sort():
        rows = differs[(asked["survey"][differs.tolist()] == survey).to_numpy()]
        about = asked[rows.tolist()].to_arrow()
        made = found.take(pa.array(rows))
        oid, candid, ra, dec = (about[name] for name in ("oid", "candid", "ra", "dec"))
        parts.append(attempts.table_rows(made, oid, candid, ra, dec, survey, lake))
    write.commit(lake, _TABLE, version, write.replace(lake, _TABLE, pa.concat_tables(parts), version))
    return Rematched(int(found["source_id"].is_valid().to_numpy().sum()), differs.size)


def _asked_before(lake: str, pixels: Sequence[int]) -> pl.DataFrame:
    """Stored attempts on TNS."""
    rows = scan(delta_table(lake, _TABLE)).filter(pl.col("pixel").is_in(list(pixels)), pl.col("catalog") == NAME)
    return rows.select(_ASKED).collect()


def _not_asked(lake: str, pixels: Sequence[int], sources: pl.DataFrame, radius: float) -> pl.DataFrame:
    """Objects near a source of TNS that have no attempt on it, at their mean positions."""
    place = [pl.col("meanra").alias("ra"), pl.col("meandec").alias("dec")]
    objects = scan(delta_table(lake, "objects")).filter(pl.col("pixel").is_in(list(pixels)))
    near = objects.select("oid", "survey", *place).collect()
    near = near.filter(pl.Series(_near(near, sources, radius)))
    kept = []
    number = sky.places(near["oid"], np.arange(len(near)), near["ra"], near["dec"])
    for n in np.unique(number):
        mine = near.filter(pl.Series(number == n))
        known = attempts.stored(lake, mine["oid"], mine["ra"].to_numpy(), mine["dec"].to_numpy(), None)
        kept.append(mine.filter(~pl.col("oid").is_in(known.filter(catalog=NAME)["oid"].implode())))
    empty = _asked_before(lake, [])
    new = pl.concat([near.clear(), *kept])
    return pl.concat([empty, new], how="diagonal").select(_ASKED)


def _near(asked: pl.DataFrame, sources: pl.DataFrame, radius: float) -> np.ndarray:
    return nearest(asked["ra"], asked["dec"], sources["ra"], sources["dec"], radius)[0] >= 0


def _differs(found: pa.Table, asked: pl.DataFrame) -> np.ndarray:
    """Attempts whose result differs from the stored one at the same position."""
    new = zip(found["source_id"].to_pylist(), found["attributes"].to_pylist(), strict=True)
    old = zip(asked["source_id"].to_list(), asked["attributes"].to_list(), strict=True)
    return np.array([a != b or dict(x or ()) != (y or {}) for (a, x), (b, y) in zip(new, old, strict=True)], bool)
