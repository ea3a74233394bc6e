"""Tables in the files that people download (FITS, VOTable, CDS fixed width, text with a header), read by astropy."""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy import units as u
from astropy.io import fits, votable
from astropy.table import Table
from numpy.typing import NDArray

from alerce_spark.errors import InputError

#: Chooses from the column names of a file those to read. It may raise CatalogError.
Choose = Callable[[Sequence[str]], list[str]]

_SNIFFED_LINES = 500  # headers of VizieR text are shorter
_RULE = re.compile(r"[-\s;,|]*-[-\s;,|]*")  # the line of dashes between the header and the rows of VizieR text

_DATE = re.compile(r'"?\d{4}-\d\d-\d\d')

# Positions, in the order in which they are looked for; `_RAJ2000` is what VizieR computes in degrees.
_PAIRS = (
    ("_RAJ2000", "_DEJ2000"),
    ("RA_ICRS", "DE_ICRS"),
    ("RAdeg", "DEdeg"),
    ("RAJ2000", "DEJ2000"),
    ("ra", "dec"),
    ("ra", "declination"),
    ("ra", "decl"),
    ("RA_(J2000)", "Dec"),
    ("RA_(J2000)", "Dec_(J2000)"),
    ("RA (J2000)", "DEC (J2000)"),
    ("RA(J2000.0)", "DEC(J2000.0)"),
)
_PARTS = ("RAh", "RAm", "RAs", "DE-", "DEd", "DEm", "DEs")

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_SEXAGESIMAL = (
    r"^(?P<sign>[+−-]?)(?P<whole>\d{1,3})\s*[:hd°\s]\s*(?P<minute>\d{1,2}(?:\.\d*)?)"
    r"(?:\s*[:m'′\s]\s*(?P<second>\d{1,2}(?:\.\d*)?))?\s*[s\"″']?$"
)


class CatalogError(InputError):
    """A file of labels that cannot be read; the message names the file, and the columns where they are the matter."""


def load(path: Path, choose: Choose) -> tuple[Table, str]:
    """Columns of the table in a file, and the name of its format.

    FITS (first table), VOTable (first table), CDS fixed width (with its description inside, as in the journals'
    machine-readable tables, or in a file `ReadMe` beside it), and text with a header line: commas, semicolons, tabs
    or blanks, with VizieR's lines of units and dashes or a `#` before the header. All may be gzipped. Raises
    CatalogError.
    """
    try:
        head = _head(path)
        if head.startswith(b"SIMPLE  ="):
            return _fits(path, choose), "FITS"
        if b"<VOTABLE" in head:
            return _votable(path, choose), "VOTable"
        return _text(path, choose)
    except CatalogError:
        raise
    except OSError as error:
        raise CatalogError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # astropy's readers raise many kinds for a broken file
        raise CatalogError(f"{path} cannot be read as a table: {error}") from error


def _head(path: Path, size: int = 4096) -> bytes:
    with _open(path) as file:
        return file.read(size)


def _open(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _fits(path: Path, choose: Choose) -> Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units and headers that are not quite standard
        with fits.open(path) as hdus:
            found = [i for i, hdu in enumerate(hdus) if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU))]
            if not found:
                raise CatalogError(f"{path} is FITS but holds no table")
            table = Table.read(hdus, hdu=found[0])
    return table[choose(table.colnames)]


def _votable(path: Path, choose: Choose) -> Table:
    with _open(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # VizieR's own units and old versions of the format
        table = votable.parse(file, verify="ignore").get_first_table().to_table(use_names_over_ids=True)
    return table[choose(table.colnames)]


def _text(path: Path, choose: Choose) -> tuple[Table, str]:
    with _open(path) as file:
        lines = [line.decode("utf-8", "replace").rstrip("\r\n") for line in islice(file, _SNIFFED_LINES)]
    if any(line.startswith("Byte-by-byte Description") for line in lines):
        table = Table.read(str(path), format="ascii.cds")
        return table[choose(table.colnames)], "CDS"
    if readme := _readme_of(path):
        table = Table.read(str(path), format="ascii.cds", readme=str(readme))
        return table[choose(table.colnames)], "CDS"
    names, options = _layout(path, lines)
    with _open(path) as file:
        rows = file.read().decode(
            "utf-8", "replace"
        )  # given a path, astropy's fast reader takes ASCII only, and no gzip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a column of integers beyond 64 bits is read as text
        table = Table.read(rows, include_names=choose(names), guess=False, **options)
    return table, "text"


def _readme_of(path: Path) -> Path | None:
    """The `ReadMe` in the same folder where it describes this file."""
    name = path.name.removesuffix(".gz")
    for readme in sorted(path.parent.glob("[Rr][Ee][Aa][Dd][Mm][Ee]*")):
        if readme.is_file() and readme != path:
            said = readme.read_text(encoding="utf-8", errors="replace")
            for described in re.findall(r"^Byte-by-byte Description of file[^:]*:(.*)$", said, re.MULTILINE):
                if any(fnmatch(name, pattern) for pattern in re.split(r"[\s,]+", described.strip())):
                    return readme
    return None


def _layout(path: Path, lines: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Column names and the options with which astropy reads a text table, from its first lines."""
    body = [line for line in lines if line.strip() and not line.startswith("#")]
    comments = [line for line in lines if line.startswith("#") and line.strip("# \t")]
    if not body:
        raise CatalogError(f"{path} holds no rows")
    start = int(len(body) > 1 and bool(_DATE.match(body[0])))  # the date above the header of the TNS file
    delimiter = max("\t;,", key=body[start].count)
    if delimiter not in body[start]:
        delimiter = " "
    names = _fields(body[start], delimiter)
    options: dict[str, Any] = {"format": "ascii.csv", "delimiter": delimiter, "comment": "#"}  # forgives rows cut short
    if any(re.match(_NUMBER, name) for name in names):
        if not comments:
            raise CatalogError(f"{path} has no header line and no ReadMe beside it; first row: {body[0]!r}")
        names = _fields(comments[-1].lstrip("#"), delimiter)
        return names, options | {"format": "ascii.no_header", "names": names, "data_start": start}
    ruled = next((i for i in (1, 2) if start + i < len(body) and _RULE.fullmatch(body[start + i])), 0)
    return names, options | {"header_start": start, "data_start": start + 1 + ruled}


def _fields(line: str, delimiter: str) -> list[str]:
    fields = line.split() if delimiter == " " else line.split(delimiter)
    return [field.strip().strip('"').strip() for field in fields]


def find(names: Sequence[str], spellings: Sequence[str]) -> str | None:
    """The first of some spellings of a column that a file has, case ignored; None where it has none."""
    by_case = {name.casefold(): name for name in reversed(names)}
    return next((by_case[s.casefold()] for s in spellings if s.casefold() in by_case), None)


def position_columns(names: Sequence[str]) -> list[str]:
    """The two columns of a file that hold ra and dec, or the seven parts of the CDS; empty where there are none."""
    for pair in _PAIRS:
        found = [find(names, [name]) for name in pair]
        if all(found):
            return [str(name) for name in found]
    parts = [find(names, [name]) for name in _PARTS]
    return [str(name) for name in parts] if all(parts) else []


def positions_wanted() -> str:
    """What `position_columns` looks for, for error messages."""
    return ", ".join("/".join(pair) for pair in _PAIRS) + " or " + " ".join(_PARTS)


def positions(table: Table, columns: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right ascension in [0, 360) and declination in [-90, 90] degrees; NaN where a row has none that can be read.

    Text with separators is sexagesimal, hours in right ascension; numbers are degrees unless the column has another
    unit of angle.
    """
    if len(columns) == len(_PARTS):
        hours, minutes, seconds, degrees, arcmin, arcsec = (
            numbers(table[name]) for name in (*columns[:3], *columns[4:])
        )
        sign = np.where(pc.equal(text(table[columns[3]]), "-").fill_null(False).to_numpy(zero_copy_only=False), -1, 1)
        ra = 15 * _sexagesimal(hours, minutes, seconds)
        dec = sign * _sexagesimal(degrees, arcmin, arcsec)
    else:
        ra, dec = _angle(table[columns[0]], 15.0), _angle(table[columns[1]], 1.0)
    bad = ~((ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90))
    ra = np.where(bad, np.nan, ra)
    return np.where(ra == 360, 0.0, ra), np.where(bad, np.nan, dec)


def _angle(column: Any, scale: float) -> NDArray[np.float64]:
    if column.dtype.kind in "fiu":
        return numbers(column) * _degrees_of(column.unit)
    words = text(column)
    parts = pc.extract_regex(words, _SEXAGESIMAL)
    whole, minute, second = (_floats(pc.struct_field(parts, name)) for name in ("whole", "minute", "second"))
    sign = pc.struct_field(parts, "sign").fill_null("").to_numpy(zero_copy_only=False)
    second = np.where(np.isnan(second) & ~np.isnan(minute), 0.0, second)
    angle = np.where(np.isin(sign, ("-", "−")), -1, 1) * _sexagesimal(whole, minute, second) * scale
    plain = _floats(words) * _degrees_of(column.unit)
    return np.where(np.isnan(angle), plain, angle)


def _degrees_of(unit: Any) -> float:
    """Degrees in one unit of a column of numbers; a unit that is no angle (as VizieR's `"h:m:s"`) counts as degrees."""
    if unit is not None and getattr(unit, "physical_type", None) == "angle":
        return float(unit.to(u.deg))
    return 1.0


def _sexagesimal(
    whole: NDArray[np.float64], minute: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    valid = (whole >= 0) & (minute >= 0) & (minute < 60) & (second >= 0) & (second <= 60)
    return np.where(valid, whole + minute / 60 + second / 3600, np.nan)


def numbers(column: Any) -> NDArray[np.float64]:
    """A column as float64; NaN where it is masked or no number."""
    if column.dtype.kind in "fiu":
        values = np.array(np.ma.getdata(column), np.float64)
        values[np.ma.getmaskarray(column)] = np.nan
        return values
    return _floats(text(column))


def _floats(words: pa.Array) -> NDArray[np.float64]:
    """Numbers in text; NaN where it is null or none."""
    numeric = pc.match_substring_regex(words, _NUMBER).fill_null(False)
    values = pc.cast(pc.if_else(numeric, words, None), pa.float64())
    return np.asarray(values.fill_null(np.nan).to_numpy(zero_copy_only=False))


def text(column: Any) -> pa.Array:
    """A column as trimmed text; null where it is masked or blank. Whole numbers stored as floats lose their `.0`."""
    values, mask = np.ma.getdata(column), np.ma.getmaskarray(column)
    kind = values.dtype.kind
    if kind == "f":
        whole = np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 2**53)
        mask = mask | np.isnan(values)
        values = np.where(whole, np.where(whole, values, 0).astype(np.int64).astype(str), values.astype(str))
    elif kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    elif kind == "O":
        values = np.array(["" if v is None else v.decode() if isinstance(v, bytes) else str(v) for v in values], str)
    elif kind != "U":
        values = values.astype(str)
    words = pc.utf8_trim_whitespace(pa.array(np.asarray(values), pa.string(), mask=np.asarray(mask)))
    return pc.if_else(pc.equal(words, ""), None, words)
