"""JARs of Spark's extensions and of Kafka: fetched once into the user's cache, each checked against its SHA-256.

conf/spark/jars.toml names every file of every set, so nothing is resolved on a user's machine. Ivy, which comes with
pyspark, fetches them; what it says goes to a log. `python -m alerce_spark.jars` (make lock) writes jars.toml.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import quoteattr

from alerce_spark import needs
from alerce_spark.config import conf_dir
from alerce_spark.errors import AlerceError
from alerce_spark.profiles import profile

KAFKA_VERSION = "4.1.0"
#: The local broker; slf4j-simple writes its log.
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION},org.slf4j:slf4j-simple:1.7.36"


class JarError(AlerceError):
    """A JAR cannot be fetched, or is not the one that was tested."""


@dataclass(frozen=True)
class Jars:
    """The files of one set: coordinates (organisation:module:revision) with SHA-256 and size of each."""

    files: dict[str, tuple[str, int]]

    @property
    def folder(self) -> Path:
        """Folder of the fetched files, one for each content."""
        digest = hashlib.sha256("\n".join(f"{k} {v[0]}" for k, v in sorted(self.files.items())).encode())
        return cache() / "jars" / digest.hexdigest()[:16]

    @property
    def missing_bytes(self) -> int:
        """Bytes of the files to fetch: all or none."""
        return 0 if self.folder.is_dir() else sum(size for _, size in self.files.values())

    def fetch(self) -> list[Path]:
        """The files; missing ones are fetched. Raises JarError."""
        if not self.folder.is_dir():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder.parent) as part:
                done = Path(part, "done")
                _ivy(sorted(self.files), Path(part, "ivy"), done, transitive=False)
                self._check(done)
                if not self.folder.is_dir():  # another process may have been faster
                    done.rename(self.folder)
        return sorted(self.folder.glob("*.jar"))

    def _check(self, folder: Path) -> None:
        for coordinates, (sha256, _) in self.files.items():
            file = folder / _file_name(coordinates)
            if not file.is_file():
                raise JarError(f"{coordinates} was not found by Ivy; see {log()}")
            if (found := _sha256(file)) != sha256:
                raise JarError(
                    f"{coordinates} as fetched has SHA-256 {found}, and {_lock_file()} says {sha256}: "
                    "the file or the registry was changed. Nothing of it is used."
                )


def cache() -> Path:
    """Folder of files that are made or fetched once for a user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alerce_spark"


def log() -> Path:
    """Ivy's log of the last run."""
    return cache() / "fetch.log"


def locked(packages: str) -> Jars | None:
    """The set of `packages`, coordinates as in spark.jars.packages; None where jars.toml lacks it."""
    found = tomllib.loads(_lock_file().read_text()).get(packages)
    if found is None:
        return None
    return Jars({name: (value.split()[0], int(value.split()[1])) for name, value in found.items()})


def kafka() -> Jars:
    """The set of the local broker."""
    found = locked(KAFKA)
    if found is None:
        raise JarError(f"{_lock_file()} does not know {KAFKA}; write it again: make lock")
    return found


def _lock_file() -> Path:
    return conf_dir() / "spark" / "jars.toml"


def _file_name(coordinates: str) -> str:
    organisation, module, revision = coordinates.split(":")
    return f"{organisation}_{module}-{revision}.jar"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _ivy(
    packages: Sequence[str], scratch: Path, out: Path, transitive: bool, excludes: Sequence[tuple[str, str]] = ()
) -> None:
    """Let Ivy put the JARs of `packages` into `out`; with `transitive` also their dependencies, without `excludes`."""
    scratch.mkdir(parents=True)
    lines = ['<ivy-module version="2.0"><info organisation="alerce" module="jars"/>']
    lines.append('<configurations><conf name="default"/></configurations><dependencies>')
    mapping = "default->master,runtime" if transitive else "default->master"
    for package in packages:
        names = zip(("org", "name", "rev"), package.split(":"), strict=True)
        where = " ".join(f"{key}={quoteattr(value)}" for key, value in names)
        lines.append(f'<dependency {where} conf="{mapping}" transitive="{str(transitive).lower()}"/>')
    for organisation, module in excludes:
        lines.append(f'<exclude org={quoteattr(organisation)} module={quoteattr(module)} matcher="regexp"/>')
    lines.append("</dependencies></ivy-module>")
    file = scratch / "ivy.xml"
    file.write_text("\n".join(lines))
    ivy = next((_spark_folder() / "jars").glob("ivy-*.jar"))
    command = [needs.java(), "-jar", str(ivy), "-cache", str(scratch / "cache"), "-ivy", str(file)]
    command += ["-confs", "default", "-types", "jar", "bundle"]
    command += ["-retrieve", f"{out}/[organisation]_[module]-[revision].[ext]"]
    with log().open("w") as said:
        done = subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise JarError(
            f"JARs could not be fetched ({', '.join(packages[:2])}, …). Is there a network, and can Java use it? "
            f"Ivy's account is in {log()}"
        )


def _spark_folder() -> Path:
    """Folder of pyspark, found without importing it: the local broker needs none of it."""
    found = find_spec("pyspark")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _resolve(packages: str, excludes: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Coordinates of `packages` and of all their dependencies → "SHA-256 bytes"."""
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as part:
        _ivy(packages.split(","), Path(part, "ivy"), Path(part, "out"), True, excludes)
        found = {}
        # The cache has folders by organisation and module; a file's name does not show where the revision begins.
        for file in Path(part, "ivy", "cache").glob("*/*/*s/*.jar"):
            organisation, module = file.parts[-4:-2]
            revision = file.stem.removeprefix(f"{module}-")
            found[f"{organisation}:{module}:{revision}"] = f"{_sha256(file)} {file.stat().st_size}"
    return found


def _write_lock() -> None:
    lines = ["# Written by make lock: the JARs of spark.jars.packages and of the local broker, with SHA-256 and bytes."]
    options = profile("local")
    # Dependencies that Spark brings itself; its resolver leaves them out too.
    excludes = [("org.apache.spark", "spark-(?!sql-kafka|token-provider-kafka).*"), ("org.scala-lang", ".*")]
    for pair in options["spark.jars.excludes"].split(","):
        organisation, module = pair.split(":")
        excludes.append((organisation, module))
    for packages in (options["spark.jars.packages"], KAFKA):
        lines += ["", f'["{packages}"]']
        found = _resolve(packages, excludes if packages != KAFKA else ())
        lines += [f'"{name}" = "{value}"' for name, value in sorted(found.items())]
    _lock_file().write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    _write_lock()
