"""Tokens: reading is free, requests that write need a token, of which the server keeps only the sha256."""

from __future__ import annotations

import hashlib
import hmac

from fastapi import HTTPException, Request

from alerce_spark.api.state import State


def person(request: Request) -> str:
    """Name of the owner of a request's token (services.tokens). Raises HTTPException 401 for an unknown token."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    digest = hashlib.sha256(token.strip().encode()).hexdigest()
    state: State = request.app.state.services
    found = ""
    # Every token is compared, so the time of an answer reveals nothing.
    for known in state.settings.services.tokens:
        name, _, theirs = known.partition(":")
        if hmac.compare_digest(digest, theirs):
            found = name
    if not found or scheme.lower() != "bearer":
        said = "this needs a token: send it as Authorization: Bearer <token>"
        raise HTTPException(401, said, {"WWW-Authenticate": "Bearer"})
    return found
