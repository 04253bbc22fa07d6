"""Prompted tool calls and CrewAI's ReAct, on slips that models make in either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("crewai")

from crewai import LLM

from kluster_integrations.crewai import kluster_llm

from ..raw_server import RawRequest, RawServer, Reply, whole
from .crews import INSTALLED, KEY, R1, ran, weather

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

CREWAI_FAILS = {"a guess before it", "no arguments", "a call like code"}
"""Where CrewAI's own class does not end well: what its parser cannot read, it takes for the final answer."""
if INSTALLED < (1, 15, 17):
    CREWAI_FAILS.add("an invented result and answer")


NO_TOOLS = Reply([b'{"error": {"message": "This model does not support tools"}}'], 400, "application/json")
"""What CrewAI's own class begins with ReAct after."""


def reply_after(slip: str, call: str, answer: str) -> Callable[[RawRequest], Reply]:
    """Return a model that slips once, calls properly when asked again, and answers when it has the result."""
    slipped: list[RawRequest] = []

    def reply(request: RawRequest) -> Reply:
        if "sunny in Paris" in str(request.json["messages"]):
            return whole({"content": answer})
        slipped.append(request)
        return whole({"content": slip if len(slipped) == 1 else call})

    return reply


def ends_well(slip: str, kind: str) -> bool:
    """Whether the crew answers with what the tool said, in a single try or after having been asked again."""
    with RawServer() as server:
        texts = (CALL, "Sunny.") if kind == "prompted" else (ACTION, "Thought: I know.\nFinal Answer: Sunny.")
        model = reply_after(slip, *texts)
        server.answer = lambda request: NO_TOOLS if "tools" in request.json else model(request)
        if kind == "crewai":
            llm: Any = LLM(model=f"openai/{R1}", base_url=server.base_url, api_key=KEY)
        else:
            llm = kluster_llm(R1, base_url=server.base_url, api_key=KEY, tool_calling=kind)
        return weather(llm, agent={"max_iter": 6}).kickoff().raw == "Sunny." and ran == ["Paris"]


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("kind", ["prompted", "react"])
def test_a_slip_is_no_answer(kind: str, slip: str) -> None:
    assert ends_well(SLIPS[slip][kind == "react"], kind)


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_may_be_the_answer_natively(slip: str) -> None:
    assert ends_well(SLIPS[slip][1], "crewai") is (slip not in CREWAI_FAILS)
