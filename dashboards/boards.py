"""The dashboards: stream, lake, nightly, API."""

from __future__ import annotations

from pathlib import Path

from dashboards.parts import board, distribution, lines, number

FOLDER = Path(__file__).parents[1] / "conf" / "grafana"
_PERCENTILES = (50, 95, 99)


def boards() -> dict[str, str]:
    """The dashboards as JSON, by file name."""
    return {"stream.json": _stream(), "lake.json": _lake(), "nightly.json": _nightly(), "api.json": _api()}


def _quantile(percent: int, histogram: str, by: str) -> str:
    return f"histogram_quantile({percent / 100}, sum by ({by}, le) (rate({histogram}_bucket[$__rate_interval])))"


def _stream() -> str:
    latency = "alerce_latency_seconds"
    percentiles = [(_quantile(p, latency, "step"), f"{{{{step}}}} {p} %") for p in _PERCENTILES]
    rows = {
        "Rates": [
            lines("Alerts a second", "short", ("rate(alerce_alerts_total[$__rate_interval])", "{{query}}")),
            lines("Messages that wait", "short", ("alerce_lag_alerts", "{{query}}")),
            lines("Alerts a second in the last batch", "short", ("alerce_rate", "{{query}}")),
        ],
        "Latency from the alert in Kafka to its result": [
            distribution(
                "Share of alerts whose result is there after so many seconds",
                latency,
                "step",
                "Cumulative distributions over the time that is shown; x: seconds.",
            ),
            lines("Percentiles", "s", *percentiles),
        ],
        "Failures": [
            lines("Queries that fail (1), by cause", "short", ("alerce_failing", "{{query}}: {{cause}}")),
            lines("Failures in an hour", "short", ("increase(alerce_failures_total[1h])", "{{query}}")),
            lines(
                "Kafka away, models that cannot be used (1)",
                "short",
                ("alerce_kafka_away", "Kafka at {{instance}}"),
                ("alerce_alarm", "{{model}}"),
            ),
        ],
    }
    return board("alerce_spark: stream", "alerce-stream", rows)


def _lake() -> str:
    rows = {
        "Tables": [
            lines("Bytes", "bytes", ("alerce_table_bytes", "{{table}}")),
            lines("Live files", "short", ("alerce_table_files", "{{table}}")),
        ],
        "Writing": [
            lines("Commits in an hour", "short", ("delta(alerce_table_version[1h])", "{{table}}")),
            lines(
                "Mean size of a file",
                "bytes",
                ("alerce_table_bytes / (alerce_table_files > 0)", "{{table}}"),
                about="Falls where compaction does not keep up.",
            ),
        ],
        "Troubles": [
            lines("Packets in quarantine", "short", ("alerce_quarantine_rows", "{{stage}}")),
            lines("Free on the disk of the lake", "bytes", ("alerce_lake_free_bytes", "{{instance}}")),
            lines("Tables can be read (1)", "short", ("alerce_lake_readable", "{{instance}}")),
        ],
    }
    return board("alerce_spark: lake", "alerce-lake", rows)


def _nightly() -> str:
    rows = {
        "The last night that was checked": [
            number("Night", "dateTimeAsIso", "alerce_nightly_night_seconds * 1000"),
            number("Checked", "s", "time() - alerce_nightly_finished_seconds", "Seconds since its last round."),
            number("Packets", "short", "alerce_nightly_expected"),
            number("In no table", "short", "alerce_nightly_missing"),
            number("Sent again", "short", "alerce_nightly_resent"),
        ],
        "Night after night": [
            lines(
                "Packets",
                "short",
                ("alerce_nightly_expected", "expected at {{instance}}"),
                ("alerce_nightly_missing", "in no table at {{instance}}"),
                ("alerce_nightly_resent", "sent again at {{instance}}"),
            ),
            lines("Violations by invariant", "short", ("alerce_nightly_broken", "{{invariant}}")),
        ],
    }
    return board("alerce_spark: nightly", "alerce-nightly", rows)


def _api() -> str:
    requests = "alerce_request_seconds"
    rate = f"rate({requests}_count[$__rate_interval])"
    kept = "alerce_kept_replies_total"
    found = f'sum (rate({kept}{{result="hit"}}[$__rate_interval])) / sum (rate({kept}[$__rate_interval]))'
    share = f'sum (rate({requests}_count{{status=~"5.."}}[$__rate_interval])) / sum ({rate})'
    rows = {
        "Requests": [
            lines("Requests a second, by route", "reqps", (f"sum by (route) ({rate})", "{{route}}")),
            lines("By status", "reqps", (f"sum by (status) ({rate})", "{{status}}")),
            lines("Share of faults (5xx)", "percentunit", (f"{share} or vector(0)", "faults")),
        ],
        "Time of a reply": [
            distribution("Share of requests answered after so many seconds", requests, "route"),
            lines("95th percentile, by route", "s", (_quantile(95, requests, "route"), "{{route}}")),
        ],
        "Index": [
            lines("Commits behind the lake", "short", ("alerce_index_lag_versions", "{{table}}")),
            lines("Seconds behind the lake", "s", ("alerce_index_lag_seconds", "{{table}}")),
            lines("Index and lake can be compared (1)", "short", ("alerce_index_readable", "{{instance}}")),
        ],
        "Replies of light curves that are kept": [
            lines("Share found", "percentunit", (found, "hits")),
            lines("Memory of the server", "bytes", ('process_resident_memory_bytes{job="alerce-api"}', "{{instance}}")),
        ],
        "TAP": [
            lines(
                "Queries",
                "short",
                ("alerce_tap_running", "run at {{instance}}"),
                ("alerce_tap_waiting", "wait at {{instance}}"),
                ("alerce_tap_queued_jobs", "jobs that wait at {{instance}}"),
            ),
            lines("Results in an hour", "short", ("increase(alerce_tap_queries_total[1h])", "{{result}}")),
        ],
    }
    return board("alerce_spark: API", "alerce-api", rows)
