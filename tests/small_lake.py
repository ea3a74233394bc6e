"""A lake and its Avro repository, made of simulated packets by the stream's own functions, without Spark and Kafka."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from alerce_spark import repository, sky
from alerce_spark.alerts.avro import decode, strip_stamps
from alerce_spark.config import ArchiveSettings
from alerce_spark.lake import log, lookup, write
from alerce_spark.lake.log import Change
from alerce_spark.lake.tables import TABLES
from alerce_spark.simulation.night import Traits, simulate
from alerce_spark.streaming import archive, lightcurves, photometry, results, stamps

ORDER = 3
SURVEY = "ztf"


def alerts(seed: int = 1, objects: int = 60, nights: int = 29, **more: Any) -> list[bytes]:
    """Packets of some weeks, in order of time; with forced photometry, and every packet with its whole history."""
    night = simulate(
        seed,
        objects=objects,
        nights=nights,
        cadence=4,
        history_days=0,
        version="4.02",
        traits=Traits.like_ztf(),
        **more,
    )
    return night.packets


def store(lake: str, packets: Sequence[bytes]) -> None:
    """What the query `photometry` writes of a batch of packets."""
    batch = pa.array(packets, pa.binary())
    found = decode(batch).alerts
    homes = pl.DataFrame(found.select(["objectId", "candid", "ra", "dec"])).rename({"objectId": "oid"})
    first = homes.sort("candid").unique("oid", keep="first")
    known = lookup.stored_homes(
        lake, first["oid"], first["ra"], first["dec"], lookup.versions(lake, ["objects"])["objects"]
    )
    here = pl.Series("here", sky.healpix(first["ra"], first["dec"], ORDER), dtype=pl.Int32)
    placed = first.with_columns(here).join(known, "oid", "left").select("oid", home=pl.coalesce("pixel", "here"))
    met = homes.join(placed, "oid", "left", maintain_order="left").select("oid", "home", "ra", "dec").to_arrow()
    met = met.append_column("packet", strip_stamps(batch.take(found["row"].combine_chunks())))
    versions = lookup.versions(lake, photometry._TABLES)
    assemble = photometry._assembler(lake, SURVEY, versions)
    made = [row for part in assemble(iter(met.combine_chunks().to_batches())) for row in part.to_pylist()]
    for table in photometry._TABLES:
        parts = [write.unpacked(row["change"]) for row in made if row["kind"].split("+")[0] == table]
        if parts:
            log.commit(lake, table, versions[table], write.joined(parts))


def classify(lake: str, packets: Sequence[bytes]) -> None:
    """What `stamps`, `lightcurves` and `results` write of a batch of packets whose photometry is stored."""
    publish(lake, stamps._classifier(lake, SURVEY, None, False)(iter([_packets(packets, "")])))
    found = pl.DataFrame(decode(pa.array(packets, pa.binary())).alerts.select(["objectId", "ra", "dec"]))
    objects = found.rename({"objectId": "oid"}).unique("oid", maintain_order=True).to_arrow()
    publish(lake, lightcurves._stored_classifier(lake, SURVEY)(iter(objects.combine_chunks().to_batches())))


def publish(lake: str, messages: Iterable[pa.RecordBatch]) -> None:
    """What `results` writes of messages in the columns of the sink."""
    parse = results._parser(ORDER)
    rows = (row for part in messages for row in part.to_pylist())
    batches: Iterator[pa.RecordBatch] = (_packets([row["value"]], row["topic"]) for row in rows)
    pieces = pa.Table.from_batches(list(parse(batches)), results.PIECES)
    query = results.Results(None, lake, lambda: None)  # type: ignore[arg-type]
    for table in ("features", "probabilities"):
        query._store(results._rows(pieces, table), table)


def _packets(packets: Sequence[bytes], source: str) -> pa.RecordBatch:
    count = len(packets)
    nothing = pa.nulls(count, pa.timestamp("us", tz="UTC"))
    return pa.RecordBatch.from_pydict(
        {
            "packet": pa.array(packets, pa.binary()),
            "source": pa.array([source] * count),
            "partition": pa.nulls(count, pa.int32()),
            "offset": pa.nulls(count, pa.int64()),
            "received": nothing,
        }
    )


def keep(folder: Path, packets: Sequence[bytes]) -> ArchiveSettings:
    """Store packets in a repository below `folder`, as the query `archive` does; returns its settings."""
    settings = ArchiveSettings(url=f"file:{folder}")
    archive._store(pa.array(packets, pa.binary()), settings, SURVEY)
    repository.open_repository(settings)
    return settings


def make(lake: str, packets: Sequence[bytes], batches: int = 2) -> None:
    """A lake of these packets, in so many batches."""
    write.create(lake, ORDER)
    size = -(-len(packets) // batches)
    for begin in range(0, len(packets), size):
        store(lake, packets[begin : begin + size])
        classify(lake, packets[begin : begin + size])


def remove(lake: str, table: str, condition: pl.Expr) -> int:
    """Delete the rows of a table that meet a condition on its key; returns their number."""
    version = lookup.versions(lake, [table])[table]
    live = log.files(lake, table).files
    keys = list(TABLES[table].key)
    rows = [
        lookup.read(
            lake, table, keys, pl.Series(_oids(lake, table)), [int(add["partitionValues"]["pixel"])], located=True
        )
        for add in {add["partitionValues"]["pixel"]: add for add in live.values()}.values()
    ]
    gone = pl.concat(rows).filter(condition).select("path", "position")
    log.commit(lake, table, version, Change([], gone, operation="DELETE"))
    return len(gone)


def _oids(lake: str, table: str) -> list[str]:
    from alerce_spark import lake as rooms

    return rooms.open(lake).table(table).select("oid").unique().collect()["oid"].to_list()


def compact(lake: str, table: str) -> None:
    """Every pixel of a table becomes one file, as compaction does."""
    from alerce_spark.lake import files

    live = log.files(lake, table)
    pixels: dict[str, list[str]] = {}
    for path, add in live.files.items():
        pixels.setdefault(add["partitionValues"]["pixel"], []).append(path)
    for paths in pixels.values():
        rows = lookup.rows_of_files(lake, table, paths, live.version)
        removed = {path: live.files[path].get("deletionVector") for path in paths}
        log.commit(
            lake, table, live.version, Change(files.write(lake, table, rows), removed=removed, operation="OPTIMIZE")
        )
