"""What the model answers in tests that do not say so themselves: stated once, by the question that it answers.

`Emulator(engine=stated)` uses it; the fixture `emulator` does. A question of `CALLS` gets its calls where these tools
are offered, and then what the tools have returned. A text of `field: value` fills the schema, or the parameters of the
tool, that it is asked with. No other question calls a tool that need not be called. The rest is generic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from kluster_integrations.emulator import ChatRequest, Reply, instance
from kluster_integrations.emulator.engine import text_of

__all__ = [
    "CALLS",
    "THOUGHT",
    "call",
    "facts_in",
    "filled",
    "forced_tool",
    "offered_tools",
    "question_and_results",
    "stated",
    "wanted_schema",
]

THOUGHT = "The user asks, and I know what is stated for that."


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    """A tool call as `reply` takes it."""
    return {"name": name, "arguments": arguments}


_PARIS = [call("get_weather", city="Paris")]
_BOTH = [*_PARIS, call("get_time", city="Tokyo")]
CALLS: dict[str, list[dict[str, Any]]] = {
    "What is the weather in Paris?": _PARIS,
    "What is the weather in Lisbon?": [
        call(name, city="Lisbon") for name in ("get_weather", "weather", "Weather-get_weather")
    ],
    "What is the weather in Boston?": [call("get_weather", city="Boston")],
    "Which version of llm is this?": [call("llm_version")],
    "The weather in Paris?": _PARIS,
    "weather in Paris": _PARIS,
    "Tell me about the weather in Paris": _PARIS,
    "What is the weather in Paris and the time in Tokyo?": _BOTH,
    "What is the weather in Paris and what is the time in Tokyo?": _BOTH,
}
"""The calls that answer a question."""


def stated(request: ChatRequest) -> Reply | None:
    """Return the stated answer to a request, None for the generic one."""
    thought = THOUGHT if request.spec.reasoning else ""
    tools = offered_tools(request) if request.tool_choice != "none" else {}
    question, results = question_and_results(request)
    forced = forced_tool(request)
    if forced in tools:
        tools = {forced: tools[forced]}
    calls = [one for one in CALLS.get(question, []) if one["name"] in tools]
    if left := calls[len(results) :]:
        return Reply(reasoning=thought, tool_calls=left[:1] if _one_at_a_time(request) else left)
    if results:
        return Reply(f"This is what the tools have said, one after the other: {'; '.join(results)}.", thought)
    if (facts := facts_in(question)) and tools:
        name, parameters = next(iter(tools.items()))
        return Reply(reasoning=thought, tool_calls=[call(name, **filled(parameters, facts))])
    if facts and (schema := wanted_schema(request)) is not None:
        return Reply(reasoning=thought, json=filled(schema, facts))
    if facts and any("JSON" in text for text in _texts(request)):
        return Reply(reasoning=thought, json=facts)
    if any("Answer with one JSON object" in text for text in _texts(request)):
        return Reply(reasoning=thought, json={"answer": question})
    if forced and tools:
        name, parameters = next(iter(tools.items()))
        return Reply(reasoning=thought, tool_calls=[call(name, **filled(parameters, {}))])
    return Reply(f"Echo: {question}", thought) if tools and wanted_schema(request) is None else None


def facts_in(text: str) -> dict[str, str]:
    """Return what a text of `field: value` says, one per line or behind commas; {} for any other text."""
    parts = re.split(r"\n|, (?=\w+: )", text.strip())
    rows = [re.fullmatch(r"(\w+): (.+)", part) for part in parts]
    return {row[1]: row[2] for row in rows if row} if all(rows) else {}


def filled(schema: Any, facts: Mapping[str, Any]) -> Any:
    """Return an instance of a schema whose fields are those of the facts."""
    return instance(_stated_fields(schema, facts, schema))


def _stated_fields(node: Any, facts: Mapping[str, Any], root: Any) -> Any:
    if isinstance(node, list):
        return [_stated_fields(one, facts, root) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _stated_fields(value, facts, root) for key, value in node.items()}
    for name in ("anyOf", "oneOf"):
        made[name] = [one for one in made.get(name, []) if _agrees(one, facts, root)]
        if not made[name]:
            del made[name]
    if isinstance(node.get("properties"), dict):
        known = [key for key in node["properties"] if key in facts]
        made["properties"] |= {key: {"const": facts[key]} for key in known}
        made["required"] = [*node.get("required", []), *known]
    return made


def _agrees(option: Any, facts: Mapping[str, Any], root: Any) -> bool:
    """Whether an alternative allows the kind that the facts name."""
    found = root.get("$defs", {}).get(option.get("$ref", "").rpartition("/")[2], option)
    kind = found.get("properties", {}).get("kind", {}).get("const")
    return (
        kind is None or "kind" not in facts or kind == facts["kind"] or found.get("title", "").lower() == facts["kind"]
    )


def _texts(request: ChatRequest) -> list[str]:
    return [text_of(message) for message in request.messages if message["role"] in {"system", "user"}]


def offered_tools(request: ChatRequest) -> dict[str, Any]:
    """The parameters of the offered tools, native or in the prompt, by name."""
    functions = [tool["function"] for tool in request.tools or map(json.loads, _tagged(request, "tools").splitlines())]
    return {function["name"]: function.get("parameters", {}) for function in functions}


def wanted_schema(request: ChatRequest) -> Any:
    """The schema that the prompt wants the answer to fit, None without one."""
    text = _tagged(request, "schema")
    return json.loads(text) if text else None


def _tagged(request: ChatRequest, tag: str) -> str:
    found = [match for text in _texts(request) for match in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)]
    return found[-1].strip() if found else ""


def question_and_results(request: ChatRequest) -> tuple[str, list[str]]:
    """The last question, and the tools' results since."""
    question, results = "", []
    for message in request.messages:
        text = text_of(message)
        if message["role"] == "tool":
            results.append(text)
        elif message["role"] == "user":
            found = re.findall(r"<tool_response>\n?(.*?)\n?</tool_response>", text, re.DOTALL)
            rest = text.rpartition("</tool_response>")[2].strip()
            results = results + found if not rest else []
            question = rest or question
    return question, results


def forced_tool(request: ChatRequest) -> str:
    """The name of the tool that must be called, `required` for any, "" if none must be."""
    if request.tools:
        return "" if request.tool_choice in {"auto", "none"} else request.tool_choice
    wanted = [re.search(r"you must call (?:the tool `(.+?)`|at least one)", text) for text in _texts(request)]
    return next((found[1] or "required" for found in wanted if found), "")


def _one_at_a_time(request: ChatRequest) -> bool:
    return request.body.get("parallel_tool_calls") is False or any("one call at a time" in t for t in _texts(request))
