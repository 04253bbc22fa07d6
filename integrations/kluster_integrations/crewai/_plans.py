"""Plans that CrewAI can carry out to an end, whatever the model writes.

CrewAI's planner is called through one function, `create_reasoning_plan` (utilities/reasoning_handler.py of 1.15.30), or
asked in plain text where the LLM has no functions (ReAct) or the call has failed. It asks again until the plan says
that it is ready, without a bound by default; of a text it wants one sentence that its own prompt does not name. Its
executor finds steps by their number (utilities/planning_types.py): with a number that occurs twice, also after a new
plan for the rest of a task, it carries out the second of the two for ever; a step that waits for one that does not
exist is never carried out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from crewai.utilities.i18n import I18N_DEFAULT

from kluster_integrations.core import prompting

__all__ = [
    "FUNCTION",
    "MAX_ATTEMPTS",
    "READY",
    "arguments_from",
    "carried_out",
    "is_bounded",
    "is_ready",
    "wanted_as_text",
]

FUNCTION = "create_reasoning_plan"
READY = "READY: I am ready to execute the task."
"""What CrewAI looks for in a plan that is a text."""

MAX_ATTEMPTS = 3
"""How often a plan is asked for where CrewAI has no bound of its own."""

_MAX_STEPS = 20  # CrewAI's default
_DONE = re.compile(r"^\s*- Step (\d+):", re.MULTILINE)
_VERDICT = re.compile(r"\b(NOT[\s_]+)?READY\b")


def wanted_as_text(messages: Sequence[Mapping[str, Any]], agent: object) -> bool:
    """Return whether CrewAI's planner asks: its system prompt, which is the planner's alone, tells."""
    if not getattr(agent, "planning_enabled", False) or not messages or messages[0].get("role") != "system":
        return False
    prompt = getattr(getattr(agent, "planning_config", None), "system_prompt", None)
    return bool(messages[0].get("content") == (prompt or I18N_DEFAULT.retrieve("planning", "system_prompt")))


def is_ready(text: str) -> bool:
    """Return whether a plan that is a text is to be carried out: unless it ends with NOT READY."""
    verdicts = _VERDICT.findall(text)
    return not (verdicts and verdicts[-1])


def is_bounded(agent: object) -> bool:
    """Return whether CrewAI itself stops asking, since the agent says when."""
    return getattr(getattr(agent, "planning_config", None), "max_attempts", None) is not None


def arguments_from(text: str) -> dict[str, Any]:
    """Return the plan that a text is, where the model did not call the function: ready, for asking again is no help."""
    value = prompting.find_json(text)
    if isinstance(value, dict):
        value = value.get("arguments", value)
    return value if isinstance(value, dict) and "plan" in value else {"plan": text, "steps": [], "ready": True}


def carried_out(plan: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], agent: object) -> dict[str, Any]:
    """Return a plan with steps that have numbers of their own and wait for earlier steps only.

    Args:
        plan: The function's arguments.
        messages: What the planner asked; of an agent without a task it names the steps that are done, by number.
        agent: CrewAI's agent, for the steps that its executor has, and the number of steps that it allows.
    """
    done = [int(n) for message in messages for n in _DONE.findall(str(message.get("content")))]
    first = max([*done, *_numbers(agent)], default=0) + 1
    most = getattr(getattr(agent, "planning_config", None), "max_steps", None) or _MAX_STEPS
    given = plan.get("steps")
    steps = [s for s in given if isinstance(s, Mapping)][:most] if isinstance(given, list) else []
    numbers: dict[Any, int] = {}
    made: list[dict[str, Any]] = []
    for number, step in enumerate(steps, first):
        waits = step.get("depends_on")
        earlier = [numbers[n] for n in waits if n in numbers] if isinstance(waits, list) else []
        tool = step.get("tool_to_use")
        made.append(
            {
                "step_number": number,
                "description": str(step.get("description") or ""),
                "tool_to_use": tool if isinstance(tool, str) and tool else None,
                "depends_on": earlier,
            }
        )
        numbers.setdefault(step.get("step_number"), number)
    return {"plan": str(plan.get("plan") or ""), "steps": made, "ready": plan.get("ready") is True}


def _numbers(agent: object) -> list[int]:
    """Return the numbers of the steps that the agent has in a task: CrewAI does not name them when it plans anew."""
    state = getattr(getattr(agent, "agent_executor", None), "state", None)
    return [todo.step_number for todo in getattr(getattr(state, "todos", None), "items", ())]
