"""Look-ups of the history of a few objects against a plain filter of every row; tables by delta-rs, no Spark."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import astropy.units as u
import healpy
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from deltalake import DeltaTable, WriterProperties, write_deltalake
from polars.testing import assert_frame_equal

from alerce_spark import delta, sky
from alerce_spark.delta.kept import Kept
from alerce_spark.errors import LakeError
from alerce_spark.lake import lookup, write
from alerce_spark.lake.handles import ORDER_PROPERTY
from alerce_spark.lake.tables import TABLES
from alerce_spark.lightcurves.assemble import DETECTION_COLUMNS, FORCED_COLUMNS, LIMIT_COLUMNS

ORDER = 4
HISTORY = {
    "detections": DETECTION_COLUMNS,
    "non_detections": LIMIT_COLUMNS,
    "forced_photometry": FORCED_COLUMNS,
    "objects": ("oid", "pixel"),
}


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    delta.forget()
    for name, bound in (("_known_groups", lookup._GROUP_BYTES), ("_known_ids", lookup._ID_BYTES)):
        monkeypatch.setattr(lookup, name, Kept(bound, getattr(lookup, name)._size))


def _write(lake: Path, table: str, rows: dict[str, Any], *, group: int = 100, mode: str = "append") -> None:
    """Rows sorted by healpix29 in groups of `group`; columns that are not given are null, or nothing where required."""
    count = len(next(iter(rows.values()))) if rows else 0
    nothing = {pa.string(): "", pa.bool_(): False}
    columns = {
        f.name: pa.array(rows[f.name], f.type)
        if f.name in rows
        else (pa.nulls(count, f.type) if f.nullable else pa.repeat(pa.scalar(nothing.get(f.type, 0), f.type), count))
        for f in TABLES[table].arrow
    }
    DeltaTable.create(
        lake / table,
        TABLES[table].arrow,
        mode="ignore",
        partition_by=["pixel"],
        configuration={ORDER_PROPERTY: str(ORDER), "delta.enableDeletionVectors": "true"},
        raise_if_key_not_exists=False,
    )
    if count:
        ordered = pa.table(columns, schema=TABLES[table].arrow).sort_by(
            [(c, "ascending") for c in ("pixel", "healpix29")]
        )
        write_deltalake(lake / table, ordered, mode=mode, writer_properties=WriterProperties(max_row_group_size=group))


def _awkward_positions() -> tuple[np.ndarray, np.ndarray]:
    """Corners and edges of pixels, the poles, both sides of ra 0, and places within a crowded pixel [deg]."""
    rng = np.random.default_rng(8)
    corners = np.concatenate(
        [
            healpy.boundaries(1 << ORDER, int(p), step=2, nest=True).T
            for p in rng.integers(0, healpy.nside2npix(1 << ORDER), 10)
        ]
    )
    ra, dec = healpy.vec2ang(corners, lonlat=True)
    first, end = sky.index_range(1400, ORDER)
    crowd = sky.position(rng.integers(first, end, 400))
    ra = np.r_[ra, 0.0, 0.0, 359.9999, 0.0001, 180.0, crowd[0]]
    dec = np.r_[dec, 90.0, -90.0, 10.0, 10.0, 89.9999, crowd[1]]
    return ra % 360, dec


def _scattered(ra: np.ndarray, dec: np.ndarray, radius: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A point within `radius` arcsec of each position, by astropy."""
    moved = SkyCoord(ra, dec, unit="deg").directional_offset_by(
        rng.uniform(0, 360, len(ra)) * u.deg, radius * np.sqrt(rng.uniform(0, 1, len(ra))) * u.arcsec
    )
    return moved.ra.deg % 360, np.clip(moved.dec.deg, -90, 90)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.Series, np.ndarray, np.ndarray]:
    """A lake in two commits of rows that scatter by up to 3 arcsec around objects in awkward places."""
    path = tmp_path_factory.mktemp("a lake")
    rng = np.random.default_rng(9)
    ra, dec = _awkward_positions()
    oids = np.array([f"ZTF20{i:06d}" for i in range(len(ra))])
    for _ in range(2):
        of = np.repeat(np.arange(len(ra)), 6)
        for table in HISTORY:
            if table == "objects":
                of = np.arange(len(ra))
            at_ra, at_dec = _scattered(ra[of], dec[of], 3.0, rng)
            index = sky.healpix(at_ra, at_dec)
            rows = {
                "healpix29": index,
                # The home of an object is where it was first seen, not where its mean is.
                "pixel": sky.healpix(ra[of], dec[of], ORDER) if table == "objects" else sky.parent(index, ORDER),
                "oid": oids[of],
                "mjd": rng.uniform(58000, 59000, len(of)),
            }
            rows |= {"candid": rng.integers(1, 1 << 60, len(of))} if table == "detections" else {}
            rows |= {"pid": rng.integers(1, 1 << 60, len(of))} if table == "forced_photometry" else {}
            rows |= {"ra": at_ra, "dec": at_dec} if table in ("detections", "forced_photometry") else {}
            _write(path, table, {k: v for k, v in rows.items() if k in TABLES[table].names})
    return path, pl.Series(oids), ra, dec


def _all_rows(lake: Path, table: str, oids: pl.Series) -> pl.DataFrame:
    # Every file of these tables is live, so that no reader of Delta is needed.
    rows = pl.scan_parquet(lake / table / "**/*.parquet", hive_schema={"pixel": pl.Int32})
    return rows.filter(pl.col("oid").is_in(oids.implode())).select(HISTORY[table]).collect()


def _assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert_frame_equal(found, expected, check_row_order=False)


def test_discs_are_covered_by_partitions_and_ranges() -> None:
    ra, dec = _awkward_positions()
    rng = np.random.default_rng(1)
    for i in range(len(ra)):
        pixels, ranges = lookup.near(ra[i], dec[i], ORDER)
        at_ra, at_dec = _scattered(np.full(300, ra[i]), np.full(300, dec[i]), sky.OBJECT_RADIUS, rng)
        index = sky.healpix(at_ra, at_dec)
        inside = (index[:, None] >= ranges[:, 0]) & (index[:, None] < ranges[:, 1])
        assert inside.any(axis=1).all()
        assert np.isin(sky.parent(index, ORDER), pixels).all()
        assert (ranges[:, 0] < ranges[:, 1]).all()
        assert (ranges[1:, 0] > ranges[:-1, 1]).all()
        # Narrow: a few cells of 51 arcsec, not the pixel of 3.7 degrees.
        assert (ranges[:, 1] - ranges[:, 0]).sum() <= 9 << (2 * (sky.INDEX_ORDER - 12))


@pytest.mark.parametrize("count", [1, 25, 300])
def test_narrowed_look_ups_equal_a_filter_of_all_rows(
    lake: tuple[Path, pl.Series, np.ndarray, np.ndarray], count: int
) -> None:
    path, oids, ra, dec = lake
    rng = np.random.default_rng(count)
    for _ in range(2):
        some = rng.choice(len(oids), count, replace=False)
        seen = _scattered(ra[some], dec[some], 3.0, rng)
        at = lookup.versions(str(path), list(HISTORY))
        stored = lookup.stored_history(str(path), oids[some], *seen, at)
        for table, found in (
            ("detections", stored.detections),
            ("non_detections", stored.limits),
            ("forced_photometry", stored.forced),
        ):
            expected = _all_rows(path, table, oids[some])
            assert len(expected) == 12 * count
            _assert_same(found, expected)
            pixels, _ = lookup.near(*seen, ORDER)
            _assert_same(lookup.read(str(path), table, HISTORY[table], oids[some], pixels), expected)
        _assert_same(
            lookup.stored_homes(str(path), oids[some], *seen, at["objects"]), _all_rows(path, "objects", oids[some])
        )


def test_row_groups_outside_the_ranges_are_not_read(
    lake: tuple[Path, pl.Series, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, oids, ra, dec = lake
    read: list[int] = []
    plain = lookup.pq.ParquetFile.read_row_groups

    def counting(self: Any, groups: list[int], *args: Any, **options: Any) -> pa.Table:
        read.extend(groups)
        return plain(self, groups, *args, **options)

    monkeypatch.setattr(lookup.pq.ParquetFile, "read_row_groups", counting)
    one = slice(-1, None)  # in the crowded pixel: 2 files of 24 row groups
    pixels, ranges = lookup.near(ra[one], dec[one], ORDER)
    found = lookup.read(str(path), "detections", ["oid"], oids[-1:], pixels, None, ranges)
    assert len(found) == 12
    narrowed = len(read)
    read.clear()
    lookup.read(str(path), "detections", ["oid"], oids[-1:], pixels)
    assert narrowed <= 8
    assert len(read) >= 40  # ids of the 48, without those that are known


def test_a_file_that_was_met_is_not_opened_for_objects_that_it_lacks(
    lake: tuple[Path, pl.Series, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, oids, ra, dec = lake
    opened: list[str] = []
    plain = lookup.pq.ParquetFile.__init__

    def counting(self: Any, source: str, *args: Any, **options: Any) -> None:
        opened.append(source)
        plain(self, source, *args, **options)

    monkeypatch.setattr(lookup.pq.ParquetFile, "__init__", counting)
    one = slice(-1, None)
    pixels, ranges = lookup.near(ra[one], dec[one], ORDER)
    assert lookup.read(str(path), "detections", ["oid"], ["ZTF99new"], pixels, None, ranges).is_empty()
    assert opened
    opened.clear()
    assert lookup.read(str(path), "detections", ["oid"], ["ZTF99newer"], pixels, None, ranges).is_empty()
    assert not opened
    assert len(lookup.read(str(path), "detections", ["oid"], oids[-1:], pixels, None, ranges)) == 12
    assert opened


def test_objects_without_history_and_empty_tables_give_no_rows(
    lake: tuple[Path, pl.Series, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path, _, ra, dec = lake
    empty = tmp_path / "empty"
    for table in HISTORY:
        _write(empty, table, {})
    for place, position in ((path, (ra[-1:], dec[-1:])), (path, (ra[-1:], -dec[-1:])), (empty, (ra[-1:], dec[-1:]))):
        at = lookup.versions(str(place), list(HISTORY))
        stored = lookup.stored_history(str(place), pl.Series(["ZTF99new"]), *position, at)
        assert stored.detections.is_empty()
        assert stored.detections.columns == list(DETECTION_COLUMNS)
        assert stored.detections.schema["candid"] == pl.Int64
        assert stored.limits.is_empty()
        assert stored.forced.is_empty()


def test_a_version_does_not_show_what_came_later(tmp_path: Path) -> None:
    lake = str(tmp_path)
    position = {"healpix29": sky.healpix([10.0], [20.0]), "pixel": sky.healpix([10.0], [20.0], ORDER)}
    for candid in (1, 2, 3):
        _write(tmp_path, "detections", {**position, "oid": ["a"], "candid": [candid], "ra": [10.0], "dec": [20.0]})

    def seen(version: int | None) -> list[int]:
        pixels, ranges = lookup.near(10.0, 20.0, ORDER)
        return sorted(lookup.read(lake, "detections", ["candid"], ["a"], pixels, version, ranges)["candid"])

    assert lookup.versions(lake, ["detections"]) == {"detections": 3}
    assert [seen(v) for v in (2, 3, 2, 1, None, 1, 2)] == [[1, 2], [1, 2, 3], [1, 2], [1], [1, 2, 3], [1], [1, 2]]
    _write(tmp_path, "detections", {**position, "oid": ["a"], "candid": [4], "ra": [10.0], "dec": [20.0]})
    assert seen(3) == [1, 2, 3]
    assert seen(None) == [1, 2, 3, 4]


def test_a_table_whose_files_were_rewritten_and_deleted_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = str(tmp_path)
    pixels, ranges = lookup.near(10.0, 20.0, ORDER)
    rows = {"healpix29": sky.healpix([10.0] * 3, [20.0] * 3), "pixel": sky.healpix([10.0] * 3, [20.0] * 3, ORDER)}
    rows |= {"oid": ["a"] * 3, "candid": [1, 2, 3], "ra": [10.0] * 3, "dec": [20.0] * 3}
    _write(tmp_path, "detections", rows)

    def seen() -> list[int]:
        return sorted(lookup.read(lake, "detections", ["candid"], ["a"], pixels, None, ranges)["candid"])

    assert seen() == [1, 2, 3]
    _write(tmp_path, "detections", rows, mode="overwrite")
    table = DeltaTable(tmp_path / "detections")
    assert table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    # The files go between the look at the log and the reading: the open table still stands before the rewrite.
    with monkeypatch.context() as patched:
        plain = delta.Table.newest
        patched.setattr(delta.Table, "newest", lambda self: self._newest or plain(self))
        assert seen() == [1, 2, 3]

    # A lake made again in the same place: first at a lower version, then at the same one with other files.
    for candids in ([4, 5, 6], [7, 8, 9]):
        shutil.rmtree(tmp_path / "detections")
        _write(tmp_path, "detections", {**rows, "candid": candids})
        assert lookup.versions(lake, ["detections"]) == {"detections": 1}
        assert seen() == candids


def test_a_version_whose_files_are_gone_is_an_error(tmp_path: Path) -> None:
    position = {"healpix29": sky.healpix([10.0], [20.0]), "pixel": sky.healpix([10.0], [20.0], ORDER)}
    row = {**position, "oid": ["a"], "candid": [1], "ra": [10.0], "dec": [20.0]}
    _write(tmp_path, "detections", row)
    _write(tmp_path, "detections", row, mode="overwrite")
    DeltaTable(tmp_path / "detections").vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(FileNotFoundError):
        lookup.read(str(tmp_path), "detections", ["candid"], ["a"], position["pixel"], 1)
    with pytest.raises(LakeError, match="alerce-spark tables create"):
        lookup.read(str(tmp_path / "nowhere"), "detections", ["candid"], ["a"], position["pixel"])


@pytest.mark.parametrize("apart", [15.0, 60.0, 7200.0])
def test_one_oid_at_two_places_is_two_objects(tmp_path: Path, apart: float) -> None:
    """Rows of an object are those near where it is seen, also where the place of its namesake is read too."""
    lake = str(tmp_path)
    write.create(lake, ORDER)
    ra, dec = np.array([359.9995, (359.9995 + apart / 3600) % 360]), np.zeros(2)
    index = sky.healpix(ra, dec)
    columns = {"pixel": sky.parent(index, ORDER), "healpix29": index, "oid": ["a", "a"], "fid": [1, 1]}

    def store(rows: slice, ndet: list[int]) -> None:
        table = TABLES["magstats"].arrow
        values = {name: values[rows] for name, values in columns.items()} | {
            "ndet": ndet,
            "survey": ["ztf"] * len(ndet),
        }
        empty = {f.name: [False if f.type == pa.bool_() else 0] * len(ndet) for f in table if not f.nullable}
        new = pa.Table.from_pylist(pa.table(empty | {k: pa.array(v) for k, v in values.items()}).to_pylist(), table)
        version = lookup.versions(lake, ["magstats"])["magstats"]
        write.commit(lake, "magstats", version, write.replace(lake, "magstats", new, version))

    def seen(rows: slice) -> list[int]:
        many = [["a", "b"], np.r_[ra[rows], ra[:1]], np.r_[dec[rows], 0.0]]
        return lookup.read_near(lake, "magstats", ["ndet"], *many)["ndet"].to_list()

    first, second, both = slice(0, 1), slice(1, 2), slice(0, 2)
    store(both, [1, 2])
    assert (seen(first), seen(second)) == ([1], [2])
    store(second, [3])
    assert (seen(first), seen(second)) == ([1], [3])
    found = lookup.read_near(lake, "magstats", ["ndet"], ["a", "a"], ra, dec)
    assert sorted(found["ndet"]) == [1, 3]


def test_threads_share_open_tables_and_what_is_kept_of_files(
    lake: tuple[Path, pl.Series, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, oids, ra, dec = lake
    for kept in (lookup._known_groups, lookup._known_ids):
        monkeypatch.setattr(kept, "_most", 1)  # each drives out another
    expected = {table: _all_rows(path, table, oids) for table in ("detections", "non_detections")}
    before = {table: lookup.versions(str(path), [table])[table] - 1 for table in expected}

    def ask(k: int) -> None:
        table = ("detections", "non_detections")[k % 2]
        one = slice(k % len(oids), k % len(oids) + 1)
        pixels, ranges = lookup.near(ra[one], dec[one], ORDER)
        # Some want the version before the newest, as a batch that began earlier does.
        version = before[table] if k % 5 == 0 else None
        found = lookup.read(str(path), table, HISTORY[table], oids[one], pixels, version, ranges)
        rows = expected[table].filter(pl.col("oid") == oids[one][0])
        if version is None:
            _assert_same(found, rows)
        else:
            assert len(found) == 6
            assert found.join(rows, on=found.columns, how="anti", nulls_equal=True).is_empty()

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(ask, range(400)))
    finally:
        sys.setswitchinterval(switching)
