"""Jobs by spark-submit on a standalone cluster: a master and two workers, and a Python environment that Spark ships.

The environment is what `venv-pack` makes of one in which the package is installed, but that its dependencies stay where
they are: neither driver nor workers see the checkout, so settings, models, schemas and compiled kernels are those that
travelled.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import numpy as np
import polars as pl
import pyspark
import pytest

from alerce_spark import lake
from alerce_spark.kafka import topics
from alerce_spark.local_kafka import free_port
from alerce_spark.simulation.defects import corrupt
from alerce_spark.simulation.night import Traits, simulate
from tests.lakes import assert_complete, assert_keys_unique, assert_same, records, snapshot

pytestmark = [pytest.mark.spark, pytest.mark.kafka]

ROOT = Path(__file__).resolve().parents[2]
_SPARK = Path(pyspark.__file__).parent
_NIGHT = "20200603"
_TOPIC = f"ztf_{_NIGHT}_programid1"
_WORKERS = 2
_START_S, _JOB_S = 120, 500


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with this package as the wheel would install it, beside the archive made of it."""
    home = tmp_path_factory.mktemp("shipped") / "environment"
    venv.EnvBuilder(symlinks=True).create(home)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    # With the times of the files, so that kernels compiled in the checkout are known to be those of its sources.
    shutil.copytree(ROOT / "alerce_spark", site / "alerce_spark")
    shutil.copytree(ROOT / "conf", site / "alerce_spark" / "_conf")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # pax keeps nanoseconds of those times.
    pack = ["tar", "--format=pax", "-czf", f"{home}.tar.gz", "-C", str(home), "."]
    subprocess.run(pack, check=True)
    return home


@dataclass(frozen=True)
class Cluster:
    """A running master with its workers, and what a user has: the environment, the jobs, an empty folder."""

    url: str
    environment: Path
    folder: Path

    def submit(self, job: str, *arguments: str, status: int = 0, **settings: str) -> str:
        """Run `jobs/alerce.py <job>` as docs/operations.md says, `settings` by the environment; its output."""
        site = Path(sysconfig.get_path("purelib", vars={"base": str(self.environment)}))
        conf = site / "alerce_spark" / "_conf" / "spark"
        small = {"spark.cores.max": "2", "spark.executor.cores": "1", "spark.executor.memory": "1g"}
        small |= {"spark.driver.memory": "1g", "spark.sql.shuffle.partitions": "2"}
        command = [str(_SPARK / "bin" / "spark-submit"), "--load-spark-defaults"]
        secret = self.folder / "secret" / "spark-defaults.conf"
        profile = self.folder / "profile.conf"
        profile.touch(mode=0o600)
        profile.write_text((conf / "standalone.conf").read_text() + secret.read_text())
        command += ["--properties-file", str(profile), "--master", self.url]
        command += ["--archives", f"{self.environment}.tar.gz#environment"]
        command += [part for key, value in small.items() for part in ("--conf", f"{key}={value}")]
        done = subprocess.run(
            [*command, str(ROOT / "jobs" / "alerce.py"), job, *arguments],
            env={
                **_surroundings(),
                "SPARK_CONF_DIR": str(conf),
                "PYSPARK_PYTHON": "./environment/bin/python",
                "PYSPARK_DRIVER_PYTHON": str(self.environment / "bin" / "python"),
                **settings,
            },
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=_JOB_S,
        )
        assert done.returncode == status, (done.stdout + done.stderr)[-5000:]
        return done.stdout


def _surroundings() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ALERCE_", "PYSPARK_", "SPARK_", "PYTHON"))}
    return {**kept, "SPARK_HOME": str(_SPARK), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}


@pytest.fixture(scope="module")
def cluster(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master and two workers of one core each."""
    folder = tmp_path_factory.mktemp("cluster")
    secret = folder / "secret"
    secret.mkdir(mode=0o700)
    (secret / "spark-defaults.conf").write_text(f"spark.authenticate  true\nspark.authenticate.secret  {token_hex()}\n")
    port, page = free_port(), free_port()
    url = f"spark://127.0.0.1:{port}"
    master = ["master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(page)]
    worker = ["worker.Worker", "--host", "127.0.0.1", "--cores", "1", "--memory", "1500m", "--webui-port", "0", url]
    commands = [master, *([*worker, "--work-dir", str(folder / f"worker{i}")] for i in range(_WORKERS))]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"{number}.log").open("wb") as log:
                program = [str(_SPARK / "bin" / "spark-class"), f"org.apache.spark.deploy.{command[0]}", *command[1:]]
                surroundings = _surroundings() | {"SPARK_CONF_DIR": str(secret)}
                running.append(subprocess.Popen(program, env=surroundings, stdout=log, stderr=log, cwd=folder))
        _wait_for_workers(f"http://127.0.0.1:{page}/json/", running)
        yield Cluster(url, environment, folder)
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(timeout=60)


def _wait_for_workers(page: str, running: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + _START_S
    while True:
        assert all(process.poll() is None for process in running), "a part of the cluster ended"
        assert time.monotonic() < end, "the workers have not come"
        try:
            with urllib.request.urlopen(page, timeout=5) as answer:
                if json.load(answer)["aliveworkers"] == _WORKERS:
                    return
        # The master's page answers before it knows the address of its JSON, with HTML.
        except (OSError, json.JSONDecodeError):
            pass
        time.sleep(0.2)


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    """A night with repeated, unordered and broken packets."""
    night = simulate(41, objects=16, nights=16, version=("3.3", "4.02"), traits=Traits.like_ztf())
    rng = np.random.default_rng(2)
    some = [night.packets[i] for i in rng.permutation(len(night.packets))]
    return [*some, *some[:10], *(corrupt(some[0], kind, rng) for kind in ("html", "truncated"))]


@pytest.fixture(scope="module")
def imported(cluster: Cluster, packets: list[bytes]) -> Path:
    """The lake that `import` makes of the packets as files, checked against the packets themselves."""
    alerts, path = cluster.folder / "alerts", cluster.folder / "imported"
    alerts.mkdir()
    for number, packet in enumerate(packets):
        (alerts / f"{number:05d}.avro").write_bytes(packet)
    cluster.submit("import", str(alerts), "--lake", str(path), status=1)  # packets were refused
    return path


def test_an_import_leaves_what_the_packets_hold(imported: Path, packets: list[bytes]) -> None:
    tables = snapshot(str(imported))
    assert_keys_unique(tables)
    refused = set(tables["quarantine"]["packet"].to_list())
    assert len(refused) == 2
    assert_complete(tables, records(packet for packet in packets if packet not in refused))


def test_the_environment_travelled_and_no_kernel_was_compiled_again(
    cluster: Cluster, imported: Path, environment: Path
) -> None:
    executors = [path for path in cluster.folder.glob("worker*/app-*/*") if path.is_dir()]
    assert len({path.parents[1] for path in executors}) == _WORKERS
    shipped = {path.relative_to(environment): path.read_bytes() for path in environment.rglob("*.nbi")}
    assert shipped, "the checkout has no compiled kernels"
    for executor in executors:
        found = {name: (executor / "environment" / name).read_bytes() for name in shipped}
        assert found == shipped


def test_who_does_not_know_the_secret_is_not_served(cluster: Cluster, imported: Path) -> None:
    secret = cluster.folder / "secret" / "spark-defaults.conf"
    right = secret.read_text()
    secret.write_text("spark.authenticate  true\nspark.authenticate.secret  guessed\n")
    try:
        with pytest.raises(AssertionError, match=r"All masters are unresponsive|SASL|authenticat"):
            cluster.submit("compact", "--lake", str(imported))
    finally:
        secret.write_text(right)


def test_the_stream_leaves_the_same_and_integrity_proves_it(
    cluster: Cluster, imported: Path, packets: list[bytes], kafka: str
) -> None:
    topics.create(kafka, [_TOPIC], 2)
    topics.send(kafka, _TOPIC, packets)
    settings = {"ALERCE_KAFKA__BOOTSTRAP_SERVERS": kafka, "ALERCE_KAFKA__TOPICS": f'["{_TOPIC}"]'}
    settings["ALERCE_STREAM__QUERIES"] = '["stamps", "lightcurves", "photometry", "results"]'
    path = cluster.folder / "streamed"
    cluster.submit("stream", "--until-empty", "--lake", str(path), **settings)
    assert_same(snapshot(str(path)), snapshot(str(imported)))
    classes = lake.open(str(path)).table("probabilities").select("oid", "classifier").unique().collect()
    objects = snapshot(str(path))["objects"]["oid"]
    assert set(classes.filter(pl.col("classifier") == "stamp_classifier")["oid"]) == set(objects)

    said = cluster.submit("integrity", "--night", _NIGHT, "--rounds", "0", "--lake", str(imported), **settings)
    assert "complete and right" in said
