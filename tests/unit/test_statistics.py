"""Statistics of light curves: reference tables, a plain oracle for every column, and independence of row order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark.lightcurves.correction import correct, dubious, stellar_flags
from alerce_spark.lightcurves.nondetections import DMDT, dmdt
from alerce_spark.lightcurves.statistics import MAGSTATS, NULL_RFID, OBJECTS, magstats, objects, summarise

pytestmark = pytest.mark.filterwarnings("error")

SIGN = {"t": 1.0, "1": 1.0, "f": -1.0, "0": -1.0}
NAN = np.nan
PACKET_ONLY = ("distpsnr1", "sgscore1", "jdendref", "ndethist", "ncovhist", "jdstarthist", "jdendhist")
HISTORY = ("ndethist", "ncovhist", "mjdstarthist", "mjdendhist")

Batch = tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray], int]


# -- reference tables -------------------------------------------------------------------------------------------------


def columns_of(table: Any) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    """A table of ZTF detections as the columns of `det`, with corrections; the objects in order."""
    oids = sorted(set(table["objectId"]))
    group = table["objectId"].map({oid: i for i, oid in enumerate(oids)}).to_numpy(np.int64)
    names = ("magpsf", "sigmapsf", "magap", "ra", "dec", "distnr", "chinr", "sharpnr", *PACKET_ONLY)
    det = {name: table[name].to_numpy(np.float64) for name in names}
    det |= {name: table[name].to_numpy(np.int64) for name in ("candid", "fid")}
    det["rfid"] = np.array([NULL_RFID if math.isnan(rfid) else int(rfid) for rfid in table["rfid"]])
    det["mjd"] = table["jd"].to_numpy() - 2400000.5
    det["isdiffpos"] = table["isdiffpos"].map(SIGN).to_numpy(np.float64)
    assert np.isfinite(det["isdiffpos"]).all()
    return group, det | corrected_columns(det, table["magnr"], table["sigmagnr"]), oids


def corrected_columns(det: dict[str, np.ndarray], magnr: Any, sigmagnr: Any) -> dict[str, np.ndarray]:
    result = correct(det["magpsf"], det["sigmapsf"], magnr, sigmagnr, det["distnr"], det["isdiffpos"])
    return {name: getattr(result, name) for name in ("corrected", "magpsf_corr", "sigmapsf_corr", "sigmapsf_corr_ext")}


@pytest.fixture(scope="module")
def golden(data_dir: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    folder = data_dir / "ztf" / "golden"
    detections, expected, limits = (
        pq.read_table(folder / f"10_objects_{name}.parquet").to_pandas()
        for name in ("detections", "magstats", "non_detections")
    )
    group, det, oids = columns_of(detections)
    nondet = {
        "object": limits["objectId"].map({oid: i for i, oid in enumerate(oids)}).to_numpy(np.int64),
        "fid": limits["fid"].to_numpy(np.int64),
        "mjd": limits["jd"].to_numpy() - 2400000.5,
        "diffmaglim": limits["diffmaglim"].to_numpy(np.float64),
    }
    expected = expected.reset_index().sort_values(["objectId", "fid"])
    return {"group": group, "det": det, "nondet": nondet, "oids": oids, "expected": expected, "detections": detections}


@pytest.mark.real_data
def test_golden_magstats(golden: dict[str, Any]) -> None:
    result, per_object, flags = summarise(golden["group"], golden["det"], golden["nondet"], 10)
    expected = golden["expected"]
    assert [golden["oids"][i] for i in result["object"]] == expected["objectId"].tolist()
    assert flags.sum() == 4
    assert per_object["ndubious"].sum() == 4
    # the reference swaps the names of these two
    names = {"nearZTF": "nearZTF", "nearPS1": "nearPS1", "stellarZTF": "stellarPS1", "stellarPS1": "stellarZTF"}
    for name in ("fid", "corrected", "stellar", "ndet", "ndubious", "nrfid"):
        names[name] = name
    for name, theirs in names.items():
        np.testing.assert_array_equal(result[name], expected[theirs], err_msg=name)
    names = {"sigmapsf_first": "sigmapsf_first", "firstmjd": "first_mjd", "lastmjd": "last_mjd"}
    for statistic in ("mean", "median", "max", "min", "first", "last"):
        names[f"mag{statistic}"] = f"magpsf_{statistic}"
        names[f"mag{statistic}_corr"] = f"magpsf_corr_{statistic}"
        names[f"magap{statistic}"] = f"magap_{statistic}"
    for name, theirs in names.items():
        atol = 1e-5 if name in ("magmean", "magapmean") else 2e-6  # the reference averages these in float32
        np.testing.assert_allclose(result[name], expected[theirs], rtol=0, atol=atol, err_msg=name)
    checked = set(names) | {"corrected", "stellar", "ndet", "ndubious", "nrfid", "object", "fid"}
    not_in_the_reference = {"magsigma", "magsigma_corr", "magapsigma", "saturation_rate", *DMDT}
    assert set(result) - checked - not_in_the_reference == {"nearZTF", "nearPS1", "stellarZTF", "stellarPS1"}


@pytest.mark.real_data
def test_golden_dubious_rows(golden: dict[str, Any], data_dir: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(data_dir / "ztf" / "golden" / "10_objects_corrected.parquet").to_pandas()
    expected = dict(zip(zip(table["objectId"], table["candid"], strict=True), table["dubious"], strict=True))
    flags = summarise(golden["group"], golden["det"], None, 10)[2]
    keys = zip(golden["detections"]["objectId"], golden["detections"]["candid"], strict=True)
    assert flags.tolist() == [expected[key] for key in keys]


@pytest.mark.real_data
def test_golden_dmdt(golden: dict[str, Any]) -> None:
    result, _, _ = summarise(golden["group"], golden["det"], golden["nondet"], 10)
    assert len(result["dmdt_first"]) == 16
    assert result["close_nondet"].sum() == 1
    assert_same(rise_oracle(result, golden["nondet"]), result, DMDT)
    assert np.isfinite(result["dmdt_first"]).sum() > 8


@pytest.mark.real_data
def test_four_spellings_of_the_sign(data_dir: Path) -> None:
    import pandas as pd

    path = data_dir / "ztf" / "golden" / "raw_detections.csv"
    group, det, oids = columns_of(pd.read_csv(path, dtype={"isdiffpos": str}))
    assert len(group) == 837
    assert summarise(group, det, None, len(oids))[2].sum() == 1


@pytest.mark.real_data
def test_golden_objects(data_dir: Path) -> None:
    """Ten objects of the reference's object table, from detections that the file repeats and partly lacks fields of."""
    import pyarrow.parquet as pq

    folder = data_dir / "lightcurves"
    table = pq.read_table(folder / "detections_sample.parquet").to_pandas().reset_index().drop_duplicates()
    expected = pq.read_table(folder / "object_info_sample.parquet").to_pandas().sort_index()
    assert len(table) == expected["ndet"].sum()
    oids = expected.index.tolist()
    group = table["oid"].map({oid: i for i, oid in enumerate(oids)}).to_numpy(np.int64)
    names = ("magpsf", "sigmapsf", "magpsf_corr", "ra", "dec", "mjd", "isdiffpos", "distpsnr1", "sgscore1")
    det = {name: table[name].to_numpy(np.float64) for name in names}
    det |= {name: table[name].to_numpy() for name in ("corrected", "dubious")}
    absent = ("magap", "distnr", "chinr", "sharpnr", "jdendref", "ndethist", "ncovhist", "jdstarthist", "jdendhist")
    det |= dict.fromkeys(absent, np.full(len(table), NAN))
    det |= {"fid": table["fid"].to_numpy(), "candid": np.arange(len(table)), "rfid": np.full(len(table), NULL_RFID)}
    stats = magstats(group, det)
    result = objects(group, det, stats, 10)
    for name in ("corrected", "ndet", "ndubious"):
        np.testing.assert_array_equal(result[name], expected[name], err_msg=name)
    for name in ("meanra", "meandec", "firstmjd", "lastmjd", "deltamjd"):
        np.testing.assert_allclose(result[name], expected[name], rtol=0, atol=1e-9, err_msg=name)
    for name in ("sigmara", "sigmadec"):
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-7, err_msg=name)
    for name in ("g-r_max", "g-r_max_corr", "g-r_mean", "g-r_mean_corr"):  # the reference averages magpsf in float32
        np.testing.assert_allclose(result[name.replace("-", "_")], expected[name], rtol=0, atol=1e-5, err_msg=name)


# -- a plain oracle ---------------------------------------------------------------------------------------------------


def batch(seed: int, n_objects: int, n_rows: int, nulls: float = 0.3) -> Batch:
    """Random detections and non-detections in random order, with equal epochs, missing values and bands 1 to 3."""
    rng = np.random.default_rng(seed)

    def holes(values: np.ndarray) -> np.ndarray:
        return np.where(rng.random(len(values)) < nulls, NAN, values)

    group = rng.integers(0, n_objects, n_rows)
    det = {
        "candid": rng.permutation(np.arange(n_rows) + 2**60),
        "mjd": 58000 + rng.integers(0, max(n_rows, 1), n_rows) / 4,
        "fid": rng.choice([1, 2, 3], n_rows, p=[0.45, 0.45, 0.1]),
        "magpsf": holes(rng.uniform(12, 20, n_rows)),
        "sigmapsf": holes(rng.uniform(0.01, 0.3, n_rows)),
        "magap": holes(rng.uniform(12, 20, n_rows)),
        "ra": (np.array([0.0, 180.0, 359.99999])[group % 3] + rng.normal(0, 1e-4, n_rows)) % 360,
        "dec": rng.normal(40, 1e-4, n_rows),
        "isdiffpos": holes(rng.choice([1.0, 1.0, -1.0], n_rows)),
        "distnr": holes(rng.uniform(0, 2, n_rows)),
        "chinr": holes(rng.uniform(0, 3, n_rows)),
        "sharpnr": holes(rng.normal(0, 0.1, n_rows)),
        "rfid": rng.choice([NULL_RFID, 0, 101, 102, 2**60 + 1, 2**60 + 2], n_rows),
        "distpsnr1": holes(rng.uniform(0, 2, n_rows)),
        "sgscore1": holes(rng.random(n_rows)),
        "jdendref": holes(2458000 + rng.uniform(0, max(n_rows, 1), n_rows) / 4),
        "ndethist": holes(rng.integers(1, 50, n_rows)),
        "ncovhist": holes(rng.integers(50, 90, n_rows)),
        "jdstarthist": holes(rng.uniform(2458000, 2458001, n_rows)),
        "jdendhist": holes(rng.uniform(2458001, 2458002, n_rows)),
    }
    det |= corrected_columns(det, holes(rng.uniform(12, 20, n_rows)), np.full(n_rows, 0.02))
    n_limits = 3 * n_rows
    nondet = {
        "object": rng.integers(0, n_objects + 2, n_limits),
        "fid": rng.choice([1, 2, 3, 4], n_limits),
        "mjd": 57998 + rng.integers(0, 10 * max(n_rows, 1), n_limits) / 7,
        "diffmaglim": rng.choice([19.0, 20.0, 20.5, -999.0, NAN], n_limits),
    }
    return group, det, nondet, n_objects


batches = st.builds(
    batch,
    seed=st.integers(0, 2**32),
    n_objects=st.integers(1, 5),
    n_rows=st.integers(0, 60),
    nulls=st.sampled_from([0.0, 0.3, 1.0]),
)


def in_time(det: dict[str, np.ndarray], rows: Any) -> list[int]:
    return sorted(rows, key=lambda row: (det["mjd"][row], det["candid"][row]))


def first_known(det: dict[str, np.ndarray], name: str, rows: list[int]) -> int | None:
    return next((row for row in rows if not math.isnan(det[name][row])), None)


def seven(values: np.ndarray) -> list[float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return [NAN] * 5 + [values[-1], values[0]]
    sigma = np.std(known, ddof=1) if len(known) > 1 else NAN
    return [np.mean(known), np.median(known), known.max(), known.min(), sigma, values[-1], values[0]]


def band_oracle(group: np.ndarray, det: dict[str, np.ndarray], index: int, fid: int) -> dict[str, Any]:
    """One row of magstats without dm/dt, by the definitions."""
    rows = in_time(det, np.flatnonzero((group == index) & (det["fid"] == fid)))
    whole = in_time(det, np.flatnonzero(group == index))
    first = rows[0]
    out: dict[str, Any] = {"object": index, "fid": fid, "ndet": len(rows), "corrected": det["corrected"][first]}
    for prefix, suffix, name in (("mag", "", "magpsf"), ("mag", "_corr", "magpsf_corr"), ("magap", "", "magap")):
        for key, value in zip(
            ("mean", "median", "max", "min", "sigma", "last", "first"), seven(det[name][rows]), strict=True
        ):
            out[f"{prefix}{key}{suffix}"] = value
    out["ndubious"] = sum(
        bool(dubious(det["corrected"][row], det["isdiffpos"][row], det["corrected"][first])) for row in rows
    )
    out["nrfid"] = len(set(det["rfid"][rows]) - {NULL_RFID})
    out["sigmapsf_first"] = det["sigmapsf"][first]
    out["firstmjd"], out["lastmjd"] = det["mjd"][rows].min(), det["mjd"][rows].max()
    bright = [det["magpsf_corr"][r] < 13.2 for r in rows if det["corrected"][r] and det["magpsf_corr"][r] > 0]
    out["saturation_rate"] = np.mean(bright) if bright else NAN
    ps1 = first_known(det, "distpsnr1", rows)
    ps1 = first_known(det, "distpsnr1", whole) if ps1 is None else ps1
    flags = stellar_flags(
        det["distnr"][first],
        NAN if ps1 is None else det["distpsnr1"][ps1],
        NAN if ps1 is None else det["sgscore1"][ps1],
        det["chinr"][first],
        det["sharpnr"][first],
    )
    return out | flags._asdict()


def rise_oracle(stats: dict[str, np.ndarray], nondet: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The dm/dt columns of every row of magstats, by the definitions."""
    out = []
    for i in range(len(stats["object"])):
        start, mag, sigma = (stats[name][i] for name in ("firstmjd", "magfirst", "sigmapsf_first"))
        row: dict[str, Any] = dict.fromkeys(DMDT, NAN) | {"close_nondet": False}
        best = math.inf
        for index, fid, mjd, limit in zip(*nondet.values(), strict=True):
            if (index, fid) != (stats["object"][i], stats["fid"][i]) or not limit > 0:
                continue
            row["close_nondet"] |= start - 0.5 <= mjd < start
            slope = (mag + sigma - limit) / (start - mjd) if mjd < start - 0.5 else NAN
            if slope < best or (slope == best and start - mjd < row["dt_first"]):
                best = slope
                row |= dict(zip(DMDT, (slope, mag - limit, sigma, start - mjd), strict=False))
        out.append(row)
    return out


def object_oracle(
    group: np.ndarray, det: dict[str, np.ndarray], bands: list[dict[str, Any]], index: int
) -> dict[str, Any]:
    """One row of objects, by the definitions; right ascensions of the batch are brought to one side of 0."""
    rows = in_time(det, np.flatnonzero(group == index))
    out: dict[str, Any] = dict.fromkeys(OBJECTS, NAN)
    for name in ("corrected", "stellar", "nearZTF", "nearPS1"):
        out[name] = bool(rows) and all(band[name] for band in bands)
    for name in ("ndet", "ndubious"):
        out[name] = sum(band[name] for band in bands)
    out["diffpos"] = out["reference_change"] = False
    if not rows:
        return out
    by_fid = {band["fid"]: band for band in bands}
    if 1 in by_fid and 2 in by_fid:
        for name in ("max", "max_corr", "mean", "mean_corr"):
            column = "mag" + name.replace("max", "min")
            out[f"g_r_{name}"] = by_fid[1][column] - by_fid[2][column]
    ra = det["ra"][rows]
    ra = np.where(ra > 270, ra - 360, ra)
    out["meanra"], out["meandec"] = np.mean(ra) % 360, np.mean(det["dec"][rows])
    if len(rows) > 1:
        out["sigmara"], out["sigmadec"] = np.std(ra, ddof=1), np.std(det["dec"][rows], ddof=1)
    mjd = det["mjd"][rows]
    out["firstmjd"], out["lastmjd"], out["deltamjd"] = mjd.min(), mjd.max(), np.ptp(mjd)
    latest = first_known(det, "ndethist", rows[::-1])
    if latest is not None:
        out["ndethist"], out["ncovhist"] = det["ndethist"][latest], det["ncovhist"][latest]
        out["mjdstarthist"] = det["jdstarthist"][latest] - 2400000.5
        out["mjdendhist"] = det["jdendhist"][latest] - 2400000.5
    signs = [sign for sign in det["isdiffpos"][rows] if not math.isnan(sign)]
    out["diffpos"] = bool(signs) and min(signs) > 0
    out["reference_change"] = any(end - 2400000.5 > mjd.min() for end in det["jdendref"][rows])
    return out


def assert_same(expected: list[dict[str, Any]], result: dict[str, np.ndarray], names: Any) -> None:
    for name in names:
        values = np.array([row[name] for row in expected], dtype=np.float64)
        np.testing.assert_allclose(result[name].astype(np.float64), values, rtol=1e-11, atol=1e-11, err_msg=name)


def assert_identical(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)
        assert values.dtype == b[name].dtype, name


@settings(max_examples=60, deadline=None)
@given(batches)
def test_every_column_against_its_definition(data: Batch) -> None:
    group, det, nondet, n_objects = data
    stats, per_object, flags = summarise(*data)
    pairs = sorted({(int(i), int(fid)) for i, fid in zip(group, det["fid"], strict=True)})
    bands = [band_oracle(group, det, *pair) for pair in pairs]
    assert_same(bands, stats, [name for name in stats if name not in DMDT])
    assert_same(rise_oracle(stats, nondet), stats, DMDT)
    whole = [object_oracle(group, det, [b for b in bands if b["object"] == i], i) for i in range(n_objects)]
    assert_same(whole, per_object, OBJECTS)
    for index, fid in pairs:
        rows = in_time(det, np.flatnonzero((group == index) & (det["fid"] == fid)))
        expected = dubious(det["corrected"][rows], det["isdiffpos"][rows], det["corrected"][rows[0]])
        np.testing.assert_array_equal(flags[rows], expected)


@settings(max_examples=30, deadline=None)
@given(batches, st.integers(0, 2**32))
def test_row_order_does_not_matter(data: Batch, seed: int) -> None:
    group, det, nondet, n_objects = data
    rng = np.random.default_rng(seed)
    order, limits = rng.permutation(len(group)), rng.permutation(len(nondet["mjd"]))
    stats, per_object, flags = summarise(*data)
    shuffled = summarise(
        group[order], {k: v[order] for k, v in det.items()}, {k: v[limits] for k, v in nondet.items()}, n_objects
    )
    assert_identical(shuffled[0], stats)
    assert_identical(shuffled[1], per_object)
    np.testing.assert_array_equal(shuffled[2], flags[order])


@settings(max_examples=30, deadline=None)
@given(batches, batches)
def test_batches_together_and_apart(one: Batch, other: Batch) -> None:
    n = one[3]
    (group, det, nondet, _), (group2, det2, nondet2, n2) = one, other
    nondet = {k: v[nondet["object"] < n] for k, v in nondet.items()}  # others would find an object in the second batch
    moved = nondet2 | {"object": nondet2["object"] + n}
    apart, apart2 = summarise(group, det, nondet, n), summarise(*other)
    together = summarise(
        np.concatenate([group, group2 + n]),
        {k: np.concatenate([det[k], det2[k]]) for k in det},
        {k: np.concatenate([nondet[k], moved[k]]) for k in nondet},
        n + n2,
    )
    shifted = apart2[0] | {"object": apart2[0]["object"] + n}
    assert_identical(together[0], {k: np.concatenate([apart[0][k], shifted[k]]) for k in shifted})
    assert_identical(together[1], {k: np.concatenate([apart[1][k], apart2[1][k]]) for k in apart2[1]})
    np.testing.assert_array_equal(together[2], np.concatenate([apart[2], apart2[2]]))


@settings(max_examples=30, deadline=None)
@given(batches)
def test_steps_and_summary_agree(data: Batch) -> None:
    group, det, nondet, n_objects = data
    stats, per_object, flags = summarise(*data)
    det = det | {"dubious": flags}
    assert_identical(magstats(group, det, nondet), stats)
    assert_identical(objects(group, det, stats, n_objects), per_object)
    bare = magstats(group, det)
    assert np.isnan(bare["dmdt_first"]).all()
    assert not bare["close_nondet"].any()
    assert_identical({k: v for k, v in bare.items() if k not in DMDT}, {k: stats[k] for k in stats if k not in DMDT})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 360), st.integers(1, 40))
def test_right_ascension_knows_no_zero(seed: int, shift: float, n_rows: int) -> None:
    from astropy.stats import circmean

    group, det, _, _ = batch(seed, 1, n_rows)
    det["ra"] = 180 + np.random.default_rng(seed).uniform(-1e-3, 1e-3, n_rows)
    there = det | {"ra": (det["ra"] + shift) % 360}
    here, moved = (summarise(group, d, None, 1)[1] for d in (det, there))
    assert 0 <= moved["meanra"][0] < 360
    assert abs((moved["meanra"][0] - here["meanra"][0] - shift + 180) % 360 - 180) < 1e-9
    np.testing.assert_allclose(moved["sigmara"], here["sigmara"], rtol=0, atol=1e-9)
    circular = np.degrees(circmean(np.radians(there["ra"])))
    assert abs((moved["meanra"][0] - circular + 180) % 360 - 180) < 1e-9


# -- edges ------------------------------------------------------------------------------------------------------------


def detections(**changes: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Three g detections of one object, on consecutive days, with `changes` to their columns."""
    n = 3
    det = dict.fromkeys((*PACKET_ONLY, "magap", "sigmapsf", "distnr", "chinr", "sharpnr"), np.full(n, NAN))
    det |= {"candid": np.arange(n), "mjd": 58000.0 + np.arange(n), "fid": np.full(n, 1), "magpsf": np.full(n, 18.0)}
    det |= {"ra": np.zeros(n), "dec": np.zeros(n), "isdiffpos": np.ones(n), "rfid": np.full(n, NULL_RFID)}
    det |= {"corrected": np.zeros(n, bool), "magpsf_corr": np.full(n, NAN)}
    return np.zeros(n, np.int64), det | {name: np.asarray(values) for name, values in changes.items()}


def test_column_lists_name_what_comes_out() -> None:
    stats, per_object, _ = summarise(*detections(), None, 1)
    assert tuple(stats) == ("object", "fid", *MAGSTATS)
    assert tuple(per_object) == OBJECTS
    assert len(set(MAGSTATS)) == len(MAGSTATS)


@pytest.mark.parametrize("n_objects", [0, 3])
def test_no_detections(n_objects: int) -> None:
    group, det = detections()
    stats, per_object, flags = summarise(group[:0], {k: v[:0] for k, v in det.items()}, None, n_objects)
    assert flags.shape == (0,)
    assert {len(values) for values in stats.values()} == {0}
    assert {len(values) for values in per_object.values()} == {n_objects}
    assert per_object["ndet"].tolist() == [0] * n_objects
    assert np.isnan(per_object["meanra"]).all()
    assert not per_object["corrected"].any()


def test_an_object_without_rows_between_two_that_have_some() -> None:
    stats, per_object, _ = summarise(np.array([0, 2, 2]), detections()[1], None, 4)
    assert stats["object"].tolist() == [0, 2]
    assert per_object["ndet"].tolist() == [1, 0, 2, 0]
    np.testing.assert_array_equal(np.isnan(per_object["firstmjd"]), [False, True, False, True])
    np.testing.assert_array_equal(per_object["diffpos"], [True, False, True, False])


def test_one_detection_has_no_spread() -> None:
    group, det = detections()
    stats, per_object, _ = summarise(group[:1], {k: v[:1] for k, v in det.items()}, None, 1)
    assert np.isnan([stats["magsigma"][0], per_object["sigmara"][0], per_object["sigmadec"][0]]).all()
    assert stats["magmean"][0] == stats["magmedian"][0] == stats["magfirst"][0] == stats["maglast"][0] == 18.0
    assert per_object["deltamjd"][0] == 0.0


def test_an_unknown_band_counts_but_makes_no_colour() -> None:
    stats, per_object, _ = summarise(*detections(fid=[1, 3, 7]), None, 1)
    assert stats["fid"].tolist() == [1, 3, 7]
    assert per_object["ndet"][0] == 3
    assert np.isnan(per_object["g_r_mean"][0])


def test_undefined_corrected_magnitudes_are_left_out() -> None:
    group, det = detections(corrected=[True] * 3, magpsf_corr=[NAN, 13.0, 15.0])
    stats, _, _ = summarise(group, det, None, 1)
    assert stats["magmean_corr"][0] == 14.0
    assert stats["magmax_corr"][0] == 15.0
    assert np.isnan(stats["magfirst_corr"][0])
    assert stats["saturation_rate"][0] == 0.5
    none, _, _ = summarise(group, det | {"magpsf_corr": np.full(3, NAN)}, None, 1)
    assert np.isnan([none[f"mag{name}_corr"][0] for name in ("mean", "median", "max", "min", "sigma")]).all()
    assert np.isnan(none["saturation_rate"][0])
    partly, _, _ = summarise(group, det | {"corrected": np.array([True, False, True])}, None, 1)
    assert partly["saturation_rate"][0] == 0.0


def test_fields_that_previous_detections_lack() -> None:
    """g starts with a row known from prv_candidates only, r has only such a row: both get PS1 star and history."""
    _, det = detections(
        fid=[1, 1, 2],
        distnr=[0.1, 0.1, 0.1],
        distpsnr1=[NAN, 0.2, NAN],
        sgscore1=[NAN, 0.9, NAN],
        ndethist=[NAN, 7, NAN],
        ncovhist=[NAN, 70, NAN],
    )
    stats, per_object, _ = summarise(np.zeros(3, np.int64), det, None, 1)
    assert stats["nearPS1"].tolist() == stats["stellar"].tolist() == [True, True]
    assert per_object["stellar"][0]
    assert (per_object["ndethist"][0], per_object["ncovhist"][0]) == (7, 70)


def test_julian_and_modified_dates_are_the_same() -> None:
    group, det = detections(jdendref=2400000.5 + 58000.5, jdstarthist=[2458001.0] * 3, ndethist=[1.0] * 3)
    det["jdendref"] = np.full(3, det["jdendref"])
    modified = {k: v for k, v in det.items() if not k.startswith("jd")}
    modified |= {f"m{k}": v - 2400000.5 for k, v in det.items() if k.startswith("jd")}
    result = summarise(group, det, None, 1)[1]
    assert result["reference_change"][0]
    assert result["mjdstarthist"][0] == 58000.5
    assert_identical(summarise(group, modified, None, 1)[1], result)


def test_a_mean_just_below_zero_is_not_360() -> None:
    below = np.nextafter(360, 0)
    for ra in ([0.0, below, 0.0], [0.0, below, below], [below, 0.0, 0.0]):
        assert 0 <= summarise(*detections(ra=ra), None, 1)[1]["meanra"][0] < 360


def test_ids_of_64_bits_order_equal_epochs() -> None:
    candid = np.array([2**60 + 2, 2**60 + 1, 2**60 + 3])  # one and the same as float64
    stats, _, _ = summarise(*detections(mjd=[58000.0] * 3, candid=candid, magpsf=[2.0, 1.0, 3.0]), None, 1)
    assert (stats["magfirst"][0], stats["maglast"][0]) == (1.0, 3.0)


def test_arrow_buffers_are_read_only() -> None:
    group, det = detections()
    expected = summarise(group, det, None, 1)
    for values in (group, *det.values()):
        values.flags.writeable = False
    assert_identical(summarise(group, det, None, 1)[0], expected[0])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"candid": np.arange(3.0)}, TypeError, "candid must be integers"),
        ({"rfid": np.full(3, NAN)}, TypeError, "rfid must be integers"),
        ({"mjd": np.array([1.0, NAN, 3.0])}, ValueError, "mjd must be finite, but 1 of 3"),
        ({"mjd": np.ones(4)}, ValueError, "differ in length"),
        ({"magap": np.ones(4)}, ValueError, "differ in length: {'group': 3, 'magap': 4}"),
    ],
)
def test_bad_columns_are_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        summarise(*detections(**changes), None, 1)


@pytest.mark.parametrize("group", [[0, 1, 2], [0, -1, 0]])
def test_an_object_out_of_range_is_refused(group: list[int]) -> None:
    with pytest.raises(ValueError, match="group must lie in 0 to 1"):
        summarise(np.array(group), detections()[1], None, 2)


def test_limits_on_either_side_of_half_a_day() -> None:
    start = 58000.0
    mjd = np.array([start - 0.5, start, start + 1, np.nextafter(start - 0.5, 0), start - 10])
    limits = (np.zeros(5, np.int64), np.ones(5, np.int64), mjd, np.array([20.0, 20.0, 20.0, 19.0, 25.0]))
    result = dmdt([0], [1], [start], [18.0], [0.1], *limits)
    assert result["close_nondet"].tolist() == [True]
    assert result["dmdt_first"][0] == pytest.approx((18.1 - 19.0) / 0.5)
    assert (result["dm_first"][0], result["sigmadm_first"][0]) == (-1.0, 0.1)
    late = dmdt([0], [1], [start], [18.0], [0.1], *(values[1:3] for values in limits))
    assert not late["close_nondet"][0]
    assert np.isnan([late[name][0] for name in DMDT[:4]]).all()


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_of_equally_steep_rises_the_nearest_limit_counts(order: list[int]) -> None:
    mjd, limit = np.array([57998.0, 57999.0, 57997.0])[order], np.array([20.0, 19.0, 21.0])[order]
    result = dmdt([0], [1], [58000.0], [18.0], [0.0], np.zeros(3, np.int64), np.ones(3, np.int64), mjd, limit)
    assert [result[name][0] for name in DMDT] == [-1.0, -1.0, 0.0, 1.0, False]


def test_dmdt_refuses_arrays_that_do_not_fit() -> None:
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="differ in length"):
        dmdt(one, one, one, one, one, two, two, two, one)
    with pytest.raises(ValueError, match="differ in length"):
        dmdt(one, one, one, two, one, one, one, one, one)
    with pytest.raises(ValueError, match="negative"):
        dmdt(one - 1, one, one, one, one, one, one, one, one)
