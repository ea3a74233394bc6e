"""The XML that describes the service and its jobs: VOSI, TAPRegExt, UWS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from alerce_spark.api.tap import geometry
from alerce_spark.api.tap.formats import FORMATS
from alerce_spark.api.tap.tables import KEYS, SCHEMAS, TABLES, VOTABLE, Table, spelled

if TYPE_CHECKING:
    from alerce_spark.api.tap.jobs import Job

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_UWS, _XLINK = "http://www.ivoa.net/xml/UWS/v1.0", "http://www.w3.org/1999/xlink"
_AVAILABILITY = "http://www.ivoa.net/xml/VOSIAvailability/v1.0"
_CAPABILITIES = "http://www.ivoa.net/xml/VOSICapabilities/v1.0"
_TABLES = "http://www.ivoa.net/xml/VOSITables/v1.0"
_RESOURCE = {
    "vr": "http://www.ivoa.net/xml/VOResource/v1.0",
    "vs": "http://www.ivoa.net/xml/VODataService/v1.1",
    "tr": "http://www.ivoa.net/xml/TAPRegExt/v1.0",
}
_TYPE = f"{{{_XSI}}}type"
_NIL = {f"{{{_XSI}}}nil": "true"}
for _prefix, _address in (("xsi", _XSI), ("uws", _UWS), ("xlink", _XLINK)):
    ElementTree.register_namespace(_prefix, _address)
for _prefix, _address in (("av", _AVAILABILITY), ("vosi", _CAPABILITIES), ("vtm", _TABLES)):
    ElementTree.register_namespace(_prefix, _address)

_SQL = "ivo://ivoa.net/std/TAPRegExt#features-adql-"
_FEATURES = {
    "ivo://ivoa.net/std/TAPRegExt#features-adqlgeo": tuple(name.upper() for name in geometry.FUNCTIONS),
    f"{_SQL}common-table": ("WITH",),
    f"{_SQL}string": ("LOWER", "UPPER", "ILIKE"),
    f"{_SQL}sets": ("UNION", "EXCEPT", "INTERSECT"),
    f"{_SQL}type": ("CAST",),
    f"{_SQL}offset": ("OFFSET",),
}


def _text(root: Element) -> bytes:
    return bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True))


def _add(parent: Element, tag: str, text: object = None, /, **attributes: str) -> Element:
    made = SubElement(parent, tag, attributes)
    if text is not None:
        made.text = str(text)
    return made


def _typed(root: Element) -> None:
    """Declare the prefixes that values of xsi:type have."""
    for prefix, address in _RESOURCE.items():
        root.set(f"xmlns:{prefix}", address)


def availability(reason: str | None) -> bytes:
    """Whether the service is available, and why not."""
    root = Element(f"{{{_AVAILABILITY}}}availability")
    _add(root, f"{{{_AVAILABILITY}}}available", "false" if reason else "true")
    if reason:
        _add(root, f"{{{_AVAILABILITY}}}note", reason)
    return _text(root)


def capabilities(base: str, seconds: tuple[float, float], rows: int, upload_rows: int) -> bytes:
    """Capabilities of the service: addresses, functions, limits."""
    root = Element(f"{{{_CAPABILITIES}}}capabilities")
    _typed(root)
    for name in ("capabilities", "availability", "tables"):
        version = "-1.1" if name == "tables" else ""
        one = _add(root, "capability", standardID=f"ivo://ivoa.net/std/VOSI#{name}{version}")
        _interface(one, f"{base}/{name}", "full")
    shown = _add(_add(root, "capability", standardID="ivo://ivoa.net/std/DALI#examples"), "interface")
    shown.set(_TYPE, "vr:WebBrowser")
    _add(shown, "accessURL", f"{base}/examples", use="full")
    tap = _add(root, "capability", standardID="ivo://ivoa.net/std/TAP")
    tap.set(_TYPE, "tr:TableAccess")
    _interface(tap, base, "base", role="std", version="1.1")
    _language(tap)
    for form in FORMATS:
        made = _add(tap, "outputFormat")
        if form.name == "votable":
            made.set("ivo-id", "ivo://ivoa.net/std/TAPRegExt#output-votable-td")
        _add(made, "mime", form.type)
        _add(made, "alias", form.name)
    for method in ("inline", "http"):
        _add(tap, "uploadMethod").set("ivo-id", f"ivo://ivoa.net/std/TAPRegExt#upload-{method}")
    _limits(tap, seconds, rows, upload_rows)
    return _text(root)


def _interface(parent: Element, address: str, use: str, **attributes: str) -> None:
    made = _add(parent, "interface", **attributes)
    made.set(_TYPE, "vs:ParamHTTP")
    _add(made, "accessURL", address, use=use)


def _language(tap: Element) -> None:
    made = _add(tap, "language")
    _add(made, "name", "ADQL")
    for version in ("2.0", "2.1"):
        _add(made, "version", version).set("ivo-id", f"ivo://ivoa.net/std/ADQL#v{version}")
    _add(made, "description", "ADQL; nulls come last in any order, whole numbers divide as such")
    for kind, forms in _FEATURES.items():
        features = _add(made, "languageFeatures", type=kind)
        for form in forms:
            _add(_add(features, "feature"), "form", form)


def _limits(tap: Element, seconds: tuple[float, float], rows: int, upload_rows: int) -> None:
    kept = _add(tap, "retentionPeriod")
    _add(kept, "default", 86400)
    _add(kept, "hard", 86400)
    lasting = _add(tap, "executionDuration")
    _add(lasting, "default", int(seconds[1]))
    _add(lasting, "hard", int(seconds[1]))
    out = _add(tap, "outputLimit")
    _add(out, "default", rows, unit="row")
    _add(out, "hard", rows, unit="row")
    brought = _add(tap, "uploadLimit")
    _add(brought, "hard", upload_rows, unit="row")


def tables(only: str | None = None) -> bytes | None:
    """All tables, or one; None for an unknown one."""
    if only is not None:
        table = TABLES.get(only.lower())
        if table is None:
            return None
        alone = Element(f"{{{_TABLES}}}table")
        _typed(alone)
        alone.set("type", _table_type(table))
        _fill(alone, table)
        return _text(alone)
    root = Element(f"{{{_TABLES}}}tableset")
    _typed(root)
    for name, comment in SCHEMAS.items():
        schema = _add(root, "schema")
        _add(schema, "name", name)
        _add(schema, "description", comment)
        for table in TABLES.values():
            if table.schema == name:
                _fill(_add(schema, "table", type=_table_type(table)), table)
    return _text(root)


def _table_type(table: Table) -> str:
    return "table" if table.schema == "tap_schema" else "view"


def _fill(made: Element, table: Table) -> None:
    _add(made, "name", table.name)
    _add(made, "description", table.comment)
    for column in table.columns:
        one = _add(made, "column")
        _add(one, "name", spelled(column.name))
        _add(one, "description", column.comment)
        if column.unit:
            _add(one, "unit", column.unit)
        if column.ucd:
            _add(one, "ucd", column.ucd)
        datatype, arraysize, xtype = VOTABLE[column.type]
        kind = _add(one, "dataType", datatype)
        kind.set(_TYPE, "vs:VOTableType")
        for attribute, value in (("arraysize", arraysize), ("extendedType", xtype)):
            if value is not None:
                kind.set(attribute, value)
        if table.is_indexed(column):
            _add(one, "flag", "indexed")
    for key in KEYS:
        if key.table == table.name:
            one = _add(made, "foreignKey")
            _add(one, "targetTable", key.target)
            pair = _add(one, "fkColumn")
            _add(pair, "fromColumn", key.column)
            _add(pair, "targetColumn", key.target_column)


_EXAMPLES = {
    "Objects around a position": (
        "SELECT oid, meanra, meandec, ndet FROM ztf.object\n"
        "WHERE 1 = CONTAINS(POINT('ICRS', meanra, meandec), CIRCLE('ICRS', 200.0, 30.0, 0.1))"
    ),
    "The best supernova candidates of the stamps": (
        "SELECT TOP 100 o.oid, o.meanra, o.meandec, p.probability\nFROM ztf.object AS o JOIN ztf.probability AS p "
        "ON p.oid = o.oid\nWHERE p.classifier_name = 'stamp_classifier' AND p.class_name = 'SN' AND p.ranking = 1\n"
        "ORDER BY probability DESC"
    ),
    "A light curve": "SELECT mjd, fid, magpsf, sigmapsf FROM ztf.detection WHERE oid = 'ZTF20aaelulu' ORDER BY mjd",
    "One feature of all objects": "SELECT oid, fid, \"value\" FROM ztf.feature WHERE name = 'GP_DRW_tau'",
    "What there is": "SELECT table_name, description FROM TAP_SCHEMA.tables",
}


def examples() -> bytes:
    """Example queries, as a page that clients read too (DALI examples)."""
    html = "http://www.w3.org/1999/xhtml"
    root = Element("html", xmlns=html)
    _add(_add(root, "head"), "title", "Examples")
    body = _add(root, "body", vocab="ivo://ivoa.net/std/DALI-examples#")
    for number, (name, query) in enumerate(_EXAMPLES.items(), 1):
        one = _add(body, "div", typeof="example", id=f"e{number}", resource=f"#e{number}")
        _add(one, "h2", name, property="name")
        _add(one, "pre", query, property="query")
    return _text(root)


# Jobs.


def job(one: Job, address: str) -> bytes:
    """The state of a job."""
    root = Element(f"{{{_UWS}}}job", version="1.1")
    _uws(root, "jobId", one.name)
    for name, value in one.fields().items():
        if name != "runId" or value is not None:
            _uws(root, name, value)
    root.append(_parameters(one.parameters))
    found = _uws(root, "results", "")
    if one.phase == "COMPLETED":
        _result(found, address)
    if one.error is not None:
        summary = _uws(root, "errorSummary", "")
        summary.attrib.update({"type": "fatal", "hasDetail": "true"})
        _uws(summary, "message", one.error)
    return _text(root)


def _uws(parent: Element, name: str, value: object) -> Element:
    made = SubElement(parent, f"{{{_UWS}}}{name}", {} if value is not None else _NIL)
    if value not in (None, ""):
        made.text = str(value)
    return made


def _parameters(given: Mapping[str, str]) -> Element:
    root = Element(f"{{{_UWS}}}parameters")
    for name, value in given.items():
        _uws(root, "parameter", value).set("id", name)
    return root


def _result(parent: Element, address: str) -> None:
    made = SubElement(parent, f"{{{_UWS}}}result", {"id": "result"})
    made.set(f"{{{_XLINK}}}href", f"{address}/results/result")
    made.set(f"{{{_XLINK}}}type", "simple")


def parameters(one: Job) -> bytes:
    """Parameters of a job."""
    return _text(_parameters(one.parameters))


def results(one: Job, address: str) -> bytes:
    """Address of a job's result."""
    root = Element(f"{{{_UWS}}}results")
    if one.phase == "COMPLETED":
        _result(root, address)
    return _text(root)


def jobs(listed: Iterable[Job], address: str) -> bytes:
    """Jobs and their phases."""
    root = Element(f"{{{_UWS}}}jobs", version="1.1")
    for one in listed:
        made = SubElement(root, f"{{{_UWS}}}jobref", {"id": one.name})
        made.set(f"{{{_XLINK}}}href", f"{address}/{one.name}")
        _uws(made, "phase", one.phase)
        _uws(made, "creationTime", one.fields()["creationTime"])
    return _text(root)
