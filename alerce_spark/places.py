"""Where lakes, archives and services are: each place has one spelling, checked where it enters; how it is synced."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from alerce_spark.errors import InputError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_S3 = re.compile(r"s3a?://[\w.-]+(/.*)?")
#: delta-rs takes a backslash for a slash and %41 for A, and cannot parse brackets, ^ and |; polars looks for a pattern
#: where * or ? is, and for a partition where = is.
_UNSAFE = re.compile(r"[\\*?\[\]^|=]|%[0-9A-Fa-f]{2}|[\x00-\x1f\x7f]")


def lake_path(given: str | os.PathLike[str]) -> str:
    """A lake in its one spelling: a path, or s3a://bucket/prefix; without a slash at the end.

    Takes paths (~ is the user's home) and file: URLs, whose %-escapes count. Raises InputError for what is empty, for
    places that the lake cannot be in, and for characters that would lead elsewhere. No message holds the path: a
    secret may be in it.
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
    """`url`, in which no @ comes after a colon or a host's //: a user and password would be printed. Raises InputError.

    A secret key may hold slashes, so an @ counts wherever it is.
    """
    if re.search(r":.*@|^//[^/]*@", url.removeprefix("file:"), re.DOTALL):
        raise InputError(
            "there is an @ after a colon, as after a user and password; leave them out. S3 reads AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY from the environment, Kafka its login from kafka.options"
        )
    return url


def is_remote(place: str) -> bool:
    """Whether a place is an URL of S3, not a folder."""
    return place.startswith(("s3://", "s3a://"))


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
