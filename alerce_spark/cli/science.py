"""Commands on light curves, features and stamps: compute, classify, draw. They need files or a lake, no broker."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from alerce_spark.cli.common import Lake, app, console, settings_of
from alerce_spark.errors import InputError
from alerce_spark.outputs import check_out, check_out_folder
from alerce_spark.text import file_name

_IMAGES = (".png", ".pdf", ".svg")


@app.command()
def features(
    detections: Annotated[str, typer.Option(help="Detections: any file, Parquet folder or Delta table.")],
    out: Annotated[str, typer.Option(help="Folder of the result, which must not exist.")],
    non_detections: Annotated[str | None, typer.Option(help="The same of upper limits.")] = None,
    xmatch: Annotated[str | None, typer.Option(help="The same with oid, w1mpro … w4mpro.")] = None,
    form: Annotated[str, typer.Option("--format", help="parquet or delta.")] = "parquet",
) -> None:
    """Compute the 152 features of every object of a table of light curves."""
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from alerce_spark import tablefiles
    from alerce_spark.features.io import checked
    from alerce_spark.features.select import REQUIRED, REQUIRED_LIMITS
    from alerce_spark.session import spark_session
    from alerce_spark.udfs import features as features_of
    from alerce_spark.worker import input_error

    _check_features(out, form)
    # Files are read and checked before Spark starts; what is a folder may be too large for that.
    inputs = ((detections, REQUIRED, "detections"), (non_detections, REQUIRED_LIMITS, "non-detections"))
    files = [
        checked(tablefiles.read(path), required, f"{what} {path}")
        if path is not None and _is_file(path, what)
        else None
        for path, required, what in (*inputs, (xmatch, (), "cross-matches"))
    ]
    spark = spark_session(settings_of(), "alerce-spark features")

    def read(path: str | None, file: pa.Table | None) -> DataFrame | None:
        if path is None:
            return None
        if file is not None:
            return spark.createDataFrame(file.set_column(0, "oid", file["oid"].cast(pa.string())))
        delta = spark.read.format("delta")
        return delta.load(path) if (Path(path) / "_delta_log").is_dir() else spark.read.parquet(path)

    table, limits, matches = map(read, (detections, non_detections, xmatch), files)
    assert table is not None
    try:
        features_of(table, limits, matches).write.format(form).save(out)
    except Exception as error:
        if (mendable := input_error(error)) is None:
            raise
        raise mendable from None
    objects = spark.read.format(form).load(out)
    counted = objects.selectExpr("count(*)", "count_if(ndet_used > 0)").first()
    assert counted is not None
    console.print(f"{counted[0]} objects in {out}, {counted[1]} of them with enough detections for features")


def _check_features(out: str, form: str) -> None:
    """Raises InputError where the result cannot be written as asked."""
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
    """Whether a table is one file, not a folder of them. Raises InputError where there is neither."""
    if "://" in path:
        return False
    if not path or not Path(path).exists():
        raise InputError(f"{what}: there is no file or folder {path!r}")
    folder = Path(path)
    if folder.is_dir() and not (folder / "_delta_log").is_dir() and next(folder.rglob("*.parq*"), None) is None:
        raise InputError(f"{what}: the folder {path} holds no Parquet files and is no Delta table")
    return folder.is_file()


@app.command()
def plot(
    oid: Annotated[str, typer.Argument(help="Object.")],
    lake: Lake = None,
    out: Annotated[Path | None, typer.Option(help=".png, .pdf or .svg; default: <oid>.png.")] = None,
    period: Annotated[float | None, typer.Option(help="Fold at this period in days; default: the best one.")] = None,
) -> None:
    """Draw an object: light curve, folded light curve, periodogram, model fits."""
    from alerce_spark import lake as lakes
    from alerce_spark.errors import LakeError
    from alerce_spark.features.plot import figure
    from alerce_spark.features.select import select

    if period is not None and not 0 < period < math.inf:
        raise InputError(f"a period is a number of days above 0, not {period}")
    file = check_out(out or Path(f"{file_name(oid)}.png"), _IMAGES)
    opened = lakes.open(settings_of(lake={"path": lake}).lake.path)
    found = opened.table("detections", oid=oid).collect()
    if found.is_empty():
        raise LakeError(f"no object {oid!r} in {opened.path}")
    limits = opened.table("non_detections", oid=oid).collect()
    figure(select(found.to_arrow(), limits.to_arrow()), 0, period).savefig(file, dpi=130)
    console.print(str(file))
