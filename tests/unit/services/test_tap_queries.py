"""Conditions, orders and cones in ADQL against polars and astropy, which try every row."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import requests
from astropy.coordinates import angular_separation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.served import Served
from tests.small_lake import AWKWARD

_NUMBERS = ("ndet", "firstmjd", "lastmjd", "meandec", "g_r_max", "deltajd")
_LAKE = {"deltajd": "deltamjd"}
_COMPARISONS = {"<": pl.Expr.lt, "<=": pl.Expr.le, ">": pl.Expr.gt, ">=": pl.Expr.ge, "=": pl.Expr.eq, "<>": pl.Expr.ne}
_slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _asked(served: Served, query: str) -> list[dict[str, Any]]:
    asked = {"LANG": "ADQL", "QUERY": query, "FORMAT": "json"}
    reply = requests.post(f"{served.url}/tap/sync", data=asked, timeout=120)
    assert reply.status_code == 200, (query, reply.text)
    return list(reply.json())


def _separation(rows: pl.DataFrame, ra: str, dec: str, at: tuple[float, float]) -> np.ndarray:
    angles = (np.radians(rows[ra].to_numpy()), np.radians(rows[dec].to_numpy()), *np.radians(at))
    return np.degrees(angular_separation(*angles))


@st.composite
def _conditions(draw: st.DrawFn, rows: pl.DataFrame) -> tuple[str, pl.Expr]:
    """A condition in ADQL and in polars."""
    kind = draw(st.sampled_from(("compare", "between", "in", "null", "and", "or", "not")))
    if kind in ("and", "or", "not"):
        left, right = draw(_conditions(rows)), draw(_conditions(rows))
        if kind == "not":
            return f"NOT ({left[0]})", ~left[1]
        joined = left[1] & right[1] if kind == "and" else left[1] | right[1]
        return f"({left[0]}) {kind.upper()} ({right[0]})", joined
    if kind == "in":
        ids = draw(st.lists(st.sampled_from(rows["oid"].to_list()), min_size=1, max_size=4))
        listed = ", ".join(f"'{oid}'" for oid in ids)
        return f"oid IN ({listed})", pl.col("oid").is_in(ids)
    name = draw(st.sampled_from(_NUMBERS))
    column = pl.col(_LAKE.get(name, name))
    values = [v for v in rows[_LAKE.get(name, name)].to_list() if v is not None] or [0]
    value, other = draw(st.sampled_from(values)), draw(st.sampled_from(values))
    if kind == "null":
        return f"{name} IS NOT NULL", column.is_not_null()
    if kind == "between":
        low, high = sorted((value, other))
        return f"{name} BETWEEN {low!r} AND {high!r}", (column >= low) & (column <= high)
    sign = draw(st.sampled_from(sorted(_COMPARISONS)))
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(sign, sign)
    text = f"{name} {sign} {value!r}" if draw(st.booleans()) else f"{value!r} {flipped} {name}"
    return text, _COMPARISONS[sign](column, value)


@_slow
@given(st.data())
def test_conditions_and_orders(served: Served, data: st.DataObject) -> None:
    rows = served.table("objects")
    text, condition = data.draw(_conditions(rows))
    name, descending = data.draw(st.sampled_from(_NUMBERS)), data.draw(st.booleans())
    top = data.draw(st.integers(1, 30))
    order = f"ORDER BY {name} {'DESC' if descending else 'ASC'}, oid"
    found = _asked(served, f"SELECT TOP {top} oid FROM ztf.object WHERE {text} {order}")
    expected = rows.filter(condition).sort(
        _LAKE.get(name, name), "oid", descending=[descending, False], nulls_last=True
    )
    assert [row["oid"] for row in found] == expected["oid"].to_list()[:top]


_places = st.one_of(
    st.sampled_from([*AWKWARD, (0.0, 90.0), (180.0, -90.0), (360.0, 10.0), (200.0, 30.0)]),
    st.tuples(st.floats(0, 360), st.floats(-90, 90)),
)


@_slow
@given(at=_places, radius=st.sampled_from((0.0001, 0.001, 0.01, 0.3, 2.0, 45.0, 120.0)), table=st.sampled_from((0, 1)))
def test_cones(served: Served, at: tuple[float, float], radius: float, table: int) -> None:
    name, stored, ra, dec = (
        ("ztf.object", "objects", "meanra", "meandec"),
        ("ztf.detection", "detections", "ra", "dec"),
    )[table]
    rows = served.table(stored)
    inside = _separation(rows, ra, dec, at) <= radius
    place, centre = f"POINT('ICRS', {ra}, {dec})", f"POINT({at[0]!r}, {at[1]!r})"
    for condition in (
        f"1 = CONTAINS({place}, CIRCLE('ICRS', {at[0]!r}, {at[1]!r}, {radius!r}))",
        f"DISTANCE({centre}, {place}) <= {radius!r}",
        f"INTERSECTS({place}, CIRCLE({centre}, {radius!r})) = 1 AND COORD2({place}) > -91",
    ):
        found = _asked(served, f"SELECT oid FROM {name} WHERE {condition}")
        assert sorted(row["oid"] for row in found) == sorted(rows.filter(pl.Series(inside))["oid"].to_list())
    outside = _asked(
        served, f"SELECT COUNT(*) AS n FROM {name} WHERE 0 = CONTAINS({place}, CIRCLE({centre}, {radius!r}))"
    )
    assert outside == [{"n": len(rows) - int(inside.sum())}]


def test_polygons(served: Served) -> None:
    """A box around 200, 30 with sides on great circles, and triangles over ra 0 and over the pole."""
    rows = served.table("objects")
    for corners in (
        [(199.6, 29.6), (200.4, 29.6), (200.4, 30.4), (199.6, 30.4)],
        [(359.0, 9.0), (1.0, 9.0), (0.0, 11.5)],
        [(0.0, 85.0), (120.0, 85.0), (240.0, 85.0)],
    ):
        vectors = [_vector(*corner) for corner in corners]
        sides = [np.cross(a, b) for a, b in zip(vectors, [*vectors[1:], vectors[0]], strict=True)]
        at = np.stack([_vector(*place) for place in rows.select("meanra", "meandec").iter_rows()])
        signs = np.stack([at @ side for side in sides])
        inside = (signs > 0).all(axis=0) | ((signs < 0).all(axis=0) & (at @ np.sum(vectors, axis=0) > 0))
        assert inside.any()
        listed = ", ".join(f"{ra}, {dec}" for ra, dec in corners)
        query = f"SELECT oid FROM ztf.object WHERE 1 = CONTAINS(POINT(meanra, meandec), POLYGON('ICRS', {listed}))"
        assert {row["oid"] for row in _asked(served, query)} == set(rows.filter(pl.Series(inside))["oid"])


def _vector(ra: float, dec: float) -> np.ndarray:
    lon, lat = np.radians(ra), np.radians(dec)
    return np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def test_positions_of_two_tables(served: Served) -> None:
    """Every pair of objects within a radius, and within radii that differ from row to row."""
    rows = served.table("objects")
    query = (
        "SELECT * FROM ztf.object AS a JOIN ztf.object AS b "
        "ON DISTANCE(POINT(a.meanra, a.meandec), POINT(b.meanra, b.meandec)) < 0.5 WHERE a.oid < b.oid"
    )
    found = _asked(served, query)
    pairs = set()
    for one in rows.iter_rows(named=True):
        near = _separation(rows, "meanra", "meandec", (one["meanra"], one["meandec"])) < 0.5
        pairs |= {(one["oid"], oid) for oid in rows.filter(pl.Series(near))["oid"] if one["oid"] < oid}
    assert {(row["oid"], row["oid_1"]) for row in found} == pairs
    assert len(found) == len(pairs) > 0
    assert len(found[0]) == 2 * len(_asked(served, "SELECT TOP 1 * FROM ztf.object")[0])
    by_row = query.replace("< 0.5", "< a.ndet * 0.01")
    counted = _asked(served, by_row.replace("*", "COUNT(*) AS n", 1))
    expected = 0
    for one in rows.iter_rows(named=True):
        near = _separation(rows, "meanra", "meandec", (one["meanra"], one["meandec"])) < one["ndet"] * 0.01
        expected += sum(one["oid"] < oid for oid in rows.filter(pl.Series(near))["oid"])
    assert counted == [{"n": expected}]
