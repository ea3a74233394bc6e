"""Labels from the files of the eleven sources and from plain tables of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alerce_spark.classifiers.taxonomy import LIGHTCURVE_CLASSES
from alerce_spark.tablefiles import OIDS, TableFile, TableFileError, opened, position_columns, positions_wanted
from alerce_spark.tablefiles.values import ids, numbers, words
from alerce_spark.training.catalogs.mappings import SOURCES, SPELLINGS, Source, squash

#: Columns of labels read from a source.
LABELS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("ra", pa.float64(), nullable=False, metadata={"unit": "deg"}),
        pa.field("dec", pa.float64(), nullable=False, metadata={"unit": "deg"}),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("original_class", pa.string(), nullable=False),
    ]
)

_NO_CLASS = "(none)"  # how a row without a class appears in a report


@dataclass(frozen=True)
class ReadReport:
    """Counts of the rows of a file: rows = kept + bad + cut + those of dropped + those of unmapped classes."""

    source: str
    path: Path
    format: str
    rows: int
    kept: int
    bad: int  # broken, or without a position that can be read
    cut: int  # below the quality cut of the source
    dropped: Mapping[str, int] = field(default_factory=dict)  # classes of the source left out on purpose
    unmapped: Mapping[str, int] = field(default_factory=dict)  # classes of the source missing from our mapping
    notes: tuple[str, ...] = ()  # remarks on reading the file

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.kept} of {self.rows} rows of {self.path} ({self.format})"]
        if self.bad:
            lines.append(f"  {self.bad} without a readable position")
        if self.cut:
            lines.append(f"  {self.cut} below the quality cut")
        for what, counts in (("left out", self.dropped), ("NOT KNOWN to the mapping", self.unmapped)):
            if counts:
                listed = ", ".join(f"{name} {n}" for name, n in counts.items())
                lines.append(f"  {sum(counts.values())} of classes {what}: {listed}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class _Columns:
    """Columns of one file by their meaning."""

    id: str | None
    label: str | None
    quality: str | None
    position: list[str]

    def all(self) -> list[str]:
        return list(dict.fromkeys(c for c in (self.id, self.label, self.quality, *self.position) if c))


def read(source_name: str, path: Path | str) -> tuple[pa.Table, ReadReport]:
    """Labels of one file of a source (schema `LABELS`, in the order of the file), and a report of rows left out.

    Rows without a readable position, below the source's quality cut, or of a class that maps to none of our 15 are
    counted, not an error. Raises TableFileError for an unknown source, an unreadable file or missing columns.
    """
    if source_name not in SOURCES:
        raise TableFileError(f"no label source {source_name!r}; there are {', '.join(SOURCES)}")
    source, path = SOURCES[source_name], Path(path)
    with opened(path) as file:
        columns = _choose(source_name, source, file)
        positions = file.positions(columns.position)
        table = pa.concat_tables(list(file.chunks(columns.all())))
    ra, dec = positions.of(table)
    size = len(table)
    own = ids(table[columns.id], f"{path}: {columns.id}") if columns.id else pa.nulls(size, pa.string())
    own = pc.coalesce(own, pa.array(np.arange(1, size + 1).astype(str), pa.string()))
    original = words(table[columns.label]) if columns.label else pa.nulls(size, pa.string())
    if source.every:
        original = original.fill_null(source.original)
    bad = np.isnan(ra)
    cut = np.zeros(size, bool)
    if source.at_least and columns.quality:
        quality, _ = numbers(table[columns.quality], columns.quality)
        cut = ~bad & ~pc.greater_equal(quality, source.at_least[1]).fill_null(False).to_numpy(zero_copy_only=False)
    classes, dropped, unmapped = _map(source, original, ~bad & ~cut)
    keep = ~bad & ~cut & classes.is_valid().to_numpy(zero_copy_only=False)
    labels = pa.table([pa.repeat(source_name, size), own, ra, dec, classes, original], names=LABELS.names).filter(
        pa.array(keep)
    )
    return labels.cast(LABELS), ReadReport(
        source_name,
        path,
        file.format,
        size + file.broken,
        len(labels),
        int(bad.sum()) + file.broken,
        int(cut.sum()),
        dropped,
        unmapped,
        (*file.notes, *positions.notes()),
    )


def _choose(name: str, source: Source, file: TableFile) -> _Columns:
    quality = file.find(source.at_least[0]) if source.at_least else None
    columns = _Columns(file.find(source.ids), file.find(source.labels), quality, position_columns(file.names))
    missing = []
    if not columns.position:
        missing.append(f"a position ({positions_wanted()})")
    if not columns.label and not source.every:
        missing.append(f"a class ({', '.join(source.labels)})")
    if source.at_least and not quality:
        missing.append(f"a class probability ({', '.join(source.at_least[0])})")
    if missing:
        raise TableFileError(
            f"{file.path} has no column for {' and none for '.join(missing)} of {name}; "
            f"its columns are {', '.join(file.names)}"
        )
    return columns


def _map(
    source: Source, original: pa.Array, counted: NDArray[np.bool_]
) -> tuple[pa.Array, dict[str, int], dict[str, int]]:
    """Our class of each row (null: none), and counts of source classes left out on purpose and of unmapped ones."""
    encoded = original.fill_null("").dictionary_encode()
    own: list[str] = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    counts = np.bincount(codes[counted], minlength=len(own))
    ours: list[str | None] = []
    dropped, unmapped = Counter[str](), Counter[str]()
    for name, count in zip(own, counts.tolist(), strict=True):
        key = source.key(name)
        ours.append(source.classes.get(key, source.every))
        if ours[-1] is None and count:
            (dropped if key in source.classes else unmapped)[name or _NO_CLASS] += count
    classes = pa.array(ours, pa.string()).take(pa.array(codes))
    return classes, dict(dropped.most_common()), dict(unmapped.most_common())


def read_labels(path: Path | str) -> pa.Table:
    """Columns oid, class_name of a plain table of labels in any format of `tablefiles`, classes in our spelling.

    The columns may be called oid or objectId, and class_name, classALeRCE or class. Upstream's older names of classes
    (Ceph, EA, EB/EW, RSCVn, SNIIn, …) become ours. Raises TableFileError for missing columns, no rows, rows that are
    broken or without a name or class, unknown classes, and objects with two different classes; equal repeats are kept
    once.
    """
    path = Path(path)
    with opened(path) as file:
        found = file.need(oid=OIDS, class_name=("class_name", "classALeRCE", "class"))
        table = file.table(list(found.values()))
    if not len(table):
        raise TableFileError(f"{path} holds no labels, only a header")
    oid, classes = ids(table[found["oid"]], f"{path}: {found['oid']}"), words(table[found["class_name"]])
    for name, column in (("oid", oid), ("class_name", classes)):
        if column.null_count:
            row = pc.index(column.is_null(), True).as_py() + 1
            raise TableFileError(f"{path}: {column.null_count} rows have no {found[name]}, first in row {row}")
    labels = pa.table({"oid": oid, "class_name": _normalise(path, classes)}).group_by(
        ["oid", "class_name"], use_threads=False
    )
    unique = labels.aggregate([])
    twice = _repeated(unique["oid"])
    if twice:
        raise TableFileError(f"{path}: {len(twice)} objects have two different classes: {_listed(twice)}")
    return unique


def read_oids(path: Path | str) -> list[str]:
    """Distinct object ids of a table with a column oid or objectId. Raises TableFileError if it has none."""
    with opened(path) as file:
        column = file.need(oid=OIDS)["oid"]
        oids = ids(file.table([column])[column], f"{path}: {column}").unique().drop_null().to_pylist()
    if not oids:
        raise TableFileError(f"{path} names no objects")
    return list(oids)


def _normalise(path: Path, classes: pa.Array) -> pa.Array:
    known = {squash(name): name for name in LIGHTCURVE_CLASSES} | SPELLINGS
    encoded = classes.dictionary_encode()
    own: list[str] = encoded.dictionary.to_pylist()
    unknown = sorted(name for name in own if squash(name) not in known)
    if unknown:
        raise TableFileError(f"{path}: unknown classes {_listed(unknown)}; there are {', '.join(LIGHTCURVE_CLASSES)}")
    return pa.array([known[squash(name)] for name in own], pa.string()).take(encoded.indices)


def _repeated(oid: pa.ChunkedArray) -> list[str]:
    counts = oid.value_counts()
    return list(counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist())


def _listed(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
