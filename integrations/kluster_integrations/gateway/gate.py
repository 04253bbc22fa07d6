"""Checks of every request before its route runs: key, origin and size; and its line in the log.

Without a key, on a loopback address, two kinds of strangers could still get in, by way of the user's own browser:

- A page of another site can send a POST to `http://127.0.0.1:PORT` without being asked first (it only cannot read the
  answer, which is paid for all the same). Browsers send `Origin` with it: one that is not on this machine is refused.
- A page whose name was made to point to 127.0.0.1 (DNS rebinding) is of the same origin as the gateway. `Host` has its
  name: one that somebody can register is refused.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import time
import traceback
import uuid
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kluster_integrations._hosts import is_registrable
from kluster_integrations.errors import KlusterError
from kluster_integrations.gateway import LOGGER
from kluster_integrations.gateway.errors import body_of, headers_of, refusal, status_of
from kluster_integrations.gateway.jobs import MAX_FILE
from kluster_integrations.gateway.service import Json, Log, Service

__all__ = ["Gate", "is_loopback", "origin_of"]

_log = logging.getLogger(LOGGER)
_METHODS = "GET, POST, DELETE, OPTIONS"
# What a page may read beside the body. OpenAI's SDK retries unless it sees `x-should-retry: false`.
_EXPOSED = b"x-should-retry, retry-after, x-request-id, request-id"


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    name = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def origin_of(text: str) -> str:
    """Return the origin of web pages that a user means, as browsers send it but in lower case; `*` is any.

    Raises:
        ValueError: If no page can have this origin, or if every page can have it.
    """
    origin = text.strip().lower().removesuffix("/")
    scheme, mark, host = origin.partition("://")
    if origin != "*" and not (scheme and mark and _hostname(origin) and not set(host) & set("/?#@* ")):
        raise ValueError(
            f"origins has {text!r}, which must be an origin such as https://chat.example or "
            "chrome-extension://ID, without a path; or '*', which lets the pages of every site in."
        )
    return origin


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets out of place
        return "not.valid"


class Gate:
    """The ASGI middleware around all routes. It reads the body, and ends the work when the client leaves."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        request_id = f"req_{uuid.uuid4().hex}"
        log, status, began = Log(), 0, time.perf_counter()
        scope["kluster.log"] = log
        # The SDKs of OpenAI and Anthropic each look for a name of their own.
        more = [(b"x-request-id", request_id.encode()), (b"request-id", request_id.encode())]
        origin = headers.get(b"origin")
        if origin is not None and self._takes_origin(origin):
            more += [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin")]
            more.append((b"access-control-expose-headers", _EXPOSED))

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            try:
                self._check_place(headers)
                if scope["method"] == "OPTIONS" and origin is not None:
                    await _preflight(headers, noted, scope, receive)
                    return
                if scope["path"] not in ("/", "/health"):
                    self._check_key(headers)
                body = await self._read(scope, headers, receive)
                if body is not None and not await self._attended(scope, body, receive, noted):
                    log.error = "ClientGone"
            except asyncio.CancelledError:
                log.error = "Stopped"
                raise
            except KlusterError as err:
                if status == 0:
                    await _fail(err, log, scope, noted)
                log.error = type(err).__name__  # as below: a file that breaks in the middle
            except Exception as err:
                # Its message may quote a prompt: only its kind and the place are said.
                frame = traceback.extract_tb(err.__traceback__)[-1]
                _log.error("%s in %s, line %s", type(err).__name__, frame.filename, frame.lineno)
                if status == 0:
                    await _fail(refusal(500, "The gateway has failed; the reason is in its log."), log, scope, noted)
                log.error = type(err).__name__  # an answer that has begun ends here: uvicorn breaks the connection
        finally:
            took = round((time.perf_counter() - began) * 1e3, 1)
            _log.info("%s %s: %s", scope["method"], scope["path"], status, extra={
                "request": _row(scope, status, took, request_id, log)})  # fmt: skip

    def _takes_origin(self, origin: str) -> bool:
        if self._service.key is not None or "*" in self._service.origins or origin.lower() in self._service.origins:
            return True
        return origin.startswith(("http://", "https://")) and is_loopback(_hostname(origin))

    def _check_place(self, headers: dict[bytes, str]) -> None:
        """Raise if the request comes from a page of another site. With the gateway's key, every origin is allowed."""
        if self._service.key is not None:
            return
        host = headers.get(b"host", "")
        if is_registrable(_hostname(f"http://{host}")):
            raise refusal(403, f"Host {host[:200]!r} is not this machine. To allow it, start the gateway with a --key.")
        origin = headers.get(b"origin")
        if origin is not None and not self._takes_origin(origin):
            raise refusal(
                403,
                f"Pages of {origin[:200]!r} are not allowed. Start the gateway with --allow-origin and this address, "
                "or with a --key.",
            )

    def _check_key(self, headers: dict[bytes, str]) -> None:
        """Raise unless a client has sent the gateway's key, as OpenAI's or as Anthropic's clients do."""
        if self._service.key is None:
            return
        scheme, _, bearer = headers.get(b"authorization", "").partition(" ")
        given = [headers.get(b"x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        wanted = self._service.key.encode()
        if not any(secrets.compare_digest(one.encode("latin-1"), wanted) for one in given):
            raise refusal(401, "This is not the gateway's key. Send the key that `kluster gateway` was started with.",
                "invalid_api_key")  # fmt: skip

    async def _read(self, scope: Scope, headers: dict[bytes, str], receive: Receive) -> bytes | None:
        """Return the body, None if the client has left meanwhile."""
        most = self._service.max_body
        if scope["path"] == "/v1/files":
            most = max(most, MAX_FILE)
        pieces, size = [], 0
        declared = headers.get(b"content-length", "0")
        if declared.isdigit() and int(declared) > most:
            size = int(declared)
        while size <= most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size <= most and not message.get("more_body"):
                return b"".join(pieces)
        what = "Split the file" if scope["path"] == "/v1/files" else "Start the gateway with a larger --max-body"
        raise refusal(413, f"The body is larger than {most / 2**20:g} MiB. {what}.", "request_too_large")

    async def _attended(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> bool:
        """Answer while the client is connected; return whether it stayed until the end."""
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        work = asyncio.ensure_future(self._app(scope, replay, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return True
            return False
        finally:
            # Also where the server stops: then this task itself is cancelled.
            leaving.cancel()
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _fail(err: KlusterError, log: Log, scope: Scope, send: Send) -> None:
    log.error = type(err).__name__
    headers = {name for name, _ in scope["headers"]}
    anthropic = scope["path"].startswith("/v1/messages") or b"anthropic-version" in headers
    answer = Json(body_of(err, scope["path"], anthropic=anthropic), status_of(err), headers_of(err))
    await answer(scope, _never, send)


async def _never() -> Message:
    return {"type": "http.disconnect"}


async def _preflight(headers: dict[bytes, str], send: Send, scope: Scope, receive: Receive) -> None:
    """Answer a browser that asks whether a page may ask."""
    allowed = {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": headers.get(b"access-control-request-headers", "*"),
        "access-control-max-age": "600",
    }
    if b"access-control-request-private-network" in headers:  # Chrome's, of a public page for this machine
        allowed["access-control-allow-private-network"] = "true"
    answer = Json(None, 204, allowed)
    answer.body = b""
    answer.raw_headers = [(n, v) for n, v in answer.raw_headers if n not in (b"content-length", b"content-type")]
    await answer(scope, receive, send)


def _row(scope: Scope, status: int, took: float, request_id: str, log: Log) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "id": request_id,
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status or 499,  # nginx's number for a client that has left
        "model": log.model,
        "stream": log.stream,
        "ms": took,
        "first_ms": log.first_ms,
        "prompt_tokens": log.prompt_tokens,
        "completion_tokens": log.completion_tokens,
        "error": log.error,
    }
    return {name: value for name, value in facts.items() if value is not None}
