"""The simulator: packets that fastavro reads, that agree with each other, and that look like ZTF's."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import fastavro
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord, angular_separation
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alerce_spark.simulation import packets, randoms, sources, survey
from alerce_spark.simulation.defects import DEFECTS, OVERSIZED, corrupt
from alerce_spark.simulation.measurements import offset
from alerce_spark.simulation.night import Night, last_night, simulate, stream
from alerce_spark.simulation.traits import Traits
from alerce_spark.surveys import ztf

Packet = dict[str, Any]
#: Fields of a history that ZTF writes otherwise than the alert does: the file with its path, no Solar System.
WRITTEN_OTHERWISE = {"pdiffimfilename", "ssdistnr", "ssmagnr", "ssnamenr"}


def read(packet: bytes) -> Packet:
    record = next(fastavro.reader(io.BytesIO(packet)))
    assert isinstance(record, dict)
    return record


def history(alert: Packet) -> list[Packet]:
    return alert["prv_candidates"] or []


def detections(alert: Packet) -> list[Packet]:
    return [x for x in history(alert) if x["candid"] is not None]


def limits(alert: Packet) -> list[Packet]:
    return [x for x in history(alert) if x["candid"] is None]


@pytest.fixture(scope="module")
def season() -> Night:
    """Forty nights of some objects of each kind, so that the histories of later packets hold earlier alerts."""
    return simulate(11, objects=110, nights=40, version="4.02", stamps=False, scatter=0.1)


@pytest.fixture(scope="module")
def season_alerts(season: Night) -> list[Packet]:
    return [read(p) for p in season.packets]


# ---- form ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ztf.VERSIONS)
def test_fastavro_reads_every_version(version: str) -> None:
    night = simulate(1, objects=12, version=version)
    assert len(night.packets) == len(night.candids) == len(night.oids) >= 12
    for packet, candid, oid in zip(night.packets, night.candids, night.oids, strict=True):
        reader = fastavro.reader(io.BytesIO(packet))
        alert = next(reader)
        assert next(reader, None) is None
        assert json.loads(reader.metadata["avro.schema"]) == ztf.avro_schema(version)
        fastavro.validate(alert, ztf.avro_schema(version), strict=True)
        assert alert.get("schemavsn", "1.0") == version
        assert (alert["candid"], alert["objectId"]) == (candid, oid)
        assert alert["candidate"]["candid"] == candid
        assert ("fp_hists" in alert) == version.startswith("4")


PRIMITIVES = {
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63) + 1, 2**63 - 1),
    "float": st.floats(allow_nan=False, width=32),
    "double": st.floats(allow_nan=False),
    "string": st.text(st.characters(max_codepoint=127, exclude_characters="\0"), max_size=12),
}


@settings(max_examples=25, deadline=None)
@given(data=st.data(), version=st.sampled_from(ztf.VERSIONS))
@pytest.mark.parametrize("record", [ztf.CANDIDATE, ztf.PRV_CANDIDATE, ztf.FP_HIST], ids=["alert", "history", "forced"])
def test_the_writer_equals_fastavro(record: tuple[ztf.Field, ...], data: st.DataObject, version: str) -> None:
    fields = ztf.fields_of(record, version)
    row = {f.name: data.draw(PRIMITIVES[f.type] | st.none() if f.nullable else PRIMITIVES[f.type]) for f in fields}
    columns: dict[str, Any] = {}
    for f in fields:
        value = row[f.name]
        if f.type == "string":
            columns[f.name] = packets.text([value or ""], 1)
            if value is None:
                columns[f.name].length[:] = -1
        elif f.type in ("int", "long"):
            columns[f.name] = np.array([packets.NULL_INT if value is None else value])
        else:
            columns[f.name] = np.array([np.nan if value is None else value])
    null_first = version.startswith("4")
    schema = {
        "type": "record",
        "name": "r",
        "fields": [
            {"name": f.name, "type": (["null", f.type] if null_first else [f.type, "null"]) if f.nullable else f.type}
            for f in fields
        ],
    }
    expected = io.BytesIO()
    fastavro.schemaless_writer(expected, fastavro.parse_schema(schema), row)
    assert bytes(packets.encode(record, version, columns, 1).slice(0, 1)) == expected.getvalue()


def test_null_where_there_may_be_none_is_refused() -> None:
    night = simulate(1, objects=1, stamps=False)
    assert night.packets
    columns = {f.name: np.array([1.0]) for f in ztf.FP_HIST}
    columns["ranr"] = np.array([np.nan])
    with pytest.raises(ValueError, match="ranr"):
        packets.encode(ztf.FP_HIST, "4.02", columns, 1)


@pytest.mark.parametrize("codec", packets.CODECS)
def test_codecs_carry_the_same_record(codec: str) -> None:
    plain = simulate(3, objects=5)
    packed = simulate(3, objects=5, traits=Traits(codecs=(codec,)))
    for a, b in zip(plain.packets, packed.packets, strict=True):
        reader = fastavro.reader(io.BytesIO(b))
        assert reader.codec == codec
        assert next(reader) == read(a)


def test_versions_mix_in_one_night_and_carry_the_same_photometry() -> None:
    mixed = [read(p) for p in simulate(4, objects=60, version=["3.3", "4.02"], stamps=False).packets]
    plain = [read(p) for p in simulate(4, objects=60, version="3.3", stamps=False).packets]
    count = Counter(a["schemavsn"] for a in mixed)
    assert min(count["3.3"], count["4.02"]) > 0.25 * len(mixed)
    assert [a["candidate"] for a in mixed] == [a["candidate"] for a in plain]
    assert [a["prv_candidates"] for a in mixed] == [a["prv_candidates"] for a in plain]


# ---- reproducible ----------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_other_seed_other_sky() -> None:
    first, again, other = (simulate(s, objects=10, traits=Traits.like_ztf()) for s in (5, 5, 6))
    assert first.packets == again.packets
    assert not set(first.packets) & set(other.packets)
    assert not set(first.oids) & set(other.oids)


def test_the_last_night_alone_equals_the_last_of_all_nights() -> None:
    options: dict[str, Any] = {"objects": 25, "nights": 90, "traits": Traits.like_ztf(), "version": ["3.3", "4.01"]}
    everything, last = simulate(7, **options), last_night(7, **options)
    is_last = everything.candids >= last.candids[0]
    assert 5 < len(last.packets) < len(everything.packets)
    assert [p for p, flag in zip(everything.packets, is_last, strict=True) if flag] == last.packets
    assert len({read(p)["candidate"]["nid"] for p in last.packets}) == 1


def test_stream_is_ordered_unique_and_reproducible() -> None:
    def some() -> list[tuple[int, str, bytes]]:
        return list(itertools.islice(stream(8, objects=200, stamps=False), 1500))

    alerts = some()
    candids = [candid for candid, _, _ in alerts]
    assert all(a < b for a, b in itertools.pairwise(candids))
    assert alerts == some()
    records = [read(p) for _, _, p in alerts]
    assert [(r["candid"], r["objectId"]) for r in records] == [(c, o) for c, o, _ in alerts]
    assert len({r["candidate"]["nid"] for r in records}) > 5
    check_consistency(records, complete=True)
    grows = defaultdict(list)
    for r in records:
        grows[r["objectId"]].append(r["candidate"]["ndethist"])
    assert all(b == a + 1 for counts in grows.values() for a, b in itertools.pairwise(counts))


def test_stream_ends_after_the_nights_asked_for() -> None:
    nights = {c // 10**15 + survey.NID_ZERO for c, _, _ in stream(8, objects=40, nights=30, stamps=False)}
    assert min(nights) == 59000
    assert 59020 < max(nights) < 59030


def test_every_object_sends_an_alert_whatever_the_night() -> None:
    for seed in range(30):
        night = simulate(seed, objects=20, start_mjd=58300.5 + 13.7 * seed, stamps=False)
        assert len(night.truth) == 20


def test_stream_brings_new_objects_for_ever() -> None:
    alerts = list(itertools.islice(stream(9, objects=60, stamps=False, mix={"asteroid": 1, "bogus": 1}), 500))
    assert len({oid for _, oid, _ in alerts}) == 500


# ---- consistent ------------------------------------------------------------------------------------------------------


def check_consistency(alerts: list[Packet], complete: bool) -> None:
    """Each previous detection equals its own alert on what both have; entries equal each other in all packets.

    complete: every alert of the last 30 days is in the history.
    """
    own = {a["candid"]: a["candidate"] for a in alerts}
    by_object: dict[str, list[Packet]] = defaultdict(list)
    entries: dict[Any, Packet] = {}
    for a in alerts:
        jd = a["candidate"]["jd"]
        times = [x["jd"] for x in history(a)]
        assert times == sorted(times)
        assert all(jd - 30.0 - 1e-6 <= t < jd for t in times)
        for x in history(a):
            key = (a["objectId"], x["pid"], x["candid"])
            assert entries.setdefault(key, x) == x
            if x["candid"] in own:
                shared = (set(x) & set(own[x["candid"]])) - WRITTEN_OTHERWISE
                assert len(shared) > 35
                assert {k: x[k] for k in shared} == {k: own[x["candid"]][k] for k in shared}
        if complete:
            listed = {x["candid"] for x in detections(a)}
            earlier = {b["candid"] for b in by_object[a["objectId"]] if jd - 29.999 < b["candidate"]["jd"] < jd}
            assert earlier <= listed
        by_object[a["objectId"]].append(a)


def test_packets_of_one_object_agree(season_alerts: list[Packet]) -> None:
    check_consistency(season_alerts, complete=True)
    assert sum(len(detections(a)) for a in season_alerts) > 1000
    assert sum(len(limits(a)) for a in season_alerts) > 1000


def test_candids_are_unique_large_and_in_time_order(season: Night, season_alerts: list[Packet]) -> None:
    assert np.all(np.diff(season.candids) > 0)
    assert season.candids.min() > 2**53
    jd = np.array([a["candidate"]["jd"] for a in season_alerts])
    assert np.all(np.diff(jd) >= 0)
    for a in season_alerts:
        c = a["candidate"]
        assert c["candid"] // 10**6 == c["pid"]
        assert c["pid"] // 10**9 == c["nid"]
        assert c["candid"] // 1000 % 1000 == {"t": 15, "f": 10}[c["isdiffpos"]]
        assert c["pid"] // 100 % 100 == c["rcid"]
        # an exposure's file is named by its time
        name = c["pdiffimfilename"]
        assert name[4:12] == Time(c["jd"], format="jd").strftime("%Y%m%d")
        assert int(name[12:18]) / 1e6 == pytest.approx((c["jd"] + 0.5) % 1, abs=2e-5)


def test_crowded_channels_have_room_in_candid() -> None:
    night = itertools.islice(stream(2, objects=300_000, fields=1, stamps=False, history_days=0), 2000)
    records = [read(packet)["candidate"] for _, _, packet in night]
    assert len({c["candid"] for c in records}) == 2000
    assert max(c["tblid"] for c in records) > 10000  # one sign of a channel has 5000 before the next digit is needed
    assert all(c["candid"] // 10**6 == c["pid"] for c in records)
    with pytest.raises(ValueError, match="too many objects"):
        simulate(2, objects=130_000, positions=np.tile([10.0, 20.0], (130_000, 1)))


def test_counts_grow_and_histories_begin_when_the_object_does(season_alerts: list[Packet]) -> None:
    by_object = defaultdict(list)
    for a in season_alerts:
        by_object[a["objectId"]].append(a["candidate"])
    for alerts in by_object.values():
        assert np.all(np.diff([c["ndethist"] for c in alerts]) == 1)
        assert np.all(np.diff([c["ncovhist"] for c in alerts]) >= 1)
        assert len({c["jdstarthist"] for c in alerts}) == 1
        assert all(c["jdstarthist"] <= c["jdendhist"] == c["jd"] for c in alerts)
        assert all(c["ncovhist"] >= c["ndethist"] >= 1 for c in alerts)


def test_reference_and_neighbours_stay_with_the_object(season_alerts: list[Packet]) -> None:
    fixed = ("rfid", "jdstartref", "jdendref", "magnr", "sigmagnr", "chinr", "ranr", "decnr", "objectidps1", "nmtchps")
    seen: dict[Any, Any] = {}
    for a in season_alerts:
        c = a["candidate"]
        assert seen.setdefault((a["objectId"], c["fid"]), [c[k] for k in fixed]) == [c[k] for k in fixed]
        assert c["jdstartref"] < c["jdendref"] < c["jd"]
        if c["nmtchps"] > 0:
            assert 10**16 < c["objectidps1"] < 10**19
            assert c["distpsnr1"] >= 0
        else:
            assert (c["objectidps1"], c["distpsnr1"], c["sgscore1"]) == (-999, -999.0, -999.0)


def test_forced_photometry_agrees_with_the_detections(season_alerts: list[Packet]) -> None:
    compared, failed, total = 0, 0, 0
    for a in season_alerts:
        by_pid = {x["pid"]: x for x in history(a)}
        for f in a["fp_hists"] or []:
            total += 1
            if f["forcediffimflux"] == -99999.0:
                failed += 1
                assert f["forcediffimfluxunc"] == -99999.0
                assert f["procstatus"] != "0"
                continue
            x = by_pid[f["pid"]]
            assert (x["jd"], x["fid"], x["field"], x["rcid"]) == (f["jd"], f["fid"], f["field"], f["rcid"])
            if x["candid"] is not None:
                mag = f["magzpsci"] - 2.5 * np.log10(abs(f["forcediffimflux"]))
                assert mag == pytest.approx(x["magpsf"], abs=1e-5)
                assert (f["forcediffimflux"] > 0) == (x["isdiffpos"] == "t")
                compared += 1
    assert compared > 500
    assert 0.15 < failed / total < 0.25


def test_detections_are_five_sigma_and_limits_are_there(season_alerts: list[Packet]) -> None:
    for a in season_alerts:
        c = a["candidate"]
        # as in real packets, the error of the fitted flux may exceed a fifth of it: the limit is that of the image
        assert 0 < c["sigmapsf"] < 0.5
        assert c["magpsf"] < c["diffmaglim"] + 0.6
    assert np.mean([a["candidate"]["sigmapsf"] <= 1.0858 / 5 for a in season_alerts]) > 0.8
    depth = [x["diffmaglim"] for a in season_alerts for x in limits(a)]
    assert min(depth) > 16
    assert max(depth) < 21.6
    assert all(x["magpsf"] is None and x["isdiffpos"] is None and x["ra"] is None for x in limits(season_alerts[-1]))


RANGES = {
    "fid": (1, 3),
    "rcid": (0, 63),
    "magpsf": (12, 21.5),
    "magap": (12, 21.5),
    "distnr": (0, 30),
    "magnr": (11, 24),
    "sigmagnr": (0.005, 0.4),
    "rb": (0, 1),
    "drb": (0, 1),
    "classtar": (0, 1),
    "xpos": (0, 3073),
    "ypos": (0, 3081),
    "fwhm": (0.5, 12),
    "elong": (1, 3),
    "scorr": (5, 1000),
    "magzpsci": (23.5, 27),
    "nframesref": (2, 40),
    "exptime": (30, 30),
    "ncovhist": (1, 10000),
    "nbad": (0, 25),
    "nneg": (0, 25),
    "ra": (0, 360),
    "dec": (-90, 90),
}


def test_values_lie_where_real_ones_do(season_alerts: list[Packet]) -> None:
    for name, (low, high) in RANGES.items():
        values = np.array([a["candidate"][name] for a in season_alerts])
        assert np.all((values >= low) & (values <= high)), name


def test_kinds_show_themselves(season: Night, season_alerts: list[Packet]) -> None:
    assert set(season.truth) == set(season.oids)
    assert set(season.truth.values()) == set(sources.KIND_NAMES)
    count = Counter(season.oids)
    for a in season_alerts:
        kind, c = season.truth[a["objectId"]], a["candidate"]
        if kind == "asteroid":
            assert count[a["objectId"]] == 1
            assert 0 <= c["ssdistnr"] < 5
            assert c["ssnamenr"].isdigit()
            assert not detections(a)
        else:
            assert (c["ssdistnr"], c["ssmagnr"], c["ssnamenr"]) == (-999.0, -999.0, "null")
        if kind == "bogus":
            assert c["rb"] < 0.55
            assert c["drb"] < 0.55
        if kind in ("RRL", "E", "LPV", "AGN"):
            assert c["distnr"] < 1.4
    signs = [a["candidate"]["isdiffpos"] for a in season_alerts if season.truth[a["objectId"]].startswith("SN")]
    assert signs.count("t") > 0.9 * len(signs)  # some reference images hold light of the supernova


def test_variables_have_a_positive_total_flux(season: Night, season_alerts: list[Packet]) -> None:
    variable = {"RRL", "E", "LPV", "AGN"}
    c = [a["candidate"] for a in season_alerts if season.truth[a["objectId"]] in variable]
    sign = np.array([1.0 if x["isdiffpos"] == "t" else -1.0 for x in c])
    total = 10 ** (-0.4 * np.array([x["magnr"] for x in c])) + sign * 10 ** (-0.4 * np.array([x["magpsf"] for x in c]))
    assert (total > 0).mean() > 0.99
    assert 0.2 < (sign > 0).mean() < 0.8


def test_long_spans_give_deep_histories() -> None:
    night = simulate(12, objects=20, nights=420, cadence=2, mix={"RRL": 1, "LPV": 1}, stamps=False)
    span = defaultdict(list)
    for packet, oid in zip(night.packets, night.oids, strict=True):
        span[oid].append(read(packet)["candidate"]["jd"])
    assert len(span) == 20
    assert np.median([len(v) for v in span.values()]) >= 40
    assert np.median([max(v) - min(v) for v in span.values()]) >= 400


def test_alerts_per_object_limits_them() -> None:
    night = simulate(13, objects=15, nights=20, alerts_per_object=1, stamps=False)
    assert len(night.packets) == len(set(night.oids)) == 15


def test_history_days_bounds_the_history() -> None:
    fresh = [read(p) for p in simulate(14, objects=20, history_days=0, stamps=False).packets]
    assert all(x["nid"] == a["candidate"]["nid"] for a in fresh for x in history(a))
    assert any(a["prv_candidates"] is None for a in fresh)


# ---- positions -------------------------------------------------------------------------------------------------------


def edge_positions() -> np.ndarray:
    """Poles, ra 0/360, and corners and edges of HEALPix pixels of order 4."""
    places = [(0.0, 90.0), (123.4, -90.0), (0.0, 10.0), (359.9999999, -30.0), (360.0, 45.0), (0.00001, 0.0)]
    for pixel in (0, 255, 256, 1000, 1535, 2047, 3071):
        corners = np.array(healpy.boundaries(16, pixel, step=2, nest=True))
        ra, dec = healpy.vec2ang(corners.T, lonlat=True)
        places += list(zip(ra.tolist(), dec.tolist(), strict=True))
    return np.array(places)


@pytest.mark.parametrize("scatter", [0.1, 1.0])
def test_positions_on_edges_poles_and_ra_zero(scatter: float) -> None:
    places = edge_positions()
    night = simulate(
        15, objects=len(places), nights=3, positions=places, scatter=scatter, mix={"LPV": 1, "E": 1}, stamps=False
    )
    assert len(set(night.oids)) == len(places)
    found = set()
    for packet in night.packets:
        alert = read(packet)
        for c in (alert["candidate"], *detections(alert)):
            assert 0 <= c["ra"] < 360
            assert -90 <= c["dec"] <= 90
            away = angular_separation(*np.radians([c["ra"], c["dec"]]), *np.radians(places.T))
            assert np.degrees(away.min()) * 3600 < 6 * scatter
            found.add(int(away.argmin()))
    assert len(found) >= len(places) - 2  # the poles are given twice over by pixel corners


@given(
    ra=st.floats(0, 360),
    dec=st.floats(-90, 90),
    east=st.floats(-5, 5),
    north=st.floats(-5, 5),
)
def test_offset_is_as_long_as_asked(ra: float, dec: float, east: float, north: float) -> None:
    new_ra, new_dec = offset(*(np.array([x]) for x in (ra, dec, east, north)))
    assert 0 <= new_ra[0] < 360
    away = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(new_ra[0], new_dec[0], unit="deg")).arcsec
    assert away == pytest.approx(np.hypot(east, north), abs=5e-4)


def test_scatter_is_the_one_asked_for() -> None:
    night = simulate(16, objects=30, nights=120, mix={"LPV": 1}, positions=[(10.0 + i, 60.0) for i in range(30)],
                     stamps=False, scatter=0.3)  # fmt: skip
    c = [read(p)["candidate"] for p in night.packets]
    ra, dec = np.array([x["ra"] for x in c]), np.array([x["dec"] for x in c])
    assert len(c) > 500
    assert np.std((ra - np.round(ra)) * np.cos(np.radians(60)) * 3600) == pytest.approx(0.3, rel=0.12)
    assert np.std((dec - 60) * 3600) == pytest.approx(0.3, rel=0.12)


# ---- survey ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(1, survey.N_FIELDS), st.integers(0, 63), st.floats(0.01, 0.99), st.floats(0.01, 0.99)),
        min_size=1,
        max_size=20,
    )
)
def test_a_place_in_a_field_is_in_that_field(places: list[tuple[int, int, float, float]]) -> None:
    field, rcid, x, y = (np.array(v) for v in zip(*places, strict=True))
    ra, dec = survey.position_in(field, rcid, x, y)
    found_field, found_rcid = survey.field_of(ra, dec)
    assert found_field.tolist() == field.tolist()
    assert found_rcid.tolist() == rcid.tolist()
    px, py = survey.pixel_on_chip(ra, dec)
    np.testing.assert_allclose(px / survey.X_PIXELS, x, atol=1e-6)
    np.testing.assert_allclose(py / survey.Y_PIXELS, y, atol=1e-6)


@pytest.mark.parametrize("visits_per_night", [1, 2, 16])
def test_exposures_have_times_of_their_own(visits_per_night: int) -> None:
    plan = survey.Survey(3, visits_per_night=visits_per_night, sure_nights=(59000,))
    visits = plan.visits(np.arange(1, survey.N_FIELDS + 1), 59000, 59000)
    assert np.all(np.diff(visits.starts) >= visits_per_night)  # more where other programmes observe
    assert np.unique(visits.code).size == visits.code.size
    assert np.all(np.floor(visits.mjd) == 59000)


def test_a_window_of_visits_is_part_of_the_whole() -> None:
    plan, fields = survey.Survey(4), np.array([100, 400, 777])
    whole, part = plan.visits(fields, 59000, 59100), plan.visits(fields, 59040, 59060)
    inside = (whole.mjd >= 59040) & (whole.mjd < 59061)
    for name in ("field", "mjd", "fid", "code", "limit", "fwhm", "zp"):
        np.testing.assert_array_equal(getattr(whole, name)[inside], getattr(part, name))


def test_seasons_weather_and_bands() -> None:
    fields = survey.fields_near(180.0, 20.0, 1)
    visits = survey.Survey(5, visits_per_night=2).visits(fields, 59000, 59000 + 3652)
    night = np.unique(np.floor(visits.mjd))
    assert np.diff(night).max() > 90  # the Sun is near
    assert 250 < night.size < 950  # of 3653 / 3 due ones
    share = np.bincount(visits.fid, minlength=4)[1:] / visits.fid.size
    np.testing.assert_allclose(share, [0.48, 0.48, 0.04], atol=0.04)


# ---- random numbers and light curves ---------------------------------------------------------------------------------


def test_random_numbers_are_uniform_normal_and_independent() -> None:
    index, code = np.meshgrid(np.arange(100), np.arange(100))
    first = randoms.uniform(1, "a", index.ravel(), code.ravel())
    second = randoms.uniform(1, "b", index.ravel(), code.ravel())
    other = randoms.uniform(2, "a", index.ravel(), code.ravel())
    bell = randoms.normal(1, "a", index.ravel(), code.ravel())
    assert stats.kstest(first, "uniform").pvalue > 1e-3
    assert stats.kstest(bell, "norm").pvalue > 1e-3
    table = np.corrcoef([first, second, other, bell, np.roll(first, 1), np.roll(first, 100)])
    assert np.abs(table - np.eye(6)).max() < 0.05
    np.testing.assert_array_equal(randoms.uniform(1, "a", index.ravel()[7:9], code.ravel()[7:9]), first[7:9])


@pytest.mark.parametrize("kind", [k for k in sources.KINDS if k.lifetime > 1], ids=lambda k: k.name)
def test_a_light_curve_does_not_depend_on_the_window(kind: sources.Kind) -> None:
    draws = sources.Draws(1, kind.name, np.arange(3), np.full(3, 59000.0), np.full(3, 59200.0), lambda part: part)
    mjd = np.linspace(58980, 59150, 90)
    row, fid = np.repeat(np.arange(3), 30), np.tile([1, 2, 3], 30)
    whole = kind.difference(draws, row, mjd, fid)
    part = kind.difference(draws, row[50:70], mjd[50:70], fid[50:70])
    np.testing.assert_array_equal(whole[50:70], part)
    assert np.all(np.isfinite(whole))


# ---- traits ----------------------------------------------------------------------------------------------------------


def traits_night(**options: Any) -> tuple[Night, list[Packet]]:
    night = simulate(
        21, objects=80, nights=9, stamps=False, mix={"LPV": 1, "RRL": 1, "AGN": 1}, traits=Traits(**options)
    )
    return night, [read(p) for p in night.packets]


def is_about(count: int, total: int, share: float) -> bool:
    """Within five binomial standard deviations."""
    return abs(count - total * share) <= 5 * np.sqrt(total * share * (1 - share)) + 1e-9


def test_isdiffpos_is_spelled_in_four_ways_even_of_one_detection() -> None:
    _, alerts = traits_night(digits=0.3)
    entries = [a["candidate"] for a in alerts] + [x for a in alerts for x in detections(a)]
    spelled = Counter(x["isdiffpos"] for x in entries)
    assert set(spelled) == {"t", "f", "1", "0"}
    assert is_about(spelled["1"] + spelled["0"], len(entries), 0.3)
    ways, signs = defaultdict(set), defaultdict(set)
    for x in entries:
        ways[x["candid"]].add(x["isdiffpos"])
        signs[x["candid"]].add(x["isdiffpos"] in "t1")
    assert sum(len(w) == 2 for w in ways.values()) > 100
    assert all(len(s) == 1 for s in signs.values())


def test_null_unsorted_repeated_and_late_histories() -> None:
    _, plain = traits_night()
    _, alerts = traits_night(null_history=0.2)
    had = [a for a, p in zip(alerts, plain, strict=True) if p["prv_candidates"]]
    assert is_about(sum(a["prv_candidates"] is None for a in had), len(had), 0.2)

    _, alerts = traits_night(unsorted=0.3)
    times = [[x["jd"] for x in history(a)] for a in alerts if len(history(a)) > 5]
    assert is_about(sum(t != sorted(t) for t in times), len(times), 0.3)

    _, alerts = traits_night(repeated=0.3)
    keys = [[(x["jd"], x["fid"], x["pid"]) for x in history(a)] for a in alerts if history(a)]
    assert is_about(sum(len(set(k)) < len(k) for k in keys), len(keys), 0.3)

    _, alerts = traits_night(late=0.3)
    late = [any(x["jd"] >= a["candidate"]["jd"] for x in history(a)) for a in alerts]
    assert is_about(sum(late), len(late), 0.3)
    assert any(x["jd"] > a["candidate"]["jd"] for a in alerts for x in history(a))


def test_twins_share_the_exposure_but_not_the_candid() -> None:
    night, alerts = traits_night(twins=0.2)
    own = Counter((a["objectId"], a["candidate"]["pid"]) for a in alerts)
    assert is_about(sum(n == 2 for n in own.values()), len(own), 0.2)
    assert len(set(night.candids.tolist())) == len(alerts)
    in_history = 0
    for a in alerts:
        keys = Counter((x["jd"], x["fid"], x["pid"]) for x in history(a))
        in_history += max(keys.values(), default=0) == 2
        assert len({x["candid"] for x in detections(a)}) == len(detections(a))
    assert in_history > 0.5 * len(alerts)
    check_consistency(alerts, complete=True)


def test_bad_limits() -> None:
    _, alerts = traits_night(bad_limits=0.1)
    every = {(a["objectId"], x["pid"]): x["diffmaglim"] for a in alerts for x in limits(a)}
    assert is_about(sum(v == -999.0 for v in every.values()), len(every), 0.1)
    assert all(v == -999.0 or v > 15 for v in every.values())
    assert all(a["candidate"]["diffmaglim"] > 15 for a in alerts)


def test_rounded_histories_keep_six_digits() -> None:
    _, plain = traits_night()
    _, alerts = traits_night(rounded_history=True)
    own = {a["candid"]: a["candidate"] for a in alerts}
    changed = compared = 0
    for a, p in zip(alerts, plain, strict=True):
        assert a["candidate"] == p["candidate"]
        for x in detections(a):
            if x["candid"] in own:
                exact = own[x["candid"]]
                compared += 1
                changed += x["magpsf"] != exact["magpsf"]
                assert x["magpsf"] == np.float32(f"{exact['magpsf']:.6g}") or x["magpsf"] == pytest.approx(
                    exact["magpsf"], abs=6e-5
                )
                assert (x["jd"], x["ra"], x["dec"]) == (exact["jd"], exact["ra"], exact["dec"])
    assert changed > 0.9 * compared > 100


def test_old_limits_lack_night_and_field() -> None:
    for version, lacks in (("1.0", True), ("3.0", True), ("3.2", False), ("3.3", False)):
        alerts = [read(p) for p in simulate(22, objects=10, version=version, stamps=False).packets]
        entries = [x for a in alerts for x in limits(a)]
        assert entries
        assert all((x["nid"] is None, x["rcid"] is None, x["field"] is None) == (lacks,) * 3 for x in entries)


def test_stamps_can_be_left_out() -> None:
    assert read(simulate(1, objects=1, stamps=False).packets[0])["cutoutScience"] is None


# ---- defects ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good() -> bytes:
    return simulate(31, objects=1).packets[0]


@pytest.mark.parametrize("kind", ["html", "empty", "truncated"])
def test_defects_that_nobody_can_read(good: bytes, kind: str) -> None:
    for seed in range(20):
        with pytest.raises((ValueError, EOFError, StopIteration, IndexError, OSError)):
            read(corrupt(good, kind, np.random.default_rng(seed)))


def test_bad_magic_is_only_that(good: bytes) -> None:
    for seed in range(20):
        bad = corrupt(good, "bad_magic", np.random.default_rng(seed))
        assert bad[:4] != b"Obj\x01"
        assert bad[4:] == good[4:]


def test_bitflip_changes_a_few_bits(good: bytes) -> None:
    for seed in range(20):
        bad = corrupt(good, "bitflip", np.random.default_rng(seed))
        flipped = np.unpackbits(np.frombuffer(bad, np.uint8) ^ np.frombuffer(good, np.uint8)).sum()
        assert 1 <= flipped <= 8


def test_defects_that_can_be_read_but_not_used(good: bytes) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        c = read(corrupt(good, "nan_position", rng))["candidate"]
        assert np.isnan(c["ra"]) or np.isnan(c["dec"])
        assert not 0 <= read(corrupt(good, "ra_out_of_range", rng))["candidate"]["ra"] < 360
        c = read(corrupt(good, "wrong_type", rng))["candidate"]
        assert any(isinstance(c[k], str) for k in ("jd", "ra", "magpsf", "fid"))
    big = corrupt(good, "oversized", rng)
    assert len(big) > OVERSIZED
    assert read(big)["candid"] == read(good)["candid"]


def test_defects_are_reproducible_and_named(good: bytes) -> None:
    for kind in set(DEFECTS) - {"oversized"}:
        assert corrupt(good, kind, np.random.default_rng(3)) == corrupt(good, kind, np.random.default_rng(3))
    with pytest.raises(ValueError, match="unknown defect"):
        corrupt(good, "tired", np.random.default_rng(0))


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"version": "2.0"},
        {"version": []},
        {"objects": 0},
        {"nights": 0},
        {"start_mjd": 2459000.5},
        {"history_days": -1},
        {"history_days": 401},
        {"fields": 0},
        {"visits_per_night": 0},
        {"mix": {"quasar": 1}},
        {"mix": {"RRL": 0}},
        {"positions": [(1.0, 2.0)]},
        {"positions": [(1.0, 91.0)] * 40},
        {"positions": [(np.nan, 9.0)] * 40},
    ],
    ids=str,
)
def test_bad_arguments_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"version|between|mix|positions"):
        simulate(1, **options)


@pytest.mark.parametrize("options", [{"twins": 1.5}, {"late": -0.1}, {"codecs": ("zip",)}, {"codecs": ()}], ids=str)
def test_bad_traits_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"share|codecs"):
        Traits(**options)


# ---- against reality -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_alerts(data_dir: Path) -> list[Packet]:
    alerts = []
    for path in sorted((data_dir / "ztf").rglob("*.avro")):
        packet = path.read_bytes()
        if packet.startswith(b"Obj"):
            alerts.append(read(packet) | {"size": len(packet)})
    return alerts


@pytest.fixture(scope="module")
def made_alerts() -> list[Packet]:
    alerts = []
    for seed in range(8):
        made = simulate(seed, start_mjd=58700 + 97 * seed, version="3.3", traits=Traits.like_ztf())
        alerts += [read(p) | {"size": len(p)} for p in made.packets]
    return alerts


def quantiles(values: Any, *q: float) -> np.ndarray:
    return np.quantile(np.array(list(values), float), q)


@pytest.mark.real_data
def test_looks_like_real_packets(real_alerts: list[Packet], made_alerts: list[Packet]) -> None:
    """Loose comparison of medians and spreads; the real sample is of a few objects and one exposure, not of the sky."""

    def both(value: Any, *q: float) -> tuple[np.ndarray, np.ndarray]:
        return tuple(quantiles((x for a in alerts for x in value(a)), *q) for alerts in (real_alerts, made_alerts))

    real, made = both(lambda a: [a["size"]], 0.05, 0.5, 0.95)
    np.testing.assert_allclose(made, real, rtol=0.25)
    assert made[0] > 40_000
    assert made[2] < 90_000
    real, made = both(lambda a: [len(history(a))], 0.25, 0.5, 0.75)
    np.testing.assert_allclose(made, real, atol=4)
    real, made = both(lambda a: [x["diffmaglim"] for x in limits(a)], 0.05, 0.5, 0.95)
    np.testing.assert_allclose(made, real, atol=0.8)
    real, made = both(lambda a: [a["candidate"]["magpsf"]], 0.05, 0.5, 0.95)
    np.testing.assert_allclose(made, real, atol=1.0)
    real, made = both(lambda a: [a["candidate"]["scorr"]], 0.05, 0.5, 0.95)
    np.testing.assert_allclose(made, real, rtol=0.5)


@pytest.mark.real_data
@pytest.mark.parametrize("above", [0.5, 1.5, 2.5, 3.5])
def test_errors_grow_towards_the_limit_as_in_real_packets(
    real_alerts: list[Packet], made_alerts: list[Packet], above: float
) -> None:
    def typical(alerts: list[Packet]) -> float:
        c = [a["candidate"] for a in alerts]
        return float(np.median([x["sigmapsf"] for x in c if abs(x["diffmaglim"] - x["magpsf"] - above) < 0.5]))

    assert typical(made_alerts) == pytest.approx(typical(real_alerts), rel=0.25)


@pytest.mark.real_data
def test_has_the_fields_that_real_packets_have(real_alerts: list[Packet], made_alerts: list[Packet]) -> None:
    real = next(a for a in real_alerts if a.get("schemavsn") == "3.3" and detections(a) and limits(a))
    made = next(a for a in made_alerts if detections(a) and limits(a))
    assert set(made) == set(real)
    assert list(made["candidate"]) == list(real["candidate"])
    for part in (detections, limits):
        mine, theirs = part(made)[0], part(real)[0]
        assert [k for k, v in mine.items() if v is None] == [k for k in mine if theirs.get(k) is None]
