"""Conversations that began elsewhere: what other providers' messages become on kluster.ai's wire."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from kluster_integrations.emulator import Emulator
from kluster_integrations.langchain import KlusterBadRequestError

from ..raw_server import RawServer, Reply, sse, whole
from .conftest import GEMMA, LLAMA, model_of
from .test_tools import get_weather

HI = HumanMessage("hi")
CALL: Any = {"name": "get_weather", "args": {"city": "Paris"}, "id": "c1", "type": "tool_call"}

# The blocks of an answer, by where it comes from; each says "Hello" and nothing else that can go on.
FOREIGN: dict[str, list[Any]] = {
    "anthropic": [
        {"type": "thinking", "thinking": "Hm", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        {"type": "text", "text": "Hello", "citations": []},
        {"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"city": "Paris"}},
    ],
    "openai responses": [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "image_generation_call", "id": "ig_1", "result": "iVBORw0KGgo="},
        {"type": "text", "text": "Hello", "annotations": [], "id": "msg_1"},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
    ],
    "google": [
        {"type": "thinking", "thinking": "Hm"},
        {"type": "executable_code", "executable_code": "1 + 1", "language": "python"},
        {"type": "code_execution_result", "code_execution_result": "2", "outcome": 1},
        {"type": "text", "text": "Hello", "extras": {"signature": "x"}},
    ],
    "bedrock": [{"type": "reasoning_content", "reasoning_content": {"text": "Hm"}}, {"type": "text", "text": "Hello"}],
    "version 1": [
        {"type": "reasoning", "reasoning": "Hm"},
        {"type": "server_tool_call", "name": "web_search", "args": {}, "id": "s1"},
        {"type": "server_tool_result", "tool_call_id": "s1", "status": "success", "output": "x"},
        {"type": "text", "text": "Hello"},
        {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"},
        {"type": "non_standard", "value": {"x": 1}},
        CALL,
    ],
    "texts": ["Hel", {"type": "text", "text": "lo"}],
}


@pytest.mark.parametrize("provider", FOREIGN)
def test_of_an_answer_from_elsewhere_text_and_calls_go_on(emulator: Emulator, provider: str) -> None:
    answer = AIMessage(FOREIGN[provider], tool_calls=[CALL])

    model_of(emulator).invoke([HI, answer, ToolMessage("Sunny", tool_call_id="c1")])

    sent: Any = emulator.requests[-1].body
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert sent["messages"][1] == {
        "role": "assistant",
        "content": "Hello",
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }


def test_a_refusal_is_what_was_said(emulator: Emulator) -> None:
    model_of(emulator).invoke([HI, AIMessage([{"type": "refusal", "refusal": "No."}]), HI])

    sent: Any = emulator.requests[-1].body
    assert sent["messages"][1] == {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    ("block", "sent_as"),
    [
        (
            {"type": "input_image", "image_url": "https://example.com/a.png"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        ),
        ({"type": "input_text", "text": "hi"}, {"type": "text", "text": "hi"}),
        ({"type": "text-plain", "text": "a note", "mime_type": "text/plain"}, {"type": "text", "text": "a note"}),
    ],
    ids=["input_image", "input_text", "text-plain"],
)
def test_blocks_of_a_question(emulator: Emulator, block: dict[str, Any], sent_as: dict[str, Any]) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/b.png"}}

    model_of(emulator, GEMMA).invoke([HumanMessage([image, block])])

    sent: Any = emulator.requests[-1].body
    assert sent["messages"][0]["content"] == [image, sent_as]


def test_a_call_without_an_id_that_cannot_be_read_is_left_out(emulator: Emulator) -> None:
    broken: Any = {"name": None, "args": None, "id": None, "error": "cut off", "type": "invalid_tool_call"}

    model_of(emulator).invoke([HI, AIMessage("Wait", invalid_tool_calls=[broken]), HI])

    sent: Any = emulator.requests[-1].body
    assert sent["messages"][1] == {"role": "assistant", "content": "Wait"}


NAMELESS: dict[str, Callable[[], Reply]] = {
    "whole": lambda: whole(
        {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"arguments": "{}"}}]},
        finish="tool_calls",
    ),
    "streamed": lambda: Reply(
        sse({"tool_calls": [{"index": 0, "id": "c1", "function": {"arguments": "{}"}}]}, finish="tool_calls")
    ),
}


@pytest.mark.parametrize("how", NAMELESS)
def test_an_agent_goes_on_after_a_call_without_a_name(server: RawServer, how: str) -> None:
    server.script(NAMELESS[how](), whole({"content": "Sunny, then."}))
    agent = create_agent(model_of(server, LLAMA, streaming=how == "streamed"), [get_weather])

    answer = agent.invoke({"messages": [HI]})

    assert answer["messages"][-1].content == "Sunny, then."


@pytest.mark.parametrize("how", ["whole", "streamed"])
def test_arguments_without_an_end_to_their_nesting_are_an_invalid_call(server: RawServer, how: str) -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "get_weather", "arguments": '{"a":' * 5_000}}
    server.script(
        whole({"content": None, "tool_calls": [call]}, finish="tool_calls")
        if how == "whole"
        else Reply(sse({"tool_calls": [call]}, finish="tool_calls"))
    )

    answer = model_of(server, streaming=how == "streamed", max_repairs=0).invoke([HI])

    assert answer.tool_calls == []
    assert [c["name"] for c in answer.invalid_tool_calls] == ["get_weather"]


@pytest.mark.parametrize("value", [date(2025, 7, 31), {1}, b"x", object()], ids=lambda value: type(value).__name__)
def test_arguments_that_json_cannot_say_are_refused(emulator: Emulator, value: Any) -> None:
    call: Any = {**CALL, "args": {"when": value}}
    history = [HI, AIMessage("", tool_calls=[call]), ToolMessage("Sunny", tool_call_id="c1")]

    with pytest.raises(KlusterBadRequestError, match=f"JSON .*{type(value).__name__}"):
        model_of(emulator).invoke(history)
    assert emulator.requests == []


@pytest.mark.parametrize("value", [float("nan"), {1}])
async def test_a_field_that_json_cannot_say_is_refused(emulator: Emulator, value: Any) -> None:
    model = model_of(emulator, extra_body={"metadata": {"a": value}})

    for ask in (model.invoke, lambda text: list(model.stream(text))):
        with pytest.raises(KlusterBadRequestError, match="JSON"):
            ask("hi")
    with pytest.raises(KlusterBadRequestError, match="JSON"):
        await model.ainvoke("hi")
    assert emulator.requests == []
