"""Command on training: the nightly retraining of the light-curve classifier."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from alerce_spark.cli.common import Lake, app, console, settings_of


@app.command()
def retrain(
    lake: Lake = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of objects of the lake, as `alerce-spark labels` writes them (.csv).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report and the model file.")] = Path("retrain"),
    date: Annotated[str | None, typer.Option(help="YYYYMMDD of the version; default: today, UTC.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of training and simulation; default: the date.")] = None,
    per_class: Annotated[int, typer.Option(help="Objects a class, completed by simulation.")] = 1000,
    trees: Annotated[int, typer.Option(help="Trees a forest.")] = 500,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    real_data: Annotated[
        Path | None, typer.Option(help="Folder of real test data: adds their figures to the report.")
    ] = None,
) -> None:
    """Train a candidate and promote it if it is no worse: exit status 0 promoted, 3 the current model stays."""
    from alerce_spark.nightly.retrain import retrain as run
    from alerce_spark.training.catalogs import read_labels

    day = date or datetime.now(UTC).strftime("%Y%m%d")
    outcome = run(
        settings_of(lake={"path": lake}),
        date=day,
        out=out,
        seed=int(day) if seed is None else seed,
        labels=None if labels is None else read_labels(labels),
        real_data=real_data,
        per_class=per_class,
        trees=trees,
        workers=workers,
        progress=lambda done, wanted: console.print(f"{done} of {wanted} objects simulated"),
    )
    console.print(f"{outcome.version} {'promoted' if outcome.promoted else 'kept as candidate'}; {outcome.report}")
    for reason in outcome.reasons:
        console.print(f"  {reason}", highlight=False)
    raise typer.Exit(outcome.exit_code)
