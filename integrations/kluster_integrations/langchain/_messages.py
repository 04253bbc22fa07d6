"""LangChain's messages into OpenAI's message objects, and answers into LangChain's messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    UsageMetadata,
    convert_to_openai_data_block,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import BaseModel

from kluster_integrations.catalog import ModelSpec
from kluster_integrations.core.client import read_arguments
from kluster_integrations.core.types import Completion, Delta, ToolCallDelta, Usage

__all__ = ["ChunkMaker", "to_message", "to_result", "to_wire"]

PROVIDER = "kluster"
_Model = TypeVar("_Model", bound=BaseModel)
_ROLES = {HumanMessage: "user", SystemMessage: "system", AIMessage: "assistant", ToolMessage: "tool"}
# Blocks of an answer that go back. Calls are in `tool_calls`; reasoning, and what ran on another provider's server, are
# not for this model.
_ANSWERS = ("text", "output_text", "refusal")
_NAMELESS = "unnamed"  # for a call without a name: the history needs one, beside the agent's reply to the call


def to_wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return OpenAI's message objects. The core removes what kluster.ai does not take."""
    return [_message(m) for m in messages]


def _message(message: BaseMessage) -> dict[str, Any]:
    # ChatMessage names its role itself; FunctionMessage and the rest have no role in this API.
    own = message.role if isinstance(message, ChatMessage) else message.type
    role = next((role for kind, role in _ROLES.items() if isinstance(message, kind)), own)
    content: Any = message.content
    if not isinstance(content, str):
        if role == "assistant":
            content = [block for block in content if isinstance(block, str) or block.get("type") in _ANSWERS]
        content = [_part(block) for block in content]
    wire: dict[str, Any] = {"role": role, "content": content}
    if isinstance(message, ToolMessage):
        wire["tool_call_id"] = message.tool_call_id
    if isinstance(message, AIMessage) and (calls := _calls(message)):
        wire["tool_calls"] = calls
    return wire


def _calls(message: AIMessage) -> Any:
    calls = [*message.tool_calls, *(call for call in message.invalid_tool_calls if call["id"])]
    return [
        {"id": c["id"], "type": "function", "function": {"name": c["name"] or _NAMELESS, "arguments": c["args"]}}
        for c in calls
    ] or message.additional_kwargs.get("tool_calls")


def _part(block: str | dict[Any, Any]) -> str | dict[Any, Any]:
    """Return a block in OpenAI's form; the core handles or refuses a block that has none."""
    if isinstance(block, str) or block.get("type") not in ("image", "text-plain"):
        return block
    if isinstance(text := block.get("text"), str):
        return {"type": "text", "text": text}
    if isinstance(source := block.get("source"), Mapping):  # Anthropic's form
        url = source.get("url") or f"data:{source.get('media_type')};base64,{source.get('data')}"
        return {"type": "image_url", "image_url": {"url": url}}
    with suppress(KeyError, ValueError):
        return convert_to_openai_data_block(block)
    return block


def to_message(completion: Completion) -> AIMessage:
    """Return a whole answer as LangChain's message, without usage and most metadata."""
    message = AIMessage(
        content=completion.text,
        additional_kwargs={"reasoning_content": completion.reasoning} if completion.reasoning else {},
        response_metadata={"finish_reason": completion.finish_reason},
    )
    for c in completion.tool_calls:
        if c.error is None:
            message.tool_calls.append(tool_call(name=c.name, args=json.loads(c.arguments), id=c.id))
        else:
            message.invalid_tool_calls.append(invalid_tool_call(name=c.name, args=c.arguments, id=c.id, error=c.error))
    return message


def to_result(completion: Completion, spec: ModelSpec, *, with_headers: bool) -> ChatResult:
    """Return LangChain's result of a whole answer and its `others`. The first message counts all tokens.

    `with_headers` adds the HTTP headers to the metadata.
    """
    result = _result(completion, spec, with_headers=with_headers)
    for other in completion.others:
        result.generations += _result(other, spec, with_headers=with_headers).generations
    return result


def _result(completion: Completion, spec: ModelSpec, *, with_headers: bool) -> ChatResult:
    usage, spec = completion.usage, completion.priced or spec
    message = to_message(completion)
    message.usage_metadata = _usage(usage)
    token_usage = {name: getattr(usage, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    if usage.estimated:
        token_usage["estimated"] = True
    names = {"model_provider": PROVIDER, "model_name": completion.model or spec.id, "id": completion.id}
    message.response_metadata |= {"token_usage": token_usage, **names, **completion.meta, **_cost(usage, spec)}
    info: dict[str, Any] = {"finish_reason": completion.finish_reason}
    if completion.logprobs:
        info["logprobs"] = message.response_metadata["logprobs"] = completion.logprobs
    if with_headers:
        message.response_metadata["headers"] = dict(completion.headers)
    output = {"token_usage": token_usage, "model_name": names["model_name"]}
    return ChatResult(generations=[ChatGeneration(message=message, generation_info=info)], llm_output=output)


def _cost(usage: Usage, spec: ModelSpec) -> dict[str, Any]:
    """Return the cost in US$ if the price is known, and a mark if the tokens are estimated."""
    metadata: dict[str, Any] = {}
    cost = spec.cost_to_show(usage.prompt_tokens, usage.completion_tokens)
    if cost is not None:
        # LangSmith reads `total_cost` of the usage, but langchain-core's `add_usage` takes whole numbers only.
        metadata["cost"] = cost
    if usage.estimated:
        metadata["usage_estimated"] = True
    return metadata


def _usage(usage: Usage) -> UsageMetadata:
    numbers = UsageMetadata(
        input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens, total_tokens=usage.total_tokens
    )
    if usage.cached_tokens is not None:
        numbers["input_token_details"] = InputTokenDetails(cache_read=usage.cached_tokens)
    if usage.reasoning_tokens is not None:
        numbers["output_token_details"] = OutputTokenDetails(reasoning=usage.reasoning_tokens)
    return numbers


class ChunkMaker:
    """Turns the deltas of one answer into LangChain's chunks.

    Metadata, the finish reason and usage each appear in exactly one chunk, because LangChain adds them up when it
    merges chunks.

    Args:
        spec: The model's spec, for the cost.
        with_headers: Whether the metadata includes the HTTP headers.
        v1: Whether `content` is a list of blocks (LangChain's output version 1).
    """

    def __init__(self, spec: ModelSpec, *, with_headers: bool, v1: bool) -> None:
        self._spec = spec
        self._with_headers = with_headers
        self._v1 = v1
        self._arguments: dict[int, list[str]] = {}
        self._wrong: set[int] = set()  # calls that must not be run, though their arguments are an object
        self._begun = False

    def make(self, delta: Delta) -> ChatGenerationChunk:
        """Return the chunk of one delta."""
        if delta[2:] == _NOTHING_ELSE and not self._v1:
            return _text_chunk(delta)
        for call in delta.tool_calls:
            self._arguments.setdefault(call.index, []).append(call.arguments)
            if call.error is not None:
                self._wrong.add(call.index)
        if self._arguments and (delta.usage or (delta.finish_reason and delta.tool_calls)):  # they are complete
            delta = delta._replace(tool_calls=self._ended(delta.tool_calls))
        calls = [tool_call_chunk(name=c.name, args=c.arguments, id=c.id, index=c.index) for c in delta.tool_calls]
        fields = {
            "content": _blocks(delta) if self._v1 else delta.content,
            "additional_kwargs": {"reasoning_content": delta.reasoning} if delta.reasoning else {},
            "tool_call_chunks": calls,
            "usage_metadata": _usage(delta.usage) if delta.usage else None,
            "response_metadata": self._metadata(delta),
        }
        info = {name: value for name in ("finish_reason", "logprobs") if (value := getattr(delta, name))}
        return ChatGenerationChunk(message=AIMessageChunk(**fields), generation_info=info or None)

    def _ended(self, calls: Sequence[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
        """Return the last fragments of all calls, so that langchain-core reads no call from invalid arguments."""
        ended = list(calls)
        for index, parts in self._arguments.items():
            if suffix := _invalidating_suffix("".join(parts), is_wrong=index in self._wrong):
                at = max((at for at, call in enumerate(ended) if call.index == index), default=-1)
                if at < 0:
                    ended.append(ToolCallDelta(index, None, None, suffix))
                else:
                    ended[at] = replace(ended[at], arguments=ended[at].arguments + suffix)
        self._arguments = {}
        return tuple(ended)

    def _metadata(self, delta: Delta) -> dict[str, Any]:
        meta, headers = delta.meta or {}, delta.headers
        if self._begun:  # of a repair: the sum would have both
            meta, headers = {name: value for name, value in meta.items() if name == "matched_stop"}, None
        metadata = {"model_name" if name == "model" else name: value for name, value in meta.items()}
        if "model_name" in metadata:
            metadata["model_provider"] = PROVIDER
        if headers and self._with_headers:
            metadata["headers"] = dict(headers)
        self._begun = self._begun or bool(meta)
        if delta.usage:
            metadata |= _cost(delta.usage, delta.priced or self._spec)
        if self._v1:
            metadata["output_version"] = "v1"
        return metadata


def _invalidating_suffix(arguments: str, *, is_wrong: bool) -> str:
    """Return a suffix that stops langchain-core from completing truncated JSON; "" if none is needed.

    langchain-core reads the sum of chunks as partial JSON, and so makes a valid call of `{"path": "/tm`, which an agent
    would run; and it tries each beginning of what is not JSON, which takes minutes for 100 kB. With a bracket that
    closes what is not open it gives up: an invalid call, as in a whole answer.
    """
    if not is_wrong and read_arguments(arguments, is_cut=True)[1] is None:
        return ""
    closers: list[str] = []
    out_of_string = ""
    for found in _STRUCTURE.finditer(arguments):
        sign, end = found[0], found[1]
        out_of_string = "" if end is None or end == '"' else '""' if end else '"'
        if sign in ("{", "["):
            closers.append("}" if sign == "{" else "]")
        elif sign in ("}", "]") and (not closers or closers.pop() != sign):
            return ""  # langchain-core gives up here already
    return out_of_string + ("]" if closers and closers[-1] == "}" else "}")


# What langchain-core looks at: brackets and strings, with the quote that ends one or the escape in which it breaks off.
_STRUCTURE = re.compile(r'[{}\[\]]|"(?:[^"\\]|\\.)*+("|\\?\Z)', re.DOTALL)


_NOTHING_ELSE = Delta()[2:]  # no calls, finish reason, usage, logprobs, meta, headers


def _text_chunk(delta: Delta) -> ChatGenerationChunk:
    """Return the chunk of a delta that has only text and reasoning, without validation.

    This takes a third of the time of validation; pydantic's `model_construct` takes 640 µs (reference/performance.md).
    Tests compare the result with validated objects, on each supported version.
    """
    fields: dict[str, Any] = {"content": delta.content}
    if delta.reasoning:
        fields["additional_kwargs"] = {"reasoning_content": delta.reasoning}
    return _make_chunk({"message": _make_message(fields), "text": delta.content})


def _maker(example: _Model) -> Callable[[dict[str, Any]], _Model]:
    """Return a function that copies an example with other values in some fields, as if its class had been called."""
    cls, extra = type(example), example.__pydantic_extra__
    same = {name: value for name, value in vars(example).items() if type(value) not in (dict, list)}
    fresh = [(name, value.copy) for name, value in vars(example).items() if name not in same]
    put = object.__setattr__

    def make(fields: dict[str, Any]) -> _Model:
        values = same.copy()
        for name, copy in fresh:
            values[name] = copy()
        values.update(fields)
        made = object.__new__(cls)
        put(made, "__dict__", values)
        put(made, "__pydantic_fields_set__", set(fields))
        put(made, "__pydantic_extra__", None if extra is None else {})
        put(made, "__pydantic_private__", None)
        return made

    return make


_make_message = _maker(AIMessageChunk(content=""))
_make_chunk = _maker(ChatGenerationChunk(message=AIMessageChunk(content="")))


def _blocks(delta: Delta) -> list[dict[str, Any]]:
    """Return a delta as content blocks of version 1. Each kind of block has its own index.

    Without an index LangChain numbers the blocks itself, and merges a tool call into the text before it (seen with
    langchain-core 1.7.2 and 1.8.1).
    """
    blocks: list[dict[str, Any]] = []
    if delta.reasoning:
        blocks.append({"type": "reasoning", "reasoning": delta.reasoning, "index": "lc_reasoning"})
    if delta.content:
        blocks.append({"type": "text", "text": delta.content, "index": "lc_text"})
    calls = (
        {"type": "tool_call_chunk", "id": c.id, "name": c.name, "args": c.arguments, "index": f"lc_tc_{c.index}"}
        for c in delta.tool_calls
    )
    return [*blocks, *calls]
