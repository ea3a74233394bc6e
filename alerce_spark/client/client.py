"""The two clients: a synchronous and an asynchronous one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import httpx

from alerce_spark.client.queries import Batch, Queries, Steps
from alerce_spark.client.sending import ATTEMPTS, Attempts, Request
from alerce_spark.errors import InputError

#: Longest wait for a connection and for bytes of an answer [s].
_CONNECT_S, _READ_S = 10.0, 120.0
#: Requests of an AsyncClient at the same time.
_SIDE_BY_SIDE = 4


def _options(url: str, timeout_s: float) -> dict[str, Any]:
    """Options of httpx. Raises InputError for an invalid address."""
    parts = httpx.URL(url)
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InputError(f"{url!r} is no address of a server; write it as http://127.0.0.1:8800")
    agent = {"User-Agent": "alerce-spark-client"}
    timeout = httpx.Timeout(timeout_s, connect=_CONNECT_S)
    return {"base_url": url.rstrip("/"), "headers": agent, "timeout": timeout, "follow_redirects": True}


def _arguments(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path,
        "params": request.parameters,
        "headers": request.headers,
        "json": request.body,
    }


class Client(Queries):
    """A client of the server at `url`. It may be used as a context, which closes its connections."""

    def __init__(self, url: str, *, attempts: int = ATTEMPTS, timeout_s: float = _READ_S) -> None:
        self.url, self._attempts = url.rstrip("/"), attempts
        self._http = httpx.Client(**_options(url, timeout_s))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _run(self, steps: Steps) -> Any:
        try:
            batch = next(steps)
            while True:
                batch = steps.send(self._answers(batch))
        except StopIteration as end:
            return end.value

    def _answers(self, batch: Batch) -> list[httpx.Response]:
        answers = []
        for request in batch.requests:
            answers.append(self._send(request))
            batch.done(len(answers))
        return answers

    def _send(self, request: Request) -> httpx.Response:
        attempts = Attempts(request, self._attempts)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.request(**_arguments(request))
            except httpx.TransportError as error:
                outcome = error
            wait = attempts.after(outcome)
            if isinstance(outcome, httpx.Response) and wait is None:
                return outcome
            time.sleep(wait or 0)


class AsyncClient(Queries):
    """The same methods as coroutines; requests of a long list are sent in parallel. Use it in `async with`."""

    def __init__(self, url: str, *, attempts: int = ATTEMPTS, timeout_s: float = _READ_S) -> None:
        self.url, self._attempts = url.rstrip("/"), attempts
        self._http = httpx.AsyncClient(**_options(url, timeout_s))
        self._free = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _run(self, steps: Steps) -> Awaitable[Any]:
        return self._awaited(steps)

    async def _awaited(self, steps: Steps) -> Any:
        try:
            batch = next(steps)
            while True:
                batch = steps.send(await self._answers(batch))
        except StopIteration as end:
            return end.value

    async def _answers(self, batch: Batch) -> list[httpx.Response]:
        done = 0

        async def one(request: Request) -> httpx.Response:
            nonlocal done
            async with self._free:
                answer = await self._send(request)
            done += 1
            batch.done(done)
            return answer

        tasks = [asyncio.create_task(one(request)) for request in batch.requests]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()

    async def _send(self, request: Request) -> httpx.Response:
        attempts = Attempts(request, self._attempts)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.request(**_arguments(request))
            except httpx.TransportError as error:
                outcome = error
            wait = attempts.after(outcome)
            if isinstance(outcome, httpx.Response) and wait is None:
                return outcome
            await asyncio.sleep(wait or 0)
