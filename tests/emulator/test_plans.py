"""Plans, and tasks inside of prompts with headings."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from .conftest import NEMO, Api, tool, user

STR: dict[str, Any] = {"type": "string"}
INT = {"type": "integer"}
STEP = {
    "type": "object",
    "properties": {
        "step_number": INT,
        "description": STR,
        "tool_to_use": {"type": ["string", "null"]},
        "depends_on": {"type": "array", "items": INT},
    },
    "required": ["step_number", "description", "tool_to_use", "depends_on"],
    "additionalProperties": False,
}
STEPS = {"type": "array", "items": STEP}
PLAN = tool("make_plan", "Makes a plan of steps", plan=STR, steps=STEPS, ready={"type": "boolean"})
FORCED = {"type": "function", "function": {"name": "make_plan"}}
PROMPT = """Plan this.

## Task
{}

## Expected Output
A sentence

## Available Tools
{}

## Rules
Focus on CONCRETE, EXECUTABLE steps: at most 20. NO "thinking" or "planning". State READY or NOT READY."""


def planned(api: Api, task: str, tools: str) -> dict[str, Any]:
    [(name, plan)] = api.calls(user(PROMPT.format(task, tools)), tools=[PLAN], tool_choice=FORCED)
    assert name == "make_plan"
    jsonschema.validate(plan, PLAN["function"]["parameters"])
    return plan


@pytest.mark.parametrize(
    ("task", "tools", "steps"),
    [
        ("What is the weather in Paris?", "get_weather", [("What is the weather in Paris?", "get_weather")]),
        ("Weather in Paris and London", "get_weather", [("Weather in Paris and London", "get_weather")]),
        ("Say hello in French", "No tools available", [("Say hello in French", None)]),
        (
            "Search the web for bees, then write a letter and send it to Ada.",
            "- web_search: finds pages\n- send_letter(text)",
            [
                ("Search the web for bees", "web_search"),
                ("write a letter", "send_letter"),
                ("send it to Ada.", "send_letter"),
            ],
        ),
        (
            "Find A. Read it. Compare it to B. Send C.",
            "read_page, compare",
            [("Find A.", None), ("Read it.", "read_page"), ("Compare it to B. Send C.", "compare")],
        ),
    ],
)
def test_a_plan_has_a_step_for_each_action(api: Api, task: str, tools: str, steps: list[Any]) -> None:
    plan = planned(api, task, tools)

    assert [(step["description"], step["tool_to_use"]) for step in plan["steps"]] == steps
    assert [step["step_number"] for step in plan["steps"]] == list(range(1, len(steps) + 1))
    assert all(step["depends_on"] == [] for step in plan["steps"])
    assert plan["ready"] is True


def test_a_plan_as_a_json_answer(api: Api) -> None:
    schema = {"type": "object", "properties": {"steps": STEPS}, "required": ["steps"]}
    form = {"role": "system", "content": f"Answer as JSON.\n<schema>{json.dumps(schema)}</schema>"}
    plan = json.loads(api.text([form, *user(PROMPT.format("Find bees. Count them.", "find_all"))], model=NEMO))

    assert [step["description"] for step in plan["steps"]] == ["Find bees.", "Count them."]
    assert [step["tool_to_use"] for step in plan["steps"]] == ["find_all", None]


def test_a_step_is_carried_out_and_not_its_prompt(api: Api) -> None:
    weather = tool("get_weather", "Current weather in a city", city=STR)
    prompt = (
        "## Task Context\nKeep the full task in mind: the weather in Paris and Rome.\n\n---\n\n"
        "## Current Step\nWhat is the weather in Paris?\n\nSuggested tool: get_weather\n\n"
        "**Execute this NOW.** Then give your Final Answer, and confirm what was DONE."
    )

    assert api.calls(user(prompt), tools=[weather]) == [("get_weather", {"city": "Paris"})]


def test_an_observation_does_not_end_a_plan_early(api: Api) -> None:
    flag = {"type": "boolean", "default": False}
    change = {"type": "object", "properties": {"step_number": INT, "new_description": STR}}
    schema = {
        "type": "object",
        "properties": {
            "step_completed_successfully": {"type": "boolean"},
            "suggested_refinements": {"anyOf": [{"type": "array", "items": change}, {"type": "null"}], "default": None},
            "needs_full_replan": flag,
            "goal_already_achieved": flag,
        },
        "required": ["step_completed_successfully"],
    }
    form = {"role": "system", "content": f"Answer as JSON.\n<schema>{json.dumps(schema)}</schema>"}
    prompt = (
        "## Original task\nThe weather in Paris\n\n"
        "## Just completed step 1\nDescription: Look it up\n"
        "Result: Sunny. The goal is full. Suggested tool: get_weather"
    )

    assert json.loads(api.text([form, *user(prompt)], model=NEMO)) == {"step_completed_successfully": True}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("## Expected Output\nWe met Ada and Bob. ALWAYS answer, NEVER ask, be CONCRETE.", ["Ada", "Bob"]),
        ("# Ada Lovelace\nWho was with IBM and NASA, and met Bob?", ["Ada Lovelace", "IBM", "NASA", "Bob"]),
    ],
)
def test_neither_headings_nor_stressed_words_are_names(api: Api, text: str, names: list[str]) -> None:
    note = tool("note_people", "Notes people", people={"type": "array", "items": STR})
    forced = {"type": "function", "function": {"name": "note_people"}}

    [(_, arguments)] = api.calls(user(text), tools=[note], tool_choice=forced)
    assert arguments["people"] == names
