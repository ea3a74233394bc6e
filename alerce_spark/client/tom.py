"""Send objects to a TOM (Target and Observation Manager), whose API makes targets of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import httpx

from alerce_spark.client.errors import APIError, ClientError
from alerce_spark.client.sending import refused
from alerce_spark.errors import InputError

_WAIT_S = 60.0
_OK = 400
#: Statuses for an unknown or forbidden user: they would be the same for the next target.
_STRANGERS = (401, 403)
#: Columns of an object that are fields of every target.
_OWN = ("oid", "meanra", "meandec")


class HandedOver(NamedTuple):
    """Result for an object: `made`, `known` (the TOM has a target of this name), or `refused` with its message."""

    oid: str
    state: Literal["made", "known", "refused"]
    message: str = ""


def hand_over(
    url: str,
    token: str,
    objects: Iterable[Mapping[str, Any]],
    *,
    groups: Sequence[str] = (),
    extras: Sequence[str] = (),
) -> list[HandedOver]:
    """Make targets in the TOM at `url` of objects with `oid`, `meanra`, `meandec`, as from the list of objects.

    `token`: that of a user of the TOM, as its profile page shows it. `groups`: names of those who may see the targets,
    besides the user. `extras`: further columns of the objects that targets keep. An existing target does not
    change; after a lost answer the target is looked up, not posted again, so that a call may be repeated.
    Raises ClientError where the TOM cannot be reached or does not take the token, InputError.
    """
    rows = list(objects)
    lacking = sorted({name for row in rows for name in _OWN if row.get(name) is None})
    if lacking:
        raise InputError(f"objects without {', '.join(lacking)} cannot become targets")
    headers = {"Authorization": f"Token {token}", "Accept": "application/json"}
    with httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=_WAIT_S, follow_redirects=True) as tom:
        return [_hand_over(tom, row, groups, extras) for row in rows]


def _hand_over(tom: httpx.Client, row: Mapping[str, Any], groups: Sequence[str], extras: Sequence[str]) -> HandedOver:
    oid = str(row["oid"])
    if _is_there(tom, oid):
        return HandedOver(oid, "known")
    target = {
        "name": oid,
        "type": "SIDEREAL",
        "ra": row["meanra"],
        "dec": row["meandec"],
        "groups": [{"name": name} for name in groups],
        "targetextra_set": [{"key": name, "value": str(row[name])} for name in extras if row.get(name) is not None],
    }
    try:
        answer = tom.post("/api/targets/", json=target)
    except httpx.TransportError as error:
        # The target may exist although no answer came.
        if _is_there(tom, oid):
            return HandedOver(oid, "made")
        raise _unreachable(tom, error) from error
    _check_welcome(answer)
    if answer.status_code < _OK:
        return HandedOver(oid, "made")
    return HandedOver(oid, "refused", f"status {answer.status_code}: {answer.text[:500]}")


def _is_there(tom: httpx.Client, name: str) -> bool:
    """Whether the TOM has a target of this name that the user may see."""
    try:
        answer = tom.get("/api/targets/", params={"name": name, "limit": 1000})
    except httpx.TransportError as error:
        raise _unreachable(tom, error) from error
    _check_welcome(answer)
    if answer.status_code >= _OK:
        raise refused(answer)
    return any(one["name"] == name for one in answer.json()["results"])


def _check_welcome(answer: httpx.Response) -> None:
    if answer.status_code in _STRANGERS:
        raise APIError(f"the TOM does not take the token: {answer.text[:200]}", answer.status_code)


def _unreachable(tom: httpx.Client, error: httpx.TransportError) -> ClientError:
    return ClientError(f"the TOM at {tom.base_url} gives no answer: {type(error).__name__} {error}")
