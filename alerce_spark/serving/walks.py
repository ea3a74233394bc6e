"""Pages of a list that changes while a client reads them: no page repeats a row, none leaves one out.

The rows sent to a client are remembered. The client's next page is made from the present list without these rows: a row
that moved to the front meanwhile is still sent, and one that moved back is not sent twice. A client that starts with a
page in the middle gets that page of the present list.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from alerce_spark.serving.query import Key

#: Rows remembered of all lists together, and fewest that a list counts as: about 100 bytes each.
_ROWS = 1_000_000
_LEAST = 200


class Walks:
    """The rows sent so far of the lists requested last."""

    def __init__(self, rows: int = _ROWS) -> None:
        self._rows, self._held = rows, 0
        self._walks: OrderedDict[str, list[list[Key]]] = OrderedDict()
        self._lock = Lock()

    def page(self, who: str, page: int, size: int, keys: Callable[[int, int], list[Key]]) -> tuple[list[Key], bool]:
        """Rows of a page, and whether there are more after it.

        `who` names client and list; `keys(limit, offset)` returns a part of the present list.
        """
        with self._lock:
            shown = self._walks.get(who, [])
        if 1 < page <= len(shown):
            # A repeated request gets the same page.
            return shown[page - 1], page < len(shown) or bool(self._after(shown, 1, keys))
        if page == 1:
            shown = []
        elif page != len(shown) + 1:
            found = keys(size + 1, (page - 1) * size)
            return found[:size], len(found) > size
        found = self._after(shown, size + 1, keys)
        self._remember(who, [*shown, found[:size]])
        return found[:size], len(found) > size

    def _after(self, shown: list[list[Key]], count: int, keys: Callable[[int, int], list[Key]]) -> list[Key]:
        seen = {key.id for page in shown for key in page}
        # Up to as many of the first rows of the list as were sent may be old ones.
        return [key for key in keys(len(seen) + count, 0) if key.id not in seen][:count]

    def _remember(self, who: str, pages: list[list[Key]]) -> None:
        with self._lock:
            self._held += _size(pages) - _size(self._walks.pop(who, []))
            self._walks[who] = pages
            while self._held > self._rows and len(self._walks) > 1:
                self._held -= _size(self._walks.popitem(last=False)[1])


def _size(pages: list[list[Key]]) -> int:
    return max(_LEAST, sum(map(len, pages))) if pages else 0
