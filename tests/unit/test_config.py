"""Settings: layers, and errors that name key, value and place."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import pytest

from alerce_spark.config import ConfigError, Settings, StreamSettings, load, query_names
from alerce_spark.streaming.queries import declared

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "conf" / "alerce.toml"


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "alerce.toml"
    path.write_text(text)
    return path


def test_the_shipped_file_shows_the_defaults() -> None:
    shipped = load(SHIPPED).model_dump()
    tables = {name: shipped["stream"].pop(name) for name in query_names()}
    assert shipped == Settings.model_construct().model_dump()
    assert tables == {name: declared(name).limits(StreamSettings())._asdict() for name in query_names()}


def test_flags_override_environment_and_environment_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _file(tmp_path, '[lake]\npath = "from-file"\nhealpix_order = 2\n[kafka]\npartitions = 7\n')
    monkeypatch.setenv("ALERCE_LAKE__PATH", "from-environment")
    monkeypatch.setenv("ALERCE_KAFKA__PARTITIONS", "9")
    settings = load(file, {"kafka": {"partitions": 11, "bootstrap_servers": None}})
    assert (settings.lake.path, settings.lake.healpix_order, settings.kafka.partitions) == ("from-environment", 2, 11)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[kafka]\nbootstrap_server = 'a:1'\n", ["kafka.bootstrap_server", "did you mean bootstrap_servers?"]),
        ("[lake]\nhealpix_order = 40\n", ["lake.healpix_order", "40"]),
        ("[lake]\npath = 'hdfs://x/y'\n", ["lake.path", "hdfs://", "not supported"]),
        ("[stream]\nqueries = ['photometri']\n", ["stream.queries", "photometri", "did you mean photometry?"]),
        ("[stream.photometri]\ninterval_s = 1\n", ["stream", "photometri", "did you mean photometry?"]),
        ("[stream.stamps]\nmax_alerts = 1\n", ["unknown key stream.stamps.max_alerts", "max_messages"]),
        ("[stream]\nmetrics_prt = 1\n", ["unknown key stream.metrics_prt", "did you mean metrics_port?"]),
        ("[stream]\nstamps_interval_s = 1\n", ["stream.stamps_interval_s", "interval_s of [stream.stamps]"]),
        ("[stream]\nresults_max_messages = 9\n", ["max_messages of [stream.results]"]),
        ("[stream]\nphotometry_min_alerts = 9\n", ["min_messages of [stream.photometry]"]),
        ("[archive]\nurl = 'ftp://x'\n", ["archive.url", "s3://<bucket>/<prefix>"]),
        ("[nothing]\na = 1\n", ["nothing"]),
        ("[stream]\nqueries = ['stamps', 'results', 'stamps']\n", ["stamps is named twice"]),
        ("[stream]\nqueries = []\n", ["at least one query"]),
        ("[stream]\nbatch_timeout_s = inf\n", ["stream.batch_timeout_s", "finite"]),
        ("[maintenance]\nretention_h = nan\n", ["maintenance.retention_h", "finite"]),
        ("[kafka]\nbootstrap_servers = 'somewhere'\n", ["kafka.bootstrap_servers", "host:port"]),
        ("[archive]\nendpoint_url = 'minio:9000'\n", ["archive.endpoint_url", "http://"]),
        ("[lake]\npath = ' '\n", ["lake.path", "is empty"]),
        ("[lake\n", ["cannot be read"]),
    ],
)
def test_errors_in_the_file_name_key_value_and_file(tmp_path: Path, text: str, wanted: list[str]) -> None:
    file = _file(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(file)
    for part in [*wanted, str(file)]:
        assert part in str(error.value)


def test_errors_in_the_environment_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERCE_KAFKA__PARTITIONS", "0")
    with pytest.raises(ConfigError, match=r"ALERCE_KAFKA__PARTITIONS: kafka\.partitions = '0'"):
        load(SHIPPED)


def test_a_table_of_a_query_comes_from_file_environment_and_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(tmp_path, "[stream.photometry]\ninterval_s = 3\nmax_messages = 9000\n")
    monkeypatch.setenv("ALERCE_STREAM__PHOTOMETRY__MAX_MESSAGES", "7000")
    settings = load(file, {"stream": {"photometry": {"min_messages": 5}}})
    assert declared("photometry").limits(settings.stream) == (3.0, 5, 7000)
    assert declared("stamps").limits(settings.stream) == (0.2, None, 2000)
    few = load(file, {"stream": {"photometry": {"min_messages": 8001}}})
    with pytest.raises(ConfigError, match=r"stream\.photometry\.min_messages = 8001 .* no batch could begin"):
        declared("photometry").limits(few.stream)
    monkeypatch.setenv("ALERCE_STREAM__PHOTOMETRY__MAX_MESSAGES", "0")
    with pytest.raises(ConfigError, match=r"ALERCE_STREAM__PHOTOMETRY__MAX_MESSAGES: stream\.photometry\.max_messages"):
        load(file)
    monkeypatch.delenv("ALERCE_STREAM__PHOTOMETRY__MAX_MESSAGES")
    monkeypatch.setenv("ALERCE_STREAM__PHOTOMETRY_MAX_ALERTS", "9")
    with pytest.raises(ConfigError, match="ALERCE_STREAM__PHOTOMETRY__MAX_MESSAGES"):
        load(file)


def test_an_option_of_kafka_in_the_environment_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERCE_KAFKA__OPTIONS__SASL_PASSWORD", "x")
    with pytest.raises(ConfigError, match=r"^environment variable ALERCE_KAFKA__OPTIONS__SASL_PASSWORD: "):
        load(SHIPPED)


def test_unknown_variables_and_missing_files_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no settings file"):
        load(tmp_path / "absent.toml")
    monkeypatch.setenv("ALERCE_KAFKKA__PARTITIONS", "1")
    with pytest.raises(ConfigError, match="ALERCE_KAFKKA__PARTITIONS"):
        load(SHIPPED)


def test_errors_of_flags_name_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"command line: lake\.healpix_order = 99"):
        load(SHIPPED, {"lake": {"healpix_order": 99}})
    with pytest.raises(ConfigError, match=r"^command line: stream\.queries: no query 'Stamps'; did you mean stamps\?"):
        load(SHIPPED, {"stream": {"queries": ["Stamps"]}})


_SECRET = "hunter2"
_LOGIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required username="me" password="{_SECRET}";'
_OPTIONS = {
    "kafka.security.protocol": "SASL_SSL",
    "kafka.sasl.mechanism": "PLAIN",
    "kafka.sasl.jaas.config": _LOGIN,
}


@pytest.mark.parametrize(
    "text",
    [
        f"[kafka]\npassword = '{_SECRET}'\n",
        f"[kafka]\n\"sasl.jaas.config\" = '{_LOGIN}'\n",
        f"[kafka]\noption = {{\"kafka.sasl.jaas.config\" = '{_LOGIN}'}}\n",
        f"[kafka]\noptions = '{_LOGIN}'\n",
        f"[kafka.options]\nkafka.sasl.jaas.config = '{_LOGIN}'\n",
        f"[kafka.options]\n\"sasl.jaas.config\" = '{_LOGIN}'\n",
        f"[kafka.options]\n\"kafka.sasl.jaas.config\" = ['{_LOGIN}']\n",
        f"[kafka.options]\n'{_LOGIN}' = 'x'\n",
        f"[kafka]\nbootstrap_servers = 'me:{_SECRET}@host:9092'\n",
        f"kafka = '{_LOGIN}'\n",
        f"[kafka-options]\npassword = '{_SECRET}'\n",
        f"password = '{_SECRET}'\n",
        f"[lake]\npath = 's3a://key:{_SECRET}@bucket/lake'\n",
        f"[archive]\nurl = 's3://key:{_SECRET}@bucket/packets'\n",
        f"[archive]\nendpoint_url = 'http://key:{_SECRET}@minio:9000'\n",
        f"[archive]\nsecret_access_key = '{_SECRET}'\n",
        f"[crossmatch]\ncds_url = 'https://me:{_SECRET}@cds/sync'\n",
        f'[kafka.options]\n"kafka.sasl.jaas.config" = \'{_LOGIN}\n',
    ],
)
def test_a_password_in_a_mistaken_place_is_not_printed(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(_file(tmp_path, text))
    assert _SECRET not in str(error.value)
    assert _SECRET not in "".join(traceback.format_exception(error.value))


_PLACES = ("lake.path", "archive.url", "archive.endpoint_url", "crossmatch.cds_url", "stream.checkpoints")


@pytest.mark.parametrize("key", [*_PLACES, "kafka.bootstrap_servers"])
@pytest.mark.parametrize(
    "value",
    [
        *("s3a://AKIA:se/hunter2@bucket/x", "s3://AKIA:se/hunter2@bucket/x", "http://AKIA:se/hunter2@minio:9000"),
        *("s3a:AKIA:hunter2@bucket/x", "s3a:/AKIA:hunter2@bucket/x", "AKIA:hunter2@bucket/x", "s3:AKIA:hunter2"),
        *("file:AKIA:hunter2@x", "s3://AKIA:hunter2/x", "u:hunter2", "gs://u:hunter2", "h:9092;password=hunter2"),
    ],
)
def test_a_place_with_a_password_in_it_is_refused_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv(f"ALERCE_{key.replace('.', '__').upper()}", value)
    with pytest.raises(ConfigError, match=key) as error:
        load(SHIPPED)
    assert _SECRET not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("key", ["archive.url", "archive.endpoint_url", "crossmatch.cds_url"])
def test_a_signed_url_is_refused_and_not_printed(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(f"ALERCE_{key.replace('.', '__').upper()}", "https://h/?sig=hunter2")
    with pytest.raises(ConfigError, match=key) as error:
        load(SHIPPED)
    assert _SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("kafka.bootstrap_servers", value) for value in ("a.b:1,c-d:2", "[::1]:9092", "SASL_SSL://a:9092")),
        *(("archive.url", value) for value in ("file:a b", "file:/home/me@x/a", "file:///a", "s3://b.c/d")),
        *(("archive.endpoint_url", value) for value in ("http://127.0.0.1:9000", "https://minio/", "http://[::1]:9")),
        *(("stream.checkpoints", value) for value in ("a/b c", "/a:b", "hdfs:///a", "hdfs://n:8020/a", "s3a://b/c")),
    ],
)
def test_places_without_secrets_are_taken(key: str, value: str) -> None:
    section, name = key.split(".")
    assert getattr(getattr(load(SHIPPED, {section: {name: value}}), section), name) == value


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALERCE_KAFKA__OPTIONS", _LOGIN),
        ("ALERCE_KAFKA__OPTION", _LOGIN),
        ("ALERCE_KAFKA__OPTIONS__SASL_PASSWORD", _SECRET),
        ("alerce_kafka__password", _SECRET),
        ("ALERCE_KAFKA", _LOGIN),
        ("ALERCE_PASSWORD", _SECRET),
    ],
)
def test_a_password_in_a_mistaken_variable_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as error:
        load(SHIPPED)
    assert _SECRET not in str(error.value)


def test_options_of_kafka_never_print_and_reach_clients_and_workers() -> None:
    settings = load(SHIPPED, {"kafka": {"options": _OPTIONS}})
    for shown in (repr(settings), str(settings.kafka), settings.model_dump_json(), repr(settings.model_dump())):
        assert _SECRET not in shown
    assert settings.kafka.revealed == _OPTIONS
    assert pickle.loads(pickle.dumps(settings.kafka)).revealed == _OPTIONS  # noqa: S301


def test_values_keep_to_one_spelling_of_the_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("~/my lake", f"{tmp_path}/my lake/", f"file:{tmp_path}/my lake", f"file://{tmp_path}/my%20lake"):
        settings = load(SHIPPED, {"lake": {"path": given}})
        assert settings.lake.path == f"{tmp_path}/my lake"
        assert settings.checkpoints == f"{tmp_path}/my lake/_checkpoints"
