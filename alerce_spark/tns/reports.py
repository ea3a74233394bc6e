"""The state of each report: the table `tns_reports`, one row a step; each step follows a known one.

A step is one commit of `lake.write.insert`, whose key has the number of the step: if two processes continue from the
same step, one is stored and the other gets Overtaken. So only the process that stored a step does the work after it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from alerce_spark.errors import AlerceError, InputError
from alerce_spark.lake import files, lookup, write
from alerce_spark.lake.handles import delta_table, healpix_order, is_made, is_synced, scan
from alerce_spark.lake.handles import table as table_of
from alerce_spark.lake.tables import TABLES
from alerce_spark.lake.write import Change, Conflict

_TABLE = "tns_reports"
#: Each step is a file; this many are merged into one.
_MOST_FILES = 50

DRAFTED, APPROVED, SENDING, SENT, UNKNOWN = "drafted", "approved", "sending", "sent", "unknown"
NAMED, EXISTS, REJECTED, LOST = "named", "exists", "rejected", "lost"
#: States from which a sender continues, and those from which a person may start again.
OPEN, AGAIN = (APPROVED, SENDING, SENT, UNKNOWN), (DRAFTED, REJECTED, LOST)


class Overtaken(AlerceError):
    """Another process or person has changed the report: look at its state."""


@dataclass(frozen=True)
class Report:
    """A step of a report; the columns of the table."""

    oid: str
    bot: str
    number: int
    state: str
    since: datetime
    who: str
    report: str
    via: str | None = None
    report_id: str | None = None
    name: str | None = None
    note: str | None = None

    @property
    def content(self) -> dict[str, Any]:
        """The content of the report."""
        return dict(json.loads(self.report))


def steps(lake: str, oid: str | None = None) -> list[Report]:
    """Every step of every report, or of those of one object, in order."""
    if not is_made(lake, _TABLE):
        return []
    rows = scan(delta_table(lake, _TABLE))
    rows = rows if oid is None else rows.filter(pl.col("oid") == oid)
    return [Report(**row) for row in rows.sort("oid", "bot", "number").collect().to_dicts()]


def standing(lake: str, oid: str | None = None) -> list[Report]:
    """The last step of every report, or of those of one object."""
    return list({(step.oid, step.bot): step for step in steps(lake, oid)}.values())


def of(lake: str, oid: str, bot: str) -> Report | None:
    """The last step of a bot's report of an object; None without a report."""
    return next((one for one in standing(lake, oid) if one.bot == bot), None)


def needed(lake: str, oid: str, bot: str) -> Report:
    """As `of`. Raises InputError without a report."""
    found = of(lake, oid, bot)
    if found is None:
        raise InputError(f"there is no report of {oid} by {bot!r}; make one with: alerce-spark tns draft {oid}")
    return found


def store_draft(lake: str, oid: str, bot: str, report: dict[str, Any], who: str) -> Report:
    """Store a draft; it replaces an earlier one that was not sent, was rejected or lost. Raises InputError."""
    write.create(lake, healpix_order(lake), sync=is_synced(lake))
    before = of(lake, oid, bot)
    text = json.dumps(report, sort_keys=True)
    if before is None:
        return _stored(lake, Report(oid, bot, 0, DRAFTED, datetime.now(UTC), who, text))
    if before.state not in AGAIN:
        raise InputError(f"the report of {oid} is {_where(before)}: an object is reported once")
    return step(lake, before, DRAFTED, who, report=text, via=None, report_id=None, note=None)


def approve(lake: str, oid: str, bot: str, who: str) -> Report:
    """Store a person's approval of a draft. Raises InputError without a draft."""
    before = needed(lake, oid, bot)
    if not who.strip():
        raise InputError("say who approves the report")
    if before.state != DRAFTED:
        raise InputError(f"the report of {oid} is {_where(before)}: only a draft is approved")
    return step(lake, before, APPROVED, who)


def step(lake: str, before: Report, state: str, who: str, **changes: Any) -> Report:
    """Store the step after `before`. Raises Overtaken where that step exists already."""
    after = {"number": before.number + 1, "state": state, "who": who, "since": datetime.now(UTC), **changes}
    return _stored(lake, replace(before, **after))


def _stored(lake: str, report: Report) -> Report:
    rows = pa.Table.from_pylist([asdict(report)], TABLES[_TABLE].arrow)
    if not write.insert(lake, _TABLE, rows):
        raise Overtaken(f"somebody else went on with the report of {report.oid}; see: alerce-spark tns status")
    _tidy(lake)
    return report


def _tidy(lake: str) -> None:
    """Merge many small files into one; rows do not change."""
    live = table_of(lake, _TABLE).live()
    if len(live.files) <= _MOST_FILES:
        return
    rows = lookup.rows_of_files(lake, _TABLE, list(live.files), live.version)
    added = files.write(lake, _TABLE, rows)
    removed = {path: file.vector for path, file in live.files.items()}
    with suppress(Conflict):  # where another process does it
        write.commit(lake, _TABLE, live.version, Change(added, removed=removed, operation="OPTIMIZE", moves=True))


def _where(report: Report) -> str:
    name = f" as {report.name}" if report.name else ""
    return f"{report.state}{name} since {report.since:%Y-%m-%d %H:%M} UTC"
