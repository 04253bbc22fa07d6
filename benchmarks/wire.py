"""What the server answers and what the clients must read out of it: made once, so that serving is only sending."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MODEL = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the ultimate breakfast sandwich?"},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"find_{what}",
            "description": f"Find a {what} by its name.",
            "parameters": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": f"The {what}'s name."},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 50},
                    "order": {"type": "string", "enum": ["newest", "nearest", "cheapest"]},
                },
                "required": ["name"],
            },
        },
    }
    for what in ("restaurant", "recipe", "shop", "farm", "baker")
]
TEXT = "Toasted sourdough, a soft egg, sharp cheddar, and a slice of tomato."
ARGUMENTS = json.dumps({"name": "Ada's", "limit": 5})

SHORT, LONG = 200, 2000
LATENCY = 0.2
PACE = 0.002

_HEAD = {"id": "chatcmpl-bench", "created": 1_753_900_000, "model": MODEL}
_USAGE = {"prompt_tokens": 24, "completion_tokens": 200, "total_tokens": 224}


@dataclass(frozen=True)
class Reply:
    """The bytes of one answer, piece by piece, and the waits before the first and between pieces."""

    pieces: Sequence[bytes]
    latency: float = 0.0
    pace: float = 0.0


def _whole(message: dict[str, Any], finish: str) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, **message},
        "logprobs": None,
        "finish_reason": finish,
    }
    answer = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _sse(json.dumps({**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}))


def _sse(data: str) -> bytes:
    """Return one event as one chunk of HTTP, which is how a server's `yield` arrives."""
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


def _stream(first: dict[str, Any], deltas: Sequence[dict[str, Any]], finish: str) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    usage = json.dumps({**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE})
    return [
        head + _event({"role": "assistant", "content": "", **first}),
        *[_event(delta) for delta in deltas],
        _event({}, finish),
        _sse(usage),
        _sse("[DONE]") + b"0\r\n\r\n",
    ]


def _words(count: int) -> list[str]:
    words = TEXT.split()
    return [f" {words[i % len(words)]}" for i in range(count)]


def _text_stream(count: int) -> list[bytes]:
    return _stream({}, [{"content": word} for word in _words(count)], "stop")


def _arguments(count: int) -> list[str]:
    """Return the pieces of one long argument, which are JSON together."""
    return ['{"name": "', *[word.strip() for word in _words(count - 2)], '"}']


def _call_stream(count: int) -> list[bytes]:
    call = {"index": 0, "id": "call_bench", "type": "function", "function": {"name": "find_recipe", "arguments": ""}}
    pieces = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in _arguments(count)]
    return _stream({"content": None, "tool_calls": [call]}, pieces, "tool_calls")


def replies() -> dict[str, Reply]:
    """Return the answer of each path."""
    text = _whole({"content": TEXT}, "stop")
    function = {"name": "find_restaurant", "arguments": ARGUMENTS}
    call = {"tool_calls": [{"id": "call_bench", "type": "function", "function": function}]}
    return {
        "call": Reply([text]),
        "tools": Reply([_whole(call, "tool_calls")]),
        "slow": Reply([text], latency=LATENCY),
        "short": Reply([b"".join(_text_stream(SHORT))]),
        "long": Reply([b"".join(_text_stream(LONG))]),
        "fragments": Reply([b"".join(_call_stream(SHORT))]),
        "paced": Reply(_text_stream(SHORT), pace=PACE),
    }


EXPECTED: dict[str, str] = {
    "call": TEXT,
    "tools": ARGUMENTS,
    "slow": TEXT,
    "short": "".join(_words(SHORT)),
    "long": "".join(_words(LONG)),
    "fragments": "".join(_arguments(SHORT)),
    "paced": "".join(_words(SHORT)),
}
"""The text (or arguments) that every client must read from each path: those that read less would look fast."""
