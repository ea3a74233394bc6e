"""The registry of models in a lake on S3, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from alerce_spark.classifiers.taxonomy import LIGHTCURVE
from alerce_spark.errors import LakeError
from alerce_spark.lake import models
from alerce_spark.lake.handles import delta_table
from alerce_spark.lake.models import Served
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, open_server

#: The server may have to be built first.
pytestmark = pytest.mark.timeout(2000)


@dataclass(frozen=True)
class Text:
    """A model whose file is its version."""

    version: str


def load_text(path: Path) -> Text:
    return Text(path.read_text())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = open_server(tmp_path)
    server.start()
    server.client().create_bucket(Bucket="models")
    for name, value in {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


def test_the_registry_on_s3(server: S3Server, tmp_path: Path) -> None:
    lake, versions = "s3a://models/lake", ["1", "2", "3", "4"]
    for version in versions:
        (tmp_path / version).write_text(f"model {version}")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda v: models.register(lake, LIGHTCURVE, v, tmp_path / v), versions))
        list(pool.map(lambda v: models.promote(lake, LIGHTCURVE, v), versions))
    assert sorted(models.listing(lake)["state"].to_pylist()) == ["current", "retired", "retired", "retired"]
    entry = models.current(lake, LIGHTCURVE)
    assert entry is not None
    served = Served(lake, LIGHTCURVE, load_text)
    assert served.get() == (Text(f"model {entry.version}"), entry.version)
    earlier = models.roll_back(lake, LIGHTCURVE)
    assert earlier.version != entry.version
    assert served.get() == (Text(f"model {earlier.version}"), earlier.version)
    server.stop()
    kept = served.get()
    assert kept == (Text(f"model {earlier.version}"), earlier.version)
    assert served.alarm is not None
    server.start()
    delta_table(lake, "models").update({"artefact": "'_models/nothing'"})
    with pytest.raises(LakeError, match="cannot read _models/nothing"):
        models.promote(lake, LIGHTCURVE, entry.version)
