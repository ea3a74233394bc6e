"""A Transient Name Server and a HERMES on a loopback port, with the ways in which they fail as switches.

It keeps what it was asked (`asked`) and what it took (`taken`), so that a test sees whether anything came twice.
"""

from __future__ import annotations

import csv
import io
import json
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from astropy.coordinates import angular_separation

KEY, TOKEN, GROUP = "a-secret-key-of-a-bot", "a-secret-token-of-hermes", 74
COLUMNS = (
    *("objid", "name_prefix", "name", "ra", "declination", "redshift", "typeid", "type", "reporting_groupid"),
    *("reporting_group", "source_groupid", "source_group", "discoverydate", "discoverymag", "discmagfilter", "filter"),
    *("reporters", "time_received", "internal_names", "Discovery_ADS_bibcode", "Class_ADS_bibcodes", "creationdate"),
    "lastmodified",
)
_MARKER = re.compile(r'tns_marker\{"tns_id": ?"?\d+"?, ?"type": ?"bot", ?"name": ?"[^"]+"\}')
_NEEDED = ("ra", "dec", "reporting_group_id", "discovery_data_source_id", "reporter", "discovery_datetime", "at_type")
_NEEDED = (*_NEEDED, "photometry", "non_detection")

Row = dict[str, Any]


def public_csv(rows: Sequence[Row], period: str = "2026-11-30 00:00:00 - 23:59:59") -> bytes:
    """A file of public objects, unzipped."""
    out = io.StringIO()
    out.write(f'"{period}"\n')
    writer = csv.DictWriter(out, COLUMNS, quoting=csv.QUOTE_ALL, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def public_zip(rows: Sequence[Row], period: str = "2026-11-30 00:00:00 - 23:59:59") -> bytes:
    """A file of public objects as TNS gives it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tns_public_objects.csv", public_csv(rows, period))
    return out.getvalue()


class FakeTns:
    """Context manager that serves; `url` is its address. The attributes below `files` are switches.

    gateway, lose, busy: so many of the next reports are taken and answered 504, taken and forgotten, refused with 429.
    limit: requests that are left until a 429; reset: what it says to wait [s]. delay: requests until a report becomes
    an object. stall: a report is taken and not answered until it is set. down: every answer is 503.
    """

    def __init__(self) -> None:
        self.objects: list[Row] = []
        self.asked: list[str] = []
        self.taken: list[Row] = []
        self.messages: list[Row] = []
        self.files: dict[str, bytes] = {}
        self.gateway = self.lose = self.busy = self.delay = self.limit = 0
        self.reset = "0"
        self.down = self.cut = False
        self.stall: threading.Event | None = None
        self.arrived = threading.Event()
        self._waiting: list[list[Any]] = []
        self._answers: dict[int, tuple[int, Row] | None] = {}
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeTns:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.stall is not None:
            self.stall.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def counted(self) -> Counter[str]:
        """Reports that were taken, by internal name."""
        return Counter(report["internal_name"] for report in self.taken)

    def handed_on(self) -> Counter[str]:
        """Messages that HERMES took and handed on to TNS, by internal name."""
        return Counter(message["data"]["targets"][0]["name"] for message in self.messages)

    def answer(  # noqa: PLR0911
        self, path: str, headers: Any, fields: dict[str, str], body: bytes
    ) -> tuple[int, Row | bytes | None]:
        """Status and body of an answer."""
        with self._lock:
            self.asked.append(path)
            if self.down:
                return 503, None
            if path.startswith("/api/v0/"):
                return self._hermes(path, headers, body)
            if not _MARKER.fullmatch(headers.get("User-Agent", "")) or fields.get("api_key") != KEY:
                return 401, {"id_message": "Unauthorized"}
            if self.limit:
                self.limit -= 1
                if not self.limit:
                    return 429, {"id_message": "Too Many Requests"}
            self._process()
            if path.startswith("/system/files/tns_public_objects/"):
                found = self.files.get(path.rsplit("/", 1)[1])
                return (404, None) if found is None else (200, found)
            what = json.loads(fields.get("data") or "{}")
            if path == "/api/set/bulk-report":
                return self._report(what)
            route = {"/api/get/search": self._search, "/api/get/object": self._object}.get(path)
            if route is not None:
                return route(what)
            return self._reply(int(fields["report_id"]))

    def _process(self) -> None:
        for waiting in self._waiting:
            waiting[0] -= 1
        ripe = [w for w in self._waiting if w[0] < 0]
        self._waiting = [w for w in self._waiting if w[0] >= 0]
        for _, number, report in ripe:
            self._answers[number] = self._judge(report)

    def _judge(self, report: Row) -> tuple[int, Row]:
        missing = {name: {"value": None, "reason": "required"} for name in _NEEDED if not report.get(name)}
        if missing:
            # Some mistakes are told in a reply that looks like a good one.
            return 200 if "reporter" in missing else 400, {"feedback": {"at_report": [missing]}}
        ra, dec = (float(report[name]["value"]) for name in ("ra", "dec"))
        near = self._near(ra, dec, 3.0)
        if near:
            return 200, _feedback("101", {"objname": near[0]["name"], "prefix": near[0]["name_prefix"]})
        name = f"2026{len(self.objects):04d}"
        row = {"objid": 900 + len(self.objects), "name_prefix": "AT", "name": name, "ra": ra, "declination": dec}
        row |= {"internal_names": report["internal_name"], "reporting_groupid": report["reporting_group_id"]}
        self.objects.append(row)
        return 200, _feedback("100", {"objname": name})

    def _near(self, ra: float, dec: float, radius: float) -> list[Row]:
        def apart(row: Row) -> float:
            there = (float(row[name]) for name in ("ra", "declination"))
            radians = [x * 3.141592653589793 / 180 for x in (ra, dec, *there)]
            return float(angular_separation(*radians)) * 206264.80624709636

        return sorted((row for row in self.objects if apart(row) <= radius), key=apart)

    def _report(self, what: Row) -> tuple[int, Row | None]:
        if self.busy:
            self.busy -= 1
            return 429, None
        report = what["at_report"]["0"]
        number = len(self.taken) + 1
        self.taken.append(report)
        self._answers[number] = None
        if self.lose:
            self.lose -= 1
        else:
            self._waiting.append([self.delay, number, report])
        if self.stall is not None:
            self.arrived.set()
            return 0, {"data": {"report_id": number}}
        if self.gateway:
            self.gateway -= 1
            return 504, None
        return 200, {"data": {"report_id": number}}

    def _reply(self, number: int) -> tuple[int, Row | None]:
        known = self._answers.get(number)
        return (404, None) if known is None else (known[0], {"data": known[1]})

    def _search(self, what: Row) -> tuple[int, Row]:
        if "internal_name" in what:
            found = [o for o in self.objects if what["internal_name"] in str(o.get("internal_names", "")).split(", ")]
        else:
            found = self._near(what["ra"], what["dec"], what["radius"])
        return 200, {"data": [{"objname": o["name"], "prefix": o["name_prefix"], "objid": o["objid"]} for o in found]}

    def _object(self, what: Row) -> tuple[int, Row | None]:
        found = next((o for o in self.objects if o["name"] == what["objname"]), None)
        if found is None:
            return 404, None
        group = {"groupid": found.get("reporting_groupid"), "group_name": found.get("reporting_group")}
        told = {"objname": found["name"], "name_prefix": found["name_prefix"], "objid": found["objid"]}
        told |= {"radeg": found["ra"], "decdeg": found["declination"], "redshift": found.get("redshift") or None}
        told |= {"object_type": {"id": None, "name": found.get("type") or None}, "reporting_group": group}
        return 200, {"data": told | {"internal_names": found.get("internal_names")}}

    def _hermes(self, path: str, headers: Any, body: bytes) -> tuple[int, Row]:
        if headers.get("Authorization") != f"Token {TOKEN}":
            return 401, {"detail": "Invalid token."}
        message = json.loads(body)
        wrong = {name: ["This field is required."] for name in ("title", "topic", "submitter") if not message.get(name)}
        if path.endswith("/validate/"):
            return 200, wrong
        if wrong:
            return 400, wrong
        self.messages.append(message)
        (target,) = message["data"]["targets"]
        name = {"name_prefix": "AT", "name": f"2026h{len(self.messages)}", "internal_names": target["name"]}
        place = {"ra": target["ra"], "declination": target["dec"], "reporting_groupid": GROUP}
        self.objects.append({"objid": 500 + len(self.messages), **name, **place})
        if self.gateway:
            self.gateway -= 1
            return 504, {}
        return 201, {"uuid": f"message-{len(self.messages)}"}


def _feedback(code: str, said: Row) -> Row:
    return {"feedback": {"at_report": [{code: {"message": "as it is said", **said}}]}}


def _handler(fake: FakeTns) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            is_form = "form" in self.headers.get("Content-Type", "")
            fields = dict(parse_qsl(body.decode(), keep_blank_values=True)) if is_form else {}
            status, content = fake.answer(self.path, self.headers, fields, body)
            if status == 0 and fake.stall is not None:
                fake.stall.wait()
                status = 200
            data = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("x-rate-limit-remaining", "0")
                self.send_header("x-rate-limit-reset", fake.reset)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if fake.cut else data)
            self.close_connection = fake.cut

        def log_message(self, *_: object) -> None:
            pass

    return Handler
