"""A real one-node Apache Kafka broker (KRaft, no container) for a laptop, the demo and the tests."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import signal
import socket
import subprocess
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from alerce_spark import jars, needs
from alerce_spark.errors import AlerceError

logger = logging.getLogger(__name__)

VERSION = jars.KAFKA_VERSION
_START_S = 60.0
_STOP_S = 30.0


class KafkaError(AlerceError):
    """The local broker cannot start or stop; the message says why and what to do."""


@dataclass(frozen=True)
class Broker:
    """A running broker: process id, addresses, folder of its data and log."""

    pid: int
    bootstrap_servers: str
    controller_port: int
    folder: str

    @property
    def log(self) -> Path:
        """The broker's log file."""
        return Path(self.folder) / "broker.log"


def start(bootstrap_servers: str, folder: Path, heap: str = "512m") -> Broker:
    """Start the broker at `bootstrap_servers` (host:port on this machine) with its data in `folder`, or find it there.

    Raises KafkaError where the port is taken by something else or the broker ends early, MissingError without Java.
    """
    folder = folder.resolve()
    running = status(folder)
    if running is not None:
        if running.bootstrap_servers != bootstrap_servers:
            raise KafkaError(
                f"the broker of {folder} already runs at {running.bootstrap_servers}, not at {bootstrap_servers}; "
                "stop it first: alerce-spark kafka stop"
            )
        return running
    host, port = _address(bootstrap_servers)
    if _answers(host, port):
        raise KafkaError(
            f"port {port} on {host} is taken by another program; set kafka.bootstrap_servers to a free one "
            f"(ALERCE_KAFKA__BOOTSTRAP_SERVERS={host}:PORT)"
        )
    java = needs.java()
    files = jars.kafka().fetch()
    controller = free_port()
    properties = folder / "server.properties"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        properties.write_text(_properties(host, port, controller, folder / "data"))
    except OSError as error:
        raise KafkaError(f"kafka.local_dir = '{folder}' cannot be written: {error.strerror}; choose another") from None
    command = [
        java,
        f"-Xmx{heap}",
        "-Xms128m",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        f"{files[0].parent}/*",
    ]
    _format(command, properties, folder / "data")
    output = folder / "broker.log"
    with output.open("ab") as sink:
        process = subprocess.Popen(
            [*command, "kafka.Kafka", str(properties)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
        )
    broker = Broker(process.pid, bootstrap_servers, controller, str(folder))
    _state_file(folder).write_text(json.dumps(asdict(broker)))
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            _state_file(folder).unlink(missing_ok=True)
            raise KafkaError(f"the broker ended with code {process.returncode}; the end of {output}:\n{_tail(output)}")
        if _answers(host, port):
            return broker
        time.sleep(0.1)
    stop(folder)
    raise KafkaError(f"the broker did not answer at {bootstrap_servers} within {_START_S:.0f} s; see {output}")


def stop(folder: Path) -> bool:
    """Stop the broker of `folder`; False where none ran. Raises KafkaError where it does not end."""
    broker = status(folder)
    if broker is None:
        return False
    os.kill(broker.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while _alive(broker.pid, folder.resolve()):
        if time.monotonic() > deadline:
            raise KafkaError(
                f"the broker (process {broker.pid}) did not end within {_STOP_S:.0f} s of SIGTERM; see {broker.log}, "
                f"and end it with: kill -9 {broker.pid}"
            )
        time.sleep(0.1)
    _state_file(folder).unlink(missing_ok=True)
    return True


def status(folder: Path) -> Broker | None:
    """The running broker of `folder`, or None. A process that is not this broker is never taken for it."""
    state = _state_file(folder.resolve())
    if not state.is_file():
        return None
    try:
        broker = Broker(**json.loads(state.read_text()))
    except (ValueError, TypeError):
        logger.warning("%s is damaged and passed over; a broker that runs from there must be ended by hand", state)
        return None
    if _alive(broker.pid, folder.resolve()):
        return broker
    state.unlink(missing_ok=True)
    return None


def free_port() -> int:
    """A port of the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _state_file(folder: Path) -> Path:
    return folder / "broker.json"


def _address(bootstrap_servers: str) -> tuple[str, int]:
    host, _, port = bootstrap_servers.split(",", maxsplit=1)[0].rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise KafkaError(f"kafka.bootstrap_servers = {bootstrap_servers!r}: expected host:port")
    if host not in ("127.0.0.1", "localhost"):
        raise KafkaError(f"a local broker listens on this machine only, not on {host}; use 127.0.0.1:PORT")
    return host, int(port)


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _properties(host: str, port: int, controller: int, data: Path) -> str:
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://{host}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "message.max.bytes": str(64 << 20),
        "replica.fetch.max.bytes": str(64 << 20),
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _format(command: list[str], properties: Path, data: Path) -> None:
    if (data / "meta.properties").is_file():
        return
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # With "=", since one cluster of 64 has a name that begins with "-".
    tool = [*command, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(properties)]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise KafkaError(f"formatting {data} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _alive(pid: int, folder: Path) -> bool:
    """Whether `pid` is a broker of `folder`: its command line names both, so a reused id is not mistaken for it."""
    done = subprocess.run(
        ["ps", "-ww", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    line = done.stdout.strip()
    return bool(line) and not line.startswith("Z") and "kafka.Kafka" in line and str(folder) in line


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
