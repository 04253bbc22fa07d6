"""From bytes to deltas: events however they are written and cut, nothing held back, nothing cut short."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import request
from kluster_integrations.core.sse import EventSplitter
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.types import Delta
from kluster_integrations.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    ContextWindowExceededError,
    InternalServerError,
    KlusterError,
    RateLimitError,
    TruncatedStreamError,
    mapped,
)

from .raw_server import DONE, chunk, event, one_by_one, sse

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
QWEN = "Qwen/Qwen3-235B-A22B-FP8"
R1 = "deepseek-ai/DeepSeek-R1"
KEY = "kk-secret-key"
CONFIG = KlusterConfig(api_key=KEY, base_url="http://127.0.0.1:9/v1")
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def reader(model: str = LLAMA, **params: Any) -> ChatStream:
    sent = request.build(model, [{"role": "user", "content": "hi"}], params, config=CONFIG, stream=True)
    return ChatStream(sent)


def split(data: bytes, *cuts: int) -> list[bytes]:
    """Return the events of bytes that come cut at these places."""
    splitter = EventSplitter()
    places = [0, *cuts, len(data)]
    events = [e for a, b in itertools.pairwise(places) for e in splitter.feed(data[a:b])]
    return [*events, *splitter.close()]


def read_all(pieces: Sequence[bytes], stream: ChatStream) -> list[Delta]:
    deltas = [d for piece in pieces for d in stream.feed(piece)]
    if not stream.done:
        deltas += stream.feed(None)
    return [*deltas, *stream.close()]


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(d.content for d in deltas)


# Events

TWO = [b'{"a":1}', '{"b":"é👋"}'.encode()]

WRITTEN = {
    "lf": b"data: %s\n\ndata: %s\n\n" % tuple(TWO),
    "crlf": b"data: %s\r\n\r\ndata: %s\r\n\r\n" % tuple(TWO),
    "cr": b"data: %s\r\rdata: %s\r\r" % tuple(TWO),
    "mixed": b"data: %s\r\n\ndata: %s\n\r\n" % tuple(TWO),
    "no-space": b"data:%s\n\ndata:%s\n\n" % tuple(TWO),
    "no-last-blank-line": b"data: %s\n\ndata: %s" % tuple(TWO),
    "no-last-blank-line-crlf": b"data: %s\r\n\r\ndata: %s\r\n" % tuple(TWO),
    "more-blank-lines": b"\n\n\ndata: %s\n\n\n\n\ndata: %s\n\n\n" % tuple(TWO),
    "bom": b"\xef\xbb\xbfdata: %s\n\ndata: %s\n\n" % tuple(TWO),
    "comments": b": hi\n\n:\n\ndata: %s\n: between\n\n: ping\ndata: %s\n\n: bye\n\n" % tuple(TWO),
    "other-fields": b"id: 1\nevent: message\nretry: 10\ndata: %s\n\nevent\nid\ndata: %s\n\n" % tuple(TWO),
    "empty-data": b"data: %s\n\ndata:\n\ndata: \n\ndata\n\ndata: %s\n\n" % tuple(TWO),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_events_however_they_are_written_and_wherever_they_are_cut(name: str) -> None:
    data = WRITTEN[name]
    assert split(data) == TWO
    assert split(data, *range(1, len(data))) == TWO
    for place in range(1, len(data)):
        assert split(data, place) == TWO, place


def test_lines_of_data_are_joined() -> None:
    data = b'data: {"a":\ndata:1,\r\ndata:  "b": 2}\n\n'
    for cuts in ((), range(1, len(data))):
        (payload,) = split(data, *cuts)
        assert json.loads(payload) == {"a": 1, "b": 2}


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_an_event_is_given_as_soon_as_its_blank_line_is_there(end: bytes) -> None:
    splitter = EventSplitter()
    for _ in range(3):
        assert list(splitter.feed(b"data: x" + end)) == [b"x"]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_an_answer_with_these_line_ends(end: bytes, byte_by_byte: bool) -> None:
    chunks = [chunk({"content": "Grüße "}), chunk({"content": "👋🏽"}), chunk({}, "stop")]
    data = b": hi" + end + b"".join(event(c, end) for c in chunks) + event(b"[DONE]", end)
    deltas = read_all([*one_by_one(data)] if byte_by_byte else [data], reader())
    assert text_of(deltas) == "Grüße 👋🏽"


def test_every_place_to_cut_an_answer() -> None:
    data = b"".join(sse({"content": "a 👋"}, {"content": "<é"}))
    for place in range(len(data)):
        assert text_of(read_all([data[:place], data[place:]], reader())) == "a 👋<é"


def test_nothing_after_done_is_read() -> None:
    deltas = read_all(
        [b"".join([*sse({"content": "x"}), event({"error": {"message": "late"}}), b"data: {bad"])], reader()
    )
    assert text_of(deltas) == "x"


def test_done_is_not_needed() -> None:
    assert text_of(read_all(sse({"content": "x"}, done=False), reader())) == "x"


def test_the_last_event_needs_no_blank_line() -> None:
    data = b"".join(sse({"content": "x"}, done=False)).removesuffix(b"\n\n")
    assert text_of(read_all([data], reader())) == "x"


def test_a_long_event_in_small_reads() -> None:
    # Where each read searches or copies all that came before, this takes minutes.
    text = "x" * 10_000_000
    data = b"".join(sse({"content": text}))
    pieces = [data[i : i + 100] for i in range(0, len(data), 100)]
    assert text_of(read_all(pieces, reader())) == text


def test_surrogates_that_json_escapes_allow() -> None:
    deltas = read_all([event(b'{"choices":[{"delta":{"content":"a\\ud83d"}}]}'), *sse({"content": "b"})], reader())
    assert text_of(deltas).startswith("a")
    assert text_of(deltas).endswith("b")


# Nothing is held back


def contents(*texts: str) -> list[dict[str, Any]]:
    return [{"content": t} for t in texts]


IN_A_FIELD = [("", "plan"), ("", " B"), ("Yes", ""), ("!", "")]


@pytest.mark.parametrize(
    ("model", "deltas", "expected"),
    [
        (LLAMA, contents("Hello", " there", "\n", "!"), [("Hello", ""), (" there", ""), ("\n", ""), ("!", "")]),
        (LLAMA, contents("if a < b", " <b>", " <x", "<y"), [("if a < b", ""), (" <b>", ""), (" <x", ""), ("<y", "")]),
        (LLAMA, contents("a <", " b", "<thi", "s>"), [("a ", ""), ("< b", ""), None, ("<this>", "")]),
        (QWEN, contents("<think>plan", " B", "</think>", "Yes"), [("", "plan"), ("", " B"), None, ("Yes", "")]),
        (QWEN, contents("<think>a", " < b"), [("", "a"), ("", " < b")]),
        (R1, contents("plan", " < c", "</think>", "Yes"), [("", "plan"), ("", " < c"), None, ("Yes", "")]),
        (QWEN, [{"reasoning_content": "plan"}, {"reasoning_content": " B"}, *contents("Yes", "!")], IN_A_FIELD),
        (R1, [{"reasoning": "plan"}, {"reasoning": " B"}, *contents("Yes", "!")], IN_A_FIELD),
    ],
)
def test_each_chunk_gives_its_delta_at_once(
    model: str, deltas: list[dict[str, Any]], expected: list[tuple[str, str] | None]
) -> None:
    stream = reader(model)
    for number, (delta, want) in enumerate(zip(deltas, expected, strict=True)):
        found = stream.feed(event(chunk(delta)))
        assert [(d.content, d.reasoning) for d in found] == ([] if want is None else [want]), number


def test_each_fragment_of_a_tool_call_is_given_at_once() -> None:
    stream = reader(tools=[WEATHER])
    for number, arguments in enumerate(["", '{"a', '":', " 1", "}"]):
        head = {"id": "a", "type": "function"} if number == 0 else {}
        function = {"name": "weather", "arguments": arguments} if number == 0 else {"arguments": arguments}
        (delta,) = stream.feed(event(chunk({"tool_calls": [{**head, "index": 0, "function": function}]})))
        assert [c.arguments for c in delta.tool_calls] == [arguments]
        assert delta.tool_calls[0].id == ("a" if number == 0 else None)


def test_stops_applied_here_hold_back_only_what_may_be_a_stop() -> None:
    stream = reader(stop=["1st", "2nd", "3rd", "4th", "END"])
    found = [text_of(stream.feed(event(chunk({"content": t})))) for t in ("Hello", " E", "x E", "N", "D more")]
    assert found == ["Hello", " ", "Ex ", "", ""]
    assert stream.done


# What is not complete


def test_no_finish_reason_is_no_answer() -> None:
    for done in (False, True):
        stream = reader()
        with pytest.raises(TruncatedStreamError) as caught:
            read_all(sse({"content": "so "}, {"content": "far"}, finish=None, done=done), stream)
        assert caught.value.partial == "so far"


@pytest.mark.parametrize("pieces", [[], [b""], [b"\n\n"], [b": ping\n\n"], [DONE], [b"<html><body>Hi</body></html>"]])
def test_an_empty_stream_is_no_answer(pieces: list[bytes]) -> None:
    with pytest.raises(TruncatedStreamError):
        read_all(pieces, reader())


@pytest.mark.parametrize(
    "tail", [b"data", b"data: ", b'data: {"id": "x", "choi', b'data: {"choices": [{"delta": {"content": "\xf0\x9f']
)
def test_a_body_that_ends_within_an_event_is_truncated(tail: bytes) -> None:
    with pytest.raises(TruncatedStreamError) as caught:
        read_all([*sse({"content": "so far"}, finish=None, done=False), tail], reader())
    assert caught.value.partial == "so far"


@pytest.mark.parametrize("tail", [b"data: [DO", b'data: {"choices": [], "usa'])
def test_what_breaks_off_behind_the_finish_reason_takes_nothing_away(tail: bytes) -> None:
    assert text_of(read_all([*sse({"content": "x"}, done=False), tail], reader())) == "x"


def test_a_whole_answer_in_place_of_events_is_an_answer_whatever_it_is_called() -> None:
    data = json.dumps({"choices": [{"message": {"content": "whole"}}]}).encode()
    for pieces in ([data], one_by_one(data)):
        deltas = read_all([*pieces], reader())
        assert text_of(deltas) == "whole"
        assert [d.finish_reason for d in deltas if d.finish_reason] == ["stop"]
    with pytest.raises(TruncatedStreamError):
        read_all([data[:-3]], reader())


def test_an_error_in_place_of_events_is_said_whatever_it_is_called() -> None:
    with pytest.raises(InternalServerError, match="out of order"):
        read_all([b'\n{"error": {"message": "out of order"}}'], reader())


def test_a_connection_that_breaks_is_a_truncated_answer() -> None:
    stream = reader()
    for piece in sse({"content": "so far"}, finish=None, done=False):
        stream.feed(piece)
    with pytest.raises(TruncatedStreamError) as caught:
        stream.broken(APIConnectionError("The connection failed."))
    assert caught.value.partial == "so far"
    with pytest.raises(APITimeoutError):
        stream.broken(APITimeoutError("The server did not answer in time."))


@pytest.mark.parametrize(
    ("written", "kind", "status"),
    [
        (event({"error": {"message": "slow down", "type": "x", "param": None, "code": 429}}), RateLimitError, 429),
        (event({"error": {"message": "boom", "type": "server_error", "code": None}}), InternalServerError, None),
        (event({"error": {"message": "Unexpected error occurred", "errorCode": 4000}}), InternalServerError, None),
        (event({"error": "boom"}), InternalServerError, None),
        (event({"object": "error", "message": "no", "type": "BadRequestError", "code": 400}), BadRequestError, 400),
        (event({"error": {"message": "maximum context length is 9"}, "choices": []}), ContextWindowExceededError, None),
        (b'event: error\ndata: {"message": "boom", "code": 503}\n\n', InternalServerError, 503),
        (b'event: error\ndata: {"error": {"message": "boom", "code": "429"}}\n\n', RateLimitError, 429),
        (b"event: error\ndata: boom\n\n", InternalServerError, None),
        (b'event:error\r\ndata:"boom"\r\n\r\n', InternalServerError, None),
        (b'data: {"message": "boom"}\nevent: error\n\n', InternalServerError, None),
    ],
)
@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_an_error_event_is_an_error(
    written: bytes, kind: type[KlusterError], status: int | None, byte_by_byte: bool
) -> None:
    stream = reader()
    data = b"".join([event(chunk({"content": "so far"})), written, *sse({"content": "more"})])
    with pytest.raises(kind) as caught:
        read_all([*one_by_one(data)] if byte_by_byte else [data], stream)
    assert caught.value.status_code == status
    assert type(caught.value) is kind


def test_an_error_after_the_finish_reason_is_an_error() -> None:
    pieces = [*sse({"content": "x"}, done=False), event({"error": {"message": "boom"}}), DONE]
    with pytest.raises(InternalServerError, match="boom"):
        read_all(pieces, reader())


@pytest.mark.parametrize(
    "payload",
    [b"{", b"{}}", b"nonsense", b"\xff\xfe", b"[]", b"5", b'"x"', b"null", b"[" * 100_000, b'{"a":' * 50_000],
    ids=lambda p: repr(p[:12]),
)
def test_an_event_that_is_not_a_chunk_is_an_error(payload: bytes) -> None:
    with pytest.raises(InternalServerError):
        read_all([event(payload), *sse({"content": "x"})], reader())


@pytest.mark.parametrize(
    "written",
    [
        event(f"nonsense {KEY}".encode()),
        event(f'["{KEY}"]'.encode()),
        event({"error": {"message": f"bad key {KEY}", "code": 401}}),
        event({"error": f"bad key {KEY}"}),
        f"event: error\ndata: bad key {KEY}\n\n".encode(),
        f'event: error\ndata: ["{KEY}"]\n\n'.encode(),
    ],
)
def test_a_key_that_the_server_echoes_is_in_no_error(written: bytes) -> None:
    with pytest.raises(KlusterError) as caught, mapped(secret=KEY):
        read_all([written], reader())
    assert KEY not in f"{caught.value} {caught.value!r} {vars(caught.value)}"


def test_chunks_before_an_error_in_one_read_are_not_needed_but_the_error_is() -> None:
    with pytest.raises(InternalServerError, match="boom"):
        reader().feed(event(chunk({"content": "x"})) + event({"error": {"message": "boom"}}))
