"""A night that is no date, or of which nothing is known, is never called right."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from alerce_spark.config import Settings
from alerce_spark.errors import InputError
from alerce_spark.nightly import integrity, packets
from alerce_spark.nightly.nights import begin_of

_SPARK: Any = None  # nothing here gets as far as Spark


def test_a_night_begins_at_midnight_of_utc() -> None:
    assert begin_of("20200601") == datetime(2020, 6, 1, tzinfo=UTC)
    assert begin_of("20240229") == datetime(2024, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    "night",
    ["", "2020061", "202006011", "20201345", "20230229", "2020-06-01", " 20200601", "20200601\n", "２０２００６０１"],
)
def test_what_is_no_date_is_refused_with_the_form(night: str) -> None:
    with pytest.raises(InputError, match="YYYYMMDD"):
        begin_of(night)


def test_a_night_without_packets_is_an_error_and_leaves_no_report(
    settings_for: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = pl.DataFrame(packets.PACKETS.empty_table())
    monkeypatch.setattr(packets, "read", lambda spark, kafka, survey, night: nothing)
    monkeypatch.setattr(integrity, "healpix_order", lambda lake: 4)
    settings = settings_for(kafka={"topics": ["ztf_[0-9]{8}_programid1"]})
    with pytest.raises(InputError, match="20200602: nothing was proven") as error:
        integrity.check(_SPARK, settings, "20200602", rounds=0)
    assert "ztf_[0-9]{8}_programid1" in str(error.value)
    assert not Path(settings.lake.path).exists()


def test_without_a_query_that_leaves_something_to_look_at_nothing_is_proven(
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for(stream={"queries": ["stamps", "results"]})
    with pytest.raises(InputError, match="neither photometry nor archive"):
        integrity.check(_SPARK, settings, "20200601")
