"""Commands on models and labels: the registry, training, classification of feature tables and of stamps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from alerce_spark.cli.common import COMPUTE, TRAIN, Lake, app, console, lake_of, settings_of, there
from alerce_spark.cli.texts import say_unread
from alerce_spark.errors import InputError
from alerce_spark.outputs import TABLE_SUFFIXES, check_out

if TYPE_CHECKING:
    import pyarrow as pa

    from alerce_spark.lake.models import Entry

models_app = typer.Typer(no_args_is_help=True, help="Trained models of the lake.")
app.add_typer(models_app, name="models", rich_help_panel=TRAIN)

Classifier = Annotated[str, typer.Argument(help="lc_classifier, stamp_classifier or outlier.")]
ModelFile = Annotated[
    Path | None, typer.Option("--model", help="Model file; default: the current one of --lake.", callback=there)
]
Version = Annotated[str, typer.Argument(help="Version of the model.")]


@models_app.command("list")
def models_list(lake: Lake = None) -> None:
    """Every registered model with its state and its scores."""
    from alerce_spark.lake import models

    shown = Table("classifier", "version", "state", "training set", "metrics", "sha256")
    for row in models.listing(_lake(lake)).to_pylist():
        metrics = ", ".join(f"{name} {value:.3f}" for name, value in row["metrics"] or [])
        shown.add_row(
            row["classifier"], row["version"], row["state"], row["training_set"] or "", metrics, row["sha256"][:12]
        )
    console.print(shown)


@models_app.command("register")
def models_register(classifier: Classifier, version: Version, file: Path, lake: Lake = None) -> None:
    """Copy a model file into the lake and register it as a candidate."""
    from alerce_spark.lake import models
    from alerce_spark.lake.serving import refuse_other_models

    refuse_other_models(classifier, file)
    _say(models.register(_lake(lake), classifier, version, file))


@models_app.command("promote")
def models_promote(classifier: Classifier, version: Version, lake: Lake = None) -> None:
    """Make a version current: running queries use it from their next batch, no restart.

    A light-curve classifier is promoted with the outlier model of the same version.
    """
    from alerce_spark.lake import models

    _say(models.promote(_lake(lake), classifier, version))


@models_app.command("retire")
def models_retire(classifier: Classifier, version: Version, lake: Lake = None) -> None:
    """Retire a version."""
    from alerce_spark.lake import models

    _say(models.retire(_lake(lake), classifier, version))


@models_app.command("roll-back")
def models_roll_back(classifier: Classifier, lake: Lake = None) -> None:
    """Make the version that was current before current again."""
    from alerce_spark.lake import models

    _say(models.roll_back(_lake(lake), classifier))


def _lake(lake: str | None) -> str:
    return settings_of(lake={"path": lake}).lake.path


def _say(entry: Entry) -> None:
    console.print(f"{entry.classifier} {entry.version} is {entry.state}")


@app.command(rich_help_panel=COMPUTE)
def classify(
    features: Annotated[
        Path, typer.Option(help="Table with oid and columns of the 152: CSV, Parquet, FITS, …", callback=there)
    ],
    out: Annotated[Path, typer.Option(help="Result: .csv or .parquet.")],
    model: ModelFile = None,
    lake: Lake = None,
) -> None:
    """Classify a table of features: class, probability, all classes and branches, model version."""
    check_out(out, TABLE_SUFFIXES, [features, model])
    path = _lake(lake)
    from alerce_spark.analysis.classes import light_curve_model
    from alerce_spark.classifiers import lightcurve

    chosen = light_curve_model(model, path)
    classes, absent = lightcurve.classify_table(lightcurve.read_features(features), chosen)
    if absent:
        said = f"{len(absent)} features are not in {features} and count as missing: {', '.join(absent)}"
        console.print(said, style="yellow")
    _write(classes, out)
    console.print(f"{classes.num_rows} objects classified by {chosen.version} in {out}")


@app.command("classify-stamps", rich_help_panel=COMPUTE)
def classify_stamps(
    paths: Annotated[list[Path], typer.Argument(help="Avro files, directories, tar archives.", callback=there)],
    out: Annotated[Path, typer.Option(help="Result: .csv or .parquet.")],
    model: ModelFile = None,
    lake: Lake = None,
) -> None:
    """Classify alerts by their stamps; what cannot be read is listed and skipped, then with exit status 1."""
    # A folder of packets may get a table beside them.
    check_out(out, TABLE_SUFFIXES, [*(path for path in paths if path.is_file()), model])
    path = _lake(lake)
    from alerce_spark import surveys
    from alerce_spark.classifiers.stamp import StampModel, classify_paths
    from alerce_spark.lake.serving import stamp_models

    chosen = StampModel.load(model) if model is not None else stamp_models(path).get()[0]
    found = classify_paths(paths, chosen, surveys.get(settings_of().survey))
    lost = say_unread(found.skipped)
    if not found.table.num_rows:
        raise InputError(f"no alert of {', '.join(map(str, paths))} can be read; {out} is not written")
    _write(found.table, out)
    console.print(f"{found.table.num_rows} alerts in {out}, {lost} skipped; model {chosen.version}")
    raise typer.Exit(1 if lost else 0)


@app.command(rich_help_panel=TRAIN)
def labels(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE=FILE…", help="Catalogues; see docs/catalogs.md.")],
    out: Annotated[Path, typer.Option(help="Labels of the lake's objects: .csv or .parquet.")],
    lake: Lake = None,
) -> None:
    """Labels of the lake's objects from the catalogues of the paper, by priority; prints where catalogues disagree."""
    files: dict[str, list[Path]] = {}
    for source in sources:
        name, file = _source_and_file(source)
        files.setdefault(name, []).append(file)
    check_out(out, TABLE_SUFFIXES, [file for given in files.values() for file in given])
    path = lake_of(settings_of(lake={"path": lake}))
    from alerce_spark import lake as lakes
    from alerce_spark.errors import LakeError
    from alerce_spark.training.catalogs import labels_from_files

    objects = lakes.open(path).table("objects").select("oid", "meanra", "meandec").collect().to_arrow()
    if not len(objects):
        raise LakeError(f"{path} has no objects that could get labels: take alerts in first")
    found, reports, matrix = labels_from_files(files, objects)
    for report in reports:
        console.print(str(report), highlight=False)
    for row in matrix.to_pylist():
        source_a, class_a, source_b = (row.pop(name) for name in ("source_a", "class_a", "source_b"))
        for class_b, objects_of_both in row.items():
            if objects_of_both and class_b != class_a:
                console.print(f"{source_a} says {class_a} where {source_b} says {class_b}: {objects_of_both} objects")
    if not found.num_rows:
        raise LakeError(f"none of the {len(objects)} objects of {path} lies at a label of these files: no labels")
    _write(found, out)
    console.print(f"{found.num_rows} of {len(objects)} objects are labelled, in {out}")


@app.command(rich_help_panel=TRAIN)
def realism(
    data: Annotated[Path, typer.Option(help="Folder of real light curves, packets and feature rows.", callback=there)],
    out: Annotated[Path, typer.Option(help="HTML page.")] = Path("reports/simulation.html"),
    seed: Annotated[int, typer.Option(help="Seed of the simulated side.")] = 1,
) -> None:
    """Compare the simulation with real data, and list the features by which a classifier distinguishes them."""
    from alerce_spark.training.realism import realism_page

    console.print(str(realism_page(out, data, seed)))


def _source_and_file(text: str) -> tuple[str, Path]:
    name, sign, file = text.partition("=")
    if not sign:
        raise InputError(f"{text!r}: write SOURCE=FILE, for instance milliquas=milliquas.fits")
    return name, there(Path(file))


def _write(table: pa.Table, out: Path) -> None:
    from alerce_spark.tablefiles import write

    write(table, out)
