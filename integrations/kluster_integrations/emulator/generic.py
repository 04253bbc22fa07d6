"""The generic engine: the answers to requests without a stated reply.

An offered tool is called once, with arguments that fit its schema. After the tool's result, the result is echoed. The
answer to a schema is an instance of it. Otherwise the last message is echoed. Tools and schemas are found in OpenAI's
fields, and in the tags of this package's own prompts (`<tools>`, `<schema>`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from kluster_integrations.emulator.engine import ChatRequest, text_of
from kluster_integrations.emulator.instances import instance
from kluster_integrations.emulator.replies import Reply

__all__ = ["VERDICT", "generic_reply", "prompted_tools"]

#: A verdict in the form that the docs show once, for the model's first id `klusterai/hallucination-detection` (tutorial
#: of 2025-05-28, its recorded output); later tutorials have recorded an HTTP 500 in its place.
VERDICT = "Hallucination: No\n\nExplanation: No verdict is stated, and the emulator itself judges nothing."

_LONGEST_ECHO, _LONGEST_THOUGHT = 2_000, 100
_RESULT, _RESULT_END = "<tool_response>", "</tool_response>"

Function = Mapping[str, object]


def generic_reply(request: ChatRequest) -> Reply:
    """Return the reply to a request, in time linear in the size of the request."""
    if request.spec.purpose == "verification":
        return Reply(VERDICT)
    reasoning = f'No reply is stated to "{_echo(request)[:_LONGEST_THOUGHT]}".' if request.spec.reasoning else ""
    if function := _to_call(request):
        arguments = instance(function.get("parameters"))
        call = {"name": function["name"], "arguments": arguments if isinstance(arguments, dict) else {}}
        return Reply(reasoning=reasoning, tool_calls=[call])
    if (schema := _schema(request)) is not None:
        return Reply(reasoning=reasoning, text=json.dumps(instance(schema), ensure_ascii=False))
    return Reply(f"Echo: {_echo(request)}", reasoning)


def prompted_tools(request: ChatRequest) -> list[Function]:
    """Return the tools that a system or user message offers between `<tools>` tags, one JSON object per line."""
    for message in request.messages:
        if message["role"] in {"system", "user"}:
            lines = _between(text_of(message), "<tools>", "</tools>").splitlines()
            if functions := [function for function in map(_function, map(_parsed, lines)) if function]:
                return functions
    return []


def _to_call(request: ChatRequest) -> Function | None:
    """Return the tool to call: the forced one, else the first that was not called since the last question."""
    if request.tool_choice == "none":
        return None
    native = [function for function in map(_function, request.tools) if function]
    functions = native or prompted_tools(request)
    named = next((function for function in functions if function["name"] == request.tool_choice), None)
    if named or not functions:
        return named
    last = max((i for i, message in enumerate(request.messages) if message["role"] == "user"), default=-1)
    called = [call for message in request.messages[last + 1 :] for call in _called(message)]
    answered = called or request.messages[-1]["role"] == "tool" or _RESULT in request.text
    if answered and request.tool_choice != "required":
        return None
    # An agent that always forces a call comes to its last tool, which may be the one that ends it.
    return next((function for function in functions if function["name"] not in called), functions[-1])


def _function(tool: object) -> Function | None:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    return function if isinstance(function, dict) and isinstance(function.get("name"), str) else None


def _called(message: Mapping[str, object]) -> list[str]:
    calls = cast("list[dict[str, dict[str, str]]]", message.get("tool_calls") or [])
    return [call["function"]["name"] for call in calls]


def _schema(request: ChatRequest) -> object:
    """Return the schema for the answer (the last one in the request); None if there is none."""
    wanted = request.body.get("response_format")  # only a lenient emulator lets it in
    if isinstance(wanted, dict) and wanted.get("type") == "json_object":
        return {"type": "object"}
    if isinstance(wanted, dict) and isinstance(inner := wanted.get("json_schema"), dict):
        return inner.get("schema")
    for message in reversed(request.messages):
        if message["role"] in {"system", "user"}:
            schema = _parsed(_between(text_of(message), "<schema>", "</schema>"))
            if schema is not None:
                return schema
    return None


def _between(text: str, start: str, end: str) -> str:
    _, _, rest = text.partition(start)
    return rest.partition(end)[0] if end in rest else ""


def _parsed(text: str) -> object:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _echo(request: ChatRequest) -> str:
    """Return the last message; for prompted tool results, the text between the tags."""
    content = request.messages[-1].get("content")
    if isinstance(content, list):
        parts = [part["text"] if part["type"] == "text" else _image(part["image_url"]["url"]) for part in content]
        return "\n".join(parts)[:_LONGEST_ECHO]
    text = request.text[:_LONGEST_ECHO]
    if text.startswith(_RESULT):
        text = text.replace(_RESULT, "").replace(_RESULT_END, "").strip()
    return text


def _image(url: str) -> str:
    head = url.partition(",")[0].removeprefix("data:").partition(";")[0] if url.startswith("data:") else url
    return f"[{head}]"
