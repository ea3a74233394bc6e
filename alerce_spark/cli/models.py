"""Commands on models: registry, training, classification of feature tables and of stamps."""

from __future__ import annotations

import typer

from alerce_spark.cli.common import app

models_app = typer.Typer(no_args_is_help=True, help="Trained models of the lake.")
app.add_typer(models_app, name="models")
