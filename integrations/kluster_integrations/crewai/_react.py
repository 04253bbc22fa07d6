"""Replies in CrewAI's ReAct format. Only a real final answer may be taken for one.

CrewAI's executor takes a reply that its parser cannot read for the final answer (utilities/agent_utils.py:434 of
1.15.30). It also accepts a `Final Answer:` in a reply that asks for a tool (agents/parser.py:93), which is a
guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from crewai.agents import constants

__all__ = ["first_action", "is_action", "is_asked_for", "problem"]

_FINAL = constants.FINAL_ANSWER_ACTION
# As CrewAI's ACTION_REGEX and ACTION_INPUT_REGEX, which take minutes for `Action:` and some thousand newlines, but
# linear: what has matched is not given back.
_ACTION = re.compile(r"Action\s*+\d*+\s*+:")
_INPUT = re.compile(r"Action\s*+\d*+\s*+Input\s*+\d*+\s*+:\s*+")
_NEXT = re.compile(r"^[^\S\n]*+(?:Thought|Action|Final Answer)\s*+\d*+\s*+:", re.MULTILINE)
_WORD = re.compile(r"Action(?=[\s\d:])")
_LONG_SPACE = re.compile(r"\s{100}")
_MOST_ACTIONS = 300
_UNFINISHED = 'Behind a thought, write "Action:" and "Action Input:", or "Final Answer:".'
_NO_INPUT = 'Behind "Action:" and the name of a tool, write its arguments as JSON behind "Action Input:".'
_TOO_LONG = 'Write "Action:" once, and less white space.'


def is_asked_for(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the system prompt describes the format; it does if the agent has tools."""
    return bool(messages) and "Action Input:" in str(messages[0].get("content"))


def is_action(text: str) -> bool:
    """Return whether a reply asks for a tool and has no final answer."""
    return _FINAL not in text and _action(text) is not None


def _action(text: str) -> tuple[int, int] | None:
    """Return where the first action begins, and where its input does."""
    action = _ACTION.search(text)
    given = _INPUT.search(text, action.end()) if action else None
    return (action.start(), given.end()) if action and given else None


def first_action(text: str) -> str:
    """Return a reply reduced to its first action; a reply without an action stays as it is.

    A final answer, and thoughts and actions after the first action, cannot be known before the tool's result. CrewAI
    would join them.
    """
    action = _action(text)
    if action is None:
        return text
    begin = action[0] if _FINAL in text[: action[0]] else 0
    behind = _NEXT.search(text, action[1] + 1)
    return text[begin : behind.start() if behind else None].rstrip()


def problem(text: str, *, is_cut: bool) -> str | None:
    """Return what is wrong with a reply (after `first_action`); None if it is an action or an answer.

    An action that `is_cut` is wrong, because CrewAI would complete half an argument. So is an action that CrewAI's own
    pattern needs too long to read: very much white space, or very many actions, before the input.
    """
    action = _action(text)
    before = text if action is None or _FINAL in text else text[: action[1]]
    if "Action" in before and (len(_WORD.findall(before)) > _MOST_ACTIONS or _LONG_SPACE.search(before)):
        return _TOO_LONG
    if _FINAL in text:
        return None
    if not _ACTION.search(text):
        return _UNFINISHED if text.lstrip().startswith("Thought:") else None
    if is_cut:
        return 'What stands behind "Action Input:" may not be all of it.'
    return None if action else _NO_INPUT
