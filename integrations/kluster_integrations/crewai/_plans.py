"""Makes plans that CrewAI can finish, whatever the model writes.

CrewAI gets a plan through one function, `create_reasoning_plan` (utilities/reasoning_handler.py of 1.15.30), or as
plain text if the LLM has no functions (ReAct) or the call has failed. It asks again until the plan says that it is
ready, by default without limit. A plan in text must have a sentence that CrewAI's own prompt does not mention. Its
executor finds steps by their number (utilities/planning_types.py). If a number occurs twice, also in a new plan for the
rest of a task, it repeats the second of the two for ever. A step that waits for one that does not exist never runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kluster_integrations.core.client import find_json
from kluster_integrations.crewai import _compat

__all__ = ["FUNCTION", "READY", "is_ready", "is_step", "plan_accepted", "read_plan", "renumber_steps", "wanted_as_text"]

FUNCTION = "create_reasoning_plan"
READY = "READY: I am ready to execute the task."
"""The sentence that CrewAI looks for in a plan that is a text."""

# What does not change in the system prompt of a step.
_STEP = _compat.prompt("planning", "step_executor_system_prompt").partition("{goal}")[2].partition("{")[0].strip()
_MAX_ATTEMPTS = 3  # at a plan, where CrewAI has no bound of its own
_MAX_STEPS = 20  # CrewAI's default
_DONE = re.compile(r"^[^\S\n]*- Step (\d{1,9}):", re.MULTILINE)
_VERDICT = re.compile(r"\b(NOT[\s_]+)?READY\b")


def wanted_as_text(messages: Sequence[Mapping[str, Any]], agent: object) -> bool:
    """Return whether CrewAI's planner asks for a plan in text; it has a system prompt of its own."""
    if not getattr(agent, "planning_enabled", False) or not messages or messages[0].get("role") != "system":
        return False
    prompt = getattr(getattr(agent, "planning_config", None), "system_prompt", None)
    return bool(messages[0].get("content") == (prompt or _compat.prompt("planning", "system_prompt")))


def is_step(messages: Sequence[Mapping[str, Any]], agent: object) -> bool:
    """Return whether an agent carries out a step of its plan."""
    if not _STEP or not getattr(agent, "planning_enabled", False) or not messages:
        return False
    return _STEP in str(messages[0].get("content"))


def is_ready(text: str) -> bool:
    """Return whether a plan in text is ready: it is unless it ends with NOT READY."""
    verdicts = _VERDICT.findall(text)
    return not (verdicts and verdicts[-1])


def plan_accepted(attempts: dict[str, int], task: object, agent: object, *, ready: bool) -> bool:
    """Return whether to accept a plan: it is ready, or was asked for often enough.

    `attempts` counts the plans that were not ready. If the agent has `max_attempts`, CrewAI itself stops asking.
    """
    if getattr(getattr(agent, "planning_config", None), "max_attempts", None) is not None:
        return ready
    key = f"{getattr(task, 'id', '')}/{getattr(agent, 'id', '')}"
    count = attempts.pop(key, 0) + 1
    if ready or count >= _MAX_ATTEMPTS:
        return True
    attempts[key] = count
    return False


def read_plan(text: str) -> dict[str, Any]:
    """Read a plan from text, if the model did not call the function. It counts as ready: asking again does not help."""
    value = find_json(text)
    return value if isinstance(value, dict) and "plan" in value else {"plan": text, "steps": [], "ready": True}


def renumber_steps(plan: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], agent: object) -> dict[str, Any]:
    """Return a plan whose steps have unique numbers and wait only for earlier steps.

    The steps that are done are in `messages` for an agent without a task, and in the agent's executor for a task.
    """
    state = getattr(getattr(agent, "agent_executor", None), "state", None)
    taken = [todo.step_number for todo in getattr(getattr(state, "todos", None), "items", ())]
    taken += [int(number) for message in messages for number in _DONE.findall(str(message.get("content")))]
    limit = getattr(getattr(agent, "planning_config", None), "max_steps", None) or _MAX_STEPS
    steps = plan.get("steps")
    steps = [step for step in steps if isinstance(step, Mapping)][:limit] if isinstance(steps, list) else []
    numbers: dict[str, int] = {}
    renumbered: list[dict[str, Any]] = []
    for number, step in enumerate(steps, max(taken, default=0) + 1):
        waits_for, tool = step.get("depends_on"), step.get("tool_to_use")
        earlier = [numbers[str(n)] for n in waits_for if str(n) in numbers] if isinstance(waits_for, list) else []
        renumbered.append(
            {
                "step_number": number,
                "description": str(step.get("description") or ""),
                "tool_to_use": tool if isinstance(tool, str) and tool else None,
                "depends_on": earlier,
            }
        )
        numbers.setdefault(str(step.get("step_number")), number)
    return {"plan": str(plan.get("plan") or ""), "steps": renumbered, "ready": plan.get("ready") is True}
