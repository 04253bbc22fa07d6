"""Who may come in, what is logged, and what happens when a client leaves or the gateway stops."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import openai
import pytest

from kluster_integrations import Budget, KlusterConfig
from kluster_integrations.emulator import Emulator, Fault
from kluster_integrations.errors import BadRequestError
from kluster_integrations.gateway import LOGGER, Gateway, create_app
from kluster_integrations.gateway.gate import is_loopback
from kluster_integrations.limits import Limits

from .conftest import KEY, LLAMA, R1, Serve, settings, user

OWN = "kg-a-key-of-the-gateway"
ASK = {"model": LLAMA, "messages": user("Tell nobody!")}


def eventually(done: Callable[[], object], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(done())


def ask(server: Gateway, **headers: str) -> httpx.Response:
    url = f"{server.base_url}/chat/completions"
    return httpx.post(url, json=ASK, headers=headers, trust_env=False, timeout=20)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer sk-any"}, {"x-api-key": "any"}])
def test_on_loopback_any_key_will_do(gateway: Gateway, emulator: Emulator, headers: dict[str, str]) -> None:
    assert gateway.key is None
    assert ask(gateway, **headers).status_code == 200
    assert "sk-any" not in json.dumps([request.headers for request in emulator.requests])


def test_a_key_of_its_own(serve: Serve) -> None:
    server = serve(key=OWN)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": OWN}, {"x-api-key": "other"}):
        answer = ask(server, **headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        assert OWN not in answer.text
    assert ask(server, authorization=f"Bearer {OWN}").status_code == 200
    assert ask(server, **{"x-api-key": OWN}).status_code == 200
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=server.base_url.removesuffix("/v1"), api_key="wrong").models.list()
    assert httpx.get(server.base_url.replace("/v1", "/health"), trust_env=False).json()["status"] == "ok"


def test_elsewhere_than_on_loopback_it_makes_a_key(emulator: Emulator) -> None:
    with Gateway(settings(emulator), host="0.0.0.0") as server, Gateway(settings(emulator), host="0.0.0.0") as other:
        assert server.key
        assert other.key
        assert server.key != other.key
        assert server.key not in repr(server)
        url = f"http://127.0.0.1:{server.port}/v1/models"
        assert httpx.get(url, trust_env=False).status_code == 401
        assert httpx.get(url, headers={"authorization": f"Bearer {server.key}"}, trust_env=False).status_code == 200


@pytest.mark.parametrize("key", ["", "short", "with white space", "ünïcödé-is-not-a-header"])
def test_a_key_that_cannot_be_one(key: str) -> None:
    with pytest.raises(ValueError, match=r"key \(not shown\)") as caught:
        create_app(KlusterConfig(api_key=KEY), key=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("budget", 5),
        ("limits", 5),
        ("key", 12345678),
        ("origins", "https://a.example"),
        ("origins", 5),
        ("aliases", 5),
        ("aliases", {"gpt-4o": 5}),
        ("aliases", {"": "x"}),
        ("max_body", 0),
        ("max_body", "1"),
    ],
)
def test_an_argument_of_another_type(name: str, wrong: Any) -> None:
    shown = f"{name}={wrong!r} " if name != "key" else "key (not shown) must"
    with pytest.raises((ValueError, BadRequestError), match=re.escape(shown)):
        create_app(KlusterConfig(api_key=KEY), **{name: wrong})


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("LOCALHOST:8091", True),
        ("127.0.0.1:1", True),
        ("[::1]:80", True),
        ("[::1]", True),
        ("app.localhost", True),
        ("host.docker.internal:8091", True),
        ("evil.example", False),
        ("evil.example:8091", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("192.168.1.20:8091", True),  # an address: no page has that for a name
        ("gateway:8091", True),
        ("[::1", False),
    ],
)
def test_dns_rebinding(gateway: Gateway, serve: Serve, host: str, is_ours: bool) -> None:
    assert ask(gateway, host=host).status_code == (200 if is_ours else 403)
    assert ask(serve(key=OWN), host=host or "x", **{"x-api-key": OWN}).status_code == 200


@pytest.mark.parametrize(
    ("origin", "allowed", "is_let_in"),
    [
        ("http://localhost:3000", (), True),
        ("http://127.0.0.1:8080", (), True),
        ("https://evil.example", (), False),
        ("http://localhost.evil.example", (), False),
        ("null", (), False),
        ("chrome-extension://abc", (), False),
        ("https://chat.example", ("https://chat.example",), True),
        ("https://evil.example", ("https://chat.example",), False),
        ("null", ("*",), True),
    ],
)
def test_pages_of_other_sites(serve: Serve, emulator: Emulator, origin: str, allowed: Any, is_let_in: bool) -> None:
    server = serve(origins=allowed)
    url = f"{server.base_url}/chat/completions"
    # A page may send this without being asked first: it is not JSON to the browser.
    simple = httpx.post(url, content=json.dumps(ASK), headers={"origin": origin, "content-type": "text/plain"})
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    wanted["access-control-request-private-network"] = "true"
    before = httpx.options(url, headers={"origin": origin, **wanted})
    assert (simple.status_code, before.status_code) == ((200, 204) if is_let_in else (403, 403))
    assert len(emulator.requests) == (1 if is_let_in else 0)
    for answer in (simple, before):
        assert answer.headers.get("access-control-allow-origin") == (origin if is_let_in else None)
    if is_let_in:
        assert before.headers["access-control-allow-headers"] == "authorization,content-type"
        assert before.headers["access-control-allow-private-network"] == "true"


EXTENSION = "chrome-extension://bpoadfkcbjbfhfodiogcnhhhpibjhbnh"


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://Chat.example/", "https://chat.example"),
        ("http://chat.example:8080", "http://chat.example:8080"),
        (EXTENSION, EXTENSION),
    ],
)
def test_an_origin_is_one_however_it_is_written(serve: Serve, allowed: str, origin: str) -> None:
    assert ask(serve(origins=(allowed,)), origin=origin).status_code == 200


@pytest.mark.parametrize(
    "origin", ["chat.example", "https://chat.example/page", "https://", "https://*.chat.example", "null", ""]
)
def test_an_origin_that_no_page_has(origin: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"origins has {origin!r}")):
        create_app(KlusterConfig(api_key=KEY), origins=[origin])


def test_a_page_may_read_whether_to_try_again(serve: Serve, emulator: Emulator) -> None:
    """OpenAI's SDK in a page retries, unless it sees the header that says not to."""
    origin = "https://chat.example"
    emulator.reply(status=503, text="Later.", headers={"Retry-After": "7"})
    answer = ask(serve(origins=[origin]), origin=origin)
    shown = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert (answer.headers["x-should-retry"], answer.headers["retry-after"]) == ("false", "7")
    assert shown == {"x-should-retry", "retry-after", "x-request-id", "request-id"}
    assert shown <= set(answer.headers)


def test_whoever_has_the_key_may_ask_from_any_page(serve: Serve) -> None:
    server = serve(key=OWN)
    answer = ask(server, origin="https://chat.example", authorization=f"Bearer {OWN}")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://chat.example")
    answer = ask(server, origin="https://chat.example")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, "https://chat.example")


def test_a_body_that_is_too_large(serve: Serve, emulator: Emulator) -> None:
    server = serve(max_body=1_000)
    url = f"{server.base_url}/chat/completions"
    large = json.dumps({**ASK, "messages": user("x" * 2_000)}).encode()
    assert httpx.post(url, content=large).status_code == 413
    assert httpx.post(url, content=iter([large])).status_code == 413  # chunked: nobody has said how large it is
    assert ask(server).status_code == 200
    assert len(emulator.requests) == 1


def test_paths_that_are_not_there(http: httpx.Client) -> None:
    answer = http.get("/nothing")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    answer = http.get("/chat/completions")
    assert answer.status_code == 405
    answer = http.get("/messages")
    assert (answer.status_code, answer.json()["type"]) == (405, "error")
    assert http.post("/chat/completions/", json=ASK).status_code == 404


def test_the_log_says_what_happened_and_no_prompt(
    gateway: Gateway, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    client = openai.OpenAI(base_url=gateway.base_url, api_key="sk-client-secret")
    emulator.reply("The secret answer.", when=LLAMA)
    client.chat.completions.create(**ASK)
    list(client.chat.completions.create(**ASK, stream=True))
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=LLAMA, messages=user({"Tell nobody!": 1}))
    # The line of an earlier test's request may come as late as now.
    assert eventually(lambda: len(caplog.records) >= 3 and caplog.records[-1].__dict__["request"]["status"] == 400)
    rows = [record.__dict__["request"] for record in caplog.records][-3:]
    assert [(row["status"], row["stream"], row.get("error")) for row in rows] == [
        (200, False, None),
        (200, True, None),
        (400, False, "BadRequestError"),
    ]
    assert all(row["model"] == LLAMA and row["ms"] > 0 for row in rows)
    assert all(row["completion_tokens"] > 0 for row in rows[:2])
    said = json.dumps(rows) + caplog.text
    assert not [word for word in ("Tell nobody", "secret answer", "sk-client-secret", KEY) if word in said]


def test_what_nobody_has_thought_of_tells_no_prompt(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kluster_integrations.core.client import Client

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Tell nobody!")

    server = serve()
    monkeypatch.setattr(Client, "build", fails)
    caplog.set_level(logging.INFO)
    answer = ask(server)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert eventually(lambda: "RuntimeError in" in caplog.text)
    assert "Tell nobody" not in caplog.text + answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_service(gateway: Gateway, emulator: Emulator, stream: bool) -> None:
    # The service goes silent: in a stream behind some chunks, which the client has got.
    emulator.reply("One two three four five six", when=LLAMA)
    emulator.add_fault(Fault("slow", delay=3600) if stream else Fault("hang"))
    body = json.dumps({**ASK, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert eventually(lambda: emulator.requests)
    left = time.monotonic()
    assert eventually(lambda: emulator.requests[0].seconds is not None)
    assert time.monotonic() - left < 20  # within moments, and not at the end of the service's hour


@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_to_upgrade_takes_no_body_away(gateway: Gateway, emulator: Emulator, chunked: bool) -> None:
    """Java's HttpClient makes one with each request (LangChain4j, Spring AI)."""
    body = json.dumps(ASK).encode()
    size = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    offer = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c"
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{offer}\r\n{size}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        for apart in (False, True):  # on one connection, with the body behind the head and in it
            data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
            for piece in (head, data) if apart else (head + data,):
                connection.sendall(piece)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (answer.status, "choices" in json.loads(answer.read())) == (200, True)
    assert len(emulator.requests) == 2


def test_it_ends_what_runs_before_it_stops(emulator: Emulator) -> None:
    with Emulator(delay=0.05) as slow:
        slow.reply("One two three four five six seven eight nine ten")
        server = Gateway(settings(slow), grace=20).start()
        client = openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0)
        stream = client.chat.completions.create(model=LLAMA, messages=user("Count!"), stream=True)
        first = next(stream)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        text = "".join(chunk.choices[0].delta.content or "" for chunk in (first, *stream) if chunk.choices)
        assert text.endswith("nine ten")
        stopper.join(20)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_what_does_not_end_is_broken_off(emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    emulator.add_fault(Fault("hang"))
    server = Gateway(settings(emulator), grace=0.05).start()
    answers: list[httpx.Response] = []
    client = threading.Thread(target=lambda: answers.append(ask(server)))
    client.start()
    assert eventually(lambda: emulator.requests)
    server.stop()
    client.join(20)
    assert [answer.status_code for answer in answers] == [500]
    assert [record.__dict__["request"]["error"] for record in caplog.records] == ["Stopped"]
    assert eventually(lambda: emulator.requests[0].seconds is not None)


def test_a_budget_holds_for_all_apis(serve: Serve, emulator: Emulator) -> None:
    emulator.reply(
        "Hello!", usage={"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}, when=LLAMA
    )
    server = serve(budget=(spent := Budget(1.0)))
    client = openai.OpenAI(base_url=server.base_url, api_key="any")
    client.chat.completions.create(**ASK)
    list(client.responses.create(model=LLAMA, input="Hello!", stream=True))
    assert spent.usd == pytest.approx(1.4)
    with pytest.raises(openai.APIStatusError, match="budget") as caught:
        client.chat.completions.create(**ASK, stream=True)
    assert caught.value.status_code == 402
    claude = anthropic.Anthropic(base_url=server.base_url.removesuffix("/v1"), api_key="any")
    with pytest.raises(anthropic.APIStatusError, match="billing_error"):
        claude.messages.create(max_tokens=5, **ASK)
    with pytest.raises(openai.APIStatusError, match="budget"):
        client.embeddings.create(model="BAAI/bge-m3", input="One")
    assert len(emulator.requests) == 2


def test_limits_hold_for_all_apis(serve: Serve, emulator: Emulator) -> None:
    config = settings(emulator, api_key="kk-another-key-of-the-gateway")
    server = serve(config, limits=Limits(requests=2, max_wait=0))
    client = openai.OpenAI(base_url=server.base_url, api_key="any")
    client.chat.completions.create(**ASK)
    client.responses.create(model=R1, input="Hello!")
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**ASK)
    assert len(emulator.requests) == 2


def test_without_a_key_for_the_service(serve: Serve, emulator: Emulator) -> None:
    answer = ask(serve(KlusterConfig(base_url="https://kluster.example/v1")))
    assert answer.status_code == 401
    assert "KLUSTER_API_KEY" in answer.json()["error"]["message"]


def test_a_service_that_is_not_there(serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        answer = ask(serve(KlusterConfig(api_key=KEY, base_url=url, max_retries=0)))
    assert (answer.status_code, answer.json()["error"]["type"]) == (502, "server_error")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback(f"{host}.example")
