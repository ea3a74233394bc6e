"""Where a table lies, how its files are reached, and when they are safe, without Spark.

On a file system a file that was written is in the memory of the machine only, until it is synchronised; so is its name
in the folder. After a power cut files are empty, cut off or gone that were not. So `settle` comes after new files and
before the commit that names them, and `publish` gives a commit its name when it is safe. On S3 what was put is safe.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, S3Store
from pyarrow import fs

from alerce_spark.errors import AlerceError
from alerce_spark.lake.tables import TABLES
from alerce_spark.places import is_remote, lake_path, sync

Store = LocalStore | S3Store
#: A line of the Delta log, or a part of one.
Action = dict[str, Any]
#: Files that are synchronised at a time: their journal's commits are shared.
_THREADS = 8


class LakeError(AlerceError):
    """The lake cannot be used as asked; the message says why and what to do."""


def table_path(lake: str, table: str) -> str:
    """Path of a table. Raises LakeError for a name that no table has."""
    if table not in TABLES:
        raise LakeError(f"no table {table!r}; there are {', '.join(TABLES)}")
    return f"{lake_path(lake)}/{table}"


def storage_options(lake: str) -> dict[str, str] | None:
    """Options of delta-rs for a lake on S3, from the same AWS_… environment that s3a reads; None for a path."""
    if not is_remote(lake):
        return None
    options = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return options


def is_made(lake: str, table: str) -> bool:
    """Whether the table exists."""
    return bool(DeltaTable.is_deltatable(delta_path(lake, table), storage_options(lake)))


class OpenTable(DeltaTable):
    """A table as delta-rs opens it, whose files polars finds also where their folder has blanks or accents in it."""

    @property
    def table_uri(self) -> str:
        """Place of the table, on a file system as it is written there; delta-rs gives %-escapes, polars takes none."""
        return _plain(super().table_uri)

    def file_uris(self, *arguments: Any, **options: Any) -> list[str]:
        """Places of the live files, likewise."""
        return [_plain(uri) for uri in super().file_uris(*arguments, **options)]


def _plain(uri: str) -> str:
    return uri if is_remote(uri) else unquote(uri)


@cache
def store(lake: str, table: str) -> Store:
    """The files of a table, paths relative to it; a file appears whole or not at all."""
    path = delta_path(lake, table)
    options = storage_options(lake)
    if options is None:
        try:
            return LocalStore(Path(path).resolve(), mkdir=True)
        except OSError as error:
            raise LakeError(f"no lake can be in {lake}: {error}; see to its rights, or choose another folder") from None
    # The store reads the AWS_… environment by itself; given as its configuration, a name it does not know is an error.
    return S3Store.from_url(path, client_options={"allow_http": options.get("AWS_ALLOW_HTTP") == "true"})


def filesystem(path: str, options: dict[str, str] | None) -> fs.FileSystem:
    """Arrow's file system whose root is the table at `path` (as delta-rs spells it), with its `storage_options`."""
    if options is None:
        return fs.SubTreeFileSystem(str(Path(path).resolve()), fs.LocalFileSystem())
    return fs.PyFileSystem(DeltaStorageHandler(path, options))


def delta_path(lake: str, table: str) -> str:
    """Path of a table as delta-rs spells it."""
    return table_path(lake, table).replace("s3a://", "s3://", 1)


def publish(files: Store, path: str, data: bytes, *, synced: bool) -> bool:
    """Make a file that is not there yet, whole and at once; False where it is. When others see it, it is safe."""
    folder = _folder(files)
    if folder is None:
        try:
            files.put(path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{uuid4().hex}.tmp")
    try:
        with part.open("xb") as sink:
            sink.write(data)
            sink.flush()
            if synced:
                os.fsync(sink.fileno())
        os.link(part, target)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    if synced:
        sync(target.parent)
    return True


def settle(files: Store, paths: Iterable[str]) -> None:
    """Make files that were put safe: each is synchronised, then each folder between them and the table, once."""
    folder = _folder(files)
    if folder is not None:
        settle_files(folder, [folder / path for path in paths])


def settle_files(root: Path, files: Iterable[Path]) -> None:
    """As `settle`, of files below a folder of the file system."""
    listed = list(files)
    folders = {above for file in listed for above in file.parents if above.is_relative_to(root)}
    for together in (listed, sorted(folders)):
        if len(together) > 1:
            with ThreadPoolExecutor(min(_THREADS, len(together))) as pool:
                list(pool.map(sync, together))
        else:
            for one in together:
                sync(one)


def size(files: Store, path: str) -> int | None:
    """Bytes of a file of a table on a file system; None where it is not there, and on S3."""
    folder = _folder(files)
    try:
        return None if folder is None else (folder / path).stat().st_size
    except FileNotFoundError:
        return None


def _folder(files: Store) -> Path | None:
    return Path(str(files.prefix)) if isinstance(files, LocalStore) else None
