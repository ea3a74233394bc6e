"""The lease: each query runs in one application at a time. A file with a heartbeat names it.

Blind appends never conflict in Delta, so two writers would duplicate rows without an error (docs/design.md, "Writes");
and two applications with one query share its checkpoint, where each makes the other fail. There is one lease for each
query, so that queries may run as separate applications. A holder without a heartbeat for `timeout` seconds counts as
dead and may be replaced; its next heartbeat then finds the replacement. Processes that want the same lease exclude each
other by means of the place of the lake:

* on a shared file system the modification time of the file is the heartbeat, and an advisory lock on a file
  beside it lets one process at a time acquire the lease;
* on S3 every change is a conditional write: create an object only if none exists, replace it only if it is still the
  object that was read.

Ages are differences of times of the file system or of the server, so clocks of machines need not agree. The age of a
heartbeat from the future is unknown: it is watched, and its holder is dead when it does not change for `timeout`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from alerce_spark.errors import AlerceError, LakeError

log = logging.getLogger(__name__)

_FOLDER = "_leases"
_CHANGED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_ABSENT = ("NoSuchKey", "404")
_TRIES = 5
#: Two attempts stay below the time after which a holder is dead: a third would be another's heartbeat.
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S, _ATTEMPTS = 5.0, 10.0, 2

Record = dict[str, Any]


class LeaseHeld(AlerceError):
    """Another application runs this query or writes these tables; the message names it and the remedy."""


class LeaseLost(AlerceError):
    """The lease was taken by another application while this one was silent: it must stop writing."""


class _Seen(NamedTuple):
    """State of a lease: its holder, the mark of the last heartbeat, and its age [s], negative in the future."""

    record: Record
    beat: str
    age: float


class _Claim(Protocol):
    """One lease, from the side of a process that holds it or wants it."""

    def take(self, silent: str = "") -> _Seen | None:
        """Acquire it: None on success, else its living holder. A holder whose last heartbeat is `silent` is dead."""

    def look(self) -> _Seen | None:
        """State of the lease; None where nobody holds it."""

    def renew(self) -> bool:
        """Send a heartbeat; False where another holder has the lease now."""

    def give_back(self) -> None:
        """Release the lease; do nothing where another holder has it."""


class Lease:
    """Context manager that holds the leases of `scope` on the lake at `lake` for `holder`, renewed by a thread.

    `lake` is a path that all writers share, or s3a://bucket/…. Raises LeaseHeld on entry while another holder of any of
    them is alive, LeaseLost from `check` when one was taken away, LakeError where no lease can be had or renewed.
    `on_loss` is called once, from the thread, when a heartbeat finds that a lease was taken away, with the error that
    `check` raises.
    """

    def __init__(
        self,
        lake: str,
        holder: str,
        timeout: float,
        scope: Iterable[str],
        on_loss: Callable[[LeaseLost], None] = lambda error: None,
    ) -> None:
        self._lake, self._timeout, self._on_loss = lake, timeout, on_loss
        record = {
            "holder": holder,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "token": uuid.uuid4().hex,
        }
        self._token = record["token"]
        self._claims = _claims(lake, sorted(set(scope)), record, timeout)
        self._stop = threading.Event()
        self._lost = False
        self._held = ExitStack()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        with ExitStack() as taken, _said(self._lake):
            for name, claim in self._claims.items():
                self._take(name, claim)
                taken.callback(claim.give_back)
            self._held = taken.pop_all()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            with _said(self._lake):
                self._held.close()
        except LakeError as left:
            log.warning("%s; it expires by itself", left)

    def check(self) -> None:
        """Raise LeaseLost when a lease is no longer this holder's. Call it before each write."""
        self._renew()
        if self._lost:
            raise self._loss()

    def _take(self, name: str, claim: _Claim) -> None:
        living = claim.take()
        if living is not None and living.age < -self._timeout:
            log.warning(
                "the lease on %s of %s has a heartbeat from the future (%.0f s); watching for %.0f s whether it beats",
                name,
                self._lake,
                -living.age,
                self._timeout,
            )
            end = time.monotonic() + self._timeout
            while time.monotonic() < end and _beat_of(claim) == living.beat:
                time.sleep(self._timeout / 12)
            living = claim.take(silent=living.beat)
        if living is not None:
            raise LeaseHeld(self._who(name, living.record))

    def _renew(self) -> None:
        """Send a heartbeat, and find out whether a lease was lost: a lost lease stays lost."""
        with _said(self._lake):
            if not self._lost and not all(claim.renew() for claim in self._claims.values()):
                self._lost = True

    def _beat(self) -> None:
        while not self._stop.wait(self._timeout / 6):
            try:
                self._renew()
            except LakeError as error:  # the next beat may get through
                log.warning("%s", error)
            if self._lost:
                self._on_loss(self._loss())
                return

    def _loss(self) -> LeaseLost:
        return LeaseLost(
            f"the lease on {', '.join(self._claims)} of {self._lake} was taken by another application{self._taker()}; "
            "this one stops writing"
        )

    def _taker(self) -> str:
        """Who holds the leases now, for a message."""
        with suppress(LakeError), _said(self._lake):
            for claim in self._claims.values():
                seen = claim.look()
                if seen is not None and seen.record.get("token") != self._token:
                    return f" ({_person(seen.record)})"
        return ", or its file was removed"

    def _who(self, name: str, record: Record) -> str:
        return (
            f"{name} of {self._lake} is held by {_person(record)}. "
            "Stop it first, or send packets through it: alerce-spark import --through-stream. "
            f"A dead holder's lease expires {self._timeout:.0f} s after its last sign of life."
        )


def _person(record: Record) -> str:
    return (
        f"{record.get('holder', 'another application')}, process {record.get('pid', '?')} on "
        f"{record.get('host', '?')}, since {record.get('since', '?')}"
    )


def _beat_of(claim: _Claim) -> str:
    seen = claim.look()
    return "" if seen is None else seen.beat


@contextmanager
def _said(lake: str) -> Iterator[None]:
    """Turn errors of the file system and of S3 into a LakeError that names the lease."""
    try:
        yield
    except (OSError, BotoCoreError, ClientError) as error:
        raise LakeError(f"the lease on {lake} cannot be read or written: {' '.join(str(error).split())}") from error


def _claims(lake: str, scope: list[str], record: Record, timeout: float) -> dict[str, _Claim]:
    if lake.startswith(("s3a://", "s3://")):
        bucket, _, prefix = lake.partition("://")[2].strip("/").partition("/")
        keys = {name: f"{prefix}/{_FOLDER}/{name}.json".lstrip("/") for name in scope}
        client = _s3_client()
        return {name: _ObjectClaim(client, bucket, key, record, timeout) for name, key in keys.items()}
    if "://" in lake and not lake.startswith("file:"):
        raise LakeError(f"no lease can be had on {lake}: put the lake on a shared file system or on S3 (s3a://…)")
    folder = Path(lake.removeprefix("file:")) / _FOLDER
    return {name: _FileClaim(folder / f"{name}.json", record, timeout) for name in scope}


class _FileClaim:
    """A lease that is a file: its modification time is the heartbeat."""

    def __init__(self, file: Path, record: Record, timeout: float) -> None:
        self._file, self._record, self._timeout = file, record, timeout
        self._lock = file.with_suffix(".lock")

    def take(self, silent: str = "") -> _Seen | None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            seen = self.look()
            if seen is not None and seen.age < self._timeout and seen.beat != silent:
                return seen
            self._file.write_text(json.dumps(self._record))
        return None

    def look(self) -> _Seen | None:
        try:
            os.utime(self._lock)  # now, by the clock that gives the heartbeats their times
            beat = self._file.stat().st_mtime_ns
            record = _parsed(self._file.read_bytes())
        except FileNotFoundError:
            return None
        return _Seen(record, str(beat), (self._lock.stat().st_mtime_ns - beat) / 1e9)

    def renew(self) -> bool:
        try:
            mine = self._is_mine()
            if mine:
                os.utime(self._file)
        except FileNotFoundError:
            return False
        return mine

    def give_back(self) -> None:
        with self._alone(), suppress(FileNotFoundError):
            if self._is_mine():
                self._file.unlink()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _is_mine(self) -> bool:
        return bool(_parsed(self._file.read_bytes()).get("token") == self._record["token"])


class _ObjectClaim:
    """A lease that is an object of S3. Every write names the object that it replaces, so S3 refuses one of two."""

    def __init__(self, client: Any, bucket: str, key: str, record: Record, timeout: float) -> None:
        self._client, self._place, self._timeout = client, {"Bucket": bucket, "Key": key}, timeout
        self._record = record
        self._etag = ""
        self._beats = 0
        self._guard = threading.Lock()  # the heartbeat and `check` renew from two threads

    def take(self, silent: str = "") -> _Seen | None:
        for _ in range(_TRIES):
            if self._put(IfNoneMatch="*"):
                self._require_conditional_writes()
                return None
            seen = self._get()
            if seen is None:
                continue
            if seen.record.get("token") == self._record["token"]:  # the answer to our own write was lost
                self._etag = seen.beat
                return None
            if seen.age < self._timeout and seen.beat != silent and not seen.record.get("given_back"):
                return seen
            if self._put(IfMatch=seen.beat):
                return None
        return _Seen({"holder": "one of several applications that start at the same time"}, "", 0.0)

    def look(self) -> _Seen | None:
        seen = self._get()
        return None if seen is None or seen.record.get("given_back") else seen

    def renew(self) -> bool:
        with self._guard:
            if self._put(IfMatch=self._etag):
                return True
            seen = self._get()
            if seen is None or seen.record.get("token") != self._record["token"]:
                return False
            self._etag = seen.beat
            return True

    def give_back(self) -> None:
        with self._guard:
            self._record["given_back"] = True
            self._put(IfMatch=self._etag)

    def _require_conditional_writes(self) -> None:
        if self._put(IfNoneMatch="*"):
            raise LakeError(
                f"no lease can be had on bucket {self._place['Bucket']}: this S3 server ignores If-None-Match, so "
                "nothing would keep a second writer away; use a server with conditional writes"
            )

    def _put(self, **condition: str) -> bool:
        """Write our record; False where the condition does not hold."""
        self._beats += 1
        # The count makes every beat another object with another ETag.
        body = json.dumps(self._record | {"beat": self._beats}).encode()
        try:
            self._etag = self._client.put_object(**self._place, Body=body, **condition)["ETag"]
        except ClientError as error:
            if _code(error) in (*_CHANGED, *_ABSENT):
                return False
            raise
        return True

    def _get(self) -> _Seen | None:
        """State from the object, whose ETag is the mark of the heartbeat; None without an object."""
        try:
            answer = self._client.get_object(**self._place)
        except ClientError as error:
            if _code(error) in _ABSENT:
                return None
            raise
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        age = (now - answer["LastModified"]).total_seconds()
        return _Seen(_parsed(answer["Body"].read()), answer["ETag"], age)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code"))


def _s3_client() -> Any:
    """A client of S3 with the AWS_… environment, which s3a and delta-rs read too."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"total_max_attempts": _ATTEMPTS},
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)


def _parsed(content: bytes) -> Record:
    try:
        record = json.loads(content)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
