"""Spark's daemon of Python workers, for an application whose output people read.

Spark's JVM lets a worker go that was idle for a minute, and all of them at its end. The worker then tries to say so on
the closed connection, and pyspark prints a trace for each. Named by spark.python.daemon.module.
"""

from __future__ import annotations

import socket

from pyspark import daemon

_work = daemon.worker


def worker(sock: socket.socket, authenticated: bool) -> int:
    """Read as pyspark does; a connection that the JVM has closed is an order to end."""
    try:
        return int(_work(sock, authenticated))
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    daemon.worker = worker
    daemon.manager()
