"""The Avro repository: every unchanged packet, in a directory or in S3, under `<survey>/<night>/<candid>.avro`.

A packet that cannot be decoded is kept under `<survey>/unreadable/<sha256 of its bytes>`. Both keys depend on the
packet alone, so storing it again, after a crash or when it is sent again, changes nothing. Where a survey sends other
bytes for an alert (compressed again, say), the bytes that are stored last stay. Where two objects have an alert of one
candid, the packet that comes second is kept under `<candid>-<checksum of the objectId>.avro` beside the first.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from uuid import uuid4

import botocore.exceptions as aws
from boto3.session import Session
from botocore.config import Config
from botocore.parsers import ResponseParserError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from alerce_spark.config import ArchiveSettings
from alerce_spark.errors import AlerceError
from alerce_spark.location import sync
from alerce_spark.surveys.survey import Survey

#: Waits between the attempts of one request are drawn from 0 to a bound that doubles from the first to the longest [s].
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 20.0
#: No new attempt after so long, so that a server that never answers holds a task for little more than this [s].
_LONGEST_TRY_S = 60.0
_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 20.0
#: HTTP statuses and codes of S3 that a repetition may change, besides those of a failing server (500 and above).
_PASSING_STATUS = (408, 409, 429)
_PASSING_CODES = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch")
_NOT_IMPLEMENTED, _PRECONDITION_FAILED = 501, 412
#: Other errors that may pass: no connection, an incomplete answer, a role's credentials that could not be fetched.
_PASSING_ERRORS = (
    aws.ConnectionError,
    aws.HTTPClientError,
    aws.IncompleteReadError,
    ResponseParserError,  # a proxy's page in place of S3's XML
    aws.CredentialRetrievalError,
    aws.MetadataRetrievalError,
)
_CREDENTIALS_CURE = (
    "the workers find no valid credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another of the AWS "
    "places, where they run"
)
_REGION_CURE = "correct archive.region"
#: Remedies by the code of S3's answer.
_CURES = {
    "NoSuchBucket": "there is no such bucket; make it or correct archive.url",
    "InvalidBucketName": "no bucket can have this name; correct archive.url",
    "AccessDenied": "the credentials do not allow it; let them put, get and list objects there",
    "InvalidAccessKeyId": _CREDENTIALS_CURE,
    "SignatureDoesNotMatch": _CREDENTIALS_CURE,
    "ExpiredToken": _CREDENTIALS_CURE,
    "InvalidToken": _CREDENTIALS_CURE,
    "XAdminUserNotFound": _CREDENTIALS_CURE,  # versitygw
    "RequestTimeTooSkewed": "set the clock of this machine",
    "AuthorizationHeaderMalformed": _REGION_CURE,
    "IllegalLocationConstraintException": _REGION_CURE,
    "PermanentRedirect": _REGION_CURE,
}

Answer = TypeVar("Answer")


class RepositoryError(AlerceError):
    """The repository cannot be used; the message names the setting, the cause and the remedy."""


class Repository(ABC):
    """Bytes under keys. Storing the same again changes nothing; other bytes replace those under the key."""

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`; it is durable on return. Raises RepositoryError."""
        self.put_all([(key, data)])

    @abstractmethod
    def put_all(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Store pairs of key and data, several at once; all are durable on return. No key may come twice.

        Few pairs are taken from the iterator ahead of time. Raises RepositoryError at the first that cannot be stored;
        others may or may not be there then.
        """

    @abstractmethod
    def create_all(self, items: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Store pairs of key and data whose key is new; return the others. As `put_all`, but keys may repeat."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Bytes under `key`. Raises KeyError where there are none, and RepositoryError."""

    @abstractmethod
    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys that begin with `prefix`, in order of their code points. Raises RepositoryError."""


def open_repository(settings: ArchiveSettings) -> Repository:
    """The repository that `archive.url` names; nothing is read or made yet. Raises RepositoryError for a bad one."""
    if settings.url.startswith("s3://"):
        return S3Repository(settings)
    return DirectoryRepository(_directory(settings.url), settings.connections)


def absolute(settings: ArchiveSettings) -> ArchiveSettings:
    """The same settings for a process with another working directory. Raises RepositoryError for a bad one."""
    if settings.url.startswith("s3://"):
        return settings
    return settings.model_copy(update={"url": f"file:{_directory(settings.url).resolve()}"})


def key(survey: Survey, mjd: float, candid: int) -> str:
    """Key of a readable packet."""
    return f"{survey.name}/{survey.night(mjd)}/{candid}.avro"


def second_key(survey: Survey, mjd: float, candid: int, oid: str) -> str:
    """Key of a readable packet where `key` holds that of another object."""
    return f"{survey.name}/{survey.night(mjd)}/{candid}-{hashlib.sha256(oid.encode()).hexdigest()[:16]}.avro"


def unreadable_key(survey: Survey, packet: bytes) -> str:
    """Key of a packet that cannot be decoded."""
    return f"{survey.name}/unreadable/{hashlib.sha256(packet).hexdigest()}"


class DirectoryRepository(Repository):
    """Files below a folder. A file appears whole or not at all: it is written to `.parts` there and moved.

    Files that a crash left in `.parts` may be deleted.
    """

    def __init__(self, root: Path, threads: int) -> None:
        self._root, self._threads = root, threads
        self._parts = root / ".parts"

    def put_all(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Every file is synchronised (in threads, which share the journal's commits), and then each folder once."""
        self._write_all(items, lambda part, path: part.replace(path))

    def create_all(self, items: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Store files as links, which fail where a file exists."""
        return self._write_all(items, lambda part, path: path.hardlink_to(part))

    def _write_all(
        self, items: Iterable[tuple[str, bytes]], move: Callable[[Path, Path], object]
    ) -> list[tuple[str, bytes]]:
        """Write files by `move`; return the pairs whose file existed already."""
        folders: set[Path] = set()
        there: list[tuple[str, bytes]] = []

        def write(item: tuple[str, bytes]) -> None:
            try:
                folders.add(self._write(*item, move))
            except FileExistsError:
                there.append(item)

        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            _in_parallel(write, items, self._threads)
            for folder in {above for f in folders for above in (f, *f.parents) if above.is_relative_to(self._root)}:
                sync(folder)
        except OSError as error:
            self._fail(error, "written")
        return there

    def get(self, key: str) -> bytes:
        """Bytes of a file."""
        try:
            return (self._root / key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise KeyError(key) from None
        except OSError as error:
            self._fail(error, "read")

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Files below the folder. Only subfolders that can hold the prefix are read, one after another."""
        try:
            yield from self._walk("", prefix)
        except OSError as error:
            self._fail(error, "read")

    def _write(self, key: str, data: bytes, move: Callable[[Path, Path], object]) -> Path:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        part = self._parts / uuid4().hex
        try:
            with part.open("xb") as sink:
                sink.write(data)
                sink.flush()
                os.fsync(sink.fileno())
            move(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path.parent

    def _walk(self, folder: str, prefix: str) -> Iterator[str]:
        if not (self._root / folder).is_dir():
            return
        with os.scandir(self._root / folder) as found:
            # With a slash at its end, a folder sorts like the keys below it.
            names = sorted(e.name + "/" if e.is_dir() else e.name for e in found if not e.name.startswith("."))
        for key in (folder + name for name in names):
            if key.endswith("/") and (key.startswith(prefix) or prefix.startswith(key)):
                yield from self._walk(key, prefix)
            elif not key.endswith("/") and key.startswith(prefix):
                yield key

    def _fail(self, error: OSError, what: str) -> NoReturn:
        raise RepositoryError(
            f"archive.url = 'file:{self._root}' cannot be {what}: {error}; see to its rights and room, or change it"
        ) from error


class S3Repository(Repository):
    """Objects below a prefix of a bucket, at AWS or at another server. Credentials come from the usual AWS places.

    A request is tried `archive.max_attempts` times with growing, jittered waits (botocore's retries wait for tenths of
    a second only and stop after 35 in all); errors that a repetition cannot change are not repeated.
    """

    def __init__(self, settings: ArchiveSettings) -> None:
        self._url, self._threads = settings.url, settings.connections
        self._bucket, _, prefix = settings.url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        try:
            # A new session reads the credentials again; boto3's default one would keep the first it found.
            self._client = Session().client(
                "s3", endpoint_url=settings.endpoint_url, region_name=settings.region, config=_config(settings)
            )
        except (ValueError, aws.BotoCoreError) as error:
            raise RepositoryError(
                f"no S3 client for archive.endpoint_url = {settings.endpoint_url!r}, archive.region = "
                f"{settings.region!r} and the AWS configuration of this machine; correct what is wrong: {error}"
            ) from error
        self._attempts = Retrying(
            stop=stop_after_attempt(settings.max_attempts) | stop_after_delay(_LONGEST_TRY_S),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )

    def put_all(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Upload."""
        _in_parallel(lambda item: self._call(self._upload, *item), items, self._threads)

    def create_all(self, items: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Upload where no object exists, in one conditional request; a server without such requests replaces it."""
        there: list[tuple[str, bytes]] = []

        def create(item: tuple[str, bytes]) -> None:
            if not self._call(self._create, *item):
                there.append(item)

        _in_parallel(create, items, self._threads)
        return there

    def get(self, key: str) -> bytes:
        """Bytes of an object."""
        return self._call(self._download, key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Objects below the prefix, listed a page at a time."""
        following: dict[str, str] = {}
        while True:
            page = self._call(self._list, self._prefix + prefix, following)
            yield from (item["Key"].removeprefix(self._prefix) for item in page.get("Contents", []))
            if "NextContinuationToken" not in page:
                return
            following = {"ContinuationToken": page["NextContinuationToken"]}

    def _upload(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data)

    def _create(self, key: str, data: bytes) -> bool:
        try:
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, IfNoneMatch="*")
        except aws.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == _NOT_IMPLEMENTED:
                self._upload(key, data)
            elif status != _PRECONDITION_FAILED:
                raise
            return status == _NOT_IMPLEMENTED
        return True

    def _download(self, key: str) -> bytes:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
        except self._client.exceptions.NoSuchKey:
            raise KeyError(key) from None
        return bytes(answer["Body"].read())

    def _list(self, prefix: str, following: dict[str, str]) -> dict[str, Any]:
        page: dict[str, Any] = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **following)
        return page

    def _call(self, request: Callable[..., Answer], *arguments: Any) -> Answer:
        try:
            return self._attempts(request, *arguments)
        except (aws.ClientError, aws.BotoCoreError) as error:
            where = f"archive.url = {self._url!r} at {self._client.meta.endpoint_url}"
            raise RepositoryError(f"{where}: {_cure(error)} ({_answer(error)})") from error


def _config(settings: ArchiveSettings) -> Config:
    return Config(
        max_pool_connections=settings.connections,
        retries={"total_max_attempts": 1},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        # Servers other than AWS seldom have a host name for each bucket, and not all know trailing checksums.
        s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, aws.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        failing = status in _PASSING_STATUS or (status >= 500 and status != _NOT_IMPLEMENTED)
        return failing or error.response.get("Error", {}).get("Code") in _PASSING_CODES
    return isinstance(error, _PASSING_ERRORS) and not isinstance(error, aws.SSLError)


def _cure(error: aws.ClientError | aws.BotoCoreError) -> str:
    if isinstance(error, aws.ClientError):
        return _CURES.get(error.response.get("Error", {}).get("Code", ""), "the server does not do what it is asked")
    if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError | aws.CredentialRetrievalError):
        return _CREDENTIALS_CURE
    if isinstance(error, aws.ParamValidationError):
        return "correct archive.url"
    return "no answer; see whether the server runs, and to archive.endpoint_url"


def _answer(error: aws.ClientError | aws.BotoCoreError) -> str:
    """The message of the server or of botocore, in one line."""
    said = error.response.get("Error", {}) if isinstance(error, aws.ClientError) else {}
    text = f"{said.get('Code')}: {said.get('Message')}" if said else str(error)
    return " ".join(text.split())


def _directory(url: str) -> Path:
    """Folder of `file:<directory>`, `file:/<directory>` or `file:///<directory>`; its text is not decoded."""
    path = url.removeprefix("file:")
    return Path(path.removeprefix("//") if path.startswith("///") else path)


def _in_parallel(store: Callable[[tuple[str, bytes]], None], items: Iterable[tuple[str, bytes]], threads: int) -> None:
    """`store` each item; few more than are being stored are in memory. The first error ends it and is raised."""
    running: set[Future[None]] = set()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                if len(running) >= 2 * threads:
                    running = _after_one(running)
                running.add(pool.submit(store, item))
            while running:
                running = _after_one(running)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _after_one(running: set[Future[None]]) -> set[Future[None]]:
    """Wait for at least one future; return those that still run. Raises the error of one that failed."""
    done, left = wait(running, return_when=FIRST_COMPLETED)
    for finished in done:
        finished.result()
    return left
