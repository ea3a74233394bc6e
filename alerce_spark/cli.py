"""The command `alerce-spark`: every job of jobs/ is one of its commands."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from alerce_spark.config import ConfigError, Settings, load

app = typer.Typer(no_args_is_help=True, help="An astronomical alert broker on Spark, Kafka and Delta.")
kafka_app = typer.Typer(no_args_is_help=True, help="A one-node Kafka broker on this machine.")
tables_app = typer.Typer(no_args_is_help=True, help="The tables of the lake.")
app.add_typer(kafka_app, name="kafka")
app.add_typer(tables_app, name="tables")

console = Console()
_settings_file: list[Path | None] = [None]

Lake = Annotated[str | None, typer.Option("--lake", help="Folder of the tables; default: lake.path of the settings.")]


@app.callback()
def _common(
    conf: Annotated[Path | None, typer.Option(help="Settings file; default: conf/alerce.toml.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
) -> None:
    _settings_file[0] = conf
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    for chatty in ("py4j", "botocore", "urllib3", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # It prints the trace of each failed batch; the stream says in one line what failed and what it does about it.
    logging.getLogger("py4j.clientserver").setLevel(logging.CRITICAL)


def _settings(**overrides: Any) -> Settings:
    return load(_settings_file[0], overrides)


@kafka_app.command("start")
def kafka_start() -> None:
    """Start the broker at kafka.bootstrap_servers, or find it running."""
    from alerce_spark.kafka import local

    kafka = _settings().kafka
    broker = local.start(kafka.bootstrap_servers, kafka.local_dir, kafka.local_heap)
    console.print(f"Kafka {local.VERSION} at {broker.bootstrap_servers}, process {broker.pid}, log {broker.log}")


@kafka_app.command("stop")
def kafka_stop() -> None:
    """Stop the broker."""
    from alerce_spark.kafka import local

    console.print("stopped" if local.stop(_settings().kafka.local_dir) else "no broker was running")


@kafka_app.command("status")
def kafka_status() -> None:
    """Say whether the broker runs; exit status 1 when it does not."""
    from alerce_spark.kafka import local

    broker = local.status(_settings().kafka.local_dir)
    if broker is None:
        console.print("not running; start it with: alerce-spark kafka start")
        raise typer.Exit(1)
    console.print(f"running at {broker.bootstrap_servers}, process {broker.pid}, log {broker.log}")


@tables_app.command("create")
def tables_create(lake: Lake = None) -> None:
    """Make the tables that are not there yet."""
    from alerce_spark.lake import write
    from alerce_spark.session import spark_session

    settings = _settings(lake={"path": lake})
    made = write.create(spark_session(settings), settings.lake.path, settings.lake.healpix_order)
    console.print(f"made in {settings.lake.path}: {', '.join(made) or 'nothing, all tables are there'}")


@tables_app.command("describe")
def tables_describe(
    table: Annotated[str | None, typer.Argument(help="One table; default: all of them.")] = None,
) -> None:
    """Show tables: keys, columns, units and meanings."""
    from alerce_spark.lake.storage import LakeError
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


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="Avro files, directories, nightly archives (.tar, .tar.gz).")],
    lake: Lake = None,
    through_stream: Annotated[
        str | None,
        typer.Option(metavar="TOPIC", help="Send the packets to TOPIC_reprocess, for the stream that holds the lake."),
    ] = None,
) -> None:
    """Write alerts from files into the lake. Safe to repeat."""
    settings = _settings(lake={"path": lake})
    from alerce_spark.streaming import backfill

    if through_stream is not None:
        sent = backfill.send_through_stream(settings, paths, through_stream)
        console.print(f"{sent} packets sent to {through_stream}_reprocess; the running stream takes them from there")
        return
    from alerce_spark.session import spark_session
    from alerce_spark.streaming.photometry import Summary

    def progress(done: int, files: int, batch: Summary) -> None:
        took = sum(batch.seconds.values())
        console.print(f"{done} of {files} files: {batch.alerts} alerts in {took:.1f} s ({batch.alerts / took:.0f}/s)")

    total = backfill.import_alerts(spark_session(settings), settings, paths, progress)
    console.print(f"{total.alerts} alerts; rows written: {total.rows or 'none'}")


@app.command()
def stream(
    queries: Annotated[
        str | None, typer.Option(help="Comma-separated; default: stream.queries of the settings.")
    ] = None,
    lake: Lake = None,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when everything on the topics is taken.")
    ] = False,
) -> None:
    """Run the streaming queries until SIGTERM or Ctrl-C."""
    from alerce_spark.session import spark_session
    from alerce_spark.streaming.run import Stream

    chosen = queries.split(",") if queries else None
    settings = _settings(lake={"path": lake}, stream={"queries": chosen})
    log = logging.getLogger("alerce_spark.stream")
    running = Stream(
        spark_session(settings, "alerce-spark stream"),
        settings,
        lambda query, epoch, result: log.info("%s batch %d: %s", query, epoch, result),
        until_empty,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.stop())
    running.run()


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for <candid>.avro files.")],
    alerts: Annotated[int, typer.Option(help="Packets to make.")] = 1000,
    objects: Annotated[int, typer.Option(help="Objects on the sky.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    version: Annotated[str, typer.Option(help="ZTF schema version.")] = "3.3",
) -> None:
    """Write packets of a synthetic sky."""
    from itertools import islice

    from rich.progress import track

    from alerce_spark.simulation.night import stream as alert_stream

    out.mkdir(parents=True, exist_ok=True)
    made = islice(alert_stream(seed, objects=objects, version=version), alerts)
    for candid, _, packet in track(made, "simulating", alerts, console=console):
        (out / f"{candid}.avro").write_bytes(packet)
    console.print(f"{alerts} packets in {out}")


@app.command()
def compact(
    lake: Lake = None,
    max_files: Annotated[int, typer.Option(help="Rewrite pixels with more files than this.")] = 1,
    retention_hours: Annotated[float, typer.Option(help="Keep deleted files that long, at least 24.")] = 168.0,
) -> None:
    """Rewrite crowded pixels as sorted files and delete old ones. Not beside a running stream."""
    from alerce_spark.lake.compact import compact_lake
    from alerce_spark.session import spark_session

    settings = _settings(lake={"path": lake})
    for done in compact_lake(spark_session(settings), settings, max_files, retention_hours):
        console.print(f"{done.table}: {done.pixels} pixels, {done.before} files became {done.after}")


@app.command()
def features(
    detections: Annotated[str, typer.Option(help="Parquet or Delta table of detections.")],
    out: Annotated[str, typer.Option(help="Folder of the result, which must not exist.")],
    non_detections: Annotated[str | None, typer.Option(help="Parquet or Delta table of upper limits.")] = None,
    xmatch: Annotated[str | None, typer.Option(help="Parquet or Delta table with oid, w1mpro … w4mpro.")] = None,
    form: Annotated[str, typer.Option("--format", help="parquet or delta.")] = "parquet",
) -> None:
    """Compute the 152 features of every object of a table of light curves."""
    from pyspark.sql import DataFrame

    from alerce_spark.session import spark_session
    from alerce_spark.udfs import features as features_of

    spark = spark_session(_settings(), "alerce-spark features")

    def read(path: str | None) -> DataFrame | None:
        if path is None:
            return None
        delta = spark.read.format("delta")
        return delta.load(path) if (Path(path) / "_delta_log").is_dir() else spark.read.parquet(path)

    table = read(detections)
    assert table is not None
    features_of(table, read(non_detections), read(xmatch)).write.format(form).save(out)
    objects = spark.read.format(form).load(out)
    counted = objects.selectExpr("count(*)", "count_if(ndet_used > 0)").first()
    assert counted is not None
    console.print(f"{counted[0]} objects in {out}, {counted[1]} of them with enough detections for features")


@app.command()
def plot(
    oid: Annotated[str, typer.Argument(help="Object.")],
    lake: Lake = None,
    out: Annotated[Path | None, typer.Option(help="PNG file; default: <oid>.png.")] = None,
    period: Annotated[float | None, typer.Option(help="Fold at this period in days; default: the best one.")] = None,
) -> None:
    """Draw an object: light curve, folded light curve, periodogram, model fits."""
    from alerce_spark import lake as lakes
    from alerce_spark.features.plot import figure
    from alerce_spark.features.select import select
    from alerce_spark.lake.storage import LakeError

    opened = lakes.open(_settings(lake={"path": lake}).lake.path)
    found = opened.table("detections", oid=oid).collect()
    if found.is_empty():
        raise LakeError(f"no object {oid!r} in {opened.path}")
    limits = opened.table("non_detections", oid=oid).collect()
    file = out or Path(f"{oid}.png")
    figure(select(found.to_arrow(), limits.to_arrow()), 0, period).savefig(file, dpi=130)
    console.print(str(file))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything of the demo goes.")] = Path("demo-lake"),
    alerts: Annotated[
        Path | None, typer.Option(help="Real packets (directory or tar.gz) in place of simulated ones.")
    ] = None,
    number: Annotated[int, typer.Option(help="Simulated alerts.")] = 1000,
) -> None:
    """A night from Kafka into the lake on this machine, with a summary and three light curves."""
    from alerce_spark.demo import run

    run(_settings(), folder, alerts, number, console)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors that a user can mend are one message and exit status 2."""
    from confluent_kafka import KafkaException

    from alerce_spark.kafka.local import KafkaError
    from alerce_spark.lake.storage import LakeError
    from alerce_spark.lease import LeaseHeld
    from alerce_spark.repository import RepositoryError
    from alerce_spark.streaming.run import StreamFailed

    ours = (ConfigError, LakeError, LeaseHeld, KafkaError, RepositoryError, StreamFailed)
    try:
        app(args=arguments)
    except (*ours, FileNotFoundError, ValueError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False)
        sys.exit(2)
    except (KafkaException, BufferError) as error:
        Console(stderr=True).print(
            f"[bold red]error:[/] Kafka: {error}. Is the broker of kafka.bootstrap_servers up? "
            "A local one starts with: alerce-spark kafka start",
            highlight=False,
        )
        sys.exit(2)
