"""Rows of catalogue files in chunks: CSV, FITS, Parquet, HATS folders, VOTable and the text tables of the CDS.

Large catalogues come as the first four, which are read piece by piece. A row is bad when it has no id, no position that
can be read, or is broken text: it is counted and left out. Values of attributes that cannot be read become null and
are counted too.
"""

from __future__ import annotations

import gzip
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Column, Table
from pyarrow import csv

from alerce_spark import sky
from alerce_spark.crossmatch.catalogs import Catalog
from alerce_spark.training.catalogs import tables
from alerce_spark.training.catalogs.tables import CatalogError

#: Rows read at a time.
CHUNK = 500_000
_CSV_BLOCK = 64 << 20

BROKEN, NO_ID, NO_POSITION = "broken line", "no id", "no position"


@dataclass
class Counts:
    """What became of the rows that were read: all, bad ones by reason, and values that became null by column."""

    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> int:
        """Rows that are good."""
        return self.rows - self.bad.total()

    def __str__(self) -> str:
        """Bad rows by reason and null values by column, in words."""
        reasons = [f"{n} {reason}" for reason, n in self.bad.most_common() if n]
        values = [f"{n} unreadable values of {name}" for name, n in self.unreadable.most_common() if n]
        return ", ".join([f"{self.kept} of {self.rows} rows kept", *reasons, *values])


def schema(catalog: Catalog) -> pa.Schema:
    """Columns of the rows of a catalogue: index, id, position [deg], motions where it has them, attributes."""
    numbers = [("ra", "deg"), ("dec", "deg"), *((name, "mas/yr") for name in ("pmra", "pmdec") if catalog.moves)]
    return pa.schema(
        [
            pa.field("healpix29", pa.int64(), nullable=False),
            pa.field("source_id", pa.string(), nullable=False),
            *(pa.field(name, pa.float64(), name.startswith("pm"), {"unit": unit}) for name, unit in numbers),
            *(
                pa.field(name, pa.float64() if a.type == "number" else pa.string(), metadata={"unit": a.unit})
                for name, a in catalog.attributes.items()
            ),
        ]
    )


def rows(catalog: Catalog, paths: Sequence[Path], counts: Counts) -> Iterator[pa.Table]:
    """Good rows of files and HATS folders, in chunks with the columns of `schema`; `counts` grows meanwhile.

    Raises CatalogError for a file that cannot be read or lacks the id or position.
    """
    for path in paths:
        for file in _files(path):
            for chunk in _chunks(file, catalog, counts):
                yield _good(chunk, catalog, counts)


def _files(path: Path) -> list[Path]:
    """The file itself, or the Parquet files of a HATS catalogue (of a collection: of its primary one)."""
    if not path.is_dir():
        return [path]
    collection = path / "collection.properties"
    if collection.is_file():
        settings = dict(line.split("=", 1) for line in collection.read_text().splitlines() if "=" in line)
        path = path / settings.get("hats_primary_table_url", "").strip()
    found = sorted(file for file in (path / "dataset").rglob("*.parquet") if not file.name.startswith("_"))
    if not found:
        raise CatalogError(f"{path} is a folder without a HATS catalogue: it has no Parquet files under dataset/")
    return found


@dataclass(frozen=True)
class _Chosen:
    """Columns of a file by what they are for: None where the file lacks them."""

    id: str
    position: tuple[str, str]
    motion: tuple[str | None, ...]
    attributes: dict[str, str | None]

    def all(self) -> list[str]:
        """Every column to read, once."""
        return list(dict.fromkeys(c for c in (self.id, *self.position, *self.motion, *self.attributes.values()) if c))


def _choose(path: Path, catalog: Catalog, names: Sequence[str]) -> _Chosen:
    needed = {"id": catalog.id, "right ascension": catalog.ra, "declination": catalog.dec}
    found = {what: tables.find(names, spellings) for what, spellings in needed.items()}
    missing = [f"{what} ({', '.join(needed[what])})" for what, column in found.items() if column is None]
    if missing:
        raise CatalogError(f"{path} has no column for {', '.join(missing)}; its columns are {', '.join(names)}")
    attributes = {name: tables.find(names, a.names) for name, a in catalog.attributes.items()}
    motion = tuple(tables.find(names, spellings) for spellings in (catalog.pmra, catalog.pmdec))
    by_name = [str(column) for column in found.values()]
    return _Chosen(by_name[0], (by_name[1], by_name[2]), motion, attributes)


@dataclass(frozen=True)
class _Chunk:
    """Columns of some rows, as they are in the file; `units` of columns that have one."""

    path: Path
    chosen: _Chosen
    columns: pa.Table
    units: dict[str, Any] = field(default_factory=dict)


def _chunks(path: Path, catalog: Catalog, counts: Counts) -> Iterator[_Chunk]:
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path) as file:
                head = file.read(9)
        if head.startswith(b"PAR1"):
            yield from _parquet(path, catalog)
        elif head == b"SIMPLE  =":
            yield from _fits(path, catalog)
        elif path.name.removesuffix(".gz").endswith(".csv"):
            yield from _csv(path, catalog, counts)
        else:
            yield _whole(path, catalog)
    except (OSError, pa.ArrowInvalid) as error:
        raise CatalogError(f"{path} cannot be read: {error}") from error


def _parquet(path: Path, catalog: Catalog) -> Iterator[_Chunk]:
    with pq.ParquetFile(path) as file:
        chosen = _choose(path, catalog, file.schema_arrow.names)
        for batch in file.iter_batches(CHUNK, columns=chosen.all(), use_threads=False):
            yield _Chunk(path, chosen, pa.Table.from_batches([batch]))


def _csv(path: Path, catalog: Catalog, counts: Counts) -> Iterator[_Chunk]:
    """Comma-separated text with its header in the first line. Everything is read as text: a bad value is one row's."""

    def skip(row: Any) -> str:
        counts.bad[BROKEN] += 1
        counts.rows += 1
        return "skip"

    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        names = [name.strip().strip('"') for name in file.readline().decode("utf-8-sig").split(",")]
        chosen = _choose(path, catalog, names)
        reader = csv.open_csv(
            file,
            csv.ReadOptions(block_size=_CSV_BLOCK, column_names=names, use_threads=False),
            csv.ParseOptions(invalid_row_handler=skip),
            csv.ConvertOptions(
                include_columns=chosen.all(), column_types=dict.fromkeys(chosen.all(), pa.string()), check_utf8=False
            ),
        )
        for batch in reader:
            yield _Chunk(path, chosen, pa.Table.from_batches([batch]))


def _fits(path: Path, catalog: Catalog) -> Iterator[_Chunk]:
    """The first table of a FITS file."""
    with warnings.catch_warnings(), fits.open(path, memmap=True) as hdus:
        warnings.simplefilter("ignore")  # units and headers that are not quite standard
        found = next((hdu for hdu in hdus if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU))), None)
        if found is None:
            raise CatalogError(f"{path} is FITS but holds no table")
        chosen = _choose(path, catalog, found.columns.names)
        units = {name: found.columns[name].unit for name in chosen.all()}
        for start in range(0, len(found.data), CHUNK):
            part = Table(found.data[start : start + CHUNK])[chosen.all()]
            yield _Chunk(path, chosen, _as_arrow(part, {n: found.columns[n].null for n in chosen.all()}), units)


def _whole(path: Path, catalog: Catalog) -> _Chunk:
    """VOTable and text, as label catalogues are read."""
    chosen: list[_Chosen] = []

    def choose(names: Sequence[str]) -> list[str]:
        chosen.append(_choose(path, catalog, names))
        return chosen[0].all()

    table, _ = tables.load(path, choose)
    units = {name: table[name].unit for name in table.colnames}
    return _Chunk(path, chosen[0], _as_arrow(table, {}), units)


def _as_arrow(table: Table, nulls: dict[str, int | None]) -> pa.Table:
    return pa.table({name: _array(table[name], nulls.get(name)) for name in table.colnames})


def _array(column: Any, null: int | None) -> pa.Array:
    values, mask = np.ma.getdata(column), np.ma.getmaskarray(column)
    if values.dtype.kind not in "fiu":
        return tables.text(column)
    if null is not None:
        mask = mask | (values == null)
    return pa.array(values.astype(values.dtype.newbyteorder("=")), mask=mask)


def _good(chunk: _Chunk, catalog: Catalog, counts: Counts) -> pa.Table:
    columns, chosen = chunk.columns, chunk.chosen
    counts.rows += len(columns)
    ids = _texts(columns[chosen.id])
    ra, dec = _positions(chunk)
    has_id = ids.is_valid().to_numpy(zero_copy_only=False)
    placed = np.isfinite(ra)
    counts.bad[NO_ID] += int((~has_id).sum())
    counts.bad[NO_POSITION] += int((has_id & ~placed).sum())
    good = has_id & placed
    values: dict[str, pa.Array] = {"source_id": ids, "ra": pa.array(ra), "dec": pa.array(dec)}
    if catalog.moves:
        values |= _motions(chunk, catalog, counts, good)
    for name, attribute in catalog.attributes.items():
        column = chosen.attributes[name]
        kind = pa.float64() if attribute.type == "number" else pa.string()
        if column is None:
            values[name] = pa.nulls(len(columns), kind)
        elif attribute.type == "text":
            values[name] = _texts(columns[column])
        else:
            values[name] = _numbers(columns[column], name, counts, good)
    kept = pa.table(values).filter(pa.array(good))
    index = pa.array(sky.healpix(kept["ra"].to_numpy(), kept["dec"].to_numpy()))
    wanted = schema(catalog)
    return pa.Table.from_arrays([index, *(kept[name] for name in wanted.names[1:])], schema=wanted)


def _motions(chunk: _Chunk, catalog: Catalog, counts: Counts, good: np.ndarray) -> dict[str, pa.Array]:
    """Proper motions; both are null where one is missing or where they are too fast to be true."""
    pmra, pmdec = (
        np.full(len(good), np.nan)
        if column is None
        else _numbers(chunk.columns[column], name, counts, good).to_numpy(zero_copy_only=False)
        for name, column in zip(("pmra", "pmdec"), chunk.chosen.motion, strict=True)
    )
    total = np.hypot(pmra, pmdec)
    too_fast = good & (total > catalog.pm_max)
    counts.unreadable["proper motion beyond pm_max"] += int(too_fast.sum())
    known = np.isfinite(total) & ~too_fast
    return {name: pa.array(pm, mask=~known) for name, pm in (("pmra", pmra), ("pmdec", pmdec))}


def _positions(chunk: _Chunk) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension in [0, 360) and declination [deg], NaN where they cannot be read."""
    table = Table()
    for name in chunk.chosen.position:
        column = _plain(chunk.columns[name])
        if not _is_number(column):
            column = _as_numbers(column) or column
        if _is_number(column):
            values = pc.cast(column, pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        else:
            values = np.array(column.fill_null("").to_pylist(), str)
        table[name] = Column(values, unit=chunk.units.get(name))
    return tables.positions(table, list(chunk.chosen.position))


def _as_numbers(words: pa.Array) -> pa.Array | None:
    """Text as float64 where all of it are numbers, which is faster to see than which are."""
    try:
        return pc.cast(pc.utf8_trim_whitespace(words), pa.float64())
    except pa.ArrowInvalid:
        return None


def _numbers(column: pa.ChunkedArray, name: str, counts: Counts, good: np.ndarray) -> pa.Array:
    """A column as float64 without NaN; text that is no number is null, and counted in good rows."""
    values = _plain(column)
    if _is_number(values):
        found = pc.cast(values, pa.float64())
    else:
        values = _texts(column)
        found = _as_numbers(values)
        if found is None:
            found = pa.array(tables.numbers(Column(np.array(values.fill_null("").to_pylist(), str))), from_pandas=True)
            bad = good & pc.and_(values.is_valid(), found.is_null()).to_numpy(zero_copy_only=False)
            counts.unreadable[name] += int(bad.sum())
    return pc.if_else(pc.is_nan(found), None, found)


def _texts(column: pa.ChunkedArray) -> pa.Array:
    """A column as trimmed text, null where blank; ids of 64 bits keep all digits."""
    values = _plain(column)
    if pa.types.is_floating(values.type):
        return tables.text(np.ma.masked_invalid(values.fill_null(np.nan).to_numpy(zero_copy_only=False)))
    words = pc.utf8_trim_whitespace(values if pa.types.is_string(values.type) else values.cast(pa.string()))
    return pc.if_else(pc.equal(words, ""), None, words)


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """One array of numbers or of text."""
    values = column.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values if _is_number(values) else values.cast(pa.string())


def _is_number(column: pa.Array) -> bool:
    return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
