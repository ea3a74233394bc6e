"""The sky of the stream benchmarks: a lake with more than a year of history, and the alerts that follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from alerce_spark import lake as lakes
from alerce_spark import sky
from alerce_spark.lake import files, lookup, write
from alerce_spark.lake.handles import healpix_order
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.write import Change
from alerce_spark.simulation import night

#: An alert carries the detections of 30 days, so one packet per object in this many days gives the whole past.
_THINNED_DAYS = 25
#: First digits of a candid: days since 2017.
_CANDID_DAY = 10**15
#: Days between visits, and visits a night: after 400 days half of the alerts are of objects with 200 detections or more
#: (benchmarks/results/stream.json); with the simulation's own 3 and 2 it is 400.
CADENCE, VISITS = 6, 1
#: Tables whose look-ups also read rows of other objects, and columns that look-ups do not use.
_FILLED = ("objects", "detections", "non_detections", "magstats", "xmatch", "features", "probabilities")
_LARGE = ("extra", "attributes")
#: Number of invented objects whose rows are made at a time.
_BLOCK = 50_000


def say(text: str) -> None:
    """Print progress, separate from the result."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


class Sky:
    """A steady sky of `objects` of every simulated kind, night after night, with stamps."""

    def __init__(self, seed: int, objects: int, days: int) -> None:
        self._alerts = night.stream(seed, objects=objects, cadence=CADENCE, visits_per_night=VISITS)
        self._days = days
        self._first: bytes | None = None

    def past(self, folder: Path) -> int:
        """Write the files that an import needs for the first `days`; return their number."""
        folder.mkdir(parents=True)
        last: dict[str, int] = {}
        begin, written = None, 0
        for candid, oid, packet in self._alerts:
            day = candid // _CANDID_DAY
            begin = day if begin is None else begin
            if day >= begin + self._days:
                self._first = packet
                break
            if day >= last.get(oid, -_THINNED_DAYS) + _THINNED_DAYS:
                last[oid] = day
                (folder / f"{candid}.avro").write_bytes(packet)
                written += 1
        return written

    def live(self) -> Iterator[bytes]:
        """The packets of the nights after the past, in order of time."""
        if self._first is not None:
            yield self._first
            self._first = None
        for _, _, packet in self._alerts:
            yield packet


def mix(lake: str, packets_mb: float) -> dict[str, Any]:
    """Properties of the stored sky, in the terms of docs/design.md, "Speed"."""
    opened = lakes.open(lake)
    objects = opened.table("objects").select("oid", "ndet", "deltamjd").collect()
    featured = opened.table("features").select("oid").unique().collect()["oid"]
    chosen = objects.filter(pl.col("oid").is_in(featured.implode()))
    recent = opened.table("detections").filter(pl.col("mjd") > pl.col("mjd").max() - 30).select("oid").collect()
    alerts = recent.join(objects, "oid")
    return {
        "recent_alerts_median_detections": alerts["ndet"].median(),
        "recent_alerts_median_days": round(float(alerts["deltamjd"].median() or 0), 1),  # type: ignore[arg-type]
        "recent_alerts_with_features": round(alerts["oid"].is_in(featured.implode()).mean() or 0, 3),  # type: ignore[arg-type]
        "objects": len(objects),
        "detections": opened.table("detections").select(pl.len()).collect().item(),
        "objects_with_features": len(chosen),
        "their_median_detections": chosen["ndet"].median(),
        "their_median_days": round(float(chosen["deltamjd"].median() or 0), 1),  # type: ignore[arg-type]
        "mean_packet_kb": round(packets_mb * 1000, 1),
    }


def crowd(lake: str, objects: int, detections: int, seed: int = 0) -> None:
    """Fill a lake with invented objects, up to `objects`, in its existing pixels; `detections` each.

    Their rows are copies of stored rows, moved by up to a degree. They send no alerts: they only make tables larger.
    """
    order = healpix_order(lake)
    rng = np.random.default_rng(seed)
    opened = lakes.open(lake)
    tables = {name: opened.table(name).select(pl.all().exclude(*_LARGE)).collect() for name in _FILLED}
    stored = tables["objects"]
    some = stored.filter(pl.col("ndet") >= detections)["oid"].to_list()
    limit = {"detections": detections, "non_detections": detections}
    templates = {
        name: frame.filter(pl.col("oid").is_in(some)).filter(pl.int_range(pl.len()).over("oid") < limit.get(name, 9))
        for name, frame in tables.items()
    }
    missing = objects - len(stored)
    for start in range(0, max(missing, 0), _BLOCK):
        count = min(_BLOCK, missing - start)
        new = pl.DataFrame(
            {
                "oid": rng.choice(some, count),
                "_new": [f"INVENTED{seed}_{start + k}" for k in range(count)],
                "_ra": rng.uniform(-1, 1, count),
                "_dec": rng.uniform(-1, 1, count),
            }
        )
        for name, frame in templates.items():
            rows = _moved(frame, new, order)
            left_out = [pl.lit(None).alias(name) for name in _LARGE]
            table = rows.with_columns(left_out).select(lookup.TABLES[name].names).to_arrow()
            version = table_of(lake, name).live().version
            write.commit(lake, name, version, Change(files.write(lake, name, table.cast(lookup.TABLES[name].arrow))))
        say(f"{len(stored) + start + count} objects stored")


def _moved(frame: pl.DataFrame, new: pl.DataFrame, order: int) -> pl.DataFrame:
    """The rows of `oid` as rows of `_new`, elsewhere by `_ra`, `_dec` [deg]."""
    rows = frame.join(new, on="oid")
    ra, dec = sky.position(rows["healpix29"])
    index = sky.healpix((ra + rows["_ra"].to_numpy()) % 360, np.clip(dec + rows["_dec"].to_numpy(), -90, 90))
    places = {
        "healpix29": pl.Series(index, dtype=pl.Int64),
        "pixel": pl.Series(sky.parent(index, order), dtype=pl.Int32),
    }
    return rows.with_columns(oid=pl.col("_new"), **places)
