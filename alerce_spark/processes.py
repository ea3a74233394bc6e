"""A pool of Python processes that start from nothing: the caller may hold a JVM, threads and open tables."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


@contextmanager
def submitted(
    work: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], processes: int
) -> Iterator[list[Future[Result]]]:
    """Run `work` on each of the `arguments` in as many processes, from now on; they end with the context."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        with _without_main():
            running = [pool.submit(work, *each) for each in arguments]
        try:
            yield running
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that start meanwhile do not run the caller's main module again: they need nothing of it.

    A script without `if __name__ == "__main__"` would begin once more in each of them.
    """
    main = sys.modules["__main__"]
    kept: dict[str, Any] = {name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(kept)
