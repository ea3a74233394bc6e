"""A lake has one spelling, whatever it is called with; what delta-rs would read as another place is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from alerce_spark.errors import InputError
from alerce_spark.location import lake_path


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("lake", "lake"),
        ("./lake/", "./lake"),
        (Path("/data/lake"), "/data/lake"),
        ("/data/my lake//", "/data/my lake"),
        ("/data/100%", "/data/100%"),
        ("/data/a#b;c&d", "/data/a#b;c&d"),
        ("~/lake", "/home/me/lake"),
        ("tilde~x", "tilde~x"),
        ("./C:lake", "./C:lake"),
        ("file:/data/lake", "/data/lake"),
        ("file:///data/my%20lake/", "/data/my lake"),
        ("file://localhost/data/lake", "/data/lake"),
        ("s3a://bucket/lake/", "s3a://bucket/lake"),
        ("s3://bucket", "s3://bucket"),
    ],
)
def test_a_lake_has_one_spelling(given: str | os.PathLike[str], wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert lake_path(given) == wanted
    assert lake_path(wanted) == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "is empty"),
        (None, "is empty"),
        (" \t", "is empty"),
        ("/", "root of the file system"),
        ("file:///", "root of the file system"),
        ("hdfs://x/y", "not supported"),
        ("gs://bucket/lake", "s3a://"),
        ("S3A://bucket/lake", "s3a://"),
        ("s3a:///lake", "s3a://<bucket>"),
        ("C:lake", "./<folder>"),
        ("file://server/lake", "on another machine"),
        ("/data/pct%20x", "%20"),
        ("file:/data/pct%2520x", "%20"),
        ("/data/back\\slash", "have '\\\\' in it"),
        ("/data/star*x", "'*'"),
        ("/data/what?", "'?'"),
        ("/data/run=5/lake", "'='"),
        ("/data/br[ack]ets", "'['"),
        ("/data/new\nline", "control"),
        ("/data/nu\0ll", "control"),
        ("s3a://key:hunter2@bucket/lake", "leave them out"),
        ("file://me:hunter2@host/lake", "leave them out"),
    ],
)
def test_what_cannot_be_a_lake_is_refused_with_the_reason(given: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        lake_path(given)
    assert said in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_relative_lake_is_refused_where_its_folder_cannot_hold_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a%20b").mkdir()
    monkeypatch.chdir(tmp_path / "a%20b")
    with pytest.raises(InputError, match="%20"):
        lake_path("lake")
