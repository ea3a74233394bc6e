"""The command `alerce-spark`: every job of jobs/ is one of its commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from confluent_kafka import KafkaException
from rich.console import Console
from rich.text import Text

from alerce_spark.cli import crossmatch, models, nightly, outliers, pipeline, science, services
from alerce_spark.cli.common import app
from alerce_spark.errors import AlerceError

__all__ = ["crossmatch", "main", "models", "nightly", "outliers", "pipeline", "science", "services"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors that a user can mend are one message and exit status 2, others keep their trace."""
    try:
        app(args=arguments)
    except AlerceError as error:
        _say(str(error))
        sys.exit(2)
    except (KafkaException, BufferError) as error:
        _say(
            f"Kafka: {error}. Is the broker of kafka.bootstrap_servers up? "
            "A local one starts with: alerce-spark kafka start"
        )
        sys.exit(2)


def _say(message: str) -> None:
    """An error on the terminal. What it quotes may be anybody's text, so no mark-up of it counts."""
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), highlight=False, soft_wrap=True)
