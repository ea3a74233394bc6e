"""The session has what the files of conf/spark say."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from alerce_spark.session import profile

pytestmark = pytest.mark.spark


def test_the_jvm_has_the_options_of_the_profile_and_our_log_settings(spark: SparkSession) -> None:
    options = spark.conf.get("spark.driver.extraJavaOptions") or ""
    assert profile("local")["spark.driver.extraJavaOptions"] in options
    assert "log4j2.properties" in options
    runtime = spark.sparkContext._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean()  # type: ignore[union-attr]
    assert set(options.split()) <= set(runtime.getInputArguments())
