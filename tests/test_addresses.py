"""A server under a name, over plain http: without a key it is asked, and no secret goes there unless allowed."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core.client import Client
from kluster_integrations.errors import BadRequestError

from .agreeing import WAYS, Question, Way
from .raw_server import RawServer, whole

KEY = "kk-the-key-of-this-test"
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def named() -> Iterator[tuple[RawServer, str]]:
    """A server on every interface, and its address by this machine's name."""
    with RawServer("0.0.0.0") as server:
        server.answer = lambda _: whole({"content": "Hello"})
        name = socket.gethostname()
        try:
            socket.getaddrinfo(name, None, socket.AF_INET)
        except OSError:
            pytest.skip("this machine's name leads nowhere")
        yield server, f"http://{name}:{server.base_url.rsplit(':')[-1]}"


@pytest.mark.parametrize("way", [way for way in WAYS if not way.stream], ids=str)
def test_without_a_key_it_is_asked(way: Way, named: tuple[RawServer, str]) -> None:
    server, address = named
    seen = way.ask(KlusterConfig(base_url=address, max_retries=0, timeout=20), Question("mine"))
    assert seen.text == "Hello", seen
    [request] = server.requests
    assert "authorization" not in {name.lower() for name in request.headers}


def test_with_a_key_it_is_asked_only_if_that_is_allowed(named: tuple[RawServer, str]) -> None:
    server, address = named
    with pytest.raises(ValidationError, match="KLUSTER_INSECURE_HTTP=1"):
        KlusterConfig(base_url=address, api_key=KEY)
    client = Client(KlusterConfig(base_url=address, api_key=KEY, insecure_http=True))
    assert client.complete(client.build("mine", HELLO, {})).text == "Hello"
    [request] = server.requests
    assert {k.lower(): v for k, v in request.headers.items()}["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "API-Key", "X-Auth-Token", "Cookie", "X-Secret"])
def test_a_header_with_a_secret_is_a_key_too(name: str, named: tuple[RawServer, str]) -> None:
    server, address = named
    client = Client(KlusterConfig(base_url=address, default_headers={name: KEY}))
    with pytest.raises(BadRequestError, match="unencrypted") as caught:
        client.complete(client.build("mine", HELLO, {}))
    assert KEY not in f"{caught.value}{caught.value.hint}"
    plain = Client(KlusterConfig(base_url=address))
    with pytest.raises(BadRequestError, match="unencrypted"):
        plain.complete(plain.build("mine", HELLO, {}, options={"headers": {name: KEY}}))
    assert not server.requests
    allowed = Client(KlusterConfig(base_url=address, default_headers={name: KEY}, insecure_http=True))
    assert allowed.complete(allowed.build("mine", HELLO, {})).text == "Hello"


def test_other_headers_go_along(named: tuple[RawServer, str]) -> None:
    server, address = named
    client = Client(KlusterConfig(base_url=address, default_headers={"X-Title": "mine"}))
    assert client.complete(client.build("mine", HELLO, {})).text == "Hello"
    assert {k.lower(): v for k, v in server.requests[0].headers.items()}["x-title"] == "mine"
