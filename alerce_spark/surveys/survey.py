"""The description of a survey: everything that differs between surveys, as data that other rooms take as an argument.

All rooms share one model of an alert. A packet of any survey becomes three tables: alerts; previous detections and
upper limits; forced photometry. Besides the survey's fields these have common columns, with the same name, type and
unit in every survey (docs/design.md, "Surveys"):

| column | type | meaning |
|---|---|---|
| objectId | string | object; in alerts only |
| candid | int64 | alert; null in a previous entry that is an upper limit |
| mjd | double | modified Julian date, UTC, as the survey dates its exposures [d] |
| fid | int32 | number of the band |
| ra, dec | double | J2000 [deg] |

A common column is either a field that the survey maps to it (`Field.column`), or is computed from fields of another
type, unit or time scale (`Derived`). This module imports nothing heavy, since the command imports it at start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from math import floor, nextafter
from typing import Any, Literal

AvroType = Literal["int", "long", "float", "double", "string"]

#: MJD = JD - this.
MJD_ZERO = 2_400_000.5
#: Dates outside are no dates of observations [d].
MJD_RANGE = (-0.5, 99_999.5)
#: The largest right ascension.
BELOW_360 = nextafter(360.0, 0.0)


@dataclass(frozen=True)
class Field:
    """One field of a packet record: Avro name and primitive type, meaning, unit, and the first version that has it."""

    name: str
    type: AvroType
    comment: str
    unit: str = ""
    nullable: bool = False
    since: str = "1.0"
    #: Column of the decoded table; empty: the field's name.
    column: str = ""

    @property
    def target(self) -> str:
        """Column of the decoded table."""
        return self.column or self.name


@dataclass(frozen=True)
class Record:
    """Fields at `path` of a packet: a record, or an array of records; an empty path is the packet itself."""

    path: str
    fields: tuple[Field, ...]

    def path_of(self, column: str) -> str | None:
        """Path in the packet of the field that fills a column; None if no field does."""
        found = next((f.name for f in self.fields if f.target == column), None)
        return f"{self.path}.{found}" if found and self.path else found


@dataclass(frozen=True)
class Check:
    """A value that an alert must have; without it the packet is bad.

    `kind`: "name", a text that may name an object; "id", a positive number; "same id", the number of the "id" before it
    (the column is only compared, no table has it); "number", a finite one from `low` to `high`. `limits` is the range
    as messages show it.
    """

    column: str
    kind: Literal["name", "id", "same id", "number"]
    low: float = float("-inf")
    high: float = float("inf")
    limits: str = "the finite numbers"


@dataclass(frozen=True)
class Derived:
    """A common column computed from a field by an Arrow function, in each table that has the field.

    `make` takes and returns a pyarrow.Array or ChunkedArray with the same number of rows.
    """

    name: str
    type: AvroType
    source: str
    make: Callable[[Any], Any]


@dataclass(frozen=True)
class Spellings:
    """Texts for a difference flux that is brighter, and for one that is fainter than the reference."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


#: As ZTF's packets and ALeRCE's tables have it.
T_OR_F = Spellings(("t", "1"), ("f", "0", "-1"))


@dataclass(frozen=True)
class Cutouts:
    """The images of an alert: top-level fields of the science, template and difference image.

    `content`: field of the cutout's record that holds the bytes; empty where the cutout is bytes itself. `position`:
    columns of the candidate's pixel on the detector, which tell which pixels a cutout at the border lacks.
    """

    names: tuple[str, str, str]
    content: str = ""
    position: tuple[str, str] | None = None


@dataclass(frozen=True)
class Neighbour:
    """Columns of an alert about one catalogue; if it lists several sources, the first is the nearest.

    `id` is None where packets do not name the source. `radius` [arcsec]: how far the survey looked.
    """

    catalog: str
    radius: float
    id: str | None
    distance: str
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class Forced:
    """How to read forced photometry: columns of its key, flux, error and zero point, and the code for "no flux".

    `rank`: a column that is larger for a later processing; the entry with the largest value replaces others of its key.
    """

    key: str
    rank: str
    flux: str
    error: str
    zero_point: str
    null: float


@dataclass(frozen=True, eq=False)
class Survey:
    """A survey. Compared by identity, so that looking up what was compiled for a survey is fast."""

    name: str
    #: Schema versions, oldest first.
    versions: tuple[str, ...]
    #: Top-level fields of the packet, and those of the records that describe the alert: the table of alerts.
    top: Record
    alert: tuple[Record, ...]
    #: Arrays of records: earlier detections and upper limits; forced photometry.
    previous: Record
    forced: Record
    cutouts: Cutouts
    checks: tuple[Check, ...]
    derived: tuple[Derived, ...]
    #: Fields with the time and the band of an entry of the history, for messages.
    when_and_band: tuple[str, str]
    #: Numbers of the bands, and their letters.
    bands: Mapping[int, str]
    #: Of the sign of a difference flux, column isdiffpos.
    spellings: Spellings
    #: Columns of the source of the reference image below a detection: magnitude, its error, distance.
    reference: tuple[str, str, str]
    forced_photometry: Forced
    #: Columns of Julian dates, and the columns of modified Julian dates that replace them in the tables.
    julian: Mapping[str, str]
    #: Columns of the table of upper limits besides the common ones.
    of_limits: tuple[Field, ...]
    neighbours: tuple[Neighbour, ...]
    #: Columns of the name and the distance [arcsec] of the Solar System object that the survey expects there.
    mover: tuple[str, str]
    #: Columns of the distance [arcsec] and the star/galaxy score, 1 a star, of the nearest source of a deep catalogue.
    star: tuple[str, str]
    #: Date of the exposure [MJD] computed from a candid, if the number contains it.
    date_of: Callable[[int], float]
    #: Topic of a night's alerts, `{night}` for its date.
    topic: str
    #: Start of a night as a fraction of the UTC day: 0 midnight, 0.5 noon.
    night_begins: float = 0.0

    @property
    def topics(self) -> str:
        """Pattern of the topics of all nights."""
        return self.topic.format(night="[0-9]{8}")

    def night(self, mjd: float) -> str:
        """Night of an exposure of this date, as YYYYMMDD: the UTC date on which the night began."""
        return f"{date(1970, 1, 1) + timedelta(days=floor(mjd - 40_587 - self.night_begins)):%Y%m%d}"

    def records(self) -> Iterator[Record]:
        """The records that fill the table of alerts."""
        yield self.top
        yield from self.alert

    def path_of(self, column: str) -> str:
        """Path in the packet of the field that fills a column of alerts. Raises KeyError if no field does."""
        for record in self.records():
            if (path := record.path_of(column)) is not None:
                return path
        raise KeyError(column)
