"""Which tools the scripted engine calls, and with what: decided from the request alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from kluster_integrations.emulator.conversation import Call, Conversation
from kluster_integrations.emulator.engine import Tool
from kluster_integrations.emulator.instances import instance
from kluster_integrations.emulator.words import STOPWORDS, alike, name_words, stem, stems

__all__ = ["plan"]

_CLAUSE = re.compile(r"\s*(?:;|\n+|(?<=[.?!])\s|,?\s+\b(?:and|then|also|plus)\b)\s*(?:\bthen\b\s*)?", re.IGNORECASE)
#: Points: a tool that is named outright, a word of its name, a word of its description or parameters.
_NAMED, _NAME_WORD, _OTHER_WORD = 100, 4, 1
#: From here on a clause clearly asks for a tool: a word of its name, or two others.
_CLEAR = 2
_SIGNS = {
    r"\d\s*(?:\+|\bplus\b)\s*\(*-?\d": "add plus sum",
    r"\d\s*(?:-|\bminus\b)\s*\(*\d": "subtract minus difference",
    r"\d\s*(?:[*\u00d7]|\btimes\b|\bx\b)\s*\(*-?\d": "multiply product",
    r"\d\s*(?:[/\u00f7]|\bdivided by\b)\s*\(*-?\d": "divide quotient",
}


@dataclass(frozen=True, slots=True)
class _Step:
    tool: Tool
    text: str


def plan(conversation: Conversation) -> list[Call]:
    """Return the calls to make now, [] to answer in text.

    With `auto`, each tool that the last user message asks for is called once: what was called since then is not called
    again, so an agent's loop ends. `required` and a named tool always call.
    """
    tools, choice, ask = conversation.tools, conversation.choice, conversation.matter
    if not tools or choice == "none":
        return []
    named = next((tool for tool in tools if tool.name == choice), None)
    if named is not None:
        return [_call(named, ask, conversation.listed)]
    steps = _steps(tools, ask)
    called = [call.name for turn in conversation.since for call in turn.calls]
    done = Counter(called)
    left = [step for step in steps if not _take(done, step.tool.name)]
    if not left and choice == "required":
        # One that has not been called, so that an agent that always forces a call comes to its last tool, too.
        fresh = [tool for tool in tools if tool.name not in called]
        # What the others have found may be what its fields want: an agent's typed answer is such a tool.
        found = [text for _, text in conversation.results]
        left = [_Step(_best(fresh or tools, ask)[0], "\n".join([*found, ask]))]
    calls = [_call(step.tool, step.text, conversation.listed) for step in left]
    return calls if conversation.parallel else calls[:1]


def _take(done: Counter[str], name: str) -> bool:
    done[name] -= 1
    return done[name] >= 0


def _call(tool: Tool, text: str, listed: Sequence[str] = ()) -> Call:
    # The tool's own name is not matter: without it, its words fill no field.
    matter = re.sub(rf"[`'\"]?(?<!\w){re.escape(tool.name)}(?!\w)[`'\"]?", " ", text)
    value = instance(tool.parameters, matter, listed) if tool.parameters.get("properties") else {}
    return Call(tool.name, cast("dict[str, object]", value) if isinstance(value, dict) else {})


def _steps(tools: list[Tool], ask: str) -> list[_Step]:
    """Return a step for each tool that a clause of the prompt asks for, in order; [] where none is asked for."""
    steps: list[_Step] = []
    lead = ""
    for clause in filter(None, map(str.strip, _CLAUSE.split(ask))):
        tool, points = _best(tools, clause)
        last = steps[-1] if steps else None
        if points >= _CLEAR and (last is None or tool != last.tool or _may_repeat(tool, clause)):
            steps.append(_Step(tool, clause))
        elif last is not None and _elided(last.tool, clause):
            steps.append(_Step(last.tool, clause))
        elif last is not None:
            steps[-1] = _Step(last.tool, f"{last.text} and {clause}")
        else:
            lead = f"{lead} {clause}".strip()
    if len(steps) <= 1:
        tool, points = _best(tools, ask)
        # With one tool in question the whole prompt may fill it; a single shared word is enough to call it.
        return [_Step(steps[0].tool if steps else tool, ask)] if steps or points else []
    # What comes before the first step belongs to it.
    return _distinct([_Step(steps[0].tool, f"{lead} {steps[0].text}".strip()), *steps[1:]])


def _distinct(steps: list[_Step]) -> list[_Step]:
    kept: list[_Step] = []
    for step in steps:
        if all(_call(step.tool, step.text) != _call(other.tool, other.text) for other in kept):
            kept.append(step)
    return kept


def _best(tools: list[Tool], text: str) -> tuple[Tool, int]:
    """Return the tool with the most points, of equals the first."""
    # "3 times 12" is not about the time.
    said = stems(re.sub(r"(\d\s*)times(?=\s*-?\d)", r"\1*", text)) | _signs(text)
    scored = [(tool, _points(tool, text, said)) for tool in tools]
    return max(scored, key=lambda row: row[1])


def _points(tool: Tool, text: str, said: set[str]) -> int:
    points = 0
    if re.search(rf"(?<![\w.]){re.escape(tool.name)}(?![\w])", text) and _telling(tool.name, text):
        points += _NAMED
    name = {stem(word) for word in name_words(tool.name) if word not in STOPWORDS}
    other = stems(tool.description)
    for key in _properties(tool):
        other |= {stem(word) for word in name_words(key) if word not in STOPWORDS}
    in_name = {word for word in said if any(alike(word, wanted) for wanted in name)}
    elsewhere = {word for word in said - in_name if any(alike(word, wanted) for wanted in other)}
    return points + _NAME_WORD * len(in_name) + _OTHER_WORD * len(elsewhere)


def _signs(text: str) -> set[str]:
    """Return the stems of what arithmetic signs (and their short words) stand for: "3 * 12" speaks of multiplying."""
    found = {word for pattern, words in _SIGNS.items() if re.search(pattern, text) for word in words.split()}
    return {stem(word) for word in found | ({"calculate", "math"} if found else set())}


def _telling(name: str, text: str) -> bool:
    """Return whether a tool's name in a text is surely the name: `search` may be just a word."""
    return (
        "_" in name
        or not name.islower()
        or f"{name}(" in text
        or bool(re.search(rf"`{re.escape(name)}`|\b{re.escape(name)}\s+(?:tool|function)\b", text))
        or name not in STOPWORDS
    )


def _properties(tool: Tool) -> Mapping[str, object]:
    properties = tool.parameters.get("properties")
    return properties if isinstance(properties, dict) else {}


def _may_repeat(tool: Tool, clause: str) -> bool:
    """Return whether a second clause for the same tool is a second call: it must bring its own matter."""
    return bool(_required(tool)) and re.search(r"\d|[\"'`]|\s[A-Z]", clause) is not None


def _elided(tool: Tool, clause: str) -> bool:
    """Return whether a clause is a further case of the call before it: "weather in Paris and Tokyo"."""
    required = _required(tool)
    if len(required) != 1 or len(clause.split()) > 4 or tool.name in clause:
        return False
    schema = _properties(tool).get(required[0])
    texts = isinstance(schema, dict) and schema.get("type") == "string"
    return texts and re.search(r"(?:^|\s)[A-Z]", clause) is not None


def _required(tool: Tool) -> list[str]:
    required = tool.parameters.get("required")
    return [str(name) for name in required] if isinstance(required, list) else list(_properties(tool))
