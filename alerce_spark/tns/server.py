"""Requests to the Transient Name Server: files of public objects, searches, reports of bots."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from alerce_spark.config import ConfigError, TnsSettings
from alerce_spark.tns.http import NotTaken, Server, Unsure, body_of

T = TypeVar("T")

_FILES = "/system/files/tns_public_objects/"
#: Largest file accepted [bytes]; the whole list has some fifty million.
_LARGEST_FILE = 1 << 30
_CHUNK = 1 << 20
#: Attempts of a query without an answer, and growing waits between them [s].
_ATTEMPTS, _FIRST_WAIT_S, _LONGEST_WAIT_S = 3, 0.5, 10.0
_REASON_LENGTH = 2000
#: Messages of TNS about an object of a report.
_NEW, _RENAMED = "100", "121"


@dataclass(frozen=True)
class Answer:
    """Result of a report: named, exists or rejected; the object's name at TNS, and reasons."""

    state: str
    name: str | None
    note: str | None


class Tns:
    """The bot of the settings. Raises ConfigError where it is not set, TnsError without an answer."""

    def __init__(self, settings: TnsSettings) -> None:
        key = settings.api_key.get_secret_value()
        if not (settings.url and settings.bot_id and settings.bot_name and key):
            raise ConfigError(
                "TNS is not asked: set url, bot_id and bot_name in [tns] of the settings, and ALERCE_TNS__API_KEY"
            )
        self._key, self._group = key, settings.reporting_group
        marker = json.dumps({"tns_id": settings.bot_id, "type": "bot", "name": settings.bot_name})
        headers = {"User-Agent": f"tns_marker{marker}"}
        self._server = Server("TNS", settings.url, headers, settings.timeout_s, settings.patience_s)

    def file(self, name: str, target: Path) -> bool:
        """Store a file of public objects at `target`; False where TNS has none of that name yet."""
        return _repeated(lambda: self._file(name, target))

    def _file(self, name: str, target: Path) -> bool:
        with self._server.post(_FILES + name, data={"api_key": self._key}, stream=True) as answer:
            if answer.status_code == 404:
                return False
            if answer.status_code != 200:
                raise NotTaken(f"TNS answers {name} with status {answer.status_code}")
            size = 0
            try:
                with target.open("wb") as out:
                    for chunk in answer.iter_content(_CHUNK):
                        size += out.write(chunk)
                        if size > _LARGEST_FILE:
                            raise NotTaken(f"{name} of TNS has more than {_LARGEST_FILE >> 30} GB")
            except requests.RequestException as error:
                raise Unsure(f"{name} of TNS was cut after {size} bytes: {type(error).__name__}") from None
        return True

    def near(self, ra: float, dec: float, radius: float) -> list[str]:
        """Names of objects within `radius` arcsec of a position [deg], with their prefix."""
        return self._search({"ra": ra, "dec": dec, "radius": radius, "units": "arcsec"})

    def called(self, internal_name: str) -> list[str]:
        """Names of objects with an internal name."""
        return self._search({"internal_name": internal_name, "internal_name_exact_match": "1"})

    def _search(self, what: dict[str, Any]) -> list[str]:
        found = _repeated(lambda: self._get("/api/get/search", what))
        try:
            return [f"{one.get('prefix') or ''}{one['objname']}" for one in found or ()]
        except (TypeError, KeyError, AttributeError):
            raise Unsure("the answer of TNS to a search cannot be understood") from None

    def object(self, name: str) -> dict[str, Any] | None:
        """TNS's data of an object, by its name without prefix; None for an unknown one."""
        found = _repeated(lambda: self._get("/api/get/object", {"objname": name}))
        if not isinstance(found, dict) or not found.get("objname"):
            return None
        return found

    def is_ours(self, name: str) -> bool:
        """Whether our group reported an object first."""
        group = ((self.object(bare(name)) or {}).get("reporting_group") or {}).get("groupid")
        return bool(self._group) and str(group) == str(self._group)

    def _get(self, path: str, what: dict[str, Any]) -> Any:
        answer = self._server.post(path, data={"api_key": self._key, "data": json.dumps(what)})
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise NotTaken(f"TNS refuses {path}: {_reason(answer)}")
        return _data(answer)

    def send(self, report: dict[str, Any]) -> str:
        """Submit a report of one object; return its number. Raises Refused where TNS does not accept it."""
        content = {"api_key": self._key, "data": json.dumps({"at_report": {"0": report}})}
        answer = self._server.post("/api/set/bulk-report", data=content)
        if answer.status_code != 200:
            raise Refused(f"TNS does not take the report: {_reason(answer)}")
        data = _data(answer)
        number = data.get("report_id") if isinstance(data, dict) else None
        if number is None:
            raise Unsure("TNS took a report and did not tell its number")
        return str(number)

    def reply(self, report_id: str) -> Answer | None:
        """Result of a report; None while TNS has not processed it."""
        content = {"api_key": self._key, "report_id": report_id}
        answer = _repeated(lambda: self._server.post("/api/get/bulk-report-reply", data=content))
        if answer.status_code == 404:
            return None
        if answer.status_code == 400:
            return Answer("rejected", None, _reason(answer))
        return _answer(_data(answer))


class Refused(NotTaken):
    """The report itself cannot be used."""


def bare(name: str) -> str:
    """A name without its prefix: "AT 2020oi" is 2020oi."""
    return name.strip().removeprefix("AT").removeprefix("SN").strip()


def _repeated(ask: Callable[[], T]) -> T:
    """The answer to a request that may be repeated."""
    wait = wait_exponential(_FIRST_WAIT_S, _LONGEST_WAIT_S)
    for attempt in Retrying(
        retry=retry_if_exception_type(Unsure), stop=stop_after_attempt(_ATTEMPTS), wait=wait, reraise=True
    ):
        with attempt:
            found = ask()
    return found


def _data(answer: requests.Response) -> Any:
    body = body_of(answer)
    return body.get("data") if isinstance(body, dict) else None


def _reason(answer: requests.Response) -> str:
    """The reason of a refusal: TNS's feedback, or its message."""
    try:
        body = answer.json()
        said = body.get("data") or body.get("id_message")
    except (ValueError, AttributeError):
        said = f"status {answer.status_code}"
    return (said if isinstance(said, str) else json.dumps(said))[:_REASON_LENGTH]


def _answer(data: Any) -> Answer:
    """Result of a report from TNS's feedback; feedback without a name is the reason of a rejection."""
    try:
        (feedback,) = data["feedback"]["at_report"]
        named = {code: said for code, said in feedback.items() if isinstance(said, dict) and said.get("objname")}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise Unsure(f"the reply of TNS cannot be understood: {json.dumps(data)[:_REASON_LENGTH]}") from None
    for code, said in named.items():
        name = f"{said.get('prefix') or 'AT'}{said['objname']}"
        return Answer("named" if code in (_NEW, _RENAMED) else "exists", name, said.get("message"))
    return Answer("rejected", None, json.dumps(feedback)[:_REASON_LENGTH])
