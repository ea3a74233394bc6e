"""The notebooks run from the first cell to the last on a lake made for them; what they assert holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import AsyncKernelManager
from pyspark.sql import SparkSession

from alerce_spark.config import load
from notebooks.make_lake import make
from notebooks.render import execute, notebooks

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module", autouse=True)
def _lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The lake that the settings of the notebooks' kernels name, made in the session of the tests."""
    path = tmp_path_factory.mktemp("notebooks") / "lake"
    make(load(overrides={"lake": {"path": str(path), "healpix_order": 3}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALERCE_LAKE__PATH", str(path))
        yield


@pytest.fixture(scope="module")
def kernel(_lake: None) -> Iterator[AsyncKernelManager]:
    """One kernel for all notebooks: half of the time of each is imports, and two start Spark."""
    manager = AsyncKernelManager(kernel_name="python3")
    yield manager
    asyncio.run(manager.shutdown_kernel(now=True))


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebook(path: Path, kernel: AsyncKernelManager) -> None:
    outputs = [o for cell in execute(path, kernel=kernel).cells for o in cell.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 2
