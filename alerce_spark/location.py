"""Places of lakes, archives and services, in one spelling; how to list, read, write and synchronise files there.

A place is a folder or a prefix of a bucket of S3; `at` opens it. On a file system a new file and its name in the folder
are in the memory of the machine only, until they are synchronised: a power cut may leave it empty, cut off or missing.
So `settle` comes after new files and before the commit that names them, and `create` gives a file its name once its
bytes are on the disk. On S3 a file is safe once it is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote
from uuid import uuid4

from alerce_spark.errors import InputError, LakeError

if TYPE_CHECKING:
    from obstore.store import S3Store
    from pyarrow import fs

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_S3 = re.compile(r"s3a?://[\w.-]+(/.*)?")
#: delta-rs takes a backslash for a slash and %41 for A, and cannot parse brackets, ^ and |; polars looks for a pattern
#: where * or ? is, and for a partition where = is.
_UNSAFE = re.compile(r"[\\*?\[\]^|=]|%[0-9A-Fa-f]{2}|[\x00-\x1f\x7f]")

#: Files synchronised at a time: they share commits of the file system's journal.
_THREADS = 8
#: Attempts and seconds after which a store on S3 that does not answer is an error, for every client.
_ATTEMPTS, _CONNECT_S, _REQUEST_S, _GIVE_UP_S = 3, 3, 30, 10


def lake_path(given: str | os.PathLike[str]) -> str:
    """Return a lake's place in one spelling: a path, or s3a://bucket/prefix; without a slash at the end.

    Accepts paths (~ is the user's home) and file: URLs, whose %-escapes are decoded. Raises InputError for an empty
    text, places that a lake cannot have, and characters that would lead elsewhere. No message holds the path: it may
    contain a secret.
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else ""
    if not isinstance(text, str) or not text.strip():
        raise InputError("the path of the lake is empty; give a folder or s3a://<bucket>/<prefix>")
    refuse_credentials(text)
    scheme = _SCHEME.match(text)
    if scheme is None:
        path = _folder(os.path.expanduser(text))
    elif scheme[1] == "file":
        path = _folder(_of_file_url(text))
    elif scheme[1] in ("s3", "s3a"):
        if not _S3.fullmatch(text):
            raise InputError("a lake on S3 is written s3a://<bucket>/<prefix>")
        path = text.rstrip("/")
    elif scheme[1] == "hdfs":
        raise InputError(
            "a lake on hdfs:// is not supported: workers read it with delta-rs; use a shared path or s3a://"
        )
    else:
        raise InputError(
            "a lake is a folder or s3a://<bucket>/<prefix>; a folder with a colon in its name is written ./<folder>"
        )
    if not is_remote(path) and (found := _UNSAFE.search(os.path.abspath(path))):
        what = repr(found[0]) if found[0].isprintable() else "a control character"
        raise InputError(f"the absolute path of a lake cannot have {what} in it")
    return path


def _folder(path: str) -> str:
    stripped = path.rstrip("/")
    if not stripped:
        raise InputError("the root of the file system cannot be a lake; give a folder in it")
    return stripped


def _of_file_url(url: str) -> str:
    path = url.removeprefix("file:")
    if path.startswith("//"):
        host, slash, path = path.removeprefix("//").partition("/")
        if host not in ("", "localhost"):
            raise InputError("this URL names a folder on another machine; write file:///<folder> for one on this")
        path = slash + path
    return unquote(path)


def refuse_credentials(url: str) -> str:
    """Return `url`; raise InputError for an @ after a colon or a host's //: a user and password would be printed.

    A secret key may hold slashes, so an @ counts wherever it is.
    """
    if re.search(r":.*@|^//[^/]*@", url.removeprefix("file:"), re.DOTALL):
        raise InputError(
            "there is an @ after a colon, as after a user and password; leave them out. S3 reads AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY from the environment, Kafka its login from kafka.options"
        )
    return url


def is_remote(place: str) -> bool:
    """Whether a place is a URL of S3, not a folder."""
    return place.startswith(("s3://", "s3a://"))


def sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Status(NamedTuple):
    """A file: its bytes, and a mark that changes when it is written again."""

    size: int
    mark: str


class Folder:
    """A folder on a file system. Paths of files are relative to it; a file appears whole or not at all."""

    is_remote = False
    #: Options of delta-rs: none for a folder.
    options: dict[str, str] | None = None

    def __init__(self, place: str) -> None:
        self.place = self.url = place
        self.path = Path(place)

    def __truediv__(self, name: str) -> Location:
        return at(f"{self.place}/{name}")

    @cached_property
    def filesystem(self) -> fs.FileSystem:
        """Arrow's file system with this place as its root."""
        from pyarrow import fs  # noqa: PLC0415 - the command starts without Arrow

        return fs.SubTreeFileSystem(str(self.path.resolve()), fs.LocalFileSystem())

    def get(self, path: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""
        return (self.path / path).read_bytes()

    def file(self, path: str, scratch: Path) -> Path:
        """A file on the file system, itself or a copy in the folder `scratch`. Raises FileNotFoundError."""
        return self.path / path

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """A part of a file, shorter where the file ends. Raises FileNotFoundError."""
        with (self.path / path).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def status(self, path: str) -> Status | None:
        """Size and mark of a file; None where it does not exist."""
        try:
            found = (self.path / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Status(found.st_size, f"{found.st_ino} {found.st_mtime_ns}")

    def size(self, path: str) -> int | None:
        """Bytes of a file. Raises FileNotFoundError; None on S3, where it takes a request."""
        return (self.path / path).stat().st_size

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder; none where there is no folder."""
        try:
            return [entry.name for entry in os.scandir(self.path / folder) if entry.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def folders(self) -> list[str]:
        """Names of the folders in this place."""
        try:
            return sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def put(self, path: str, data: bytes) -> None:
        """Write a file; replace an existing one."""
        with self._part(path, data, synced=False) as part:
            part.replace(self.path / path)

    def create(self, path: str, data: bytes, *, synced: bool) -> bool:
        """Create a file; False where it exists already. It is on the disk before others see it."""
        try:
            with self._part(path, data, synced) as part:
                os.link(part, self.path / path)
        except FileExistsError:
            return False
        if synced:
            sync((self.path / path).parent)
        return True

    @contextmanager
    def _part(self, path: str, data: bytes, synced: bool) -> Iterator[Path]:
        """A temporary file with the data, in the folder of the final one."""
        target = self.path / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LakeError(
                f"nothing can be written in {self.place}: {error}; check its permissions, or choose another folder"
            ) from None
        part = target.with_name(f".{uuid4().hex}.tmp")
        try:
            with part.open("xb") as sink:
                sink.write(data)
                sink.flush()
                if synced:
                    os.fsync(sink.fileno())
            yield part
        finally:
            part.unlink(missing_ok=True)

    def settle(self, paths: Iterable[str]) -> None:
        """Synchronise files, then each folder between them and this place, once."""
        listed = [self.path / path for path in paths]
        folders = {above for file in listed for above in file.parents if above.is_relative_to(self.path)}
        for together in (listed, sorted(folders)):
            if len(together) > 1:
                with ThreadPoolExecutor(min(_THREADS, len(together))) as pool:
                    list(pool.map(sync, together))
            else:
                for one in together:
                    sync(one)


class Bucket:
    """A prefix of a bucket of S3, with the credentials of the environment (AWS_…), which Spark's s3a reads too.

    A server that does not answer is a LakeError within seconds, after a few attempts.
    """

    is_remote = True

    def __init__(self, place: str) -> None:
        self.place = place
        self.url = place.replace("s3a://", "s3://", 1)

    def __truediv__(self, name: str) -> Location:
        return at(f"{self.place}/{name}")

    @property
    def options(self) -> dict[str, str]:
        """Options of delta-rs."""
        options = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
        if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
        bounds = {"connect_timeout": f"{_CONNECT_S}s", "timeout": f"{_REQUEST_S}s", "max_retries": str(_ATTEMPTS - 1)}
        return options | bounds | {"retry_timeout": f"{_GIVE_UP_S}s"}

    @cached_property
    def filesystem(self) -> fs.FileSystem:
        """Arrow's file system with this place as its root."""
        from deltalake.fs import DeltaStorageHandler  # noqa: PLC0415 - the command starts without these
        from pyarrow import fs  # noqa: PLC0415

        return fs.PyFileSystem(DeltaStorageHandler(self.url, self.options))

    @cached_property
    def _store(self) -> S3Store:
        from obstore.store import S3Store  # noqa: PLC0415

        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        # The store reads the AWS_… environment by itself; given as its configuration, an unknown name is an error.
        return S3Store.from_url(
            self.url,
            client_options={
                "allow_http": plain,
                "connect_timeout": timedelta(seconds=_CONNECT_S),
                "timeout": timedelta(seconds=_REQUEST_S),
            },
            retry_config={"max_retries": _ATTEMPTS - 1, "retry_timeout": timedelta(seconds=_GIVE_UP_S)},
        )

    @contextmanager
    def _asked(self, path: str) -> Iterator[None]:
        """Turn the store's errors into FileNotFoundError and LakeError."""
        from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError  # noqa: PLC0415

        try:
            yield
        except NotFoundError as error:
            raise FileNotFoundError(f"{self.place}/{path} is not there") from error
        except AlreadyExistsError:
            raise
        except BaseError as error:
            raise no_answer(self.place, error) from error

    def get(self, path: str) -> bytes:
        """The bytes of an object. Raises FileNotFoundError."""
        with self._asked(path):
            return bytes(self._store.get(path).bytes())

    def file(self, path: str, scratch: Path) -> Path:
        """A copy of an object in the folder `scratch`. Raises FileNotFoundError."""
        copy = scratch / path.rpartition("/")[2]
        copy.write_bytes(self.get(path))
        return copy

    def get_range(self, path: str, start: int, length: int) -> bytes:
        """A part of an object, shorter where it ends. Raises FileNotFoundError."""
        found = self.status(path)
        if found is None:
            raise FileNotFoundError(f"{self.place}/{path} is not there")
        end = min(start + length, found.size)
        if end <= start:
            return b""
        with self._asked(path):
            return bytes(self._store.get_range(path, start=start, end=end))

    def status(self, path: str) -> Status | None:
        """Size and mark of an object; None where it does not exist."""
        try:
            with self._asked(path):
                found = self._store.head(path)
        except FileNotFoundError:
            return None
        return Status(found["size"], f"{found['e_tag']} {found['last_modified']}")

    def size(self, path: str) -> int | None:
        """None: it takes a request."""
        return None

    def names(self, folder: str) -> list[str]:
        """Names of the objects in a folder."""
        with self._asked(folder):
            objects = self._store.list_with_delimiter(folder)["objects"]
        return [item["path"].rpartition("/")[2] for item in objects]

    def folders(self) -> list[str]:
        """Names of the folders in this place."""
        with self._asked(""):
            return sorted(prefix.rpartition("/")[2] for prefix in self._store.list_with_delimiter()["common_prefixes"])

    def put(self, path: str, data: bytes) -> None:
        """Write an object; replace an existing one."""
        with self._asked(path):
            self._store.put(path, data)

    def create(self, path: str, data: bytes, *, synced: bool) -> bool:
        """Create an object; False where it exists already."""
        from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415

        try:
            with self._asked(path):
                self._store.put(path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def settle(self, paths: Iterable[str]) -> None:
        """Do nothing: an object is safe once it is written."""


Location = Folder | Bucket


def no_answer(place: str, error: Exception) -> LakeError:
    """The error about a store that does not answer, or answers wrongly."""
    first = " ".join(str(error).split())
    server = os.environ.get("AWS_ENDPOINT_URL", "AWS")
    return LakeError(
        f"{place} cannot be reached at {server}: {first[:300]}; see whether server and bucket are there, and "
        "to AWS_ENDPOINT_URL, AWS_REGION and the credentials in the environment"
    )


@cache
def at(place: str) -> Location:
    """Open a place, given as `lake_path` spells it."""
    return Bucket(place) if is_remote(place) else Folder(place)
