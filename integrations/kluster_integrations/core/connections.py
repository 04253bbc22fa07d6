"""Connections: httpx for sync calls, aiohttp for async ones, or the caller's own client.

Only httpx's `HTTPTransport` is used: its client would double the cost, and brings cookies, redirects and `.netrc`,
which we do not want. A pool is made at the first request. All users of a base URL share it, in one process and event
loop. It is closed when its loop ends.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import io
import os
import threading
import urllib.request
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from kluster_integrations.core.errors import BadRequestError
from kluster_integrations.core.received import (
    AsyncForeign,
    AsyncReceived,
    Foreign,
    Form,
    Received,
    Request,
    cancelled_once,
    in_time,
    left_until,
)

if TYPE_CHECKING:
    import ssl

    import aiohttp

__all__ = ["Connections", "Form", "Request"]

_KEPT = 30.0  # seconds that an idle connection is kept: less than load balancers keep it
_LARGE = 2**20  # bytes; aiohttp warns of a larger body unless it is a file
_TIMEOUTS = ("connect", "read", "write", "pool")
_ACCEPT_ENCODING = "gzip, deflate"  # what zlib can decode up to a bound
_FOREVER = 1e6  # seconds: a socket takes no infinite timeout as a number


def _close_unseen(sending: asyncio.Future[Any]) -> None:
    """Close a response that arrived just after its caller was cancelled."""
    if not sending.cancelled() and sending.exception() is None:
        _closing.add(task := asyncio.ensure_future(sending.result().aclose()))
        task.add_done_callback(_closing.discard)


_closing: set[asyncio.Future[None]] = set()


class _Seconds(float):
    """The seconds between two bytes of a request, which its deadline may cut short."""

    request: Request


def _left(timeout: float | None) -> float | None:
    """Return the seconds to wait for the next byte: `timeout`, but not beyond the request's deadline."""
    request: Request | None = getattr(timeout, "request", None)
    if timeout is None or request is None or request.deadline is None:
        return timeout
    return min(timeout, left_until(request.deadline))


class _Backend(httpcore.NetworkBackend):
    """httpcore's own backend, with deadlines.

    httpcore's timeout is for one read. A server that sends a byte at a time, or one `103 Early Hints` after another,
    would keep a request for ever.
    """

    _real = httpcore.SyncBackend()

    def connect_tcp(  # type: ignore[override]  # the rest is passed on
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> httpcore.NetworkStream:
        return _Stream(self._real.connect_tcp(host, port, _left(timeout), **options))


class _Stream(httpcore.NetworkStream):
    def __init__(self, real: httpcore.NetworkStream) -> None:
        self._real = real
        self.close = real.close  # type: ignore[method-assign]
        self.get_extra_info = real.get_extra_info  # type: ignore[method-assign]

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._real.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._real.write(buffer, _left(timeout))

    def start_tls(self, ssl_context: Any, server_hostname: Any = None, timeout: float | None = None) -> _Stream:
        return _Stream(self._real.start_tls(ssl_context, server_hostname, _left(timeout)))


def _proxy(url: httpx.URL) -> str | None:
    """Return the environment's proxy for an address.

    None for plain http, which means the user's own server: through a proxy its clear text would travel further.
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
        transport = httpx.HTTPTransport(verify=_verify(url), trust_env=False, proxy=_proxy(url), limits=bounds)
    except ImportError as err:  # a SOCKS proxy, and no socksio
        raise BadRequestError(str(err)) from None
    transport._pool._network_backend = _Backend()  # httpx 0.28 has no argument for it
    return transport


def _aopen(url: httpx.URL) -> aiohttp.ClientSession:
    """Return a pool for the async calls of the running loop.

    It has no bound either: a request that waits for a connection would end in "the server did not answer". The caller
    and the account's limits decide how many requests are sent at once.
    """
    import aiohttp

    proxy = _proxy(url)
    if proxy and not proxy.startswith("http"):
        raise BadRequestError(
            f"Async calls cannot use a proxy of the kind {proxy.partition(':')[0]!r}, which the environment names.",
            hint="pass http_async_client=httpx.AsyncClient(), with httpx[socks] installed, or set NO_PROXY.",
        )
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT, ssl=_verify(url))
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), proxy=proxy, auto_decompress=False
    )


async def _close_with_loop(pool: _Pool) -> AsyncGenerator[None]:
    """Close a pool when its event loop ends: asyncio.run then closes the loop's async generators.

    `Runner.run_sync` of openai-agents 0.24 closes them after each run and goes on with the same loop. The next request
    then opens a new pool.
    """
    try:
        yield
    finally:
        _pools.forget(pool)
        await pool.http.close()


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

    def forget(self, pool: _Pool) -> None:
        """Hand out no more pools."""
        with self._lock:
            for key in [key for key, known in self.open.items() if known is pool]:
                del self.open[key]

    def leave(self, user: Connections, loop: _Loop) -> Any:
        """Return the unused pools, for the caller to close."""
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

    The pools are kept, because a pool that is collected closes its connections. An aiohttp connection would then leave
    the event loop's epoll, which both processes share, and the parent would never see its next answer on it.
    """
    global _pools
    _inherited.append(_pools)
    _pools = _Pools()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


class Connections:
    """One user's connections to a base URL.

    Args:
        base_url: The address of the API.
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

    def send(self, request: Request) -> Received:
        """Send a request and return the answer, with its body unread."""
        if self._client is not None:
            made = _built(self._client, request, request.content or None)
            return Foreign(self._client.send(made, stream=True), request)
        ours = {"host": request.url.netloc.decode(), "accept_encoding": _ACCEPT_ENCODING}
        if request.content:
            ours["content_length"] = str(len(request.content))
        made = httpx.Request(
            request.method,
            request.url,
            headers=_encoded(request.headers(**ours)),
            stream=request.content if isinstance(request.content, Form) else httpx.ByteStream(request.content),
            extensions={"timeout": _timeouts(request)},
        )
        return Received(_pools.join(self, None, _open).http.handle_request(made), request)

    async def asend(self, request: Request) -> AsyncReceived:
        """As `send`."""
        content = request.content
        data = content.pieces() if isinstance(content, Form) else content
        if (client := self._async_client) is not None:
            sending = asyncio.ensure_future(client.send(_built(client, request, data or None), stream=True))
            try:
                return AsyncForeign(await in_time(request, lambda: cancelled_once(sending)), request)
            except (asyncio.CancelledError, TimeoutError):
                sending.add_done_callback(_close_unseen)
                raise
        import aiohttp  # takes 60 ms, and most programs are sync

        pool = _pools.join(self, asyncio.get_running_loop(), _aopen)
        if pool.closer is None:
            pool.closer = _close_with_loop(pool)
            await anext(pool.closer)
        connect, read, *_ = request.timeouts
        # aiohttp's own total costs half as much, but cannot be changed once a stream has begun.
        total = None if request.streamed or request.deadline is None else left_until(request.deadline)
        sending = functools.partial(
            pool.http.request,
            request.method,
            str(request.url),
            data=io.BytesIO(data) if isinstance(data, bytes) and len(data) >= _LARGE else data,
            headers=request.headers(accept_encoding=_ACCEPT_ENCODING, **_length(content)),
            timeout=aiohttp.ClientTimeout(total, sock_connect=connect, sock_read=read),
            allow_redirects=False,
        )
        if total is None:
            return AsyncReceived(await in_time(request, sending), request)
        received = AsyncReceived(await sending(), request)
        received.is_timed = True
        return received

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


def _timeouts(request: Request) -> dict[str, float | None]:
    """Return httpcore's timeouts; `_Backend` sees the request behind them."""
    made: dict[float | None, _Seconds] = {}
    timeouts = request.timeouts
    for value in timeouts:
        if value not in made:  # most often there is but one
            made[value] = seconds = _Seconds(_FOREVER if value is None else value)
            seconds.request = request
    return {name: made[value] for name, value in zip(_TIMEOUTS, timeouts, strict=True)}


def _length(content: bytes | Form) -> dict[str, str]:
    """Return the header with the length of a form, which would else be sent in chunks."""
    return {"content_length": str(len(content))} if isinstance(content, Form) else {}


def _built(client: Any, request: Request, content: Any) -> Any:
    """Return a request made by the caller's client, which adds its own headers."""
    headers = _encoded(request.headers(**_length(request.content)))
    url, timeout = str(request.url), request.timeouts
    return client.build_request(request.method, url, headers=headers, content=content, timeout=timeout)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """As bytes, for text httpx takes only if it is ASCII."""
    return [(name.encode(), value.encode()) for name, value in headers.items()]
