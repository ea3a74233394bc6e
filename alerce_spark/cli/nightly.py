"""Commands of the night: integrity, retraining, reclassification, replay. Their exit status says what happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from alerce_spark.cli.common import MAINTAIN, TRAIN, Lake, app, console, lake_of, settings_of, there
from alerce_spark.cli.texts import plain
from alerce_spark.nightly.nights import begin_of
from alerce_spark.outputs import check_out, check_out_folder

if TYPE_CHECKING:
    from alerce_spark.nightly.comparison import Comparison
    from alerce_spark.nightly.retrain import Outcome
    from alerce_spark.streaming.queries.photometry import Summary

train_app = typer.Typer(no_args_is_help=True, help="Train a classifier from simulation; retrain is the nightly form.")
app.add_typer(train_app, name="train", rich_help_panel=TRAIN)

Night = Annotated[str | None, typer.Option(help="Night, YYYYMMDD; default: that of yesterday (UTC).")]


@app.command(rich_help_panel=MAINTAIN)
def integrity(
    night: Night = None,
    lake: Lake = None,
    rounds: Annotated[int, typer.Option(min=0, help="Times to send what is missing again; 0 only looks.")] = 3,
    wait: Annotated[float, typer.Option(min=0, help="Seconds without progress after which a round ends.")] = 300.0,
    report: Annotated[Path | None, typer.Option(help="HTML page of the result.")] = None,
) -> None:
    """Prove that a night is complete and right, and send again what is not. Exit status 1 when anything stays wrong."""
    settings = settings_of(lake={"path": lake})
    chosen = f"{datetime.now(UTC) - timedelta(days=1):%Y%m%d}" if night is None else night
    begin_of(chosen)
    if report is not None:
        check_out(report)
    lake_of(settings)
    from alerce_spark.nightly.integrity import check
    from alerce_spark.session import spark_session
    from alerce_spark.streaming.broker import Broker

    Broker(settings.kafka).require()  # Spark's start would be in vain
    spark = spark_session(settings, "alerce-spark integrity")
    done = check(spark, settings, chosen, rounds=rounds, wait_s=wait, progress=console.print)
    shown = Table("round", "packets", "missing", "sent again", "broken", "examples", title=f"Night {chosen}")
    for r in done.rounds:
        broken = "\n".join(f"{name}: {count}" for name, count in r.broken.items()) or "nothing"
        examples = "\n".join(", ".join(keys[:2]) for keys in r.examples.values())
        shown.add_row(*map(plain, (r.number, r.expected, r.missing, r.resent, broken, examples)))
    console.print(shown)
    for note in done.notes:
        console.print(plain(note))
    if report is not None:
        done.report(report)
        console.print(str(report))
    verdict = "complete and right" if done.ok else f"wrong: {done.broken}"
    console.print(f"night {chosen}: {verdict}", style="" if done.ok else "bold red")
    raise typer.Exit(0 if done.ok else 1)


@app.command(rich_help_panel=TRAIN)
def retrain(
    lake: Lake = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels (oid, class_name); default: simulated objects.", callback=there)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of report and model file.")] = Path("reports"),
    seed: Annotated[int, typer.Option(help="The same seed and data give the same model.")] = 1,
    per_class: Annotated[int, typer.Option(min=1, help="Objects a class; missing ones are simulated.")] = 1000,
    trees: Annotated[int, typer.Option(min=1, help="Trees of each of the four forests.")] = 500,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    date: Annotated[str | None, typer.Option(help="YYYYMMDD of the version; default: today (UTC).")] = None,
    real_data: Annotated[
        Path | None, typer.Option(help="Folder of real test objects for the report.", callback=there)
    ] = None,
) -> None:
    """Retrain the light-curve classifier; promote it if it is not worse. Exit status 0 promoted, 3 kept the old."""
    settings = settings_of(lake={"path": lake})
    chosen = date or f"{datetime.now(UTC):%Y%m%d}"
    begin_of(chosen)
    check_out_folder(out)
    from alerce_spark.nightly.retrain import retrain as train_again
    from alerce_spark.training.catalogs import read_labels

    with Progress(console=console) as bar:
        simulating = bar.add_task("simulating", total=None)
        done = train_again(
            settings,
            date=chosen,
            out=out,
            seed=seed,
            labels=read_labels(labels) if labels is not None else None,
            real_data=real_data,
            per_class=per_class,
            trees=trees,
            workers=workers,
            progress=lambda made, total: bar.update(simulating, completed=made, total=total),
        )
    if done.promoted:
        console.print("objects without alerts get the new version with: alerce-spark reclassify")
    _say(done)


@train_app.command("stamp")
def train_stamp(
    lake: Lake = None,
    out: Annotated[Path, typer.Option(help="Folder of report and model file.")] = Path("reports"),
    seed: Annotated[int, typer.Option(help="The same seed and machine give the same model.")] = 1,
    per_class: Annotated[int, typer.Option(min=1, help="Simulated first alerts of each class, 48 kB each.")] = 2500,
    minutes: Annotated[float | None, typer.Option(help="No epoch begins after so many minutes.")] = None,
    date: Annotated[str | None, typer.Option(help="YYYYMMDD of the version; default: today (UTC).")] = None,
    real_data: Annotated[
        Path | None, typer.Option(help="Folder of real alerts for the report.", callback=there)
    ] = None,
) -> None:
    """Train the stamp classifier; promote it if it is not worse. Exit status 0 promoted, 3 kept the old."""
    settings = settings_of(lake={"path": lake})
    chosen = date or f"{datetime.now(UTC):%Y%m%d}"
    begin_of(chosen)
    check_out_folder(out)
    from alerce_spark.nightly.train_stamps import train_stamps

    done = train_stamps(
        settings,
        date=chosen,
        out=out,
        seed=seed,
        per_class=per_class,
        minutes=minutes,
        real_data=real_data,
    )
    _say(done)


def _say(done: Outcome) -> None:
    for name, value in done.metrics.items():
        console.print(f"{name}: {value:.3f}")
    for reason in done.reasons:
        console.print(reason)
    console.print(f"{done.version} {'promoted' if done.promoted else 'not promoted'}; report {done.report}")
    raise typer.Exit(done.exit_code)


@app.command(rich_help_panel=MAINTAIN)
def reclassify(lake: Lake = None) -> None:
    """Classify the latest features of all stored objects by the current model. Safe beside a running stream."""
    settings = settings_of(lake={"path": lake})
    lake_of(settings)
    from alerce_spark.nightly.reclassify import reclassify as classify_again
    from alerce_spark.session import spark_session

    count, version, through_stream = classify_again(spark_session(settings, "alerce-spark reclassify"), settings)
    where = "sent to the running stream" if through_stream else "written"
    console.print(f"{count} objects classified by {version}, {where}" if count else f"all have a class by {version}")


@app.command(rich_help_panel=MAINTAIN)
def replay(
    night: Annotated[str, typer.Option(help="Night, YYYYMMDD, as the Avro repository has it.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Version of a registered model, or CLASSIFIER=VERSION; may be repeated. Default: current."),
    ] = None,
    lake: Lake = None,
    into: Annotated[
        str | None, typer.Option(help="Folder of the new tables; default: replays/NIGHT-VERSION in the lake.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("reports"),
) -> None:
    """Run a night's stored packets again, by the current or given models, into separate tables; compare classes."""
    settings = settings_of(lake={"path": lake})
    begin_of(night)
    check_out_folder(out)
    lake_of(settings)
    from alerce_spark.nightly.replay import replay as run_again
    from alerce_spark.session import spark_session

    def progress(packets: int, total: int, batch: Summary) -> None:
        console.print(f"{packets} of {total} packets")

    spark = spark_session(settings, "alerce-spark replay")
    done = run_again(spark, settings, night, wanted=model or [], into=into, progress=progress)
    _show(done)
    page = out / f"replay-{done.into.rstrip('/').rpartition('/')[2]}.html"
    done.report(page)
    console.print(f"{done.packets} packets, {done.objects} objects; tables in {done.into}, report in {page}")


def _show(done: Comparison) -> None:
    headings = ("classifier", "stored", "replayed", "objects", "changed", "as many detections", "changed", "distance")
    shown = Table(*headings, title=f"Night {done.night}: classes stored and replayed")
    for v in done.versions:
        counts = (v.objects, v.changed, v.same_input, v.changed_on_same_input)
        shown.add_row(v.classifier, v.stored, v.replayed, *map(str, counts), f"{v.distance:.4f}")
    console.print(shown)
    for v in done.versions:
        largest = Table("object", "stored", "replayed", "distance", title=f"{v.classifier} {v.stored} → {v.replayed}")
        for c in v.largest[:5]:
            before = f"{c.stored_class} {c.stored_probability:.3f}"
            after = f"{c.replayed_class} {c.replayed_probability:.3f}"
            largest.add_row(plain(c.oid), before, after, f"{c.distance:.3f}")
        console.print(largest)
    for name, objects in done.only_replayed.items():
        console.print(f"{name}: {objects} objects without a stored class at that alert")
