"""Core's answers as LiteLLM's objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from litellm.types.utils import Delta as LiteDelta
from litellm.types.utils import Message, ModelResponse, ModelResponseStream, StreamingChoices
from litellm.types.utils import Usage as LiteUsage

from kluster_integrations import catalog
from kluster_integrations.core.types import Completion, Delta, ToolCallDelta, Usage

__all__ = ["ChunkMaker", "as_deltas", "fill", "headers_of", "usage_of"]

_NEAR = 50


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return the fields of LiteLLM's usage; `estimated` is there where the numbers are estimates."""
    fields: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.reasoning_tokens is not None:
        fields["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.cached_tokens is not None:
        fields["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.estimated:
        fields["estimated"] = True
    return fields


def _counted(usage: Usage, model: str, thoughts: int, rest: int) -> dict[str, Any]:
    """Return LiteLLM's usage, in which the tokens of thoughts are estimated where the server does not count them.

    LiteLLM itself counts those of a stream so, and its users expect them of a model that thinks. It prices thoughts and
    text apart and adds both: of the numbers around the estimate this takes one whose sum is the price of all tokens.

    Args:
        usage: What the server says, or an estimate.
        model: The id that was asked for.
        thoughts: Characters of the thoughts.
        rest: Characters of the text and of the arguments of calls.
    """
    total = usage.completion_tokens
    if thoughts and total and usage.reasoning_tokens is None:
        guess = max(1, round(total * thoughts / (thoughts + rest)))
        prices = catalog.get(model).prices
        rate = prices.output / 1_000_000 if prices else 0.0
        near = sorted(range(max(1, guess - _NEAR), min(total, guess + _NEAR) + 1), key=lambda n: abs(n - guess))
        exact = (n for n in near if (total - n) * rate + n * rate == total * rate)
        usage = usage._replace(reasoning_tokens=next(exact, guess))
    return usage_of(usage)


def headers_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the HTTP headers of an answer under the names that LiteLLM gives them."""
    return {f"llm_provider-{k.lower()}": v for k, v in headers.items() if k.lower() != "set-cookie"}


def fill(response: ModelResponse, model: str, answer: Completion, headers: Mapping[str, str]) -> ModelResponse:
    """Put a whole answer into the response object that LiteLLM has made for it.

    Args:
        response: LiteLLM's object.
        model: The id that was asked for: a price belongs to it, whatever name the server calls it by.
        answer: What the model said.
        headers: The HTTP headers of the answer.
    """
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in answer.tool_calls
    ]
    choice: Any = response.choices[0]
    choice.message = Message(
        content=answer.text or (None if calls else ""),
        tool_calls=calls or None,
        reasoning_content=answer.reasoning or None,
    )
    choice.finish_reason = answer.finish_reason
    if answer.logprobs is not None:
        choice.logprobs = answer.logprobs
    said: dict[str, Any] = {"id": answer.id, **answer.meta}
    for name in ("id", "created", "system_fingerprint"):
        if said.get(name) is not None:
            setattr(response, name, said[name])
    response.model = model
    rest = len(answer.text) + sum(len(c.arguments) for c in answer.tool_calls)
    usage = _counted(answer.usage, model, len(answer.reasoning), rest)
    response.usage = LiteUsage(**usage)  # type: ignore[attr-defined]
    response._hidden_params["additional_headers"] = headers_of(headers)
    return response


def as_deltas(answer: Completion) -> Iterator[Delta]:
    """Yield a whole answer as if it had been streamed."""
    calls = tuple(ToolCallDelta(i, c.id, c.name, c.arguments) for i, c in enumerate(answer.tool_calls))
    meta = {"id": answer.id, **answer.meta}
    yield Delta(answer.text, answer.reasoning, calls, answer.finish_reason, None, answer.logprobs, meta)
    yield Delta(usage=answer.usage)


class ChunkMaker:
    """Makes LiteLLM's chunks of one streamed answer.

    The last chunk is LiteLLM's generic dictionary: of its own chunk class it drops the usage, and a stream that brings
    none is logged with a cost of 0 by several versions.

    Args:
        model: The id that was asked for.
        headers: The HTTP headers of the answer, or what returns them once it has begun.
    """

    def __init__(self, model: str, headers: Mapping[str, str] | Callable[[], Mapping[str, str]]) -> None:
        self._model = model
        self._headers = headers
        self._id: str | None = None
        self._created = int(time.time())
        self._fingerprint: str | None = None
        self._finish = "stop"
        self._begun = False
        self._thoughts = 0
        self._rest = 0

    def make(self, delta: Delta) -> ModelResponseStream | dict[str, Any] | None:
        """Return the chunk of a delta, None where there is nothing to say yet."""
        if delta.meta is not None:
            self._id = self._id or delta.meta.get("id")
            self._created = delta.meta.get("created") or self._created
            self._fingerprint = delta.meta.get("system_fingerprint") or self._fingerprint
        if delta.finish_reason:
            self._finish = delta.finish_reason
        self._thoughts += len(delta.reasoning)
        self._rest += len(delta.content) + sum(len(call.arguments) for call in delta.tool_calls)
        if delta.usage is not None:
            return self._last(delta.usage)
        if not (delta.content or delta.reasoning or delta.tool_calls or delta.logprobs) and self._begun:
            return None
        return self._chunk(delta)

    def _chunk(self, delta: Delta) -> ModelResponseStream:
        role = None if self._begun else "assistant"
        part = LiteDelta(
            content=delta.content or None,
            role=role,
            tool_calls=[_call(c) for c in delta.tool_calls] or None,
            reasoning_content=delta.reasoning or None,
        )
        choice = StreamingChoices(delta=part, logprobs=delta.logprobs)
        chunk = ModelResponseStream(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[choice],
            system_fingerprint=self._fingerprint,
        )
        self._id = chunk.id
        if not self._begun:
            headers = self._headers() if callable(self._headers) else self._headers
            chunk._hidden_params = {"additional_headers": headers_of(headers)}
            self._begun = True
        return chunk

    def _last(self, usage: Usage) -> dict[str, Any]:
        return {
            "text": "",
            "tool_use": None,
            "is_finished": True,
            "finish_reason": self._finish,
            "usage": _counted(usage, self._model, self._thoughts, self._rest),
            "index": 0,
        }


def _call(call: ToolCallDelta) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "index": call.index, "function": function}
