"""What a server sends has an end: in time and in bytes, through every door."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any, Self

import httpx
import pytest

from kluster_integrations.core.sse import EventSplitter, loads
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.errors import APITimeoutError, InternalServerError, KlusterError

from .raw_server import RawServer, Reply, event, sse, whole
from .ways import JSON, KEY, LLAMA, SO_FAR, Way, asked, config, text_of

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
_STREAM, _JSON = _HEAD % b"text/event-stream", _HEAD % b"application/json"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# What a server says first, and then over and over again.
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    "a header, bytewise": (b"HTTP/1.1 200 OK\r\nX-A: ", b"b"),
    "a status line, bytewise": (b"HTTP/1.1 200 ", b"O"),
    "white space before JSON": (_JSON, _chunk(b" ")),
    "JSON, bytewise": (_JSON + _chunk(b'{"a": "'), _chunk(b"x")),
    "a chunk's extension, bytewise": (_JSON + b"5;", b"x"),
    "comments": (_STREAM, _chunk(b": still here\n\n")),
    "an event, bytewise": (_STREAM + _chunk(b"data: "), _chunk(b"x")),
    "empty deltas": (_STREAM, _chunk(event({"choices": [{"index": 0, "delta": {}}]}))),
}


class Endless:
    """A server that never ends, and says something long before anybody's patience is over. A context manager."""

    def __init__(self, first: bytes, then: bytes, pause: float = 0.02) -> None:
        self._first, self._then, self._pause = first, then, pause
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._talk, args=(self._listener.accept()[0],), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.recv(65_536)
            connection.sendall(self._first)
            while not self._stopped.wait(self._pause):
                connection.sendall(self._then)


def _settings(server: Any, **fields: Any) -> Any:
    return config(server, **{"timeout": 20, "total_timeout": 0.2, **fields})


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_ends_is_ended(way: Way, kind: str, streams: bool) -> None:
    with Endless(*ENDLESS[kind]) as server, pytest.raises(APITimeoutError, match="total_timeout"):
        (way.stream if streams else way.post)(_settings(server))


@pytest.mark.parametrize("kind", ["early hints", "headers", "comments", "a status line, bytewise"])
def test_what_floods_is_ended(way: Way, kind: str) -> None:
    """Where something has always come nobody waits; it may also be a bound of bytes that is reached first."""
    with Endless(*ENDLESS[kind], pause=0.0) as server, pytest.raises(KlusterError):
        way.stream(_settings(server))


@pytest.mark.parametrize("kind", ["white space before JSON", "JSON, bytewise", "comments", "an event, bytewise"])
def test_a_client_of_the_callers_ends_it_too(kind: str) -> None:
    with Endless(*ENDLESS[kind]) as server, httpx.Client() as client:
        sender = Transport(_settings(server), http_client=client)
        sent = asked(sender.config, stream=True)
        for send in (lambda: sender.post(CHAT_PATH, {}), lambda: list(sender.stream(sent.body, ChatStream(sent)))):
            with pytest.raises(APITimeoutError, match="total_timeout"):
                send()


@pytest.mark.parametrize("kind", ["early hints", "JSON, bytewise"])
def test_a_whole_answer_has_twice_the_timeout(way: Way, kind: str) -> None:
    with Endless(*ENDLESS[kind]) as server, pytest.raises(APITimeoutError, match=r"0\.4 s \(twice the timeout\)"):
        way.post(_settings(server, timeout=0.2, total_timeout=None))


def test_a_stream_takes_as_long_as_it_takes(server: RawServer, way: Way) -> None:
    server.script(Reply(sse(*[{"content": "a"}] * 8), pause=0.05))
    assert text_of(way.stream(config(server, timeout=0.2))) == "a" * 8


def test_the_total_is_that_of_all_tries(server: RawServer, way: Way) -> None:
    server.answer = lambda _: Reply(silent=True, end="hang")
    with pytest.raises(APITimeoutError):
        way.post(_settings(server, timeout=0.15, max_retries=1_000, total_timeout=0.5))
    assert 1 <= len(server.requests) < 4


def test_a_call_has_a_total_of_its_own(server: RawServer) -> None:
    with Endless(*ENDLESS["JSON, bytewise"]) as endless, pytest.raises(APITimeoutError, match=r"within 0\.3 s"):
        Transport(config(endless)).post(CHAT_PATH, {}, total_timeout=0.3)


# Behind the finish reason


@pytest.mark.parametrize("pieces", [[b""], [b": still here\n\n"] * 60], ids=["nothing", "comments"])
@pytest.mark.parametrize("client", [False, True], ids=["ours", "of-the-callers"])
def test_a_stream_without_done_ends_soon(
    server: RawServer, way: Way, client: bool, pieces: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kluster_integrations.core.transport._LAST_SECONDS", 0.2)
    answer = sse({"content": "Hello"}, done=False)
    server.script(Reply([*answer, *pieces] if pieces[0] else answer, pause=0.02, end="hang"))
    settings = config(server, timeout=30)
    if not client:
        assert text_of(way.stream(settings)) == "Hello"
    else:
        with httpx.Client() as own:
            sent = asked(settings, stream=True)
            sender = Transport(settings, http_client=own)
            assert text_of(list(sender.stream(sent.body, ChatStream(sent)))) == "Hello"
    assert server.hung_up.wait(5) or pieces[0]


def test_usage_that_comes_late_still_counts(server: RawServer, way: Way) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    late = event({"choices": [], "usage": usage})
    server.script(Reply([*sse({"content": "Hello"}, done=False), late], pause=0.1, end="hang"))
    last = way.stream(config(server, timeout=30))[-1]
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.estimated) == (11, False)


# Bytes


def _is_too_long(err: BaseException) -> bool:
    return isinstance(err, InternalServerError) and "max_response_bytes=100000" in str(err)


def _bomb(coding: str) -> bytes:
    text = b"a" * 50_000_000
    return gzip.compress(text) if coding == "gzip" else zlib.compress(text)


LONG: dict[str, Callable[[bool], Reply]] = {
    "whole": lambda streams: whole({"content": "a" * 100_000}),
    "a line": lambda streams: Reply([b"data: " + b"a" * 60_000] * 2, **({} if streams else JSON)),
    "many lines": lambda streams: Reply([event({"choices": []}) * 100] * 100, **({} if streams else JSON)),
    "an error": lambda streams: Reply([b"a" * 60_000] * 2, status=500, **JSON),
    "gzip": lambda streams: Reply([_bomb("gzip")], headers={"Content-Encoding": "gzip"}, **({} if streams else JSON)),
    "zlib": lambda streams: Reply(
        [_bomb("zlib")], headers={"Content-Encoding": "deflate"}, **({} if streams else JSON)
    ),
}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("kind", LONG)
def test_what_is_too_long_is_a_typed_error(server: RawServer, way: Way, kind: str, streams: bool) -> None:
    server.answer = lambda _: LONG[kind](streams)
    with pytest.raises(KlusterError) as caught:
        (way.stream if streams else way.post)(config(server, max_response_bytes=100_000))
    assert _is_too_long(caught.value)
    assert len(server.requests) == 1


def test_up_to_the_bound_all_is_well(server: RawServer, way: Way) -> None:
    reply = whole({"content": "a" * 1_000})
    server.script(reply, reply)
    size = len(reply.pieces[0])
    assert len(way.post(config(server, max_response_bytes=size))) == 1_000
    with pytest.raises(InternalServerError, match=f"max_response_bytes={size - 1}"):
        way.post(config(server, max_response_bytes=size - 1))


@pytest.mark.parametrize("streams", [False, True])
def test_a_bomb_takes_no_more_memory_than_the_bound(server: RawServer, streams: bool) -> None:
    packed = _bomb("gzip")
    server.answer = lambda _: Reply([packed], headers={"Content-Encoding": "gzip"}, **({} if streams else JSON))
    settings = config(server, max_response_bytes=1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(InternalServerError):
            (Way("sync").stream if streams else Way("sync").post)(settings)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)
def test_several_members_and_a_raw_deflate(server: RawServer, way: Way) -> None:
    (text,) = whole({"content": "Hello"}).pieces
    raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    server.script(
        Reply([gzip.compress(text[:30]) + gzip.compress(text[30:])], headers={"Content-Encoding": "gzip"}, **JSON),
        Reply([raw.compress(text) + raw.flush()], headers={"Content-Encoding": "deflate"}, **JSON),
    )
    assert [way.post(config(server)) for _ in range(2)] == ["Hello"] * 2


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)
@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "\u00fc"])
def test_a_compression_that_nobody_asked_for(server: RawServer, way: Way, coding: str) -> None:
    server.script(Reply([b"abc"], headers={"Content-Encoding": coding}, **JSON))
    with pytest.raises(InternalServerError, match="compression"):
        way.post(config(server))


def test_cancelled_while_the_deadline_runs(server: RawServer) -> None:
    server.script(Reply(SO_FAR, end="hang"))

    async def later() -> str:
        sender = Transport(_settings(server, total_timeout=30))
        sent = asked(sender.config, stream=True)

        async def read() -> None:
            async for _ in sender.astream(sent.body, ChatStream(sent)):
                pass

        task = asyncio.create_task(read())
        while not server.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return str((await sender.apost(CHAT_PATH, {})).data["id"])

    assert asyncio.run(later()) == "chatcmpl-1"
    assert server.hung_up.wait(30)


# Through the adapters


def test_langchain_has_both() -> None:
    from kluster_integrations.langchain import ChatKluster

    fields: dict[str, Any] = {"api_key": KEY, "max_retries": 0, "model": LLAMA}
    with Endless(*ENDLESS["JSON, bytewise"]) as server, pytest.raises(APITimeoutError, match="total_timeout"):
        ChatKluster(base_url=server.base_url, total_timeout=0.2, **fields).invoke("hi")
    with RawServer() as answering, pytest.raises(InternalServerError, match="max_response_bytes=9"):
        ChatKluster(base_url=answering.base_url, max_response_bytes=9, **fields).invoke("hi")


def test_crewai_has_both() -> None:
    pytest.importorskip("crewai")
    from kluster_integrations.crewai import kluster_llm

    fields: dict[str, Any] = {"api_key": KEY, "max_retries": 0}
    with Endless(*ENDLESS["JSON, bytewise"]) as server, pytest.raises(APITimeoutError, match="total_timeout"):
        kluster_llm(LLAMA, base_url=server.base_url, total_timeout=0.2, **fields).call("hi")
    with RawServer() as answering, pytest.raises(InternalServerError, match="max_response_bytes=9"):
        kluster_llm(LLAMA, base_url=answering.base_url, max_response_bytes=9, **fields).call("hi")


def test_a_long_line_is_kept_three_times_at_most() -> None:
    size, events, found = 5_000_000, EventSplitter(), 0
    pieces = [b'data: {"a": "', *[b"a" * 50_000] * 100, b'"}\n\n']
    tracemalloc.start()
    try:
        for piece in pieces:
            for payload in events.feed(piece):
                found += len(loads(payload)["a"])
        assert found == size
        assert tracemalloc.get_traced_memory()[1] < 3.3 * size
    finally:
        tracemalloc.stop()
