"""Find columns of files by the names that people use."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alerce_spark.tablefiles.opening import TableFileError

#: Names of a column of object ids.
OIDS = ("oid", "objectId")

_BRACKETS = re.compile(r"^(.*?\S)\s*(?:\[([^\]]*)\]|\(([^)]*)\))$")


def split_unit(name: str) -> tuple[str, str | None]:
    """Name and unit of a header like `ra [deg]` or `ra (deg)`; no unit without brackets."""
    found = _BRACKETS.match(name)
    return (found[1], found[2] if found[2] is not None else found[3]) if found else (name, None)


def find(names: Sequence[str], spellings: Sequence[str]) -> str | None:
    """The column with the first of these spellings that occurs; None if none occurs.

    An exact match ranks above one in another case, and that above a name followed by a unit in brackets. Raises
    TableFileError if several columns match equally well.
    """
    for spelling in spellings:
        for same in (
            lambda name, wanted: name == wanted,
            lambda name, wanted: name.casefold() == wanted.casefold(),
            lambda name, wanted: split_unit(name)[0].casefold() == wanted.casefold(),
        ):
            found = [name for name in names if same(name, spelling)]
            if len(found) > 1:
                raise TableFileError(f"{len(found)} columns are called {', '.join(found)}: rename all but one of them")
            if found:
                return found[0]
    return None
