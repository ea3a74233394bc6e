"""The reading API: light curves, cones, classes, features and time travel on small tables made by delta-rs."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from deltalake import DeltaTable, write_deltalake

from alerce_spark import lake, sky
from alerce_spark.classifiers.taxonomy import LIGHTCURVE, LIGHTCURVE_CLASSES, STAMP, STAMP_CLASSES
from alerce_spark.errors import InputError, LakeError
from alerce_spark.lake.handles import ORDER_PROPERTY
from alerce_spark.lake.tables import TABLES
from alerce_spark.lake.write import insert as write_rows

ORDER = 4
_NOTHING = {pa.string(): "", pa.bool_(): False}


def write(path: Path, table: str, rows: list[dict[str, Any]], *, ra: float = 10.0, dec: float = 20.0) -> None:
    """Append `rows`; what a row does not name is null, or nothing where that is forbidden. All lie at one place."""
    schema = TABLES[table].arrow
    index = int(sky.healpix(ra, dec))
    place = {"healpix29": index, "pixel": int(sky.parent(index, ORDER)), "survey": "ztf"}
    full = [{f.name: None if f.nullable else _NOTHING.get(f.type, 0) for f in schema} | place | r for r in rows]
    chosen = [{name: row[name] for name in schema.names} for row in full]
    on_sky = ["pixel"] if TABLES[table].on_sky else None
    DeltaTable.create(
        path / table,
        schema,
        mode="ignore",
        partition_by=on_sky,
        configuration={ORDER_PROPERTY: str(ORDER)},
        raise_if_key_not_exists=False,
    )
    if chosen:
        write_deltalake(path / table, pa.Table.from_pylist(chosen, schema), mode="append")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lake with two objects at one place: one with a reference source, one without."""
    write(tmp_path, "objects", [{"oid": o, "meanra": 10.0, "meandec": 20.0, "corrected": o == "star"} for o in _OIDS])
    write(
        tmp_path,
        "detections",
        [
            {"oid": o, "candid": k, "mjd": 100.0 + k, "fid": 1 + k % 2, "magpsf": 18.0 + k, "sigmapsf": 0.1}
            | {"magpsf_corr": 15.0 + k if o == "star" else None, "sigmapsf_corr_ext": 0.01, "ra": 10.0, "dec": 20.0}
            for o in _OIDS
            for k in (3, 1, 2)
        ],
    )
    write(tmp_path, "non_detections", [{"oid": o, "fid": 1, "mjd": 100.5, "diffmaglim": 20.5} for o in _OIDS])
    rows = [
        {"classifier": name, "version": "1", "classes": list(classes)}
        for name, classes in ((LIGHTCURVE, LIGHTCURVE_CLASSES), (STAMP, STAMP_CLASSES))
    ]
    write(tmp_path, "taxonomy", rows)
    return tmp_path


_OIDS = ("star", "nova")


def test_a_light_curve_has_limits_between_detections_and_the_magnitude_that_counts(path: Path) -> None:
    both = lake.open(str(path)).light_curve(_OIDS)
    assert both["oid"].to_list() == ["nova"] * 4 + ["star"] * 4
    one = both.filter(oid="star")
    assert one["mjd"].to_list() == [100.5, 101.0, 102.0, 103.0]
    assert one["detected"].to_list() == [False, True, True, True]
    assert one["band"].to_list() == ["g", "r", "g", "r"]
    assert one["mag"].to_list() == [None, 16.0, 17.0, 18.0]
    assert one["e_mag"].to_list() == [None, 0.01, 0.01, 0.01]
    assert one["diffmaglim"].to_list() == [20.5, None, None, None]
    nova = both.filter(oid="nova")
    assert nova["mag"].to_list() == [None, 19.0, 20.0, 21.0]
    assert nova["e_mag"].drop_nulls().to_numpy() == pytest.approx(0.1, rel=1e-6)
    assert lake.open(str(path)).light_curve("nobody").is_empty()


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.99995, -30.0), (123.4, 89.9999), (45.0, 41.81)])
def test_a_cone_search_is_exact_and_sorted_by_distance(tmp_path: Path, ra: float, dec: float) -> None:
    rng = np.random.default_rng(5)
    centre = SkyCoord(ra, dec, unit="deg")
    around = centre.directional_offset_by(rng.uniform(0, 360, 60) * u.deg, rng.uniform(0, 8, 60) * u.arcsec)
    index = sky.healpix(around.ra.deg, around.dec.deg)
    columns = {"oid": [f"o{k}" for k in range(60)], "meanra": around.ra.deg, "meandec": around.dec.deg}
    columns |= {"healpix29": index, "pixel": sky.parent(index, ORDER)}
    write(tmp_path, "objects", pa.table(columns).to_pylist())
    distance = centre.separation(around).arcsec
    found = lake.open(str(tmp_path)).cone_search(ra, dec, 5.0)
    order = np.argsort(distance)
    assert found["oid"].to_list() == [f"o{k}" for k in order if distance[k] <= 5.0]
    assert found["separation"].to_numpy() == pytest.approx(np.sort(distance)[: found.height], abs=1e-6)


def test_the_class_of_an_object_is_that_of_its_latest_alert_and_of_its_first_stamps(path: Path) -> None:
    def result(classifier: str, candid: int, version: str, name: str, **more: Any) -> dict[str, Any]:
        named = {"classifier": classifier, "version": version, "candid": candid, "mjd": 100.0 + candid, "oid": "star"}
        return {**named, "class": name, "probability": 0.6, "probabilities": [(name, 0.6)], **more}

    write(
        path,
        "probabilities",
        [
            result(LIGHTCURVE, 3, "20260102", "CEP"),
            result(LIGHTCURVE, 3, "20260101", "E"),
            result(LIGHTCURVE, 2, "20260102", "RRL"),
            result(STAMP, 3, "20260102", "AGN"),
            result(STAMP, 1, "20260102", "VS"),
            result(STAMP, 1, "20260101", "SN"),
            result(LIGHTCURVE, 1, "20260101", "SNIa", oid="nova"),
        ],
    )
    opened = lake.open(str(path))
    found = opened.classes().collect()
    assert found.select("oid", "class").rows() == [("nova", "SNIa"), ("star", "CEP")]
    assert found["SNIa"].to_list() == [0.6, None]
    assert set(LIGHTCURVE_CLASSES) < set(found.columns)
    assert opened.classes(STAMP).select("oid", "class").collect().rows() == [("star", "VS")]
    assert opened.classes(oid="star").collect()["class"].to_list() == ["CEP"]
    with pytest.raises(LakeError, match="there are lc_classifier, stamp_classifier"):
        opened.classes("weather")


def test_features_are_the_latest_ones_that_there_are(path: Path) -> None:
    rows = [("star", 1, "1", 8, 0.1), ("star", 2, "1", 9, 0.2), ("star", 2, "2", 9, 0.3), ("nova", 1, "2", 0, None)]
    names = ("oid", "candid", "version", "ndet_used", "Multiband_period")
    write(path, "features", [{**dict(zip(names, row, strict=True)), "mjd": float(row[1])} for row in rows])
    found = lake.open(str(path)).features().collect()
    assert found.select(names).rows() == [("star", 2, "2", 9, 0.3)]


def test_a_table_can_be_read_as_it_was_at_a_version_and_at_a_time(path: Path) -> None:
    opened = lake.open(str(path))
    before = opened.history("objects")
    assert before["version"].to_list() == [0, 1]
    time.sleep(0.002)  # times of commits have milliseconds
    between = datetime.now(UTC)
    time.sleep(0.002)
    write(path, "objects", [{"oid": "late", "meanra": 10.0, "meandec": 20.0}])
    assert opened.table("objects").collect().height == 3
    assert opened.table("objects", version=between).collect().height == 2
    assert opened.table("objects", version=1).collect().height == 2
    assert opened.history("objects")["version"].to_list() == [0, 1, 2]
    with pytest.raises(LakeError, match="was not there"):
        opened.table("objects", version=datetime(2000, 1, 1, tzinfo=UTC))
    with pytest.raises(LakeError, match="no time zone"):
        opened.table("objects", version=datetime(2100, 1, 1))


@pytest.mark.parametrize("name", ["my lake", "ünïcode-星", "a#b&c;d+e", "100%", "quote'q{x}(y)@z,w:~v"])
def test_a_lake_in_a_folder_with_odd_characters_is_read_and_written(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    write(place, "objects", [{"oid": "star", "meanra": 10.0, "meandec": 20.0}])
    write(place, "detections", [{"oid": "star", "candid": 7, "mjd": 1.0, "ra": 10.0, "dec": 20.0}])
    write(place, "taxonomy", [])
    rows = [{"classifier": name, "version": "1", "classes": ["A"]} for name in (LIGHTCURVE, STAMP)]
    assert write_rows(str(place), "taxonomy", pa.Table.from_pylist(rows, TABLES["taxonomy"].arrow)) == 2
    for given in (place, str(place), f"{place}/", place.as_uri()):
        opened = lake.open(given)
        assert opened.path == str(place)
        assert opened.cone_search(10.0, 20.0, 1.0)["oid"].to_list() == ["star"]
        assert opened.table("detections", oid="star").collect()["candid"].to_list() == [7]
        assert opened.table("taxonomy").collect().height == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(
    ("ra", "dec", "radius"),
    [(10, 91, 1), (10, -90.0000001, 1), (np.nan, 0, 1), (10, np.inf, 1), (10, 0, np.nan), (10, 0, -1), ("10", 0, 1)],
)
def test_a_cone_that_is_none_is_refused(path: Path, ra: Any, dec: Any, radius: Any) -> None:
    with pytest.raises(InputError, match="a cone's"):
        lake.open(path).cone_search(ra, dec, radius)


@pytest.mark.parametrize(("ra", "dec"), [(370.0, 20.0), (-350.0, 20.0), (np.float32(10), np.int64(20))])
def test_a_right_ascension_may_be_anywhere_on_the_circle(path: Path, ra: float, dec: float) -> None:
    assert sorted(lake.open(path).cone_search(ra, dec, 1.0)["oid"]) == sorted(_OIDS)


@pytest.mark.parametrize("oid", [5, ["star", None], [b"star"], np.array([1, 2])])
def test_ids_that_are_no_text_are_refused(path: Path, oid: Any) -> None:
    with pytest.raises(InputError, match="ids of objects are text"):
        lake.open(path).table("objects", oid=oid)


def test_versions_that_are_none_are_refused_and_any_whole_number_serves(path: Path) -> None:
    opened = lake.open(path)
    assert opened.table("detections", version=np.int64(0)).collect().is_empty()  # type: ignore[arg-type]
    assert opened.table("detections", version=1).collect().height == 6
    for version in (True, "1", 1.0):
        with pytest.raises(InputError, match="whole number or a datetime"):
            opened.table("detections", version=version)  # type: ignore[arg-type]
    for version in (-1, 2, 10**6):
        with pytest.raises(LakeError, match=f"no version {version}; it has 0 to 1"):
            opened.table("detections", version=version)


def test_a_lake_may_be_named_by_the_home_of_its_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    assert lake.open(f"~/{path.name}").light_curve("star").height == 4
    with pytest.raises(InputError, match="is empty"):
        lake.open("")
