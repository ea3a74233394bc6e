"""Parameters of ALeRCE's routes, as clients send them: names may repeat, empty values and None count as absent."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TypeVar

from starlette.datastructures import QueryParams

from alerce_spark.api.errors import BadParameters

T = TypeVar("T")

_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
#: Whole numbers are kept in 64 bits.
_LARGEST = 2**63


class Parameters:
    """The parameters of a request; unused ones are ignored. `check` raises the errors that were found."""

    def __init__(self, query: QueryParams) -> None:
        self._query = query
        self.errors: dict[str, str] = {}

    def check(self) -> None:
        """Raise BadParameters with every invalid value."""
        if self.errors:
            raise BadParameters(self.errors)

    def text(self, name: str) -> str | None:
        """A word."""
        return self._one(name, str, "a word")

    def whole(self, name: str) -> int | None:
        """A whole number."""
        return self._one(name, _whole, "a whole number")

    def number(self, name: str, least: float = -math.inf, most: float = math.inf) -> float | None:
        """A number within bounds."""

        def bounded(text: str) -> float:
            value = _number(text)
            if not least <= value <= most:
                raise ValueError(text)
            return value

        bounds = "" if least == -math.inf else f" from {least:g} to {most:g}"
        return self._one(name, bounded, f"a number{bounds}")

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        value = self._one(name, _flag, f"one of {', '.join(_TRUE + _FALSE)}")
        return default if value is None else value

    def choice(self, name: str, choices: Collection[str], default: str | None = None) -> str | None:
        """One of the given words. Without a default it may be absent."""
        value = self.text(name)
        if value is not None and value not in choices:
            self.errors[name] = f"{value!r} is not a valid choice; there are {', '.join(choices)}"
            return default
        return default if value is None else value

    def required(self, name: str, choices: Collection[str] = ()) -> str:
        """A required word."""
        value = self.choice(name, choices) if choices else self.text(name)
        if value is None:
            self.errors.setdefault(name, "missing required parameter")
        return value or ""

    def range(self, name: str, whole: bool = False) -> tuple[float | None, float | None]:
        """One value, the smallest, or two, the smallest and the largest."""
        values = self._many(name, _whole if whole else _number, "numbers")
        return (values[0] if values else None), (values[1] if len(values) > 1 else None)

    def texts(self, name: str) -> tuple[str, ...]:
        """Words, each once, in the order given."""
        return tuple(dict.fromkeys(self._many(name, str, "words")))

    def _one(self, name: str, read: Callable[[str], T], kind: str) -> T | None:
        values = self._many(name, read, kind)
        return values[0] if values else None

    def _many(self, name: str, read: Callable[[str], T], kind: str) -> list[T]:
        values = []
        for text in self._query.getlist(name):
            if text in ("", "None", "null"):
                continue
            try:
                values.append(read(text))
            except ValueError:
                self.errors[name] = f"{text[:100]!r} is not {kind}"
        return values


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    number = _number(text)
    if number != int(number) or abs(number) >= _LARGEST:
        raise ValueError(text)
    return int(text) if text.strip().lstrip("+-").isdigit() else int(number)


def _flag(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE
