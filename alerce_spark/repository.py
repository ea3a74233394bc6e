"""The Avro repository: every packet as it came, in a directory or in S3, under `<survey>/<night>/<candid>.avro`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from alerce_spark.config import ArchiveSettings

#: Longest wait between two attempts of one upload [s].
_LONGEST_WAIT_S = 20.0
#: Answers of S3 that a repetition does not change: bad credentials, no such bucket, bad request.
_FINAL_STATUS = (400, 401, 403, 404)
#: Midnight of the Unix epoch as a Julian date.
_UNIX_JD = 2_440_587.5


class Repository(Protocol):
    """Bytes under keys; putting the same again changes nothing."""

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key` durably, or raise."""

    def get(self, key: str) -> bytes:
        """Bytes under `key`; raises KeyError where there are none."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys that begin with `prefix`, sorted."""


def open_repository(settings: ArchiveSettings) -> Repository:
    """The repository that `archive.url` names."""
    if settings.url.startswith("s3://"):
        return S3Repository(settings)
    return DirectoryRepository(Path(settings.url.removeprefix("file:").replace("//", "/", 1)))


def night(jd: float) -> str:
    """Night of an exposure: the UTC date of its start as YYYYMMDD (ZTF observes within one UTC day)."""
    return datetime.fromtimestamp((jd - _UNIX_JD) * 86400.0, UTC).strftime("%Y%m%d")


def key(survey: str, jd: float, candid: int) -> str:
    """Key of a readable packet."""
    return f"{survey}/{night(jd)}/{candid}.avro"


def unreadable_key(survey: str, received: datetime | None, packet: bytes) -> str:
    """Key of a packet that cannot be decoded: by the day it was received and the checksum of its bytes."""
    day = received.strftime("%Y%m%d") if received else "undated"
    return f"{survey}/unreadable/{day}/{hashlib.sha256(packet).hexdigest()}"


class DirectoryRepository:
    """Files below a folder. A file appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        """Write beside the final name, then rename, so that a crash leaves no half packet."""
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            with part.open("wb") as sink:
                sink.write(data)
                sink.flush()
                os.fsync(sink.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        """Bytes of a file."""
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Files below the folder."""
        found = (p.relative_to(self._root).as_posix() for p in self._root.rglob("*") if p.is_file())
        yield from sorted(k for k in found if k.startswith(prefix) and not k.rpartition("/")[2].startswith("."))


class S3Repository:
    """Objects below a prefix of a bucket. Uploads are tried several times with growing, jittered waits."""

    def __init__(self, settings: ArchiveSettings) -> None:
        bucket, _, prefix = settings.url.removeprefix("s3://").partition("/")
        self._bucket, self._prefix = bucket, prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._attempts = settings.max_attempts
        self._client = boto3.client(
            "s3",
            endpoint_url=settings.endpoint_url,
            region_name=settings.region,
            config=Config(
                max_pool_connections=settings.connections,
                retries={"total_max_attempts": 1},  # ours, with jitter, counts them
                connect_timeout=5,
                read_timeout=30,
                # Servers other than AWS know no trailing checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def put(self, key: str, data: bytes) -> None:
        """Upload; raises what the last attempt raised."""
        attempts = Retrying(
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=0.2, max=_LONGEST_WAIT_S),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        attempts(self._client.put_object, Bucket=self._bucket, Key=self._prefix + key, Body=data)

    def get(self, key: str) -> bytes:
        """Bytes of an object."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
        except self._client.exceptions.NoSuchKey:
            raise KeyError(key) from None
        return bytes(answer["Body"].read())

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Objects below the prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        for page in pages:
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(self._prefix)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        return error.response["ResponseMetadata"].get("HTTPStatusCode") not in _FINAL_STATUS
    return isinstance(error, BotoCoreError)
