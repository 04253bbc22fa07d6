"""What goes over the wire and what does not: headers, cookies, proxies, certificates, clients of the caller's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import subprocess
import sys
import threading
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx
import httpx2
import openai
import pytest

from kluster_integrations import errors
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import connections, received
from kluster_integrations.core.client import Client
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.langchain import ChatKluster, KlusterAuthenticationError

from .raw_server import RawRequest, RawServer, Reply, sse, whole
from .ways import JSON, KEY, LLAMA, SO_FAR, Way, asked, config, everything_of, failing, text_of

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


def streamed(sender: Transport) -> str:
    sent = asked(sender.config, stream=True)
    return text_of(list(sender.stream(sent.body, ChatStream(sent))))


async def astreamed(sender: Transport) -> str:
    sent = asked(sender.config, stream=True)
    return text_of([d async for d in sender.astream(sent.body, ChatStream(sent))])


def names_of(request: RawRequest) -> list[str]:
    lines = request.raw.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return [line.partition(":")[0].lower() for line in lines]


# Headers


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION", "aUTHORIZATION"])
def test_a_header_of_the_callers_replaces_ours_once(server: RawServer, way: Way, name: str) -> None:
    way.post(config(server, default_headers={name: "Basic own", "user-agent": "own", "ACCEPT": "x/y", "hOST": "own"}))
    (received,) = server.requests
    assert received.headers["authorization"] == "Basic own"
    assert received.headers["user-agent"] == "own"
    assert received.headers["accept"] == "x/y"
    assert received.headers["host"] == "own"
    assert KEY.encode() not in received.raw
    assert len(names_of(received)) == len(set(names_of(received)))


def test_headers_of_a_call_win_over_all(server: RawServer) -> None:
    sender = Transport(config(server, default_headers={"X-Team": "blue", "x-other": "1"}))
    sender.post(CHAT_PATH, {}, headers={"x-tEAM": "red", "authorization": "Basic own", "X-Count": 3})
    sender.post(CHAT_PATH, {})
    first, second = server.requests
    assert [first.headers[n] for n in ("x-team", "x-other", "authorization", "x-count")] == [
        "red",
        "1",
        "Basic own",
        "3",
    ]
    assert [second.headers[n] for n in ("x-team", "authorization")] == ["blue", f"Bearer {KEY}"]
    assert "x-count" not in second.headers


@pytest.mark.parametrize("headers", [{"X-A": "a\r\nX-B: b"}, {"X-A": "a\nb"}, {"X A": "b"}, {"": "b"}, {"X-A": "a\0"}])
def test_a_header_that_http_cannot_carry_is_refused_unsent(
    server: RawServer, way: Way, headers: dict[str, str]
) -> None:
    value = next(iter(headers.values()))
    with pytest.raises(errors.BadRequestError, match="header") as caught:
        way.post(config(server, default_headers=headers))
    assert value not in str(caught.value)
    assert server.connections == 0


def test_a_header_may_hold_any_letter(server: RawServer, way: Way) -> None:
    way.post(config(server, default_headers={"X-Team": "Grün"}))
    assert server.requests[0].headers["x-team"].encode("latin-1").decode() == "Grün"


def served_by(value: bytes) -> Reply:
    """Return a refusal with a header of any bytes."""
    return failing(401, **{"X-Served-By": value.decode("utf-8", "surrogateescape")})


@pytest.mark.parametrize("value", ["Café".encode(), "Café".encode("latin-1")], ids=["utf-8", "latin-1"])
@pytest.mark.parametrize("streams", [False, True])
def test_a_response_header_of_any_encoding_is_text(server: RawServer, way: Way, value: bytes, streams: bool) -> None:
    server.script(served_by(value))
    with pytest.raises(errors.AuthenticationError) as caught:
        (way.stream if streams else way.post)(config(server))
    assert caught.value.headers["x-served-by"] == "Café"
    assert KEY not in everything_of(caught.value)


def test_such_a_header_reaches_the_error_of_openai(server: RawServer) -> None:
    server.script(served_by("Café".encode("latin-1")))
    with pytest.raises(openai.AuthenticationError) as caught:
        ChatKluster(model=LLAMA, api_key=KEY, base_url=server.base_url, max_retries=0).invoke("hi")
    assert isinstance(caught.value, KlusterAuthenticationError)
    assert caught.value.response.headers["x-served-by"] == "Café"


# Tries


def test_a_retry_has_a_header_with_its_number(server: RawServer, way: Way) -> None:
    server.script(failing(500, **{"retry-after-ms": "1"}), failing(429, **{"retry-after-ms": "1"}))
    way.post(config(server, max_retries=2))
    way.post(config(server, max_retries=2))
    assert [r.headers.get("x-kluster-retry-count") for r in server.requests] == [None, "1", "2", None]
    keys = [r.headers["idempotency-key"] for r in server.requests]
    assert len(set(keys[:3])) == 1
    assert len(set(keys)) == 2


@pytest.mark.parametrize(("said", "status", "tries"), [("false", 500, 1), ("true", 400, 3), ("perhaps", 500, 3)])
def test_what_the_server_says_of_another_try_counts(
    server: RawServer, way: Way, said: str, status: int, tries: int
) -> None:
    server.answer = lambda _: failing(status, **{"x-should-retry": said, "retry-after-ms": "1"})
    with pytest.raises(errors.KlusterError):
        way.post(config(server, max_retries=2))
    assert len(server.requests) == tries


@pytest.mark.parametrize("name", ["Retry-After", "retry-after-ms"])
def test_nobody_waits_for_an_hour(server: RawServer, way: Way, name: str) -> None:
    server.answer = lambda _: failing(429, **{name: "3600" if name == "Retry-After" else "3600000"})
    with pytest.raises(errors.RateLimitError) as caught:
        way.post(config(server, max_retries=2))
    assert caught.value.retry_after == 3600
    assert len(server.requests) == 1


@pytest.mark.parametrize("value", ["0", "-5", "soon", "nan", "Thu, 01 Jan 1970 00:00:00 GMT", "", "inf"])
def test_odd_words_on_when_to_come_back(server: RawServer, value: str) -> None:
    server.script(failing(503, **{"Retry-After": value}))
    assert Way("sync").post(config(server, max_retries=1)) == "Hello"


def test_a_whole_answer_that_breaks_off_is_asked_for_again(server: RawServer, way: Way) -> None:
    broken = whole({"content": "Hello"})
    broken.end = "cut"
    server.script(broken)
    assert way.post(config(server, max_retries=1)) == "Hello"
    assert len(server.requests) == 2


# Cookies


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)
def test_no_cookie_of_one_key_goes_out_with_another(server: RawServer, way: Way) -> None:
    server.answer = lambda _: Reply(
        [*whole({"content": "Hello"}).pieces], headers={"Set-Cookie": "session=of-the-first; Path=/"}, **JSON
    )

    async def later() -> None:
        for key in ("kk-first-key", "kk-second-key", "kk-first-key"):
            await Transport(config(server, api_key=key)).apost(CHAT_PATH, {})

    if way.name == "sync":
        for key in ("kk-first-key", "kk-second-key", "kk-first-key"):
            Transport(config(server, api_key=key)).post(CHAT_PATH, {})
    else:
        asyncio.run(later())
    assert server.connections == 1
    assert not [r for r in server.requests if "cookie" in r.headers]


# Closing


def test_closing_one_leaves_the_others_alone(server: RawServer) -> None:
    first, second = Transport(config(server)), Transport(config(server, api_key="kk-another"))
    first.post(CHAT_PATH, {})
    second.post(CHAT_PATH, {})
    second.close()
    first.post(CHAT_PATH, {})
    assert server.connections == 1
    first.close()
    second.post(CHAT_PATH, {})
    assert server.connections == 2


async def test_aclosing_one_leaves_a_stream_of_another_alone(server: RawServer) -> None:
    def answer(request: RawRequest) -> Reply:
        if b'"stream"' in request.body:
            return Reply(sse({"content": "a"}, {"content": "b"}), pause=0.02)
        return whole({"content": "Hello"})

    server.answer = answer
    first, second = Transport(config(server, timeout=3)), Transport(config(server, api_key="kk-another"))
    task = asyncio.create_task(astreamed(first))
    while not server.requests:
        await asyncio.sleep(0.001)
    await second.apost(CHAT_PATH, {})
    await second.aclose()
    assert await task == "ab"


def test_a_storm_of_closes(server: RawServer) -> None:
    keys = [f"kk-key-number-{n}" for n in range(8)]

    def work(key: str) -> int:
        done = 0
        for _ in range(12):
            sender = Transport(config(server, api_key=key))
            done += sender.post(CHAT_PATH, {"key": key}).data["id"] == "chatcmpl-1"
            sender.close()
        return done

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, keys)) == [12] * 8
    assert all(r.headers["authorization"] == f"Bearer {r.json['key']}" for r in server.requests)


def test_who_is_collected_uses_nothing_anymore(server: RawServer) -> None:
    first, second = Transport(config(server)), Transport(config(server))
    first.post(CHAT_PATH, {})
    second.post(CHAT_PATH, {})
    del first
    gc.collect()
    second.close()
    assert not [url for _, url in connections._pools.open if url == server.base_url]


# Many at once


async def test_as_many_at_once_as_there_are(server: RawServer) -> None:
    everyone = threading.Barrier(300)

    def answer(_: RawRequest) -> Reply:
        everyone.wait(10)  # nobody is answered before all are there
        return whole({"content": "Hello"})

    server.answer = answer
    sender = Transport(config(server, timeout=20))
    answers = await asyncio.gather(*(sender.apost(CHAT_PATH, {}) for _ in range(300)))
    assert len(answers) == server.connections == 300


class CancelsAtTheAnswer(httpx.AsyncHTTPTransport):
    """Cancels the call at the moment when its answer has come."""

    call: asyncio.Task[Any] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if self.call is not None:
            self.call.cancel()
        return response


async def test_an_answer_for_which_nobody_waits_anymore_is_closed(server: RawServer) -> None:
    server.script(Reply(SO_FAR, end="hang"))
    transport = CancelsAtTheAnswer(limits=httpx.Limits(max_connections=1))
    async with httpx.AsyncClient(transport=transport) as client:
        sender = Transport(config(server, timeout=3), http_async_client=client)
        transport.call = asyncio.create_task(astreamed(sender))
        with pytest.raises(asyncio.CancelledError):
            await transport.call
        transport.call = None
        assert (await sender.apost(CHAT_PATH, {})).data["id"] == "chatcmpl-1"


def test_without_asyncio_the_error_says_so(server: RawServer) -> None:
    with pytest.raises(errors.KlusterError, match="asyncio"):
        Transport(config(server)).apost(CHAT_PATH, {}).send(None)
    assert server.connections == 0


# Bodies


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("streams", [False, True])
def test_compressed_answers(server: RawServer, way: Way, kind: str, streams: bool) -> None:
    data = b"".join(sse({"content": "Hello"})) if streams else whole({"content": "Hello"}).pieces[0]
    packed = COMPRESSED[kind](data)
    types: dict[str, Any] = {"content_type": "text/event-stream"} if streams else JSON
    server.script(Reply([packed[:20], packed[20:]], headers={"Content-Encoding": kind}, **types))
    assert (text_of(way.stream(config(server))) if streams else way.post(config(server))) == "Hello"
    assert kind in server.requests[0].headers["accept-encoding"]


@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_whose_compression_is_broken(server: RawServer, way: Way, streams: bool) -> None:
    server.script(Reply([b"this is not gzip"], headers={"Content-Encoding": "gzip"}, **({} if streams else JSON)))
    with pytest.raises(errors.InternalServerError, match="compression"):
        (way.stream if streams else way.post)(config(server))


def test_a_large_body(server: RawServer, way: Way, recwarn: pytest.WarningsRecorder) -> None:
    sender_config = config(server)
    body = {"image": "x" * 3_000_000}
    way._run(sender_config, lambda t: t.post(CHAT_PATH, body), lambda t: t.apost(CHAT_PATH, body))
    assert server.requests[0].json == body
    assert int(server.requests[0].headers["content-length"]) > 3_000_000
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]


# Clients of the caller's


@LIBRARIES
def test_a_client_of_the_callers_keeps_what_is_its(server: RawServer, library: Any) -> None:
    with library.Client(headers={"X-Own": "1"}, cookies={"own": "2"}) as client:
        sender = Transport(config(server, default_headers={"authorization": "Basic own"}), http_client=client)
        sender.post(CHAT_PATH, {})
        assert streamed(sender) == "Hello"
        sender.close()
        assert not client.is_closed
    for request in server.requests:
        assert (request.headers["x-own"], request.headers["cookie"]) == ("1", "own=2")
        assert request.headers["authorization"] == "Basic own"
        assert len(names_of(request)) == len(set(names_of(request)))


@LIBRARIES
@pytest.mark.parametrize("pause", [0.0, 0.002])
def test_streams_of_the_callers_client_take_one_connection(
    server: RawServer, library: Any, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received, "_GRACE", 5.0)  # seconds; a busy machine is late
    server.answer = lambda _: Reply(sse({"content": "x"}), pause=pause)
    with library.Client() as client:
        for _ in range(4):
            assert streamed(Transport(config(server), http_client=client)) == "x"
    assert server.connections == 1


@LIBRARIES
async def test_async_streams_of_the_callers_client_take_one_connection(server: RawServer, library: Any) -> None:
    server.answer = lambda _: Reply(sse({"content": "x"}))
    async with library.AsyncClient() as client:
        for _ in range(4):
            assert await astreamed(Transport(config(server), http_async_client=client)) == "x"
    assert server.connections == 1


@LIBRARIES
async def test_a_full_pool_of_the_callers_says_so(server: RawServer, library: Any) -> None:
    server.script(Reply(silent=True, end="hang"))
    async with library.AsyncClient(limits=library.Limits(max_connections=1)) as client:
        first = asyncio.create_task(Transport(config(server), http_async_client=client).apost(CHAT_PATH, {}))
        while not server.requests:
            await asyncio.sleep(0.001)
        with pytest.raises(errors.APITimeoutError, match="http_client"):
            await Transport(config(server, timeout=0.1), http_async_client=client).apost(CHAT_PATH, {})
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first


def test_a_closed_client_of_the_callers_is_a_typed_error(server: RawServer) -> None:
    client = httpx.Client()
    client.close()
    with pytest.raises(errors.APIConnectionError, match="closed"):
        Transport(config(server), http_client=client).post(CHAT_PATH, {})


@LIBRARIES
@pytest.mark.parametrize("before", [False, True], ids=["in-the-middle", "before-the-answer"])
async def test_cancelled_streams_leave_the_callers_pool_whole(server: RawServer, library: Any, before: bool) -> None:
    """As Starlette cancels: anyio's scope does so at each `await`, over again, through a task of LangChain's."""
    begun = asyncio.Event()
    pieces = () if before else SO_FAR

    async def consume(sender: Transport) -> None:
        async for _ in in_a_task(sender):
            begun.set()

    async with library.AsyncClient(limits=library.Limits(max_connections=2)) as client:
        sender = Transport(config(server, timeout=3), http_async_client=client)
        for number in range(5):
            server.script(Reply(pieces, silent=before, end="hang"))
            begun.clear()
            async with anyio.create_task_group() as group:
                group.start_soon(consume, sender)
                while len(server.requests) <= number or not (before or begun.is_set()):
                    await asyncio.sleep(0.001)
                group.cancel_scope.cancel()
        gc.collect()
        await asyncio.sleep(0)
        assert (await sender.apost(CHAT_PATH, {})).data["id"] == "chatcmpl-1"


async def in_a_task(sender: Transport) -> AsyncIterator[object]:
    """As langchain-core reads a model's stream in a chain: each step is a task, which is cancelled with the reader."""
    sent = asked(sender.config, stream=True)
    stream = sender.astream(sent.body, ChatStream(sent))
    try:
        while (delta := await asyncio.create_task(_next(stream))) is not None:
            yield delta
    finally:
        await stream.aclose()  # type: ignore[attr-defined]


async def _next(stream: AsyncIterator[Any]) -> Any:
    return await anext(stream, None)


# The environment


@pytest.fixture
def secure() -> str:
    """An address that is reached only through a proxy, another one each time: pools are kept by address."""
    return f"https://{uuid.uuid4().hex}.test/v1"


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("user", ["", "user:pass%40word@"])
def test_the_environments_proxy_is_used_for_https(
    secure: str, way: Way, name: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer() as proxy:
        proxy.answer = lambda _: Reply([b"no"], status=407, content_type="text/plain", framing="length")
        host = proxy.base_url.removeprefix("http://").removesuffix("/v1")
        monkeypatch.setenv(name, f"http://{user}{host}")
        with pytest.raises(errors.APIConnectionError) as caught:
            way.post(config(proxy, base_url=secure))
    (received,) = proxy.requests
    assert received.raw.startswith(f"CONNECT {httpx.URL(secure).host}:443 HTTP/1.1\r\n".encode())
    assert KEY.encode() not in received.raw
    assert received.headers.get("proxy-authorization") == ("Basic dXNlcjpwYXNzQHdvcmQ=" if user else None)
    assert "pass" not in f"{caught.value} {vars(caught.value)}"


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)
@pytest.mark.parametrize("value", ["127.0.0.1", "127.0.0.1,fd00::/8", "*"])
def test_no_proxy_is_heeded(way: Way, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer() as proxy, RawServer() as server:
        monkeypatch.setenv("HTTPS_PROXY", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", value)
        with pytest.raises(errors.APIConnectionError):  # plain http behind an https address
            way.post(config(server, base_url=server.base_url.replace("http:", "https:"), timeout=2))
        assert (proxy.connections, server.connections) == (0, 1)


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)
def test_a_socks_proxy_that_cannot_be_used_is_a_typed_error(
    secure: str, way: Way, monkeypatch: pytest.MonkeyPatch, server: RawServer
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(errors.BadRequestError, match=r"(?i)socks"):
        way.post(config(server, base_url=secure, max_retries=2))


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)
@pytest.mark.parametrize("host", ["xn--a", "a..b", "x" * 64 + ".test", "\u2603.test"])
def test_a_host_that_cannot_be_is_a_typed_error(server: RawServer, way: Way, host: str) -> None:
    with pytest.raises(errors.KlusterError) as caught:
        way.post(config(server, base_url=f"https://{host}/v1", timeout=2))
    assert KEY not in everything_of(caught.value)


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)
def test_certificates_of_the_environment(server: RawServer, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/there/is/no/such/file.pem")
    with pytest.raises(errors.APIConnectionError, match="No such file"):
        way.post(config(server, base_url=server.base_url.replace("http:", "https:")))
    assert server.connections == 0


def test_sync_programs_do_not_load_aiohttp(server: RawServer) -> None:
    code = f"""
import sys
from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.transport import Transport
Transport(KlusterConfig(api_key="kk", base_url="{server.base_url}")).post("/chat/completions", {{}})
print("aiohttp" in sys.modules, "openai" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_loop_that_has_closed_its_generators_and_goes_on(server: RawServer) -> None:
    """As openai-agents' `Runner.run_sync` does after each run."""
    client = Client(KlusterConfig(api_key="k", base_url=server.base_url, max_retries=0))
    request = client.build("m", [{"role": "user", "content": "Hi"}], {})
    loop = asyncio.new_event_loop()
    try:
        for _ in range(2):
            assert loop.run_until_complete(client.acomplete(request)).text == "Hello"
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.run_until_complete(client.aclose())
        loop.close()
