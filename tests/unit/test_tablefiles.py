"""Users' tables: formats against pandas and astropy, positions, ids, flags, damage, and our output."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import Angle
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from alerce_spark.errors import InputError
from alerce_spark.tablefiles import TableFileError, find, formats, opened, read, values, write

CSV = "oid,ra,dec\na,187.7,12.39\nb,10.6,-0.5\n"


def _file(tmp_path: Path, data: bytes | str, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _rows(path: Path) -> list[list[object]]:
    return [list(row.values()) for row in read(path).to_pylist()]


def _places(path: Path, columns: Sequence[str] = ("ra", "dec")) -> tuple[np.ndarray, np.ndarray, list[str]]:
    with opened(path) as file:
        found = [str(file.find([name])) for name in columns]
        reader = file.positions(found)
        ra, dec = reader.of(file.table(found))
        return ra, dec, reader.notes()


# --- text: no value leaves its column --------------------------------------------------------------------------------

_CELL = st.text(st.sampled_from('ab19 .-+#"\n,;|\té′'), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(2, 4).flatmap(
        lambda width: st.lists(st.lists(_CELL, min_size=width, max_size=width), min_size=1, max_size=6)
    ),
    delimiter=st.sampled_from(",;\t|"),
    zipped=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_delimited_text_is_read_as_pandas_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str, zipped: bool, end: str
) -> None:
    """Empty fields at any place, quotes, delimiters and line ends within values; the x keeps rows from being blank."""
    names = [f"c{k}" for k in range(len(rows[0]))]
    frame = pd.DataFrame([["x" + row[0], *row[1:]] for row in rows], columns=names)
    data = frame.to_csv(index=False, sep=delimiter, lineterminator=end).encode()
    wanted = pd.read_csv(io.BytesIO(data), sep=delimiter, dtype=str, keep_default_na=False)
    path = _file(tmp_path_factory.mktemp("text"), gzip.compress(data, mtime=0) if zipped else data)
    assert _rows(path) == wanted.to_numpy().tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text("ab19.-+", min_size=1, max_size=5), min_size=3, max_size=3), min_size=1, max_size=5))
@example([["-", "-", "-"], ["a", "b", "1"]])
def test_blank_separated_text_is_read_as_pandas_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    assume(set("".join(rows[0])) != {"-"} or max(map(len, rows[0])) == 1)  # else it is VizieR's line below the header
    data = "  ".join(("one", "two", "three")) + "\n" + "".join("   ".join(row) + " \n" for row in rows)
    wanted = pd.read_csv(io.StringIO(data), sep=r"\s+", dtype=str, keep_default_na=False)
    assert _rows(_file(tmp_path_factory.mktemp("blanks"), data)) == wanted.to_numpy().tolist()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        CSV.encode(),
        b"\xef\xbb\xbf" + CSV.encode(),
        CSV.replace("\n", "\r\n").encode(),
        CSV.replace("\n", "\r").encode(),
        CSV.encode("utf-16"),
        CSV.replace(",", "\t").encode(),
        CSV.replace(",", ";").encode(),
        CSV.replace(",", "|").encode(),
        CSV.replace(",", "   ").encode(),
        CSV.replace(",", ", ").encode(),
        b"# made by me\n# 2 rows\n" + CSV.encode(),
        b"#" + CSV.encode(),
        b"# oid,ra,dec\n" + CSV.partition("\n")[2].encode(),
        b"#\n\n# x\n\n" + CSV.encode() + b"\n\n",
        CSV.encode() + b"# the end\n",
        b'"2026-11-22 00:00:00 - 23:59:59"\n' + CSV.encode(),
        b"sep=;\n" + CSV.replace(",", ";").encode(),
        CSV.replace("\n", ",\n").encode().replace(b"dec,", b"dec"),
        b"oid,ra,dec\n,deg,deg\n" + CSV.partition("\n")[2].encode(),
        b"oid\tra\tdec\n\tdeg\tdeg\n---\t-----\t-----\n" + CSV.partition("\n")[2].replace(",", "\t").encode(),
    ],
)
def test_ways_of_writing_the_same_text(tmp_path: Path, data: bytes, zipped: bool) -> None:
    name = "table.csv" if zipped else "table.csv.gz"  # names say nothing
    path = _file(tmp_path, gzip.compress(data, mtime=0) if zipped else data, name)
    found = [[str(value).strip() for value in row[:3]] for row in _rows(path)]
    assert found == [["a", "187.7", "12.39"], ["b", "10.6", "-0.5"]]


def test_several_members_of_gzip_are_one_file(tmp_path: Path) -> None:
    path = _file(tmp_path, gzip.compress(b"a,b\n1,2\n", mtime=0) + gzip.compress(b"3,4\n", mtime=0))
    assert _rows(path) == [["1", "2"], ["3", "4"]]


def test_latin_1_is_read_where_text_is_no_utf_8(tmp_path: Path) -> None:
    text = "oid,näme\nétoile,é\n"
    assert read(_file(tmp_path, text.encode("latin-1"))).to_pydict() == {"oid": ["étoile"], "näme": ["é"]}
    assert read(_file(tmp_path, text)).to_pydict() == {"oid": ["étoile"], "näme": ["é"]}


def test_ecsv_of_astropy_and_of_the_gaia_archive(tmp_path: Path) -> None:
    table = Table(
        {"oid": ["a b", "007"], "ra": [1.5, 2.5] * u.hourangle, "n": MaskedColumn([1, 2], mask=[True, False])}
    )
    table.write(tmp_path / "blank.ecsv")
    table.write(tmp_path / "comma.ecsv", delimiter=",")
    for name in ("blank.ecsv", "comma.ecsv"):
        with opened(tmp_path / name) as file:
            assert file.units == {"ra": "hourangle"}
            assert file.table(file.names).to_pydict() == {"oid": ["a b", "007"], "ra": ["1.5", "2.5"], "n": ["", "2"]}


def test_vizier_text_keeps_empty_values_in_their_columns(tmp_path: Path) -> None:
    text = "#\n#   VizieR\n\nA\tB\tC\n \tdeg\tmag\n--\t--\t--\nx\t1\t   \ny\t \t2\n \t3\t4\n\n\n"
    found = read(_file(tmp_path, text))
    trimmed = {name: values.words(found[name]).to_pylist() for name in found.schema.names}
    assert trimmed == {"A": ["x", "y", None], "B": ["1", None, "3"], "C": [None, "2", "4"]}
    with opened(tmp_path / "table.csv") as file:
        assert file.units == {"B": "deg", "C": "mag"}


def test_lines_that_are_no_rows_are_said(tmp_path: Path) -> None:
    with opened(_file(tmp_path, "a,b\n#1,2\n# a comment\n3,4")) as file:
        assert file.table(file.names).to_pylist() == [{"a": "#1", "b": "2"}, {"a": "3", "b": "4"}]
        assert [
            any(word in note for note in file.notes) for word in ("read as rows", "passed over", "no line end")
        ] == [True] * 3


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "holds no rows"),
        (b"# only words\n", "holds no rows"),
        (b"1,2,3\n4,5,6\n", "no header"),
        (b"a,b\n1,2\n3\n4,5\n", r"1 rows cannot be read; row 2 has 1 values for 2 columns: '3'"),
        (b"a,b\n1,2,3\n", "row 1 has 3 values for 2"),
        (b"a,b\n1,2\n3", "cut: it ends within row 2"),
        (b'a,b\n1,"2\n3,4\n', "ends within quotes"),
        (b'a,b\n"1,2\n3,4\n', "ends within quotes"),
        (b"a,a\n1,2\n", "several columns a"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"BZh9rest", "bzip2"),
        (bytes(range(256)), "NUL bytes"),
        (gzip.compress(gzip.compress(CSV.encode(), mtime=0), mtime=0), "gzipped twice"),
        (gzip.compress(CSV.encode(), mtime=0) + b"garbage", "damaged"),
        (b"SIMPLE  =                    T" + b" " * 50, "table.csv"),
        (b"<?xml version='1.0'?><VOTABLE", "table.csv"),
        (b"PAR1 and no more", "cannot be read"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(TableFileError, match=said):
        read(_file(tmp_path, data))


def test_no_file_and_folders(tmp_path: Path) -> None:
    with pytest.raises(TableFileError, match="nowhere cannot be read: No such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(TableFileError, match="is a folder"):
        read(tmp_path)
    for k in range(2):
        pq.write_table(pa.table({"a": [k]}), tmp_path / f"part-{k}.parquet")
    (tmp_path / "_SUCCESS").touch()
    assert _rows(tmp_path) == [[0], [1]]
    (tmp_path / "other.csv").touch()
    with pytest.raises(TableFileError, match="not one of Parquet files alone"):
        read(tmp_path)


# --- damage ----------------------------------------------------------------------------------------------------------


def _large(path: Path) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    table = Table({"id": np.arange(3000), "ra": rng.uniform(0, 360, 3000)})
    for name, options in (("fits", {}), ("vot", {"format": "votable"}), ("csv", {"format": "ascii.csv"})):
        table.write(path / f"t.{name}", **options)
    pq.write_table(pa.table({name: np.array(table[name]) for name in table.colnames}), path / "t.parquet")
    return {name: (path / f"t.{name}").read_bytes() for name in ("fits", "vot", "csv", "parquet")}


def test_a_cut_or_changed_file_is_named_wherever_it_is_cut(tmp_path: Path) -> None:
    """Cuts of every format, and changes that a checksum can show: the reader never gives fewer or other rows."""
    for name, data in _large(tmp_path).items():
        whole = read(tmp_path / f"t.{name}")
        zipped = gzip.compress(data, mtime=0)
        assert read(_file(tmp_path, zipped)).equals(whole)
        for share in (0.1, 0.5, 0.9, 0.999):
            cut = data[: int(len(data) * share)]
            if name == "csv":  # after the first column, so that no row can be whole
                cut = cut[: cut.rindex(b",")]
            if share < 0.99:  # then padding may be all that is lost
                with pytest.raises(TableFileError):
                    read(_file(tmp_path, cut))
            with pytest.raises(TableFileError, match="cut"):
                read(_file(tmp_path, zipped[: int(len(zipped) * share)]))
            changed = bytearray(zipped)
            changed[int(len(zipped) * share)] ^= 0x55
            with pytest.raises(TableFileError):
                read(_file(tmp_path, bytes(changed)))


def test_checksums_of_fits_count(tmp_path: Path) -> None:
    table = fits.BinTableHDU(Table({"id": np.arange(1000)}))
    table.add_checksum()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "t.fits")
    assert len(read(tmp_path / "t.fits")) == 1000
    data = bytearray((tmp_path / "t.fits").read_bytes())
    data[-3000] ^= 1
    with pytest.raises(TableFileError, match="verification failed"):
        read(_file(tmp_path, bytes(data)))


# --- binary formats --------------------------------------------------------------------------------------------------


def test_types_and_nulls_of_fits_votable_and_parquet(tmp_path: Path) -> None:
    table = Table(
        {
            "u": np.array([2**64 - 1, 1], np.uint64),
            "i": MaskedColumn(np.array([2**53 + 1, 5], ">i8"), mask=[False, True]),
            "f": np.array([np.nan, 1.5], ">f4"),
            "s": ["é ", ""],
            "b": [True, False],
        }
    )
    table["s"] = [s.encode() for s in ("é ", "")]
    table.write(tmp_path / "t.fits")
    table["s"], table["u"] = ["é ", ""], ["18446744073709551615", "1"]  # VOTable has no unsigned ones of 64 bits
    table.write(tmp_path / "t.vot", format="votable", tabledata_format="binary2")
    frame = pd.DataFrame({"u": np.array([2**64 - 1, 1], np.uint64), "i": pd.array([2**53 + 1, None], "Int64")})
    frame.assign(f=np.array([np.nan, 1.5], "f4"), s=["é ", ""], b=[True, False]).to_parquet(tmp_path / "t.parquet")
    for name in ("fits", "vot", "parquet"):
        found = read(tmp_path / f"t.{name}")
        assert values.ids(found["u"], "u").to_pylist() == ["18446744073709551615", "1"]
        assert values.ids(found["i"], "i").to_pylist() == ["9007199254740993", None]
        assert values.numbers(found["f"], "f")[0].to_pylist() == [None, 1.5]
        assert values.words(found["s"]).to_pylist() == ["é", None]
        assert values.flags(found["b"], "b").to_pylist() == [True, False]


def test_fits_in_pieces_and_with_several_values_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "CHUNK", 3)
    Table({"a": np.arange(10), "v": np.zeros((10, 2))}).write(tmp_path / "t.fits")
    with opened(tmp_path / "t.fits") as file:
        assert [len(chunk) for chunk in file.chunks(["a"])] == [3, 3, 3, 1]
        with pytest.raises(TableFileError, match="column v holds"):
            file.table(["v"])


# --- names -----------------------------------------------------------------------------------------------------------


def test_columns_are_found_by_name_case_and_unit() -> None:
    assert find(["RA", "ra"], ["ra"]) == "ra"
    assert find(["DEC", "RA [deg]"], ["ra", "dec"]) == "RA [deg]"
    assert find(["Ra (hours)"], ["RA"]) == "Ra (hours)"
    assert find(["x"], ["ra"]) is None
    for names in (["ra", "ra"], ["Ra", "RA"]):
        with pytest.raises(TableFileError, match="2 columns are called"):
            find(names, ["ra"])


# --- ids, numbers, flags ---------------------------------------------------------------------------------------------


def test_ids_are_exact_or_refused() -> None:
    exact = ["007", "2018e10", "#1", "1e5", "nan", "null", "18446744073709551617", "1_000", "1.0"]
    assert values.ids(pa.array(exact), "x").to_pylist() == exact
    assert values.ids(pa.array([2.0**53 - 1, None, np.nan]), "x").to_pylist() == ["9007199254740991", None, None]
    refused = [pa.array([2.0**53]), pa.array([-(2.0**60)]), pa.array([np.inf]), pa.array([2.0**24], pa.float32())]
    for column in (*refused, pa.array(["1.24625E+18"]), pa.array(["1.246231265715015e+18"])):
        with pytest.raises(TableFileError, match="the ids"):
            values.ids(column, "the ids")


@pytest.mark.parametrize("lost", ["1.24625E18", "1.24625e18", "1246250000000000000.0", "9007199254740993.0"])
def test_ids_written_from_floating_point_are_refused(lost: str) -> None:
    for read_ids in (values.ids, values.integers):
        with pytest.raises(TableFileError, match=r"the ids holds '.*lost digits"):
            read_ids(pa.array(["5.0", lost]), "the ids")


def test_decimal_ids_are_whole_and_exact() -> None:
    ids = [Decimal("1246231265715015000.00"), Decimal("9007199254740993.00"), Decimal("5.00"), None]
    column = pa.array(ids, pa.decimal128(38, 2))
    assert values.ids(column, "x").to_pylist() == ["1246231265715015000", "9007199254740993", "5", None]
    assert values.integers(pa.chunked_array([column]), "x").to_pylist() == [1246231265715015000, 2**53 + 1, 5, None]
    with pytest.raises(TableFileError, match="x holds numbers with a fraction"):
        values.ids(pa.array([Decimal("5.25")]), "x")


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=5))
def test_integers_are_exact_from_text_too(numbers: list[int | None]) -> None:
    assert values.integers(pa.array(numbers, pa.int64()), "x").to_pylist() == numbers
    text = pa.array(["NaN" if n is None else str(n) for n in numbers], pa.string())
    assert values.integers(text, "x").to_pylist() == numbers


@pytest.mark.parametrize("bad", ["1.5", "abc", "1e18", "9223372036854775808"])
def test_integers_that_are_none(bad: str) -> None:
    with pytest.raises(TableFileError):
        values.integers(pa.array(["1", bad]), "x")


def test_numbers_in_text_and_their_nulls() -> None:
    nulls = ["", " ", "nan", "NULL", "None", "NA", "<NA>", "--", "-", "N/A"]
    good = {"+1.5": 1.5, "-.5": -0.5, "1.": 1.0, "1e-3": 1e-3, " 7 ": 7.0, "−2": -2.0}
    found, unreadable = values.numbers(pa.array([*nulls, *good, "1,5", "1d5", "x"]), "x")
    assert found.to_pylist() == [None] * len(nulls) + list(good.values()) + [None] * 3
    assert unreadable.to_pylist() == [False] * (len(nulls) + len(good)) + [True] * 3
    with pytest.raises(TableFileError, match=r"mag holds '1,5' in row 2.*decimal point"):
        values.strict_numbers(pa.array(["1", "1,5"]), "mag")


def test_flags_and_signs_in_every_spelling() -> None:
    for yes, no in (("t", "f"), ("True", "FALSE"), ("1", "0"), ("1.0", "0.0")):
        assert values.flags(pa.array([yes, no, None, ""]), "x").to_pylist() == [True, False, None, None]
    for plus, minus in (("t", "f"), ("1", "-1"), ("1", "0"), ("+", "-"), ("1.0", "−1.0"), ("TRUE", "False")):
        assert values.signs(pa.array([plus, minus, None]), "x").to_pylist() == [1, -1, None]
    for column in (pa.array([1.0, -1.0]), pa.array([True, False]), pa.array([1, 0]), pa.array([b"t", b"f"])):
        assert values.signs(column, "x").to_pylist() == [1, -1]
    for column in (pa.array(["t", "pos"]), pa.array([1, 2]), pa.array([0.5])):
        with pytest.raises(TableFileError, match="isdiffpos holds"):
            values.signs(column, "isdiffpos")


# --- positions -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-360, 720), st.floats(-90, 90)), min_size=1, max_size=10))
def test_right_ascensions_are_wrapped_as_astropy_wraps_them(
    tmp_path_factory: pytest.TempPathFactory, sky: list[tuple[float, float]]
) -> None:
    path = _file(tmp_path_factory.mktemp("wrap"), "ra,dec\n" + "".join(f"{a!r},{d!r}\n" for a, d in sky))
    ra, dec, _ = _places(path)
    wanted = Angle([a for a, _ in sky], u.deg).wrap_at(360 * u.deg).deg % 360
    np.testing.assert_allclose(ra, wanted, rtol=0, atol=1e-12)
    assert ((ra >= 0) & (ra < 360)).all()
    np.testing.assert_array_equal(dec, [d for _, d in sky])


def test_positions_beyond_the_sky_are_none(tmp_path: Path) -> None:
    path = _file(tmp_path, "ra,dec\n-999,0\n721,0\n-361,0\n10,90.1\n10,-999\n,1\n1,\n1e400,0\n5,5\n")
    assert np.isfinite(_places(path)[0]).tolist() == [False] * 8 + [True]


_RA = ["12h30m49.42s", "12:30:49.42", "12 30 49.42", "12h 30m 49.42s", "12h30m49s", "12h30m49s.42", "12:30.5", "12h"]
_DEC = ["-0d30m00s", "-00:30:00", "−00 30 00", "-0°30′0.5″", "-0d30m", "+12d23m28.0s", "- 12 23 28", "-0:00:00.5"]


@pytest.mark.parametrize(("ra", "dec"), [*zip(_RA, _DEC, strict=True)])
def test_sexagesimal_in_every_spelling_as_astropy_reads_it(tmp_path: Path, ra: str, dec: str) -> None:
    found = _places(_file(tmp_path, f"ra,dec\n{ra},{dec}\n10.5,-5.25\n"))  # mixed with decimals
    plain = ra.replace("49s.42", "49.42s")
    wanted = Angle(plain if plain != "12h" else "12h00m", u.hourangle).deg, Angle(_ascii(dec), u.deg).deg
    np.testing.assert_allclose([found[0][0], found[1][0]], wanted, rtol=0, atol=1e-12)
    assert (found[0][1], found[1][1]) == (10.5, -5.25)


def _ascii(dec: str) -> str:
    for fancy, plain in (("−", "-"), ("- ", "-"), ("°", "d"), ("′", "m"), ("″", "s")):
        dec = dec.replace(fancy, plain)
    return dec


def test_letters_and_units_decide_between_hours_and_degrees(tmp_path: Path) -> None:
    assert _places(_file(tmp_path, "ra,dec\n187d42m21s,1\n187.5d,1\n12.5h,+41.2°\n"))[0] == pytest.approx(
        [187 + 42 / 60 + 21 / 3600, 187.5, 187.5]
    )
    assert _places(_file(tmp_path, 'ra\tdec\n"d:m:s"\t"d:m:s"\n---\t---\n187:30:00\t1\n'))[0] == [187.5]
    with pytest.raises(TableFileError, match="'187:42:21', more than 24 hours"):
        _places(_file(tmp_path, "ra,dec\n187:42:21,1\n"))
    with pytest.raises(TableFileError, match=r"'187,7'.*decimal point"):
        _places(_file(tmp_path, "ra;dec\n187,7;1\n"))


@pytest.mark.parametrize("unit", [u.deg, u.rad, u.hourangle, u.h, u.mas, u.uas, u.arcsec, u.arcmin], ids=str)
def test_every_unit_of_angle_in_every_format(tmp_path: Path, unit: u.Unit) -> None:
    per_degree = 1 / 15 if unit == u.h else (1 * u.deg).to_value(unit)
    ra, dec = np.array([150.0, 210.0]), np.array([2.0, -30.0])
    as_column = [Column(v * per_degree, name, unit=unit) for name, v in (("ra", ra), ("dec", dec))]
    table = Table(as_column)
    plain = Table([np.array(c) for c in as_column], names=["ra", "dec"])
    rows = "".join(f"{a!r},{d!r}\n" for a, d in zip(plain["ra"].tolist(), plain["dec"].tolist(), strict=True))
    hdu = fits.BinTableHDU.from_columns(
        [fits.Column(name, "D", unit=str(unit), array=np.array(plain[name])) for name in ("ra", "dec")]
    )
    hdu.writeto(tmp_path / "t.fits")
    table.write(tmp_path / "t.vot", format="votable")
    table.write(tmp_path / "t.ecsv")
    table.write(tmp_path / "t.parquet")
    (tmp_path / "brackets.csv").write_text(f"ra [{unit}],dec [{unit}]\n{rows}")
    (tmp_path / "line.csv").write_text(f"ra,dec\n{unit},{unit}\n{rows}")
    # A line `h,h` is too short to differ from a row.
    for name in ["t.fits", "t.vot", "t.ecsv", "t.parquet", "brackets.csv"] + ["line.csv"] * (unit != u.h):
        found = _places(tmp_path / name)
        # a unit of time counts 15 degrees an hour, in declination too
        np.testing.assert_allclose(np.stack(found[:2]), np.stack([ra, dec]), rtol=1e-12, err_msg=name)
        assert found[2] == []


def test_units_that_are_no_angles_are_refused(tmp_path: Path) -> None:
    Table({"ra": [1.0] * u.mag, "dec": [1.0] * u.deg}).write(tmp_path / "t.fits")
    with pytest.raises(TableFileError, match="column ra: the unit 'mag' is not an angle"):
        _places(tmp_path / "t.fits")
    for unit in ("turn", "gon", "m", "km/s", "mas/yr", "min", "epoch"):
        for text in (f"ra [{unit}],dec [{unit}]\n1,2\n", f"ra,dec\n{unit},{unit}\n1,2\n"):
            if unit == "epoch" and text.startswith("ra,"):
                continue  # a word that is no unit is a value that cannot be read
            with pytest.raises(TableFileError, match=f"'{unit}'"):
                _places(_file(tmp_path, text))
    with pytest.raises(TableFileError, match="'h' in its first row, a unit"):
        _places(_file(tmp_path, "ra,dec\nh,d\n1,2\n"))


@pytest.mark.parametrize("word", ["J2000", "B1950", "J2016.0", "ICRS", "ICRS, deg", "deg J2000", "FK5"])
def test_equinoxes_and_frames_in_brackets_are_no_units(tmp_path: Path, word: str) -> None:
    assert _places(_file(tmp_path, f'"ra [{word}]","dec ({word})"\n187.5,2\n'))[:2] == ([187.5], [2.0])


def test_values_with_their_unit_are_no_line_of_units(tmp_path: Path) -> None:
    assert _places(_file(tmp_path, "ra,dec\n5deg,6deg\n7deg,8deg\n"))[0].tolist() == [5.0, 7.0]


def _parts(tmp_path: Path, *columns: pa.Array) -> Path:
    for k, column in enumerate(columns):
        pq.write_table(pa.table({"x": column}), tmp_path / f"{k}.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ((pa.array([1], pa.int32()), pa.array([2**62], pa.int64())), [1, 2**62]),
        ((pa.array([1], pa.uint8()), pa.array([-1], pa.int8())), [1, -1]),
        ((pa.array([2**53 - 1]), pa.array([0.5])), [2.0**53 - 1, 0.5]),
        ((pa.nulls(1), pa.array(["a"]), pa.array(["b"]).dictionary_encode()), [None, "a", "b"]),
    ],
    ids=["integers", "signs", "floating", "text"],
)
def test_types_of_parts_become_one_where_values_stay(
    tmp_path: Path, columns: tuple[pa.Array, ...], wanted: list[object]
) -> None:
    found = read(_parts(tmp_path, *columns))["x"].to_pylist()
    assert found == wanted == pd.concat([pd.Series(c.to_pylist(), dtype=object) for c in columns]).tolist()


@pytest.mark.parametrize(
    "columns",
    [
        (pa.array([0.5]), pa.array([2**53 + 1])),
        (pa.array([1]), pa.array([2**64 - 1], pa.uint64())),
        (pa.array([1]), pa.array(["1"])),
    ],
    ids=["digits", "range", "text"],
)
def test_types_of_parts_that_would_change_values_are_refused(tmp_path: Path, columns: tuple[pa.Array, ...]) -> None:
    with pytest.raises(TableFileError, match=r"1\.parquet: column x is"):
        read(_parts(tmp_path, *columns))


def test_blank_fields_of_fits_text_are_null(tmp_path: Path) -> None:
    columns = [
        fits.Column("n", "I6", array=np.array([7, 8, 9]), ascii=True),
        fits.Column("x", "F8.3", array=np.array([1.5, 2.5, 3.5]), ascii=True),
        fits.Column("m", "I6", array=np.array([-99, 0, 5]), null="-99", ascii=True),
    ]
    fits.TableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    head, end, rows = (tmp_path / "t.fits").read_bytes().rpartition(b"END" + b" " * 77)
    rows = rows.replace(b"     8", b"      ").replace(b"   2.500", b"        ")
    (tmp_path / "t.fits").write_bytes(head + end + rows)
    found = read(tmp_path / "t.fits").to_pydict()
    assert found == {"n": [7, None, 9], "x": [1.5, None, 3.5], "m": [None, 0, 5]}


def test_what_may_be_radians_or_hours_is_said(tmp_path: Path) -> None:
    assert "radians" in _places(_file(tmp_path, "ra,dec\n2.6,0.03\n3.6,-0.5\n"))[2][0]
    rows = "".join(f"{hour},{hour * 3}\n" for hour in np.linspace(0, 23.9, 24))
    assert "hours" in _places(_file(tmp_path, f"ra,dec\n{rows}"))[2][0]
    assert _places(_file(tmp_path, "ra,dec\n2.6,0.03\n300,-0.5\n"))[2] == []


# --- results ---------------------------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            _TEXT, st.one_of(st.none(), st.floats(allow_nan=False)), st.integers(-(2**63), 2**63 - 1), st.booleans()
        ),
        min_size=1,
        max_size=5,
    ),
    suffix=st.sampled_from([".csv", ".parquet", ".CSV"]),
)
def test_results_are_read_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float | None, int, bool]], suffix: str
) -> None:
    out = tmp_path_factory.mktemp("out") / f"new/deep/result{suffix}"
    names = ("oid", "x", "n", "flag")
    write(pa.table({n: pa.array(c) for n, c in zip(names, zip(*rows, strict=True), strict=True)}), out)
    found = read(out)
    assert values.ids(found["oid"], "oid").to_pylist() == [row[0] for row in rows]
    assert values.strict_numbers(found["x"], "x").to_pylist() == [row[1] for row in rows]
    assert values.integers(found["n"], "n").to_pylist() == [row[2] for row in rows]
    assert values.flags(found["flag"], "flag").to_pylist() == [row[3] for row in rows]
    assert [f.name for f in out.parent.iterdir()] == [out.name]


def test_lists_are_json_in_csv(tmp_path: Path) -> None:
    nested = [[{"source": "a", "class_name": "É"}], [], None]
    write(pa.table({"oid": ["x", "y", "z"], "conflicts": nested}), tmp_path / "o.csv")
    found = pd.read_csv(tmp_path / "o.csv", keep_default_na=False)["conflicts"].tolist()
    assert [json.loads(text) if text else None for text in found] == nested


def test_results_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    for out, said in (("o.txt", ".csv or .parquet"), ("folder.csv", "a folder"), ("file/o.csv", "is a file")):
        with pytest.raises(InputError, match=said):
            write(pa.table({"oid": ["x"]}), tmp_path / out)


def test_a_value_that_reads_like_a_vast_unit_is_a_value(tmp_path: Path) -> None:
    """astropy takes 1a91 for an atto-year to the power of 91, which overflows."""
    (tmp_path / "t.csv").write_text("a b c\n1 1 1a91\n")
    assert read(tmp_path / "t.csv").to_pylist() == [{"a": "1", "b": "1", "c": "1a91"}]


_FORMULAS = ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-x", "\tx", "'=1", "''=1", "="]
_BEHIND_NUMBERS = ["-2+3+cmd|' /C calc'!A0", "-1+1|cmd", "'-1+1|cmd", "+1e5|x", "-1d\n=x", "-.5*A1"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary("i4", "string")])
def test_a_formula_is_marked_in_every_type_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = [*_FORMULAS, *_BEHIND_NUMBERS]
    dictionary = pa.types.is_dictionary(kind)
    column = pa.array(texts).dictionary_encode().cast(kind) if dictionary else pa.array(texts, kind)
    write(pa.table({"oid": column, "n": range(len(texts))}), tmp_path / "o.csv")
    assert pd.read_csv(tmp_path / "o.csv")["oid"].tolist() == ["'" + text for text in texts]
    assert read(tmp_path / "o.csv")["oid"].to_pylist() == texts


@pytest.mark.parametrize("text", [*_FORMULAS, "-"])
def test_a_formula_is_text_to_a_spreadsheet_and_itself_to_us(tmp_path: Path, text: str) -> None:
    write(pa.table({"oid": [text]}), tmp_path / "o.csv")
    assert pd.read_csv(tmp_path / "o.csv")["oid"][0][0] not in "=@\t\r+" or text == "-"
    assert read(tmp_path / "o.csv")["oid"].to_pylist() == [text]


@pytest.mark.parametrize(
    "text", ["-12:30:00", "+5", "-.5", "-1.5e-05", "-0d30m05s", "-0°30′", "-", "it's", "'quoted'", "a=b", "'-5"]
)
def test_what_is_no_formula_is_written_as_it_is(tmp_path: Path, text: str) -> None:
    write(pa.table({"oid": [text]}), tmp_path / "o.csv")
    assert pd.read_csv(tmp_path / "o.csv", dtype=str)["oid"].tolist() == [text]
    assert read(tmp_path / "o.csv")["oid"].to_pylist() == [text]


def test_nulls_of_fits_are_those_that_are_stored(tmp_path: Path) -> None:
    stored = np.array([-32768, 100], ">i2")
    columns = [
        fits.Column("scaled", "I", array=stored, null=-32768),
        fits.Column("flag", "L", array=[True, False]),
    ]
    hdu = fits.BinTableHDU.from_columns(columns)
    fits.HDUList([fits.PrimaryHDU(), hdu, hdu]).writeto(tmp_path / "t.fits")
    fits.setval(tmp_path / "t.fits", "TSCAL1", value=0.01, ext=1)
    with fits.open(tmp_path / "t.fits") as hdus:
        at, width = hdus[1].fileinfo()["datLoc"], hdus[1].header["NAXIS1"]
    raw = bytearray((tmp_path / "t.fits").read_bytes())
    assert raw[at : at + 2] == stored[:1].tobytes()
    raw[at + width + 2] = 0
    (tmp_path / "t.fits").write_bytes(raw)
    with opened(tmp_path / "t.fits") as file:
        assert file.table(file.names).to_pylist() == [{"scaled": None, "flag": True}, {"scaled": 1.0, "flag": None}]
        assert "holds 2 tables; the first is read" in file.notes[0]


def test_a_query_that_overflowed_is_refused(tmp_path: Path) -> None:
    table = Table({"oid": ["a"]})
    table.write(tmp_path / "t.vot", format="votable")
    text = (tmp_path / "t.vot").read_text()
    (tmp_path / "t.vot").write_text(text.replace("<TABLE", '<INFO name="QUERY_STATUS" value="OVERFLOW"/><TABLE', 1))
    with pytest.raises(TableFileError, match="OVERFLOW"):
        read(tmp_path / "t.vot")


def test_dashes_within_quotes_are_a_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b\n"","\n-\n1"\n')
    assert read(tmp_path / "t.csv").num_rows == 1


def test_ids_with_line_breaks_are_refused() -> None:
    with pytest.raises(TableFileError, match="line break"):
        values.ids(pa.array(["A", "B,1\nC"]), "oid")
