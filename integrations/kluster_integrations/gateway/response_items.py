"""The input items and tools of OpenAI's `/v1/responses`, as chat messages and tools."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kluster_integrations.errors import BadRequestError
from kluster_integrations.gateway.errors import refusal
from kluster_integrations.gateway.memory import Memory

__all__ = [
    "INPUT",
    "Tool",
    "allowed_tools",
    "function_of_custom",
    "input_of",
    "messages_of",
    "offered",
    "text_format",
    "tool_choice_of",
    "tools_of",
]

INPUT = "input"
"""The one parameter of a tool that takes text and not JSON."""
# Of the service itself, which has none, or records of their calls, which mean nothing to another one. These are tuples,
# for a client may send a type that cannot be hashed.
_NOT_OURS = ("reasoning", "compaction", "web_search_call", "file_search_call", "image_generation_call")
_SEARCH = "tool_search"
# Codex's ways to offer more tools later on.
_ADDING = ("additional_tools", "tool_search_output")
_CALLS = ("function_call", "custom_tool_call")
_OUTPUTS = ("function_call_output", "custom_tool_call_output")


def messages_of(
    items: Sequence[object], instructions: object, memory: Memory, earlier: int = 0
) -> list[dict[str, Any]]:
    """Return input items as chat messages. Calls go into the assistant message before them; `where` names the items.

    Args:
        items: The items, those of earlier responses first.
        instructions: The system prompt.
        memory: The items that a reference may name.
        earlier: How many items are of earlier responses: the client counts its own.

    Raises:
        BadRequestError: If an item has no equivalent in a chat request.
        NotFoundError: If it refers to an item that is not remembered.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions, "where": "instructions"})
    for i, item in enumerate(items):
        for made in _messages(item, _place(i, earlier), memory):
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


def _place(index: int, earlier: int) -> str:
    return f"input[{index - earlier}]" if index >= earlier else f"(of an earlier response) input[{index}]"


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
        yield {"role": item.get("role"), "content": item.get("content"), "where": where}
    elif kind in _CALLS:
        text = item.get("arguments") if kind == "function_call" else json.dumps({INPUT: item.get(INPUT)})
        function = {"name": _flat_name(item.get("namespace"), item.get("name")), "arguments": text}
        call = {"id": item.get("call_id"), "type": "function", "function": function, "where": where}
        yield {"role": "assistant", "content": "", "tool_calls": [call]}
    elif kind in _OUTPUTS:
        yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output"), "where": where}
    elif kind == "tool_search_call" and item.get("call_id") is not None:
        arguments = item.get("arguments")
        function = {"name": _SEARCH, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}
        call = {"id": item["call_id"], "type": "function", "function": function, "where": where}
        yield {"role": "assistant", "content": "", "tool_calls": [call]}
    elif kind == "tool_search_output" and item.get("call_id") is not None:
        names = ", ".join(str(tool.name) for tool in _flattened(item.get("tools"), f"{where}.tools"))
        text = f"These tools can be called now: {names}." if names else "No tool was found."
        yield {"role": "tool", "tool_call_id": item["call_id"], "content": text, "where": where}
    elif kind not in _NOT_OURS and kind not in _ADDING and kind != "tool_search_call":
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
    is_flat = not namespace or namespace == "functions" or not name
    return name if is_flat else f"{namespace}__{name}"


class Tool(NamedTuple):
    """A tool that a client offers.

    Attributes:
        where: Its place in the request.
        namespace: The namespace that it is in. A chat has none; Codex sends each MCP server as one (codex issue 26234).
        given: The tool itself.
        is_deferred: Whether the model is to see it only once the client's tool search has found it.
    """

    where: str
    namespace: str | None
    given: Mapping[str, Any]
    is_deferred: bool

    @property
    def kind(self) -> str:
        """Its type; `tool_search` is the client's own, and not what OpenAI's servers run."""
        kind = str(self.given.get("type"))
        return "hosted" if kind == _SEARCH and self.given.get("execution") != "client" else kind

    @property
    def name(self) -> object:
        """Its name in a chat."""
        return _SEARCH if self.kind == _SEARCH else _flat_name(self.namespace, self.given.get("name"))


def _flattened(tools: object, where: str, namespace: str | None = None, *, is_deferred: bool = False) -> Iterator[Tool]:
    if not isinstance(tools, list | None):
        raise BadRequestError(
            f"{where} must be a list of tools, not a {type(tools).__name__}.", hint='write [{"type": "function", …}].'
        )
    for i, tool in enumerate(tools or ()):
        place = f"{where}[{i}]"
        if not isinstance(tool, Mapping):
            raise BadRequestError(
                f"{place} must be a tool object, not a {type(tool).__name__}.", hint='write {"type": "function", …}.'
            )
        later = is_deferred or tool.get("defer_loading") is True
        if tool.get("type") == "namespace":
            yield from _flattened(tool.get("tools"), f"{place}.tools", str(tool.get("name")), is_deferred=later)
        else:
            yield Tool(place, namespace, tool, later)


def offered(tools: object, items: Sequence[object], earlier: int = 0) -> dict[str, Tool]:
    """Return the tools of a request, and those that its input items add, by their names in the chat.

    Deferred tools are left out until the client's search has found them. Without such a search, all are offered.

    Raises:
        BadRequestError: If one is not a tool.
    """
    found = list(_flattened(tools, "tools"))
    if any(tool.kind == _SEARCH for tool in found):
        found = [tool for tool in found if not tool.is_deferred]
    for i, item in enumerate(items):
        if isinstance(item, Mapping) and item.get("type") in _ADDING:
            found += _flattened(item.get("tools"), f"{_place(i, earlier)}.tools")
    return {str(tool.name or tool.where): tool for tool in found}


def tools_of(tools: Collection[Tool]) -> list[dict[str, Any]]:
    """Return tools as those of a chat, which say where they stood. What OpenAI runs itself (web_search) is left out.

    Raises:
        BadRequestError: If nothing is left: then the request is for what is not there.
    """
    made = [found for tool in tools if (found := _tool(tool)) is not None]
    if tools and not made:
        kinds = ", ".join(sorted({str(tool.given.get("type")) for tool in tools}))
        raise BadRequestError(
            f"tools has only tools that OpenAI runs itself ({kinds}); kluster.ai runs no tools.",
            hint="offer tools of type function, which your program runs.",
        )
    return made


def _tool(tool: Tool) -> dict[str, Any] | None:
    given = tool.given
    if tool.kind in ("function", _SEARCH):
        function = {"name": tool.name, "description": given.get("description"), "parameters": given.get("parameters")}
        return {"type": "function", "function": function, "where": tool.where}
    if tool.kind != "custom":
        return None
    return {"type": "function", "function": function_of_custom(given, tool.name), "where": tool.where}


def function_of_custom(given: Mapping[str, Any], name: object) -> dict[str, Any]:
    """Return a custom tool, which takes text and not JSON, as a function of one parameter."""
    form = given.get("format")
    if isinstance(form, Mapping) and isinstance(form.get("grammar"), Mapping):  # that of a chat
        form = form["grammar"]
    grammar = form.get("definition") if isinstance(form, Mapping) else None
    texts = (given.get("description"), f"The input follows this grammar:\n{grammar}" if grammar else None)
    text = {"type": "string", "description": "The whole input, as plain text."}
    return {
        "name": name,
        "description": "\n\n".join(str(text) for text in texts if text),
        "parameters": {"type": "object", "properties": {INPUT: text}, "required": [INPUT]},
    }


def input_of(arguments: str) -> str:
    """Return the text that a call of a custom tool has in its arguments."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    return value[INPUT] if isinstance(value, dict) and isinstance(value.get(INPUT), str) else arguments


def tool_choice_of(choice: object, tools: list[dict[str, Any]]) -> tuple[object, list[dict[str, Any]]]:
    """Return a chat's `tool_choice`, and the tools that it allows."""
    if not isinstance(choice, Mapping):
        return choice, tools
    if choice.get("type") == "allowed_tools":
        return allowed_tools(choice, tools)
    if (kind := choice.get("type")) not in ("function", "custom"):
        raise BadRequestError(
            f"tool_choice.type={kind!r} must be function, custom or allowed_tools: kluster.ai runs no tools.",
            hint='write "auto" or "required", or name one of the tools that your program runs.',
        )
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


def text_format(text: object) -> object:
    """Return the `response_format` of a chat that `text.format` asks for."""
    form = text.get("format") if isinstance(text, Mapping) else None
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {k: form.get(k) for k in ("name", "schema", "strict")}}
