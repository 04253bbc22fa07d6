"""ReAct: tools that a prompt describes in prose, calls and their results as lines of text."""

from __future__ import annotations

import json
import re

from kluster_integrations.emulator.engine import Tool
from kluster_integrations.emulator.schemas import is_schema, json_values

__all__ = ["Taken", "action", "ask", "final", "observation", "read_tools", "taken", "without_protocol"]

_INPUT = re.compile(r"^[ \t]*Action Input[ \t]*:", re.MULTILINE)
#: "only one name of [a, b]", "should be one of [a, b]", "name from a, b".
_NAMES = re.compile(r"^[ \t]*Action[ \t]*:[^\n\[]*\[(?:name from )?([^\]\n]+)\]", re.MULTILINE)
_BULLET = r"^[ \t]*(?:[-*\u2022]|\d+[.)])?[ \t]*(?:Tool Name[ \t]*:[ \t]*|Name[ \t]*:[ \t]*)?[`*]*"
_DESCRIPTION = re.compile(r"(?:Tool )?Description[ \t]*:[ \t]*([^\n]+)", re.IGNORECASE)
_TAKEN = re.compile(
    r"^[ \t]*Action[ \t]*:[ \t]*(\S+)[ \t]*\n[ \t]*Action Input[ \t]*:[ \t]*(.*?)"
    r"(?:\n[ \t]*Observation[ \t]*:[ \t]*(.*?))?"
    r"(?=\n[ \t]*(?:Thought|Action|Final Answer)[ \t]*:|\Z)",
    re.MULTILINE | re.DOTALL,
)
_OBSERVATION = re.compile(r"^\s*Observation[ \t]*:[ \t]*(.*)", re.DOTALL)
_SCRATCH = re.compile(r"^[ \t]*(?:Thought|Action|Observation)[ \t]*:", re.MULTILINE)
_BEGIN = re.compile(r"^Begin!.*$", re.MULTILINE)
_ASKED = re.compile(r"^[ \t]*(?:Current Task|Task|Question)[ \t]*:[ \t]*(.*)", re.MULTILINE | re.DOTALL)

Taken = tuple[str, str, str | None]


def read_tools(text: str) -> list[Tool]:
    """Return the tools that a prompt describes, if it asks for actions and their input; [] otherwise."""
    listed = _NAMES.search(text)
    if listed is None or not _INPUT.search(text):
        return []
    names = [name.strip(" `'\"") for name in listed[1].split(",")]
    spots = {}
    for name in names:
        if name and (spot := _described(name, text[: listed.start()])):
            spots[name] = spot
    tools = []
    for name, spot in spots.items():
        end = min((other.start() for other in spots.values() if other.start() > spot.start()), default=listed.start())
        tools.append(_tool(name, text[spot.end() : end]))
    return tools


def _tool(name: str, text: str) -> Tool:
    described = _DESCRIPTION.search(text)
    description = described[1] if described else text.strip("`* \t:-").partition("\n")[0]
    for _, _, value in json_values(text):
        if isinstance(value, dict) and is_schema(value):
            return Tool(name, description, value)
    signature = re.match(r"\(([^)\n]*)\)", text)
    fields = re.findall(r"(\w+)[ \t]*(?::[ \t]*(\w+))?[^,]*", signature[1]) if signature else []
    kinds = {"int": "integer", "float": "number", "bool": "boolean"}
    properties: dict[str, object] = {key: {"type": kinds.get(kind, "string")} for key, kind in fields}
    return Tool(name, description, {"type": "object", "properties": properties or {"input": {"type": "string"}}})


def taken(text: str, names: set[str]) -> list[Taken]:
    """Return the actions in a text, each with its input and the observation, None if that is yet to come."""
    return [(m[1], m[2].strip(), m[3] and m[3].strip()) for m in _TAKEN.finditer(text) if m[1] in names]


def observation(text: str) -> str | None:
    """Return what a message that is an observation says, None if it is none."""
    match = _OBSERVATION.match(text)
    return match[1].strip() if match else None


def ask(text: str) -> str:
    """Return what a user message asks, without the format, what has been done so far, and the call to begin."""
    asked = _ASKED.findall(text)
    text = asked[-1] if asked else text
    scratch = _SCRATCH.search(_BEGIN.sub("", text))
    return (_BEGIN.sub("", text)[: scratch.start()] if scratch else _BEGIN.sub("", text)).strip()


def without_protocol(text: str) -> str:
    """Return a prompt without what stands between the first tool and the last line of the format."""
    names = [tool.name for tool in read_tools(text)]
    starts = [spot.start() for name in names if (spot := _described(name, text))]
    if not starts:
        return text
    _, _, tail = text[max(text.rfind("Final Answer:"), _NAMES.search(text).end()) :].partition("\n")  # type: ignore[union-attr]
    return f"{text[: min(starts)].strip()}\n\n{tail.strip('`').strip()}".strip()


def _described(name: str, text: str) -> re.Match[str] | None:
    return re.search(rf"{_BULLET}{re.escape(name)}\b", text, re.MULTILINE)


def action(name: str, arguments: dict[str, object]) -> str:
    """Return a thought and the action."""
    value = json.dumps(arguments, ensure_ascii=False)
    return f"Thought: The fitting tool is {name}.\nAction: {name}\nAction Input: {value}"


def final(text: str) -> str:
    """Return a thought and the final answer."""
    return f"Thought: I now know the final answer.\nFinal Answer: {text}"
