"""Delta tables read and changed without Spark: their log, their files, the rules that they set for writers.

A table is a place; what is in it is no business of this room. `open` gives the one `Table` that a process has of each
place: its versions are immutable `Snapshot`s, and every commit, whoever makes it, goes through `Table.commit`.
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
