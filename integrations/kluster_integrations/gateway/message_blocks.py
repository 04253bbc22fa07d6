"""The messages and tools of Anthropic's `/v1/messages`, as those of a chat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kluster_integrations.errors import BadRequestError

__all__ = ["effort_of", "messages_of", "output_format", "tool_choice_of", "tools_of"]

# Tuples, for a client may send a type that cannot be hashed.
_THOUGHTS = ("thinking", "redacted_thinking")
# Calls that Anthropic's servers have run, and what came of them.
_SERVER = ("server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "tool_search_tool_result")


def messages_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return `system` and `messages` as chat messages, which say where they stood in the request.

    Raises:
        BadRequestError: If one is not of a form that can be said in a chat.
    """
    messages: list[dict[str, Any]] = []
    if system := body.get("system"):
        texts = [system] if isinstance(system, str) else _texts(system, "system")
        messages.append({"role": "system", "content": "\n\n".join(filter(None, texts)), "where": "system"})
    for i, message in enumerate(_list(body.get("messages"), "messages")):
        messages += _messages(message, f"messages[{i}]")
    return messages


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequestError(
            f"{where} must be a list, not a {type(value).__name__}.", hint=f"put it into a list: {where} = […]."
        )
    return value


def _texts(blocks: object, where: str | None) -> list[str]:
    """Return the texts of blocks. Others are refused; without `where`, in what a tool has returned, they are noted."""
    if where is None and not isinstance(blocks, list):
        return [] if blocks is None else [str(blocks)]
    texts = []
    for i, block in enumerate(_list(blocks, where or "")):
        kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
        if kind == "text":
            texts.append(str(block.get("text") or ""))
        elif where is None:
            texts.append(f"[{kind}]")
        else:
            raise BadRequestError(
                f"{where}[{i}].type={kind!r} must be text.", hint="send an image as a block of a user message."
            )
    return texts


def _messages(message: object, where: str) -> Iterator[dict[str, Any]]:
    if not isinstance(message, Mapping):
        raise BadRequestError(f"{where} must be a message object.", hint="give it role and content.")
    role, content = message.get("role"), message.get("content")
    if isinstance(content, str):
        yield {"role": role, "content": content, "where": where}
        return
    parts: list[Any] = []
    places: list[str] = []
    calls: list[dict[str, Any]] = []
    for i, block in enumerate(_list(content, f"{where}.content")):
        place = f"{where}.content[{i}]"
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function, "where": place})
        elif kind == "tool_result":
            yield {**_result(block), "where": place}
        elif (text := _titled(block, place)) is not None:
            parts.append({"type": "text", "text": text})
            places.append(place)
        elif kind == "mid_conv_system":
            inner = _list(block.get("content"), f"{place}.content")
            parts += inner
            places += [f"{place}.content[{j}]" for j in range(len(inner))]
        elif kind not in _THOUGHTS and kind not in _SERVER:
            if kind not in ("text", "image") and role != "assistant":  # the core would count messages in its own way
                raise BadRequestError(
                    f"{place}.type={kind!r} must be text, image, search_result, tool_result or a document of text.",
                    hint="kluster.ai takes texts and images.",
                )
            parts.append(block)  # texts and images: the core reads Anthropic's form of both
            places.append(place)
    if parts or calls:
        made = {"role": role, "content": parts or "", "where": where, "parts": places}
        yield {**made, "tool_calls": calls} if calls else made


def _result(block: Mapping[str, Any]) -> dict[str, Any]:
    content = block.get("content")
    if isinstance(content, list):
        texts = [_titled(inner, None) for inner in content]
        pairs = zip(texts, content, strict=True)
        content = [inner if text is None else {"type": "text", "text": text} for text, inner in pairs]
    if block.get("is_error"):
        text = content if isinstance(content, str | list | None) else json.dumps(content, ensure_ascii=False)
        given = text if isinstance(text, list) else [{"type": "text", "text": text or "It failed."}]
        content = [{"type": "text", "text": "Error:"}, *given]
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content}


def _titled(block: object, where: str | None) -> str | None:
    """Return a document that is text, or a search result, with its title (and source); None for any other block."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    if not isinstance(block, Mapping) or kind not in ("document", "search_result"):
        return None
    source, text = block.get("source"), None
    heads = [block.get("title")]
    if kind == "search_result":
        heads.append(source)
        text = "\n".join(_texts(block.get("content"), where and f"{where}.content"))
    elif isinstance(source, Mapping) and source.get("type") == "text":
        text = source.get("data")
    elif isinstance(source, Mapping) and source.get("type") == "content":
        content = source.get("content")
        text = content if isinstance(content, str) else "\n".join(_texts(content, where and f"{where}.source.content"))
    return "\n".join(str(line) for line in (*heads, text) if line) if isinstance(text, str) else None


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
        if tool.get("type") not in (None, "custom") or (
            tool.get("defer_loading") and str(tool.get("name")) not in named
        ):
            continue
        function = {"name": tool.get("name"), "description": tool.get("description")}
        function["parameters"] = tool.get("input_schema")
        made.append({"type": "function", "function": function, "where": f"tools[{i}]"})
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
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if choice is not None and kind not in ("auto", "any", "tool", "none"):
        raise BadRequestError(
            f"tool_choice={str(choice)[:80]} must be an object whose type is auto, any, tool or none.",
            hint='write {"type": "auto"}, or leave it out.',
        )
    if not isinstance(choice, Mapping) or not tools:
        return {}
    named = {"type": "function", "function": {"name": choice.get("name")}}
    parallel = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {}
    return {"tool_choice": named if kind == "tool" else "required" if kind == "any" else kind, **parallel}


def output_format(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the `response_format` that `output_config.format` (or `output_format`, its older name) asks for.

    Raises:
        BadRequestError: If it is not a JSON schema, the only form that Anthropic's API has.
    """
    config = body.get("output_config")
    form = (config.get("format") if isinstance(config, Mapping) else None) or body.get("output_format")
    if form is None:
        return None
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        raise BadRequestError(
            f"output_config.format={str(form)[:80]} must have type json_schema.",
            hint='write {"type": "json_schema", "schema": {…}}, or leave it out.',
        )
    return {"type": form.get("type"), "json_schema": {"name": "answer", "schema": form.get("schema")}}


def effort_of(body: Mapping[str, Any]) -> object:
    """Return the `reasoning_effort` that `output_config.effort` asks for, None where it does not."""
    config = body.get("output_config")
    return config.get("effort") if isinstance(config, Mapping) else None
