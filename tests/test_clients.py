"""Where requests go and with what, where the key stays, and the life of clients and connections."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx2
import pytest

from kluster_integrations.core import connections, received, transport
from kluster_integrations.core.config import DEFAULT_BASE_URL
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.errors import (
    AuthenticationError,
    KlusterError,
    NotFoundError,
    TruncatedStreamError,
)

from .programs import check_nothing_is_left_open
from .raw_server import RawRequest, RawServer, Reply, event, sse, whole
from .ways import JSON, KEY, SO_FAR, Way, asked, config, everything_of, failing, text_of

# Where requests go, and with what


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)  # a client of the caller's own does as told
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: RawServer, way: Way, status: int) -> None:
    with RawServer() as elsewhere:
        server.answer = lambda _: failing(status, Location=f"{elsewhere.base_url}/chat/completions")
        for send in (way.post, way.stream):
            with pytest.raises(KlusterError):
                send(config(server))
        assert elsewhere.connections == 0


def test_nothing_of_another_company_reaches_the_wire(
    server: RawServer, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = {
        "OPENAI_API_KEY": "sk-foreign-1",
        "OPENAI_ORG_ID": "org-foreign-2",
        "OPENAI_PROJECT_ID": "proj-foreign-3",
        "OPENAI_ADMIN_KEY": "sk-admin-foreign-4",
        "OPENAI_WEBHOOK_SECRET": "wh-foreign-5",
        "OPENAI_CUSTOM_HEADERS": "X-Foreign-6: foreign-6\nAuthorization: Bearer foreign-7",
        "OPENAI_ORGANIZATION": "org-foreign-8",
    }
    with RawServer() as elsewhere:
        for name, value in {**foreign, "OPENAI_BASE_URL": elsewhere.base_url}.items():
            monkeypatch.setenv(name, value)
        way.post(config(server))
        way.stream(config(server))
        assert elsewhere.connections == 0
    assert len(server.requests) == 2
    for request in server.requests:
        assert b"foreign" not in request.raw.lower()
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert not [h for h in request.headers if h.startswith("openai-")]


def test_without_a_key_no_other_is_sent(server: RawServer, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-foreign")
    for send in (way.post, way.stream):
        with pytest.raises(AuthenticationError):
            send(config(server, api_key=None, base_url=DEFAULT_BASE_URL))
        send(config(server, api_key=None))  # on this machine none is needed, and no other company's is sent
        assert "authorization" not in server.requests[-1].headers
    assert b"foreign" not in b"".join(request.raw for request in server.requests)


def test_get_without_a_key_sends_none(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-foreign")
    assert transport.get(config(server, api_key=None), "/models", query={"extended": "true"}).data["id"] == "chatcmpl-1"
    assert server.requests[0].path == "/v1/models?extended=true"
    assert "authorization" not in server.requests[0].headers
    assert b"foreign" not in server.requests[0].raw


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)  # a client of the caller's own does as told
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_is_not_used_for_loopback(
    server: RawServer, way: Way, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer() as proxy:
        monkeypatch.setenv(name, proxy.base_url.removesuffix("/v1"))
        assert way.post(config(server)) == "Hello"
        assert proxy.connections == 0


def test_own_headers_are_sent(server: RawServer, way: Way) -> None:
    way.post(config(server, default_headers={"X-Team": "blue"}))
    assert server.requests[0].headers["x-team"] == "blue"


# The key stays where it belongs


FAILING: dict[str, Callable[[], Reply]] = {
    "401": lambda: failing(401),
    "500-html": lambda: Reply([b"<html><title>No</title></html>"], status=500, content_type="text/html"),
    "redirect": lambda: failing(307, Location="/v1/elsewhere"),
    "200-error": lambda: Reply([b'{"error": {"message": "no"}}'], **JSON),
    "200-garbage": lambda: Reply([b'{"a": '], **JSON),
    "cut-before": lambda: Reply(silent=True, end="cut"),
    "rst-in-the-middle": lambda: Reply(SO_FAR, end="rst"),
    "error-event": lambda: Reply([event({"error": {"message": "boom"}})]),
}


@pytest.mark.parametrize("name", FAILING)
def test_no_error_shows_the_key(server: RawServer, way: Way, name: str) -> None:
    server.script(FAILING[name](), FAILING[name]())
    settings = config(server)
    for send in (way.post, way.stream):
        with pytest.raises(KlusterError) as caught:
            send(settings)
        assert KEY not in everything_of(caught.value)


ECHOING: dict[str, tuple[int, str]] = {
    "401": (401, '{"error": {"message": "Incorrect key: KEY", "param": "KEY"}}'),
    "401-code": (401, '{"error": {"message": "Incorrect key", "code": "KEY"}}'),
    "400-text": (400, "bad KEY"),
    "500-html": (500, "<html><title>KEY</title>KEY</html>"),
    "200-error": (200, '{"error": {"message": "KEY"}}'),
    "200-html": (200, "<html>KEY</html>"),
    "200-garbage": (200, '{"KEY": '),
    "200-no-choices": (200, '{"id": "KEY", "choices": []}'),
    "200-list": (200, '["KEY"]'),
}


@pytest.mark.parametrize("name", ECHOING)
@pytest.mark.parametrize("whole_answer", [False, True])
def test_a_key_that_the_server_echoes_is_in_no_error(server: RawServer, name: str, whole_answer: bool) -> None:
    status, body = ECHOING[name]
    kind = "application/json" if body[0] in "{[" else "text/html"
    server.script(Reply([body.replace("KEY", KEY).encode()], status=status, content_type=kind))
    way = Way("sync")
    with pytest.raises(KlusterError) as caught:
        (way.post if whole_answer else way.stream)(config(server))
    err = caught.value
    assert KEY not in f"{err} {err!r} {vars(err)} {pickle.dumps(err)!r}"


@pytest.mark.parametrize("name", ["X-Echo", "Location", "x-request-id", "Set-Cookie"])
def test_a_key_that_the_server_echoes_in_a_header_is_in_no_error(server: RawServer, name: str) -> None:
    server.script(failing(307, **{name: f"https://x/{KEY}"}))
    with pytest.raises(KlusterError) as caught:
        Way("sync").post(config(server))
    assert KEY not in f"{caught.value} {vars(caught.value)} {pickle.dumps(caught.value)!r}"


def test_what_is_not_a_client_is_refused_without_showing_the_key(server: RawServer) -> None:
    with pytest.raises(TypeError, match="http_client") as caught:
        Transport(config(server), http_client=object())
    assert KEY not in everything_of(caught.value)


TALKATIVE = ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "asyncio", "kluster_integrations")


def test_no_log_shows_the_key(server: RawServer, way: Way, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in TALKATIVE:
            caplog.set_level(logging.DEBUG, logger=name)
    server.script(
        failing(500, **{"retry-after-ms": "1"}), whole({"content": "x"}), Reply(sse({"content": "x"})), failing(401)
    )
    settings = config(server, max_retries=1, default_headers={"X-Token": "other-secret"})
    way.post(settings)
    way.stream(settings)
    with pytest.raises(AuthenticationError):
        way.post(settings)
    assert len(caplog.records) > 5, "nothing was logged, so nothing was tested"
    told = "".join(f"{r.getMessage()} {r.args} {vars(r)}" for r in caplog.records)
    assert KEY not in told
    assert "other-secret" not in told


def test_neither_repr_nor_pickle_of_what_is_public_shows_the_key(server: RawServer) -> None:
    settings = config(server, default_headers={"X-Token": "other-secret"})
    sender = Transport(settings)
    sent = asked(settings, stream=False)
    told = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()} {sender!r} {sent!r}"
    told += repr(pickle.dumps(settings))
    assert KEY not in told
    assert "other-secret" not in told


# Clients


def test_clients_are_shared_by_base_url(server: RawServer) -> None:
    for key in ("kk-1", "kk-2", "kk-1"):
        sender = Transport(config(server, api_key=key))
        sender.post(CHAT_PATH, {})
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer kk-1", "Bearer kk-2", "Bearer kk-1"]
    assert server.connections == 1


async def test_async_clients_are_shared_by_base_url(server: RawServer) -> None:
    for key in ("kk-1", "kk-2", "kk-1"):
        await Transport(config(server, api_key=key)).apost(CHAT_PATH, {})
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer kk-1", "Bearer kk-2", "Bearer kk-1"]
    assert server.connections == 1


def test_construction_opens_and_makes_nothing(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(httpx, "HTTPTransport", lambda **options: made.append(options))
    for _ in range(3):
        Transport(config(server))
    assert made == []
    assert server.connections == 0


def test_a_second_construction_makes_no_second_pool(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = httpx.HTTPTransport, []
    monkeypatch.setattr(httpx, "HTTPTransport", lambda **options: made.append(1) or real(**options))
    for _ in range(3):
        Transport(config(server)).post(CHAT_PATH, {})
    assert made == [1]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("pause", [0.0, 0.003])
def test_streams_one_after_the_other_take_one_connection(
    server: RawServer, at_once: bool, framing: Any, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received, "_GRACE", 5.0)  # seconds; a busy machine is late
    server.answer = lambda _: Reply(sse({"content": "x"}), at_once=at_once, framing=framing, pause=pause)
    for _ in range(6):
        Way("sync").stream(config(server))
    assert server.connections == 1


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("framing", ["chunked", "length"])
async def test_async_streams_one_after_the_other_take_one_connection(
    server: RawServer, at_once: bool, framing: Any
) -> None:
    server.answer = lambda _: Reply(sse({"content": "x"}), at_once=at_once, framing=framing)
    settings = config(server)
    sent = asked(settings, stream=True)
    for _ in range(6):
        assert text_of([d async for d in Transport(settings).astream(sent.body, ChatStream(sent))]) == "x"
    assert server.connections == 1


def test_threads_that_take_over_connections_wait_as_long_as_they_are_told(server: RawServer) -> None:
    def late(_: RawRequest) -> Reply:
        time.sleep(0.03)  # longer than a finished stream waits for its connection
        return Reply(sse({"content": "x"}))

    server.answer = late
    settings = config(server)
    with ThreadPoolExecutor(16) as pool:
        streams = [pool.submit(Way("sync").stream, settings) for _ in range(320)]
        assert {text_of(stream.result()) for stream in streams} == {"x"}


def test_fifty_threads_at_once(server: RawServer) -> None:
    settings = config(server)
    ready = threading.Barrier(50)

    def one(number: int) -> str:
        ready.wait(10)
        if number % 2:
            return text_of(Way("sync").stream(settings))
        return Way("sync").post(settings)

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(one, range(50))) == ["Hello"] * 50
    assert len(server.requests) == 50
    assert sum(base_url == server.base_url for _, base_url in connections._pools.open) == 1


def test_loops_in_threads(server: RawServer) -> None:
    sender = Transport(config(server))

    async def go() -> int:
        answers = await asyncio.gather(*(sender.apost(CHAT_PATH, {}) for _ in range(3)))
        return len(answers)

    def run(_: int) -> int:
        return sum(asyncio.run(go()) for _ in range(2))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(8))) == [6] * 8


def test_two_loops_one_after_the_other(server: RawServer) -> None:
    sender = Transport(config(server))
    for _ in range(3):
        asyncio.run(sender.apost(CHAT_PATH, {}))
    assert len(server.requests) == 3


def test_loops_that_have_ended_leave_nothing_behind(server: RawServer) -> None:
    for _ in range(3):
        asyncio.run(Transport(config(server)).apost(CHAT_PATH, {}))
    gc.collect()
    Transport(config(server)).post(CHAT_PATH, {})
    assert [loop for loop, base_url in connections._pools.open if base_url == server.base_url] == [None]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_connections_of_its_own(server: RawServer) -> None:
    sender = Transport(config(server))
    sender.post(CHAT_PATH, {})
    child = os.fork()
    if child == 0:  # pragma: no cover
        signal.alarm(20)
        code = 1
        try:
            sender.post(CHAT_PATH, {})
            asyncio.run(sender.apost(CHAT_PATH, {}))
            code = 0
        finally:
            os._exit(code)
    for _ in range(3):
        sender.post(CHAT_PATH, {})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    sender.post(CHAT_PATH, {})
    by_connection = [r.connection for r in server.requests]
    assert by_connection.count(0) == 5, "the parent keeps its connection, and nobody else uses it"
    assert len(by_connection) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_fork_leaves_the_parents_event_loop_alone(server: RawServer) -> None:
    sender = Transport(config(server, timeout=3))
    await sender.apost(CHAT_PATH, {})
    child = os.fork()
    if child == 0:  # pragma: no cover
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    await sender.apost(CHAT_PATH, {})
    assert [r.connection for r in server.requests] == [0, 0]


def test_close_then_use(server: RawServer) -> None:
    sender = Transport(config(server))
    sender.post(CHAT_PATH, {})
    sender.close()
    sender.close()
    sender.post(CHAT_PATH, {})
    assert server.connections == 2


async def test_aclose_then_use(server: RawServer) -> None:
    # The first answer after aclose is slow enough for whatever aclose has left behind to get in its way.
    server.answer = lambda _: Reply([*whole({"content": "Hello"}).pieces], pause=0.05, **JSON)
    sender = Transport(config(server))
    for _ in range(3):
        await sender.apost(CHAT_PATH, {})
        await sender.aclose()
    await sender.aclose()
    assert len(server.requests) == server.connections == 3


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
async def test_clients_of_the_callers_own(server: RawServer, library: Any) -> None:
    settings = config(server)
    sent = asked(settings, stream=True)
    with library.Client(headers={"X-Own": "1"}) as client:
        sender = Transport(settings, http_client=client)
        assert sender.post(CHAT_PATH, {}).data["id"] == "chatcmpl-1"
        server.script(Reply(sse({"content": "x"})), Reply(SO_FAR, end="cut"), failing(404))
        assert text_of(list(sender.stream(sent.body, ChatStream(sent)))) == "x"
        with pytest.raises(TruncatedStreamError):
            list(sender.stream(sent.body, ChatStream(sent)))
        with pytest.raises(NotFoundError):
            sender.post(CHAT_PATH, {})
    async with library.AsyncClient(headers={"X-Own": "1"}) as client:
        sender = Transport(settings, http_async_client=client)
        assert (await sender.apost(CHAT_PATH, {})).data["id"] == "chatcmpl-1"
        server.script(Reply(sse({"content": "x"})), Reply(SO_FAR, end="cut"), failing(404))
        assert text_of([d async for d in sender.astream(sent.body, ChatStream(sent))]) == "x"
        with pytest.raises(TruncatedStreamError):
            [d async for d in sender.astream(sent.body, ChatStream(sent))]
        with pytest.raises(NotFoundError):
            await sender.apost(CHAT_PATH, {})
    assert all(r.headers["x-own"] == "1" for r in server.requests)
    assert len(server.requests) == 8


def test_a_stream_that_is_left_early_is_closed(server: RawServer) -> None:
    server.script(Reply(SO_FAR, end="hang"))
    settings = config(server)
    sent = asked(settings, stream=True)
    deltas = Transport(settings).stream(sent.body, ChatStream(sent))
    next(deltas)
    deltas.close()
    assert server.hung_up.wait(5)


async def test_an_async_stream_that_is_left_early_is_closed(server: RawServer) -> None:
    server.script(Reply(SO_FAR, end="hang"))
    settings = config(server)
    sent = asked(settings, stream=True)
    async for _ in Transport(settings).astream(sent.body, ChatStream(sent)):
        break
    assert await asyncio.to_thread(server.hung_up.wait, 5)


@pytest.mark.parametrize("pieces", [(), SO_FAR], ids=["before-the-answer", "in-the-middle"])
async def test_a_cancelled_stream_is_closed(server: RawServer, pieces: list[bytes]) -> None:
    server.script(Reply(pieces, silent=not pieces, end="hang"))
    settings = config(server)
    sent = asked(settings, stream=True)
    begun = asyncio.Event()

    async def go() -> None:
        if not pieces:
            begun.set()
        async for _ in Transport(settings).astream(sent.body, ChatStream(sent)):
            begun.set()

    task = asyncio.create_task(go())
    await begun.wait()
    while not server.requests:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.hung_up.wait, 5)
    assert (await Transport(settings).apost(CHAT_PATH, {})).data["id"] == "chatcmpl-1"


def test_nothing_is_left_open_at_exit(server: RawServer) -> None:
    server.answer = lambda r: Reply(sse({"content": "x"})) if b"stream" in r.body else whole({"content": "x"})
    code = f"""
        import asyncio
        from kluster_integrations.core import request
        from kluster_integrations.config import KlusterConfig
        from kluster_integrations.core.streaming import ChatStream
        from kluster_integrations.core.transport import CHAT_PATH, Transport

        settings = KlusterConfig(api_key="kk", base_url="{server.base_url}")
        sender = Transport(settings)
        sent = request.build("x", [{{"role": "user", "content": "hi"}}], {{}}, config=settings, stream=True)

        async def go(leave_early):
            await asyncio.gather(*(sender.apost(CHAT_PATH, {{}}) for _ in range(3)))
            async for _ in sender.astream(sent.body, ChatStream(sent)):
                if leave_early:
                    break

        for leave_early in (False, True, False):
            asyncio.run(go(leave_early))
        sender.post(CHAT_PATH, {{}})
        list(sender.stream(sent.body, ChatStream(sent)))
        next(sender.stream(sent.body, ChatStream(sent)))
        sender.close()
        print("done")
    """
    check_nothing_is_left_open(code)
