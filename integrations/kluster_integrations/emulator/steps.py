"""The steps of a plan: what a prompt asks to be done, one action each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kluster_integrations.emulator.words import IMPERATIVES, alike, name_words, stems, word_set

__all__ = ["actions", "fitting_tool", "is_plan", "waits"]

_MOST = 3
_PLANS = word_set("step steps todo todos subtask subtasks")
_WAITS = word_set("depends dependency dependencies prerequisite prerequisites requires")
_QUESTIONS = word_set("what where when who which why how")
_SPLIT = re.compile(r"(?:\s*;|\n+|(?<=[.?!])\s|,?\s+(?:and|then|also)\b)\s*(?:then\b\s*)?(?:please\s+)?", re.IGNORECASE)


def is_plan(name: str) -> bool:
    """Return whether a list of objects of this name is a plan."""
    return bool(_PLANS & set(name_words(name)))


def waits(name: str) -> bool:
    """Return whether a field says for which other steps one waits."""
    return bool(_WAITS & set(name_words(name)))


def actions(prompt: str) -> list[str]:
    """Return one to three actions: a clause that begins with a verb or a question word begins a further one."""
    texts: list[str] = []
    at = 0
    for split in _SPLIT.finditer(prompt.strip()):
        first = re.match(r"\w+", prompt.strip()[split.end() :])
        if first and first[0].lower() in IMPERATIVES | _QUESTIONS and len(texts) < _MOST - 1:
            texts.append(prompt.strip()[at : split.start()])
            at = split.end()
    texts.append(prompt.strip()[at:])
    return [text for text in (" ".join(text.split()).strip(" ,;") for text in texts) if text]


def fitting_tool(action: str, tools: Sequence[str]) -> str | None:
    """Return the tool whose name shares the most words with an action, None if none shares one."""
    said = stems(action)

    def shared(tool: str) -> int:
        own = stems(" ".join(name_words(tool)))
        return 100 * (tool in action) + sum(any(alike(word, other) for other in own) for word in said)

    best = max(tools, key=shared, default=None)
    return best if best is not None and shared(best) else None
