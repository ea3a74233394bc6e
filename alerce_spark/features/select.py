"""Which detections of which objects enter the features (docs/features.md, "Selection"), from flat columns to `Objects`.

Columns have ALeRCE's names. Required: `oid` (or `objectId`), `mjd`, `fid`, `magpsf`, `sigmapsf`. Used where present:
`candid`, `has_stamp`, `parent_candid` (which copy of a detection counts); `isdiffpos` (absent: all positive);
`magpsf_corr`, `sigmapsf_corr_ext`, `corrected` (absent: the difference photometry is used); `ra`, `dec`, `rb`,
`sgscore1` (absent: NaN, and no cut on rb). Upper limits: `oid`, `mjd`, `fid`, `diffmaglim`. AllWISE: `oid`, `w1mpro` …
`w4mpro`. Forced photometry is not used (docs/differences.md D24).

The rules apply in this order; the order of the rows changes nothing:

1. One row for each (oid, candid): an alert's own before a copy in a later packet, then the smallest carrier (D10).
2. One row for each (oid, mjd): own before copy, then the best rb, then the smallest candid (D10).
3. An object is corrected if the first detection of every band is (D22); then magpsf_corr and sigmapsf_corr_ext are its
   magnitudes and errors, else magpsf and sigmapsf.
4. Rows in which a needed number is null, infinite or a code (100, −999) are dropped; sgscore1 may be null (D23).
5. 0 < error < 1 and rb ≥ 0.55.
6. Objects keep their detections only with at least 6 in g or at least 6 in r (D9). Others remain as empty objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alerce_spark.alerts.model import sign
from alerce_spark.errors import InputError
from alerce_spark.features.curves import BANDS, Curves, Float, Int, Limits, Objects

Columns: TypeAlias = Mapping[str, NDArray[Any]] | pa.Table
Bool = NDArray[np.bool_]

REQUIRED = ("mjd", "fid", "magpsf", "sigmapsf")
REQUIRED_LIMITS = ("mjd", "fid", "diffmaglim")
#: Least number of detections in g or in r (paper §3.3, docs/differences.md D9).
MIN_DETECTIONS = 6
MIN_RB = 0.55
MAX_ERROR = 1.0
#: Magnitudes outside this range are codes for "none": 100, 99, −99, −999.
MAG_RANGE = (-50.0, 90.0)

_WISE = ("w1mpro", "w2mpro", "w3mpro", "w4mpro")
_LIMIT_KEY = 1e-5  # upper limits of one epoch agree in mjd to this [d]


class _Rows:
    """Columns of one table as float64 (or int64 ids), from any input type."""

    def __init__(self, columns: Columns, required: Sequence[str], what: str) -> None:
        names = columns.schema.names if isinstance(columns, pa.Table) else list(columns)
        if missing := [name for name in required if name not in names]:
            raise InputError(f"{what} lack the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
        self._columns = columns
        self.names = frozenset(names)
        self.size = len(columns[required[0]])

    def array(self, name: str) -> pa.Array:
        """The column as one Arrow array."""
        column = self._columns[name]
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if not isinstance(column, pa.Array):
            column = pa.array(column, from_pandas=True)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column

    def floats(self, name: str, absent: float = np.nan) -> Float:
        """The column as float64, NaN where null; `absent` everywhere if there is no such column."""
        if name not in self.names:
            return np.full(self.size, absent)
        column = self._columns[name]
        if isinstance(column, np.ndarray) and column.dtype.kind in "iufb":
            return column.astype(np.float64)
        return pc.cast(self.array(name), pa.float64()).to_numpy(zero_copy_only=False)

    def ids(self, name: str) -> Int:
        """The column as int64, never via floating point; −1 where null, 0 if there is no such column."""
        if name not in self.names:
            return np.zeros(self.size, np.int64)
        column = self._columns[name]
        if isinstance(column, np.ndarray) and column.dtype.kind in "iu":
            return column.astype(np.int64)
        return pc.fill_null(pc.cast(self.array(name), pa.int64()), -1).to_numpy(zero_copy_only=False)

    def flags(self, name: str, absent: bool) -> Bool:
        """The column as booleans, null is false; `absent` everywhere if there is no such column."""
        return np.asarray(self.floats(name, float(absent)) == 1.0)

    def signs(self) -> Float:
        """`isdiffpos` as +1, −1 or NaN; +1 everywhere if there is no such column."""
        if "isdiffpos" not in self.names:
            return np.ones(self.size)
        column = self._columns["isdiffpos"]
        kind = column.type if isinstance(column, pa.Array | pa.ChunkedArray) else column.dtype
        numeric = kind.kind in "iufb" if isinstance(kind, np.dtype) else pa.types.is_primitive(kind)
        if numeric:
            values = self.floats("isdiffpos")
            return np.select([values == 1.0, (values == 0.0) | (values == -1.0)], [1.0, -1.0], np.nan)
        return pc.cast(sign(self.array("isdiffpos")), pa.float64()).to_numpy(zero_copy_only=False)


def select(detections: Columns, non_detections: Columns | None = None, xmatch: Columns | None = None) -> Objects:
    """Objects of flat tables whose rows are in any order, sorted by oid; see the module for columns and rules.

    Every oid of `detections` appears; upper limits and matches of other oids are ignored. Raises ValueError that lists
    the required columns that are missing.
    """
    key = _oid_name(detections)
    oid, group = _factorise(_Rows(detections, (key, *REQUIRED), "detections").array(key))
    limits = limit_group = None
    if non_detections is not None:
        limit_key = _oid_name(non_detections)
        limits = _Rows(non_detections, (limit_key, *REQUIRED_LIMITS), "non-detections")
        limit_group = _look_up(oid, limits.array(limit_key))
    wise = np.full((len(_WISE), len(oid)), np.nan)
    if xmatch is not None:
        match_key = _oid_name(xmatch)
        rows = _Rows(xmatch, (match_key,), "cross-matches")
        place = _look_up(oid, rows.array(match_key))
        values = np.array([rows.floats(name) for name in _WISE])
        # of several matches of one object the brightest in W1 counts, so that their order does not
        order = np.lexsort((*values[::-1], place))[::-1]
        order = order[place[order] >= 0]
        wise[:, place[order]] = values[:, order]
    return _build(oid, group, _Rows(detections, REQUIRED, "detections"), limits, limit_group, wise)


def from_offsets(
    oid: NDArray[np.object_],
    offsets: Int,
    detections: Columns,
    limit_offsets: Int | None = None,
    non_detections: Columns | None = None,
    xmatch: Mapping[str, Float] | None = None,
) -> Objects:
    """Objects of grouped rows: object i has rows `offsets[i]:offsets[i + 1]` of each column.

    Same columns (without `oid`), rules and errors as `select`; the objects keep their order. `xmatch` has one value per
    object, NaN without a match.
    """
    rows = _Rows(detections, REQUIRED, "detections")
    group = np.repeat(np.arange(len(oid)), np.diff(offsets))
    limits = limit_group = None
    if non_detections is not None and limit_offsets is not None:
        limits = _Rows(non_detections, REQUIRED_LIMITS, "non-detections")
        limit_group = np.repeat(np.arange(len(oid)), np.diff(limit_offsets))
    nothing = np.full(len(oid), np.nan)
    wise = np.array([nothing if xmatch is None else xmatch.get(name, nothing) for name in _WISE])
    return _build(oid, group, rows, limits, limit_group, wise)


def _oid_name(columns: Columns) -> str:
    names = columns.schema.names if isinstance(columns, pa.Table) else columns
    return "objectId" if "objectId" in names and "oid" not in names else "oid"


def _factorise(values: pa.Array) -> tuple[NDArray[np.object_], Int]:
    """Sorted distinct values and the position of each row's value among them."""
    encoded = values.dictionary_encode()
    distinct = np.array(encoded.dictionary.to_pylist(), dtype=object)
    order = np.argsort(distinct, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return distinct[order], place[encoded.indices.to_numpy(zero_copy_only=False)]


def _look_up(oid: NDArray[np.object_], values: pa.Array) -> Int:
    """Position in `oid` of each value, −1 if absent."""
    place = {name: k for k, name in enumerate(oid)}
    encoded = values.dictionary_encode()
    known = np.array([place.get(name, -1) for name in encoded.dictionary.to_pylist()], dtype=np.int64)
    return known[encoded.indices.to_numpy(zero_copy_only=False)] if len(values) else np.empty(0, np.int64)


def _build(
    oid: NDArray[np.object_], group: Int, rows: _Rows, limits: _Rows | None, limit_group: Int | None, wise: Float
) -> Objects:
    """Apply the rules; `group` is the object of each detection, `limit_group` that of each upper limit or −1."""
    n = len(oid)
    data = _columns(rows)
    keep, corrected = _distinct(n, group, data)
    group = group[keep]
    data = {name: values[keep] for name, values in data.items()}
    use = corrected[group]
    data["mag"] = np.where(use, data["magpsf_corr"], data["magpsf"])
    data["err"] = np.where(use, data["sigmapsf_corr_ext"], data["sigmapsf"])
    good = _usable(rows, data)
    counts = np.array([np.bincount(group[good & (data["fid"] == band)], minlength=n) for band in BANDS])
    enough = np.any(counts >= MIN_DETECTIONS, axis=0)
    good &= enough[group]
    group = group[good]
    data = {name: values[good] for name, values in data.items()}
    limit_curves = [_limits(n, limits, limit_group, enough, band) for band in BANDS]
    bands = [_curves(n, group, data, data["fid"] == band) for band in BANDS]
    return Objects(
        oid=oid,
        bands=(bands[0], bands[1]),
        both=_curves(n, group, data, np.ones(len(group), np.bool_)),
        limits=(limit_curves[0], limit_curves[1]),
        corrected=corrected,
        meanra=_mean_angle(n, group, data["ra"]),
        meandec=_mean(n, group, data["dec"]),
        rb=_median(n, group, data["rb"]),
        sgscore1=_median(n, group, np.where(data["sgscore1"] < 0.0, np.nan, data["sgscore1"])),
        **{f"w{k}": np.where(enough, values, np.nan) for k, values in enumerate(wise, 1)},
    )


def _columns(rows: _Rows) -> dict[str, NDArray[Any]]:
    names = ("magpsf", "sigmapsf", "magpsf_corr", "sigmapsf_corr_ext", "mjd", "fid", "ra", "dec", "rb", "sgscore1")
    data: dict[str, NDArray[Any]] = {name: rows.floats(name) for name in names}
    data["sign"] = rows.signs()
    data["candid"] = rows.ids("candid")
    data["parent"] = rows.ids("parent_candid")
    data["own"] = rows.flags("has_stamp", True) & (data["parent"] <= 0)
    photometry = {"magpsf_corr", "sigmapsf_corr_ext"} <= rows.names
    data["corrected"] = rows.flags("corrected", False) & photometry
    return data


def _distinct(n: int, group: Int, data: dict[str, NDArray[Any]]) -> tuple[Int, Bool]:
    """Rules 1 to 3: rows to keep, sorted by object and mjd, and whether each of n objects is corrected."""
    rank = (data["parent"], ~data["own"])
    values = tuple(data[name] for name in ("sgscore1", "dec", "ra", "sigmapsf_corr_ext", "magpsf_corr", "sign"))
    values += tuple(data[name] for name in ("sigmapsf", "magpsf", "fid", "mjd"))
    best = -np.nan_to_num(data["rb"], nan=-np.inf)
    keep = np.flatnonzero(np.isfinite(data["mjd"]) & np.isfinite(data["fid"]))
    named = data["candid"][keep] > 0
    candid = np.sort(data["candid"][keep[named]])
    if (candid[1:] == candid[:-1]).any():
        distinct = _first_of(keep[named], group, data["candid"], (*values, best, *rank))
        keep = np.concatenate((distinct, keep[~named]))
    keep = _first_of(keep, group, data["mjd"], (*values, *rank[:1], data["candid"], best, *rank[1:]))
    pair = group[keep] * np.int64(1 << 16) + data["fid"][keep].astype(np.int64)
    first = np.unique(pair, return_index=True)[1]
    uncorrected = group[keep][first][~data["corrected"][keep][first]]
    corrected = np.bincount(group[keep], minlength=n) > 0
    corrected[uncorrected] = False
    return keep, corrected


def _first_of(rows: Int, group: Int, key: NDArray[Any], rank: tuple[NDArray[Any], ...]) -> Int:
    """Of `rows` with equal (group, key) the first by `rank`, whose last array weighs most; sorted by (group, key)."""
    order = rows[np.argsort(key[rows])]
    owner = group[order]
    # sixteen bits are sorted by radix, several times faster; ties in both keys are settled below
    order = order[np.argsort(owner.astype(np.uint16) if owner.max(initial=0) < 1 << 16 else owner, kind="stable")]
    again = (np.diff(group[order]) == 0) & (np.diff(key[order]) == 0)
    if not again.any():
        return order
    several = np.concatenate((again, [False])) | np.concatenate(([False], again))
    tied = order[several]
    order[several] = tied[np.lexsort((*(values[tied] for values in rank), key[tied], group[tied]))]
    return order[np.concatenate(([True], ~again))]


def _usable(rows: _Rows, data: dict[str, NDArray[Any]]) -> Bool:
    """Rules 4 and 5, and the cut to the bands of the features."""
    good = np.isin(data["fid"], BANDS) & np.isfinite(data["sign"])
    for name in ("mag", "magpsf"):
        good &= (data[name] > MAG_RANGE[0]) & (data[name] < MAG_RANGE[1])
    for name in ("sigmapsf", *(name for name in ("ra", "dec", "rb") if name in rows.names)):
        good &= np.isfinite(data[name])
    good &= (data["err"] > 0.0) & (data["err"] < MAX_ERROR)
    if "rb" in rows.names:
        good &= data["rb"] >= MIN_RB
    return good


def _offsets(n: int, group: Int) -> Int:
    return np.searchsorted(group, np.arange(n + 1)).astype(np.int64)


def _curves(n: int, group: Int, data: dict[str, NDArray[Any]], rows: Bool) -> Curves:
    columns = {
        name: np.ascontiguousarray(data[name][rows]) for name in ("mjd", "mag", "err", "magpsf", "sigmapsf", "sign")
    }
    return Curves(offsets=_offsets(n, group[rows]), fid=data["fid"][rows].astype(np.int64), **columns)


def _limits(n: int, rows: _Rows | None, group: Int | None, enough: Bool, band: int) -> Limits:
    """Upper limits of one band of the selected objects; one per epoch, the faintest if copies differ."""
    if rows is None or group is None:
        return Limits(np.zeros(n + 1, np.int64), np.empty(0), np.empty(0))
    mjd, limit = rows.floats("mjd"), rows.floats("diffmaglim")
    good = (group >= 0) & np.isfinite(mjd) & (limit > 0.0) & (limit < MAG_RANGE[1]) & (rows.floats("fid") == band)
    good[good] &= enough[group[good]]
    mjd, limit, group = mjd[good], limit[good], group[good]
    order = np.lexsort((-limit, np.rint(mjd / _LIMIT_KEY), group))
    mjd, limit, group = mjd[order], limit[order], group[order]
    first = np.ones(len(mjd), np.bool_)
    first[1:] = (np.diff(group) != 0) | (np.diff(np.rint(mjd / _LIMIT_KEY)) != 0)
    return Limits(_offsets(n, group[first]), mjd[first], limit[first])


def _mean(n: int, group: Int, values: Float) -> Float:
    """Mean of each group of sorted `group`, taken about its first value; NaN where empty."""
    counts = np.bincount(group, minlength=n)
    zero = np.zeros(n)
    filled = counts > 0
    zero[filled] = values[np.searchsorted(group, np.flatnonzero(filled))]
    excess = np.bincount(group, values - zero[group], minlength=n)
    out = np.full(n, np.nan)
    out[filled] = zero[filled] + excess[filled] / counts[filled]
    return out


def _mean_angle(n: int, group: Int, degrees: Float) -> Float:
    """Mean right ascension [deg, 0 to 360): like `_mean`, but correct for objects on both sides of 0/360."""
    start = degrees[np.searchsorted(group, group)] if len(group) else degrees
    return (_mean(n, group, start + (degrees - start + 180.0) % 360.0 - 180.0)) % 360.0


def _median(n: int, group: Int, values: Float) -> Float:
    """Median of the finite values of each group; NaN without any."""
    good = np.isfinite(values)
    group, values = group[good], values[good]
    values = values[np.lexsort((values, group))]
    group = np.sort(group)
    start = _offsets(n, group)
    count = np.diff(start)
    out = np.full(n, np.nan)
    filled = count > 0
    low = start[:-1][filled] + (count[filled] - 1) // 2
    high = start[:-1][filled] + count[filled] // 2
    out[filled] = 0.5 * (values[low] + values[high])
    return out
