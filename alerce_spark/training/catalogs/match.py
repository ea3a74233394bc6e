"""Match labels to objects by position, choose one label per object by priority, and count disagreements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import healpy
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alerce_spark import sky
from alerce_spark.classifiers.taxonomy import LIGHTCURVE_CLASSES
from alerce_spark.training.catalogs.mappings import BAD_OIDS, MATCH_RADIUS, SOURCES
from alerce_spark.training.catalogs.read import LABELS, ReadReport, read

_PIXELS_PER_RADIUS = 8  # width of a pixel in radii: a disc then touches only a pixel and its neighbours
_HIGHEST_ORDER = 16
_LARGEST_RADIUS = 3600.0  # arcsec

_PRIORITY = {name: rank for rank, name in enumerate(SOURCES)}
_CODE = {name: code for code, name in enumerate(LIGHTCURVE_CLASSES)}


def match(labels: pa.Table, objects: pa.Table, radius_arcsec: float = MATCH_RADIUS) -> pa.Table:
    """Nearest label of each source within `radius_arcsec` of each object.

    `labels` as from `read` (of one or more sources), `objects` with oid, meanra, meandec [deg]. Columns: oid, label
    (row of `labels`), separation [arcsec], ambiguous (the source has another class there too), source, source_id,
    class_name, original_class; one row for an object and a
    source, ordered by object and then by priority. Of two labels at the same distance the earlier row counts; a
    label may match several objects (a star split in two by the survey). Objects without a position match nothing.
    Raises ValueError for a radius that is not in (0, 3600].
    """
    if not 0 < radius_arcsec <= _LARGEST_RADIUS:
        raise ValueError(f"a match radius must be in (0, {_LARGEST_RADIUS:g}] arcsec, not {radius_arcsec}")
    placed = np.flatnonzero(_finite(objects["meanra"]) & _finite(objects["meandec"]))
    where = objects.select(["meanra", "meandec"]).take(placed)
    ra, dec = (np.asarray(where[name].to_numpy(), float) for name in ("meanra", "meandec"))
    label_ra, label_dec = (labels[name].to_numpy() for name in ("ra", "dec"))
    label, found = _near(label_ra, label_dec, ra, dec, radius_arcsec)
    separation = sky.separation(label_ra[label], label_dec[label], ra[found], dec[found])
    near = separation <= radius_arcsec
    label, found, separation = label[near], found[near], separation[near]
    rank = _ranks(labels["source"])[label]
    order = np.lexsort((label, separation, rank, found))
    first = _first_of_runs(found[order], rank[order])
    chosen = order[first]
    # Whether any label of a run has another class than the nearest label, which counts.
    classes = _encode(labels["class_name"]).indices.to_numpy()[label[order]]
    run = np.cumsum(first) - 1
    ambiguous = np.bincount(run[classes != classes[first][run]], minlength=len(chosen)) > 0
    label, found, separation = label[chosen], found[chosen], separation[chosen]
    return pa.table(
        {
            "oid": objects["oid"].take(pa.array(placed[found])),
            "label": pa.array(label, pa.int64()),
            "separation": pa.array(separation, pa.float64()),
            "ambiguous": pa.array(ambiguous, pa.bool_()),
            **{name: labels[name].take(pa.array(label)) for name in LABELS.names if name not in ("ra", "dec")},
        }
    )


def _finite(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.is_finite(column).fill_null(False).to_numpy())


def _near(
    ra1: NDArray[np.float64],
    dec1: NDArray[np.float64],
    ra2: NDArray[np.float64],
    dec2: NDArray[np.float64],
    radius: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of rows of two lists that may lie within `radius` [arcsec]: those in equal or adjacent pixels."""
    order = _order(radius)
    pixel = sky.healpix(ra2, dec2, order)
    by_pixel = np.argsort(pixel, kind="stable")
    pixel = pixel[by_pixel]
    own = sky.healpix(ra1, dec1, order)
    rows = np.argsort(own)  # neighbours in the list of pixels are looked up one after another: nine times faster
    own = own[rows]
    first, second = [], []
    for around in (own, *healpy.get_all_neighbours(1 << order, own, nest=True)):
        low, high = np.searchsorted(pixel, around, "left"), np.searchsorted(pixel, around, "right")
        count = high - low  # a pixel at a corner of the faces has seven neighbours; its eighth, -1, holds nothing
        step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        first.append(np.repeat(rows, count))
        second.append(by_pixel[np.repeat(low, count) + step])
    return np.concatenate(first), np.concatenate(second)


def _order(radius: float) -> int:
    width = np.degrees(healpy.nside2resol(1)) * 3600
    return int(np.clip(np.floor(np.log2(width / (_PIXELS_PER_RADIUS * radius))), 0, _HIGHEST_ORDER))


def _ranks(source: pa.ChunkedArray) -> NDArray[np.int64]:
    """Priority of each row, 0 first. Raises ValueError for an unknown source."""
    encoded = _encode(source)
    unknown = [name for name in encoded.dictionary.to_pylist() if name not in _PRIORITY]
    if unknown:
        raise ValueError(f"no label sources {unknown}; there are {', '.join(SOURCES)}")
    rank = np.array([_PRIORITY[name] for name in encoded.dictionary.to_pylist()], np.int64)
    return rank[encoded.indices.to_numpy()]


def _encode(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return pa.concat_arrays(column.chunks or [pa.array([], column.type)]).dictionary_encode()


def _first_of_runs(*keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True where a sorted row differs from the one before in any key."""
    first = np.ones(len(keys[0]), bool)
    if len(first) > 1:
        first[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return first


def combine(matches: pa.Table) -> pa.Table:
    """One label for each object, from the source of highest priority, and the labels that disagree.

    `matches` as from `match` (several may be concatenated). Columns: oid, class_name, source, source_id,
    original_class, separation [arcsec], n_sources, conflicts (list of source and class_name of the sources that
    disagree, by priority). Objects in the order of their first match; the objects of `BAD_OIDS` are left out. Raises
    ValueError for unknown sources.
    """
    wrong = pc.is_in(matches["oid"].cast(pa.string()), pa.array(sorted(BAD_OIDS)))
    matches = matches.filter(pc.invert(wrong))
    oid, rank = _encode(matches["oid"]).indices.to_numpy(), _ranks(matches["source"])
    order = np.lexsort((matches["separation"].to_numpy(), rank, oid))
    order = order[_first_of_runs(oid[order], rank[order])]  # the nearest of each source
    rows, oid = matches.take(pa.array(order)), oid[order]
    starts = np.flatnonzero(_first_of_runs(oid))
    count = np.diff(np.append(starts, len(oid)))
    winner = np.repeat(starts, count)
    classes = _encode(rows["class_name"]).indices.to_numpy()
    differs = classes != classes[winner]
    conflicts = pa.StructArray.from_arrays(
        [pa.concat_arrays(rows[name].filter(pa.array(differs)).chunks or [pa.array([], pa.string())])
         for name in ("source", "class_name")],
        ["source", "class_name"],
    )  # fmt: skip
    offsets = np.append(0, np.cumsum(np.add.reduceat(differs, starts))) if len(starts) else np.zeros(1, int)
    chosen = rows.take(pa.array(starts))
    names = ["oid", "class_name", "source", "source_id", "original_class", "separation"]
    return chosen.select(names).append_column("n_sources", pa.array(count, pa.int32())).append_column(
        "conflicts", pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), conflicts)
    )  # fmt: skip


def label_matrix(matches: pa.Table) -> pa.Table:
    """Counts of pairs of classes that two sources give to common objects (paper, section 3.2).

    Columns: source_a, class_a, source_b, and one count for each of the 15 classes of source_b. Fifteen rows for each
    pair of sources with common objects; source_a has the higher priority. Raises ValueError for unknown sources or
    classes.
    """
    oid, rank = _encode(matches["oid"]).indices.to_numpy(), _ranks(matches["source"])
    encoded = _encode(matches["class_name"])
    unknown = sorted(set(encoded.dictionary.to_pylist()) - set(_CODE))
    if unknown:
        raise ValueError(f"no light-curve classes {unknown}; there are {', '.join(LIGHTCURVE_CLASSES)}")
    code = np.array([_CODE[name] for name in encoded.dictionary.to_pylist()], np.int64)[encoded.indices.to_numpy()]
    classes = np.full((int(oid.max(initial=-1)) + 1, len(SOURCES)), -1)
    far_first = np.argsort(-matches["separation"].to_numpy(), kind="stable")  # so that the nearest is written last
    classes[oid[far_first], rank[far_first]] = code[far_first]
    size = len(LIGHTCURVE_CLASSES)
    source_a, source_b, counts = [], [], [np.empty((0, size), np.int64)]
    for (a, name_a), (b, name_b) in combinations(enumerate(SOURCES), 2):
        both = (classes[:, a] >= 0) & (classes[:, b] >= 0)
        if both.any():
            pairs = np.bincount(classes[both, a] * size + classes[both, b], minlength=size * size)
            source_a += [name_a] * size
            source_b += [name_b] * size
            counts.append(pairs.reshape(size, size))
    dense = np.concatenate(counts)
    return pa.table(
        {
            "source_a": pa.array(source_a, pa.string()),
            "class_a": pa.array(list(LIGHTCURVE_CLASSES) * (len(source_a) // size), pa.string()),
            "source_b": pa.array(source_b, pa.string()),
            **{name: pa.array(dense[:, i], pa.int64()) for i, name in enumerate(LIGHTCURVE_CLASSES)},
        }
    )


def labels_from_files(
    files: Mapping[str, Path | Sequence[Path]], objects: pa.Table, radius_arcsec: float = MATCH_RADIUS
) -> tuple[pa.Table, list[ReadReport], pa.Table]:
    """Labels of objects (as from `combine`) from files of any sources, the reports of reading, the label matrix.

    `files` gives one file or several for each source name; `objects` has oid, meanra, meandec [deg].
    Raises TableFileError for an unknown source or a file that cannot be read.
    """
    tables, reports = [LABELS.empty_table()], []
    for name, paths in files.items():
        for path in [paths] if isinstance(paths, (str, Path)) else paths:
            labels, report = read(name, path)
            tables.append(labels)
            reports.append(report)
    matches = match(pa.concat_tables(tables), objects, radius_arcsec)
    reports = [_noted(report, matches, radius_arcsec) for report in reports]
    return combine(matches), reports, label_matrix(matches)


def _noted(report: ReadReport, matches: pa.Table, radius: float) -> ReadReport:
    """The report with a note on the number of objects with two classes of one source, and which class counts."""
    here = matches.filter(pc.and_(matches["ambiguous"], pc.equal(matches["source"], report.source)))
    if not len(here):
        return report
    note = (
        f"{report.source} gives {len(here)} objects more than one class within {radius} arcsec: the nearest row "
        f"counts, of equally near ones the first, for instance {here['class_name'][0]} for {here['oid'][0]}"
    )
    return replace(report, notes=(*report.notes, note))
