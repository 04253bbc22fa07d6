"""What happens before every route: record the request, apply faults, check the key, apply limits."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kluster_integrations._hosts import is_registrable
from kluster_integrations.emulator.errors import ApiError
from kluster_integrations.emulator.faults import Broken, FaultySend
from kluster_integrations.emulator.jobs import FILE_BYTES
from kluster_integrations.emulator.page import is_page
from kluster_integrations.emulator.records import LONGEST_ANSWER, RecordedRequest
from kluster_integrations.emulator.service import ClientConnection, ClientGone, Json, Service

__all__ = ["Gate"]

_SECRET = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "cookie"})
_MOST_BYTES = FILE_BYTES + 2**20  # a batch file in a form is the longest
_SHORTEST_KEY = 8  # a shorter one is a placeholder, such as "any"


def _check_host(name: str, allowed: Iterable[str]) -> None:
    """Refuse host names of the public DNS: with DNS rebinding a web page could use the emulator.

    Raises:
        ApiError: 403.
    """
    if is_registrable(name) and name.lower() not in allowed:
        what = f"Requests for the host {name!r} are refused: they may come from a web page (DNS rebinding)."
        hint = "Use an address or localhost, such as http://127.0.0.1:8090, or name the host: --allow-host"
        raise ApiError(403, f"{what} {hint} {name}, hosts=[{name!r}].", code="host_not_allowed")


async def _body(request: Request) -> bytes:
    """Return a request's body.

    Raises:
        ApiError: 413, if the body is longer than the service allows; the rest is not read.
    """
    pieces, size = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            raise ApiError(413, f"The body is longer than {_MOST_BYTES} bytes.", headers={"Connection": "close"})
    return b"".join(pieces)


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
        started = time.perf_counter()
        try:
            _check_host(Request(scope).url.hostname or "", self._service.settings.hosts)
            if is_page(scope["method"], scope["path"]):
                await self._app(scope, receive, send)
                return
            raw = await _body(Request(scope, receive))
        except ClientDisconnect:
            return
        except ApiError as exc:
            await Json(exc.body, exc.status, exc.headers)(scope, receive, send)
            return
        record = _record(scope, raw)
        self._service.records.add(record)
        listener = asyncio.create_task(_gone(receive))
        connection = ClientConnection(self._service.stopping, listener)
        scope["kluster.connection"], scope["kluster.record"] = connection, record

        async def noted(message: Message) -> None:
            record.status = message.get("status", record.status)
            record.answer += message.get("body", b"")[: max(LONGEST_ANSWER - len(record.answer), 0)]
            await send(message)

        try:
            # The client has gone, the emulator stops, or a fault ends the answer: leave it incomplete.
            await self._answer(scope, record, _Replay(raw, connection), connection, noted)
        except ClientGone:
            record.reason = record.reason or "the client hung up, or the emulator stopped"
        except Broken:
            pass
        finally:
            listener.cancel()
            self._service.records.finish(record, time.perf_counter() - started)

    async def _answer(
        self, scope: Scope, record: RecordedRequest, replay: _Replay, connection: ClientConnection, send: Send
    ) -> None:
        fault = self._service.faults.take(record.path, record.model)
        if fault is not None:
            record.reason = f"fault: {fault.kind}"
            scope["kluster.fault"] = fault
            if fault.kind == "hang":
                await connection.pause(fault.delay or None)
            elif fault.kind == "status":
                status, headers, body = fault.answer()
                await Response(body, status, headers)(scope, replay, send)
                return
            elif fault.kind != "text_calls":
                send = FaultySend(fault, send, connection.pause)
        try:
            key = self._key(record, Request(scope).headers.get("authorization", ""))
            counted = record.method != "GET"  # reading what is there is not limited
            if counted:
                self._service.limiter.enter(key)
            try:
                await self._app(scope, replay, send)
            finally:
                if counted:
                    self._service.limiter.leave(key)
        except ApiError as exc:
            record.reason = exc.message
            await Json(exc.body, exc.status, exc.headers)(scope, replay, send)

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


class _Replay:
    """An ASGI `receive` that returns the body again, and then waits until the client hangs up."""

    def __init__(self, body: bytes, connection: ClientConnection) -> None:
        self._body: bytes | None = body
        self._connection = connection

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        with suppress(ClientGone):
            await self._connection.pause(None)
        return {"type": "http.disconnect"}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _record(scope: Scope, raw: bytes) -> RecordedRequest:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    _, _, key = headers.get("authorization", "").partition(" ")
    holds_key = len(key) >= _SHORTEST_KEY and key.encode() in raw
    for name in _SECRET & headers.keys():
        headers[name] = "Bearer ***" if name == "authorization" else "***"
    body: object = None
    if raw and not headers.get("content-type", "").startswith("multipart/"):  # uploads are large
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = raw
    query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    return RecordedRequest(scope["method"], scope["path"], query, headers, body, len(raw), holds_key=holds_key)
