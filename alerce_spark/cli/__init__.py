"""The command `alerce-spark`: every job of jobs/ is one of its commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from alerce_spark.cli import crossmatch, models, nightly, outliers, pipeline, science
from alerce_spark.cli.common import app
from alerce_spark.config import ConfigError

__all__ = ["crossmatch", "main", "models", "nightly", "outliers", "pipeline", "science"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors that a user can mend are one message and exit status 2."""
    from confluent_kafka import KafkaException

    from alerce_spark.classifiers.artefact import ModelError
    from alerce_spark.crossmatch.rows import CdsError
    from alerce_spark.kafka.local import KafkaError
    from alerce_spark.lake.storage import LakeError
    from alerce_spark.lease import LeaseHeld
    from alerce_spark.repository import RepositoryError
    from alerce_spark.streaming.run import StreamFailed

    ours = (ConfigError, LakeError, LeaseHeld, KafkaError, RepositoryError, StreamFailed, ModelError, CdsError)
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
