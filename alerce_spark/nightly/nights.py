"""The name of a night: its UTC date, as in the names of topics and in the Avro repository."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from alerce_spark.errors import InputError


def begin_of(night: str) -> datetime:
    """0 h UTC of `night`, written YYYYMMDD. Raises InputError for a text that is no such date."""
    try:
        if not re.fullmatch(r"[0-9]{8}", night):
            raise ValueError
        return datetime.strptime(night, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        raise InputError(f"{night!r} is no date written YYYYMMDD, as 20200601") from None
