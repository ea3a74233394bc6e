"""A query is declared once: settings, leases, metrics, warm-up, demo, commands and documents follow its file."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock
from xml.etree import ElementTree

import pytest

from alerce_spark import config, demo
from alerce_spark.cli import main
from alerce_spark.config import ConfigError, Settings, query_names
from alerce_spark.lease import Lease, LeaseHeld
from alerce_spark.session import spark_dir
from alerce_spark.streaming import kernels, queries
from alerce_spark.streaming.alarms import ModelWatch
from alerce_spark.streaming.query import Limits
from alerce_spark.streaming.run import Stream

ROOT = Path(__file__).resolve().parents[2]
SettingsFor = Callable[..., Settings]

TOY = '''
"""Query `toy`: counts messages."""
from alerce_spark.streaming.query import InUse, Query

calls = []

def handle(application):
    calls.append(("handle", application.settings.lake.path))
    application.closing.callback(calls.append, ("closed",))
    return lambda packets: packets.count()

def warm_up(packets, settings):
    calls.append(("warm_up", settings.lake.path))
    return packets

def compile_(lake, survey, packets):
    calls.append(("compile", lake, survey, packets.num_rows))

def models(lake, clock):
    return lambda: [InUse("toy_classifier", "7", None)]

QUERY = Query(
    name="toy", purpose="count messages", interval_s=3.0, min_messages=2, max_messages=7, tables=("taxonomy",),
    topics=("toys_<date>",), handle=handle, warm_up=warm_up, compile=compile_, models=models,
)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of a query that is one more file in the folder of queries, and nothing else."""
    folder = tmp_path / "queries"
    folder.mkdir()
    for file in config.QUERY_FOLDER.glob("*.py"):
        (folder / file.name).symlink_to(file)
    (folder / "toy.py").write_text(TOY)
    monkeypatch.setattr(config, "QUERY_FOLDER", folder)
    monkeypatch.setattr(queries, "__path__", [*queries.__path__, str(folder)])
    yield importlib.import_module("alerce_spark.streaming.queries.toy")
    del sys.modules["alerce_spark.streaming.queries.toy"], queries.toy


def test_settings_know_a_query_by_its_file(toy: ModuleType, settings_for: SettingsFor) -> None:
    assert "toy" in settings_for().stream.queries
    own = settings_for(stream={"queries": ["toy"], "toy": {"interval_s": 1.5, "max_messages": 9}})
    assert toy.QUERY.limits(own.stream) == Limits(1.5, 2, 9)
    assert toy.QUERY.limits(settings_for().stream) == Limits(3.0, 2, 7)
    with pytest.raises(ConfigError, match=r"stream\.toy\.min_messages = 8 is above stream\.toy\.max_messages = 7"):
        Stream(MagicMock(), settings_for(stream={"queries": ["toy"], "toy": {"min_messages": 8}}))
    with pytest.raises(ConfigError, match="interval_s"):
        settings_for(stream={"toy": {"intervals": 1}})


def test_a_query_that_is_no_file_has_no_settings(settings_for: SettingsFor) -> None:
    with pytest.raises(ConfigError, match="toy"):
        settings_for(stream={"toy": {"interval_s": 1.5}})


def test_leases_are_those_of_the_queries_that_write_tables(toy: ModuleType, settings_for: SettingsFor) -> None:
    assert set(queries.writers()) == {"photometry", "crossmatch", "results", "toy"}
    settings = settings_for(stream={"queries": ["toy"]})
    with Lease(settings.lake.path, "an import", 60.0, queries.writers()), pytest.raises(LeaseHeld, match="toy of"):
        Stream(MagicMock(), settings).run()


def test_a_stream_measures_warms_up_and_hands_over(
    toy: ModuleType, settings_for: SettingsFor, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(stream={"queries": ["archive", "toy"]})
    spark = MagicMock()
    spark.sparkContext.master, spark.sparkContext.defaultParallelism = "yarn", 3
    stream = Stream(lambda: spark, settings)
    assert list(stream.metrics.status()["queries"]) == ["archive", "toy"]
    stream.metrics.write()
    with pytest.raises(SystemExit, match="0"):
        main(["status", "--lake", settings.lake.path])
    assert re.search(r"^toy +starting", capsys.readouterr().out, re.M)

    stream._warm_up()
    assert toy.calls == [("warm_up", settings.lake.path)]
    rows, columns = spark.createDataFrame.call_args.args
    assert (len(rows), "packet BINARY" in columns) == (3, True)

    stream._lease = Lease(settings.lake.path, "a test", 60.0, ["toy"])
    handler = stream._handler_of(toy.QUERY)
    assert stream._handler_of(toy.QUERY) is handler
    packets = MagicMock()
    packets.count.return_value = 41
    assert handler(packets) == 41
    stream._closing.close()
    assert toy.calls[1:] == [("handle", settings.lake.path), ("closed",)]


def test_kernels_models_and_the_demo_follow_the_declarations(
    toy: ModuleType, settings_for: SettingsFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "query_names", lambda: ["toy"])
    kernels._compile()
    ((what, _, survey, rows),) = toy.calls
    assert (what, survey, rows) == ("compile", "ztf", 1)

    told: list[Any] = []
    watch = ModelWatch(str(tmp_path), query_names(), lambda *found: told.append(found))
    watch.look("toy")
    assert told == [("toy_classifier", "7", None)]

    made = demo._settings(settings_for(), tmp_path, "ztf_1")
    assert made.stream.queries == query_names()
    assert "toy" in query_names()
    assert toy.QUERY.limits(made.stream) == Limits(3.0, 2, 2)


def test_stream_lists_the_declarations(toy: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["stream", "--list", "--queries", "toy,archive"])
    said = " ".join(re.sub("[│┃]", " ", capsys.readouterr().out).split())
    assert "count messages" in said
    assert "taxonomy" in said
    assert "stamps" not in said


def test_the_table_of_the_design_is_what_the_queries_declare() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", (ROOT / "docs" / "design.md").read_text(), re.M)
    told = {name: (purpose, writes) for name, purpose, writes in rows if name in query_names()}
    assert told == {q.name: (q.purpose, q.writes) for q in map(queries.declared, query_names())}


def test_shares_are_those_of_queries_and_others_need_no_line() -> None:
    pools = ElementTree.parse(spark_dir() / "fairscheduler.xml").getroot().findall("pool")
    assert {pool.attrib["name"] for pool in pools} <= set(query_names())
    # Spark makes a pool of weight 1 for any other, with a warning.
    log = (spark_dir() / "log4j2.properties").read_text().splitlines()
    logger = "org.apache.spark.scheduler.FairSchedulableBuilder"
    assert {f"logger.pools.name = {logger}", "logger.pools.level = error"} <= set(log)
