"""Table definitions: complete, and every field of a packet is kept."""

from __future__ import annotations

from alerce_spark.lake.tables import TABLES
from alerce_spark.lightcurves.statistics import MAGSTATS, OBJECTS
from alerce_spark.surveys import ztf


def test_every_table_of_the_design_is_there() -> None:
    assert set(TABLES) == {
        *("detections", "non_detections", "forced_photometry", "objects", "magstats", "features", "probabilities"),
        *("xmatch", "taxonomy", "models", "quarantine", "nightly_reports", "tns_reports"),
    }


def test_keys_are_required_columns_and_names_unique() -> None:
    for table in TABLES.values():
        required = {c.name for c in table.columns if c.required}
        assert set(table.key) <= required, table.name
        assert len(set(table.names)) == len(table.names), table.name
        assert all(c.comment for c in table.columns), table.name


def test_every_field_of_a_packet_has_a_column() -> None:
    def column(name: str) -> str:
        return "m" + name if name.startswith("jd") else name

    assert {column(f.name) for f in ztf.CANDIDATE} <= set(TABLES["detections"].names)
    assert {column(f.name) for f in ztf.FP_HIST} <= set(TABLES["forced_photometry"].names)


def test_every_statistic_has_a_column() -> None:
    assert set(MAGSTATS) <= set(TABLES["magstats"].names)
    assert set(OBJECTS) <= set(TABLES["objects"].names)


def test_ids_are_64_bit_and_times_and_positions_double() -> None:
    for table in TABLES.values():
        for c in table.columns:
            if c.name in ("candid", "parent_candid", "pid", "rfid", "healpix29") or c.name.startswith("objectid"):
                assert c.type == "long", (table.name, c.name)
            if c.name.startswith("mjd") or c.name in ("ra", "dec", "meanra", "meandec", "firstmjd", "lastmjd"):
                assert c.type == "double", (table.name, c.name)
