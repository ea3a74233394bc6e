"""Packets into Delta tables as batches: order, repetition, sky edges, bad packets, and what other readers see."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fastavro
import healpy
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from alerce_spark import lake, sky
from alerce_spark.config import Settings
from alerce_spark.lake.tables import TABLES
from alerce_spark.lease import Lease, LeaseHeld
from alerce_spark.simulation.defects import DEFECTS, corrupt
from alerce_spark.simulation.night import Traits, simulate
from alerce_spark.streaming import backfill
from alerce_spark.streaming.queries import writers
from tests.lakes import assert_complete, assert_keys_unique, assert_same, records, snapshot

pytestmark = pytest.mark.spark
SettingsFor = Callable[..., Settings]
#: Most packets here have no stamps; tests/e2e/test_classify.py imports with classes.
import_alerts = partial(backfill.import_alerts, classify=False)


def _write(folder: Path, packets: Sequence[bytes]) -> Path:
    folder.mkdir(parents=True)
    for i, packet in enumerate(packets):
        (folder / f"{i:05d}.avro").write_bytes(packet)
    return folder


@pytest.mark.real_data
def test_real_packets_shuffled_in_pieces_and_again(
    spark: SparkSession, settings_for: SettingsFor, tmp_path: Path, data_dir: Path
) -> None:
    ztf = data_dir / "ztf"
    files = sorted(ztf.glob("[hev]*/**/*.avro"))
    archive = ztf / "ztf_public_20180819_mod1000.tar.gz"
    with tarfile.open(archive) as tar:
        packets = [tar.extractfile(m).read() for m in tar if m.isfile()]  # type: ignore[union-attr]
    packets += [f.read_bytes() for f in files]
    assert len(packets) == 203 + 135 + 48 + 30

    at_once = settings_for(lake={"path": str(tmp_path / "at_once")})
    import_alerts(spark, at_once, [ztf])
    whole = snapshot(at_once.lake.path)
    assert_keys_unique(whole)
    assert_complete(whole, records(packets))
    # The five corrupt files are the same page: one row by the checksum of its bytes.
    assert whole["quarantine"]["reason"].to_list() == ["not an Avro container: starts with b'<!DO'"]

    import_alerts(spark, at_once, [ztf])
    assert_same(snapshot(at_once.lake.path), whole)

    in_pieces = settings_for(lake={"path": str(tmp_path / "in_pieces")})
    rng = np.random.default_rng(7)
    sources = [*files, archive, *sorted((ztf / "corrupt").iterdir())]
    shuffled = [sources[i] for i in rng.permutation(len(sources))]
    for piece in np.array_split(np.array(shuffled, object), np.sort(rng.integers(1, len(shuffled), 2))):
        import_alerts(spark, in_pieces, list(piece))
    assert_same(snapshot(in_pieces.lake.path), whole)


def test_objects_on_edges_corners_poles_and_ra_zero_are_never_split(
    spark: SparkSession, settings_for: SettingsFor, tmp_path: Path
) -> None:
    settings = settings_for()
    order = settings.lake.healpix_order
    corners = np.concatenate([healpy.boundaries(1 << order, p, step=2, nest=True).T for p in (0, 700, 1535, 3071)])
    ra, dec = healpy.vec2ang(corners, lonlat=True)
    places = np.column_stack([ra % 360, dec])
    extra = [(0.0, 90.0), (200.0, -90.0), (0.0, 0.0), (359.99999, 12.3), (1e-6, -33.0), (0.0, 41.8103)]
    places = np.concatenate([places, extra])
    # No transients: every place keeps its object, most of which send several alerts.
    night = simulate(
        9, objects=len(places), nights=12, positions=places, scatter=1.0, mix={"RRL": 1, "LPV": 1}, stamps=False
    )
    assert len(night.packets) > 2 * len(places)
    # First one batch that holds several alerts of every new object, then the rest.
    rng = np.random.default_rng(3)
    shuffled = [night.packets[i] for i in rng.permutation(len(night.packets))]
    half = len(shuffled) // 2
    for name, part in (("first", shuffled[:half]), ("second", shuffled[half:])):
        import_alerts(spark, settings, [_write(tmp_path / name, part)])
    tables = snapshot(settings.lake.path)
    assert_keys_unique(tables)
    assert_complete(tables, records(night.packets))
    assert set(tables["objects"]["oid"]) == set(night.oids)
    split = lake.open(settings.lake.path).table("detections").group_by("oid").agg(pl.col("pixel").n_unique()).collect()
    assert split["pixel"].max() > 1, "the test should have objects with rows in two pixels"  # type: ignore[operator]


def _namesake(packet: bytes, oid: str, arcsec: float, shift: int) -> bytes:
    """The packet as if its object were to the east, under `oid`, with other candids."""
    reader = fastavro.reader(io.BytesIO(packet))
    record: Any = next(reader)
    record |= {"objectId": oid, "candid": record["candid"] + shift}
    for row in (record["candidate"], *(record["prv_candidates"] or ())):
        if row["candid"] is not None:
            row["candid"] += shift
        if row["ra"] is not None:
            row["ra"] = (row["ra"] + arcsec / 3600 / np.cos(np.radians(row["dec"]))) % 360
    out = io.BytesIO()
    fastavro.writer(out, reader.writer_schema, [record])
    return out.getvalue()


def test_one_oid_at_several_places_is_an_object_at_each(
    spark: SparkSession, settings_for: SettingsFor, tmp_path: Path
) -> None:
    """As if each had an id: in one batch, and in batches of any order; also where look-ups of one meet the other."""
    night = simulate(4, objects=6, nights=6, stamps=False)
    name = max(night.oids, key=night.oids.count)
    mine = [p for p, o in zip(night.packets, night.oids, strict=True) if o == name]
    assert len(mine) > 2
    places = ((15.0, 1), (40.0, 2), (18000.0, 3))

    def packets(names: Sequence[str]) -> list[bytes]:
        moved = [_namesake(p, n, *place) for n, place in zip(names, places, strict=True) for p in mine]
        return [*night.packets, *moved]

    def tables(settings: Settings) -> dict[str, pl.DataFrame]:
        found = {}
        for table in ("detections", "non_detections", "objects", "magstats", "xmatch"):
            frame = lake.open(settings.lake.path).table(table).collect()
            frame = frame.drop("pixel", "attempted", strict=False)
            frame = frame.with_columns(pl.col("oid").str.replace(r"-[0-9]$", ""))
            found[table] = frame.sort("healpix29", *TABLES[table].key)
        return found

    reference = settings_for(lake={"path": str(tmp_path / "reference")})
    import_alerts(spark, reference, [_write(tmp_path / "ids", packets([f"{name}-{k}" for k in range(3)]))])
    expected = tables(reference)
    assert expected["objects"].filter(oid=name).height == 4

    shared = packets([name] * 3)
    shuffled = [shared[k] for k in np.random.default_rng(2).permutation(len(shared))]
    for label, parts in (("once", [shared]), ("parts", [shuffled[::2], shuffled[1::2]])):
        settings = settings_for(lake={"path": str(tmp_path / label)})
        for k, part in enumerate(parts):
            import_alerts(spark, settings, [_write(tmp_path / f"{label}{k}", part)])
        for table, frame in tables(settings).items():
            assert_frame_equal(frame, expected[table], rel_tol=1e-12, abs_tol=1e-12, check_row_order=True)


def test_what_gives_no_packet_is_told_and_the_rest_is_written(
    spark: SparkSession, settings_for: SettingsFor, tmp_path: Path
) -> None:
    settings = settings_for()
    night = simulate(4, objects=3, nights=3, stamps=False)
    folder = _write(tmp_path / "alerts", night.packets[:2])
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for k, packet in enumerate(night.packets[2:5]):
            info = tarfile.TarInfo(f"{k}.avro")
            info.size = len(packet)
            archive.addfile(info, io.BytesIO(packet))
    (folder / "cut.tar.gz").write_bytes(whole.getvalue()[:-8])
    (folder / "notes.txt").write_text("Not a packet.")
    done = import_alerts(spark, settings, [folder])
    assert done.alerts == 5
    named = {Path(where).name: why for where, why in done.unread}
    assert set(named) == {"cut.tar.gz", "notes.txt"}
    assert "cut off" in named["cut.tar.gz"]
    assert_complete(snapshot(settings.lake.path), records(night.packets[:5]))


def test_bad_packets_go_to_quarantine_once_and_the_rest_goes_on(
    spark: SparkSession, settings_for: SettingsFor, tmp_path: Path
) -> None:
    settings = settings_for()
    night = simulate(4, objects=12, nights=4, stamps=False)
    rng = np.random.default_rng(1)
    undetectable = {"bitflip"}  # inside a number
    kinds = [d for d in DEFECTS if d not in undetectable]
    bad = [corrupt(night.packets[i], kind, rng) for i, kind in enumerate(kinds)]
    folder = _write(tmp_path / "alerts", [*night.packets, *bad, *bad])
    # A file that is too large to be a packet is not read: it is named, and its bytes stay where they are.
    oversized = bad.pop(kinds.index("oversized"))
    import_alerts(spark, settings, [folder])
    done = import_alerts(spark, settings, [folder])
    tables = snapshot(settings.lake.path)
    assert_complete(tables, records(night.packets))
    refused = tables["quarantine"]
    assert done.refused == len(bad) * 2
    assert {Path(where).read_bytes() for where, _ in done.unread} == {oversized}
    assert sorted(refused["packet"].to_list()) == sorted(set(bad))
    assert refused["reason"].null_count() == 0


def test_import_refuses_a_lake_that_somebody_writes(
    spark: SparkSession, settings_for: SettingsFor, tmp_path: Path
) -> None:
    settings = settings_for()
    folder = _write(tmp_path / "alerts", simulate(2, objects=3, nights=2, stamps=False).packets)
    with (
        Lease(settings.lake.path, "alerce-spark stream", 60.0, writers()),
        pytest.raises(LeaseHeld, match="alerce-spark stream"),
    ):
        import_alerts(spark, settings, [folder])


def test_readers_of_other_languages_and_open_handles_survive_maintenance(
    spark: SparkSession, settings_for: SettingsFor, tmp_path: Path
) -> None:
    from deltalake import DeltaTable, QueryBuilder

    from alerce_spark.lake import lookup
    from alerce_spark.lake.compact import compact, files_of_pixels
    from alerce_spark.lightcurves.assemble import DETECTION_COLUMNS

    settings = settings_for()
    path = settings.lake.path
    night = simulate(6, objects=30, nights=15, stamps=False, version=("3.3", "4.02"), traits=Traits.like_ztf())
    rng = np.random.default_rng(5)
    shuffled = [night.packets[i] for i in rng.permutation(len(night.packets))]
    for i in range(3):
        import_alerts(spark, settings, [_write(tmp_path / str(i), shuffled[i::3])])
    before = snapshot(path)
    assert_complete(before, records(night.packets))

    some = before["objects"].head(5)
    pixels = sky.near_pixels(some["meanra"], some["meandec"], settings.lake.healpix_order)

    def look_up() -> pl.DataFrame:
        found = lookup.read(path, "detections", DETECTION_COLUMNS, some["oid"], pixels, version)
        return found.sort("oid", "candid")

    version = lookup.versions(path, ["detections"])["detections"]
    seen = look_up()
    assert len(seen) == some["ndet"].sum()

    spark.sql(f"OPTIMIZE delta.`{path}/objects`")
    for table in ("detections", "non_detections", "magstats"):
        done = compact(spark, path, table)
        assert done.after < done.before
        assert files_of_pixels(path, table)["files"].max() == 1
    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    for table in ("detections", "non_detections", "objects"):
        spark.sql(f"VACUUM delta.`{path}/{table}` RETAIN 0 HOURS")

    assert_same(snapshot(path), before)
    # The open handle stands at a version whose files are gone: it is renewed, at the newest version.
    version = lookup.versions(path, ["detections"])["detections"]
    assert look_up().equals(seen)
    for table in ("detections", "non_detections", "forced_photometry", "objects", "magstats"):
        counted = QueryBuilder().register("t", DeltaTable(f"{path}/{table}")).execute("SELECT count(*) AS n FROM t")
        assert counted.read_all().column("n")[0].as_py() == len(before[table])

    opened = lake.open(path)
    one = before["objects"].row(0, named=True)
    cone = lake.Cone(one["meanra"], one["meandec"], 3.0)
    for name in ("detections", "non_detections", "objects", "magstats"):
        by_oid = before[name].filter(pl.col("oid") == one["oid"])
        assert opened.table(name, oid=one["oid"]).collect().height == by_oid.height
        assert opened.spark_table(spark, name, oid=one["oid"]).count() == by_oid.height
        assert opened.table(name, cone=cone).filter(pl.col("oid") == one["oid"]).collect().height == by_oid.height
        assert opened.spark_table(spark, name, cone=cone).where(f"oid = '{one['oid']}'").count() == by_oid.height


def test_catalogue_comments_and_order_are_in_the_tables(spark: SparkSession, settings_for: SettingsFor) -> None:
    from alerce_spark.errors import LakeError
    from alerce_spark.lake import write
    from alerce_spark.lake.handles import healpix_order
    from alerce_spark.lake.tables import TABLES

    settings = settings_for(lake={"healpix_order": 3})
    path = settings.lake.path
    assert write.create(path, 3) == list(TABLES)
    assert write.create(path, 3) == []
    assert healpix_order(path) == 3
    with pytest.raises(LakeError, match="order 3, the settings say 4"):
        write.create(path, 4)
    described = {row["col_name"]: row["comment"] for row in spark.sql(f"DESCRIBE delta.`{path}/detections`").collect()}
    assert described["sigmapsf_corr"] == "Its error for a point source (Eq. A28); null undefined [mag]"
    with pytest.raises(Exception, match="ra_range"):
        spark.sql(
            f"INSERT INTO delta.`{path}/detections` (pixel, healpix29, survey, oid, candid, mjd, fid, ra, dec, "
            "corrected, dubious, has_stamp) VALUES (0, 0, 'ztf', 'a', 1, 59000.0, 1, 360.5, 0.0, true, false, true)"
        )
