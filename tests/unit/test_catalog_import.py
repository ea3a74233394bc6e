"""Catalogue files of every format become a table; bad rows are counted; a match from it equals one without pixels."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import astropy.units as u
import healpy
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord, match_coordinates_sky, search_around_sky
from astropy.table import Table
from astropy.time import Time
from deltalake import DeltaTable

from alerce_spark.cli import main
from alerce_spark.config import conf_dir
from alerce_spark.crossmatch import files, match
from alerce_spark.crossmatch.catalogs import Catalog, CatalogSettingsError, load
from alerce_spark.crossmatch.files import BROKEN, NO_ID, NO_POSITION, Counts
from alerce_spark.errors import LakeError
from alerce_spark.lake import catalogs
from alerce_spark.surveys.ztf import ZTF
from alerce_spark.tablefiles import TableFileError, formats

SETTINGS = Catalog(
    title="a catalogue",
    id=("objID", "ident"),
    ra=("ra", "RA_ICRS"),
    dec=("dec", "DE_ICRS"),
    radius=2.0,
    attributes={"g": {"names": ["gmag"], "unit": "mag"}, "kind": {"names": ["cl"], "type": "text"}},
)
ROWS = {
    "objID": np.array([1237648720693755918, 2**53 + 1, 3]),
    "ra": np.array([0.0, 359.9999, 12.5]),
    "dec": np.array([-90.0, 89.9, 0.25]),
    "gmag": np.array([20.125, 1e-3, np.nan]),
    "cl": np.array(["STAR", "QSO", " "]),
}


def _csv(path: Path) -> Path:
    path = path.with_suffix(".csv")
    lines = [",".join(ROWS), *(",".join(map(str, row)) for row in zip(*ROWS.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def _zipped(path: Path) -> Path:
    target = path.with_suffix(".csv.gz")
    target.write_bytes(gzip.compress(_csv(path).read_bytes()))
    return target


def _fits(path: Path) -> Path:
    path = path.with_suffix(".fits")
    Table(ROWS).write(path)
    return path


def _votable(path: Path) -> Path:
    path = path.with_suffix(".vot")
    Table(ROWS).write(path, format="votable")
    return path


def _parquet(path: Path) -> Path:
    path = path.with_suffix(".parquet")
    pl.DataFrame(ROWS).with_columns(pl.col("cl").cast(pl.Categorical)).write_parquet(path)
    return path


def _hats(path: Path) -> Path:
    """A collection with a margin, which repeats rows of the catalogue."""
    for number, name in enumerate(("main", "margin")):
        folder = path / name / "dataset" / "Norder=0" / "Dir=0"
        folder.mkdir(parents=True)
        pl.DataFrame(ROWS)[:2].write_parquet(folder / "Npix=4.parquet")
        (folder / "Npix=5").mkdir()
        pl.DataFrame(ROWS)[2:].write_parquet(folder / "Npix=5" / "part0.parquet")
        pl.DataFrame(ROWS).write_parquet(path / name / "dataset" / "_metadata.parquet")
        (path / name / "hats.properties").write_text(f"obs_collection={number}\n")
    (path / "collection.properties").write_text("hats_primary_table_url=main\nall_margins=margin\n")
    return path


@pytest.mark.parametrize("write", [_csv, _zipped, _fits, _votable, _parquet, _hats])
def test_every_format_gives_the_same_rows(write: Callable[[Path], Path], tmp_path: Path) -> None:
    counts = Counts()
    rows = pa.concat_tables(files.rows(SETTINGS, [write(tmp_path / "file")], counts))
    assert rows["source_id"].to_pylist() == ["1237648720693755918", "9007199254740993", "3"]
    assert rows["ra"].to_pylist() == ROWS["ra"].tolist()
    assert rows["dec"].to_pylist() == ROWS["dec"].tolist()
    assert rows["g"].to_pylist() == [20.125, 1e-3, None]
    assert rows["kind"].to_pylist() == ["STAR", "QSO", None]
    index = healpy.ang2pix(1 << 29, ROWS["ra"], ROWS["dec"], nest=True, lonlat=True)
    assert rows["healpix29"].to_pylist() == index.tolist()
    assert (counts.rows, counts.kept, counts.bad.total()) == (3, 3, 0)


def test_bad_rows_are_counted_by_reason_and_the_rest_is_imported(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    lines = [
        "objID,ra,dec,gmag,cl",
        "1,10.0,20.0,18.5,STAR",
        "2,,20.0,18.5,STAR",  # no position
        "3,10.0,91.0,18.5,STAR",
        "4,nan,20.0,18.5,STAR",
        "5,ten,20.0,18.5,STAR",
        ",10.0,20.0,18.5,STAR",  # no id
        "  ,10.0,20.0,18.5,STAR",
        "8,10.0,20.0",  # broken
        "9,10.0,20.0,faint,STAR",  # one value
        "10,00:40:00,+20 30 00,18.5,",  # sexagesimal
        "1,10.0,20.0,18.5,STAR",  # again
    ]
    file.write_text("\n".join(lines) + "\n")
    done = catalogs.import_catalog(str(tmp_path / "lake"), "mine", SETTINGS, [file], tmp_path)
    assert done.counts.bad == {NO_POSITION: 4, NO_ID: 2, BROKEN: 1, catalogs.REPEATED: 1}
    assert done.counts.unreadable["g"] == 1
    assert (done.counts.rows, done.counts.kept, done.rows) == (11, 3, 3)
    stored = pl.read_delta(str(tmp_path / "lake" / "catalogs" / "mine")).sort("source_id")
    assert stored["source_id"].to_list() == ["1", "10", "9"]
    assert stored["g"].to_list() == [18.5, 18.5, None]
    np.testing.assert_allclose(stored["ra"], [10, 10, 10], rtol=1e-15)
    assert stored["dec"].to_list() == [20, 20.5, 20]
    assert "11 rows" in str(done.counts)
    assert list(tmp_path.glob("alerce-*")) == []


def test_files_that_cannot_be_used_say_why_and_change_nothing(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    catalogs.import_catalog(lake, "mine", SETTINGS, [_csv(tmp_path / "good")])
    no_id, empty, broken = (tmp_path / name for name in ("no_id.csv", "empty.csv", "broken.parquet"))
    no_id.write_text("RA_ICRS,dec\n1,2\n")
    empty.write_text("objID,ra,dec\n1,,\n")
    broken.write_bytes(b"PAR1 and no more")
    for file, error, said in (
        (no_id, TableFileError, r"no column for id \(objID, ident\)"),
        (broken, TableFileError, "broken.parquet cannot be read"),
        (tmp_path / "nowhere.csv", TableFileError, "nowhere.csv"),
        (tmp_path, TableFileError, "without a HATS catalogue"),
        (empty, LakeError, "1 no position"),
    ):
        with pytest.raises(error, match=said):
            catalogs.import_catalog(lake, "mine", SETTINGS, [file])
    found = catalogs.local(lake, "mine")
    assert found is not None
    assert found.rows == 3


def test_a_catalogue_from_a_damaged_file_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    catalogs.import_catalog(lake, "mine", SETTINGS, [_csv(tmp_path / "good")])
    rows = "".join(f"{k},{k % 360},{k % 90}\n" for k in range(5000))
    zipped = bytearray(gzip.compress(f"objID,ra,dec\n{rows}".encode()))
    zipped[len(zipped) // 2] ^= 0x55
    Table({"objID": np.arange(5000), "ra": np.zeros(5000), "dec": np.zeros(5000)}).write(tmp_path / "t.fits")
    for name, data in (
        ("flip.csv.gz", bytes(zipped)),
        ("cut.csv", f"objID,ra,dec\n{rows}5000,1".encode()),
        ("cut.fits", (tmp_path / "t.fits").read_bytes()[:60_000]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TableFileError, match=name):
            catalogs.import_catalog(lake, "mine", SETTINGS, [tmp_path / "good.csv", tmp_path / name])
    found = catalogs.local(lake, "mine")
    assert found is not None
    assert found.rows == 3


def test_positions_units_and_remarks_of_a_catalogue(tmp_path: Path) -> None:
    """Right ascensions below 0 and beyond 360, hours, and values in another unit than that of the settings."""
    settings = SETTINGS.model_copy(update={"pmra": ("pmra",), "pmdec": ("pmdec",), "pm_max": 5000.0, "epoch": 2016.0})
    table = Table({"objID": [1, 2], "ra": [-0.5, 25.0] * u.hourangle, "dec": [1.0, 2.0] * u.deg})
    table["pmra"], table["pmdec"] = [1.5, np.nan] * u.arcsec / u.yr, [0.5, 1.0] * u.arcsec / u.yr
    table.write(tmp_path / "t.vot", format="votable")
    rows = pa.concat_tables(files.rows(settings, [tmp_path / "t.vot"], Counts()))
    np.testing.assert_allclose(rows["ra"], [352.5, 15.0])
    for name, wanted in (("pmra", 1500), ("pmdec", 500)):
        assert rows[name].to_pylist() == [pytest.approx(wanted), None]
    counts = Counts()
    (tmp_path / "t.csv").write_text("objID,ra,dec\n1,1.5,0.5\n2,3\n")
    assert len(pa.concat_tables(files.rows(SETTINGS, [tmp_path / "t.csv"], counts))) == 1
    assert ["radians" in counts.notes[0], "row 2 has 2 values for 3 columns" in counts.notes[1]] == [True, True]
    (tmp_path / "t.csv").write_text("objID,ra,dec\n1.2462E+18,10,0.5\n")
    with pytest.raises(TableFileError, match=r"objID holds '1\.2462E"):
        list(files.rows(SETTINGS, [tmp_path / "t.csv"], Counts()))


@pytest.mark.parametrize("unit", ["arcsec/yr", "mas/y", "asecpyr", "deg/yr", "rad/yr", "km/s", "mas", "s/yr"])
def test_units_of_motions_are_converted_or_refused(tmp_path: Path, unit: str) -> None:
    settings = SETTINGS.model_copy(update={"pmra": ("pmra",), "pmdec": ("pmdec",), "pm_max": 1e12, "epoch": 2016.0})
    for text in (
        f"objID,ra,dec,pmra [{unit}],pmdec [{unit}]\n1,2,3,1.5,0.5\n",
        f"objID,ra,dec,pmra,pmdec\n,,,{unit},{unit}\n1,2,3,1.5,0.5\n",
    ):
        (tmp_path / "t.csv").write_text(text)
        if unit in ("km/s", "mas", "s/yr"):
            with pytest.raises(TableFileError, match=f"pmra.*'{unit}'"):
                list(files.rows(settings, [tmp_path / "t.csv"], Counts()))
            continue
        known = {"mas/y": "mas/yr", "asecpyr": "arcsec/yr"}.get(unit, unit)
        rows = pa.concat_tables(files.rows(settings, [tmp_path / "t.csv"], Counts()))
        assert rows["pmra"].to_pylist() == [pytest.approx((1.5 * u.Unit(known)).to_value("mas/yr"))]


def test_the_sample_of_a_hats_catalogue_is_no_part_of_it(tmp_path: Path) -> None:
    folder = _hats(tmp_path / "hats")
    pl.DataFrame(ROWS)[:1].write_parquet(folder / "main" / "dataset" / "data_thumbnail.parquet")
    assert len(pa.concat_tables(files.rows(SETTINGS, [folder], Counts()))) == 3


def _big(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources everywhere, many of them along the borders of pixels of order 2, at the poles and the meridian."""
    corners = healpy.boundaries(4, np.arange(192), step=20, nest=True).transpose(0, 2, 1).reshape(-1, 3)
    borders = corners[rng.integers(0, len(corners), size // 2)]
    poles = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])[rng.integers(0, 3, size // 10)]
    vectors = np.concatenate([borders, poles, rng.normal(size=(size - len(borders) - len(poles), 3))])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors += rng.normal(0, np.radians(3 / 3600), vectors.shape)
    ra, dec = healpy.vec2ang(vectors, lonlat=True)
    return ra % 360, dec


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pl.DataFrame]:
    """A catalogue in partitions of order 2, with small files and row groups, and its content."""
    folder = tmp_path_factory.mktemp("crowded")
    rng = np.random.default_rng(4)
    ra, dec = _big(rng, 12_000)
    rows = pl.DataFrame({"objID": np.arange(ra.size), "ra": ra, "dec": dec, "gmag": rng.normal(20, 1, ra.size)})
    halves = [folder / "one.parquet", folder / "two.parquet"]
    for k, file in enumerate(halves):
        rows[k::2].write_parquet(file)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"_PARTITION_ROWS": 150, "_FILE_ROWS": 40, "_GROUP_ROWS": 10, "_RUN_ROWS": 5000}.items():
            patched.setattr(catalogs, name, value)
        patched.setattr(formats, "CHUNK", 2500)
        done = catalogs.import_catalog(str(folder / "lake"), "big", SETTINGS, halves)
    assert (done.rows, done.order) == (12_000, 2)
    return str(folder / "lake"), rows


def test_files_are_sorted_disjoint_and_complete(crowded: tuple[str, pl.DataFrame]) -> None:
    lake, rows = crowded
    table = DeltaTable(f"{lake}/catalogs/big")
    bounds = []
    for uri in table.file_uris():
        file = uri.removeprefix("file://")
        index = pq.read_table(file, columns=["healpix29"], partitioning=None)["healpix29"].to_numpy()
        assert np.all(np.diff(index) >= 0)
        assert pq.read_metadata(file).num_row_groups == -(-index.size // 10)
        pixel = int(Path(file).parent.name.removeprefix("pixel="))
        assert np.all(index >> 2 * (29 - 2) == pixel)
        bounds.append((index[0], index[-1]))
    bounds.sort()
    assert all(a[1] <= b[0] for a, b in pairwise(bounds))
    assert len(bounds) > 192
    stored = pl.read_delta(f"{lake}/catalogs/big")
    assert stored["source_id"].cast(pl.Int64).sort().to_list() == rows["objID"].to_list()


def test_a_match_from_partitions_equals_one_without_and_astropys(
    crowded: tuple[str, pl.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, rows = crowded
    monkeypatch.setattr(catalogs, "_SLICE", 700)
    ra, dec = _big(np.random.default_rng(5), 5000)
    ra[:2], dec[2:4] = np.nan, 90.5
    found = catalogs.match(lake, "big", ra, dec, np.full(ra.size, 59000.0))
    assert found["row"].to_pylist() == list(range(ra.size))
    source, separation = match.nearest(ra, dec, rows["ra"], rows["dec"], 2.0, ids=rows["objID"].to_numpy().astype(str))
    assert (source >= 0).sum() > 300
    expected = [str(s) if s >= 0 else None for s in source]
    assert found["source_id"].to_pylist() == expected
    np.testing.assert_array_equal(found["separation"].to_numpy(), separation)
    magnitudes = [dict(a)["g"] if a is not None else None for a in found["attributes"].to_pylist()]
    assert magnitudes == [str(rows["gmag"][int(s)]) if s >= 0 else None for s in source]

    every = catalogs.match(lake, "big", ra, dec, np.full(ra.size, 59000.0), radius=7.5, every=True)
    pairs = every.filter(every["separation"].is_valid())
    left = SkyCoord(ra[4:], dec[4:], unit="deg")
    row, other, apart, _ = search_around_sky(
        left, SkyCoord(rows["ra"].to_numpy(), rows["dec"].to_numpy(), unit="deg"), 7.5 * u.arcsec
    )
    names = (np.array(pairs["row"]), np.array(pairs["source_id"].to_pylist()).astype(int))
    assert set(zip(*names, strict=True)) == set(zip(row + 4, other, strict=True))
    assert pairs.num_rows == row.size
    assert sorted(set(every["row"].to_pylist())) == list(range(ra.size))
    np.testing.assert_allclose(np.sort(pairs["separation"]), np.sort(apart.arcsec), rtol=0, atol=1e-9)


def _clustered(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of `_big`, and as many in 200 clusters of a hundredth of a degree."""
    ra, dec = _big(rng, size - size // 2)
    middle = rng.normal(size=(200, 3))[rng.integers(0, 200, size // 2)]
    vectors = middle / np.linalg.norm(middle, axis=1, keepdims=True)
    crowd = healpy.vec2ang(vectors + rng.normal(0, np.radians(0.01), vectors.shape), lonlat=True)
    return np.concatenate([ra, crowd[0] % 360]), np.concatenate([dec, crowd[1]])


def test_many_positions_in_a_large_catalogue_match_as_astropy_matches_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    lake, file = str(tmp_path / "lake"), tmp_path / "large.parquet"
    ra, dec = _clustered(rng, 1_000_000)
    pl.DataFrame({"objID": np.arange(ra.size), "ra": ra, "dec": dec, "gmag": 20.0}).write_parquet(file)
    assert catalogs.import_catalog(lake, "large", SETTINGS, [file]).rows == ra.size
    chosen = rng.permutation(ra.size)[:100_000]
    steps = rng.normal(0, 0.15 / 3600, (2, chosen.size))
    here_dec = np.clip(dec[chosen] + steps[1], -90, 90)
    here_ra = (ra[chosen] + steps[0] / np.maximum(np.cos(np.radians(here_dec)), 1e-3)) % 360
    left, right = SkyCoord(here_ra, here_dec, unit="deg"), SkyCoord(ra, dec, unit="deg")
    best, apart, _ = match_coordinates_sky(left, right)
    row, other, distance, _ = search_around_sky(left, right, 0.3 * u.arcsec)

    mjd = np.full(chosen.size, 59000.0)
    found = catalogs.match(lake, "large", here_ra, here_dec, mjd, radius=0.1)
    assert found["row"].to_pylist() == list(range(chosen.size))
    near = apart.arcsec <= 0.1
    assert 0.1 < near.mean() < 0.5
    source = found["source_id"].cast(pa.int64()).fill_null(-1).to_numpy()
    np.testing.assert_array_equal(source, np.where(near, best, -1))
    expected = np.where(near, apart.arcsec, np.nan)
    np.testing.assert_allclose(found["separation"].to_numpy(), expected, rtol=0, atol=1e-9)

    every = catalogs.match(lake, "large", here_ra, here_dec, mjd, radius=0.3, every=True)
    every = every.filter(every["separation"].is_valid())
    assert every.num_rows == row.size > 1.2 * chosen.size
    at, source = every["row"].to_numpy(), every["source_id"].cast(pa.int64()).to_numpy()
    ours, theirs = np.lexsort((source, at)), np.lexsort((other, row))
    np.testing.assert_array_equal(at[ours], row[theirs])
    np.testing.assert_array_equal(source[ours], other[theirs])
    np.testing.assert_allclose(every["separation"].to_numpy()[ours], distance.arcsec[theirs], rtol=0, atol=1e-9)


def test_a_catalogue_is_replaced_whole_with_its_settings(tmp_path: Path) -> None:
    lake, first = str(tmp_path / "lake"), _csv(tmp_path / "first")
    catalogs.import_catalog(lake, "mine", SETTINGS, [first])
    assert catalogs.match(lake, "mine", [12.5], [0.25], [59000.0])["source_id"].to_pylist() == ["3"]
    other = SETTINGS.model_copy(update={"radius": 5.0, "attributes": {}})
    second = tmp_path / "second.csv"
    second.write_text("ident,ra,dec\nnew,12.501,0.25\n")
    catalogs.import_catalog(lake, "mine", other, [second])
    found = catalogs.match(lake, "mine", [12.5], [0.25], [59000.0])
    assert found["source_id"].to_pylist() == ["new"]
    assert (found["radius"].to_pylist(), found["attributes"].to_pylist()) == ([5.0], [[]])
    table = DeltaTable(f"{lake}/catalogs/mine")
    assert table.schema().to_arrow().names == ["pixel", "healpix29", "source_id", "ra", "dec"]
    assert [c.name for c in catalogs.imported(lake)] == ["mine"]
    table.load_as_version(table.version() - 1)
    assert pl.scan_delta(table).select(pl.len()).collect().item() == 3


def test_sources_with_proper_motion_are_met_where_they_are(tmp_path: Path) -> None:
    settings = Catalog(
        title="moving", id=("id",), ra=("ra",), dec=("dec",), radius=1.0, epoch=2016.0,
        pmra=("pmra",), pmdec=("pmdec",), pm_max=11_000.0,
    )  # fmt: skip
    file = tmp_path / "moving.csv"
    # Barnard's star (Gaia DR3); one whose motion cannot be true; one that has none.
    file.write_text(
        "id,ra,dec,pmra,pmdec\nbarnard,269.44850252543836,4.739420051112412,-801.551,10362.394\n"
        "wrong,100.0,10.0,90000.0,0.0\nstill,200.0,10.0,,\n"
    )
    done = catalogs.import_catalog(str(tmp_path / "lake"), "moving", settings, [file])
    assert done.counts.unreadable.total() == 1
    there = SkyCoord(269.44850252543836 * u.deg, 4.739420051112412 * u.deg, pm_ra_cosdec=-801.551 * u.mas / u.yr,
                     pm_dec=10362.394 * u.mas / u.yr, distance=1.8282 * u.pc, obstime=Time("J2016"))  # fmt: skip
    later = there.apply_space_motion(new_obstime=Time("J2024"))
    mjd = [later.obstime.mjd] * 3
    found = catalogs.match(str(tmp_path / "lake"), "moving", [later.ra.deg, 100, 200], [later.dec.deg, 10, 10], mjd)
    assert found["source_id"].to_pylist() == ["barnard", "wrong", "still"]
    assert found["separation"][0].as_py() < 0.01
    assert dict(found["attributes"][0].as_py())["pmra"] == "-801.551"
    assert catalogs.match(str(tmp_path / "lake"), "moving", [269.44850252543836], [4.739420051112412], mjd[:1])[
        "source_id"
    ].to_pylist() == [None]


def test_shipped_settings_and_broken_ones(tmp_path: Path) -> None:
    shipped = load(conf_dir() / "catalogs.toml", ZTF)
    assert {"allwise", "sdss", "gaia_dr3", "ps1", "milliquas"} <= set(shipped)
    assert shipped["allwise"].radius == 1.0
    assert {"w1mpro", "w2mpro", "w3mpro", "w4mpro"} <= set(shipped["allwise"].attributes)
    file = tmp_path / "catalogs.toml"
    head = '[mine]\ntitle = "x"\nid = ["i"]\nra = ["r"]\ndec = ["d"]\nradius = 1.0\n'
    for text, said in (
        (head.replace("1.0", "-1.0"), "mine.radius"),
        (head + "raduis = 2\n", "mine.raduis"),
        (head + 'pmra = ["p"]\n', "need all of pmra"),
        (head + '[mine.attributes]\npixel = { names = ["p"] }\n', "cannot be called pixel"),
        (head.replace("[mine]", "[Mine-1]"), "Mine-1"),
        (head.replace("[mine]", "[ps1_ztf]"), "packets carry"),
        ("[mine", "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(CatalogSettingsError, match=said):
            load(file, ZTF)


def test_a_catalogue_that_is_not_there(tmp_path: Path) -> None:
    assert catalogs.imported(str(tmp_path)) == []
    assert catalogs.local(str(tmp_path), "allwise") is None
    with pytest.raises(LakeError, match="catalog import allwise"):
        catalogs.match(str(tmp_path), "allwise", [1.0], [1.0], [59000.0])
    assert list(tmp_path.iterdir()) == []


def test_commands_import_list_and_match_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as done:
            main([*arguments, "--lake", str(tmp_path / "lake")])
        captured = capsys.readouterr()
        assert isinstance(done.value.code, int)
        return done.value.code, " ".join((captured.out + captured.err).split())

    source, mine, out = (tmp_path / name for name in ("quasars.csv", "mine.csv", "out.csv"))
    source.write_text("Name,RA,DEC,Type,z\nQ1,10.0,-5.0,Q,1.5\nQ2,359.99999,0.0,A,\n,1,1,Q,2\n")
    code, said = run("catalog", "import", "milliquas", str(source))
    assert code == 0
    assert "2 of 3 rows kept, 1 no id" in said
    assert "milliquas" in run("catalog", "list")[1]
    code, said = run("catalog", "import", "milliquaz", str(source))
    assert code == 2
    assert "no catalogue 'milliquaz'" in said

    mine.write_text("star,alpha,delta\na,10.0001,-5.0\nb,0.0,0.0\nc,,3\nd,50,50\n")
    names = ("--oid-column", "star", "--ra-column", "alpha", "--dec-column", "delta", "--out", str(out))
    code, said = run("crossmatch", "--csv", str(mine), *names)
    assert code == 0, said
    assert "4 rows, 3 of them with a position; 2 matched" in said
    found = pl.read_csv(out)
    assert found["oid"].to_list() == ["a", "b", "c", "d"]
    assert found["source_id"].to_list() == ["Q1", "Q2", None, None]
    assert found["redshift"].to_list() == [1.5, None, None, None]
    expected = SkyCoord([10.0001, 0] * u.deg, [-5, 0] * u.deg).separation(
        SkyCoord([10, 359.99999] * u.deg, [-5, 0] * u.deg)
    )
    np.testing.assert_allclose(found["separation"][:2], expected.arcsec, rtol=0, atol=1e-9)
    code, said = run("crossmatch", "--csv", str(mine), "--out", str(out))
    assert code == 2
    assert "no column oid, ra, dec" in said
    for name, data in (
        ("mine.fits", None),
        ("mine.tsv", "star\talpha\tdelta\na\t00 40 00.024\t-05 00 00\nd\t50\t50\n"),
    ):
        if data is None:
            Table({"star": ["a", "d"], "alpha": [10.0001, 50], "delta": [-5.0, 50]}).write(tmp_path / name)
        else:
            (tmp_path / name).write_text(data)
        parquet = str(tmp_path / "found.parquet")
        code, said = run("crossmatch", "--csv", str(tmp_path / name), *names[:-1], parquet)
        assert (code, "2 rows, 2 of them with a position; 1 matched" in said) == (0, True), said
        assert pl.read_parquet(parquet)["source_id"].to_list() == ["Q1", None]
    mine.write_text("star,alpha,delta,t\nd,50,50,2459000.5\n")
    for options, status, words in (
        ([], 1, "no position has a source"),
        (["--radius", "0"], 2, "a match radius lies above 0"),
        (["--radius", "nan"], 2, "a match radius lies above 0"),
        (["--radius", "61"], 2, "up to 60 arcsec"),
        (["--mjd-column", "t"], 2, "a Julian Date: subtract 2400000.5"),
        (["milliquas", "milliquas"], 2, "named twice"),
    ):
        code, said = run("crossmatch", "--csv", str(mine), *names, *options)
        assert (code, words in said) == (status, True), said
    mine.write_text("star,alpha,delta,t\na,50,50,59000\nd,50,50,0\n")
    code, said = run("crossmatch", "--csv", str(mine), *names, "--mjd-column", "t")
    assert (code, "t holds 0.0 in row 2" in said) == (2, True), said
    code, said = run("crossmatch", "--csv", str(mine), *names[:-1], str(mine))
    assert (code, "is the input" in said, "59000" in mine.read_text()) == (2, True, True), said
    code, said = run("crossmatch", "sdss")
    assert code == 2
