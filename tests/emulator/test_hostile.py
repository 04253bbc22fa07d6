"""What an emulator refuses, and what it never says."""

from __future__ import annotations

import socket

import httpx
import pytest

from kluster_integrations.emulator import Emulator, gate

BODY = {"model": "google/gemma-3-27b-it", "messages": [{"role": "user", "content": "hi"}]}
KEY = {"authorization": "Bearer any-key"}


@pytest.mark.parametrize("path", ["/", "/log", "/v1/models", "/v1/chat/completions"])
@pytest.mark.parametrize("host", ["evil.example.com", "EVIL.COM:80", "localhost.evil.com", "127.0.0.1.nip.io", "a.b"])
def test_a_foreign_host_is_refused(emulator: Emulator, path: str, host: str) -> None:
    url = emulator.base_url.removesuffix("/v1") + path
    ask = httpx.post if path.endswith("completions") else httpx.get
    answer = ask(url, headers={"host": host, **KEY})
    assert answer.status_code == 403
    assert "DNS rebinding" in answer.json()["error"]["message"]
    assert not emulator.requests


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:1", "[::1]:8090", "10.0.0.7", "emulator:8090", "host.docker.internal", "mac.local"]
)
def test_hosts_that_nobody_else_can_own_are_let_in(emulator: Emulator, host: str) -> None:
    answer = httpx.post(f"{emulator.base_url}/chat/completions", json=BODY, headers={"host": host, **KEY})
    assert answer.status_code == 200


def test_a_host_that_is_named_is_let_in() -> None:
    with Emulator(hosts=["LLM.example.com"]) as server:
        answer = httpx.get(f"{server.base_url}/models?extended=true", headers={"host": "llm.EXAMPLE.com:8443"})
        assert answer.status_code == 200


def test_hosts_are_a_list() -> None:
    with pytest.raises(ValueError, match="hosts"):
        Emulator(hosts="llm.example.com")


def test_a_body_over_the_bound_is_not_read(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_MOST_BYTES", 100_000)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{emulator.port}\r\nAuthorization: Bearer any-key\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", emulator.port)) as client:
        client.settimeout(20)
        client.sendall(head.encode())
        for _ in range(3):  # and it never ends
            client.sendall(b"c350\r\n" + b" " * 50_000 + b"\r\n")
        assert client.recv(1_000).startswith(b"HTTP/1.1 413 ")
    assert not emulator.requests


class Echoing:
    """A server that refuses, and says what it was sent."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def serve(self, status: int, body: bytes, kind: str) -> None:
        connection = self._listener.accept()[0]
        with connection:
            data = connection.recv(65_536)
            (sent,) = [line for line in data.split(b"\r\n") if line.lower().startswith(b"authorization")]
            body = body.replace(b"@SENT@", sent.partition(b" ")[2])
            head = f"HTTP/1.1 {status} No\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)


LOGIN = "robot:pass%40word"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, f"no: @SENT@ for http://{LOGIN}@127.0.0.1".encode(), "text/plain"),
        (200, b'data: {"error": "no: @SENT@, pass@word"}\n\n', "text/event-stream"),
        (200, b"data: pass@word @SENT@\n\n", "text/event-stream"),
    ],
)
def test_the_upstreams_credentials_stay_here(status: int, body: bytes, kind: str) -> None:
    import base64
    import threading

    echoing = Echoing()
    threading.Thread(target=echoing.serve, args=(status, body, kind), daemon=True).start()
    upstream = f"http://{LOGIN}@127.0.0.1:{echoing.port}/v1"
    with Emulator(upstream=upstream, upstream_model="m") as server:
        answer = httpx.post(f"{server.base_url}/chat/completions", json=BODY, headers=KEY)
        assert answer.status_code == 502
        shown = answer.text + str(server.requests[0].reason)
    basic = base64.b64encode(b"robot:pass@word").decode()
    assert not [secret for secret in ("pass%40word", "pass@word", basic) if secret in shown]


def test_nor_are_they_shown_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with Emulator(upstream=f"http://:pw@127.0.0.1:{port}/v1?key=abc", upstream_model="m") as server:
        answer = httpx.post(f"{server.base_url}/chat/completions", json=BODY, headers=KEY)
    assert answer.status_code == 502
    assert f"http://127.0.0.1:{port}/v1 failed" in answer.text
    assert "pw@" not in answer.text


def test_nor_in_a_refusal_of_the_setting() -> None:
    with pytest.raises(ValueError, match="upstream") as caught:
        Emulator(upstream="ftp://robot:secret@host/v1")
    assert "secret" not in str(caught.value)
