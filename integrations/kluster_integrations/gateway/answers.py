"""How an answer goes out: whole, or event by event. Both go through the same writer, one class per API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kluster_integrations.core.client import Client
from kluster_integrations.core.types import ChatRequest, Completion, Delta
from kluster_integrations.errors import KlusterError, OutputValidationError
from kluster_integrations.gateway.service import Log, log_of, service_of

__all__ = ["PING", "EventStream", "Writer", "completed", "note", "streamed"]

PING = b": ping\n\n"
"""A comment, which clients of server-sent events pass over."""
_PING_SECONDS = 15.0  # Node's fetch gives up after 300 seconds without a byte, and many a proxy after 60


class Writer(Protocol):
    """Makes an API's events of the deltas of one answer, without any I/O."""

    def begin(self) -> bytes:
        """Return the events that come before everything else."""

    def take(self, delta: Delta) -> bytes:
        """Return the events of a delta, b"" for none."""

    def end(self) -> bytes:
        """Return the last events of an answer that is complete."""

    def fail(self, err: KlusterError) -> bytes:
        """Return the last events of an answer that has failed in the middle."""

    def ping(self) -> bytes:
        """Return what says that the connection is alive."""


async def completed(request: Request, chat: ChatRequest) -> Completion:
    """Return the answer to a request; one of JSON or calls that was cut is returned as it is, with `length`.

    Raises:
        KlusterError: Whatever goes wrong.
    """
    service = service_of(request)
    try:
        with service.counted():
            completion = await service.client.acomplete(chat)
    except OutputValidationError as err:
        if chat.n > 1:
            raise
        completion = _cut(err)
    note(log_of(request), Delta(usage=completion.usage))
    return completion


def _cut(err: OutputValidationError) -> Completion:
    """Return the answer of an error, if it is only too short: clients know what `length` means."""
    if err.completion is None or not err.completion.is_cut:
        raise err
    completion: Completion = err.completion
    completion.tool_calls = []  # half a call must not be run
    return completion


def note(log: Log, delta: Delta) -> None:
    """Note the tokens of an answer."""
    if delta.usage:
        log.prompt_tokens, log.completion_tokens = delta.usage.prompt_tokens, delta.usage.completion_tokens


async def streamed(request: Request, chat: ChatRequest, writer: Writer) -> Response:
    """Return the answer to a request as a stream, once its first delta is there: what fails before is an HTTP error.

    Raises:
        KlusterError: Whatever goes wrong before the first delta.
    """
    service, log = service_of(request), log_of(request)
    deltas = _deltas(service.client, chat, service.counted())
    began = time.perf_counter()
    first = await anext(deltas)
    log.first_ms = round((time.perf_counter() - began) * 1e3, 1)
    return EventStream(first, deltas, writer, log)


async def _deltas(client: Client, chat: ChatRequest, counted: Any) -> AsyncIterator[Delta]:
    stream: Any = client.astream(chat)
    try:
        with counted:
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    yield delta
    except OutputValidationError as err:
        completion = _cut(err)
        # Text that is checked has been held back; other text was shown as it came.
        yield Delta(completion.text if chat.is_checked else "", finish_reason="length")
        yield Delta(usage=completion.usage)


class EventStream(Response):
    """Server-sent events, as a writer makes them; and pings while calls, objects or hidden reasoning are held back."""

    media_type = "text/event-stream"

    def __init__(self, first: Delta, deltas: AsyncIterator[Delta], writer: Writer, log: Log) -> None:
        self._first = first
        self._deltas = deltas
        self._writer = writer
        self._log = log
        self._sent = 0
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        writer = self._writer
        take = writer.take
        deltas: Any = self._deltas
        pings = asyncio.ensure_future(self._ping(send))
        try:
            async with aclosing(deltas):
                events = writer.begin() + take(self._first)
                note(self._log, self._first)
                await send({"type": "http.response.body", "body": events, "more_body": True})
                async for delta in deltas:
                    if delta.usage:
                        note(self._log, delta)
                    if events := take(delta):
                        self._sent += 1
                        await send({"type": "http.response.body", "body": events, "more_body": True})
            last = writer.end()
        except KlusterError as err:
            self._log.error = type(err).__name__
            last = writer.fail(err)
        finally:
            pings.cancel()
        await send({"type": "http.response.body", "body": last})

    async def _ping(self, send: Send) -> None:
        while True:
            sent = self._sent
            await asyncio.sleep(_PING_SECONDS)
            if sent == self._sent:
                await send({"type": "http.response.body", "body": self._writer.ping(), "more_body": True})
