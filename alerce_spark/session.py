"""The SparkSession: settings and JARs come from the files of conf/spark/ only."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from alerce_spark import jars, needs
from alerce_spark.config import ConfigError, Settings
from alerce_spark.profiles import profile, spark_dir

_JAVA_OPTIONS = "spark.driver.extraJavaOptions"
_PACKAGES = "spark.jars.packages"
_NEEDED_CLASSES = ("io.delta.sql.DeltaSparkSessionExtension", "org.apache.spark.sql.kafka010.KafkaSourceProvider")


def spark_session(settings: Settings, app: str = "alerce_spark", log: Path | None = None, **extra: str) -> SparkSession:
    """The session of this process, made if there is none; `extra` settings have dots written as double underscores.

    What Spark's JVM and its Python workers print goes to the file `log`, where one is given. Under spark-submit the
    session keeps what spark-submit was given. Raises ConfigError where Delta or Kafka JARs are missing, with the
    command that brings them.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    options = {} if "PYSPARK_GATEWAY_PORT" in os.environ else _options(settings.spark.profile)
    options |= {key.replace("__", "."): value for key, value in extra.items()}
    if options and log is not None and SparkContext._active_spark_context is None:
        conf = SparkConf().setAppName(app).setAll(list(options.items()))
        with log.open("ab") as said:
            SparkContext(conf=conf, gateway=launch_gateway(conf, {"stdout": said, "stderr": said}))
    builder = SparkSession.Builder().appName(app)
    for key, value in options.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    _require_jars(spark)
    return spark


def _options(name: str) -> dict[str, str]:
    """Settings of a session that is not made by spark-submit."""
    needs.java()
    options = profile(name)
    if options["spark.master"] == "local[*]":
        # Two tasks a core: those of a long batch must not block the others.
        options["spark.master"] = f"local[{2 * needs.cores()}]"
    config = f"-Dlog4j2.configurationFile=file:{spark_dir() / 'log4j2.properties'}"
    options[_JAVA_OPTIONS] = f"{options.get(_JAVA_OPTIONS, '')} {config}".strip()
    options["spark.scheduler.allocation.file"] = f"file:{spark_dir() / 'fairscheduler.xml'}"
    known = jars.locked(options[_PACKAGES])
    if known is not None:  # Spark would resolve them at every start, with a page of output
        del options[_PACKAGES]
        options["spark.jars"] = ",".join(str(file) for file in known.fetch())
    return options


def _require_jars(spark: SparkSession) -> None:
    loader = spark.sparkContext._jvm.java.lang.Thread.currentThread().getContextClassLoader()  # type: ignore[union-attr]
    for name in _NEEDED_CLASSES:
        try:
            loader.loadClass(name)
        except Py4JJavaError:
            raise ConfigError(
                f"the JAR with {name} is not on Spark's class path. spark-submit ignores spark.jars.packages of a "
                f"running session: SPARK_CONF_DIR={spark_dir()} spark-submit --load-spark-defaults --properties-file "
                f"{spark_dir() / 'local.conf'} …"
            ) from None
