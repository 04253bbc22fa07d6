"""Answers as servers write them, and the ways in which they come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kluster_integrations.config import KlusterConfig
from kluster_integrations.core import request
from kluster_integrations.core.response import read
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.types import ChatRequest, Completion, Delta, collect

from .raw_server import one_by_one, sse

LLAMA = "klusterai/Meta-Llama-3.3-70B-Instruct-Turbo"
QWEN = "Qwen/Qwen3-235B-A22B-FP8"
MAGISTRAL = "mistralai/Magistral-Small-2506"
NEMO = "mistralai/Mistral-Nemo-Instruct-2407"
R1 = "deepseek-ai/DeepSeek-R1"
R1_0528 = "deepseek-ai/DeepSeek-R1-0528"
UNKNOWN = "ep-4711"

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CONFIG = KlusterConfig(api_key="kk-secret-key", base_url="http://127.0.0.1:9/v1")


def asked(model: str = LLAMA, **params: Any) -> ChatRequest:
    return request.build(model, [{"role": "user", "content": "hi"}], params, config=CONFIG, stream=True)


def body_of(message: Mapping[str, Any], finish: str | None = "stop", **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "served", "choices": [choice], **fields}


def streamed(pieces: Iterable[bytes], sent: ChatRequest) -> Completion:
    """Read a stream as the transport does."""
    stream = ChatStream(sent)
    deltas: list[Delta] = []
    for piece in pieces:
        deltas += stream.feed(piece)
        if stream.done:
            break
    else:
        deltas += stream.feed(None)
    return collect([*deltas, *stream.close()])


def every_way(
    message: Mapping[str, Any], deltas: Sequence[Mapping[str, Any]], sent: ChatRequest, finish: str = "stop"
) -> list[Completion]:
    events = b"".join(sse(*deltas, finish=finish))
    return [
        read(body_of(message, finish), sent),
        streamed([events], sent),
        streamed(one_by_one(events), sent),
    ]


def same(completions: Sequence[Completion]) -> Completion:
    """Return the one answer that all of these are; ids that this package makes up may differ."""
    views = [(c.text, c.reasoning, [(t.name, t.arguments) for t in c.tool_calls], c.finish_reason) for c in completions]
    assert all(view == views[0] for view in views), views
    return completions[0]


def cuts(text: str) -> Iterable[list[str]]:
    """Return the text in one piece, cut in two at every place, and letter by letter."""
    return [[text], *([text[:i], text[i:]] for i in range(1, len(text))), list(text)]


def call(name: str | None = None, arguments: Any = "", **fields: Any) -> dict[str, Any]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"type": "function", "function": function, **fields}


PARIS, OSLO = '{"city": "Paris"}', '{"city": "Oslo"}'
