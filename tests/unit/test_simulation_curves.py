"""Labelled light curves against packets that pass through the broker's rules, and the survey of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from astropy.coordinates import AltAz, EarthLocation, SkyCoord, get_sun
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark.alerts.avro import decode
from alerce_spark.alerts.model import sign
from alerce_spark.features.select import select
from alerce_spark.lightcurves.correction import correct
from alerce_spark.simulation import survey
from alerce_spark.simulation.curves import CLASSES, LabelledCurves, concatenate, known, light_curves, truncate
from alerce_spark.simulation.measurements import Context, surroundings
from alerce_spark.simulation.night import simulate
from alerce_spark.simulation.simulator import Simulator
from alerce_spark.simulation.sources import KIND_NAMES, Objects
from alerce_spark.surveys.ztf import ZTF

SITE = EarthLocation(lon=survey.LONGITUDE, lat=survey.LATITUDE, height=1700)


@pytest.fixture(scope="module")
def some() -> LabelledCurves:
    return light_curves(2, 6)


def test_every_class_is_there_and_can_be_classified(some: LabelledCurves) -> None:
    assert some.label.tolist() == [name for name in CLASSES for _ in range(6)]
    assert set(KIND_NAMES) - set(CLASSES) == {"asteroid", "bogus"}
    assert len(set(some.oid)) == len(some) == len(CLASSES) * 6
    objects = some.objects()
    assert objects.oid.tolist() == some.oid.tolist()
    counts = np.array([np.diff(band.offsets) for band in objects.bands])
    assert np.all(counts.max(axis=0) >= 6)
    assert np.all((objects.both.err > 0) & (objects.both.err < 1))
    away = np.hypot(
        (objects.meanra - some.truth["ra"]) * np.cos(np.radians(some.truth["dec"])), objects.meandec - some.truth["dec"]
    )
    assert np.all(np.minimum(away, 360 - away) * 3600 < 0.5)


def test_columns_are_in_order_and_consistent(some: LabelledCurves) -> None:
    d, limits = some.detections, some.non_detections
    group = np.repeat(np.arange(len(some)), np.diff(some.offsets))
    limit_group = np.repeat(np.arange(len(some)), np.diff(some.limit_offsets))
    assert np.all(np.diff(group * 1e6 + d["mjd"]) > 0)
    assert np.all((d["mjd"] >= some.truth["begin"][group]) & (d["mjd"] < some.truth["end"][group] + 1))
    assert len(np.unique(d["candid"])) == len(d["candid"])
    np.testing.assert_array_equal(np.minimum.reduceat(d["magpsf"], some.offsets[:-1]), some.truth["peak"])
    # every limit is in the history of some alert: a detection of its object follows within 30 days
    for k in np.unique(limit_group):
        seen = d["mjd"][group == k]
        mine = limits["mjd"][limit_group == k]
        following = np.searchsorted(seen, mine)
        assert following.max() < seen.size
        assert np.all(seen[following] - mine <= 30.0)


def test_the_same_seed_gives_the_same_and_counts_only_say_how_many() -> None:
    few, again, more = (
        light_curves(5, {"RRL": 3, "QSO": 2}),
        light_curves(5, {"RRL": 3, "QSO": 2}),
        light_curves(5, {"RRL": 40}),
    )
    for name in few.detections:
        np.testing.assert_array_equal(few.detections[name], again.detections[name])
        size = few.offsets[3]
        np.testing.assert_array_equal(few.detections[name][:size], more.detections[name][:size])
    assert not set(few.oid) & set(light_curves(6, {"RRL": 3, "QSO": 2}).oid)


def context(sim: Simulator) -> tuple[Context, Objects]:
    """Objects of a simulated sky, observed as for packets."""
    visits = sim.visits(sim.first_night, sim.last_night)
    slots = np.arange(sim.objects)
    begin = np.full(slots.size, float(sim.start))
    objects = sim.sky.at(slots, np.zeros_like(slots), begin, begin + sim.nights)
    parts = sim.parts(objects, visits)
    points = sim.observe(objects, visits, parts)
    around = surroundings(sim.seed, objects, parts)
    return Context(sim.seed, sim.scatter, objects, around, visits, points), objects


def known_from_packets(packets: list[bytes]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Detections and limits that decoded packets tell, once each, by object."""
    decoded = decode(packets, ZTF)
    names = (
        "candid",
        "jd",
        "fid",
        "magpsf",
        "sigmapsf",
        "magnr",
        "sigmagnr",
        "distnr",
        "ra",
        "dec",
        "rb",
        "diffmaglim",
    )
    oid = decoded.alerts["objectId"].to_pylist()
    carrier = [oid[k] for k in decoded.previous["alert"].to_pylist()]
    frames = []
    for table, owner in ((decoded.alerts, oid), (decoded.previous, carrier)):
        columns = {name: table[name].to_numpy(zero_copy_only=False) for name in names if name != "candid"}
        frames.append(
            pl.DataFrame(columns).with_columns(
                oid=pl.Series(owner),
                candid=pl.Series(table["candid"].to_pylist(), dtype=pl.Int64),
                isdiffpos=pl.Series(sign(table["isdiffpos"]).to_pylist(), dtype=pl.Float64),
            )
        )
    rows = pl.concat(frames, how="vertical_relaxed").with_columns(mjd=pl.col("jd") - 2400000.5)
    seen = rows.filter(pl.col("candid").is_not_null()).unique("candid").sort("oid", "mjd")
    limits = rows.filter(pl.col("candid").is_null()).unique(["oid", "jd", "fid"]).sort("oid", "mjd")
    return seen, limits


def test_an_object_is_the_same_in_packets_and_as_a_light_curve() -> None:
    mix = {"RRL": 1, "LPV": 1, "QSO": 1, "E": 1}
    options: dict[str, Any] = {"objects": 25, "nights": 120, "mix": mix, "cadence": 1, "stamps": False}
    night = simulate(31, **options)
    seen, limits = known_from_packets(night.packets)
    sim = Simulator(31, start_mjd=59000.0, **options)
    ctx, objects = context(sim)
    # packets are sent from the start on; what was seen more than 30 days before the first is in none of them
    curves = known(ctx, np.full((4, len(objects)), np.nan))
    # a place whose first object sent no alert has another one in the packets
    seen, limits = (f.filter(pl.col("oid").is_in(curves.oid.tolist())) for f in (seen, limits))
    assert seen["oid"].n_unique() >= 15
    group = np.repeat(np.arange(len(curves)), np.diff(curves.offsets))
    mine = pl.DataFrame(dict(curves.detections)).with_columns(oid=pl.Series(curves.oid[group].tolist()))
    both = seen.join(mine, on=["oid", "candid"], suffix="_curve", how="inner")
    assert len(both) == len(seen) > 300
    for name, within in (
        ("mjd", 1e-8),
        ("ra", 1e-9),
        ("dec", 1e-9),
        ("magpsf", 2e-6),
        ("sigmapsf", 1e-6),
        ("rb", 1e-6),
    ):
        np.testing.assert_allclose(both[name], both[f"{name}_curve"], rtol=0, atol=within)
    result = correct(*(both[c].to_numpy() for c in ("magpsf", "sigmapsf", "magnr", "sigmagnr", "distnr", "isdiffpos")))
    np.testing.assert_array_equal(result.corrected, both["corrected"])
    sound = np.isfinite(result.magpsf_corr) & (result.magpsf_corr < 21)  # fainter ones enlarge the rounding to 32 bits
    np.testing.assert_allclose(result.magpsf_corr[sound], both["magpsf_corr"].to_numpy()[sound], atol=1e-4)
    # and the same upper limits, of those objects whose first detection sent a packet
    limit_group = np.repeat(np.arange(len(curves)), np.diff(curves.limit_offsets))
    theirs = pl.DataFrame(dict(curves.non_detections)).with_columns(oid=pl.Series(curves.oid[limit_group].tolist()))
    first = seen.group_by("oid").agg(pl.col("mjd").min().alias("first"))
    theirs = theirs.join(first, on="oid").filter(pl.col("mjd") > pl.col("first"))
    told = limits.join(first, on="oid").filter(pl.col("mjd") > pl.col("first"))
    last_packet = seen.group_by("oid").agg(pl.col("mjd").max().alias("last"))
    assert theirs.join(last_packet, on="oid").filter(pl.col("mjd") > pl.col("last")).is_empty()
    keys = [sorted(zip(f["oid"], f["mjd"].round(6), f["fid"], strict=True)) for f in (theirs, told)]
    assert keys[0] == keys[1]
    assert len(keys[0]) > 100


def test_selection_equals_that_of_flat_tables(some: LabelledCurves) -> None:
    group = np.repeat(np.arange(len(some)), np.diff(some.offsets))
    flat = select({"oid": some.oid[group].astype(str), **some.detections})
    order = np.argsort(some.oid)
    np.testing.assert_array_equal(flat.corrected, some.objects().corrected[order])
    np.testing.assert_array_equal(np.diff(flat.both.offsets), np.diff(some.objects().both.offsets)[order])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_truncated_objects_are_parts_that_can_be_classified(
    some: LabelledCurves, seed: int, early: float, one_band: float, without_wise: float
) -> None:
    cut = truncate(some, np.random.default_rng(seed), early=early, one_band=one_band, without_wise=without_wise)
    assert cut.oid.tolist() == some.oid.tolist()
    assert cut.label.tolist() == some.label.tolist()
    assert set(cut.detections["candid"].tolist()) <= set(some.detections["candid"].tolist())
    assert np.all(np.diff(cut.offsets) <= np.diff(some.offsets))
    assert np.all(np.diff(cut.limit_offsets) <= np.diff(some.limit_offsets))
    counts = np.array([np.diff(band.offsets) for band in cut.objects().bands])
    assert np.all(counts.max(axis=0) >= 6)
    kept = np.isfinite(cut.wise)
    np.testing.assert_array_equal(cut.wise[kept], some.wise[kept])


def test_truncation_reaches_six_points_one_band_and_no_match(some: LabelledCurves) -> None:
    rng = np.random.default_rng(1)
    cuts = [truncate(some, rng, early=1.0, one_band=0.0, without_wise=0.0) for _ in range(30)]
    most = np.array([[np.diff(band.offsets) for band in cut.objects().bands] for cut in cuts]).max(axis=1)
    assert most.min() == 6
    assert np.quantile(most.min(axis=0), 0.8) <= 9
    alone = truncate(some, rng, early=0.0, one_band=1.0, without_wise=1.0)
    counts = np.array([np.diff(band.offsets) for band in alone.objects().bands])
    assert np.all((counts > 0).sum(axis=0) == 1)
    assert not np.isfinite(alone.wise).any()
    same = truncate(some, rng, early=0.0, one_band=0.0, without_wise=0.0)
    np.testing.assert_array_equal(same.detections["candid"], some.detections["candid"])


def test_taking_and_joining_are_inverse(some: LabelledCurves) -> None:
    rows = np.array([5, 0, 17])
    taken = some.take(rows)
    assert taken.oid.tolist() == some.oid[rows].tolist()
    for i, k in enumerate(rows):
        mine, theirs = (slice(c.offsets[j], c.offsets[j + 1]) for c, j in ((taken, i), (some, k)))
        np.testing.assert_array_equal(taken.detections["mjd"][mine], some.detections["mjd"][theirs])
    whole = concatenate([some.take(slice(0, 11)), some.take(slice(11, None))])
    for name in ("offsets", "limit_offsets", "wise", "label"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(some, name))
    for name, column in some.detections.items():
        np.testing.assert_array_equal(whole.detections[name], column)


@pytest.mark.parametrize(
    "options",
    [
        {"counts": {"asteroid": 1}},
        {"counts": {"RRL": -1}},
        {"counts": 1, "span_days": (0.0, 100.0)},
        {"counts": 1, "span_days": (200.0, 100.0)},
        {"counts": 1, "span_days": (200.0, 2000.0)},
    ],
    ids=str,
)
def test_bad_arguments_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"counts|span_days"):
        light_curves(1, **options)
    with pytest.raises(ValueError, match="shares"):
        truncate(light_curves(1, {"RRL": 1}), np.random.default_rng(0), early=1.5)
    assert len(light_curves(1, {"RRL": 0})) == 0


# ---- survey ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("night", [58300, 58400, 58475, 58560, 59050])
def test_nights_begin_and_end_at_twilight(night: int) -> None:
    for part in survey.darkness(night):
        time = Time(night + float(part), format="mjd")
        altitude = get_sun(time).transform_to(AltAz(obstime=time, location=SITE)).alt.deg
        assert altitude == pytest.approx(-survey.TWILIGHT, abs=3.6)  # the mean Sun is up to 16 minutes off


def test_hour_angle_and_airmass_are_those_of_astropy() -> None:
    ra, dec = np.array([10.0, 150.0, 280.0]), np.array([50.0, -10.0, 33.0])
    for night in (58300, 59050):
        mjd = night + survey.transit(ra, night) + 0.05
        expected = SkyCoord(ra, dec, unit="deg").transform_to(AltAz(obstime=Time(mjd, format="mjd"), location=SITE))
        found = survey.airmass(np.full(3, 0.05 * 360.98565), dec)
        np.testing.assert_allclose(found, np.minimum(expected.secz.value, 3.0), rtol=0.02)


def test_exposures_are_taken_in_the_dark_and_not_low() -> None:
    visits = survey.Survey(7).visits(np.arange(1, survey.N_FIELDS + 1, 7), 58300, 58700)
    some = np.random.default_rng(1).choice(visits.mjd.size, 300, replace=False)
    time = Time(visits.mjd[some], format="mjd")
    frame = AltAz(obstime=time, location=SITE)
    assert np.all(get_sun(time).transform_to(frame).alt.deg < -survey.TWILIGHT + 4.0)
    at = visits.field[some] - 1
    field = SkyCoord(survey.CENTRE_RA[at], survey.CENTRE_DEC[at], unit="deg").transform_to(frame)
    assert np.quantile(field.alt.deg, 0.02) > 15.0
    assert survey.CENTRE_DEC[at].min() > survey.SOUTHERN_LIMIT


def test_galactic_latitude_of_fields_is_that_of_astropy() -> None:
    expected = SkyCoord(survey.CENTRE_RA, survey.CENTRE_DEC, unit="deg").galactic.b.deg
    np.testing.assert_allclose(survey.GALACTIC_LATITUDE, expected, atol=1e-3)


def test_coverage_goes_from_few_to_many() -> None:
    visits = survey.Survey(8).visits(np.arange(1, survey.N_FIELDS + 1), 58200, 59480)
    count = np.diff(visits.starts)[survey.CENTRE_DEC > survey.SOUTHERN_LIMIT]
    assert np.quantile(count, 0.02) < 100
    assert np.quantile(count, 0.99) > 800
