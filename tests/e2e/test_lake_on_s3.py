"""A lake on S3: imported, read, compacted and leased on a real server, by the profile `local,s3`.

The settings of a JVM are fixed when it starts, so each job is a separate process. The AWS SDK (690 MB) is fetched
once.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alerce_spark.lease import Lease
from alerce_spark.simulation.defects import corrupt
from alerce_spark.simulation.night import Traits, simulate
from tests.lakes import assert_complete, assert_keys_unique, assert_same, records, snapshot
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, open_server

pytestmark = [pytest.mark.spark, pytest.mark.soak, pytest.mark.timeout(2000)]

_LAKE = "s3a://lakes/of/alerce"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = open_server(tmp_path)
    server.start()
    server.client().create_bucket(Bucket="lakes")
    for name, value in {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "ALERCE_SPARK__PROFILE": "local,s3",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


def _run(folder: Path, *arguments: str) -> tuple[int, str]:
    code = f"from alerce_spark.cli import main; main({[*arguments, '--lake', _LAKE]!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_lake_on_s3_is_as_good_as_any(server: S3Server, tmp_path: Path) -> None:
    night = simulate(51, objects=12, nights=10, version=("3.3", "4.02"), traits=Traits.like_ztf())
    rng = np.random.default_rng(2)
    packets = [night.packets[i] for i in rng.permutation(len(night.packets))]
    parts = [packets[::2], [*packets[1::2], *packets[:5], corrupt(packets[0], "html", rng)]]
    for number, part in enumerate(parts):
        folder = tmp_path / str(number)
        folder.mkdir()
        for k, packet in enumerate(part):
            (folder / f"{k}.avro").write_bytes(packet)
        status, said = _run(tmp_path, "import", str(folder))
        assert status == number, said  # 1 where a packet was refused
    tables = snapshot(_LAKE)
    assert_keys_unique(tables)
    assert_complete(tables, records(packets))
    assert len(tables["quarantine"]) == 1

    with Lease(_LAKE, "another application", 60.0, ["results"]):
        status, said = _run(tmp_path, "import", str(tmp_path / "0"))
        assert status == 2
        assert "another application" in said
    status, said = _run(tmp_path, "compact")
    assert status == 0, said
    assert_same(snapshot(_LAKE), tables)
