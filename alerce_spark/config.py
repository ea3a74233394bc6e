"""Settings: conf/alerce.toml, over it the environment (ALERCE_…), over it command-line flags; typed and checked."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from alerce_spark import surveys
from alerce_spark.errors import AlerceError
from alerce_spark.kafka.options import client_options
from alerce_spark.location import lake_path, refuse_credentials

#: Variables with the prefix of the settings that are not settings; the last belongs to ALeRCE's client.
_NOT_SETTINGS = {"ALERCE_CONF", "ALERCE_TEST_DATA", "ALERCE_CONFIG_PATH"}

#: Places of services and data, and secrets, section and key: a value that is refused may hold a secret, so it is not
#: printed.
_PLACES = {
    *(("lake", "path"), ("kafka", "bootstrap_servers"), ("archive", "url"), ("archive", "endpoint_url")),
    *(("stream", "checkpoints"), ("crossmatch", "cds_url"), ("services", "tokens")),
    *(("tns", "url"), ("tns", "api_key"), ("tns", "hermes_url"), ("tns", "hermes_token")),
}
_BROKER = re.compile(r"([A-Z_]+://)?([\w.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")

#: Former keys of [stream] that are settings of a query, and their names in the query's table.
_MOVED = {
    **dict.fromkeys(("interval_s",), "interval_s"),
    **dict.fromkeys(("min_alerts", "min_messages"), "min_messages"),
    **dict.fromkeys(("max_alerts", "max_messages"), "max_messages"),
}


#: Each query of the stream is one file here.
QUERY_FOLDER = Path(__file__).parent / "streaming" / "queries"


def query_names() -> list[str]:
    """Names of the queries of the stream: the files of their folder, which are looked at and not loaded."""
    return sorted(file.stem for file in QUERY_FOLDER.glob("[!_]*.py"))


class ConfigError(AlerceError):
    """A setting is unknown or has a bad value; the message names key, value and where it was set."""


class _Section(BaseModel):
    # Errors do not carry the values: pydantic would print them, and one may be a password in the wrong place.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def _web(url: str | None) -> str | None:
    form = r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[^\s?#]*)?"
    if url is not None and not re.fullmatch(form, refuse_credentials(url)):
        raise ValueError("must be http://<host>[:<port>][/<path>] or the same with https://")
    return url


class LakeSettings(_Section):
    """Place of the Delta tables."""

    path: str = "lake"
    healpix_order: Annotated[int, Field(ge=0, le=8)] = 4
    lease_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    sync: bool = True

    _one_spelling = field_validator("path")(lake_path)


class KafkaSettings(_Section):
    """The brokers, the alert topics, and the one-node broker of `alerce-spark kafka start`."""

    bootstrap_servers: str = "127.0.0.1:19092"
    topics: list[str] = [surveys.get(surveys.DEFAULT).topics]
    options: dict[str, SecretStr] = {}
    partitions: Annotated[int, Field(ge=1)] = 4
    local_dir: Path = Path(".kafka")
    local_heap: str = "512m"

    @field_validator("topics")
    @classmethod
    def _some_topics(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("name at least one topic or pattern")
        return value

    @field_validator("bootstrap_servers")
    @classmethod
    def _addresses(cls, value: str) -> str:
        if not all(_BROKER.fullmatch(address.strip()) for address in value.split(",")):
            raise ValueError("must be host:port, several with commas; logins belong into kafka.options")
        return value

    @field_validator("options")
    @classmethod
    def _known_options(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        client_options("", {name: secret.get_secret_value() for name, secret in value.items()})
        return value

    @property
    def revealed(self) -> dict[str, str]:
        """The options for a client; they must not be printed."""
        return {name: secret.get_secret_value() for name, secret in self.options.items()}


class ArchiveSettings(_Section):
    """The Avro repository, which keeps every packet unchanged."""

    url: str = "file:archive"
    endpoint_url: str | None = None
    region: str = "us-east-1"
    max_attempts: Annotated[int, Field(ge=1)] = 6
    connections: Annotated[int, Field(ge=1)] = 8

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if not re.fullmatch(r"file:(/|///)?[^/\s].*|s3://[^/:?]+(/.*)?", refuse_credentials(value)):
            raise ValueError("must be file:<directory>, file:///<directory> or s3://<bucket>/<prefix>")
        folder = value.removeprefix("file:")
        return f"file:{os.path.expanduser(folder)}" if folder.startswith("~") else value

    @field_validator("endpoint_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        return _web(value)


class QuerySettings(_Section):
    """Interval and size of a query's batches; None is the value in the query's file."""

    interval_s: Annotated[float, Field(ge=0)] | None = None
    min_messages: Annotated[int, Field(ge=1)] | None = None
    max_messages: Annotated[int, Field(ge=1)] | None = None


class StreamSettings(_Section):
    """The streaming queries; every other key is the table of a query, QuerySettings."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, QuerySettings] = Field(init=False)

    queries: list[str] = Field(default_factory=query_names)
    checkpoints: str | None = None
    starting_offsets: Literal["earliest", "latest"] = "earliest"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    batch_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    restart_wait_s: Annotated[float, Field(gt=0)] = 2.0
    restart_wait_max_s: Annotated[float, Field(gt=0)] = 120.0

    @field_validator("checkpoints")
    @classmethod
    def _folder_or_url(cls, value: str | None) -> str | None:
        form = r"file:.+|[a-z0-9]+://[\w.-]*(:\d{1,5})?(/.*)?|(?![A-Za-z][A-Za-z0-9+.-]*:).*"
        if value is not None and not re.fullmatch(form, refuse_credentials(value)):
            raise ValueError("must be a folder, file:///<folder>, s3a://<bucket>/<prefix> or hdfs://<host>/<folder>")
        return value

    @field_validator("queries")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("name at least one query")
        if twice := sorted({name for name in value if value.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is named twice: two of one query would share a checkpoint")
        if unknown := [name for name in value if name not in query_names()]:
            raise ValueError(f"no query {unknown[0]!r}; {_hint(unknown[0], query_names())}")
        return value

    @model_validator(mode="after")
    def _tables_of_queries(self) -> StreamSettings:
        if unknown := [name for name in self.__pydantic_extra__ if name not in query_names()]:
            raise ValueError(f"no query {unknown[0]!r}; {_hint(unknown[0], query_names())}")
        return self

    def table(self, query: str) -> QuerySettings:
        """`[stream.<query>]`."""
        return self.__pydantic_extra__.get(query, QuerySettings())


class CrossmatchSettings(_Section):
    """The remote service of the query `crossmatch`; columns and radii are in conf/catalogs.toml."""

    cds: bool = False
    cds_tables: dict[str, str] = {"allwise": "II/328/allwise"}
    cds_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    cds_url: str | None = None

    @field_validator("cds_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        return _web(value)


class MaintenanceSettings(_Section):
    """Compaction beside the stream, and retention of old files."""

    interval_s: Annotated[float, Field(gt=0)] = 600.0
    max_files: Annotated[int, Field(ge=1)] = 32
    retention_h: Annotated[float, Field(ge=24)] = 168.0


class ServicesSettings(_Section):
    """The HTTP services and their index."""

    index: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8800
    poll_s: Annotated[float, Field(gt=0)] = 0.5
    rate_limit: str = "10000/10 seconds"
    query_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    kept_mb: Annotated[int, Field(ge=0)] = 64
    tap_queries: Annotated[int, Field(ge=1)] = 2
    tap_threads: Annotated[int, Field(ge=1)] = 2
    tap_memory_mb: Annotated[int, Field(ge=64)] = 2048
    tap_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    tap_job_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    tap_rows: Annotated[int, Field(ge=1)] = 1_000_000
    tokens: list[str] = []

    @field_validator("tokens")
    @classmethod
    def _digests(cls, value: list[str]) -> list[str]:
        if not all(re.fullmatch(r"[^\s:]+:[0-9a-f]{64}", token) for token in value):
            raise ValueError("write each as <name>:<sha256 of the token>, 64 digits of 0-9a-f")
        if len({token.split(":")[0] for token in value}) < len(value):
            raise ValueError("a name has two tokens")
        return value


class TnsSettings(_Section):
    """Our accounts at the Transient Name Server and HERMES. Neither is used without its `url`."""

    url: str | None = None
    bot_id: Annotated[int, Field(ge=0)] = 0
    bot_name: str = ""
    api_key: SecretStr = SecretStr("")
    reporting_group: Annotated[int, Field(ge=0)] = 0
    data_source: Annotated[int, Field(ge=0)] = 0
    reporting_group_name: str = ""
    data_source_name: str = ""
    reporters: str = ""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    patience_s: Annotated[float, Field(ge=0)] = 900.0
    settle_s: Annotated[float, Field(ge=0)] = 3600.0
    hermes_url: str | None = None
    hermes_token: SecretStr = SecretStr("")
    hermes_topic: str = "hermes.test"

    @field_validator("url", "hermes_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        return _web(value or None)

    @field_validator("bot_name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[\w .+-]*", value, re.ASCII):
            raise ValueError("may have letters, digits, blanks and . _ + -")
        return value

    @field_validator("api_key", "hermes_token")
    @classmethod
    def _one_line(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[!-~]*", value.get_secret_value()):
            raise ValueError("has blanks, line ends or other characters that no key has")
        return value


class SparkSettings(_Section):
    """The files of conf/spark/ that configure the session outside spark-submit."""

    profile: str = "local"


class Settings(BaseSettings):
    """All settings. Sections are tables of conf/alerce.toml; `ALERCE_KAFKA__TOPICS` overrides `topics` of `[kafka]`."""

    model_config = SettingsConfigDict(
        extra="forbid", env_prefix="ALERCE_", env_nested_delimiter="__", frozen=True, hide_input_in_errors=True
    )

    survey: Literal["ztf"] = "ztf"
    lake: LakeSettings = LakeSettings()
    kafka: KafkaSettings = KafkaSettings()
    archive: ArchiveSettings = ArchiveSettings()
    stream: StreamSettings = StreamSettings()
    crossmatch: CrossmatchSettings = CrossmatchSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    services: ServicesSettings = ServicesSettings()
    tns: TnsSettings = TnsSettings()
    spark: SparkSettings = SparkSettings()

    @property
    def index(self) -> str:
        """File of the serving index: beside the tables unless set. Raises ConfigError for a lake on S3 without one."""
        if self.services.index is None and "://" in self.lake.path:
            raise ConfigError("services.index: name a file on this machine, the lake is not on its disks")
        return self.services.index or f"{self.lake.path.rstrip('/')}/_services/index.sqlite"

    @property
    def checkpoints(self) -> str:
        """Folder of the streaming checkpoints: beside the tables unless set."""
        return self.stream.checkpoints or f"{self.lake.path}/_checkpoints"


def conf_dir() -> Path:
    """Folder of the configuration files: ./conf, else that of the checkout, else that inside the installed package."""
    package = Path(__file__).resolve().parent
    for path in (Path("conf"), package.parent / "conf", package / "_conf"):
        if (path / "alerce.toml").is_file():
            return path
    raise ConfigError("no conf/alerce.toml here, in the checkout or in the installed package")


def load(file: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read settings from `file` (default: ALERCE_CONF, else conf/alerce.toml), environment and `overrides`.

    `overrides` are nested dictionaries as flags give them; None values are left out. Raises ConfigError.
    """
    if file is None:
        file = Path(os.environ["ALERCE_CONF"]) if "ALERCE_CONF" in os.environ else conf_dir() / "alerce.toml"
    if not file.is_file():
        raise ConfigError(f"no settings file {file}")
    flags = _without_none(overrides or {})

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    _refuse_unknown_variables()
    try:
        return Layered(**flags)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(e, file, flags) for e in error.errors())) from None
    except SettingsError as error:  # JSON is expected in a variable
        raise ConfigError(f"the ALERCE_… environment cannot be read: {error}; lists and tables are JSON") from None
    except (ValueError, OSError) as error:  # broken TOML
        raise ConfigError(f"{file} cannot be read: {error}") from None


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    kept = {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items() if v is not None}
    return {k: v for k, v in kept.items() if v != {}}


def _refuse_unknown_variables() -> None:
    known = {f"ALERCE_{name}".upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith("ALERCE_") and name not in _NOT_SETTINGS and name.split("__")[0].upper() not in known:
            raise ConfigError(f"unknown setting {name} in the environment; known: {', '.join(sorted(known))}")


def _explain(error: Any, file: Path, flags: dict[str, Any]) -> str:
    path = [str(p) for p in error["loc"]]
    key = ".".join(path)
    variable = _variable(path)
    if _inside(flags, path):
        where = "command line"
    elif variable is not None:
        where = f"environment variable {variable}"
    else:
        where = str(file)
    if _is_unknown(error, path):
        return f"{where}: unknown key {key}; {_instead(path)}"
    message = error["msg"].removeprefix("Value error, ")
    if path[:2] == ["kafka", "options"] and len(path) > 2 and error["type"] == "string_type":
        message += "; names of options have quotes in TOML, since they have dots"
    return f"{where}: {key}{_value(error, path)}: {message}"


def _is_unknown(error: Any, path: list[str]) -> bool:
    """Whether an error is about an unknown key; in [stream], where queries have tables, about one without a table."""
    is_no_table = path[0] == "stream" and len(path) == 2 and path[1] not in query_names()
    return error["type"] == "extra_forbidden" or (is_no_table and error["type"] == "model_type")


def _instead(path: list[str]) -> str:
    """The known key that an unknown one probably means."""
    if path[0] == "stream":
        query, _, name = path[-1].partition("_")
        if len(path) == 2 and query in query_names() and name in _MOVED:
            variable = f"ALERCE_STREAM__{query.upper()}__{_MOVED[name].upper()}"
            return f"it is now {_MOVED[name]} of [stream.{query}], in the environment {variable}"
        section: Any = StreamSettings if len(path) == 2 else QuerySettings
    else:
        section = Settings.model_fields[path[0]].annotation if len(path) > 1 else Settings
    return _hint(path[-1], list(getattr(section, "model_fields", {})))


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, 1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def _value(error: Any, path: list[str]) -> str:
    """The value, if it cannot contain a password: a plain one, of a known key that names no place or option."""
    given = error["input"]
    named = tuple(path[:2])
    harmless = isinstance(given, str | int | float) and named not in {*_PLACES, ("kafka", "options")} and len(path) > 1
    return f" = {given!r}" if harmless and "@" not in str(given) else ""


def _variable(path: list[str]) -> str | None:
    """The environment variable that gave the value at `path`, or a part of it; in any letter case."""
    given = {name.upper(): name for name in os.environ}
    names = ["ALERCE_" + "__".join(path[:depth]).upper() for depth in range(len(path), 0, -1)]
    parts = sorted(name for name in given if name.startswith(f"{names[0]}__"))
    return next((given[name] for name in (*names, *parts) if name in given), None)


def _inside(values: Any, path: list[str]) -> bool:
    """Whether the value at `path` is one of the flags, or within one."""
    for part in path:
        if not isinstance(values, dict):
            return True
        if part not in values:
            return False
        values = values[part]
    return True
