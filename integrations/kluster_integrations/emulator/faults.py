"""Faults that can be scheduled: error answers, cut and truncated streams, slow tokens, hanging requests."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

from kluster_integrations.emulator.errors import VENDOR_BODY, error_body

__all__ = ["Broken", "Fault", "FaultSchedule", "FaultySend", "Form", "Kind", "is_count", "is_seconds"]

Kind = Literal["status", "cut", "end", "error_event", "slow", "hang", "text_calls"]
Form = Literal["hermes", "python_tag", "json", "mistral"]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Pause = Callable[[float], Awaitable[None]]

_CHAT = "/v1/chat/completions"
_HTML = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_MESSAGES = {
    401: "Invalid API key",
    429: "Rate limit reached, please try again later",
    500: "The server had an error while processing your request",
    503: "The server is overloaded, please try again later",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One scheduled fault.

    Args:
        kind: What happens:
            `status` sends an error answer with this `status`;
            `cut` breaks the connection after `chunks` chunks (without streaming: after half of the bytes);
            `end` ends cleanly after `chunks` chunks, without finish reason and `[DONE]` (not streamed: half a body);
            `error_event` sends an error object after `chunks` chunks, inside the 200;
            `slow` waits `delay` seconds before each chunk;
            `hang` accepts the request and answers only after `delay` seconds, with 0 never;
            `text_calls` writes the answer's tool calls as text in the `form` of a model, as some servers do.
        times: How many requests get the fault; None is all.
        after: How many matching requests pass before the first one gets it.
        path: Only requests for this path get it; None is every path.
        status: The status of `status` and the code of `error_event`, 400 to 599.
        retry_after: Seconds for the `Retry-After` header of `status`; None sends no header.
        body: The body of `status`: None is OpenAI's error body, `"vendor"` kluster.ai's own 500 body, `"html"` a
            proxy's page, `"empty"` no body. Any other string or a dict is sent as it is.
        headers: Further headers of `status`.
        chunks: See `kind`; the first chunk is the one with the role.
        delay: Seconds; see `kind`.
        model: Only requests for this model get it; None is every model.
        form: The form of `text_calls`: `hermes` (`<tool_call>`), `python_tag` (Llama's `<|python_tag|>`), `json`
            (Llama's bare object), or `mistral` (`[TOOL_CALLS]`).

    Raises:
        ValueError: If a value is not allowed.
    """

    kind: Kind
    _: KW_ONLY
    times: int | None = 1
    after: int = 0
    path: str | None = _CHAT
    status: int = 500
    retry_after: float | None = None
    body: str | Mapping[str, object] | None = None
    headers: Mapping[str, str] | None = None
    chunks: int = 2
    delay: float = 0.0
    model: str | None = None
    form: Form = "hermes"

    def __post_init__(self) -> None:
        for name, fits, allowed in (
            ("kind", self.kind in get_args(Kind), f"one of {', '.join(map(repr, get_args(Kind)))}"),
            ("form", self.form in get_args(Form), f"one of {', '.join(map(repr, get_args(Form)))}"),
            ("times", self.times is None or is_count(self.times, least=1), "1 or more, or None for ever"),
            ("after", is_count(self.after), "0 or more requests"),
            ("chunks", is_count(self.chunks), "0 or more chunks"),
            ("status", is_count(self.status) and 400 <= self.status <= 599, "an HTTP status from 400 to 599"),
            ("delay", is_seconds(self.delay), "a number of seconds, 0 or more"),
            ("retry_after", self.retry_after is None or is_seconds(self.retry_after), "seconds, 0 or more, or None"),
            ("body", self.body is None or isinstance(self.body, str | Mapping), "None, a dict or a string"),
        ):
            if not fits:
                value = getattr(self, name)
                raise ValueError(f"Fault: {name}={value!r} is not allowed; it must be {allowed}.")

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of a `status` fault."""
        kind, body = "application/json", b""
        if self.body == "html":
            kind, body = "text/html", _HTML.encode()
        elif isinstance(self.body, str) and self.body not in {"vendor", "empty"}:
            kind, body = "text/plain; charset=utf-8", self.body.encode()
        elif self.body != "empty":
            value = (
                VENDOR_BODY if isinstance(self.body, str) else dict(self.error() if self.body is None else self.body)
            )
            body = json.dumps(value).encode()
        headers = {"content-type": kind, **(self.headers or {})}
        if self.retry_after is not None:
            headers["retry-after"] = f"{self.retry_after:g}"
        return self.status, headers, body

    def error(self) -> dict[str, object]:
        """Return OpenAI's error body for this fault's status."""
        return error_body(self.status, _MESSAGES.get(self.status, f"Scheduled fault: HTTP {self.status}"))


def is_count(value: object, least: int = 0) -> bool:
    """Return whether a value is an integer of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_seconds(value: object) -> bool:
    """Return whether a value is a number of seconds, 0 or more."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0  # type: ignore[arg-type,operator]


class FaultSchedule:
    """The faults of one emulator, with the number of requests that each has seen. Thread-safe."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._seen: list[tuple[Fault, list[int]]] = [(fault, [0]) for fault in faults]

    def add(self, fault: Fault) -> None:
        """Add a fault; its `after` counts from now on."""
        if not isinstance(fault, Fault):
            raise ValueError(f"add_fault takes a Fault, not {type(fault).__name__}.")
        with self._lock:
            self._seen.append((fault, [0]))

    def clear(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._seen.clear()

    def take(self, path: str, model: str | None) -> Fault | None:
        """Count a request with every fault that it matches, and return the first fault that is due."""
        due: Fault | None = None
        with self._lock:
            for fault, seen in self._seen:
                if fault.path not in {None, path} or fault.model not in {None, model}:
                    continue
                # A fault whose turn is taken by an earlier one has not been spent: it waits for the next request.
                if due is not None and seen[0] >= fault.after:
                    continue
                seen[0] += 1
                hit = seen[0] > fault.after
                spent = fault.times is not None and seen[0] > fault.after + fault.times
                if hit and not spent:
                    due = fault
        return due


class Broken(Exception):  # noqa: N818 - not an error: the planned end of an answer
    """A fault has ended the answer; the server closes the connection if the answer is incomplete."""


class FaultySend:
    """An ASGI `send` that applies a fault to the answer. One body message is one chunk of a stream."""

    def __init__(self, fault: Fault, send: Send, pause: Pause) -> None:
        self._fault = fault
        self._send = send
        self._pause = pause
        self._start: Message | None = None
        self._sent = 0

    async def __call__(self, message: Message) -> None:
        """Send a message, or what the fault makes of it."""
        if message["type"] == "http.response.start":
            self._start = message
            if _is_stream(message):
                await self._send(message)
            return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
        elif _is_stream(self._start):
            await self._stream(message)
        else:
            await self._whole(self._start, message)

    async def _stream(self, message: Message) -> None:
        if self._fault.kind == "slow":
            await self._pause(self._fault.delay)
        # Never send the chunk with the finish reason: with it, the cut answer would be complete.
        elif self._sent >= self._fault.chunks or _finishes(message) or not message.get("more_body"):
            await self._break()
        self._sent += 1
        await self._send(message)

    async def _break(self) -> None:
        if self._fault.kind == "error_event":
            event = f"data: {json.dumps(self._fault.error())}\n\n".encode()
            await self._send({"type": "http.response.body", "body": event, "more_body": True})
        if self._fault.kind != "cut":
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        raise Broken

    async def _whole(self, start: Message, message: Message) -> None:
        body: bytes = message.get("body", b"")
        half = body[: len(body) // 2]
        if self._fault.kind == "slow":
            await self._pause(self._fault.delay)
        elif self._fault.kind == "error_event":
            body = json.dumps(self._fault.error()).encode()
        elif self._fault.kind == "end":
            body = half
        if self._fault.kind != "cut":
            start = {**start, "headers": _with_length(start["headers"], len(body))}
        await self._send(start)
        if self._fault.kind == "cut":
            await self._send({"type": "http.response.body", "body": half, "more_body": True})
            raise Broken
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _is_stream(start: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"])


def _finishes(message: Message) -> bool:
    # Bytes as json.dumps writes them; in content the quotes would be escaped.
    return b'"finish_reason":"' in message.get("body", b"")


def _with_length(headers: Iterable[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name != b"content-length"]
    return [*kept, (b"content-length", str(length).encode())]
