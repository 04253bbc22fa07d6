"""The HTTP side: openai's SDK as the client, one connection pool a base URL, retries in this one place.

The SDK's public `client.post(…, cast_to=httpx.Response)` authenticates, sends and retries, and leaves the body alone:
no pydantic object is built from an answer or a chunk. `OPENAI_…` variables (key, organization, project, extra headers,
base URL) are shut off, for what they hold belongs to another company.

Clients are made at the first request, shared by all who use the same base URL and key, kept apart by process and event
loop, and closed when their loop ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from inspect import signature
from typing import Any, NamedTuple, cast

import openai

from kluster_integrations._version import __version__
from kluster_integrations.core import limits
from kluster_integrations.core.config import KlusterConfig
from kluster_integrations.core.errors import (
    APIConnectionError,
    InternalServerError,
    KlusterError,
    mapped,
)
from kluster_integrations.core.sse import loads
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.types import Delta

__all__ = ["CHAT_PATH", "HTTPX", "Answer", "Transport", "get"]

CHAT_PATH = "/chat/completions"
_DRAIN_SECONDS = 0.01
HTTPX = importlib.import_module("httpx2" if int(openai.__version__.split(".")[0]) >= 3 else "httpx")
"""The HTTP library that the installed SDK speaks: httpx2 from openai 3 on, httpx before."""

# With httpx's own class as `cast_to` the SDK hands the response over unread; it never makes the stream class.
_AS_STREAM = {"cast_to": HTTPX.Response, "stream": True, "stream_cls": openai.Stream[object]}


class Answer(NamedTuple):
    """A decoded answer and its HTTP headers."""

    data: Any
    headers: Mapping[str, str]


class _Client(openai.OpenAI):
    """Sends the headers it was given, and none that the SDK takes from the environment.

    The SDK calls `_prepare_request` before each try: there the account's limits wait.
    """

    own_headers: dict[str, Any]

    @property
    def default_headers(self) -> dict[str, Any]:
        return self.own_headers

    def _prepare_request(self, request: Any) -> None:
        limits.paid()


class _AsyncClient(openai.AsyncOpenAI):
    """As `_Client`."""

    own_headers: dict[str, Any]

    @property
    def default_headers(self) -> dict[str, Any]:
        return self.own_headers

    async def _prepare_request(self, request: Any) -> None:
        await limits.apaid()


_SHUT_OFF = dict.fromkeys(
    {"admin_api_key", "organization", "project", "webhook_secret"} & signature(openai.OpenAI).parameters.keys(), ""
)
# The SDK's overloads of `post` do not know that any `cast_to` of httpx's comes back as it is.
_AnyClient = Any


def _make_client(cls: type[_AnyClient], config: KlusterConfig, http_client: Any) -> _AnyClient:
    key = config.api_key.get_secret_value() if config.api_key else "none"
    # Empty texts, not None: for None the SDK would look into the environment. 2.30 does not know all of them.
    client = cls(
        api_key=key,
        **_SHUT_OFF,
        base_url=config.base_url,
        timeout=config.timeout,
        max_retries=config.max_retries,
        http_client=http_client,
    )
    headers = {
        "Accept": "application/json",
        "Authorization": f"Bearer {key}",  # openai 2.30 takes it from here, later versions do not mind
        "Content-Type": "application/json",
        "User-Agent": f"kluster-integrations/{__version__}",
    }
    given = {name.lower() for name in config.default_headers}
    client.own_headers = {k: v for k, v in headers.items() if k.lower() not in given} | dict(config.default_headers)
    return client


def _http_options(base_url: str) -> dict[str, Any]:
    # Plain http is loopback: a proxy from the environment would carry the key in clear text to another machine.
    # Redirects are not followed: they would carry prompts to an address that nobody chose.
    secure = base_url.startswith("https:")
    # Nor is there anything to verify on plain http: loading the certificates takes 20 ms.
    return {"trust_env": secure, "verify": secure, "follow_redirects": False}


class _Pools:
    """The clients in use in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._http: dict[Any, Any] = {}
        self._clients: dict[Any, Any] = {}
        self._closers: dict[Any, AsyncGenerator[None, None]] = {}

    def sync_client(self, key: tuple[Any, ...], config: KlusterConfig) -> _AnyClient:
        client = self._clients.get(key)
        if client is None:
            with self._lock:
                http = self._http.get(config.base_url)
                if http is None:
                    http = openai.DefaultHttpxClient(**_http_options(config.base_url))
                    self._http[config.base_url] = http
                client = self._clients.setdefault(key, _make_client(_Client, config, http))
        return client

    async def async_client(self, identity: tuple[Any, ...], config: KlusterConfig) -> _AnyClient:
        loop = asyncio.get_running_loop()
        key = (loop, *identity)
        client = self._clients.get(key)
        if client is None:
            with self._lock:
                self._forget_closed_loops()
                pool = (loop, config.base_url)
                http = self._http.get(pool)
                fresh = http is None
                if http is None:
                    http = self._http[pool] = _async_http(config.base_url)
                client = self._clients.setdefault(key, _make_client(_AsyncClient, config, http))
            if fresh:
                # An event loop closes its async generators when it ends (asyncio.run): so the pool is closed with it.
                closer = self._closers[pool] = self._close_with_loop(pool)
                await anext(closer)
        return client

    async def _close_with_loop(self, pool: tuple[Any, str]) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.aclose(pool)

    def _forget_closed_loops(self) -> None:
        for table in (self._http, self._clients, self._closers):
            for key in [k for k in table if isinstance(k, tuple) and _is_closed_loop(k[0])]:
                del table[key]

    def close(self, base_url: str) -> None:
        with self._lock:
            http = self._http.pop(base_url, None)
            for key in [k for k in self._clients if k[0] == base_url]:
                del self._clients[key]
        if http is not None:
            http.close()

    def close_all(self) -> None:
        """Close what no event loop closes: the sync pools."""
        for base_url in [key for key in self._http if isinstance(key, str)]:
            self.close(base_url)

    async def aclose(self, pool: tuple[Any, str]) -> None:
        with self._lock:
            http = self._http.pop(pool, None)
            self._closers.pop(pool, None)
            for key in [k for k in self._clients if k[:2] == pool]:
                del self._clients[key]
        if http is not None:
            await http.aclose()


def _is_closed_loop(value: object) -> bool:
    return isinstance(value, asyncio.AbstractEventLoop) and value.is_closed()


def _identity(config: KlusterConfig) -> tuple[Any, ...]:
    headers = tuple(sorted(config.default_headers.items()))
    return (config.base_url, config.api_key, config.timeout, config.max_retries, headers)


def _async_http(base_url: str) -> Any:
    """Prefer aiohttp: httpx's pool takes several times the CPU at 200 concurrent requests (benchmarks/)."""
    options = _http_options(base_url)
    try:
        return openai.DefaultAioHttpClient(**options)
    except RuntimeError:  # the SDK says so where aiohttp is not installed
        return openai.DefaultAsyncHttpxClient(**options)


_pools = _Pools()
_inherited: list[_Pools] = []
atexit.register(lambda: _pools.close_all())


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


class Transport:
    """Sends requests for one configuration. Making one costs nothing; clients come with the first request.

    Args:
        config: Where to, and with which key.
        http_client: An `httpx.Client` or `httpx2.Client` of the caller's own, in place of the shared pool.
        http_async_client: The same for async calls.
        adapt: An adapter's error class for each of `errors`.

    Raises:
        TypeError: If a client is none of httpx's or httpx2's.
    """

    def __init__(
        self,
        config: KlusterConfig,
        *,
        http_client: Any = None,
        http_async_client: Any = None,
        adapt: Mapping[type[KlusterError], type[KlusterError]] | None = None,
    ) -> None:
        _check_client("http_client", http_client, "Client")
        _check_client("http_async_client", http_async_client, "AsyncClient")
        self.config = config
        self._http_client = http_client
        self._http_async_client = http_async_client
        self._own: _AnyClient = None
        self._own_async: _AnyClient = None
        self._identity = _identity(config)
        self.secret = config.api_key.get_secret_value() if config.api_key else None
        self.errors = mapped(secret=self.secret, adapt=adapt)
        self._io = mapped(secret=self.secret)

    def _url(self, path: str) -> str:
        return self.config.base_url + path  # absolute, for the SDK takes its time to join them

    def _client(self) -> _AnyClient:
        if self._http_client is None:
            return _pools.sync_client(self._identity, self.config)
        if self._own is None:
            self._own = _make_client(_Client, self.config, self._http_client)
        return self._own

    async def _async_client(self) -> _AnyClient:
        if self._http_async_client is None:
            return await _pools.async_client(self._identity, self.config)
        if self._own_async is None:
            self._own_async = _make_client(_AsyncClient, self.config, self._http_async_client)
        return self._own_async

    def get(self, path: str, *, query: Mapping[str, object] | None = None) -> Answer:
        """Get a path below the base URL; the key goes along if there is one.

        Raises:
            KlusterError: Whatever goes wrong.
        """
        options: dict[str, Any] = {"params": query or {}}
        if self.secret is None:
            options["headers"] = {"Authorization": openai.omit}
        with self.errors:
            return _decode(self._client().get(path, cast_to=HTTPX.Response, options=options))

    def post(self, path: str, body: Mapping[str, Any], **options: Any) -> Answer:
        """Send a JSON body and return the decoded answer.

        Args:
            path: Below the base URL, such as `/chat/completions`.
            body: The JSON body.
            options: The SDK's request options: `timeout` (seconds), `headers`, `max_retries`.

        Raises:
            KlusterError: Whatever goes wrong.
        """
        with self.errors:
            self.config.require_key()
            client = self._client()
            return _decode(client.post(self._url(path), cast_to=HTTPX.Response, body=body, options=options))

    async def apost(self, path: str, body: Mapping[str, Any], **options: Any) -> Answer:
        """As `post`."""
        with self.errors:
            self.config.require_key()
            client = await self._async_client()
            return _decode(await client.post(self._url(path), cast_to=HTTPX.Response, body=body, options=options))

    def stream(self, body: Mapping[str, Any], reader: ChatStream, **options: Any) -> Iterator[Delta]:
        """Send a chat request with `stream` set, and yield what `reader` makes of the answer as it comes.

        Raises:
            KlusterError: Whatever goes wrong, also in the middle.
        """
        with self.errors:
            self.config.require_key()
            response = self._client().post(self._url(CHAT_PATH), body=body, options=options, **_AS_STREAM)
            reader.headers = response.headers
        try:
            yield from self._read(response, reader)
        finally:
            response.close()

    def _read(self, response: Any, reader: ChatStream) -> Iterator[Delta]:
        if _is_whole(response):
            with self.errors:
                response.read()
                deltas = reader.whole(_decode(response).data)
            yield from deltas
            return
        pieces = response.iter_bytes()
        while not reader.done:
            with self.errors:
                try:
                    with self._io:
                        piece = next(pieces, None)
                except APIConnectionError as err:
                    reader.broken(err)
                    piece = None
                deltas = reader.feed(piece)
            yield from deltas
        with self.errors:
            deltas = reader.close()
        yield from deltas
        _drain(response, pieces)

    async def astream(self, body: Mapping[str, Any], reader: ChatStream, **options: Any) -> AsyncIterator[Delta]:
        """As `stream`."""
        with self.errors:
            self.config.require_key()
            client = await self._async_client()
            response = await client.post(self._url(CHAT_PATH), body=body, options=options, **_AS_STREAM)
            reader.headers = response.headers
        try:
            async for delta in self._aread(response, reader):
                yield delta
        finally:
            await response.aclose()

    async def _aread(self, response: Any, reader: ChatStream) -> AsyncIterator[Delta]:
        if _is_whole(response):
            with self.errors:
                await response.aread()
                deltas = reader.whole(_decode(response).data)
            for delta in deltas:
                yield delta
            return
        pieces = response.aiter_bytes()
        while not reader.done:
            with self.errors:
                try:
                    with self._io:
                        piece = await anext(pieces, None)
                except APIConnectionError as err:
                    reader.broken(err)
                    piece = None
                deltas = reader.feed(piece)
            for delta in deltas:
                yield delta
        with self.errors:
            deltas = reader.close()
        for delta in deltas:
            yield delta
        await _adrain(pieces)

    def close(self) -> None:
        """Close the connections of this base URL, in this process; a later request opens new ones."""
        _pools.close(self.config.base_url)

    async def aclose(self) -> None:
        """Close the async connections of this base URL, in this event loop."""
        await _pools.aclose((asyncio.get_running_loop(), self.config.base_url))


def _check_client(name: str, client: object, kind: str) -> None:
    """Refuse what is no HTTP client; the SDK would do so with the key in its frames."""
    kinds = {(cls.__module__.split(".")[0], cls.__name__) for cls in type(client).__mro__}
    if client is not None and not kinds & {("httpx", kind), ("httpx2", kind)}:
        raise TypeError(f"{name} must be an httpx.{kind} or httpx2.{kind}, not {type(client).__name__}.")


def _decode(response: Any) -> Answer:
    try:
        return Answer(loads(response.content), response.headers)
    except ValueError:
        raise InternalServerError(
            f"The answer is not JSON: {response.text[:200]!r}.", status_code=response.status_code
        ) from None


def _is_whole(response: Any) -> bool:
    """Whether a server has answered the request for a stream with a whole answer, or with a page that is none."""
    return str(response.headers.get("content-type", "")).lower().startswith(("application/json", "text/html"))


def _drain(response: Any, pieces: Iterator[bytes]) -> None:
    """Read the end of a body behind `[DONE]`, so that the connection can serve again; do not wait for it.

    Without this each stream costs a connection, as it does with the SDK.
    """
    network = response.extensions.get("network_stream")
    if network is None:
        return
    read, drainer = network.read, threading.get_ident()

    # A read's timeout was fixed when the body began; on this stream, for these reads, it is a short one. Not for those
    # of another thread, whose request the connection may serve as soon as the end is read.
    def hasty(size: int, timeout: float | None = None) -> bytes:
        return cast("bytes", read(size, timeout=_DRAIN_SECONDS if threading.get_ident() == drainer else timeout))

    network.read = hasty
    try:
        with contextlib.suppress(Exception):  # the answer is complete, whatever happens to the connection
            next(pieces, None)
    finally:
        if network.read is hasty:  # else that thread's own
            del network.read


async def _adrain(pieces: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_DRAIN_SECONDS):
            await anext(pieces, None)


def get(config: KlusterConfig, path: str, *, query: Mapping[str, object] | None = None) -> Answer:
    """Get a path of the API; see `Transport.get`."""
    return Transport(config).get(path, query=query)
