"""The HTTP side of the client: what is sent, what an answer means, and all retries.

`_Call` does everything except I/O. `Transport` does the I/O over `connections`, in a few lines per method.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import math
import random
import re
import time
import urllib.parse
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from numbers import Real
from typing import Any, BinaryIO, Literal, NamedTuple

import httpx

from kluster_integrations._version import __version__
from kluster_integrations.core import limits
from kluster_integrations.core.config import KlusterConfig, is_exposed
from kluster_integrations.core.connections import Connections, Form
from kluster_integrations.core.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    InternalServerError,
    KlusterError,
    from_body,
    mapped,
    shortened,
)
from kluster_integrations.core.specs import suggest
from kluster_integrations.core.sse import loads
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.types import Delta

__all__ = ["CHAT_PATH", "Answer", "Transport", "get", "path_of"]

CHAT_PATH = "/chat/completions"
_KINDS = {"batches": "batch job", "files": "file", "uploads": "upload"}  # by the first segment of a path
_LAST_SECONDS = 2.0  # for usage and `[DONE]` behind a finish reason: some servers send neither, and hang up late
_LONGEST_WAIT = 60.0  # seconds; the error of a longer `Retry-After` is raised
# RFC 9110, 5.1 and 5.5. httpx would quote the value, which may be a credential.
_HEADER = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*")
_CREDENTIAL = re.compile(r"authorization|api-?key|token|secret|cookie|password")

_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_url = functools.lru_cache(64)(httpx.URL)
_HARMLESS = frozenset({"accept", "accept-encoding", "accept-language", "content-type", "host", "user-agent"})
_log = logging.getLogger("kluster_integrations")
_Headers = dict[str, tuple[str, str]]
"""Names and values by lower-case name, so that each header is sent once, however it is spelled."""


class Answer(NamedTuple):
    """A decoded answer and its HTTP headers."""

    data: Any
    headers: Mapping[str, str]


class _Call:
    """One request over all its tries, without any I/O.

    Args:
        sender: The transport, which has the connection and the key.
        path: The path below the base URL.
        body: The JSON body; without it and `content` the request is a GET.
        content: A form, in place of a JSON body.
        streamed: Whether the answer is an event stream; `raw` allows any body.
        timeout: Seconds between bytes, or httpx's `Timeout`. Default: the configuration's.
        total_timeout: Seconds for all tries. Default: the configuration's.
        headers: Headers that win over all others.
        max_retries: Further tries. Default: the configuration's.
        deadline: A moment of `time.monotonic()` after which no try begins or waits; None is never.

    Attributes:
        deadline: When the answer must be complete, on the monotonic clock; None is never.
    """

    def __init__(
        self,
        sender: Transport,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content: Form | None = None,
        streamed: bool | Literal["raw"] = False,
        timeout: Any = None,
        total_timeout: float | None = None,
        headers: Mapping[str, Any] | None = None,
        max_retries: int | None = None,
        deadline: float = math.inf,
    ) -> None:
        config = sender.config
        is_get = body is None and content is None
        if not is_get and config.needs_key:
            config.require_key()
        self.method = "GET" if is_get else "POST"
        self._path = path
        self._model = (body or {}).get("model")
        self.url = _url(config.base_url + path)
        self.content = content or (b"" if body is None else _dumps(body).encode())
        self._timeout = config.timeout if timeout is None else timeout
        if timeout is not None and not hasattr(timeout, "read"):  # httpx checks its own
            _check_seconds("timeout", timeout)
        if total_timeout is not None:
            _check_seconds("total_timeout", total_timeout)
        if max_retries is not None and (not isinstance(max_retries, int) or max_retries < 0):
            raise BadRequestError(
                f"max_retries={shortened(max_retries)} must be a whole number, 0 or more.", hint="such as 2."
            )
        self.max_bytes: int | None = config.max_response_bytes
        self._total = config.total_timeout if total_timeout is None else total_timeout
        self._until = deadline
        # Streams and files have no limit. Any other answer that takes twice the timeout is broken.
        read = getattr(self._timeout, "read", self._timeout)
        is_bounded = self._total is None and read is not None and content is None
        self._seconds = 2 * read if is_bounded else self._total
        self._left = self._seconds
        self.deadline: float | None = None
        self.streamed = streamed
        self._secrets = sender.secrets | _credentials(headers or {})
        self._max_retries = config.max_retries if max_retries is None else max_retries
        self._retries = 0
        # A server that has seen this key knows that it has the request already.
        once = {} if is_get else {"idempotency-key": ("Idempotency-Key", str(uuid.uuid4()))}
        kind = {"content-type": ("Content-Type", content.content_type)} if content else {}
        self._headers = _with_headers({**once, **sender.headers, **kind}, headers or {})
        if not config.insecure_http and is_exposed(config.base_url):
            _refuse_credentials(self._headers, config.base_url)

    @property
    def timeouts(self) -> tuple[float | None, ...]:
        """The seconds to connect, between bytes read, between bytes written, and for a place in a pool, for one try."""
        wanted = (getattr(self._timeout, kind, self._timeout) for kind in ("connect", "read", "write", "pool"))
        if self._until == math.inf:
            return tuple(wanted)
        left = max(self._until - time.monotonic(), 0.001)  # 0 would be no limit for some libraries
        return tuple(left if seconds is None else min(seconds, left) for seconds in wanted)

    def begin(self) -> None:
        """Begin a try. The time that it waited for the account's limits does not count."""
        self._set_deadline(math.inf if self._left is None else time.monotonic() + self._left)

    def stream_begins(self) -> None:
        """Remove the deadline of a stream, unless the caller has set one, and the size limit of a file."""
        if self._total is None:
            self._set_deadline(math.inf)
        if self.streamed == "raw":  # not before: the body of an error has the bounds of any other answer
            self.max_bytes = None

    def hurry(self) -> None:
        """Shorten the deadline, because the answer is complete."""
        soon = time.monotonic() + _LAST_SECONDS
        self._set_deadline(soon if self.deadline is None else min(self.deadline, soon))

    def _set_deadline(self, at: float) -> None:
        at = min(at, self._until)
        self.deadline = None if at == math.inf else at

    def timed_out(self, err: KlusterError) -> KlusterError:
        """Return a timeout error if the deadline has ended a try, else the error itself."""
        if self.deadline is None or time.monotonic() < self.deadline or not isinstance(err, APIConnectionError):
            return err
        if self._seconds is None or time.monotonic() >= self._until:
            return err if isinstance(err, APITimeoutError) else APITimeoutError("The server did not answer in time.")
        what = "total_timeout" if self._total is not None else "twice the timeout"
        hint = "raise total_timeout=… (seconds; KLUSTER_TOTAL_TIMEOUT), or stream the answer."
        return APITimeoutError(f"The answer was not complete within {self._seconds:g} s ({what}).", hint=hint)

    def headers(self, **defaults: str) -> dict[str, str]:
        """Return the headers of the next try; all others win over the defaults."""
        named = {name.replace("_", "-"): value for name, value in defaults.items()}
        return {n: value for n, value in named.items() if n not in self._headers} | dict(self._headers.values())

    def is_stream(self, response: Any) -> bool:
        """Whether a response is a stream, and not an error, one JSON document or a gateway's page."""
        _log.debug("%s %s: HTTP %s", self.method, self.url, response.status_code)
        kind = response.headers.get("content-type", "").lower()
        ok = 200 <= response.status_code < 300
        is_whole = self.streamed != "raw" and kind.startswith(("application/json", "text/html"))
        return bool(self.streamed) and ok and not is_whole

    def answer(self, response: Any, content: bytes) -> Answer:
        """Return the decoded answer.

        Raises:
            KlusterError: The status is an error, or the body is not JSON.
        """
        status, text = response.status_code, None
        try:
            data = loads(content)
        except ValueError:
            data = text = content.decode("utf-8", "replace").strip()
        if not 200 <= status < 300:
            if location := response.headers.get("location"):
                data = f"The server redirects to {location}; set base_url to where the API is."
            inner = data.get("error") if isinstance(data, dict) else None
            error = from_body(inner or data, status_code=status, headers=response.headers, secret=self._secrets)
            if status == 404 and (kind := _KINDS.get(self._path.split("/")[1].partition("?")[0])):
                error.hint = f"check base_url and the id of the {kind}; another account's key does not find it."
            elif status == 404 and isinstance(self._model, str) and (near := suggest(self._model)):
                error.hint = f"did you mean {near!r}? `kluster models --refresh` lists what the server has."
            raise error
        if text is not None:
            raise InternalServerError(f"The answer is not JSON: {text[:200]!r}.", status_code=status)
        return Answer(data, response.headers)

    def wait(self, err: KlusterError) -> float | None:
        """Return the seconds until the next try; None if there is none. `Retry-After` wins."""
        status = err.status_code or 0
        may_pass = isinstance(err, APIConnectionError) or status in (409, 429) or status >= 500
        may_pass = {"true": True, "false": False}.get(err.headers.get("x-should-retry", ""), may_pass)
        if not may_pass or self._retries >= self._max_retries or (err.retry_after or 0) > _LONGEST_WAIT:
            return None
        seconds = err.retry_after or min(0.5 * 2**self._retries, 8.0) * (1 - random.random() / 4)
        if time.monotonic() + seconds >= self._until:
            return None
        if self._total is not None and self.deadline is not None:
            self._left = self.deadline - time.monotonic() - seconds
            if self._left <= 0:
                return None
        self._retries += 1
        self._headers["x-kluster-retry-count"] = ("X-Kluster-Retry-Count", str(self._retries))
        said = (self._retries, self._max_retries, seconds, err.message)
        _log.info("Retry %s of %s in %.1f s: %s", *said, extra={"retry_in": seconds, "status": status})
        return seconds


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise BadRequestError(f"{name}={shortened(value)} must be a number of seconds above 0.", hint="such as 60.")


def _with_headers(headers: _Headers, more: Mapping[str, Any]) -> _Headers:
    for name, value in more.items():
        text = (value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip()
        if not _HEADER.fullmatch(f"{name}:{text}"):
            raise BadRequestError(
                f"The header {name!r} (its value is not shown) holds characters that HTTP cannot carry.",
                hint="look for line ends in default_headers and extra_headers.",
            )
        headers[name.lower()] = (name, text)
    return headers


def _credentials(headers: Mapping[str, Any]) -> frozenset[str]:
    """Return all values in the caller's headers that may be credentials; they are masked in errors."""
    found: set[str] = set()
    if not isinstance(headers, Mapping):
        raise BadRequestError(
            f"extra_headers is of type {type(headers).__name__}; it must be a mapping of names to values.",
            hint='write it as {"X-Team": "search"}.',
        )
    for name, value in headers.items():
        if name.lower() not in _HARMLESS:
            text = (value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip()
            found |= {text, text.rpartition(" ")[2]}  # behind "Bearer"
    return frozenset(found)


def _refuse_credentials(headers: _Headers, base_url: str) -> None:
    """Refuse headers with a secret if they would be sent over plain http to another machine."""
    if secret := next((name for name in headers if _CREDENTIAL.search(name)), None):
        raise BadRequestError(
            f"The header {headers[secret][0]!r} (its value is not shown) would go to {base_url} unencrypted.",
            hint="use https://, or insecure_http=True (KLUSTER_INSECURE_HTTP=1) in a network that you trust.",
        )


class Transport:
    """Sends requests for one configuration. A new transport is cheap: it connects at the first request.

    Args:
        config: The address, the key and the other settings.
        http_client: An `httpx.Client` or `httpx2.Client` of the caller's own, in place of the shared pool.
        http_async_client: The same for async calls.
        adapt: An adapter's error class for each of `errors`.

    Raises:
        TypeError: If a client is neither httpx's nor httpx2's.
    """

    def __init__(
        self,
        config: KlusterConfig,
        *,
        http_client: Any = None,
        http_async_client: Any = None,
        adapt: Mapping[type[KlusterError], type[KlusterError]] | None = None,
    ) -> None:
        self.config = config
        self._connections = Connections(config.base_url, http_client, http_async_client)
        self.secret = config.api_key.get_secret_value() if config.api_key else None
        self.secrets = _credentials(config.default_headers) | ({self.secret} if self.secret else set())
        self._adapt = adapt
        self.errors = mapped(secret=self.secrets, adapt=adapt)
        self._io = mapped(secret=self.secrets, io=True)

    @functools.cached_property
    def headers(self) -> _Headers:
        """The headers of every request."""
        key = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        kinds = dict.fromkeys(("Accept", "Content-Type"), "application/json")
        ours = {**kinds, **key, "User-Agent": f"kluster-integrations/{__version__}"}
        return _with_headers(_with_headers({}, ours), self.config.default_headers)

    def get(self, path: str, *, query: Mapping[str, object] | None = None, **options: Any) -> Answer:
        """Get a path below the base URL. The key is sent if there is one. `options` are those of `post`.

        Raises:
            KlusterError: Whatever goes wrong.
        """
        with self.errors:
            path = f"{path}?{urllib.parse.urlencode(query)}" if query else path
            found: Answer = self._send(_Call(self, path, **options))
            return found

    async def aget(self, path: str, *, query: Mapping[str, object] | None = None, **options: Any) -> Answer:
        """As `get`."""
        with self.errors:
            path = f"{path}?{urllib.parse.urlencode(query)}" if query else path
            found: Answer = await self._asend(_Call(self, path, **options))
            return found

    def post(self, path: str, body: Mapping[str, Any], **options: Any) -> Answer:
        """Send a JSON body and return the decoded answer.

        Args:
            path: The path below the base URL, such as `/chat/completions`.
            body: The JSON body.
            options: `timeout` (seconds between bytes, or httpx's `Timeout`), `total_timeout` (seconds), `headers`
                (which win over all others), `max_retries`, `deadline` (a moment of `time.monotonic()`).

        Raises:
            KlusterError: Whatever goes wrong.
        """
        with self._errors(options):
            found: Answer = self._send(_Call(self, path, body, **options))
            return found

    async def apost(self, path: str, body: Mapping[str, Any], **options: Any) -> Answer:
        """As `post`."""
        with self._errors(options):
            found: Answer = await self._asend(_Call(self, path, body, **options))
            return found

    def upload(
        self, path: str, form: Mapping[str, str], field: str, name: str, file: BinaryIO, **options: Any
    ) -> Answer:
        """Send a file as multipart/form-data.

        Args:
            path: The path below the base URL.
            form: The other fields.
            field: The name of the file's field.
            name: The file's name for the server.
            file: The file. It is read while it is sent, from the start in each try.
            options: Those of `post`.

        Raises:
            KlusterError: Whatever goes wrong.
        """
        with self.errors:
            found: Answer = self._send(_Call(self, path, content=Form(form, field, name, file), **options))
            return found

    async def aupload(
        self, path: str, form: Mapping[str, str], field: str, name: str, file: BinaryIO, **options: Any
    ) -> Answer:
        """As `upload`."""
        with self.errors:
            found: Answer = await self._asend(_Call(self, path, content=Form(form, field, name, file), **options))
            return found

    def download(self, path: str, to: BinaryIO, **options: Any) -> None:
        """Write the body of an answer to a file as it comes. `options` are those of `post`.

        Raises:
            KlusterError: Whatever goes wrong. The file may then have a part of the body.
        """
        with (
            self.errors,
            contextlib.closing(self._send(_Call(self, path, streamed="raw", **options))) as found,
            self._io,
        ):
            while piece := found.piece():
                to.write(piece)

    async def adownload(self, path: str, to: BinaryIO, **options: Any) -> None:
        """As `download`."""
        with self.errors, self._io:
            async with contextlib.aclosing(self.apieces(path, **options)) as pieces:
                async for piece in pieces:
                    to.write(piece)

    async def apieces(self, path: str, **options: Any) -> AsyncGenerator[bytes]:
        """Yield the body of an answer as it comes. `options` are those of `post`.

        Raises:
            KlusterError: Whatever goes wrong, also after some pieces.
        """
        with self.errors:
            found = await self._asend(_Call(self, path, streamed="raw", **options))
            try:
                with self._io:
                    while piece := await found.piece():
                        yield piece
            finally:
                await found.close()

    def stream(self, body: Mapping[str, Any], reader: ChatStream, **options: Any) -> Iterator[Delta]:
        """Send a chat request with `stream` set, and yield the reader's deltas as they come.

        Raises:
            KlusterError: Whatever goes wrong, also after some deltas.
        """
        with self._errors(options):
            call = _Call(self, CHAT_PATH, body, streamed=True, **options)
            found = self._send(call)
            reader.headers = found.headers
            if isinstance(found, Answer):
                yield from reader.whole(found.data)
                return
            try:
                while not reader.done:
                    try:
                        piece = found.piece() or None
                    except Exception as err:
                        self._broken(err, reader, call)
                        piece = None
                    yield from reader.feed(piece)
                    if reader.is_complete and not reader.done:
                        call.hurry()
                yield from reader.close()
                found.drain()
            finally:
                found.close()

    async def astream(self, body: Mapping[str, Any], reader: ChatStream, **options: Any) -> AsyncIterator[Delta]:
        """As `stream`."""
        with self._errors(options):
            call = _Call(self, CHAT_PATH, body, streamed=True, **options)
            found = await self._asend(call)
            reader.headers = found.headers
            if isinstance(found, Answer):
                for delta in reader.whole(found.data):
                    yield delta
                return
            try:
                while not reader.done:
                    try:
                        piece = await found.piece() or None
                    except Exception as err:
                        self._broken(err, reader, call)
                        piece = None
                    for delta in reader.feed(piece):
                        yield delta
                    if reader.is_complete and not reader.done:
                        call.hurry()
                for delta in reader.close():
                    yield delta
                await found.drain()
            finally:
                await found.close()

    def _errors(self, options: Mapping[str, Any]) -> mapped:
        """Return `errors`, which also mask the secrets in a call's headers."""
        if not (headers := options.get("headers")):
            return self.errors
        return mapped(secret=self.secrets | _credentials(headers), adapt=self._adapt)

    def _broken(self, err: Exception, reader: ChatStream, call: _Call) -> None:
        """Let the reader decide about a broken stream: it is an error unless the answer was complete."""
        try:
            with self._io:
                raise err
        except APIConnectionError as failed:
            late = call.timed_out(failed)
            reader.broken(late if isinstance(late, APIConnectionError) else failed)

    def _send(self, call: _Call) -> Any:
        """Send until there is an `Answer`, or a response whose body is a stream."""
        while True:
            limits.wait_for_rate_limit()
            call.begin()
            try:
                with self._io:
                    response = self._connections.send(call)
                    if call.is_stream(response):
                        call.stream_begins()
                        return response
                    with contextlib.closing(response):
                        return call.answer(response, response.read())
            except KlusterError as err:
                if (seconds := call.wait(err)) is None:
                    raise call.timed_out(err) from None
            time.sleep(seconds)

    async def _asend(self, call: _Call) -> Any:
        """As `_send`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            hint = "use the sync calls, in a thread."
            raise KlusterError("Async calls run on asyncio only, not on trio.", hint=hint) from None
        while True:
            await limits.await_for_rate_limit()
            call.begin()
            try:
                with self._io:
                    response = await self._connections.asend(call)
                    if call.is_stream(response):
                        call.stream_begins()
                        return response
                    try:
                        return call.answer(response, await response.read())
                    finally:
                        await response.close()
            except KlusterError as err:
                if (seconds := call.wait(err)) is None:
                    raise call.timed_out(err) from None
            await asyncio.sleep(seconds)

    def close(self) -> None:
        """Close the connections to this base URL, unless others use them; a later request opens new ones."""
        self._connections.close()

    async def aclose(self) -> None:
        """Close the async connections to this base URL in this event loop, unless others use them."""
        await self._connections.aclose()


def path_of(*parts: str) -> str:
    """Return a path below the base URL. Each part is one segment, with escaped special characters.

    Raises:
        BadRequestError: A part is not a text, or cannot be an id.
    """
    for part in parts:
        if not isinstance(part, str) or part.strip() in ("", ".", ".."):
            raise BadRequestError(
                f"id={part!r} must be the id of a file or a batch job.", hint="pass the id that the service gave it."
            )
    return "".join(f"/{urllib.parse.quote(part, safe='')}" for part in parts)


def get(config: KlusterConfig, path: str, *, query: Mapping[str, object] | None = None) -> Answer:
    """Get a path of the API; see `Transport.get`."""
    return Transport(config).get(path, query=query)
