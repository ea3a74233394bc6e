"""HERMES, the second way to send a report: a message with the same facts, which HERMES forwards to TNS."""

from __future__ import annotations

import json
from typing import Any

from alerce_spark.config import ConfigError, TnsSettings
from alerce_spark.tns.draft import FILTERS
from alerce_spark.tns.http import NotTaken, Server, Unsure, body_of
from alerce_spark.tns.server import Refused

Json = dict[str, Any]

_SUBMIT = "/api/v0/submit_message/"
_BANDS = {FILTERS[fid]: band for fid, band in ((1, "g"), (2, "r"), (3, "i"))}
_TYPE = "PSN - Possible SN"
_UNIT = "AB mag"


class Hermes:
    """The account of the settings. Raises ConfigError where it is not set."""

    def __init__(self, settings: TnsSettings) -> None:
        token = settings.hermes_token.get_secret_value()
        if not (settings.hermes_url and token):
            raise ConfigError(
                "HERMES is not asked: set hermes_url in [tns] of the settings, and ALERCE_TNS__HERMES_TOKEN"
            )
        headers = {"Authorization": f"Token {token}"}
        self._settings = settings
        self._server = Server("HERMES", settings.hermes_url, headers, settings.timeout_s, settings.patience_s)

    def send(self, report: Json) -> str | None:
        """Submit a report after HERMES validated it; return its number, if any. Raises Refused, TnsError."""
        content = message(report, self._settings)
        wrong = self._post(f"{_SUBMIT}validate/", content, NotTaken)
        if wrong:
            raise Refused(f"HERMES does not take the report: {json.dumps(wrong)}")
        said = self._post(_SUBMIT, content, Unsure)
        number = said.get("uuid") or said.get("id")
        return None if number is None else str(number)

    def _post(self, path: str, content: Json, otherwise: type[NotTaken] | type[Unsure]) -> Json:
        """The answer to a request. Raises `otherwise` where it is lost: a validation changes nothing, so NotTaken."""
        try:
            answer = self._server.post(path, json=content)
            said = body_of(answer)
        except Unsure as error:
            raise otherwise(str(error)) from None
        if answer.status_code in (400, 404):
            raise Refused(f"HERMES does not take the report: {json.dumps(said)}")
        return said if isinstance(said, dict) else {}


def message(report: Json, settings: TnsSettings) -> Json:
    """The message of a report (`draft`)."""
    oid = report["internal_name"]
    target = {
        "name": oid,
        "ra": report["ra"]["value"],
        "dec": report["dec"]["value"],
        "new_discovery": True,
        "discovery_info": {
            "reporting_group": settings.reporting_group_name,
            "discovery_source": settings.data_source_name,
            "transient_type": _TYPE,
            "date": report["discovery_datetime"],
        },
    }
    if "host_name" in report:
        target |= {"host_name": report["host_name"], "host_redshift": report.get("host_redshift")}
    points = [_point(oid, p) for p in report["photometry"]["photometry_group"].values()]
    if "obsdate" in report["non_detection"]:
        points.append(_point(oid, report["non_detection"]))
    return {
        "topic": settings.hermes_topic,
        "title": f"{oid}: a possible supernova",
        "submitter": settings.bot_name,
        "authors": report["reporter"],
        "message_text": report["remarks"],
        "submit_to_tns": True,
        "data": {"targets": [target], "photometry": points},
    }


def _point(oid: str, point: Json) -> Json:
    values = {"brightness": "flux", "brightness_error": "flux_error", "limiting_brightness": "limiting_flux"}
    known = {ours: float(point[theirs]) for ours, theirs in values.items() if theirs in point}
    where = {"telescope": "ZTF", "instrument": "ZTF-Cam", "bandpass": _BANDS[point["filter_value"]]}
    units = {"brightness_unit": _UNIT, "limiting_brightness_unit": _UNIT}
    return {"target_name": oid, "date_obs": point["obsdate"], **where, **known, **units}
