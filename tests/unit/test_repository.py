"""The Avro repository: keys, addresses, bytes in and out of a directory and of S3, and what failures do."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import fastavro
import numpy as np
import pyarrow as pa
import pytest
from astropy.time import Time
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from alerce_spark import repository
from alerce_spark.config import ArchiveSettings
from alerce_spark.local_kafka import free_port
from alerce_spark.repository import Repository, RepositoryError, open_repository
from alerce_spark.simulation.defects import corrupt
from alerce_spark.simulation.night import simulate
from alerce_spark.streaming.queries.archive import uploader
from alerce_spark.surveys.survey import MJD_ZERO
from alerce_spark.surveys.ztf import ZTF

#: SHA-256 of nothing, from FIPS 180-4's examples.
_SHA_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# Keys and addresses.


@given(st.floats(2_440_587.5, 2_462_000.0))
def test_night_is_the_utc_date(jd: float) -> None:
    assert ZTF.night(jd - MJD_ZERO) == Time(jd, format="jd", scale="utc").datetime.strftime("%Y%m%d")


@given(st.integers(50_000, 61_500))
def test_night_changes_at_midnight(mjd: int) -> None:
    midnight = mjd + 2_400_000.5
    assert ZTF.night(midnight - MJD_ZERO) == Time(mjd, format="mjd", scale="utc").datetime.strftime("%Y%m%d")
    before = float(np.nextafter(midnight, 0.0))
    assert ZTF.night(before - MJD_ZERO) == Time(mjd - 1, format="mjd", scale="utc").datetime.strftime("%Y%m%d")


def test_keys_depend_on_the_packet_alone() -> None:
    assert repository.key(ZTF, 59_000.4, 1_234_567_890_123_456_789) == "ztf/20200531/1234567890123456789.avro"
    assert repository.unreadable_key(ZTF, b"") == f"ztf/unreadable/{_SHA_OF_NOTHING}"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:archive", "{cwd}/archive"),
        ("file:./some/archive", "{cwd}/some/archive"),
        ("file:/data/archive", "/data/archive"),
        ("file:///data/archive", "/data/archive"),
        ("file:/data/100%25 raw", "/data/100%25 raw"),
    ],
)
def test_addresses_of_directories(url: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    once = repository.absolute(ArchiveSettings(url=url))
    assert once.url == "file:" + path.format(cwd=tmp_path)
    assert repository.absolute(once) == once


def test_relative_directory_is_that_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_repository(ArchiveSettings(url="file:archive")).put("ztf/1.avro", b"1")
    assert (tmp_path / "archive" / "ztf" / "1.avro").read_bytes() == b"1"


@pytest.mark.parametrize(
    "url", ["file:", "file://archive", "file://server/archive", "s3://", "s3:///prefix", "ftp://x"]
)
def test_bad_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be file:<directory>"):
        ArchiveSettings(url=url)


# A server that fails as it is told to.


@dataclass
class Fault:
    """An answer in place of the server's: an error, or (status 0) none at all."""

    status: int
    #: That of S3's error, or "page" for a page of HTML.
    code: str = "InternalError"
    #: Bytes of the body that are sent of a good answer before the connection breaks.
    cut_at: int | None = None


@dataclass
class Proxy:
    """In front of S3: each request meets the next fault of `faults`, or is passed on."""

    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    #: While this is unset no request is answered.
    answering: threading.Event = field(default_factory=threading.Event)


def _handler(proxy: Proxy, behind: tuple[str, int]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            self.close_connection = True
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.requests.append(f"{self.command} {self.path}")
            proxy.answering.wait()
            fault = proxy.faults.pop(0) if proxy.faults else None
            if fault is not None and fault.cut_at is None:
                self._refuse(fault)
                return
            connection = http.client.HTTPConnection(*behind)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            self.send_header("Connection", "close")
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if fault is None else data[: fault.cut_at])

        def _refuse(self, fault: Fault) -> None:
            if fault.status == 0:
                return
            text = f"<Error><Code>{fault.code}</Code><Message>as the test asks</Message></Error>".encode()
            text = b"<!DOCTYPE html>\n<html><br>Bad gateway</html>" if fault.code == "page" else text
            self.send_response(fault.status)
            self.send_header("Connection", "close")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = _pass_on

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, int]]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Some in the environment, and no others of this machine."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    nowhere = {"AWS_CONFIG_FILE": "config", "AWS_SHARED_CREDENTIALS_FILE": "credentials"}
    for name, file in nowhere.items():
        monkeypatch.setenv(name, str(tmp_path / file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture(scope="module")
def running_proxy(moto: tuple[str, int]) -> Iterator[Proxy]:
    proxy = Proxy("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy, moto))
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield proxy
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def proxy(running_proxy: Proxy, credentials: None) -> Iterator[Proxy]:
    running_proxy.faults, running_proxy.requests = [], []
    running_proxy.answering.set()
    yield running_proxy
    running_proxy.answering.set()


@pytest.fixture(scope="module")
def client(moto: tuple[str, int]) -> Any:
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    return boto3.client("s3", endpoint_url="http://{}:{}".format(*moto), region_name="us-east-1", **keys)


@pytest.fixture
def s3(client: Any) -> Iterator[Any]:
    """A plain client, and the empty bucket `alerts`."""
    client.create_bucket(Bucket="alerts")
    yield client
    while objects := client.list_objects_v2(Bucket="alerts").get("Contents", []):
        client.delete_objects(Bucket="alerts", Delete={"Objects": [{"Key": o["Key"]} for o in objects]})
    client.delete_bucket(Bucket="alerts")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were to be waited between attempts; nobody waits."""
    asked: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=asked.append))
    return asked


def _settings(proxy: Proxy, url: str = "s3://alerts/raw", **more: Any) -> ArchiveSettings:
    return ArchiveSettings(url=url, endpoint_url=proxy.endpoint, **more)


@cache
def _opened(settings: ArchiveSettings) -> Repository:
    """One for all tests: to make an S3 client takes longer than most of them."""
    return open_repository(settings)


def _content(there: Repository) -> dict[str, bytes]:
    keys = list(there.keys())
    return {key: there.get(key) for key in keys}


# Bytes in and out, in both kinds.


@pytest.fixture(params=["directory", "s3"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    """An empty repository of each kind."""
    if request.param == "directory":
        return open_repository(ArchiveSettings(url=f"file:{tmp_path / 'archive'}"))
    request.getfixturevalue("s3")
    return _opened(_settings(request.getfixturevalue("proxy")))


def test_bytes_come_back_as_they_were(there: Repository) -> None:
    rng = np.random.default_rng(1)
    packets = {f"ztf/2020053{n % 2}/{n}.avro": rng.bytes(int(size)) for n, size in enumerate([0, 1, 60_000, 3_000_000])}
    there.put_all(iter(packets.items()))
    assert _content(there) == packets


def test_what_is_not_there_is_a_key_error(there: Repository) -> None:
    assert list(there.keys()) == []
    there.put("ztf/20200531/1.avro", b"packet")
    for key in ("ztf/20200531/2.avro", "ztf/20200531", "ztf/20200531/1.avro/more", "atlas/1"):
        with pytest.raises(KeyError, match=key):
            there.get(key)


def test_putting_again_changes_nothing_and_other_bytes_replace(there: Repository) -> None:
    for _ in range(3):
        there.put("ztf/20200531/1.avro", b"packet")
    assert _content(there) == {"ztf/20200531/1.avro": b"packet"}
    there.put("ztf/20200531/1.avro", b"packed in another way")
    assert _content(there) == {"ztf/20200531/1.avro": b"packed in another way"}


def test_what_is_there_is_not_created_again(there: Repository) -> None:
    there.put("ztf/1/1.avro", b"first")
    items = [("ztf/1/1.avro", b"other"), ("ztf/1/2.avro", b"new")]
    assert there.create_all(items) == items[:1]
    assert _content(there) == {"ztf/1/1.avro": b"first", "ztf/1/2.avro": b"new"}
    # Of one key twice, one is stored and the other comes back.
    (back,) = there.create_all([("ztf/1/3.avro", b"a"), ("ztf/1/3.avro", b"b")])
    assert {back[1], there.get("ztf/1/3.avro")} == {b"a", b"b"}


def test_keys_are_sorted_and_pruned_by_any_prefix(there: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")  # several pages
    keys = [
        *(f"ztf/20200531/{n}.avro" for n in range(9, 12)),
        *("ztf/20200531-a/1.avro", "ztf/20200531.b/1.avro", "ztf/202005310/1.avro", "ztf.avro", "ztf-2/1.avro"),
        *("atlas/20200531/1.avro", "ztf/unreadable/00ff"),
    ]
    there.put_all((key, b"") for key in keys)
    for prefix in ("", "z", "ztf", "ztf/", "ztf/2020", "ztf/20200531", "ztf/20200531/", "ztf/20200531/1", "ztf/3", "b"):
        assert list(there.keys(prefix)) == sorted(key for key in keys if key.startswith(prefix))


def test_few_packets_are_in_memory(there: Repository, request: pytest.FixtureRequest) -> None:
    """While nothing can be stored, the iterator of packets is hardly asked for more."""
    gate, taken = threading.Event(), []
    threads = ArchiveSettings(url="file:x").connections

    def packets() -> Iterator[tuple[str, bytes]]:
        for n in range(40 * threads):
            taken.append(n)
            yield f"ztf/1/{n}", b"packet"

    with pytest.MonkeyPatch.context() as patch:
        if "directory" in request.node.name:
            patch.setattr(os, "fsync", lambda _: gate.wait())
        else:
            gate = request.getfixturevalue("proxy").answering
            gate.clear()
        storing = threading.Thread(target=there.put_all, args=(packets(),))
        storing.start()
        deadline = time.monotonic() + 20
        while len(taken) < threads and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert threads <= len(taken) <= 3 * threads
        gate.set()
        storing.join()
    assert len(list(there.keys())) == 40 * threads


# A directory that fails.


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = open_repository(ArchiveSettings(url=f"file:{tmp_path}"))
    there.put("ztf/1/1", b"first")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RepositoryError, match=r"archive\.url = 'file:.*No space left"):
            there.put_all([("ztf/1/1", b"second"), ("ztf/1/2", b"new")])
    assert _content(there) == {"ztf/1/1": b"first"}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["1"]
    there.put_all([("ztf/1/1", b"second"), ("ztf/1/2", b"new")])
    assert _content(there) == {"ztf/1/1": b"second", "ztf/1/2": b"new"}


def test_files_and_folders_are_synchronised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronised = set()
    fsync = os.fsync

    def note(handle: int) -> None:
        fsync(handle)
        synchronised.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", note)
    open_repository(ArchiveSettings(url=f"file:{tmp_path}")).put_all([("ztf/1/1", b"1"), ("ztf/2/2", b"2")])
    needed = ["", "ztf", "ztf/1", "ztf/2", "ztf/1/1", "ztf/2/2"]
    assert {(tmp_path / name).stat().st_ino for name in needed} <= synchronised


def test_a_path_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match=r"archive\.url = 'file:.*/file' cannot be written: .*change it"):
        open_repository(ArchiveSettings(url=f"file:{tmp_path / 'file'}")).put("ztf/1/1", b"1")


# S3 that fails.


@pytest.mark.parametrize("prefix", ["", "/", "/raw", "/raw/", "/raw/ztf-public/"])
def test_prefix_of_a_bucket(prefix: str, proxy: Proxy, s3: Any) -> None:
    s3.put_object(Bucket="alerts", Key="rawer/ztf/2", Body=b"another's")
    there = _opened(_settings(proxy, f"s3://alerts{prefix}"))
    there.put("ztf/1", b"packet")
    stored = "/".join(part for part in [*prefix.split("/"), "ztf/1"] if part)
    assert s3.get_object(Bucket="alerts", Key=stored)["Body"].read() == b"packet"
    assert there.get("ztf/1") == b"packet"
    assert list(there.keys("ztf/")) == ["ztf/1"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(502, "page"),
        Fault(503, "SlowDown"),
        Fault(429, "TooManyRequests"),
        Fault(409, "OperationAborted"),
        Fault(400, "RequestTimeout"),
        Fault(0),
    ],
    ids=lambda fault: f"{fault.status}-{fault.code}",
)
def test_what_may_pass_is_tried_again(fault: Fault, proxy: Proxy, s3: Any, waits: list[float]) -> None:
    there = _opened(_settings(proxy))
    proxy.faults = [fault] * 3
    there.put("ztf/1", b"packet")
    assert proxy.requests == ["PUT /alerts/raw/ztf/1"] * 4
    proxy.faults = [fault] * 3
    assert there.get("ztf/1") == b"packet"
    proxy.faults = [fault] * 3
    assert list(there.keys()) == ["ztf/1"]
    assert len(waits) == 9


def test_an_answer_that_breaks_off_is_asked_for_again(proxy: Proxy, s3: Any, waits: list[float]) -> None:
    there = _opened(_settings(proxy))
    packet = os.urandom(60_000)
    there.put("ztf/1", packet)
    proxy.faults = [Fault(200, cut_at=0), Fault(200, cut_at=59_999)]
    assert there.get("ztf/1") == packet
    assert len(waits) == 2


def test_waits_grow_and_are_jittered(proxy: Proxy, s3: Any, waits: list[float]) -> None:
    there = _opened(_settings(proxy, max_attempts=9, connections=1))
    for n in range(20):
        proxy.faults = [Fault(503, "SlowDown")] * 8
        there.put(f"ztf/{n}", b"packet")
    by_attempt = np.array(waits).reshape(20, 8)
    bounds = np.minimum(0.2 * 2.0 ** np.arange(8), 20.0)
    assert (by_attempt >= 0).all()
    assert (by_attempt <= bounds).all()
    # Of 20 draws from 0 to a bound the largest is below its middle once in a million times.
    assert (by_attempt.max(axis=0) > bounds / 2).all()
    assert np.unique(by_attempt).size == by_attempt.size


def test_attempts_are_bounded(proxy: Proxy, s3: Any, waits: list[float]) -> None:
    proxy.faults = [Fault(503, "SlowDown")] * 1000
    with pytest.raises(RepositoryError, match=rf"archive\.url = 's3://alerts/raw' at {proxy.endpoint}: .*SlowDown"):
        _opened(_settings(proxy, max_attempts=4)).put("ztf/1", b"packet")
    assert len(proxy.requests) == 4
    assert len(waits) == 3


def test_a_server_that_never_answers_is_left_alone(
    proxy: Proxy, s3: Any, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "_READ_TIMEOUT_S", 0.05)
    proxy.answering.clear()
    with pytest.raises(RepositoryError, match=r"no answer; see whether the server runs, and to archive\.endpoint_url"):
        open_repository(_settings(proxy, max_attempts=3)).put("ztf/1", b"packet")
    monkeypatch.setattr(repository, "_LONGEST_TRY_S", 0.01)
    with pytest.raises(RepositoryError, match="no answer"):
        open_repository(_settings(proxy, max_attempts=1000)).put("ztf/1", b"packet")
    assert len(proxy.requests) == 3 + 1


def test_no_server(credentials: None, waits: list[float]) -> None:
    settings = ArchiveSettings(url="s3://alerts", endpoint_url=f"http://127.0.0.1:{free_port()}", max_attempts=3)
    with pytest.raises(RepositoryError, match=r"no answer; see whether the server runs, and to archive\.endpoint_url"):
        _opened(settings).put("ztf/1", b"packet")
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("fault", "cure"),
    [
        (Fault(404, "NoSuchBucket"), r"no such bucket; make it or correct archive\.url"),
        (Fault(403, "AccessDenied"), r"do not allow it; let them put"),
        (Fault(403, "InvalidAccessKeyId"), r"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (Fault(403, "SignatureDoesNotMatch"), r"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (Fault(400, "ExpiredToken"), r"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (Fault(400, "AuthorizationHeaderMalformed"), r"correct archive\.region"),
        (Fault(400, "EntityTooLarge"), r"EntityTooLarge"),
        (Fault(501, "NotImplemented"), r"NotImplemented"),
    ],
    ids=lambda value: value.code if isinstance(value, Fault) else "",
)
def test_what_cannot_pass_is_not_tried_again(
    fault: Fault, cure: str, proxy: Proxy, s3: Any, waits: list[float]
) -> None:
    proxy.faults = [fault] * 1000
    with pytest.raises(RepositoryError, match=rf"^archive\.url = 's3://alerts/raw' at {proxy.endpoint}: .*{cure}"):
        _opened(_settings(proxy)).put("ztf/1", b"packet")
    assert len(proxy.requests) == 1
    assert waits == []


def test_a_missing_bucket_is_named(proxy: Proxy, s3: Any, waits: list[float]) -> None:
    there = _opened(_settings(proxy, "s3://alert/raw"))
    for use in (lambda: there.put("ztf/1", b""), lambda: there.get("ztf/1"), lambda: list(there.keys())):
        with pytest.raises(RepositoryError, match=r"archive\.url = 's3://alert/raw' .* no such bucket"):
            use()
    assert waits == []


def test_an_impossible_bucket_is_named(proxy: Proxy, waits: list[float]) -> None:
    with pytest.raises(RepositoryError, match=r"archive\.url = 's3://my alerts/raw' .* correct archive\.url"):
        _opened(_settings(proxy, "s3://my alerts/raw")).put("ztf/1", b"packet")
    assert proxy.requests == []
    assert waits == []


def test_missing_credentials_are_named(proxy: Proxy, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(RepositoryError, match="no valid credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_repository(_settings(proxy)).put("ztf/1", b"packet")
    assert proxy.requests == []
    assert waits == []


def test_a_bad_endpoint_is_named(credentials: None) -> None:
    with pytest.raises(RepositoryError, match=r"archive\.endpoint_url = 'http://a_b:7070'"):
        open_repository(ArchiveSettings(url="s3://alerts", endpoint_url="http://a_b:7070"))


def test_the_first_error_ends_the_rest(proxy: Proxy, s3: Any, waits: list[float]) -> None:
    proxy.faults = [Fault(403, "AccessDenied")] * 1000
    with pytest.raises(RepositoryError):
        _opened(_settings(proxy, connections=2)).put_all((f"ztf/{n}", b"packet") for n in range(500))
    assert len(proxy.requests) <= 8


# The worker's part of the query.


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return simulate(5, objects=6, stamps=False).packets


def _expected_key(packet: bytes) -> str:
    record: Any = next(fastavro.reader(io.BytesIO(packet)))
    date = Time(record["candidate"]["jd"], format="jd", scale="utc").datetime
    return f"ztf/{date:%Y%m%d}/{record['candid']}.avro"


def _upload(packets: list[bytes | None], settings: ArchiveSettings, rows: int = 5) -> dict[str, Any]:
    column = pa.array(packets, pa.binary())
    batches = (pa.RecordBatch.from_arrays([column[at : at + rows]], ["packet"]) for at in range(0, len(column), rows))
    (done,) = (row for batch in uploader(settings, "ztf")(batches) for row in batch.to_pylist())
    assert next(batches, None) is None
    return done


def test_every_packet_is_stored_as_it_came(packets: list[bytes], tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    kinds = ("html", "truncated", "bad_magic", "wrong_type", "nan_position", "ra_out_of_range")
    broken = [corrupt(packets[n % len(packets)], kind, rng) for n, kind in enumerate(kinds)]
    sent = [*packets, *broken, b"", None]
    rng.shuffle(sent)
    settings = ArchiveSettings(url=f"file:{tmp_path}")
    expected = {_expected_key(packet): packet for packet in packets}
    expected |= {f"ztf/unreadable/{hashlib.sha256(packet).hexdigest()}": packet for packet in [*broken, b""]}
    for _ in range(2):
        assert _upload(sent, settings) == {"stored": len(sent), "error": None}
        assert _content(open_repository(settings)) == expected


@pytest.mark.parametrize("rows", [1, 100])
def test_of_other_bytes_for_a_candid_the_last_stay(packets: list[bytes], rows: int, tmp_path: Path) -> None:
    reader: Any = fastavro.reader(io.BytesIO(packets[0]))
    out = io.BytesIO()
    fastavro.writer(out, reader.writer_schema, list(reader), codec="deflate")
    again = out.getvalue()
    assert again != packets[0]
    settings = ArchiveSettings(url=f"file:{tmp_path}")
    for order in ([packets[0], again], [again, packets[0]]):
        assert _upload(list(order), settings, rows) == {"stored": 2, "error": None}
        assert _content(open_repository(settings)) == {_expected_key(packets[0]): order[1]}


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("order", [1, -1])
def test_one_candid_of_two_objects_keeps_both_packets(
    packets: list[bytes], rows: int, order: int, tmp_path: Path
) -> None:
    reader: Any = fastavro.reader(io.BytesIO(packets[0]))
    record = next(reader)
    out = io.BytesIO()
    fastavro.writer(out, reader.writer_schema, [record | {"objectId": "ZTF18another"}])
    both = [packets[0], out.getvalue()][::order]
    settings = ArchiveSettings(url=f"file:{tmp_path}")
    for _ in range(2):
        assert _upload([*both, packets[1]], settings, rows) == {"stored": 3, "error": None}
        stored = _content(open_repository(settings))
        assert sorted(stored.values()) == sorted([*both, packets[1]])
        assert _expected_key(packets[0]) in stored


def test_a_packet_that_cannot_be_stored_ends_the_task(packets: list[bytes], proxy: Proxy, s3: Any) -> None:
    settings = _settings(proxy, max_attempts=1, connections=1)
    proxy.faults = [Fault(503, "SlowDown")]
    done = _upload(list(packets), settings)
    assert done["stored"] == 0
    assert "SlowDown" in done["error"]
    assert len(proxy.requests) <= 2
    assert _upload(list(packets), settings) == {"stored": len(packets), "error": None}
    assert _content(open_repository(settings)) == {_expected_key(packet): packet for packet in packets}


def test_mended_credentials_are_seen(
    packets: list[bytes], proxy: Proxy, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(proxy)
    with monkeypatch.context() as without:
        without.delenv("AWS_ACCESS_KEY_ID")
        without.delenv("AWS_SECRET_ACCESS_KEY")
        assert "no valid credentials" in _upload(list(packets), settings)["error"]
    assert _upload(list(packets), settings) == {"stored": len(packets), "error": None}
