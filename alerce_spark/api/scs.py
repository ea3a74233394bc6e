"""Simple Cone Search 1.03 of the IVOA: objects in a cone as a VOTable. Errors are VOTables too."""

from __future__ import annotations

import io

import numpy as np
from astropy.io.votable import from_table
from astropy.io.votable.tree import Info, Param, Resource, VOTableFile
from astropy.table import MaskedColumn, Table
from fastapi import APIRouter, Request
from starlette.responses import Response

from alerce_spark.api import examples
from alerce_spark.api.parameters import Parameters
from alerce_spark.api.state import State
from alerce_spark.lake.tables import TABLES
from alerce_spark.serving.query import MAX_RADIUS, Cone, Filter, Item

router = APIRouter(tags=["Virtual Observatory"])

_MOST = 50_000
_TYPE = "application/x-votable+xml"
#: Roles (UCDs) of the columns that the standard requires, one each; and of some others.
_UCDS = {
    **{"oid": "meta.id;meta.main", "meanra": "pos.eq.ra;meta.main", "meandec": "pos.eq.dec;meta.main"},
    **{"ndet": "meta.number", "firstmjd": "time.epoch", "lastmjd": "time.epoch"},
}
_SHORT = ("oid", "meanra", "meandec")
_LONG = (*_SHORT, "ndet", "firstmjd", "lastmjd", "corrected", "stellar", "g_r_max", "g_r_mean")
_CLASS = ("class", "classifier", "probability")
_DEFINED = {c.name: c for c in TABLES["objects"].columns}
_KINDS = {"string": str, "int": np.int32, "double": np.float64, "boolean": bool}


@router.get("/scs", openapi_extra=examples.SCS, response_class=Response)
def cone_search(request: Request) -> Response:
    """Objects in a cone, with their light-curve class."""
    asked = Parameters(request.query_params)
    ra, dec = asked.number("RA", 0, 360), asked.number("DEC", -90, 90)
    radius = asked.number("SR", 0, 180)
    most, verbosity = asked.whole("MAXREC"), asked.whole("VERB")
    for name, value in (("RA", ra), ("DEC", dec), ("SR", radius)):
        if value is None:
            asked.errors.setdefault(name, "missing required parameter")
    if radius is not None and radius * 3600 > MAX_RADIUS:
        asked.errors["SR"] = f"at most {MAX_RADIUS / 3600:g} degrees"
    if asked.errors:
        return _failed("; ".join(f"{name}: {text}" for name, text in asked.errors.items()))
    limit = _MOST if most is None else min(max(most, 0), _MOST)
    items: list[Item] = []
    has_more = False
    if radius and limit:
        state: State = request.app.state.services
        cone = Filter(cone=Cone((ra or 0.0) % 360, dec or 0.0, radius * 3600))
        keys = state.index.keys(cone, order="oid", limit=limit + 1)
        has_more = len(keys) > limit
        items = state.index.items(keys[:limit])
    return Response(_votable(items, _SHORT if verbosity == 1 else (*_LONG, *_CLASS), has_more), media_type=_TYPE)


def _votable(items: list[Item], names: tuple[str, ...], has_more: bool) -> bytes:
    file = from_table(Table([_column(name, items) for name in names]))
    table = file.get_first_table()
    table.format = "tabledata"
    for field in table.fields:
        field.ucd = _UCDS.get(field.name)
        if field.datatype in ("char", "unicodeChar"):
            field.arraysize = "*"  # The same columns in every answer, whatever the length of its texts.
    (resource,) = file.resources
    resource.type = "results"
    resource.infos.append(Info(name="QUERY_STATUS", value="OVERFLOW" if has_more else "OK"))
    return _written(file)


def _column(name: str, items: list[Item]) -> MaskedColumn:
    """A column with unit and meaning; missing values are masked."""
    defined = _DEFINED.get(name)
    kind = _KINDS["double" if name == "probability" else "string" if defined is None else defined.type]
    values = [item[name] for item in items]
    nothing = {str: "", bool: False}.get(kind, 0)
    column = MaskedColumn(
        [nothing if v is None else v for v in values], name=name, dtype=None if items and kind is str else kind
    )
    column.mask = [v is None for v in values]
    if defined is not None:
        column.description = defined.comment
        column.unit = defined.unit or None
    return column


def _failed(message: str) -> Response:
    """An error in the form of the standard: status 200, a VOTable with a parameter named Error."""
    file = VOTableFile()
    resource = Resource()
    file.resources.append(resource)
    resource.params.append(Param(file, name="Error", ID="Error", datatype="char", arraysize="*", value=message))
    resource.infos.append(Info(name="QUERY_STATUS", value="ERROR"))
    return Response(_written(file), media_type=_TYPE)


def _written(file: VOTableFile) -> bytes:
    out = io.BytesIO()
    file.to_xml(out)
    return out.getvalue()
