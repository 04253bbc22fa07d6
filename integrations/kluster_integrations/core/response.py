"""The only place where a whole answer is read: text, reasoning, tool calls, usage and finish reason.

A whole answer goes through the same state machine as a stream (`streaming.ChatStream`), so that both come out the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kluster_integrations.core.request import ChatRequest
from kluster_integrations.core.streaming import ChatStream, Delta, Usage

__all__ = ["Completion", "ToolCall", "collect", "read"]


@dataclass(slots=True)
class ToolCall:
    """A tool call. `arguments` is the JSON text as the model wrote it, `{}` where it wrote none."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Completion:
    """An answer.

    Attributes:
        text: The answer, without thoughts.
        reasoning: The thoughts, "" where there are none.
        tool_calls: In the model's order.
        usage: Tokens; marked where estimated.
        finish_reason: `stop`, `length`, `tool_calls` or what else the server says.
        id: The server's id of the answer.
        model: The model that the server names.
        meta: What else it says: `created`, `system_fingerprint`, `matched_stop`.
        logprobs: OpenAI's structure, where asked for.
    """

    text: str
    reasoning: str
    tool_calls: list[ToolCall]
    usage: Usage
    finish_reason: str
    id: str | None = None
    model: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    logprobs: Mapping[str, Any] | None = None


def read(data: object, request: ChatRequest) -> Completion:
    """Read a decoded, whole answer.

    Args:
        data: The decoded JSON of the answer.
        request: What was asked.

    Raises:
        KlusterError: An error inside a 200, or an answer without choices.
    """
    return collect(ChatStream(request).whole(data))


def collect(deltas: Iterable[Delta]) -> Completion:
    """Put the deltas of one answer together."""
    text: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    arguments: list[list[str]] = []
    finish, usage = "", Usage(0, 0, 0, estimated=True)
    meta: dict[str, Any] = {}
    logprobs: Mapping[str, Any] | None = None
    for delta in deltas:
        text.append(delta.content)
        reasoning.append(delta.reasoning)
        for fragment in delta.tool_calls:
            if fragment.id is not None:
                calls.append(ToolCall(fragment.id, "", ""))
                arguments.append([])
            calls[fragment.index].name += fragment.name or ""
            arguments[fragment.index].append(fragment.arguments)
        finish = delta.finish_reason or finish
        usage = delta.usage or usage
        meta.update(delta.meta or {})
        logprobs = _join(logprobs, delta.logprobs)
    for call, parts in zip(calls, arguments, strict=True):
        call.arguments = "".join(parts) or "{}"
    return Completion(
        text="".join(text),
        reasoning="".join(reasoning),
        tool_calls=calls,
        usage=usage,
        finish_reason=finish,
        id=meta.pop("id", None),
        model=meta.pop("model", None),
        meta=meta,
        logprobs=logprobs,
    )


def _join(before: Mapping[str, Any] | None, more: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Append the logprobs of one event: a mapping of lists (`content`, `refusal`), any of which may be null."""
    if not before or not more:
        return more or before
    return {key: [*(before.get(key) or []), *(more.get(key) or [])] or None for key in dict.fromkeys([*before, *more])}
