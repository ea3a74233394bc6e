"""Commands on light curves, features and stamps: compute, classify, draw. They need files or a lake, no broker."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alerce_spark.cli.common import COMPUTE, LOOK, Lake, app, console, lake_of, settings_of
from alerce_spark.errors import InputError
from alerce_spark.outputs import check_out, check_out_folder
from alerce_spark.text import file_name

if TYPE_CHECKING:
    import pyarrow as pa

    #: Path of each input, and whether it is one file, not a folder.
    _Inputs = dict[str, tuple[str, bool]]

_IMAGES = (".png", ".pdf", ".svg")


@app.command(rich_help_panel=COMPUTE)
def features(
    detections: Annotated[str, typer.Option(help="Detections: any file, Parquet folder or Delta table.")],
    out: Annotated[str, typer.Option(help="Folder of the result, which must not exist.")],
    non_detections: Annotated[str | None, typer.Option(help="The same of upper limits.")] = None,
    xmatch: Annotated[str | None, typer.Option(help="The same with oid, w1mpro … w4mpro.")] = None,
    form: Annotated[str, typer.Option("--format", help="parquet or delta.")] = "parquet",
    master: Annotated[
        str | None, typer.Option(help="Spark's master, as local[4]; default: Spark only for what is large.")
    ] = None,
) -> None:
    """Compute the 152 features of every object of a table of light curves."""
    _check_features(out, form)
    paths = {"detections": detections, "non-detections": non_detections, "cross-matches": xmatch}
    given = {what: (path, _is_file(path, what)) for what, path in paths.items() if path is not None}
    objects, with_features = _compute(given, out, form, master)
    console.print(f"{objects} objects in {out}, {with_features} of them with enough detections for features")


def _compute(given: _Inputs, out: str, form: str, master: str | None) -> tuple[int, int]:
    """Write the features of tables, each a path and whether it is a file; returns numbers of objects."""
    from alerce_spark.analysis.features import MOST_ROWS
    from alerce_spark.analysis.inputs import count_rows, read

    # Files are read and checked before Spark starts; a folder may be too large for that.
    files = {what: read(what, path) for what, (path, is_file) in given.items() if is_file}
    folders = {what: path for what, (path, is_file) in given.items() if not is_file}
    if master is None and not _needs_spark([out, *folders.values()]):
        rows = sum(map(len, files.values())) + sum(count_rows(what, path) for what, path in folders.items())
        if rows <= MOST_ROWS:
            return _compute_here(files | {what: read(what, path) for what, path in folders.items()}, out, form)
    return _compute_on_spark(files, folders, out, form, master)


def _needs_spark(paths: list[str]) -> bool:
    """Whether spark-submit has started this process, or one of the places is a Delta table or an object store."""
    return "PYSPARK_GATEWAY_PORT" in os.environ or any("://" in path or _is_delta(path) for path in paths)


def _compute_here(tables: dict[str, pa.Table], out: str, form: str) -> tuple[int, int]:
    """Compute without a JVM, which takes longer to start than most tables take."""
    import pyarrow.compute as pc

    from alerce_spark.analysis import features as analysis
    from alerce_spark.progress import Stages

    with Stages(console) as stages, stages.stage("features"):
        others = tables.get("non-detections"), tables.get("cross-matches")
        found = analysis.table(tables["detections"], *others, lambda done, all_: stages.counts({"objects": done}, all_))
    if form == "delta":
        from deltalake import write_deltalake

        write_deltalake(out, found)
    else:
        import pyarrow.parquet as pq

        Path(out).mkdir()
        pq.write_table(found, Path(out, "part-00000.parquet"))
    return len(found), pc.sum(pc.greater(found["ndet_used"], 0)).as_py() or 0


def _compute_on_spark(
    files: dict[str, pa.Table], folders: dict[str, str], out: str, form: str, master: str | None
) -> tuple[int, int]:
    from alerce_spark.session import spark_session
    from alerce_spark.udfs import features as features_of
    from alerce_spark.worker import input_error

    named = {} if master is None else {"spark__master": master}
    spark = spark_session(settings_of(), "alerce-spark features", None, **named)
    frames = {
        what: spark.createDataFrame(rows.set_column(0, "oid", rows["oid"].cast("string")))
        for what, rows in files.items()
    }
    for what, path in folders.items():
        frames[what] = spark.read.format("delta").load(path) if _is_delta(path) else spark.read.parquet(path)
    limits, matches = frames.get("non-detections"), frames.get("cross-matches")
    try:
        features_of(frames["detections"], limits, matches).write.format(form).save(out)
    except Exception as error:
        if (mendable := input_error(error)) is None:
            raise
        raise mendable from None
    objects = spark.read.format(form).load(out)
    counted = objects.selectExpr("count(*)", "count_if(ndet_used > 0)").first()
    assert counted is not None
    return counted[0], counted[1]


def _is_delta(path: str) -> bool:
    return (Path(path) / "_delta_log").is_dir()


def _check_features(out: str, form: str) -> None:
    """Raise InputError where the result cannot be written as requested."""
    if form not in ("parquet", "delta"):
        raise InputError(f"--format {form}: results are written as parquet or delta")
    if not out.strip():
        raise InputError("--out is empty; give the folder of the result")
    if "://" in out:
        return
    if Path(out).exists():
        raise InputError(f"{out} exists; give a folder that does not, or remove it")
    check_out_folder(Path(out).absolute().parent)


def _is_file(path: str, what: str) -> bool:
    """Whether a table is one file, not a folder of files. Raises InputError where it is neither."""
    if "://" in path:
        return False
    if not path or not Path(path).exists():
        raise InputError(f"{what}: there is no file or folder {path!r}")
    folder = Path(path)
    if folder.is_dir() and not _is_delta(path) and next(folder.rglob("*.parq*"), None) is None:
        raise InputError(f"{what}: the folder {path} holds no Parquet files and is no Delta table")
    return folder.is_file()


@app.command(rich_help_panel=LOOK)
def plot(
    oid: Annotated[str, typer.Argument(help="Object.")],
    lake: Lake = None,
    out: Annotated[Path | None, typer.Option(help=".png, .pdf or .svg; default: <oid>.png.")] = None,
    period: Annotated[float | None, typer.Option(help="Fold at this period in days; default: the best one.")] = None,
) -> None:
    """Draw an object: light curve, folded light curve, periodogram, model fits."""
    if period is not None and not 0 < period < math.inf:
        raise InputError(f"a period is a number of days above 0, not {period}")
    file = check_out(out or Path(f"{file_name(oid)}.png"), _IMAGES)
    path = lake_of(settings_of(lake={"path": lake}))
    from alerce_spark import lake as lakes
    from alerce_spark.errors import LakeError

    opened = lakes.open(path)
    found = opened.table("detections", oid=oid).collect()
    if found.is_empty():
        raise LakeError(f"no object {oid!r} in {opened.path}")
    limits = opened.table("non_detections", oid=oid).collect()
    from alerce_spark.features.plot import figure
    from alerce_spark.features.select import select

    figure(select(found.to_arrow(), limits.to_arrow()), 0, period).savefig(file, dpi=130)
    console.print(str(file))
