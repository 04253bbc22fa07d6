"""Replies in CrewAI's ReAct format, so that nothing but a final answer is taken for one.

CrewAI's executor takes what its parser cannot read for the final answer (utilities/agent_utils.py:434 of 1.15.30), and
a `Final Answer:` for final although the same reply asks for a tool (agents/parser.py:93): it then is a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from crewai.agents import constants

__all__ = ["first_action", "is_action", "is_asked_for", "problem"]

_FINAL = constants.FINAL_ANSWER_ACTION
_NEXT = re.compile(r"\n\s*(?:Thought|Action|Final Answer)\s*\d*\s*:")
_UNFINISHED = 'Behind a thought, write "Action:" and "Action Input:", or "Final Answer:".'
_NO_INPUT = 'Behind "Action:" and the name of a tool, write its arguments as JSON behind "Action Input:".'


def is_asked_for(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the system prompt describes the format, as it does where the agent has tools."""
    return bool(messages) and "Action Input:" in str(messages[0].get("content"))


def is_action(text: str) -> bool:
    """Return whether a reply asks for a tool, and holds no final answer."""
    return _FINAL not in text and constants.ACTION_INPUT_REGEX.search(text) is not None


def first_action(text: str) -> str:
    """Return a reply that asks for a tool without what cannot be known before the result, else the reply as it is.

    That is a final answer before or behind the action, and all further thoughts and actions: CrewAI would join them.
    """
    action = constants.ACTION_INPUT_REGEX.search(text)
    if action is None:
        return text
    begin = action.start() if _FINAL in text[: action.start()] else 0
    behind = _NEXT.search(text, action.start(2))
    return text[begin : behind.start() if behind else None].rstrip()


def problem(text: str, *, is_cut: bool) -> str | None:
    """Return what is wrong with a reply (after `first_action`) that is neither an action nor an answer, else None.

    An action that `is_cut` is wrong, for CrewAI would complete half an argument.
    """
    if _FINAL in text:
        return None
    if not constants.ACTION_REGEX.search(text):
        return _UNFINISHED if text.lstrip().startswith("Thought:") else None
    if is_cut:
        return 'What stands behind "Action Input:" may not be all of it.'
    return None if constants.ACTION_INPUT_REGEX.search(text) else _NO_INPUT
