"""Progress of a long list: one line that is overwritten on a terminal, else a new line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

#: Least time between two lines in a log, and between two states of the line on a terminal [s].
_EVERY_S, _BLINK_S = 5.0, 0.1

Progress = bool | None | Callable[[int, int], None]


def reporter(asked: Progress, what: str, total: int, parts: int) -> Callable[[int, int], None]:
    """Receives the number done and the total. None: progress is shown where there are several parts."""
    if callable(asked):
        return asked
    if asked is False or (asked is None and parts < 2):
        return lambda done, total: None
    return Lines(what, total)


class Lines:
    """Writes to the error stream."""

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self._what, self._stream = what, stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._began = time.monotonic()
        self._written = self._began if not self._terminal else 0.0

    def __call__(self, done: int, total: int) -> None:
        """Print the state if it is time, and always at the end."""
        now = time.monotonic()
        if done < total and now - self._written < (_BLINK_S if self._terminal else _EVERY_S):
            return
        self._written = now
        text = f"{self._what}: {done} of {total}, {now - self._began:.0f} s"
        self._stream.write(f"\r{text}" + ("\n" if done >= total else "") if self._terminal else f"{text}\n")
        self._stream.flush()
