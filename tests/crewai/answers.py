"""What the model answers in tests of crews: a tool's call where the weather in Paris is asked for, objects about it."""

from __future__ import annotations

import json

from kluster_integrations.emulator import ChatRequest, Reply

from ..stated import THOUGHT, call, filled, forced_tool, offered_tools, question_and_results, wanted_schema

__all__ = ["answered"]

FACTS = {
    "city": "Paris",
    "temperature": 21,
    "steps": [
        {"step_number": 1, "description": "Weather in Paris", "tool_to_use": "get_weather", "depends_on": []},
    ],
    "memories": ["The library opens at nine."],
    "coworker": "Researcher",
    "task": "What is the weather in Paris?",
    "context": "I plan a trip.",
}


def answered(request: ChatRequest) -> Reply | None:
    """Return the answer to a request, None for the generic one."""
    thought = THOUGHT if request.spec.reasoning else ""
    question, results = question_and_results(request)
    prompts = [str(message.get("content")) for message in request.messages]
    if any("Action Input:" in prompt for prompt in prompts):
        return Reply(_react(prompts, question), thought)
    tools = offered_tools(request) if request.tool_choice != "none" else {}
    forced = forced_tool(request)
    if forced in tools:
        tools = {forced: tools[forced]}
    if tools and (forced or not results) and "Paris" in question:
        name, parameters = next(iter(tools.items()))
        return Reply(reasoning=thought, tool_calls=[call(name, **filled(parameters, FACTS))])
    if (schema := wanted_schema(request)) is not None:
        return Reply(reasoning=thought, json=filled(schema, FACTS))
    if any('"temperature"' in prompt for prompt in prompts):  # a schema in CrewAI's own words
        return Reply(reasoning=thought, json={"city": "Paris", "temperature": 21})
    if results:
        return Reply(f"The tools say: {'; '.join(results)}", thought)
    return Reply(f"Echo: {question}", thought)


def _react(prompts: list[str], question: str) -> str:
    """An action with the first tool, and behind its observation the answer, as CrewAI's own format has them."""
    _, acted, observation = "\n".join(prompts).rpartition("\nObservation: ")
    _, _, described = prompts[0].partition("Tool Arguments: ")
    if (acted and prompts[-1].find("Observation:") >= 0) or "Paris" not in question or not described:
        answer, *_ = (observation.strip() or question).splitlines()
        return f"Thought: I now know the final answer\nFinal Answer: {answer}"
    name = prompts[0].partition("Tool Name: ")[2].partition("\n")[0]
    parameters, _ = json.JSONDecoder().raw_decode(described)
    given = json.dumps(filled(parameters, FACTS))
    return f"Thought: I look it up.\nAction: {name}\nAction Input: {given}"
