"""The core's completions, deltas and vectors as LiteLLM's objects."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from litellm.types.utils import (
    Choices,
    EmbeddingResponse,
    Message,
    ModelResponse,
    ModelResponseStream,
    StreamingChoices,
)
from litellm.types.utils import Delta as LiteDelta
from litellm.types.utils import Usage as LiteUsage

from kluster_integrations.catalog import ModelSpec
from kluster_integrations.core.client import Vectors
from kluster_integrations.core.types import Completion, Delta, Usage

__all__ = ["ChunkMaker", "fill", "fill_vectors"]

_NEAR = 50


def _usage(usage: Usage, spec: ModelSpec) -> dict[str, Any]:
    """Return the fields of LiteLLM's usage, with `estimated` if the numbers are estimates.

    LiteLLM prices reasoning and text separately and adds the two. If the number of reasoning tokens is an estimate, it
    is adjusted so that the sum is exactly the price of all tokens.
    """
    total, reasoning = usage.completion_tokens, usage.reasoning_tokens
    if reasoning and usage.reasoning_estimated and (prices := spec.prices):
        rate, guess = prices.output / 1_000_000, reasoning
        near = range(max(1, guess - _NEAR), min(total, guess + _NEAR) + 1)
        exact = (n for n in near if (total - n) * rate + n * rate == total * rate)
        reasoning = min(exact, key=lambda n: abs(n - guess), default=guess)
    fields: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": total,
        "total_tokens": usage.total_tokens,
    }
    if reasoning is not None:
        fields["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    if usage.cached_tokens is not None:
        fields["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.estimated:
        fields["estimated"] = True
    return fields


def _hidden(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the HTTP headers of an answer as LiteLLM's hidden parameters, under LiteLLM's names."""
    shown = {f"llm_provider-{k.lower()}": v for k, v in headers.items() if k.lower() != "set-cookie"}
    return {"additional_headers": shown}


def fill(response: ModelResponse, spec: ModelSpec, completion: Completion) -> ModelResponse:
    """Put a completion into LiteLLM's response object.

    Args:
        response: LiteLLM's object.
        spec: The spec of the requested id, which has the price, even if the server returns another name.
        completion: The model's answer.
    """
    response.choices += [Choices(index=i) for i, _ in enumerate(completion.others, 1)]
    for choice, each in zip(response.choices, (completion, *completion.others), strict=True):
        _fill_choice(choice, each)
    for name, value in {"id": completion.id, **completion.meta}.items():
        if name in ("id", "created", "system_fingerprint") and value is not None:
            setattr(response, name, value)
    response.model = spec.id
    response.usage = LiteUsage(**_usage(completion.usage, spec))  # type: ignore[attr-defined]
    response._hidden_params.update(_hidden(completion.headers))
    if (priced := completion.priced) is not None:  # LiteLLM's own table has the prices in real time
        usage = completion.usage
        response._hidden_params["response_cost"] = priced.cost(usage.prompt_tokens, usage.completion_tokens)
    return response


def _fill_choice(choice: Any, completion: Completion) -> None:
    calls = [_call(call.id, call.name, call.arguments) for call in completion.tool_calls]
    choice.message = Message(
        content=completion.text or (None if calls else ""),
        tool_calls=calls or None,
        reasoning_content=completion.reasoning or None,
    )
    choice.finish_reason = completion.finish_reason
    if completion.logprobs is not None:
        choice.logprobs = completion.logprobs


def fill_vectors(response: EmbeddingResponse, spec: ModelSpec, vectors: Vectors) -> EmbeddingResponse:
    """Put vectors into LiteLLM's response object."""
    response.model = spec.id
    response.data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(vectors.rows)]
    response.usage = LiteUsage(**_usage(vectors.usage, spec))
    response._hidden_params.update(_hidden(vectors.headers))
    return response


class ChunkMaker:
    """Converts the deltas of one streamed answer into LiteLLM's chunks.

    The last chunk is LiteLLM's generic dictionary: LiteLLM drops the usage of its own chunk class, and several versions
    log a stream without usage with a cost of 0.

    Args:
        spec: The spec of the requested id.
        merges_reasoning: Whether the text includes the reasoning, in `<think>…</think>`. This is LiteLLM's setting
            `merge_reasoning_content_in_choices`, which LiteLLM does not apply to a custom provider's chunks.
    """

    def __init__(self, spec: ModelSpec, *, merges_reasoning: bool = False) -> None:
        self._spec = spec
        self._merges_reasoning = merges_reasoning
        self._thinks = False
        self._headers: Mapping[str, str] = {}
        # The first of each is kept: LiteLLM's own chunks must agree.
        self._meta: dict[str, Any] = {"id": None, "created": int(time.time()), "system_fingerprint": None}
        self._finish = "stop"
        self._begun = False

    def make(self, delta: Delta) -> ModelResponseStream | dict[str, Any] | None:
        """Return the chunk of a delta; None if the delta adds nothing for the caller."""
        self._headers = delta.headers or self._headers
        for name in self._meta if not self._begun else ():
            self._meta[name] = (delta.meta or {}).get(name) or self._meta[name]
        self._finish = delta.finish_reason or self._finish
        if self._merges_reasoning:
            delta = self._merge(delta)
        if delta.usage is not None:
            last = {
                "text": delta.content,
                "tool_use": None,
                "is_finished": True,
                "finish_reason": self._finish,
                "index": 0,
            }
            return {**last, "usage": _usage(delta.usage, self._spec)}
        ends_empty = bool(delta.finish_reason) and not self._begun
        if not (delta.content or delta.reasoning or delta.tool_calls or delta.logprobs or ends_empty):
            return None
        part = LiteDelta(
            content=delta.content or None,
            role=None if self._begun else "assistant",
            tool_calls=[{**_call(c.id, c.name, c.arguments), "index": c.index} for c in delta.tool_calls] or None,
            reasoning_content=delta.reasoning or None,
        )
        choice = StreamingChoices(delta=part, logprobs=delta.logprobs)
        chunk = ModelResponseStream(model=self._spec.id, choices=[choice], **self._meta)
        self._meta["id"] = chunk.id  # LiteLLM makes one where the server has none
        if not self._begun:
            chunk._hidden_params = _hidden(self._headers)
            self._begun = True
        return chunk

    def _merge(self, delta: Delta) -> Delta:
        opening = "<think>" if delta.reasoning and not self._thinks else ""
        self._thinks = self._thinks or bool(opening)
        ends = self._thinks and (delta.content or delta.tool_calls or delta.usage is not None)
        self._thinks = self._thinks and not ends
        text = f"{opening}{delta.reasoning}{'</think>' if ends else ''}{delta.content}"
        return delta._replace(content=text, reasoning="")


def _call(id_: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
