"""The database that a URL names."""

from __future__ import annotations

from alerce_spark.errors import InputError
from alerce_spark.serving.engine import Store
from alerce_spark.serving.postgresql import PostgreSQL
from alerce_spark.serving.sqlite import SQLite


def store(url: str) -> Store:
    """The index at a URL: the path of a file, or postgresql://HOST/DATABASE. Raises InputError for another database."""
    scheme, separator, _ = url.partition("://")
    if scheme.partition("+")[0] in ("postgresql", "postgres"):
        return PostgreSQL(url)
    if separator and scheme != "sqlite":
        raise InputError(
            f"services.index: an index in {scheme} is not known; give the path of a file, or postgresql://HOST/DATABASE"
        )
    return SQLite(url.removeprefix("sqlite:///"))
