"""Files that pass through the gateway: piece by piece, of any length, and never cut in silence."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from kluster_integrations import KlusterConfig
from kluster_integrations.gateway import LOGGER, Gateway

from ..raw_server import Gate, RawServer, Reply

PIECE = bytes(range(256)) * 256
JSONL: dict[str, Any] = {"content_type": "application/jsonl"}


@pytest.fixture
def upstream() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


@pytest.fixture
def files(upstream: RawServer) -> Iterator[httpx.Client]:
    config = KlusterConfig(api_key="kk-key", base_url=upstream.base_url, max_retries=0, max_response_bytes=100_000)
    with Gateway(config, grace=1) as gateway, httpx.Client(base_url=gateway.base_url, trust_env=False) as client:
        yield client


def test_each_piece_comes_before_the_next_is_sent(upstream: RawServer, files: httpx.Client) -> None:
    upstream.script(Reply([b"one\n", b"two\n", b"three\n"], gate=(gate := Gate()), **JSONL))
    with files.stream("GET", "/files/f/content") as answer:
        seen = []
        for piece in answer.iter_raw():
            seen.append(piece)
            gate.release()
    assert seen == [b"one\n", b"two\n", b"three\n"]
    assert not gate.waited_in_vain


def test_a_large_file_takes_no_memory(upstream: RawServer, files: httpx.Client) -> None:
    count = 480  # 30 MB, with a bound of answers of 0.1 MB
    upstream.script(Reply([PIECE] * count, framing="length", **JSONL))
    size = 0
    tracemalloc.start()
    try:
        with files.stream("GET", "/files/f/content") as answer:
            for piece in answer.iter_raw():
                size += len(piece)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000  # of the server, the gateway and the client
    finally:
        tracemalloc.stop()
    assert size == count * len(PIECE)


def test_an_empty_file(upstream: RawServer, files: httpx.Client) -> None:
    upstream.script(Reply([], framing="length", **JSONL))
    answer = files.get("/files/f/content")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("end", ["cut", "rst"])
def test_one_that_breaks_is_no_shorter_file(
    upstream: RawServer, files: httpx.Client, end: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    upstream.script(Reply([PIECE, PIECE], gate=(gate := Gate()), end=end, **JSONL))
    with files.stream("GET", "/files/f/content") as answer:
        pieces = answer.iter_raw()
        assert next(pieces)
        gate.release()
        gate.release()
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)
    [row] = [record.__dict__["request"] for record in caplog.records if "request" in record.__dict__]
    assert (row["status"], row["error"]) == (200, "APIConnectionError")


def test_what_the_service_refuses_has_its_status_and_an_end(upstream: RawServer, files: httpx.Client) -> None:
    upstream.script(
        Reply([b'{"error": {"message": "No such file"}}'], status=404, content_type="application/json"),
        Reply([PIECE] * 480, status=404, **JSONL),
    )
    answer = files.get("/files/f/content")
    assert (answer.status_code, "No such file" in answer.text) == (404, True)
    answer = files.get("/files/f/content")
    assert (answer.status_code, "KLUSTER_MAX_RESPONSE_BYTES=100000" in answer.text) == (502, True)


def test_a_client_that_leaves_ends_it(upstream: RawServer, files: httpx.Client) -> None:
    upstream.script(Reply([PIECE], end="hang", **JSONL))
    with files.stream("GET", "/files/f/content") as answer:
        next(answer.iter_raw())
    assert upstream.hung_up.wait(5)
