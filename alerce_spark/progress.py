"""Progress of work in stages: bars on a terminal, otherwise occasional lines for logs and pipes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

#: Least time between two lines of counts in a log [s].
_EVERY_S = 5.0


@dataclass
class Stages:
    """Consecutive stages and the duration of each. Use as a context around all of them."""

    console: Console
    clock: Callable[[], float] = time.monotonic
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._began = self._said = self.clock()
        self._counts: dict[str, int] = {}

    def __enter__(self) -> Stages:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """One stage: announced at its start, timed until its end."""
        began = self.clock()
        self._line(f"{name} …")
        task = self._bars.add_task(name, total=1)
        yield
        self._bars.update(task, completed=1)
        self.seconds[name] = self.clock() - began

    def counts(self, done: Mapping[str, int], total: int) -> None:
        """Show how many of `total` each part of the current stage has done."""
        for name, count in done.items():
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(f"  {name}", total=total)
            self._bars.update(self._tasks[name], completed=min(count, total))
        if done != self._counts and self.clock() - self._said >= _EVERY_S:
            self._line("  " + ", ".join(f"{name} {count}/{total}" for name, count in done.items()))
            self._counts = dict(done)

    def table(self) -> Table:
        """Table of the seconds of each stage."""
        rows = Table("stage", "seconds")
        for name, seconds in self.seconds.items():
            rows.add_row(name, f"{seconds:.1f}")
        rows.add_section()
        rows.add_row("all", f"{self.clock() - self._began:.1f}")
        return rows

    def _line(self, text: str) -> None:
        self._said = self.clock()
        if not self.console.is_terminal:
            self.console.print(f"{self._said - self._began:5.0f} s  {text}", highlight=False, soft_wrap=True)
