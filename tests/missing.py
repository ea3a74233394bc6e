"""Programs that tests start and that are no Python packages: .ci/run installs them, elsewhere they may be absent."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(program: str) -> NoReturn:
    """Skip a test with the reason; fail it in CI, which has all programs."""
    if os.environ.get("CI"):
        pytest.fail(f"{program} is not installed; .ci/run installs it")
    pytest.skip(f"{program} is not installed")
