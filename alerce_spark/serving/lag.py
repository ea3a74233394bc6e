"""How far the index is behind the tables."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import NamedTuple

from alerce_spark.lake import lookup
from alerce_spark.lake.handles import table as table_of


class Lag(NamedTuple):
    """Commits that the index does not show, and the age of the oldest of them [s]."""

    versions: int
    seconds: float


def lag(lake: str, shown: Mapping[str, int]) -> dict[str, Lag]:
    """Of each table of which the index shows this version. Raises LakeError where the lake cannot be read."""
    newest = lookup.versions(lake, list(shown))
    return {table: Lag(newest[table] - at, _age(lake, table, at, newest[table])) for table, at in shown.items()}


def _age(lake: str, table: str, shown: int, newest: int) -> float:
    if newest <= shown:
        return 0.0
    actions = table_of(lake, table).log.read(shown + 1)
    if actions is None:  # the log was cleaned since: the index will be built again
        return math.inf
    times = (action["commitInfo"].get("timestamp") for action in actions if "commitInfo" in action)
    return max(0.0, time.time() - (next(times, None) or math.nan) / 1000)
