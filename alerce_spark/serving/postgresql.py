"""The index in a schema of a PostgreSQL database, with views named like ALeRCE's tables.

A build fills a second schema, which replaces the first at the end, so readers never wait for it. Users who write SQL
read the views; docs/operations.md says how to make a role for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    Select,
    Table,
    bindparam,
    create_engine,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from alerce_spark.serving import schema
from alerce_spark.serving.engine import IndexFault, Store, Unreachable, create_tables

#: Schema of the tables of the index, and the one in which a build makes them.
SCHEMA, _NEW = "alerce_index", "alerce_index_new"
#: Schema of the views.
VIEWS = "alerce"
#: Key of the lock that the follower holds; any number that no other program uses.
_LOCK = 0x616C6572
_CONNECT_S = 5
_CANCELLED = "57014"
_NUMBERS = ARRAY(BigInteger)


class PostgreSQL(Store):
    """An index in the database of a URL, as postgresql://USER@HOST:PORT/DATABASE. libpq finds the password."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql+psycopg")
        self.name = self._url.set(drivername="postgresql").render_as_string(hide_password=True)
        self.upsert = upsert

    def writer(self) -> Engine:
        return self._engine()

    def reader(self, connections: int, limit_s: float) -> Engine:
        engine = self._engine(
            f"-c statement_timeout={round(limit_s * 1000)} -c default_transaction_read_only=on",
            isolation_level="REPEATABLE READ",
            pool_size=connections,
            max_overflow=0,
            # A database that was started again leaves closed connections in the pool.
            pool_pre_ping=True,
        )
        with self._connected(engine) as connection:
            if connection.scalar(select(func.to_regclass(f"{SCHEMA}.about"))) is None:
                raise self.missing()
        return engine

    def _engine(self, options: str = "", **keywords: Any) -> Engine:
        arguments = {
            "options": f"-c search_path={SCHEMA} {options}",
            "connect_timeout": _CONNECT_S,
            "application_name": "alerce-spark",
        }
        return create_engine(self._url, connect_args=arguments, **keywords)

    def _connected(self, engine: Engine) -> Connection:
        try:
            return engine.connect()
        except OperationalError as error:
            raise Unreachable(f"the database of the index {self.name} does not answer: {_first_line(error)}") from error

    @contextmanager
    def only_follower(self) -> Iterator[None]:
        # The lock belongs to the connection, which nothing else uses.
        engine = self._engine(poolclass=NullPool)
        with self._connected(engine) as connection:
            if not connection.scalar(select(func.pg_try_advisory_lock(_LOCK))):
                holder = text("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = :key AND granted")
                pid = connection.scalar(holder, {"key": _LOCK})
                raise IndexFault(
                    f"the index {self.name} is followed by another process (session {pid} of the database); "
                    "stop that one, or let it do the work"
                )
            connection.commit()
            yield

    @contextmanager
    def building(self, connection: Connection) -> Iterator[None]:
        for statement in (
            f"DROP SCHEMA IF EXISTS {_NEW} CASCADE",
            f"CREATE SCHEMA {_NEW}",
            f"SET LOCAL search_path = {_NEW}",
        ):
            connection.exec_driver_sql(statement)
        create_tables(connection)
        yield
        for table in schema.metadata.sorted_tables:
            connection.exec_driver_sql(f'ANALYZE "{table.name}"')
        for statement in (
            # Readers end their running queries first; then they see the new tables.
            f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE",
            f"ALTER SCHEMA {_NEW} RENAME TO {SCHEMA}",
            f"SET LOCAL search_path = {SCHEMA}",
            f"CREATE SCHEMA IF NOT EXISTS {VIEWS}",
            *_views(),
        ):
            connection.exec_driver_sql(statement)

    def add(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        names = list(rows[0])
        columns = ", ".join(f'"{name}"' for name in names)
        raw: Any = connection.connection.driver_connection
        with raw.cursor().copy(f'COPY "{table.name}" ({columns}) FROM STDIN') as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])

    @contextmanager
    def limited(self, connection: Connection, limit_s: float) -> Iterator[None]:
        yield  # The connections of `reader` have the limit.

    def is_too_long(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlstate", None) == _CANCELLED

    def fault(self, error: DBAPIError) -> IndexFault:
        return self.missing() if getattr(error.orig, "sqlstate", None) in _ABSENT else super().fault(error)

    def state(self, connection: Connection) -> tuple[int, int]:
        place, version = connection.execute(_STATE).one()
        return place, version

    def size(self) -> int:
        with self._connected(self._engine(poolclass=NullPool)) as connection:
            return int(connection.scalar(_SIZE) or 0)

    def numbers(self, values: Sequence[int]) -> Select[Any]:
        return select(func.unnest(bindparam(None, list(values), _NUMBERS)))

    def ranges(self, first: Sequence[int], last: Sequence[int]) -> Any:
        ends = (bindparam(None, list(values), _NUMBERS) for values in (first, last))
        return func.unnest(*ends).table_valued("first", "last").render_derived(name="around")


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


#: A value that changes with rows and builds: the schema's id and the sum of its tables' versions.
_STATE = text(f"SELECT CAST(CAST('{SCHEMA}' AS regnamespace) AS oid), sum(version) FROM applied")
_SIZE = text(
    f"SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
    f"WHERE relnamespace = CAST('{SCHEMA}' AS regnamespace) AND relkind = 'r'"
)
#: No such schema, no such table.
_ABSENT = ("3F000", "42P01")


def _views() -> Iterator[str]:
    """Statements that make the views, with the columns of ALeRCE's tables where the index has them."""
    shown = {name: name.lower() for name in schema.OBJECT_COLUMNS if name not in ("healpix29", "survey")}
    shown["deltamjd"] = "deltajd"
    columns = ", ".join(f'o."{name}" AS {shown_as}' for name, shown_as in shown.items())
    yield f"CREATE OR REPLACE VIEW {VIEWS}.object AS SELECT {columns} FROM {SCHEMA}.object o"
    yield f"""CREATE OR REPLACE VIEW {VIEWS}.probability AS
        SELECT o.oid, classifier.word AS classifier_name, version.word AS classifier_version,
               class.word AS class_name, p.probability, p.ranking
        FROM {SCHEMA}.probability p
        JOIN {SCHEMA}.object o ON o.id = p.id
        JOIN {SCHEMA}.word classifier ON classifier.id = p.classifier
        JOIN {SCHEMA}.word version ON version.id = p.version
        JOIN {SCHEMA}.word class ON class.id = p.class"""
    yield f"""CREATE OR REPLACE VIEW {VIEWS}.taxonomy AS
        SELECT classifier AS classifier_name, version AS classifier_version, classes FROM {SCHEMA}.taxonomy"""
