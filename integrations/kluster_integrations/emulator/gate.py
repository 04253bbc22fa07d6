"""What happens to every request before a route sees it: it is recorded, may meet a fault, needs a key, is limited."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.faults import Broken, Fault, FaultySend
from kluster_integrations.emulator.service import Gone, Line, Service
from kluster_integrations.emulator.wire import Json

__all__ = ["Gate", "RecordedRequest"]


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it arrived.

    Args:
        method: `GET`, `POST`, …
        path: The path, with `/v1`.
        query: The query's parameters; of a repeated one the last.
        headers: By lower-case name; the key is kept only as `Bearer ***`.
        body: The parsed JSON, the raw bytes of a body that is not JSON, or None without a body and for uploads.
    """

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: object = None


class Gate:
    """The ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            raw = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        record = _record(scope, raw)
        self._service.requests.append(record)
        listener = asyncio.create_task(_gone(receive))
        line = Line(self._service.stopping, listener)
        scope["kluster.line"] = line
        try:
            # A client that is gone, a stopping emulator and a fault all end the answer where it stands.
            with suppress(Gone, Broken):
                await self._answer(scope, record, _Replay(raw, line), line, send)
        finally:
            listener.cancel()

    async def _answer(self, scope: Scope, record: RecordedRequest, replay: _Replay, line: Line, send: Send) -> None:
        model = record.body.get("model") if isinstance(record.body, dict) else None
        fault = self._service.faults.take(record.path, model if isinstance(model, str) else None)
        if fault is not None:
            send = await self._meet(fault, line, send)
            if fault.kind == "status":
                status, headers, body = fault.answer()
                await Response(body, status, headers)(scope, replay, send)
                return
        try:
            key = self._key(record, Request(scope).headers.get("authorization", ""))
            await self._limited(key, record.method, lambda: self._app(scope, replay, send))
        except ApiError as exc:
            await Json(exc.body, exc.status, exc.headers)(scope, replay, send)

    async def _meet(self, fault: Fault, line: Line, send: Send) -> Send:
        """Wait if the fault says so, and return the `send` that spoils the answer."""
        if fault.kind == "hang":
            await line.pause(fault.delay or None)
        if fault.kind in {"hang", "status"}:
            return send
        return FaultySend(fault, send, line.pause)

    def _key(self, record: RecordedRequest, authorization: str) -> str:
        public = record.path == "/v1/models" and record.query.get("extended") == "true"
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if public and record.method == "GET":
            return key
        if scheme.lower() != "bearer" or not key or " " in key:
            raise ApiError(401, "No API key provided: send the header 'Authorization: Bearer <key>'.")
        if self._service.settings.api_keys is not None and key not in self._service.settings.api_keys:
            raise ApiError(401, "Invalid API key provided.")
        return key

    async def _limited(self, key: str, method: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run under the plan's limits; reading what is there (GET) does not count."""
        if method == "GET":
            await run()
            return
        self._service.limiter.enter(key)
        try:
            await run()
        finally:
            self._service.limiter.leave(key)


class _Replay:
    """A `receive` that gives the body, already read, once more, and then waits for the client to go."""

    def __init__(self, body: bytes, line: Line) -> None:
        self._body: bytes | None = body
        self._line = line

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        with suppress(Gone):
            await self._line.pause(None)
        return {"type": "http.disconnect"}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _record(scope: Scope, raw: bytes) -> RecordedRequest:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    if "authorization" in headers:
        headers["authorization"] = "Bearer ***"
    body: object = None
    if raw and not headers.get("content-type", "").startswith("multipart/"):  # uploads are large
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = raw
    query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    return RecordedRequest(scope["method"], scope["path"], query, headers, body)
