"""Custom tools of chat completions: the model sees functions, the client the form in which it has offered them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from ..raw_server import RawServer, Reply, sse, whole
from .conftest import user
from .test_other_servers import gate, upstream

__all__ = ["gate", "upstream"]

GRAMMAR = {"syntax": "lark", "definition": "start: /.+/"}
CUSTOM = {"name": "patch", "description": "Apply a patch.", "format": {"type": "grammar", "grammar": GRAMMAR}}
NESTED = {"type": "custom", "custom": CUSTOM}
FLAT = {"type": "custom", **CUSTOM, "format": {"type": "grammar", **GRAMMAR}}  # Cursor's
SHELL = {"type": "function", "function": {"name": "shell", "parameters": {"type": "object", "properties": {}}}}
PATCH = "*** Begin Patch\n+x"


@pytest.fixture
def client(gate: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=str(gate.base_url), api_key="any", max_retries=0) as made:
        yield made


def called(*names: str, stream: bool) -> Reply:
    calls = [
        {"index": i, "id": f"c{i}", "type": "function"}
        | {"function": {"name": name, "arguments": json.dumps({"input": PATCH} if name == "patch" else {})}}
        for i, name in enumerate(names)
    ]
    message = {"content": None, "tool_calls": calls}
    return Reply(sse(message, finish="tool_calls")) if stream else whole(message, finish="tool_calls")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("tool", "made"),
    [
        (NESTED, {"type": "custom", "custom": {"name": "patch", "input": PATCH}}),
        (FLAT, {"type": "function", "function": {"name": "patch", "arguments": PATCH}}),
    ],
)
def test_the_calls_of_a_custom_tool(
    client: openai.OpenAI, upstream: RawServer, tool: Any, made: dict[str, Any], stream: bool
) -> None:
    upstream.script(called("patch", "shell", stream=stream), whole({"content": "Done."}))
    create: Any = client.chat.completions.create
    answer = create(model="plain", messages=user("Patch!"), tools=[tool, SHELL], stream=stream)
    if stream:
        calls = [call for chunk in answer for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    else:
        calls = answer.choices[0].message.tool_calls
    dumped = [call.model_dump(exclude_none=True, exclude={"index"}) for call in calls]
    shell = {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": "{}"}}
    assert dumped == [{"id": "c0", **made}, shell]

    offered = upstream.requests[0].json["tools"]
    assert [tool["function"]["name"] for tool in offered] == ["patch", "shell"]
    assert offered[0]["function"]["description"] == ("Apply a patch.\n\nThe input follows this grammar:\nstart: /.+/")
    assert offered[0]["function"]["parameters"]["required"] == ["input"]

    results = [{"role": "tool", "tool_call_id": f"c{i}", "content": "ok"} for i in range(2)]
    messages = [*user("Patch!"), {"role": "assistant", "content": None, "tool_calls": dumped}, *results]
    create(model="plain", messages=messages, tools=[tool, SHELL])
    functions = [call["function"] for call in upstream.requests[1].json["messages"][1]["tool_calls"]]
    assert functions[0] == {"name": "patch", "arguments": json.dumps({"input": PATCH})}
    assert functions[1] == {"name": "shell", "arguments": "{}"}


ALLOWED = {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "patch"}}]}


@pytest.mark.parametrize(
    ("choice", "names", "sent"),
    [
        ({"type": "custom", "custom": {"name": "patch"}}, ["patch", "shell"], "patch"),
        ({"type": "custom", "name": "patch"}, ["patch", "shell"], "patch"),
        ({"type": "allowed_tools", "allowed_tools": ALLOWED}, ["patch"], "required"),
    ],
)
def test_a_custom_tool_can_be_chosen(
    gate: httpx.Client, upstream: RawServer, choice: dict[str, Any], names: list[str], sent: str
) -> None:
    upstream.script(called("patch", stream=False))
    asked = {"model": "plain", "messages": user("Patch!"), "tools": [NESTED, SHELL], "tool_choice": choice}
    assert gate.post("/chat/completions", json=asked).status_code == 200
    body = upstream.requests[0].json
    assert [tool["function"]["name"] for tool in body["tools"]] == names
    chosen = body["tool_choice"]
    assert (chosen if isinstance(chosen, str) else chosen["function"]["name"]) == sent


@pytest.mark.parametrize("stream", [False, True])
def test_without_custom_tools_a_function_of_the_same_name_is_a_function(
    gate: httpx.Client, upstream: RawServer, stream: bool
) -> None:
    upstream.script(called("patch", stream=stream))
    patch = {"type": "function", "function": {"name": "patch"}}
    asked = {"model": "plain", "messages": user("Patch!"), "tools": [patch], "stream": stream}
    answer = gate.post("/chat/completions", json=asked)
    assert '"arguments":"{\\"input\\": ' in answer.text


@pytest.mark.parametrize("name", [None, "", 5, ["patch"]])
def test_a_custom_tool_without_a_name_is_refused(gate: httpx.Client, name: object) -> None:
    tools = [SHELL, {"type": "custom", "custom": {"name": name}}]
    answer = gate.post("/chat/completions", json={"model": "plain", "messages": user("Hi"), "tools": tools})
    assert (answer.status_code, "tools[1].function.name is missing" in answer.text) == (400, True)
