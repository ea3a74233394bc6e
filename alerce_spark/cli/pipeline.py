"""Commands that run the broker: Kafka, tables, import, stream, simulation, compaction, demo."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from alerce_spark.cli.common import COMPUTE, LOOK, MAINTAIN, RUN, Lake, app, console, lake_of, settings_of, there
from alerce_spark.cli.texts import plain, say_unread
from alerce_spark.errors import InputError
from alerce_spark.outputs import check_out_folder
from alerce_spark.text import visible

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from alerce_spark.config import Settings

kafka_app = typer.Typer(no_args_is_help=True, help="A one-node Kafka broker on this machine.")
tables_app = typer.Typer(no_args_is_help=True, help="The tables of the lake.")
app.add_typer(kafka_app, name="kafka", rich_help_panel=RUN)
app.add_typer(tables_app, name="tables", rich_help_panel=LOOK)


@kafka_app.command("start")
def kafka_start() -> None:
    """Start the broker at kafka.bootstrap_servers, or find it running."""
    from alerce_spark import local_kafka

    kafka = settings_of().kafka
    broker = local_kafka.start(kafka.bootstrap_servers, kafka.local_dir, kafka.local_heap)
    console.print(f"Kafka {local_kafka.VERSION} at {broker.bootstrap_servers}, process {broker.pid}, log {broker.log}")


@kafka_app.command("stop")
def kafka_stop() -> None:
    """Stop the broker."""
    from alerce_spark import local_kafka

    console.print("stopped" if local_kafka.stop(settings_of().kafka.local_dir) else "no broker was running")


@kafka_app.command("status")
def kafka_status() -> None:
    """Say whether the broker runs; exit status 1 when it does not."""
    from alerce_spark import local_kafka

    broker = local_kafka.status(settings_of().kafka.local_dir)
    if broker is None:
        console.print("not running; start it with: alerce-spark kafka start")
        raise typer.Exit(1)
    console.print(f"running at {broker.bootstrap_servers}, process {broker.pid}, log {broker.log}")


@tables_app.command("create")
def tables_create(lake: Lake = None) -> None:
    """Make the missing tables."""
    settings = settings_of(lake={"path": lake})
    from alerce_spark.lake import write

    made = write.create(settings.lake.path, settings.lake.healpix_order, sync=settings.lake.sync)
    console.print(f"made in {settings.lake.path}: {', '.join(made) or 'nothing, all tables are there'}")


@tables_app.command("describe")
def tables_describe(
    table: Annotated[str | None, typer.Argument(help="One table; default: all of them.")] = None,
) -> None:
    """Show tables: keys, columns, units and meanings."""
    from alerce_spark.errors import LakeError
    from alerce_spark.lake.tables import TABLES

    if table is None:
        overview = Table("table", "key", "what")
        for t in TABLES.values():
            overview.add_row(t.name, ", ".join(t.key), t.comment)
        console.print(overview)
        return
    if table not in TABLES:
        raise LakeError(f"no table {table!r}; there are {', '.join(TABLES)}")
    columns = Table("column", "type", "unit", "null", "what", title=f"{table}: {TABLES[table].comment}")
    for c in TABLES[table].columns:
        columns.add_row(
            ("*" if c.name in TABLES[table].key else "") + c.name,
            c.type,
            c.unit,
            "" if c.required else "yes",
            c.comment,
        )
    console.print(columns)
    console.print("* key")


@app.command("import", rich_help_panel=RUN)
def import_(
    paths: Annotated[
        list[Path], typer.Argument(help="Avro files, directories, nightly archives (.tar, .tar.gz).", callback=there)
    ],
    lake: Lake = None,
    through_stream: Annotated[
        str | None,
        typer.Option(metavar="TOPIC", help="Send the packets to TOPIC_reprocess, for the stream that holds the lake."),
    ] = None,
    classify: Annotated[bool, typer.Option(help="Classify stamps and light curves too.")] = True,
) -> None:
    """Write alerts from files into the lake and classify their objects. Safe to repeat.

    Exit status 1 where files, members or packets were refused; everything else is written.
    """
    settings = settings_of(lake={"path": lake})
    from alerce_spark.streaming import backfill

    if through_stream is not None:
        unread: list[tuple[str, str]] = []
        sent = backfill.send_through_stream(settings, paths, through_stream, lambda *pair: unread.append(pair))
        lost = say_unread(unread)
        console.print(f"{sent} packets sent to {through_stream}_reprocess; the running stream takes them from there")
        raise typer.Exit(1 if lost else 0)
    from alerce_spark.session import spark_session
    from alerce_spark.streaming.queries.photometry import Summary

    def progress(done: int, files: int, batch: Summary) -> None:
        took = sum(batch.seconds.values())
        console.print(f"{done} of {files} files: {batch.alerts} alerts in {took:.1f} s ({batch.alerts / took:.0f}/s)")

    total = backfill.import_alerts(spark_session(settings), settings, paths, progress, classify)
    lost = say_unread(total.unread)
    console.print(f"{total.alerts} alerts; rows written: {total.rows or 'none'}")
    if total.refused:
        console.print(f"{total.refused} packets refused: they are in the table quarantine, each with its reason")
    raise typer.Exit(1 if lost or total.refused else 0)


@app.command(rich_help_panel=RUN)
def stream(
    queries: Annotated[
        str | None, typer.Option(help="Comma-separated; default: stream.queries of the settings.")
    ] = None,
    lake: Lake = None,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when everything on the topics is taken.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Show the queries: what each does, reads and writes.")] = False,
) -> None:
    """Run the streaming queries until SIGTERM or Ctrl-C."""
    chosen = None if queries is None else [name.strip() for name in queries.split(",")]
    settings = settings_of(lake={"path": lake}, stream={"queries": chosen})
    if show:
        console.print(_list(settings))
        return
    from alerce_spark.session import spark_session
    from alerce_spark.streaming.run import Stream

    log = logging.getLogger("alerce_spark.stream")

    def end_by_signal() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: running.stop())

    def session() -> SparkSession:
        made = spark_session(settings, "alerce-spark stream")
        end_by_signal()  # Spark has set its own for Ctrl-C
        return made

    def report(query: str, epoch: int, result: object) -> None:
        log.info("%s batch %d: %s", query, epoch, result)

    running = Stream(session, settings, report, until_empty)
    end_by_signal()
    running.run()


def _list(settings: Settings) -> Table:
    """The chosen queries as they declare themselves."""
    from alerce_spark.streaming.queries import declared

    shown = Table("query", "purpose", "reads", "writes", show_lines=True)
    for name in settings.stream.queries:
        query = declared(name)
        shown.add_row(name, query.purpose, query.pattern(settings), query.writes)
    return shown


@app.command(rich_help_panel=RUN)
def status(lake: Lake = None) -> None:
    """Show the state of the running (or last) stream: lag, rate, latency, and why queries fail (then exit status 1)."""
    path = settings_of(lake={"path": lake}).lake.path
    from alerce_spark.streaming import metrics

    found = metrics.read(path)
    for file in (found or {}).get("damaged", ()):
        console.print(f"passed over {plain(file)}: damaged or empty; a running stream writes it again within seconds")
    if not (found or {}).get("queries"):
        raise InputError(f"no stream has told of itself on {path}; start one with: alerce-spark stream")
    assert found is not None
    console.print(f"process {found['pid']} since {found['since']}, as of {found['now']}")
    queries = Table(box=None, pad_edge=False)
    for title in ("query", "state", "taken", "waiting", "catch-up s", "alerts/s", "last batch", "failures"):
        queries.add_column(title, no_wrap=title in ("query", "state"))
    for name, q in found["queries"].items():
        lag = "" if q["lag_s"] is None else f"{q['lag_s']:.0f}"
        numbers = (str(q["alerts"]), str(q["lag"]), lag, f"{q['rate']:.0f}")
        last = q["last_batch"][:19] if q["last_batch"] else "never"
        queries.add_row(name, q["state"], *numbers, last, str(q["failures"]))
    console.print(queries)
    for name, q in found["queries"].items():
        for line in _told(name, q, metrics.BAD):
            console.print(line, highlight=False, soft_wrap=True)
    latency = Table("from Kafka to", *(f"p{p}" for p in metrics.PERCENTILES))
    for step, waits in found["latency"].items():
        latency.add_row(step, *(f"{waits[str(p)]:.2f} s" for p in metrics.PERCENTILES))
    console.print(latency)
    for classifier, model in found["models"].items():
        console.print(f"{classifier}: model {model['version'] or 'none'}", highlight=False)
        if model["alarm"]:
            console.print(f"ALARM: the current model cannot be used: {model['alarm']}", style="bold red")
    away = {q["kafka"] for q in found["queries"].values() if q["kafka"] and q["state"] != metrics.ENDED}
    for problem in away:
        console.print(f"no Kafka broker answers: {plain(problem)}", style="bold red", soft_wrap=True)
    for problem in {q["topics"] for q in found["queries"].values() if q["topics"] and q["state"] != metrics.ENDED}:
        console.print(f"{visible(problem)}: set kafka.topics, or make the topic", style="bold red", soft_wrap=True)
    if away or any(q["state"] in metrics.BAD for q in found["queries"].values()):
        raise typer.Exit(1)


def _told(name: str, query: dict[str, Any], bad: Sequence[str]) -> Iterator[str]:
    """Lines about a query that fails now or failed before."""
    since = f" since {query['failing_since']}" if query["failing_since"] else f" since {query['as_of']}"
    if query["state"] in bad:
        yield f"{name} {query['state']}{since}"
    if query["error"]:
        yield f"{name}, last failure {query['last_failure']}: {visible(query['error'])}"


@app.command(rich_help_panel=COMPUTE)
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for <candid>.avro files.")],
    alerts: Annotated[int, typer.Option(min=1, help="Packets to make.")] = 1000,
    objects: Annotated[int, typer.Option(min=1, help="Objects on the sky.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 1,
    version: Annotated[str, typer.Option(help="ZTF schema version.")] = "3.3",
) -> None:
    """Write packets of a synthetic sky."""
    check_out_folder(out)
    from itertools import islice

    from rich.progress import track

    from alerce_spark.simulation.night import stream as alert_stream

    made = islice(alert_stream(seed, objects=objects, version=version), alerts)
    for candid, _, packet in track(made, "simulating", alerts, console=console):
        (out / f"{candid}.avro").write_bytes(packet)
    console.print(f"{alerts} packets in {out}")


@app.command(rich_help_panel=MAINTAIN)
def compact(
    lake: Lake = None,
    max_files: Annotated[int, typer.Option(min=1, help="Rewrite pixels with more small files than this.")] = 1,
    retention_hours: Annotated[
        float | None, typer.Option(help="Keep deleted files that long, at least 24; default: maintenance.retention_h.")
    ] = None,
) -> None:
    """Rewrite crowded pixels as sorted files and delete old ones. Safe beside a running stream."""
    settings = settings_of(lake={"path": lake}, maintenance={"retention_h": retention_hours})
    path = lake_of(settings)
    from alerce_spark.lake.compact import compact_lake
    from alerce_spark.session import spark_session

    spark, retention = spark_session(settings), settings.maintenance.retention_h
    for done in compact_lake(spark, path, max_files, retention):
        console.print(f"{done.table}: {done.pixels} pixels, {done.before} files became {done.after}")


@app.command(rich_help_panel=RUN)
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything of the demo goes.")] = Path("demo-lake"),
    alerts: Annotated[
        Path | None,
        typer.Option(help="Real packets (directory or tar.gz) in place of simulated ones.", callback=there),
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="Simulated alerts.")] = 1000,
) -> None:
    """A night from Kafka into the lake on this machine, with a summary and three light curves."""
    from alerce_spark.demo import run

    # Not the present handler of SIGINT: a background job ignores it, and its child processes would ignore SIGTERM too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(settings_of(), folder, alerts, number, console)
    except KeyboardInterrupt:
        console.print("Stopped; Kafka and Spark have ended. The same command begins again")
        raise typer.Exit(130) from None
