"""Connections to the index: one writer, many readers, SQLite in a file. The URL is SQLAlchemy's; a path is SQLite's."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

from alerce_spark.errors import AlerceError, InputError

_BUSY_MS = 30_000
_WRITER_CACHE_KIB = 65_536
#: Readers see the file through the memory that the system maps; there are many of them.
_READER_CACHE_KIB = 2_048
_MMAP_BYTES = 4 << 30


class IndexFault(AlerceError):
    """The index cannot be used; the message says why and what to do."""


def file_of(url: str) -> Path:
    """File of the index. Raises InputError for a URL of another kind than SQLite's."""
    path = url.removeprefix("sqlite:///")
    if "://" in path:
        kind = path.partition(":")[0]
        raise InputError(f"services.index = {url!r}: an index in {kind} is not supported yet; give the path of a file")
    return Path(path)


def writer(url: str) -> Engine:
    """Connections of the follower; the file is made where it is not there."""
    path = file_of(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Transactions are begun by hand: Python's own way would end them at every CREATE TABLE.
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_MS / 1000})

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


def reader(url: str, connections: int) -> Engine:
    """Connections that cannot write. Raises IndexFault where there is no index."""
    path = file_of(url)
    if not path.is_file():
        raise IndexFault(f"no index {path}; build it with: alerce-spark index build")
    engine = create_engine(
        f"sqlite:///file:{path.resolve()}?mode=rw&uri=true",
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


def _pragmas(connection: Any, **values: str) -> None:
    for name, value in {"busy_timeout": str(_BUSY_MS), **values}.items():
        connection.execute(f"PRAGMA {name}={value}")


@contextmanager
def only_follower(url: str) -> Iterator[None]:
    """Hold the right to write the index; the system takes it back from a process that dies.

    Raises IndexFault while another process or thread has it.
    """
    path = file_of(url).with_name(file_of(url).name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise IndexFault(
                f"the index {file_of(url)} is followed by process {file.read().strip() or 'unknown'}; "
                "stop that one, or let it do the work"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def state_of(connection: Connection) -> int:
    """A number that changes when another connection has written the file."""
    raw: Any = connection.connection.dbapi_connection
    return int(raw.execute("PRAGMA data_version").fetchone()[0])
