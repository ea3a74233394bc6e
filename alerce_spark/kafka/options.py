"""`kafka.options`: the known names, and their meaning for librdkafka, the library of our admin client and producer.

Spark passes options that begin with `kafka.` to the Java client and drops unknown ones. A mistyped security option
would thus leave a connection in clear text, so unknown names are refused here.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping

from alerce_spark.errors import InputError

Configuration = dict[str, str | int | float | bool]

_PREFIX = "kafka."
#: Options of Spark's Kafka source and sink; topics, offsets and sizes of a batch have other settings.
_OF_SPARK = frozenset(
    {
        *("minPartitions", "maxRecordsPerPartition", "kafkaConsumer.pollTimeoutMs", "groupIdPrefix"),
        *("fetchOffset.numRetries", "fetchOffset.retryIntervalMs"),
    }
)
#: Options of the Java clients that do not concern security; librdkafka keeps its defaults.
_OF_JAVA = frozenset(
    {
        *("client.id", "client.rack", "client.dns.lookup", "metadata.max.age.ms", "request.timeout.ms"),
        *("connections.max.idle.ms", "default.api.timeout.ms", "receive.buffer.bytes", "send.buffer.bytes"),
        *("reconnect.backoff.ms", "reconnect.backoff.max.ms", "retry.backoff.ms", "retry.backoff.max.ms"),
        *("socket.connection.setup.timeout.ms", "socket.connection.setup.timeout.max.ms"),
        *("session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms", "max.poll.records"),
        *("fetch.min.bytes", "fetch.max.bytes", "fetch.max.wait.ms", "max.partition.fetch.bytes"),
        *("delivery.timeout.ms", "linger.ms", "batch.size", "buffer.memory", "max.block.ms", "max.request.size"),
        "compression.type",
    }
)
#: Security options with the same meaning in both, with their names in librdkafka.
_SAME_VALUE = {
    "security.protocol": "security.protocol",
    "sasl.mechanism": "sasl.mechanism",
    "ssl.key.password": "ssl.key.password",
    "ssl.truststore.certificates": "ssl.ca.pem",
    "ssl.keystore.certificate.chain": "ssl.certificate.pem",
    "ssl.keystore.key": "ssl.key.pem",
    "ssl.cipher.suites": "ssl.cipher.suites",
}
_JAAS, _ENDPOINT = "sasl.jaas.config", "ssl.endpoint.identification.algorithm"
_OF_SECURITY = frozenset(
    {
        *(*_SAME_VALUE, _JAAS, _ENDPOINT),
        *(f"ssl.{store}.{part}" for store in ("truststore", "keystore") for part in ("location", "type", "password")),
    }
)
#: Names of librdkafka, and the Java option that does the same.
_OF_LIBRDKAFKA = {
    "sasl.username": _JAAS,
    "sasl.password": _JAAS,
    "sasl.mechanisms": "sasl.mechanism",
    "ssl.ca.location": "ssl.truststore.location",
    "ssl.ca.pem": "ssl.truststore.certificates",
    "ssl.certificate.location": "ssl.keystore.location",
    "ssl.certificate.pem": "ssl.keystore.certificate.chain",
    "ssl.key.location": "ssl.keystore.location",
    "ssl.key.pem": "ssl.keystore.key",
}
#: Stores of certificates: librdkafka's options for the file, by Java option and type.
_STORES = {
    ("ssl.truststore", "PEM"): ("ssl.ca.location",),
    ("ssl.keystore", "PEM"): ("ssl.certificate.location", "ssl.key.location"),
    ("ssl.keystore", "PKCS12"): ("ssl.keystore.location",),
}
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def client_options(bootstrap_servers: str, options: Mapping[str, str]) -> Configuration:
    """Configuration of a librdkafka client that reaches the brokers as Spark does with `kafka.options`.

    Encryption and authentication are translated (PLAIN and SCRAM; certificates as PEM, a key also as PKCS12). Raises
    InputError, without any value in its message, for an unknown option, for one that librdkafka cannot follow, and for
    logins and certificates that kafka.security.protocol would not use.
    """
    _refuse_unknown(options)
    given = {name.removeprefix(_PREFIX): value for name, value in options.items() if name.startswith(_PREFIX)}
    security = {name: value for name, value in given.items() if name in _OF_SECURITY}
    _refuse_unused(security)
    made: Configuration = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
    made |= {_SAME_VALUE[k]: v for k, v in security.items() if k in _SAME_VALUE}
    for store in ("ssl.truststore", "ssl.keystore"):
        made |= _store(store, security)
    if _ENDPOINT in security:
        made[_ENDPOINT] = security[_ENDPOINT] or "none"
    if _JAAS in security:
        made |= _login(security[_JAAS], security.get("sasl.mechanism", "GSSAPI"))
    return made


def _refuse_unknown(options: Mapping[str, str]) -> None:
    known = {*_OF_SPARK, *(_PREFIX + name for name in (*_OF_JAVA, *_OF_SECURITY))}
    for name in options:
        if name not in known:
            shown = re.match(r"[\w.-]*", name)  # part of a login line may be in the name
            raise InputError(f"unknown option {shown[0] if shown else ''!r}; {_hint(name, known)}")


def _hint(name: str, known: set[str]) -> str:
    plain = name.lower().removeprefix(_PREFIX)
    if plain in _OF_LIBRDKAFKA:
        return f"Java's client calls this {_PREFIX}{_OF_LIBRDKAFKA[plain]}"
    near = difflib.get_close_matches(_PREFIX + plain, sorted(known), 1, 0.8)
    near = near or difflib.get_close_matches(name, sorted(known), 1, 0.8)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(sorted(_OF_SPARK))} and, with {_PREFIX!r} before them, options of the Java client"


def _refuse_unused(security: Mapping[str, str]) -> None:
    """Refuse options that the protocol ignores: the connection would be less safe than it looks."""
    protocol = security.get("security.protocol", "PLAINTEXT").upper()
    if protocol not in _PROTOCOLS:
        raise InputError(f"kafka.security.protocol is one of {', '.join(_PROTOCOLS)}")
    for kind, wanted in (("sasl.", "SASL_"), ("ssl.", "SSL")):
        if wanted not in protocol and (unused := sorted(name for name in security if name.startswith(kind))):
            fitting = " or ".join(p for p in _PROTOCOLS if wanted in p)
            raise InputError(
                f"{_PREFIX}{unused[0]} has no effect with kafka.security.protocol = {protocol!r}: set that to {fitting}"
            )
    if "SASL_" in protocol and not {"sasl.mechanism", _JAAS} <= set(security):
        raise InputError(f"{protocol} needs kafka.sasl.mechanism and kafka.{_JAAS}")


def _store(store: str, security: Mapping[str, str]) -> dict[str, str]:
    """Options of librdkafka for a store of certificates."""
    file, kind = security.get(f"{store}.location"), security.get(f"{store}.type", "JKS").upper()
    if file is None:
        return {}
    if (store, kind) not in _STORES:
        raise InputError(
            f"kafka.{store}.location is of type {kind}, which librdkafka does not read; "
            f"give a PEM file and kafka.{store}.type = 'PEM'"
        )
    taken = dict.fromkeys(_STORES[store, kind], file)
    password = security.get(f"{store}.password")
    return taken | ({"ssl.keystore.password": password} if kind == "PKCS12" and password is not None else {})


def _login(jaas: str, mechanism: str) -> dict[str, str]:
    """User and password from a line of Java's login configuration: module, flag, name="value" …;"""
    if mechanism not in _MECHANISMS:
        raise InputError(f"kafka.sasl.mechanism: the admin client and producer know {', '.join(_MECHANISMS)} only")
    try:
        words = shlex.split(jaas.strip().rstrip(";"))
    except ValueError:
        words = []
    said = dict(word.split("=", 1) for word in words[2:] if "=" in word)
    if not {"username", "password"} <= set(said):
        raise InputError(
            f"kafka.{_JAAS} must read: org.apache.kafka.common.security.plain.PlainLoginModule "
            'required username="…" password="…"; (or scram.ScramLoginModule)'
        )
    return {"sasl.username": said["username"], "sasl.password": said["password"]}
