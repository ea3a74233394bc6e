"""Run one query in a separate process with DuckDB and without other modules of ours: `python -I process.py`.

Standard input has one line, the task; the query may run while it stays open, so it ends when the server dies. The
process reads the given files and no others, opens no connection, and writes one file.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from typing import Any

import duckdb

#: Exit statuses besides 0: an error of the query (the reason is on standard output), an error of the server.
QUERY_FAULT, SERVER_FAULT = 3, 4
#: Errors of a query, whose messages are for users.
_OF_QUERIES = (
    *(duckdb.BinderException, duckdb.ParserException, duckdb.ConversionException, duckdb.OutOfRangeException),
    *(duckdb.InvalidInputException, duckdb.CatalogException, duckdb.SyntaxException, duckdb.NotImplementedException),
    *(duckdb.TypeMismatchException, duckdb.ConstraintException),
)


def main() -> None:
    """Run the task on standard input."""
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_the_server, daemon=True).start()
    _bound(asked)
    sys.exit(_run(asked))


def _die_with_the_server() -> None:
    sys.stdin.read()
    os._exit(SERVER_FAULT)


def _bound(asked: dict[str, Any]) -> None:
    """Set limits that the system enforces, whatever the engine does: memory, CPU time, size of files, no children."""
    memory = (asked["memory_mb"] << 20) + asked["room_bytes"]
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(asked["seconds"] * asked["threads"]) + 5),
        (resource.RLIMIT_FSIZE, asked["file_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _run(asked: dict[str, Any]) -> int:
    try:
        connection = _connect(asked)
        for statement in asked["statements"]:
            connection.execute(statement)
        found = connection.execute(f"COPY ({asked['query']}) TO '{asked['result']}' (FORMAT parquet)").fetchone()
    except (duckdb.OutOfMemoryException, MemoryError):
        return _say(f"the query needs more than {asked['memory_mb']} MB of memory, or too much space for its steps")
    except _OF_QUERIES as error:
        return _say(str(error))
    sys.stdout.write(json.dumps({"rows": found[0] if found else 0}))
    return 0


def _say(message: str) -> int:
    sys.stdout.write(json.dumps({"error": message}))
    return QUERY_FAULT


def _connect(asked: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """An engine that can read the given files only; the settings are locked afterwards."""
    connection = duckdb.connect(config={"threads": asked["threads"], "memory_limit": f"{asked['memory_mb']}MB"})
    paths = ", ".join("'" + path.replace("'", "''") + "'" for path in [*asked["paths"], asked["result"]])
    for setting, value in (
        ("autoinstall_known_extensions", "false"),
        ("autoload_known_extensions", "false"),
        ("allow_community_extensions", "false"),
        ("python_enable_replacements", "false"),
        ("enable_progress_bar", "false"),
        ("TimeZone", "'UTC'"),
        ("integer_division", "true"),
        ("temp_directory", f"'{asked['folder']}/steps'"),
        ("max_temp_directory_size", f"'{asked['spill_mb']}MB'"),
        ("allowed_paths", f"[{paths}]"),
        ("enable_external_access", "false"),
        ("lock_configuration", "true"),
    ):
        connection.execute(f"SET {setting} = {value}")
    return connection


if __name__ == "__main__":
    main()
