"""Commands of the Transient Name Server: import its public objects, send reports of discoveries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alerce_spark.cli.common import SERVE, Lake, app, console, settings_of, there

if TYPE_CHECKING:
    from collections.abc import Callable

    from alerce_spark.config import Settings
    from alerce_spark.tns.catalog import Updated
    from alerce_spark.tns.reports import Report

tns_app = typer.Typer(no_args_is_help=True, help="The Transient Name Server: public objects in, reports out.")
app.add_typer(tns_app, name="tns", rich_help_panel=SERVE)

Oid = Annotated[str, typer.Argument(help="Object.")]


@tns_app.command()
def fetch(lake: Lake = None) -> None:
    """Bring the catalogue `tns` up to date, and match it with the objects. Exit status 1 where a file is missing."""
    from alerce_spark.tns.server import Tns

    settings = settings_of(lake={"path": lake})
    tns = Tns(settings.tns)
    from alerce_spark.tns import catalog

    updated = _update(settings, lambda: catalog.fetch(settings.lake.path, tns))
    if updated.failure is not None:
        console.print(f"not all: {updated.failure}; the next fetch goes on from there")
        raise typer.Exit(1)


@tns_app.command(name="import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Files of public objects, in any order.", callback=there)],
    lake: Lake = None,
) -> None:
    """Import local files of public objects into the catalogue `tns`, and match it with the objects."""
    from alerce_spark.tns import catalog

    settings = settings_of(lake={"path": lake})
    _update(settings, lambda: catalog.import_files(settings.lake.path, files))


def _update(settings: Settings, update: Callable[[], Updated]) -> Updated:
    from alerce_spark.lake import catalogs
    from alerce_spark.lease import Lease
    from alerce_spark.tns import catalog, matching

    lake = settings.lake
    with Lease(lake.path, "alerce-spark tns", lake.lease_timeout_s, [catalog.NAME]):
        updated = update()
        for line in updated.files:
            console.print(line)
        counts = f"{updated.added} new, {updated.changed} changed, {updated.gone} gone"
        console.print(f"{catalog.NAME}: {updated.rows} objects; {counts}")
        if catalogs.local(lake.path, catalog.NAME) is not None:
            done = matching.rematch(lake.path)
            console.print(f"xmatch: {done.near} objects have a source, {done.written} rows written")
    return updated


@tns_app.command()
def draft(
    oid: Oid,
    by: Annotated[str, typer.Option(help="Who makes the draft.")],
    lake: Lake = None,
    host: Annotated[str | None, typer.Option(help="Name of the galaxy that it is in.")] = None,
    host_redshift: Annotated[float | None, typer.Option(help="Its redshift.")] = None,
    remarks: Annotated[str, typer.Option(help="What else TNS should know.")] = "",
    known: Annotated[bool, typer.Option("--known", help="Also where TNS has an object at its place.")] = False,
) -> None:
    """Make a draft of a report from an object, and show it. Nothing is sent."""
    from alerce_spark.errors import InputError
    from alerce_spark.tns import reports
    from alerce_spark.tns.draft import Host
    from alerce_spark.tns.draft import draft as made

    if host is None and host_redshift is not None:
        raise InputError("--host-redshift needs --host")
    settings = settings_of(lake={"path": lake})
    galaxy = None if host is None else Host(host, host_redshift)
    content = made(settings.lake.path, oid, settings.tns, host=galaxy, remarks=remarks, known=known)
    report = reports.store_draft(settings.lake.path, oid, settings.tns.bot_name, content, by)
    console.print_json(json.dumps(content))
    _say(report)


@tns_app.command()
def approve(
    oid: Oid, by: Annotated[str, typer.Option(help="Who approves; the name is kept.")], lake: Lake = None
) -> None:
    """Approve a draft for sending."""
    from alerce_spark.tns import reports

    settings = settings_of(lake={"path": lake})
    _say(reports.approve(settings.lake.path, oid, settings.tns.bot_name, by))


@tns_app.command()
def send(
    oids: Annotated[list[str] | None, typer.Argument(help="Objects; default: all that are on their way.")] = None,
    lake: Lake = None,
    hermes: Annotated[bool, typer.Option("--hermes", help="By HERMES instead of TNS itself.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds that the reply to a report is waited for.")] = 60.0,
) -> None:
    """Send approved reports, ask for the results of others. Exit status 1 where one failed or was not accepted."""
    from alerce_spark.lease import Lease
    from alerce_spark.tns import reports, sending
    from alerce_spark.tns.hermes import Hermes
    from alerce_spark.tns.server import Tns

    settings = settings_of(lake={"path": lake})
    path, bot = settings.lake.path, settings.tns.bot_name
    tns = Tns(settings.tns) if settings.tns.url or not hermes else None
    way = Hermes(settings.tns) if hermes else None
    with Lease(path, "alerce-spark tns send", settings.lake.lease_timeout_s, [sending.LEASE]) as lease:
        chosen = oids or [one.oid for one in reports.standing(path) if one.bot == bot and one.state in reports.OPEN]
        sender = sending.Sender(path, settings.tns, tns, way, lease.check, "alerce-spark tns send", wait)
        done, failed = sending.send_all(sender, chosen)
    for report in done:
        _say(report)
    for text in failed:
        console.print(text)
    if failed or any(one.state in (reports.REJECTED, reports.LOST) for one in done):
        raise typer.Exit(1)


@tns_app.command()
def status(
    oid: Annotated[str | None, typer.Argument(help="Object; its report is shown.")] = None, lake: Lake = None
) -> None:
    """Show the state of reports, or every step of one."""
    from alerce_spark.tns import reports

    path = settings_of(lake={"path": lake}).lake.path
    if oid is None:
        for report in reports.standing(path):
            _say(report)
        return
    history = reports.steps(path, oid)
    for report in history:
        _say(report)
    if history:
        console.print_json(history[-1].report)


def _say(report: Report) -> None:
    about = f" {report.name}" if report.name else ""
    note = f": {report.note}" if report.note else ""
    when = f"{report.since:%Y-%m-%d %H:%M:%S}"
    console.print(f"{report.oid} {report.state}{about} ({when}, {report.who}){note}", soft_wrap=True)
