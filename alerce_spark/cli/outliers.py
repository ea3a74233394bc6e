"""Commands that list objects worth a look: the most outlying, and those whose label would teach the models most."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from alerce_spark.cli.common import LOOK, Lake, app, console, settings_of, there
from alerce_spark.cli.texts import plain
from alerce_spark.errors import InputError
from alerce_spark.outputs import TABLE_SUFFIXES, check_out

if TYPE_CHECKING:
    import polars as pl

#: Columns of a file for which a screen has no room.
_UNPRINTED = ("candid", "version", "outlier_version", "firstmjd", "lastmjd")
Out = Annotated[Path | None, typer.Option(help="Result: .csv or .parquet; default: printed.")]


@app.command(rich_help_panel=LOOK)
def outliers(
    branch: Annotated[
        str | None, typer.Option(help="Only predicted classes of Stochastic, Periodic, Transient.")
    ] = None,
    min_score: Annotated[float, typer.Option(help="Least outlier score, 0 to 1.")] = 0.0,
    min_novelty: Annotated[
        float, typer.Option(help="Least novelty of the latest detection, either way [sigma].")
    ] = 0.0,
    limit: Annotated[int, typer.Option(help="Most objects.")] = 50,
    column: Annotated[list[str] | None, typer.Option(help="Column of objects or features to add; repeatable.")] = None,
    out: Out = None,
    lake: Lake = None,
) -> None:
    """List the most outlying objects of a lake, with the features that make them odd."""
    if out is not None:
        check_out(out, TABLE_SUFFIXES)
    path = settings_of(lake={"path": lake}).lake.path
    from alerce_spark.nightly.discovery import outlying

    found = outlying(
        path,
        branch=branch,
        min_score=min_score,
        min_novelty=min_novelty,
        limit=limit,
        columns=column or (),
    )
    _show(found, out)


@app.command(rich_help_panel=LOOK)
def uncertain(
    count: Annotated[int, typer.Option(help="Objects wanted.")] = 50,
    labels: Annotated[
        Path | None, typer.Option(help="Labels that are known: a table with oid.", callback=there)
    ] = None,
    out: Out = None,
    lake: Lake = None,
) -> None:
    """List the objects whose label would teach the light-curve classifier most, no two of them alike."""
    if out is not None:
        check_out(out, TABLE_SUFFIXES, [labels])
    path = settings_of(lake={"path": lake}).lake.path
    from alerce_spark import lake as lakes
    from alerce_spark.errors import LakeError
    from alerce_spark.nightly.discovery import uncertain as most_telling
    from alerce_spark.training.catalogs import read_oids

    known = [] if labels is None else read_oids(labels)
    if known:
        there = len(lakes.open(path).table("objects", oid=known).select("oid").unique().collect())
        if not there:
            raise LakeError(f"none of the {len(known)} objects of {labels} is in {path}, for instance {known[0]!r}")
        console.print(f"{there} of the {len(known)} objects of {labels} are in {path}")
    _show(most_telling(path, count, known), out)


def _show(found: pl.DataFrame, out: Path | None) -> None:
    """Print a table or write it as .csv or .parquet. Raises InputError where no object is in it."""
    from alerce_spark.tablefiles import write

    if found.is_empty():
        raise InputError("no object of the lake has a class and features as asked for: nothing to list")
    if out is not None:
        write(found.to_arrow(), out)
        console.print(f"{len(found)} objects in {out}")
        return
    shown = Table()
    for name in (printed := found.drop(_UNPRINTED, strict=False)).columns:
        shown.add_column(name, no_wrap=name == "oid")
    for row in printed.iter_rows():
        shown.add_row(*(plain("" if v is None else f"{v:.3f}" if isinstance(v, float) else v) for v in row))
    console.print(shown)
