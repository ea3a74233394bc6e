"""Damaged, missing or silent parts of a lake raise a LakeError with the remedy; a lake may be made again."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from alerce_spark import delta, location
from alerce_spark import lake as lakes
from alerce_spark.classifiers.taxonomy import version_order
from alerce_spark.crossmatch.catalogs import Catalog
from alerce_spark.errors import LakeError
from alerce_spark.lake import catalogs, handles, lookup, models, write
from alerce_spark.lake.handles import collect
from alerce_spark.nightly import training_sets
from tests.unit.test_log import ORDER, magstats, store, stored


@pytest.fixture
def lake(tmp_path: Path) -> str:
    path = str(tmp_path / "lake")
    write.create(path, ORDER)
    store(path, dict.fromkeys(range(40), 1))
    return path


ASKED: dict[str, Callable[[str], object]] = {
    "is it made": lambda lake: handles.is_made(lake, "objects"),
    "open": lakes.open,
    "versions": lambda lake: lookup.versions(lake, ["objects"]),
    "create": lambda lake: write.create(lake, ORDER),
    "catalogues": catalogs.imported,
    "match": lambda lake: catalogs.match(lake, "gaia", 1.0, 2.0, 59000.0),
    "models": lambda lake: models.current(lake, "lc_classifier"),
    "training sets": lambda lake: training_sets.newest(lake, "x"),
}


@pytest.mark.parametrize("how", ASKED)
def test_a_store_that_does_not_answer_is_named(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:  # a port at which nobody listens
        nobody.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    keys = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1",
    }
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    location.at.cache_clear()
    delta.forget()
    try:
        with pytest.raises(LakeError, match=rf"s3a://nowhere/lake.* cannot be reached at {server}.*AWS_ENDPOINT_URL"):
            ASKED[how]("s3a://nowhere/lake")
    finally:
        location.at.cache_clear()
        delta.forget()


def test_a_store_that_does_not_answer_is_asked_a_few_times_only() -> None:
    assert isinstance(location.at("s3a://nowhere/lake"), location.Bucket)
    options = location.at("s3a://nowhere/lake").options
    assert options is not None
    assert (options["max_retries"], options["connect_timeout"], options["retry_timeout"]) == ("2", "3s", "10s")


def _read(lake: str) -> object:
    return collect(lake, lakes.open(lake).table("magstats"))


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for k in range(4, len(data) // 2):
        data[k] ^= 0xFF
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [Path.unlink, _flip])
def test_a_data_file_that_is_gone_or_has_flipped_bytes_is_named(lake: str, damage: Callable[[Path], None]) -> None:
    file = min(Path(lake, "magstats").rglob("part-*.parquet"))
    damage(file)
    with pytest.raises(LakeError, match=rf"{file.name} of the table magstats in .*After a power cut"):
        _read(lake)


CATALOG = Catalog(title="mine", id=("id",), ra=("ra",), dec=("dec",), radius=2.0)


@pytest.fixture
def catalogue(lake: str, tmp_path: Path) -> Path:
    rows = pl.DataFrame(
        {"id": [f"s{k}" for k in range(50)], "ra": np.linspace(0, 350, 50), "dec": np.linspace(-80, 80, 50)}
    )
    rows.write_csv(tmp_path / "mine.csv")
    catalogs.import_catalog(lake, "mine", CATALOG, [tmp_path / "mine.csv"])
    assert catalogs.match(lake, "mine", 0.0, -80.0, 59000.0)["source_id"].to_pylist() == ["s0"]
    delta.forget()
    catalogs._tables.clear()
    return Path(lake, "catalogs", "mine")


@pytest.mark.parametrize("damage", [Path.unlink, _flip, lambda file: file.write_bytes(b"")])
def test_parts_of_a_catalogue_that_are_gone_or_damaged_are_named(
    lake: str, catalogue: Path, damage: Callable[[Path], None]
) -> None:
    for file in catalogue.rglob("part-*.parquet"):
        damage(file)
    with pytest.raises(LakeError, match=r"(table|catalogue) mine in .*lake"):
        catalogs.match(lake, "mine", 0.0, -80.0, 59000.0)


def test_a_log_of_a_catalogue_that_is_gone_or_damaged_is_named(lake: str, catalogue: Path) -> None:
    newest = max((catalogue / "_delta_log").glob("*.json"))
    newest.write_bytes(newest.read_bytes()[:20])
    with pytest.raises(LakeError, match=f"{newest.name} of the table mine"):
        catalogs.match(lake, "mine", 0.0, -80.0, 59000.0)
    shutil.rmtree(catalogue / "_delta_log")
    catalogs._absent.clear()
    with pytest.raises(LakeError, match=r"no catalogue mine .* import it with"):
        catalogs.match(lake, "mine", 0.0, -80.0, 59000.0)


def test_a_lake_made_again_is_followed_at_any_version(lake: str) -> None:
    for k in range(3):
        store(lake, {1: k})
    for commits in (1, 6):  # fewer than before, and more
        shutil.rmtree(lake)
        write.create(lake, ORDER)
        for k in range(commits):
            store(lake, {2: k + 10})
        assert lookup.versions(lake, ["magstats"]) == {"magstats": commits}
        pixels = np.unique(magstats({1: 1, 2: 1})["pixel"])
        found = lookup.read(lake, "magstats", ["oid", "ndet"], ["Z1", "Z2"], pixels)
        assert dict(found.iter_rows()) == stored(lake) == {"Z2": commits + 9}


def test_versions_sort_as_they_came() -> None:
    versions = ["bootstrap-1.0.0", "bootstrap-1.10.0", "1.9.0", "1.10.0", "20260101.2", "20260101.10", "20261123.1"]
    shuffled = [versions[k] for k in (3, 0, 6, 2, 5, 1, 4)]
    assert sorted(shuffled, key=version_order) == versions
    frame = pl.DataFrame({"version": [*shuffled, None]}).sort(lakes.read.BY_VERSION, nulls_last=True)
    assert frame["version"].to_list() == [*versions, None]
