"""A tiny HTTP server that sends exactly the bytes a test names, when it names them, and keeps what it receives.

The emulator answers as kluster.ai does; this one answers as no server should: bodies cut at any byte, connections
reset, events split over reads, status lines that never come.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

__all__ = ["DONE", "Gate", "RawRequest", "RawServer", "Reply", "chunk", "event", "one_by_one", "sse", "whole"]

DONE = b"data: [DONE]\n\n"
_PATIENCE = 5.0  # seconds; only a test that fails waits so long


@dataclass(frozen=True)
class RawRequest:
    """A request as it came over the wire; `connection` counts the connections from 0."""

    raw: bytes
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.raw.split(b" ", 2)[1].decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Gate:
    """Makes the server wait, after each piece, until the test has seen what it stands for."""

    def __init__(self) -> None:
        self._open = threading.Semaphore(0)
        self.waited_in_vain = False

    def release(self) -> None:
        self._open.release()

    def wait(self) -> None:
        if not self._open.acquire(timeout=_PATIENCE):
            self.waited_in_vain = True


@dataclass
class Reply:
    """What one request is answered with.

    Args:
        pieces: The body, one `send` each; with `framing="chunked"` an HTTP chunk each.
        status: The status.
        content_type: None sends no such header.
        headers: Further headers; surrogates stand for bytes that are not UTF-8.
        framing: `chunked`, `length` (Content-Length), or `close` (the end of the connection is the end of the body).
        end: `clean`; `cut` (closes before the body's end, which for `close` is the end); `rst` (resets the connection);
            `hang` (sends no more, until the client hangs up or the server stops).
        silent: No byte is sent at all; then `end`.
        pause: Seconds before each piece.
        gate: Waited for after each piece.
        at_once: Head, pieces and the end of the body go out in one `send`.
    """

    pieces: Sequence[bytes] = ()
    status: int = 200
    content_type: str | None = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: Literal["chunked", "length", "close"] = "chunked"
    end: Literal["clean", "cut", "rst", "hang"] = "clean"
    silent: bool = False
    pause: float = 0.0
    gate: Gate | None = None
    at_once: bool = False

    @property
    def keeps_alive(self) -> bool:
        return self.end == "clean" and self.framing != "close"

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Whatever"]
        if self.content_type is not None:
            lines.append(f"Content-Type: {self.content_type}")
        if self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        elif self.framing == "length":
            missing = 0 if self.end == "clean" else 100
            lines.append(f"Content-Length: {sum(map(len, self.pieces)) + missing}")
        else:
            lines.append("Connection: close")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")

    def frame(self, piece: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(piece), piece) if self.framing == "chunked" else piece


class RawServer:
    """Listens on loopback, one thread a connection. A context manager.

    Attributes:
        requests: What was received, in order.
        connections: How many connections were accepted.
        answer: Makes the reply where nothing is queued by `script`.
        hung_up: Set when a client closes a connection whose reply hangs.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.requests: list[RawRequest] = []
        self.connections = 0
        self.hung_up = threading.Event()
        self.answer: Callable[[RawRequest], Reply] = lambda _: whole({"content": "Hello"})
        self._queue: deque[Reply] = deque()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((host, 0), backlog=512)
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_PATIENCE)
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def script(self, *replies: Reply) -> None:
        """Answer the next requests with these, in order."""
        self._queue.extend(replies)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = self.connections
            self.connections += 1
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            while (request := _receive(connection, number)) is not None:
                self.requests.append(request)
                reply = self._queue.popleft() if self._queue else self.answer(request)
                self._play(reply, connection)
                if not reply.keeps_alive:
                    break
        self._open.discard(connection)

    def _play(self, reply: Reply, connection: socket.socket) -> None:
        try:
            self._send(reply, connection)
        finally:  # also if the client was gone before the first piece
            if reply.end == "hang":
                self.hung_up.set()

    def _send(self, reply: Reply, connection: socket.socket) -> None:
        last = b"0\r\n\r\n" if reply.end == "clean" and reply.framing == "chunked" else b""
        if reply.at_once:
            connection.sendall(reply.head() + b"".join(map(reply.frame, reply.pieces)) + last)
            return
        if not reply.silent:
            connection.sendall(reply.head())
            for piece in reply.pieces:
                time.sleep(reply.pause)
                connection.sendall(reply.frame(piece))
                if reply.gate is not None:
                    reply.gate.wait()
        if reply.end == "rst":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif reply.end == "hang":
            with contextlib.suppress(ConnectionError):
                connection.recv(1)
        else:
            connection.sendall(last)


def _receive(connection: socket.socket, number: int) -> RawRequest | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65_536)):
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")[1:]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        if not (more := connection.recv(65_536)):
            return None
        body += more
    return RawRequest(head + b"\r\n\r\n" + body, headers, body, number)


def event(data: object, end: bytes = b"\n\n") -> bytes:
    """Return one server-sent event; bytes are sent as they are, everything else as JSON."""
    payload = data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False).encode()
    return b"data: " + payload + end


def chunk(delta: Mapping[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a chunk of a streamed answer."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "served"}
    return {**head, "choices": [choice], **fields}


def sse(*deltas: Mapping[str, Any], finish: str | None = "stop", done: bool = True, **fields: Any) -> list[bytes]:
    """Return the events of a streamed answer: one a delta, then the finish reason, then `[DONE]`."""
    chunks = [chunk(delta) for delta in deltas]
    if finish:
        chunks.append(chunk({}, finish, **fields))
    return [*map(event, chunks), *([DONE] if done else [])]


def whole(message: Mapping[str, Any], *, finish: str | None = "stop", **fields: Any) -> Reply:
    """Return the reply that is a whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "served"}
    body = {**head, "choices": [choice], "usage": usage, **fields}
    return Reply([json.dumps(body).encode()], content_type="application/json", framing="length")


def one_by_one(data: bytes) -> Iterator[bytes]:
    """Yield the bytes one at a time."""
    return (data[i : i + 1] for i in range(len(data)))
