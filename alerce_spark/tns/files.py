"""Files of public objects of TNS: CSV in a zip; the first line is the period that they cover, the second the header.

`tns_public_objects.csv.zip` has every object and is made once a day; `…_YYYYMMDD` has the changes of a day, `…_HH`
those of an hour.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa

from alerce_spark.crossmatch import files
from alerce_spark.crossmatch.catalogs import Catalog
from alerce_spark.crossmatch.files import BROKEN, Counts
from alerce_spark.errors import InputError
from alerce_spark.tablefiles import TableFileError

WHOLE = "tns_public_objects.csv.zip"
_WHOLE_NAME = re.compile(r"tns_public_objects\.csv(\.zip)?")
_PERIOD = re.compile(r"(\d{4}-\d{2}-\d{2}) \d{2}:\d{2}:\d{2} - (\d{2}:\d{2}:\d{2})")
_TIME = "%Y-%m-%d %H:%M:%S"
#: Changes of more days than this cost more requests than the whole file.
_MOST_DAYS = 7


class DamagedFile(InputError):
    """A file is not one of TNS, or is incomplete; the message names it."""


@dataclass(frozen=True)
class Public:
    """Objects of a file, one row each; `is_whole`: all objects of TNS; `until`: end of the file's period [UTC]."""

    rows: pl.DataFrame
    until: datetime
    is_whole: bool
    counts: Counts


def read(path: Path, settings: Catalog, scratch: Path) -> Public:
    """The objects of a file, zipped or not; for a repeated id the last row. Raises DamagedFile.

    Columns source_id, ra, dec [deg] and the attributes of `settings`. Rows without an id or a position are counted.
    """
    first, table = _unpacked(path, scratch)
    period = _PERIOD.fullmatch(first.strip().strip('"'))
    if period is None:
        raise DamagedFile(f"{path.name} is no file of public objects of TNS: its first line is no period of time")
    counts = Counts()
    try:
        rows = pa.concat_tables(files.rows(settings, [table], counts))
    except TableFileError as error:
        raise DamagedFile(f"{path.name} cannot be taken: {str(error).replace(str(table), 'it')}") from None
    if counts.bad[BROKEN]:
        raise DamagedFile(f"{path.name} is damaged: {counts.bad[BROKEN]} of its {counts.rows} rows are broken")
    found = pl.DataFrame(rows).drop("healpix29").unique("source_id", keep="last", maintain_order=True)
    until = datetime.strptime(" ".join(period.groups()), _TIME).replace(tzinfo=UTC)
    return Public(found, until, _WHOLE_NAME.fullmatch(path.name) is not None, counts)


def _unpacked(path: Path, scratch: Path) -> tuple[str, Path]:
    """The first line of a file, and a file with the lines after it."""
    try:
        data = path.read_bytes()
        if data[:2] == b"PK" or path.suffix == ".zip":
            data = _only_member(path)
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedFile(f"{path.name} is damaged or cut, or is no zip: {error}") from None
    first, _, rest = data.partition(b"\n")
    if not rest.strip():
        raise DamagedFile(f"{path.name} is empty: it has no header")
    table = scratch / f"{path.name.split('.')[0]}.csv"
    table.write_bytes(rest)
    return first.decode("utf-8", "replace"), table


def _only_member(path: Path) -> bytes:
    """The file in a zip, with its checksum verified."""
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        if len(members) != 1:
            raise DamagedFile(f"{path.name} holds {len(members)} files, not one")
        return archive.read(members[0])


@dataclass(frozen=True)
class Wanted:
    """A file to request, and the beginning of its period: a file from before that is a leftover of an earlier day."""

    name: str
    begin: datetime


def due(known_until: datetime | None, now: datetime) -> list[Wanted]:
    """Files that update a catalogue that is complete up to `known_until`, in the order of time."""
    today = datetime(now.year, now.month, now.day, tzinfo=UTC)
    hour = today
    wanted = []
    if known_until is None or (today - known_until).days > _MOST_DAYS:
        wanted = [Wanted(WHOLE, today - timedelta(days=1))]
    elif known_until >= today:
        hour = known_until.replace(minute=0, second=0, microsecond=0)
    else:
        day = datetime(known_until.year, known_until.month, known_until.day, tzinfo=UTC)
        while day < today:
            wanted.append(Wanted(f"tns_public_objects_{day:%Y%m%d}.csv.zip", day))
            day += timedelta(days=1)
    while hour + timedelta(hours=1) <= now:
        wanted.append(Wanted(f"tns_public_objects_{hour:%H}.csv.zip", hour))
        hour += timedelta(hours=1)
    return wanted
