"""Text tables with a header line: their layout from the first lines, and their rows in chunks of text columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from astropy.table.meta import get_header_from_yaml
from pyarrow import csv as arrow_csv

from alerce_spark.tablefiles.opening import TableFileError, Text, as_text
from alerce_spark.tablefiles.units import is_quantity, is_unit
from alerce_spark.tablefiles.values import decoded, unmarked

_DELIMITERS = "\t;,|"
_BLANK = " "
_BLOCK = 64 << 20
_BLANK_ROWS = 100_000  # of blank-separated text at a time
_MOST_COMMENTS = 100_000  # lines above a header: Gaia's have a thousand
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# The line of dashes between the header and the rows of VizieR text. Single dashes are a row without values.
_RULE = re.compile(r"[-\s;,|]*--[-\s;,|]*")
#: Lines allowed above a header: the date in files of the Transient Name Server, the delimiter in those of spreadsheets.
_PREAMBLE = re.compile(r'"?(\d{4}-\d\d-\d\d[^\t;,|"]*|sep=.)"?')
#: A row appended after the last one: it is missing if an open quote swallows the end of the file.
_END = "\x03end\x03"


@dataclass
class Layout:
    """Layout of a text table: column names, their units, the delimiter (a blank: any number of blanks)."""

    names: list[str]
    units: dict[str, str]
    delimiter: str
    #: Each row has one more field than the header, and it is empty.
    trailing: bool = False


@dataclass
class Lines:
    """Skipped rows, which do not have as many fields as the header, and other remarks."""

    broken: int = 0
    first: str = ""
    comments: int = 0
    notes: list[str] = field(default_factory=list)


def layout(path: Path, text: Text) -> Layout:
    """Read the lines above the rows; then `text` is at the first row. Raises TableFileError without a header."""
    comments, line = _above(path, text)
    ecsv = _ecsv(path, comments)
    if _PREAMBLE.fullmatch(line):
        comments, line = [], as_text(text.readline()).rstrip("\r\n")
    peeked = [raw for raw in islice(iter(text.readline, b""), 2) if raw]
    after = [as_text(raw).rstrip("\r\n") for raw in peeked]
    delimiter = ecsv["delimiter"] if ecsv else _delimiter(line, after)
    names = _names(line, delimiter)
    used = 0
    if any(_NUMBER.fullmatch(name) for name in names) or _is_header(comments, names, delimiter):
        if not comments:
            raise TableFileError(f"{path} has no header line; its first line is {line[:80]!r}")
        peeked.insert(0, (line + "\n").encode())
        found, line = names, comments[-1].lstrip("#")
        names = _names(line, delimiter)
        if len(names) != len(found):
            raise TableFileError(f"{path} has no header line for its {len(found)} columns; its first line is {found}")
        units = dict[str, str]()
    else:
        units, used = _units(names, after, delimiter)
    if ecsv:
        units = {c["name"]: str(c["unit"]) for c in ecsv["datatype"] if c.get("unit") is not None}
    text.give_back(peeked[used:])
    first = split(after[used], delimiter) if used < len(after) and delimiter != _BLANK else []
    trailing = len(first) == len(names) + 1 and not first[-1].strip()
    return Layout(names, units, delimiter, trailing)


def _above(path: Path, text: Text) -> tuple[list[str], str]:
    """Comment lines above the first line that is neither comment nor blank, and that line."""
    comments: list[str] = []
    for _ in range(_MOST_COMMENTS):
        raw = text.readline()
        line = as_text(raw).rstrip("\r\n")
        if not raw:
            break
        if line.lstrip().startswith("#"):
            comments.append(line.strip())
        elif line.strip():
            return [c for c in comments if c.strip("# \t")], line
    if comments and (names := _names(comments[-1].lstrip("#"), _delimiter(comments[-1], []))) and len(names) > 1:
        raise TableFileError(f"{path} holds no rows, only comments")
    raise TableFileError(f"{path} holds no rows")


def _ecsv(path: Path, comments: list[str]) -> dict[str, Any] | None:
    if not comments or not comments[0].startswith("# %ECSV"):
        return None
    try:
        found = dict(get_header_from_yaml([line[1:].removeprefix(" ") for line in comments[1:]]))
    except Exception as error:
        raise TableFileError(f"{path}: the ECSV header cannot be read: {error}") from error
    return {"delimiter": found.get("delimiter", " "), "datatype": found.get("datatype", [])}


def _delimiter(line: str, after: Sequence[str]) -> str:
    """The delimiter that splits a header into most fields, preferably as many as the line below it."""
    counts = {d: len(split(line, d)) for d in _DELIMITERS if d in line}
    counts = {d: n for d, n in counts.items() if n > 1}
    if not counts:
        return _BLANK if len(line.split()) > 1 else ","
    agreeing = {d: n for d, n in counts.items() for below in after[:1] if len(split(below, d)) in (n, n + 1)}
    return max(agreeing or counts, key=lambda d: counts[d])


def split(line: str, delimiter: str) -> list[str]:
    """Fields of a line."""
    if delimiter == _BLANK:
        line = line.expandtabs(1).strip()
    found = next(csv.reader([line], delimiter=delimiter, skipinitialspace=delimiter == _BLANK), [])
    return list(found)


def _names(line: str, delimiter: str) -> list[str]:
    return [name.strip().strip('"').strip() for name in split(line, delimiter)]


def _is_header(comments: list[str], names: list[str], delimiter: str) -> bool:
    """Whether the comment above the first line is a header of columns without numbers, like `#oid,class_name`."""
    if not comments or delimiter == _BLANK or len(names) < 2:
        return False
    header = _names(comments[-1].lstrip("#"), delimiter)
    is_other = not {name.casefold() for name in header} & {name.casefold() for name in names}
    return is_other and len(set(header)) == len(names) and all(re.fullmatch(r"[A-Za-z_]\S*", name) for name in header)


def _is_open(lines: list[str]) -> bool:
    """Whether a quote opened in these lines is still open at their end."""
    return "".join(lines).count('"') % 2 == 1


def _units(names: list[str], after: list[str], delimiter: str) -> tuple[dict[str, str], int]:
    """Units below the header, and the number of lines that are not rows: VizieR's units and dashes, or only units."""
    # Dashes within an open quote are a value.
    rule = next((k for k, line in enumerate(after) if _RULE.fullmatch(line) and not _is_open(after[:k])), None)
    fields = [f.strip() for f in split(after[0], delimiter)] if after else []
    words = [f for f in fields if f]
    alone = rule is None and any(map(is_quantity, words)) and all(is_unit(f) for f in words)
    used = rule + 1 if rule is not None else int(alone)
    if used and rule != 0 and len(fields) <= len(names):
        return {name: unit for name, unit in zip(names, fields, strict=False) if unit}, used
    return {}, used


def rows(path: Path, text: Text, found: Layout, columns: list[str], lines: Lines) -> Iterator[pa.Table]:
    """Some columns as text, all rows in chunks; at least one chunk, even if empty. Updates `lines`.

    A row that does not have as many fields as the header is skipped and counted; `#` begins a comment only in such a
    line. Raises TableFileError if the file ends within a broken row or an open quote: then it is cut off.
    """
    indices = [found.names.index(name) for name in columns]
    width = len(found.names) + found.trailing
    by_width = _blank_separated if found.delimiter == _BLANK else _separated
    for arrays in by_width(path, text, found.delimiter, width, indices, lines):
        yield pa.table(arrays, names=columns)


class _Ended:
    """A text for Arrow, followed by our sentinel row."""

    closed = False

    def __init__(self, text: Text, row: bytes) -> None:
        self._text, self._row = text, row

    def read(self, size: int = -1) -> bytes:
        block = self._text.read(size)
        if not block and self._row:
            block, self._row = (b"\n" if self._text.ends_within_a_line else b"") + self._row, b""
        return block

    def close(self) -> None:
        self.closed = True


def _separated(
    path: Path, text: Text, delimiter: str, width: int, indices: list[int], lines: Lines
) -> Iterator[list[pa.Array]]:
    passed_over = last_broken = rows = hashes = 0

    def skip(row: Any) -> str:
        nonlocal passed_over, last_broken
        passed_over += 1
        if _pass_over(row.text, row.number, row.actual_columns, row.expected_columns, lines):
            last_broken = row.number
        return "skip"

    names = [str(k) for k in range(width)]
    included = [names[k] for k in dict.fromkeys([*indices, 0])]
    reader = arrow_csv.open_csv(
        pa.PythonFile(_Ended(text, delimiter.join([_END] * width).encode() + b"\n"), mode="r"),
        arrow_csv.ReadOptions(block_size=_BLOCK, column_names=names, use_threads=False),
        arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        arrow_csv.ConvertOptions(
            include_columns=included, column_types=dict.fromkeys(included, pa.binary()), check_utf8=False
        ),
    )
    is_closed = False
    for batch in reader:
        first = batch.column("0")
        is_closed = bool(len(first)) and first[len(first) - 1].as_py() == _END.encode()
        size = len(first) - is_closed
        rows += size
        hashes += pc.sum(pc.starts_with(first, "#")).as_py() or 0
        yield [unmarked(decoded(batch.column(str(k)).slice(0, size))) for k in indices]
    if not is_closed:
        raise TableFileError(f"{path} ends within quotes: a field that begins with a quote has none at its end")
    if hashes:
        lines.notes.append(f"{hashes} lines of {path} begin with # and have all columns: they are read as rows")
    _check_end(path, text, last_broken, rows + passed_over, lines)


def _check_end(path: Path, text: Text, last_broken: int, last: int, lines: Lines) -> None:
    if lines.comments:
        lines.notes.append(f"{lines.comments} comment lines among the rows of {path} are passed over")
    if text.ends_within_a_line:
        if last_broken and last_broken == last:
            raise TableFileError(f"{path} is cut: it ends within row {last}. Nothing was read; get the file again")
        lines.notes.append(f"{path} has no line end behind its last row: if it is cut, a value there may be too")


def _pass_over(row: str, number: int, actual: int, expected: int, lines: Lines) -> bool:
    """Count a row that does not have as many fields as the header; false for blank lines and comments."""
    if not row.strip():
        return False
    if row.lstrip().startswith("#"):
        lines.comments += 1
        return False
    lines.broken += 1
    lines.first = lines.first or f"row {number} has {actual} values for {expected} columns: {row[:80]!r}"
    return True


def _blank_separated(
    path: Path, text: Text, delimiter: str, width: int, indices: list[int], lines: Lines
) -> Iterator[list[pa.Array]]:
    source = (as_text(raw).rstrip("\r\n").expandtabs(1).strip() for raw in iter(text.readline, b""))
    reader = csv.reader((line for line in source if line), delimiter=delimiter, skipinitialspace=True)
    number = last_broken = 0
    while True:
        part = list(islice(reader, _BLANK_ROWS))
        kept: list[list[str]] = []
        for fields in part:
            number += 1
            if len(fields) == width:
                kept.append([fields[k] for k in indices])
            elif _pass_over(" ".join(fields), number, len(fields), width, lines):
                last_broken = number
        yield [pa.array([row[k] for row in kept], pa.string()) for k in range(len(indices))]
        if len(part) < _BLANK_ROWS:
            break
    _check_end(path, text, last_broken, number, lines)
