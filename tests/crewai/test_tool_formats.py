"""Prompted tool calls and CrewAI's ReAct, on the slips that models make in either: why the one is the default."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("crewai")

from kluster_integrations.crewai import kluster_llm

from ..raw_server import RawRequest, RawServer, Reply, whole
from .crews import KEY, R1, ran, weather

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ACTION = 'Thought: I look it up.\nAction: get_weather\nAction Input: {"city": "Paris"}'

# The same slip in a prompted call and in ReAct.
SLIPS: dict[str, tuple[str, str]] = {
    "none": (CALL, ACTION),
    "words before it": (f"Sure, I look it up.\n{CALL}", f"Sure, I look it up.\n{ACTION}"),
    "words behind it": (f"{CALL}\nI wait for the result.", f"{ACTION}\nI wait for the result."),
    "an invented result": (
        f"{CALL}\n<tool_response>\nIt snows.\n</tool_response>",
        f"{ACTION}\nObservation: It snows.",
    ),
    "an invented result and answer": (
        f"{CALL}\n<tool_response>\nIt snows.\n</tool_response>\nIt snows.",
        f"{ACTION}\nObservation: It snows.\nThought: I know.\nFinal Answer: It snows.",
    ),
    "a guess before it": (f"I guess that it snows.\n{CALL}", f"Final Answer: It snows.\n{ACTION}"),
    "a fence": (
        '<tool_call>\n```json\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```\n</tool_call>',
        'Thought: I look it up.\n```\nAction: get_weather\nAction Input: {"city": "Paris"}\n```',
    ),
    "an end left out": (CALL.removesuffix("\n</tool_call>"), ACTION.removesuffix("}")),
    "arguments in a string": (
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        'Thought: I look it up.\nAction: get_weather\nAction Input: "{\\"city\\": \\"Paris\\"}"',
    ),
    "no arguments": (
        '<tool_call>{"name": "get_weather"}</tool_call>',
        "Thought: I look it up.\nAction: get_weather",
    ),
    "a bare argument": (
        '<tool_call>{"name": "get_weather", "arguments": "Paris"}</tool_call>',
        "Thought: I look it up.\nAction: get_weather\nAction Input: Paris",
    ),
    "a tool that does not exist": (
        '<tool_call>{"name": "look_up", "arguments": {"city": "Paris"}}</tool_call>',
        'Thought: I look it up.\nAction: look_up\nAction Input: {"city": "Paris"}',
    ),
    "broken JSON": (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris",}}</tool_call>',
        'Thought: I look it up.\nAction: get_weather\nAction Input: {"city": "Paris",}',
    ),
    "a call like code": (
        "<tool_call>get_weather(city='Paris')</tool_call>",
        "Thought: I look it up.\nAction: get_weather(city='Paris')",
    ),
    "marks around it": (CALL.replace("\n", " "), ACTION.replace("Action:", "**Action:**")),
}

REACT_FAILS = {"a guess before it", "no arguments", "a call like code"}


def reply_after(slip: str, call: str, answer: str) -> Callable[[RawRequest], Reply]:
    """Return a model that slips once, calls properly when asked again, and answers when it has the result."""
    slipped: list[RawRequest] = []

    def reply(request: RawRequest) -> Reply:
        if "sunny in Paris" in str(request.json["messages"]):
            return whole({"content": answer})
        slipped.append(request)
        return whole({"content": slip if len(slipped) == 1 else call})

    return reply


def ends_well(slip: str, tool_calling: str) -> bool:
    """Whether the crew answers with what the tool said."""
    prompted = tool_calling == "prompted"
    with RawServer() as server:
        texts = (CALL, "Sunny.") if prompted else (ACTION, "Thought: I know.\nFinal Answer: Sunny.")
        server.answer = reply_after(slip, *texts)
        llm = kluster_llm(R1, base_url=server.base_url, api_key=KEY, tool_calling=tool_calling)
        return weather(llm, agent={"max_iter": 6}).kickoff().raw == "Sunny." and "Paris" in ran


@pytest.mark.parametrize("slip", SLIPS)
def test_prompted_calls_end_well(slip: str) -> None:
    assert ends_well(SLIPS[slip][0], "prompted")


@pytest.mark.parametrize("slip", SLIPS)
def test_react(slip: str) -> None:
    # CrewAI takes what it cannot read for the final answer.
    assert ends_well(SLIPS[slip][1], "react") is (slip not in REACT_FAILS)
