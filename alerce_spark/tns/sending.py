"""Send approved reports and fetch their replies; an object is reported once, even if processes die in between.

The step `sending` is stored before the request, so a later process knows that TNS may have accepted the report. Only
one process sends at a time (the lease `tns_reports`), so a stored step `sending` comes from a process that died. A
report with an unknown outcome is never sent again: the sender searches TNS for its internal name, and where it does not
appear within `settle_s` it is `lost`, and a person may draft it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from alerce_spark.config import TnsSettings
from alerce_spark.lake import catalogs
from alerce_spark.tns import reports
from alerce_spark.tns.catalog import NAME
from alerce_spark.tns.hermes import Hermes
from alerce_spark.tns.http import NotTaken, TnsError, Unsure
from alerce_spark.tns.reports import APPROVED, EXISTS, LOST, NAMED, OPEN, REJECTED, SENDING, SENT, UNKNOWN, Report
from alerce_spark.tns.server import Refused, Tns

#: Name of the lease that a sender holds.
LEASE = "tns_reports"
TNS, HERMES = "tns", "hermes"


@dataclass
class Sender:
    """Sends reports of one lake, to HERMES if `hermes` is given; then `tns`, if given, is used for results only.

    check_lease raises where another process may be sending; `wait_s`: longest wait for a reply.
    """

    lake: str
    settings: TnsSettings
    tns: Tns | None
    hermes: Hermes | None
    check_lease: Callable[[], None]
    who: str
    wait_s: float = 60.0
    poll_s: float = 2.0

    def advance(self, oid: str) -> Report:
        """Advance the report of an object as far as possible now; return its last step. Raises TnsError, Overtaken."""
        report = reports.needed(self.lake, oid, self.settings.bot_name)
        until = time.monotonic() + self.wait_s
        while report.state in OPEN:
            after = self._next(report)
            if after is report:
                if time.monotonic() + self.poll_s > until:
                    break
                time.sleep(self.poll_s)
            report = after
        return report

    def _next(self, report: Report) -> Report:
        """The step after this one; the same where nothing can be done yet."""
        if report.state == APPROVED:
            return self._send(report)
        if report.state == SENDING:
            return self._step(report, UNKNOWN, note="the process that sent it ended before it knew the answer")
        if report.state == SENT and report.via == TNS:
            return self._reply(report)
        return self._look(report)

    def _send(self, report: Report) -> Report:
        server = self.hermes or self.tns
        if server is None:
            raise NotTaken("neither TNS nor HERMES is set: nothing is sent")
        via = HERMES if self.hermes is not None else TNS
        if self.tns is not None:
            # A lake rebuilt from its archive does not have its reports.
            name, is_ours = self._found(report)
            if name is not None and is_ours:
                return self._step(report, NAMED, name=name, note="it was reported before")
        sending = self._step(report, SENDING, via=via, note=None)
        self.check_lease()
        try:
            number = server.send(report.content)
        except Refused as error:
            return self._step(sending, REJECTED, note=str(error))
        except NotTaken as error:
            self._step(sending, APPROVED, via=None, note=str(error))
            raise
        except Unsure as error:
            return self._step(sending, UNKNOWN, note=str(error))
        return self._step(sending, SENT, report_id=number)

    def _reply(self, report: Report) -> Report:
        if self.tns is None:
            raise NotTaken(f"the report of {report.oid} went to TNS, which is not set")
        answer = self.tns.reply(str(report.report_id))
        if answer is not None:
            return self._step(report, answer.state, name=answer.name, note=answer.note)
        if self._age(report) <= self.settings.settle_s:
            return report
        return self._step(report, UNKNOWN, note="TNS knows of no such report")

    def _look(self, report: Report) -> Report:
        """The step of a report that was sent without an answer: found at TNS, or lost, or still unknown."""
        name, is_ours = self._found(report)
        if name is not None:
            return self._step(report, NAMED if is_ours else EXISTS, name=name, note="found by its internal name")
        if self._age(report) <= self.settings.settle_s:
            return report
        return self._step(report, LOST, note="TNS has no object of this internal name")

    def _found(self, report: Report) -> tuple[str | None, bool]:
        """Name of the object that TNS has under our internal name, and whether our group reported it first."""
        if self.tns is not None:
            names = self.tns.called(report.oid)
            return (names[0], self.tns.is_ours(names[0])) if names else (None, False)
        rows = called(self.lake, report.oid)
        if rows.is_empty():
            return None, False
        first = rows.row(0, named=True)
        return f"{first['name_prefix'] or ''}{first['name']}", first[
            "reporting_groupid"
        ] == self.settings.reporting_group

    def _age(self, report: Report) -> float:
        """Seconds since the report went out the last time."""
        went = [
            one.since for one in reports.steps(self.lake, report.oid) if one.state == SENDING and one.bot == report.bot
        ]
        return (datetime.now(UTC) - went[-1]).total_seconds()

    def _step(self, before: Report, state: str, **changes: str | None) -> Report:
        return reports.step(self.lake, before, state, self.who, **changes)


def called(lake: str, internal_name: str) -> pl.DataFrame:
    """Objects of the local catalogue with an internal name; an empty list without a catalogue."""
    if catalogs.local(lake, NAME) is None:
        return pl.DataFrame()
    names = pl.col("internal_names").str.split(",").list.eval(pl.element().str.strip_chars())
    return catalogs.everything(lake, NAME).filter(names.list.contains(internal_name)).sort("source_id")


def send_all(sender: Sender, oids: list[str]) -> tuple[list[Report], list[str]]:
    """Advance several reports; return their last steps, and the errors of the others."""
    done, failed = [], []
    for oid in oids:
        try:
            done.append(sender.advance(oid))
        except TnsError as error:
            failed.append(f"{oid}: {error}")
    return done, failed
