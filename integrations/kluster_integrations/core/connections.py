"""Connections: httpx's for sync calls, aiohttp's for async ones, or those of a client of the caller's.

Of httpx only `HTTPTransport` is used: its client would cost as much again, and brings cookies, redirects and `.netrc`,
of which none is wanted here. Pools are made at the first request, shared by all who use the same base URL, kept apart
by process and event loop, and closed when their loop ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import io
import os
import socket
import threading
import urllib.request
import uuid
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import httpx

from kluster_integrations.core.errors import BadRequestError

if TYPE_CHECKING:
    import ssl

    import aiohttp

__all__ = ["Connections", "Form", "Received", "Request", "drain", "pieces_of"]

_GRACE = 0.01  # seconds for the end of a body behind `[DONE]`: servers often send it as a packet of its own
_KEPT = 30.0  # seconds that an idle connection is kept: less than load balancers keep it
_LARGE = 2**20  # bytes; aiohttp warns of a larger body unless it is a file
_PIECE = 2**16  # bytes of a file in memory
_TIMEOUTS = ("connect", "read", "write", "pool")
# What httpx can decode depends on what else is installed, and only its client says so.
_ACCEPT_ENCODING = httpx.Client(transport=httpx.BaseTransport()).headers["Accept-Encoding"]


class Form(httpx.SyncByteStream):
    """A form with a file (multipart/form-data, RFC 7578), which is read as it goes out, at each try from its beginning.

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
    """What is sent."""

    method: str
    url: httpx.URL
    content: bytes | Form

    @property
    def timeouts(self) -> tuple[float | None, ...]:
        """The seconds to connect, between bytes read and written, and for a place in a pool."""

    def headers(self, **defaults: str) -> dict[str, str]:
        """Return the headers; of the defaults those that it has no others for."""


class Received:
    """An async answer whose body is still to come."""

    is_http1 = True

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status_code = response.status
        self.headers: Mapping[str, str] = {name.lower(): _text(value) for name, value in response.headers.items()}
        self._response: Any = response

    async def read(self) -> bytes:
        """Return the whole body."""
        content: bytes = await self._response.read()
        return content

    async def piece(self) -> bytes:
        """Return what has come, empty at the end."""
        piece: bytes = await self._response.content.readany()
        return piece

    async def close(self) -> None:
        """Close it; a connection whose body was read to the end serves again."""
        self._response.close()

    async def drain(self) -> None:
        """As `drain`."""
        if self.is_http1:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_GRACE):
                    await self.piece()


def _text(value: str) -> str:
    """Return a header without the surrogates that aiohttp leaves where it is not UTF-8: nobody can print those."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value


class _Foreign(Received):
    """One of an httpx client of the caller's.

    Each wait is a task of its own, which is cancelled once, however often the caller is: anyio's scopes cancel at every
    `await`, also while httpcore cleans up, and then its pool loses the connection for ever (httpcore 1.0.9).
    """

    def __init__(self, response: Any) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        self.is_http1 = response.http_version.startswith("HTTP/1")
        self._response = response
        self._pieces = response.aiter_bytes()

    async def read(self) -> bytes:
        content: bytes = await _cancelled_once(self._response.aread())
        return content

    async def piece(self) -> bytes:
        piece: bytes = await _cancelled_once(anext(self._pieces, b""))
        return piece

    async def close(self) -> None:
        await asyncio.shield(self._response.aclose())


async def _cancelled_once(work: Awaitable[Any]) -> Any:
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        raise


def _close_unseen(sending: asyncio.Future[Any]) -> None:
    """Close an answer that came at the moment when nobody waited for it anymore."""
    if not sending.cancelled() and sending.exception() is None:
        _closing.add(task := asyncio.ensure_future(sending.result().aclose()))
        task.add_done_callback(_closing.discard)


_closing: set[asyncio.Future[None]] = set()


def pieces_of(response: Any) -> Iterator[bytes]:
    """Iterate over the body of a sync answer, past httpx's decoders if there is nothing to decode."""
    pieces: Iterator[bytes] = response.iter_bytes() if "content-encoding" in response.headers else iter(response.stream)
    return pieces


def drain(response: Any, pieces: Iterator[bytes]) -> None:
    """Read the end of a body behind `[DONE]`, so that the connection can serve again; do not wait for it.

    Without this each stream costs a connection, as it does with the openai SDK. Over HTTP/2 it does not, and others
    read from the same connection. A thread reads, for httpcore fixes the timeout of a read when the body begins.
    """
    stream = response.extensions.get("network_stream")
    if stream is None or not response.http_version.startswith("HTTP/1"):
        return

    def read() -> None:
        with contextlib.suppress(Exception):
            next(pieces, None)

    with contextlib.suppress(Exception):  # the answer is complete, whatever happens to the connection
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(_GRACE)
        if thread.is_alive():
            stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            thread.join()


def _proxy(url: httpx.URL) -> str | None:
    """Return the environment's proxy for an address.

    None for plain http, which is loopback: a proxy would carry the key in clear text to another machine.
    """
    if url.scheme != "https" or urllib.request.proxy_bypass(url.host):
        return None
    known = urllib.request.getproxies()
    found = known.get("https") or known.get("all")
    return f"http://{found}" if found and "://" not in found else found


@functools.lru_cache(8)
def _ssl_context(*_: str | None) -> ssl.SSLContext:
    """Return the context for the environment's certificates; loading them takes 20 ms."""
    return httpx.create_ssl_context()


def _verify(url: httpx.URL) -> Any:
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    return _ssl_context(*map(os.environ.get, names)) if url.scheme == "https" else False


def _open(url: httpx.URL) -> httpx.HTTPTransport:
    """Return a pool for sync calls. It has no bound: there are at most as many connections as threads."""
    bounds = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=_KEPT)
    try:
        return httpx.HTTPTransport(verify=_verify(url), trust_env=False, proxy=_proxy(url), limits=bounds)
    except ImportError as err:  # a SOCKS proxy, and no socksio
        raise BadRequestError(str(err)) from None


def _aopen(url: httpx.URL) -> aiohttp.ClientSession:
    """Return a pool for the async calls of the running loop.

    It has no bound either: a request that waits for a connection would end in "the server did not answer". How many are
    sent at once is for the caller and the account's limits to say.
    """
    import aiohttp

    proxy = _proxy(url)
    if proxy and not proxy.startswith("http"):
        raise BadRequestError(
            f"Async calls cannot use a proxy of the kind {proxy.partition(':')[0]!r}, which the environment names.",
            hint="pass http_async_client=httpx.AsyncClient(), with httpx[socks] installed, or set NO_PROXY.",
        )
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT, ssl=_verify(url))
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), proxy=proxy)


async def _close_with_loop(http: aiohttp.ClientSession) -> AsyncGenerator[None]:
    """Close a pool when its event loop ends, for then (in asyncio.run) a loop closes its async generators."""
    try:
        yield
    finally:
        await http.close()


_Loop = asyncio.AbstractEventLoop | None
"""None stands for sync calls."""


class _Pool:
    def __init__(self, http: Any) -> None:
        self.http = http
        self.users: weakref.WeakSet[Connections] = weakref.WeakSet()
        self.closer: AsyncGenerator[None] | None = None


class _Pools:
    """The pools of this process by event loop and base URL."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.open: dict[tuple[_Loop, str], _Pool] = {}

    def join(self, user: Connections, loop: _Loop, make: Callable[[httpx.URL], Any]) -> _Pool:
        """Return the pool that a user's requests share until it leaves or is collected."""
        pool = self.open.get((loop, user.base_url))
        if pool is None or user not in pool.users:
            with self._lock:
                for key in [k for k in self.open if k[0] is not None and k[0].is_closed()]:
                    del self.open[key]
                pool = self.open.get((loop, user.base_url))
                if pool is None:
                    pool = self.open[loop, user.base_url] = _Pool(make(httpx.URL(user.base_url)))
                pool.users.add(user)
        return pool

    def leave(self, user: Connections, loop: _Loop) -> Any:
        """Return what nobody uses anymore, to be closed."""
        with self._lock:
            if (pool := self.open.get((loop, user.base_url))) is not None:
                pool.users.discard(user)
                if not pool.users:
                    return self.open.pop((loop, user.base_url)).http
        return None

    def close(self) -> None:
        """Close what no event loop closes: the sync pools."""
        for pool in [pool for (loop, _), pool in self.open.items() if loop is None]:
            pool.http.close()


_pools = _Pools()
_inherited: list[_Pools] = []
atexit.register(lambda: _pools.close())


def _start_anew() -> None:
    """After a fork the sockets belong to the parent: leave them alone, and begin with none.

    The pools are kept, for a pool that is collected closes its connections. aiohttp's would leave the event loop's
    epoll, which both processes share: the parent's next answer on such a connection would never be seen.
    """
    global _pools
    _inherited.append(_pools)
    _pools = _Pools()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


class Connections:
    """One user's connections to a base URL.

    Args:
        base_url: Where to.
        client: An `httpx.Client` or `httpx2.Client` of the caller's own, in place of the shared pool.
        async_client: The same for async calls.

    Raises:
        TypeError: If a client is neither httpx's nor httpx2's.
    """

    def __init__(self, base_url: str, client: Any, async_client: Any) -> None:
        _check_client("http_client", client, "Client")
        _check_client("http_async_client", async_client, "AsyncClient")
        self.base_url = base_url
        self._client = client
        self._async_client = async_client

    def send(self, request: Request) -> Any:
        """Send a request and return the response, httpx's or httpx2's, with its body unread."""
        if self._client is not None:
            return self._client.send(_built(self._client, request, request.content or None), stream=True)
        ours = {"host": request.url.netloc.decode(), "accept_encoding": _ACCEPT_ENCODING}
        if request.content:
            ours["content_length"] = str(len(request.content))
        made = httpx.Request(
            request.method,
            request.url,
            headers=_encoded(request.headers(**ours)),
            stream=request.content if isinstance(request.content, Form) else httpx.ByteStream(request.content),
            extensions={"timeout": dict(zip(_TIMEOUTS, request.timeouts, strict=True))},
        )
        return _pools.join(self, None, _open).http.handle_request(made)

    async def asend(self, request: Request) -> Received:
        """As `send`."""
        content = request.content
        data = content.pieces() if isinstance(content, Form) else content
        if (client := self._async_client) is not None:
            sending = asyncio.ensure_future(client.send(_built(client, request, data or None), stream=True))
            try:
                return _Foreign(await _cancelled_once(sending))
            except asyncio.CancelledError:
                sending.add_done_callback(_close_unseen)
                raise
        import aiohttp  # takes 60 ms, and most programs are sync

        pool = _pools.join(self, asyncio.get_running_loop(), _aopen)
        if pool.closer is None:
            pool.closer = _close_with_loop(pool.http)
            await anext(pool.closer)
        response = await pool.http.request(
            request.method,
            str(request.url),
            data=io.BytesIO(data) if isinstance(data, bytes) and len(data) >= _LARGE else data,
            headers=request.headers(**_length(content)),
            timeout=aiohttp.ClientTimeout(sock_connect=request.timeouts[0], sock_read=request.timeouts[1]),
            allow_redirects=False,
        )
        return Received(response)

    def close(self) -> None:
        """Close the sync pool of this process, unless others use it."""
        if (http := _pools.leave(self, None)) is not None:
            http.close()

    async def aclose(self) -> None:
        """Close the pool of the running event loop, unless others use it."""
        if (http := _pools.leave(self, asyncio.get_running_loop())) is not None:
            await http.close()


def _check_client(name: str, client: object, kind: str) -> None:
    kinds = {(cls.__module__.split(".")[0], cls.__name__) for cls in type(client).__mro__}
    if client is not None and not kinds & {("httpx", kind), ("httpx2", kind)}:
        raise TypeError(f"{name} must be an httpx.{kind} or httpx2.{kind}, not {type(client).__name__}.")


def _length(content: bytes | Form) -> dict[str, str]:
    """Return the header with the length of a form, which would else be sent in chunks."""
    return {"content_length": str(len(content))} if isinstance(content, Form) else {}


def _built(client: Any, request: Request, content: Any) -> Any:
    """Return the request of a client of the caller's, which has headers of its own."""
    headers = _encoded(request.headers(**_length(request.content)))
    url, timeout = str(request.url), request.timeouts
    return client.build_request(request.method, url, headers=headers, content=content, timeout=timeout)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """As bytes, for text httpx takes only if it is ASCII."""
    return [(name.encode(), value.encode()) for name, value in headers.items()]
