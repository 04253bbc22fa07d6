"""LangChain's messages <-> the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

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
    is_data_content_block,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.json import parse_partial_json
from pydantic import BaseModel

from kluster_integrations.catalog import ModelSpec
from kluster_integrations.core.streaming import ChatStream
from kluster_integrations.core.types import Completion, Delta, ToolCallDelta, Usage
from kluster_integrations.errors import BadRequestError

__all__ = ["ChunkMaker", "to_result", "to_wire"]

PROVIDER = "kluster"
_NAMELESS = "unnamed"  # where the model named no tool: the call goes back with what the agent said to it


def to_wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return OpenAI's message objects; what kluster.ai takes of them is for core to say."""
    return [_message(m) for m in messages]


def _message(message: BaseMessage) -> dict[str, Any]:
    content: Any = message.content
    if not isinstance(content, str):
        blocks = filter(_is_text, content) if isinstance(message, AIMessage) else content
        content = [_part(block) for block in blocks]
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": content}
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": content}
    if isinstance(message, AIMessage):
        return _assistant(message, content)
    if isinstance(message, ToolMessage):
        return {"role": "tool", "content": content, "tool_call_id": message.tool_call_id}
    # ChatMessage has a role of its own; FunctionMessage and the rest have none on this wire.
    return {"role": message.role if isinstance(message, ChatMessage) else message.type, "content": content}


def _assistant(message: AIMessage, content: Any) -> dict[str, Any]:
    calls = [(c["id"], c["name"] or _NAMELESS, json.dumps(c["args"], ensure_ascii=False)) for c in message.tool_calls]
    calls += [(c["id"], c["name"] or _NAMELESS, c["args"] or "") for c in message.invalid_tool_calls if c["id"]]
    wire: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        wire["tool_calls"] = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id_, name, arguments in calls
        ]
    elif raw := message.additional_kwargs.get("tool_calls"):
        wire["tool_calls"] = raw
    return wire


def _is_text(block: str | dict[Any, Any]) -> bool:
    """Whether a block of an answer goes back: its text does.

    Calls stand in `tool_calls`; thoughts, and what another provider's model did on its server, mean nothing here.
    """
    return isinstance(block, str) or block.get("type") in ("text", "output_text", "refusal")


def _part(block: str | dict[Any, Any]) -> str | dict[str, Any]:
    if isinstance(block, str):
        return block
    kind = block.get("type")
    if kind == "text" or kind == "image_url":
        return block
    if kind == "text-plain" and isinstance(text := block.get("text"), str):
        return {"type": "text", "text": text}
    if kind == "image" and isinstance(source := block.get("source"), Mapping):  # Anthropic's form
        data, media = source.get("data"), source.get("media_type")
        url = source.get("url") or f"data:{media};base64,{data}"
        return {"type": "image_url", "image_url": {"url": url}}
    if is_data_content_block(block):
        try:
            return convert_to_openai_data_block(block)
        except ValueError as err:
            raise BadRequestError(f"A content block of type {kind!r} is not acceptable: {err}") from None
    return block


def to_result(answer: Completion, spec: ModelSpec, headers: Mapping[str, str] | None) -> ChatResult:
    """Return LangChain's result of a whole answer."""
    message = AIMessage(
        content=answer.text,
        additional_kwargs={"reasoning_content": answer.reasoning} if answer.reasoning else {},
        response_metadata=_metadata(answer, spec, headers),
        usage_metadata=_usage(answer.usage),
    )
    for call in answer.tool_calls:
        args = _arguments(call.arguments)
        if isinstance(args, dict):
            message.tool_calls.append(tool_call(name=call.name, args=args, id=call.id))
        else:
            message.invalid_tool_calls.append(
                invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=args)
            )
    info = {"finish_reason": answer.finish_reason}
    if answer.logprobs:
        info["logprobs"] = answer.logprobs  # type: ignore[assignment]
    output = {"token_usage": message.response_metadata["token_usage"], "model_name": answer.model or spec.id}
    return ChatResult(generations=[ChatGeneration(message=message, generation_info=info)], llm_output=output)


def _arguments(text: str) -> dict[str, Any] | str:
    """Return the arguments of a call, or what is wrong with them."""
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError) as err:
        return f"Arguments are not valid JSON: {err}"
    return value if isinstance(value, dict) else "Arguments are not a JSON object."


def _metadata(answer: Completion, spec: ModelSpec, headers: Mapping[str, str] | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "token_usage": _token_usage(answer.usage),
        "model_provider": PROVIDER,
        "model_name": answer.model or spec.id,
        "finish_reason": answer.finish_reason,
        "id": answer.id,
        **answer.meta,
        **_cost(answer.usage, spec),
    }
    if answer.logprobs:
        metadata["logprobs"] = answer.logprobs
    if headers is not None:
        metadata["headers"] = dict(headers)
    return metadata


def _token_usage(usage: Usage) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.estimated:
        numbers["estimated"] = True
    return numbers


def _cost(usage: Usage, spec: ModelSpec) -> dict[str, Any]:
    """Return the cost in US$ where the price is known, and the mark of estimated tokens."""
    said: dict[str, Any] = {}
    cost = spec.cost(usage.prompt_tokens, usage.completion_tokens)
    if cost is not None:
        said["cost"] = cost
    if usage.estimated:
        said["usage_estimated"] = True
    return said


def _usage(usage: Usage) -> UsageMetadata:
    numbers = UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )
    if usage.cached_tokens is not None:
        numbers["input_token_details"] = InputTokenDetails(cache_read=usage.cached_tokens)
    if usage.reasoning_tokens is not None:
        numbers["output_token_details"] = OutputTokenDetails(reasoning=usage.reasoning_tokens)
    return numbers


class ChunkMaker:
    """Turns the deltas of one answer into LangChain's chunks.

    Metadata, the finish reason and usage each stand on exactly one chunk, since LangChain adds up what it merges.

    Args:
        reader: The state of the answer, for its HTTP headers.
        spec: The model's spec, for the cost.
        with_headers: Whether the metadata hold the headers.
        v1: Whether `content` is LangChain's version 1: a list of blocks.
    """

    def __init__(self, reader: ChatStream, spec: ModelSpec, *, with_headers: bool, v1: bool) -> None:
        self._reader = reader
        self._spec = spec
        self._with_headers = with_headers
        self._v1 = v1
        self._arguments: dict[int, list[str]] = {}

    def make(self, delta: Delta) -> ChatGenerationChunk:
        """Return the chunk of one delta."""
        for call in delta.tool_calls:
            self._arguments.setdefault(call.index, []).append(call.arguments)
        if delta.usage and self._arguments:  # the last
            delta = delta._replace(tool_calls=(*delta.tool_calls, *self._spoilers()))
        if not self._v1 and delta[3:] == _NOTHING_ELSE and (fast := _unvalidated(delta)) is not None:
            return fast
        fields: dict[str, Any] = {}
        if delta.reasoning:
            fields["additional_kwargs"] = {"reasoning_content": delta.reasoning}
        if delta.tool_calls:
            fields["tool_call_chunks"] = [
                tool_call_chunk(name=c.name, args=c.arguments, id=c.id, index=c.index) for c in delta.tool_calls
            ]
        if delta.usage:
            fields["usage_metadata"] = _usage(delta.usage)
        if delta.meta or delta.usage:
            fields["response_metadata"] = self._metadata(delta)
        info: dict[str, Any] = {}
        if delta.finish_reason:
            info["finish_reason"] = delta.finish_reason
        if delta.logprobs:
            info["logprobs"] = delta.logprobs
        content: Any = delta.content
        if self._v1:
            content = _blocks(delta)
            fields.setdefault("response_metadata", {})["output_version"] = "v1"
        message = AIMessageChunk(content=content, **fields)
        return ChatGenerationChunk(message=message, generation_info=info or None)

    def _spoilers(self) -> Iterator[ToolCallDelta]:
        """Yield a last fragment for each call whose arguments are cut off or broken.

        langchain-core reads the sum of chunks as partial JSON, and so makes a valid call of `{"path": "/tm`, which an
        agent would run. With the fragment it is an invalid call, as in a whole answer.
        """
        for index, parts in self._arguments.items():
            if spoiler := _spoiler("".join(parts)):
                yield ToolCallDelta(index, None, None, spoiler)

    def _metadata(self, delta: Delta) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        if delta.meta:
            metadata = {_RENAMED.get(k, k): v for k, v in delta.meta.items()}
            if "model_name" in metadata:
                metadata["model_provider"] = PROVIDER
                if self._with_headers:
                    metadata["headers"] = dict(self._reader.headers)
        if delta.usage:
            metadata |= _cost(delta.usage, self._spec)
        return metadata


def _spoiler(arguments: str) -> str:
    """Return what keeps arguments that are no JSON object from being read as one; "" where nothing has to."""
    if not arguments or isinstance(_arguments(arguments), dict):
        return ""
    ends = (
        "",
        *(quote + bracket for quote in ("", '"', '""') for bracket in "]}"),
    )  # out of an escape, a string, a list
    return next(end for end in ends if not _reads_as_object(arguments + end))


def _reads_as_object(text: str) -> bool:
    try:
        return isinstance(parse_partial_json(text), dict)
    except (ValueError, RecursionError):
        return False


_RENAMED = {"model": "model_name"}
_NOTHING_ELSE = (None, None, None, None)  # finish reason, usage, logprobs, meta


class _Template:
    """Makes objects of a pydantic class without validation, with fresh defaults.

    A text chunk costs a third of what it does with validation, a fragment of a tool call a twentieth: langchain-core
    tries to parse each as JSON. pydantic's `model_construct` takes 640 µs (reference/performance.md). Tests compare
    what comes out with validated objects, on each supported version.
    """

    def __init__(self, example: BaseModel) -> None:
        self._cls = type(example)
        self._plain = {k: v for k, v in example.__dict__.items() if not isinstance(v, (dict, list))}
        self._fresh = [(k, type(v)) for k, v in example.__dict__.items() if isinstance(v, (dict, list))]
        self._has_extra = example.__pydantic_extra__ is not None

    def make(self, given: dict[str, Any], also_set: dict[str, Any] | None = None) -> Any:
        """Return an object with the given fields; `also_set` are those that a validator would have set."""
        fields = self._plain.copy()
        for name, kind in self._fresh:
            fields[name] = kind()
        fields.update(given)
        names = set(given)
        if also_set:
            fields.update(also_set)
            names.update(also_set)
        made = self._cls.__new__(self._cls)
        put = object.__setattr__
        put(made, "__dict__", fields)
        put(made, "__pydantic_fields_set__", names)
        put(made, "__pydantic_extra__", {} if self._has_extra else None)
        put(made, "__pydantic_private__", None)
        return made


_MESSAGE = _Template(AIMessageChunk(content=""))
_GENERATION = _Template(ChatGenerationChunk(message=AIMessageChunk(content="")))


def _unvalidated(delta: Delta) -> ChatGenerationChunk | None:
    """Return the chunk of a delta that has nothing but text, or one later fragment of a call; None for others."""
    given: dict[str, Any] = {"content": delta.content}
    validated: dict[str, Any] | None = None
    if delta.tool_calls:
        call = delta.tool_calls[0]
        text = call.arguments
        # What does not begin with a brace is no object, not even an unfinished one: an invalid call, by itself.
        if len(delta.tool_calls) > 1 or call.id is not None or text.lstrip()[:1] in ("", "{"):
            return None
        given["tool_call_chunks"] = [tool_call_chunk(name=call.name, args=text, id=None, index=call.index)]
        invalid = invalid_tool_call(name=call.name, args=text, id=None, error=None)
        validated = {"tool_calls": [], "invalid_tool_calls": [invalid]}
    if delta.reasoning:
        given["additional_kwargs"] = {"reasoning_content": delta.reasoning}
    message = _MESSAGE.make(given, validated)
    return cast("ChatGenerationChunk", _GENERATION.make({"message": message}, {"text": delta.content}))


def _blocks(delta: Delta) -> list[dict[str, Any]]:
    """Return a delta as content blocks of version 1, each with an index of its kind.

    Without them LangChain numbers the blocks itself, and so merges a tool call into the text before it (measured on
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
