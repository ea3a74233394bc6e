"""The session has what the files of conf/spark say."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from alerce_spark.profiles import profile

pytestmark = pytest.mark.spark


def test_the_jvm_has_the_options_of_the_profile_and_our_log_settings(spark: SparkSession) -> None:
    options = spark.conf.get("spark.driver.extraJavaOptions") or ""
    assert profile("local")["spark.driver.extraJavaOptions"] in options
    assert "log4j2.properties" in options
    runtime = spark.sparkContext._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean()  # type: ignore[union-attr]
    assert set(options.split()) <= set(runtime.getInputArguments())


def test_nothing_listens_to_other_machines(spark: SparkSession) -> None:
    assert spark.range(100).repartition(3).rdd.map(lambda row: row.id).sum() == 4950  # all ports are open now
    addresses = _listening(_family(os.getpid()))
    assert addresses
    # Little-endian words of 127.0.0.1, also as an address of IPv6, and of ::1.
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    assert {address for address in addresses if address not in loopback} == set()


def _family(process: int) -> set[int]:
    """The process and all that it started, by /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family, new = set(), {process}
    while new:
        family |= new
        new = {child for child, parent in parents.items() if parent in family} - family
    return family


def _listening(family: set[int]) -> list[str]:
    """Addresses, as /proc/net has them, of the TCP sockets on which these processes listen."""
    sockets = set()
    for process in family:
        for handle in Path(f"/proc/{process}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(handle))
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
