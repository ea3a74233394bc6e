"""Delta tables read and changed without Spark: their log, their files, the rules that they set for writers.

This room knows where a table is, not what it means. `open` returns the one `Table` that a process has for each place:
its versions are immutable `Snapshot`s, and every commit goes through `Table.commit`.
"""

from alerce_spark.delta.log import Action, File, NotMade, Snapshot
from alerce_spark.delta.protocol import Metadata, Unsupported
from alerce_spark.delta.rules import RuleBroken
from alerce_spark.delta.table import Change, Conflict, Definition, Table, create, forget, is_made, open

__all__ = [
    "Action",
    "Change",
    "Conflict",
    "Definition",
    "File",
    "Metadata",
    "NotMade",
    "RuleBroken",
    "Snapshot",
    "Table",
    "Unsupported",
    "create",
    "forget",
    "is_made",
    "open",
]
