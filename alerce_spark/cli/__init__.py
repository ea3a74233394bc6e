"""The command `alerce-spark`; spark-submit runs it by jobs/alerce.py."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from alerce_spark.cli import crossmatch, models, nightly, outliers, pipeline, science, services, tns
from alerce_spark.cli.common import app
from alerce_spark.errors import AlerceError
from alerce_spark.text import visible

__all__ = ["crossmatch", "main", "models", "nightly", "outliers", "pipeline", "science", "services", "tns"]

#: Exit status of an error that the user can correct, and of a bug of this program.
_MENDABLE, _FAULT = 2, 70
#: System errors that concern the machine, not this program, wherever they occur.
_OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors that a user can correct are one message and exit status 2, others keep their trace."""
    try:
        app(args=arguments)  # ends with SystemExit: 0, 2 for bad arguments, 130 for Ctrl-C
    except AlerceError as error:
        status = _say(str(error))
    except Exception as error:  # noqa: BLE001  (the last place where an error can be reported)
        if _is_of_kafka(error):
            status = _say(
                f"Kafka: {error}. Is the broker of kafka.bootstrap_servers up? "
                "A local one starts with: alerce-spark kafka start"
            )
        else:
            status = _say(str(error)) if _is_of_the_machine(error) else _report()
    sys.exit(status)


def _is_of_kafka(error: Exception) -> bool:
    """Whether Kafka's client, if a command has imported it, raised the error."""
    client = sys.modules.get("confluent_kafka")
    return client is not None and isinstance(error, client.KafkaException)


def _is_of_the_machine(error: Exception) -> bool:
    """Whether the system refused: no space, no permission. Libraries in Rust give the number only in their text."""
    if not isinstance(error, OSError):
        return False
    said = re.search(r"\(os error (\d+)\)", str(error))
    return (int(said[1]) if said else error.errno) in _OF_THE_MACHINE


def _say(message: str) -> int:
    """Print an error. It may quote foreign text, so mark-up and control characters have no effect."""
    shown = Text.assemble(("error: ", "bold red"), visible(message))
    Console(stderr=True).print(shown, highlight=False, soft_wrap=True)
    return _MENDABLE


def _report() -> int:
    """The trace of a bug, without the values of variables: one may be a password."""
    print(visible(traceback.format_exc()), file=sys.stderr)
    print(
        "This is a fault of alerce_spark: please report it with the trace above and `alerce-spark --version`.",
        file=sys.stderr,
    )
    return _FAULT
