"""Why a query failed, in words for a person: the first cause of a chain of exceptions of Python and of the JVM.

What Spark raises at last is a line about a plan or a stack. The cause is some links further down: in Java, in the
Python of a worker, or in this process. Known causes have a name, which metrics carry, and a cure; of others the deepest
message is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from alerce_spark.streaming import checkpoints

#: Characters of a message that are told.
_MOST = 500
_DEEPEST = 30
_OURS = "alerce_spark."


@dataclass(frozen=True)
class Cause:
    """A cause by its name (`kind`), and the words for a person: what is wrong, where, and what to do about it."""

    kind: str
    words: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}" if self.kind != OTHER else self.words


#: Causes that the table does not know.
OTHER = "other"
LEASE_LOST = "lease lost"


class _Link(NamedTuple):
    """One exception of a chain: its full class name and its message."""

    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


class _Known(NamedTuple):
    """A cause that is recognised by `pattern` in class and message; {query}, {checkpoint}, {servers} are filled in."""

    kind: str
    pattern: re.Pattern[str]
    cure: str


def _known(kind: str, pattern: str, cure: str) -> _Known:
    return _Known(kind, re.compile(pattern), cure)


_FRESH = (
    "delete this query's checkpoint (rm -r {checkpoint}): it reads its topics from the start again, and the tables "
    "stay the same"
)
_LOST = (
    "packets are gone from Kafka before they were read. Get them from the archive (docs/operations.md, “A topic "
    f"expired before it was read”), and {_FRESH}"
)
#: In the order in which they are looked for: what is more certain, and what is behind others, comes first.
_KNOWN = (
    _known(LEASE_LOST, r"\bLeaseLost\b", "docs/operations.md, “A lost lease”"),
    _known(
        "disk full",
        r"No space left on device|Disk quota exceeded|\bos error (28|122)\b|\bErrno (28|122)\b",
        "free or add room; the query goes on by itself",
    ),
    _known(
        "out of memory",
        r"java\.lang\.OutOfMemoryError|(^|\.)MemoryError\b|Cannot allocate memory|\b(os error|Errno) 12\b"
        r"|[Cc]ontainer killed .* memory",
        "give the driver or the workers more memory, or lower max_messages of [stream.{query}]",
    ),
    _known(
        "worker died",
        r"Python worker exited unexpectedly|Python worker failed to connect back|ExecutorLostFailure",
        "mostly the system killed it for want of memory: give it more, or lower max_messages of [stream.{query}]",
    ),
    _known(
        "topic gone",
        r"Reason: (?P<said>(Partitions? .* (have|has) been deleted|Cannot find initial offsets for partitions .*?)\.)"
        r"|(?P<changed>Partitions specified for Kafka start offsets don't match what are assigned.*)"
        r"|START_OFFSET_DOES_NOT_MATCH|MISMATCHED_TOPIC_PARTITIONS|UnknownTopicOrPartition|UNKNOWN_TOPIC_OR_PART",
        "a topic was deleted, or made again with fewer partitions. Where packets were lost with it, get them from the "
        f"archive (docs/operations.md, “A topic expired before it was read”), and {_FRESH}",
    ),
    _known(
        "data loss",
        r"Some data may have been lost.*Reason: (?P<said>.*?[a-zA-Z0-9]\.)(\s|$)"
        r"|Some data may have been lost|OffsetOutOfRange",
        _LOST,
    ),
    _known(
        "two applications",
        r"SparkConcurrentModificationException|CONCURRENT_STREAM_LOG_UPDATE|CONCURRENT_QUERY",
        "another application uses {checkpoint}: end it. Where there is none, a file of the checkpoint is missing: "
        f"{_FRESH}",
    ),
    _known(
        "Kafka refuses",
        r"\w*(Authentication|Authorization)Exception|SslAuthentication|_AUTHENTICATION\b|_FAILED\b.*AUTHORIZATION",
        "see kafka.options: user, password, certificates, and what the brokers allow this user",
    ),
    _known(
        "message too large",
        r"RecordTooLargeException|RecordBatchTooLargeException|MSG_SIZE_TOO_LARGE",
        "allow larger messages (max.message.bytes of the topic)",
    ),
    _known(
        "output topic gone",
        r"Topic \S+ not present in metadata",
        "it was deleted, and is made again within a minute; what was on it, Kafka has no more",
    ),
    _known(
        "broker away",
        r"org\.apache\.kafka\.common\.errors\.\w*(Timeout|Disconnect|Network|BrokerNotAvailable|LeaderNotAvailable)\w*"
        r"|NotEnoughReplicas|No resolvable bootstrap|code=_(TRANSPORT|ALL_BROKERS_DOWN|TIMED_OUT|RESOLVE)\b",
        "does the broker run at {servers}? The query goes on by itself when it answers",
    ),
    _known(
        "damaged checkpoint",
        r"Failed to read log file|MALFORMED_LOG_FILE|Incomplete log file|STREAMING_CHECKPOINT_MISSING_METADATA_FILE"
        r"|Error reading stream metadata|java\.lang\.AssertionError: assertion failed|ChecksumException"
        r"|com\.fasterxml\.jackson\.\w+\.[\w.]*Exception",
        _FRESH,
    ),
    _known(
        "damaged file",
        r"is not a Parquet file|[Pp]arquet magic|[Cc]orrupt\w*|(?<!has been )\btruncated\b|Invalid (parquet|thrift)"
        r"|Couldn't deserialize thrift|[Uu]nexpected end of (file|stream)|out of specification",
        "restore this file, or the table to a version before it (docs/operations.md, “A file of a table is damaged”)",
    ),
    _known(
        "no rights",
        r"Permission denied|AccessControlException|AccessDenied|Read-only file system|\bErrno (13|30)\b|\bForbidden\b",
        "give the user of this application the right to read and write there",
    ),
    _known(
        "file gone",
        r"FileNotFoundError|FileNotFoundException|NoSuchFileException|No such file or directory|NoSuchKey",
        "restore the file; where a table's file is gone, the table to a version before it",
    ),
    _known(
        "S3 away",
        r"EndpointConnectionError|ConnectTimeoutError|ReadTimeoutError|Could not connect to the endpoint"
        r"|error sending request",
        "the query goes on by itself when S3 answers",
    ),
)


def explain(error: BaseException, query: str, checkpoint: str, servers: str) -> Cause:
    """The first cause of an error of a query, whose checkpoint is that folder and whose brokers are `servers`."""
    chain = list(_links(error))
    # Our own errors are worded for people, and outside in; of others the deepest knows most.
    ours = [link for link in chain if link.name.startswith(_OURS)]
    ordered = [*ours, *(link for link in reversed(chain) if link not in ours)]
    place = {"query": query, "checkpoint": checkpoint, "servers": servers}
    for known in _KNOWN:
        for link in ordered:
            found = known.pattern.search(str(link))
            if found is not None:
                said = next((text for text in found.groupdict().values() if text), None) or _line(link, found)
                if known.kind == "damaged checkpoint":
                    said = _with_file(said, checkpoint)
                return Cause(known.kind, f"{said[:_MOST].rstrip('. ')}; {known.cure.format(**place)}")
    link = next((link for link in ordered if link.message), ordered[0])
    return Cause(OTHER, _plain(link)[:_MOST])


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error of Python and those behind it."""
    following: BaseException | None = error
    for _ in range(_DEEPEST):
        if following is None:
            return
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)


def _links(error: BaseException) -> Iterator[_Link]:
    """The chain from outside in, Java's below the Python exception that carries it."""
    for python in chain_of(error):
        java = getattr(python, "java_exception", None) or getattr(python, "_origin", None)
        if java is not None:
            yield from _java(java)
        else:
            kind = type(python)
            module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
            yield _Link(f"{module}{kind.__qualname__}", " ".join(str(python).split()))


def _java(throwable: Any) -> Iterator[_Link]:
    try:
        for _ in range(_DEEPEST):
            if throwable is None:
                return
            name, message = str(throwable.getClass().getName()), str(throwable.getMessage() or "")
            following = throwable.getCause()
            # The last of a streaming query's exceptions repeats the others, with a plan.
            if not name.endswith("StreamingQueryException") or following is None:
                yield from _of_java(name, message)
            throwable = following
    except Exception as error:  # noqa: BLE001  (without a JVM nothing more is known of its exceptions)
        yield _Link(type(error).__name__, "Spark's JVM does not say why")


def _of_java(name: str, message: str) -> list[_Link]:
    """A Java exception; one that carries the text of others, of a worker or of an executor, is those."""
    if "Traceback (most recent call last)" in message:
        links = [_Link(*told) for told in _of_traceback(message)]
    elif "\n\tat " in message:
        told = re.findall(r"(?:Caused by: |\): )([\w.$]+(?:Exception|Error)): ?([^\n]*)", message)
        links = [_Link(*each) for each in told] or [_Link(name, message.splitlines()[0])]
    else:
        links = [_Link(name, message.split("\n=== Streaming Query ===", maxsplit=1)[0])]
    return [_Link(kind, " ".join(re.sub(r"\s*SQLSTATE: \w+", "", text).split())) for kind, text in links]


def _of_traceback(text: str) -> list[tuple[str, str]]:
    """Class and message of each exception of a Python trace, the last first: it is the outermost."""
    found: list[tuple[str, str]] = []
    within = False
    for line in text.splitlines():
        if line.startswith("Traceback (most recent call last)"):
            within = False
        elif start := re.match(r"([A-Za-z_][\w.]*)(?:: (.*)|)$", line):
            found.append((start[1], start[2] or ""))
            within = True
        elif within and line and not re.match(r"\s+at [\w.$]+\(", line) and " above exception " not in line:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line}")
        else:
            within = False
    return found[::-1]


def _line(link: _Link, found: re.Match[str]) -> str:
    """The message of a link of the chain, shortened around the recognised part."""
    text = _plain(link)
    if len(text) <= _MOST:
        return text
    middle = max(0, text.find(found.group()) - _MOST // 3)
    return f"… {text[middle : middle + _MOST - 4]} …"


def _plain(link: _Link) -> str:
    """A link without the modules of its class; our own errors and the system's say enough without it."""
    short = link.name.rsplit(".", 1)[-1].rsplit("$", 1)[-1]
    bare = link.name.startswith(_OURS) or short in ("IOException", "OSError", "SparkException", "KafkaException")
    return link.message if bare and link.message else f"{short}: {link.message}".removesuffix(": ")


def _with_file(said: str, checkpoint: str) -> str:
    file = checkpoints.damaged(checkpoint)
    return said if file is None or str(file) in said else f"{file} cannot be read ({said})"
