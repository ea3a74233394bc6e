"""The index in a file of SQLite."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, Select, Table, cast, create_engine, event, func, insert, select
from sqlalchemy import literal_column as sql
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import DBAPIError

from alerce_spark.serving import schema
from alerce_spark.serving.engine import IndexFault, Store, create_tables

_BUSY_MS = 30_000
_WRITER_CACHE_KIB = 65_536
#: Readers are many: each has a small cache, and they share the file that the system maps into memory.
_READER_CACHE_KIB = 2_048
_MMAP_BYTES = 4 << 30
#: Steps of SQLite's virtual machine between two checks of the time.
_STEPS_BETWEEN_LOOKS = 20_000


class SQLite(Store):
    """An index in the file `path`."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.name = path
        self.upsert = upsert
        self._inode = 0

    def writer(self) -> Engine:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Transactions begin explicitly: by default Python would end them at every CREATE TABLE.
        engine = create_engine(f"sqlite:///{self.path}", connect_args={"timeout": _BUSY_MS / 1000})

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            connection.isolation_level = None
            _pragmas(
                connection,
                cache_size=f"-{_WRITER_CACHE_KIB}",
                journal_mode="WAL",
                synchronous="NORMAL",
                case_sensitive_like="ON",
            )

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def reader(self, connections: int, limit_s: float) -> Engine:
        if not self.path.is_file():
            raise self.missing()
        self._inode = self.path.stat().st_ino
        engine = create_engine(
            f"sqlite:///file:{self.path.resolve()}?mode=rw&uri=true",
            connect_args={"timeout": _BUSY_MS / 1000},
            pool_size=connections,
            max_overflow=0,
        )

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            connection.isolation_level = None
            cache, mapped = f"-{_READER_CACHE_KIB}", str(_MMAP_BYTES)
            _pragmas(connection, cache_size=cache, query_only="ON", mmap_size=mapped, case_sensitive_like="ON")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

        return engine

    @contextmanager
    def only_follower(self) -> Iterator[None]:
        path = self.path.with_name(self.path.name + ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise IndexFault(
                    f"the index {self.name} is followed by process {file.read().strip() or 'unknown'}; "
                    "stop that one, or let it do the work"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    @contextmanager
    def building(self, connection: Connection) -> Iterator[None]:
        schema.metadata.drop_all(connection)
        create_tables(connection)
        yield
        connection.exec_driver_sql("ANALYZE")

    def add(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        connection.execute(insert(table), rows)

    def refresh(self, engine: Engine) -> None:
        try:
            inode = self.path.stat().st_ino
        except FileNotFoundError:
            raise self.missing() from None
        if inode != self._inode:
            engine.dispose()
            self._inode = inode

    @contextmanager
    def limited(self, connection: Connection, limit_s: float) -> Iterator[None]:
        end = monotonic() + limit_s
        raw: Any = connection.connection.dbapi_connection
        raw.set_progress_handler(lambda: int(monotonic() > end), _STEPS_BETWEEN_LOOKS)
        try:
            yield
        finally:
            raw.set_progress_handler(None, 0)

    def is_too_long(self, error: DBAPIError) -> bool:
        return "interrupted" in str(error.orig)

    def state(self, connection: Connection) -> int:
        raw: Any = connection.connection.dbapi_connection
        return int(raw.execute("PRAGMA data_version").fetchone()[0])

    def size(self) -> int:
        return self.path.stat().st_size

    def numbers(self, values: Sequence[int]) -> Select[Any]:
        return select(sql("value")).select_from(func.json_each(json.dumps(list(values))))

    def ranges(self, first: Sequence[int], last: Sequence[int]) -> Any:
        pairs = func.json_each(json.dumps(list(zip(first, last, strict=True)))).table_valued("value")
        ends = (cast(func.json_extract(pairs.c.value, f"$[{k}]"), BigInteger) for k in (0, 1))
        return select(*(end.label(name) for end, name in zip(ends, ("first", "last"), strict=True))).subquery()


def _pragmas(connection: Any, **values: str) -> None:
    for name, value in {"busy_timeout": str(_BUSY_MS), **values}.items():
        connection.execute(f"PRAGMA {name}={value}")
