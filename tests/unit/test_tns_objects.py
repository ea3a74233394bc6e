"""Public objects of TNS: files of it become a catalogue, up to date and matched with the objects, both ways."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pandas as pd
import polars as pl
import pytest
from astropy.coordinates import SkyCoord, search_around_sky

from alerce_spark import sky
from alerce_spark.config import TnsSettings
from alerce_spark.lake import catalogs, lookup, write
from alerce_spark.tns import catalog, files, matching
from alerce_spark.tns.server import Tns
from tests import small_lake
from tests.fake_tns import COLUMNS, KEY, FakeTns, public_csv, public_zip

WHOLE = files.WHOLE
NUMBERS = ("ra", "declination", "redshift", "typeid", "reporting_groupid", "source_groupid", "discoverymag")
NUMBERS = (*NUMBERS, "discmagfilter")


def tns_row(objid: int, ra: float, dec: float, **more: Any) -> dict[str, Any]:
    row = {"objid": objid, "name_prefix": "AT", "name": f"2026{objid}", "ra": ra, "declination": dec}
    row |= {"redshift": "", "reporting_group": "ZTF", "internal_names": f"ZTF26{objid}"}
    return row | {"lastmodified": "2026-11-30 10:00:00", **more}


ROWS = [
    tns_row(1, 10.0, -20.0, type="SN Ia", redshift=0.0123, reporters='A. Name, "B" Other', discoverymag=18.51),
    tns_row(2, 359.99999, 89.5, reporters="two\nlines, and a comma", internal_names="ZTF26b, ATLAS26c"),
    tns_row(3, 0.0, 0.0, type="  ", redshift=0.0),
]


@pytest.fixture
def fake() -> Iterator[FakeTns]:
    with FakeTns() as server:
        yield server


@pytest.fixture
def lake(tmp_path: Path) -> str:
    write.create(str(tmp_path / "lake"), 0)
    return str(tmp_path / "lake")


def bot(fake: FakeTns, **more: Any) -> Tns:
    return Tns(TnsSettings(url=fake.url, bot_id=1, bot_name="bot", api_key=KEY, timeout_s=5, **more))


def stored(lake: str) -> list[dict[str, Any]]:
    rows = pl.scan_delta(f"{lake}/catalogs/tns").drop("pixel", "healpix29").collect()
    return rows.sort("source_id").to_dicts()


def as_pandas(data: bytes) -> list[dict[str, Any]]:
    """Rows of a file as pandas reads them, in the columns of the catalogue; of an id that comes twice the last."""
    frame = pd.read_csv(io.BytesIO(data), skiprows=1, dtype={c: str for c in COLUMNS if c not in NUMBERS})
    frame = frame.drop_duplicates("objid", keep="last").sort_values("objid")
    rows = frame.rename(columns={"objid": "source_id", "declination": "dec"}).to_dict("records")
    return [{k: None if pd.isna(v) or str(v).strip() == "" else v for k, v in row.items()} for row in rows]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "csv"])
def test_the_catalogue_has_what_pandas_reads(lake: str, tmp_path: Path, zipped: bool) -> None:
    rows = [*ROWS, tns_row(2, 5.0, 5.0, name="later")]
    path = tmp_path / (WHOLE if zipped else "tns_public_objects.csv")
    path.write_bytes(public_zip(rows) if zipped else public_csv(rows))
    done = catalog.import_files(lake, [path])
    assert (done.added, done.changed, done.gone, done.rows) == (3, 0, 0, 3)
    assert stored(lake) == as_pandas(public_csv(rows))
    version = log_version(lake)
    again = catalog.import_files(lake, [path])
    assert (again.added, again.changed, again.gone) == (0, 0, 0)
    assert log_version(lake) == version


def log_version(lake: str) -> int:
    from deltalake import DeltaTable

    return DeltaTable(f"{lake}/catalogs/tns").version()


def test_the_row_modified_last_counts_in_whatever_order_files_come(lake: str, tmp_path: Path) -> None:
    def file(name: str, rows: list[dict[str, Any]], hour: int) -> Path:
        (tmp_path / name).write_bytes(public_zip(rows, f"2026-11-30 {hour:02d}:00:00 - {hour:02d}:59:59"))
        return tmp_path / name

    early = file("tns_public_objects_10.csv.zip", [tns_row(1, 10, 10), tns_row(2, 20, 20)], 10)
    moved = tns_row(1, 10.001, 10, name_prefix="SN", type="SN II", lastmodified="2026-11-30 12:30:00")
    late = file("tns_public_objects_12.csv.zip", [moved], 12)
    for order in ([early, late], [late, early], [early, early, late, early]):
        for path in order:
            catalog.import_files(lake, [path])
        found = {row["source_id"]: (row["ra"], row["name_prefix"], row["type"]) for row in stored(lake)}
        assert found == {"1": (10.001, "SN", "SN II"), "2": (20.0, "AT", None)}
    # The whole file drops what TNS has no longer, and nothing that came after it.
    newer = file("tns_public_objects_23.csv.zip", [tns_row(9, 90, 9, lastmodified="2026-12-01 00:30:00")], 23)
    whole = tmp_path / WHOLE
    whole.write_bytes(public_zip([moved, tns_row(3, 3, 3)]))
    done = catalog.import_files(lake, [newer, whole])
    assert (done.added, done.changed, done.gone) == (2, 0, 1)
    assert [row["source_id"] for row in stored(lake)] == ["1", "3", "9"]


def _zip_of(name: str, data: bytes) -> bytes:
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()


GOOD = public_zip(ROWS)
DAMAGED = {
    "cut": GOOD[: len(GOOD) // 2],
    "changed": GOOD[:200] + bytes([GOOD[200] ^ 255]) + GOOD[201:],
    "nothing": b"",
    "empty": _zip_of("a.csv", b""),
    "no header": _zip_of("a.csv", b'"2026-11-30 00:00:00 - 23:59:59"\n'),
    "a page": b"<html>Down for maintenance</html>\n<p>\n",
    "no date": _zip_of("a.csv", public_csv(ROWS).split(b"\n", 1)[1]),
    "cut line": _zip_of("a.csv", public_csv(ROWS)[:-200]),
    "no positions": _zip_of("a.csv", b'"2026-11-30 00:00:00 - 23:59:59"\n"objid","name"\n"1","a"\n'),
    "two files": None,
}


@pytest.mark.parametrize("kind", DAMAGED, ids=lambda kind: kind.replace(" ", "-"))
def test_a_damaged_file_is_named_and_changes_nothing(lake: str, tmp_path: Path, fake: FakeTns, kind: str) -> None:
    good = tmp_path / WHOLE
    good.write_bytes(GOOD)
    catalog.import_files(lake, [good])
    before = stored(lake)
    data = DAMAGED[kind]
    if data is None:
        import zipfile

        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a.csv", "1")
            archive.writestr("b.csv", "2")
        data = out.getvalue()
    bad = tmp_path / "tns_public_objects_20261130.csv.zip"
    bad.write_bytes(data)
    with pytest.raises(Exception, match="tns_public_objects_20261130") as raised:
        catalog.import_files(lake, [good, bad])
    assert type(raised.value).__module__.startswith("alerce_spark")
    assert stored(lake) == before
    # Fetched, it is told, and what came before it is kept.
    fake.files["tns_public_objects_20261130.csv.zip"] = data
    done = catalog.fetch(lake, bot(fake), datetime(2026, 12, 1, 3, 5, tzinfo=UTC))
    assert "tns_public_objects_20261130" in str(done.failure)
    assert stored(lake) == before


def _names(until: str | None, now: str) -> list[str]:
    then = None if until is None else datetime.fromisoformat(until).replace(tzinfo=UTC)
    wanted = files.due(then, datetime.fromisoformat(now).replace(tzinfo=UTC))
    return [w.name.removeprefix("tns_public_objects").removesuffix(".csv.zip") for w in wanted]


def test_the_whole_file_comes_once_then_days_then_hours() -> None:
    assert _names(None, "2026-12-01T02:10") == ["", "_00", "_01"]
    assert _names("2026-11-01T02:00", "2026-12-01T00:30") == [""]
    assert _names("2026-11-29T23:59:59", "2026-12-01T01:00") == ["_20261129", "_20261130", "_00"]
    assert _names("2026-12-01T05:20", "2026-12-01T07:59") == ["_05", "_06"]
    assert _names("2026-12-01T05:20", "2026-12-01T05:59") == []
    assert _names("2026-12-01T06:01", "2026-12-01T05:59") == []


def test_a_fetch_goes_on_where_the_last_one_ended(lake: str, fake: FakeTns) -> None:
    now = datetime(2026, 12, 1, 3, 5, tzinfo=UTC)
    fake.files[WHOLE] = GOOD
    for hour, row in enumerate((tns_row(4, 4, 4), tns_row(5, 5, 5), tns_row(6, 6, 6))):
        row["lastmodified"] = f"2026-12-01 0{hour}:30:00"
        data = public_zip([row], f"2026-12-01 0{hour}:00:00 - 0{hour}:59:59")
        fake.files[f"tns_public_objects_0{hour}.csv.zip"] = data
    late = fake.files.pop("tns_public_objects_01.csv.zip")
    done = catalog.fetch(lake, bot(fake), now)
    # 02 is there, but the catalogue must not look complete up to then.
    assert (done.added, done.failure) == (4, "TNS has no tns_public_objects_01.csv.zip yet")
    fake.files["tns_public_objects_01.csv.zip"] = public_zip([tns_row(8, 8, 8)], "2026-11-30 01:00:00 - 01:59:59")
    done = catalog.fetch(lake, bot(fake), now)
    assert (done.added, done.failure) == (
        0,
        "TNS has no tns_public_objects_01.csv.zip yet but an old one of 2026-11-30",
    )
    fake.files["tns_public_objects_01.csv.zip"] = late
    fake.asked.clear()
    done = catalog.fetch(lake, bot(fake), now)
    assert (done.added, done.failure) == (2, None)
    assert [path.rsplit("_", 1)[1][:2] for path in fake.asked] == ["00", "01", "02"]
    assert [row["source_id"] for row in stored(lake)] == ["1", "2", "3", "4", "5", "6"]


def test_a_time_that_cannot_be_is_not_how_far_the_catalogue_is(lake: str, tmp_path: Path) -> None:
    path = tmp_path / WHOLE
    wrong = [tns_row(k, k, k, lastmodified=time) for k, time in ((4, "2099-01-01 00:00:00"), (5, "tomorrow"), (6, ""))]
    path.write_bytes(public_zip([*ROWS, *wrong], "2026-11-29 00:00:00 - 23:59:59"))
    assert catalog.known_until(lake, datetime.now(UTC)) is None
    catalog.import_files(lake, [path])
    known = catalog.known_until(lake, datetime(2026, 12, 1, tzinfo=UTC))
    assert known == datetime(2026, 11, 30, 10, tzinfo=UTC)


def test_limits_are_waited_for_and_a_long_one_ends_the_round(lake: str, fake: FakeTns) -> None:
    now = datetime(2026, 12, 1, 0, 5, tzinfo=UTC)
    fake.files[WHOLE] = GOOD
    fake.limit, fake.reset = 1, "0.05"
    assert catalog.fetch(lake, bot(fake), now).failure is None
    assert fake.asked == [f"/system/files/tns_public_objects/{WHOLE}"] * 2
    fake.limit, fake.reset = 1, "500"
    fake.files["tns_public_objects_20261130.csv.zip"] = GOOD
    failure = catalog.fetch(lake, bot(fake, patience_s=10), now).failure
    assert failure == "TNS takes no more requests of ours for 500 s; try again then"


@pytest.mark.parametrize("switch", ["down", "cut"])
def test_a_server_that_fails_is_asked_again_and_told(lake: str, fake: FakeTns, switch: str) -> None:
    fake.files[WHOLE] = GOOD
    setattr(fake, switch, True)
    done = catalog.fetch(lake, bot(fake), datetime(2026, 12, 1, 0, 5, tzinfo=UTC))
    assert done.failure is not None
    assert len(fake.asked) == 3
    assert catalogs.local(lake, "tns") is None


def _objects(lake: str, rng: np.random.Generator, ra: np.ndarray, dec: np.ndarray) -> pl.DataFrame:
    from alerce_spark.lake.tables import TABLES

    index = sky.healpix(ra, dec)
    rows = []
    for k, (x, y) in enumerate(zip(ra.tolist(), dec.tolist(), strict=True)):
        row = {c.name: False if c.type == "boolean" else 0 for c in TABLES["objects"].columns if c.required}
        row |= {"survey": "ztf", "oid": f"ZTF26o{k:05d}", "meanra": x, "meandec": y}
        rows.append(row | {"healpix29": int(index[k]), "pixel": int(sky.parent(index[k], 0))})
    small_lake.replace(lake, "objects", rows)
    return pl.DataFrame(rows)


def _scattered(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Places over the sky, many of them at ra 0 and near the poles."""
    ra = np.concatenate([rng.uniform(0, 360, size), rng.normal(0, 1e-3, size) % 360, rng.uniform(0, 360, size)])
    dec = np.concatenate(
        [np.degrees(np.arcsin(rng.uniform(-1, 1, size))), rng.uniform(-5, 5, size), 90 - rng.random(size) * 1e-3]
    )
    return ra, dec


def test_both_ways_find_what_astropy_finds(lake: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    ra, dec = _scattered(rng, 60)
    objects = _objects(lake, rng, ra, dec)
    near = SkyCoord(ra * u.deg, dec * u.deg).directional_offset_by(
        rng.uniform(0, 360, ra.size) * u.deg, rng.uniform(0, 6, ra.size) * u.arcsec
    )
    rows = [tns_row(k, float(c.ra.deg), float(c.dec.deg)) for k, c in enumerate(near)]
    path = tmp_path / WHOLE
    path.write_bytes(public_zip(rows))
    catalog.import_files(lake, [path])
    # Half of the objects were asked about before TNS had anything: that row says so.
    some = objects[::2]
    empty = [
        {"pixel": r["pixel"], "healpix29": r["healpix29"], "survey": "ztf", "oid": r["oid"], "catalog": "tns"}
        | {
            "candid": 7,
            "ra": r["meanra"],
            "dec": r["meandec"],
            "radius": 3.0,
            "attempted": datetime(2026, 1, 1, tzinfo=UTC),
        }
        for r in some.to_dicts()
    ]
    small_lake.replace(lake, "xmatch", empty)
    done = matching.rematch(lake)
    here, there, apart, _ = search_around_sky(SkyCoord(ra * u.deg, dec * u.deg), near, 3 * u.arcsec)
    best: dict[str, tuple[float, str]] = {}
    for i, j, d in zip(here, there, apart.arcsec, strict=True):
        oid = objects["oid"][int(i)]
        best[oid] = min(best.get(oid, (9.0, "")), (float(d), str(j)))
    found = small_lake.read(lake, "xmatch").filter(pl.col("source_id").is_not_null())
    assert dict(found.select("oid", "source_id").iter_rows()) == {oid: one for oid, (_, one) in best.items()}
    assert found["separation"].to_numpy() == pytest.approx([best[oid][0] for oid in found["oid"]], abs=1e-6)
    assert done.written == done.near == len(best) > 50
    kept = dict(small_lake.read(lake, "xmatch").select("oid", "candid").iter_rows())
    assert all(kept[row["oid"]] == 7 for row in empty)
    # Nothing new: nothing is written.
    version = lookup.versions(lake, ["xmatch"])
    assert matching.rematch(lake).written == 0
    assert lookup.versions(lake, ["xmatch"]) == version


def test_a_new_type_reaches_the_object_and_a_withdrawn_source_leaves_it(lake: str, tmp_path: Path) -> None:
    _objects(lake, np.random.default_rng(1), np.array([10.0, 20.0]), np.array([0.0, 0.0]))
    path = tmp_path / WHOLE

    def whole(*rows: dict[str, Any], day: int) -> dict[str, dict[str, str] | None]:
        path.write_bytes(public_zip(rows, f"2026-12-{day:02d} 00:00:00 - 23:59:59"))
        catalog.import_files(lake, [path])
        matching.rematch(lake)
        found = small_lake.read(lake, "xmatch").to_dicts()
        return {row["oid"]: None if row["source_id"] is None else row["attributes"] for row in found}

    both = tns_row(1, 10.0, 0.0002), tns_row(2, 20.0, 0.0)
    first = whole(*both, day=1)
    assert {oid: one and one["name"] for oid, one in first.items()} == {"ZTF26o00000": "20261", "ZTF26o00001": "20262"}
    typed = tns_row(1, 10.0, 0.0002, name_prefix="SN", type="SN Ia", redshift=0.05, lastmodified="2026-12-02 01:00:00")
    second = whole(typed, day=2)
    one = second["ZTF26o00000"]
    assert one is not None
    assert (one["name_prefix"], one["type"], one["redshift"]) == ("SN", "SN Ia", "0.05")
    assert second["ZTF26o00001"] is None


def test_a_round_that_was_cut_off_is_made_up_for(lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue is there, the process died before the objects were asked about again."""
    _objects(lake, np.random.default_rng(1), np.array([10.0]), np.array([0.0]))
    path = tmp_path / WHOLE
    path.write_bytes(public_zip([tns_row(1, 10.0, 0.0)]))
    catalog.import_files(lake, [path])
    with monkeypatch.context() as patch:

        def dies(*_: object) -> int:
            raise KeyboardInterrupt

        patch.setattr(write, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            matching.rematch(lake)
    catalog.import_files(lake, [path])
    assert matching.rematch(lake).written == 1
    assert small_lake.read(lake, "xmatch")["source_id"].to_list() == ["1"]


def test_no_key_in_anything_that_is_said(fake: FakeTns, caplog: pytest.LogCaptureFixture) -> None:
    settings = TnsSettings(url=fake.url, bot_id=1, bot_name="bot", api_key=KEY, hermes_token="hidden-token")
    said = [repr(settings), str(settings), repr(Tns(settings)), repr(vars(Tns(settings)).get("_server"))]
    wrong = TnsSettings(url=fake.url, bot_id=1, bot_name="bot", api_key="wrong-secret")
    closed = TnsSettings(url="http://127.0.0.1:9", bot_id=1, bot_name="bot", api_key=KEY, timeout_s=1)
    for settings in (wrong, closed):
        with pytest.raises(Exception, match="TNS") as raised:
            Tns(settings).called("ZTF26a")
        said.append(f"{raised.value!r} {raised.value.__cause__!r}")
    said += [record.getMessage() for record in caplog.records]
    assert not any(secret in text for text in said for secret in (KEY, "hidden-token", "wrong-secret"))
