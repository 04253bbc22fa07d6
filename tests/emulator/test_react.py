"""ReAct: tools in prose, actions and answers as lines of text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import NEMO, QWEN, Api, user

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMAT = """Use this format:

```
Thought: you should always think about what to do
Action: the action to take, only one name of [get_weather, get_time], just the name
Action Input: the input to the action, a simple JSON object
Observation: the result of the action
```

Then return:

```
Thought: I now know the final answer
Final Answer: the final answer to the original input question
```"""
SYSTEM = f"""You are careful. You have these tools:

Tool Name: get_weather
Tool Arguments: {json.dumps(SCHEMA, indent=2)}
Tool Description: Current weather in a city.
Tool Name: get_time
Tool Arguments: {json.dumps(SCHEMA, indent=2)}
Tool Description: Local time of a city.

IMPORTANT: {FORMAT}"""
#: LangChain's: everything in one message, and the tools as signatures.
ONE = f"""Answer the question. You have these tools:

get_weather(city: str) -> str - Current weather in a city.
get_time(city: str, digits: int) -> str - Local time of a city.

{FORMAT}

Begin!

Question: {{}}
Thought:"""


def asked(question: str, *more: str) -> list[dict[str, Any]]:
    system = {"role": "system", "content": SYSTEM}
    ask = user(f"\nCurrent Task: {question}\n\nBegin! This is VERY important, give your best Final Answer!\n\nThought:")
    return [system, *ask, *({"role": "assistant", "content": text} for text in more)]


def acted(text: str) -> tuple[str, Any]:
    thought, action, given = text.split("\n")
    assert thought.startswith("Thought: ")
    return action.removeprefix("Action: "), json.loads(given.removeprefix("Action Input: "))


@pytest.mark.parametrize("model", [NEMO, QWEN])
def test_an_action_then_the_answer(api: Api, model: str) -> None:
    first = api.text(asked("What is the weather in Paris?"), model=model)
    assert acted(first) == ("get_weather", {"city": "Paris"})

    last = api.text(asked("What is the weather in Paris?", f"{first}\nObservation: 21 degrees"), model=model)
    assert last.startswith("Thought: ")
    assert "get_weather returned 21 degrees" in last.partition("\nFinal Answer: ")[2]
    assert "Action:" not in last


def test_one_action_at_a_time(api: Api) -> None:
    question = "weather in Paris and time in Tokyo"
    first = api.text(asked(question))
    assert acted(first) == ("get_weather", {"city": "Paris"})

    messages = [*asked(question, first), *user("Observation: 21 degrees"), *user("Analyze the tool result.")]
    second = api.text(messages)
    assert acted(second) == ("get_time", {"city": "Tokyo"})

    last = api.text([*messages, {"role": "assistant", "content": f"{second}\nObservation: 3 pm"}])
    answer = last.partition("Final Answer: ")[2]
    assert "21 degrees" in answer
    assert "3 pm" in answer


def test_everything_in_one_message(api: Api) -> None:
    prompt = ONE.format("What is the time in Oslo with 2 digits?")
    first = api.text(user(prompt), stop=["\nObservation:"])
    assert acted(first) == ("get_time", {"city": "Oslo", "digits": 2})

    last = api.text(user(f"{prompt} {first}\nObservation: 12\nThought:"))
    assert "get_time returned 12" in last.partition("Final Answer: ")[2]


def test_no_tool_fits(api: Api) -> None:
    text = api.text(asked("Say hello to everyone"))
    assert 'Final Answer: Scripted answer to "Say hello to everyone"' in text
    assert "Action" not in text


def test_the_format_without_tools_is_just_text(api: Api) -> None:
    assert api.text(user(f"{FORMAT}\n\nHello")).startswith("Scripted answer")


def test_native_tools_come_first(api: Api) -> None:
    function = {"name": "get_weather", "description": "Current weather in a city", "parameters": SCHEMA}
    tools = [{"type": "function", "function": function}]
    messages = [*asked("")[:1], *user("What is the weather in Paris?")]
    assert api.calls(messages, tools=tools) == [("get_weather", {"city": "Paris"})]


def test_an_answer_that_fits_a_schema(api: Api) -> None:
    messages = asked(
        "What is the weather in Paris?", 'Action: get_weather\nAction Input: {"city": "Paris"}\nObservation: 21'
    )
    messages[0]["content"] += f"\n\nThe final answer is JSON:\n<schema>{json.dumps(SCHEMA)}</schema>"
    assert json.loads(api.text(messages).partition("Final Answer: ")[2]) == {"city": "Paris"}
