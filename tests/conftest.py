"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real survey data: ALERCE_TEST_DATA, else `../shared/data` beside the checkout; skips where neither is."""
    path = Path(os.environ.get("ALERCE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "ztf").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the real-data tests, but {path} has no ztf/ folder; set ALERCE_TEST_DATA")
        pytest.skip(f"no real survey data at {path}; set ALERCE_TEST_DATA to its folder")
    return path
