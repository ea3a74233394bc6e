"""The final tables do not depend on how packets arrive: shuffled, repeated, in batches of any size; no Spark."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import fastavro
import numpy as np
import polars as pl
import pytest

from alerce_spark import sky
from alerce_spark.alerts.avro import decode
from alerce_spark.lake.tables import TABLES
from alerce_spark.lightcurves import assemble as a
from alerce_spark.simulation.night import Traits, simulate
from alerce_spark.surveys.ztf import ZTF
from tests.lakes import WRITTEN, assert_complete, assert_keys_unique, assert_same, records

ORDER = 4


class MemoryLake:
    """The tables as frames, written as the photometry query writes them."""

    def __init__(self) -> None:
        self.tables = {name: _frame(TABLES[name].arrow.empty_table()) for name in WRITTEN}

    def write(self, packets: Sequence[bytes]) -> None:
        decoded = decode(list(packets), ZTF)
        oids = decoded.alerts["objectId"].unique().sort().to_pylist()
        known = self.tables["objects"].select("oid", "pixel")
        first = pl.DataFrame(
            {
                "oid": decoded.alerts["objectId"],
                "here": pl.Series(sky.healpix(decoded.alerts["ra"], decoded.alerts["dec"], ORDER), dtype=pl.Int32),
            }
        ).unique("oid", keep="first")
        homes = (
            pl.DataFrame({"oid": oids}, schema={"oid": pl.String})
            .join(known, on="oid", how="left")
            .join(first, on="oid")
            .select("oid", pixel=pl.coalesce("pixel", "here"))
        )
        mine = pl.col("oid").is_in(oids)
        stored = a.Stored(
            self.tables["detections"].filter(mine).select(a.DETECTION_COLUMNS),
            self.tables["non_detections"].filter(mine).select(a.LIMIT_COLUMNS),
            self.tables["forced_photometry"].filter(mine).select(a.FORCED_COLUMNS),
        )
        rows = a.assemble(decoded, stored, homes, survey=ZTF, order=ORDER)
        for table, new, upgrade in (
            ("detections", rows.detections_new, rows.detections_upgrade),
            ("non_detections", rows.limits_new, rows.limits_upgrade),
            ("forced_photometry", rows.forced_new, rows.forced_upgrade),
        ):
            self._append(table, new)
            self._replace(table, upgrade)
        flagged = rows.flagged.select("oid", "candid", changed="dubious")
        detections = self.tables["detections"].join(flagged, on=["oid", "candid"], how="left")
        self.tables["detections"] = detections.with_columns(dubious=pl.coalesce("changed", "dubious")).drop("changed")
        self._replace("objects", rows.objects)
        self._replace("magstats", rows.magstats)

    def _append(self, table: str, rows: pl.DataFrame) -> None:
        fresh = _frame(rows.select(TABLES[table].names).to_arrow().cast(TABLES[table].arrow))
        self.tables[table] = pl.concat([self.tables[table], fresh], how="vertical")

    def _replace(self, table: str, rows: pl.DataFrame) -> None:
        key = [pl.col(k) if k != "mjd" else (pl.col(k) / 1e-5).round().cast(pl.Int64) for k in TABLES[table].key]
        self.tables[table] = self.tables[table].join(rows, on=key, how="anti", nulls_equal=True)
        self._append(table, rows)

    def snapshot(self) -> dict[str, pl.DataFrame]:
        return {
            name: frame.drop([c for c in ("extra", "pixel") if c in frame.columns]).sort(TABLES[name].key)
            for name, frame in self.tables.items()
        }


def _frame(table: object) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _written(batches: Sequence[Sequence[bytes]]) -> dict[str, pl.DataFrame]:
    lake = MemoryLake()
    for batch in batches:
        if batch:
            lake.write(batch)
    return lake.snapshot()


def _cut(packets: Sequence[bytes], rng: np.random.Generator, pieces: int) -> list[list[bytes]]:
    shuffled = [packets[i] for i in rng.permutation(len(packets))]
    bounds = np.sort(rng.integers(0, len(packets) + 1, pieces - 1))
    return [list(part) for part in np.split(np.array(shuffled, object), bounds)]


@pytest.fixture(scope="module")
def simulated() -> list[bytes]:
    """A few objects over weeks, with every oddity of real histories and both forms of schema."""
    night = simulate(5, objects=14, nights=25, version=("1.0", "3.3", "4.02"), stamps=False, traits=Traits.like_ztf())
    return night.packets


def test_one_batch_agrees_with_the_oracle(simulated: list[bytes]) -> None:
    tables = _written([simulated])
    assert_keys_unique(tables)
    assert_complete(tables, records(simulated))


@pytest.mark.parametrize("seed", range(8))
def test_any_order_in_any_batches_gives_the_same_tables(simulated: list[bytes], seed: int) -> None:
    rng = np.random.default_rng(seed)
    batches = _cut(simulated, rng, int(rng.integers(2, 30)))
    repeated = [batches[i] for i in rng.integers(0, len(batches), 3)]
    assert_same(_written([*batches, *repeated]), _written([simulated]))


def test_own_alert_replaces_a_carried_detection_and_not_the_other_way_round(simulated: list[bytes]) -> None:
    alerts = records(simulated)
    later, carried = next(
        (i, entry["candid"])
        for i, alert in enumerate(alerts)
        for entry in alert["prv_candidates"] or []
        if entry["candid"] is not None and any(x["candid"] == entry["candid"] for x in alerts)
    )
    own = next(i for i, alert in enumerate(alerts) if alert["candid"] == carried)

    def row(batches: list[list[bytes]]) -> tuple[bool, int | None]:
        stored = _written(batches)["detections"].filter(pl.col("candid") == carried)
        assert len(stored) == 1
        return stored["has_stamp"][0], stored["parent_candid"][0]

    assert row([[simulated[later]]]) == (False, alerts[later]["candid"])
    assert row([[simulated[later]], [simulated[own]]]) == (True, None)
    assert row([[simulated[own]], [simulated[later]]]) == (True, None)


@pytest.mark.real_data
def test_real_packets_in_any_order(data_dir: Path) -> None:
    packets = [p.read_bytes() for p in sorted((data_dir / "ztf").glob("[hev]*/**/*.avro"))]
    assert len(packets) == 203 + 135 + 48
    whole = _written([packets])
    assert_keys_unique(whole)
    assert_complete(whole, records(packets))
    rng = np.random.default_rng(11)
    for pieces in (7, 60):
        assert_same(_written(_cut(packets, rng, pieces)), whole)


def test_a_carried_detection_with_a_damaged_position_lies_where_its_carrier_does() -> None:
    from alerce_spark.surveys import ztf

    night = simulate(5, objects=3, nights=15, stamps=False, mix={"RRL": 1})
    alert = max(records(night.packets), key=lambda a: sum(e["candid"] is not None for e in a["prv_candidates"]))
    entries = [e for e in alert["prv_candidates"] if e["candid"] is not None]
    for entry, (ra, dec) in zip(entries, ((400.0, 0.0), (float("nan"), 0.0), (10.0, -80.0)), strict=False):
        entry["ra"], entry["dec"] = ra, dec
    sink = io.BytesIO()
    fastavro.writer(sink, fastavro.parse_schema(ztf.avro_schema("3.3")), [alert])
    stored = _written([[sink.getvalue()], [sink.getvalue()]])["detections"]
    assert stored["candid"].is_unique().all()
    place = alert["candidate"]["ra"], alert["candidate"]["dec"]
    assert (sky.separation(stored["ra"], stored["dec"], *place) < sky.OBJECT_RADIUS).all()
