"""LiteLLM's own settings for connections, and its flag for reasoning in the text of a stream."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import litellm
import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.emulator import Emulator
from kluster_integrations.litellm import register
from tests.litellm.asking import ASK, LLAMA, R1, WAYS
from tests.raw_server import whole


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody knows, with its key behind it."""
    if shutil.which("openssl") is None:
        pytest.fail("openssl is not installed") if os.environ.get("CI") else pytest.skip("openssl is not installed")
    pem = tmp_path_factory.mktemp("tls") / "server.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", str(pem.with_suffix(".crt"))]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + pem.with_suffix(".crt").read_bytes())
    return pem


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b"".join(whole({"content": "Hello"}).pieces)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def https(certificate: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        register(KlusterConfig(api_key="k", base_url=f"https://127.0.0.1:{server.server_port}/v1", max_retries=0))
        yield "https"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("way", ["completion", "acompletion"])
def test_an_unknown_certificate_is_refused(https: str, way: str) -> None:
    with pytest.raises(litellm.APIConnectionError, match=r"(?i)certificate"):
        WAYS[way](model=LLAMA, messages=ASK)


@pytest.mark.parametrize("way", ["completion", "acompletion"])
@pytest.mark.parametrize("where", ["attribute", "variable"])
@pytest.mark.parametrize("value", ["path", "false"])
def test_ssl_verify_holds(
    https: str, certificate: Path, monkeypatch: pytest.MonkeyPatch, way: str, where: str, value: str
) -> None:
    path = str(certificate.with_suffix(".crt"))
    if where == "variable":
        monkeypatch.setenv("SSL_VERIFY", path if value == "path" else "False")
    else:
        monkeypatch.setattr(litellm, "ssl_verify", path if value == "path" else False)
    for _ in range(2):  # each in an event loop of its own
        assert WAYS[way](model=LLAMA, messages=ASK).choices[0].message.content == "Hello"


def test_certificates_that_are_not_there(kluster: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_VERIFY", "/no/such/file.pem")
    with pytest.raises(litellm.BadRequestError, match=r"ssl_verify='/no/such/file.pem'.*Hint: name a file"):
        litellm.completion(LLAMA, messages=ASK)
    assert kluster.requests == []


def test_client_sessions_hold(kluster: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    session = httpx.Client(headers={"X-Session": "sync"})
    monkeypatch.setattr(litellm, "client_session", session)
    litellm.completion(LLAMA, messages=ASK)
    assert kluster.requests[-1].headers["x-session"] == "sync"

    async def ask() -> None:
        async with httpx.AsyncClient(headers={"X-Session": "async"}) as own:
            monkeypatch.setattr(litellm, "aclient_session", own)
            await litellm.acompletion(LLAMA, messages=ASK)

    asyncio.run(ask())
    assert kluster.requests[-1].headers["x-session"] == "async"


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_reasoning_can_be_merged_into_the_text_of_a_stream(kluster: Emulator, way: str) -> None:
    kluster.reply(reasoning="The user wants eggs.", text="Eggs.", times=None)
    message = WAYS[way](model=R1, messages=ASK, merge_reasoning_content_in_choices=True).choices[0].message
    assert message.content == "<think>The user wants eggs.</think>Eggs."
    assert not getattr(message, "reasoning_content", None)
