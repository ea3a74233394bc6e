"""A query from a client: parameters, whose names have any case, and uploaded tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.requests import Request

from alerce_spark.api.tap import formats
from alerce_spark.api.tap.adql import QueryError
from alerce_spark.api.tap.formats import Format
from alerce_spark.api.tap.sources import Upload

#: Bytes of one parameter of a form.
_PARAMETER = 4 << 20
_LANGUAGES = ("ADQL", "ADQL-2.0", "ADQL-2.1")


@dataclass
class Asked:
    """Parameters by their names in capitals, and tables."""

    parameters: dict[str, str]
    uploads: dict[str, Upload] = field(default_factory=dict)

    def check(self) -> None:
        """Raise QueryError for an invalid query."""
        if self.parameters.get("REQUEST", "doQuery").lower() != "doquery":
            raise QueryError(f"there is no REQUEST {self.parameters['REQUEST']}")
        if self.parameters.get("LANG", "ADQL").upper() not in _LANGUAGES:
            raise QueryError(f"there is no LANG {self.parameters['LANG']}; there is ADQL")
        _ = self.query, self.format, self.most(1)

    @property
    def query(self) -> str:
        """The text of the query."""
        text = self.parameters.get("QUERY", "").strip()
        if not text:
            raise QueryError("QUERY is missing")
        return text

    @property
    def format(self) -> Format:
        """The format of the result."""
        return formats.chosen(self.parameters.get("RESPONSEFORMAT") or self.parameters.get("FORMAT"))

    def most(self, limit: int) -> int:
        """Requested number of rows, up to a limit."""
        text = self.parameters.get("MAXREC", "").strip()
        if text and not text.isdigit():
            raise QueryError("MAXREC takes a whole number")
        return min(int(text), limit) if text else limit


async def read(request: Request) -> tuple[dict[str, str], Mapping[str, bytes]]:
    """Parameters of a request, and its files by the names of its parts."""
    found: dict[str, str] = {}
    files: dict[str, bytes] = {}
    pairs: list[tuple[str, str | UploadFile]] = list(request.query_params.multi_items())
    if request.method == "POST":
        form = await request.form(max_part_size=_PARAMETER, max_files=20, max_fields=1000)
        pairs += form.multi_items()
    for name, value in pairs:
        if isinstance(value, UploadFile):
            files[name] = await value.read()
            continue
        upper = name.upper()
        # UPLOAD may come once for each table.
        found[upper] = f"{found[upper]};{value}" if upper == "UPLOAD" and upper in found else value
    return found, files
