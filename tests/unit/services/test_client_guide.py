"""docs/client.md: what it shows runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from alerce_spark.client import stream, tom
from tests.served import Served

GUIDE = (Path(__file__).parents[3] / "docs" / "client.md").read_text()


def test_examples_of_the_guide_run(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    known: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block.replace("http://127.0.0.1:8800", served.url), "docs/client.md", "exec"), known)
    assert known["detections"].schema["candid"] == pl.Int64
    assert set(known["detections"]["oid"]) == set(known["objects"]["oid"])
    assert set(known["everything"]["oid"]) == set(served.table("objects").filter(pl.col("ndet") >= 2)["oid"])
    assert capsys.readouterr().out.startswith("400 {'order_by'")


def test_what_needs_others_is_there() -> None:
    """Examples that need a broker or a TOM: their names and parameters exist."""
    blocks = re.findall(r"^```python no-run\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    names = {"messages": stream.messages, "hand_over": tom.hand_over}
    assert len(blocks) == len(names)
    for block, (name, function) in zip(blocks, names.items(), strict=True):
        compile(block, "docs/client.md", "exec")
        call = re.search(rf"{name}\((.*)\):$", block, re.MULTILINE)
        assert call is not None
        given = set(re.findall(r"(\w+)=", call[1]))
        assert given
        assert given <= set(function.__annotations__)
