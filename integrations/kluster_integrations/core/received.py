"""The bodies of answers: decoded, limited in size, and read before their deadline."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import sys
import threading
import time
import uuid
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import httpx

from kluster_integrations.core.errors import InternalServerError

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    *("AsyncForeign", "AsyncReceived", "Foreign", "Form", "Received", "Request"),
    *("cancelled_once", "in_time", "left_until"),
]

_GRACE = 0.01  # seconds for the end of a body behind `[DONE]`: servers often send it as a packet of its own
_PIECE = 2**16  # bytes of a file in memory


class Form(httpx.SyncByteStream):
    """A form with a file (multipart/form-data, RFC 7578). Each try reads the file from the start, while it is sent.

    Args:
        fields: The other fields.
        field: The file's field.
        name: The file's name, as the server sees it.
        file: The file.
    """

    def __init__(self, fields: Mapping[str, str], field: str, name: str, file: BinaryIO) -> None:
        boundary = uuid.uuid4().hex
        begin = f"--{boundary}\r\nContent-Disposition: form-data; name="
        head = "".join(f'{begin}"{key}"\r\n\r\n{value}\r\n' for key, value in fields.items())
        head += f'{begin}"{field}"; filename="{name}"\r\nContent-Type: application/jsonl\r\n\r\n'
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._head, self._tail = head.encode(), f"\r\n--{boundary}--\r\n".encode()
        self._file, self._size = file, file.seek(0, io.SEEK_END)

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece
        yield self._tail

    async def pieces(self) -> AsyncGenerator[bytes]:
        """As iterating over it."""
        for piece in self:
            yield piece


class Request(Protocol):
    """An HTTP request.

    Attributes:
        method: The HTTP method.
        url: The address.
        content: The body.
        timeouts: Seconds to connect, between bytes read, between bytes written, and for a place in a pool, for one try.
        deadline: When the answer must be complete, on the monotonic clock; None is never. It may change meanwhile.
        max_bytes: The most bytes of the decoded answer; None is no limit. It may change once the answer has begun.
        streamed: Whether the body of the answer may take longer than its headers.
    """

    method: str
    url: httpx.URL
    content: bytes | Form
    deadline: float | None
    max_bytes: int | None

    @property
    def timeouts(self) -> tuple[float | None, ...]: ...

    @property
    def streamed(self) -> object: ...

    def headers(self, **defaults: str) -> dict[str, str]:
        """Return the headers, with the defaults for those that are missing."""


def left_until(deadline: float) -> float:
    """Return the seconds that are left.

    Raises:
        TimeoutError: If none are left. Waiting has its own timeout, but a body that never pauses is never waited for.
    """
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left


async def in_time(request: Request, work: Callable[[], Awaitable[Any]]) -> Any:
    """Await `work`, but no longer than until the request's deadline."""
    if request.deadline is None:
        return await work()
    async with asyncio.timeout(left_until(request.deadline)):
        return await work()


async def cancelled_once(work: Awaitable[Any]) -> Any:
    """Await `work` in a task of its own, which is cancelled only once, however often the caller is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        raise


class _Body:
    """Decodes the body of an answer, and counts it.

    Args:
        headers: The answer's headers; without `content-encoding` nothing is decoded.
        request: Gives the limit of bytes.
    """

    def __init__(self, headers: Mapping[str, str], request: Request) -> None:
        self._coding = headers.get("content-encoding", "").strip().lower()
        self._plain = self._coding in ("", "identity")
        self._inflate: Any = None
        self._request = request
        self._taken = 0

    @property
    def _left(self) -> int:
        most = self._request.max_bytes
        return sys.maxsize if most is None else most - self._taken

    def take(self, piece: bytes) -> bytes:
        """Return a decoded piece, which may be empty.

        Raises:
            InternalServerError: The answer is too long, or its compression cannot be read.
        """
        if not self._plain:
            piece = self._decode(piece)
        self._taken += len(piece)
        if self._left < 0:
            raise InternalServerError(
                f"The answer is longer than max_response_bytes={self._request.max_bytes}.",
                hint="raise max_response_bytes=… (KLUSTER_MAX_RESPONSE_BYTES), if it may be as long.",
            )
        return piece

    def _decode(self, data: bytes) -> bytes:
        if self._coding not in ("gzip", "x-gzip", "deflate"):
            raise InternalServerError(
                f"The answer cannot be read: its compression is {self._coding!r}, which was not asked for."
            )
        done = b""
        try:
            while data and len(done) <= self._left:
                if self._inflate is None:
                    # "deflate" should have zlib's header (RFC 9110, 8.4.1.2); servers that leave it out are known.
                    has_header = self._coding != "deflate" or data[0] & 0x0F == zlib.DEFLATED
                    self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
                done += self._inflate.decompress(data, self._left + 1 - len(done))
                data = self._inflate.unconsumed_tail
                if self._inflate.eof:  # gzip may hold several members, one after another
                    data, self._inflate = self._inflate.unused_data, None
        except zlib.error:
            raise InternalServerError("The answer cannot be read: its compression is broken.") from None
        return done


class Received:
    """A sync answer from the shared pool, with an unread body."""

    is_decoded = False

    def __init__(self, response: Any, request: Request) -> None:
        self.status_code: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._request = request
        self._body = _Body({} if self.is_decoded else self.headers, request)
        self._pieces: Iterator[bytes] = self._iterate()

    def _iterate(self) -> Iterator[bytes]:
        return iter(self._response.stream)

    def piece(self) -> bytes:
        """Return what has come, empty at the end."""
        for raw in self._pieces:
            if piece := self._body.take(raw):
                return piece
        return b""

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(iter(self.piece, b""))

    def close(self) -> None:
        """Close it; a connection whose body was read to the end serves again."""
        self._response.close()

    def drain(self) -> None:
        """Read the end of a body after `[DONE]` without waiting, so that the connection can be used again.

        Without this each stream costs a connection, as with the openai SDK.
        """
        self._request.deadline = time.monotonic() + _GRACE
        with contextlib.suppress(Exception):  # the answer is complete, whatever happens to the connection
            next(self._pieces, None)


class Foreign(Received):
    """A sync answer from the caller's own httpx client, which decodes by itself.

    httpcore cannot change the timeout of a read once the body has begun, so a timer closes the connection at the
    deadline. With HTTP/2 other requests use the same connection. There the deadline is checked only between pieces.
    """

    is_decoded = True

    def __init__(self, response: Any, request: Request) -> None:
        super().__init__(response, request)
        stream = response.extensions.get("network_stream")
        own = stream is not None and response.http_version.startswith("HTTP/1")
        self._socket: Any = stream.get_extra_info("socket") if own else None
        self._timer: tuple[float, threading.Timer] | None = None

    def _iterate(self) -> Iterator[bytes]:
        pieces: Iterator[bytes] = self._response.iter_bytes()
        return pieces

    def piece(self) -> bytes:
        """Return what has come, empty at the end."""
        deadline = self._request.deadline
        if deadline is not None:
            left_until(deadline)
            self._end_at(deadline)
        return super().piece()

    def close(self) -> None:
        """Close it."""
        self._end_at(None)
        super().close()

    def drain(self) -> None:
        """Read the end of the body if that saves a connection."""
        if self._socket is not None:  # over HTTP/2 nothing is gained
            self._end_at(time.monotonic() + _GRACE)
            super().drain()

    def _end_at(self, deadline: float | None) -> None:
        if self._timer is not None:
            if self._timer[0] == deadline:
                return
            self._timer[1].cancel()
            self._timer = None
        if deadline is not None and self._socket is not None:
            timer = threading.Timer(max(0.0, deadline - time.monotonic()), self._shut)
            timer.daemon = True
            timer.start()
            self._timer = deadline, timer

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class AsyncReceived:
    """An async answer with an unread body."""

    is_http1 = True
    is_timed = False  # whether the deadline is aiohttp's to keep

    def __init__(self, response: aiohttp.ClientResponse, request: Request) -> None:
        self.status_code = response.status
        self.headers: Mapping[str, str] = {name.lower(): _text(value) for name, value in response.headers.items()}
        self._response: Any = response
        self._request = request
        self._body = _Body(self.headers, request)
        self._raw: Callable[[], Awaitable[bytes]] = response.content.readany

    async def piece(self) -> bytes:
        """Return what has come, empty at the end."""
        while raw := await (self._raw() if self._request.deadline is None else in_time(self._request, self._raw)):
            if piece := self._body.take(raw):
                return piece
        return b""

    async def read(self) -> bytes:
        """Return the whole body."""
        if self.is_timed:
            return await self._read()
        whole: bytes = await in_time(self._request, self._read)
        return whole

    async def _read(self) -> bytes:
        pieces = []
        while piece := await self._raw():
            pieces.append(self._body.take(piece))
            if self._request.deadline is not None:
                left_until(self._request.deadline)
        return b"".join(pieces)

    async def close(self) -> None:
        """Close it; a connection whose body was read to the end serves again."""
        self._response.close()

    async def drain(self) -> None:
        """As `Received.drain`."""
        if self.is_http1:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_GRACE):
                    await self._raw()


def _text(value: str) -> str:
    """Return a header without the surrogates that aiohttp uses for bytes that are not UTF-8; they cannot be printed."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


class AsyncForeign(AsyncReceived):
    """An async answer from the caller's own httpx client, which decodes by itself.

    Each wait is a task of its own, which is cancelled only once. anyio's scopes cancel at every `await`, also while
    httpcore cleans up, and its pool then loses the connection for ever (httpcore 1.0.9).
    """

    def __init__(self, response: Any, request: Request) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        self.is_http1 = response.http_version.startswith("HTTP/1")
        self._response = response
        self._request = request
        self._body = _Body({}, request)
        pieces = response.aiter_bytes()
        self._raw = lambda: cancelled_once(anext(pieces, b""))

    async def close(self) -> None:
        """Close it."""
        await asyncio.shield(self._response.aclose())
