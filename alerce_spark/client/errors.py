"""Errors of the client, under ALeRCE's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alerce_spark.errors import AlerceError


class ClientError(AlerceError):
    """Root of the errors of the client."""


class APIError(ClientError):
    """The server refused a request or cannot be reached.

    `message`: that of the server; `code`: the HTTP status (-1: no answer); `data`: errors by parameter.
    """

    def __init__(self, message: str, code: int = -1, data: Mapping[str, Any] | None = None, url: str = "") -> None:
        self.message, self.code, self.data, self.url = message, code, dict(data or {}), url
        super().__init__(message, code)

    def __str__(self) -> str:
        wrong = "; ".join(f"{name}: {text}" for name, text in self.data.items() if str(text) not in self.message)
        status = f" (status {self.code})" if self.code > 0 else ""
        return f"{self.message}{f' [{wrong}]' if wrong else ''}{status}{f', asked: {self.url}' if self.url else ''}"


class ParseError(APIError):
    """A parameter cannot be used (400, 422)."""


class FormatValidationError(ParseError):
    """There is no such format."""


class ObjectNotFoundError(APIError):
    """There is no such object (404)."""


class CandidError(ClientError):
    """An object has no alert with stamps."""
