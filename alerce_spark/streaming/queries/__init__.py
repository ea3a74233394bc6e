"""The queries of the stream: one file each, which declares it as `QUERY` (`streaming/query.py`). No list names them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from alerce_spark.config import query_names

if TYPE_CHECKING:
    from alerce_spark.streaming.query import Query


def declared(name: str) -> Query:
    """The declaration of a query."""
    query: Query = importlib.import_module(f"{__name__}.{name}").QUERY
    return query


def writers() -> list[str]:
    """Queries that write tables: who holds the leases of all of them may write any table."""
    return [name for name in query_names() if declared(name).tables]
