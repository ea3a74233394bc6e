"""Foreign text on the terminal: ids, names and reasons."""

from __future__ import annotations

from collections.abc import Collection

from rich.text import Text

from alerce_spark.cli.common import console
from alerce_spark.text import printable

#: Number of files and members to name, and longest reason in characters.
_MOST_NAMED = 20
_REASON = 300


def plain(text: object) -> Text:
    """A cell of a table or a line without control characters; long lines are cut."""
    return Text("\n".join(printable(line, _REASON) for line in str(text).split("\n")))


def say_unread(unread: Collection[tuple[str, str]]) -> int:
    """Print the files and members without a packet, as (name, reason); return the number that should have had one."""
    from alerce_spark.alerts.files import OTHER

    lost = [(name, reason) for name, reason in unread if reason != OTHER]
    for name, reason in lost[:_MOST_NAMED]:
        console.print(Text.assemble(("not read ", "yellow"), plain(f"{name}: {reason}")), soft_wrap=True)
    if len(lost) > _MOST_NAMED:
        console.print(f"… and {len(lost) - _MOST_NAMED} more that were not read")
    if others := len(unread) - len(lost):
        console.print(f"{others} other files passed over: no packets by name and content")
    return len(lost)
