"""Neighbours in packets become attempts: every value of a real packet, and no code for "none"."""

from __future__ import annotations

import io
from pathlib import Path

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from alerce_spark.alerts.avro import decode
from alerce_spark.crossmatch.packet import neighbours
from alerce_spark.crossmatch.rows import ATTEMPTS, attempts, numbers
from alerce_spark.simulation.night import simulate
from alerce_spark.surveys.ztf import ZTF

CATALOGS = tuple(neighbour.catalog for neighbour in ZTF.neighbours)


@pytest.mark.real_data
def test_neighbours_of_real_packets_are_those_that_fastavro_reads(data_dir: Path) -> None:
    files = [*sorted((data_dir / "ztf" / "exposure").glob("*.avro")), *sorted((data_dir / "ztf" / "v4").glob("*.avro"))]
    files += sorted((data_dir / "ztf" / "histories").rglob("*.avro"))[::4]
    packets = [file.read_bytes() for file in files]
    found = pl.DataFrame(neighbours(decode(packets, ZTF).alerts, ZTF))
    told = {(row, catalog): rest for row, catalog, *rest in found.iter_rows()}
    assert len(told) == len(found)
    for row, packet in enumerate(packets):
        candidate = next(fastavro.reader(io.BytesIO(packet)))["candidate"]
        _, name, distance, attributes = told[row, "ss_ztf"]
        has_body = candidate["ssdistnr"] != -999
        assert (name, distance) == ((candidate["ssnamenr"], candidate["ssdistnr"]) if has_body else (None, None))
        magnitude = None if attributes is None else np.float32(attributes["ssmagnr"])
        assert magnitude == (np.float32(candidate["ssmagnr"]) if has_body else None)
        _, name, distance, attributes = told[row, "ps1_ztf"]
        if candidate["objectidps1"] == -999:
            assert (name, distance, attributes) == (None, None, None)
        else:
            assert (int(name), np.float32(distance)) == (candidate["objectidps1"], np.float32(candidate["distpsnr1"]))
            expected = {k: v for k, v in candidate.items() if k[:-1] in _PS1 and v != -999}
            expected |= {"nmtchps": candidate["nmtchps"]}
            assert set(attributes) == set(expected) - {"objectidps1", "distpsnr1"}
            assert all(np.float32(attributes[k]) == np.float32(expected[k]) for k in attributes)
            assert all(attributes[k] == str(v) for k, v in expected.items() if k in ("objectidps2", "objectidps3"))
        if "neargaia" not in candidate:
            assert (row, "gaia_ztf") not in told
            continue
        _, name, distance, attributes = told[row, "gaia_ztf"]
        assert name is None
        assert distance == (None if candidate["neargaia"] == -999 else np.float32(candidate["neargaia"]))


_PS1 = {"objectidps", "distpsnr", "sgmag", "srmag", "simag", "szmag", "sgscore"}


def test_a_packet_without_neighbours_is_an_attempt_without_source() -> None:
    alerts = decode(simulate(3, objects=2, nights=2, stamps=False).packets[:1], ZTF).alerts
    none = {"ssnamenr": "null"} | dict.fromkeys(("ssdistnr", "distpsnr1", "neargaia", "objectidps1"), -999)
    for name, value in none.items():
        field = alerts.schema.field(name)
        alerts = alerts.set_column(alerts.schema.get_field_index(name), field, pa.array([value], field.type))
    found = neighbours(alerts, ZTF)
    assert sorted(found["catalog"].to_pylist()) == sorted(CATALOGS)
    for column in ("source_id", "separation", "attributes"):
        assert found[column].null_count == len(CATALOGS)


def test_no_alerts_are_no_attempts() -> None:
    assert neighbours(decode([], ZTF).alerts, ZTF).num_rows == 0


def test_attributes_are_kept_in_full_and_read_back() -> None:
    exact = np.array([0.1 + 0.2, 1e-300, np.nan, 12.0])
    separation = np.array([0.5, 0.1, 0.2, np.nan])
    columns = {"w1": pa.array(exact, from_pandas=True), "id": pa.array([2**60 + 1, 2, 3, 4])}
    made = attempts(np.arange(4), "a", 1.0, pa.array(["x", "y", "z", "u"]), separation, columns)
    assert made.schema == ATTEMPTS
    made.validate(full=True)
    assert made["source_id"].to_pylist() == ["x", "y", "z", None]
    assert dict(made["attributes"][0].as_py())["id"] == str(2**60 + 1)
    assert made["attributes"].to_pylist()[2:] == [[("id", "3")], None]
    (back,) = numbers(made["attributes"].combine_chunks(), ("w1",))
    np.testing.assert_array_equal(back, [*exact[:3], np.nan])
