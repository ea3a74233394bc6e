"""A client of the services: ALeRCE's method names and formats, many objects at once, sync and async, with retries.

It imports neither Spark nor libraries for tables; a format's library is imported at its first use.
"""

from alerce_spark.client.client import AsyncClient, Client
from alerce_spark.client.errors import (
    APIError,
    CandidError,
    ClientError,
    FormatValidationError,
    ObjectNotFoundError,
    ParseError,
)

__all__ = [
    "APIError",
    "AsyncClient",
    "CandidError",
    "Client",
    "ClientError",
    "FormatValidationError",
    "ObjectNotFoundError",
    "ParseError",
]
