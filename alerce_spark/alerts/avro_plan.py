"""Avro writer schemas compiled to the integer tables that `avro_kernels` walks, and the layout of the columns.

A schema is compiled once per process and found again by its whole text. Rules, beside those of the Avro 1.11
specification:

* fields are matched by name, in any order; unions may have any branches in any order;
* a value may be promoted (int to long, float or double; long to float or double; float to double; bytes to string), and
  a long may fill an int, if the value does not change;
* fields that take no bytes (null, fixed of size 0, records of only such fields) are left out. So every entry of an
  array takes at least one byte, which bounds the work that a damaged count can cause.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from alerce_spark.alerts import avro_kernels as k
from alerce_spark.alerts.model import ARROW_TYPES, schemas
from alerce_spark.surveys.survey import Record, Survey

PRIMITIVES = {
    "null": k.NULL,
    "boolean": k.BOOLEAN,
    "int": k.INT,
    "long": k.LONG,
    "float": k.FLOAT,
    "double": k.DOUBLE,
    "bytes": k.BYTES,
    "string": k.STRING,
}
KIND_NAMES = {kind: name for name, kind in PRIMITIVES.items()} | {
    k.FIXED: "fixed",
    k.ENUM: "enum",
    k.ARRAY: "array",
    k.MAP: "map",
    k.UNION: "union",
    k.RECORD: "record",
}
DESTINATION_NAMES = {
    k.TO_INT32: "int",
    k.TO_INT64: "long",
    k.TO_FLOAT32: "float",
    k.TO_FLOAT64: "double",
    k.TO_TEXT: "string",
    k.TO_STAMP: "bytes",
    k.CANDIDATE: "record",
    k.CUTOUT: "record",
    k.ENTRIES: "array of records",
}
#: A ZTF schema text has 18 to 26 kB and is nested 7 deep.
MAX_SCHEMA = 1 << 20
MAX_NESTING = 64

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_WORDS4 = {pa.int32(): k.TO_INT32, pa.float32(): k.TO_FLOAT32}
_WORDS8 = {pa.int64(): k.TO_INT64, pa.float64(): k.TO_FLOAT64}
_TEXTS = {pa.string(): k.TO_TEXT, pa.binary(): k.TO_STAMP}


class SchemaError(ValueError):
    """A writer schema that is not valid Avro or not of an alert; the message is the reason why its packets are bad."""


@dataclass(frozen=True)
class Column:
    """Where the values of one column are written: the row of the matrix for its width and of the validity matrix."""

    destination: int
    index: int
    validity: int


class Layout:
    """Columns of one table, grouped as four-byte words, eight-byte words and texts; validity in the same order."""

    def __init__(self, fields: Iterable[pa.Field]) -> None:
        self.columns: dict[str, Column] = {}
        sizes = []
        members = list(fields)
        for group in (_WORDS4, _WORDS8, _TEXTS):
            mine = [f for f in members if f.type in group]
            for index, member in enumerate(mine):
                self.columns[member.name] = Column(group[member.type], index, len(self.columns))
            sizes.append(len(mine))
        self.words4, self.words8, self.texts = sizes


class Target:
    """Destinations of the fields of a survey's packets: the columns of each table, and the checks of an alert."""

    def __init__(self, survey: Survey) -> None:
        self.survey, self.schemas = survey, schemas(survey)
        records = list(survey.records())
        fields = [field for record in records for field in _columns(record)]
        stamps = [pa.field(name, pa.binary()) for name in survey.cutouts.names]
        self.layouts = (Layout([*fields, *stamps]), Layout(_columns(survey.previous)), Layout(_columns(survey.forced)))
        known = [_known(record, self.layouts[k.ALERTS]) for record in records]
        self.top, self.alert = known[0], {record.path: one for record, one in zip(records[1:], known[1:], strict=True)}
        self.entries = {
            record.path: (table, _known(record, self.layouts[table]))
            for table, record in ((k.PREVIOUS, survey.previous), (k.FORCED, survey.forced))
        }
        self.cutouts = {name: self.layouts[k.ALERTS].columns[name] for name in survey.cutouts.names}
        #: As the kernel takes them: one row a check, and its range.
        self.checks, self.ranges = self._checks()

    def _checks(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        columns = self.layouts[k.ALERTS].columns
        rows = []
        for check in self.survey.checks:
            column = columns[check.column]
            rows.append((_CHECKS[check.kind], column.destination, column.index, column.validity))
        ranges = [(check.low, check.high) for check in self.survey.checks]
        return _table(rows, k.N_CHECK), np.array(ranges, np.float64).reshape(-1, 2)


_CHECKS = {"name": k.NAME, "id": k.ID, "same id": k.SAME_ID, "number": k.NUMBER}


def _columns(record: Record) -> list[pa.Field]:
    return [pa.field(f.target, ARROW_TYPES[f.type]) for f in record.fields]


def _known(record: Record, layout: Layout) -> dict[str, Column]:
    """Columns of the record's fields by the fields' names."""
    return {f.name: layout.columns[f.target] for f in record.fields}


@dataclass
class Plan:
    """A compiled schema. `reason` says why its packets cannot be read; it is empty if they can."""

    text: bytes
    reason: str = ""
    nodes: list[list[int]] = field(default_factory=list)
    kids: list[int] = field(default_factory=list)
    ops: list[tuple[int, ...]] = field(default_factory=list)
    #: First operation of the packet's own fields, and their number.
    top: tuple[int, int] = (0, 0)
    #: Path of the field of each operation, for messages.
    paths: list[str] = field(default_factory=list)
    #: Key in `extra` of the field of each operation.
    keys: list[str] = field(default_factory=list)
    #: Field names of records and symbols of enums, by node.
    names: dict[int, list[str]] = field(default_factory=dict)
    #: Start of a container file with this schema (without its `doc` texts), codec null, up to the marker.
    header: bytes = b""

    @cached_property
    def node_table(self) -> npt.NDArray[np.int64]:
        """`nodes` as the kernels take them; the first one is the record of the schema."""
        return _table(self.nodes, k.N_NODE)

    @cached_property
    def kid_table(self) -> npt.NDArray[np.int64]:
        """`kids` as the kernels take them."""
        return np.array(self.kids, np.int64)

    def type_name(self, node: int) -> str:
        """Name of the kind of type `node`."""
        return KIND_NAMES[self.nodes[node][k.KIND]]

    def expected(self, op: int) -> str:
        """Name of the type that the column of operation `op` holds."""
        return DESTINATION_NAMES[self.ops[op][k.DESTINATION]]

    def narrower(self, node: int, op: int, value: int) -> str:
        """Name of the type that `value` does not fit: that of the packet, if an int, or that of the column."""
        is_int = self.nodes[node][k.KIND] == k.INT and not -(1 << 31) <= value < 1 << 31
        return "int" if is_int else self.expected(op)

    def json_text(self, op: int, raw: bytes) -> str:
        """JSON text of the value of an unknown field, from the bytes that the kernel has checked.

        Unions are not tagged, bytes become characters U+0000 to U+00FF, non-finite numbers their names.
        """
        value, _ = self._value(raw, 0, self.ops[op][k.OP_NODE])
        return json.dumps(value, separators=(",", ":"))

    def _value(self, raw: bytes, i: int, node: int) -> tuple[Any, int]:  # noqa: PLR0911  one a kind
        kind, a, b = self.nodes[node][:3]
        if kind == k.UNION:
            branch, i = _long(raw, i)
            return self._value(raw, i, self.kids[a + branch])
        if kind == k.RECORD:
            record = {}
            for name, kid in zip(self.names[node], self.kids[a : a + b], strict=True):
                record[name], i = self._value(raw, i, kid)
            return record, i
        if kind in (k.ARRAY, k.MAP):
            return self._collection(raw, i, kind, a)
        if kind in (k.STRING, k.BYTES):
            n, i = _long(raw, i)
            return raw[i : i + n].decode("utf-8" if kind == k.STRING else "latin-1"), i + n
        if kind in (k.INT, k.LONG, k.ENUM):
            number, i = _long(raw, i)
            return (self.names[node][number] if kind == k.ENUM else number), i
        if kind in (k.FLOAT, k.DOUBLE):
            code, size = ("<f", 4) if kind == k.FLOAT else ("<d", 8)
            (x,) = struct.unpack_from(code, raw, i)
            return (x if np.isfinite(x) else {"nan": "NaN", "inf": "Infinity"}.get(str(x), "-Infinity")), i + size
        if kind == k.BOOLEAN:
            return raw[i] == 1, i + 1
        if kind == k.FIXED:
            return raw[i : i + a].decode("latin-1"), i + a
        return None, i

    def _collection(self, raw: bytes, i: int, kind: int, item: int) -> tuple[Any, int]:
        items: list[Any] = []
        while True:
            n, i = _long(raw, i)
            if n == 0:
                return (dict(items) if kind == k.MAP else items), i
            if n < 0:
                n = -n
                _, i = _long(raw, i)
            for _ in range(n):
                if kind == k.MAP:
                    length, i = _long(raw, i)
                    name = raw[i : i + length].decode()
                    value, i = self._value(raw, i + length, item)
                    items.append((name, value))
                else:
                    value, i = self._value(raw, i, item)
                    items.append(value)


def _long(raw: bytes, i: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        c = raw[i]
        i += 1
        value |= (c & 127) << shift
        shift += 7
        if c < 128:
            return (value >> 1) ^ -(value & 1), i


def encoded_long(value: int) -> bytes:
    """An integer ≥ 0 as Avro writes it."""
    n, out = value << 1, bytearray()
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def container_header(schema: bytes) -> bytes:
    """Start of a container file with a schema text and codec null, up to the marker."""
    words = (b"avro.schema", schema, b"avro.codec", b"null")
    return b"Obj\x01\x04" + b"".join(encoded_long(len(word)) + word for word in words) + b"\x00"


def compile_schema(text: bytes, target: Target | None = None) -> Plan:
    """Plan of a schema text, with a `reason` if packets of this schema cannot be read.

    Without a target, records can only be checked and skipped: no field goes to a column.
    """
    try:
        if len(text) > MAX_SCHEMA:
            raise SchemaError(f"schema of {len(text)} bytes, at most {MAX_SCHEMA}")
        try:
            schema = json.loads(text)
        except ValueError as error:
            raise SchemaError(f"schema is not JSON: {error}") from error
        return _Compiler(text, target).compile(schema)
    except SchemaError as error:
        return Plan(text, reason=str(error)[:200])
    except RecursionError:
        return Plan(text, reason="schema is nested too deep")


class _Compiler:
    """Turns the types of a schema into nodes, then gives operations to the records whose fields have columns."""

    def __init__(self, text: bytes, target: Target | None) -> None:
        self.plan = Plan(text)
        self.target = target
        self.types: dict[str, int] = {}
        self.empty: set[int] = set()

    def compile(self, schema: Any) -> Plan:
        root = self._type(schema, "", 0)
        if self.plan.nodes[root][k.KIND] != k.RECORD:
            raise SchemaError(f"schema is of type {self.plan.type_name(root)}, expected record")
        if self.target is not None:
            self._packet(root, self.target)
        bare = json.dumps(_without_docs(schema), separators=(",", ":")).encode()
        self.plan.header = container_header(bare)
        return self.plan

    # Types to nodes.

    def _add(self, kind: int, a: int = 0, b: int = 0, first_op: int = -1, n_ops: int = 0) -> int:
        self.plan.nodes.append([kind, a, b, first_op, n_ops])
        return len(self.plan.nodes) - 1

    def _children(self, kids: list[int]) -> tuple[int, int]:
        self.plan.kids += kids
        return len(self.plan.kids) - len(kids), len(kids)

    def _type(self, schema: Any, namespace: str, depth: int) -> int:
        if depth > MAX_NESTING:
            raise SchemaError(f"schema is nested deeper than {MAX_NESTING}")
        if isinstance(schema, str):
            return self._named(schema, namespace)
        if isinstance(schema, list):
            return self._union(schema, namespace, depth)
        if not isinstance(schema, dict):
            raise SchemaError(f"schema: {json.dumps(schema)} is not a type")
        kind = schema.get("type")
        if kind in ("array", "map"):
            item = self._type(schema.get("items" if kind == "array" else "values"), namespace, depth + 1)
            if kind == "array" and item in self.empty:
                raise SchemaError("schema: array of items that take no bytes")
            return self._add(k.ARRAY if kind == "array" else k.MAP, item)
        if kind in ("record", "error", "enum", "fixed"):
            return self._definition(schema, namespace, depth)
        if kind is None:
            raise SchemaError("schema: a type without `type`")
        return self._type(kind, namespace, depth + 1)

    def _union(self, schema: list[Any], namespace: str, depth: int) -> int:
        if any(isinstance(branch, list) for branch in schema):
            raise SchemaError("schema: union inside a union")
        kids = [self._type(branch, namespace, depth + 1) for branch in schema]
        kinds = [self.plan.nodes[kid][k.KIND] for kid in kids]
        if len(set(kids)) < len(kids) or kinds.count(k.ARRAY) > 1 or kinds.count(k.MAP) > 1:
            raise SchemaError("schema: union with one type twice")
        return self._add(k.UNION, *self._children(kids))

    def _named(self, name: str, namespace: str) -> int:
        full = name if name in PRIMITIVES or "." in name or not namespace else f"{namespace}.{name}"
        if full not in self.types:
            if name not in PRIMITIVES:
                raise SchemaError(f"schema: type {name!r} is not defined")
            self.types[name] = self._add(PRIMITIVES[name])
            if name == "null":
                self.empty.add(self.types[name])
        return self.types[full]

    def _definition(self, schema: dict[str, Any], namespace: str, depth: int) -> int:
        name = schema.get("name")
        if not isinstance(name, str) or not name:
            raise SchemaError(f"schema: {schema['type']} without a name")
        if "." in name:
            namespace = name.rpartition(".")[0]
        else:
            own = schema.get("namespace", namespace)
            namespace = own if isinstance(own, str) else ""
            name = f"{namespace}.{name}" if namespace else name
        if name in self.types or name in PRIMITIVES:
            raise SchemaError(f"schema: type {name!r} is defined twice")
        if schema["type"] == "fixed":
            size = schema.get("size")
            if not isinstance(size, int) or not 0 <= size < 1 << 31:
                raise SchemaError(f"schema: fixed {name!r} of size {json.dumps(size)}")
            self.types[name] = self._add(k.FIXED, size)
            if size == 0:
                self.empty.add(self.types[name])
        elif schema["type"] == "enum":
            symbols = schema.get("symbols")
            if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
                raise SchemaError(f"schema: enum {name!r} without symbols")
            self.types[name] = self._add(k.ENUM, len(symbols))
            self.plan.names[self.types[name]] = symbols
        else:
            self._record(schema, name, namespace, depth)
        return self.types[name]

    def _record(self, schema: dict[str, Any], full_name: str, namespace: str, depth: int) -> None:
        node = self.types[full_name] = self._add(k.RECORD)
        fields = schema.get("fields")
        if not isinstance(fields, list):
            raise SchemaError(f"schema: record {full_name!r} without fields")
        kids: dict[str, int] = {}
        for member in fields:
            name = member.get("name") if isinstance(member, dict) else None
            if not isinstance(name, str) or not _NAME.match(name):
                raise SchemaError(f"schema: record {full_name!r} has a field without a proper name")
            if name in kids:
                raise SchemaError(f"schema: record {full_name!r} has two fields {name}")
            kids[name] = self._type(member.get("type"), namespace, depth + 1)
        kept = {name: kid for name, kid in kids.items() if kid not in self.empty}
        self.plan.names[node] = list(kept)
        self.plan.nodes[node][k.A : k.FIRST_OP] = self._children(list(kept.values()))
        if not kept:
            self.empty.add(node)

    # Records to operations.

    def _fields(self, record: int) -> list[tuple[str, int]]:
        _, first, count = self.plan.nodes[record][:3]
        return list(zip(self.plan.names[record], self.plan.kids[first : first + count], strict=True))

    def _append(self, fields: list[tuple[int, Column, str, str]]) -> tuple[int, int]:
        """Add operations of one record from node, column, path and key of each field; return first and number."""
        for node, column, path, key in fields:
            branches = self._branches(node, column.destination)
            kind = self.plan.nodes[node][k.KIND]
            self.plan.ops.append((node, kind, column.destination, column.index, column.validity, *branches))
            self.plan.paths.append(path)
            self.plan.keys.append(key)
        return len(self.plan.ops) - len(fields), len(fields)

    def _branches(self, node: int, destination: int) -> tuple[int, int, int]:
        """Of a union: encoded null branch, encoded branch of the column's type, and its kind; -1 if absent."""
        kind, first, count = self.plan.nodes[node][:3]
        kinds = [self.plan.nodes[kid][k.KIND] for kid in self.plan.kids[first : first + count]]
        wanted = PRIMITIVES.get(DESTINATION_NAMES.get(destination, ""), -1)
        if kind != k.UNION or count > 64:
            return -1, -1, -1
        null = 2 * kinds.index(k.NULL) if k.NULL in kinds else -1
        return (null, 2 * kinds.index(wanted), wanted) if wanted in kinds else (null, -1, -1)

    def _packet(self, root: int, target: Target) -> None:
        fields = self._fields(root)
        reserved = {name for name, _ in fields} - {*target.top, *target.alert, *target.entries, *target.cutouts}
        fields_of_record = []
        for name, node in fields:
            to, column = node, Column(k.EXTRA, 0, 0)
            if name in target.top:
                column = target.top[name]
            elif name in target.alert:
                to, column = self._in_role(node, target.alert[name], name, k.EXTRA, reserved), Column(k.CANDIDATE, 0, 0)
            elif name in target.entries:
                table, known = target.entries[name]
                to, column = self._items_in_role(node, known, f"{name}[]"), Column(k.ENTRIES, table, 0)
            elif name in target.cutouts:
                to, column = self._cutout(node, target, name)
            fields_of_record.append((to, column, name, name))
        self.plan.top = self._append(fields_of_record)

    def _cutout(self, node: int, target: Target, name: str) -> tuple[int, Column]:
        column, content = target.cutouts[name], target.survey.cutouts.content
        if not content:
            return node, column
        return self._in_role(node, {content: column}, name, k.SKIP, set()), Column(k.CUTOUT, 0, 0)

    def _in_role(self, node: int, known: dict[str, Column], path: str, others: int, reserved: set[str]) -> int:
        """A copy of `node` whose records write their `known` fields to columns, and the other fields to `others`.

        Unknown fields with a name in `reserved` get their path as key.
        """
        kind, first, count = self.plan.nodes[node][:3]
        if kind == k.UNION:
            branches = [
                self._in_role(kid, known, path, others, reserved) for kid in self.plan.kids[first : first + count]
            ]
            return self._add(k.UNION, *self._children(branches))
        if kind != k.RECORD:
            return node
        members = []
        for name, kid in self._fields(node):
            key = f"{path}.{name}" if name in reserved else name
            members.append((kid, known.get(name, Column(others, 0, 0)), f"{path}.{name}", key))
        copy = self._add(k.RECORD, first, count, *self._append(members))
        self.plan.names[copy] = self.plan.names[node]
        return copy

    def _items_in_role(self, node: int, known: dict[str, Column], path: str) -> int:
        kind, first, count = self.plan.nodes[node][:3]
        if kind == k.UNION:
            branches = [self._items_in_role(kid, known, path) for kid in self.plan.kids[first : first + count]]
            return self._add(k.UNION, *self._children(branches))
        return self._add(k.ARRAY, self._in_role(first, known, path, k.EXTRA, set())) if kind == k.ARRAY else node


def _without_docs(schema: Any) -> Any:
    """The schema without the `doc` texts of types and fields, which are most of its length."""
    if isinstance(schema, list):
        return [_without_docs(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    bare = {key: value for key, value in schema.items() if key != "doc"}
    for key in ("type", "items", "values"):
        if key in bare:
            bare[key] = _without_docs(bare[key])
    if isinstance(bare.get("fields"), list):
        bare["fields"] = [_without_docs(member) for member in bare["fields"]]
    return bare


class Catalog:
    """Compiled schemas as the concatenated tables of the kernels. Immutable."""

    def __init__(self, plans: list[Plan]) -> None:
        self.plans = plans
        self.numbers = {plan.text: number for number, plan in enumerate(plans)}
        self.failed = np.array([bool(plan.reason) for plan in plans], bool)
        self.texts, self.text_starts = _joined([plan.text for plan in plans])
        self.headers, self.header_starts = _joined([plan.header for plan in plans])
        self.nodes = _table([row for plan in plans for row in plan.nodes], k.N_NODE)
        self.kids = np.array([kid for plan in plans for kid in plan.kids], np.int64)
        self.ops = _table([op for plan in plans for op in plan.ops], k.N_OP)
        #: One row a plan: where its nodes, kids and operations begin; its top operations and their number.
        self.starts = np.zeros((len(plans) + 1, k.N_PLAN), np.int64)
        for number, plan in enumerate(plans):
            self.starts[number, k.TOP :] = plan.top
            lengths = (len(plan.nodes), len(plan.kids), len(plan.ops))
            self.starts[number + 1, : k.TOP] = self.starts[number, : k.TOP] + lengths

    def with_texts(self, texts: list[bytes], target: Target) -> Catalog:
        """This catalogue extended by the schemas of `texts`, compiled for the same survey."""
        return Catalog([*self.plans, *(compile_schema(text, target) for text in texts)])


def _table(rows: list[Any], width: int) -> npt.NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, width)


def _joined(parts: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    starts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=starts[1:])
    return np.frombuffer(b"".join(parts), np.uint8), starts
