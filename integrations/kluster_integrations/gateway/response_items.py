"""The input items and tools of OpenAI's `/v1/responses`, as chat messages and tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kluster_integrations.errors import BadRequestError
from kluster_integrations.gateway.errors import refusal
from kluster_integrations.gateway.memory import Memory

__all__ = [
    "INPUT",
    "allowed_tools",
    "custom_tools",
    "messages_of",
    "namespaces",
    "offered",
    "text_format",
    "tool_choice_of",
    "tools_of",
]

INPUT = "input"
"""The one parameter of a tool that takes text and not JSON."""
# Of the service itself, which has none, or records of their calls, which mean nothing to another one.
_NOT_OURS = frozenset({"reasoning", "compaction", "web_search_call", "file_search_call", "image_generation_call"})
_TOOLS = "additional_tools"  # Codex's way to offer more tools later on
_CALLS = frozenset({"function_call", "custom_tool_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})


def messages_of(items: Sequence[object], instructions: object, memory: Memory) -> list[dict[str, Any]]:
    """Return input items as chat messages. Calls go into the assistant message before them.

    Raises:
        BadRequestError: If an item has no equivalent in a chat request.
        NotFoundError: If it refers to an item that is not remembered.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    for i, item in enumerate(items):
        for made in _messages(item, f"input[{i}]", memory):
            last = messages[-1] if messages else {}
            if (
                made["role"] == "assistant" == last.get("role")
                and not last.get("tool_calls", ())
                and "tool_calls" in made
            ):
                last["tool_calls"] = made["tool_calls"]
            elif made.get("tool_calls") and last.get("tool_calls"):
                last["tool_calls"] += made["tool_calls"]
            else:
                messages.append(made)
    return messages


def _messages(item: object, where: str, memory: Memory) -> Iterator[dict[str, Any]]:
    if not isinstance(item, Mapping):
        raise BadRequestError(
            f"{where} must be an input item, not a {type(item).__name__}.",
            hint='write {"role": "user", "content": "…"}.',
        )
    kind = item.get("type") or "message"
    if kind == "item_reference":
        found = memory.item(str(item.get("id")))
        if found is None:
            raise refusal(404, f"{where}: the item {item.get('id')!r} is not remembered. Send the item itself.")
        yield from _messages(found, where, memory)
    elif kind == "message":
        _check_parts(item, where)
        yield {"role": item.get("role"), "content": item.get("content")}
    elif kind in _CALLS:
        text = item.get("arguments") if kind == "function_call" else json.dumps({INPUT: item.get(INPUT)})
        function = {"name": _flat_name(item.get("namespace"), item.get("name")), "arguments": text}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        yield {"role": "assistant", "content": "", "tool_calls": [call]}
    elif kind in _OUTPUTS:
        yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    elif kind not in _NOT_OURS and kind != _TOOLS:
        raise BadRequestError(
            f"{where}.type={kind!r} has no equivalent in a chat request.",
            hint="send only items of type message, function_call and function_call_output.",
        )


def _check_parts(item: Mapping[str, Any], where: str) -> None:
    """Raise if a part has no equivalent in a chat. The core would number the messages differently."""
    content = item.get("content")
    for i, part in enumerate(content if isinstance(content, list) and item.get("role") != "assistant" else ()):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("input_text", "input_image", "output_text", "text", "refusal", "image_url"):
            raise BadRequestError(
                f"{where}.content[{i}].type={kind!r} must be input_text or input_image.",
                hint="kluster.ai takes texts and images.",
            )


def _flat_name(namespace: object, name: object) -> object:
    """Return the name of a namespace's tool in a chat; `functions` is what Codex puts its own tools into."""
    return f"{namespace}__{name}" if namespace and namespace != "functions" else name


def _flattened(tools: object) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """Yield tools with their namespaces. Codex sends each MCP server as one (codex issue 26234), which no chat has."""
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, Mapping):
            raise BadRequestError(
                "tools must be a list of tools.", hint='write each tool as an object: {"type": "function", …}.'
            )
        if tool.get("type") != "namespace":
            yield None, tool
            continue
        for _, inner in _flattened(tool.get("tools")):
            yield str(tool.get("name")), inner


def offered(tools: object, items: Sequence[object]) -> object:
    """Return the tools of a request, and those that its input items add."""
    more = [item.get("tools") for item in items if isinstance(item, Mapping) and item.get("type") == _TOOLS]
    return [tool for given in (tools, *more) if isinstance(given, list) for tool in given] if more else tools


def namespaces(tools: object) -> dict[str, tuple[str, str]]:
    """Return the namespace and the own name of each tool that has one, by its name in the chat."""
    found = ((ns, str(tool.get("name"))) for ns, tool in _flattened(tools) if ns is not None)
    return {str(_flat_name(*pair)): pair for pair in found}


def custom_tools(tools: object) -> frozenset[str]:
    """Return the names, in the chat, of the tools that take text and not JSON."""
    return frozenset(str(_flat_name(ns, t.get("name"))) for ns, t in _flattened(tools) if t.get("type") == "custom")


def tools_of(tools: object) -> list[dict[str, Any]]:
    """Return tools as those of a chat. What OpenAI runs itself (web_search, …) is left out.

    Raises:
        BadRequestError: If nothing is left: then the request is for what is not there.
    """
    if tools is not None and not isinstance(tools, list):
        raise BadRequestError("tools must be a list of tools.", hint='write "tools": [{"type": "function", …}].')
    flat = [{**tool, "name": _flat_name(namespace, tool.get("name"))} for namespace, tool in _flattened(tools)]
    made = [found for tool in flat if (found := _tool(tool)) is not None]
    if flat and not made:
        kinds = ", ".join(sorted({str(tool.get("type")) for tool in flat}))
        raise BadRequestError(
            f"tools has only tools that OpenAI runs itself ({kinds}); kluster.ai runs no tools.",
            hint="offer tools of type function, which your program runs.",
        )
    return made


def _tool(tool: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = tool.get("type")
    if kind == "function":
        function = {name: tool.get(name) for name in ("name", "description", "parameters")}
        return {"type": "function", "function": function}
    if kind != "custom":
        return None
    form = tool.get("format")
    grammar = form.get("definition") if isinstance(form, Mapping) else None
    texts = (tool.get("description"), f"The input follows this grammar:\n{grammar}" if grammar else None)
    text = {"type": "string", "description": "The whole input, as plain text."}
    function = {
        "name": tool.get("name"),
        "description": "\n\n".join(filter(None, texts)),
        "parameters": {"type": "object", "properties": {INPUT: text}, "required": [INPUT]},
    }
    return {"type": "function", "function": function}


def tool_choice_of(choice: object, tools: list[dict[str, Any]]) -> tuple[object, list[dict[str, Any]]]:
    """Return a chat's `tool_choice`, and the tools that it allows."""
    if not isinstance(choice, Mapping):
        return (choice if tools else None), tools
    if choice.get("type") == "allowed_tools":
        return allowed_tools(choice, tools)
    return {"type": "function", "function": {"name": choice.get("name")}}, tools


def allowed_tools(choice: Mapping[str, Any], tools: list[Any]) -> tuple[object, list[Any]]:
    """Return the mode of a choice, and the tools that it allows, in either API's form.

    Raises:
        BadRequestError: If none of them is offered.
    """
    given = choice.get("tools")
    names = {_name(tool) for tool in given} if isinstance(given, list) else set()
    found = [tool for tool in tools if _name(tool) in names]
    if not found:
        raise BadRequestError(
            f"tool_choice allows {sorted(map(str, names))}, and none of them is among the tools.",
            hint="name tools that are offered.",
        )
    return choice.get("mode"), found


def _name(tool: object) -> object:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return str(function.get("name")) if isinstance(function, Mapping) else None


def text_format(text: object) -> dict[str, Any] | None:
    """Return the `response_format` of a chat that `text.format` asks for."""
    form = text.get("format") if isinstance(text, Mapping) else None
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        return dict(form) if isinstance(form, Mapping) else None
    return {"type": "json_schema", "json_schema": {k: form.get(k) for k in ("name", "schema", "strict")}}
