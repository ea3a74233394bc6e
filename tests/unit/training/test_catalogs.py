"""Label sources: files of every format with published column names, mappings, matching against astropy, combining."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord, search_around_sky
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from alerce_spark.classifiers.taxonomy import LIGHTCURVE_CLASSES
from alerce_spark.tablefiles import TableFileError
from alerce_spark.training.catalogs import (
    BAD_OIDS,
    LABELS,
    MATCH_RADIUS,
    SOURCES,
    combine,
    label_matrix,
    labels_from_files,
    match,
    read,
    read_labels,
)

CB_README = """\
B/cb        Cataclysmic Binaries, LMXBs, and related objects   (Ritter+, 2011)
================================================================================
File Summary:
--------------------------------------------------------------------------------
 FileName    Lrecl  Records   Explanations
--------------------------------------------------------------------------------
ReadMe          80        .   This file
cbdata.dat      58        6   Cataclysmic binaries
--------------------------------------------------------------------------------

Byte-by-byte Description of file: cbdata.dat
--------------------------------------------------------------------------------
   Bytes Format Units     Label   Explanations
--------------------------------------------------------------------------------
   1- 12  A12   ---       Name    Object name
  16- 27  A12   ---       AltName A frequently used alternative name
  30- 31  I2    h         RAh     Right Ascension J2000 (hours)
  33- 34  I2    min       RAm     Right Ascension J2000 (minutes)
  36- 39  F4.1  s         RAs     [0,60]? Right Ascension J2000 (seconds)
      41  A1    ---       DE-     Declination J2000 (sign)
  42- 43  I2    deg       DEd     Declination J2000 (degrees)
  45- 46  I2    arcmin    DEm     Declination J2000 (minutes of arc)
  48- 49  I2    arcsec    DEs     [0,60]? Declination J2000 (seconds of arc)
      51  A1    arcsec    epos    [0-9] Position accuracy
  53- 54  A2    ---       Type1   Object type
--------------------------------------------------------------------------------
"""
CB_ROWS = [
    ("DQ Her", "18", "07", "30.3", "+", "45", "51", "33", "N"),
    ("V503 Cyg", "20", "27", "17.4", "+", "43", "41", "23", "DN"),
    ("south", "05", "00", "00.0", "-", "00", "30", "00", "AM"),
    ("no seconds", "05", "00", "    ", "+", "10", "00", "00", "NL"),
    ("QR And", "00", "19", "49.9", "+", "21", "56", "52", "SS"),
]


def _cb_line(name: str, rah: str, ram: str, ras: str, sign: str, ded: str, dem: str, des: str, kind: str) -> str:
    return f"{name:<12}   {'':<12}  {rah} {ram} {ras} {sign}{ded} {dem} {des} 1 {kind:<2}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def _write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return _write


def _rows(table: pa.Table) -> list[tuple[str, str, str]]:
    return list(zip(*(table[name].to_pylist() for name in ("source_id", "class_name", "original_class")), strict=True))


def _accounted(report: object) -> bool:
    r = report
    return r.rows == r.kept + r.bad + r.cut + sum(r.dropped.values()) + sum(r.unmapped.values())  # type: ignore[attr-defined]


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_cds_fixed_width_with_its_readme(tmp_path: Path, write: Callable[[str, str], Path], zipped: bool) -> None:
    write("ReadMe", CB_README)
    text = "".join(_cb_line(*row) + "\n" for row in CB_ROWS)
    path = tmp_path / ("cbdata.dat.gz" if zipped else "cbdata.dat")
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    labels, report = read("cvs", path)
    assert labels.schema.equals(LABELS)
    assert _rows(labels) == [("DQ Her", "CV/Nova", "N"), ("V503 Cyg", "CV/Nova", "DN"), ("south", "CV/Nova", "AM")]
    expected = SkyCoord(["18h07m30.3s +45d51m33s", "20h27m17.4s +43d41m23s", "5h0m0s -0d30m0s"])
    np.testing.assert_allclose(labels["ra"], expected.ra.deg, rtol=0, atol=1e-10)
    np.testing.assert_allclose(labels["dec"], expected.dec.deg, rtol=0, atol=1e-10)
    assert (report.format, report.rows, report.kept, report.bad) == ("CDS", 5, 3, 1)
    assert report.dropped == {"SS": 1}
    assert _accounted(report)


def test_machine_readable_table_with_its_description_inside(write: Callable[[str, str], Path]) -> None:
    path = write(
        "aj482492t5_mrt.txt",
        "Title: Exploring the Variable Sky with LINEAR. III.\nAuthors: Palaversa L.\nTable: Periodic variables\n"
        + "=" * 80
        + "\nByte-by-byte Description of file: aj482492t5_mrt.txt\n"
        + "-" * 80
        + "\n   Bytes Format Units  Label  Explanations\n"
        + "-" * 80
        + "\n   1-  8 I8     ---    LINEAR LINEAR identifier\n"
        + "  10- 19 F10.6  deg    RAdeg  Right Ascension (J2000)\n"
        + "  21- 30 F10.6  deg    DEdeg  Declination (J2000)\n"
        + "  32- 33 I2     ---    LCtype Light curve type\n"
        + "-" * 80
        + "\n"
        + "".join(
            f"{i:8d} {10 + i:10.6f} {i:10.6f} {kind:2d}\n" for i, kind in enumerate([1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 0])
        ),
    )
    labels, report = read("linear", path)
    assert report.format == "CDS"
    assert labels["class_name"].to_pylist() == ["RRL", "RRL", "E", "E", "E", "DSCT", "LPV", "CEP", "CEP"]
    assert report.dropped == {"8": 1, "0": 1}
    assert labels["ra"][2].as_py() == 12.0


@pytest.mark.parametrize("zipped", [False, True])
def test_fits(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / ("milliquas.fits.gz" if zipped else "milliquas.fits")
    Table(
        {
            "RA": [0.0001, 180.5, 359.9, 20.0, 21.0, 22.0, 23.0],
            "DEC": [-89.5, 0.0, 45.0, 1.0, 1.0, 1.0, 1.0],
            "NAME": ["A", "B", "C", "D", "E", "F", "G"],
            "TYPE": ["QRX", "AX", "BR2", "KX", "qR", "N", "Z9"],
            "RMAG": np.float32([17, 18, 19, 20, 20, 20, 20]),
        },
        units={"RA": "deg", "DEC": "deg"},
    ).write(path)
    labels, report = read("milliquas", path)
    assert _rows(labels) == [("A", "QSO", "QRX"), ("B", "AGN", "AX"), ("C", "Blazar", "BR2")]
    assert labels["ra"].to_pylist() == [0.0001, 180.5, 359.9]
    assert report.format == "FITS"
    assert report.dropped == {"KX": 1, "qR": 1, "N": 1}
    assert report.unmapped == {"Z9": 1}
    assert "NOT KNOWN to the mapping: Z9 1" in str(report)
    assert _accounted(report)


def test_fits_of_the_cds_with_positions_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "RomaBZ5.fits"
    Table(
        {
            "Name": ["5BZQJ0001+1914", "5BZGJ0001-0011", "5BZBJ0001-0746"],
            "Rah": [0, 0, 0],
            "Ram": [1, 1, 1],
            "Ras": [8.6, 21.5, 18.0],
            "DE-": ["+", "-", "-"],
            "DEd": [19, 0, 7],
            "DEm": [14, 11, 46],
            "DEs": [33.8, 40.3, 26.9],
            "Class": ["QSO RLoud flat radio sp.", "BL Lac-galaxy dominated", "BL Lac"],
        }
    ).write(path)
    labels, report = read("romabzcat", path)
    assert labels["class_name"].to_pylist() == ["Blazar", "Blazar"]
    expected = SkyCoord(["0h1m8.6s +19d14m33.8s", "0h1m18s -7d46m26.9s"])
    np.testing.assert_allclose(labels["ra"], expected.ra.deg, rtol=0, atol=1e-10)
    np.testing.assert_allclose(labels["dec"], expected.dec.deg, rtol=0, atol=1e-10)
    assert report.dropped == {"BL Lac-galaxy dominated": 1}


def test_votable_with_sexagesimal_positions(tmp_path: Path) -> None:
    path = tmp_path / "simbad.vot"
    Table(
        {
            "MAIN_ID": ["V* T Tau", "HH 1", "2MASS J05"],
            "RA": ["04 21 59.4326", "05 36 20.8", "05 32 10"],
            "DEC": ["+19 32 06.416", "-06 45 13", ""],
            "OTYPE": ["TT*", "HH", "Y*O"],
        }
    ).write(path, format="votable")
    labels, report = read("simbad", path)
    assert _rows(labels) == [("V* T Tau", "YSO", "TT*")]
    expected = SkyCoord("04h21m59.4326s +19d32m06.416s")
    assert labels["ra"][0].as_py() == pytest.approx(expected.ra.deg, abs=1e-11)
    assert labels["dec"][0].as_py() == pytest.approx(expected.dec.deg, abs=1e-11)
    assert (report.format, report.bad, report.dropped) == ("VOTable", 1, {"HH": 1})


def test_votable_with_degrees_and_64_bit_ids(tmp_path: Path) -> None:
    path = tmp_path / "gaia.vot"
    Table(
        {
            "source_id": np.int64([2**61 + 1, 2**61 + 2]),
            "ra": MaskedColumn([12.5, 0.0], mask=[False, True], unit="deg"),
            "dec": [1.0, 2.0],
            "best_class_name": ["MIRA_SR", "RRAB"],
            "best_class_score": [0.9, 0.8],
        }
    ).write(path, format="votable")
    labels, report = read("gaia_dr2", path)
    assert _rows(labels) == [(str(2**61 + 1), "LPV", "MIRA_SR")]
    assert report.bad == 1


def test_csv_of_the_transient_name_server_with_a_date_above_the_header(write: Callable[[str, str], Path]) -> None:
    path = write(
        "tns_public_objects.csv",
        '"2026-11-22 00:00:00"\n'
        '"objid","name_prefix","name","ra","declination","redshift","typeid","type","reporters"\n'
        '"1","SN","2018abc","10.5","-3.25","0.03","3","SN Ia","A. Person, B. Person"\n'
        '"2","AT","2018abd","11.5","4","","","",""\n'
        '"3","SN","2018abe","12.5","5","0.1","13","SN IIn","C"\n'
        '"4","SN","2018abf","13.5","6","0.1","14","SN IIb","C"\n'
        '"5","SN","2018abg","14.5","7","0.1","99","SN Zzz","C"\n'
        '"6","SN","2018abh","","","0.1","3","SN Ia-91bg-like","C"\n'
        '"7","AT","2018abi","15.5","8","","27","CV","C"\n',
    )
    labels, report = read("tns", path)
    assert _rows(labels) == [
        ("2018abc", "SNIa", "SN Ia"),
        ("2018abe", "SNII", "SN IIn"),
        ("2018abi", "CV/Nova", "CV"),
    ]
    assert labels["dec"].to_pylist() == [-3.25, 5.0, 8.0]
    assert report.dropped == {"(none)": 1, "SN IIb": 1}
    assert report.unmapped == {"SN Zzz": 1}
    assert report.bad == 1
    assert _accounted(report)


def test_csv_of_a_transient_name_server_search_with_sexagesimal_positions(write: Callable[[str, str], Path]) -> None:
    path = write(
        "tns_search.csv",
        '"ID","Name","RA","DEC","Obj. Type","Redshift"\n'
        '"9","SN 2019ein","13:53:29.110","+40:16:31.40","SN Ia","0.007"\n',
    )
    labels, _ = read("tns", path)
    expected = SkyCoord("13h53m29.110s +40d16m31.40s")
    assert labels["ra"][0].as_py() == pytest.approx(expected.ra.deg, abs=1e-11)
    assert _rows(labels) == [("SN 2019ein", "SNIa", "SN Ia")]


def test_blank_separated_table_of_the_catalina_site_with_a_commented_header(write: Callable[[str, str], Path]) -> None:
    kinds = range(1, 19)
    path = write(
        "CatalinaVars.tbl",
        "# Catalina_Surveys_ID  Numerical_ID  RA_(J2000)  Dec  V_(mag)  Period_(days) Amplitude Number_Obs Var_Type\n"
        + "".join(
            f" CSS_J{k:06d}   11090010412{k:02d} 00:00:{k:05.2f} +10:31:18.9  14.62 1.491758 2.39  223  {k}\n"
            for k in kinds
        ),
    )
    labels, report = read("crts_north", path)
    by_type = dict(zip(labels["original_class"].to_pylist(), labels["class_name"].to_pylist(), strict=True))
    assert by_type == {
        **dict.fromkeys(["1", "2", "3", "17"], "E"),
        **dict.fromkeys(["4", "5", "6", "7"], "RRL"),
        **dict.fromkeys(["8", "15", "16"], "Periodic-Other"),
        **dict.fromkeys(["9", "10"], "CEP"),
        **dict.fromkeys(["11", "12"], "DSCT"),
        "13": "LPV",
    }
    assert report.dropped == {"14": 1}
    assert report.unmapped == {"18": 1}
    assert labels["ra"][0].as_py() == pytest.approx(15 / 3600, abs=1e-12)
    assert labels["source_id"][0].as_py() == "CSS_J000001"


def test_vizier_text_with_comments_units_and_dashes(write: Callable[[str, str], Path]) -> None:
    head = "#\n#   VizieR Astronomical Server\n#Table J_MNRAS_469_3688_table2:\n\n"
    columns = "\t".join(["_RAJ2000", "_DEJ2000", "SSS", "RAJ2000", "DEJ2000", "VarType"])
    units = "\t".join(["deg", "deg", " ", '"h:m:s"', '"d:m:s"', " "])
    dashes = "\t".join("-" * 9 for _ in range(6))
    rows = "030.0000000\t-30.0000000\tJ0200-30\t02 00 00.00\t-30 00 00.0\tEA\n" + (
        "031.0000000\t-31.0000000\tJ0204-31\t02 04 00.00\t-31 00 00.0\tRRab\n"
    )
    tabs = write("south.tsv", f"{head}{columns}\n{units}\n{dashes}\n{rows}\n")
    labels, report = read("crts_south", tabs)
    assert _rows(labels) == [("J0200-30", "E", "EA"), ("J0204-31", "RRL", "RRab")]
    assert labels["ra"].to_pylist() == [30.0, 31.0]
    assert (report.format, report.rows, report.bad) == ("text", 2, 0)
    semicolons = write("south.csv", tabs.read_text().replace("\t", ";"))
    assert read("crts_south", semicolons)[0].equals(labels)


def test_asassn_keeps_sure_classes_only(write: Callable[[str, str], Path]) -> None:
    path = write(
        "asassn.csv",
        "source_id,asassn_name,raj2000,dej2000,mean_vmag,variable_type,class_probability\n"
        "1,J000001,1.0,-1.0,13.5,SR,0.99\n"
        "2,J000002,2.0,-1.0,13.5,EW,0.899\n"
        "3,J000003,3.0,-1.0,13.5,EW,0.9\n"
        "4,J000004,4.0,-1.0,13.5,ROT:,0.95\n"
        "5,J000005,5.0,-1.0,13.5,VAR,0.95\n"
        "6,J000006,6.0,-1.0,13.5,DCEP,\n"
        "7,J000007,7.0,-91.0,13.5,DCEP,0.5\n",
    )
    labels, report = read("asassn", path)
    assert _rows(labels) == [("J000001", "LPV", "SR"), ("J000003", "E", "EW")]
    assert (report.cut, report.bad, report.unmapped, report.dropped) == (2, 1, {"ROT:": 1}, {"VAR": 1})
    assert _accounted(report)


def test_a_source_without_class_column_is_one_class(write: Callable[[str, str], Path]) -> None:
    path = write("oh2015.csv", "objID,RAJ2000,DEJ2000\n587722952230174996,236.2453,-0.4754\n,1,1\n")
    labels, _ = read("oh2015", path)
    assert _rows(labels) == [("587722952230174996", "AGN", "type I AGN"), ("2", "AGN", "type I AGN")]


@pytest.mark.parametrize("zipped", [False, True])
def test_text_with_accents_other_separators_in_fields_and_a_cut_end(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "asassn.csv"
    text = (
        "asassn_name,other_names,ra,dec,Type,Prob\n"
        'Müller 1,"A;B;C;D;E;F;G",1,2,M,1\n'
        "J2,x,3,4,YSO,0.95\n"
        "J3,cut short,5\n"  # the end of an interrupted download
    )
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    labels, report = read("asassn", path)
    assert _rows(labels) == [("Müller 1", "LPV", "M"), ("J2", "YSO", "YSO")]
    assert report.bad == 1


def test_blank_separated_text_with_a_header(write: Callable[[str, str], Path]) -> None:
    path = write(
        "linear.dat", "  LINEARobjectID   RA     Dec  LCtype\n  29848   119.5   47.15   2  \n 50402 119.7 46 13\n"
    )
    labels, report = read("linear", path)
    assert _rows(labels) == [("29848", "RRL", "2")]
    assert report.unmapped == {"13": 1}


# --- errors ----------------------------------------------------------------------------------------------------------


def test_missing_columns_are_named_with_those_that_exist(write: Callable[[str, str], Path]) -> None:
    path = write("gaia.csv", "source_id,ra,declin,klass\n1,2,3,RRAB\n")
    with pytest.raises(TableFileError) as error:
        read("gaia_dr2", path)
    for part in (str(path), "position", "class (best_class_name", "source_id, ra, declin, klass"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"1,2,3\n4,5,6\n", "no header"),
        ("a.fits", b"SIMPLE  =                    T" + b" " * 50, "a.fits"),
        ("a.vot", b"<?xml version='1.0'?><VOTABLE", "a.vot"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00broken", "a.csv.gz"),
        ("a.csv", b"\x00\xff\xfe", "a.csv"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TableFileError, match=message):
        read("gaia_dr2", path)


def test_absent_file_and_unknown_source(tmp_path: Path) -> None:
    with pytest.raises(TableFileError, match="nowhere"):
        read("gaia_dr2", tmp_path / "nowhere.csv")
    with pytest.raises(TableFileError, match="cvs, romabzcat"):
        read("vsx", tmp_path / "nowhere.csv")


# --- positions -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 360, exclude_max=True), st.floats(-90, 90), st.sampled_from([":", " "])),
        min_size=1,
        max_size=20,
    )
)
def test_sexagesimal_text_as_astropy_writes_it(tmp_path_factory: pytest.TempPathFactory, sky: list) -> None:  # type: ignore[type-arg]
    position = SkyCoord([s[0] for s in sky], [s[1] for s in sky], unit="deg")
    lines = ["source_id,ra,dec,best_class_name"]
    for i, (point, (_, _, separator)) in enumerate(zip(position, sky, strict=True)):
        ra = point.ra.to_string(u.hourangle, sep=separator, precision=9, pad=True)
        dec = point.dec.to_string(u.deg, sep=separator, precision=8, pad=True, alwayssign=True)
        lines.append(f"{i},{ra},{dec},CEP")
    path = tmp_path_factory.mktemp("sexagesimal") / "gaia.csv"
    path.write_text("\n".join(lines) + "\n")
    labels, report = read("gaia_dr2", path)
    assert report.bad == 0
    read_back = SkyCoord(labels["ra"].to_numpy(), labels["dec"].to_numpy(), unit="deg")
    assert read_back.separation(position).arcsec.max() < 1e-6


def test_positions_that_are_none_are_bad_rows(write: Callable[[str, str], Path]) -> None:
    good = ["360,0", "0,90", "1e1,-9.5e-1", "12:00,+00:30", "00 00 00,-00 00 01"]
    wrong = ["-361,0", "721,0", "10,91", "abc,1", ",", "nan,1", "-999,0", "10:61:00,1", "10:00:00,1:00:61"]
    wrong += ["10:00:00,-91:00:00", "1:2:3:4,5", "inf,0"]
    rows = "".join(f"{i},{position},CEP\n" for i, position in enumerate(good + wrong))
    labels, report = read("gaia_dr2", write("gaia.csv", "source_id,ra,dec,best_class_name\n" + rows))
    assert report.bad == len(wrong)
    assert labels["source_id"].to_pylist() == [str(i) for i in range(len(good))]
    np.testing.assert_allclose(labels["ra"], [0, 0, 10, 180, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(labels["dec"], [0, 90, -0.95, 0.5, -1 / 3600], rtol=0, atol=1e-12)


def test_radians_are_converted(tmp_path: Path) -> None:
    path = tmp_path / "gaia.fits"
    Table({"source_id": [1], "ra": [np.pi] * u.rad, "dec": [0.5] * u.rad, "best_class_name": ["CEP"]}).write(path)
    labels, _ = read("gaia_dr2", path)
    assert labels["ra"][0].as_py() == pytest.approx(180)
    assert labels["dec"][0].as_py() == pytest.approx(np.degrees(0.5))


# --- mappings --------------------------------------------------------------------------------------------------------


def test_eleven_sources_in_the_order_of_the_paper_map_to_our_classes() -> None:
    assert " ".join(SOURCES) == (
        "cvs romabzcat oh2015 milliquas tns simbad crts_north crts_south linear gaia_dr2 asassn"
    )
    mapped = {ours for source in SOURCES.values() for ours in (*source.classes.values(), source.every)} - {None}
    assert mapped == set(LIGHTCURVE_CLASSES)
    for source in SOURCES.values():
        assert all(source.key(own) == own for own in source.classes)


def test_the_mapping_of_the_papers_notebook_holds_for_the_transient_name_server() -> None:
    tns = SOURCES["tns"]
    published = {
        **dict.fromkeys(
            ["SN Ia-91bg-like", "SN Ia", "SN Ia-91T-like", "SN Ia-CSM", "SN Ia-pec", "SN Iax[02cx-like]"], "SNIa"
        ),
        **dict.fromkeys(
            ["SN Ib", "SN Ib-Ca-rich", "SN Ib-pec", "SN Ib/c", "SN Ibn", "SN Ic", "SN Ic-BL", "SN Ic-pec"], "SNIbc"
        ),
        **dict.fromkeys(
            [
                "SN IIb",
                "TDE",
                "AGN",
                "QSO",
                "Impostor-SN",
                "Kilonova",
                "ILRT",
                "LBV",
                "M dwarf",
                "Varstar",
                "Galaxy",
                "SN",
                "SN I",
                "Unknown",
            ],
            None,
        ),
        **dict.fromkeys(["SN II", "SN II-pec", "SN IIL", "SN IIP", "SN IIn", "SN IIn-pec"], "SNII"),
        **dict.fromkeys(["SLSN-I", "SLSN-II"], "SLSN"),
        **dict.fromkeys(["Nova", "CV"], "CV/Nova"),
    }
    assert {name: tns.classes[tns.key(name)] for name in published} == published


def test_the_objects_taken_out_by_the_authors_are_33() -> None:
    assert len(BAD_OIDS) == 33


# --- matching --------------------------------------------------------------------------------------------------------


def _labels(
    ra: np.ndarray, dec: np.ndarray, source: list[str] | str = "tns", classes: list[str] | str = "SNIa"
) -> pa.Table:
    n = len(ra)
    return pa.table(
        {
            "source": [source] * n if isinstance(source, str) else source,
            "source_id": [f"s{i}" for i in range(n)],
            "ra": np.asarray(ra, float),
            "dec": np.asarray(dec, float),
            "class_name": [classes] * n if isinstance(classes, str) else classes,
            "original_class": ["own"] * n,
        }
    ).cast(LABELS)


def _objects(ra: Sequence[float], dec: Sequence[float]) -> pa.Table:
    oid = pa.array([f"ZTF{i:06d}" for i in range(len(ra))], pa.string())
    return pa.table({"oid": oid, "meanra": np.asarray(ra, float), "meandec": np.asarray(dec, float)})


def _scatter(rng: np.random.Generator, ra: np.ndarray, dec: np.ndarray, arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    centre = SkyCoord(ra, dec, unit="deg")
    moved = centre.directional_offset_by(
        rng.uniform(0, 360, len(ra)) * u.deg, rng.uniform(0, arcsec, len(ra)) * u.arcsec
    )
    return moved.ra.deg, moved.dec.deg


def _fields(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions over the sky, and clusters at the poles, at ra 0/360, and on edges and corners of HEALPix pixels."""
    import healpy

    n = 300
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    parts = [(ra, dec)]
    for centre in (
        (0.0, 90.0),
        (123.0, -90.0),
        (0.0, 10.0),
        (359.99999, -41.810315),
        (90.0, 41.810314895778596),
        (45.0, 0.0),
    ):
        parts.append(_scatter(rng, np.full(40, centre[0]), np.full(40, centre[1]), 4.0))
    for order in (0, 4, 12, 14):
        pixels = rng.integers(0, 12 << (2 * order), 15)
        corners = healpy.boundaries(1 << order, pixels, step=2, nest=True)  # (15, 3, 8): corners and middles of edges
        lon, lat = healpy.vec2ang(np.moveaxis(corners, 1, -1).reshape(-1, 3), lonlat=True)
        parts.append((lon, lat))
    return np.concatenate([p[0] for p in parts]) % 360, np.concatenate([p[1] for p in parts])


@pytest.mark.parametrize("radius", [0.3, MATCH_RADIUS, 10.0, 900.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_match_finds_the_nearest_as_astropy_does_everywhere(radius: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ra, dec = _fields(rng)
    object_ra, object_dec = _scatter(rng, ra, dec, 2 * radius)
    labels, objects = _labels(ra, dec), _objects(object_ra, object_dec)
    found = match(labels, objects, radius)
    sky, catalog = SkyCoord(object_ra, object_dec, unit="deg"), SkyCoord(ra, dec, unit="deg")
    index, distance, _ = sky.match_to_catalog_sky(catalog)
    near = distance.arcsec <= radius
    assert 50 < near.sum() < len(near)
    assert found["oid"].to_pylist() == [f"ZTF{i:06d}" for i in np.flatnonzero(near)]
    np.testing.assert_allclose(found["separation"], distance.arcsec[near], rtol=0, atol=1e-6)
    chosen = catalog[found["label"].to_numpy()]
    np.testing.assert_allclose(sky[near].separation(chosen).arcsec, distance.arcsec[near], rtol=0, atol=1e-6)
    assert (found["label"].to_numpy() == index[near]).mean() > 0.9  # the others are labels at one place


def test_no_pair_within_the_radius_is_missed() -> None:
    rng = np.random.default_rng(5)
    ra, dec = _fields(rng)
    object_ra, object_dec = _scatter(rng, ra, dec, 3.0)
    # Each label its own source in turn, so that no nearer label hides a pair of another source.
    names = list(SOURCES)
    source = [names[i % len(names)] for i in range(len(ra))]
    found = match(_labels(ra, dec, source), _objects(object_ra, object_dec))
    pairs = search_around_sky(
        SkyCoord(object_ra, object_dec, unit="deg"), SkyCoord(ra, dec, unit="deg"), MATCH_RADIUS * u.arcsec
    )
    expected = {(f"ZTF{o:06d}", source[s]) for o, s in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True)}
    assert set(zip(found["oid"].to_pylist(), found["source"].to_pylist(), strict=True)) == expected
    assert found.num_rows == len(expected)


def test_match_edges() -> None:
    one, none = _labels([10.0], [20.0]), _labels([], [])
    assert match(none, _objects([10.0], [20.0])).num_rows == 0
    assert match(one, _objects([], [])).num_rows == 0
    assert match(one, _objects([200.0], [20.0])).num_rows == 0
    objects = pa.table({"oid": ["a", "b", "c"], "meanra": [None, np.nan, 10.0], "meandec": [1.0, 1.0, 20.0]})
    assert match(one, objects)["oid"].to_pylist() == ["c"]
    tie = match(_labels([10.0, 10.0], [20.0, 20.0]), _objects([10.0], [20.0]))
    assert tie["label"].to_pylist() == [0]
    shared = match(one, _objects([10.0, 10.0], [20.0, 20.0]))
    assert shared["label"].to_pylist() == [0, 0]
    for radius in (0.0, -1.0, np.nan, 1e5):
        with pytest.raises(ValueError, match="radius"):
            match(one, objects, radius)
    with pytest.raises(ValueError, match="vsx"):
        match(_labels([10.0], [20.0], "vsx"), _objects([10.0], [20.0]))


def test_match_works_on_chunked_tables_and_oids_of_any_type() -> None:
    labels = pa.concat_tables([_labels([10.0], [20.0]), _labels([30.0], [20.0], "cvs", "CV/Nova")])
    objects = pa.concat_tables([_objects([30.0], [20.0]), _objects([10.0], [20.0])])
    assert match(labels, objects)["class_name"].to_pylist() == ["CV/Nova", "SNIa"]
    numbered = objects.set_column(0, "oid", pa.array([7, 8], pa.int64()))
    assert combine(match(labels, numbered))["oid"].to_pylist() == [7, 8]


# --- combining -------------------------------------------------------------------------------------------------------


def _matches(rows: list[tuple[str, str, str, float]]) -> pa.Table:
    oid, source, name, separation = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    text = pa.string()
    return pa.table(
        {
            "oid": pa.array(oid, text),
            "label": pa.array(range(len(oid)), pa.int64()),
            "separation": pa.array(separation, pa.float64()),
            "source": pa.array(source, text),
            "source_id": pa.array([f"id{i}" for i in range(len(oid))], text),
            "class_name": pa.array(name, text),
            "original_class": pa.array(name, text),
        }
    )


def test_the_source_of_highest_priority_decides_and_the_others_are_recorded() -> None:
    rows = [
        ("b", "asassn", "LPV", 0.1),
        ("a", "gaia_dr2", "RRL", 0.2),
        ("a", "cvs", "CV/Nova", 0.9),
        ("a", "crts_north", "E", 0.1),
        ("a", "asassn", "CV/Nova", 0.1),
        (min(BAD_OIDS), "asassn", "LPV", 0.1),
        ("c", "milliquas", "QSO", 0.8),
        ("c", "milliquas", "AGN", 0.3),  # of a second file of the same source: the nearer counts
    ]
    combined = combine(_matches(rows)).to_pylist()
    assert [(r["oid"], r["class_name"], r["source"], r["n_sources"]) for r in combined] == [
        ("b", "LPV", "asassn", 1),
        ("a", "CV/Nova", "cvs", 4),
        ("c", "AGN", "milliquas", 1),
    ]
    assert combined[0]["conflicts"] == []
    assert combined[1]["conflicts"] == [
        {"source": "crts_north", "class_name": "E"},
        {"source": "gaia_dr2", "class_name": "RRL"},
    ]
    assert combined[1]["separation"] == 0.9
    assert combined[2]["separation"] == 0.3


_TRIPLE = st.tuples(
    st.sampled_from("abcde"), st.sampled_from(list(SOURCES)), st.sampled_from(LIGHTCURVE_CLASSES), st.floats(0, 1.5)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_TRIPLE, max_size=25, unique_by=lambda row: row[:2]), st.randoms())
def test_combine_and_matrix_against_a_plain_count(rows: list[tuple[str, str, str, float]], random) -> None:  # type: ignore[no-untyped-def]
    said: dict[str, dict[str, str]] = {}
    for oid, source, name, _ in rows:
        said.setdefault(oid, {})[source] = name
    random.shuffle(rows)
    matches = _matches(rows)
    combined = {row["oid"]: row for row in combine(matches).to_pylist()}
    assert set(combined) == set(said)
    for oid, by_source in said.items():
        first = min(by_source, key=list(SOURCES).index)
        row = combined[oid]
        assert (row["source"], row["class_name"], row["n_sources"]) == (first, by_source[first], len(by_source))
        others = {(s, name) for s, name in by_source.items() if name != by_source[first]}
        assert {(c["source"], c["class_name"]) for c in row["conflicts"]} == others
    counts: dict[tuple[str, str, str, str], int] = {}
    for row in label_matrix(matches).to_pylist():
        for name in LIGHTCURVE_CLASSES:
            if row[name]:
                counts[row["source_a"], row["class_a"], row["source_b"], name] = row[name]
    expected: dict[tuple[str, str, str, str], int] = {}
    order = list(SOURCES)
    for by_source in said.values():
        for a in by_source:
            for b in by_source:
                if order.index(a) < order.index(b):
                    key = (a, by_source[a], b, by_source[b])
                    expected[key] = expected.get(key, 0) + 1
    assert counts == expected


def test_matrix_is_dense_and_refuses_unknown_classes() -> None:
    matrix = label_matrix(_matches([("a", "cvs", "CV/Nova", 0.1), ("a", "asassn", "YSO", 0.1)]))
    assert matrix.num_rows == 15
    assert matrix.column_names == ["source_a", "class_a", "source_b", *LIGHTCURVE_CLASSES]
    assert sum(sum(matrix[name].to_pylist()) for name in LIGHTCURVE_CLASSES) == 1
    assert label_matrix(_matches([])).num_rows == 0
    twice = [("a", "cvs", "CV/Nova", 0.1), ("a", "asassn", "YSO", 0.1), ("a", "asassn", "LPV", 0.9)]
    assert label_matrix(_matches(twice)).equals(matrix)
    assert label_matrix(_matches(twice[::-1])).equals(matrix)
    with pytest.raises(ValueError, match="Ceph"):
        label_matrix(_matches([("a", "cvs", "Ceph", 0.1)]))


def test_labels_from_files_end_to_end(write: Callable[[str, str], Path]) -> None:
    gaia = "source_id,ra,dec,best_class_name\n1,10,20,RRAB\n2,30,-20,MIRA_SR\n3,50,0,XYZ\n"
    files = {
        "gaia_dr2": write("gaia.csv", gaia),
        "cvs": [
            write("abril.csv", "Name,ra,dec\nX,30.0001,-20\n"),
            write("rk.csv", "Name,ra,dec,Type1\nY,30,-20,DN\nZ,70,70,SS\n"),
        ],
    }
    objects = _objects([30.0, 10.0001, 200.0], [-20.0, 20.0, 0.0])
    labels, reports, matrix = labels_from_files(files, objects)
    assert labels.select(["oid", "class_name", "source", "source_id"]).to_pylist() == [
        {"oid": "ZTF000000", "class_name": "CV/Nova", "source": "cvs", "source_id": "Y"},
        {"oid": "ZTF000001", "class_name": "RRL", "source": "gaia_dr2", "source_id": "1"},
    ]
    assert labels["conflicts"][0].as_py() == [{"source": "gaia_dr2", "class_name": "LPV"}]
    assert [(r.source, r.kept) for r in reports] == [("gaia_dr2", 2), ("cvs", 1), ("cvs", 1)]
    assert reports[0].unmapped == {"XYZ": 1}
    row = next(row for row in matrix.to_pylist() if row["class_a"] == "CV/Nova")
    assert (row["source_a"], row["source_b"], row["LPV"]) == ("cvs", "gaia_dr2", 1)
    empty, none, nothing = labels_from_files({}, objects)
    assert (empty.num_rows, none, nothing.num_rows) == (0, [], 0)


def test_two_classes_of_one_source_at_one_place_are_said(write: Callable[[str, str], Path]) -> None:
    text = "source_id,ra,dec,best_class_name\n1,10,20,RRAB\n1,10,20,MIRA_SR\n2,30,20,CEP\n2,30,20,CEP\n"
    objects = _objects([10.0, 30.0], [20.0, 20.0])
    labels, reports, _ = labels_from_files({"gaia_dr2": write("gaia.csv", text)}, objects)
    assert labels["class_name"].to_pylist() == ["RRL", "CEP"]
    assert "gives 1 objects more than one class" in reports[0].notes[0]
    assert "RRL for ZTF000000" in reports[0].notes[0]


# --- plain labels ----------------------------------------------------------------------------------------------------


def test_plain_labels_in_older_spellings(write: Callable[[str, str], Path]) -> None:
    path = write(
        "labels.csv",
        "objectId,classALeRCE\nZ1,Ceph\nZ2,EB/EW\nZ3,CV\nZ4,RSCVn\nZ5,SNIIn\nZ6,periodic-other\nZ7,SNIa\nZ8,EA\nZ1,CEP\n",
    )
    expected = ["CEP", "E", "CV/Nova", "Periodic-Other", "SNII", "Periodic-Other", "SNIa", "E"]
    assert read_labels(path).to_pylist() == [
        {"oid": f"Z{i + 1}", "class_name": name} for i, name in enumerate(expected)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("oid,class_name\nZ1,TDE\nZ2,Mystery\n", "unknown classes Mystery, TDE; there are"),
        ("oid,kind\nZ1,E\n", "no column class_name or classALeRCE or class; its columns are oid, kind"),
        ("name,class\nZ1,E\n", "no column oid or objectId"),
        ("oid,class\nZ1,E\nZ2,\n", "1 rows have no class, first in row 2"),
        ("oid,class\nZ1,E\nZ1,RRL\n", "1 objects have two different classes: Z1"),
    ],
)
def test_plain_labels_that_cannot_be_used(write: Callable[[str, str], Path], text: str, message: str) -> None:
    with pytest.raises(TableFileError, match=message):
        read_labels(write("labels.csv", text))


@pytest.mark.real_data
def test_published_label_tables(data_dir: Path) -> None:
    labels = read_labels(data_dir / "lightcurves" / "2000_labels.csv")
    counts = {row["values"]: row["counts"] for row in labels["class_name"].value_counts().to_pylist()}
    assert labels.num_rows == 1999  # ZTF17aaaordg stands there twice
    assert (counts["Periodic-Other"], counts["E"], counts["CEP"], counts["SLSN"]) == (538, 475, 45, 1)
    assert read_labels(data_dir / "lightcurves" / "100_objects_labels.csv").num_rows == 98
    assert read_labels(data_dir / "lightcurves" / "30_sne_labels.csv").num_rows == 30
