"""Tables of the index, made from those of the lake: the same in SQLite and in PostgreSQL.

`object` is the lake's table `objects` without its partition. For each object and classifier the classification that
counts (by the rule of `lake.Lake.classes`) is in `probability`, one row a class, as lists need it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    desc,
)
from sqlalchemy.schema import CreateIndex, CreateTable

from alerce_spark.lake.tables import TABLES

#: Texts are compared byte by byte, whatever the locale of the database.
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")
_TYPES: dict[str, Any] = {
    "int": Integer,
    "long": BigInteger,
    "float": Double,
    "double": Double,
    "boolean": Boolean,
    "string": _TEXT,
}
#: SQLite numbers rows by a column only if its type is INTEGER.
_ID = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

#: Columns of the lake's `objects` that the index has.
OBJECT_COLUMNS = tuple(c.name for c in TABLES["objects"].columns if c.name != "pixel")

objects = Table(
    "object",
    metadata,
    Column("id", _ID, primary_key=True),
    *(
        Column(c.name, _TYPES[c.type], nullable=not c.required, comment=c.description)
        for c in TABLES["objects"].columns
        if c.name in OBJECT_COLUMNS
    ),
    Index("object_oid", "oid", unique=True),
    Index("object_healpix29", "healpix29"),
    # Pairs: most queries with a range of dates also have one of counts.
    Index("object_firstmjd", "firstmjd", "ndet"),
    Index("object_ndet", "ndet", "firstmjd"),
    Index("object_lastmjd", "lastmjd", "ndet"),
)

#: Names of classifiers, versions and classes; rows of classes hold their ids.
words = Table(
    "word",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("word", _TEXT, nullable=False),
    UniqueConstraint("word"),
)

#: The classification that counts, by object and classifier.
classified = Table(
    "classified",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("classifier", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("candid", BigInteger, nullable=False),
    Column("mjd", Double, nullable=False),
    Column("ndet_used", Integer, nullable=False),
    Index("classified_version", "classifier", "version"),
    sqlite_with_rowid=False,
)

#: Its classes. Rows of ranking 1 repeat the columns that lists choose objects by, so that one index answers them.
probability = Table(
    "probability",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=False),
    Column("classifier", Integer, primary_key=True, autoincrement=False),
    Column("class", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("ranking", SmallInteger, nullable=False),
    Column("probability", Double, nullable=False),
    Column("ndet", Integer),
    Column("firstmjd", Double),
    Column("lastmjd", Double),
    sqlite_with_rowid=False,
)
Index(
    "probability_best",
    probability.c.classifier,
    probability.c["class"],
    probability.c.ranking,
    desc(probability.c.probability),
    probability.c.id,
    probability.c.ndet,
    probability.c.firstmjd,
    probability.c.lastmjd,
)
Index(
    "probability_first",
    probability.c.classifier,
    probability.c.ranking,
    desc(probability.c.probability),
    probability.c.id,
)

#: Objects with classes in the lake that `objects` lacks so far: the class may be committed before the photometry.
waiting = Table("waiting", metadata, Column("oid", _TEXT, primary_key=True))

taxonomy = Table(
    "taxonomy",
    metadata,
    Column("classifier", _TEXT, primary_key=True),
    Column("version", _TEXT, primary_key=True),
    Column("classes", _TEXT, nullable=False, comment="JSON list"),
)

#: Versions of the lake's tables that the rows show, written in the transaction that writes the rows.
applied = Table(
    "applied", metadata, Column("table", _TEXT, primary_key=True), Column("version", BigInteger, nullable=False)
)

#: Facts of the index: fingerprint of this schema, the lake that it follows, its HEALPix order, time of the build.
about = Table("about", metadata, Column("name", _TEXT, primary_key=True), Column("value", _TEXT, nullable=False))


@cache
def fingerprint() -> str:
    """Checksum of the tables and indices above: an index with another one must be rebuilt."""
    parts = [str(CreateTable(table)) for table in metadata.sorted_tables]
    parts += sorted(str(CreateIndex(index)) for table in metadata.sorted_tables for index in table.indexes)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
