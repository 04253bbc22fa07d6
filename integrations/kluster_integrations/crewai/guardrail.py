"""`verify_guardrail` checks a task's output before the crew continues."""

# Annotations are not postponed here: CrewAI reads the guardrail's own, and refuses a text.

from collections.abc import Callable
from typing import Any

from crewai.tasks.task_output import TaskOutput

from kluster_integrations.config import KlusterConfig
from kluster_integrations.verify import Verifier

__all__ = ["verify_guardrail"]


def verify_guardrail(
    context: str | Callable[[Any], str | None] | None = None,
    *,
    prompt: str | None = None,
    search: bool = False,
    config: KlusterConfig | None = None,
) -> Callable[[Any], tuple[bool, Any]]:
    """Return a guardrail that accepts reliable outputs, and otherwise makes the agent do its task again.

    The agent gets the explanation of the check. An empty output is not checked by the service. The task sets the number
    of attempts: `Task(guardrail=verify_guardrail(…), guardrail_max_retries=3)`; after that CrewAI ends the crew.

    Args:
        context: The text that the output must agree with, or a function that gets the `TaskOutput` and returns the
            text. None: general knowledge.
        prompt: The question. Default: the task's description. An agent's guardrail without a task needs it.
        search: Whether the explanation lists the web addresses that the service found.
        config: The connection; default: from the environment.

    Raises:
        KlusterError: From the guardrail, if the check itself fails. This ends the crew.
    """
    verifier = Verifier(config)

    def reliable(output: Any) -> tuple[bool, Any]:
        if not (output.raw or "").strip():
            return False, "The output is empty: write an answer."
        held_against = context(output) if callable(context) else context
        question: Any = prompt or getattr(output, "description", None)
        verdict = verifier.check(question, output.raw, held_against or None, search=search)
        if verdict.reliable:
            # A task makes its object again from a text, an agent takes any object for its own.
            return True, output if isinstance(output, TaskOutput) else output.raw
        found = [result["link"] for result in verdict.search_results if result.get("link")]
        return False, " ".join([verdict.explanation or "The output is not supported by its context.", *found])

    return reliable
