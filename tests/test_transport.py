"""Answers, good and bad, late and none; sync, on aiohttp, and on httpx's pool."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from kluster_integrations.core.types import Delta, collect
from kluster_integrations.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    KlusterError,
    NotFoundError,
    RateLimitError,
    TruncatedStreamError,
)

from .raw_server import DONE, Gate, RawServer, Reply, event, sse, whole
from .ways import JSON, KEY, LLAMA, QWEN, SO_FAR, WEATHER, Way, config, failing, text_of

# Answers


def test_a_whole_answer(server: RawServer, way: Way) -> None:
    assert way.post(config(server)) == "Hello"
    (received,) = server.requests
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.json == {"model": LLAMA, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("cut", [1, 10_000])
def test_a_stream_however_its_bytes_come(server: RawServer, way: Way, framing: Any, cut: int) -> None:
    data = b"".join(sse({"content": "<think>Grüße"}, {"content": "</think>👋🏽 "}, {"content": "a < b"}))
    server.script(Reply([data[i : i + cut] for i in range(0, len(data), cut)], framing=framing))
    deltas = way.stream(config(server), model=QWEN)
    assert text_of(deltas) == "👋🏽 a < b"
    assert "".join(d.reasoning for d in deltas) == "Grüße"
    assert server.requests[0].json["stream"] is True


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "TEXT/HTML"])
def test_a_page_in_place_of_an_answer(server: RawServer, way: Way, content_type: str) -> None:
    page = Reply([b"<html><title>Welcome</title></html>"], content_type=content_type)
    server.script(page, page)
    for send in (way.post, way.stream):
        with pytest.raises(InternalServerError, match="The answer is not JSON: '<html><title>Welcome"):
            send(config(server))


def test_a_whole_answer_to_a_streamed_request(server: RawServer, way: Way) -> None:
    deltas = way.stream(config(server))
    assert text_of(deltas) == "Hello"
    assert collect(deltas).usage.total_tokens == 7


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)
def test_a_slow_answer_is_an_answer(server: RawServer, way: Way) -> None:
    # No wait is near the timeout, all of them together are beyond it.
    pieces = sse(*({"content": t} for t in "slow drip."))
    server.script(Reply(pieces, pause=0.06))
    assert text_of(way.stream(config(server, timeout=0.6))) == "slow drip."


PLAIN = [{"content": t} for t in ("Hello", " there", " <b", " < c", "!")]
CALLS = [
    {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}}]},
    *({"tool_calls": [{"index": 0, "function": {"arguments": a}}]} for a in ('{"a', '":', "1}")),
]


@pytest.mark.parametrize(
    "deltas",
    [
        PLAIN,
        CALLS,
        [{"reasoning_content": t} for t in ("I", " think", " <")],
        [{"content": "<think>I"}, {"content": " am"}],
    ],
    ids=["text", "tool-calls", "thoughts", "inline-thoughts"],
)
@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_each_chunk_is_delivered_before_the_next_is_sent(
    server: RawServer, way: Way, deltas: list[Mapping[str, Any]], framing: Any
) -> None:
    gate = Gate()
    pieces = sse(*deltas, done=False)
    server.script(Reply(pieces, gate=gate, framing=framing))
    found = way.stream(config(server), lambda _: gate.release(), model=QWEN, tools=[WEATHER])
    assert not gate.waited_in_vain
    assert len(found) == len(pieces) + 1  # usage is the last


def test_an_answer_is_complete_at_done_whatever_comes_behind(server: RawServer, way: Way) -> None:
    server.script(Reply(sse({"content": "Hello"}), end="hang"))
    assert text_of(way.stream(config(server, timeout=20))) == "Hello"
    assert server.hung_up.wait(5)


# Failures


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("end", ["cut", "rst"])
def test_a_connection_that_breaks_in_the_middle(server: RawServer, way: Way, framing: Any, end: Any) -> None:
    gate = Gate()
    server.script(Reply(SO_FAR, framing=framing, end=end, gate=gate))
    seen: list[str] = []

    def take(delta: Delta) -> None:
        seen.append(delta.content)
        gate.release()

    with pytest.raises(TruncatedStreamError) as caught:
        way.stream(config(server, max_retries=2), take)
    assert "".join(seen) == caught.value.partial == "so far"
    assert len(server.requests) == 1, "what the caller has seen in part must not be sent again"


@pytest.mark.parametrize("done", [False, True])
def test_a_stream_that_ends_without_a_finish_reason(server: RawServer, way: Way, done: bool) -> None:
    server.script(Reply([*SO_FAR, *([DONE] if done else [])]))
    with pytest.raises(TruncatedStreamError) as caught:
        way.stream(config(server))
    assert caught.value.partial == "so far"


@pytest.mark.parametrize("end", ["cut", "rst"])
def test_a_connection_that_breaks_behind_the_finish_reason(server: RawServer, way: Way, end: Any) -> None:
    gate = Gate()
    server.script(Reply(sse({"content": "Hello"}, done=False), end=end, gate=gate))
    assert text_of(way.stream(config(server), lambda _: gate.release())) == "Hello"


@pytest.mark.parametrize("at", [20, 150, -10])
def test_a_body_cut_within_an_event(server: RawServer, way: Way, at: int) -> None:
    events = b"".join(SO_FAR)
    server.script(Reply([events[:at]], framing="close"))
    with pytest.raises(TruncatedStreamError):
        way.stream(config(server))


@pytest.mark.parametrize("end", ["cut", "rst"])
@pytest.mark.parametrize("whole_answer", [False, True])
def test_a_connection_that_breaks_before_the_answer(server: RawServer, way: Way, end: Any, whole_answer: bool) -> None:
    server.script(Reply(silent=True, end=end))
    with pytest.raises(APIConnectionError) as caught:
        (way.post if whole_answer else way.stream)(config(server))
    assert type(caught.value) is APIConnectionError


def test_a_whole_answer_that_breaks_off(server: RawServer, way: Way) -> None:
    broken = whole({"content": "Hello"})
    broken.end = "cut"
    server.script(broken, broken)
    with pytest.raises(APIConnectionError):
        way.post(config(server))
    with pytest.raises(APIConnectionError):
        way.stream(config(server))


@pytest.mark.parametrize("whole_answer", [False, True])
def test_no_answer_in_time(server: RawServer, way: Way, whole_answer: bool) -> None:
    server.script(Reply(silent=True, end="hang"))
    with pytest.raises(APITimeoutError):
        (way.post if whole_answer else way.stream)(config(server, timeout=0.2))


def test_no_more_of_a_stream_in_time(server: RawServer, way: Way) -> None:
    server.script(Reply(SO_FAR, end="hang"))
    with pytest.raises(APITimeoutError):
        way.stream(config(server, timeout=0.2))
    assert server.hung_up.wait(5), "the connection must not stay open"


def test_nobody_listens(way: Way) -> None:
    with RawServer() as gone:
        settings = config(gone)
    with pytest.raises(APIConnectionError) as caught:
        way.post(settings)
    assert type(caught.value) is APIConnectionError


NO_ANSWERS: dict[str, tuple[Reply, type[KlusterError]]] = {
    "html": (Reply([b"<html><title>Hi</title></html>"], content_type="text/html"), KlusterError),
    "empty": (Reply([b""], **JSON), InternalServerError),
    "empty-stream": (Reply([], content_type="text/event-stream"), KlusterError),
    "no-content-type": (Reply([b"{}"], content_type=None), KlusterError),
    "garbage": (Reply([b'{"choices": [{'], **JSON), InternalServerError),
    "not-utf8": (Reply([b'{"a": "\xff\xfe"}'], **JSON), InternalServerError),
    "deep": (Reply([b"[" * 100_000], **JSON), InternalServerError),
    "choices-empty": (Reply([b'{"id": "x", "choices": []}'], **JSON), InternalServerError),
    "list": (Reply([b"[]"], **JSON), InternalServerError),
    "error-in-200": (Reply([b'{"error": {"message": "slow", "code": 429}}'], **JSON), RateLimitError),
    "flat-error-in-200": (Reply([b'{"object": "error", "message": "no", "code": 400}'], **JSON), BadRequestError),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
@pytest.mark.parametrize("whole_answer", [False, True])
def test_a_200_that_is_not_an_answer_is_an_error(server: RawServer, way: Way, name: str, whole_answer: bool) -> None:
    reply, kind = NO_ANSWERS[name]
    server.script(reply)
    with pytest.raises(kind):
        (way.post if whole_answer else way.stream)(config(server))


@pytest.mark.parametrize("by", ["data", "event", "flat"])
def test_an_error_event_in_the_middle(server: RawServer, way: Way, by: str) -> None:
    error = {
        "data": event({"error": {"message": "boom", "code": 503}}),
        "event": b'event: error\ndata: {"message": "boom", "code": 503}\n\n',
        "flat": event({"object": "error", "message": "boom", "code": 503}),
    }[by]
    gate = Gate()
    server.script(Reply([*SO_FAR, error], gate=gate))
    seen: list[Delta] = []
    with pytest.raises(InternalServerError, match="boom") as caught:
        way.stream(config(server, max_retries=2), lambda d: (seen.append(d), gate.release())[0])
    assert text_of(seen) == "so far"
    assert caught.value.status_code == 503
    assert len(server.requests) == 1


# Retries


@pytest.mark.parametrize("way", ["sync", "aiohttp"], indirect=True)
def test_retry_after_is_waited_for(server: RawServer, way: Way) -> None:
    server.script(failing(429, **{"Retry-After": "1"}))
    begun = time.monotonic()
    (way.post if way.name == "aiohttp" else way.stream)(config(server, max_retries=2))
    assert time.monotonic() - begun >= 1
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_what_may_pass_is_sent_again(server: RawServer, way: Way, status: int) -> None:
    server.script(failing(status, **{"retry-after-ms": "1"}))
    assert way.post(config(server, max_retries=1)) == "Hello"
    assert len(server.requests) == 2
    assert server.requests[0].body == server.requests[1].body


@pytest.mark.parametrize("end", ["cut", "hang"])
@pytest.mark.parametrize("name", ["sync", "aiohttp"])
def test_a_connection_that_breaks_before_the_answer_is_made_again(server: RawServer, name: str, end: Any) -> None:
    server.script(Reply(silent=True, end=end))
    assert text_of(Way(name).stream(config(server, max_retries=1, timeout=0.4))) == "Hello"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, KlusterError),
        (404, NotFoundError),
        (413, KlusterError),
        (422, BadRequestError),
    ],
)
def test_what_will_not_pass_is_not_sent_again(
    server: RawServer, way: Way, status: int, kind: type[KlusterError]
) -> None:
    server.script(failing(status), failing(status))
    for send in (way.post, way.stream):
        with pytest.raises(kind) as caught:
            send(config(server, max_retries=3))
        assert caught.value.status_code == status
    assert len(server.requests) == 2


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_there_are_as_many_retries_as_configured(server: RawServer, way: Way, retries: int) -> None:
    server.answer = lambda _: failing(500, **{"retry-after-ms": "1"})
    for number, send in enumerate((way.post, way.stream), 1):
        with pytest.raises(InternalServerError):
            send(config(server, max_retries=retries))
        assert len(server.requests) == number * (1 + retries)


def test_an_error_that_stays_says_how_long_to_wait(server: RawServer, way: Way) -> None:
    server.script(failing(429, **{"Retry-After": "7", "x-request-id": "req-1"}))
    with pytest.raises(RateLimitError) as caught:
        way.post(config(server))
    assert (caught.value.retry_after, caught.value.request_id) == (7, "req-1")
