"""Uploads and downloads: multipart forms with a length, and bodies of any kind, in each way to send."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from kluster_integrations.core.transport import Transport
from kluster_integrations.errors import APIConnectionError, APITimeoutError, InternalServerError, NotFoundError

from .raw_server import RawServer, Reply
from .ways import JSON, config

DATA = bytes(range(256)) * 1_000  # several pieces, and none of them text


class Files:
    def __init__(self, way: str) -> None:
        self._way = way

    def upload(self, server: RawServer, **fields: Any) -> Any:
        return self._run(server, fields, "upload", "/files", {"purpose": "batch"}, "file", "a.jsonl", io.BytesIO(DATA))

    def download(self, server: RawServer, **fields: Any) -> bytes:
        to = io.BytesIO()
        self._run(server, fields, "download", "/files/x/content", to)
        return to.getvalue()

    def _run(self, server: RawServer, fields: dict[str, Any], name: str, *args: Any) -> Any:
        settings = config(server, **fields)
        if self._way == "sync":
            return getattr(Transport(settings), name)(*args)
        if self._way == "httpx":
            with httpx.Client(trust_env=False) as client:
                return getattr(Transport(settings, http_client=client), name)(*args)

        async def go(**clients: Any) -> Any:
            sent: Callable[..., Awaitable[Any]] = getattr(Transport(settings, **clients), f"a{name}")
            return await sent(*args)

        async def go_with_client() -> Any:
            async with httpx.AsyncClient(trust_env=False) as client:
                return await go(http_async_client=client)

        return asyncio.run(go() if self._way == "aiohttp" else go_with_client())


@pytest.fixture(params=["sync", "httpx", "aiohttp", "async-httpx"])
def files(request: pytest.FixtureRequest) -> Files:
    return Files(request.param)


def _check_form(server: RawServer, number: int = 0) -> None:
    request = server.requests[number]
    kind, _, boundary = request.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    assert int(request.headers["content-length"]) == len(request.body)
    assert "transfer-encoding" not in request.headers
    first, file, end = request.body.split(f"--{boundary}".encode())[1:]
    assert first == b'\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    head, _, content = file.partition(b"\r\n\r\n")
    assert b'name="file"; filename="a.jsonl"' in head
    assert content == DATA + b"\r\n"
    assert end == b"--\r\n"


def test_an_upload(server: RawServer, files: Files) -> None:
    server.script(Reply([b'{"id": "f"}'], **JSON))
    assert files.upload(server).data == {"id": "f"}
    _check_form(server)


def test_an_upload_is_sent_again_from_its_beginning(server: RawServer, files: Files) -> None:
    server.script(Reply([b"{}"], status=503, headers={"retry-after-ms": "1"}, **JSON), Reply([b'{"id": "f"}'], **JSON))
    assert files.upload(server, max_retries=1).data == {"id": "f"}
    _check_form(server, 0)
    _check_form(server, 1)


@pytest.mark.parametrize(
    "kind", ["application/jsonl", "application/octet-stream", "application/json", "text/html", None]
)
def test_a_download_of_any_kind(server: RawServer, files: Files, kind: str | None) -> None:
    server.script(Reply([DATA[:100], DATA[100:]], content_type=kind))
    assert files.download(server) == DATA


def test_an_empty_download(server: RawServer, files: Files) -> None:
    server.script(Reply([], content_type="application/jsonl", framing="length"))
    assert files.download(server) == b""


@pytest.mark.parametrize("end", ["cut", "rst"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_download_that_breaks(server: RawServer, files: Files, end: Any, framing: Any) -> None:
    server.script(Reply([DATA], content_type="application/jsonl", framing=framing, end=end))
    with pytest.raises(APIConnectionError):
        files.download(server)


def test_a_download_that_is_not_there(server: RawServer, files: Files) -> None:
    server.script(Reply([b'{"error": {"message": "No such file"}}'], status=404, **JSON))
    with pytest.raises(NotFoundError, match="No such file"):
        files.download(server)


def test_an_error_in_place_of_a_download_has_the_bound_of_an_answer(server: RawServer, files: Files) -> None:
    server.answer = lambda _: Reply([b"a" * 60_000] * 2, status=404, **JSON)
    with pytest.raises(InternalServerError, match="max_response_bytes=100000"):
        files.download(server, max_response_bytes=100_000)
    server.answer = lambda _: Reply([DATA], content_type="application/jsonl")
    assert files.download(server, max_response_bytes=100_000) == DATA  # a file itself has none


def test_an_error_in_place_of_a_download_has_twice_the_timeout(server: RawServer, files: Files) -> None:
    server.script(Reply([b"a"] * 1_000, status=500, pause=0.02, **JSON))
    with pytest.raises(APITimeoutError, match=r"0\.4 s \(twice the timeout\)"):
        files.download(server, timeout=0.2)
    server.script(Reply([b"a"] * 25, pause=0.02, content_type="application/jsonl"))
    assert files.download(server, timeout=0.2) == b"a" * 25
