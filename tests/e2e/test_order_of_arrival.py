"""Whatever the order of arrival of alerts, the final tables are those of the order in which they were sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pyspark.sql import DataFrame, SparkSession

from alerce_spark import lake
from alerce_spark.config import Settings
from alerce_spark.kafka import records
from alerce_spark.lake import write
from alerce_spark.lake.tables import TABLES
from alerce_spark.nightly import invariants
from alerce_spark.sky import position
from alerce_spark.streaming.backfill import import_alerts
from alerce_spark.streaming.queries.crossmatch import Crossmatch
from alerce_spark.streaming.queries.lightcurves import lightcurves
from alerce_spark.streaming.queries.photometry import Photometry
from alerce_spark.streaming.queries.results import Results
from alerce_spark.streaming.queries.stamps import stamps
from alerce_spark.streaming.sink import as_packets
from alerce_spark.streaming.source import PACKETS
from tests.e2e.undisturbed import CrashingCommits, Sent, assert_everything_once, assert_same_tables, survey, tables

pytestmark = pytest.mark.spark
SettingsFor = Callable[..., Settings]

WEEK = 7


@pytest.fixture(scope="module")
def sent() -> Sent:
    """Two weeks of thirty objects, whose packets carry detections of the weeks before."""
    return survey(31, 300, objects=30, nights=16, cadence=1)


@pytest.fixture
def in_order(spark: SparkSession, settings_for: SettingsFor, sent: Sent, tmp_path: Path) -> Settings:
    """The lake of an import of all packets in order, in one batch."""
    settings = settings_for(
        lake={"path": str(tmp_path / "in_order")},
        stream={"queries": ["photometry", "stamps", "lightcurves", "crossmatch", "results"]},
    )
    folder = tmp_path / "alerts"
    folder.mkdir()
    for k, packet in enumerate([*sent.packets, *sent.bad]):
        (folder / f"{k:05d}.avro").write_bytes(packet)
    import_alerts(spark, settings, [folder])
    assert_everything_once(settings, sent)
    return settings


def _arrivals(sent: Sent, rng: np.random.Generator) -> list[list[bytes]]:
    """Three batches: many objects lack their first packets, some nights come a week late; all shuffled, some often."""
    numbered = sent.alerts.with_row_index("row")
    oids = numbered["oid"].unique(maintain_order=True)
    headless = set(numbered.filter(pl.col("oid").is_in(oids.gather_every(3).implode())).group_by("oid").head(2)["row"])
    third = len(sent.packets) // 3
    late = set(range(third // 2, third)) - headless
    on_time = [k for k in range(len(sent.packets)) if k not in headless | late]
    parts = (
        Sent([sent.packets[k] for k in on_time[: len(on_time) // 2]], sent.alerts, sent.bad),
        Sent([sent.packets[k] for k in on_time[len(on_time) // 2 :]], sent.alerts, sent.bad),
        Sent([sent.packets[k] for k in sorted(headless | late)], sent.alerts, []),
    )
    return [part.messages(rng) for part in parts]


def test_out_of_order_repeated_late_without_the_first_packets_and_with_crashes(
    spark: SparkSession, in_order: Settings, sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tables(in_order.lake.path)
    settings = in_order.model_copy(update={"lake": in_order.lake.model_copy(update={"path": str(tmp_path / "lake")})})
    path = settings.lake.path
    write.create(path, settings.lake.healpix_order)
    photometry = Photometry(spark, path, settings.survey, 2, lambda: None)
    crossmatch = Crossmatch(spark, path, settings.survey, lambda: None)
    results = Results(spark, path, "ztf", lambda: None)

    crashing = CrashingCommits()
    crashing.install(monkeypatch)

    def arrive(packets: Sequence[bytes], is_crashing: bool = False) -> None:
        frame = _frame(spark, packets)
        # What classifies looks at tables that lack the batch, as in a stream that is fast.
        for make in (stamps, lightcurves):
            messages = as_packets(make(frame, path, settings.survey, None))
            run = crashing.again_and_again if is_crashing else _once
            run(partial(results.process, messages))
        if is_crashing:
            crashing.again_and_again(partial(crossmatch.process, frame))
            crashing.again_and_again(partial(photometry.process, frame), between=classify_latest)
        else:
            crossmatch.process(frame)
            photometry.process(frame)

    def classify_latest() -> None:
        """Run `lightcurves` on the last packets while photometry has committed some tables and not others."""
        results.process(as_packets(lightcurves(_frame(spark, list(last.values())), path, settings.survey, None)))

    latest = sent.alerts.with_row_index().unique("oid", keep="last", maintain_order=True)
    last = {oid: sent.packets[k] for oid, k in latest.select("oid", "index").iter_rows()}
    first, second, third = _arrivals(sent, np.random.default_rng(1))
    arrive(first)
    arrive(second)
    # Rows of all kinds: new ones, and better ones in place of stored ones.
    arrive(third, is_crashing=True)
    assert crashing.crashed >= {name for name, table in TABLES.items() if table.on_sky}
    short = _short(settings, expected)
    arrive([last[oid] for oid in short])
    assert _short(settings, expected).is_empty()
    assert_everything_once(settings, sent)
    assert_same_tables(tables(path), expected)


def test_the_result_that_knew_most_own_alerts_stays_though_it_used_fewer_detections(
    spark: SparkSession, sent: Sent, settings_for: SettingsFor
) -> None:
    settings = settings_for()
    path = settings.lake.path
    write.create(path, settings.lake.healpix_order)
    results = Results(spark, path, "ztf", lambda: None)
    made = as_packets(lightcurves(_frame(spark, sent.packets), path, settings.survey, None)).collect()[0]
    about = records.LIGHTCURVE.decode(made["packet"])
    # An own alert may say that it is poor, which its copies in later packets do not.
    knew = [(2, 46), (23, 40), (23, 41), (5, 50)]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        about["candid"] += 1
        for k in order:
            message = records.LIGHTCURVE.encode(about | dict(zip(("nown", "ndet_used"), knew[k], strict=True)))
            results.process(spark.createDataFrame([(message, made["source"], 0, 0, None)], PACKETS))
    for table in ("features", "probabilities"):
        rows = lake.open(path).table(table).select("nown", "ndet_used").collect()
        assert rows.rows() == [(23, 41)] * 3


def _once(step: Callable[[], object]) -> None:
    step()


def _frame(spark: SparkSession, packets: Sequence[bytes]) -> DataFrame:
    rows = [(packet, "here", 0, offset, None) for offset, packet in enumerate(packets)]
    return spark.createDataFrame(rows, PACKETS).coalesce(2)


def _short(settings: Settings, expected: dict[str, pl.DataFrame]) -> pl.Series:
    """Objects whose results integrity would find short."""
    own = expected["detections"].filter("has_stamp")
    ra, dec = position(own["healpix29"])
    alerts = own.select("oid", "candid", ra=pl.Series(ra), dec=pl.Series(dec), sampled=True)
    found = invariants.violations(
        alerts, invariants.reader(alerts, settings.lake.path), frozenset(settings.stream.queries)
    )
    return found["oid"].unique()
