"""No key and no other credential comes out again: not by a server's echo, not by an exception, whatever leads to it."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from kluster_integrations import errors
from kluster_integrations.core.client import Client
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.transport import CHAT_PATH, Transport
from kluster_integrations.langchain import ChatKluster

from .raw_server import RawRequest, RawServer, Reply, event, whole
from .ways import JSON, KEY, LLAMA, SO_FAR, Way, asked, config

OWN = "own-credential-of-a-gateway"


def everything(err: BaseException | None, seen: set[int] | None = None) -> Iterator[str]:
    """Yield what an exception leads to: texts, arguments, notes, fields, causes and contexts, locals of its frames.

    Of locals it is their repr, as debuggers, error trackers and pytest show it.
    """
    seen = set() if seen is None else seen
    if err is None or id(err) in seen:
        return
    seen.add(id(err))
    yield from (str(err), repr(err), repr(err.args), repr(getattr(err, "__notes__", "")), repr(vars(err)))
    frame = err.__traceback__
    while frame is not None:
        # Of the library's frames, and of those below it: the test's own hold the key on purpose.
        if "/tests/" not in frame.tb_frame.f_code.co_filename:
            yield repr(frame.tb_frame.f_locals)
        frame = frame.tb_next
    for value in vars(err).values():
        if isinstance(value, BaseException):
            yield from everything(value, seen)
    if isinstance(err, BaseExceptionGroup):
        for inner in err.exceptions:
            yield from everything(inner, seen)
    yield from everything(err.__cause__, seen)
    yield from everything(err.__context__, seen)


def leaks(err: BaseException, *secrets: str) -> list[str]:
    texts = [*everything(err)]
    if isinstance(err, errors.KlusterError):
        texts.append(repr(pickle.dumps(err)))
    return [text for text in texts if any(secret in text for secret in secrets)]


def echo(request: RawRequest, status: int = 401) -> Reply:
    """Answer with all that was sent, in a message, in another field and in headers."""
    sent = request.raw.decode("latin-1")
    body = json.dumps({"error": {"message": f"no: {sent}", "code": sent, "param": [sent, {sent: sent}]}})
    names = {"X-Request-Id": request.headers["authorization"], "X-Echo": request.headers.get("x-own", "")}
    return Reply([body.encode()], status, "application/json", names, "length")


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("status", [401, 500, 200])
def test_an_echo_is_masked(server: RawServer, way: Way, status: int, streams: bool) -> None:
    server.answer = lambda request: echo(request, status)
    headers = {"X-Own": OWN, "X-Gateway-Auth": f"Basic {OWN}2"}
    with pytest.raises(errors.KlusterError) as caught:
        (way.stream if streams else way.post)(config(server, default_headers=headers))
    assert "***" in str(caught.value)
    assert not leaks(caught.value, KEY, OWN)


@pytest.mark.parametrize("streams", [False, True])
def test_so_is_that_of_a_calls_own_header(server: RawServer, streams: bool) -> None:
    server.answer = lambda request: Reply([event(echo(request).pieces[0])]) if streams else echo(request)
    sender, headers = Transport(config(server)), {"X-Own": OWN}
    sent = asked(sender.config, stream=True)
    stream = sender.stream(sent.body, ChatStream(sent), headers=headers)
    with pytest.raises(errors.KlusterError) as caught:
        list(stream) if streams else sender.post(CHAT_PATH, {}, headers=headers)
    assert "***" in str(caught.value)
    caught.value.__traceback__ = None  # what a caller passes is in the caller's own frames, too
    assert not leaks(caught.value, KEY, OWN)


def test_harmless_headers_mask_nothing(server: RawServer) -> None:
    server.script(Reply([b'{"error": "wants application/json of somebody/1.0"}'], status=400, **JSON))
    headers = {"Accept": "application/json", "User-Agent": "somebody/1.0"}
    with pytest.raises(errors.BadRequestError, match=r"wants application/json of somebody/1\.0"):
        Transport(config(server, default_headers=headers)).post(CHAT_PATH, {})


# Whatever goes wrong

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def replying(**fields: Any) -> Callable[[RawServer], None]:
    def script(server: RawServer) -> None:
        server.answer = lambda _: Reply(**fields)

    return script


WRONG: dict[str, Callable[[RawServer], None]] = {
    "401": lambda server: setattr(server, "answer", echo),
    "redirect": replying(pieces=[b""], status=302, headers={"Location": f"https://{KEY}@evil.test/"}, **JSON),
    "cut": replying(pieces=SO_FAR, end="cut"),
    "reset": replying(silent=True, end="rst"),
    "silence": replying(silent=True, end="hang"),
    "garbage": replying(pieces=[f"{{{KEY}".encode()], **JSON),
    "a garbled event": replying(pieces=[f"data: {{{KEY}\n\n".encode()]),
    "a lone surrogate": replying(pieces=[rb'{"error": {"message": "\ud800", "code": "\udfff"}}'], status=400, **JSON),
    "half an emoji in JSON": replying(pieces=[rb'"\ud83d"'], **JSON),
    "a name that is not ASCII": replying(pieces=[b"{}"], status=401, headers={"X-Caf\u00e9": "Caf\u00e9"}, **JSON),
    "gzip": replying(pieces=[b"no"], headers={"Content-Encoding": "gzip"}, **JSON),
    **{
        f"charset={charset}": replying(pieces=[b'{"error": "no"}'], status=400, content_type=f"text/plain; {charset}")
        for charset in ("charset=utf-16", "charset=hex", "charset=idna", "charset=undefined", "charset=\u00fc")
    },
    "a huge number": replying(
        pieces=[b'{"error": {"message": "no", "code": 1%s}}' % (b"0" * 5_000)], status=400, **JSON
    ),
    "a deep error": replying(pieces=[b'{"error": ' + b'{"a": ' * 300 + b"1" + b"}" * 301], status=400, **JSON),
}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("kind", WRONG)
def test_nothing_leads_to_the_key(server: RawServer, way: Way, kind: str, streams: bool) -> None:
    WRONG[kind](server)
    with pytest.raises(errors.KlusterError) as caught:
        (way.stream if streams else way.post)(
            config(server, timeout=0.3, max_retries=1, default_headers={"x-own": OWN})
        )
    assert not leaks(caught.value, KEY, OWN)
    str(caught.value).encode()  # what nobody can print is no message


@pytest.mark.parametrize("kind", ["401", "cut", "silence", "garbage"])
@pytest.mark.parametrize("streams", [False, True])
def test_nor_through_langchain(server: RawServer, kind: str, streams: bool) -> None:
    WRONG[kind](server)
    fields: dict[str, Any] = {"default_headers": {"x-own": OWN}, "timeout": 0.3, "max_retries": 0}
    model = ChatKluster(model=LLAMA, api_key=KEY, base_url=server.base_url, **fields)
    with pytest.raises(errors.KlusterError) as caught:
        list(model.stream("hi")) if streams else model.invoke("hi")
    assert not leaks(caught.value, KEY, OWN)


def test_nor_where_nobody_listens(way: Way) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with RawServer() as any_server, pytest.raises(errors.APIConnectionError) as caught:
        way.post(config(any_server, base_url=f"http://127.0.0.1:{port}/v1"))
    assert not leaks(caught.value, KEY)


@pytest.mark.parametrize("reason", [KeyboardInterrupt, SystemExit])
def test_nor_an_interrupt(server: RawServer, reason: type[BaseException]) -> None:
    client = Client(config(server))
    request = client.build(LLAMA, [{"role": "user", "content": "hi"}], {}, stream=True)
    server.script(Reply(SO_FAR, end="hang"))
    stream = client.stream(request)
    next(stream)
    with pytest.raises(reason) as caught:
        stream.throw(reason())  # type: ignore[attr-defined]
    assert not leaks(caught.value, KEY)


async def test_nor_a_cancelled_call(server: RawServer) -> None:
    server.script(Reply(silent=True, end="hang"))
    task = asyncio.create_task(Client(config(server)).acomplete(_request(server)))
    while not server.requests:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert not leaks(caught.value, KEY)


def _request(server: RawServer) -> Any:
    return Client(config(server)).build(LLAMA, [{"role": "user", "content": "hi"}], {})


def test_nor_a_group_of_a_task_group(server: RawServer) -> None:
    server.answer = echo

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(Client(config(server)).acomplete(_request(server)))

    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(both())
    assert not leaks(caught.value, KEY)


def test_nor_a_client_of_the_callers(server: RawServer) -> None:
    for kind in ("401", "cut", "silence", "garbage"):
        WRONG[kind](server)
        with httpx.Client() as own, pytest.raises(errors.KlusterError) as caught:
            Transport(config(server, timeout=0.3), http_client=own).post(CHAT_PATH, {})
        assert not leaks(caught.value, KEY)


def test_trio_gets_an_error_that_names_asyncio() -> None:
    with RawServer() as server:
        with pytest.raises(errors.KlusterError, match="asyncio"):
            Client(config(server)).acomplete(_request(server)).send(None)
        server.answer = lambda _: whole({"content": "Hello"})
        assert Client(config(server)).complete(_request(server)).text == "Hello"
