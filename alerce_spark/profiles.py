"""The profiles of conf/spark: Spark's settings as dictionaries."""

from __future__ import annotations

import re
from pathlib import Path

from alerce_spark.config import ConfigError, conf_dir

_SECRET = re.compile(r"secret|password|token", re.IGNORECASE)


def spark_dir() -> Path:
    """Folder of Spark's configuration: SPARK_CONF_DIR for spark-submit."""
    return (conf_dir() / "spark").resolve()


def profile(name: str) -> dict[str, str]:
    """Spark settings of spark-defaults.conf and of the profiles that `name` lists (standalone,s3), later ones over
    earlier ones. Raises ConfigError with the profiles there are, and for a secret in one.
    """
    settings = _properties(spark_dir() / "spark-defaults.conf")
    for part in name.split(","):
        path = spark_dir() / f"{part}.conf"
        if not path.is_file() or part == "spark-defaults":
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.conf") if p.stem != "spark-defaults"))
            raise ConfigError(f"spark.profile = {name!r}: no {path}; known: {known}")
        settings |= _properties(path)
    if secrets := [key for key in settings if _SECRET.search(key)]:
        raise ConfigError(
            f"{secrets[0]} is in a profile of conf/spark and would be in the command line of Java, which all users "
            "of the machine see: put it into spark-defaults.conf in a private folder, and name that by SPARK_CONF_DIR"
        )
    return settings


def _properties(path: Path) -> dict[str, str]:
    """Spark properties file → dictionary: a key, white space, a value; # begins a comment line."""
    pairs = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            key, _, value = line.strip().partition(" ")
            pairs[key] = value.strip()
    return pairs
