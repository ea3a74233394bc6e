"""The files of conf/spark: layers, JARs that belong together, and no line twice."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pyspark
import pytest

from alerce_spark import jars, needs, session
from alerce_spark.config import ConfigError
from alerce_spark.profiles import profile, spark_dir

PROFILES = sorted(p.stem for p in spark_dir().glob("*.conf") if p.stem != "spark-defaults")
PACKAGES = "spark.jars.packages"


def _lines(name: str) -> list[str]:
    text = (spark_dir() / f"{name}.conf").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_profiles_of_the_operations_guide_are_there() -> None:
    assert PROFILES == ["kubernetes", "laptop", "local", "s3", "standalone", "yarn"]


@pytest.mark.parametrize("name", ["spark-defaults", *PROFILES])
def test_a_file_holds_settings_of_spark_once_each(name: str) -> None:
    # Java's properties know no comment behind a value, and a blank or : or = would end a key early.
    lines = [line.split() for line in _lines(name)]
    single = [parts for parts in lines if not parts[0].endswith("JavaOptions")]
    assert {len(parts) for parts in single} | {2} == ({1, 2} if name == "s3" else {2})
    keys = [parts[0] for parts in lines]
    assert all(key.startswith("spark.") for key in keys)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_says_only_what_differs_from_the_defaults(name: str) -> None:
    assert not set(_lines(name)) & set(_lines("spark-defaults"))
    assert any(line.startswith(PACKAGES) for line in _lines(name)) == (name == "s3")


def test_the_jars_are_those_of_the_python_packages() -> None:
    spark, delta = version("pyspark"), version("delta-spark")
    minor = spark.rpartition(".")[0]
    jars = profile("local")[PACKAGES]
    assert jars == f"io.delta:delta-spark_{minor}_2.13:{delta},org.apache.spark:spark-sql-kafka-0-10_2.13:{spark}"
    (hadoop,) = (Path(pyspark.__file__).parent / "jars").glob("hadoop-client-api-*.jar")
    release = hadoop.stem.removeprefix("hadoop-client-api-")
    assert profile("local,s3")[PACKAGES] == f"{jars},org.apache.hadoop:hadoop-aws:{release}"


def test_a_session_gets_the_files_of_known_packages_and_leaves_others_to_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars.Jars, "fetch", lambda of: [Path("/jars") / name for name in sorted(of.files)[:2]])
    known = session._options("local")
    assert PACKAGES not in known
    assert known["spark.jars"] == "/jars/at.yawk.lz4:lz4-java:1.11.0,/jars/com.fasterxml.jackson.core:" + (
        "jackson-annotations:2.13.5"
    )
    unknown = session._options("local,s3")
    assert unknown[PACKAGES] == profile("local,s3")[PACKAGES]
    assert "spark.jars" not in unknown


def test_the_laptop_has_two_tasks_and_a_gigabyte_whatever_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "cores", lambda: 64)
    monkeypatch.setattr(jars.Jars, "fetch", lambda of: [])
    assert session._options("local")["spark.master"] == "local[128]"
    laptop = session._options("laptop")
    assert (laptop["spark.master"], laptop["spark.driver.memory"]) == ("local[2]", "1g")
    # One address for all of Spark's ports, and not that of the network.
    assert laptop["spark.driver.bindAddress"] == laptop["spark.driver.host"] == "127.0.0.1"


def test_later_profiles_stand_over_earlier_ones_and_unknown_ones_are_named() -> None:
    both = profile("standalone,s3")
    assert both["spark.master"].startswith("spark://")
    assert "hadoop-aws" in both[PACKAGES]
    assert both["spark.sql.extensions"] == profile("local")["spark.sql.extensions"]
    for name in ("mesos", "local,mesos", "spark-defaults"):
        with pytest.raises(ConfigError, match=r"known: kubernetes, laptop, local, s3, standalone, yarn"):
            profile(name)


def test_one_machine_speaks_to_itself_alone_and_a_cluster_to_those_with_the_secret() -> None:
    masters = {name: profile(name) for name in PROFILES if "spark.master" in profile(name)}
    assert len(masters) >= 4
    for name, settings in masters.items():
        assert settings["spark.ui.enabled"] == "false", name
        if settings["spark.master"].startswith("local"):
            assert settings["spark.driver.host"] == settings["spark.driver.bindAddress"] == "127.0.0.1", name
        else:
            for key in ("spark.authenticate", "spark.network.crypto.enabled", "spark.io.encryption.enabled"):
                assert settings[key] == "true", (name, key)


def test_a_secret_in_a_profile_is_refused_since_java_would_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(spark_dir().parent, tmp_path / "conf")
    (tmp_path / "conf" / "spark" / "mine.conf").write_text("spark.authenticate.secret  hunter2\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"spark\.authenticate\.secret") as error:
        profile("standalone,mine")
    assert "hunter2" not in str(error.value)
    assert profile("standalone")["spark.authenticate"] == "true"


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("kafka.sasl.jaas.config", True),
        ("kafka.ssl.key.password", True),
        ("kafka.ssl.keystore.key", True),
        ("spark.authenticate.secret", True),
        ("spark.executorEnv.AWS_SECRET_ACCESS_KEY", True),
        ("kafka.bootstrap.servers", False),
        ("spark.sql.shuffle.partitions", False),
    ],
)
def test_names_of_secrets_are_those_that_spark_hides(name: str, hidden: bool) -> None:
    settings = profile("local")
    for key in ("spark.redaction.regex", "spark.sql.redaction.options.regex"):
        assert bool(re.search(settings[key], name)) == hidden
    shown = re.sub(settings["spark.redaction.string.regex"], "*", 'required username="me" password="hunter2";')
    assert "hunter2" not in shown
    assert "username" in shown
