"""Geometry of ADQL in terms of separations on the sky: points, circles, polygons; which contains or meets which."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sqlglot import exp

#: Functions of the engine: separation [deg] by astropy's formula, dot product with a direction, zone of declination.
SEPARATION, DOT, ZONE = "sky_separation", "sky_dot", "sky_zone"
MACROS = (
    f"CREATE MACRO {DOT}(ra, dec, x, y, z) AS cos(radians(dec)) * (cos(radians(ra)) * x + sin(radians(ra)) * y) "
    "+ sin(radians(dec)) * z",
    f"CREATE MACRO {SEPARATION}(ra1, dec1, ra2, dec2) AS degrees(atan2(sqrt("
    "pow(cos(radians(dec2)) * sin(radians(ra2 - ra1)), 2) + pow(cos(radians(dec1)) * sin(radians(dec2)) "
    "- sin(radians(dec1)) * cos(radians(dec2)) * cos(radians(ra2 - ra1)), 2)), "
    "sin(radians(dec1)) * sin(radians(dec2)) + cos(radians(dec1)) * cos(radians(dec2)) * cos(radians(ra2 - ra1))))",
    f"CREATE MACRO {ZONE}(dec, height) AS TRY_CAST(floor(dec / height) AS BIGINT)",
)
FUNCTIONS = ("point", "circle", "polygon", "contains", "intersects", "distance", "coord1", "coord2")
_SYSTEMS = ("", "ICRS", "FK5", "J2000", "ICRS GEOCENTER", "ICRS BARYCENTER", "UNKNOWNFRAME")

Vector = NDArray[np.float64]


class Unsupported(Exception):
    """Unsupported use of geometry; `node` is its place."""

    def __init__(self, message: str, node: exp.Expr | None = None) -> None:
        super().__init__(message)
        self.node = node


@dataclass(frozen=True)
class Point:
    """A position [deg]."""

    ra: exp.Expr
    dec: exp.Expr

    @property
    def constant(self) -> tuple[float, float] | None:
        """Its coordinates as numbers; None where it has columns."""
        ra, dec = constant(self.ra), constant(self.dec)
        return None if ra is None or dec is None else (ra, dec)


@dataclass(frozen=True)
class Circle:
    """A disc, radius in degrees."""

    centre: Point
    radius: exp.Expr


@dataclass(frozen=True)
class Polygon:
    """A region between great circles, less than a hemisphere: unit vectors of its corners, the first one repeated."""

    corners: list[Vector]

    @property
    def around(self) -> tuple[tuple[float, float], float]:
        """Centre and radius [deg] of a disc around it."""
        middle = self._middle
        radius = max(math.degrees(math.acos(min(1.0, float(middle @ corner)))) for corner in self.corners)
        return _angles(middle), radius + 1e-9

    @property
    def _middle(self) -> Vector:
        middle = np.sum(self.corners[:-1], axis=0)
        return np.asarray(middle / np.linalg.norm(middle), float)


Shape = Point | Circle | Polygon


def number(value: float) -> exp.Expr:
    """A number as a double of the engine."""
    text = repr(abs(float(value)))
    literal = exp.Literal.number(text if "e" in text else f"{text}e0")
    return exp.Neg(this=literal) if value < 0 else literal


def call(name: str, *arguments: exp.Expr) -> exp.Expr:
    """A function of the engine, of copies of expressions."""
    return exp.Anonymous(this=name, expressions=[argument.copy() for argument in arguments])


_OPERATIONS: dict[type, Callable[[float, float], float]] = {
    exp.Add: lambda a, b: a + b,
    exp.Sub: lambda a, b: a - b,
    exp.Mul: lambda a, b: a * b,
    exp.Div: lambda a, b: a / b,
}


def constant(node: exp.Expr) -> float | None:
    """Value of an expression of numbers; None for other expressions."""
    if isinstance(node, exp.Literal) and not node.is_string:
        return float(node.this)
    if isinstance(node, exp.Paren):
        return constant(node.this)
    if isinstance(node, exp.Neg):
        value = constant(node.this)
        return None if value is None else -value
    operation = _OPERATIONS.get(type(node))
    if operation is None:
        return None
    left, right = constant(node.this), constant(node.expression)
    if left is None or right is None or (isinstance(node, exp.Div) and not _is_exact(node, left, right)):
        return None
    return operation(left, right)


def _is_exact(node: exp.Expr, left: float, right: float) -> bool:
    """Whether a quotient has the same value in the engine, which truncates quotients of whole numbers."""
    whole = all(isinstance(part, exp.Literal) and part.this.isdigit() for part in (node.this, node.expression))
    return right != 0 and not (whole and left % right)


def arguments(node: exp.Expr) -> list[exp.Expr]:
    """Arguments of a function of geometry, without the system of coordinates. Raises Unsupported for a foreign one."""
    if isinstance(node, exp.Contains):
        return [node.this, node.expression]
    given = list(node.expressions)
    if given and isinstance(given[0], exp.Literal) and given[0].is_string:
        if given[0].name.upper() not in _SYSTEMS:
            raise Unsupported(f"positions are ICRS; there is no {given[0].name!r} here", node)
        given = given[1:]
    return given


def name_of(node: exp.Expr) -> str | None:
    """Name of the function of geometry, if it is one."""
    if isinstance(node, exp.Contains):
        return "contains"
    return node.name.lower() if isinstance(node, exp.Anonymous) and node.name.lower() in FUNCTIONS else None


def shape(node: exp.Expr) -> Shape:
    """The shape that an expression makes. Raises Unsupported."""
    name = name_of(node)
    if name not in ("point", "circle", "polygon"):
        raise Unsupported("a POINT, CIRCLE or POLYGON is expected here", node)
    given = arguments(node)
    if name == "point":
        if len(given) != 2:
            raise Unsupported("POINT takes two coordinates", node)
        return Point(*given)
    if name == "circle":
        return _circle(node, given)
    return _polygon(node, given)


def point(node: exp.Expr) -> Point:
    """A point. Raises Unsupported."""
    made = shape(node)
    if not isinstance(made, Point):
        raise Unsupported("a POINT is expected here", node)
    return made


def _circle(node: exp.Expr, given: Sequence[exp.Expr]) -> Circle:
    if len(given) == 2:
        return Circle(point(given[0]), given[1])
    if len(given) != 3:
        raise Unsupported("CIRCLE takes a centre and a radius", node)
    return Circle(Point(given[0], given[1]), given[2])


def _polygon(node: exp.Expr, given: Sequence[exp.Expr]) -> Polygon:
    if given and all(name_of(corner) == "point" for corner in given):
        given = [angle for corner in given for angle in (point(corner).ra, point(corner).dec)]
    angles = [constant(angle) for angle in given]
    if len(angles) < 6 or len(angles) % 2:
        raise Unsupported("POLYGON takes three corners or more", node)
    known = [angle for angle in angles if angle is not None]
    if len(known) < len(angles):
        raise Unsupported("corners of a POLYGON must be numbers", node)
    corners = [_vector(*pair) for pair in zip(known[::2], known[1::2], strict=True)]
    if np.linalg.norm(np.sum(corners, axis=0)) < 1e-9:
        raise Unsupported("a POLYGON must be smaller than a hemisphere", node)
    made = Polygon([*corners, corners[0]])
    if made.around[1] >= 90:
        raise Unsupported("a POLYGON must be smaller than a hemisphere", node)
    return made


def distance(a: Point, b: Point) -> exp.Expr:
    """Separation [deg]."""
    return call(SEPARATION, a.ra, a.dec, b.ra, b.dec)


def contains(inner: Shape, outer: Shape, node: exp.Expr) -> exp.Expr:
    """Condition that one shape lies in another. Raises Unsupported."""
    if isinstance(outer, Circle):
        if isinstance(inner, Point):
            return _within(inner, outer.centre, outer.radius)
        if isinstance(inner, Circle):
            return exp.LTE(
                this=exp.Add(this=distance(inner.centre, outer.centre), expression=exp.paren(inner.radius)),
                expression=exp.paren(outer.radius),
            )
        return exp.and_(*(_within(_at(corner), outer.centre, outer.radius) for corner in inner.corners[:-1]))
    if isinstance(outer, Polygon) and isinstance(inner, Point):
        return _inside(inner, outer)
    if isinstance(outer, Polygon) and isinstance(inner, Circle):
        far = [exp.GTE(this=_to_edge(inner.centre, edge), expression=exp.paren(inner.radius)) for edge in _edges(outer)]
        return exp.and_(_inside(inner.centre, outer), *far)
    raise Unsupported("whether these shapes contain one another cannot be said here", node)


def intersects(a: Shape, b: Shape, node: exp.Expr) -> exp.Expr:
    """Condition that two shapes meet. Raises Unsupported."""
    if isinstance(a, Point) or (isinstance(a, Polygon) and isinstance(b, Circle)):
        a, b = b, a
    if isinstance(b, Point):
        return contains(b, a, node)
    if isinstance(a, Circle) and isinstance(b, Circle):
        return _within(a.centre, b.centre, exp.Add(this=exp.paren(a.radius), expression=exp.paren(b.radius)))
    if isinstance(a, Circle) and isinstance(b, Polygon):
        near = [exp.LTE(this=_to_edge(a.centre, edge), expression=exp.paren(a.radius)) for edge in _edges(b)]
        return exp.or_(_inside(a.centre, b), *near)
    raise Unsupported("whether two polygons meet cannot be said here", node)


def _within(a: Point, b: Point, radius: exp.Expr) -> exp.Expr:
    return exp.LTE(this=distance(a, b), expression=exp.paren(radius))


def _inside(at: Point, region: Polygon) -> exp.Expr:
    """Condition that a point lies in a polygon: the corners turn once around it. The disc around them chooses files."""
    turns = [
        exp.Anonymous(
            this="atan2",
            expressions=[_dot(at, np.cross(a, b)), exp.Sub(this=number(float(a @ b)), expression=_product(at, a, b))],
        )
        for a, b in pairwise(region.corners)
    ]
    total: exp.Expr = turns[0]
    for turn in turns[1:]:
        total = exp.Add(this=total, expression=turn)
    around, radius = region.around
    once = exp.GT(this=exp.Abs(this=total), expression=number(math.pi))
    return exp.and_(_within(at, Point(*map(number, around)), number(radius)), once)


def _product(at: Point, a: Vector, b: Vector) -> exp.Expr:
    return exp.Paren(this=exp.Mul(this=_paren(_dot(at, a)), expression=_paren(_dot(at, b))))


def _paren(node: exp.Expr) -> exp.Expr:
    return exp.Paren(this=node)


def _edges(region: Polygon) -> list[tuple[Vector, Vector]]:
    return list(pairwise(region.corners))


def _to_edge(at: Point, edge: tuple[Vector, Vector]) -> exp.Expr:
    """Distance [deg] of a point to a side: to its great circle, or to the nearer end where it lies beside it."""
    a, b = edge
    normal = np.cross(a, b)
    normal = normal / np.linalg.norm(normal)
    beside = exp.and_(
        exp.GTE(this=_dot(at, np.cross(normal, a)), expression=number(0)),
        exp.GTE(this=_dot(at, np.cross(b, normal)), expression=number(0)),
    )
    across = call("degrees", exp.Abs(this=call("asin", _dot(at, normal))))
    ends = call("least", distance(at, _at(a)), distance(at, _at(b)))
    return exp.Case(ifs=[exp.If(this=beside, true=across)], default=ends)


def _dot(at: Point, direction: Vector) -> exp.Expr:
    return call(DOT, at.ra, at.dec, *map(number, direction.tolist()))


def _at(direction: Vector) -> Point:
    return Point(*map(number, _angles(direction)))


def _vector(ra: float, dec: float) -> Vector:
    lon, lat = math.radians(ra), math.radians(dec)
    return np.array([math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)])


def _angles(direction: Vector) -> tuple[float, float]:
    x, y, z = direction.tolist()
    return math.degrees(math.atan2(y, x)) % 360, math.degrees(math.atan2(z, math.hypot(x, y)))
