"""A lake without Spark: simulated packets stored by the stream's own functions; invented classes and features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from alerce_spark import sky
from alerce_spark.alerts.avro import decode, strip_stamps
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES, STAMP, STAMP_CLASSES
from alerce_spark.config import ArchiveSettings
from alerce_spark.features.names import FEATURES
from alerce_spark.lake import files, lookup, write
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES
from alerce_spark.lake.write import Change
from alerce_spark.simulation.night import Traits, simulate
from alerce_spark.streaming.queries import archive, photometry
from alerce_spark.surveys.ztf import ZTF

ORDER = 3
SURVEY = "ztf"
#: Places where cones go wrong: both sides of ra 0, on the equator, at the poles.
AWKWARD = ((0.0, 10.0), (359.9999, 10.0), (0.0001, 10.0), (0.0, 0.0), (120.0, 0.0), (120.001, -0.001), (45.0, 89.999))
AWKWARD = (*AWKWARD, (225.0, 89.999), (10.0, -89.999))


def packets(seed: int = 1, objects: int = 24, nights: int = 9) -> list[bytes]:
    """Packets of some nights in order of time, with stamps, forced photometry and whole histories.

    The first objects lie at AWKWARD places, the others around one place.
    """
    rng = np.random.default_rng(seed)
    around = np.array([200.0, 30.0]) + rng.uniform(-0.5, 0.5, (objects - len(AWKWARD), 2))
    places = np.concatenate([np.array(AWKWARD), around])
    options: dict[str, Any] = {"history_days": 0, "version": "4.02", "traits": Traits.like_ztf()}
    return simulate(seed, objects=objects, nights=nights, cadence=2, positions=places, **options).packets


def store(lake: str, batch: Sequence[bytes]) -> None:
    """Write a batch of packets as the query `photometry` does."""
    column = pa.array(batch, pa.binary())
    found = decode(column, ZTF).alerts
    alerts = pl.DataFrame(found.select(["objectId", "candid", "ra", "dec"])).rename({"objectId": "oid"})
    first = alerts.sort("candid").unique("oid", keep="first")
    versions = lookup.versions(lake, photometry.TABLES_WRITTEN)
    known = lookup.stored_homes(lake, first["oid"], first["ra"], first["dec"], versions["objects"])
    here = pl.Series("here", sky.healpix(first["ra"], first["dec"], ORDER), dtype=pl.Int32)
    placed = first.with_columns(here).join(known, "oid", "left").select("oid", home=pl.coalesce("pixel", "here"))
    met = alerts.join(placed, "oid", "left", maintain_order="left").select("oid", "home", "ra", "dec").to_arrow()
    met = met.append_column("packet", strip_stamps(column.take(found["row"].combine_chunks()), ZTF))
    assemble = photometry.assembler(lake, SURVEY, versions)
    made = [row for part in assemble(iter(met.combine_chunks().to_batches())) for row in part.to_pylist()]
    for table in photometry.TABLES_WRITTEN:
        parts = [write.unpacked(row["change"]) for row in made if row["kind"].split("+")[0] == table]
        if parts:
            write.commit(lake, table, versions[table], write.joined(parts))


def keep(folder: Path, batch: Sequence[bytes]) -> ArchiveSettings:
    """Store packets in a repository in `folder`, as the query `archive` does; returns its settings."""
    settings = ArchiveSettings(url=f"file:{folder}")
    archive._store(pa.array(batch, pa.binary()), settings, SURVEY)
    return settings


def make(lake: str, batch: Sequence[bytes], seed: int = 1) -> None:
    """A lake of packets, with invented classes and features."""
    write.create(lake, ORDER)
    half = len(batch) // 2
    for part in (batch[:half], batch[half:]):
        store(lake, part)
    rng = np.random.default_rng(seed)
    objects = read(lake, "objects")
    replace(lake, "probabilities", [row for one in objects.iter_rows(named=True) for row in classes(one, rng)])
    replace(lake, "features", [row for one in objects.iter_rows(named=True) for row in features(one, rng)])


def read(lake: str, table: str) -> pl.DataFrame:
    """A table as polars reads it by itself."""
    return pl.scan_delta(f"{lake}/{table}").collect()


def classes(one: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Invented classifications of an object, of two versions and some alerts; probabilities tie."""
    rows = []
    for classifier, names, alerts in ((STAMP, STAMP_CLASSES, 2), (LIGHTCURVE, LIGHTCURVE_CLASSES, 3)):
        if rng.random() < 0.2:
            continue
        for version in ("20260101.1", "20260201.1")[: rng.integers(1, 3)]:
            for k in range(alerts):
                tenths = np.round(rng.dirichlet(np.ones(len(names))), 1)
                best = np.flatnonzero(tenths == tenths.max())
                name = names[int(rng.choice(best))]
                values = list(zip(names, tenths.tolist(), strict=True))
                row = _head(one, 1000 + k) | {"classifier": classifier, "version": version, "class": name}
                row |= {"probability": float(tenths.max()), "probabilities": values, "flags": []}
                rows.append(row | {"ndet_used": int(rng.integers(1, 9)), "nown": 1, "mjd": 59000.0 + k})
    return rows


def features(one: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Invented features of an object at two alerts, with nulls, very small and very large values."""
    rows = []
    for k in range(2):
        values = rng.normal(size=len(FEATURES)) * 10.0 ** rng.integers(-9, 9, len(FEATURES))
        known = [None if rng.random() < 0.1 else value for value in values.tolist()]
        row = _head(one, 1000 + k) | {"version": "1.0.0", "ndet_used": 7 + k, "nown": 7, "mjd": 59000.0 + k}
        rows.append(row | dict(zip(FEATURES, known, strict=True)))
    return rows


def _head(one: dict[str, Any], candid: int) -> dict[str, Any]:
    index = int(sky.healpix(one["meanra"], one["meandec"]))
    place = {"healpix29": index, "pixel": int(sky.parent(index, ORDER)), "survey": SURVEY}
    return place | {"oid": one["oid"], "candid": candid}


def replace(lake: str, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Commit rows in place of those with their key; columns that they do not name are null."""
    if rows:
        definition = TABLES[table]
        full = pa.Table.from_pylist(
            [{name: row.get(name) for name in definition.names} for row in rows], definition.arrow
        )
        version = lookup.versions(lake, [table])[table]
        write.commit(lake, table, version, write.replace(lake, table, full, version))


def remove(lake: str, table: str, keys: Sequence[tuple[Any, ...]]) -> None:
    """Delete the rows of these keys."""
    if not keys:
        return
    names = list(TABLES[table].key)
    version = lookup.versions(lake, [table])[table]
    pixels = sorted({int(file.partition["pixel"] or 0) for file in table_of(lake, table).live().files.values()})
    stored = lookup.read(lake, table, names, [key[0] for key in keys], pixels, version, located=True)
    gone = stored.join(pl.DataFrame(keys, names, orient="row"), names, "semi").select("path", "position")
    write.commit(lake, table, version, Change([], gone, operation="DELETE"))


def compact(lake: str, table: str) -> None:
    """Every pixel of a table becomes one file, as compaction makes it."""
    live = table_of(lake, table).live()
    pixels: dict[str, list[str]] = {}
    for path, file in live.files.items():
        pixels.setdefault(str(file.partition["pixel"]), []).append(path)
    for paths in pixels.values():
        rows = lookup.rows_of_files(lake, table, paths, live.version)
        removed = {path: live.files[path].vector for path in paths}
        change = Change(files.write(lake, table, rows), removed=removed, operation="OPTIMIZE", moves=True)
        write.commit(lake, table, live.version, change)
