"""Rows of catalogue files in chunks, from every format of `tablefiles` and from HATS folders.

FITS, Parquet and delimited text are read in chunks, other formats whole. A row is bad if it has no id, no readable
position, or not as many values as the header: it is counted and left out. Attribute values that cannot be read become
null and are counted too. A damaged or cut file raises an error, so that no part of an import counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alerce_spark import sky
from alerce_spark.crossmatch.catalogs import Catalog
from alerce_spark.tablefiles import Positions, TableFile, TableFileError, opened
from alerce_spark.tablefiles.values import ids, numbers, words

BROKEN, NO_ID, NO_POSITION = "broken line", "no id", "no position"


@dataclass
class Counts:
    """Counts of the rows of a file: all, bad ones by reason, values that became null, and remarks."""

    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Number of good rows."""
        return self.rows - self.bad.total()

    def __str__(self) -> str:
        """Bad rows by reason and null values by column, in words."""
        reasons = [f"{n} {reason}" for reason, n in self.bad.most_common() if n]
        values = [f"{n} unreadable values of {name}" for name, n in self.unreadable.most_common() if n]
        return ", ".join([f"{self.kept} of {self.rows} rows kept", *reasons, *values])


def schema(catalog: Catalog) -> pa.Schema:
    """Columns of the rows of a catalogue: index, id, position [deg], proper motions if it has them, attributes."""
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
    """Good rows of files and HATS folders, in chunks with the columns of `schema`; updates `counts`.

    Raises TableFileError for a file that cannot be read or lacks the id or position.
    """
    for path in paths:
        for part in _files(path):
            with opened(part) as file:
                chosen = _choose(file, catalog)
                for chunk in file.chunks(chosen.all()):
                    yield _good(file, chosen, chunk, catalog, counts)
                counts.rows += file.broken
                counts.bad[BROKEN] += file.broken
                counts.notes += [*file.notes, *chosen.positions.notes()]
                if file.broken:
                    counts.notes.append(f"{part}: {file.first_broken}")


def _files(path: Path) -> list[Path]:
    """The file itself, or the Parquet files of a HATS catalogue (of a collection: of its primary one)."""
    if not path.is_dir():
        return [path]
    collection = path / "collection.properties"
    if collection.is_file():
        settings = dict(line.split("=", 1) for line in collection.read_text().splitlines() if "=" in line)
        path = path / settings.get("hats_primary_table_url", "").strip()
    found = sorted(file for file in (path / "dataset").rglob("*.parquet") if _is_data(file))
    if not found:
        raise TableFileError(f"{path} is a folder without a HATS catalogue: it has no Parquet files under dataset/")
    return found


def _is_data(file: Path) -> bool:
    """Whether a Parquet file holds rows of a HATS catalogue, not its metadata or the sample of its rows."""
    return not file.name.startswith(("_", ".")) and file.name != "data_thumbnail.parquet"


@dataclass(frozen=True)
class _Chosen:
    """Columns of a file by their role; None if the file lacks them."""

    id: str
    positions: Positions
    motion: tuple[str | None, ...]
    attributes: dict[str, str | None]
    factors: dict[str, float]  # from the unit of a column to that of the settings

    def all(self) -> list[str]:
        """Every column to read, once."""
        columns = (self.id, *self.positions.columns, *self.motion, *self.attributes.values())
        return list(dict.fromkeys(c for c in columns if c))


def _choose(file: TableFile, catalog: Catalog) -> _Chosen:
    needed = {"id": catalog.id, "right ascension": catalog.ra, "declination": catalog.dec}
    found = {what: file.find(spellings) for what, spellings in needed.items()}
    missing = [f"{what} ({', '.join(needed[what])})" for what, column in found.items() if column is None]
    if missing:
        raise TableFileError(
            f"{file.path} has no column for {', '.join(missing)}; its columns are {', '.join(file.names)}"
        )
    attributes = {name: file.find(a.names) for name, a in catalog.attributes.items()}
    motion = tuple(file.find(spellings) if spellings else None for spellings in (catalog.pmra, catalog.pmdec))
    by_name = [str(column) for column in found.values()]
    units_of = [(column, "mas/yr") for column in motion] + [
        (attributes[name], a.unit) for name, a in catalog.attributes.items() if a.type == "number"
    ]
    factors = {column: file.factor(column, unit) for column, unit in units_of if column is not None}
    return _Chosen(by_name[0], file.positions(by_name[1:]), motion, attributes, factors)


def _good(file: TableFile, chosen: _Chosen, chunk: pa.Table, catalog: Catalog, counts: Counts) -> pa.Table:
    counts.rows += len(chunk)
    source_id = ids(chunk[chosen.id], f"{file.path}: {chosen.id}")
    ra, dec = chosen.positions.of(chunk)
    has_id = source_id.is_valid().to_numpy(zero_copy_only=False)
    placed = np.isfinite(ra)
    counts.bad[NO_ID] += int((~has_id).sum())
    counts.bad[NO_POSITION] += int((has_id & ~placed).sum())
    good = has_id & placed
    values: dict[str, pa.Array] = {"source_id": source_id, "ra": pa.array(ra), "dec": pa.array(dec)}

    def number(column: str | None, name: str) -> pa.Array:
        if column is None:
            return pa.nulls(len(chunk), pa.float64())
        found, unreadable = numbers(chunk[column], f"{file.path}: {column}")
        counts.unreadable[name] += int((good & unreadable.to_numpy(zero_copy_only=False)).sum())
        factor = chosen.factors[column]
        return found if factor == 1.0 else pc.multiply(found, factor)

    if catalog.moves:
        pmra, pmdec = (number(c, n) for c, n in zip(chosen.motion, ("pmra", "pmdec"), strict=True))
        values |= _motions(pmra, pmdec, catalog, counts, good)
    for name, attribute in catalog.attributes.items():
        column = chosen.attributes[name]
        if attribute.type == "number":
            values[name] = number(column, name)
        else:
            values[name] = pa.nulls(len(chunk), pa.string()) if column is None else words(chunk[column])
    kept = pa.table(values).filter(pa.array(good))
    index = pa.array(sky.healpix(kept["ra"].to_numpy(), kept["dec"].to_numpy()))
    target = schema(catalog)
    return pa.Table.from_arrays([index, *(kept[name] for name in target.names[1:])], schema=target)


def _motions(
    pmra: pa.Array, pmdec: pa.Array, catalog: Catalog, counts: Counts, good: np.ndarray
) -> dict[str, pa.Array]:
    """Proper motions; both are null if one is missing or they are faster than `pm_max`."""
    east, north = (pm.fill_null(np.nan).to_numpy(zero_copy_only=False) for pm in (pmra, pmdec))
    total = np.hypot(east, north)
    too_fast = good & (total > catalog.pm_max)
    counts.unreadable["proper motion beyond pm_max"] += int(too_fast.sum())
    known = np.isfinite(total) & ~too_fast
    return {name: pa.array(pm, mask=~known) for name, pm in (("pmra", east), ("pmdec", north))}
