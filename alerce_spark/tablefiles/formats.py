"""One interface to every format: names, units, and rows in chunks of Arrow tables."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits, votable
from astropy.io.fits.verify import VerifyWarning
from astropy.table import Table
from astropy.table.meta import get_header_from_yaml
from astropy.utils.exceptions import AstropyUserWarning

from alerce_spark.tablefiles import text, units
from alerce_spark.tablefiles.angles import Positions
from alerce_spark.tablefiles.names import find
from alerce_spark.tablefiles.opening import TableFileError, Text, as_text, blaming, head, whole

_IPAC = re.compile(r"\\|\|[^|\n]+\|(.*\|)?\s*\n\|\s*(char|double|float|int|long|real|date)")
#: Rows of a chunk.
CHUNK = 500_000


@dataclass
class TableFile:
    """An open file: its columns, their units if given, and remarks that are complete after its rows have been read.

    `broken` rows do not have as many values as the header; `first_broken` describes the first of them.
    """

    path: Path
    format: str
    names: list[str]
    units: dict[str, str | None]
    _read: Callable[[list[str]], Iterator[pa.Table]]
    _lines: text.Lines = field(default_factory=text.Lines)

    @property
    def broken(self) -> int:
        """Number of rows so far that do not have as many values as the header."""
        return self._lines.broken

    @property
    def first_broken(self) -> str:
        """Description of the first broken row."""
        return self._lines.first

    @property
    def notes(self) -> list[str]:
        """Remarks on the file, complete after its rows have been read."""
        return self._lines.notes

    def find(self, spellings: Sequence[str]) -> str | None:
        """The column with one of these spellings (`names.find`)."""
        try:
            return find(self.names, spellings)
        except TableFileError as error:
            raise TableFileError(f"{self.path}: {error}") from None

    def need(self, **spellings: Sequence[str]) -> dict[str, str]:
        """The column of each name. Raises TableFileError that lists missing and existing columns."""
        found = {what: self.find(names) for what, names in spellings.items()}
        missing = [" or ".join(spellings[what]) for what, column in found.items() if column is None]
        if missing:
            raise TableFileError(
                f"{self.path} has no column {', '.join(missing)}; its columns are {', '.join(self.names)}"
            )
        return {what: str(column) for what, column in found.items()}

    def positions(self, columns: Sequence[str]) -> Positions:
        """A reader of the positions in these columns. Raises TableFileError for units that are not angles."""
        return Positions(columns, self.units, str(self.path))

    def factor(self, column: str, wanted: str) -> float:
        """The factor from the unit of a column to `wanted`. Raises TableFileError for a unit of another kind.

        If the file gives a unit and `wanted` is empty, numbers stay unchanged and a remark says so.
        """
        unit = units.told(column, self.units.get(column))
        if unit and not wanted and not units.is_none(unit):
            self.notes.append(f"{self.path}: {column} is in {unit}; the settings give no unit, so values do not change")
        try:
            return units.factor(unit, wanted)
        except TableFileError as error:
            raise TableFileError(f"{self.path}: column {column}: {error}") from None

    def chunks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of some columns, each named once, in chunks; at least one chunk. Raises TableFileError."""
        rows = self._read(list(columns))
        while True:
            with _blaming(self.path):
                try:
                    chunk = next(rows)
                except StopIteration:
                    return
            yield chunk

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows of some columns. Also raises TableFileError for a broken row."""
        chunks = list(self.chunks(columns))
        with _blaming(self.path):
            table = pa.concat_tables(chunks)
        if self.broken:
            raise TableFileError(f"{self.path}: {self.broken} rows cannot be read; {self.first_broken}")
        return table


@contextmanager
def opened(path: Path | str) -> Iterator[TableFile]:
    """The table in a file, recognised by its content: the first one of FITS and VOTable. Raises TableFileError.

    Text needs a header line; it may have commas, semicolons, tabs, bars or blanks, be ECSV, have VizieR's lines of
    units and dashes, or a `#` before the header. Fixed-width tables are those of IPAC, and those of the CDS with their
    description in the file, as in the journals' machine-readable tables, or in a file `ReadMe` in the same folder. A
    folder may hold Parquet files.
    """
    path = Path(path)
    with ExitStack() as stack:
        with _blaming(path):
            found = _opened(path, stack)
        yield found


def read(path: Path | str) -> pa.Table:
    """All named columns of a file. Raises TableFileError for a repeated name and for a broken row."""
    with opened(path) as file:
        names = [name for name in file.names if name]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise TableFileError(f"{path} has several columns {', '.join(twice)}: rename all but one of them")
        return file.table(names)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    with blaming(path):
        try:
            yield
        except (TableFileError, OSError, EOFError, zlib.error):
            raise
        except Exception as error:  # astropy's and Arrow's readers raise many kinds for a broken file
            raise TableFileError(f"{path} cannot be read as a table: {error}") from error


def _opened(path: Path, stack: ExitStack) -> TableFile:
    if path.is_dir():
        return _folder(path, stack)
    first = head(path)
    if first.startswith(b"PAR1"):
        return _parquet(path, [stack.enter_context(whole(path))], stack)
    if first.startswith(b"SIMPLE  ="):
        return _fits(path, stack.enter_context(whole(path)), stack)
    if b"<VOTABLE" in first or b":VOTABLE" in first:
        with warnings.catch_warnings(), stack.enter_context(whole(path)).open("rb") as file:
            warnings.simplefilter("ignore")  # VizieR's non-standard units and old versions of the format
            parsed = votable.parse(file, verify="ignore")
            table = parsed.get_first_table().to_table(use_names_over_ids=True)
        if any(i.name == "QUERY_STATUS" and i.value == "OVERFLOW" for r in parsed.resources for i in r.infos):
            raise TableFileError(f"{path} is the cut result of a query (QUERY_STATUS OVERFLOW): ask for fewer rows")
        return _noted(_of_astropy(path, "VOTable", table), len(list(parsed.iter_tables())))
    if (options := _fixed_width(path, as_text(first))) is not None:
        table = Table.read(str(stack.enter_context(whole(path))), **options)
        return _of_astropy(path, options["format"].removeprefix("ascii.").upper(), table)
    return _text(path, stack)


def _text(path: Path, stack: ExitStack) -> TableFile:
    source = Text(path)
    stack.callback(source.close)
    found, lines = text.layout(path, source), text.Lines()

    def rows(columns: list[str]) -> Iterator[pa.Table]:
        return text.rows(path, source, found, columns, lines)

    return TableFile(path, "text", found.names, dict(found.units), rows, lines)


def _fixed_width(path: Path, first: str) -> dict[str, Any] | None:
    """Options with which astropy reads a table of the CDS or of IPAC; None for another file."""
    if re.search("^Byte-by-byte Description", first, re.MULTILINE):
        return {"format": "ascii.cds"}
    if readme := _readme_of(path):
        return {"format": "ascii.cds", "readme": str(readme)}
    return {"format": "ascii.ipac", "guess": False} if _IPAC.match(first) else None


def _readme_of(path: Path) -> Path | None:
    """The `ReadMe` in the same folder if it describes this file."""
    name = path.name.removesuffix(".gz")
    for readme in sorted(path.parent.glob("[Rr][Ee][Aa][Dd][Mm][Ee]*")):
        if readme.is_file() and readme != path:
            description = readme.read_text(encoding="utf-8", errors="replace")
            for described in re.findall(r"^Byte-by-byte Description of file[^:]*:(.*)$", description, re.MULTILINE):
                if any(fnmatch(name, pattern) for pattern in re.split(r"[\s,]+", described.strip())):
                    return readme
    return None


def _folder(path: Path, stack: ExitStack) -> TableFile:
    """The Parquet files of a folder that holds no other files except Spark's (`_SUCCESS`, `.….crc`)."""
    found = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith(("_", ".")))
    if not found or any(f.suffix != ".parquet" for f in found):
        raise TableFileError(f"{path} is a folder, and not one of Parquet files alone: name a file in it")
    return _parquet(path, found, stack)


def _parquet(path: Path, parts: list[Path], stack: ExitStack) -> TableFile:
    """A file, or several with the same columns, whose types are unified if no value changes."""
    files = [stack.enter_context(pq.ParquetFile(part, page_checksum_verification=True)) for part in parts]
    schemas = [file.schema_arrow for file in files]
    names, column_units = schemas[0].names, _told(schemas[0])
    for part, schema in zip(parts, schemas, strict=True):
        if schema.names != names:
            raise TableFileError(f"{part} has other columns than {parts[0]}: read one of them")
        if _told(schema) != column_units:
            raise TableFileError(f"{part} has other units than {parts[0]}: read one of them")

    def rows(columns: list[str]) -> Iterator[pa.Table]:
        schema_read = pa.schema([(name, _common(parts, schemas, names.index(name))) for name in columns])
        yield schema_read.empty_table()
        for part, file in zip(parts, files, strict=True):
            for batch in file.iter_batches(CHUNK, columns=columns, use_threads=False):
                yield _as(schema_read, pa.Table.from_batches([batch]), part)

    return TableFile(path, "Parquet", names, column_units, rows)


def _told(schema: pa.Schema) -> dict[str, str | None]:
    """Units in the metadata of columns, and in the metadata that astropy writes."""
    column_units: dict[str, str | None] = {}
    for name in dict.fromkeys(schema.names):
        metadata = schema.field(schema.names.index(name)).metadata or {}
        column_units[name] = metadata.get(b"unit", b"").decode() or None
    if b"table_meta_yaml" in (schema.metadata or {}):
        header = get_header_from_yaml(schema.metadata[b"table_meta_yaml"].decode().split("\n"))
        column_units |= {c["name"]: str(c["unit"]) for c in header.get("datatype", []) if c.get("unit") is not None}
    return column_units


def _common(parts: list[Path], schemas: list[pa.Schema], column: int) -> pa.DataType:
    """The type that holds the values of a column in every part. Raises TableFileError for a mix of numbers and text."""
    common = schemas[0].field(column).type
    for part, schema in zip(parts, schemas, strict=True):
        found = _wider(common, schema.field(column).type)
        if found is None:
            raise TableFileError(
                f"{part}: column {schema.names[column]} is {schema.field(column).type}, and {common} in the parts "
                "before it: write all parts alike"
            )
        common = found
    return common


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """One type for the values of two types, or None. Integers with floating point must fit in 53 bits."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if all(pa.types.is_integer(kind) for kind in (one, other)):
        return pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other)):
        return pa.float64()
    return pa.large_string() if all(map(_is_text, (one, other))) else None


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _as(target: pa.Schema, rows: pa.Table, part: Path) -> pa.Table:
    """Rows with the columns and types of a schema. Raises TableFileError for a value that would change."""
    arrays = []
    for name, kind in zip(target.names, target.types, strict=True):
        try:
            arrays.append(rows[name].cast(kind))
        except pa.ArrowInvalid as error:
            own = rows.schema.field(name).type
            raise TableFileError(f"{part}: column {name} is {own}, and {kind} in other parts: {error}") from None
    return pa.Table.from_arrays(arrays, schema=target)


def _fits(path: Path, plain: Path, stack: ExitStack) -> TableFile:
    """The first table of a FITS file; verifies its checksums if it has any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units and headers that are not quite standard
        for message in ("Checksum verification failed", "Datasum verification failed"):
            warnings.filterwarnings("error", message, AstropyUserWarning)
        warnings.filterwarnings("error", "Error validating header", VerifyWarning)
        hdus = stack.enter_context(fits.open(plain, memmap=True, checksum=True, lazy_load_hdus=False))
    size = plain.stat().st_size
    ends = [hdu.fileinfo()["datLoc"] + hdu.size for hdu in hdus]
    if max(ends) > size:
        raise TableFileError(f"{path} is cut: {size} of {max(ends)} bytes. Nothing was read; get the file again")
    found = next((hdu for hdu in hdus if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU))), None)
    if found is None:
        raise TableFileError(f"{path} is FITS but holds no table, or is cut before it")
    columns, tables = found.columns, [h for h in hdus if isinstance(h, (fits.BinTableHDU, fits.TableHDU))]

    def rows(wanted: list[str]) -> Iterator[pa.Table]:
        for start in range(0, max(len(found.data), 1), CHUNK):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                part = Table(found.data[start : start + CHUNK])[wanted]
            chosen = slice(start, start + CHUNK)
            yield pa.table({n: _array(part[n], n, _is_null(found, n, chosen)) for n in wanted})

    column_units = {name: columns[name].unit for name in columns.names}
    return _noted(TableFile(path, "FITS", list(columns.names), column_units, rows), len(tables))


def _noted(file: TableFile, tables: int) -> TableFile:
    """Add a remark if a file holds more than one table."""
    if tables > 1:
        file.notes.append(f"{file.path} holds {tables} tables; the first is read")
    return file


def _is_null(hdu: Any, name: str, rows: slice) -> Any:
    """Mask of the values of a column that are null in the file: TNULL, and byte 0 in a column of T and F.

    In text tables also a blank field, which astropy reads as 0.
    """
    column = hdu.columns[name]
    stored = hdu.data.view(np.ndarray)[name][rows]
    if isinstance(hdu, fits.TableHDU):
        word = np.char.strip(stored)
        return (word == b"") | (word == str(column.null or "").strip().encode())
    null = 0 if column.format == "L" else column.null
    return stored == null if null is not None and stored.dtype.kind in "iu" else False


def _of_astropy(path: Path, kind: str, table: Table) -> TableFile:
    def rows(columns: list[str]) -> Iterator[pa.Table]:
        yield pa.table({name: _array(table[name], name) for name in columns})

    column_units = {name: None if table[name].unit is None else str(table[name].unit) for name in table.colnames}
    return TableFile(path, kind, list(table.colnames), column_units, rows)


def _array(column: Any, name: str, is_null: Any = False) -> pa.Array:
    """A column of astropy converted to Arrow: masked values are null, strings are text."""
    values, mask = np.ma.getdata(column), np.ma.getmaskarray(column) | is_null
    if values.ndim > 1:
        raise TableFileError(f"column {name} holds {values.shape[1:]} values a row")
    if values.dtype.kind in "fiub":
        return pa.array(values.astype(values.dtype.newbyteorder("=")), mask=mask)
    texts = [None if v is None else as_text(v) if isinstance(v, bytes) else str(v) for v in values.tolist()]
    return pa.array(np.array(texts, object), pa.string(), mask=np.asarray(mask))
