"""The tools and calls of chat completions, in every form that clients write them.

Custom tools take text and not JSON, which no server of open models has. The model sees functions with one parameter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kluster_integrations.core.types import ToolCall, ToolCallDelta
from kluster_integrations.gateway.response_items import INPUT, allowed_tools, function_of_custom, input_of

__all__ = ["ChatTools"]


class ChatTools:
    """The tools of a request.

    Read are also the tools of `/responses`, whose fields lie flat (Cursor sends them), choices such as
    `{"type": "auto"}`, and `allowed_tools`.

    Attributes:
        params: `tools` and `tool_choice`, in the form of functions.
        messages: The messages of the request, with the calls of custom tools as those of functions.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._custom: dict[str, bool] = {}  # names, and whether the fields of the tool lie flat
        tools, choice = body.get("tools"), body.get("tool_choice")
        if isinstance(tools, list):
            tools = [self._function(tool) for tool in tools]
        kind = choice.get("type") if isinstance(choice, Mapping) else None
        if kind in ("auto", "none", "required", "any"):
            choice = kind
        elif kind == "custom" and isinstance(choice, Mapping):
            choice = {"type": "function", "function": {"name": _custom_of(choice).get("name")}}
        elif kind == "allowed_tools" and isinstance(tools, list) and isinstance(choice, Mapping):
            allowed = choice.get("allowed_tools")
            allowed = dict(allowed) if isinstance(allowed, Mapping) else {}
            if isinstance(allowed.get("tools"), list):
                allowed["tools"] = [self._function(tool) for tool in allowed["tools"]]
            choice, tools = allowed_tools(allowed, tools)
        self.params = {"tools": tools, "tool_choice": choice}
        self.messages: Any = [] if body.get("messages") is None else body["messages"]
        if isinstance(self.messages, list) and any(isinstance(m, dict) and "tool_calls" in m for m in self.messages):
            self.messages = [self._with_functions(message) for message in self.messages]

    def _function(self, tool: object) -> object:
        """Return a tool in the form that the core reads."""
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind == "function" and isinstance(tool, Mapping) and "function" not in tool and "name" in tool:
            return {"type": "function", "function": tool}
        if kind != "custom" or not isinstance(tool, Mapping):
            return tool
        given = _custom_of(tool)
        self._custom.setdefault(str(given.get("name")), given is tool)
        return {"type": "function", "function": function_of_custom(given, given.get("name"))}

    def _with_functions(self, message: object) -> object:
        calls = message.get("tool_calls") if isinstance(message, Mapping) else None
        if not isinstance(message, Mapping) or not isinstance(calls, list):
            return message
        return {**message, "tool_calls": [self._past_call(call) for call in calls]}

    def _past_call(self, call: object) -> object:
        """Return a call in the form that the core reads."""
        if not isinstance(call, Mapping):
            return call
        custom, function = call.get("custom"), call.get("function")
        if isinstance(custom, Mapping):
            name, text = custom.get("name"), custom.get(INPUT)
        elif isinstance(function, Mapping) and str(function.get("name")) in self._custom:
            name, text = function["name"], function.get("arguments")
        else:
            return call
        return {**call, "type": "function", "function": {"name": name, "arguments": json.dumps({INPUT: text})}}

    def call(self, call: ToolCall | ToolCallDelta) -> dict[str, Any]:
        """Return a call of the model's in the form that the client expects."""
        name, text = call.name, call.arguments
        is_flat = self._custom.get(str(name))
        if is_flat is False:
            return {"id": call.id, "type": "custom", "custom": {"name": name, INPUT: input_of(text)}}
        if is_flat:
            # Cursor 3.14 reads `function.name` of every call, and the text from `arguments` (codex-proxy issue 707).
            text = input_of(text)
        return {"id": call.id, "type": "function", "function": {"name": name, "arguments": text}}


def _custom_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a custom tool or choice that has its name: inside `custom`, or the whole if it is flat."""
    inner = tool.get("custom")
    return inner if isinstance(inner, Mapping) else tool
