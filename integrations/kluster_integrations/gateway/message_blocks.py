"""The messages and tools of Anthropic's `/v1/messages`, as those of a chat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kluster_integrations.errors import BadRequestError

__all__ = ["effort_of", "messages_of", "output_format", "tool_choice_of", "tools_of"]

_THOUGHTS = frozenset({"thinking", "redacted_thinking"})
# Calls that Anthropic's servers have run, and what came of them.
_SERVER = frozenset({"server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "tool_search_tool_result"})


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return `system` and `messages` as chat messages.

    Raises:
        BadRequestError: If one is not of a form that can be said in a chat.
    """
    messages: list[dict[str, Any]] = []
    if system := body.get("system"):
        texts = [system] if isinstance(system, str) else [_text(block) for block in _list(system, "system")]
        messages.append({"role": "system", "content": "\n\n".join(filter(None, texts))})
    for i, message in enumerate(_list(body.get("messages"), "messages")):
        messages += _messages(message, f"messages[{i}]")
    return messages


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequestError(
            f"{where} must be a list, not a {type(value).__name__}.", hint=f"put it into a list: {where} = […]."
        )
    return value


def _text(block: object) -> str:
    return str(block.get("text") or "") if isinstance(block, Mapping) else str(block)


def _messages(message: object, where: str) -> Iterator[dict[str, Any]]:
    if not isinstance(message, Mapping):
        raise BadRequestError(f"{where} must be a message object.", hint="give it role and content.")
    role, content = message.get("role"), message.get("content")
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    parts: list[Any] = []
    calls: list[dict[str, Any]] = []
    for i, block in enumerate(_list(content, f"{where}.content")):
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            yield _result(block)
        elif kind == "document" and (text := _document(block)) is not None:
            parts.append({"type": "text", "text": text})
        elif kind == "mid_conv_system":
            parts += _list(block.get("content"), f"{where}.content[{i}].content")
        elif kind not in _THOUGHTS and kind not in _SERVER:
            if kind not in ("text", "image") and role != "assistant":  # the core would count messages in its own way
                raise BadRequestError(
                    f"{where}.content[{i}].type={kind!r} must be text, image, tool_result or a document that is text.",
                    hint="kluster.ai takes texts and images.",
                )
            parts.append(block)  # texts and images: the core reads Anthropic's form of both
    if parts or calls:
        made = {"role": role, "content": parts or ""}
        yield {**made, "tool_calls": calls} if calls else made


def _result(block: Mapping[str, Any]) -> dict[str, Any]:
    content = block.get("content")
    if block.get("is_error"):
        given = content if isinstance(content, list) else [{"type": "text", "text": content or "It failed."}]
        content = [{"type": "text", "text": "Error:"}, *given]
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content}


def _document(block: Mapping[str, Any]) -> str | None:
    """Return a document that is text, with its title; None for a PDF."""
    source = block.get("source")
    if not isinstance(source, Mapping):
        return None
    text = source.get("data") if source.get("type") == "text" else None
    if source.get("type") == "content":
        content = source.get("content")
        text = content if isinstance(content, str) else "\n".join(map(_text, content or ()))
    return "\n".join(filter(None, (block.get("title"), text))) if isinstance(text, str) else None


def tools_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tools that are offered. One with `defer_loading` is, once a `tool_reference` has named it.

    Raises:
        BadRequestError: If all of them are run by Anthropic's servers (web search, …).
    """
    tools = _list(body.get("tools") or [], "tools")
    named = set(_references(body.get("messages")))
    made = []
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise BadRequestError(f"tools[{i}] must be a tool object.", hint="give it name and input_schema.")
        if tool.get("type") not in (None, "custom") or (tool.get("defer_loading") and tool.get("name") not in named):
            continue
        function = {"name": tool.get("name"), "description": tool.get("description")}
        made.append({"type": "function", "function": {**function, "parameters": tool.get("input_schema")}})
    if tools and all(isinstance(tool, Mapping) and tool.get("type") not in (None, "custom") for tool in tools):
        kinds = ", ".join(sorted({str(tool.get("type")) for tool in tools}))
        raise BadRequestError(
            f"tools has only tools that Anthropic runs itself ({kinds}); kluster.ai runs no tools.",
            hint="offer tools with an input_schema, which your program runs.",
        )
    return made


def _references(value: object) -> Iterator[str]:
    """Yield the names of all tools that tool results refer to."""
    for item in value if isinstance(value, list) else ():
        if isinstance(item, Mapping):
            if item.get("type") == "tool_reference":
                yield str(item.get("tool_name"))
            content = item.get("content")
            yield from _references(content.get("tool_references") if isinstance(content, Mapping) else content)


def tool_choice_of(choice: object, tools: Sequence[object]) -> dict[str, Any]:
    """Return a chat's `tool_choice` and `parallel_tool_calls`."""
    if not isinstance(choice, Mapping) or not tools:
        return {}
    kind = choice.get("type")
    named = {"type": "function", "function": {"name": choice.get("name")}}
    parallel = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {}
    return {"tool_choice": named if kind == "tool" else "required" if kind == "any" else kind, **parallel}


def output_format(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the `response_format` that `output_config.format` (or `output_format`, its older name) asks for."""
    config = body.get("output_config")
    form = (config.get("format") if isinstance(config, Mapping) else None) or body.get("output_format")
    if not isinstance(form, Mapping):
        return None
    return {"type": form.get("type"), "json_schema": {"name": "answer", "schema": form.get("schema")}}


def effort_of(body: Mapping[str, Any]) -> object:
    """Return the `reasoning_effort` that `output_config.effort` asks for, None where it does not."""
    config = body.get("output_config")
    return config.get("effort") if isinstance(config, Mapping) else None
