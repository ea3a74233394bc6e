"""Features of a table that readers and writers must support (PROTOCOL.md of delta-io/delta, "Table Features").

A table is refused, with the feature's name, where it uses one that this room does not support. Many features ask for
nothing until a property or a column uses them, or concern only clean-up or changes of columns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alerce_spark.errors import LakeError

Action = dict[str, Any]

#: Features that versions of the protocol before table features imply, by the least version of the writer.
_LEGACY = {
    "appendOnly": 2,
    "invariants": 2,
    "checkConstraints": 3,
    "changeDataFeed": 4,
    "generatedColumns": 4,
    "columnMapping": 5,
    "identityColumns": 6,
}
_WITH_FEATURES = 7
#: Supported reader features: deletion vectors and both kinds of checkpoints are read, columns of newer types are read
#: unchanged or left out, widened columns are cast, and vacuumProtocolCheck concerns only the deletion of files.
_READ = {"deletionVectors", "v2Checkpoint", "vacuumProtocolCheck", "timestampNtz", "columnMapping"}
_READ |= {"typeWidening", "typeWidening-preview", "variantType", "variantType-preview", "variantShredding-preview"}
#: Supported writer features: implemented in `rules.py` and `table.py`, or without effect unless `_uses` finds them.
_WRITTEN = {"appendOnly", "invariants", "checkConstraints", "inCommitTimestamp", "changeDataFeed", "generatedColumns"}
_WRITTEN |= {"identityColumns", "allowColumnDefaults", "domainMetadata", "icebergCompatV1", "icebergCompatV2"}
#: Properties that turn on unsupported features.
_NOT_DONE = {
    "delta.enableIcebergCompatV1": "icebergCompatV1",
    "delta.enableIcebergCompatV2": "icebergCompatV2",
    "delta.enableRowTracking": "rowTracking",
}


class Unsupported(LakeError):
    """A table has an unsupported feature; the message names both and the remedy."""


@dataclass(frozen=True)
class Protocol:
    """The action `protocol`: versions, and features by name."""

    action: Action

    @cached_property
    def reader_features(self) -> frozenset[str]:
        """Features that readers must know."""
        if self.action.get("minReaderVersion", 1) >= 3:
            return frozenset(self.action.get("readerFeatures") or ())
        return frozenset({"columnMapping"} if self.action.get("minReaderVersion", 1) == 2 else ())

    @cached_property
    def writer_features(self) -> frozenset[str]:
        """Features that writers must know."""
        version = self.action.get("minWriterVersion", 1)
        if version >= _WITH_FEATURES:
            return frozenset(self.action.get("writerFeatures") or ())
        return frozenset(name for name, least in _LEGACY.items() if version >= least)


@dataclass(frozen=True)
class Metadata:
    """The action `metaData`: columns, partitions, properties."""

    action: Action

    @property
    def id(self) -> str:
        """Identity of the table; a table made again has another."""
        return str(self.action["id"])

    @property
    def configuration(self) -> dict[str, str]:
        """Table properties."""
        return dict(self.action.get("configuration") or {})

    @property
    def partition_columns(self) -> list[str]:
        """Names of the partition columns."""
        return list(self.action.get("partitionColumns") or ())

    @cached_property
    def fields(self) -> list[dict[str, Any]]:
        """Columns as in the schema: name, type, nullable, metadata."""
        fields: list[dict[str, Any]] = json.loads(self.action["schemaString"])["fields"]
        return fields

    @cached_property
    def rules_mark(self) -> str:
        """Everything that rules for rows depend on, as text."""
        rules = {k: v for k, v in sorted(self.configuration.items()) if k.startswith("delta.")}
        return json.dumps([self.action["schemaString"], self.partition_columns, rules])

    def with_properties(self, more: dict[str, str]) -> Metadata:
        """A copy with some properties set."""
        return Metadata(self.action | {"configuration": self.configuration | more})

    def with_fields(self, more: list[dict[str, Any]]) -> Metadata:
        """A copy with columns added at the end."""
        schema = json.dumps({"type": "struct", "fields": [*self.fields, *more]})
        return Metadata(self.action | {"schemaString": schema})


def refuse_unreadable(table: str, protocol: Protocol, metadata: Metadata) -> None:
    """Raise Unsupported where the table cannot be read here."""
    unknown = protocol.reader_features - _READ
    if metadata.configuration.get("delta.columnMapping.mode", "none") != "none":
        unknown |= {"columnMapping"}
    if protocol.action.get("minReaderVersion", 1) > 3:
        unknown |= {f"minReaderVersion {protocol.action['minReaderVersion']}"}
    if unknown:
        raise _unsupported(table, unknown, "read")


def refuse_unwritable(table: str, protocol: Protocol, metadata: Metadata) -> None:
    """Raise Unsupported where rows cannot be written to the table here."""
    unknown = (protocol.writer_features - _WRITTEN - _READ) | _uses(metadata)
    if protocol.action.get("minWriterVersion", 1) > _WITH_FEATURES:
        unknown |= {f"minWriterVersion {protocol.action['minWriterVersion']}"}
    if unknown:
        raise _unsupported(table, unknown, "written")


def _uses(metadata: Metadata) -> set[str]:
    """Features in use that writers must support and this room does not."""
    used = {name for key, name in _NOT_DONE.items() if metadata.configuration.get(key, "").lower() == "true"}
    for field in metadata.fields:
        keys = field.get("metadata") or {}
        if "delta.generationExpression" in keys:
            used.add(f"generatedColumns (column {field['name']})")
        if any(key.startswith("delta.identity.") for key in keys):
            used.add(f"identityColumns (column {field['name']})")
    return used


def _unsupported(table: str, features: set[str] | frozenset[str], how: str) -> Unsupported:
    return Unsupported(
        f"table {table} has features that are not supported: {', '.join(sorted(features))}; it is not {how}. Drop them "
        "(ALTER TABLE … DROP FEATURE, UNSET TBLPROPERTIES or DROP COLUMN, by Spark), or use another lake"
    )
