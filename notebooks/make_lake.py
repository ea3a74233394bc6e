"""Make the lake of the notebooks: a simulated year of two pieces of sky, imported and classified in two parts.

    python notebooks/make_lake.py             # into lake.path of the settings, which the notebooks open too

One piece lies at high Galactic latitude near the ecliptic (supernovae, active nuclei, RR Lyrae, asteroids), one in the
Galactic plane (variable stars). Beside the tables stands `truth.parquet`: what each object is, and its true period.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from alerce_spark import surveys
from alerce_spark.config import Settings, conf_dir, load
from alerce_spark.crossmatch.catalogs import load as load_catalogs
from alerce_spark.lake.catalogs import WISE, import_catalog
from alerce_spark.session import spark_session
from alerce_spark.simulation.night import simulate
from alerce_spark.simulation.simulator import HISTORY_DAYS, Simulator
from alerce_spark.simulation.sources import object_ids
from alerce_spark.streaming.backfill import import_alerts

#: Nights of the survey, and how many of them are the second part: the lake is written up to there first.
NIGHTS, LAST = 310, 12
#: Supernovae of a simulation are over by its last night; the lake ends so many nights earlier, when some are young.
UNSEEN = 90
_WISE = ("w1mpro", "w2mpro", "w3mpro", "w4mpro")
_NIGHT = 10**15  # a candid is night, fraction of the day, chip and number in the image


@dataclass(frozen=True)
class Region:
    """A piece of sky: seed, number of objects, days between visits, centre (ra, dec) [deg], weight of each kind."""

    seed: int
    objects: int
    cadence: int
    centre: tuple[float, float]
    mix: Mapping[str, float]

    @property
    def survey(self) -> dict[str, Any]:
        """The arguments of the simulation."""
        place = {"objects": self.objects, "centre": self.centre, "mix": self.mix, "fields": 2}
        return {"start_mjd": 59000.0, "nights": NIGHTS + UNSEEN, "cadence": self.cadence, **place}


HIGH = Region(
    1,
    420,
    3,
    (160.0, 10.0),
    {
        **{"SNIa": 20, "SNIbc": 5, "SNII": 9, "SLSN": 4, "QSO": 14, "AGN": 12, "Blazar": 6},
        **{"RRL": 8, "DSCT": 2, "asteroid": 12, "bogus": 8},
    },
)
PLANE = Region(
    2,
    200,
    6,
    (300.0, 30.0),
    {"E": 24, "RRL": 14, "CEP": 12, "LPV": 14, "DSCT": 8, "Periodic-Other": 6, "YSO": 10, "CV/Nova": 8, "bogus": 4},
)


def packets(region: Region) -> tuple[dict[int, bytes], dict[str, str]]:
    """Packets by candid: the first alert of each object, with stamps, and of the later ones enough to know them all.

    And the kind of each object.

    A packet carries the detections and upper limits of the thirty days before it, so one in four weeks and the last
    one bring every point of the light curve.
    """
    every = simulate(region.seed, stamps=False, **region.survey)
    end = (every.candids[0] // _NIGHT + NIGHTS) * _NIGHT
    seen = int(np.searchsorted(every.candids, end))
    alerts = list(zip(every.candids[:seen].tolist(), every.oids, every.packets, strict=False))
    last = {oid: candid for candid, oid, _ in alerts}
    kept: dict[str, int] = {}
    chosen = {}
    for candid, oid, packet in alerts:
        if oid not in kept or candid - kept[oid] >= (HISTORY_DAYS - 2) * _NIGHT or candid == last[oid]:
            kept[oid], chosen[candid] = candid, packet
    first = simulate(region.seed, alerts_per_object=1, **region.survey)
    with_stamps = zip(first.candids.tolist(), first.packets, strict=True)
    chosen |= {candid: packet for candid, packet in with_stamps if candid < end}
    return chosen, {oid: every.truth[oid] for oid in kept}


def truth(region: Region, kind_of: Mapping[str, str]) -> pl.DataFrame:
    """What each object is: `oid`, `kind`, the `period` [d] of the periodic ones, true position and AllWISE magnitudes.

    Columns ra, dec [deg], w1mpro … w4mpro [mag], null where AllWISE has no source.
    """
    sim = Simulator(region.seed, **region.survey)
    slots = np.arange(sim.objects)
    begin = np.full(slots.size, float(sim.start))
    visits = sim.visits(sim.first_night, sim.last_night)
    generations = []
    # The simulation tries object after object in each place until one sends an alert.
    for generation in count():
        objects = sim.sky.at(slots, np.full(slots.size, generation), begin, begin + sim.nights)
        period, wise = np.full(slots.size, np.nan), np.full((4, slots.size), np.nan)
        for part in sim.parts(objects, visits):
            wise[:, part.rows] = part.kind.wise(part.draws)
            if hasattr(part.kind, "period"):
                period[part.rows] = part.kind.period(part.draws)
        columns = {"oid": object_ids(sim.seed, objects), "period": period, "ra": objects.ra, "dec": objects.dec}
        made = pl.DataFrame(columns | dict(zip(_WISE, wise, strict=True)), nan_to_null=True)
        generations.append(made.filter(pl.col("oid").is_in(kind_of.keys())))
        if sum(map(len, generations)) == len(kind_of):
            break
    kinds = pl.DataFrame({"oid": kind_of.keys(), "kind": kind_of.values()})
    return kinds.join(pl.concat(generations), "oid").sort("oid")


def import_allwise(lake: Path, settings: Settings, objects: pl.DataFrame) -> None:
    """A catalogue of the sources that AllWISE has at objects, as a file of the archive would give it."""
    seen = objects.drop_nulls("w1mpro")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "allwise.csv"
        names = pl.format("J{}{}", pl.col("ra").round(5), pl.col("dec").round(5)).alias("designation")
        seen.select(names, "ra", "dec", *_WISE).write_csv(file)
        import_catalog(
            str(lake), WISE, load_catalogs(conf_dir() / "catalogs.toml", surveys.get(settings.survey))[WISE], [file]
        )


def make(settings: Settings) -> None:
    """Make the lake anew at lake.path of `settings`."""
    lake = Path(settings.lake.path)
    if lake.exists() and not (lake / "truth.parquet").exists():
        raise SystemExit(f"{lake} is there and is no lake of this script; set ALERCE_LAKE__PATH to another place")
    shutil.rmtree(lake, ignore_errors=True)
    alerts: dict[int, bytes] = {}
    known = []
    for region in (HIGH, PLANE):
        made, kinds = packets(region)
        alerts |= made
        known.append(truth(region, kinds))
    objects = pl.concat(known)
    import_allwise(lake, settings, objects)
    spark = spark_session(settings, "alerce-spark notebooks")
    last = max(alerts) // _NIGHT - LAST
    for part in (lambda night: night <= last, lambda night: night > last):
        with TemporaryDirectory() as folder:
            for candid, packet in alerts.items():
                if part(candid // _NIGHT):
                    (Path(folder) / f"{candid}.avro").write_bytes(packet)
            import_alerts(spark, settings, [Path(folder)])
    objects.write_parquet(lake / "truth.parquet")
    Console().print(f"{len(alerts)} alerts of {len(objects)} objects in {lake}")


if __name__ == "__main__":
    make(load(overrides={"lake": {"healpix_order": 3}}))
